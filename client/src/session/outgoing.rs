//! Messages on their way: in the order of their conversation, until the server's
//! final word.
//!
//! Messages of one conversation are pipelined. When one fails for now, the server
//! refuses the later ones (OUT_OF_ORDER) until that one comes again; so the whole lane
//! waits until everything in flight is answered, pauses, and starts again from its first
//! message. Nothing of a lane is overtaken, whatever arrives in between.
//!
//! Bounds: waiting messages by [`crate::Config::queue`]; acknowledged ones that are kept for
//! another generation by count and by [`KEPT_BYTES`], the oldest forgotten first, and by age.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use chat_wire::{
    frame::{self, Body, Frame, target::To},
    ids::{ClientId, UserId},
};

use super::next_random;
use crate::Backoff;

/// Acknowledged messages are kept this long, ms of their id's time.
pub(crate) const KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// Bytes of acknowledged messages that are kept.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

/// Names and ids of one conversation meet in one lane when the app is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Conversation(u64),
    Name(String),
}

struct Entry {
    id: ClientId,
    frame: Frame,
    key: Key,
    /// Sent on this connection and not answered.
    in_flight: bool,
    /// Sent on this connection.
    attempted: bool,
    /// Sent before, on whatever connection.
    again: bool,
    /// Acknowledged in an earlier generation: nobody waits for it.
    resubmission: bool,
    abandoned: bool,
}

#[derive(Default)]
struct Lane {
    /// Tickets in order. Those before `next` are in flight or have failed.
    order: VecDeque<u64>,
    next: usize,
    in_flight: usize,
    /// One failed: nothing more goes until all are answered and the pause is over.
    failed: bool,
    failures: u32,
    not_before_ms: u64,
    /// It is in `ready`.
    queued: bool,
    /// The server may wait for this one, which will not come.
    abandons: Option<ClientId>,
}

/// How a SEND ended.
#[derive(Debug)]
pub(super) enum Verdict {
    Sent,
    Refused,
    Retry { now_ms: u64, after_ms: u64 },
}

/// A message that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) ticket: u64,
    pub(super) id: ClientId,
    /// Nobody waits for it.
    pub(super) silent: bool,
}

/// A SEND that was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) again: bool,
    pub(super) resubmission: bool,
}

/// The server's rate limit, kept here so that it need not refuse.
#[derive(Default)]
struct Pace {
    per_second: u64,
    burst_milli: u64,
    level_milli: u64,
    at_ms: u64,
}

pub(crate) struct Outgoing {
    backoff: Backoff,
    random: u64,
    /// The app of the session's user, if it can be told.
    app: Option<&'static str>,
    next_ticket: u64,
    entries: HashMap<u64, Entry>,
    lanes: HashMap<Key, Lane>,
    ready: VecDeque<Key>,
    in_flight: HashMap<u32, u64>,
    pauses: BTreeSet<(u64, Key)>,
    pace: Pace,
    paced_until_ms: u64,
    kept: VecDeque<(ClientId, frame::Send)>,
    kept_bytes: usize,
    kept_bound: usize,
}

impl Outgoing {
    pub(super) fn new(backoff: Backoff, kept_bound: usize, seed: u64) -> Self {
        Self {
            backoff,
            random: seed ^ 0x5eed,
            app: None,
            next_ticket: 0,
            entries: HashMap::new(),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            in_flight: HashMap::new(),
            pauses: BTreeSet::new(),
            pace: Pace::default(),
            paced_until_ms: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            kept_bound,
        }
    }

    fn key(&self, send: &frame::Send) -> Key {
        match send.to.as_ref().and_then(|target| target.to.as_ref()) {
            Some(To::User(id) | To::Group(id)) => Key::Conversation(*id),
            Some(To::Name(name)) => match self.app {
                Some(app) => Key::Conversation(UserId::of(app, name).0),
                None => Key::Name(name.clone()),
            },
            None => Key::Conversation(0),
        }
    }

