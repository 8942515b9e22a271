//! The log's room as the threads of a node share it: the log thread says what there is,
//! shard threads take what they propose, at its worst size, before they propose it.
//!
//! Two atomic operations a pass of a shard thread, none a message. What is lent and comes
//! back unused, or is counted as written, moves the same number, so at rest it is
//! exactly what the log says: see the tests.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use chat_core::host::{EntryCost, LogRoom, Returned};
use logstore::engine::{self, Log, Options};

/// Lent to one pass at most: more than it can propose, and not all that others need.
const LENT_BYTES: i64 = 32 << 20;
/// What of the reserve a shard may need until its flush has freed a file: a vote and the
/// entry that a leader begins with, settings, the flush's entry, its segments and the
/// compaction that follows, each a frame of its own and proven.
const RESERVE_A_SHARD: u64 = 6 * engine::entry_bytes(0);

/// How a shard's entries are counted: as [`engine::entry_bytes`] does, which a test holds it
/// to.
pub(super) const ENTRY_COST: EntryCost = EntryCost {
    overhead: 184,
    block: 4096,
};

/// Room in the log, in bytes that entries of any sizes fit into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// In files that stand ready.
    pub(super) ready_bytes: i64,
    /// The same, with the files that the budget still allows, whether or not the disk has
    /// room for them: who is refused for the budget is not refused for the disk.
    pub(super) budget_bytes: i64,
}

impl Room {
    /// What the log has for entries whose largest is counted as `largest`.
    pub(super) fn of(log: &Log, largest: u64) -> Self {
        let stats = log.stats();
        let files = (stats.live_files + stats.free_files) as u64;
        let allowed = (stats.budget_bytes / stats.file_bytes).saturating_sub(files);
        let ready_bytes = signed(log.ready_room().bytes(largest));
        // At the end of a file the largest may be what does not fit.
        let further = allowed.saturating_mul(stats.file_bytes.saturating_sub(largest));
        Self {
            ready_bytes,
            budget_bytes: ready_bytes.saturating_add(signed(further)),
        }
    }
}

/// What [`Room::of`] says of an empty log.
pub(super) fn capacity_bytes(options: &Options, largest: u64) -> u64 {
    options.whole_room().bytes(largest)
}

/// See the module.
#[derive(Debug)]
pub(super) struct SharedRoom {
    /// In files that are ready, less what is lent, or proposed and not written.
    lendable: AtomicI64,
    /// In files that the budget allows, less the same.
    free: AtomicU64,
    capacity: u64,
}

