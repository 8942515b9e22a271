//! The process itself: its pages, and the signals that end it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// From now on memory comes in small pages: a fault that clears 2 MiB holds a shard
/// thread up for milliseconds. Where they cannot be turned off the node works all the same.
pub(super) fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
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
