//! A shard thread: owns its shards outright, takes events from one bounded queue,
//! steps the host, and carries out what it says. No locks; the waits are for the queue
//! and, when the disk is behind, for the log. Pages that are not in memory are read by
//! the reader threads first.
//!
//! The queue is shared by sessions, other shard threads and the log thread, so that
//! one wait serves them all. Only the log thread must never find it full: sessions
//! and shards stop at [`SESSION_EVENTS`] and [`SHARD_EVENTS`], and what the log
//! thread owes is bounded by [`COMMITS_IN_FLIGHT`] a thread, and what the readers owe by
//! [`MAX_WARMING`](chat_core::host::MAX_WARMING), which fits above.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chat_core::{
    host::{Counters, Effect, Event, Host, HostError, Lookup, ShardStatus},
    message::{Now, ShardMessage, ToShard},
    store::ShardStore as _,
};
use chat_wire::ids::{NodeId, ShardId};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use logstore::{
    engine::Append,
    flush::Flushed,
    log_index::{HardState, LogEntry},
    replicas::ReplicaKey,
    shard::Shard,
};

use crate::{
    clock,
    watch::{self, Role},
};

use super::{
    Shared,
    commit::{Commit, ToLog},
    flusher::{Flush, ToFlusher},
    log::RaftStore,
    opening,
    readers::Warm,
    renewal::Renewal,
    walk::{WalkPage, WalkRequest},
};

/// Events of sessions in a queue; one more is given back: OVERLOADED.
pub(super) const SESSION_EVENTS: usize = 16 * 1024;
/// Above this messages between shards are dropped: they are sent again.
pub(super) const SHARD_EVENTS: usize = 24 * 1024;
/// The length of a queue.
pub(super) const QUEUE_EVENTS: usize = 25 * 1024;
/// Commits a thread has under way; above it takes events but steps no shard.
pub(super) const COMMITS_IN_FLIGHT: usize = 64;
/// At its end a thread waits for its commits for so long: a disk that takes nothing must not
/// keep the node.
const STOP_AT_MOST_MS: u64 = 5_000;
/// Events taken before the shards are stepped: larger batches cost latency.
const EVENTS_A_PASS: usize = 1024;

/// Shards of a thread that are flushed at once when memory is short.
const FLUSHED_AT_ONCE: usize = 8;
/// Those that hold less than this are not: a flush costs more than it frees.
const SHORT_FLUSH_BYTES: u64 = 256 * 1024;

/// What a shard thread is told.
pub(super) enum ToThread {
    /// By a session.
    Session(ToShard),
    /// By a shard.
    Shard(Box<ShardMessage>),
    /// By the log thread: these readies are durable.
    Persisted(Vec<(ShardId, u64)>),
    /// By the log thread: these segments are committed.
    Flushed(ShardId, Box<Flushed>),
    /// By the flush thread: the disk was full, try again.
    FlushAgain(ShardId),
    /// By the flush thread: what was frozen cannot be written, and why.
    CannotFlush(ShardId, String),
    /// By a reader thread: what a read of this shard needs is in memory.
    Warmed(ShardId, u64),
    /// By the log thread: its budget needs this shard flushed.
    FlushWanted(ShardId),
    /// By the log thread: the disk is full, or no longer.
    DiskFull(bool),
    /// Somebody wants to know how old the queue is, asked at this time.
    Age(u64),
    /// Memory is short: the largest memtables are flushed.
    MemoryShort,
    /// How the shards are.
    Status(Sender<Vec<ShardStatus>>),
    /// The next page of the sampled walk.
    Walk(WalkRequest, Sender<WalkPage>),
    /// Finish what is under way, and end.
    Stop,
}

/// Owns what a shard thread works with.
pub(super) struct Thread {
    pub(super) index: usize,
    pub(super) host: Host<RaftStore>,
    pub(super) queue: Receiver<ToThread>,
    pub(super) log: Sender<ToLog>,
    pub(super) flusher: Sender<ToFlusher>,
    pub(super) readers: Sender<Warm>,
    pub(super) shared: Arc<Shared>,
    /// How the engine names each shard's replica.
    pub(super) replicas: HashMap<ShardId, ReplicaKey>,
    /// Shards with a flush under way: one at a time each.
    pub(super) flushing: HashSet<ShardId>,
    pub(super) commits_in_flight: usize,
    pub(super) effects: Vec<Effect>,
    /// What the metrics know of the host's counters.
    pub(super) counted: Counters,
    /// What is owed after accepted losses; empty but at a start.
    pub(super) renewals: Vec<Renewal>,
}

