//! What a segment says of each inbox: where its rows begin, how many there are,
//! which sequences of append families it holds, and the head of its hash chain.
//!
//! The chain: head = BLAKE3(head before · header · commitment) over the rows of
//! family 32 in order, from 32 zero bytes. The commitment is bytes 24 to 56 of a
//! stored body; of a body that is shorter, or of none, the header alone counts.
//! So an erase that removes salt and content keeps the chain verifiable.

use super::encoding::{Input, put_varint};

/// The append family whose rows are chained.
pub(crate) const CHAINED_FAMILY: u8 = 32;

/// The first block of an inbox that has postings only.
pub(crate) const NO_BLOCK: u32 = u32::MAX;

pub(crate) type Head = [u8; 32];

/// The next head of a chain.
pub(crate) fn link(previous: &Head, header: &[u8], body: Option<&[u8]>) -> Head {
    let mut hash = blake3::Hasher::new();
    hash.update(previous);
    hash.update(header);
    hash.update(body.and_then(|body| body.get(24..56)).unwrap_or_default());
    *hash.finalize().as_bytes()
}

/// The sequences of one append family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequences {
    pub(crate) family: u8,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The block of rows where it begins.
    pub(crate) block: u32,
    pub(crate) rows: u64,
    pub(crate) postings: u64,
    /// One for each append family it has here, rising.
    pub(crate) sequences: Vec<Sequences>,
    /// If it has rows of family 32 here.
    pub(crate) head: Option<Head>,
}

impl Record {
    pub(crate) fn new(block: u32) -> Self {
        Self {
            block,
            rows: 0,
            postings: 0,
            sequences: Vec::new(),
            head: None,
        }
    }

    /// Enters the next row of an append family.
    pub(crate) fn span(&mut self, family: u8, sequence: u64) {
        match self
            .sequences
            .last_mut()
            .filter(|last| last.family == family)
        {
            Some(last) => {
                last.last = sequence;
                last.count += 1;
            }
            None => {
                let (first, last) = (sequence, sequence);
                self.sequences.push(Sequences {
                    family,
                    first,
                    last,
                    count: 1,
                });
            }
        }
    }

    pub(crate) fn of(&self, family: u8) -> Option<&Sequences> {
        self.sequences
            .iter()
            .find(|sequences| sequences.family == family)
    }

    /// All varints but the families, and the head as it is.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [u64::from(self.block), self.rows, self.postings] {
            put_varint(&mut out, number);
        }
        put_varint(&mut out, self.sequences.len() as u64);
        for Sequences {
            family,
            first,
            last,
            count,
        } in &self.sequences
        {
            out.push(*family);
            for number in [*first, last - first, *count] {
                put_varint(&mut out, number);
            }
        }
        out.push(u8::from(self.head.is_some()));
        out.extend_from_slice(self.head.as_ref().map_or(&[][..], |head| head));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let block = u32::try_from(input.varint()?).ok()?;
        let (rows, postings) = (input.varint()?, input.varint()?);
        let mut sequences = Vec::new();
        for _ in 0..input.varint()? {
            let family = input.byte()?;
            let first = input.varint()?;
            let last = first.checked_add(input.varint()?)?;
            sequences.push(Sequences {
                family,
                first,
                last,
                count: input.varint()?,
            });
        }
        let head = match input.byte()? {
            0 => None,
            _ => Some(input.array()?),
        };
        input.0.is_empty().then_some(Self {
            block,
            rows,
            postings,
            sequences,
            head,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back() {
        let mut record = Record::new(17);
        record.rows = 3;
        (5..9).for_each(|sequence| record.span(32, sequence));
        record.span(112, u64::MAX);
        for head in [None, Some([3; 32])] {
            record.head = head;
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Some(record.clone()));
            assert!((0..bytes.len()).all(|end| Record::decode(&bytes[..end]).is_none()));
        }
        assert_eq!(
            record.of(32).map(|s| (s.first, s.last, s.count)),
            Some((5, 8, 4))
        );
        assert_eq!(record.of(40), None);
    }

    #[test]
    fn the_chain_covers_the_commitment_and_outlives_an_erase() {
        let body: Vec<u8> = (0..100).collect();
        let mut erased = body.clone();
        erased[8..24].fill(0);
        erased.truncate(56);
        let head = link(&[0; 32], b"header", Some(&body));
        assert_eq!(head, link(&[0; 32], b"header", Some(&erased)));
        erased[24] ^= 1;
        assert_ne!(head, link(&[0; 32], b"header", Some(&erased)));
        assert_ne!(head, link(&[1; 32], b"header", Some(&body)));
        assert_eq!(
            link(&[0; 32], b"h", None),
            link(&[0; 32], b"h", Some(&[0; 10]))
        );
    }
}
