//! A shard's log and state in maps: what a host is tested with where no disk is
//! wanted. It keeps the same promises as the store on disk, the ugly ones included:
//! what was appended but not [`MemoryStore::persist`]ed, and what was applied but
//! not [`MemoryStore::flush_done`], is gone after [`MemoryStore::restarted`].
//!
//! Known limits: every row stays in memory, the log is never compacted, and there is
//! no Raft snapshot; one voter needs none.

use bytes::Bytes;
use chat_wire::ids::{InboxKey, ReplicaId};
use protobuf::{Message as _, ProtobufEnum as _};
use raft::{
    GetEntriesContext, RaftState, StorageError,
    eraftpb::{ConfState, Entry, EntryType, Snapshot},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use super::{
    Direction, GroupHead, HardState, Key, LogEntry, Range, ReadRows, Row, ShardStore, Unreadable,
    Write,
};

mod at_hand;

pub use at_hand::MemoryAtHand;

/// Frozen parts that wait to become segments at most; a third flush waits.
pub const MAX_FROZEN: usize = 2;

/// One shard in memory. The log begins at position 1.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    voter: ReplicaId,
    log: Vec<LogEntry>,
    hard_state: HardState,
    synced: u64,
    synced_hard_state: HardState,
    rows: BTreeMap<Key, Row>,
    applied: u64,
    frozen: VecDeque<(u64, BTreeMap<Key, Row>)>,
    segments: BTreeMap<Key, Row>,
    flushed: u64,
    unflushed_bytes: u64,
    log_bytes: u64,
    unreadable: Option<Key>,
    /// Inboxes of which nothing is in memory until a read has waited for it.
    cold: RefCell<BTreeSet<InboxKey>>,
}

impl MemoryStore {
    /// An empty shard whose only voter is this replica.
    #[must_use]
    pub fn new(voter: ReplicaId) -> Self {
        Self {
            voter,
            log: Vec::new(),
            hard_state: HardState::default(),
            synced: 0,
            synced_hard_state: HardState::default(),
            rows: BTreeMap::new(),
            applied: 0,
            frozen: VecDeque::new(),
            segments: BTreeMap::new(),
            flushed: 0,
            unflushed_bytes: 0,
            log_bytes: 0,
            unreadable: None,
            cold: RefCell::default(),
        }
    }

    /// The disk has these entries and this hard state: they survive a restart.
    pub fn persist(&mut self, entries: &[LogEntry], hard_state: Option<HardState>) {
        if let Some(last) = entries.last() {
            self.synced = last.position;
        }
        if let Some(hard_state) = hard_state {
            self.synced_hard_state = hard_state;
        }
    }

    /// The oldest frozen part stands in segments now. False if none waits.
    pub fn flush_done(&mut self) -> bool {
        let Some((position, rows)) = self.frozen.pop_front() else {
            return false;
        };
        self.segments = rows;
        self.flushed = position - 1;
        self.count_log();
        true
    }

    fn count_log(&mut self) {
        let newer = self.log.iter().rev();
        let newer = newer.take_while(|entry| entry.position > self.flushed);
        self.log_bytes = newer.map(|entry| entry.payload.len() as u64).sum();
    }

    /// What a new process finds: entries and hard state that were persisted, and the
    /// rows that were flushed. Applying begins behind [`ShardStore::flushed`].
    #[must_use]
    pub fn restarted(mut self) -> Self {
        self.log.retain(|entry| entry.position <= self.synced);
        self.hard_state = self.synced_hard_state;
        // Segments hold only what was committed, which the hard state may not say yet.
        self.hard_state.commit = self.hard_state.commit.max(self.flushed);
        self.rows = self.segments.clone();
        self.applied = self.flushed;
        self.frozen.clear();
        self.unflushed_bytes = 0;
        self.count_log();
        self
    }

    /// Makes one row unreadable, as a damaged block does; `None` repairs it.
    pub fn damage(&mut self, key: Option<Key>) {
        self.unreadable = key;
    }

    /// The pages of an inbox leave memory: a read of it waits, and brings them back.
    pub fn cool(&self, inbox: InboxKey) {
        self.cold.borrow_mut().insert(inbox);
    }

    /// Whether a read of an inbox would have to wait.
    #[must_use]
    pub fn is_cold(&self, inbox: InboxKey) -> bool {
        self.cold.borrow().contains(&inbox)
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.rows.iter()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &[LogEntry] {
        &self.log
    }

    /// The highest position applied.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// The highest position that was persisted.
    #[must_use]
    pub const fn synced(&self) -> u64 {
        self.synced
    }

    fn entry(&self, position: u64) -> Option<&LogEntry> {
        self.log
            .get(usize::try_from(position.checked_sub(1)?).ok()?)
    }

    fn readable(&self, from: &Key, to: &Key) -> Result<(), Unreadable> {
        self.cold.borrow_mut().remove(&from.inbox);
        match &self.unreadable {
            Some(key) if from <= key && key <= to => Err(Unreadable(format!("row {key:?}"))),
            _ => Ok(()),
        }
    }

    fn last_position(&self) -> u64 {
        self.log.last().map_or(0, |entry| entry.position)
    }
}

impl ReadRows for MemoryStore {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        self.readable(key, key)?;
        Ok(self.rows.get(key).cloned())
    }

