//! What this shard owes other shards, on its way: one stream a destination. New
//! entries leave in the pass that applied them, without a read; what a destination
//! missed, and what a new leader finds, is read from the store.
//!
//! Bounds: [`WINDOW`] entries unconfirmed a destination; more wait in the store.
//! Messages may be lost: without progress a stream begins again behind what is
//! confirmed, and the destination takes each number once.

use bytes::Bytes;
use chat_wire::ids::ShardId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Pass, shard::Shard};
use crate::{
    command::{Handshake, OutboxConfirm},
    message::{OutboxItem, Says},
    shard::{NewOutboxEntry, outbox},
    store::{ShardStore, Unreadable},
};

/// Entries on their way to one destination at most.
pub(super) const WINDOW: u64 = 1024;
/// Entries in one message at most.
const ITEMS_A_MESSAGE: usize = 256;
/// Bytes of bodies in one message, unless one alone is longer.
const BYTES_A_MESSAGE: usize = 1024 * 1024;
/// Applied entries after which a destination's progress is written down at once.
const CONFIRM_ENTRIES: u64 = 256;
/// A destination that shows a hole makes the stream begin again at most this often.
const REWIND_MS: u64 = 100;
/// Times of entries are kept this coarse.
const SAMPLE_MS: u64 = 100;
/// Samples kept at most; then the age of the oldest entry is a lower bound.
const MAX_SAMPLES: usize = 1024;

#[derive(Debug, Default)]
struct Stream {
    /// The newest entry.
    last: u64,
    /// The newest one that left.
    sent: u64,
    /// Everything up to here is applied there.
    confirmed: u64,
    /// As far as that was proposed as a command.
    confirm_proposed: u64,
    incarnation: u64,
    confirm_due_ms: Option<u64>,
    /// When something left or was confirmed last.
    progress_ms: u64,
    rewound_ms: u64,
    /// It waits for a handshake; only the question leaves.
    handshake: bool,
    asked: bool,
    batch: Vec<OutboxItem>,
    /// (number, when it was written), by and by.
    samples: VecDeque<(u64, u64)>,
}

impl Stream {
    fn outstanding(&self) -> bool {
        self.confirmed < self.last || self.handshake
    }

    fn window_is_open(&self) -> bool {
        self.sent - self.confirmed < WINDOW
    }

    /// What holds before and after everything that is done to a stream: what a destination
    /// or the disk said was looked at before it came in here.
    fn check(&self) {
        assert!(
            self.confirmed <= self.sent && self.sent <= self.last,
            "an outbox is confirmed to {}, sent to {} and ends with {}",
            self.confirmed,
            self.sent,
            self.last
        );
        assert!(
            self.confirm_proposed <= self.confirmed,
            "what is proposed as confirmed was confirmed"
        );
    }

    fn sample(&mut self, now_ms: u64) {
        let fresh = self
            .samples
            .back()
            .is_some_and(|(_, at)| at + SAMPLE_MS > now_ms);
        if !fresh && self.samples.len() < MAX_SAMPLES {
            self.samples.push_back((self.last, now_ms));
        }
    }

