//! Tables: byte strings sorted by byte strings, cut into blocks, with an index.
//!
//! Rows, postings, lists of groups and the inbox index are all tables. A block's
//! content is
//!
//! ```text
//! entries          shared u8 · rest u8 · the rest of the key · value (length varint, bytes)
//! restarts         u32 each: where every 16th entry begins; there, shared is 0
//! their number     u32
//! entries          u32
//! ```
//! `shared` is how many bytes the key has in common with the one before. The index
//! is made of blocks of the same form: first key of a block → (number of the block,
//! weight of the table before it), both varints. Weights count what the table's
//! values hold, so that a range can be counted by its ends.

use super::encoding::{Input, put_varint};
use std::ops::Range;

/// Blocks are cut when their content has reached this.
pub(crate) const BLOCK_BYTES: usize = 16 << 10;

const RESTART_ENTRIES: u32 = 16;

/// The longest key of any table: that of a row.
pub(crate) const MAX_KEY: usize = 9 + crate::key::MAX_SUB;

/// Gathers entries into the content of a block.
#[derive(Default)]
pub(crate) struct Page {
    content: Vec<u8>,
    restarts: Vec<u32>,
    entries: u32,
    last: Vec<u8>,
    /// The first key.
    pub(crate) first: Vec<u8>,
}

impl Page {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Whether it is time to cut.
    pub(crate) fn is_full(&self) -> bool {
        self.content.len() >= BLOCK_BYTES
    }

    /// Adds an entry behind the last one.
    ///
    /// # Panics
    /// If the key does not rise: the builder would write a block that cannot be read.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        assert!(key.len() <= MAX_KEY && (self.is_empty() || key > &self.last[..]));
        let mut shared = 0;
        if self.entries.is_multiple_of(RESTART_ENTRIES) {
            let at = u32::try_from(self.content.len()).expect("a block is far below 4 GiB");
            self.restarts.push(at);
        } else {
            shared = self
                .last
                .iter()
                .zip(key)
                .take_while(|(a, b)| a == b)
                .count();
        }
        if self.is_empty() {
            self.first.clear();
            self.first.extend_from_slice(key);
        }
        let length = |len: usize| u8::try_from(len).expect("keys are below 256 bytes");
        self.content
            .extend([length(shared), length(key.len() - shared)]);
        self.content.extend_from_slice(&key[shared..]);
        put_varint(&mut self.content, value.len() as u64);
        self.content.extend_from_slice(value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.entries += 1;
    }

    /// Ends the block: its content is handed to `write`, and the page is empty again.
    pub(crate) fn finish<T>(&mut self, write: impl FnOnce(&[u8]) -> T) -> T {
        for restart in &self.restarts {
            self.content.extend_from_slice(&restart.to_le_bytes());
        }
        let restarts = u32::try_from(self.restarts.len()).expect("fewer than entries");
        self.content.extend_from_slice(&restarts.to_le_bytes());
        self.content.extend_from_slice(&self.entries.to_le_bytes());
        let written = write(&self.content);
        self.content.clear();
        self.restarts.clear();
        self.entries = 0;
        written
    }
}

/// An entry's key and where its value stands in the content.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    key: [u8; MAX_KEY],
    len: u8,
    pub(crate) value: Range<usize>,
}

impl Entry {
    pub(crate) fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.len)]
    }

    fn start() -> Self {
        Self {
            key: [0; MAX_KEY],
            len: 0,
            value: 0..0,
        }
    }

    /// Moves on to the entry at `at`; gives where the next one begins.
    fn step(&mut self, entries: &[u8], at: usize) -> Option<usize> {
        let mut input = Input(entries.get(at..)?);
        let shared = input.byte()?;
        let rest = input.byte()?;
        let len = shared
            .checked_add(rest)
            .filter(|len| usize::from(*len) <= MAX_KEY)?;
        if shared > self.len {
            return None;
        }
        self.key[usize::from(shared)..usize::from(len)]
            .copy_from_slice(input.take(usize::from(rest))?);
        self.len = len;
        let size = input.count()?;
        let start = entries.len() - input.0.len();
        input.take(size)?;
        self.value = start..start + size;
        Some(start + size)
    }
}

/// The content of a block, to be read. `None` anywhere: it is not such a block.
pub(crate) struct View<'a> {
    entries: &'a [u8],
    restarts: &'a [u8],
    count: u32,
}

