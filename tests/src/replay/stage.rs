//! What all devices of one process share while they play: who is how far, and how long
//! deliveries take. Counters are atomic; times are kept in shards, so that thousands of
//! devices do not wait for one lock.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::Notify;

use super::{
    ledger::{Ledger, Record},
    plan::Plan,
};

/// Reasons for lost connections that are told apart.
const REASONS: usize = 200;
/// Shards of the delivery times.
const SHARDS: usize = 16;

/// A delivery: when, in ms after the start, and how long it took, in µs.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// After the start.
    pub at_ms: u32,
    /// From the sender's call to the receiver's hand.
    pub took_us: u32,
}

/// Shared by the devices of one process.
pub struct Stage {
    start: Instant,
    /// By line: when it was queued, in µs after the start, plus 1.
    queued_us: Vec<AtomicU64>,
    deliveries: Vec<Mutex<Vec<Delivery>>>,
    /// Answers so far, without events.
    outcomes: Mutex<Ledger>,
    /// Connections lost, by what the library says.
    lost: Mutex<BTreeMap<String, u64>>,
    /// Lines with a final answer.
    pub settled: AtomicU64,
    /// Lines refused.
    pub refused: AtomicU64,
    /// Operations answered.
    pub operations: AtomicU64,
    /// Messages taken, by person.
    seen: Vec<AtomicU32>,
    /// All of them.
    pub all_seen: AtomicU64,
    /// Something of the above changed.
    pub changed: Notify,
}

impl Stage {
    /// Before anybody plays.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self {
            start: Instant::now(),
            queued_us: plan.lines.iter().map(|_| AtomicU64::new(0)).collect(),
            outcomes: Mutex::default(),
            lost: Mutex::default(),
            deliveries: (0..SHARDS).map(|_| Mutex::default()).collect(),
            settled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            seen: plan.people.iter().map(|_| AtomicU32::new(0)).collect(),
            all_seen: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// When it began.
    #[must_use]
    pub const fn start(&self) -> Instant {
        self.start
    }

    /// A line is handed to the client.
    pub fn queued(&self, line: u32) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.queued_us[line as usize].store(now + 1, Relaxed);
    }

    /// Lines arrived at `person`; those of others are timed.
    pub fn arrived(&self, person: u32, lines: &[(u32, bool)]) {
        if lines.is_empty() {
            return;
        }
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let at_ms = u32::try_from(now / 1_000).unwrap_or(u32::MAX);
        let mut shard = self.deliveries[person as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (line, others) in lines {
            let queued = self.queued_us[*line as usize].load(Relaxed);
            // 0: queued by another process, whose clock is not ours.
            if *others && queued > 0 {
                let took_us = u32::try_from((now + 1).saturating_sub(queued)).unwrap_or(u32::MAX);
                shard.push(Delivery { at_ms, took_us });
            }
        }
        drop(shard);
        let count = u32::try_from(lines.len()).expect("batches are small");
        self.seen[person as usize].fetch_add(count, Relaxed);
        self.all_seen.fetch_add(u64::from(count), Relaxed);
        self.changed.notify_one();
    }

    /// What another process says of a person.
    pub fn set_seen(&self, person: u32, count: u32) {
        let before = self.seen[person as usize].swap(count, Relaxed);
        self.all_seen
            .fetch_add(u64::from(count.saturating_sub(before)), Relaxed);
        self.changed.notify_one();
    }

    /// Messages that `person` has.
    #[must_use]
    pub fn seen(&self, person: u32) -> u32 {
        self.seen[person as usize].load(Relaxed)
    }

    /// A line or an operation has its answer.
    pub fn answered(&self, record: Record) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.apply(record, &|_| false);
    }

    /// All answers so far.
    #[must_use]
    pub fn outcomes(&self) -> Ledger {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.answers()
    }

    /// A connection was lost.
    pub fn lost(&self, reason: String) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        // Reasons differ in numbers at most; more kinds than this are not told apart.
        if lost.len() < REASONS || lost.contains_key(&reason) {
            *lost.entry(reason).or_default() += 1;
        }
    }

    /// Why connections were lost, and how often.
    #[must_use]
    pub fn losses(&self) -> BTreeMap<String, u64> {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lines got a final answer.
    pub fn settle(&self, lines: u64, refused: u64) {
        self.settled.fetch_add(lines, Relaxed);
        self.refused.fetch_add(refused, Relaxed);
        self.changed.notify_one();
    }

    /// Operations got their answer.
    pub fn operated(&self, count: u64) {
        self.operations.fetch_add(count, Relaxed);
        self.changed.notify_one();
    }

    /// All delivery times, by when they were.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        let mut all = Vec::new();
        for shard in &self.deliveries {
            all.append(&mut shard.lock().unwrap_or_else(PoisonError::into_inner));
        }
        all.sort_unstable_by_key(|delivery| delivery.at_ms);
        all
    }
}
