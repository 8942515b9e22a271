//! Finds the frames of a file again.
//!
//! From frame to frame while they are sound; behind one that is not, block by
//! block, because what follows tells whether durable data was lost. Reads go
//! through windows of 1 MiB, and bodies are slices of them: a live entry holds at
//! most its window in RAM. Known limit: a block that the disk cannot read counts as
//! damaged.

use crate::{
    storage::{File, Storage},
    wal::{
        self,
        frame::{self, BLOCK, FrameHeader, HEADER, NotAFrame, RECORD, RecordHeader, Salt},
    },
};
use bytes::Bytes;
use std::{io, ops::Range, sync::Arc};

const WINDOW: usize = 1 << 20;

/// A sound frame header, where it stands.
#[derive(Clone, Debug)]
pub struct FoundFrame {
    /// What it says.
    pub header: FrameHeader,
    /// Where in the file it begins.
    pub offset: u64,
    /// How many bytes it takes, padding included.
    pub bytes: u64,
    /// Its record headers, as a range of [`ScannedFile::records`].
    pub records: Range<usize>,
}

/// A record as it was found.
#[derive(Clone, Debug)]
pub struct FoundRecord {
    /// What its header says.
    pub header: RecordHeader,
    /// Its body; `None` if the checksum is wrong.
    pub body: Option<Bytes>,
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct ScannedFile {
    /// Its number.
    pub number: u32,
    /// Its length.
    pub len: u64,
    /// In the order of the file, with rising lsn.
    pub frames: Vec<FoundFrame>,
    /// The records of all frames.
    pub records: Vec<FoundRecord>,
    /// The end of the last sound frame before anything that is not one.
    pub end: u64,
}

/// Why a file cannot be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A sound frame of a newer format.
    #[error("log file {file} has a frame of format {format}")]
    Newer {
        /// The file's number.
        file: u32,
        /// The frame's format.
        format: u16,
    },
    /// The file cannot be opened.
    #[error("log file {file}: {source}")]
    Io {
        /// The file's number.
        file: u32,
        /// What the disk says.
        source: io::Error,
    },
}

/// What tells frames in use from older ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) log_id: u64,
    pub(crate) first_lsn: u64,
    /// False only for planted bugs.
    pub(crate) check_lengths: bool,
    pub(crate) check_bodies: bool,
}

/// What the beginning of a file says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// A frame in use, or something that may have been one.
    Wanted,
    /// Zeros, or a frame of an earlier life.
    Other,
}

/// Looks at the beginning of a file only.
pub(crate) fn first(
    storage: &dyn Storage,
    number: u32,
    wanted: Wanted,
) -> Result<First, ScanError> {
    let io = |source| ScanError::Io {
        file: number,
        source,
    };
    let file = storage.open(&wal::file_path(number)).map_err(io)?;
    let len = file.len().map_err(io)?;
    let mut windows = Windows {
        file,
        len,
        start: 0,
        window: Bytes::new(),
        width: BLOCK,
    };
    let mut heads = Vec::new();
    Ok(match heads_at(&mut windows, 0, &mut heads, wanted) {
        Err(NotAFrame::Newer { format }) => {
            return Err(ScanError::Newer {
                file: number,
                format,
            });
        }
        Ok(header) if is_wanted(&header, number, 0, wanted) => First::Wanted,
        Ok(_) => First::Other,
        Err(_) => match windows.at(0, BLOCK) {
            Some(block) if block[..BLOCK].iter().all(|byte| *byte == 0) => First::Other,
            _ => First::Wanted,
        },
    })
}

/// Scans files, several at once.
pub(crate) fn scan_all(
    storage: &dyn Storage,
    numbers: &[u32],
    wanted: Wanted,
    threads: usize,
) -> Result<Vec<ScannedFile>, ScanError> {
    let share = numbers.len().div_ceil(threads.max(1)).max(1);
    if share >= numbers.len() {
        return numbers
            .iter()
            .map(|number| scan(storage, *number, wanted))
            .collect();
    }
    std::thread::scope(|scope| {
        let scan_share = |share: &[u32]| -> Result<Vec<ScannedFile>, ScanError> {
            share
                .iter()
                .map(|number| scan(storage, *number, wanted))
                .collect()
        };
        let running: Vec<_> = numbers
            .chunks(share)
            .map(|share| scope.spawn(move || scan_share(share)))
            .collect();
        let mut files = Vec::with_capacity(numbers.len());
        for thread in running {
            files.extend(thread.join().expect("a scan does not panic")?);
        }
        Ok(files)
    })
}