    /// The conversation of a message, if it can be told.
    pub(super) fn conversation_of(&self, send: &frame::Send) -> Option<u64> {
        match self.key(send) {
            Key::Conversation(id) => Some(id),
            Key::Name(_) => None,
        }
    }

    pub(super) fn push(&mut self, id: ClientId, send: frame::Send) -> u64 {
        let key = self.key(&send);
        let ticket = self.insert(id, send, key.clone(), false);
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.order.push_back(ticket);
        self.make_ready(&key);
        ticket
    }

    fn insert(&mut self, id: ClientId, send: frame::Send, key: Key, resubmission: bool) -> u64 {
        self.next_ticket += 1;
        self.entries.insert(
            self.next_ticket,
            Entry {
                id,
                frame: Body::Send(send).into(),
                key,
                in_flight: false,
                attempted: false,
                again: resubmission,
                resubmission,
                abandoned: false,
            },
        );
        self.next_ticket
    }

    fn make_ready(&mut self, key: &Key) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !lane.queued
            && !lane.failed
            && lane.next < lane.order.len()
        {
            lane.queued = true;
            self.ready.push_back(key.clone());
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A session began: its limits, and whether names can be turned into ids.
    pub(super) fn welcomed(
        &mut self,
        now_ms: u64,
        user: UserId,
        name: &str,
        rate: u32,
        burst: u32,
    ) {
        self.pace = Pace {
            per_second: u64::from(rate),
            burst_milli: u64::from(burst.max(1)) * 1000,
            level_milli: u64::from(burst.max(1)) * 1000,
            at_ms: now_ms,
        };
        self.paced_until_ms = 0;
        let app = (UserId::of("default", name) == user).then_some("default");
        if app != self.app {
            self.app = app;
            self.sort_into_lanes();
        }
    }

    /// Lanes are keyed anew, in the order of the tickets.
    fn sort_into_lanes(&mut self) {
        self.lanes.clear();
        self.ready.clear();
        self.pauses.clear();
        let mut tickets: Vec<u64> = self.entries.keys().copied().collect();
        tickets.sort_unstable();
        for ticket in tickets {
            let Some(entry) = self.entries.get(&ticket) else {
                continue;
            };
            let Some(Body::Send(send)) = &entry.frame.body else {
                continue;
            };
            let key = self.key(send);
            if let Some(entry) = self.entries.get_mut(&ticket) {
                entry.key = key.clone();
            }
            self.lanes
                .entry(key.clone())
                .or_default()
                .order
                .push_back(ticket);
            self.make_ready(&key);
        }
    }

    /// Writes the next message, if one may go now.
    pub(super) fn transmit(
        &mut self,
        now_ms: u64,
        req: u32,
        write: &mut impl FnMut(&Frame),
    ) -> Option<Attempt> {
        if self.ready.is_empty() {
            return None;
        }
        if !self.pace.take(now_ms) {
            self.paced_until_ms = self.pace.next_ms(now_ms);
            return None;
        }
        while let Some(key) = self.ready.pop_front() {
            let Some(lane) = self.lanes.get_mut(&key) else {
                continue;
            };
            lane.queued = false;
            if lane.failed {
                continue;
            }
            let Some(ticket) = lane.order.get(lane.next).copied() else {
                continue;
            };
            let Some(entry) = self.entries.get_mut(&ticket) else {
                debug_assert!(false, "a lane holds only messages that exist");
                continue;
            };
            if lane.next == 0
                && let (Some(abandoned), Some(Body::Send(send))) =
                    (lane.abandons, &mut entry.frame.body)
            {
                send.abandons = Bytes::copy_from_slice(&abandoned.0);
            }
            lane.next += 1;
            lane.in_flight += 1;
            let attempt = Attempt {
                again: entry.again,
                resubmission: entry.resubmission && !entry.attempted,
            };
            entry.in_flight = true;
            entry.attempted = true;
            entry.again = true;
            entry.frame.req = req;
            write(&entry.frame);
            self.in_flight.insert(req, ticket);
            self.make_ready(&key);
            return Some(attempt);
        }
        self.pace.give_back();
        None
    }

    /// The server's word on a SEND. The message, if it is over.
    pub(super) fn answered(&mut self, req: u32, verdict: Verdict) -> Option<Done> {
        let ticket = self.in_flight.remove(&req)?;
        let entry = self.entries.get_mut(&ticket)?;
        entry.in_flight = false;
        let key = entry.key.clone();
        let abandoned = entry.abandoned;
        let lane = self.lanes.get_mut(&key)?;
        lane.in_flight -= 1;
        let over = match verdict {
            Verdict::Sent => {
                lane.failures = 0;
                lane.abandons = None;
                true
            }
            Verdict::Refused => true,
            Verdict::Retry { now_ms, after_ms } => {
                if abandoned && lane.abandons.is_none() {
                    lane.abandons = Some(entry.id);
                }
                if !lane.failed {
                    lane.failed = true;
                    lane.failures = lane.failures.saturating_add(1);
                    let chance = next_random(&mut self.random);
                    let pause = self.backoff.pause(lane.failures, chance).as_millis();
                    lane.not_before_ms = now_ms + u64::try_from(pause).unwrap_or(u64::MAX);
                }
                lane.not_before_ms = lane.not_before_ms.max(now_ms + after_ms);
                abandoned
            }
        };
        let done = over.then(|| self.remove(ticket, matches!(verdict, Verdict::Sent)));
        self.settle(&key);
        done.flatten()
    }

    /// Takes a message out of its lane.
    fn remove(&mut self, ticket: u64, committed: bool) -> Option<Done> {
        let entry = self.entries.remove(&ticket)?;
        if let Some(lane) = self.lanes.get_mut(&entry.key)
            && let Some(at) = lane.order.iter().position(|other| *other == ticket)
        {
            lane.order.remove(at);
            if at < lane.next {
                lane.next -= 1;
            }
        }
        let done = Done {
            ticket,
            id: entry.id,
            silent: entry.resubmission || entry.abandoned,
        };
        if committed && let Some(Body::Send(send)) = entry.frame.body {
            self.keep(entry.id, send);
        }
        Some(done)
    }

    /// After an answer: a lane that failed starts its pause when all is answered; an empty
    /// one goes.
    fn settle(&mut self, key: &Key) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if lane.failed && lane.in_flight == 0 {
            lane.next = 0;
            if !lane.order.is_empty() {
                self.pauses.insert((lane.not_before_ms, key.clone()));
                return;
            }
            lane.failed = false;
        }
        if lane.order.is_empty() && lane.in_flight == 0 && lane.abandons.is_none() {
            self.lanes.remove(key);
        } else {
            self.make_ready(key);
        }
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        let pause = self.pauses.first().map_or(u64::MAX, |(at, _)| *at);
        let pace = if self.ready.is_empty() || self.paced_until_ms == 0 {
            u64::MAX
        } else {
            self.paced_until_ms
        };
        pause.min(pace)
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        if self.paced_until_ms <= now_ms {
            self.paced_until_ms = 0;
        }
        while self.pauses.first().is_some_and(|(at, _)| *at <= now_ms) {
            if let Some((_, key)) = self.pauses.pop_first() {
                if let Some(lane) = self.lanes.get_mut(&key) {
                    lane.failed = false;
                }
                self.make_ready(&key);
            }
        }
    }

