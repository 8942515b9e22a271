//! Room in the node's log: what a host may add to it now, and who is told to wait when
//! it is short.
//!
//! The log is one for all shards of the node and has a bound. What would go beyond it is
//! not proposed: an entry that is proposed must be written, and whatever frees room,
//! a flush, is an entry behind it. So whoever owns the log lends each [`Host::poll`] what
//! there is; every entry is counted at its worst size before it is proposed, and what
//! was not used goes back.
//!
//! **No cycle of waits.** Entries wait for room, room for flushes, and a flush for nobody
//! who waits for room: its own entry, like what a leader begins with and the settings,
//! goes into the reserve, and all entries before it in its shard's log had their room
//! when they were proposed. Deliveries of outboxes, their confirmations and marks wait in
//! their source's rows and come again; a source that cannot be confirmed refuses new SENDs
//! at its outbox's bound, which frees nothing and holds up no flush.
//!
//! **Who waits first.** A request is refused while its shard has more of the log than is
//! free on the whole node, a delivery from half of that on: one heavy shard leaves room for
//! all others, many leave some, and deliveries of what was accepted earlier leave room for
//! what is asked now. A shard that anything is refused for flushes itself if it has a
//! quarter of its part or more; if it has less, there is less than a quarter of all free,
//! and the log thread has everybody flushed who keeps a file.
//!
//! [`Host::poll`]: super::Host::poll

use chat_wire::{
    error::{Code, Refusal},
    limits::{FRAME_FIELDS, Limits, NAME_BYTES},
};

use crate::command::{BATCH_HEADER_BYTES, COMMAND_HEADER_BYTES};

/// What found no room is tried again so often.
pub(super) const RETRY_ROOM_MS: u64 = 10;
/// For so long a request waits for room; then it is refused.
pub(super) const MAX_WAIT_MS: u64 = 1_000;
/// When to try again what found no room.
const RETRY_AFTER_MS: u32 = 500;

/// What an entry takes of the log, as whoever owns it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryCost {
    /// Bytes besides the payload.
    pub overhead: u64,
    /// An entry fills multiples of this, and one more proves it.
    pub block: u64,
}

impl EntryCost {
    /// The worst size of an entry. One without a payload, which a leader begins with,
    /// is not counted: it goes into the reserve.
    #[must_use]
    pub const fn of(&self, payload_bytes: usize) -> u64 {
        if payload_bytes == 0 {
            return 0;
        }
        (payload_bytes as u64 + self.overhead).next_multiple_of(self.block) + self.block
    }
}

/// What is lent to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRoom {
    /// Bytes that entries may take until it is given back.
    pub lent: u64,
    /// Bytes free on the whole node: the measure of who waits first.
    pub free: u64,
    /// Bytes that everybody's entries may take together when nothing is in the log.
    pub capacity: u64,
}

impl LogRoom {
    /// For a host that has its log alone.
    pub const UNBOUNDED: Self = Self {
        lent: u64::MAX,
        free: u64::MAX,
        capacity: u64::MAX,
    };
}

/// What comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// What was not used.
    pub left: u64,
    /// What was taken of the reserve.
    pub reserve: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    cost: EntryCost,
    lent: LogRoom,
    reserve: u64,
}

impl Room {
    pub(super) const fn new(cost: EntryCost) -> Self {
        Self {
            cost,
            lent: LogRoom::UNBOUNDED,
            reserve: 0,
        }
    }

    pub(super) const fn lend(&mut self, room: LogRoom) {
        self.lent = room;
    }

    pub(super) const fn give_back(&mut self) -> Returned {
        let left = std::mem::replace(&mut self.lent.lent, 0);
        let reserve = std::mem::replace(&mut self.reserve, 0);
        Returned { left, reserve }
    }

    pub(super) const fn cost(&self, payload_bytes: usize) -> u64 {
        self.cost.of(payload_bytes)
    }

    /// Whether an entry of so many bytes fits.
    pub(super) const fn fits(&self, payload_bytes: usize) -> bool {
        self.cost.of(payload_bytes) <= self.lent.lent
    }

    /// An entry is proposed that [fits](Self::fits). Its worst size.
    pub(super) fn take(&mut self, payload_bytes: usize) -> u64 {
        let cost = self.cost.of(payload_bytes);
        let left = self.lent.lent.checked_sub(cost);
        self.lent.lent = left.expect("an entry is proposed only if there is room for it");
        cost
    }

