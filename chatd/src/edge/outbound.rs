//! What shard threads say to connections: a registry of sessions, and a mailbox for
//! each that exists only while something waits in it.
//!
//! A shard thread never waits for a client. A mailbox is bounded in messages and in
//! bytes, all of them together in bytes; at a bound everything queued is dropped and
//! the session ends as SLOW_CONSUMER, whose events wait in the inbox. Credits keep
//! well-behaved clients below these bounds.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use chat_core::message::ToSession;
use chat_wire::ids::{SessionId, UserId};
use futures_util::task::AtomicWaker;

use crate::overload::Spent;

const STRIPES: usize = 64;

/// Bounds of mailboxes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages in one mailbox.
    pub session_messages: usize,
    /// Bytes in one mailbox.
    pub session_bytes: usize,
    /// Bytes in all mailboxes. Above it a mailbox keeps [`FAIR_SHARE_BYTES`] only.
    pub total_bytes: usize,
}

/// What a mailbox may hold when all of them together are full.
pub const FAIR_SHARE_BYTES: usize = 64 * 1024;

impl Default for Bounds {
    fn default() -> Self {
        Self {
            session_messages: 4096,
            session_bytes: 8 * 1024 * 1024,
            total_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Sessions of one lock.
type Stripe = HashMap<SessionId, Arc<Mailbox>>;

/// All live sessions of this node.
pub struct Sessions {
    stripes: Box<[Mutex<Stripe>]>,
    next: AtomicU64,
    bounds: Bounds,
    total: Arc<AtomicUsize>,
}

impl Sessions {
    /// An empty registry.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(1),
            bounds,
            total: Arc::default(),
        }
    }

    /// Begins a session; it is forgotten when the returned value is dropped.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> Registration {
        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let mailbox = Arc::new(Mailbox::new(session, Arc::clone(&self.total)));
        self.stripe(session).insert(session, Arc::clone(&mailbox));
        Registration {
            sessions: Arc::clone(self),
            mailbox,
        }
    }

    /// Puts a message into a session's mailbox and wakes its connection. Never waits.
    /// False if the session is gone, or goes because its mailbox is full.
    pub fn send(&self, session: SessionId, message: ToSession) -> bool {
        let Some(mailbox) = self.mailbox(session) else {
            return false;
        };
        mailbox.push(message, &self.bounds)
    }

    /// A session's mailbox, if it lives.
    pub fn mailbox(&self, session: SessionId) -> Option<Arc<Mailbox>> {
        self.stripe(session).get(&session).cloned()
    }

    /// Bytes in one mailbox at most.
    #[must_use]
    pub fn session_bytes(&self) -> usize {
        self.bounds.session_bytes
    }

    /// What each session with a user has spent. Looks at all of them: for a node that has too
    /// much to do.
    #[must_use]
    pub fn spent(&self) -> Vec<Spent> {
        let mut all = Vec::new();
        for stripe in &self.stripes {
            all.extend(lock(stripe).values().filter_map(|mailbox| mailbox.spent()));
        }
        all
    }

    /// Live sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| lock(stripe).len()).sum()
    }

    /// Whether no session lives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stripes.iter().all(|stripe| lock(stripe).is_empty())
    }

    /// Bytes that wait in all mailboxes.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Raises a signal in every session.
    pub fn signal_all(&self, signal: Signal) {
        for stripe in &self.stripes {
            // Woken outside the lock: a connection may end at once.
            let mailboxes: Vec<_> = lock(stripe).values().cloned().collect();
            for mailbox in mailboxes {
                mailbox.raise(signal);
            }
        }
    }

    fn stripe(&self, session: SessionId) -> MutexGuard<'_, Stripe> {
        let at = usize::try_from(session.0 % STRIPES as u64).expect("below the stripes");
        lock(&self.stripes[at])
    }
}

/// Holds a session in the registry.
pub struct Registration {
    sessions: Arc<Sessions>,
    mailbox: Arc<Mailbox>,
}

impl Registration {
    /// The session's mailbox.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.sessions
            .stripe(self.mailbox.session)
            .remove(&self.mailbox.session);
        self.mailbox.shut();
    }
}

/// What a connection is told besides messages; each is raised once until taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Signal {
    /// A deadline is due.
    Due = 1,
    /// The node drains: tell the client.
    Drain = 2,
    /// The node stops: close now.
    Stop = 4,
    /// The mailbox was full.
    Overflow = 8,
    /// A message that ends the session waits in the mailbox, maybe behind others.
    Ending = 16,
}

/// One session's queue. The connection that owns it takes; everybody else puts.
pub struct Mailbox {
    session: SessionId,
    waker: AtomicWaker,
    signals: AtomicU8,
    /// The wheel's: when the session wants to be woken, and where its entry stands.
    pub(super) wanted_tick: AtomicU64,
    /// See `wanted_tick`.
    pub(super) entered_tick: AtomicU64,
    /// What its requests cost, since it began: see `chat_core::cost`.
    spent: AtomicU64,
    /// Whose session it is, and of which app; 0 until a token said so.
    user: AtomicU64,
    app: AtomicU64,
    total: Arc<AtomicUsize>,
    queue: Mutex<Queue>,
}