    /// The server counts more than we do.
    pub(super) fn limited(&mut self, now_ms: u64) {
        self.pace.level_milli = 0;
        self.pace.at_ms = now_ms;
    }

    /// Gives a message up. Its ticket, if somebody waits for it.
    pub(super) fn abandon(&mut self, id: ClientId) -> Option<u64> {
        let (ticket, entry) = self
            .entries
            .iter_mut()
            .find(|(_, entry)| entry.id == id && !entry.abandoned && !entry.resubmission)?;
        let ticket = *ticket;
        entry.abandoned = true;
        if entry.in_flight {
            // Its answer tells whether the server waits for it.
            return Some(ticket);
        }
        let (key, attempted, id) = (entry.key.clone(), entry.attempted, entry.id);
        self.remove(ticket, false);
        if let Some(lane) = self.lanes.get_mut(&key) {
            if attempted && lane.abandons.is_none() {
                lane.abandons = Some(id);
            }
            if lane.order.is_empty() && lane.in_flight == 0 {
                // The pause has nothing to wait for; the next message says what it abandons.
                let pause = (lane.not_before_ms, key.clone());
                lane.failed = false;
                self.pauses.remove(&pause);
            }
        }
        self.settle(&key);
        Some(ticket)
    }

    /// The connection is gone: what was in flight goes again, in order.
    pub(super) fn disconnected(&mut self) {
        self.in_flight.clear();
        self.pauses.clear();
        self.ready.clear();
        let abandoned: Vec<u64> = self
            .entries
            .iter_mut()
            .filter_map(|(ticket, entry)| {
                entry.in_flight = false;
                entry.attempted = false;
                entry.abandoned.then_some(*ticket)
            })
            .collect();
        for ticket in abandoned {
            self.remove(ticket, false);
        }
        let mut first: Vec<(u64, Key)> = Vec::new();
        self.lanes.retain(|key, lane| {
            lane.next = 0;
            lane.in_flight = 0;
            lane.failed = false;
            lane.failures = 0;
            lane.not_before_ms = 0;
            lane.queued = false;
            // The server's memory of what failed ended with the session.
            lane.abandons = None;
            if let Some(ticket) = lane.order.front() {
                first.push((*ticket, key.clone()));
            }
            !lane.order.is_empty()
        });
        first.sort_unstable();
        for (_, key) in first {
            self.make_ready(&key);
        }
    }

