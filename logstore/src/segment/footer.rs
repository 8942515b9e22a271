//! The ends of a segment file and its summary: from the footer a reader finds the
//! summary, from the summary everything else.
//!
//! ```text
//! header, 32 bytes, at 0           footer, 96 bytes, at the end
//!  0  "LGSTSEG\0"                   0  "LGSTFOOT"
//!  8  version u32 (1)               8  version u32 (1)
//! 12  shard u16 · part u16         12  number of blocks u32
//! 16  position u64                 16  shard u16 · part u16
//! 24  0 u32                        20  level u8 · 0 · masks u16 (0)
//! 28  CRC-32 of the above          24  position u64
//!                                  32  the table of places: where u64 · CRC-32 u32 · 0 u32
//!                                  48  length of the file u64
//!                                  56  digest of the segment, 16 bytes
//!                                  72  0, 20 bytes
//!                                  92  CRC-32 of the above
//! ```
//! The table of places has one (where u64, length u32) a block, in the order of
//! their numbers. A reader trusts it without a checksum: a block proves by itself
//! that it is the one that was looked for. The summary is the last block.

use super::{
    block::{Digest, Kind, Salt},
    encoding::{Input, put_varint},
};
use crate::key::Key;

pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const FOOTER_BYTES: usize = 96;
pub(crate) const PLACE_BYTES: usize = 12;

const HEADER_MAGIC: &[u8; 8] = b"LGSTSEG\0";
const FOOTER_MAGIC: &[u8; 8] = b"LGSTFOOT";

/// What a segment is called in the log of its shard, the same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The shard.
    pub shard: u16,
    /// The highest position whose writes are in it or in an older one.
    pub position: u64,
    /// Which part of that flush, by key.
    pub part: u16,
    /// 0: flushed; higher ones are merged.
    pub level: u8,
}

impl Name {
    /// Replica numbers are not used again on a node, so neither are paths.
    pub(crate) fn path(&self, replica: u32) -> String {
        let Self {
            shard,
            position,
            part,
            level,
        } = self;
        format!("{SEGMENT_DIR}/{shard:04}-{replica:08}-{position:016x}-{part:03}-{level}.seg")
    }

    pub(crate) fn salt(&self) -> Salt {
        let mut salt = [0; 16];
        salt[..2].copy_from_slice(&self.shard.to_le_bytes());
        salt[2..4].copy_from_slice(&self.part.to_le_bytes());
        salt[4] = self.level;
        salt[8..].copy_from_slice(&self.position.to_le_bytes());
        salt
    }
}

/// What is known of a segment without opening it: what the log's `segments`
/// records and the manifest keep, about 150 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Its name.
    pub name: Name,
    /// Length of the file; replicas may differ in it.
    pub file_bytes: u64,
    /// Rows that are not postings, deleted ones too.
    pub rows: u64,
    /// Postings.
    pub postings: u64,
    /// The lowest key.
    pub min: Key,
    /// The highest key.
    pub max: Key,
    /// The highest time in the ids of dedup rows, in ms; `None` if it has none.
    pub highest_client_ms: Option<u64>,
    /// Over the contents of all blocks: equal on all replicas.
    pub digest: Digest,
}

/// The encoding of a [`SegmentMeta`]; its first number.
const META_VERSION: u8 = 1;

