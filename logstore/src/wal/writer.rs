//! Puts frames down, one write and one sync each, and takes the next file when one
//! is full.
//!
//! A frame is written only after the one before it was synced, so at most one frame
//! of the log is ever unproven. The first error of a write or sync poisons the
//! writer for ever: after a failed sync nobody knows what the disk has. Known limit:
//! a frame is at least one block, also for a single small record.

use crate::{
    plant::{Planted, is_planted},
    storage::{File, Storage},
    wal::{
        self,
        frame::{self, BLOCK, FrameHeader, LINK, Record},
        pool::Pool,
    },
};
use std::{io, sync::Arc};

/// What every frame leaves at the end of its file: an empty frame that proves it, and
/// the link to the next file.
pub(crate) const ENDS: u64 = 2 * BLOCK as u64;

/// Where the log goes on.
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) offset: u64,
}

/// Where numbering goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) log_id: u64,
    pub(crate) epoch: u64,
    /// The next frame's.
    pub(crate) next_lsn: u64,
    /// What the next frame names as the one before it.
    pub(crate) previous_lsn: u64,
    pub(crate) synced_lsn: u64,
}

/// Why a frame was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// No empty file may be taken; nothing was written.
    NoFile,
    /// The disk failed, now or before.
    Disk(io::Error),
}

/// What a frame became.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) lsn: u64,
    pub(crate) bytes: u64,
    /// Set if a file was taken for it.
    pub(crate) took: Option<u32>,
    /// Of the link in the file before, if it was left with one.
    pub(crate) link: Option<u64>,
}

struct Active {
    number: u32,
    file: Arc<dyn File>,
    offset: u64,
    len: u64,
}

/// The end of the log.
pub(crate) struct Writer {
    storage: Arc<dyn Storage>,
    active: Option<Active>,
    numbers: Numbers,
    /// Of the last frame, kept for the next: as large as the largest frame so far, at
    /// most `MAX_FRAME_BYTES`.
    buffer: Vec<u8>,
    /// Whether the last frame holds nothing that needs proof.
    proven: bool,
    /// Of every file that is taken.
    file_bytes: u64,
    plant: Planted,
}

impl Writer {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        place: Option<Place>,
        numbers: Numbers,
        file_bytes: u64,
        plant: Planted,
    ) -> io::Result<Self> {
        let active = match place {
            None => None,
            Some(place) => {
                let file = storage.open(&wal::file_path(place.file))?;
                let len = file.len()?;
                Some(Active {
                    number: place.file,
                    file,
                    offset: place.offset,
                    len,
                })
            }
        };
        Ok(Self {
            storage,
            active,
            numbers,
            buffer: Vec::new(),
            proven: true,
            file_bytes,
            plant,
        })
    }

    pub(crate) fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// The file that is written.
    pub(crate) fn file(&self) -> Option<u32> {
        self.active.as_ref().map(|active| active.number)
    }

    /// The last frame that was written and synced; 0 before the first.
    pub(crate) fn last_lsn(&self) -> u64 {
        self.numbers.synced_lsn
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven
    }

    /// What is left of the file that is written.
    pub(crate) fn left(&self) -> u64 {
        let active = self.active.as_ref();
        active.map_or(0, |active| active.len.saturating_sub(active.offset))
    }

    /// The largest frame with records that fits there.
    pub(crate) fn rest(&self) -> u64 {
        self.left().saturating_sub(ENDS)
    }

    /// Whether an empty frame fits there and leaves room for the link.
    pub(crate) fn can_prove(&self) -> bool {
        self.left() >= ENDS
    }

    /// Writes one frame and syncs it.
    pub(crate) fn write(
        &mut self,
        records: &[Record<'_>],
        pool: &mut Pool,
        control: bool,
    ) -> Result<Written, WriteError> {
        let body_bytes = records.iter().map(|record| record.body.len()).sum();
        let bytes = frame::frame_bytes(records.len(), body_bytes) as u64;
        let (mut took, mut link) = (None, None);
        let fits = if records.is_empty() {
            self.can_prove()
        } else {
            bytes <= self.rest()
        };
        if !fits {
            let number = pool.take(control).ok_or(WriteError::NoFile)?;
            link = self.roll(number).map_err(WriteError::Disk)?;
            took = Some(number);
        }
        let lsn = self.put(0, 0, records).map_err(WriteError::Disk)?;
        self.proven = records.is_empty();
        Ok(Written {
            lsn,
            bytes,
            took,
            link,
        })
    }

    /// Goes on in another file, without a link, if a frame does not fit this one. A
    /// link would cut the unproven tail away before its copy is written.
    pub(crate) fn leave_full(&mut self, frame_bytes: usize) {
        if frame_bytes as u64 > self.rest() {
            self.active = None;
        }
    }

    /// Leaves a link behind in the full file, which proves its last frame too, and
    /// goes on in another. Gives the link's lsn.
    fn roll(&mut self, number: u32) -> io::Result<Option<u64>> {
        let link = match self.active {
            Some(_) => Some(self.put(LINK, number, &[])?),
            None => None,
        };
        let file = self.storage.open(&wal::file_path(number))?;
        let len = file.len()?;
        if len != self.file_bytes {
            return Err(io::Error::other(format!(
                "log file {number} has {len} bytes, and had {} when it was prepared",
                self.file_bytes
            )));
        }
        self.numbers.epoch += 1;
        self.active = Some(Active {
            number,
            file,
            offset: 0,
            len,
        });
        Ok(link)
    }

    fn put(&mut self, flags: u16, next_file: u32, records: &[Record<'_>]) -> io::Result<u64> {
        let active = self
            .active
            .as_mut()
            .expect("a file is taken before a frame is put");
        let numbers = &mut self.numbers;
        let header = FrameHeader {
            flags,
            epoch: numbers.epoch,
            lsn: numbers.next_lsn,
            previous_lsn: numbers.previous_lsn,
            synced_lsn: numbers.synced_lsn,
            file: active.number,
            block: u32::try_from(active.offset / BLOCK as u64).map_err(io::Error::other)?,
            next_file,
            log_id: numbers.log_id,
            ..FrameHeader::default()
        };
        frame::encode(&mut self.buffer, header, records);
        active.file.write_at(&self.buffer, active.offset)?;
        if is_planted!(self.plant, RetrySync) {
            active.file.sync().or_else(|_| active.file.sync())?;
        } else if !is_planted!(self.plant, AckBeforeSync) {
            active.file.sync()?;
        }
        active.offset += self.buffer.len() as u64;
        numbers.synced_lsn = numbers.next_lsn;
        numbers.previous_lsn = numbers.next_lsn;
        numbers.next_lsn += 1;
        Ok(header.lsn)
    }
}