impl SharedRoom {
    /// Without any room, until the log thread says what there is.
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            lendable: AtomicI64::new(0),
            free: AtomicU64::new(0),
            capacity,
        }
    }

    /// For one pass of a shard thread.
    pub(super) fn lend(&self) -> LogRoom {
        let take = |lendable: i64| Some(lendable - lendable.clamp(0, LENT_BYTES));
        let before = self
            .lendable
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .expect("it always takes something, if only nothing");
        LogRoom {
            lent: before.clamp(0, LENT_BYTES).unsigned_abs(),
            free: self.free.load(Ordering::Relaxed),
            capacity: self.capacity,
        }
    }

    /// After it.
    pub(super) fn give_back(&self, returned: Returned) {
        self.change(signed(returned.left) - signed(returned.reserve));
    }

    /// By the log thread: what there is has changed, or what was proposed is written.
    pub(super) fn change(&self, by: i64) {
        self.lendable.fetch_add(by, Ordering::AcqRel);
    }

    /// By the log thread, after a change: what the budget still allows.
    pub(super) fn set_free(&self, room: Room) {
        let proposed = room.ready_bytes - self.lendable.load(Ordering::Acquire);
        let free = room.budget_bytes - proposed.max(0);
        self.free
            .store(u64::try_from(free).unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    #[cfg(test)]
    pub(super) fn lendable(&self) -> i64 {
        self.lendable.load(Ordering::Acquire)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The log cannot hold what must fit, and what would do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is too small for {what}: {advice}")]
pub struct LogTooSmall {
    what: String,
    advice: String,
}

/// Whether two of the largest entries fit the log, and what all shards need to free a file
/// its reserve.
pub(super) fn check(
    options: &Options,
    largest_entry_bytes: usize,
    shards: usize,
) -> Result<(), LogTooSmall> {
    let reserve = RESERVE_A_SHARD * shards as u64;
    let budget = |options: &Options| {
        let entries = options.smallest_budget([largest_entry_bytes; 2])?;
        (options.reserve_bytes() >= reserve).then_some(entries)
    };
    let with = |file_bytes| Options {
        file_bytes,
        ..options.clone()
    };
    let needed = budget(options);
    if needed.is_some_and(|needed| options.budget_bytes >= needed) {
        return Ok(());
    }
    let what =
        format!("{shards} shards and a largest request of {largest_entry_bytes} bytes in the log");
    let larger = (22..=30).map(|power| 1 << power);
    let mut larger = larger.filter(|file_bytes| *file_bytes > options.file_bytes);
    let advice = match needed {
        Some(needed) => format!("set `log.budget_bytes` to {needed} at least"),
        None => match larger.find_map(|bytes| Some((bytes, budget(&with(bytes))?))) {
            Some((file_bytes, budget)) => format!(
                "set `log.file_bytes` to {file_bytes} and `log.budget_bytes` to {budget} at least"
            ),
            None => "lower `limits.frame_bytes` or `cluster.group_members`".into(),
        },
    };
    Err(LogTooSmall { what, advice })
}

#[cfg(test)]
mod tests {
    use chat_core::host::largest_entry_bytes;
    use chat_wire::limits::Limits;

    use super::*;

    fn room(ready_bytes: i64, budget_bytes: i64) -> Room {
        Room {
            ready_bytes,
            budget_bytes,
        }
    }

    #[test]
    fn an_entry_is_counted_as_the_log_counts_it() {
        for bytes in [1, 100, 3_904, 3_912, 3_913, 4_096, 65_536, 1 << 20] {
            assert_eq!(ENTRY_COST.of(bytes), engine::entry_bytes(bytes));
        }
    }

    #[test]
    fn what_is_lent_is_nobody_elses_until_it_comes_back() {
        let shared = SharedRoom::new(1 << 30);
        assert_eq!(shared.lend().lent, 0);
        shared.change(LENT_BYTES + 1000);
        shared.set_free(room(LENT_BYTES + 1000, LENT_BYTES + 5000));
        let first = shared.lend();
        assert_eq!(
            (first.lent, first.free),
            (LENT_BYTES as u64, LENT_BYTES as u64 + 5000)
        );
        assert_eq!(shared.lend().lent, 1000);
        assert_eq!(shared.lend().lent, 0);
        let back = Returned {
            left: 4000,
            reserve: 4096,
        };
        shared.give_back(back);
        assert_eq!(shared.lendable(), -96);
        assert_eq!(shared.lend().lent, 0, "the reserve is not lent");
        // What was proposed takes of the budget before it is written.
        shared.set_free(room(LENT_BYTES + 1000, LENT_BYTES + 5000));
        assert_eq!(shared.lend().free, 5000 - 1000 - 96);
    }

    #[test]
    fn a_log_that_cannot_hold_the_largest_request_or_all_flushes_is_refused_with_what_to_set() {
        let options = |file_bytes, budget_bytes| Options {
            file_bytes,
            budget_bytes,
            ..Options::default()
        };
        let largest = largest_entry_bytes(&Limits::default());
        assert_eq!(check(&options(64 << 20, 1 << 30), largest, 2000), Ok(()));
        assert_eq!(check(&options(4 << 20, 24 << 20), largest, 65), Ok(()));
        let number = |said: &str, setting: &str| -> Option<u64> {
            let (_, rest) = said.split_once(&format!("`{setting}` to "))?;
            rest.split(' ').next()?.parse().ok()
        };
        for (file_bytes, budget_bytes, shards) in [
            (1 << 20, 1 << 30, 5),
            (4 << 20, 1 << 30, 2000),
            (64 << 20, 64 << 20, 5),
        ] {
            let refused = check(&options(file_bytes, budget_bytes), largest, shards);
            let said = refused.unwrap_err().to_string();
            let file_bytes = number(&said, "log.file_bytes").unwrap_or(file_bytes);
            let budget_bytes = number(&said, "log.budget_bytes").unwrap();
            let advised = options(file_bytes, budget_bytes);
            assert_eq!(check(&advised, largest, shards), Ok(()), "{said}");
        }
        let said = check(&options(4 << 20, 1 << 30), 9 << 20, 5)
            .unwrap_err()
            .to_string();
        assert!(said.contains("lower `limits.frame_bytes`"), "{said}");
    }
}