    /// An entry is proposed that may take the reserve. Its worst size.
    pub(super) const fn take_reserve(&mut self, payload_bytes: usize) -> u64 {
        let cost = self.cost.of(payload_bytes);
        self.reserve = self.reserve.saturating_add(cost);
        cost
    }

    /// What was taken will not be written.
    pub(super) const fn put_back(&mut self, bytes: u64) {
        self.lent.lent = self.lent.lent.saturating_add(bytes);
    }

    /// Whether a shard with so much of the log takes requests.
    pub(super) const fn takes_requests(&self, log_bytes: u64) -> bool {
        log_bytes <= self.lent.free
    }

    /// Whether it takes deliveries and marks of other shards.
    pub(super) const fn takes_deliveries(&self, log_bytes: u64) -> bool {
        log_bytes <= self.lent.free / 2
    }

    /// Whether a shard with so much of the log has no more of it than its part.
    pub(super) fn is_light(&self, log_bytes: u64, shards: usize) -> bool {
        log_bytes <= self.lent.capacity / shards.max(1) as u64
    }

    /// Whether it is refused something and can help itself. Not for less than a quarter of
    /// its part: flush after flush would fill a log that others keep.
    pub(super) fn wants_flush(&self, log_bytes: u64, shards: usize) -> bool {
        !self.takes_deliveries(log_bytes) && !self.is_light(log_bytes.saturating_mul(4), shards)
    }
}

/// Bytes of the largest entry that one request leads to: a change of a group names its
/// members in the command and in the body, also those whom the request names by id.
#[must_use]
pub const fn largest_entry_bytes(limits: &Limits) -> usize {
    const OTHER_FIELDS: usize = 4096;
    let members = limits.group_members as usize;
    let named = if members < FRAME_FIELDS {
        members
    } else {
        FRAME_FIELDS
    };
    let names = named * (NAME_BYTES + 16);
    BATCH_HEADER_BYTES
        + COMMAND_HEADER_BYTES
        + OTHER_FIELDS
        + 2 * (limits.frame_bytes as usize)
        + names
}

/// What requests are told that found no room.
pub(super) fn no_room() -> Refusal {
    let full = "the server writes more than its disk takes: try again later";
    Refusal {
        retry_after_ms: Some(RETRY_AFTER_MS),
        ..Refusal::new(Code::Overloaded, full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: EntryCost = EntryCost {
        overhead: 200,
        block: 4096,
    };

    fn room(lent: u64, free: u64) -> Room {
        let mut room = Room::new(COST);
        room.lend(LogRoom {
            lent,
            free,
            capacity: 1 << 20,
        });
        room
    }

    #[test]
    fn an_entry_is_counted_with_its_headers_and_the_block_it_fills() {
        assert_eq!(COST.of(0), 0);
        assert_eq!(COST.of(1), 8192);
        assert_eq!(COST.of(3896), 8192);
        assert_eq!(COST.of(3897), 12288);
    }

    #[test]
    fn what_is_lent_is_used_or_given_back_and_the_reserve_is_counted_beside_it() {
        let mut room = room(14_000, 0);
        assert!(room.fits(7_000) && !room.fits(8_000));
        let taken = room.take(7_000);
        assert!(!room.fits(1));
        room.take_reserve(20);
        room.put_back(taken);
        let back = Returned {
            left: 14_000,
            reserve: 8192,
        };
        assert_eq!(room.give_back(), back);
        assert_eq!(room.give_back(), Returned::default());
        assert!(!room.fits(1));
    }

    #[test]
    #[should_panic(expected = "only if there is room")]
    fn an_entry_that_has_no_room_is_never_proposed() {
        room(8192, 0).take(4096);
    }

    #[test]
    fn the_shard_with_most_of_the_log_waits_first_and_its_deliveries_before_its_requests() {
        let room = room(0, 1000);
        assert!(room.takes_requests(1000) && !room.takes_requests(1001));
        assert!(room.takes_deliveries(500) && !room.takes_deliveries(501));
        // A part of the capacity here is 2^20 / 256 bytes, a quarter of it 1024.
        assert!(room.wants_flush(1025, 256) && !room.wants_flush(1024, 256));
        assert!(!room.wants_flush(500, 1 << 20), "it is refused nothing");
    }
}
