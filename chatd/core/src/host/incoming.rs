//! Other shards' outboxes arriving: each number is proposed once, in order. What is
//! applied, and what is missing, is said to the source.

use bytes::Bytes;
use chat_wire::ids::ShardId;
use std::collections::BTreeMap;

use super::{Pass, shard::Shard};
use crate::{
    message::{OutboxItem, Says},
    shard::keys,
    store::{ShardStore, Unreadable},
};

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// 0 until the first entry.
    incarnation: u64,
    applied: u64,
    proposed: u64,
}

/// One entry a source.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    sources: BTreeMap<ShardId, Source>,
    /// For the end of the pass, the newest a source.
    answers: BTreeMap<ShardId, Says>,
}

impl Incoming {
    /// An entry was applied, or refused because of a hole before it.
    pub(super) fn applied(
        &mut self,
        source: ShardId,
        incarnation: u64,
        number: u64,
        proposed: u64,
    ) {
        let known = self.sources.entry(source).or_default();
        let refused = proposed > number;
        if known.incarnation != incarnation || refused {
            known.proposed = number;
        }
        known.incarnation = incarnation;
        known.applied = number;
        known.proposed = known.proposed.max(number);
    }

    /// An entry was refused (the map or the settings had changed): it is proposed anew when
    /// the source, which hears nothing, sends it again.
    pub(super) fn refused(&mut self, source: ShardId) {
        if let Some(known) = self.sources.get_mut(&source) {
            known.proposed = known.applied;
        }
    }

    /// Says it at the end of the pass. An answer to the question of a new
    /// incarnation is not overwritten.
    pub(super) fn answer(&mut self, source: ShardId, says: Says) {
        let asked = |says: &Says| {
            matches!(
                says,
                Says::OutboxApplied {
                    previous: Some(_),
                    ..
                }
            )
        };
        if !self.answers.get(&source).is_some_and(asked) || asked(&says) {
            self.answers.insert(source, says);
        }
    }

    pub(super) fn take_answers(&mut self) -> BTreeMap<ShardId, Says> {
        std::mem::take(&mut self.answers)
    }
}

impl<S: ShardStore> Shard<S> {
    pub(super) fn outbox_arrives(
        &mut self,
        pass: &mut Pass<'_>,
        from: ShardId,
        items: Vec<OutboxItem>,
    ) {
        let room = pass.room.takes_deliveries(self.log_bytes());
        if !self.serves() || pass.disk_full || pass.finishing || !room {
            return;
        }
        if let Err(unreadable) = self.propose_arrived(from, items) {
            self.stop(unreadable.to_string());
        }
    }

    fn propose_arrived(&mut self, from: ShardId, items: Vec<OutboxItem>) -> Result<(), Unreadable> {
        let mut source = match self.incoming.sources.get(&from) {
            Some(source) => *source,
            None => self.read_source(from)?,
        };
        let mut say_applied = false;
        for OutboxItem { deliver, body } in items {
            let number = deliver.number;
            if number == 0 {
                // A new incarnation asks: the log answers.
                self.proposals.push_own(deliver, Bytes::new());
                continue;
            }
            if source.incarnation == 0 {
                source.incarnation = deliver.incarnation;
            }
            if source.incarnation != deliver.incarnation {
                continue;
            }
            if number <= source.proposed {
                say_applied |= number <= source.applied;
                continue;
            }
            // What the source had confirmed and this shard has lost is not waited for.
            if number != source.proposed.max(deliver.confirmed) + 1 {
                say_applied = true;
                break;
            }
            if !self.proposals.push_own(deliver, body) {
                break;
            }
            source.proposed = number;
        }
        if say_applied {
            let (incarnation, number) = (source.incarnation, source.applied);
            let says = Says::OutboxApplied {
                incarnation,
                number,
                previous: None,
            };
            self.incoming.answer(from, says);
        }
        self.incoming.sources.insert(from, source);
        Ok(())
    }

    fn read_source(&self, from: ShardId) -> Result<Source, Unreadable> {
        let key = keys::source(from);
        let Some(row) = self.replica.store().get(&key)? else {
            return Ok(Source::default());
        };
        let keys::Source {
            incarnation,
            applied,
            ..
        } = keys::decode(&key, &row)?;
        Ok(Source {
            incarnation,
            applied,
            proposed: applied,
        })
    }
}
