//! What each attached session gets next: its cursor, its credits, and whether it is
//! behind.
//!
//! A session at the head of its inbox gets new events as they are applied, without a
//! read. One that is behind, because it resumed or had no credit, catches up by pages
//! of the store, as its credits allow, a few pages a pass so that nobody starves; then
//! it is at the head again. Receipts go the same two ways.
//!
//! Nothing is buffered beyond the credits: events that a session cannot take stay in
//! the inbox. One that is behind without credit or ACK for too long is closed.
//!
//! Known limit: all of a shard's sessions are in one map; a shard has tens of
//! thousands of them, not millions.

use chat_wire::{
    body::Body as Stored,
    codec::Encoding,
    error::{Code, Refusal},
    event::{Event, Header},
    frame::{self, Body},
    ids::{DeviceId, SessionId, UserId},
    limits::EVENT_BATCH,
};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};

use crate::message::ToSession;

/// Credits of a session at most; what is granted above is not counted.
const MAX_CREDITS: u32 = 1 << 20;

/// A session as its user's shard sees it.
#[derive(Debug)]
pub struct Slot {
    /// Whose.
    pub user: UserId,
    /// Which device.
    pub device: DeviceId,
    /// How its connection encodes.
    pub encoding: Encoding,
    /// Its user is seen to be there.
    pub foreground: bool,
    /// The last event sent.
    pub cursor: u64,
    /// The newest event of the inbox.
    pub head: u64,
    /// The highest ACK.
    pub acked: u64,
    /// The last version of marks sent.
    pub marks_sent: u64,
    /// Where it began: an ACK may repeat it.
    start: u64,
    /// The version of the newest mark of the inbox.
    marks_head: u64,
    credits: u32,
    /// Its page is being read into memory, or waits for that: it wants no other.
    held: bool,
    /// Since when it is behind without credit or ACK.
    slow_since_ms: Option<u64>,
    /// Events of this pass.
    pending: Vec<Event>,
}

/// Where a session begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Whose.
    pub user: UserId,
    /// Which device.
    pub device: DeviceId,
    /// How its connection encodes.
    pub encoding: Encoding,
    /// Its user is seen to be there.
    pub foreground: bool,
    /// Events after this one follow.
    pub cursor: u64,
    /// The newest event.
    pub head: u64,
    /// What the device is known to have acknowledged.
    pub acked: u64,
    /// Receipts after this version follow.
    pub marks_version: u64,
    /// The version of the newest mark.
    pub marks_head: u64,
    /// Events it takes at first.
    pub credits: u32,
}

/// What an ACK changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Which device.
    pub device: DeviceId,
    /// What it had acknowledged.
    pub from: u64,
    /// What it has now.
    pub to: u64,
}

/// A page that a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Events after `after`, at most `limit`.
    Events {
        /// Whose.
        user: UserId,
        /// The last event sent.
        after: u64,
        /// The newest.
        head: u64,
        /// By the credits.
        limit: usize,
    },
    /// Receipts after a version.
    Receipts {
        /// Whose.
        user: UserId,
        /// The last version sent.
        after: u64,
    },
}

/// The attached sessions of a shard.
#[derive(Debug, Default)]
pub struct Delivery {
    slots: BTreeMap<SessionId, Slot>,
    by_user: BTreeMap<UserId, SmallVec<[SessionId; 2]>>,
    /// Sessions that want a page and may have one.
    wanting: BTreeSet<SessionId>,
    /// The last one that had a page: the next in order is served next.
    served: SessionId,
    slow: BTreeSet<(u64, SessionId)>,
    /// Sessions with pending events.
    pending: Vec<SessionId>,
    /// What leaves.
    out: Vec<(SessionId, ToSession)>,
}

