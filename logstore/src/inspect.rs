//! Looking into segment files of a stopped node: what is in them, and whether it
//! is what was written. Reads only, and reads everything it is asked for: checksums
//! that ordinary reads have no use for are checked here.

use crate::{
    cache::BlockCache,
    key::{Key, Order, Row},
    mmap::FAULTS,
    reads::ReadError,
    segment::{
        Kind, Name, Part, SEGMENT_DIR, SegmentFiles, SegmentMeta,
        cursor::RowCursor,
        files::{Access, Open, fenced},
        footer::{HEADER_BYTES, PLACE_BYTES},
        inbox::Record,
        reader::Segment,
        table,
    },
    storage::Storage,
};
use std::{io, sync::Arc};

/// What a segment file says of itself.
#[derive(Clone, Debug)]
pub struct Description {
    /// What its log would keep of it.
    pub meta: SegmentMeta,
    /// Its blocks in the order of their numbers.
    pub blocks: Vec<BlockDescription>,
}

/// A block of a segment.
#[derive(Clone, Copy, Debug)]
pub struct BlockDescription {
    /// Its number.
    pub number: u32,
    /// What it holds; `None` if it cannot be read.
    pub kind: Option<Kind>,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes in the file, envelope included.
    pub stored_bytes: u32,
    /// Bytes of its content.
    pub content_bytes: usize,
}

/// Something in a segment that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub part: Part,
    /// What does not fit.
    pub reason: &'static str,
}

/// What an inbox has in a segment.
#[derive(Clone, Debug)]
pub struct InboxDescription {
    /// The inbox key.
    pub inbox: u64,
    /// Rows that are not postings.
    pub rows: u64,
    /// Postings.
    pub postings: u64,
    /// Append families with their first sequence, last sequence and number of rows.
    pub sequences: Vec<(u8, u64, u64, u64)>,
    /// The head of its hash chain, if it has events here.
    pub chain: Option<[u8; 32]>,
}

/// The paths of all segment files, unfinished ones left out.
///
/// # Errors
/// What the disk says; a directory without segments is not an error.
pub fn segments(storage: &dyn Storage) -> io::Result<Vec<String>> {
    let names = match storage.list(SEGMENT_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    let segments = names.into_iter().filter(|name| name.ends_with(".seg"));
    Ok(segments
        .map(|name| format!("{SEGMENT_DIR}/{name}"))
        .collect())
}

/// What a file says of itself, block by block.
///
/// # Errors
/// If its ends or its summary are damaged: nothing can be said then.
pub fn describe(storage: &dyn Storage, path: &str) -> Result<Description, ReadError> {
    let open = Open::new(storage, path, None, Access::Read)?;
    let block = |number| {
        let (offset, stored_bytes) = open.place(number).unwrap_or_default();
        let opened = open.read_any(number).ok();
        let content_bytes = opened.as_ref().map_or(0, |opened| opened.content.len());
        let kind = opened.map(|opened| opened.kind);
        BlockDescription {
            number,
            kind,
            offset,
            stored_bytes,
            content_bytes,
        }
    };
    Ok(Description {
        meta: meta(&open),
        blocks: (0..open.footer.blocks).map(block).collect(),
    })
}

/// Reads a whole file and checks every checksum in it, and that its blocks fill it
/// without gaps. No findings: it is what was written.
///
/// # Errors
/// If its ends or its summary are damaged, or it cannot be opened.
pub fn verify(storage: &dyn Storage, path: &str) -> Result<Vec<Finding>, ReadError> {
    let open = Open::new(storage, path, None, Access::Read)?;
    let mut findings = Vec::new();
    let places = open.places().unwrap_or_default();
    if crc32fast::hash(&places) != open.footer.places_crc {
        findings.push(Finding {
            part: Part::Places,
            reason: "checksum of the table",
        });
    }
    let mut digests = blake3::Hasher::new();
    let mut end = HEADER_BYTES as u64;
    for (number, entry) in (0..open.footer.blocks).zip(places.chunks(PLACE_BYTES)) {
        let part = Part::Block(number);
        let (offset, len) = open.place(number).unwrap_or_default();
        debug_assert_eq!(entry.len(), PLACE_BYTES);
        if offset != end {
            findings.push(Finding {
                part,
                reason: "it does not begin where the one before ends",
            });
        }
        end = offset.saturating_add(u64::from(len));
        match open.read_any(number) {
            Ok(opened) => drop(digests.update(&opened.digest)),
            Err(reason) => findings.push(Finding { part, reason }),
        }
    }
    if end != open.footer.places {
        findings.push(Finding {
            part: Part::Places,
            reason: "the blocks do not end where it begins",
        });
    }
    if findings.is_empty() && digests.finalize().as_bytes()[..16] != open.footer.digest {
        findings.push(Finding {
            part: Part::Footer,
            reason: "digest of all blocks",
        });
    }
    Ok(findings)
}

/// The segments under which the disk failed: a start fences them.
///
/// # Errors
/// What the disk says.
pub fn fences(storage: &dyn Storage) -> io::Result<Vec<String>> {
    Ok(fenced(storage)?.into_iter().collect())
}

/// Lifts the fence of a segment, if all of it can be read and is what was written.
/// Gives what was found; with findings the fence stays.
///
/// # Errors
/// If the file cannot be taken apart, or the list of fences not be written.
pub fn lift_fence(storage: &dyn Storage, path: &str) -> Result<Vec<Finding>, ReadError> {
    let findings = verify(storage, path)?;
    if findings.is_empty() {
        let rewritten = lift(storage, path);
        rewritten.map_err(|source| ReadError::Open {
            segment: FAULTS.to_owned(),
            source,
        })?;
    }
    Ok(findings)
}

/// Under a temporary name first: a crash leaves the old list or the new one.
pub(crate) fn lift(storage: &dyn Storage, without: &str) -> io::Result<()> {
    let kept = fenced(storage)?.into_iter().filter(|path| path != without);
    let lines: String = kept.map(|path| path + "\n").collect();
    let unfinished = format!("{FAULTS}.tmp");
    match storage.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&unfinished)?;
    file.write_at(lines.as_bytes(), 0)?;
    file.sync()?;
    storage.rename(&unfinished, FAULTS)?;
    storage.sync_dir("")
}