impl<'a> View<'a> {
    pub(crate) fn new(content: &'a [u8]) -> Option<Self> {
        let (rest, tail) = content.split_at_checked(content.len().checked_sub(8)?)?;
        let mut tail = Input(tail);
        let (restarts, count) = (tail.u32()? as usize, tail.u32()?);
        let at = rest.len().checked_sub(restarts.checked_mul(4)?)?;
        let (entries, restarts) = rest.split_at(at);
        Some(Self {
            entries,
            restarts,
            count,
        })
    }

    /// The last entry at or below `key`; the outer `None` is damage.
    pub(crate) fn floor(&self, key: &[u8]) -> Option<Option<Entry>> {
        let Some(interval) = self.interval_of(key)? else {
            return Some(None);
        };
        let mut at = self.restart(interval)?;
        let mut entry = Entry::start();
        let mut found = None;
        while at < self.entries.len() {
            at = entry.step(self.entries, at)?;
            if entry.key() > key {
                break;
            }
            found = Some(entry.clone());
            if entry.key() == key {
                break;
            }
        }
        Some(found)
    }

    /// The last interval whose first key is at or below `key`.
    pub(crate) fn interval_of(&self, key: &[u8]) -> Option<Option<usize>> {
        let (mut low, mut high) = (0, self.intervals());
        while low < high {
            let middle = usize::midpoint(low, high);
            let mut entry = Entry::start();
            entry.step(self.entries, self.restart(middle)?)?;
            if entry.key() <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some(low.checked_sub(1))
    }

    /// From one restart to the next.
    pub(crate) fn intervals(&self) -> usize {
        self.restarts.len() / 4
    }

    /// The entries of an interval: at most sixteen, so that a cursor need not take a
    /// whole block apart.
    pub(crate) fn interval(&self, index: usize) -> Option<Vec<Entry>> {
        let start = self.restart(index)?;
        let end = self.restart(index + 1).unwrap_or(self.entries.len());
        self.between(start, end, RESTART_ENTRIES as usize)
    }

    /// All entries.
    pub(crate) fn entries(&self) -> Option<Vec<Entry>> {
        let entries = self.between(0, self.entries.len(), self.count as usize)?;
        (entries.len() == self.count as usize).then_some(entries)
    }

    /// Gives the entries to `see`, as long as it says so.
    pub(crate) fn walk(&self, mut see: impl FnMut(&Entry) -> bool) -> Option<()> {
        let mut entry = Entry::start();
        let mut at = 0;
        while at < self.entries.len() {
            at = entry.step(self.entries, at)?;
            if !see(&entry) {
                break;
            }
        }
        Some(())
    }

    fn between(&self, mut at: usize, end: usize, expected: usize) -> Option<Vec<Entry>> {
        let mut entries = Vec::with_capacity(expected.min(self.entries.len()));
        let mut entry = Entry::start();
        while at < end {
            at = entry.step(self.entries, at)?;
            entries.push(entry.clone());
        }
        (entries.len() <= expected).then_some(entries)
    }

    fn restart(&self, index: usize) -> Option<usize> {
        let mut input = Input(self.restarts.get(index * 4..)?);
        input.u32().map(|at| at as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_map, prelude::*};

    fn content(entries: &std::collections::BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
        let mut page = Page::default();
        entries.iter().for_each(|(key, value)| page.add(key, value));
        page.finish(<[u8]>::to_vec)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_page_answers_as_an_ordered_map(
            entries in btree_map(
                prop::collection::vec(0..4_u8, 0..6),
                prop::collection::vec(any::<u8>(), 0..200),
                0..200,
            ),
            probes in prop::collection::vec(prop::collection::vec(0..4_u8, 0..6), 20),
        ) {
            let content = content(&entries);
            let view = View::new(&content).unwrap();
            let all = view.entries().unwrap();
            let read = all.iter().map(|e| (e.key().to_vec(), content[e.value.clone()].to_vec()));
            prop_assert_eq!(read.collect::<std::collections::BTreeMap<_, _>>(), entries.clone());
            for probe in probes {
                let expected = entries.range(..=probe.clone()).next_back();
                let found = view.floor(&probe).unwrap();
                let found = found.map(|e| (e.key().to_vec(), content[e.value].to_vec()));
                prop_assert_eq!(found, expected.map(|(key, value)| (key.clone(), value.clone())));
                let interval = view.interval_of(&probe).unwrap();
                let keys = interval.map(|at| view.interval(at).unwrap());
                let inside = keys.is_some_and(|keys| {
                    keys.iter().any(|entry| Some(entry.key()) == expected.map(|(key, _)| &key[..]))
                });
                prop_assert_eq!(inside, expected.is_some());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(content in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(view) = View::new(&content) {
                let _ = view.entries();
                let _ = view.interval(0);
                let _ = view.floor(b"key");
            }
        }
    }
}