    fn range(&self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable> {
        self.readable(&range.from, &range.to)?;
        if range.from > range.to {
            return Ok(Vec::new());
        }
        let rows = self.rows.range(range.from..=range.to);
        let owned = |(key, row): (&Key, &Row)| (*key, row.clone());
        Ok(match range.direction {
            Direction::Rising => rows.take(range.limit).map(owned).collect(),
            Direction::Falling => rows.rev().take(range.limit).map(owned).collect(),
        })
    }

    fn count(&self, from: &Key, to: &Key) -> Result<u64, Unreadable> {
        self.readable(from, to)?;
        Ok(if from > to {
            0
        } else {
            self.rows.range(*from..=*to).count() as u64
        })
    }

    fn groups(
        &self,
        inbox: InboxKey,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, Unreadable> {
        let mut highest = BTreeMap::new();
        for &family in families {
            let (from, to) = (
                Key::new(inbox, family, &[]),
                Key::new(inbox, family, &[0xff; 32]),
            );
            self.readable(&from, &to)?;
            for key in self.rows.range(from..=to).map(|(key, _)| key) {
                let (group, order) = key.sub().split_at(8);
                let order = number(order);
                let best = highest.entry(number(group)).or_insert(order);
                *best = order.max(*best);
            }
        }
        let mut heads: Vec<_> = highest
            .into_iter()
            .map(|(group, order)| GroupHead { group, order })
            .filter(|head| before.is_none_or(|before| (head.order, head.group) < before))
            .collect();
        heads.sort_unstable_by_key(|head| std::cmp::Reverse((head.order, head.group)));
        heads.truncate(limit);
        Ok(heads)
    }
}

impl ShardStore for MemoryStore {
    type AtHand<'a> = MemoryAtHand<'a>;

    fn at_hand(&self) -> MemoryAtHand<'_> {
        MemoryAtHand::new(self)
    }

    fn append(&mut self, entries: &[LogEntry]) {
        for entry in entries {
            assert!(
                (1..=self.last_position() + 1).contains(&entry.position),
                "position {} leaves a hole",
                entry.position
            );
            assert!(entry.position > self.applied, "an applied entry is cut");
            if entry.position <= self.last_position() {
                self.log.retain(|old| old.position < entry.position);
                self.count_log();
            }
            self.log_bytes += entry.payload.len() as u64;
            self.synced = self.synced.min(entry.position - 1);
            self.log.push(entry.clone());
        }
    }

    fn set_hard_state(&mut self, state: HardState) {
        self.hard_state = state;
    }

    fn apply(&mut self, position: u64, writes: Vec<Write>) {
        assert!(
            position > self.applied,
            "position {position} is applied after {}",
            self.applied
        );
        let payload = self
            .entry(position)
            .map(|entry| entry.payload.clone())
            .expect("only entries of the log are applied");
        for Write { key, value } in writes {
            let Some(value) = value else {
                self.rows.remove(&key);
                continue;
            };
            assert!(
                value.header.len() <= 4096,
                "a header of {}",
                value.header.len()
            );
            let body = value
                .body
                .map(|place| slice(&payload, place.offset, place.len));
            self.unflushed_bytes +=
                48 + (value.header.len() + body.as_ref().map_or(0, Bytes::len)) as u64;
            self.rows.insert(
                key,
                Row {
                    header: value.header,
                    body,
                },
            );
        }
        self.applied = position;
    }

    fn flushed(&self) -> u64 {
        self.flushed
    }

    fn freeze(&mut self, position: u64) -> bool {
        if self.frozen.len() >= MAX_FROZEN {
            return false;
        }
        self.frozen.push_back((position, self.rows.clone()));
        self.unflushed_bytes = 0;
        true
    }

    fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes
    }

    fn log_bytes(&self) -> u64 {
        self.log_bytes
    }
}

fn slice(payload: &Bytes, offset: u32, len: u32) -> Bytes {
    let from = offset as usize;
    payload.slice(from..from + len as usize)
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl raft::Storage for MemoryStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard_state = raft::eraftpb::HardState::new();
        hard_state.term = self.hard_state.term;
        hard_state.vote = self.hard_state.vote;
        hard_state.commit = self.hard_state.commit;
        let mut conf_state = ConfState::new();
        conf_state.voters.push(self.voter.0);
        Ok(RaftState {
            hard_state,
            conf_state,
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low == 0 {
            return Err(StorageError::Compacted.into());
        }
        let mut entries = (low..high)
            .map(|position| {
                let entry = self.entry(position).ok_or(StorageError::Unavailable)?;
                let mut out = Entry::new();
                out.set_entry_type(
                    EntryType::from_i32(i32::from(entry.kind)).expect("what raft gave us"),
                );
                out.term = entry.term;
                out.index = entry.position;
                out.data = entry.payload.clone();
                Ok(out)
            })
            .collect::<raft::Result<Vec<_>>>()?;
        if let Some(max) = max_size.into() {
            let mut size = 0;
            let fit = entries
                .iter()
                .take_while(|entry| {
                    size += u64::from(entry.compute_size());
                    size <= max
                })
                .count();
            entries.truncate(fit.max(1));
        }
        Ok(entries)
    }

    fn term(&self, position: u64) -> raft::Result<u64> {
        if position == 0 {
            return Ok(0);
        }
        self.entry(position)
            .map(|entry| entry.term)
            .ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_position())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

#[cfg(test)]
mod tests;
