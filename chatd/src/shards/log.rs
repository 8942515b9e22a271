//! Where Raft and `logstore` meet: one shard's log and state as the host wants to
//! see them. Nothing else in the daemon knows both.
//!
//! What `append` makes readable is not durable yet: Raft is told so by the host when
//! the log thread has synced it, and not before.

use chat_core::store::{
    AtHand, Direction, GroupHead, HardState, Key, LogEntry, Range, ReadRows, Row, ShardStore,
    Unreadable, Write,
};
use chat_wire::ids::{InboxKey, ReplicaId, ShardId};
use logstore::{
    key,
    log_index::{self, LogIndex},
    reads::{self, Order, ReadError},
    shard::{self, Shard},
};
use std::cell::Cell;

use raft::{
    GetEntriesContext, RaftState, StorageError,
    eraftpb::{ConfState, Entry, EntryType, Snapshot},
};

use crate::planted;

/// One shard of this node, with the replica that Raft knows it by.
pub(super) struct RaftStore {
    shard: Shard,
    replica: ReplicaId,
}

impl RaftStore {
    /// Joins them.
    #[must_use]
    pub(super) fn new(shard: Shard, replica: ReplicaId) -> Self {
        Self { shard, replica }
    }

    /// The engine's shard, for flushes and walks.
    #[must_use]
    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The engine's shard, to install what a flush wrote.
    pub(super) fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn log(&self) -> &LogIndex {
        self.shard.log()
    }
}

pub(super) fn key_of(key: &Key) -> key::Key {
    key::Key::new(key.inbox.0, key.family, key.sub())
}

fn key_from(key: &key::Key) -> Key {
    Key::new(InboxKey(key.inbox), key.family, key.sub())
}

pub(super) fn row_from(row: key::Row) -> Row {
    Row {
        header: row.header,
        body: row.body,
    }
}

pub(super) fn heads_from(heads: Vec<reads::GroupHead>) -> Vec<GroupHead> {
    let head = |head: reads::GroupHead| GroupHead {
        group: head.group,
        order: head.order,
    };
    heads.into_iter().map(head).collect()
}

/// A range as the engine reads it, and its rows as the core has them.
pub(super) fn rows_of(
    range: &Range,
    read: impl FnOnce(
        &key::Key,
        &key::Key,
        Order,
        usize,
    ) -> Result<Vec<(key::Key, key::Row)>, ReadError>,
) -> Result<Vec<(Key, Row)>, ReadError> {
    let order = match range.direction {
        Direction::Rising => Order::Rising,
        Direction::Falling => Order::Falling,
    };
    let rows = read(&key_of(&range.from), &key_of(&range.to), order, range.limit)?;
    let row = |(key, row): (key::Key, key::Row)| (key_from(&key), row_from(row));
    Ok(rows.into_iter().map(row).collect())
}

pub(super) fn unreadable(error: ReadError) -> Unreadable {
    Unreadable(error.to_string())
}

/// A shard's rows as far as memory has them.
pub(super) struct RowsAtHand<'a> {
    rows: shard::AtHand<'a>,
    met_cold: Cell<bool>,
}

impl RowsAtHand<'_> {
    fn unreadable(&self, error: ReadError) -> Unreadable {
        if matches!(error, ReadError::Cold) {
            self.met_cold.set(true);
        }
        unreadable(error)
    }
}

impl ReadRows for RowsAtHand<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        let row = self.rows.get(&key_of(key));
        Ok(row.map_err(|error| self.unreadable(error))?.map(row_from))
    }

    fn range(&self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable> {
        rows_of(range, |from, to, order, limit| {
            self.rows.range(from, to, order, limit)
        })
        .map_err(|error| self.unreadable(error))
    }

    fn count(&self, from: &Key, to: &Key) -> Result<u64, Unreadable> {
        let count = self.rows.count(&key_of(from), &key_of(to));
        count.map_err(|error| self.unreadable(error))
    }

    fn groups(
        &self,
        inbox: InboxKey,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, Unreadable> {
        let heads = self.rows.groups(inbox.0, families, before, limit);
        Ok(heads_from(heads.map_err(|error| self.unreadable(error))?))
    }
}

impl AtHand for RowsAtHand<'_> {
    fn met_cold(&self) -> bool {
        self.met_cold.get()
    }
}

