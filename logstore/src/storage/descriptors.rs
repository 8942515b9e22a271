//! A few descriptors kept back for the data directory: when sockets have taken all others,
//! the log must still be able to open its next file, or the node ends.
//!
//! Only opening is tried again, once, with the reserve released; a write or a sync never
//! is. Known limit: the reserve shrinks by each file that stays open while there is no
//! other descriptor, and is filled again when there are some.

use rustix::{fd::OwnedFd, io::Errno};
use std::{
    io,
    os::fd::AsFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Descriptors kept back. An open takes one, with its folder two.
pub(crate) const KEPT: usize = 8;

/// The reserve of a directory.
#[derive(Debug, Default)]
pub struct Descriptors {
    kept: Mutex<Vec<OwnedFd>>,
    short: AtomicU64,
}

impl Descriptors {
    /// How often the process had no descriptor left when the data directory needed one.
    #[must_use]
    pub fn shortages(&self) -> u64 {
        self.short.load(Ordering::Relaxed)
    }

    /// Takes back what is missing, as far as there is any; each is one more of `like`.
    pub(super) fn fill(&self, like: impl AsFd) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() < KEPT {
            match rustix::io::fcntl_dupfd_cloexec(&like, 0) {
                Ok(one) => kept.push(one),
                Err(_) => return,
            }
        }
    }

    /// Opens something, out of the reserve if there is no other descriptor.
    pub(super) fn open<T>(
        &self,
        like: impl AsFd,
        open: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        let opened = match open() {
            Err(error) if is_shortage(&error) => {
                self.short.fetch_add(1, Ordering::Relaxed);
                // Nobody else of the directory takes what is released for this one.
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.clear();
                open()
            }
            opened => opened,
        };
        self.fill(like);
        opened
    }
}

fn is_shortage(error: &io::Error) -> bool {
    let of = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    of(Errno::MFILE) || of(Errno::NFILE)
}
