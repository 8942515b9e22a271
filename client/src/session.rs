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
    error::Code,
    frame::{self, Body, Frame},
    ids::{ClientId, SessionId, UserId},
    limits,
};

use crate::{Backoff, Refused, State};

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

    // ------------------------------------------------------------- from server

    /// A frame came.
    pub(crate) fn receive(&mut self, now_ms: u64, frame: Frame, out: &mut Vec<Output>) {
        self.last_heard_ms = now_ms;
        self.pong_by_ms = None;
        let req = frame.req;
        match frame.body {
            Some(Body::Welcome(welcome)) => self.welcomed(now_ms, welcome, out),
            Some(Body::Resumed(resumed)) => self.resumed(resumed.from, out),
            Some(Body::Gap(gap)) => self.gap(gap, out),
            Some(Body::Event(batch)) => self.events(batch.events, out),
            Some(Body::Sent(sent)) => self.sent(req, sent, out),
            Some(Body::Error(error)) => self.error(now_ms, req, error, out),
            Some(Body::Receipt(receipt)) => self.receipt(receipt, out),
            Some(Body::Presence(presence)) => out.push(Output::Presence(presence)),
            Some(Body::Typing(typing)) => out.push(Output::Typing(typing)),
            Some(Body::TokenExpiring(expiring)) => out.push(Output::TokenExpiring {
                in_ms: expiring.in_ms,
            }),
            Some(Body::Goaway(goaway)) => out.push(Output::Goaway {
                within_ms: u64::from(goaway.reconnect_within_ms),
                endpoint: goaway.endpoint,
            }),
            Some(Body::Replaced(_)) => out.push(Output::Replaced),
            Some(Body::Pong(_)) => {}
            Some(
                body @ (Body::HistoryPage(_)
                | Body::ConversationsPage(_)
                | Body::MembersPage(_)
                | Body::MarksPage(_)),
            ) => {
                self.bulk_due += 1;
                self.answered(req, body, out);
            }
            Some(body @ (Body::GroupState(_) | Body::Done(_))) => self.answered(req, body, out),
            // A frame of a later version, or one that only clients send.
            other => tracing::debug!(?other, "a frame that this client does not know"),
        }
    }

    fn welcomed(&mut self, now_ms: u64, welcome: frame::Welcome, out: &mut Vec<Output>) {
        let resuming = self.cursor.is_some();
        self.user = welcome.user;
        self.resume_token = welcome.resume_token.clone();
        let limits = welcome.limits.unwrap_or_default();
        self.in_flight_limit = (limits.in_flight as usize).max(1);
        self.bulk_window = welcome.credits.unwrap_or_default().bulk.max(1);
        let heartbeat_ms = u64::from(welcome.heartbeat_ms)
            .min(self.longest_heartbeat_ms)
            .max(1_000);
        self.heartbeat_ms =
            (heartbeat_ms >> self.silent_losses).max(SHORTEST_HEARTBEAT_MS.min(heartbeat_ms));
        self.outgoing.welcomed(
            now_ms,
            UserId(welcome.user),
            &welcome.name,
            limits.sends_per_second,
            limits.sends_burst,
        );
        if !resuming {
            self.cursor = Some(welcome.inbox_head);
            self.marks.set_version(welcome.marks_version);
        }
        self.phase = Phase::Resuming;
        self.welcome = Some(Box::new(welcome));
        if !resuming {
            self.attached(out);
        }
    }

    fn resumed(&mut self, from: u64, out: &mut Vec<Output>) {
        if self.phase != Phase::Resuming {
            return;
        }
        let cursor = self.cursor.unwrap_or(0);
        if from > cursor {
            // The server takes for had what we do not have: say so, never skip silently.
            self.cursor = Some(from);
            self.attached(out);
            out.push(Output::Gap(from + 1, from));
        } else {
            self.attached(out);
        }
    }

    fn gap(&mut self, gap: frame::Gap, out: &mut Vec<Output>) {
        if self.phase == Phase::Resuming {
            if let Some(welcome) = &self.welcome {
                self.marks.set_version(welcome.marks_version);
            }
            self.cursor = Some(gap.head);
            self.attached(out);
        } else {
            self.cursor = Some(gap.head);
        }
        out.push(Output::Gap(gap.oldest, gap.head));
    }

    fn attached(&mut self, out: &mut Vec<Output>) {
        let Some(welcome) = self.welcome.take() else {
            return;
        };
        self.phase = Phase::Attached;
        if self.generation != welcome.generation {
            if self.generation != 0 {
                // A restore may have lost what was acknowledged after the backup.
                self.outgoing.resubmit(welcome.server_time_ms);
                self.acked = 0;
                self.marks.start_generation();
            }
            self.generation = welcome.generation;
        }
        // Neither an ACK nor a MARK of the last connection is sure to have arrived.
        self.ack_due = self.acked > 0;
        self.marks.repeat();
        self.requests.repeat_subscriptions();
        out.push(Output::Attached(Attached {
            session: SessionId(welcome.session),
            user: UserId(welcome.user),
            name: welcome.name,
            limits: welcome.limits.unwrap_or_default(),
            generation: welcome.generation,
            inbox_head: welcome.inbox_head,
            server_time_ms: welcome.server_time_ms,
            cursor: self.cursor.unwrap_or(0),
            marks_version: self.marks.version(),
        }));
    }

    fn events(&mut self, mut events: Vec<frame::Event>, out: &mut Vec<Output>) {
        let mut cursor = self.cursor.unwrap_or(0);
        let came = events.len();
        let mut hole = None;
        events.retain(|event| {
            if event.inbox_seq <= cursor || hole.is_some() {
                return false;
            }
            if event.inbox_seq != cursor + 1 {
                hole = Some((cursor, event.inbox_seq));
                return false;
            }
            cursor = event.inbox_seq;
            true
        });
        let dropped = came - events.len();
        // They used up credits like the others.
        self.credits_due = self
            .credits_due
            .saturating_add(u32::try_from(dropped).unwrap_or(u32::MAX));
        if hole.is_none() {
            self.tally.duplicates += dropped as u64;
        }
        self.cursor = Some(cursor);
        for event in &events {
            self.seen.raise(event.conversation, event.msg_id);
        }
        self.tally.events += events.len() as u64;
        if !events.is_empty() {
            out.push(Output::Events(events));
        }
        if let Some((have, next)) = hole {
            out.push(Output::Lost {
                reason: format!("event {next} came after {have}: resuming from there"),
                retry_after_ms: 0,
            });
        }
    }

    fn sent(&mut self, req: u32, sent: frame::Sent, out: &mut Vec<Output>) {
        self.seen.raise(sent.conversation, sent.msg_id);
        self.tally.answered_twice += u64::from(sent.duplicate);
        if let Some(done) = self.outgoing.answered(req, Verdict::Sent)
            && !done.silent
        {
            out.push(Output::Sent {
                ticket: done.ticket,
                id: done.id,
                sent,
            });
        }
    }

    fn error(&mut self, now_ms: u64, req: u32, error: frame::Error, out: &mut Vec<Output>) {
        let retry_after_ms = u64::from(error.retry_after_ms);
        if req == 0 {
            self.session_error(error, out);
            return;
        }
        if self.requests.is_in_flight(req) {
            if error.retryable {
                self.requests.failed(req, now_ms + retry_after_ms);
            } else if let Some(ticket) = self.requests.finish(req) {
                let answer = Err(error.into());
                out.push(Output::Answered { ticket, answer });
            }
            return;
        }
        let verdict = if error.retryable {
            if error.code == u32::from(Code::RateLimited.number()) {
                self.outgoing.limited(now_ms);
            }
            Verdict::Retry {
                now_ms,
                after_ms: retry_after_ms,
            }
        } else {
            Verdict::Refused
        };
        if let Some(done) = self.outgoing.answered(req, verdict)
            && !done.silent
        {
            out.push(Output::SendRefused {
                ticket: done.ticket,
                id: done.id,
                refused: error.into(),
            });
        }
    }

    fn session_error(&self, error: frame::Error, out: &mut Vec<Output>) {
        let refused = Refused::from(error);
        if refused.code == Some(Code::Replaced) {
            out.push(Output::Replaced);
        } else if !refused.retryable && matches!(self.phase, Phase::Greeting { .. }) {
            out.push(Output::Refused(refused));
        } else {
            out.push(Output::Lost {
                reason: refused.to_string(),
                retry_after_ms: u64::from(refused.retry_after_ms),
            });
        }
    }

    fn receipt(&mut self, receipt: frame::Receipt, out: &mut Vec<Output>) {
        match self.marks.receive(&receipt, self.user) {
            Heard::Before => return,
            Heard::News => {}
            Heard::Confirms => out.push(Output::MarkConfirmed {
                conversation: receipt.conversation,
                seen_up_to: receipt.seen_up_to,
            }),
        }
        out.push(Output::Receipt {
            receipt,
            marks_version: self.marks.version(),
        });
    }

    fn answered(&mut self, req: u32, body: Body, out: &mut Vec<Output>) {
        let Some(ticket) = self.requests.answered(req) else {
            return;
        };
        if ticket != 0 {
            out.push(Output::Answered {
                ticket,
                answer: Ok(body),
            });
        } else if let Body::MarksPage(page) = body {
            // The client asked by itself, after a reconnect: what may have changed meanwhile.
            for mark in page.marks {
                out.push(Output::Receipt {
                    receipt: frame::Receipt {
                        from_version: 0,
                        to_version: 0,
                        conversation: page.group,
                        user: mark.user,
                        delivered_up_to: mark.delivered_up_to,
                        seen_up_to: mark.seen_up_to,
                    },
                    marks_version: self.marks.version(),
                });
            }
        }
    }
}

/// Random numbers that only spread retries: SplitMix64.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    chat_wire::ids::mix64(*state)
}

#[cfg(test)]
mod tests;
