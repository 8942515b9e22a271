//! The headers of a memtable's rows, one behind the other in chunks.
//!
//! A header is a few dozen bytes, and millions of them come and go: buffers of their own
//! would cost more than what stands in them, and each keeps what it was cut from. Nothing
//! is freed before the whole memtable is. Known limit: a header that is written over by a
//! longer one leaves its old place unused; rows that are written again and again, like
//! heads, keep their length for long.

/// Bytes of a chunk. The first of a memtable is smaller: most shards are quiet.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 16;
const FIRST_CHUNK: usize = 4 << 10;

const _: () = assert!(crate::key::MAX_HEADER <= FIRST_CHUNK);

/// Where a header stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The chunk's number, then the offset in it.
    at: u32,
    len: u16,
}

#[derive(Default)]
pub(super) struct Headers {
    chunks: Vec<Vec<u8>>,
    bytes: u64,
}

impl Headers {
    /// Puts a header behind the others.
    ///
    /// # Panics
    /// If it is longer than [`MAX_HEADER`](crate::key::MAX_HEADER), or the memtable holds
    /// 4 GiB of headers: it is flushed long before.
    pub(super) fn push(&mut self, header: &[u8]) -> Place {
        let full = |chunk: &Vec<u8>| chunk.capacity().min(CHUNK) - chunk.len() < header.len();
        if self.chunks.last().is_none_or(full) {
            let bytes = if self.chunks.is_empty() {
                FIRST_CHUNK
            } else {
                CHUNK
            };
            self.chunks.push(Vec::with_capacity(bytes));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let at = (number << CHUNK_BITS) | chunk.len();
        chunk.extend_from_slice(header);
        self.bytes += header.len() as u64;
        Place {
            at: u32::try_from(at).expect("a memtable is flushed long before 4 GiB of headers"),
            len: u16::try_from(header.len()).expect("headers are at most 4 KiB"),
        }
    }

    /// Writes a header over another, in its place if it is not longer.
    pub(super) fn replace(&mut self, place: Place, header: &[u8]) -> Place {
        let Ok(len) = u16::try_from(header.len()) else {
            return self.push(header);
        };
        if len > place.len {
            return self.push(header);
        }
        let (chunk, offset) = place.split();
        self.chunks[chunk][offset..offset + header.len()].copy_from_slice(header);
        Place { at: place.at, len }
    }

    pub(super) fn get(&self, place: Place) -> &[u8] {
        let (chunk, offset) = place.split();
        &self.chunks[chunk][offset..offset + usize::from(place.len)]
    }

    /// Bytes that were written, those in unused places too.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Place {
    fn split(self) -> (usize, usize) {
        let at = self.at as usize;
        (at >> CHUNK_BITS, at & (CHUNK - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::MAX_HEADER;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn every_header_reads_as_it_was_written_last(
            writes in vec((0..40_usize, vec(any::<u8>(), 0..300)), 1..200),
            long in vec(any::<u8>(), MAX_HEADER),
        ) {
            let mut headers = Headers::default();
            let mut places: Vec<Option<Place>> = vec![None; 41];
            let mut expected: Vec<Vec<u8>> = vec![Vec::new(); 41];
            let longest = (40, long);
            let mut bytes = 0;
            for (slot, header) in writes.iter().chain([&longest]).chain(&writes) {
                let in_place = places[*slot].is_some_and(|old| usize::from(old.len) >= header.len());
                let place = match places[*slot] {
                    Some(old) => headers.replace(old, header),
                    None => headers.push(header),
                };
                if !in_place {
                    bytes += header.len() as u64;
                }
                places[*slot] = Some(place);
                expected[*slot].clone_from(header);
            }
            for (place, expected) in places.iter().zip(&expected) {
                if let Some(place) = place {
                    prop_assert_eq!(headers.get(*place), &expected[..]);
                }
            }
            prop_assert_eq!(headers.bytes(), bytes);
        }
    }

    #[test]
    fn chunks_are_filled_before_the_next_begins() {
        let mut headers = Headers::default();
        let header = [7; 64];
        for _ in 0..(FIRST_CHUNK + 2 * CHUNK) / header.len() {
            headers.push(&header);
        }
        let lengths: Vec<_> = headers.chunks.iter().map(Vec::len).collect();
        assert_eq!(lengths, [FIRST_CHUNK, CHUNK, CHUNK]);
    }
}
