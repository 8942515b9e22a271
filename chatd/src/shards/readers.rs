//! The reader threads: they read from segments what a shard thread would have to wait
//! for, and tell it that it is in memory now. What they find they forget: the shard
//! thread reads again, with all that was applied meanwhile.
//!
//! They see segments and frozen memtables, not what was applied since: a page that
//! depends on that may be cold in part when it is read again, and then the shard thread
//! waits for the rest.

use std::{sync::Arc, thread::JoinHandle};

use chat_core::{
    host::{Lookup, MAX_WARMING},
    store::{GroupHead, Key, Range, ReadRows, Row, Unreadable},
};
use chat_wire::ids::{InboxKey, ShardId};
use crossbeam_channel::{Receiver, Sender, bounded};
use logstore::reads::SegmentReader;

use super::{Shared, StartError, log, thread::ToThread};
use crate::watch::{self, Role};

/// Reader threads: they wait for the disk, which does better with several at once.
const READERS: u16 = 4;

/// What is to be read.
pub(super) struct Warm {
    pub(super) thread: usize,
    pub(super) shard: ShardId,
    pub(super) ticket: u64,
    pub(super) lookup: Box<Lookup>,
    pub(super) segments: SegmentReader,
}

/// The queue of the readers: it holds what each shard thread has on its way at most.
pub(super) fn queue(shard_threads: usize) -> (Sender<Warm>, Receiver<Warm>) {
    bounded(shard_threads * MAX_WARMING)
}

/// The threads, each on the one queue.
pub(super) fn start(
    queue: &Receiver<Warm>,
    shared: &Arc<Shared>,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let start = |number| {
        let (queue, to) = (queue.clone(), Arc::clone(shared));
        shared.spawn(Role::Reader(number), Arc::default(), move || {
            run(&queue, &to)
        })
    };
    (0..READERS).map(start).collect()
}

/// Runs until nobody can ask any more.
fn run(queue: &Receiver<Warm>, shared: &Arc<Shared>) {
    while let Ok(warm) = watch::receive(queue) {
        read(warm, shared);
    }
}

/// Reads what is asked for, and says so.
pub(super) fn read(warm: Warm, shared: &Shared) {
    let Warm {
        thread,
        shard,
        ticket,
        lookup,
        segments,
    } = warm;
    let rows = SegmentRows(segments);
    lookup.warm(&rows);
    // Before it is told: maps and memtables that only this read still held go here.
    drop(rows);
    shared.send_to_thread(thread, ToThread::Warmed(shard, ticket));
}

/// What segments hold, as the core reads it.
struct SegmentRows(SegmentReader);

impl ReadRows for SegmentRows {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        let row = self.0.get(&log::key_of(key)).map_err(log::unreadable)?;
        Ok(row.map(log::row_from))
    }

    fn range(&self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable> {
        log::rows_of(range, |from, to, order, limit| {
            self.0.range(from, to, order, limit)
        })
        .map_err(log::unreadable)
    }

    fn count(&self, from: &Key, to: &Key) -> Result<u64, Unreadable> {
        let count = self.0.count(&log::key_of(from), &log::key_of(to));
        count.map_err(log::unreadable)
    }

    fn groups(
        &self,
        inbox: InboxKey,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, Unreadable> {
        let heads = self.0.groups(inbox.0, families, before, limit);
        Ok(log::heads_from(heads.map_err(log::unreadable)?))
    }
}
