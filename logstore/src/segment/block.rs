//! The envelope of a block: what proves that the bytes that were read are the
//! bytes that were written, at this place of this segment.
//!
//! ```text
//!  0  kind u8 · codec u8 (0 none, 1 LZ4) · cipher u8 (0 none) · 0
//!  4  key id u32 (0)
//!  8  number of the block in its segment u32
//! 12  length of the stored bytes u32
//! 16  length of the content u32
//! 20  first 16 bytes of the BLAKE3 of the content
//! 36  CRC-32 of: salt of the segment · the 36 bytes above · the stored bytes
//! 40  the stored bytes
//! ```
//! The CRC is over what stands on the disk, so a scrub needs no key; the digest is
//! over what was meant, so replicas that compress differently can be compared. The
//! salt and the number are inside the CRC: a block that the disk put in another
//! place is not taken for the one that belongs there.

pub(crate) const HEADER_BYTES: usize = 40;

/// Content beyond this is taken for damage before any memory is given to it. The
/// largest block holds one row: a header and an inline body.
pub(crate) const MAX_CONTENT_BYTES: usize = 64 << 20;

pub(crate) type Digest = [u8; 16];

/// What a segment is told apart by, in every checksum of its blocks.
pub(crate) type Salt = [u8; 16];

/// How blocks are stored. Nodes may differ in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4, where it makes a block smaller.
    #[default]
    Lz4,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Rows by key.
    Rows = 1,
    /// Bodies that several rows share.
    Bodies = 2,
    /// Postings by key, delta-coded.
    Postings = 3,
    /// The groups of each inbox, newest first.
    Groups = 4,
    /// What each inbox has in this segment.
    Inboxes = 5,
    /// A page of a filter.
    Filter = 6,
    /// First keys of blocks.
    Index = 7,
    /// Where everything is.
    Summary = 8,
}

impl Kind {
    pub(crate) fn read(number: u8) -> Option<Self> {
        use Kind::{Bodies, Filter, Groups, Inboxes, Index, Postings, Rows, Summary};
        let kinds = [
            Rows, Bodies, Postings, Groups, Inboxes, Filter, Index, Summary,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == number)
    }
}

pub(crate) fn digest(content: &[u8]) -> Digest {
    let hash = blake3::hash(content);
    *hash
        .as_bytes()
        .first_chunk()
        .expect("32 bytes have a first 16")
}

/// Appends a block to `out`.
pub(crate) fn seal(
    kind: Kind,
    salt: &Salt,
    number: u32,
    content: &[u8],
    compression: Compression,
    out: &mut Vec<u8>,
) -> Digest {
    assert!(
        content.len() <= MAX_CONTENT_BYTES,
        "a block of {} bytes",
        content.len()
    );
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    let mut codec = 0;
    if compression == Compression::Lz4 && kind != Kind::Filter {
        let most = lz4_flex::block::get_maximum_output_size(content.len());
        let body = out.len();
        out.resize(body + most, 0);
        let stored = lz4_flex::block::compress_into(content, &mut out[body..]).unwrap_or(most);
        codec = u8::from(stored < content.len());
        out.truncate(body + if codec == 1 { stored } else { 0 });
    }
    if codec == 0 {
        out.extend_from_slice(content);
    }
    let length = |len: usize| u32::try_from(len).expect("bounded above").to_le_bytes();
    let stored = length(out.len() - start - HEADER_BYTES);
    let digest = digest(content);
    let header = &mut out[start..start + HEADER_BYTES];
    header[0] = kind as u8;
    header[1] = codec;
    header[8..12].copy_from_slice(&number.to_le_bytes());
    header[12..16].copy_from_slice(&stored);
    header[16..20].copy_from_slice(&length(content.len()));
    header[20..36].copy_from_slice(&digest);
    let crc = checksum(salt, &out[start..]);
    out[start + 36..start + 40].copy_from_slice(&crc.to_le_bytes());
    digest
}

/// A block that was read and found whole.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) kind: Kind,
    pub(crate) content: Vec<u8>,
    pub(crate) digest: Digest,
}

/// Takes a block apart, or says what is wrong with it.
pub(crate) fn open(salt: &Salt, number: u32, block: &[u8]) -> Result<Opened, &'static str> {
    let Some((header, stored)) = block.split_first_chunk::<HEADER_BYTES>() else {
        return Err("shorter than a block");
    };
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if word(12) as usize != stored.len() {
        return Err("another length than the table of places says");
    }
    if word(36) != checksum(salt, block) {
        return Err("checksum of the stored bytes");
    }
    if word(8) != number {
        return Err("another block stands in its place");
    }
    let kind = Kind::read(header[0]).ok_or("unknown kind of block: a newer version wrote it")?;
    if header[2] != 0 || word(4) != 0 {
        return Err("encrypted: a newer version wrote it");
    }
    let len = word(16) as usize;
    if len > MAX_CONTENT_BYTES {
        return Err("content beyond the largest block");
    }
    let content = match header[1] {
        0 => stored.to_vec(),
        1 => lz4_flex::block::decompress(stored, len).map_err(|_| "LZ4 cannot be decoded")?,
        _ => return Err("unknown compression: a newer version wrote it"),
    };
    let digest = digest(&content);
    if content.len() != len || header[20..36] != digest {
        return Err("digest of the content");
    }
    Ok(Opened {
        kind,
        content,
        digest,
    })
}

fn checksum(salt: &Salt, block: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(salt);
    crc.update(&block[..36]);
    crc.update(&block[HEADER_BYTES..]);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = [7; 16];

    fn sealed(content: &[u8], compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        seal(Kind::Rows, &SALT, 3, content, compression, &mut out);
        out
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        for compression in [Compression::None, Compression::Lz4] {
            let block = sealed(&b"the same words again and again ".repeat(6), compression);
            for at in 0..block.len() {
                for bit in 0..8 {
                    let mut flipped = block.clone();
                    flipped[at] ^= 1 << bit;
                    assert!(open(&SALT, 3, &flipped).is_err(), "bit {bit} of byte {at}");
                }
                assert!(open(&SALT, 3, &block[..at]).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn a_block_of_another_place_or_segment_is_refused() {
        let block = sealed(b"content", Compression::None);
        assert_eq!(open(&SALT, 3, &block).unwrap().content, b"content");
        assert!(open(&SALT, 4, &block).is_err());
        assert!(open(&[8; 16], 3, &block).is_err());
    }

    #[test]
    fn compression_changes_the_bytes_and_not_the_digest() {
        let content = b"abcd".repeat(1000);
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        let first = seal(
            Kind::Rows,
            &SALT,
            0,
            &content,
            Compression::None,
            &mut plain,
        );
        let second = seal(
            Kind::Rows,
            &SALT,
            0,
            &content,
            Compression::Lz4,
            &mut packed,
        );
        assert_eq!(first, second);
        assert!(packed.len() < plain.len() / 10);
        assert_eq!(open(&SALT, 0, &packed).unwrap().content, content);
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let content: Vec<u8> = (0..=255).collect();
        assert_eq!(
            sealed(&content, Compression::Lz4).len(),
            content.len() + HEADER_BYTES
        );
    }
}