/// Gives every row of a file to `see`, in the order of keys; `None` is a deleted
/// one. It holds one block at a time.
///
/// # Errors
/// At the first block that is damaged.
pub fn rows(
    storage: &Arc<dyn Storage>,
    path: &str,
    mut see: impl FnMut(Key, Option<Row>),
) -> Result<(), ReadError> {
    let segment = segment(storage, path)?;
    let (from, to) = (Key::first(0, 0), Key::last(u64::MAX, u8::MAX));
    let mut cursors = RowCursor::open(&segment, &from, &to, Order::Rising)?;
    loop {
        let next = cursors.iter_mut().filter(|cursor| cursor.key().is_some());
        let Some(next) = next.min_by_key(|cursor| cursor.key()) else {
            return Ok(());
        };
        let Some(key) = next.key() else { return Ok(()) };
        see(key, next.row()?);
        next.advance()?;
    }
}

/// The inbox index of a file.
///
/// # Errors
/// If a block of it is damaged.
pub fn inboxes(storage: &Arc<dyn Storage>, path: &str) -> Result<Vec<InboxDescription>, ReadError> {
    let segment = segment(storage, path)?;
    let open = segment.open()?;
    let section = &open.summary.inboxes;
    let mut inboxes = Vec::new();
    for number in section.first..section.first + section.blocks {
        let content = segment.block(number, Kind::Inboxes)?;
        let entries = table::View::new(&content).and_then(|view| view.entries());
        for entry in entries.ok_or_else(|| segment.malformed(number))? {
            let inbox = entry.key().try_into().ok().map(u64::from_be_bytes);
            let record = inbox.zip(Record::decode(&content[entry.value.clone()]));
            let (inbox, record) = record.ok_or_else(|| segment.malformed(number))?;
            let Record {
                rows,
                postings,
                sequences,
                head: chain,
                ..
            } = record;
            let sequences = sequences
                .iter()
                .map(|s| (s.family, s.first, s.last, s.count));
            let sequences = sequences.collect();
            inboxes.push(InboxDescription {
                inbox,
                rows,
                postings,
                sequences,
                chain,
            });
        }
    }
    Ok(inboxes)
}

fn segment(storage: &Arc<dyn Storage>, path: &str) -> Result<Arc<Segment>, ReadError> {
    let meta = meta(&Open::new(&**storage, path, None, Access::Read)?);
    let files = SegmentFiles::reading(storage.clone(), BlockCache::new(0));
    Ok(Segment::at(path.to_owned(), meta, files))
}

fn meta(open: &Open) -> SegmentMeta {
    SegmentMeta {
        name: open.footer.name,
        file_bytes: open.footer.file_bytes,
        rows: open.summary.rows.weight,
        postings: open.summary.postings.weight,
        min: open.summary.min,
        max: open.summary.max,
        highest_client_ms: open.summary.highest_client_ms,
        digest: open.footer.digest,
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            shard,
            position,
            part,
            level,
        } = self;
        write!(
            f,
            "shard {shard} up to {position}, part {part}, level {level}"
        )
    }
}
