//! The flush thread: writes frozen memtables as segments, away from the shard
//! threads, and hands what it wrote to the log thread, whose entry is the commit
//! point. One thread: flushes share the disk with the log, so they take turns.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chat_core::host::Place;
use chat_wire::ids::ShardId;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use logstore::{
    flush::{FlushError, FlushJob},
    shard::Retired,
};

use super::{Shared, commit::ToLog, thread::ToThread};
use crate::{
    clock,
    watch::{self, Role},
};

/// How long a flush that found the disk full waits before it is tried again.
const FULL_RETRY_MS: u64 = 1_000;

/// What the flush thread is asked for.
pub(super) enum ToFlusher {
    /// A flush. A shard has one under way at most.
    Flush(Flush),
    /// A memtable to free, which takes longer than a shard thread should stop for.
    Free(Retired),
}

/// A flush to do.
pub(super) struct Flush {
    pub(super) thread: usize,
    pub(super) shard: ShardId,
    pub(super) job: Box<FlushJob>,
}

/// The flush thread.
pub(super) struct Flusher {
    pub(super) queue: Receiver<ToFlusher>,
    pub(super) log: Sender<ToLog>,
    pub(super) shared: Arc<Shared>,
    /// Flushes that found the disk full, and when they are tried again: one a shard at most.
    again: VecDeque<(u64, usize, ShardId)>,
}

impl Flusher {
    pub(super) fn new(queue: Receiver<ToFlusher>, log: Sender<ToLog>, shared: Arc<Shared>) -> Self {
        Self {
            queue,
            log,
            shared,
            again: VecDeque::new(),
        }
    }

    /// Runs until nobody can send it flushes any more, or a write fails: then the node
    /// ends, since a failed write is never tried again.
    pub(super) fn run(mut self) {
        loop {
            let asked = match self.again.front() {
                None => watch::receive(&self.queue).map_err(|_| RecvTimeoutError::Disconnected),
                Some((due_ms, _, _)) => {
                    let wait_ms = due_ms.saturating_sub(clock::mono_ms());
                    watch::receive_within(&self.queue, Duration::from_millis(wait_ms))
                }
            };
            let asked = match asked {
                Ok(asked) => Some(asked),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if !self.step(clock::mono_ms(), asked) {
                return;
            }
        }
    }

    /// Does what is asked, and says whose flush is to be tried again. False if it is over.
    pub(super) fn step(&mut self, now_ms: u64, asked: Option<ToFlusher>) -> bool {
        while let Some((_, thread, shard)) =
            self.again.pop_front_if(|(due_ms, _, _)| *due_ms <= now_ms)
        {
            self.shared
                .send_to_thread(thread, ToThread::FlushAgain(shard));
        }
        match asked {
            // What is left when the node ends is written after its next start.
            Some(ToFlusher::Flush(flush)) if !self.shared.stopping.load(Ordering::Acquire) => {
                self.flush(now_ms, flush)
            }
            Some(ToFlusher::Free(retired)) => {
                drop(retired);
                true
            }
            Some(ToFlusher::Flush(_)) | None => true,
        }
    }

    fn flush(&mut self, now_ms: u64, flush: Flush) -> bool {
        let Flush { thread, shard, job } = flush;
        watch::about(Some(Place {
            shard,
            position: job.position(),
            served: true,
        }));
        let written = job.run();
        watch::about(None);
        let to = match written {
            Ok(flushed) => ToLog::Segments {
                thread,
                shard,
                flushed: Box::new(flushed),
            },
            Err(error @ FlushError::DiskFull { .. }) => {
                tracing::warn!(shard = shard.0, %error, "a flush waits");
                // Whoever frees space does so outside of this process.
                self.again
                    .push_back((now_ms + FULL_RETRY_MS, thread, shard));
                ToLog::RoomForFlush
            }
            Err(FlushError::Older(error)) => {
                let reason = format!("its segments cannot be added to: {error}");
                self.shared
                    .send_to_thread(thread, ToThread::CannotFlush(shard, reason));
                return true;
            }
            Err(error @ FlushError::Disk { .. }) => {
                let reason = format!("shard {shard} cannot be flushed: {error}");
                self.shared.fail(reason);
                return false;
            }
        };
        watch::send(&self.log, Role::Log, to).is_ok()
    }
}