impl SegmentMeta {
    /// As bytes, for the log and the manifest.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![META_VERSION, self.name.level];
        out.extend_from_slice(&self.name.shard.to_le_bytes());
        out.extend_from_slice(&self.name.part.to_le_bytes());
        out.extend_from_slice(&self.name.position.to_le_bytes());
        out.extend_from_slice(&self.digest);
        for number in [self.file_bytes, self.rows, self.postings] {
            put_varint(&mut out, number);
        }
        put_varint(&mut out, self.highest_client_ms.map_or(0, |ms| ms + 1));
        for key in [&self.min, &self.max] {
            put_key(&mut out, key);
        }
        // Masks of erased users: none in this version.
        put_varint(&mut out, 0);
        out
    }

    /// The inverse; `None` if the bytes are not that, or of a newer version.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.byte()? != META_VERSION {
            return None;
        }
        let level = input.byte()?;
        let (shard, part, position) = (input.u16()?, input.u16()?, input.u64()?);
        let digest = input.array()?;
        let (file_bytes, rows, postings) = (input.varint()?, input.varint()?, input.varint()?);
        let highest_client_ms = input.varint()?.checked_sub(1);
        let min = Key::read(input.prefixed()?)?;
        let max = Key::read(input.prefixed()?)?;
        let masks = input.varint()?;
        let name = Name {
            shard,
            position,
            part,
            level,
        };
        let meta = Self {
            name,
            file_bytes,
            rows,
            postings,
            min,
            max,
            highest_client_ms,
            digest,
        };
        (masks == 0 && input.0.is_empty()).then_some(meta)
    }

    /// Where the file of a replica stands in the data directory.
    #[must_use]
    pub fn path(&self, replica: u32) -> String {
        self.name.path(replica)
    }

    /// The number of the segment within its replica, never used again: 44 bits of
    /// position, 4 of level, 16 of part.
    #[must_use]
    pub fn id(&self) -> u64 {
        let Name {
            position,
            part,
            level,
            ..
        } = self.name;
        assert!(position < 1 << 44 && level < 16, "a name beyond its bits");
        position << 20 | u64::from(level) << 16 | u64::from(part)
    }
}

/// The directory of segment files.
pub const SEGMENT_DIR: &str = "segments";

/// A table of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) kind: Kind,
    /// Its blocks have consecutive numbers.
    pub(crate) first: u32,
    pub(crate) blocks: u32,
    pub(crate) index: u32,
    /// The first key of each block of the index, which follow `index`.
    pub(crate) tops: Vec<Vec<u8>>,
    /// Rows, postings, groups or inboxes in it.
    pub(crate) weight: u64,
}

/// A filter of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterPlace {
    pub(crate) first: u32,
    pub(crate) lines: u32,
}

/// The content of the summary block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) rows: Section,
    pub(crate) postings: Section,
    pub(crate) groups: Section,
    pub(crate) inboxes: Section,
    /// Over inboxes, and over whole keys of state and dedup rows.
    pub(crate) inbox_filter: FilterPlace,
    pub(crate) key_filter: FilterPlace,
    /// The first block of shared bodies, and their number.
    pub(crate) bodies: (u32, u32),
    pub(crate) min: Key,
    pub(crate) max: Key,
    pub(crate) highest_client_ms: Option<u64>,
}

impl Summary {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for section in [&self.rows, &self.postings, &self.groups, &self.inboxes] {
            let numbers = [section.first, section.blocks, section.index];
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            out.extend_from_slice(&section.weight.to_le_bytes());
            put_varint(&mut out, section.tops.len() as u64);
            for top in &section.tops {
                put_varint(&mut out, top.len() as u64);
                out.extend_from_slice(top);
            }
        }
        for filter in [self.inbox_filter, self.key_filter] {
            out.extend_from_slice(&filter.first.to_le_bytes());
            out.extend_from_slice(&filter.lines.to_le_bytes());
        }
        out.extend_from_slice(&self.bodies.0.to_le_bytes());
        out.extend_from_slice(&self.bodies.1.to_le_bytes());
        put_varint(&mut out, self.highest_client_ms.map_or(0, |ms| ms + 1));
        put_key(&mut out, &self.min);
        put_key(&mut out, &self.max);
        out
    }

    pub(crate) fn decode(content: &[u8]) -> Option<Self> {
        let mut input = Input(content);
        let mut section = |kind| {
            let (first, blocks, index) = (input.u32()?, input.u32()?, input.u32()?);
            let weight = input.u64()?;
            let mut tops = Vec::new();
            for _ in 0..input.varint()? {
                tops.push(input.prefixed()?.to_vec());
            }
            Some(Section {
                kind,
                first,
                blocks,
                index,
                tops,
                weight,
            })
        };
        let (rows, postings) = (section(Kind::Rows)?, section(Kind::Postings)?);
        let (groups, inboxes) = (section(Kind::Groups)?, section(Kind::Inboxes)?);
        let mut filter = || {
            Some(FilterPlace {
                first: input.u32()?,
                lines: input.u32()?,
            })
        };
        let (inbox_filter, key_filter) = (filter()?, filter()?);
        let bodies = (input.u32()?, input.u32()?);
        let highest_client_ms = input.varint()?.checked_sub(1);
        let min = Key::read(input.prefixed()?)?;
        let max = Key::read(input.prefixed()?)?;
        input.0.is_empty().then_some(Self {
            rows,
            postings,
            groups,
            inboxes,
            inbox_filter,
            key_filter,
            bodies,
            min,
            max,
            highest_client_ms,
        })
    }
}

