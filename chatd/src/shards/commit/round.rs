//! What the log thread has been told and not yet made durable, and what follows from how
//! the log is. Sans-IO: the thread that writes is in `commit`.
//!
//! There is one round: everything in it is written together, in the order in which it
//! came, and nobody hears of it before. Nothing in it waits for the log's budget: shard
//! threads propose only what has room. When not even the reserve has a file, which takes a
//! full disk, the round stays as it is until there is one, and grows by what
//! shard threads may have under way.

use chat_wire::ids::ShardId;
use logstore::{
    engine::{Append, Pin},
    flush::Flushed,
    replicas::ReplicaKey,
};

use super::Commit;
use crate::shards::room::{ENTRY_COST, Room};

/// What is committed together, and who hears of it.
#[derive(Default)]
pub(super) struct Round {
    pub(super) appends: Vec<Append>,
    pub(super) persisted: Vec<(usize, Vec<(ShardId, u64)>)>,
    pub(super) flushed: Vec<(usize, ShardId, Box<Flushed>)>,
    /// The worst sizes of its entries, as they were counted when they were proposed.
    pub(super) counted_bytes: u64,
    /// Something in it lets files be reused.
    pub(super) frees_room: bool,
}

impl Round {
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.persisted.is_empty() && self.flushed.is_empty()
    }

    pub(super) fn take_commit(&mut self, mut commit: Commit) {
        self.counted_bytes += commit.appends.iter().map(counted_bytes).sum::<u64>();
        self.appends.append(&mut commit.appends);
        self.persisted.push((commit.thread, commit.readies));
    }

    pub(super) fn take_segments(&mut self, thread: usize, shard: ShardId, flushed: Box<Flushed>) {
        self.appends.push(Append::Segments {
            key: flushed.key,
            position: flushed.position,
            term: flushed.term,
            added: flushed.added(),
            removed: Vec::new(),
        });
        self.flushed.push((thread, shard, flushed));
    }

    pub(super) fn take_compacted(&mut self, key: ReplicaKey, position: u64, term: u64) {
        self.appends.push(Append::CompactedTo {
            key,
            position,
            term,
        });
        self.frees_room = true;
    }

    /// What it may take of the log at most, if that is known.
    pub(super) fn worst_bytes(&self) -> Option<u64> {
        let block = ENTRY_COST.block;
        let others = self.appends.len() as u64 * block;
        self.flushed
            .is_empty()
            .then_some(self.counted_bytes + others)
    }
}

/// The worst size of entries that go into the log together, as it was counted.
fn counted_bytes(append: &Append) -> u64 {
    match append {
        Append::Entries { entries, .. } => entries
            .iter()
            .map(|entry| ENTRY_COST.of(entry.payload.len()))
            .sum(),
        _ => 0,
    }
}

pub(super) fn entries_in(append: &Append) -> usize {
    match append {
        Append::Entries { entries, .. } => entries.len(),
        _ => 0,
    }
}

/// How far behind the end of the log a shard's oldest entry may fall before it is flushed.
///
/// A third of the budget: until all shards are flushed, one after the other, as much is
/// written again as the disk takes meanwhile, and that has more than half of the budget. When
/// little is left, nothing but the file being written may be kept.
pub(super) fn flush_behind(budget_bytes: u64, room: Room, capacity_bytes: u64) -> u64 {
    if room.budget_bytes < (capacity_bytes / 4).cast_signed() {
        0
    } else {
        budget_bytes / 3
    }
}

/// Entries of replicas that nobody steps, and so nobody flushes, are copied to the end of
/// the log when they alone keep the oldest file and the log would be flushed for it.
pub(super) fn is_stuck(oldest: &[Pin], old: &[Pin], stuck: &[ReplicaKey]) -> bool {
    let kept_by_stuck = !oldest.is_empty() && oldest.iter().all(|pin| stuck.contains(&pin.key));
    kept_by_stuck && !old.is_empty()
}

/// What copying may write. Copies free more than they take, but for replicas that hold
/// nearly all of the log it would go on for ever: so they take as much as others have
/// written, and one budget to begin with.
#[derive(Debug)]
pub(super) struct CopyAllowance {
    left_bytes: u64,
    budget_bytes: u64,
}

impl CopyAllowance {
    pub(super) const fn new(budget_bytes: u64) -> Self {
        Self {
            left_bytes: budget_bytes,
            budget_bytes,
        }
    }

    pub(super) fn written(&mut self, bytes: u64) {
        self.left_bytes = self.left_bytes.saturating_add(bytes).min(self.budget_bytes);
    }

