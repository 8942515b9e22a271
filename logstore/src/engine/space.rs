//! Space: reusing log files, bounding the log, and living with a full disk.
//!
//! Files are reused strictly from the oldest on. One can go when a checkpoint holds
//! its control records and every entry in it was compacted away; the checkpoint is
//! durable before the file is written again. Known limit: one stuck replica pins the
//! oldest file, and everything behind it, until its entries are copied forward.

use super::{Log, LogError, Options};
use crate::{
    manifest::{self, Checkpoint},
    plant::is_planted,
    replicas::ReplicaKey,
    storage::Storage,
    wal::{
        self,
        pool::{Pool, PrepareFile, PreparedFile, RESERVE},
    },
};
use std::{io, sync::Arc};

/// Where files stand that are given up on a full disk.
const BALLAST: &str = "ballast";

/// The log's use of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStats {
    /// Files in use, the one being written included.
    pub live_files: usize,
    /// Empty files, the reserve included.
    pub free_files: usize,
    /// Bytes of each.
    pub file_bytes: u64,
    /// Bytes of the files in use.
    pub live_bytes: u64,
    /// Their bound, with the empty ones.
    pub budget_bytes: u64,
    /// Commits that had to wait while a file was prepared.
    pub stalls: u64,
    /// The last durable frame.
    pub last_lsn: u64,
    /// The checkpoint's number.
    pub generation: u64,
}

/// A replica whose entries keep a file from being reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Whose.
    pub key: ReplicaKey,
    /// Flushed and compacted up to here, it lets the file go.
    pub position: u64,
}

/// Whether there is room for entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes free on the disk.
    pub free_bytes: u64,
    /// Whether entries are taken.
    pub accepting: bool,
}

