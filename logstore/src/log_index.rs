//! The log of one shard as its replica sees it: position → entry.
//!
//! What is appended here is visible at once; it is durable only after
//! [`Log::commit`](crate::engine::Log::commit) has taken the same entries. All
//! entries that are not compacted away stand in RAM, as reference-counted bytes
//! that the memtable shares; the budget of the log bounds them.

use bytes::Bytes;
use std::collections::VecDeque;

/// One entry of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// 1, 2, 3 … without gaps.
    pub position: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// The caller's type of entry.
    pub kind: u8,
    /// Its content.
    pub payload: Bytes,
}

/// What a voter must remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HardState {
    /// The highest term seen.
    pub term: u64,
    /// Whom it voted for in that term; 0 is nobody.
    pub vote: u64,
    /// The highest position known to be committed.
    pub commit: u64,
}

/// Why entries do not fit a log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Positions would be missing.
    #[error(
        "an entry at position {position} after the last at {last}: entries between are missing"
    )]
    Gap {
        /// The entry's.
        position: u64,
        /// The log's last.
        last: u64,
    },
    /// The position was compacted away, so it is committed and cannot change.
    #[error("an entry at position {position}, but the log is compacted up to {compacted}")]
    Compacted {
        /// The entry's.
        position: u64,
        /// The last position compacted away.
        compacted: u64,
    },
}

struct Slot {
    term: u64,
    kind: u8,
    payload: Bytes,
}

/// The log of one shard, in RAM.
#[derive(Default)]
pub struct LogIndex {
    compacted: u64,
    compacted_term: u64,
    slots: VecDeque<Slot>,
    bytes: u64,
    hard_state: HardState,
}

/// Counted for every entry besides its payload.
const SLOT_BYTES: u64 = size_of::<Slot>() as u64;

impl LogIndex {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds entries. One at a position that exists first cuts that position and
    /// everything after it.
    ///
    /// # Errors
    /// If an entry does not fit; those before it stay appended.
    pub fn append(
        &mut self,
        entries: impl IntoIterator<Item = LogEntry>,
    ) -> Result<(), AppendError> {
        for entry in entries {
            let position = entry.position;
            if position <= self.compacted {
                return Err(AppendError::Compacted {
                    position,
                    compacted: self.compacted,
                });
            }
            if position > self.last_position() + 1 {
                return Err(AppendError::Gap {
                    position,
                    last: self.last_position(),
                });
            }
            self.truncate_after(position - 1);
            self.bytes += entry.payload.len() as u64 + SLOT_BYTES;
            self.slots.push_back(Slot {
                term: entry.term,
                kind: entry.kind,
                payload: entry.payload,
            });
        }
        Ok(())
    }

    /// Cuts everything after a position.
    pub fn truncate_after(&mut self, position: u64) {
        while self.last_position() > position {
            let Some(slot) = self.slots.pop_back() else {
                return;
            };
            self.bytes -= slot.payload.len() as u64 + SLOT_BYTES;
        }
    }

    /// The entries at `from` and after, before `to`: at least one if there is one,
    /// then as many as stay within `max_bytes` of payload.
    #[must_use]
    pub fn entries(&self, from: u64, to: u64, max_bytes: u64) -> Vec<LogEntry> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for position in from.max(self.first_position())..to.min(self.last_position() + 1) {
            let Some(slot) = self.slot(position) else {
                break;
            };
            bytes += slot.payload.len() as u64;
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(LogEntry {
                position,
                term: slot.term,
                kind: slot.kind,
                payload: slot.payload.clone(),
            });
        }
        found
    }

    /// The term of a position: of one in the log, or of the last compacted one.
    #[must_use]
    pub fn term(&self, position: u64) -> Option<u64> {
        if position == self.compacted {
            return Some(self.compacted_term);
        }
        self.slot(position).map(|slot| slot.term)
    }

    /// The content of an entry, shared and not copied.
    #[must_use]
    pub fn payload(&self, position: u64) -> Option<Bytes> {
        self.slot(position).map(|slot| slot.payload.clone())
    }

    /// The first position that is there, or the one the next entry gets.
    #[must_use]
    pub fn first_position(&self) -> u64 {
        self.compacted + 1
    }

    /// The last position that is there; the last compacted one if none is.
    #[must_use]
    pub fn last_position(&self) -> u64 {
        self.compacted + self.slots.len() as u64
    }

    /// The last position compacted away and its term; 0 and 0 at the beginning.
    #[must_use]
    pub fn compacted(&self) -> (u64, u64) {
        (self.compacted, self.compacted_term)
    }

    /// Term, vote and commit.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Remembers term, vote and commit; durable once the log has committed the same.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Drops entries up to a position. A position beyond the end leaves an empty
    /// log that goes on after it. One that is compacted already changes nothing.
    pub fn compact_to(&mut self, position: u64, term: u64) {
        if position <= self.compacted {
            return;
        }
        while self.compacted < position {
            let Some(slot) = self.slots.pop_front() else {
                self.compacted = position;
                break;
            };
            self.bytes -= slot.payload.len() as u64 + SLOT_BYTES;
            self.compacted += 1;
        }
        self.compacted_term = term;
        if self.slots.capacity() > 1024 && self.slots.len() * 4 < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }

    /// Forgets every entry: the log goes on after `position`. For a snapshot.
    pub fn reset_to(&mut self, position: u64, term: u64) {
        self.slots.clear();
        self.bytes = 0;
        self.compacted = position;
        self.compacted_term = term;
    }

    /// Bytes of RAM that the entries hold.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn slot(&self, position: u64) -> Option<&Slot> {
        let index = position.checked_sub(self.compacted + 1)?;
        self.slots.get(usize::try_from(index).ok()?)
    }
}