    /// Whether a file of this size may be copied.
    pub(super) fn take(&mut self, file_bytes: u64) -> bool {
        let left = self.left_bytes.checked_sub(file_bytes);
        self.left_bytes = left.unwrap_or(self.left_bytes);
        left.is_some()
    }
}

/// Whether writers are told that the disk is full: by its thresholds, because a flush found
/// it so or not even the reserve has a file, or because no file can be made and those that
/// are there are used up.
pub(super) const fn is_disk_full(
    accepting: bool,
    waits: bool,
    no_file: bool,
    room: Room,
    entry_bytes: u64,
) -> bool {
    !accepting || waits || (no_file && room.ready_bytes < entry_bytes.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use logstore::log_index::{HardState, LogEntry};

    const A: ReplicaKey = ReplicaKey {
        shard: 1,
        replica: 1,
    };
    const B: ReplicaKey = ReplicaKey {
        shard: 2,
        replica: 2,
    };

    fn room(ready_bytes: i64, budget_bytes: i64) -> Room {
        Room {
            ready_bytes,
            budget_bytes,
        }
    }

    fn entry(position: u64, bytes: usize) -> LogEntry {
        LogEntry {
            position,
            term: 1,
            kind: 0,
            payload: vec![0; bytes].into(),
        }
    }

    #[test]
    fn a_round_keeps_the_order_and_counts_its_entries_as_they_were_counted_when_proposed() {
        let mut round = Round::default();
        assert!(round.is_empty());
        for (thread, bytes) in [(0, 0), (1, 5_000), (0, 100)] {
            round.take_commit(Commit {
                thread,
                appends: vec![
                    Append::Entries {
                        key: A,
                        entries: vec![entry(1, bytes)],
                    },
                    Append::HardState {
                        key: A,
                        state: HardState::default(),
                    },
                ],
                readies: vec![(ShardId(1), bytes as u64)],
            });
        }
        let told: Vec<_> = round
            .persisted
            .iter()
            .map(|(thread, readies)| (*thread, readies[0].1))
            .collect();
        assert_eq!(told, [(0, 0), (1, 5_000), (0, 100)]);
        // What a leader begins with has no payload, and is not counted.
        assert_eq!(round.counted_bytes, (8192 + 4096) + 8192);
        assert_eq!(round.worst_bytes(), Some(5 * 4096 + 6 * 4096));
        assert!(!round.frees_room);
        round.take_compacted(A, 7, 1);
        assert!(round.frees_room && !round.is_empty());
        assert_eq!(round.appends.iter().map(entries_in).sum::<usize>(), 3);
    }

    #[test]
    fn shards_are_flushed_from_a_third_of_the_budget_on_and_all_of_them_when_little_is_left() {
        assert_eq!(flush_behind(900, room(0, 500), 1_000), 300);
        assert_eq!(flush_behind(900, room(0, 250), 1_000), 300);
        assert_eq!(flush_behind(900, room(0, 249), 1_000), 0);
        assert_eq!(flush_behind(900, room(0, -1), 1_000), 0);
    }

    #[test]
    fn entries_are_copied_when_nobody_who_could_be_flushed_keeps_the_oldest_file() {
        let pin = |key| Pin { key, position: 1 };
        let stuck = [A];
        assert!(is_stuck(&[pin(A)], &[pin(A), pin(B)], &stuck));
        assert!(!is_stuck(&[pin(A), pin(B)], &[pin(A)], &stuck), "B will be");
        assert!(!is_stuck(&[pin(B)], &[pin(B)], &stuck));
        assert!(
            !is_stuck(&[], &[pin(A)], &stuck),
            "it can be reused already"
        );
        assert!(!is_stuck(&[pin(A)], &[], &stuck), "it is not old");
    }

    #[test]
    fn copying_what_fills_the_log_ends() {
        let mut copies = CopyAllowance::new(100);
        assert!(copies.take(60) && !copies.take(60));
        copies.written(19);
        assert!(!copies.take(60));
        copies.written(1);
        assert!(copies.take(60));
        copies.written(1_000);
        assert!(copies.take(60) && !copies.take(60));
    }

    #[test]
    fn a_disk_is_full_by_its_thresholds_or_when_no_file_can_be_had() {
        let some = room(10, 10);
        assert!(!is_disk_full(true, false, false, some, 10));
        assert!(is_disk_full(false, false, false, some, 10));
        assert!(is_disk_full(true, true, false, some, 10));
        assert!(
            !is_disk_full(true, false, true, some, 10),
            "not used up yet"
        );
        assert!(is_disk_full(true, false, true, some, 11));
        // A log without room is not a full disk.
        assert!(!is_disk_full(true, false, false, room(0, 0), 10));
    }
}
