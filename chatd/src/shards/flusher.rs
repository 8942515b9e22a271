//! The flush thread: writes frozen memtables as segments, away from the shard
//! threads, and hands what it wrote to the log thread, whose entry is the commit
//! point. One thread: flushes share the disk with the log, so they take turns.

use std::{sync::Arc, time::Duration};

use chat_core::host::Place;
use chat_wire::ids::ShardId;
use crossbeam_channel::{Receiver, Sender};
use logstore::{
    flush::{FlushError, FlushJob},
    shard::Retired,
};

use super::{Shared, commit::ToLog, thread::ToThread};
use crate::watch::{self, Role};

/// How long a flush that found the disk full waits before it is tried again.
const FULL_RETRY: Duration = Duration::from_secs(1);

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

/// Runs until nobody can send it flushes any more, or a write fails: then the node
/// ends, since a failed write is never tried again.
pub(super) fn run(queue: &Receiver<ToFlusher>, log: &Sender<ToLog>, shared: &Arc<Shared>) {
    while let Ok(asked) = watch::receive(queue) {
        let Flush { thread, shard, job } = match asked {
            ToFlusher::Flush(flush) => flush,
            ToFlusher::Free(retired) => {
                drop(retired);
                continue;
            }
        };
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
                if watch::send(log, Role::Log, ToLog::RoomForFlush).is_err() {
                    return;
                }
                // Whoever frees space does so outside of this process.
                std::thread::sleep(FULL_RETRY);
                shared.send_to_thread(thread, ToThread::FlushAgain(shard));
                continue;
            }
            Err(FlushError::Older(error)) => {
                shared.shard_stopped(shard, error.to_string());
                continue;
            }
            Err(error @ FlushError::Disk { .. }) => {
                return shared.fail(format!("shard {shard} cannot be flushed: {error}"));
            }
        };
        if watch::send(log, Role::Log, to).is_err() {
            return;
        }
    }
}
