//! What the application's side and the client's task share: what is wanted of the task,
//! and what both look at without asking the other.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use chat_wire::{
    frame::{self, Body},
    ids::{ClientId, UserId},
};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::{RequestError, SendError, arrivals::Arrivals};

/// Requests other than SEND that the client's task holds; more wait in the channel.
pub const MAX_REQUESTS: usize = 256;
/// What the application wants of the client's task.
pub(crate) enum Command {
    Send {
        id: ClientId,
        send: Box<frame::Send>,
        answer: Option<oneshot::Sender<Result<frame::Sent, SendError>>>,
    },
    Abandon(ClientId),
    Request {
        body: Box<Body>,
        answer: oneshot::Sender<Result<Body, RequestError>>,
    },
    /// Lossy and not answered.
    Typing(frame::Typing),
    Reauth {
        token: String,
        answer: oneshot::Sender<Result<Body, RequestError>>,
    },
}

/// What both sides see.
pub(crate) struct Shared {
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) room: Semaphore,
    pub(crate) closing: AtomicBool,
    pub(crate) close: Notify,
    pub(crate) closed: AtomicBool,
    pub(crate) closed_notify: Notify,
    /// The server's clock minus ours, ms.
    pub(crate) clock_ahead_ms: AtomicI64,
    pub(crate) content_bytes: AtomicU32,
    pub(crate) frame_bytes: AtomicU32,
    pub(crate) who: Mutex<Who>,
    pub(crate) counts: Counts,
}

#[derive(Clone, Default)]
pub(crate) struct Who {
    pub(crate) user: UserId,
    pub(crate) name: String,
    pub(crate) limits: frame::Limits,
    pub(crate) generation: u32,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) sent: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) resubmitted: AtomicU64,
    pub(crate) answered_twice: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) damaged: AtomicU64,
}

impl Shared {
    pub(crate) fn start_closing(&self) {
        self.closing.store(true, Ordering::Release);
        self.close.notify_one();
        self.arrivals.driver.wake();
    }

    pub(crate) fn who(&self) -> Who {
        self.who
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
