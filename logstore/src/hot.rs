//! Small rows that were read from segments, and rows that are in none: a cache of
//! the state family that one shard asks for with every command.
//!
//! Without it a row that was written long ago, or never, costs a look into the
//! filter of every segment. It holds two generations of at most [`GENERATION`] rows
//! without bodies; when the young one is full it becomes the old one, and what the
//! old one held is forgotten. It only knows what segments hold: memtables are asked
//! first, and it is emptied when the list of segments changes.

use crate::key::{Key, Row};
use std::collections::HashMap;

/// Rows of a generation. At some 150 bytes a row, 64 shards hold 10 MiB at most.
const GENERATION: usize = 512;

/// Rows with larger headers are not kept.
const HEADER_BYTES: usize = 128;

#[derive(Default)]
pub(crate) struct HotRows {
    young: HashMap<Key, Option<Row>>,
    old: HashMap<Key, Option<Row>>,
}

impl HotRows {
    /// `Some(None)`: it is known that no segment has it.
    pub(crate) fn get(&mut self, key: &Key) -> Option<Option<Row>> {
        if let Some(row) = self.young.get(key) {
            return Some(row.clone());
        }
        let row = self.old.remove(key)?;
        self.insert(*key, row.clone());
        Some(row)
    }

    pub(crate) fn insert(&mut self, key: Key, row: Option<Row>) {
        let small = |row: &Row| row.body.is_none() && row.header.len() <= HEADER_BYTES;
        if !row.as_ref().is_none_or(small) {
            return;
        }
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, row);
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let mut hot = HotRows::default();
        let key = |at: u64| Key::new(at, 1, b"");
        for at in 0..10_000 {
            assert_eq!(hot.get(&key(0)).is_some(), at > 0);
            hot.insert(key(at), None);
            assert!(hot.young.len() <= GENERATION && hot.old.len() <= GENERATION);
        }
        assert_eq!(hot.get(&key(9_999)), Some(None));
        assert_eq!(hot.get(&key(5)), None);
        hot.clear();
        assert_eq!(hot.get(&key(0)), None);
    }

    #[test]
    fn rows_with_bodies_or_long_headers_are_not_kept() {
        let mut hot = HotRows::default();
        let row = |header: usize, body: Option<&'static [u8]>| {
            let header = vec![0; header].into();
            Some(Row {
                header,
                body: body.map(Into::into),
            })
        };
        hot.insert(Key::new(1, 1, b""), row(HEADER_BYTES + 1, None));
        hot.insert(Key::new(2, 1, b""), row(1, Some(b"body")));
        hot.insert(Key::new(3, 1, b""), row(HEADER_BYTES, None));
        let kept = |hot: &mut HotRows, at| hot.get(&Key::new(at, 1, b"")).is_some();
        assert!(!kept(&mut hot, 1) && !kept(&mut hot, 2) && kept(&mut hot, 3));
    }
}