impl ReadRows for RaftStore {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        Ok(self
            .shard
            .get(&key_of(key))
            .map_err(unreadable)?
            .map(row_from))
    }

    fn range(&self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable> {
        rows_of(range, |from, to, order, limit| {
            self.shard.range(from, to, order, limit)
        })
        .map_err(unreadable)
    }

    fn count(&self, from: &Key, to: &Key) -> Result<u64, Unreadable> {
        self.shard
            .count(&key_of(from), &key_of(to))
            .map_err(unreadable)
    }

    fn groups(
        &self,
        inbox: InboxKey,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, Unreadable> {
        let heads = self.shard.groups(inbox.0, families, before, limit);
        Ok(heads_from(heads.map_err(unreadable)?))
    }
}

impl ShardStore for RaftStore {
    type AtHand<'a> = RowsAtHand<'a>;

    fn at_hand(&self) -> RowsAtHand<'_> {
        RowsAtHand {
            rows: self.shard.at_hand(),
            met_cold: Cell::new(false),
        }
    }

    fn append(&mut self, entries: &[LogEntry]) {
        let entries = entries.iter().map(|entry| log_index::LogEntry {
            position: entry.position,
            term: entry.term,
            kind: entry.kind,
            payload: entry.payload.clone(),
        });
        self.shard
            .log_mut()
            .append(entries)
            .expect("Raft appends without gaps, behind its commit");
    }

    fn set_hard_state(&mut self, state: HardState) {
        self.shard.log_mut().set_hard_state(log_index::HardState {
            term: state.term,
            vote: state.vote,
            commit: state.commit,
        });
    }

    fn apply(&mut self, position: u64, writes: Vec<Write>) {
        planted::apply(ShardId(self.shard.key().shard), position);
        let writes = writes
            .into_iter()
            .map(|write| key::Write {
                key: key_of(&write.key),
                value: write.value.map(|value| key::Value {
                    header: value.header,
                    body: value.body.map(|body| key::BodyRef {
                        position,
                        offset: body.offset,
                        len: body.len,
                        group: body.group,
                        order: body.order,
                    }),
                }),
            })
            .collect();
        self.shard.apply(position, writes);
    }

    fn flushed(&self) -> u64 {
        self.shard.flushed()
    }

    fn freeze(&mut self, position: u64) -> bool {
        self.shard.freeze(position)
    }

    fn unflushed_bytes(&self) -> u64 {
        self.shard.memtable_bytes()
    }

    fn log_bytes(&self) -> u64 {
        self.log().bytes()
    }
}

impl raft::Storage for RaftStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard = self.log().hard_state();
        // Segments hold only what was committed, whatever the hard state says.
        let commit = hard
            .commit
            .max(self.log().compacted().0)
            .max(self.shard.flushed());
        let state = raft::eraftpb::HardState {
            term: hard.term,
            vote: hard.vote,
            commit,
            ..Default::default()
        };
        // One voter until replicas can be placed elsewhere.
        let mut members = ConfState::default();
        members.set_voters(vec![self.replica.0]);
        Ok(RaftState::new(state, members))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.log().first_position() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.log().last_position() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        Ok(self
            .log()
            .entries(low, high, max_bytes)
            .into_iter()
            .map(|entry| Entry {
                index: entry.position,
                term: entry.term,
                entry_type: match entry.kind {
                    1 => EntryType::EntryConfChange,
                    2 => EntryType::EntryConfChangeV2,
                    _ => EntryType::EntryNormal,
                },
                data: entry.payload,
                ..Default::default()
            })
            .collect())
    }

    fn term(&self, position: u64) -> raft::Result<u64> {
        let compacted = self.log().compacted().0;
        self.log()
            .term(position)
            .ok_or(raft::Error::Store(if position < compacted {
                StorageError::Compacted
            } else {
                StorageError::Unavailable
            }))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log().first_position())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log().last_position())
    }

    fn snapshot(&self, _position: u64, _to: u64) -> raft::Result<Snapshot> {
        // With one voter nobody asks. Segments will be what a snapshot ships.
        Err(raft::Error::Store(
            StorageError::SnapshotTemporarilyUnavailable,
        ))
    }
}
