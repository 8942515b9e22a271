//! How the shards of a node are, as `/v1/cluster` and `/readyz` say it.

use chat_core::{host::ShardStatus, placement::map::ShardMap};
use chat_wire::ids::NodeId;
use serde::Serialize;

use crate::metrics::{Metrics, Thread};

/// When the log has had no room for so long, the node is not ready. A full disk is: it
/// serves reads.
const NO_ROOM_MS: u64 = 5_000;

/// How a node is.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Which node, in hexadecimal.
    pub node: String,
    /// The epoch of the shard map.
    pub epoch: u32,
    /// The cluster's generation; 0 before a shard knows it.
    pub generation: u32,
    /// All shards serve, none is damaged or stopped.
    pub ready: bool,
    /// Writers are told to wait.
    pub disk_full: bool,
    /// Set when the node is ending because a write failed.
    pub failed: Option<String>,
    /// One a shard, by its number.
    pub shards: Vec<ShardReport>,
    /// Shards that are down until an operator acts, and why.
    pub down: Vec<DownShard>,
    /// Shard threads that did not answer in time.
    pub silent_threads: usize,
}

/// How a shard is. Positions are those of its log.
#[derive(Clone, Debug, Serialize)]
pub struct ShardReport {
    /// Which.
    pub shard: u16,
    /// Its copy here, in hexadecimal.
    pub replica: String,
    /// The shard thread that owns it.
    pub thread: u32,
    /// Requests are served.
    pub serves: bool,
    /// Raft's term.
    pub term: u64,
    /// The last position.
    pub last: u64,
    /// The last committed position.
    pub committed: u64,
    /// The last applied position.
    pub applied: u64,
    /// The last position that segments hold.
    pub flushed: u64,
    /// Commands that wait to be proposed.
    pub queued: usize,
    /// Attached sessions.
    pub sessions: usize,
    /// Entries of outboxes that are not confirmed.
    pub outbox_entries: u64,
    /// Age of the oldest of them, in ms.
    pub outbox_age_ms: u64,
    /// For how long the slowest connected device has not taken its next event, in ms.
    pub inbox_lag_ms: u64,
    /// For how long requests have found no room in the log, in ms.
    pub no_room_ms: u64,
    /// Why it stopped, if it did.
    pub stopped: Option<String>,
}

/// A shard that does not serve.
#[derive(Clone, Debug, Serialize)]
pub struct DownShard {
    /// Which.
    pub shard: u16,
    /// Why, and what to do.
    pub reason: String,
}

impl NodeStatus {
    /// `threads` has what each shard thread answered; none if it did not.
    pub(super) fn new(
        node: NodeId,
        map: &ShardMap,
        threads: Vec<Option<Vec<ShardStatus>>>,
        down: Vec<DownShard>,
        failed: Option<String>,
        disk_full: bool,
    ) -> Self {
        let silent_threads = threads.iter().filter(|answer| answer.is_none()).count();
        let mut generation = 0;
        let mut shards = Vec::new();
        for (thread, statuses) in (0..).zip(threads) {
            for status in statuses.unwrap_or_default() {
                generation = generation.max(status.generation);
                shards.push(ShardReport::new(thread, status));
            }
        }
        shards.sort_by_key(|report| report.shard);
        let ready = silent_threads == 0
            && failed.is_none()
            && down.is_empty()
            && shards.iter().all(|report| {
                report.serves && report.stopped.is_none() && report.no_room_ms < NO_ROOM_MS
            });
        Self {
            node: format!("{:016x}", node.0),
            epoch: map.epoch,
            generation,
            ready,
            disk_full,
            failed,
            shards,
            down,
            silent_threads,
        }
    }

    /// Sets the gauges that follow from it.
    pub(super) fn show(&self, metrics: &Metrics) {
        let mut threads: Vec<_> = self.shards.iter().map(|report| report.thread).collect();
        threads.sort_unstable();
        threads.dedup();
        for thread in threads {
            let label = Thread { thread };
            let reports = || self.shards.iter().filter(|report| report.thread == thread);
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let lag = reports()
                .map(|report| report.inbox_lag_ms)
                .max()
                .unwrap_or(0);
            let entries = reports().map(|report| report.outbox_entries).sum();
            let age = reports()
                .map(|report| report.outbox_age_ms)
                .max()
                .unwrap_or(0);
            metrics.inbox_lag_ms.get_or_create(&label).set(gauge(lag));
            metrics
                .outbox_entries
                .get_or_create(&label)
                .set(gauge(entries));
            metrics
                .outbox_oldest_ms
                .get_or_create(&label)
                .set(gauge(age));
        }
    }
}

impl ShardReport {
    fn new(thread: u32, status: ShardStatus) -> Self {
        Self {
            shard: status.shard.0,
            replica: format!("{:016x}", status.replica.0),
            thread,
            serves: status.serves,
            term: status.term,
            last: status.last,
            committed: status.committed,
            applied: status.applied,
            flushed: status.flushed,
            queued: status.queued,
            sessions: status.sessions,
            outbox_entries: status.outbox_entries,
            outbox_age_ms: status.outbox_age_ms,
            inbox_lag_ms: status.inbox_lag_ms,
            no_room_ms: status.no_room_ms,
            stopped: status.stopped,
        }
    }
}
