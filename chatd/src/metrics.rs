//! What the daemon counts. Values are plain atomics that any thread raises; the
//! admin port writes them as text.
//!
//! Known limit: labels come from fixed sets (transports, close reasons, shard
//! threads), never from clients: the number of series is bounded.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    /// SEND received by a shard's proposer → its event written to a receiver's socket.
    pub delivery_seconds: Histogram,
    /// SENDs that were answered SENT, duplicates not counted.
    pub messages_acknowledged: Counter,
    /// Events that devices acknowledged.
    pub messages_delivered: Counter,
    /// Requests that had been carried out before and got their first answer.
    pub duplicates_suppressed: Counter,
    /// Messages the audit found missing.
    pub messages_lost: Counter,
    /// Sequence numbers the audit found missing.
    pub sequence_gaps: Counter,
    /// Events the audit read.
    pub audit_blocks: Counter,
    /// Inboxes the audit read.
    pub audit_inboxes: Counter,
    /// Of each shard thread: age of the oldest event a connected device has not got.
    pub inbox_lag_ms: Family<Thread, Gauge<i64, AtomicI64>>,
    /// Of each shard thread: events that connected devices have not got.
    pub inbox_lag_events: Family<Thread, Gauge<i64, AtomicI64>>,
    /// Of each shard thread: entries in its outboxes.
    pub outbox_entries: Family<Thread, Gauge<i64, AtomicI64>>,
    /// Of each shard thread: age of the oldest entry in its outboxes.
    pub outbox_oldest_ms: Family<Thread, Gauge<i64, AtomicI64>>,
    /// Of each shard thread: requests that found its queue full.
    pub shard_queue_full: Family<Thread, Counter>,
    /// Reads that waited until a reader thread had read what they need into memory.
    pub cold_reads: Counter,
    /// Of those, the ones that found it cold again: a shard thread waited for the disk.
    pub cold_reads_again: Counter,
    /// One `fdatasync` of the log.
    pub log_sync_seconds: Histogram,
    /// Bytes of one write of the log.
    pub log_batch_bytes: Histogram,
    /// Log entries in one write of the log.
    pub log_batch_entries: Histogram,
    /// Sessions that are open now.
    pub connections: Family<Transport, Gauge<i64, AtomicI64>>,
    /// Connections that were accepted.
    pub connections_opened: Family<Transport, Counter>,
    /// Connections that ended, by the reason.
    pub connections_closed: Family<Closed, Counter>,
    /// Connections that were not admitted, by the bound that was reached.
    pub connections_refused: Family<Reason, Counter>,
    /// Tokens that were checked, by the result.
    pub logins: Family<Reason, Counter>,
    /// Frames from clients.
    pub frames_received: Counter,
    /// Frames to clients.
    pub frames_sent: Counter,
    /// Opens that found no descriptor left, as the admin port read it last.
    pub descriptors_exhausted: Gauge<i64, AtomicI64>,
    /// Panics that ended one task, as of a connection.
    pub task_panics: Counter,
    /// Connections that have not shown a valid token yet.
    pub newcomers: Gauge<i64, AtomicI64>,
    /// Bytes that wait for clients.
    pub outbound_bytes: Gauge<i64, AtomicI64>,
}

/// A shard thread.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Thread {
    /// From 0.
    pub thread: u32,
}

/// How a connection came.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Transport {
    /// `websocket`, `websocket_tls` or `quic`.
    pub transport: &'static str,
}

/// Why a connection ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Closed {
    /// `websocket`, `websocket_tls` or `quic`.
    pub transport: &'static str,
    /// The name of an error code, `client`, `lost`, `panic`, `protocol` or `shutdown`.
    pub reason: &'static str,
}

/// A reason from a fixed set.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    /// Which.
    pub reason: &'static str,
}

