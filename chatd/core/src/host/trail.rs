//! Where a host is: the shard it steps and the position it applies, kept where somebody
//! else can look after a panic has thrown the host away.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use chat_wire::ids::ShardId;

/// Written by the thread that steps the host, and read by the same thread while it
/// panics, or by anybody once it has ended: no order with other memory is needed.
#[derive(Debug, Default)]
pub struct Trail {
    /// The shard's number and one; 0: none.
    shard: AtomicU32,
    position: AtomicU64,
    served: AtomicBool,
}

/// A place on a [`Trail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The shard that is stepped.
    pub shard: ShardId,
    /// The position that is being applied, else the last one that was.
    pub position: u64,
    /// The shard led before this step began: what it does is not part of a start.
    pub served: bool,
}

impl Trail {
    /// A step of this shard begins.
    pub fn enter(&self, place: Place) {
        self.shard
            .store(u32::from(place.shard.0) + 1, Ordering::Relaxed);
        self.position.store(place.position, Ordering::Relaxed);
        self.served.store(place.served, Ordering::Relaxed);
    }

    /// This position is applied now.
    pub fn apply(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
    }

    /// The step is over.
    pub fn leave(&self) {
        self.shard.store(0, Ordering::Relaxed);
    }

    /// Where it is now, if it is in a shard.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let shard = self.shard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Place {
            shard: ShardId(u16::try_from(shard).expect("a shard's number was put in")),
            position: self.position.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
        })
    }
}
