//! The log thread: collects what all shard threads want durable while the last sync
//! runs, and makes one write and one sync of it. There is no timer: the batch grows
//! with the load and shrinks with the device's speed.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use chat_wire::ids::ShardId;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use logstore::{
    engine::{Append, Log, LogError, PrepareFile, PreparedFile},
    flush::Flushed,
    replicas::ReplicaKey,
};

mod round;

use self::round::{CopyAllowance, Round, entries_in};
use super::{Shared, room::Room, thread::ToThread};
use crate::{
    clock,
    watch::{self, Role},
};

/// Requests merged into one commit.
const MERGED: usize = 256;
/// After a burst the last frame is proven durable by an empty one.
const PROVE_AFTER: Duration = Duration::from_millis(5);
/// How often a round that the full disk has no file for is tried again.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// How often the log looks after its room: free space, old files, whom to flush; and how
/// soon a file that could not be prepared is tried again.
const HOUSEKEEPING_MS: u64 = 250;

/// A flush that found the disk full has tried again by then.
const FLUSH_WAITS_MS: u64 = 3_000;

/// What the log thread is told.
pub(super) enum ToLog {
    /// Make these durable, then say so.
    Commit(Commit),
    /// Enter segments that a flush wrote.
    Segments {
        /// The shard thread that waits.
        thread: usize,
        /// Whose.
        shard: ShardId,
        /// What was written.
        flushed: Box<Flushed>,
    },
    /// A replica needs no entries up to here any more.
    Compacted {
        /// Whose.
        key: ReplicaKey,
        /// Up to and with this position.
        position: u64,
        /// Its term.
        term: u64,
    },
    /// A replica is not stepped any more: it will not be flushed.
    Stuck(ReplicaKey),
    /// A flush found the disk full: give something up for it.
    RoomForFlush,
    /// A log file was prepared.
    Prepared(io::Result<PreparedFile>),
    /// Sync and end.
    Stop,
}

/// What one pass of a shard thread wants durable. Room for its entries was counted when
/// they were proposed.
#[derive(Default)]
pub(super) struct Commit {
    pub(super) thread: usize,
    pub(super) appends: Vec<Append>,
    pub(super) readies: Vec<(ShardId, u64)>,
}

/// Owns the log.
pub(super) struct LogThread {
    log: Log,
    queue: Receiver<ToLog>,
    pool: Sender<PrepareFile>,
    shared: Arc<Shared>,
    /// Replicas that are never stepped: they cannot be flushed.
    stuck: Vec<ReplicaKey>,
    copies: CopyAllowance,
    /// Writes down the size of each write, to be replayed on a bare file.
    trace: Option<BufWriter<File>>,
    /// What is not durable yet. Shard threads bound what they have under way.
    round: Round,
    /// The worst size of an entry with one command.
    entry_bytes: u64,
    /// The room that shard threads were told of last.
    published: Room,
    /// Files in use when it was last looked whom to flush.
    looked_at_files: usize,
    /// A log file could not be prepared: none is tried before.
    no_file_before_ms: Option<u64>,
    /// A flush has found the disk full, and will try again.
    flush_waits_until_ms: Option<u64>,
    kept_house_ms: u64,
    unproven: bool,
}

impl LogThread {
    /// Shard threads may propose from now on.
    pub(super) fn new(
        log: Log,
        queue: Receiver<ToLog>,
        pool: Sender<PrepareFile>,
        shared: Arc<Shared>,
        stuck: Vec<ReplicaKey>,
        entry_bytes: u64,
        trace: Option<BufWriter<File>>,
    ) -> Self {
        let mut this = Self {
            copies: CopyAllowance::new(log.stats().budget_bytes),
            log,
            queue,
            pool,
            shared,
            stuck,
            trace,
            round: Round::default(),
            entry_bytes,
            published: Room::default(),
            looked_at_files: 0,
            no_file_before_ms: None,
            flush_waits_until_ms: None,
            kept_house_ms: 0,
            unproven: false,
        };
        this.publish_room(0);
        this
    }

    /// Runs until it is told to stop, or a write or sync fails: then nothing more is
    /// acknowledged, and the node ends.
    pub(super) fn run(mut self) {
        if let Err(error) = self.serve() {
            self.shared
                .fail(format!("the log cannot be written: {error}"));
        }
    }

