//! Commands on their way into the log: a bounded queue, one entry a pass, and who
//! waits for which command of which entry.

use bytes::Bytes;
use chat_wire::ids::{ClientId, SessionId};
use std::collections::VecDeque;

use super::{
    attach::WaitingAttach,
    room::{RETRY_ROOM_MS, Room},
};
use crate::{
    command::{BatchBuilder, Command},
    message::{Now, Origin},
    replica::Replica,
    store::ShardStore,
};

/// Commands that wait to be proposed at most. One more is refused: requests as
/// OVERLOADED, entries of outboxes and marks by silence, since they come again.
pub(super) const MAX_QUEUED: usize = 8 * 1024;
/// Bytes of their bodies at most; above it as above.
pub(super) const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;
/// Entries proposed and not applied at most. While the disk is slow the next entries
/// grow instead.
pub(super) const MAX_ENTRIES_IN_FLIGHT: usize = 8;

/// Who waits for a command.
#[derive(Debug)]
pub(super) enum Waiter {
    Attach(Box<WaitingAttach>),
    Send {
        origin: Origin,
        id: ClientId,
    },
    GroupOp {
        origin: Origin,
    },
    /// Nobody: what follows from the command follows from its effects.
    Nobody,
}

impl Waiter {
    /// The session and the request that wait.
    pub(super) const fn origin(&self) -> Option<Origin> {
        match self {
            Self::Send { origin, .. } | Self::GroupOp { origin, .. } => Some(*origin),
            Self::Attach(_) | Self::Nobody => None,
        }
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Attach(waiting) => Some(waiting.attach.session),
            other => other.origin().map(|origin| origin.session),
        }
    }
}

#[derive(Debug)]
struct Queued {
    command: Command,
    body: Bytes,
    waiter: Waiter,
}

impl Queued {
    /// What a shard must say before it serves: a few small commands a start, for which the
    /// reserve of the log has room.
    const fn begins(&self) -> bool {
        matches!(
            self.command,
            Command::Bootstrap(_) | Command::Settings(_) | Command::Incarnation(_)
        )
    }
}

/// An entry in flight.
#[derive(Debug)]
struct Proposed {
    position: u64,
    term: u64,
    waiters: Vec<Waiter>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    queue: VecDeque<Queued>,
    bytes: usize,
    in_flight: VecDeque<Proposed>,
    /// The worst sizes of entries that are proposed and not on their way to the disk.
    unsent_bytes: u64,
    /// Since when the first command finds no room in the log.
    short_since_ms: Option<u64>,
    /// When it looks again.
    look_again_ms: u64,
}

impl Proposals {
    /// Adds a command.
    ///
    /// # Errors
    /// Gives the waiter back if the queue is full.
    pub(super) fn push(
        &mut self,
        command: impl Into<Command>,
        body: Bytes,
        waiter: Waiter,
    ) -> Result<(), Waiter> {
        if !self.has_room(body.len()) {
            return Err(waiter);
        }
        self.bytes += body.len();
        self.queue.push_back(Queued {
            command: command.into(),
            body,
            waiter,
        });
        Ok(())
    }

    /// Adds a command that nobody waits for. False if the queue is full.
    pub(super) fn push_own(&mut self, command: impl Into<Command>, body: Bytes) -> bool {
        self.push(command, body, Waiter::Nobody).is_ok()
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.queue.len() < MAX_QUEUED && self.bytes + bytes <= MAX_QUEUED_BYTES
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether another entry may be proposed now.
    pub(super) fn can_propose(&self) -> bool {
        self.in_flight.len() < MAX_ENTRIES_IN_FLIGHT
    }

    /// Whether the first command finds no room in the log.
    pub(super) const fn is_short(&self) -> bool {
        self.short_since_ms.is_some()
    }

    /// Since when.
    pub(super) const fn short_since_ms(&self) -> Option<u64> {
        self.short_since_ms
    }

    /// When it looks again.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.short_since_ms.map(|_| self.look_again_ms)
    }