impl Log {
    /// Figures.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        LogStats {
            live_files: self.live.len(),
            free_files: self.pool.len(),
            file_bytes: self.options.file_bytes,
            live_bytes: self.live.len() as u64 * self.options.file_bytes,
            budget_bytes: self.options.budget_bytes,
            stalls: self.stalls,
            last_lsn: self.writer.last_lsn(),
            generation: self.generation,
        }
    }

    /// Who keeps files that lie more than `behind_bytes` behind the end of the log.
    /// With half the budget: whom to flush now. With 0: everyone but in the file
    /// that is being written.
    #[must_use]
    pub fn pins(&self, behind_bytes: u64) -> Vec<Pin> {
        let keep = usize::try_from(behind_bytes / self.options.file_bytes).unwrap_or(usize::MAX);
        let old = self.live.len().saturating_sub(1).saturating_sub(keep);
        let mut pins: Vec<Pin> = Vec::new();
        for index in 0..old {
            for (key, position) in self.live.claims(index, &self.replicas) {
                match pins.iter_mut().find(|pin| pin.key == key) {
                    Some(pin) => pin.position = pin.position.max(position),
                    None => pins.push(Pin { key, position }),
                }
            }
        }
        pins
    }

    /// Who keeps the oldest file, unless it is the one being written.
    #[must_use]
    pub fn pins_of_oldest(&self) -> Vec<Pin> {
        if self.live.len() <= 1 {
            return Vec::new();
        }
        let claims = self.live.claims(0, &self.replicas).into_iter();
        claims
            .map(|(key, position)| Pin { key, position })
            .collect()
    }

    /// Reuses the files at the beginning of the log that nobody needs; says how many.
    /// It writes a checkpoint if there are any.
    ///
    /// # Errors
    /// See [`LogError`]. On a full disk that has no room for the checkpoint, it is
    /// `Ok(0)`, and may be tried again.
    pub fn reclaim(&mut self) -> Result<usize, LogError> {
        self.check_poison()?;
        let in_use = self.live.len().saturating_sub(1);
        let unneeded =
            (0..in_use).take_while(|index| self.live.claims(*index, &self.replicas).is_empty());
        let count = unneeded.count();
        if count == 0 {
            return Ok(0);
        }
        let first = &self.live.files()[count];
        assert!(
            first.first_lsn <= self.writer.numbers().next_lsn,
            "the log goes on where a checkpoint says that it begins"
        );
        let checkpoint = Checkpoint {
            generation: self.generation + 1,
            lsn: self.writer.last_lsn(),
            synced_lsn: self.writer.last_lsn(),
            first_lsn: first.first_lsn,
            first_file: first.number,
            epoch: self.writer.numbers().epoch,
            next_file: self.pool.next_file,
            log_id: self.writer.numbers().log_id,
            replicas: self.replicas.clone(),
        };
        let early = is_planted!(self.options.plant, RecycleBeforeManifest);
        if !early {
            match manifest::write(&*self.storage, &checkpoint, self.options.plant) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(0),
                Err(error) => return Err(self.poison(error)),
            }
            self.generation += 1;
        }
        for file in self.live.take(count) {
            self.pool.put(file.number);
        }
        self.shrink_pool()?;
        Ok(count)
    }

    /// A job that prepares one more empty file, if one is wanted and within the
    /// budget. It may run on another thread; its result comes back to
    /// [`Log::prepared`].
    #[must_use]
    pub fn prepare_pool_file(&mut self) -> Option<PrepareFile> {
        if self.stopped
            || self.poisoned.is_some()
            || self.pool.is_preparing()
            || self.pool.len() >= self.options.pool_files + RESERVE
            || self.allowed_files() == 0
        {
            return None;
        }
        self.pool.prepare(&self.storage, &self.options)
    }

    /// Takes what a job made. A job that failed only means that there is one file
    /// less; on a full disk [`Log::check_space`] says so.
    pub fn prepared(&mut self, result: io::Result<PreparedFile>) {
        self.was_prepared(&result);
        self.pool.prepared(result.ok());
    }

    /// Compares the disk's free bytes with the two thresholds. Called every second
    /// or so, and after a [`LogError::DiskFull`].
    ///
    /// # Errors
    /// What the disk says.
    pub fn check_space(&mut self) -> io::Result<Space> {
        let free_bytes = self.storage.free_bytes()?;
        self.free_bytes = free_bytes;
        if free_bytes < self.options.stop_free_bytes {
            self.stopped = true;
        } else if free_bytes >= self.options.resume_free_bytes {
            self.stopped = false;
        }
        Ok(Space {
            free_bytes,
            accepting: !self.stopped && self.poisoned.is_none(),
        })
    }

    /// Allocates the ballast that is missing. False when the disk has no room for it.
    ///
    /// # Errors
    /// What the disk says, other than that it is full.
    pub fn fill_ballast(&self) -> io::Result<bool> {
        if self.options.ballast_files == 0 {
            return Ok(true);
        }
        self.storage.create_dir(BALLAST)?;
        for number in 0..self.options.ballast_files {
            let path = format!("{BALLAST}/{number:04}");
            let file = match self.storage.create(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            let block = vec![0xA5; 1 << 20];
            let mut offset = 0;
            while offset < self.options.ballast_bytes {
                let left = usize::try_from(self.options.ballast_bytes - offset);
                let part = &block[..left.unwrap_or(block.len()).min(block.len())];
                match file.write_at(part, offset) {
                    Ok(()) => offset += part.len() as u64,
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                        self.storage.remove(&path)?;
                        return Ok(false);
                    }
                    Err(error) => return Err(error),
                }
            }
            file.sync()?;
        }
        self.storage.sync_dir(BALLAST)?;
        Ok(true)
    }

    /// Gives one ballast file up, for work that frees space. False if none is left.
    ///
    /// # Errors
    /// What the disk says.
    pub fn give_up_ballast(&self) -> io::Result<bool> {
        let names = match self.storage.list(BALLAST) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(name) = names.last() else {
            return Ok(false);
        };
        self.storage.remove(&format!("{BALLAST}/{name}"))?;
        self.storage.sync_dir(BALLAST)?;
        Ok(true)
    }

    /// Removes empty files beyond what is wanted.
    fn shrink_pool(&mut self) -> Result<(), LogError> {
        let wanted = self.options.pool_files + RESERVE;
        if self.pool.len() <= wanted {
            return Ok(());
        }
        while self.pool.len() > wanted {
            let Some(number) = self.pool.give_up() else {
                break;
            };
            self.storage
                .remove(&wal::file_path(number))
                .map_err(|error| self.poison(error))?;
        }
        self.storage
            .sync_dir(wal::DIRECTORY)
            .map_err(|error| self.poison(error))
    }

    pub(super) fn poison(&mut self, error: io::Error) -> LogError {
        self.poisoned = Some(error.to_string());
        LogError::Io(error)
    }
}

impl Pool {
    /// A job for the file with a number.
    pub(super) fn job(
        &self,
        storage: &Arc<dyn Storage>,
        number: u32,
        options: &Options,
    ) -> PrepareFile {
        PrepareFile {
            storage: Arc::clone(storage),
            number,
            bytes: options.file_bytes,
            plant: options.plant,
        }
    }

    /// A job for the next file, one at a time.
    pub(super) fn prepare(
        &mut self,
        storage: &Arc<dyn Storage>,
        options: &Options,
    ) -> Option<PrepareFile> {
        let number = self.start_preparing()?;
        Some(self.job(storage, number, options))
    }
}