    fn serve(&mut self) -> Result<(), LogError> {
        loop {
            let wait = match (self.round.is_empty(), self.unproven) {
                (false, _) => FULL_RETRY,
                (true, true) => PROVE_AFTER,
                (true, false) => Duration::from_millis(HOUSEKEEPING_MS),
            };
            let first = match watch::receive_within(&self.queue, wait) {
                Ok(to) => Some(to),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if self.step(clock::mono_ms(), first)? {
                // A round that still waits was acknowledged to nobody.
                return self.prove();
            }
        }
    }

    /// Takes what has come, and commits it. True if it says stop.
    pub(super) fn step(&mut self, now_ms: u64, first: Option<ToLog>) -> Result<bool, LogError> {
        let mut stop = false;
        match first {
            Some(to) => stop |= self.take(now_ms, to),
            None => self.prove()?,
        }
        for _ in 1..MERGED {
            let Ok(to) = self.queue.try_recv() else { break };
            stop |= self.take(now_ms, to);
        }
        self.commit_round()?;
        if now_ms >= self.kept_house_ms + HOUSEKEEPING_MS {
            self.kept_house_ms = now_ms;
            self.keep_house(now_ms)?;
        }
        self.prepare_file(now_ms);
        Ok(stop)
    }

    /// True if it says stop.
    fn take(&mut self, now_ms: u64, to: ToLog) -> bool {
        match to {
            ToLog::Commit(commit) => self.round.take_commit(commit),
            ToLog::Segments {
                thread,
                shard,
                flushed,
            } => {
                self.flush_waits_until_ms = None;
                self.round.take_segments(thread, shard, flushed);
            }
            ToLog::Compacted {
                key,
                position,
                term,
            } => self.round.take_compacted(key, position, term),
            ToLog::Stuck(key) => {
                if !self.stuck.contains(&key) {
                    self.stuck.push(key);
                }
            }
            ToLog::RoomForFlush => {
                // What is refused meanwhile is refused for the disk and not for the budget.
                self.flush_waits_until_ms = Some(now_ms + FLUSH_WAITS_MS);
                self.tell_full(true);
                match self.log.give_up_ballast() {
                    Ok(given) => tracing::warn!(given, "the disk is full: a flush needs room"),
                    Err(error) => tracing::error!(%error, "ballast cannot be given up"),
                }
            }
            ToLog::Prepared(result) => {
                let before = self.no_file_before_ms.take();
                if let Err(error) = &result {
                    self.no_file_before_ms = Some(now_ms + HOUSEKEEPING_MS);
                    if before.is_none() {
                        tracing::warn!(%error, "a log file cannot be prepared; tried again until it can");
                    }
                }
                self.log.prepared(result);
                self.publish_room(0);
            }
            ToLog::Stop => return true,
        }
        false
    }

    /// Makes durable what has come, and says so.
    fn commit_round(&mut self) -> Result<(), LogError> {
        if self.round.is_empty() {
            return Ok(());
        }
        match self.commit() {
            Ok(()) => {}
            // Nothing was written. There was room for what is in it, so the disk has
            // no file even for the reserve: nothing here could free one.
            Err(LogError::DiskFull { .. } | LogError::Full { .. }) => {
                self.tell_full(true);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let round = std::mem::take(&mut self.round);
        self.publish_room(round.counted_bytes);
        for (thread, readies) in round.persisted {
            self.shared
                .send_to_thread(thread, ToThread::Persisted(readies));
        }
        for (thread, shard, flushed) in round.flushed {
            self.shared
                .send_to_thread(thread, ToThread::Flushed(shard, flushed));
        }
        if round.frees_room {
            self.log.reclaim()?;
            self.publish_room(0);
        }
        if round.frees_room || self.log.stats().live_files != self.looked_at_files {
            self.want_flushes();
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), LogError> {
        if self.round.appends.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let committed = self.log.commit_counted(&self.round.appends)?;
        let worst = self.round.worst_bytes();
        assert!(
            worst.is_none_or(|worst| committed.bytes <= worst),
            "{} bytes were written of what was counted as {worst:?} at most",
            committed.bytes
        );
        let took = started.elapsed();
        let entries = self.round.appends.iter().map(entries_in).sum();
        self.count(took, entries, committed.bytes);
        self.trace(committed.bytes);
        self.copies.written(committed.bytes);
        self.unproven = true;
        Ok(())
    }

    /// Shard threads may propose into what there is now; `written` bytes of what they had
    /// counted are in the log.
    fn publish_room(&mut self, written: u64) {
        let room = self.room();
        let written = i64::try_from(written).unwrap_or(i64::MAX);
        let more = room.ready_bytes - self.published.ready_bytes + written;
        self.shared.room.change(more);
        self.shared.room.set_free(room);
        self.published = room;
    }

    pub(super) fn room(&self) -> Room {
        Room::of(&self.log, self.entry_bytes)
    }

    fn prove(&mut self) -> Result<(), LogError> {
        if self.unproven {
            self.unproven = false;
            self.log.prove()?;
            self.publish_room(0);
        }
        Ok(())
    }

    fn prepare_file(&mut self, now_ms: u64) {
        let may_try = self.no_file_before_ms.is_none_or(|before| now_ms >= before);
        if may_try
            && let Some(job) = self.log.prepare_pool_file()
            && watch::send(&self.pool, Role::Pool, job).is_err()
        {
            tracing::debug!("the pool thread has ended: the node is stopping");
        }
    }

    fn keep_house(&mut self, now_ms: u64) -> Result<(), LogError> {
        let accepting = self.check_space();
        let flush_waits = self
            .flush_waits_until_ms
            .is_some_and(|until| now_ms < until);
        let waits = flush_waits || !self.round.is_empty();
        let no_file = self.no_file_before_ms.is_some();
        self.tell_full(round::is_disk_full(
            accepting,
            waits,
            no_file,
            self.room(),
            self.entry_bytes,
        ));
        let stats = self.log.stats();
        let percent = stats.live_bytes.saturating_mul(100) / stats.budget_bytes.max(1);
        let load = &self.shared.load.log_percent;
        load.store(percent, Ordering::Relaxed);
        self.want_flushes();
        self.copy_forward()?;
        self.log.reclaim()?;
        self.publish_room(0);
        Ok(())
    }

    fn check_space(&mut self) -> bool {
        match self.log.check_space() {
            Ok(space) => space.accepting,
            Err(error) => {
                tracing::warn!(%error, "the disk does not say how much is free");
                true
            }
        }
    }

    fn tell_full(&self, full: bool) {
        if self.shared.disk_full.swap(full, Ordering::AcqRel) != full {
            tracing::warn!(full, "writers are told whether the disk has room");
            for thread in 0..self.shared.threads() {
                self.shared.send_to_thread(thread, ToThread::DiskFull(full));
            }
        }
    }

    fn flush_behind(&self) -> u64 {
        let budget_bytes = self.log.stats().budget_bytes;
        round::flush_behind(budget_bytes, self.room(), self.shared.room.capacity())
    }

    fn want_flushes(&mut self) {
        self.looked_at_files = self.log.stats().live_files;
        for pin in self.log.pins(self.flush_behind()) {
            if !self.stuck.contains(&pin.key) {
                self.shared.want_flush(ShardId(pin.key.shard));
            }
        }
    }

    /// See [`round::is_stuck`].
    fn copy_forward(&mut self) -> Result<(), LogError> {
        if self.stuck.is_empty() {
            return Ok(());
        }
        let oldest = self.log.pins_of_oldest();
        let old = self.log.pins(self.flush_behind());
        let file_bytes = self.log.stats().file_bytes;
        if !round::is_stuck(&oldest, &old, &self.stuck) || !self.copies.take(file_bytes) {
            return Ok(());
        }
        match self.log.copy_forward(&self.stuck) {
            Ok(copied) => {
                let (entries, damaged) = (copied.records, copied.damaged.len());
                tracing::info!(
                    entries,
                    damaged,
                    "entries of shards that are down were kept"
                );
                self.unproven = true;
                Ok(())
            }
            // There is no file for the copies: they stay where they are.
            Err(LogError::DiskFull { .. } | LogError::Full { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn count(&self, took: Duration, entries: usize, bytes: u64) {
        let metrics = &self.shared.metrics;
        metrics.log_sync_seconds.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "for a histogram")]
        {
            metrics.log_batch_entries.observe(entries as f64);
            metrics.log_batch_bytes.observe(bytes as f64);
        }
    }

    fn trace(&mut self, bytes: u64) {
        if let Some(trace) = &mut self.trace
            && let Err(error) = writeln!(trace, "{bytes}").and_then(|()| trace.flush())
        {
            tracing::warn!(%error, "the trace of log writes ends here");
            self.trace = None;
        }
    }
}

#[cfg(test)]
impl LogThread {
    pub(super) fn stats(&self) -> logstore::engine::LogStats {
        self.log.stats()
    }
}

/// Prepares log files, away from everybody. A file that cannot be prepared is one
/// less: no failure of the node.
pub(super) fn prepare_files(jobs: &Receiver<PrepareFile>, log: &Sender<ToLog>) {
    while let Ok(job) = watch::receive(jobs) {
        let prepared = ToLog::Prepared(job.run());
        if watch::send(log, Role::Log, prepared).is_err() {
            return;
        }
    }
}