struct Queue {
    messages: VecDeque<ToSession>,
    bytes: usize,
    open: bool,
}

impl Mailbox {
    fn new(session: SessionId, total: Arc<AtomicUsize>) -> Self {
        Self {
            session,
            waker: AtomicWaker::new(),
            signals: AtomicU8::new(0),
            wanted_tick: AtomicU64::new(u64::MAX),
            entered_tick: AtomicU64::new(u64::MAX),
            spent: AtomicU64::new(0),
            user: AtomicU64::new(0),
            app: AtomicU64::new(0),
            total,
            queue: Mutex::new(Queue {
                messages: VecDeque::new(),
                bytes: 0,
                open: true,
            }),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// What its session has spent, for who looks for the heaviest.
    pub fn note_spent(&self, units: u64) {
        self.spent.store(units, Ordering::Relaxed);
    }

    /// Whose session it is.
    pub fn note_user(&self, user: UserId, app: &str) {
        let hash = blake3::hash(app.as_bytes());
        let number = hash.as_bytes()[..8].iter();
        let number = number.fold(0, |number, byte| number << 8 | u64::from(*byte));
        self.app.store(number, Ordering::Relaxed);
        self.user.store(user.0, Ordering::Relaxed);
    }

    /// Wakes `waker` at the next message or signal. Call before [`Mailbox::take`].
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The next message.
    pub fn take(&self) -> Option<ToSession> {
        let mut queue = lock(&self.queue);
        let message = queue.messages.pop_front()?;
        let weight = weight(&message);
        queue.bytes -= weight;
        if queue.messages.is_empty() {
            queue.messages = VecDeque::new();
        }
        drop(queue);
        self.total.fetch_sub(weight, Ordering::Relaxed);
        Some(message)
    }

    /// Takes the signals that were raised.
    #[must_use]
    pub fn take_signals(&self) -> Signals {
        Signals(self.signals.swap(0, Ordering::AcqRel))
    }

    /// Raises a signal and wakes the connection.
    pub fn raise(&self, signal: Signal) {
        self.signals.fetch_or(signal as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    fn spent(&self) -> Option<Spent> {
        let user = self.user.load(Ordering::Relaxed);
        (user != 0).then(|| Spent {
            session: self.session,
            user: UserId(user),
            app: self.app.load(Ordering::Relaxed),
            units: self.spent.load(Ordering::Relaxed),
        })
    }

    fn push(&self, message: ToSession, bounds: &Bounds) -> bool {
        let weight = weight(&message);
        let ends = matches!(message, ToSession::Close(_) | ToSession::Replaced);
        let mut queue = lock(&self.queue);
        if !queue.open {
            return false;
        }
        let bytes = queue.bytes + weight;
        let total = self.total.fetch_add(weight, Ordering::Relaxed) + weight;
        let full = queue.messages.len() >= bounds.session_messages
            // A single answer longer than the bound must be deliverable.
            || (bytes > bounds.session_bytes && !queue.messages.is_empty())
            || (total > bounds.total_bytes && bytes > FAIR_SHARE_BYTES);
        if full {
            queue.open = false;
            let held = std::mem::take(&mut queue.bytes) + weight;
            let dropped = std::mem::take(&mut queue.messages);
            drop(queue);
            drop(dropped);
            self.total.fetch_sub(held, Ordering::Relaxed);
            self.raise(Signal::Overflow);
            return false;
        }
        queue.bytes = bytes;
        queue.messages.push_back(message);
        drop(queue);
        if ends {
            self.raise(Signal::Ending);
        } else {
            self.waker.wake();
        }
        true
    }

    fn shut(&self) {
        let mut queue = lock(&self.queue);
        queue.open = false;
        let held = std::mem::take(&mut queue.bytes);
        let dropped = std::mem::take(&mut queue.messages);
        drop(queue);
        drop(dropped);
        self.total.fetch_sub(held, Ordering::Relaxed);
    }
}

/// Signals that were raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals(u8);

impl Signals {
    /// Whether any was.
    #[must_use]
    pub fn any(self) -> bool {
        self.0 != 0
    }

    /// Whether this one was.
    #[must_use]
    pub fn has(self, signal: Signal) -> bool {
        self.0 & signal as u8 != 0
    }
}

/// About what a message keeps in memory. Bodies are shared among receivers and are
/// counted for each: the bound holds when nobody shares.
fn weight(message: &ToSession) -> usize {
    const FIXED: usize = 192;
    match message {
        ToSession::Events(events) => events
            .iter()
            .map(|event| FIXED + event.body.content.len())
            .sum(),
        ToSession::Answer { body, .. } | ToSession::Signal(body) => FIXED + body.encoded_len(),
        ToSession::Attached(_)
        | ToSession::Sent { .. }
        | ToSession::Refused { .. }
        | ToSession::Wait { .. }
        | ToSession::SpentBefore { .. }
        | ToSession::Replaced
        | ToSession::Close(_) => FIXED,
    }
}

/// A panic of another holder leaves a queue that is still a queue.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