impl Thread {
    /// Takes a shard over, before it runs.
    pub(super) fn own(&mut self, shard: Shard, node: NodeId) -> Result<(), HostError> {
        let key = shard.key();
        let id = ShardId(key.shard);
        let replica = opening::replica_id(node, key);
        self.replicas.insert(id, key);
        let store = RaftStore::new(shard, replica);
        self.host.add_shard(id, replica, store, clock::now())
    }

    /// Runs until it is told to stop, or the node fails.
    pub(super) fn run(mut self) {
        let mut stop_by_ms: Option<u64> = None;
        self.step(clock::now());
        loop {
            let mut stop = false;
            match watch::receive_within(&self.queue, self.wait()) {
                Ok(event) => stop |= self.take(clock::now(), event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for _ in 1..EVENTS_A_PASS {
                let Ok(event) = self.queue.try_recv() else {
                    break;
                };
                stop |= self.take(clock::now(), event);
            }
            let now = clock::now();
            if stop {
                self.host.finish();
                stop_by_ms = Some(now.mono_ms + STOP_AT_MOST_MS);
            }
            if self.shared.failed.load(Ordering::Acquire) {
                return;
            }
            self.step(now);
            if let Some(by_ms) = stop_by_ms {
                if self.commits_in_flight == 0 {
                    return;
                }
                if now.mono_ms >= by_ms {
                    let commits = self.commits_in_flight;
                    tracing::warn!(commits, "the disk is behind: what it has not taken is left");
                    return;
                }
            }
        }
    }

    /// One pass over the shards.
    pub(super) fn step(&mut self, now: Now) {
        self.step_shards(now);
        // Before the next event is taken: a shard that leads since this pass has served
        // nothing yet.
        if !self.renewals.is_empty() {
            let host = &mut self.host;
            self.renewals
                .retain_mut(|renewal| !renewal.advance(now, host));
        }
    }

    fn wait(&self) -> Duration {
        let now = clock::now();
        let due = self.host.deadline_ms().unwrap_or(now.mono_ms + 1000);
        Duration::from_millis(due.saturating_sub(now.mono_ms).min(1000))
    }

    /// Hands an event to the host. True if it says stop.
    pub(super) fn take(&mut self, now: Now, event: ToThread) -> bool {
        match event {
            ToThread::Session(to) => self.host.step(now, Event::Session(to)),
            ToThread::Shard(message) => self.host.step(now, Event::Shard(*message)),
            ToThread::Persisted(readies) => {
                self.commits_in_flight -= 1;
                for (shard, ready) in readies {
                    self.host.step(now, Event::Persisted { shard, ready });
                }
            }
            ToThread::Flushed(shard, flushed) => self.install(now, shard, *flushed),
            ToThread::FlushAgain(shard) => {
                self.flushing.remove(&shard);
                self.flush(shard);
            }
            ToThread::CannotFlush(shard, reason) => {
                self.host.step(now, Event::CannotFlush { shard, reason });
            }
            ToThread::Warmed(shard, ticket) => {
                self.host.step(now, Event::Warmed { shard, ticket });
            }
            ToThread::FlushWanted(shard) => self.host.step(now, Event::FlushWanted { shard }),
            ToThread::DiskFull(full) => self.host.step(now, Event::DiskFull(full)),
            ToThread::Age(asked_ms) => {
                let age_ms = now.mono_ms.saturating_sub(asked_ms);
                self.shared
                    .load
                    .queue_ms
                    .fetch_max(age_ms, Ordering::Relaxed);
            }
            ToThread::MemoryShort => self.flush_largest(now),
            // Whoever asked may have gone meanwhile.
            ToThread::Status(answer) => drop(answer.try_send(self.host.status())),
            ToThread::Walk(request, answer) => {
                let page = match self.host.store(request.shard) {
                    Some(store) => request.read(store),
                    None => WalkPage::default(),
                };
                drop(answer.try_send(page));
            }
            ToThread::Stop => return true,
        }
        false
    }

    /// The segments are committed: they take the place of the memtable, and the log
    /// below them is not needed any more.
    fn install(&mut self, now: Now, shard: ShardId, flushed: Flushed) {
        self.flushing.remove(&shard);
        let Some(store) = self.host.store_mut(shard) else {
            return;
        };
        let Flushed {
            key,
            position,
            term,
            ..
        } = flushed;
        let shard_store = store.shard_mut();
        let retired = shard_store.install(flushed);
        shard_store.log_mut().compact_to(position, term);
        self.send_to_log(ToLog::Compacted {
            key,
            position,
            term,
        });
        // With a full queue, or at the end, it is freed here and now.
        drop(self.flusher.try_send(ToFlusher::Free(retired)));
        self.host.step(now, Event::Flushed { shard });
        self.flush(shard);
    }

    fn step_shards(&mut self, now: Now) {
        if self.commits_in_flight >= COMMITS_IN_FLIGHT {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        self.host.lend(self.shared.room.lend());
        self.host.poll(now, &mut effects);
        self.shared.room.give_back(self.host.give_back());
        let mut commit = Commit {
            thread: self.index,
            ..Commit::default()
        };
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist {
                    shard,
                    ready,
                    entries,
                    hard_state,
                    ..
                } => {
                    self.collect(&mut commit, shard, ready, entries, hard_state);
                }
                Effect::ToSession { session, message } => {
                    // A session that is gone needs nothing any more.
                    let _sent: bool = self.shared.sessions.send(session, message);
                }
                Effect::ToShard(message) => self.shared.send_to_shard(message),
                Effect::Flush { shard, .. } => self.flush(shard),
                Effect::Warm {
                    shard,
                    ticket,
                    lookup,
                } => self.warm(now, shard, ticket, lookup),
                Effect::Stop { shard, reason } => {
                    self.shared.shard_stopped(shard, reason);
                    self.send_to_log(ToLog::Stuck(self.replicas[&shard]));
                }
            }
        }
        self.effects = effects;
        if !commit.readies.is_empty() {
            self.commits_in_flight += 1;
            self.send_to_log(ToLog::Commit(commit));
        }
        self.count();
    }

    fn count(&mut self) {
        let (now, before) = (self.host.counters(), &self.counted);
        let metrics = &self.shared.metrics;
        metrics
            .messages_acknowledged
            .inc_by(now.acknowledged - before.acknowledged);
        metrics
            .messages_delivered
            .inc_by(now.delivered - before.delivered);
        metrics
            .duplicates_suppressed
            .inc_by(now.duplicates - before.duplicates);
        metrics
            .cold_reads
            .inc_by(now.cold_reads - before.cold_reads);
        metrics
            .cold_reads_again
            .inc_by(now.cold_again - before.cold_again);
        self.counted.clone_from(now);
    }

    fn collect(
        &self,
        commit: &mut Commit,
        shard: ShardId,
        ready: u64,
        entries: Vec<chat_core::store::LogEntry>,
        hard_state: Option<chat_core::store::HardState>,
    ) {
        let key = self.replicas[&shard];
        if !entries.is_empty() {
            let entries = entries
                .into_iter()
                .map(|entry| LogEntry {
                    position: entry.position,
                    term: entry.term,
                    kind: entry.kind,
                    payload: entry.payload,
                })
                .collect();
            commit.appends.push(Append::Entries { key, entries });
        }
        if let Some(state) = hard_state {
            commit.appends.push(Append::HardState {
                key,
                state: HardState {
                    term: state.term,
                    vote: state.vote,
                    commit: state.commit,
                },
            });
        }
        commit.readies.push((shard, ready));
    }

    /// Flushes the shards that hold most in memory, a few at a time: the flush thread writes
    /// one after the other.
    fn flush_largest(&mut self, now: Now) {
        let host = &self.host;
        let bytes = |shard: &ShardId| host.store(*shard).map_or(0, RaftStore::unflushed_bytes);
        let mut largest: Vec<_> = self.replicas.keys().map(|id| (bytes(id), *id)).collect();
        largest.retain(|(bytes, _)| *bytes >= SHORT_FLUSH_BYTES);
        largest.sort_unstable_by(|a, b| b.cmp(a));
        for (_, shard) in largest.into_iter().take(FLUSHED_AT_ONCE) {
            self.host.step(now, Event::FlushWanted { shard });
        }
    }

    fn flush(&mut self, shard: ShardId) {
        if self.flushing.contains(&shard) {
            return;
        }
        let Some(job) = self
            .host
            .store(shard)
            .and_then(|store| store.shard().flush_job())
        else {
            return;
        };
        self.flushing.insert(shard);
        let flush = Flush {
            thread: self.index,
            shard,
            job: Box::new(job),
        };
        if watch::send(&self.flusher, Role::Flush, ToFlusher::Flush(flush)).is_err() {
            tracing::debug!("the flush thread has ended: the node is stopping");
        }
    }

    /// The queue of the readers has room for all that a host may have on its way.
    fn warm(&mut self, now: Now, shard: ShardId, ticket: u64, lookup: Box<Lookup>) {
        let Some(store) = self.host.store(shard) else {
            return;
        };
        let warm = Warm {
            thread: self.index,
            shard,
            ticket,
            lookup,
            segments: store.shard().reader(),
        };
        if self.readers.try_send(warm).is_err() {
            tracing::error!("the reader threads have ended: a shard thread reads by itself");
            self.host.step(now, Event::Warmed { shard, ticket });
        }
    }

    fn send_to_log(&self, to: ToLog) {
        // The log thread ends first only when it has failed; then this thread does too.
        if watch::send(&self.log, Role::Log, to).is_err() {
            tracing::debug!("the log thread has ended: the node is stopping");
        }
    }
}