    fn confirm(&mut self, number: u64) {
        self.confirmed = number;
        self.sent = self.sent.max(number);
        while self.samples.len() > 1 && self.samples[1].0 <= number + 1 {
            self.samples.pop_front();
        }
        if self.confirmed >= self.last {
            self.samples.clear();
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    streams: BTreeMap<ShardId, Stream>,
    /// Streams that may have something to send.
    active: BTreeSet<ShardId>,
    /// Not later than anything of a stream is due.
    due_ms: Option<u64>,
}

impl Outgoing {
    /// An entry was written.
    pub(super) fn add(&mut self, now_ms: u64, entry: NewOutboxEntry, body: &Bytes) {
        let stream = self.streams.entry(entry.destination).or_default();
        let number = entry.deliver.number;
        if number == 0 {
            // The outbox is new, and its destination must be asked first.
            stream.handshake = true;
            self.active.insert(entry.destination);
            return;
        }
        if !stream.outstanding() {
            stream.progress_ms = now_ms;
        }
        stream.check();
        stream.last = stream.last.max(number);
        stream.sample(now_ms);
        if !stream.handshake && stream.sent + 1 == number && stream.window_is_open() {
            stream.sent = number;
            stream.batch.push(OutboxItem {
                deliver: entry.deliver,
                body: body.clone(),
            });
        }
        stream.check();
        self.active.insert(entry.destination);
    }

    /// Entries that are not confirmed, and since when the oldest waits.
    pub(super) fn depth(&self) -> (u64, Option<u64>) {
        let entries = self
            .streams
            .values()
            .map(|stream| stream.last - stream.confirmed)
            .sum();
        let oldest = |stream: &Stream| stream.samples.front().map(|(_, at)| *at);
        (entries, self.streams.values().filter_map(oldest).min())
    }

    pub(super) const fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    fn schedule(&mut self, at_ms: u64) {
        self.due_ms = Some(self.due_ms.map_or(at_ms, |due| due.min(at_ms)));
    }
}

impl<S: ShardStore> Shard<S> {
    /// Streams as the state has them: all that is not confirmed leaves again.
    pub(super) fn load_outboxes(&mut self, pass: &mut Pass<'_>) -> Result<(), Unreadable> {
        self.outgoing = Outgoing::default();
        for outbox in outbox::outboxes(self.replica.store())? {
            if outbox.confirmed > outbox.last {
                return Err(Unreadable(format!(
                    "the outbox for shard {} is confirmed to {} and ends with {}",
                    outbox.destination, outbox.confirmed, outbox.last
                )));
            }
            let mut stream = Stream {
                last: outbox.last,
                sent: outbox.confirmed,
                confirmed: outbox.confirmed,
                confirm_proposed: outbox.confirmed,
                progress_ms: pass.now.mono_ms,
                handshake: outbox.handshake,
                ..Stream::default()
            };
            if stream.outstanding() {
                stream.sample(pass.now.mono_ms);
                self.outgoing.active.insert(outbox.destination);
            }
            self.outgoing.streams.insert(outbox.destination, stream);
        }
        Ok(())
    }

    /// What is new or asked for leaves, and answers to other shards' outboxes.
    pub(super) fn send_outboxes(&mut self, pass: &mut Pass<'_>) -> Result<(), Unreadable> {
        for (source, says) in self.incoming.take_answers() {
            pass.say(self.id, source, says);
        }
        for destination in std::mem::take(&mut self.outgoing.active) {
            self.send_outbox(pass, destination)?;
        }
        self.send_marks(pass);
        Ok(())
    }

    fn send_outbox(&mut self, pass: &mut Pass<'_>, destination: ShardId) -> Result<(), Unreadable> {
        let id = self.id;
        let Some(stream) = self.outgoing.streams.get_mut(&destination) else {
            return Ok(());
        };
        stream.check();
        let mut items = std::mem::take(&mut stream.batch);
        let ask = stream.handshake && !stream.asked;
        let mut more = false;
        if ask || (!stream.handshake && stream.sent < stream.last && stream.window_is_open()) {
            let limit = ITEMS_A_MESSAGE;
            let store = self.replica.store();
            let read =
                outbox::entries(store, id, destination, stream.sent, limit, BYTES_A_MESSAGE)?;
            stream.asked = stream.handshake;
            if let Some(last) = read.last()
                && !stream.handshake
            {
                stream.sent = last.deliver.number;
                more = stream.sent < stream.last && stream.window_is_open();
            }
            items.extend(read);
        }
        stream.check();
        if items.is_empty() {
            return Ok(());
        }
        stream.progress_ms = pass.now.mono_ms;
        let resend_ms = pass.now.mono_ms + pass.settings.outbox_resend_ms;
        self.outgoing.schedule(resend_ms);
        if more {
            self.outgoing.active.insert(destination);
        }
        pass.counters.outbox_sent += items.len() as u64;
        for message in messages(items) {
            pass.say(id, destination, Says::Outbox(message));
        }
        Ok(())
    }

    /// A destination says how far it is.
    pub(super) fn outbox_applied(
        &mut self,
        pass: &mut Pass<'_>,
        destination: ShardId,
        incarnation: u64,
        number: u64,
        previous: Option<u64>,
    ) {
        let now_ms = pass.now.mono_ms;
        let Some(stream) = self.outgoing.streams.get_mut(&destination) else {
            return;
        };
        if stream.handshake {
            if let Some(applied) = previous {
                let destination = u32::from(destination.0);
                let handshake = Handshake {
                    destination,
                    incarnation,
                    applied,
                };
                self.proposals.push_own(handshake, Bytes::new());
            }
            return;
        }
        if previous.is_some() || number > stream.last {
            return;
        }
        if number > stream.confirmed {
            stream.confirm(number);
            stream.check();
            stream.incarnation = incarnation;
            stream.progress_ms = now_ms;
            let full = number - stream.confirm_proposed >= CONFIRM_ENTRIES;
            let wait_ms = if full { 0 } else { pass.settings.confirm_ms };
            let due = stream
                .confirm_due_ms
                .unwrap_or(u64::MAX)
                .min(now_ms + wait_ms);
            stream.confirm_due_ms = Some(due);
            self.outgoing.schedule(due);
            self.outgoing.active.insert(destination);
        } else if number == stream.confirmed
            && stream.sent > number
            && now_ms >= stream.rewound_ms + REWIND_MS
        {
            // It has seen a hole: what is behind it was lost on the way.
            stream.rewound_ms = now_ms;
            stream.sent = stream.confirmed;
            stream.batch.clear();
            pass.counters.outbox_rewinds += 1;
            self.outgoing.active.insert(destination);
        }
    }

    /// Progress becomes commands, when it is time.
    pub(super) fn confirm_outboxes(&mut self, pass: &mut Pass<'_>) {
        let now_ms = pass.now.mono_ms;
        if self.outgoing.due_ms.is_none_or(|due| due > now_ms) {
            return;
        }
        let due = |stream: &Stream| stream.confirm_due_ms.is_some_and(|due| due <= now_ms);
        if !self.outgoing.streams.values().any(due) {
            return;
        }
        // Who has made any progress goes into the same entry.
        for (destination, stream) in &mut self.outgoing.streams {
            if stream.confirm_due_ms.is_none() {
                continue;
            }
            let confirm = OutboxConfirm {
                destination: u32::from(destination.0),
                incarnation: stream.incarnation,
                number: stream.confirmed,
            };
            if self.proposals.push_own(confirm, Bytes::new()) {
                stream.confirm_proposed = stream.confirmed;
                stream.confirm_due_ms = None;
            } else {
                stream.confirm_due_ms = Some(now_ms + pass.settings.confirm_ms);
            }
        }
    }

    /// Streams without progress begin again.
    pub(super) fn rewind_outboxes(&mut self, pass: &mut Pass<'_>) {
        let now_ms = pass.now.mono_ms;
        if self.outgoing.due_ms.is_none_or(|due| due > now_ms) {
            return;
        }
        let mut next: Option<u64> = None;
        let mut wants = |at: u64| next = Some(next.map_or(at, |next| next.min(at)));
        for (destination, stream) in &mut self.outgoing.streams {
            if stream.outstanding() {
                let due = stream.progress_ms + pass.settings.outbox_resend_ms;
                if due <= now_ms {
                    stream.progress_ms = now_ms;
                    stream.sent = stream.confirmed;
                    stream.asked = false;
                    stream.batch.clear();
                    pass.counters.outbox_rewinds += 1;
                    self.outgoing.active.insert(*destination);
                }
                wants(stream.progress_ms + pass.settings.outbox_resend_ms);
            }
            if let Some(due) = stream.confirm_due_ms {
                wants(due);
            }
        }
        self.outgoing.due_ms = next;
    }
}

/// Cuts entries into messages.
fn messages(items: Vec<OutboxItem>) -> Vec<Vec<OutboxItem>> {
    let mut messages = vec![Vec::new()];
    let mut bytes = 0;
    for item in items {
        let last = messages.last_mut().expect("one at least");
        let full = last.len() >= ITEMS_A_MESSAGE || bytes + item.body.len() > BYTES_A_MESSAGE;
        if full && !last.is_empty() {
            messages.push(Vec::new());
            bytes = 0;
        }
        bytes += item.body.len();
        messages.last_mut().expect("one at least").push(item);
    }
    messages
}
