//! What the tests write, and how they compare what they find.

use logstore::{
    engine::{Append, Log, Options},
    log_index::{LogEntry, LogIndex},
    replicas::ReplicaKey,
};
use std::ops::RangeInclusive;

/// Files so small that a few commits fill one.
pub(crate) fn small() -> Options {
    Options {
        file_bytes: 64 << 10,
        pool_files: 1,
        budget_bytes: 640 << 10,
        stop_free_bytes: 0,
        resume_free_bytes: 0,
        scan_threads: 1,
        log_id: 0x10_C0DE,
        ..Options::default()
    }
}

pub(crate) fn key(shard: u16, replica: u32) -> ReplicaKey {
    ReplicaKey { shard, replica }
}

/// Creates a replica of a shard.
pub(crate) fn create(log: &mut Log, shard: u16) -> ReplicaKey {
    let key = key(shard, log.next_replica());
    log.commit(&[Append::CreateReplica { key }]).unwrap();
    key
}

/// Entries whose content follows from shard, position and term, 40 to 340 bytes.
pub(crate) fn entries(key: ReplicaKey, positions: RangeInclusive<u64>, term: u64) -> Append {
    let entries = positions
        .map(|position| entry(key.shard, position, term))
        .collect();
    Append::Entries { key, entries }
}

pub(crate) fn entry(shard: u16, position: u64, term: u64) -> LogEntry {
    let length = 40 + (position * 131 + term * 17 + u64::from(shard)) % 300;
    let mut payload = format!("{shard}/{position}@{term} ").into_bytes();
    payload.resize(usize::try_from(length).unwrap(), (position % 251) as u8);
    LogEntry {
        position,
        term,
        kind: (position % 3) as u8,
        payload: payload.into(),
    }
}

/// All entries of a log.
pub(crate) fn contents(log: &LogIndex) -> Vec<LogEntry> {
    log.entries(0, u64::MAX, u64::MAX)
}

/// What the log thread commits when a shard was flushed up to a position and needs no
/// entries before it.
pub(crate) fn flushed(key: ReplicaKey, position: u64, term: u64) -> [Append; 2] {
    let segments = Append::Segments {
        key,
        position,
        term,
        added: Vec::new(),
        removed: Vec::new(),
    };
    let compacted = Append::CompactedTo {
        key,
        position,
        term,
    };
    [segments, compacted]
}

/// One entry with a payload of so many bytes.
pub(crate) fn sized(key: ReplicaKey, position: u64, bytes: usize) -> Append {
    let entry = LogEntry {
        position,
        term: 1,
        kind: 0,
        payload: vec![7; bytes].into(),
    };
    Append::Entries {
        key,
        entries: vec![entry],
    }
}