impl std::fmt::Debug for LogIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogIndex")
            .field("compacted", &(self.compacted, self.compacted_term))
            .field("last", &self.last_position())
            .field("hard_state", &self.hard_state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(position: u64, term: u64) -> LogEntry {
        LogEntry {
            position,
            term,
            kind: 0,
            payload: Bytes::from(format!("{position}@{term}")),
        }
    }

    #[test]
    fn an_entry_at_a_position_that_exists_cuts_the_suffix() {
        let mut log = LogIndex::new();
        log.append((1..=5).map(|position| entry(position, 1)))
            .unwrap();
        log.append([entry(3, 2)]).unwrap();
        assert_eq!(log.last_position(), 3);
        assert_eq!(log.term(3), Some(2));
        assert_eq!(log.payload(4), None);
    }

    #[test]
    fn a_gap_and_a_compacted_position_are_refused() {
        let mut log = LogIndex::new();
        assert_eq!(
            log.append([entry(2, 1)]),
            Err(AppendError::Gap {
                position: 2,
                last: 0
            })
        );
        log.append((1..=4).map(|position| entry(position, 1)))
            .unwrap();
        log.compact_to(2, 1);
        assert_eq!(
            log.append([entry(2, 1)]),
            Err(AppendError::Compacted {
                position: 2,
                compacted: 2
            })
        );
        assert_eq!(
            (log.first_position(), log.term(2), log.term(1)),
            (3, Some(1), None)
        );
    }

    #[test]
    fn a_page_of_entries_keeps_to_its_bytes_but_is_never_empty() {
        let mut log = LogIndex::new();
        log.append((1..=9).map(|position| entry(position, 1)))
            .unwrap();
        assert_eq!(log.entries(2, 9, 0).len(), 1);
        assert_eq!(log.entries(2, 9, 6).len(), 2);
        assert_eq!(log.entries(2, 5, u64::MAX).len(), 3);
        assert!(log.entries(10, 20, u64::MAX).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_behaves_as_a_vector_with_an_offset(
            steps in prop::collection::vec((0..4u8, 0..12u64), 1..60)
        ) {
            let mut log = LogIndex::new();
            let mut model: Vec<(u64, u64)> = Vec::new();
            let mut compacted = 0;
            for (step, (what, by)) in steps.into_iter().enumerate() {
                let term = step as u64 + 1;
                let last = compacted + model.len() as u64;
                match what {
                    0 | 1 => {
                        log.append((last + 1..=last + by).map(|at| entry(at, term))).unwrap();
                        model.extend((last + 1..=last + by).map(|at| (at, term)));
                    }
                    2 if last > compacted => {
                        let at = compacted + 1 + by % (last - compacted);
                        log.append([entry(at, term)]).unwrap();
                        model.retain(|(position, _)| *position < at);
                        model.push((at, term));
                    }
                    _ => {
                        let to = (compacted + by).min(last);
                        log.compact_to(to, log.term(to).unwrap());
                        model.retain(|(position, _)| *position > to);
                        compacted = to;
                    }
                }
                let all = log.entries(0, u64::MAX, u64::MAX);
                prop_assert_eq!(all.iter().map(|e| (e.position, e.term)).collect::<Vec<_>>(), model.clone());
                let bytes: u64 = all.iter().map(|e| e.payload.len() as u64 + SLOT_BYTES).sum();
                prop_assert_eq!(bytes, log.bytes());
            }
        }
    }
}
