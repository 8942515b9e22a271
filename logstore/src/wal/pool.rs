//! Empty log files, zeroed and durable, ready to be written.
//!
//! The last `RESERVE` of them are for control records alone: on a full disk the
//! node can still vote, flush and retire replicas, which is what frees space.
//! A file is prepared under a temporary name by a [`PrepareFile`], on a thread of
//! the caller's. Known limit: a recycled file keeps its old bytes; the salted
//! checksums make them worthless, but they are on the disk until overwritten.

use crate::{
    plant::{Planted, is_planted},
    storage::Storage,
    wal,
};
use std::{collections::VecDeque, io, sync::Arc};

/// Files that only control records may take.
pub(crate) const RESERVE: usize = 2;

/// Written and synced at once while a file is zeroed: a sync of the log waits behind no
/// more than this in the device's queue.
const ZEROS: usize = 1 << 20;

/// The empty files, by number.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: VecDeque<u32>,
    /// Numbers below this have been given out.
    pub(crate) next_file: u32,
    preparing: bool,
}

impl Pool {
    pub(crate) fn new(free: impl IntoIterator<Item = u32>, next_file: u32) -> Self {
        Self {
            free: free.into_iter().collect(),
            next_file,
            preparing: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn take(&mut self, control: bool) -> Option<u32> {
        if !control && self.free.len() <= RESERVE {
            return None;
        }
        self.free.pop_front()
    }

    pub(crate) fn put(&mut self, number: u32) {
        self.free.push_back(number);
    }

    /// The last one again, to be removed.
    pub(crate) fn give_up(&mut self) -> Option<u32> {
        self.free.pop_back()
    }

    pub(crate) fn is_preparing(&self) -> bool {
        self.preparing
    }

    /// The number for one more file, unless one is being made already.
    pub(crate) fn start_preparing(&mut self) -> Option<u32> {
        if self.preparing {
            return None;
        }
        self.preparing = true;
        self.next_file += 1;
        Some(self.next_file - 1)
    }

    /// Takes what a job made; a failed one only frees its place.
    pub(crate) fn prepared(&mut self, file: Option<PreparedFile>) {
        self.preparing = false;
        if let Some(file) = file {
            self.free.push_back(file.number);
        }
    }
}

/// Makes one empty file. It may run on any thread; its result goes to
/// [`Log::prepared`](crate::engine::Log::prepared).
pub struct PrepareFile {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) number: u32,
    pub(crate) bytes: u64,
    pub(crate) plant: Planted,
}

/// A file that is ready.
#[derive(Debug)]
pub struct PreparedFile {
    pub(crate) number: u32,
}

impl PrepareFile {
    /// Zeroes the file, syncs it, gives it its name and makes the name durable.
    ///
    /// # Errors
    /// What the disk says; nothing is left behind if it can be helped, and the log
    /// is as it was: a file that was never ready holds nothing.
    pub fn run(self) -> io::Result<PreparedFile> {
        let temporary = format!("{}/{:08}.new", wal::DIRECTORY, self.number);
        if let Err(error) = self.fill(&temporary) {
            // Already failing: the next start removes what this cannot.
            drop(self.storage.remove(&temporary));
            return Err(error);
        }
        self.storage
            .rename(&temporary, &wal::file_path(self.number))?;
        if !is_planted!(self.plant, SkipDirSync) {
            self.storage.sync_dir(wal::DIRECTORY)?;
        }
        Ok(PreparedFile {
            number: self.number,
        })
    }

    fn fill(&self, path: &str) -> io::Result<()> {
        let file = self.storage.create(path)?;
        let zeros = vec![0; usize::try_from(self.bytes).unwrap_or(ZEROS).min(ZEROS)];
        let mut offset = 0;
        while offset < self.bytes {
            let left = usize::try_from(self.bytes - offset)
                .unwrap_or(ZEROS)
                .min(ZEROS);
            file.write_at(&zeros[..left], offset)?;
            file.sync()?;
            offset += left as u64;
        }
        Ok(())
    }
}