impl Delivery {
    /// Registers a session. An older one of the same device must be detached first.
    pub fn attach(&mut self, session: SessionId, start: Start) {
        let slot = Slot {
            user: start.user,
            device: start.device,
            encoding: start.encoding,
            foreground: start.foreground,
            cursor: start.cursor,
            head: start.head,
            acked: start.acked,
            marks_sent: start.marks_version,
            start: start.cursor,
            marks_head: start.marks_head,
            credits: start.credits.min(MAX_CREDITS),
            held: false,
            slow_since_ms: None,
            pending: Vec::new(),
        };
        self.slots.insert(session, slot);
        self.by_user.entry(start.user).or_default().push(session);
        self.wanting.insert(session);
    }

    /// Forgets a session.
    pub fn detach(&mut self, session: SessionId) -> Option<Slot> {
        let slot = self.slots.remove(&session)?;
        self.wanting.remove(&session);
        if let Some(since) = slot.slow_since_ms {
            self.slow.remove(&(since, session));
        }
        if let Some(sessions) = self.by_user.get_mut(&slot.user) {
            sessions.retain(|id| *id != session);
            if sessions.is_empty() {
                self.by_user.remove(&slot.user);
            }
        }
        Some(slot)
    }

    /// The session of a device.
    #[must_use]
    pub fn of_device(&self, user: UserId, device: DeviceId) -> Option<SessionId> {
        let sessions = self.by_user.get(&user)?;
        sessions
            .iter()
            .copied()
            .find(|id| self.slots[id].device == device)
    }

    /// The sessions of a user.
    #[must_use]
    pub fn of_user(&self, user: UserId) -> &[SessionId] {
        self.by_user.get(&user).map_or(&[], |sessions| sessions)
    }

    /// A session.
    #[must_use]
    pub fn slot(&self, session: SessionId) -> Option<&Slot> {
        self.slots.get(&session)
    }

