//! ACKs and MARKs of devices, collected: one command a shard at most every 200 ms.
//! Delivered marks are computed from the events between a device's old cursor and its
//! ACK when the command is made.
//!
//! Bounds: one entry a device, [`MAX_MARKS`] conversations in it; one MARK more ends
//! the session as OVERLOADED, and the client repeats it when it resumes.

use chat_wire::{
    error::{Code, Refusal},
    ids::{ConversationId, DeviceId, MsgId, SessionId, UserId},
};
use std::collections::BTreeMap;

use super::{HostSettings, Pass, shard::Shard};
use crate::{
    command::{self, ConversationMark, DeviceAck},
    message::ToSession,
    shard::marks,
    store::{ShardStore, Unreadable},
};

/// Conversations a device may mark between two commands.
const MAX_MARKS: usize = 256;
/// Devices in one command.
const DEVICES_A_COMMAND: usize = 256;
/// Events that are looked through for one device and command; the rest follows.
const EVENTS_A_DEVICE: usize = 4096;

#[derive(Debug, Default)]
struct Collected {
    /// The cursor before; `to` is the ACK, 0 if there is none.
    from: u64,
    to: u64,
    seen: BTreeMap<ConversationId, MsgId>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Acks {
    devices: BTreeMap<(UserId, DeviceId), Collected>,
    since_ms: u64,
    flushed_ms: u64,
}

impl Acks {
    /// A device has acknowledged everything up to `to`; it had `from`.
    pub(super) fn ack(&mut self, now_ms: u64, user: UserId, device: DeviceId, from: u64, to: u64) {
        self.begin(now_ms);
        let collected = self.devices.entry((user, device)).or_default();
        if collected.to == 0 {
            collected.from = from;
        }
        collected.from = collected.from.min(from);
        collected.to = collected.to.max(to);
    }

    /// A device has seen a conversation up to a message. False if it marks too many.
    fn seen(
        &mut self,
        now_ms: u64,
        (user, device): (UserId, DeviceId),
        conversation: ConversationId,
        seen: MsgId,
    ) -> bool {
        self.begin(now_ms);
        let marks = &mut self.devices.entry((user, device)).or_default().seen;
        if marks.len() >= MAX_MARKS && !marks.contains_key(&conversation) {
            return false;
        }
        let mark = marks.entry(conversation).or_default();
        *mark = seen.max(*mark);
        true
    }

    fn begin(&mut self, now_ms: u64) {
        if self.devices.is_empty() {
            self.since_ms = now_ms;
        }
    }

    /// When they become a command: at once, unless the last one is too fresh.
    pub(super) fn due_ms(&self, settings: &HostSettings) -> Option<u64> {
        let due = self
            .since_ms
            .max(self.flushed_ms.saturating_add(settings.ack_flush_ms));
        (!self.devices.is_empty()).then_some(due)
    }
}

impl<S: ShardStore> Shard<S> {
    pub(super) fn acknowledge(&mut self, pass: &mut Pass<'_>, session: SessionId, inbox_seq: u64) {
        let now_ms = pass.now.mono_ms;
        match self.delivery.ack(now_ms, session, inbox_seq) {
            Ok(None) => {}
            Ok(Some(acked)) => {
                let user = self.delivery.slot(session).map(|slot| slot.user);
                if let Some(user) = user {
                    self.acks
                        .ack(now_ms, user, acked.device, acked.from, acked.to);
                }
            }
            Err(refusal) => self.close(pass, session, refusal),
        }
    }

    pub(super) fn seen(
        &mut self,
        pass: &mut Pass<'_>,
        session: SessionId,
        conversation: ConversationId,
        seen: MsgId,
    ) {
        let Some(slot) = self.delivery.slot(session) else {
            return;
        };
        let who = (slot.user, slot.device);
        if !self.acks.seen(pass.now.mono_ms, who, conversation, seen) {
            let many =
                format!("more than {MAX_MARKS} MARKs at once: connect again and repeat them");
            self.close(pass, session, Refusal::new(Code::Overloaded, many));
        }
    }

    pub(super) fn close(&mut self, pass: &mut Pass<'_>, session: SessionId, refusal: Refusal) {
        self.detach(pass, session);
        pass.tell(session, ToSession::Close(refusal));
    }

    /// Makes commands of what was collected, if it is time.
    pub(super) fn flush_acks(&mut self, pass: &mut Pass<'_>) -> Result<(), Unreadable> {
        let now_ms = pass.now.mono_ms;
        let due_ms = self.acks.due_ms(pass.settings);
        if due_ms.is_none_or(|due| due > now_ms) {
            return Ok(());
        }
        self.acks.flushed_ms = now_ms;
        // Without room they are collected on: cursors and marks only grow.
        if pass.disk_full || !self.serves() || self.proposals.is_short() {
            return Ok(());
        }
        let mut devices = Vec::new();
        while self.proposals.has_room(0)
            && let Some(((user, device), collected)) = self.acks.devices.pop_first()
        {
            let (marks, reached) = self.marks_of(user, &collected)?;
            devices.push(DeviceAck {
                user: user.0,
                device: device.0,
                cursor: reached,
                marks,
            });
            if reached < collected.to {
                // What is left goes with the next command.
                let rest = Collected {
                    from: reached,
                    to: collected.to,
                    seen: BTreeMap::new(),
                };
                self.acks.devices.insert((user, device), rest);
                break;
            }
            if devices.len() >= DEVICES_A_COMMAND {
                let devices = std::mem::take(&mut devices);
                self.proposals
                    .push_own(command::Acks { devices }, bytes::Bytes::new());
            }
        }
        if !devices.is_empty() {
            self.proposals
                .push_own(command::Acks { devices }, bytes::Bytes::new());
        }
        Ok(())
    }

    /// The marks that follow from an ACK, and those the device said; and up to which
    /// event the ACK was followed.
    fn marks_of(
        &self,
        user: UserId,
        collected: &Collected,
    ) -> Result<(Vec<ConversationMark>, u64), Unreadable> {
        let (mut marks, mut reached) = (Vec::new(), collected.to);
        if collected.to > collected.from {
            let store = self.replica.store();
            let (from, to) = (collected.from, collected.to);
            (marks, reached) = marks::marks_between(store, user, from, to, EVENTS_A_DEVICE)?;
        }
        for (conversation, seen) in &collected.seen {
            match marks
                .iter_mut()
                .find(|mark| mark.conversation == conversation.0)
            {
                Some(mark) => mark.seen = seen.0,
                None => marks.push(ConversationMark {
                    conversation: conversation.0,
                    delivered: 0,
                    seen: seen.0,
                }),
            }
        }
        Ok((marks, reached))
    }
}