/// All frames of a file that are wanted, with their bodies checked.
pub(crate) fn scan(
    storage: &dyn Storage,
    number: u32,
    wanted: Wanted,
) -> Result<ScannedFile, ScanError> {
    let io = |source| ScanError::Io {
        file: number,
        source,
    };
    let file = storage.open(&wal::file_path(number)).map_err(io)?;
    let len = file.len().map_err(io)?;
    let mut windows = Windows {
        file,
        len,
        start: 0,
        window: Bytes::new(),
        width: WINDOW,
    };
    let mut scanned = ScannedFile {
        number,
        len,
        ..ScannedFile::default()
    };
    let mut heads = Vec::new();
    let mut offset = 0;
    let mut last_lsn = 0;
    let mut unbroken = true;
    while offset + BLOCK as u64 <= len {
        let step = match heads_at(&mut windows, offset, &mut heads, wanted) {
            Err(NotAFrame::Newer { format }) => {
                return Err(ScanError::Newer {
                    file: number,
                    format,
                });
            }
            Ok(header) if is_wanted(&header, number, offset, wanted) && header.lsn > last_lsn => {
                last_lsn = header.lsn;
                bodies(&mut windows, offset, header, &heads, wanted, &mut scanned)
            }
            _ => None,
        };
        match step {
            Some(bytes) => {
                offset += bytes;
                if unbroken {
                    scanned.end = offset;
                }
            }
            None => {
                unbroken = false;
                offset += BLOCK as u64;
            }
        }
    }
    Ok(scanned)
}

fn is_wanted(header: &FrameHeader, file: u32, offset: u64, wanted: Wanted) -> bool {
    header.log_id == wanted.log_id
        && header.lsn >= wanted.first_lsn
        && header.file == file
        && u64::from(header.block) * BLOCK as u64 == offset
}

fn heads_at(
    windows: &mut Windows,
    offset: u64,
    heads: &mut Vec<RecordHeader>,
    wanted: Wanted,
) -> Result<FrameHeader, NotAFrame> {
    let mut needed = HEADER;
    loop {
        let bytes = windows.at(offset, needed).ok_or(NotAFrame::Invalid)?;
        match frame::decode_checked(bytes, heads, wanted.check_lengths) {
            Err(NotAFrame::Short { needed: more }) if more > needed => needed = more,
            Err(NotAFrame::Short { .. }) => return Err(NotAFrame::Invalid),
            other => return other,
        }
    }
}

/// Takes the records of a frame over; its length, or `None` if it runs over the end.
fn bodies(
    windows: &mut Windows,
    offset: u64,
    header: FrameHeader,
    heads: &[RecordHeader],
    wanted: Wanted,
    scanned: &mut ScannedFile,
) -> Option<u64> {
    let start = HEADER + heads.len() * RECORD;
    let body_bytes = header.body_bytes as usize;
    let bytes = frame::frame_bytes(heads.len(), body_bytes);
    let whole = windows.shared(offset, start + body_bytes);
    if whole.is_none() && offset + bytes as u64 > windows.len {
        return None;
    }
    let salt = Salt::new(header.epoch, header.lsn);
    let first = scanned.records.len();
    let mut at = start;
    for (index, head) in heads.iter().enumerate() {
        let range = at..at + head.length as usize;
        at = range.end;
        let body = whole.as_ref().map(|whole| whole.slice(range));
        let body =
            body.filter(|body| !wanted.check_bodies || salt.body_crc(index, body) == head.body_crc);
        scanned.records.push(FoundRecord {
            header: *head,
            body,
        });
    }
    let bytes = bytes as u64;
    let records = first..scanned.records.len();
    scanned.frames.push(FoundFrame {
        header,
        offset,
        bytes,
        records,
    });
    Some(bytes)
}

/// Reads a file in windows that can be shared.
struct Windows {
    file: Arc<dyn File>,
    len: u64,
    start: u64,
    window: Bytes,
    /// How much is read at once.
    width: usize,
}

impl Windows {
    /// The bytes from `offset` to the end of the window, at least `needed` of them.
    fn at(&mut self, offset: u64, needed: usize) -> Option<&[u8]> {
        let from = self.load(offset, needed)?;
        Some(&self.window[from..])
    }

    /// Exactly `needed` bytes, shared with the window.
    fn shared(&mut self, offset: u64, needed: usize) -> Option<Bytes> {
        let from = self.load(offset, needed)?;
        Some(self.window.slice(from..from + needed))
    }

    /// Makes a window hold the range, and says where in it the range begins.
    fn load(&mut self, offset: u64, needed: usize) -> Option<usize> {
        let end = offset
            .checked_add(needed as u64)
            .filter(|end| *end <= self.len)?;
        if offset < self.start || end > self.start + self.window.len() as u64 {
            let left = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
            let wide = needed.max(self.width).min(left);
            // Where the disk fails in a wide window, the range alone may be sound.
            self.window = self
                .read(offset, wide)
                .or_else(|_| self.read(offset, needed))
                .ok()?;
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).ok()?;
        (from + needed <= self.window.len()).then_some(from)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        let read = self.file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes.into())
    }
}
