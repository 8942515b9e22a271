//! Descriptors of this process: how many clients may have, and a reserve for the few files
//! of the daemon itself.
//!
//! What the system allows (`RLIMIT_NOFILE`) is raised as far as it goes and then shared
//! out: first what the node cannot do without, the rest to connections. An open that finds
//! none left all the same (another library, or the whole system's table) gives up a part
//! of the reserve and is tried once more; the reserve is taken again when there is room.

use std::{
    fs::File,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Descriptors that are held for nothing else.
const RESERVE: usize = 8;
/// Sockets of clients that are told there is no place, and those being accepted.
const REFUSED: u64 = 96;
/// Standard streams, the runtime, the lock, notes, keys and certificates while they are
/// read, lookups of names.
const OTHERS: u64 = 64;
/// A node with less for clients than this is not worth starting.
const CLIENTS_AT_LEAST: u64 = 16;

static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
static EXHAUSTED: AtomicU64 = AtomicU64::new(0);

/// What is open besides connections of clients.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Log files, one more while it is made.
    pub log_files: u64,
    /// Segments, as many as are mapped, and those that a flush writes.
    pub segments: u64,
    /// Sockets that listen.
    pub listeners: u64,
    /// Connections of the admin port.
    pub admin: u64,
}

/// The limit leaves too little.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {limit} files, and needs {needed} with these settings, {CLIENTS_AT_LEAST} \
     of them for clients: raise the limit (`ulimit -n`, LimitNOFILE), or lower log.budget_bytes or \
     raise log.file_bytes"
)]
pub struct TooFew {
    /// What the system allows.
    pub limit: u64,
    /// What would do.
    pub needed: u64,
}

impl Needs {
    /// Descriptors that no client gets.
    fn kept(&self) -> u64 {
        let own = self.log_files + self.segments + self.listeners + self.admin;
        own + REFUSED + OTHERS + RESERVE as u64
    }

    /// How many connections may be open with this limit, if `wanted` are.
    ///
    /// # Errors
    /// [`TooFew`].
    pub fn connections(&self, limit: Option<u64>, wanted: usize) -> Result<usize, TooFew> {
        let Some(limit) = limit else {
            return Ok(wanted);
        };
        let left = limit.saturating_sub(self.kept());
        if left < CLIENTS_AT_LEAST {
            let needed = self.kept() + CLIENTS_AT_LEAST;
            return Err(TooFew { limit, needed });
        }
        Ok(wanted.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }
}

/// Raises the limit as far as the system lets this process, and says what it is: none if
/// there is none.
#[must_use]
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Fills the reserve as far as it goes.
pub fn refill() {
    let mut held = held();
    while held.len() < RESERVE {
        let Ok(file) = File::open("/dev/null") else {
            return;
        };
        held.push(file);
    }
}

/// How often an open has found no descriptor left.
#[must_use]
pub fn exhausted() -> u64 {
    EXHAUSTED.load(Ordering::Relaxed)
}

/// Opens something. If there is no descriptor left a part of the reserve is given up, and
/// it is tried once more: an open that failed so has changed nothing.
///
/// # Errors
/// What `open` says.
pub fn retry<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let result = open();
    match &result {
        Err(error) if is_exhausted(error) => {
            EXHAUSTED.fetch_add(1, Ordering::Relaxed);
            if held().pop().is_none() {
                return result;
            }
            tracing::warn!(%error, "no descriptor is left: one of the reserve is used");
            open()
        }
        _ => result,
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

fn held() -> std::sync::MutexGuard<'static, Vec<File>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const NEEDS: Needs = Needs {
        log_files: 20,
        segments: 100,
        listeners: 4,
        admin: 32,
    };

    #[test]
    fn connections_are_clamped_to_what_the_limit_leaves() {
        let kept = NEEDS.kept();
        assert_eq!(NEEDS.connections(None, 10_000), Ok(10_000));
        assert_eq!(NEEDS.connections(Some(1 << 20), 10_000), Ok(10_000));
        assert_eq!(NEEDS.connections(Some(kept + 500), 10_000), Ok(500));
        assert_eq!(NEEDS.connections(Some(kept + 500), 100), Ok(100));
        let too_few = NEEDS.connections(Some(kept + 15), 10_000).unwrap_err();
        assert_eq!(too_few.needed, kept + 16);
        assert!(too_few.to_string().contains("ulimit -n"));
    }

    #[test]
    fn an_open_without_a_descriptor_left_gets_one_of_the_reserve_and_others_are_not_repeated() {
        refill();
        let tries = Cell::new(0);
        let opened = retry(|| {
            tries.set(tries.get() + 1);
            match tries.get() {
                1 => Err(Errno::MFILE.into()),
                _ => Ok(7),
            }
        });
        assert_eq!((opened.unwrap(), tries.get()), (7, 2));
        assert!(exhausted() >= 1);
        tries.set(0);
        let refused: io::Result<()> = retry(|| {
            tries.set(tries.get() + 1);
            Err(Errno::ACCESS.into())
        });
        assert_eq!((refused.is_err(), tries.get()), (true, 1));
        // An empty reserve is no endless loop.
        held().clear();
        tries.set(0);
        let refused: io::Result<()> = retry(|| {
            tries.set(tries.get() + 1);
            Err(Errno::NFILE.into())
        });
        assert_eq!((refused.is_err(), tries.get()), (true, 1));
        refill();
        assert_eq!(held().len(), RESERVE);
    }
}
