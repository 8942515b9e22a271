//! Requests other than SEND: in flight, waiting, or waiting to be tried again. All of
//! them may be repeated: reads, and changes that carry an `op_id`.
//!
//! Bounded by [`crate::client::MAX_REQUESTS`] at the caller.

use std::collections::{BTreeMap, HashMap, VecDeque};

use chat_wire::frame::{self, Body, Frame};

use super::{MAX_FOLLOWED, next_random};
use crate::Backoff;

struct Request {
    /// 0 for those the client makes by itself.
    ticket: u64,
    failures: u32,
    frame: Frame,
}

pub(super) struct Requests {
    backoff: Backoff,
    random: u64,
    next_ticket: u64,
    last_req: u32,
    waiting: VecDeque<Request>,
    in_flight: HashMap<u32, Request>,
    /// By the time of the next attempt and a number that makes it unique.
    later: BTreeMap<(u64, u64), Request>,
    /// What the server forgets with each connection.
    subscribed: Vec<u64>,
    followed: VecDeque<u64>,
}

impl Requests {
    pub(super) fn new(backoff: Backoff, seed: u64) -> Self {
        Self {
            backoff,
            random: seed,
            next_ticket: 0,
            last_req: 0,
            waiting: VecDeque::new(),
            in_flight: HashMap::new(),
            later: BTreeMap::new(),
            subscribed: Vec::new(),
            followed: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, body: Body) -> u64 {
        self.next_ticket += 1;
        self.waiting.push_back(Request {
            ticket: self.next_ticket,
            failures: 0,
            frame: body.into(),
        });
        self.next_ticket
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len() + self.later.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn is_in_flight(&self, req: u32) -> bool {
        self.in_flight.contains_key(&req)
    }

    /// A number that no request in flight has: SENDs take theirs here too. They are
    /// used up in turn, so after 2³² requests only an answer that took as long could collide.
    pub(super) fn next_req(&self) -> u32 {
        let mut req = self.last_req.wrapping_add(1).max(1);
        while self.in_flight.contains_key(&req) {
            req = req.wrapping_add(1).max(1);
        }
        req
    }

    pub(super) fn transmit(&mut self, req: u32, write: &mut impl FnMut(&Frame)) -> bool {
        self.last_req = req;
        let Some(mut request) = self.waiting.pop_front() else {
            return false;
        };
        request.frame.req = req;
        write(&request.frame);
        self.in_flight.insert(req, request);
        true
    }

    /// The final answer to `req`; its ticket.
    pub(super) fn finish(&mut self, req: u32) -> Option<u64> {
        self.in_flight.remove(&req).map(|request| request.ticket)
    }

    /// Like [`Requests::finish`], and remembers subscriptions.
    pub(super) fn answered(&mut self, req: u32) -> Option<u64> {
        let request = self.in_flight.remove(&req)?;
        match request.frame.body {
            Some(Body::PresenceSubscribe(subscribe)) => self.subscribed = subscribe.users,
            Some(Body::Marks(get)) => {
                self.followed.retain(|group| *group != get.group);
                if get.follow {
                    if self.followed.len() >= MAX_FOLLOWED {
                        self.followed.pop_front();
                    }
                    self.followed.push_back(get.group);
                }
            }
            _ => {}
        }
        Some(request.ticket)
    }

    /// A retryable error: again after a pause, not before `not_before_ms`.
    pub(super) fn failed(&mut self, req: u32, not_before_ms: u64) {
        if let Some(mut request) = self.in_flight.remove(&req) {
            request.failures += 1;
            let chance = next_random(&mut self.random);
            let pause = self.backoff.pause(request.failures, chance);
            let at = not_before_ms + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            self.later.insert((at, chance), request);
        }
    }

    pub(super) fn forget(&mut self, ticket: u64) {
        self.waiting.retain(|request| request.ticket != ticket);
        self.later.retain(|_, request| request.ticket != ticket);
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        self.later
            .first_key_value()
            .map_or(u64::MAX, |((at, _), _)| *at)
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now_ms
        {
            self.waiting.push_back(entry.remove());
        }
    }

    pub(super) fn disconnected(&mut self) {
        let mut again: Vec<_> = self
            .in_flight
            .drain()
            .map(|(_, request)| request)
            .chain(std::mem::take(&mut self.later).into_values())
            .filter(|request| request.ticket != 0)
            .collect();
        again.sort_by_key(|request| request.ticket);
        self.waiting.retain(|request| request.ticket != 0);
        for request in again.into_iter().rev() {
            // A new token goes with the next HELLO.
            if !matches!(request.frame.body, Some(Body::Reauth(_))) {
                self.waiting.push_front(request);
            } else {
                self.waiting.push_back(request);
            }
        }
    }

    pub(super) fn repeat_subscriptions(&mut self) {
        let mut repeat = |body: Body| {
            self.waiting.push_back(Request {
                ticket: 0,
                failures: 0,
                frame: body.into(),
            });
        };
        if !self.subscribed.is_empty() {
            let users = self.subscribed.clone();
            repeat(Body::PresenceSubscribe(frame::PresenceSubscribe { users }));
        }
        for group in &self.followed {
            repeat(Body::Marks(frame::MarksGet {
                group: *group,
                follow: true,
                cursor: bytes::Bytes::new(),
                limit: 0,
            }));
        }
    }
}
