//! Marks on their way between shards. They are state, merged by max, so they go beside
//! the outbox: sent when they change, again until the destination has them, and the
//! pending row goes when it says so.

use bytes::Bytes;
use chat_wire::ids::{ShardId, UserId};
use std::collections::BTreeMap;

use super::{Pass, shard::Shard};
use crate::{
    command::{Marks, MarksConfirm, RemoteMark},
    message::Says,
    router,
    shard::marks,
    store::{ShardStore, Unreadable},
};

/// Marks in one message or command.
const MARKS_A_MESSAGE: usize = 256;
/// Confirmations collected at most; what is above comes again with its mark.
const MAX_CONFIRMS: usize = 8 * 1024;
/// Pending rows that are sent again in one go.
const REPEATED: usize = 1024;

/// (target, user): one mark each, the newest.
type Coalesced = BTreeMap<(u64, u64), RemoteMark>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// What leaves at the end of the pass.
    out: BTreeMap<ShardId, Coalesced>,
    confirms: Coalesced,
    confirm_due_ms: Option<u64>,
    /// When pending rows are looked through; none if there is no such row.
    repeat_due_ms: Option<u64>,
    /// Where the next look begins.
    repeat_from: Option<(ShardId, RemoteMark)>,
}

impl Relay {
    /// A new leader sends what its state says is pending.
    pub(super) fn begin(&mut self, now_ms: u64) {
        self.repeat_due_ms = Some(now_ms);
    }

    /// Marks changed; they are looked through again at `repeat_ms`.
    pub(super) fn add(&mut self, repeat_ms: u64, pending: Vec<(ShardId, RemoteMark)>) {
        for (destination, mark) in pending {
            let marks = self.out.entry(destination).or_default();
            marks.insert((mark.target, mark.user), mark);
        }
        self.repeat_due_ms.get_or_insert(repeat_ms);
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        self.confirm_due_ms
            .into_iter()
            .chain(self.repeat_due_ms)
            .min()
    }
}

impl<S: ShardStore> Shard<S> {
    pub(super) fn send_marks(&mut self, pass: &mut Pass<'_>) {
        for (destination, marks) in std::mem::take(&mut self.relay.out) {
            let marks: Vec<_> = marks.into_values().collect();
            for marks in marks.chunks(MARKS_A_MESSAGE) {
                pass.say(self.id, destination, Says::Marks(marks.to_vec()));
            }
        }
    }

    /// Marks of readers elsewhere arrive. Without room they come again.
    pub(super) fn marks_arrive(&mut self, pass: &mut Pass<'_>, marks: &[RemoteMark]) {
        let room = pass.room.takes_deliveries(self.log_bytes());
        if self.serves() && !pass.disk_full && !pass.finishing && room {
            for marks in marks.chunks(MARKS_A_MESSAGE) {
                let command = Marks {
                    marks: marks.to_vec(),
                };
                self.proposals.push_own(command, Bytes::new());
            }
        }
    }

    /// They are applied here: the shards of the readers are told.
    pub(super) fn marks_applied(&mut self, pass: &mut Pass<'_>, marks: Vec<RemoteMark>) {
        let mut by_shard: BTreeMap<ShardId, Vec<RemoteMark>> = BTreeMap::new();
        for mark in marks {
            let reader = router::of_user(&pass.settings.map, UserId(mark.user));
            by_shard.entry(reader).or_default().push(mark);
        }
        for (reader, marks) in by_shard {
            pass.say(self.id, reader, Says::MarksApplied(marks));
        }
    }

    /// A destination has marks of ours.
    pub(super) fn marks_confirmed(&mut self, pass: &mut Pass<'_>, marks: Vec<RemoteMark>) {
        for mark in marks {
            if self.relay.confirms.len() < MAX_CONFIRMS {
                self.relay.confirms.insert((mark.target, mark.user), mark);
            }
        }
        let due = pass.now.mono_ms + pass.settings.confirm_ms;
        self.relay.confirm_due_ms.get_or_insert(due);
    }

    pub(super) fn confirm_marks(&mut self, pass: &mut Pass<'_>) {
        if self
            .relay
            .confirm_due_ms
            .is_none_or(|due| due > pass.now.mono_ms)
        {
            return;
        }
        self.relay.confirm_due_ms = None;
        let marks: Vec<_> = std::mem::take(&mut self.relay.confirms)
            .into_values()
            .collect();
        for marks in marks.chunks(MARKS_A_MESSAGE) {
            // Without room they stay pending, and come again.
            let command = MarksConfirm {
                marks: marks.to_vec(),
            };
            self.proposals.push_own(command, Bytes::new());
        }
    }

    /// Looks through pending rows, a page at a time, and sends them again.
    pub(super) fn repeat_marks(&mut self, pass: &mut Pass<'_>) -> Result<(), Unreadable> {
        if self
            .relay
            .repeat_due_ms
            .is_none_or(|due| due > pass.now.mono_ms)
        {
            return Ok(());
        }
        let after = self.relay.repeat_from.take();
        let from_the_start = after.is_none();
        let rows = marks::pending(self.replica.store(), after, REPEATED)?;
        if rows.len() == REPEATED {
            self.relay.repeat_from = rows.last().cloned();
        }
        let nothing = rows.is_empty() && from_the_start;
        for (destination, mark) in rows {
            let out = self.relay.out.entry(destination).or_default();
            out.entry((mark.target, mark.user)).or_insert(mark);
        }
        let again = pass.now.mono_ms + pass.settings.outbox_resend_ms;
        self.relay.repeat_due_ms = (!nothing).then_some(again);
        Ok(())
    }
}
