//! What a full queue gave back and may not be lost: offered again, coalesced to the
//! latest. ACK and MARK rise, CREDIT and what was spent add up, DETACH is said once per shard.

use chat_wire::ids::{ConversationId, DeviceId, MsgId, SessionId, UserId};
use std::collections::BTreeMap;

use crate::message::{Request, ToShard};

/// Conversations whose MARK waits. One more ends the session as OVERLOADED; the
/// client says its marks again when it resumes.
pub(super) const MAX_MARKS: usize = 256;
/// How long to wait before offering again.
pub(super) const RETRY_MS: u64 = 50;

#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) due_ms: u64,
    attach: Option<ToShard>,
    ack: u64,
    credits: u32,
    spent: i64,
    inboxes: u32,
    marks: BTreeMap<ConversationId, MsgId>,
    detach: Vec<ToShard>,
}

impl Kept {
    /// Keeps a request. False if the marks are too many.
    pub(super) fn keep(&mut self, to: ToShard) -> bool {
        match to.request {
            Request::Attach(_) => self.attach = Some(to),
            Request::Ack { inbox_seq, .. } => self.ack = self.ack.max(inbox_seq),
            Request::Credit { events, .. } => self.credits = self.credits.saturating_add(events),
            Request::Mark {
                conversation, seen, ..
            } => {
                if self.marks.len() >= MAX_MARKS && !self.marks.contains_key(&conversation) {
                    return false;
                }
                let mark = self.marks.entry(conversation).or_default();
                *mark = seen.max(*mark);
            }
            Request::Spent { units, inboxes, .. } => {
                self.spent = self.spent.saturating_add(units);
                self.inboxes = self.inboxes.saturating_add(inboxes);
            }
            Request::Detach { .. } => self.detach.push(to),
            // Everything else is refused or dropped where it came back.
            _ => {}
        }
        true
    }

    /// The session is over: only that is still worth saying.
    pub(super) fn only_detach(&mut self) {
        *self = Self {
            due_ms: self.due_ms,
            spent: self.spent,
            inboxes: self.inboxes,
            detach: std::mem::take(&mut self.detach),
            ..Self::default()
        };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.attach.is_none()
            && self.ack == 0
            && self.credits == 0
            && self.spent == 0
            && self.inboxes == 0
            && self.marks.is_empty()
            && self.detach.is_empty()
    }

    /// Everything kept, for another try.
    pub(super) fn offer(
        self,
        session: SessionId,
        (user, device): (UserId, DeviceId),
        shard: chat_wire::ids::ShardId,
    ) -> Vec<ToShard> {
        let mut offers: Vec<_> = self.attach.into_iter().collect();
        let mut push = |request| offers.push(ToShard { shard, request });
        if self.credits > 0 {
            push(Request::Credit {
                session,
                user,
                events: self.credits,
            });
        }
        if self.ack > 0 {
            push(Request::Ack {
                session,
                user,
                inbox_seq: self.ack,
            });
        }
        for (conversation, seen) in self.marks {
            push(Request::Mark {
                session,
                user,
                conversation,
                seen,
            });
        }
        if self.spent != 0 || self.inboxes != 0 {
            push(Request::Spent {
                session,
                user,
                device,
                units: self.spent,
                inboxes: self.inboxes,
            });
        }
        offers.extend(self.detach);
        offers
    }
}
