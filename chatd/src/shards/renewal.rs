//! What a start owes after `chatctl inspect --accept-loss`: a new generation, so that
//! devices that remember what is gone are told GAP, and a new incarnation of the shard
//! that was cut, so that its outboxes do not give old numbers to new entries.
//!
//! The shard's own log says both before the shard serves anything. The note of the loss
//! goes when all of it is committed; a start that ends before does everything again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use chat_core::{
    host::Host,
    message::Now,
    placement::map::SYSTEM,
    shard::settings::{current, incarnation},
};
use chat_wire::ids::{ShardId, mix64};
use logstore::{loss, storage::Storage};

use super::log::RaftStore;

/// What the losses of a data directory ask for.
pub(super) struct Losses {
    storage: Arc<dyn Storage>,
    shards: Vec<u16>,
    generation: u32,
    seed: u64,
    /// Shards that have not committed their part.
    open: AtomicUsize,
}

/// One shard's part.
pub(super) struct Renewal {
    losses: Arc<Losses>,
    shard: ShardId,
    /// Of a shard that was cut.
    incarnation: Option<u64>,
    proposed: bool,
}

impl Losses {
    /// `seed` is random, drawn anew at every start.
    pub(super) fn new(storage: Arc<dyn Storage>, shards: Vec<u16>, seed: u64) -> Arc<Self> {
        let low = mix64(seed) & u64::from(u32::MAX);
        Arc::new(Self {
            storage,
            shards,
            generation: u32::try_from(low).unwrap_or(1).max(1),
            seed,
            open: AtomicUsize::new(0),
        })
    }

    /// The parts of the shards of a thread. All are made before any thread runs.
    pub(super) fn parts(self: &Arc<Self>, shards: impl Iterator<Item = ShardId>) -> Vec<Renewal> {
        let parts: Vec<_> = shards
            .filter(|shard| !self.shards.is_empty() && self.concerns(*shard))
            .map(|shard| Renewal {
                losses: Arc::clone(self),
                shard,
                incarnation: self
                    .shards
                    .contains(&shard.0)
                    .then(|| mix64(self.seed ^ u64::from(shard.0 + 1)).max(1)),
                proposed: false,
            })
            .collect();
        self.open.fetch_add(parts.len(), Ordering::Relaxed);
        parts
    }

    fn concerns(&self, shard: ShardId) -> bool {
        shard == SYSTEM || self.shards.contains(&shard.0)
    }

    fn part_done(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        for shard in &self.shards {
            match loss::settle(&*self.storage, *shard) {
                Ok(()) => tracing::warn!(
                    shard,
                    generation = self.generation,
                    "an accepted loss is told to clients and other shards from now on"
                ),
                Err(error) => tracing::error!(shard, %error, "the note of a loss stays"),
            }
        }
    }
}

impl Renewal {
    /// Goes on. True if there is nothing more to do.
    pub(super) fn advance(&mut self, now: Now, host: &mut Host<RaftStore>) -> bool {
        let generation = self.losses.generation;
        if !self.proposed {
            self.proposed = host.renew(now, self.shard, generation, self.incarnation);
            return false;
        }
        let Some(store) = host.store(self.shard) else {
            return false;
        };
        let told = current(store).is_ok_and(|settings| {
            settings.is_some_and(|settings| settings.generation == generation)
        });
        let begun = self
            .incarnation
            .is_none_or(|wanted| incarnation(store).is_ok_and(|is| is == wanted));
        if told && begun {
            self.losses.part_done();
        }
        told && begun
    }
}
