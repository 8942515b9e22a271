//! Layout of a frame: what one `pwrite` puts into the log.
//!
//! ```text
//! 0      header (80 bytes)
//! 80     record headers (48 bytes each)
//! …      bodies, one after the other in the same order
//! …      zeros up to the next multiple of 4,096
//! ```
//! The checksum in the header covers the header and all record headers, so every
//! length, position and count is checked before it is believed; each record header
//! carries the checksum of its body, salted with epoch, lsn and index. Header damage
//! and body damage are therefore told apart, and bytes of an earlier life of a
//! recycled file never pass for new ones. All numbers are little-endian. Known
//! limit: one checksum is 32 bits; it finds accidents, not forgeries.

use crc32fast::Hasher;

/// Frames begin at multiples of this.
pub const BLOCK: usize = 4096;
/// Bytes of a frame header.
pub const HEADER: usize = 80;
/// Bytes of a record header.
pub const RECORD: usize = 48;
/// First bytes of every frame: `CLOG`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"CLOG");
/// The format that this build writes, and the newest it reads.
pub const FORMAT: u16 = 1;
/// Frame flag: the last of its file; the log goes on in file `next_file`.
pub const LINK: u16 = 1;
/// Record flag: a build that does not know the kind may pass over it.
pub const SKIPPABLE: u8 = 1;
/// Record flag: a copy; `origin` says where its place in the order is.
pub const MOVED: u8 = 2;

/// Kinds of records. A number means the same for ever.
pub mod kind {
    /// A log entry; `sub` is the caller's type of it, the body its payload.
    pub const ENTRY: u8 = 1;
    /// Term, commit (as `position`) and vote (body, u64).
    pub const HARD_STATE: u8 = 2;
    /// Entries up to `position` are no longer needed.
    pub const COMPACTED_TO: u8 = 3;
    /// A replica begins here.
    pub const REPLICA_CREATED: u8 = 4;
    /// A replica ends here: nothing of it is needed.
    pub const REPLICA_RETIRED: u8 = 5;
    /// Segments were added and removed; `position` is what they hold the state up to.
    pub const SEGMENTS: u8 = 6;
    /// Segments that replace all state and log of a replica (a snapshot).
    pub const INSTALLED: u8 = 7;
    // 8 was planned for moved records, which became a flag; it stays unused.
    /// Reserved: bodies erased from the log.
    pub const ERASED: u8 = 9;
    /// Damage was found in a replica: it is not stepped any more.
    pub const DAMAGED: u8 = 10;
    /// An operator accepted the loss; the log ends at `position`.
    pub const LOSS_ACCEPTED: u8 = 11;

