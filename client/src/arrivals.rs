//! What has come from the server and waits for the application: the border between
//! the client's task and the application's.
//!
//! One lock for a whole batch, instead of a channel with a lock for each event, because
//! receipts are merged here while they wait and [`crate::State`] must name exactly what was
//! taken. The lock is never held over an await.
//!
//! Bounds: events are bounded by the credits that the session grants
//! ([`crate::Config::event_buffer`]); signals (presence, typing, connections) by
//! [`MAX_SIGNALS`], the oldest dropped first; receipts by [`MAX_RECEIPTS`] pairs of
//! conversation and user, merged by maximum; when a new pair does not fit the client stops
//! reading from its socket until the application takes some.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use chat_wire::{
    frame,
    ids::{SessionId, UserId},
};
use futures_util::task::AtomicWaker;

use crate::{ConnectError, State};

/// Signals that wait; the oldest is dropped for one more.
pub(crate) const MAX_SIGNALS: usize = 1024;
/// Pairs of conversation and user whose receipts wait; the client stops reading at this bound.
pub(crate) const MAX_RECEIPTS: usize = 4096;
/// Marks that wait for their confirmation; the oldest is forgotten for one more.
pub(crate) const MAX_MARKS: usize = 4096;

/// What comes from the server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Incoming {
    /// Something changed a conversation. In the order of the inbox, each once.
    Event(frame::Event),
    /// Events that this device has not seen can no longer be had as events: read
    /// CONVERSATIONS and HISTORY. Events go on after `head`.
    Gap {
        /// The oldest that is still there.
        oldest: u64,
        /// The newest at that time.
        head: u64,
    },
    /// How far somebody got in a conversation.
    Receipt(frame::Receipt),
    /// Somebody came or went.
    Presence(frame::Presence),
    /// Somebody types.
    Typing(frame::Typing),
    /// A session began: the first, or another after a connection was lost.
    Connected(Connected),
    /// The connection was lost; the client is trying again.
    Disconnected {
        /// Why.
        reason: String,
        /// The pause before the next attempt.
        retry_in: Duration,
    },
    /// The token ends soon and the client has no newer one: call
    /// [`crate::Client::reauth`].
    TokenExpiring {
        /// When.
        within: Duration,
    },
    /// The client has ended; nothing follows.
    Closed(ConnectError),
}

/// A session that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its number.
    pub session: SessionId,
    /// Who one is.
    pub user: UserId,
    /// By name.
    pub name: String,
    /// The cluster's generation.
    pub generation: u32,
    /// The newest event at that time.
    pub inbox_head: u64,
    /// What carries it.
    pub transport: TransportKind,
    /// Attempts it took.
    pub attempts: u32,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// QUIC.
    Quic,
    /// A WebSocket over TLS.
    WebSocketTls,
    /// A WebSocket in the clear.
    WebSocket,
}

impl std::fmt::Display for TransportKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Quic => "QUIC",
            Self::WebSocketTls => "WebSocket with TLS",
            Self::WebSocket => "WebSocket",
        })
    }
}

/// In inbox order with what the cursor becomes when they are taken.
enum Ordered {
    Event(frame::Event),
    Gap {
        oldest: u64,
        head: u64,
    },
    /// The cursor and the version of marks with which the session begins.
    Connected(Connected, u64, u64),
}

struct Waiting {
    ordered: VecDeque<Ordered>,
    signals: VecDeque<Incoming>,
    receipts: HashMap<(u64, u64), frame::Receipt>,
    receipt_order: VecDeque<(u64, u64)>,
    /// The version that the state gets when all receipts are taken.
    marks_version: u64,
    state: State,
    /// Events taken since the task looked.
    taken: u32,
    fresh_marks: Vec<(u64, i64)>,
    mark_order: VecDeque<u64>,
    last: Option<ConnectError>,
    ended: bool,
    /// The application dropped [`Events`]: what comes is dropped too.
    unwanted: bool,
}