    /// How many are attached.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All of them.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.slots.keys().copied()
    }

    /// Since when the slowest session is behind without credit or ACK.
    #[must_use]
    pub fn slowest_since_ms(&self) -> Option<u64> {
        self.slow.first().map(|(since, _)| *since)
    }

    /// An inbox got an event. The body is shared among all who get it.
    pub fn event(
        &mut self,
        now_ms: u64,
        user: UserId,
        inbox_seq: u64,
        header: &Header,
        body: &Stored,
    ) {
        let Some(sessions) = self.by_user.get(&user) else {
            return;
        };
        for &session in sessions {
            let slot = self.slots.get_mut(&session).expect("by_user names slots");
            assert!(
                slot.head < inbox_seq,
                "an inbox at {} gets event {inbox_seq}: its numbers rise",
                slot.head
            );
            slot.head = inbox_seq;
            if slot.cursor + 1 != inbox_seq || slot.credits == 0 {
                fall_behind(&mut self.slow, session, slot, now_ms);
                if slot.credits > 0 {
                    want(&mut self.wanting, session, slot);
                }
                continue;
            }
            slot.cursor = inbox_seq;
            slot.credits -= 1;
            if slot.pending.is_empty() {
                self.pending.push(session);
            }
            let (header, body) = (header.clone(), body.clone());
            slot.pending.push(Event {
                inbox_seq,
                header,
                body,
            });
            if slot.pending.len() >= EVENT_BATCH {
                let events = std::mem::take(&mut slot.pending);
                self.out.push((session, ToSession::Events(events)));
            }
        }
    }

    /// A mark of an inbox changed.
    pub fn receipt(&mut self, user: UserId, receipt: &frame::Receipt) {
        let Some(sessions) = self.by_user.get(&user) else {
            return;
        };
        for &session in sessions {
            let slot = self.slots.get_mut(&session).expect("by_user names slots");
            slot.marks_head = receipt.to_version.max(slot.marks_head);
            // Under pressure receipts wait in the store, where they coalesce.
            if slot.marks_sent == receipt.from_version && slot.credits > 0 {
                slot.marks_sent = receipt.to_version;
                self.out
                    .push((session, ToSession::Signal(Body::Receipt(*receipt))));
            } else if slot.credits > 0 {
                want(&mut self.wanting, session, slot);
            }
        }
    }

    /// Something that is no event goes to a session as it is.
    pub fn signal(&mut self, session: SessionId, body: Body) {
        if self.slots.contains_key(&session) {
            self.out.push((session, ToSession::Signal(body)));
        }
    }

    /// A lossy signal for all sessions of a user that keep up.
    pub fn lossy_signal(&mut self, user: UserId, body: &Body) {
        let Some(sessions) = self.by_user.get(&user) else {
            return;
        };
        for &session in sessions {
            let slot = &self.slots[&session];
            if slot.credits > 0 && slot.cursor == slot.head {
                self.out.push((session, ToSession::Signal(body.clone())));
            }
        }
    }

    /// A session takes more events.
    pub fn credit(&mut self, now_ms: u64, session: SessionId, events: u32) {
        let Some(slot) = self.slots.get_mut(&session) else {
            return;
        };
        slot.credits = slot.credits.saturating_add(events).min(MAX_CREDITS);
        if slot.credits > 0 {
            want(&mut self.wanting, session, slot);
        }
        keeps_up(&mut self.slow, session, slot, now_ms);
    }

    /// A device has everything up to here. `None` if that is nothing new.
    ///
    /// # Errors
    /// OUT_OF_RANGE for an ACK beyond what the session began with and was sent.
    pub fn ack(
        &mut self,
        now_ms: u64,
        session: SessionId,
        inbox_seq: u64,
    ) -> Result<Option<Acked>, Refusal> {
        let Some(slot) = self.slots.get_mut(&session) else {
            return Ok(None);
        };
        if inbox_seq > slot.cursor.max(slot.start) {
            return Err(Refusal::new(
                Code::OutOfRange,
                format!(
                    "ACK of event {inbox_seq}, but this session had events up to {} only",
                    slot.cursor
                ),
            ));
        }
        keeps_up(&mut self.slow, session, slot, now_ms);
        if inbox_seq <= slot.acked {
            return Ok(None);
        }
        let acked = Acked {
            device: slot.device,
            from: slot.acked,
            to: inbox_seq,
        };
        slot.acked = inbox_seq;
        Ok(Some(acked))
    }

    /// The next session that waits for a page, and which. Round robin.
    pub fn next_wanted(&mut self, now_ms: u64) -> Option<(SessionId, Wanted)> {
        loop {
            let after = SessionId(self.served.0 + 1);
            let session = *self
                .wanting
                .range(after..)
                .next()
                .or(self.wanting.first())?;
            self.served = session;
            let slot = self
                .slots
                .get_mut(&session)
                .expect("who wants a page is attached");
            let limit = (slot.credits as usize).min(EVENT_BATCH);
            if slot.cursor < slot.head && limit > 0 {
                let (user, after, head) = (slot.user, slot.cursor, slot.head);
                return Some((
                    session,
                    Wanted::Events {
                        user,
                        after,
                        head,
                        limit,
                    },
                ));
            }
            if slot.cursor < slot.head {
                fall_behind(&mut self.slow, session, slot, now_ms);
            } else if slot.marks_sent < slot.marks_head && slot.credits > 0 {
                let (user, after) = (slot.user, slot.marks_sent);
                return Some((session, Wanted::Receipts { user, after }));
            }
            self.wanting.remove(&session);
        }
    }

    /// The page that a session wants is not in memory: until [`Delivery::release`] it
    /// is not asked for again, and no other of this session is.
    pub fn hold(&mut self, session: SessionId) {
        if let Some(slot) = self.slots.get_mut(&session) {
            slot.held = true;
            self.wanting.remove(&session);
        }
    }

    /// The session may have its page now.
    pub fn release(&mut self, session: SessionId) {
        if let Some(slot) = self.slots.get_mut(&session) {
            slot.held = false;
            self.wanting.insert(session);
        }
    }

    /// Whether somebody waits for a page.
    #[must_use]
    pub fn wants_pages(&self) -> bool {
        !self.wanting.is_empty()
    }

    /// The page of [`Wanted::Events`]. `None` if events between are gone: the session
    /// is told GAP, and goes on from the head.
    pub fn events_page(&mut self, session: SessionId, oldest: u64, events: Vec<Event>) {
        let Some(slot) = self.slots.get_mut(&session) else {
            return;
        };
        if !slot.pending.is_empty() {
            let pending = std::mem::take(&mut slot.pending);
            self.out.push((session, ToSession::Events(pending)));
        }
        if events
            .first()
            .is_none_or(|event| event.inbox_seq != slot.cursor + 1)
        {
            let gap = frame::Gap {
                oldest,
                head: slot.head,
            };
            slot.cursor = slot.head;
            self.out.push((session, ToSession::Signal(Body::Gap(gap))));
            return;
        }
        let last = events.last().map_or(slot.cursor, |event| event.inbox_seq);
        assert!(
            slot.cursor < last && events.len() <= slot.credits as usize,
            "a page goes on from {} within the credits, and ends with {last}",
            slot.cursor
        );
        slot.cursor = last;
        slot.credits -= u32::try_from(events.len()).expect("a page is within the credits");
        self.out.push((session, ToSession::Events(events)));
    }

    /// The page of [`Wanted::Receipts`]; the last one if `done`.
    pub fn receipts_page(&mut self, session: SessionId, receipts: Vec<frame::Receipt>, done: bool) {
        let Some(slot) = self.slots.get_mut(&session) else {
            return;
        };
        for receipt in receipts {
            slot.marks_sent = receipt.to_version.max(slot.marks_sent);
            self.out
                .push((session, ToSession::Signal(Body::Receipt(receipt))));
        }
        if done {
            slot.marks_sent = slot.marks_head.max(slot.marks_sent);
        }
    }

    /// Sessions that are behind without credit or ACK since before a time.
    #[must_use]
    pub fn slow(&self, before_ms: u64) -> Vec<SessionId> {
        let late = self
            .slow
            .iter()
            .take_while(|(since, _)| *since <= before_ms);
        late.map(|(_, session)| *session).collect()
    }

    /// Everything that leaves in this pass, in order for each session, and how many
    /// events that is.
    pub fn drain(&mut self, mut each: impl FnMut(SessionId, ToSession)) {
        for (session, message) in self.out.drain(..) {
            each(session, message);
        }
        for session in self.pending.drain(..) {
            // Detached, or flushed with a page, meanwhile.
            let Some(slot) = self.slots.get_mut(&session) else {
                continue;
            };
            if !slot.pending.is_empty() {
                each(
                    session,
                    ToSession::Events(std::mem::take(&mut slot.pending)),
                );
            }
        }
    }
}

fn want(wanting: &mut BTreeSet<SessionId>, session: SessionId, slot: &Slot) {
    if !slot.held {
        wanting.insert(session);
    }
}

fn fall_behind(
    slow: &mut BTreeSet<(u64, SessionId)>,
    session: SessionId,
    slot: &mut Slot,
    now_ms: u64,
) {
    if slot.credits == 0 && slot.slow_since_ms.is_none() {
        slot.slow_since_ms = Some(now_ms);
        slow.insert((now_ms, session));
    }
}

/// Credit or ACK came: the time begins anew, or ends.
fn keeps_up(
    slow: &mut BTreeSet<(u64, SessionId)>,
    session: SessionId,
    slot: &mut Slot,
    now_ms: u64,
) {
    if let Some(since) = slot.slow_since_ms.take() {
        slow.remove(&(since, session));
        if slot.credits == 0 {
            slot.slow_since_ms = Some(now_ms);
            slow.insert((now_ms, session));
        }
    }
}

#[cfg(test)]
mod tests;
