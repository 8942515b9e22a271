//! One shard of a node: its log, its memtable, the memtables being written, and
//! its segments. One thread owns it. A read may wait for the disk; one that must not
//! goes through [`Shard::at_hand`], and if that finds something cold, another thread
//! can read it into memory with [`Shard::reader`].
//!
//! The state of a shard is a function of its log: [`Shard::apply`] enters the
//! writes of each position once, in order, and [`Shard::freeze`] is called when a
//! flush entry is applied, so every replica freezes at the same position.

use crate::{
    flush::{FlushJob, Flushed},
    hot::HotRows,
    key::{Key, Order, Row, Shape, Write},
    log_index::LogIndex,
    memtable::{Memtable, Span},
    reads::{Frozen, GroupHead, ReadError, SegmentReader, View},
    replicas::{ReplicaKey, SegmentRef},
    segment::{SegmentFiles, SegmentMeta, SegmentOptions, reader::Segment},
};
use std::{cell::RefCell, mem, sync::Arc};

/// Memtables that may wait to be written. At the bound a flush entry cannot be
/// applied, and its leader proposes no more of them.
pub const MAX_FROZEN: usize = 2;

/// See the [module](self).
pub struct Shard {
    key: ReplicaKey,
    log: LogIndex,
    active: Memtable,
    sealed: SegmentReader,
    /// The segments of `sealed`, read without waiting.
    at_hand: Vec<Arc<Segment>>,
    hot: RefCell<HotRows>,
    applied: u64,
    flushed: u64,
    files: Arc<SegmentFiles>,
    options: SegmentOptions,
}

/// A memtable that is not needed any more. To drop it takes some milliseconds, one
/// release of memory a row; a thread with better things to do leaves that to another.
pub struct Retired(#[expect(dead_code, reason = "it is kept to be dropped")] Arc<Frozen>);

/// Why a shard cannot be put together from what its log says.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The log describes a segment in a way that this version does not know.
    #[error(
        "segment {id} of shard {shard} is described in a form that this version does not know: start the version that wrote it, or a newer one"
    )]
    UnknownSegment {
        /// The shard.
        shard: u16,
        /// The segment's number.
        id: u64,
    },
    /// A segment file is missing or is not what the log says: the shard must be
    /// repaired, nothing of it may be served.
    #[error("shard {shard}: {source}")]
    Segment {
        /// The shard.
        shard: u16,
        /// What is wrong.
        source: ReadError,
    },
}

impl Shard {
    /// A shard as its log knows it: its entries, and the segments that hold the
    /// state up to `flushed`. Reads the footer of each segment. Committed entries
    /// after `flushed` are to be applied next.
    ///
    /// # Errors
    /// If a segment is missing, damaged or of a newer version.
    pub fn open(
        key: ReplicaKey,
        log: LogIndex,
        flushed: u64,
        segments: &[SegmentRef],
        files: &Arc<SegmentFiles>,
        options: SegmentOptions,
    ) -> Result<Self, ShardError> {
        let shard = key.shard;
        let mut metas = Vec::with_capacity(segments.len());
        for SegmentRef { id, meta } in segments {
            let meta = SegmentMeta::decode(meta);
            metas.push(meta.ok_or(ShardError::UnknownSegment { shard, id: *id })?);
        }
        let mut this = Self {
            key,
            log,
            active: Memtable::default(),
            sealed: SegmentReader::default(),
            at_hand: Vec::new(),
            hot: RefCell::default(),
            applied: flushed,
            flushed,
            files: files.clone(),
            options,
        };
        this.add(metas);
        for segment in this.sealed.segments.iter() {
            segment
                .check()
                .map_err(|source| ShardError::Segment { shard, source })?;
        }
        Ok(this)
    }

    /// Adds segments to the list, which is oldest first; the parts of one flush hold
    /// different keys.
    fn add(&mut self, metas: impl IntoIterator<Item = SegmentMeta>) {
        let known = self.sealed.segments.iter().cloned();
        let new = metas.into_iter();
        let new = new.map(|meta| Segment::new(meta, self.key.replica, self.files.clone()));
        let mut segments: Vec<_> = known.chain(new).collect();
        segments.sort_by_key(|segment| (segment.meta().name.position, segment.meta().name.part));
        self.at_hand = segments.iter().map(|segment| segment.at_hand()).collect();
        self.sealed.segments = Arc::new(segments);
        self.hot.get_mut().clear();
        self.sealed.generation += 1;
    }

