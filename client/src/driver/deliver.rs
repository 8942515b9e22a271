//! What the session says, on its way to the application, the queue's file and the
//! counters.

use std::{sync::atomic::Ordering, time::Duration};

use chat_wire::{
    frame::{self, Body},
    ids::ClientId,
};

use super::{Driver, End};
use crate::{
    ConnectError, Connected, Endpoint, Incoming, RequestError, SendError, Token,
    session::{Attached, Output},
    shared::{Who, unix_ms},
};

impl Driver {
    /// Hands all outputs on; the end of the connection, if one of them says so.
    pub(super) fn deliver(&mut self) -> Option<End> {
        if self.outputs.is_empty() {
            return None;
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        let mut end = None;
        let mut room = 0;
        for output in outputs.drain(..) {
            if let Some(this) = self.output(output, &mut room) {
                end.get_or_insert(this);
            }
        }
        self.outputs = outputs;
        if room > 0 {
            self.shared.room.add_permits(room);
        }
        self.count();
        end
    }

    fn output(&mut self, output: Output, room: &mut usize) -> Option<End> {
        let arrivals = &self.shared.arrivals;
        match output {
            Output::Attached(attached) => self.attached(attached),
            Output::Events(events) => arrivals.push_events(events),
            Output::Gap(oldest, head) => arrivals.push_gap(oldest, head),
            Output::Receipt {
                receipt,
                marks_version,
            } => arrivals.push_receipt(receipt, marks_version),
            Output::MarkConfirmed {
                conversation,
                seen_up_to,
            } => arrivals.confirm_mark(conversation, seen_up_to),
            Output::Presence(presence) => arrivals.push_signal(Incoming::Presence(presence)),
            Output::Typing(typing) => arrivals.push_signal(Incoming::Typing(typing)),
            Output::TokenExpiring { in_ms } => self.token_expires(in_ms),
            Output::Sent { ticket, id, sent } => self.over(ticket, id, true, Ok(sent), room),
            Output::SendRefused {
                ticket,
                id,
                refused,
            } => {
                let error = SendError::Refused { id, refused };
                self.over(ticket, id, false, Err(error), room);
            }
            Output::Abandoned { ticket, id } => {
                self.over(ticket, id, false, Err(SendError::Abandoned { id }), room);
            }
            Output::Answered { ticket, answer } => {
                if let Some(waiting) = self.requests.remove(&ticket) {
                    // Nobody waits any more: the answer is of no use.
                    drop(waiting.send(answer.map_err(RequestError::Refused)));
                }
            }
            Output::Goaway {
                within_ms,
                endpoint,
            } => {
                let pause = rand::random_range(0..=within_ms);
                self.leave_at_ms = Some(self.now_ms() + pause);
                self.next_endpoint = self.allowed(&endpoint);
            }
            Output::Lost {
                reason,
                retry_after_ms: pause_ms,
            } => return Some(End::Lost { reason, pause_ms }),
            Output::Refused(refused) => {
                return Some(End::Final(ConnectError::Refused(refused)));
            }
            Output::Replaced => return Some(End::Final(ConnectError::Replaced)),
        }
        None
    }

    /// An endpoint that the server names, unless it would send the token in the clear
    /// where it was not.
    fn allowed(&self, endpoint: &str) -> Option<Endpoint> {
        let endpoint: Endpoint = endpoint.parse().ok()?;
        let plain =
            |endpoint: &Endpoint| matches!(endpoint, Endpoint::WebSocket { tls: false, .. });
        (!plain(&endpoint) || plain(&self.config.endpoint)).then_some(endpoint)
    }

    fn over(
        &mut self,
        ticket: u64,
        id: ClientId,
        acknowledged: bool,
        answer: Result<frame::Sent, SendError>,
        room: &mut usize,
    ) {
        *room += 1;
        if self.writer.is_some() {
            self.over.push((id, acknowledged));
        }
        if let Some(waiting) = self.sends.remove(&ticket) {
            drop(waiting.send(answer));
        } else if let Err(error) = answer {
            // A message of an earlier process: nobody else can be told.
            tracing::warn!(%error, "a message from the queue is not sent");
        }
    }

    /// Tells the queue's file what is over. Bounded by the queue: each was in it.
    pub(super) fn write_over(&mut self) {
        if let Some(writer) = &self.writer {
            let mut written = 0;
            for (id, acknowledged) in &self.over {
                if !writer.over(*id, *acknowledged) {
                    break;
                }
                written += 1;
            }
            self.over.drain(..written);
        }
    }

    fn attached(&mut self, attached: Attached) {
        let ahead = i64::try_from(attached.server_time_ms)
            .unwrap_or(0)
            .saturating_sub(i64::try_from(unix_ms()).unwrap_or(0));
        self.shared.clock_ahead_ms.store(ahead, Ordering::Relaxed);
        self.shared
            .content_bytes
            .store(attached.limits.content_bytes, Ordering::Relaxed);
        self.shared
            .frame_bytes
            .store(attached.limits.frame_bytes, Ordering::Relaxed);
        *self
            .shared
            .who
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Who {
            user: attached.user,
            name: attached.name.clone(),
            limits: attached.limits,
            generation: attached.generation,
        };
        self.shared.counts.connects.fetch_add(1, Ordering::Relaxed);
        let connected = Connected {
            session: attached.session,
            user: attached.user,
            name: attached.name,
            generation: attached.generation,
            inbox_head: attached.inbox_head,
            transport: self.transport_kind,
            attempts: self.attempts,
        };
        self.shared
            .arrivals
            .push_connected(connected, attached.cursor, attached.marks_version);
        if let Some(ready) = self.ready.take()
            && ready.send(Ok(())).is_err()
        {
            // Whoever wanted the client is gone.
            self.shared.start_closing();
        }
    }

    fn token_expires(&mut self, in_ms: u64) {
        match &self.config.token {
            Token::Fixed(_) => {
                let within = Duration::from_millis(in_ms);
                self.shared
                    .arrivals
                    .push_signal(Incoming::TokenExpiring { within });
            }
            source => match source.read() {
                Ok(token) => {
                    self.session.request(Body::Reauth(frame::Reauth { token }));
                }
                Err(error) => tracing::warn!(%error, "the token cannot be read again"),
            },
        }
    }

    fn count(&self) {
        let tally = self.session.tally();
        let counts = &self.shared.counts;
        counts.sent.store(tally.sent, Ordering::Relaxed);
        counts.resent.store(tally.resent, Ordering::Relaxed);
        counts
            .resubmitted
            .store(tally.resubmitted, Ordering::Relaxed);
        counts
            .answered_twice
            .store(tally.answered_twice, Ordering::Relaxed);
        counts.events.store(tally.events, Ordering::Relaxed);
        counts.duplicates.store(tally.duplicates, Ordering::Relaxed);
    }
}
