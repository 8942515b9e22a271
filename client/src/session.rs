//! One device's session as the client sees it, sans-IO: what comes in are frames and
//! the time, what goes out are frames to write and [`Output`]s.
//!
//! It outlives connections: [`Session::hello`] begins one, [`Session::disconnected`]
//! ends it, and everything not answered is said again on the next. Call
//! [`Session::receive`] for each frame, then take the outputs; call
//! [`Session::transmit`] while the transport has room; call [`Session::tick`] when
//! [`Session::deadline_ms`] has passed.
//!
//! Known limit: `after` is known for the last 20,000 conversations only; in an older one
//! an answer may be ordered by the clocks of the shards alone.

use std::collections::VecDeque;

use bytes::Bytes;
use chat_wire::{
    frame::{self, Body, Frame},
    ids::ClientId,
    limits,
};

use crate::{Backoff, State};

mod incoming;
mod marks;
mod outgoing;
mod output;
mod requests;
mod seen;

use marks::{Heard, Marks};
pub(crate) use outgoing::KEPT_MS;
use outgoing::{Outgoing, Verdict};
pub(crate) use output::{Attached, Output, Tally};
use requests::Requests;
use seen::Seen;

/// For how long the answer to HELLO is awaited, ms.
const GREETING_MS: u64 = 10_000;
/// For how long the answer to PING is awaited, ms.
const PONG_MS: u64 = 10_000;
/// The same while something waits for its answer: whoever waits looks elsewhere sooner.
const URGENT_PONG_MS: u64 = 5_000;
/// After so long without a word, ms, what waits for its answer asks whether the server is there. On
/// QUIC nothing else tells that a server was killed.
const IMPATIENT_MS: u64 = 2_000;
/// No heartbeat is shorter, ms.
const SHORTEST_HEARTBEAT_MS: u64 = 25_000;
/// Groups whose marks are followed; for one more the oldest is followed no longer after a reconnect.
const MAX_FOLLOWED: usize = 64;

/// What does not change while the client lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) device: u64,
    /// Events that may be on their way or wait to be taken.
    pub(crate) event_buffer: u32,
    pub(crate) backoff: Backoff,
    /// Acknowledged messages that are kept for another generation.
    pub(crate) kept: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Detached,
    /// HELLO is out.
    Greeting {
        until_ms: u64,
    },
    /// WELCOME is in, RESUMED or GAP is not.
    Resuming,
    Attached,
}

pub(crate) struct Session {
    settings: Settings,
    phase: Phase,
    /// The last event received; none before the first session of a fresh device.
    cursor: Option<u64>,
    generation: u32,
    resume_token: Bytes,
    welcome: Option<Box<frame::Welcome>>,
    user: u64,

    acked: u64,
    ack_due: bool,
    marks: Marks,

    seen: Seen,
    outgoing: Outgoing,
    requests: Requests,
    control: VecDeque<Frame>,

    /// Events taken and not yet granted again.
    credits_due: u32,
    bulk_due: u32,
    bulk_window: u32,

    in_flight_limit: usize,
    heartbeat_ms: u64,
    longest_heartbeat_ms: u64,
    silent_losses: u32,
    last_heard_ms: u64,
    /// Since when something has been in flight all the time.
    waiting_since_ms: u64,
    pong_by_ms: Option<u64>,
    tally: Tally,
}

impl Session {
    /// A session that has never been connected. `resume` is where a device goes on.
    pub(crate) fn new(settings: Settings, resume: Option<State>, seed: u64) -> Self {
        let state = resume.clone().unwrap_or_default();
        Self {
            settings,
            phase: Phase::Detached,
            cursor: resume.is_some().then_some(state.inbox_seq),
            generation: state.generation,
            resume_token: Bytes::new(),
            welcome: None,
            user: 0,
            acked: state.acked.min(state.inbox_seq),
            ack_due: false,
            marks: Marks::new(state.marks_version, state.marks),
            seen: Seen::new(),
            outgoing: Outgoing::new(settings.backoff, settings.kept, seed),
            requests: Requests::new(settings.backoff, seed),
            control: VecDeque::new(),
            credits_due: 0,
            bulk_due: 0,
            bulk_window: 1,
            in_flight_limit: 1,
            heartbeat_ms: SHORTEST_HEARTBEAT_MS,
            longest_heartbeat_ms: u64::MAX,
            silent_losses: 0,
            last_heard_ms: 0,
            waiting_since_ms: 0,
            pong_by_ms: None,
            tally: Tally::default(),
        }
    }

