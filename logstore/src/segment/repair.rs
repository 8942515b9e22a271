//! Making the ends of a segment file again, when all its blocks are there.
//!
//! Header, table of places and footer say nothing that the blocks and the log do not:
//! blocks stand one behind the other, each proves itself at its place in its segment, and
//! the log keeps the digest of all of them. So when every block is whole and their digest
//! is that of the log, the ends can be written again, byte for byte as they were. A block
//! that is damaged cannot: then nothing is rebuilt, since rows would be missing.

use super::{
    block::{self, Kind},
    files::Part,
    footer::{FOOTER_BYTES, Footer, HEADER_BYTES, PLACE_BYTES, SEGMENT_DIR, SegmentMeta, header},
};
use crate::storage::{File, Storage};
use std::io;

/// Copied at once.
const PIECE: usize = 1 << 20;

/// Why a segment cannot be made whole from its own blocks.
#[derive(Debug, thiserror::Error)]
pub enum Unrepairable {
    /// A block is not what was written, or there are not all of them.
    #[error("{part}: {reason}")]
    Damaged {
        /// Where.
        part: Part,
        /// What does not fit.
        reason: &'static str,
    },
    /// The file cannot be read, or its copy not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A segment whose blocks are all whole.
pub(crate) struct Proven {
    /// Where the blocks end.
    end: u64,
    header: [u8; HEADER_BYTES],
    /// The table of places and the footer.
    tail: Vec<u8>,
    /// Whether the file has these ends.
    pub(crate) is_whole: bool,
}

/// Reads every block of a segment from the first on.
///
/// # Errors
/// At the first block that is not what was written.
pub(crate) fn prove(
    storage: &dyn Storage,
    path: &str,
    meta: &SegmentMeta,
) -> Result<Proven, Unrepairable> {
    let file = storage.open(path)?;
    let len = file.len()?;
    let salt = meta.name.salt();
    let mut places = Vec::new();
    let mut digests = blake3::Hasher::new();
    let mut at = HEADER_BYTES as u64;
    let mut number: u32 = 0;
    loop {
        let part = Part::Block(number);
        let damaged = |reason| Unrepairable::Damaged { part, reason };
        let bytes = read_block(&*file, at, len).ok_or_else(|| damaged("its beginning"))?;
        let opened = block::open(&salt, number, &bytes).map_err(damaged)?;
        let stored = u32::try_from(bytes.len()).map_err(|_| damaged("its length"))?;
        places.extend_from_slice(&at.to_le_bytes());
        places.extend_from_slice(&stored.to_le_bytes());
        digests.update(&opened.digest);
        at += u64::from(stored);
        number += 1;
        if opened.kind == Kind::Summary {
            break;
        }
    }
    let (end, blocks) = (at, number);
    let digest = digests.finalize();
    let file_bytes = end + (places.len() + FOOTER_BYTES) as u64;
    if digest.as_bytes()[..16] != meta.digest || file_bytes != meta.file_bytes {
        return Err(Unrepairable::Damaged {
            part: Part::Footer,
            reason: "the blocks are not those that the log names",
        });
    }
    debug_assert_eq!(places.len(), blocks as usize * PLACE_BYTES);
    let footer = Footer {
        name: meta.name,
        blocks,
        places: end,
        places_crc: crc32fast::hash(&places),
        file_bytes,
        digest: meta.digest,
    };
    let mut tail = places;
    tail.extend_from_slice(&footer.encode());
    let header = header(&meta.name);
    let mut found = vec![0; HEADER_BYTES + tail.len()];
    let (head, rest) = found.split_at_mut(HEADER_BYTES);
    let read = file.read_at(head, 0)? + file.read_at(rest, end)?;
    let is_whole = len == file_bytes
        && read == found.len()
        && found[..HEADER_BYTES] == header
        && found[HEADER_BYTES..] == tail;
    Ok(Proven {
        end,
        header,
        tail,
        is_whole,
    })
}

/// The block that begins at a place; `None` if there are not so many bytes.
fn read_block(file: &dyn File, at: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; block::HEADER_BYTES];
    if file.read_at(&mut bytes, at).ok()? < bytes.len() {
        return None;
    }
    let stored = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    // A length that cannot be is not given memory to.
    if at + bytes.len() as u64 + u64::from(stored) > len {
        return None;
    }
    bytes.resize(block::HEADER_BYTES + stored as usize, 0);
    (file.read_at(&mut bytes, at).ok()? == bytes.len()).then_some(bytes)
}

/// Writes the blocks with new ends under another name, and puts that in place of the
/// file: a crash leaves the one or the other.
///
/// # Errors
/// What the disk says; the file is as it was then.
pub(crate) fn rebuild(storage: &dyn Storage, path: &str, proven: &Proven) -> io::Result<()> {
    let unfinished = format!("{path}.tmp");
    match storage.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (from, to) = (storage.open(path)?, storage.create(&unfinished)?);
    to.write_at(&proven.header, 0)?;
    let mut at = HEADER_BYTES as u64;
    while at < proven.end {
        let left = usize::try_from(proven.end - at).unwrap_or(PIECE);
        let mut piece = vec![0; left.min(PIECE)];
        if from.read_at(&mut piece, at)? < piece.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(&piece, at)?;
        at += piece.len() as u64;
    }
    to.write_at(&proven.tail, proven.end)?;
    to.sync()?;
    storage.rename(&unfinished, path)?;
    storage.sync_dir(SEGMENT_DIR)
}