    /// Keeps an acknowledged message for another generation.
    pub(super) fn keep(&mut self, id: ClientId, send: frame::Send) {
        let size = |send: &frame::Send| prost::Message::encoded_len(send);
        self.kept_bytes += size(&send);
        self.kept.push_back((id, send));
        while self.kept.len() > self.kept_bound || self.kept_bytes > KEPT_BYTES {
            let Some((_, oldest)) = self.kept.pop_front() else {
                break;
            };
            self.kept_bytes -= size(&oldest);
        }
    }

    /// Another generation: what was acknowledged goes again, before what waits.
    pub(super) fn resubmit(&mut self, server_time_ms: u64) {
        self.kept_bytes = 0;
        let kept = std::mem::take(&mut self.kept);
        for (id, send) in kept.into_iter().rev() {
            if id.unix_ms().saturating_add(KEPT_MS) < server_time_ms {
                continue;
            }
            let key = self.key(&send);
            let ticket = self.insert(id, send, key.clone(), true);
            let lane = self.lanes.entry(key.clone()).or_default();
            debug_assert_eq!(lane.next, 0, "nothing goes before the session is attached");
            lane.order.push_front(ticket);
            self.make_ready(&key);
        }
    }

    /// Messages that are not over, for tests and for the queue's bound.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Pace {
    fn refill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms);
        // One a second is one thousandth a millisecond.
        self.level_milli = self
            .level_milli
            .saturating_add(passed.saturating_mul(self.per_second))
            .min(self.burst_milli);
        self.at_ms = now_ms.max(self.at_ms);
    }

    fn take(&mut self, now_ms: u64) -> bool {
        if self.per_second == 0 {
            return true;
        }
        self.refill(now_ms);
        if self.level_milli < 1000 {
            return false;
        }
        self.level_milli -= 1000;
        true
    }

    fn give_back(&mut self) {
        self.level_milli = self.level_milli.saturating_add(1000).min(self.burst_milli);
    }

    fn next_ms(&self, now_ms: u64) -> u64 {
        let missing = 1000_u64.saturating_sub(self.level_milli);
        now_ms + missing.div_ceil(self.per_second.max(1)).max(1)
    }
}

#[cfg(test)]
mod tests;
