//! The process itself: its memory and pages, its reserve of descriptors, the signals
//! that end it.

use std::{fs, io, sync::Arc, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{descriptors, edge::admission::Admission};

/// How often memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_secs(1);

/// From now on memory comes in small pages: a fault that clears 2 MiB holds a shard
/// thread up for milliseconds. Where they cannot be turned off the node works all the same.
pub(super) fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

/// Resident memory of this process, in bytes.
///
/// # Errors
/// If the system does not tell.
pub(super) fn memory_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Memory of this machine, or of the container it seems to be, in bytes.
fn machine_bytes() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    });
    number("/sys/fs/cgroup/memory.max")
        .into_iter()
        .chain(total)
        .min()
}

/// Closes the door while the process holds more than `cap_bytes` (0: three quarters
/// of the machine), for ever.
pub(super) async fn watch_memory(admission: Arc<Admission>, cap_bytes: u64) {
    let cap = match cap_bytes {
        0 => machine_bytes().map_or(u64::MAX, |bytes| bytes / 4 * 3),
        bytes => bytes,
    };
    let mut ticks = tokio::time::interval(MEMORY_EVERY);
    let mut full = false;
    loop {
        ticks.tick().await;
        descriptors::refill();
        let Ok(bytes) = memory_bytes() else { continue };
        // It opens again a little lower, so that it does not flap.
        let now = bytes > if full { cap / 20 * 19 } else { cap };
        if now != full {
            full = now;
            admission.set_memory_full(full);
            tracing::warn!(bytes, cap, full, "the cap on memory");
        }
    }
}

/// The signals that ask a process to end.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// If the system does not let us.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; gives its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_by_the_system() {
        let bytes = memory_bytes().unwrap();
        assert!(
            bytes > 100_000 && bytes < machine_bytes().unwrap(),
            "{bytes}"
        );
    }
}
