//! What the devices were given, remembered just enough to compare the next device:
//! a stamp and a number per message, a digest per inbox position.

use super::{Outcome, Seen, World, digest};

pub(super) struct Delivered {
    messages: Vec<Message>,
    /// By user, then by sequence number; 0 is "not seen yet".
    inboxes: Vec<Vec<u64>>,
}

#[derive(Clone, Copy, Default)]
struct Message {
    msg_id: i64,
    group_seq: u64,
    /// How many views have it.
    devices: u32,
    /// The last view that has it.
    stamp: u32,
    known: bool,
}

impl Delivered {
    pub(super) fn new(world: &World) -> Self {
        let messages = world
            .attempts
            .iter()
            .map(|attempt| match attempt.outcome {
                Outcome::Acked { msg_id, group_seq } => Message {
                    msg_id,
                    group_seq,
                    known: true,
                    ..Message::default()
                },
                _ => Message::default(),
            })
            .collect();
        Self {
            messages,
            inboxes: vec![Vec::new(); world.users],
        }
    }

    /// Remembers the event at its inbox position; `false` if another one is there.
    pub(super) fn same(&mut self, user: u32, event: &Seen) -> bool {
        let Some(inbox) = self.inboxes.get_mut(user as usize) else {
            return false;
        };
        let Ok(at) = usize::try_from(event.inbox_seq) else {
            return false;
        };
        // A sequence number far beyond what is there is a gap of its own: rule 3
        // reports it, and it must not cost its size in memory.
        if at > inbox.len() + 1_000_000 {
            return true;
        }
        if at >= inbox.len() {
            inbox.resize(at + 1, 0);
        }
        let digest = digest(event) | 1;
        if inbox[at] == 0 {
            inbox[at] = digest;
        }
        inbox[at] == digest
    }

    /// Marks the message as seen in this view; `false` if it was before.
    pub(super) fn stamp(&mut self, event: &Seen, view: u32) -> bool {
        let message = &mut self.messages[event.message as usize];
        if message.stamp == view {
            return false;
        }
        message.stamp = view;
        message.devices += 1;
        true
    }

    pub(super) fn stamped(&self, message: u32, view: u32) -> bool {
        self.messages[message as usize].stamp == view
    }

    /// Whether the message has the numbers it has elsewhere.
    pub(super) fn agree(&mut self, event: &Seen) -> bool {
        let message = &mut self.messages[event.message as usize];
        if !message.known {
            message.known = true;
            message.msg_id = event.msg_id;
            message.group_seq = event.group_seq;
        }
        (message.msg_id, message.group_seq) == (event.msg_id, event.group_seq)
    }

    /// The number of a message that exists.
    pub(super) fn number(&self, message: u32) -> Option<i64> {
        let message = self.messages.get(message as usize)?;
        message.known.then_some(message.msg_id)
    }

    /// On how many devices it is, and its place in a group's log.
    pub(super) fn devices(&self, message: u32) -> (usize, u64) {
        let message = &self.messages[message as usize];
        (message.devices as usize, message.group_seq)
    }
}
