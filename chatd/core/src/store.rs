//! What a host needs of the disk: one shard's Raft log and its state. The daemon
//! implements it over `logstore`, tests over maps in memory.

use bytes::Bytes;
use chat_wire::ids::InboxKey;
use std::{cmp::Ordering, fmt};

pub mod memory;

/// The name of a row: (inbox key, family, sub), ordered as bytes are. No heap.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The inbox or group; 0 for rows of the shard itself.
    pub inbox: InboxKey,
    /// What kind of row: `shard::keys` lists them.
    pub family: u8,
    len: u8,
    sub: [u8; 32],
}

impl Key {
    /// Puts a key together.
    ///
    /// # Panics
    /// If `sub` is longer than 32 bytes.
    #[must_use]
    pub fn new(inbox: InboxKey, family: u8, sub: &[u8]) -> Self {
        assert!(sub.len() <= 32, "a sub-key of {} bytes", sub.len());
        let mut bytes = [0; 32];
        bytes[..sub.len()].copy_from_slice(sub);
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        Self {
            inbox,
            family,
            len: sub.len() as u8,
            sub: bytes,
        }
    }

    /// What tells rows of one family apart.
    #[must_use]
    pub fn sub(&self) -> &[u8] {
        &self.sub[..usize::from(self.len)]
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        // Sub-keys are padded with zeros, so words and then the length compare as slices.
        (self.inbox, self.family)
            .cmp(&(other.inbox, other.family))
            .then_with(|| words(&self.sub).cmp(&words(&other.sub)))
            .then_with(|| self.len.cmp(&other.len))
    }
}

fn words(sub: &[u8; 32]) -> [u64; 4] {
    let (words, _) = sub.as_chunks::<8>();
    [words[0], words[1], words[2], words[3]].map(u64::from_be_bytes)
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{}/", self.inbox.0, self.family)?;
        self.sub()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A row as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The small value.
    pub header: Bytes,
    /// The stored body, if the row has one.
    pub body: Option<Bytes>,
}

/// A row as it is written; `None` deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub key: Key,
    /// What.
    pub value: Option<Value>,
}

/// The value of a [`Write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The small value, at most 4 KiB.
    pub header: Bytes,
    /// The body of the command that is applied, which stands in the log entry and
    /// is not copied.
    pub body: Option<BodyPlace>,
}

/// Where a body stands in the payload of the log entry that is being applied, or,
/// for an outbox row, of the one that put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyPlace {
    /// Offset in the entry's payload.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
    /// The conversation and the order in it: bodies stand so in segments.
    pub group: u64,
    /// See `group`.
    pub order: u64,
}

/// Which way a range is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the lowest key.
    Rising,
    /// From the highest key.
    Falling,
}

/// A bounded read: at most `limit` rows of `from ..= to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Lowest key.
    pub from: Key,
    /// Highest key, included.
    pub to: Key,
    /// Which end first.
    pub direction: Direction,
    /// Rows at most.
    pub limit: usize,
}

/// A conversation of an inbox, as the lists of segments have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHead {
    /// The conversation.
    pub group: u64,
    /// Its highest order (msg_id) here.
    pub order: u64,
}

/// A row cannot be read or verified. It is not "absent": whoever gets this stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored data cannot be read: {0}")]
pub struct Unreadable(pub String);

/// An entry of a shard's Raft log, on its way to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Raft index.
    pub position: u64,
    /// Raft term.
    pub term: u64,
    /// Raft's entry type.
    pub kind: u8,
    /// The commands; see `command`.
    pub payload: Bytes,
}

/// Raft's hard state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Current term.
    pub term: u64,
    /// Whom this replica voted for in it.
    pub vote: u64,
    /// Highest position known to be committed.
    pub commit: u64,
}

/// Reads of rows: of a [`ShardStore`], of what of it is [at hand](AtHand), or of what
/// segments hold, on another thread.
pub trait ReadRows {
    /// Reads a row.
    ///
    /// # Errors
    /// [`Unreadable`] if it may exist but cannot be verified.
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable>;

    /// Reads rows in order.
    ///
    /// # Errors
    /// [`Unreadable`] if one may exist but cannot be verified.
    fn range(&self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable>;

    /// Counts the rows of a posting family in `from ..= to` without reading them.
    ///
    /// # Errors
    /// [`Unreadable`] if one may exist but cannot be verified.
    fn count(&self, from: &Key, to: &Key) -> Result<u64, Unreadable>;

    /// The conversations of an inbox over its posting `families`, newest first,
    /// from below `before` = (order, group).
    ///
    /// # Errors
    /// [`Unreadable`] if one may exist but cannot be verified.
    fn groups(
        &self,
        inbox: InboxKey,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, Unreadable>;
}

/// Rows as far as they can be read without waiting for the disk: what would have to
/// wait is [`Unreadable`], and remembered.
pub trait AtHand: ReadRows {
    /// Whether anything was cold: then nothing that was read is worth anything.
    fn met_cold(&self) -> bool;
}

/// One shard's Raft log and state on this node. `raft::Storage` gives what was
/// appended, synced or not: Raft itself waits for the sync.
pub trait ShardStore: raft::Storage + ReadRows {
    /// See [`ShardStore::at_hand`].
    type AtHand<'a>: AtHand
    where
        Self: 'a;

    /// The rows for one read that must not wait for the disk. Warm, it costs hardly
    /// more than any other.
    fn at_hand(&self) -> Self::AtHand<'_>;

    /// Makes entries readable; an entry at a position that exists cuts the suffix.
    fn append(&mut self, entries: &[LogEntry]);

    /// Keeps the hard state that goes to the disk with the same write.
    fn set_hard_state(&mut self, state: HardState);

    /// Applies the writes of the entry at `position`. Positions rise; each once.
    fn apply(&mut self, position: u64, writes: Vec<Write>);

    /// The highest position that segments hold: after a restart, applying begins
    /// behind it.
    fn flushed(&self) -> u64;

    /// Freezes what was applied up to `position - 1`, to be written as segments.
    /// False if two such parts wait already: the flush must wait.
    fn freeze(&mut self, position: u64) -> bool;

    /// Bytes applied since the last freeze.
    fn unflushed_bytes(&self) -> u64;

    /// Bytes of the log that no segment holds yet.
    fn log_bytes(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn key() -> impl Strategy<Value = Key> {
        (0..2_u64, 0..2_u8, vec(0..3_u8, 0..=32))
            .prop_map(|(inbox, family, sub)| Key::new(InboxKey(inbox), family, &sub))
    }

    proptest! {
        #[test]
        fn keys_sort_by_inbox_family_and_the_bytes_of_sub(a in key(), b in key()) {
            let parts = |key: &Key| (key.inbox, key.family, key.sub().to_vec());
            prop_assert_eq!(a.cmp(&b), parts(&a).cmp(&parts(&b)));
            prop_assert_eq!(a == b, a.cmp(&b) == Ordering::Equal);
        }
    }
}
