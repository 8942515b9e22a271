//! What comes from the server, frame by frame, and what follows from it.

use chat_wire::{
    error::Code,
    frame::{self, Body, Frame},
    ids::{SessionId, UserId},
};

use super::{Attached, Heard, Output, Phase, SHORTEST_HEARTBEAT_MS, Session, Verdict};
use crate::Refused;

impl Session {
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