    /// Proposes one entry of what waits, as far as there is room for it in the log. Its
    /// number of commands; 0 if nothing was proposed.
    pub(super) fn propose<S: ShardStore>(
        &mut self,
        replica: &mut Replica<S>,
        (now, epoch): (Now, u32),
        entry_bytes: usize,
        room: &mut Room,
    ) -> u32 {
        if self.queue.is_empty() {
            self.short_since_ms = None;
        }
        if self.queue.is_empty() || !self.can_propose() || !replica.is_leader() {
            return 0;
        }
        let mut batch = BatchBuilder::new(now.unix_ms, epoch);
        let mut waiters = Vec::new();
        let mut reserve = false;
        while !batch.is_full()
            && let Some(next) = self.queue.front()
        {
            let bytes = batch.bytes_with(&next.command, &next.body);
            let first = batch.is_empty();
            if !first && bytes > entry_bytes {
                break;
            }
            if reserve || !room.fits(bytes) {
                reserve = (first || reserve) && next.begins();
                if !reserve {
                    break;
                }
            }
            let Some(queued) = self.queue.pop_front() else {
                break;
            };
            self.bytes -= queued.body.len();
            batch.push(&queued.command, &queued.body);
            waiters.push(queued.waiter);
        }
        if batch.is_empty() {
            self.short_since_ms.get_or_insert(now.mono_ms);
            self.look_again_ms = now.mono_ms + RETRY_ROOM_MS;
            return 0;
        }
        self.short_since_ms = None;
        let count = batch.count();
        self.propose_entry(replica, batch, waiters, |bytes| {
            if reserve {
                room.take_reserve(bytes)
            } else {
                room.take(bytes)
            }
        });
        count
    }

    /// Proposes a command in an entry of its own, before all that waits. It frees room, and
    /// so may take the reserve.
    pub(super) fn propose_alone<S: ShardStore>(
        &mut self,
        replica: &mut Replica<S>,
        command: &Command,
        (now, epoch): (Now, u32),
        room: &mut Room,
    ) {
        let mut batch = BatchBuilder::new(now.unix_ms, epoch);
        batch.push(command, &[]);
        self.propose_entry(replica, batch, vec![Waiter::Nobody], |bytes| {
            room.take_reserve(bytes)
        });
    }

    fn propose_entry<S: ShardStore>(
        &mut self,
        replica: &mut Replica<S>,
        batch: BatchBuilder,
        waiters: Vec<Waiter>,
        take: impl FnOnce(usize) -> u64,
    ) {
        // A leader refuses only when far more is uncommitted than may be in flight
        // here; a proposal without a position fails like one whose term ended.
        let payload = batch.finish();
        let bytes = payload.len();
        let proposed = replica.propose(payload);
        if proposed.is_some() {
            self.unsent_bytes += take(bytes);
        }
        let (position, term) = proposed.unwrap_or((0, 0));
        self.in_flight.push_back(Proposed {
            position,
            term,
            waiters,
        });
    }

    /// An entry is on its way to the disk, with this worst size.
    pub(super) fn sent(&mut self, bytes: u64) {
        let left = self.unsent_bytes.checked_sub(bytes);
        self.unsent_bytes = left.expect("what goes to the disk was counted when it was proposed");
    }

    /// The shard has stopped: what was proposed and is not on its way to the disk never will
    /// be. Its worst size.
    pub(super) const fn take_unsent(&mut self) -> u64 {
        std::mem::replace(&mut self.unsent_bytes, 0)
    }