/// Shared by the client's task and the application.
pub(crate) struct Arrivals {
    waiting: Mutex<Waiting>,
    consumer: AtomicWaker,
    /// Wakes the client's task.
    pub(crate) driver: AtomicWaker,
    /// Something for [`Arrivals::collect`] is there.
    dirty: AtomicBool,
    /// It should be collected now: the server is about to run out of credits.
    urgent: AtomicBool,
    urgent_at: u32,
    auto_ack: bool,
}

/// What the application did since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    pub(crate) taken: u32,
    pub(crate) acked: u64,
    /// In which the number acknowledged counts.
    pub(crate) generation: u32,
    pub(crate) marks: Vec<(u64, i64)>,
}

impl Arrivals {
    pub(crate) fn new(state: State, event_buffer: u32, auto_ack: bool) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::new(Waiting {
                ordered: VecDeque::new(),
                signals: VecDeque::new(),
                receipts: HashMap::new(),
                receipt_order: VecDeque::new(),
                marks_version: state.marks_version,
                mark_order: state.marks.keys().copied().collect(),
                fresh_marks: Vec::new(),
                state,
                taken: 0,
                last: None,
                ended: false,
                unwanted: false,
            }),
            consumer: AtomicWaker::new(),
            driver: AtomicWaker::new(),
            dirty: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            urgent_at: (event_buffer / 4).max(1),
            auto_ack,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock, and a queue is whole after each step.
        self.waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    // ------------------------------------------------------ the client's task

    pub(crate) fn push_events(&self, events: Vec<frame::Event>) {
        let mut waiting = self.lock();
        if waiting.unwanted {
            // Whoever does not listen still lets the session go on.
            waiting.taken = waiting.taken.saturating_add(length(events.len()));
            drop(waiting);
            self.dirty.store(true, Ordering::Release);
            self.urgent.store(true, Ordering::Release);
            return;
        }
        waiting
            .ordered
            .extend(events.into_iter().map(Ordered::Event));
        drop(waiting);
        self.consumer.wake();
    }

    pub(crate) fn push_gap(&self, oldest: u64, head: u64) {
        self.lock().ordered.push_back(Ordered::Gap { oldest, head });
        self.consumer.wake();
    }

    /// `cursor` is where events go on.
    pub(crate) fn push_connected(&self, connected: Connected, cursor: u64, marks_version: u64) {
        let mut waiting = self.lock();
        waiting.marks_version = marks_version;
        // Reconnects without anything taken between do not pile up.
        if let Some(Ordered::Connected(..)) = waiting.ordered.back() {
            waiting.ordered.pop_back();
        }
        waiting
            .ordered
            .push_back(Ordered::Connected(connected, cursor, marks_version));
        drop(waiting);
        self.consumer.wake();
    }

    /// Events that wait to be taken: they have used up credits.
    pub(crate) fn unread(&self) -> u32 {
        length(self.lock().events())
    }

    /// Whether one more receipt fits. Otherwise the task stops reading.
    pub(crate) fn has_room(&self) -> bool {
        let waiting = self.lock();
        waiting.unwanted || waiting.receipts.len() < MAX_RECEIPTS
    }

    /// `marks_version` is what the session has without a hole, this one included.
    pub(crate) fn push_receipt(&self, receipt: frame::Receipt, marks_version: u64) {
        let mut waiting = self.lock();
        waiting.marks_version = marks_version;
        if waiting.unwanted {
            return;
        }
        let key = (receipt.conversation, receipt.user);
        if let Some(old) = waiting.receipts.get_mut(&key) {
            old.delivered_up_to = old.delivered_up_to.max(receipt.delivered_up_to);
            old.seen_up_to = old.seen_up_to.max(receipt.seen_up_to);
            old.to_version = old.to_version.max(receipt.to_version);
        } else {
            waiting.receipts.insert(key, receipt);
            waiting.receipt_order.push_back(key);
        }
        drop(waiting);
        self.consumer.wake();
    }

