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

use super::{Shared, thread::ToThread};
use crate::watch::{self, Role};

/// Requests merged into one commit.
const MERGED: usize = 256;
/// After a burst the last frame is proven durable by an empty one.
const PROVE_AFTER: Duration = Duration::from_millis(5);
/// How often entries that found no room are offered again.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// How often the log looks after its room: free space, old files, whom to flush.
const HOUSEKEEPING: Duration = Duration::from_millis(250);

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
    /// A flush found the disk full: give something up for it.
    RoomForFlush,
    /// A log file was prepared.
    Prepared(io::Result<PreparedFile>),
    /// Sync and end.
    Stop,
}

/// What one pass of a shard thread wants durable.
#[derive(Default)]
pub(super) struct Commit {
    pub(super) thread: usize,
    pub(super) appends: Vec<Append>,
    pub(super) readies: Vec<(ShardId, u64)>,
    /// Nothing but what leaders begin with, which is taken on a full disk, too.
    pub(super) begins: bool,
}

/// Owns the log.
pub(super) struct LogThread {
    pub(super) log: Log,
    pub(super) queue: Receiver<ToLog>,
    pub(super) pool: Sender<PrepareFile>,
    pub(super) shared: Arc<Shared>,
    /// Replicas that are never stepped: they cannot be flushed.
    pub(super) stuck: Vec<ReplicaKey>,
    /// Writes down the size of each write, to be replayed on a bare file.
    pub(super) trace: Option<BufWriter<File>>,
    /// What found no room. Shard threads bound what they have under way.
    pub(super) held: Round,
    /// A log file could not be prepared: none is tried before.
    pub(super) no_file_before: Option<Instant>,
    pub(super) unproven: bool,
}

/// What is committed together, and who hears of it.
#[derive(Default)]
pub(super) struct Round {
    appends: Vec<Append>,
    persisted: Vec<(usize, Vec<(ShardId, u64)>)>,
    flushed: Vec<(usize, ShardId, Box<Flushed>)>,
}

impl Round {
    /// Something of one of these shards is in it.
    fn has(&self, shards: &[(ShardId, u64)]) -> bool {
        let mut readies = self.persisted.iter().flat_map(|(_, readies)| readies);
        readies.any(|(shard, _)| shards.iter().any(|(other, _)| other == shard))
    }

    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.persisted.is_empty() && self.flushed.is_empty()
    }
}

impl LogThread {
    /// Runs until it is told to stop, or a write or sync fails: then nothing more is
    /// acknowledged, and the node ends.
    pub(super) fn run(mut self) {
        if let Err(error) = self.serve() {
            self.shared
                .fail(format!("the log cannot be written: {error}"));
        }
    }