    /// The shard and its replica on this node.
    #[must_use]
    pub fn key(&self) -> ReplicaKey {
        self.key
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentMeta> {
        self.sealed.segments.iter().map(|segment| segment.meta())
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
    /// If the position falls or was flushed, or a write breaks the rules of its family's
    /// [`Shape`], or a body does not stand in the log.
    pub fn apply(&mut self, position: u64, writes: Vec<Write>) {
        let floor = self.applied.max(self.frozen_position() + 1);
        assert!(
            position >= floor,
            "position {position} applied below {floor}"
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
        self.find(self.view(), key)
    }

    fn find(&self, view: View<'_>, key: &Key) -> Result<Option<Row>, ReadError> {
        if let Some(row) = view.recent(key) {
            return Ok(row);
        }
        if key.shape() != Shape::State || self.sealed.segments.is_empty() {
            return view.flushed(key);
        }
        let mut hot = self.hot.borrow_mut();
        if let Some(row) = hot.get(key) {
            return Ok(row);
        }
        let row = view.flushed(key)?;
        hot.insert(*key, row.clone());
        Ok(row)
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
    /// [`install`](Self::install). A flush that is done already, as after a restart,
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
        let position = position - 1;
        let term = self.log.term(position).unwrap_or_default();
        self.sealed.frozen.push(Arc::new(Frozen {
            table,
            position,
            term,
        }));
        self.sealed.generation += 1;
        true
    }

    /// The work of writing the oldest frozen memtable, for another thread; `None` if
    /// none waits. One job of a shard at a time: the next one builds on its segments.
    /// One that failed may be asked for again.
    #[must_use]
    pub fn flush_job(&self) -> Option<FlushJob> {
        let frozen = self.sealed.frozen.first()?.clone();
        let older = self.sealed.segments.clone();
        Some(FlushJob::new(
            self.key,
            frozen,
            older,
            self.files.clone(),
            self.options,
        ))
    }

    /// Puts segments in the place of the memtable that they were written from. Called
    /// after the log has committed them: a crash must find them there. What it gives
    /// is better dropped on another thread.
    ///
    /// # Panics
    /// If they were not written from the oldest frozen memtable.
    pub fn install(&mut self, flushed: Flushed) -> Retired {
        let oldest = self.sealed.frozen.first().map(|frozen| frozen.position);
        assert_eq!(oldest, Some(flushed.position), "segments of another flush");
        let retired = self.sealed.frozen.remove(0);
        self.flushed = flushed.position;
        self.add(flushed.segments);
        Retired(retired)
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
        self.view_of(&self.sealed.segments)
    }

    fn view_of<'a>(&'a self, segments: &'a [Arc<Segment>]) -> View<'a> {
        View {
            active: Some(&self.active),
            frozen: &self.sealed.frozen,
            segments,
        }
    }

    /// The shard for reads that never wait for the disk: one that would have to is
    /// [`ReadError::Cold`], and can be asked again when it was read elsewhere with a
    /// [`Shard::reader`]. Costs nothing where memtables or the cache of blocks know the
    /// answer, and a look at the page tables for each other block.
    #[must_use]
    pub fn at_hand(&self) -> AtHand<'_> {
        AtHand { shard: self }
    }
}

/// See [`Shard::at_hand`].
#[derive(Clone, Copy)]
pub struct AtHand<'a> {
    shard: &'a Shard,
}

impl AtHand<'_> {
    fn view(&self) -> View<'_> {
        self.shard.view_of(&self.shard.at_hand)
    }

    /// See [`Shard::get`].
    ///
    /// # Errors
    /// As there, and [`ReadError::Cold`].
    pub fn get(&self, key: &Key) -> Result<Option<Row>, ReadError> {
        self.shard.find(self.view(), key)
    }

    /// See [`Shard::range`].
    ///
    /// # Errors
    /// As there, and [`ReadError::Cold`].
    pub fn range(
        &self,
        from: &Key,
        to: &Key,
        order: Order,
        limit: usize,
    ) -> Result<Vec<(Key, Row)>, ReadError> {
        self.view().range(from, to, order, limit)
    }

    /// See [`Shard::count`].
    ///
    /// # Errors
    /// As there, and [`ReadError::Cold`].
    ///
    /// # Panics
    /// As there.
    pub fn count(&self, from: &Key, to: &Key) -> Result<u64, ReadError> {
        self.view().count(from, to)
    }

    /// See [`Shard::groups`].
    ///
    /// # Errors
    /// As there, and [`ReadError::Cold`].
    pub fn groups(
        &self,
        inbox: u64,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, ReadError> {
        self.view().groups(inbox, families, before, limit)
    }
}