    pub(crate) fn push_signal(&self, signal: Incoming) {
        let mut waiting = self.lock();
        if waiting.unwanted {
            return;
        }
        if waiting.signals.len() >= MAX_SIGNALS {
            waiting.signals.pop_front();
        }
        waiting.signals.push_back(signal);
        drop(waiting);
        self.consumer.wake();
    }

    pub(crate) fn confirm_mark(&self, conversation: u64, seen_up_to: i64) {
        let mut waiting = self.lock();
        if waiting
            .state
            .marks
            .get(&conversation)
            .is_some_and(|mark| *mark <= seen_up_to)
        {
            waiting.state.marks.remove(&conversation);
            waiting.mark_order.retain(|other| *other != conversation);
        }
    }

    pub(crate) fn end(&self, error: ConnectError) {
        let mut waiting = self.lock();
        if !waiting.ended {
            waiting.ended = true;
            waiting.last = Some(error);
        }
        drop(waiting);
        self.consumer.wake();
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    pub(crate) fn collect(&self) -> Collected {
        let mut waiting = self.lock();
        self.dirty.store(false, Ordering::Release);
        self.urgent.store(false, Ordering::Release);
        Collected {
            taken: std::mem::take(&mut waiting.taken),
            acked: waiting.state.acked,
            generation: waiting.state.generation,
            marks: std::mem::take(&mut waiting.fresh_marks),
        }
    }

    // -------------------------------------------------------- the application

    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }

    pub(crate) fn ack(&self, inbox_seq: u64) {
        let mut waiting = self.lock();
        if inbox_seq > waiting.state.acked {
            waiting.state.acked = inbox_seq;
            drop(waiting);
            self.touch();
        }
    }

    pub(crate) fn mark(&self, conversation: u64, seen_up_to: i64) {
        let mut waiting = self.lock();
        let known = waiting.state.marks.get(&conversation).copied();
        if known.is_some_and(|known| known >= seen_up_to) {
            return;
        }
        if known.is_none() {
            if waiting.state.marks.len() >= MAX_MARKS
                && let Some(oldest) = waiting.mark_order.pop_front()
            {
                waiting.state.marks.remove(&oldest);
            }
            waiting.mark_order.push_back(conversation);
        }
        waiting.state.marks.insert(conversation, seen_up_to);
        if let Some(fresh) = waiting
            .fresh_marks
            .iter_mut()
            .rev()
            .take(16)
            .find(|fresh| fresh.0 == conversation)
        {
            fresh.1 = seen_up_to;
        } else {
            if waiting.fresh_marks.len() >= MAX_MARKS {
                waiting.fresh_marks.remove(0);
            }
            waiting.fresh_marks.push((conversation, seen_up_to));
        }
        drop(waiting);
        self.touch();
    }

    fn touch(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.driver.wake();
        }
    }

    fn hurry(&self) {
        self.dirty.store(true, Ordering::Release);
        if !self.urgent.swap(true, Ordering::AcqRel) {
            self.driver.wake();
        }
    }

    /// Takes up to `most` into `out`; whether there will be more.
    fn take(&self, out: &mut Vec<Incoming>, most: usize) -> bool {
        let mut waiting = self.lock();
        let was_full = waiting.receipts.len() >= MAX_RECEIPTS;
        let before = out.len();
        let mut touched = false;
        while out.len() - before < most {
            let Some(incoming) = waiting.pop(self.auto_ack, &mut touched) else {
                break;
            };
            out.push(incoming);
        }
        let more = out.len() > before || !waiting.ended;
        let urgent = waiting.taken >= self.urgent_at || (was_full && out.len() > before);
        drop(waiting);
        if urgent {
            self.hurry();
        } else if touched {
            self.touch();
        }
        more
    }
}