    fn serve(&mut self) -> Result<(), LogError> {
        let mut kept_house = Instant::now();
        loop {
            let wait = match (self.unproven, self.held.is_empty()) {
                (true, _) => PROVE_AFTER,
                (false, false) => FULL_RETRY,
                (false, true) => HOUSEKEEPING,
            };
            // What needs room, and what frees it: the second is never held up.
            let (mut entries, mut control) = (Round::default(), Round::default());
            let mut stop = false;
            match watch::receive_within(&self.queue, wait) {
                Ok(to) => stop |= self.take(to, &mut entries, &mut control),
                Err(RecvTimeoutError::Timeout) => self.prove()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            for _ in 1..MERGED {
                let Ok(to) = self.queue.try_recv() else { break };
                stop |= self.take(to, &mut entries, &mut control);
            }
            self.round(entries, control)?;
            if kept_house.elapsed() >= HOUSEKEEPING {
                self.keep_house()?;
                kept_house = Instant::now();
            }
            if stop {
                return self.prove();
            }
        }
    }

    /// True if it says stop.
    fn take(&mut self, to: ToLog, entries: &mut Round, control: &mut Round) -> bool {
        match to {
            ToLog::Commit(mut commit) => {
                // Never before what the same shard wanted durable earlier.
                let first = !entries.has(&commit.readies) && !self.held.has(&commit.readies);
                let round = if commit.begins && first {
                    control
                } else {
                    entries
                };
                round.appends.append(&mut commit.appends);
                round.persisted.push((commit.thread, commit.readies));
            }
            ToLog::Segments {
                thread,
                shard,
                flushed,
            } => {
                control.appends.push(Append::Segments {
                    key: flushed.key,
                    position: flushed.position,
                    term: flushed.term,
                    added: flushed.added(),
                    removed: Vec::new(),
                });
                control.flushed.push((thread, shard, flushed));
            }
            ToLog::Compacted {
                key,
                position,
                term,
            } => {
                control.appends.push(Append::CompactedTo {
                    key,
                    position,
                    term,
                });
            }
            ToLog::RoomForFlush => match self.log.give_up_ballast() {
                Ok(given) => tracing::warn!(given, "the disk is full: a flush needs room"),
                Err(error) => tracing::error!(%error, "ballast cannot be given up"),
            },
            ToLog::Prepared(result) => {
                let before = self.no_file_before.take();
                if let Err(error) = &result {
                    self.no_file_before = Some(Instant::now() + HOUSEKEEPING);
                    if before.is_none() {
                        tracing::warn!(%error, "a log file cannot be prepared; tried again until it can");
                    }
                }
                self.log.prepared(result);
            }
            ToLog::Stop => return true,
        }
        false
    }

    fn round(&mut self, entries: Round, mut control: Round) -> Result<(), LogError> {
        let frees_room = !control.is_empty();
        if self.held.is_empty() {
            // The common case: one write and one sync for everything. Control comes first:
            // what a leader begins with stands before all that it goes on with.
            let own = control.appends.len();
            control.appends.extend(entries.appends);
            match self.commit(&control.appends) {
                Ok(()) => {
                    control.persisted.extend(entries.persisted);
                    self.tell(control);
                }
                Err(LogError::DiskFull { .. } | LogError::Full { .. }) => {
                    self.held.appends = control.appends.split_off(own);
                    self.held.persisted = entries.persisted;
                    self.commit(&control.appends)?;
                    self.tell(control);
                    self.tell_full(true);
                    self.want_flushes(0);
                }
                Err(error) => return Err(error),
            }
        } else {
            self.held.appends.extend(entries.appends);
            self.held.persisted.extend(entries.persisted);
            self.commit(&control.appends)?;
            self.tell(control);
            self.log.reclaim()?;
            self.offer_held()?;
        }
        if frees_room {
            self.log.reclaim()?;
        }
        let may_try = self
            .no_file_before
            .is_none_or(|before| Instant::now() >= before);
        if may_try
            && let Some(job) = self.log.prepare_pool_file()
            && watch::send(&self.pool, Role::Pool, job).is_err()
        {
            tracing::debug!("the pool thread has ended: the node is stopping");
        }
        Ok(())
    }

    fn offer_held(&mut self) -> Result<(), LogError> {
        let held = std::mem::take(&mut self.held);
        match self.commit(&held.appends) {
            Ok(()) => {
                self.tell(held);
                let full = !self.check_space();
                self.tell_full(full);
                Ok(())
            }
            Err(LogError::DiskFull { .. } | LogError::Full { .. }) => {
                self.held = held;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn commit(&mut self, appends: &[Append]) -> Result<(), LogError> {
        if appends.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let committed = self.log.commit(appends)?;
        self.count(
            started.elapsed(),
            appends.iter().map(entries_in).sum(),
            committed.bytes,
        );
        self.trace(committed.bytes);
        self.unproven = true;
        Ok(())
    }

    fn tell(&self, round: Round) {
        for (thread, readies) in round.persisted {
            self.shared
                .send_to_thread(thread, ToThread::Persisted(readies));
        }
        for (thread, shard, flushed) in round.flushed {
            self.shared
                .send_to_thread(thread, ToThread::Flushed(shard, flushed));
        }
    }

    fn prove(&mut self) -> Result<(), LogError> {
        if self.unproven {
            self.unproven = false;
            self.log.prove()?;
        }
        Ok(())
    }

    fn keep_house(&mut self) -> Result<(), LogError> {
        let accepting = self.check_space();
        self.tell_full(!accepting || !self.held.is_empty());
        let stats = self.log.stats();
        self.want_flushes(stats.budget_bytes / 2);
        // Replicas that nobody steps keep old files; near the bound they are moved.
        let near = stats.live_bytes >= stats.budget_bytes / 4 * 3;
        if near && !self.stuck.is_empty() {
            self.log.copy_forward(&self.stuck)?;
        }
        self.log.reclaim()?;
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

    fn want_flushes(&self, behind_bytes: u64) {
        for pin in self.log.pins(behind_bytes) {
            let shard = ShardId(pin.key.shard);
            if !self.stuck.contains(&pin.key) {
                let thread = self.shared.thread_of(shard);
                self.shared
                    .send_to_thread(thread, ToThread::FlushWanted(shard));
            }
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

fn entries_in(append: &Append) -> usize {
    match append {
        Append::Entries { entries, .. } => entries.len(),
        _ => 0,
    }
}
