//! The application's side: queues messages, asks, acknowledges. Everything goes to
//! the client's own task, so a [`Client`] is cheap to clone and never blocks.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use chat_wire::{
    codec::Encoding,
    error::Code,
    frame,
    ids::{ClientId, ConversationId, UserId},
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, oneshot};

use crate::{
    Config, ConnectError, Content, Events, Message, Queue, Refused, SendError, Start, State,
    Target,
    arrivals::Arrivals,
    driver::{self, Driver},
    queue::{self, QueueError, Writer},
    shared::{Command, Counts, Shared, unix_ms},
};

mod requests;

pub use crate::shared::MAX_REQUESTS;
pub use requests::HistoryFrom;

/// What waits for the client's task; more waits at the caller.
const COMMANDS: usize = 1024;

/// What a client has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// SENDs written to a connection, each attempt counted.
    pub sent: u64,
    /// Of those, the second and later attempts of a message.
    pub resent: u64,
    /// Acknowledged messages sent again to another generation.
    pub resubmitted: u64,
    /// SENTs that said the message had been committed by an earlier attempt.
    pub answered_twice: u64,
    /// Events handed to the application.
    pub events: u64,
    /// Events that came twice and were dropped.
    pub duplicates: u64,
    /// Sessions that began.
    pub connects: u64,
    /// Messages in the queue's file that were damaged when it was opened: they are lost.
    pub damaged_in_queue: u64,
}

struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    writer: Option<Writer>,
    bound: usize,
    encoding: Encoding,
    request_timeout: std::time::Duration,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.start_closing();
    }
}