/// Upper bounds in seconds, from 100 µs to 10 s in steps of 1, 2, 5.
const SECONDS: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0,
];
/// Upper bounds in bytes, from 512 B to 16 MiB.
const BYTES: &[f64] = &[
    512.0,
    2048.0,
    8192.0,
    32_768.0,
    131_072.0,
    524_288.0,
    2_097_152.0,
    8_388_608.0,
    16_777_216.0,
];
/// Upper bounds in entries.
const ENTRIES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("chatd"),
            delivery_seconds: Histogram::new(SECONDS),
            messages_acknowledged: Counter::default(),
            messages_delivered: Counter::default(),
            duplicates_suppressed: Counter::default(),
            messages_lost: Counter::default(),
            sequence_gaps: Counter::default(),
            audit_blocks: Counter::default(),
            audit_inboxes: Counter::default(),
            inbox_lag_ms: Family::default(),
            inbox_lag_events: Family::default(),
            outbox_entries: Family::default(),
            outbox_oldest_ms: Family::default(),
            shard_queue_full: Family::default(),
            cold_reads: Counter::default(),
            cold_reads_again: Counter::default(),
            log_sync_seconds: Histogram::new(SECONDS),
            log_batch_bytes: Histogram::new(BYTES),
            log_batch_entries: Histogram::new(ENTRIES),
            connections: Family::default(),
            connections_opened: Family::default(),
            connections_closed: Family::default(),
            connections_refused: Family::default(),
            logins: Family::default(),
            frames_received: Counter::default(),
            frames_sent: Counter::default(),
            descriptors_exhausted: Gauge::default(),
            task_panics: Counter::default(),
            newcomers: Gauge::default(),
            outbound_bytes: Gauge::default(),
        };
        metrics.register_messages();
        metrics.register_node();
        metrics.register_edge();
        metrics
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("a String takes what is written");
        text
    }

    fn register_messages(&mut self) {
        let registry = &mut self.registry;
        registry.register_with_unit(
            "delivery",
            "From the time in a message's number to its event written to a receiver's socket",
            Unit::Seconds,
            self.delivery_seconds.clone(),
        );
        registry.register(
            "messages_acknowledged",
            "SENDs answered SENT, without duplicates",
            self.messages_acknowledged.clone(),
        );
        registry.register(
            "messages_delivered",
            "Events acknowledged by devices",
            self.messages_delivered.clone(),
        );
        registry.register(
            "duplicates_suppressed",
            "Requests that came again and got their first answer",
            self.duplicates_suppressed.clone(),
        );
        registry.register(
            "messages_lost",
            "Messages that the audit found missing or unreadable",
            self.messages_lost.clone(),
        );
        registry.register(
            "sequence_gap",
            "Inbox sequence numbers that the audit found missing",
            self.sequence_gaps.clone(),
        );
        registry.register(
            "audit_blocks",
            "Events the audit read",
            self.audit_blocks.clone(),
        );
        registry.register(
            "audit_inboxes",
            "Inboxes the audit read",
            self.audit_inboxes.clone(),
        );
    }

    fn register_node(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "inbox_lag_ms",
            "Age of the oldest event that a connected device has not got, in ms",
            self.inbox_lag_ms.clone(),
        );
        registry.register(
            "inbox_lag_events",
            "Events that connected devices have not got",
            self.inbox_lag_events.clone(),
        );
        registry.register(
            "outbox_entries",
            "Entries in outboxes that their destination has not confirmed",
            self.outbox_entries.clone(),
        );
        registry.register(
            "outbox_oldest_ms",
            "Age of the oldest entry in outboxes, in ms",
            self.outbox_oldest_ms.clone(),
        );
        registry.register(
            "shard_queue_full",
            "Requests that found the queue of a shard thread full",
            self.shard_queue_full.clone(),
        );
        registry.register(
            "cold_reads",
            "Reads for which a reader thread read from the disk first",
            self.cold_reads.clone(),
        );
        registry.register(
            "cold_reads_again",
            "Reads that a shard thread had to wait for although a reader thread had read them",
            self.cold_reads_again.clone(),
        );
        registry.register_with_unit(
            "log_sync",
            "One fdatasync of the log",
            Unit::Seconds,
            self.log_sync_seconds.clone(),
        );
        registry.register(
            "log_batch_bytes",
            "Bytes of one write of the log",
            self.log_batch_bytes.clone(),
        );
        registry.register(
            "log_batch_entries",
            "Log entries in one write of the log",
            self.log_batch_entries.clone(),
        );
    }

    fn register_edge(&mut self) {
        let registry = &mut self.registry;
        registry.register("connections", "Connections now", self.connections.clone());
        registry.register(
            "connections_opened",
            "Connections accepted",
            self.connections_opened.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections ended, by reason",
            self.connections_closed.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections not admitted, by the bound that was reached",
            self.connections_refused.clone(),
        );
        registry.register("logins", "Tokens checked, by result", self.logins.clone());
        registry.register(
            "frames_received",
            "Frames from clients",
            self.frames_received.clone(),
        );
        registry.register("frames_sent", "Frames to clients", self.frames_sent.clone());
        registry.register(
            "newcomers",
            "Connections that have not shown a valid token yet",
            self.newcomers.clone(),
        );
        registry.register(
            "outbound_bytes",
            "Bytes that wait for clients to take them",
            self.outbound_bytes.clone(),
        );
        registry.register(
            "descriptors_exhausted",
            "Opens of the daemon's own files that found no descriptor left, since the start",
            self.descriptors_exhausted.clone(),
        );
        registry.register(
            "task_panics",
            "Panics that ended one task, as that of a connection",
            self.task_panics.clone(),
        );
    }
}

/// A histogram without a lock: deliveries are observed on every worker at once.
#[derive(Clone, Debug)]
pub struct Histogram(std::sync::Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// In millionths, so that it can be added to atomically.
    sum_millionths: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(std::sync::Arc::new(Buckets {
            bounds,
            counts,
            sum_millionths: AtomicU64::new(0),
        }))
    }

    /// One observation.
    pub fn observe(&self, value: f64) {
        self.observe_many(value, 1);
    }

    /// The same value, several times.
    pub fn observe_many(&self, value: f64, times: u64) {
        let at = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[at].fetch_add(times, Ordering::Relaxed);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float's cast saturates"
        )]
        let millionths = (value * 1e6) as u64;
        self.0
            .sum_millionths
            .fetch_add(millionths.saturating_mul(times), Ordering::Relaxed);
    }

    /// How many observations there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

impl EncodeMetric for Histogram {
    #[expect(clippy::cast_precision_loss, reason = "a metric's sum")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts: Vec<u64> = self
            .0
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        let sum = self.0.sum_millionths.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_written_with_its_name_and_a_histogram_counts_upwards() {
        let metrics = Metrics::new();
        metrics.delivery_seconds.observe(0.0004);
        metrics.delivery_seconds.observe_many(0.003, 2);
        metrics.messages_lost.inc();
        metrics
            .connections_closed
            .get_or_create(&Closed {
                transport: "quic",
                reason: "lost",
            })
            .inc();
        let text = metrics.encode();
        for line in [
            "chatd_delivery_seconds_bucket{le=\"0.0005\"} 1",
            "chatd_delivery_seconds_bucket{le=\"0.005\"} 3",
            "chatd_delivery_seconds_bucket{le=\"+Inf\"} 3",
            "chatd_delivery_seconds_sum 0.0064",
            "chatd_messages_lost_total 1",
            "chatd_sequence_gap_total 0",
            "chatd_connections_closed_total{transport=\"quic\",reason=\"lost\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
