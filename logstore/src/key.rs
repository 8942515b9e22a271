//! Keys and rows: what the state of a shard is made of.
//!
//! A key is (inbox u64, family u8, sub 0–32 bytes), all big-endian, so that the
//! order of bytes is the order of keys. The engine knows families only by the
//! [`Shape`] of their number's range; what they mean is the caller's.

use bytes::Bytes;
use std::{cmp::Ordering, fmt};

/// Longest `sub` of a key, in bytes.
pub const MAX_SUB: usize = 32;

/// How the rows of a family behave; a function of the family's number for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Small values, the newest wins.
    State,
    /// Written once, usually with a body; `sub` is a sequence number (u64).
    Append,
    /// `sub` is (group u64, order u64), the header is a u64: where it stands. Can
    /// be counted and listed by group without reading rows.
    Posting,
    /// Like `State`, behind a filter of its own; `sub` is (scope u64, UUIDv7 16 bytes):
    /// the time in the id tells which segments cannot hold it.
    Dedup,
}

/// Numbers of families by their shape.
///
/// | numbers | shape |
/// | --- | --- |
/// | 0–31 | state (user) |
/// | 32–39 | append (events) |
/// | 40–47 | posting |
/// | 48–63 | state (overlay) |
/// | 64–95 | dedup |
/// | 96–111 | state (group) |
/// | 112–119 | append (group log) |
/// | 120–255 | state (shard, consumers, private) |
#[must_use]
pub const fn shape(family: u8) -> Shape {
    match family {
        32..=39 | 112..=119 => Shape::Append,
        40..=47 => Shape::Posting,
        64..=95 => Shape::Dedup,
        _ => Shape::State,
    }
}

/// The name of a row. 48 bytes, no heap.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The inbox key; 0 for rows of the shard itself.
    pub inbox: u64,
    /// What kind of row.
    pub family: u8,
    len: u8,
    sub: [u8; MAX_SUB],
}

impl Key {
    /// Puts a key together.
    ///
    /// # Panics
    /// If `sub` is longer than [`MAX_SUB`].
    #[must_use]
    pub fn new(inbox: u64, family: u8, sub: &[u8]) -> Self {
        assert!(sub.len() <= MAX_SUB, "a sub-key of {} bytes", sub.len());
        let mut bytes = [0; MAX_SUB];
        bytes[..sub.len()].copy_from_slice(sub);
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        Self { inbox, family, len: sub.len() as u8, sub: bytes }
    }

    /// What tells rows of one family apart.
    #[must_use]
    pub fn sub(&self) -> &[u8] {
        &self.sub[..usize::from(self.len)]
    }

    /// The shape of the row's family.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        shape(self.family)
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.inbox, self.family, self.sub()).cmp(&(other.inbox, other.family, other.sub()))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{}/", self.inbox, self.family)?;
        self.sub().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A row as it is read: owned bytes, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The small value; of append families what a list shows.
    pub header: Bytes,
    /// The body, if the row has one.
    pub body: Option<Bytes>,
}

/// A row as it is written by applying the log entry at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub key: Key,
    /// What; `None` deletes.
    pub value: Option<Value>,
}

/// The value of a [`Write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The small value, at most 4 KiB.
    pub header: Bytes,
    /// The body, which stands in the log and is not copied.
    pub body: Option<BodyRef>,
}

/// A body's place in the log of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyRef {
    /// The position of the log entry.
    pub position: u64,
    /// Where in the entry's payload it begins.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
    /// Bodies shared by several rows stand in segments sorted by this: the
    /// conversation, then the order in it.
    pub group: u64,
    /// See `group`.
    pub order: u64,
}