/// A session that is kept alive. Ends when the last clone is dropped.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects, and returns after WELCOME. Messages of an earlier process that wait in a
    /// queue on disk go first.
    ///
    /// # Errors
    /// [`ConnectError`]: the configuration, the queue's file, an unreachable server, or the
    /// server's refusal.
    pub async fn connect(config: Config) -> Result<(Self, Events), ConnectError> {
        check(&config)?;
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        let state = match &config.start {
            Start::Saved(state) => state.clone(),
            Start::From(inbox_seq) => State {
                inbox_seq: *inbox_seq,
                ..State::default()
            },
            Start::Fresh => State::default(),
        };
        let arrivals = Arrivals::new(state, config.event_buffer, config.auto_ack);
        let bound = config.queue.bound();
        let (writer, recovered) = match &config.queue {
            Queue::Memory { .. } => (None, queue::Recovered::default()),
            Queue::Disk { path, .. } => {
                let (writer, recovered) = queue::open(path.clone(), commands.clone())
                    .await
                    .map_err(ConnectError::Queue)?;
                (Some(writer), recovered)
            }
        };
        // Recovered messages take places, but never more than there are.
        let room = Semaphore::new(bound.saturating_sub(recovered.waiting.len()));
        let shared = Arc::new(Shared {
            arrivals: Arc::clone(&arrivals),
            room,
            closing: AtomicBool::new(false),
            close: Notify::new(),
            closed: AtomicBool::new(false),
            closed_notify: Notify::new(),
            clock_ahead_ms: AtomicI64::new(0),
            content_bytes: AtomicU32::new(0),
            frame_bytes: AtomicU32::new(0),
            who: Mutex::default(),
            counts: Counts::default(),
        });
        let handle = Arc::new(Handle {
            shared: Arc::clone(&shared),
            commands,
            writer: writer.clone(),
            bound,
            encoding: config.encoding,
            request_timeout: config.request_timeout,
        });
        let (ready, welcomed) = oneshot::channel();
        let driver = Driver::new(config, shared, command_receiver, writer, recovered, ready);
        tokio::spawn(driver::run(driver));
        match welcomed.await {
            Ok(Ok(())) => Ok((Self { handle }, Events::new(arrivals))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Closed),
        }
    }

    /// Queues a message. Waits while the queue is full; returns when the message is queued:
    /// in memory, or synced to the queue's file. The [`Pending`] is answered by SENT.
    ///
    /// Messages of one conversation that are queued one after the other are committed in that order.
    ///
    /// # Errors
    /// [`SendError`] if it could not be queued.
    pub async fn send(&self, to: Target, content: Content) -> Result<Pending, SendError> {
        self.send_message(Message::new(to, content)).await
    }

    /// [`Client::send`] with everything that can be said about a message.
    ///
    /// # Errors
    /// [`SendError`] if it could not be queued.
    pub async fn send_message(&self, message: Message) -> Result<Pending, SendError> {
        let permit = self
            .handle
            .shared
            .room
            .acquire()
            .await
            .map_err(|_| SendError::Closed)?;
        self.queue(message, permit).await
    }

    /// [`Client::send`] that does not wait while the queue is full.
    ///
    /// # Errors
    /// [`SendError::QueueFull`], or another [`SendError`].
    pub async fn try_send(&self, to: Target, content: Content) -> Result<Pending, SendError> {
        match self.handle.shared.room.try_acquire() {
            Ok(permit) => self.queue(Message::new(to, content), permit).await,
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(SendError::QueueFull {
                bound: self.handle.bound,
            }),
            Err(tokio::sync::TryAcquireError::Closed) => Err(SendError::Closed),
        }
    }

    async fn queue(
        &self,
        message: Message,
        permit: SemaphorePermit<'_>,
    ) -> Result<Pending, SendError> {
        let id = message.id.unwrap_or_else(|| self.new_id());
        let send = Box::new(message.into_frame(Bytes::copy_from_slice(&id.0)));
        self.fits(id, &send)?;
        let (answer, answered) = oneshot::channel();
        let told = |error| match error {
            QueueError::Closed => SendError::Closed,
            error => SendError::Queue(error),
        };
        if let Some(writer) = &self.handle.writer {
            let synced = writer.append(id, send, answer).await.map_err(told)?;
            // From here on the message goes its way, whether or not this future lives on;
            // the client's task gives the place back when the message is over.
            permit.forget();
            if let Err(error) = synced.await.unwrap_or(Err(QueueError::Closed)) {
                self.handle.shared.room.add_permits(1);
                return Err(told(error));
            }
        } else {
            let command = Command::Send {
                id,
                send,
                answer: Some(answer),
            };
            self.handle
                .commands
                .send(command)
                .await
                .map_err(|_| SendError::Closed)?;
            permit.forget();
        }
        Ok(Pending { id, answered })
    }

    /// A frame beyond the server's limit would end the session, again and again.
    fn fits(&self, id: ClientId, send: &frame::Send) -> Result<(), SendError> {
        let shared = &self.handle.shared;
        let refuse = |code, message| {
            let refused = Refused::new(code, message);
            Err(SendError::Refused { id, refused })
        };
        let content = send.content.as_ref().map_or(0, prost::Message::encoded_len);
        let content_limit = shared.content_bytes.load(Ordering::Relaxed) as usize;
        if content_limit != 0 && content > content_limit {
            return refuse(
                Code::ContentTooLarge,
                format!("a content of {content} bytes; the limit is {content_limit}"),
            );
        }
        let frame_limit = shared.frame_bytes.load(Ordering::Relaxed) as usize;
        // A byte is at most six in JSON: `\u0001`.
        if self.handle.encoding == Encoding::Json
            && frame_limit != 0
            && content * 6 + 4096 > frame_limit
            && serde_json::to_vec(send).map_or(0, |json| json.len()) + 256 > frame_limit
        {
            return refuse(
                Code::FrameTooLarge,
                format!("in JSON the message is longer than {frame_limit} bytes: use protobuf"),
            );
        }
        Ok(())
    }

    /// Gives a message up that has no answer yet: its [`Pending`] ends with
    /// [`SendError::Abandoned`], and later messages of its conversation no longer wait for it.
    /// It may have been committed all the same.
    pub async fn abandon(&self, id: ClientId) {
        // A client that has ended holds no message back.
        drop(self.handle.commands.send(Command::Abandon(id)).await);
    }

    /// A UUIDv7 dated by the server's clock.
    #[must_use]
    pub fn new_id(&self) -> ClientId {
        ClientId(
            *uuid::Builder::from_unix_timestamp_millis(self.server_time_ms(), &rand::random())
                .into_uuid()
                .as_bytes(),
        )
    }

    /// The server's clock, ms since 1970, as far as it is known here.
    #[must_use]
    pub fn server_time_ms(&self) -> u64 {
        unix_ms().saturating_add_signed(self.handle.shared.clock_ahead_ms.load(Ordering::Relaxed))
    }

    /// The server's clock minus this machine's, ms.
    #[must_use]
    pub fn clock_ahead_ms(&self) -> i64 {
        self.handle.shared.clock_ahead_ms.load(Ordering::Relaxed)
    }

    /// Acknowledges all events up to this one: they are DELIVERED. Collected for
    /// [`Config::ack_delay_ms`], and repeated after a reconnect.
    pub fn ack(&self, inbox_seq: u64) {
        self.handle.shared.arrivals.ack(inbox_seq);
    }

    /// Says that the user has seen everything up to this message. Repeated until a receipt
    /// for oneself confirms it.
    pub fn mark(&self, conversation: ConversationId, seen_up_to: i64) {
        self.handle.shared.arrivals.mark(conversation.0, seen_up_to);
    }

    /// Tells the others that the user types, or no longer. May be lost.
    pub fn typing(&self, conversation: ConversationId, on: bool) {
        let typing = frame::Typing {
            conversation: conversation.0,
            on,
            user: 0,
        };
        // Full: the first to be dropped.
        drop(self.handle.commands.try_send(Command::Typing(typing)));
    }

    /// Where the device stopped: to be saved by an application that wants to go on there.
    #[must_use]
    pub fn state(&self) -> State {
        self.handle.shared.arrivals.state()
    }

    /// Who one is.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.handle.shared.who().user
    }

    /// By name.
    #[must_use]
    pub fn name(&self) -> String {
        self.handle.shared.who().name
    }

    /// The limits of the server.
    #[must_use]
    pub fn limits(&self) -> frame::Limits {
        self.handle.shared.who().limits
    }

    /// The cluster's generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.handle.shared.who().generation
    }

    /// What was done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let counts = &self.handle.shared.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Statistics {
            sent: read(&counts.sent),
            resent: read(&counts.resent),
            resubmitted: read(&counts.resubmitted),
            answered_twice: read(&counts.answered_twice),
            events: read(&counts.events),
            duplicates: read(&counts.duplicates),
            connects: read(&counts.connects),
            damaged_in_queue: read(&counts.damaged),
        }
    }

    /// Ends the session after acknowledgements and marks are written. Messages without an
    /// answer end with [`SendError::Closed`]; those in a queue on disk stay there.
    pub async fn close(&self) {
        let shared = &self.handle.shared;
        shared.start_closing();
        let closed = shared.closed_notify.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if !shared.closed.load(Ordering::Acquire) {
            closed.await;
        }
    }
}

/// A message that is queued. Await it for SENT; dropping it does not take the message back.
#[derive(Debug)]
pub struct Pending {
    id: ClientId,
    answered: oneshot::Receiver<Result<frame::Sent, SendError>>,
}

impl Pending {
    /// The message's id.
    #[must_use]
    pub const fn id(&self) -> ClientId {
        self.id
    }
}

impl Future for Pending {
    type Output = Result<frame::Sent, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answered)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(SendError::Closed)))
    }
}

fn check(config: &Config) -> Result<(), ConnectError> {
    let wrong = |text: &str| Err(ConnectError::Config(text.to_owned()));
    if config.device == 0 {
        return wrong("`device` is 0: choose a random number once and keep it");
    }
    if !(1..=1_000_000).contains(&config.queue.bound()) {
        return wrong("`queue.bound` is not from 1 to 1,000,000");
    }
    if !(1..=100_000).contains(&config.event_buffer) {
        return wrong("`event_buffer` is not from 1 to 100,000");
    }
    if config.ack_delay_ms > 10_000 {
        return wrong("`ack_delay_ms` is above 10,000: the server would take the device for slow");
    }
    Ok(())
}