    #[cfg(test)]
    pub(super) const fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }

    /// The node ends: what comes again from other shards is not begun.
    pub(super) fn drop_own(&mut self) {
        let asked = |queued: &Queued| queued.begins() || queued.waiter.session().is_some();
        self.queue.retain(asked);
        self.bytes = self.queue.iter().map(|queued| queued.body.len()).sum();
    }

    /// Who waits for a command that was not proposed; the command is dropped.
    pub(super) fn take_queued_waiters(&mut self) -> Vec<Waiter> {
        let mut waiters = Vec::new();
        for queued in std::mem::take(&mut self.queue) {
            if queued.waiter.session().is_some() {
                self.bytes -= queued.body.len();
                waiters.push(queued.waiter);
            } else {
                self.queue.push_back(queued);
            }
        }
        waiters
    }

    /// The waiters of the entry that is applied now, one a command. Those of entries
    /// that will never be applied are put into `lost`.
    pub(super) fn take(&mut self, position: u64, term: u64, lost: &mut Vec<Waiter>) -> Vec<Waiter> {
        while let Some(first) = self.in_flight.front()
            && first.position <= position
        {
            let Some(first) = self.in_flight.pop_front() else {
                break;
            };
            if (first.position, first.term) == (position, term) {
                return first.waiters;
            }
            lost.extend(first.waiters);
        }
        Vec::new()
    }

    /// Everybody who waits, each once. What was asked for and not proposed is dropped, what
    /// is in flight takes effect with nobody waiting for it.
    pub(super) fn take_waiters(&mut self) -> Vec<Waiter> {
        let mut waiters = Vec::new();
        for proposed in &mut self.in_flight {
            for waiter in &mut proposed.waiters {
                waiters.push(std::mem::replace(waiter, Waiter::Nobody));
            }
        }
        waiters.extend(self.take_queued_waiters());
        waiters.retain(|waiter| waiter.session().is_some());
        waiters
    }

    /// Leadership is gone, or the shard has stopped: nobody gets an answer any more.
    pub(super) fn take_all(&mut self) -> Vec<Waiter> {
        self.bytes = 0;
        let proposed = self
            .in_flight
            .drain(..)
            .flat_map(|proposed| proposed.waiters);
        let queued = self.queue.drain(..).map(|queued| queued.waiter);
        proposed
            .chain(queued)
            .filter(|waiter| waiter.session().is_some())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(req: u32) -> Waiter {
        let session = SessionId(1);
        Waiter::GroupOp {
            origin: Origin { session, req },
        }
    }

    fn reqs(waiters: &[Waiter]) -> Vec<u32> {
        waiters
            .iter()
            .filter_map(Waiter::origin)
            .map(|origin| origin.req)
            .collect()
    }

    fn proposed(position: u64, term: u64, req: u32) -> Proposed {
        Proposed {
            position,
            term,
            waiters: vec![waiter(req)],
        }
    }

    #[test]
    fn an_entry_answers_its_own_waiters_and_those_of_cut_entries_are_lost() {
        let mut proposals = Proposals::default();
        // The last was refused by raft; the second was cut by another term's entry.
        let in_flight = [proposed(5, 2, 1), proposed(6, 2, 2), proposed(0, 0, 3)];
        proposals.in_flight = in_flight.into();
        let mut lost = Vec::new();
        assert!(reqs(&proposals.take(4, 2, &mut lost)).is_empty());
        assert_eq!(reqs(&proposals.take(5, 2, &mut lost)), [1]);
        assert!(lost.is_empty());
        assert!(reqs(&proposals.take(6, 3, &mut lost)).is_empty());
        assert_eq!(reqs(&lost), [2, 3]);
        assert!(proposals.in_flight.is_empty());
    }

    #[test]
    fn waiters_are_taken_once_and_what_is_in_flight_stays_there() {
        let mut proposals = Proposals::default();
        proposals.in_flight.push_back(proposed(5, 2, 1));
        let flush = || crate::command::Flush {};
        assert!(proposals.push_own(flush(), Bytes::from_static(b"own")));
        let body = Bytes::from_static(b"asked for");
        assert!(proposals.push(flush(), body, waiter(2)).is_ok());
        assert_eq!(reqs(&proposals.take_waiters()), [1, 2]);
        assert!(proposals.take_waiters().is_empty());
        assert_eq!((proposals.queued(), proposals.bytes), (1, 3));
        let mut lost = Vec::new();
        let waiters = proposals.take(5, 2, &mut lost);
        assert_eq!((waiters.len(), reqs(&waiters).len(), lost.len()), (1, 0, 0));
    }

    #[test]
    fn when_leadership_is_gone_everybody_who_waits_is_told() {
        let mut proposals = Proposals::default();
        proposals.in_flight.push_back(proposed(5, 2, 1));
        assert!(proposals.push_own(crate::command::Flush {}, Bytes::new()));
        assert!(
            proposals
                .push(crate::command::Flush {}, Bytes::new(), waiter(2))
                .is_ok()
        );
        assert_eq!(reqs(&proposals.take_all()), [1, 2]);
        assert_eq!(proposals.queued(), 0);
    }
}
