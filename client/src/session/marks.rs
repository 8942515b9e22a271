//! Marks on their way to the server, and receipts on their way from it.
//!
//! A MARK is repeated on each connection until a RECEIPT for oneself covers it. The
//! version of marks moves on only without a hole: what is missing comes again with the next resume.
//!
//! Bound: [`crate::arrivals::MAX_MARKS`] marks not confirmed; the one of the lowest conversation
//! goes for one more.

use std::collections::{BTreeMap, BTreeSet};

use chat_wire::frame;

use super::seen::Seen;
use crate::arrivals::MAX_MARKS;

pub(super) struct Marks {
    version: u64,
    pending: BTreeMap<u64, i64>,
    due: BTreeSet<u64>,
    /// What receipts for oneself have said: such a mark changes nothing, and no receipt
    /// would come for it.
    confirmed: Seen,
}

/// What a receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It came before.
    Before,
    /// Somebody got further.
    News,
    /// A mark of one's own has arrived.
    Confirms,
}

impl Marks {
    pub(super) fn new(version: u64, pending: BTreeMap<u64, i64>) -> Self {
        Self {
            version,
            pending,
            due: BTreeSet::new(),
            confirmed: Seen::new(),
        }
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    pub(super) const fn set_version(&mut self, version: u64) {
        self.version = version;
    }

    /// Seen up to here. True if that is confirmed already.
    pub(super) fn mark(&mut self, conversation: u64, seen_up_to: i64) -> bool {
        if self.confirmed.highest(conversation) >= seen_up_to {
            return true;
        }
        let mark = self.pending.entry(conversation).or_default();
        *mark = (*mark).max(seen_up_to);
        self.due.insert(conversation);
        while self.pending.len() > MAX_MARKS {
            if let Some((lowest, _)) = self.pending.pop_first() {
                self.due.remove(&lowest);
            }
        }
        false
    }

    /// The next MARK to write.
    pub(super) fn next(&mut self) -> Option<frame::Mark> {
        while let Some(conversation) = self.due.pop_first() {
            if let Some(seen_up_to) = self.pending.get(&conversation).copied() {
                return Some(frame::Mark {
                    conversation,
                    seen_up_to,
                });
            }
        }
        None
    }

    /// A connection began: everything not confirmed goes again.
    pub(super) fn repeat(&mut self) {
        self.due = self.pending.keys().copied().collect();
    }

    /// What was confirmed may have been lost with the old generation.
    pub(super) fn start_generation(&mut self) {
        self.confirmed = Seen::new();
    }

    pub(super) fn receive(&mut self, receipt: &frame::Receipt, own: u64) -> Heard {
        // Receipts of a group that is followed have no version.
        if receipt.to_version != 0 {
            if receipt.to_version <= self.version {
                return Heard::Before;
            }
            if receipt.from_version <= self.version {
                self.version = receipt.to_version;
            } else {
                tracing::debug!(
                    have = self.version,
                    from = receipt.from_version,
                    "a hole between receipts: the next resume asks for them again"
                );
            }
        }
        if receipt.user != own {
            return Heard::News;
        }
        let (conversation, seen_up_to) = (receipt.conversation, receipt.seen_up_to);
        self.confirmed.raise(conversation, seen_up_to);
        if self
            .pending
            .get(&conversation)
            .is_some_and(|mark| *mark <= seen_up_to)
        {
            self.pending.remove(&conversation);
            self.due.remove(&conversation);
            return Heard::Confirms;
        }
        Heard::News
    }
}