    /// Whether this build knows what to do with a kind.
    #[must_use]
    pub const fn is_known(kind: u8) -> bool {
        matches!(kind, ENTRY..=INSTALLED | DAMAGED | LOSS_ACCEPTED)
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrameHeader {
    /// See [`LINK`].
    pub flags: u16,
    /// Grows with every file taken into use and every start.
    pub epoch: u64,
    /// The frame's number; rises by one but at a start.
    pub lsn: u64,
    /// The frame before this one. Frames between the two were cut away.
    pub previous_lsn: u64,
    /// Every frame of the log up to this one was durable when this was written.
    pub synced_lsn: u64,
    /// The file it was written to.
    pub file: u32,
    /// Its place there, in blocks: a misdirected write is not believed.
    pub block: u32,
    /// Records in it.
    pub count: u32,
    /// Bytes of all bodies.
    pub body_bytes: u32,
    /// Where the log goes on, with [`LINK`].
    pub next_file: u32,
    /// Drawn at random for a data directory: what a message's body makes look like
    /// a frame, or a file of another directory, is not believed.
    pub log_id: u64,
}

/// Where in the order of all records one stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Origin {
    /// The frame it was first written in; 0 if this is it.
    pub lsn: u64,
    /// Its index there.
    pub index: u32,
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RecordHeader {
    /// The shard.
    pub shard: u16,
    /// What it is; see [`kind`].
    pub kind: u8,
    /// See [`SKIPPABLE`] and [`MOVED`].
    pub flags: u8,
    /// The replica, by its number on this node; never reused.
    pub replica: u32,
    /// The position in the shard's log.
    pub position: u64,
    /// The term of that position.
    pub term: u64,
    /// With [`MOVED`]: whose copy this is.
    pub origin: Origin,
    /// Bytes of the body.
    pub length: u32,
    /// Checksum of the body; filled in by [`encode`].
    pub body_crc: u32,
    /// The caller's type of an entry.
    pub sub: u8,
    /// The format that brought this kind.
    pub needs: u16,
}

/// A record to be written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Everything but length and checksum, which [`encode`] fills in.
    pub header: RecordHeader,
    /// The body.
    pub body: &'a [u8],
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAFrame {
    /// No magic, a wrong checksum, or lengths that cannot be.
    Invalid,
    /// A sound frame of a format from the future.
    Newer {
        /// Its format.
        format: u16,
    },
    /// More bytes are needed to tell.
    Short {
        /// How many from the frame's beginning.
        needed: usize,
    },
}

/// Bytes of a frame with these contents, padding included.
#[must_use]
pub const fn frame_bytes(count: usize, body_bytes: usize) -> usize {
    (HEADER + count * RECORD + body_bytes).next_multiple_of(BLOCK)
}

/// Writes a frame into `buffer`, which is cleared first. `header.count` and
/// `header.body_bytes` are taken from the records.
///
/// # Panics
/// If there are more than 4 GiB of bodies: the writer bounds frames far below.
pub fn encode(buffer: &mut Vec<u8>, mut header: FrameHeader, records: &[Record<'_>]) {
    let body_bytes: usize = records.iter().map(|record| record.body.len()).sum();
    header.count = u32::try_from(records.len()).expect("the writer bounds a frame's records");
    header.body_bytes = u32::try_from(body_bytes).expect("the writer bounds a frame's bytes");
    let total = frame_bytes(records.len(), body_bytes);
    buffer.clear();
    buffer.reserve(total);
    buffer.resize(HEADER + records.len() * RECORD, 0);
    let salt = Salt::new(header.epoch, header.lsn);
    for (index, record) in records.iter().enumerate() {
        let mut record_header = record.header;
        record_header.length = u32::try_from(record.body.len()).expect("bounded above");
        record_header.body_crc = salt.body_crc(index, record.body);
        put_record(
            &mut buffer[HEADER + index * RECORD..][..RECORD],
            &record_header,
        );
        buffer.extend_from_slice(record.body);
    }
    put_header(&mut buffer[..HEADER], &header);
    let crc = header_crc(&buffer[..HEADER + records.len() * RECORD]);
    buffer[76..80].copy_from_slice(&crc.to_le_bytes());
    buffer.resize(total, 0);
}

/// Reads a frame's header and its record headers from the frame's first bytes.
///
/// # Errors
/// See [`NotAFrame`].
pub fn decode(bytes: &[u8], records: &mut Vec<RecordHeader>) -> Result<FrameHeader, NotAFrame> {
    decode_checked(bytes, records, true)
}

/// As [`decode`]; `checked` is false only for a planted bug.
pub(crate) fn decode_checked(
    bytes: &[u8],
    records: &mut Vec<RecordHeader>,
    checked: bool,
) -> Result<FrameHeader, NotAFrame> {
    records.clear();
    if bytes.len() < HEADER {
        return Err(NotAFrame::Short { needed: HEADER });
    }
    if u32_at(bytes, 0) != MAGIC {
        return Err(NotAFrame::Invalid);
    }
    let header = header_from(bytes);
    let heads = HEADER + header.count as usize * RECORD;
    if heads > MAX_FRAME_BYTES || header.body_bytes as usize > MAX_FRAME_BYTES {
        return Err(NotAFrame::Invalid);
    }
    if bytes.len() < heads {
        return Err(NotAFrame::Short { needed: heads });
    }
    if checked && header_crc(&bytes[..heads]) != u32_at(bytes, 76) {
        return Err(NotAFrame::Invalid);
    }
    let format = u16_at(bytes, 4);
    if format > FORMAT {
        return Err(NotAFrame::Newer { format });
    }
    records.extend(bytes[HEADER..heads].chunks_exact(RECORD).map(record_from));
    let sum: u64 = records.iter().map(|record| u64::from(record.length)).sum();
    if sum != u64::from(header.body_bytes) {
        return Err(NotAFrame::Invalid);
    }
    Ok(header)
}

/// No frame is larger than this; a header that says so is damaged.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// What makes the checksum of a body worth nothing in another frame.
#[derive(Clone, Copy, Debug)]
pub struct Salt(u32);

impl Salt {
    /// The salt of a frame.
    #[must_use]
    pub fn new(epoch: u64, lsn: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&epoch.to_le_bytes());
        hasher.update(&lsn.to_le_bytes());
        Self(hasher.finalize())
    }

    /// The checksum of the body at an index of the frame.
    #[must_use]
    pub fn body_crc(self, index: usize, body: &[u8]) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the index is below 2^32, see encode"
        )]
        let mut hasher =
            Hasher::new_with_initial(self.0 ^ (index as u32).wrapping_mul(0x9E37_79B1));
        hasher.update(body);
        hasher.finalize()
    }
}