impl Waiting {
    fn events(&self) -> usize {
        self.ordered
            .iter()
            .filter(|ordered| matches!(ordered, Ordered::Event(_)))
            .count()
    }

    fn pop(&mut self, auto_ack: bool, touched: &mut bool) -> Option<Incoming> {
        if let Some(ordered) = self.ordered.pop_front() {
            return Some(match ordered {
                Ordered::Event(event) => {
                    self.state.inbox_seq = event.inbox_seq;
                    self.taken = self.taken.saturating_add(1);
                    if auto_ack {
                        self.state.acked = event.inbox_seq;
                    }
                    *touched = true;
                    Incoming::Event(event)
                }
                Ordered::Gap { oldest, head } => {
                    self.state.inbox_seq = head;
                    Incoming::Gap { oldest, head }
                }
                Ordered::Connected(connected, cursor, marks_version) => {
                    if self.state.generation != connected.generation {
                        if self.state.generation != 0 {
                            // The numbers of another generation mean nothing.
                            self.state.acked = 0;
                        }
                        self.state.generation = connected.generation;
                        self.state.marks_version = marks_version;
                    }
                    self.state.inbox_seq = cursor;
                    Incoming::Connected(connected)
                }
            });
        }
        if let Some(key) = self.receipt_order.pop_front() {
            let receipt = self.receipts.remove(&key);
            if self.receipts.is_empty() {
                self.state.marks_version = self.marks_version;
            }
            return receipt.map(Incoming::Receipt);
        }
        if let Some(signal) = self.signals.pop_front() {
            return Some(signal);
        }
        self.last.take().map(Incoming::Closed)
    }
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What comes from the server, in order. One for each client.
///
/// Whoever does not take what waits here is held back by the server and, after 30 s,
/// disconnected and resumed. Whoever wants none of it drops this: the client then goes on
/// sending.
pub struct Events {
    arrivals: Arc<Arrivals>,
    one: Vec<Incoming>,
}

impl Events {
    pub(crate) fn new(arrivals: Arc<Arrivals>) -> Self {
        Self {
            arrivals,
            one: Vec::with_capacity(1),
        }
    }

    /// The next one; `None` after [`Incoming::Closed`]. Nothing is lost if the future is dropped.
    pub async fn recv(&mut self) -> Option<Incoming> {
        poll_fn(|cx| {
            let Self { arrivals, one } = self;
            poll_take(arrivals, cx, one, 1)
        })
        .await;
        self.one.pop()
    }

    /// Waits for at least one and appends up to `most` to `out`; how many. 0 after
    /// [`Incoming::Closed`].
    pub async fn recv_many(&mut self, out: &mut Vec<Incoming>, most: usize) -> usize {
        let before = out.len();
        poll_fn(|cx| poll_take(&self.arrivals, cx, out, most.max(1))).await;
        out.len() - before
    }

    /// The next one, if it is there.
    pub fn try_recv(&mut self) -> Option<Incoming> {
        self.arrivals.take(&mut self.one, 1);
        self.one.pop()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut waiting = self.arrivals.lock();
        waiting.unwanted = true;
        let dropped = length(waiting.events());
        waiting.taken = waiting.taken.saturating_add(dropped);
        waiting.ordered.clear();
        waiting.receipts.clear();
        waiting.receipt_order.clear();
        waiting.signals.clear();
        drop(waiting);
        self.arrivals.hurry();
    }
}

fn poll_take(
    arrivals: &Arrivals,
    cx: &Context<'_>,
    out: &mut Vec<Incoming>,
    most: usize,
) -> Poll<()> {
    let before = out.len();
    if !arrivals.take(out, most) || out.len() > before {
        return Poll::Ready(());
    }
    arrivals.consumer.register(cx.waker());
    // What came between the look and the registration.
    if !arrivals.take(out, most) || out.len() > before {
        return Poll::Ready(());
    }
    Poll::Pending
}

#[cfg(test)]
mod tests;
