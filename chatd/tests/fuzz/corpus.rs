//! Inputs to begin with, and what is done to them.

use std::{fs, path::Path};

use proptest::strategy::BoxedStrategy;
use proptest::{prelude::*, sample::Index};

/// Bytes of an input at most: more than any header, and more than the limits of the targets.
const INPUT_BYTES: usize = 16 * 1024;

/// The inputs of one target, in the order of their names.
pub(crate) struct Corpus(Vec<Vec<u8>>);

/// One change of an input.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Another byte.
    Set(Index, u8),
    /// One bit.
    Flip(Index, u8),
    /// New bytes.
    Insert(Index, Vec<u8>),
    /// Bytes less.
    Remove(Index, Index),
    /// Bytes again.
    Repeat(Index, Index, u8),
    /// The end of another input.
    Splice(Index, Index, Index),
}

impl Arbitrary for Change {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let at = any::<Index>;
        // Bytes that mean something somewhere, among all others.
        let byte = prop_oneof![
            any::<u8>(),
            prop::sample::select(&b"\0\x01\x7e\x7f\x80\x81\xff\r\n \t:,;=\"\\{}[]0-eE"[..]),
        ];
        prop_oneof![
            (at(), byte.clone()).prop_map(|(at, byte)| Self::Set(at, byte)),
            (at(), 0..8u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            (at(), prop::collection::vec(byte, 1..12))
                .prop_map(|(at, bytes)| Self::Insert(at, bytes)),
            (at(), at()).prop_map(|(from, to)| Self::Remove(from, to)),
            (at(), at(), 1..40u8).prop_map(|(from, to, times)| Self::Repeat(from, to, times)),
            (at(), at(), at()).prop_map(|(which, from, to)| Self::Splice(which, from, to)),
        ]
        .boxed()
    }
}

impl Corpus {
    pub(crate) fn read(target: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz/corpus")
            .join(target);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{} has no inputs", folder.display());
        Self(files.iter().map(|file| fs::read(file).unwrap()).collect())
    }

    pub(crate) fn inputs(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    pub(crate) fn changed(&self, first: Index, changes: &[Change]) -> Vec<u8> {
        let mut bytes = self.0[first.index(self.0.len())].clone();
        for change in changes {
            self.change(&mut bytes, change);
            bytes.truncate(INPUT_BYTES);
        }
        bytes
    }

    fn change(&self, bytes: &mut Vec<u8>, change: &Change) {
        let place = |index: &Index, bytes: &[u8]| index.index(bytes.len() + 1);
        let span = |from: &Index, to: &Index, bytes: &[u8]| {
            let (from, to) = (place(from, bytes), place(to, bytes));
            from.min(to)..from.max(to)
        };
        match change {
            Change::Set(at, byte) => {
                let at = place(at, bytes);
                if let Some(found) = bytes.get_mut(at) {
                    *found = *byte;
                }
            }
            Change::Flip(at, bit) => {
                let at = place(at, bytes);
                if let Some(found) = bytes.get_mut(at) {
                    *found ^= 1 << bit;
                }
            }
            Change::Insert(at, new) => {
                let at = place(at, bytes);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Remove(from, to) => drop(bytes.drain(span(from, to, bytes))),
            Change::Repeat(from, to, times) => {
                let span = span(from, to, bytes);
                let again = bytes[span.clone()].repeat(usize::from(*times));
                bytes.splice(span.end..span.end, again.into_iter().take(INPUT_BYTES));
            }
            Change::Splice(which, from, to) => {
                let other = &self.0[which.index(self.0.len())];
                bytes.truncate(place(from, bytes));
                bytes.extend_from_slice(&other[place(to, other)..]);
            }
        }
    }
}