/// Over everything but its own four bytes.
fn header_crc(heads: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&heads[..76]);
    hasher.update(&heads[HEADER..]);
    hasher.finalize()
}

fn put_header(to: &mut [u8], header: &FrameHeader) {
    to[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    to[4..6].copy_from_slice(&FORMAT.to_le_bytes());
    to[6..8].copy_from_slice(&header.flags.to_le_bytes());
    to[8..16].copy_from_slice(&header.epoch.to_le_bytes());
    to[16..24].copy_from_slice(&header.lsn.to_le_bytes());
    to[24..32].copy_from_slice(&header.previous_lsn.to_le_bytes());
    to[32..40].copy_from_slice(&header.synced_lsn.to_le_bytes());
    to[40..44].copy_from_slice(&header.file.to_le_bytes());
    to[44..48].copy_from_slice(&header.block.to_le_bytes());
    to[48..52].copy_from_slice(&header.count.to_le_bytes());
    to[52..56].copy_from_slice(&header.body_bytes.to_le_bytes());
    to[56..60].copy_from_slice(&header.next_file.to_le_bytes());
    // 60: cipher u8, 61–63: reserved, 64: key id u32; all 0: not encrypted.
    to[60..68].fill(0);
    to[68..76].copy_from_slice(&header.log_id.to_le_bytes());
}

fn header_from(bytes: &[u8]) -> FrameHeader {
    FrameHeader {
        flags: u16_at(bytes, 6),
        epoch: u64_at(bytes, 8),
        lsn: u64_at(bytes, 16),
        previous_lsn: u64_at(bytes, 24),
        synced_lsn: u64_at(bytes, 32),
        file: u32_at(bytes, 40),
        block: u32_at(bytes, 44),
        count: u32_at(bytes, 48),
        body_bytes: u32_at(bytes, 52),
        next_file: u32_at(bytes, 56),
        log_id: u64_at(bytes, 68),
    }
}

fn put_record(to: &mut [u8], record: &RecordHeader) {
    to[0..2].copy_from_slice(&record.shard.to_le_bytes());
    to[2] = record.kind;
    to[3] = record.flags;
    to[4..8].copy_from_slice(&record.replica.to_le_bytes());
    to[8..16].copy_from_slice(&record.position.to_le_bytes());
    to[16..24].copy_from_slice(&record.term.to_le_bytes());
    to[24..32].copy_from_slice(&record.origin.lsn.to_le_bytes());
    to[32..36].copy_from_slice(&record.origin.index.to_le_bytes());
    to[36..40].copy_from_slice(&record.length.to_le_bytes());
    to[40..44].copy_from_slice(&record.body_crc.to_le_bytes());
    to[44] = record.sub;
    to[45] = 0;
    to[46..48].copy_from_slice(&record.needs.to_le_bytes());
}

fn record_from(bytes: &[u8]) -> RecordHeader {
    RecordHeader {
        shard: u16_at(bytes, 0),
        kind: bytes[2],
        flags: bytes[3],
        replica: u32_at(bytes, 4),
        position: u64_at(bytes, 8),
        term: u64_at(bytes, 16),
        origin: Origin {
            lsn: u64_at(bytes, 24),
            index: u32_at(bytes, 32),
        },
        length: u32_at(bytes, 36),
        body_crc: u32_at(bytes, 40),
        sub: bytes[44],
        needs: u16_at(bytes, 46),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
