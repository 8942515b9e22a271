//! Keys and rows: what the state of a shard is made of.
//!
//! A key is (inbox u64, family u8, sub 0–32 bytes), all big-endian, so that the
//! order of bytes is the order of keys. The engine knows families only by the
//! [`Shape`] of their number's range; what they mean is the caller's.

use bytes::Bytes;
use std::{cmp::Ordering, fmt};

/// Longest `sub` of a key, in bytes.
pub const MAX_SUB: usize = 32;

/// Longest header of a row, in bytes: larger things are bodies or pages.
pub const MAX_HEADER: usize = 4 << 10;

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
        Self {
            inbox,
            family,
            len: sub.len() as u8,
            sub: bytes,
        }
    }

    /// The key of a row of an append family: `sub` is its sequence number.
    #[must_use]
    pub fn append(inbox: u64, family: u8, sequence: u64) -> Self {
        Self::new(inbox, family, &sequence.to_be_bytes())
    }

    /// The highest key of an append family up to a sequence number, longer ones of it
    /// included.
    pub(crate) fn up_to(inbox: u64, family: u8, sequence: u64) -> Self {
        let mut sub = [0xff; 32];
        sub[..8].copy_from_slice(&sequence.to_be_bytes());
        Self::new(inbox, family, &sub)
    }

    /// The key of a posting: `sub` is the group, then the order in it.
    #[must_use]
    pub fn posting(inbox: u64, family: u8, group: u64, order: u64) -> Self {
        let mut sub = [0; 16];
        sub[..8].copy_from_slice(&group.to_be_bytes());
        sub[8..].copy_from_slice(&order.to_be_bytes());
        Self::new(inbox, family, &sub)
    }

    /// The lowest key of a family of an inbox.
    #[must_use]
    pub const fn first(inbox: u64, family: u8) -> Self {
        Self {
            inbox,
            family,
            len: 0,
            sub: [0; MAX_SUB],
        }
    }

    /// The highest key of a family of an inbox: nothing of it sorts behind.
    #[must_use]
    pub const fn last(inbox: u64, family: u8) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "32 fits")]
        Self {
            inbox,
            family,
            len: MAX_SUB as u8,
            sub: [0xff; MAX_SUB],
        }
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

    /// The big-endian number at an offset of `sub`; bytes beyond its end count as 0.
    ///
    /// # Panics
    /// If the offset is above 24.
    #[must_use]
    pub fn number(&self, offset: usize) -> u64 {
        word(&self.sub, offset)
    }

    /// The milliseconds in the UUIDv7 of a dedup key.
    #[must_use]
    pub fn client_ms(&self) -> u64 {
        self.number(8) >> 16
    }

    /// Appends the key as bytes, whose order is the order of keys.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.inbox.to_be_bytes());
        bytes.push(self.family);
        bytes.extend_from_slice(self.sub());
    }

    /// The inverse of [`Key::write`]; `None` if these are not the bytes of a key.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (inbox, rest) = bytes.split_first_chunk::<8>()?;
        let (&family, sub) = rest.split_first()?;
        (sub.len() <= MAX_SUB).then(|| Self::new(u64::from_be_bytes(*inbox), family, sub))
    }
}

fn word(sub: &[u8; MAX_SUB], offset: usize) -> u64 {
    let bytes = sub[offset..]
        .first_chunk::<8>()
        .expect("callers stay within the array");
    u64::from_be_bytes(*bytes)
}

// Sub-keys are padded with zeros, so four words and then the length compare as
// the slices would, without a call: this is the hottest comparison of the engine.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.inbox, self.family)
            .cmp(&(other.inbox, other.family))
            .then_with(|| word(&self.sub, 0).cmp(&word(&other.sub, 0)))
            .then_with(|| word(&self.sub, 8).cmp(&word(&other.sub, 8)))
            .then_with(|| word(&self.sub, 16).cmp(&word(&other.sub, 16)))
            .then_with(|| word(&self.sub, 24).cmp(&word(&other.sub, 24)))
            .then_with(|| self.len.cmp(&other.len))
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
        self.sub()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The direction of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Lowest key first.
    Rising,
    /// Highest key first.
    Falling,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn key() -> impl Strategy<Value = Key> {
        (0..3_u64, 0..3_u8, vec(0..3_u8, 0..=MAX_SUB))
            .prop_map(|(inbox, family, sub)| Key::new(inbox, family, &sub))
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_bytes(a in key(), b in key()) {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            a.write(&mut left);
            b.write(&mut right);
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            prop_assert_eq!(Key::read(&left), Some(a));
        }
    }

    #[test]
    fn a_family_lies_between_its_first_and_last_key() {
        let key = Key::posting(7, 40, u64::MAX, u64::MAX);
        assert!(Key::first(7, 40) < key && key < Key::last(7, 40));
        assert!(Key::last(7, 40) < Key::first(7, 41));
        assert_eq!((key.number(0), key.number(8)), (u64::MAX, u64::MAX));
    }

    #[test]
    fn bytes_that_are_no_key_are_refused() {
        assert_eq!(Key::read(&[0; 8]), None);
        assert_eq!(Key::read(&[0; 9 + MAX_SUB + 1]), None);
    }
}