    /// No heartbeat of the next connection is longer: what carries it may forget earlier
    /// than the server knows.
    pub(crate) const fn limit_heartbeat(&mut self, longest_ms: u64) {
        self.longest_heartbeat_ms = longest_ms;
    }

    /// Begins a connection. `unread` events wait for the application already.
    pub(crate) fn hello(&mut self, now_ms: u64, token: String, unread: u32) {
        self.phase = Phase::Greeting {
            until_ms: now_ms + GREETING_MS,
        };
        self.last_heard_ms = now_ms;
        self.pong_by_ms = None;
        self.credits_due = 0;
        self.bulk_due = 0;
        self.control.clear();
        self.control.push_back(
            Body::Hello(frame::Hello {
                min_version: *limits::VERSIONS.start(),
                max_version: *limits::VERSIONS.end(),
                token,
                device: self.settings.device,
                capabilities: Vec::new(),
                resume: self.cursor.map(|inbox_seq| frame::Resume {
                    inbox_seq,
                    marks_version: self.marks.version(),
                    generation: self.generation,
                    resume_token: self.resume_token.clone(),
                }),
                event_credits: Some(self.settings.event_buffer.saturating_sub(unread)),
            })
            .into(),
        );
    }

    /// The connection is gone. Everything not answered is said again on the next.
    pub(crate) fn disconnected(&mut self) {
        self.phase = Phase::Detached;
        self.control.clear();
        self.outgoing.disconnected();
        self.requests.disconnected();
    }

