//! Room: how much of the log entries take at worst, and how much there is for them
//! behind the reserve.
//!
//! Whoever proposes entries asks first, since an entry that was proposed must be
//! committed: with `Σ entry_bytes(body) <= log.room().bytes(largest)` a commit of these
//! entries is never [`LogError::Full`](super::LogError::Full), however they are batched,
//! with hard states beside them and each batch proven. Control records that are committed
//! before them take from the same room, so a caller keeps as much back as it may write of
//! those meanwhile; what it has proposed and not yet committed it subtracts itself.
//! Known limit: a worst case is dear for small entries, which rarely have a frame for
//! themselves; it binds only what is under way, since what is committed is measured.

use super::{Log, Options, commit::ENDS};
use crate::wal::{
    frame::{BLOCK, MAX_FRAME_BYTES, frame_bytes},
    pool::RESERVE,
};

const BLOCK_BYTES: u64 = BLOCK as u64;

/// Body of a hard state.
const VOTE: usize = 8;

/// Bytes of the log that an entry takes at worst: alone in a frame with a hard state, and
/// an empty frame behind it that proves it. A sum of these is a bound of all of them in
/// fewer frames.
#[must_use]
pub const fn entry_bytes(body_bytes: usize) -> u64 {
    (frame_bytes(2, body_bytes + VOTE) + BLOCK) as u64
}

/// What a log has for entries, as plain data: it can be handed to whoever proposes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Of the file that is written, without its link.
    rest: u64,
    /// Files that entries may take whole: ready ones, and those that the budget allows and
    /// the disk has room for.
    files: u64,
    file_bytes: u64,
    /// Whether the budget would give more than the disk has: then it is the disk that
    /// is short, and nothing is gained by flushing.
    pub disk_is_short: bool,
}

impl Room {
    /// The [`entry_bytes`] that are certain to be taken, if those of no single entry are
    /// more than `largest`: at the end of a file the largest may be what does not fit.
    #[must_use]
    pub fn bytes(self, largest: u64) -> u64 {
        let Some(further) = self.files.checked_sub(1) else {
            return self.rest;
        };
        let whole = self.file_bytes - BLOCK_BYTES;
        let waste = most_waste(self.file_bytes).max(largest.saturating_sub(BLOCK_BYTES));
        let rest = self.rest.saturating_sub(waste);
        rest + whole + further * whole.saturating_sub(waste)
    }
}

/// At the end of a file, records of a batch with entries are cut into two frames rather
/// than that more than this is left.
pub(super) const fn most_waste(file_bytes: u64) -> u64 {
    file_bytes / 8 / BLOCK_BYTES * BLOCK_BYTES
}

/// The largest frame in files of a size: half a file at most, so that a start can always
/// write a frame again.
pub(super) fn most_of_a_frame(file_bytes: u64) -> usize {
    let half = usize::try_from(file_bytes / 2).unwrap_or(usize::MAX);
    MAX_FRAME_BYTES.min(half / BLOCK * BLOCK)
}

impl Options {
    /// Bytes of frames with control records, and of the empty frames that prove them, that
    /// the reserve takes when entries are refused already, whatever the sizes of those
    /// frames: two files, less at the end of each what the largest frame does not fit.
    /// 112 MiB with files of 64 MiB, 4 MiB with files of 4 MiB.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        let unused = most_of_a_frame(self.file_bytes) as u64 + ENDS;
        RESERVE as u64 * self.file_bytes.saturating_sub(unused)
    }

    /// The smallest budget with which files of this size take entries with these bodies all
    /// at once, beside the reserve, when the rest of the log is not needed any more; `None`
    /// if one of them is too large for a frame in such a file.
    #[must_use]
    pub fn smallest_budget(&self, bodies: impl IntoIterator<Item = usize>) -> Option<u64> {
        let (mut bytes, mut largest) = (0, 0);
        for body in bodies {
            if frame_bytes(1, body) > most_of_a_frame(self.file_bytes) {
                return None;
            }
            bytes += entry_bytes(body);
            largest = largest.max(entry_bytes(body));
        }
        // The file that is written may be full, and is not reused before the next is begun.
        let room = |files| Room {
            files,
            file_bytes: self.file_bytes,
            ..Room::default()
        };
        let files = (1..).find(|files| room(*files).bytes(largest) >= bytes)?;
        let all = (1 + RESERVE as u64 + files).max(LEAST_FILES);
        Some(all * self.file_bytes)
    }
}

impl Options {
    /// The room of a log in which nothing is needed any more.
    #[must_use]
    pub fn whole_room(&self) -> Room {
        let files = self.budget_bytes / self.file_bytes;
        Room {
            files: files.saturating_sub(RESERVE as u64),
            file_bytes: self.file_bytes,
            ..Room::default()
        }
    }
}

/// Of which a budget holds at least so many.
pub(super) const LEAST_FILES: u64 = 6;

impl Log {
    /// The room for entries now. It is none when the disk is below its stop threshold.
    #[must_use]
    pub fn room(&self) -> Room {
        let none = Room {
            file_bytes: self.options.file_bytes,
            disk_is_short: self.stopped,
            ..Room::default()
        };
        if self.stopped || self.poisoned.is_some() {
            return none;
        }
        let (allowed, preparable) = (self.allowed_files(), self.preparable_files());
        let disk_is_short = preparable < allowed;
        let ready = self.pool.len() as u64 + preparable;
        match ready.checked_sub(RESERVE as u64) {
            None => Room {
                disk_is_short,
                ..none
            },
            Some(files) => Room {
                rest: self.writer.left().saturating_sub(BLOCK_BYTES),
                files,
                disk_is_short,
                ..none
            },
        }
    }

    /// The room in files that stand ready, also while the disk is below its stop threshold:
    /// what is begun within it can be written whatever the disk says, with
    /// [`Log::commit_counted`].
    #[must_use]
    pub fn ready_room(&self) -> Room {
        let files = self.pool.len().checked_sub(RESERVE);
        let rest = self.writer.left().saturating_sub(BLOCK_BYTES);
        Room {
            rest: if files.is_some() { rest } else { 0 },
            files: files.unwrap_or(0) as u64,
            file_bytes: self.options.file_bytes,
            disk_is_short: self.stopped,
        }
    }

    /// Files that the budget still allows to prepare.
    pub(super) fn allowed_files(&self) -> u64 {
        let preparing = usize::from(self.pool.is_preparing());
        let all = self.live.len() + self.pool.len() + preparing;
        (self.options.budget_bytes / self.options.file_bytes).saturating_sub(all as u64)
    }

    /// Of those, the ones that the disk has room for as far as is known: it is asked by
    /// [`Log::check_space`], and a file that could not be prepared counts for all of them
    /// until one could.
    fn preparable_files(&self) -> u64 {
        if self.cannot_prepare {
            return 0;
        }
        let free = self.free_bytes.saturating_sub(self.options.stop_free_bytes);
        self.allowed_files().min(free / self.options.file_bytes)
    }
}