/// The end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) name: Name,
    pub(crate) blocks: u32,
    pub(crate) places: u64,
    pub(crate) places_crc: u32,
    pub(crate) file_bytes: u64,
    pub(crate) digest: Digest,
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        out[..8].copy_from_slice(FOOTER_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.blocks.to_le_bytes());
        out[16..18].copy_from_slice(&self.name.shard.to_le_bytes());
        out[18..20].copy_from_slice(&self.name.part.to_le_bytes());
        out[20] = self.name.level;
        out[24..32].copy_from_slice(&self.name.position.to_le_bytes());
        out[32..40].copy_from_slice(&self.places.to_le_bytes());
        out[40..44].copy_from_slice(&self.places_crc.to_le_bytes());
        out[48..56].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[56..72].copy_from_slice(&self.digest);
        let crc = crc32fast::hash(&out[..92]);
        out[92..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, &'static str> {
        if bytes[..8] != *FOOTER_MAGIC {
            return Err("no footer at the end: the file is cut or is no segment");
        }
        let mut input = Input(&bytes[92..]);
        if input.u32() != Some(crc32fast::hash(&bytes[..92])) {
            return Err("checksum of the footer");
        }
        Self::fields(Input(&bytes[8..])).unwrap_or(Err("the footer is too short"))
    }

    fn fields(mut input: Input<'_>) -> Option<Result<Self, &'static str>> {
        if input.u32()? != VERSION {
            return Some(Err("another format: a newer version wrote it"));
        }
        let blocks = input.u32()?;
        let (shard, part, level, _) = (input.u16()?, input.u16()?, input.byte()?, input.byte()?);
        if input.u16()? != 0 {
            return Some(Err("masks of erased users: a newer version wrote it"));
        }
        let name = Name {
            shard,
            position: input.u64()?,
            part,
            level,
        };
        let (places, places_crc, _) = (input.u64()?, input.u32()?, input.u32()?);
        let (file_bytes, digest) = (input.u64()?, input.array()?);
        Some(Ok(Self {
            name,
            blocks,
            places,
            places_crc,
            file_bytes,
            digest,
        }))
    }
}

/// The first bytes of the file.
pub(crate) fn header(name: &Name) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(HEADER_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..14].copy_from_slice(&name.shard.to_le_bytes());
    out[14..16].copy_from_slice(&name.part.to_le_bytes());
    out[16..24].copy_from_slice(&name.position.to_le_bytes());
    let crc = crc32fast::hash(&out[..28]);
    out[28..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn put_key(out: &mut Vec<u8>, key: &Key) {
    put_varint(out, 9 + key.sub().len() as u64);
    key.write(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> SegmentMeta {
        SegmentMeta {
            name: Name {
                shard: 7,
                position: 900,
                part: 2,
                level: 0,
            },
            file_bytes: 1 << 20,
            rows: 5000,
            postings: 700,
            min: Key::new(0, 120, b""),
            max: Key::posting(u64::MAX, 41, 1, 2),
            highest_client_ms: Some(1_767_225_600_000),
            digest: [9; 16],
        }
    }

    #[test]
    fn what_the_log_keeps_of_a_segment_comes_back() {
        for highest_client_ms in [None, Some(0), Some(5)] {
            let meta = SegmentMeta {
                highest_client_ms,
                ..meta()
            };
            let bytes = meta.encode();
            assert!(bytes.len() < 160, "{} bytes", bytes.len());
            assert_eq!(SegmentMeta::decode(&bytes), Some(meta));
            for end in 0..bytes.len() {
                assert_eq!(SegmentMeta::decode(&bytes[..end]), None);
            }
        }
    }

    #[test]
    fn every_flipped_byte_of_a_footer_is_noticed() {
        let footer = Footer {
            name: meta().name,
            blocks: 3,
            places: 77,
            places_crc: 5,
            file_bytes: 999,
            digest: [1; 16],
        };
        let bytes = footer.encode();
        assert_eq!(Footer::decode(&bytes), Ok(footer));
        for at in 0..FOOTER_BYTES {
            let mut flipped = bytes;
            flipped[at] ^= 0x10;
            assert!(Footer::decode(&flipped).is_err(), "byte {at}");
        }
    }
}