    /// Nothing is read for now, so silence means nothing.
    pub(crate) fn not_listening(&mut self, now_ms: u64) {
        if self.phase == Phase::Attached {
            self.last_heard_ms = now_ms;
            self.pong_by_ms = None;
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    // ------------------------------------------------------------ application

    /// Queues a message. `acknowledged` ones of an earlier process are only kept.
    pub(crate) fn send(&mut self, id: ClientId, mut send: frame::Send) -> u64 {
        if send.after == 0
            && let Some(conversation) = self.outgoing.conversation_of(&send)
        {
            send.after = self.seen.highest(conversation);
        }
        self.outgoing.push(id, send)
    }

    /// Keeps a message that an earlier process had acknowledged.
    pub(crate) fn keep(&mut self, id: ClientId, send: frame::Send) {
        self.outgoing.keep(id, send);
    }

    pub(crate) fn abandon(&mut self, id: ClientId, out: &mut Vec<Output>) {
        if let Some(ticket) = self.outgoing.abandon(id) {
            out.push(Output::Abandoned { ticket, id });
        }
    }

    pub(crate) fn request(&mut self, body: Body) -> u64 {
        self.requests.push(body)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn forget_request(&mut self, ticket: u64) {
        self.requests.forget(ticket);
    }

    pub(crate) fn open_requests(&self) -> usize {
        self.requests.len()
    }

    /// Not answered and not repeated.
    pub(crate) fn typing(&mut self, typing: frame::Typing) {
        if self.phase == Phase::Attached && self.control.len() < 64 {
            self.control.push_back(Body::Typing(typing).into());
        }
    }

    /// The application has taken `events`, and acknowledged in this generation.
    pub(crate) fn taken(&mut self, events: u32, acked: u64, generation: u32) {
        self.credits_due = self.credits_due.saturating_add(events);
        if generation != self.generation {
            return;
        }
        let acked = acked.min(self.cursor.unwrap_or(0));
        if acked > self.acked {
            self.acked = acked;
            self.ack_due = true;
        }
    }

    /// Seen up to here; repeated until it is confirmed.
    pub(crate) fn mark(&mut self, conversation: u64, seen_up_to: i64, out: &mut Vec<Output>) {
        if self.marks.mark(conversation, seen_up_to) {
            out.push(Output::MarkConfirmed {
                conversation,
                seen_up_to,
            });
        }
    }

    // ------------------------------------------------------------------- time

    /// When [`Session::tick`] is due.
    pub(crate) fn deadline_ms(&self) -> u64 {
        let heartbeat = match self.phase {
            Phase::Detached => return u64::MAX,
            Phase::Greeting { until_ms } => return until_ms,
            Phase::Resuming => return self.last_heard_ms + GREETING_MS,
            Phase::Attached => self.pong_by_ms.unwrap_or(self.knock_at_ms()),
        };
        heartbeat
            .min(self.outgoing.deadline_ms())
            .min(self.requests.deadline_ms())
    }

    fn in_flight(&self) -> usize {
        self.requests.in_flight() + self.outgoing.in_flight()
    }

    /// When the server is asked whether it is still there.
    fn knock_at_ms(&self) -> u64 {
        let heartbeat = self.last_heard_ms + self.heartbeat_ms;
        if self.in_flight() == 0 {
            return heartbeat;
        }
        heartbeat.min(self.last_heard_ms.max(self.waiting_since_ms) + IMPATIENT_MS)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let lost = |reason: &str| Output::Lost {
            reason: reason.to_owned(),
            retry_after_ms: 0,
        };
        match self.phase {
            Phase::Detached => {}
            Phase::Greeting { until_ms } => {
                if now_ms >= until_ms {
                    out.push(lost("no answer to HELLO within 10 s"));
                }
            }
            Phase::Resuming => {
                if now_ms >= self.last_heard_ms + GREETING_MS {
                    out.push(lost("no answer to the resume within 10 s"));
                }
            }
            Phase::Attached => {
                if self.pong_by_ms.is_some_and(|by| now_ms >= by) {
                    // A middlebox forgot the connection: next time knock earlier.
                    self.silent_losses = (self.silent_losses + 1).min(16);
                    out.push(lost("the server is silent: no answer to a heartbeat"));
                } else if self.pong_by_ms.is_none() && now_ms >= self.knock_at_ms() {
                    self.control.push_back(Body::Ping(frame::Ping {}).into());
                    let patience = if self.in_flight() == 0 {
                        PONG_MS
                    } else {
                        URGENT_PONG_MS
                    };
                    self.pong_by_ms = Some(now_ms + patience);
                }
                self.outgoing.tick(now_ms);
                self.requests.tick(now_ms);
            }
        }
    }

    // --------------------------------------------------------------- to server

    /// Writes at most one frame; false if there is none.
    pub(crate) fn transmit(&mut self, now_ms: u64, write: &mut impl FnMut(&Frame)) -> bool {
        if let Some(frame) = self.control.pop_front() {
            write(&frame);
            return true;
        }
        if self.phase != Phase::Attached {
            return false;
        }
        if self.ack_due {
            self.ack_due = false;
            let inbox_seq = self.acked;
            write(&Body::Ack(frame::Ack { inbox_seq }).into());
            return true;
        }
        if self.credits_due >= (self.settings.event_buffer / 4).max(1) {
            let n = std::mem::take(&mut self.credits_due);
            let lane = frame::Lane::Events.into();
            write(&Body::Credit(frame::Credit { lane, n }).into());
            return true;
        }
        if self.bulk_due >= (self.bulk_window / 2).max(1) {
            let n = std::mem::take(&mut self.bulk_due);
            let lane = frame::Lane::Bulk.into();
            write(&Body::Credit(frame::Credit { lane, n }).into());
            return true;
        }
        if let Some(mark) = self.marks.next() {
            write(&Body::Mark(mark).into());
            return true;
        }
        let in_flight = self.in_flight();
        if in_flight >= self.in_flight_limit {
            return false;
        }
        if in_flight == 0 {
            self.waiting_since_ms = now_ms;
        }
        let req = self.requests.next_req();
        if self.requests.transmit(req, write) {
            return true;
        }
        if let Some(attempt) = self.outgoing.transmit(now_ms, req, write) {
            self.tally.sent += 1;
            self.tally.resent += u64::from(attempt.again);
            self.tally.resubmitted += u64::from(attempt.resubmission);
            return true;
        }
        false
    }
}

/// Random numbers that only spread retries: SplitMix64.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    chat_wire::ids::mix64(*state)
}

#[cfg(test)]
mod tests;
