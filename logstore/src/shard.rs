//! One shard of a node: its log, its memtable, the memtables being written, and
//! its segments. One thread owns it; reads that may wait for the disk can be done
//! elsewhere with [`Shard::reader`].
//!
//! The state of a shard is a function of its log: [`Shard::apply`] enters the
//! writes of each position once, in order, and [`Shard::freeze`] is called when a
//! flush entry is applied, so every replica freezes at the same position.

use crate::{
    key::{Key, Row, Write},
    log_index::LogIndex,
    memtable::{Memtable, Span},
    reads::{Frozen, GroupHead, Order, ReadError, SegmentReader, View},
};
use std::{mem, sync::Arc};

/// Memtables that may wait to be written. At the bound a flush entry cannot be
/// applied, and its leader proposes no more of them.
pub const MAX_FROZEN: usize = 2;

/// See the [module](self).
pub struct Shard {
    id: u16,
    replica: u32,
    log: LogIndex,
    active: Memtable,
    sealed: SegmentReader,
    applied: u64,
    flushed: u64,
}

impl Shard {
    /// A shard without any state, whose log may have entries.
    #[must_use]
    pub fn new(id: u16, replica: u32, log: LogIndex) -> Self {
        Self {
            id,
            replica,
            log,
            active: Memtable::default(),
            sealed: SegmentReader::default(),
            applied: 0,
            flushed: 0,
        }
    }

    /// The number of the shard in its cluster.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The replica's number on this node, never used again.
    #[must_use]
    pub fn replica(&self) -> u32 {
        self.replica
    }

    /// The log of the shard.
    #[must_use]
    pub fn log(&self) -> &LogIndex {
        &self.log
    }

    /// The log of the shard, to append to it.
    pub fn log_mut(&mut self) -> &mut LogIndex {
        &mut self.log
    }

    /// The last position whose writes are in the state.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The last position whose writes are in segments, with all before it.
    #[must_use]
    pub fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Enters writes of the log entry at `position`; later reads see them. Several
    /// calls may give the writes of one entry, one command after the other; entries
    /// without writes may be left out.
    ///
    /// # Panics
    /// If the position falls, or is part of what was flushed, or a write breaks the rules of its family's
    /// [`Shape`](crate::key::Shape), or a body does not stand in the log.
    pub fn apply(&mut self, position: u64, writes: Vec<Write>) {
        assert!(
            position >= self.applied,
            "position {position} after {}",
            self.applied
        );
        self.applied = position;
        if !writes.is_empty() {
            self.active
                .apply(position, writes, |position| self.log.payload(position));
        }
    }

    /// One row.
    ///
    /// # Errors
    /// If a block that may hold it is damaged: that is not "absent".
    pub fn get(&self, key: &Key) -> Result<Option<Row>, ReadError> {
        self.view().get(key)
    }

    /// At most `limit` rows from `from` to `to`, both included.
    ///
    /// # Errors
    /// If a block of the range is damaged.
    pub fn range(
        &self,
        from: &Key,
        to: &Key,
        order: Order,
        limit: usize,
    ) -> Result<Vec<(Key, Row)>, ReadError> {
        self.view().range(from, to, order, limit)
    }

    /// How many postings stand from `from` to `to`, both included and of the same
    /// inbox and family.
    ///
    /// # Errors
    /// If a block that must be looked into is damaged.
    ///
    /// # Panics
    /// If the keys are not postings of one family of one inbox.
    pub fn count(&self, from: &Key, to: &Key) -> Result<u64, ReadError> {
        self.view().count(from, to)
    }

    /// The groups of an inbox by their highest order, the newest first: at most
    /// `limit`, those below `before` (order, group) of the last page. It reads the
    /// lists that segments keep, not the postings. A page costs the lists down to
    /// its end, so pages far down cost more.
    ///
    /// # Errors
    /// If a block of the lists is damaged.
    pub fn groups(
        &self,
        inbox: u64,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, ReadError> {
        self.view().groups(inbox, families, before, limit)
    }

    /// Inboxes from `from` to `to` that have rows of an append family, with the
    /// lowest and the highest sequence stored of each; at most `limit`.
    ///
    /// # Errors
    /// If a block of an inbox index is damaged.
    ///
    /// # Panics
    /// If `family` is not an append family.
    pub fn inboxes(
        &self,
        from: u64,
        to: u64,
        family: u8,
        limit: usize,
    ) -> Result<Vec<Span>, ReadError> {
        self.view().inboxes(from, to, family, limit)
    }

    /// Bytes in the active memtable, with the log entries it points into.
    #[must_use]
    pub fn memtable_bytes(&self) -> u64 {
        self.active.bytes()
    }

    /// The lowest position whose writes are in memory only.
    #[must_use]
    pub fn oldest_unflushed(&self) -> Option<u64> {
        let frozen = self
            .sealed
            .frozen
            .iter()
            .find_map(|frozen| frozen.table.first_position());
        frozen.or(self.active.first_position())
    }

    /// Freezes everything applied so far: called when the flush entry at `position`
    /// is applied, before its own writes. False, and nothing done, when
    /// [`MAX_FROZEN`] memtables wait already: try again after the next
    /// `install`. A flush that is done already, as after a restart,
    /// is true and changes nothing.
    ///
    /// # Panics
    /// If `position` or a later one was applied.
    pub fn freeze(&mut self, position: u64) -> bool {
        assert!(
            position > self.applied,
            "freezing at {position} after {}",
            self.applied
        );
        if position <= self.frozen_position() + 1 {
            return true;
        }
        if self.sealed.frozen.len() >= MAX_FROZEN {
            return false;
        }
        let table = mem::take(&mut self.active);
        self.sealed.frozen.push(Arc::new(Frozen {
            table,
            position: position - 1,
        }));
        self.sealed.generation += 1;
        true
    }

    /// The immutable layers as they are now, for reads on another thread.
    #[must_use]
    pub fn reader(&self) -> SegmentReader {
        self.sealed.clone()
    }

    /// The last position that is frozen or flushed.
    fn frozen_position(&self) -> u64 {
        self.sealed
            .frozen
            .last()
            .map_or(self.flushed, |frozen| frozen.position)
    }

    fn view(&self) -> View<'_> {
        View {
            active: Some(&self.active),
            sealed: &self.sealed,
        }
    }
}
