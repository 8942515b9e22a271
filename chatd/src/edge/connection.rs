//! One connection: the task that drives a session over a transport, the same for
//! WebSocket and QUIC.
//!
//! It is one hand-written future, without a split, a channel or a timer of its own,
//! because there may be millions: what an idle one holds is its socket, its session
//! and its (empty) mailbox. Everything that happens wakes the task; it then takes
//! what there is, in turns, and writes the answers together.
//!
//! Bounds: while [`WRITE_BYTES`] wait for the client nothing more is taken, neither
//! from the client nor from the mailbox; one read is at most 16 KiB, and what it
//! holds is carried out whole. A turn takes at most `TURN_MESSAGES` messages, and
//! after `TURNS` turns other tasks run.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use chat_core::{
    message::{Identity, Now, Request, ToSession, ToShard},
    placement::map::ShardMap,
    router,
    session::{Input, Output, Session, SessionSettings},
};
use chat_wire::{
    codec::{self, Encoding},
    error::{Code, Refusal},
};

use super::{
    admission::Place,
    auth::Authenticator,
    deliveries::Deliveries,
    heartbeat::Heartbeat,
    outbound::{Registration, Sessions, Signal},
    transport::{Arrival, Transport},
    window::Window,
};
use crate::{
    clock,
    metrics::{Closed, Metrics, Transport as TransportLabel},
    planted,
};

/// Bytes that wait for a client before nothing more is taken for it.
pub const WRITE_BYTES: usize = 16 * 1024;
/// Messages from shard threads in one turn.
const TURN_MESSAGES: usize = 64;
/// Turns of a task before others run.
const TURNS: usize = 8;
/// How long a closing connection waits for the client to take what was written.
const LINGER_MS: u64 = 3_000;
/// The same for a client whose token was never valid.
const NEWCOMER_LINGER_MS: u64 = 1_000;
/// How long the answer to a question may take at most; half a heartbeat if that is less.
const PONG_MS: u64 = 30_000;
/// How often a full shard queue is offered the end of a session, a second apart.
const DETACH_TRIES: u8 = 8;

/// What the edge needs of the shard threads.
pub trait Hosts: Send + Sync {
    /// Hands a request to the host of its shard.
    ///
    /// # Errors
    /// Gives it back when the host's queue is full.
    #[expect(
        clippy::result_large_err,
        reason = "the request itself comes back, unmoved mostly"
    )]
    fn submit(&self, to: ToShard) -> Result<(), ToShard>;

    /// The shard map.
    fn map(&self) -> Arc<ShardMap>;
}

/// What all connections of a node share.
pub struct Shared {
    /// Their mailboxes.
    pub sessions: Arc<Sessions>,
    /// Their deadlines.
    pub heartbeat: Arc<Heartbeat>,
    /// Where requests go.
    pub hosts: Arc<dyn Hosts>,
    /// Who checks tokens.
    pub authenticator: Arc<Authenticator>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Settings of sessions over WebSocket.
    pub websocket: Arc<SessionSettings>,
    /// Settings of sessions over QUIC.
    pub quic: Arc<SessionSettings>,
    /// Told to clients when the node drains.
    pub reconnect_within_ms: u32,
}

/// The future of one connection; it ends with the connection.
pub struct Connection<T> {
    shared: Arc<Shared>,
    /// Dropped as soon as the connection is over, even if the session is not.
    transport: Option<T>,
    name: &'static str,
    session: Session,
    encoding: Encoding,
    registration: Registration,
    login: Option<Login>,
    window: Window,
    /// The client does not wait when it is told to: until this is over nothing is read.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    heartbeat_ms: u64,
    heard_ms: u64,
    pinged: bool,
    /// A message that ends the session waits.
    ending: bool,
    phase: Phase,
    reason: &'static str,
    deliveries: Deliveries,
    /// Its place in the caps of admission.
    place: Place,
    /// It has its WELCOME.
    welcomed: bool,
}

type Login = Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The client has until then to take the rest.
    Closing {
        until_ms: u64,
    },
    /// Nothing can be said to the client; shards may still have to be told.
    Gone {
        tries: u8,
    },
}

impl<T: Transport> Connection<T> {
    /// A connection whose transport is ready for frames, and whose client has until
    /// `hello_by_ms` for HELLO.
    pub fn new(
        shared: &Arc<Shared>,
        settings: &Arc<SessionSettings>,
        transport: T,
        encoding: Encoding,
        place: Place,
        hello_by_ms: u64,
    ) -> Self {
        let now = clock::now();
        let registration = shared.sessions.open();
        let session = Session::new(
            Arc::clone(settings),
            registration.mailbox().session(),
            encoding,
            shared.hosts.map(),
            rand::random(),
            now,
        )
        .hello_by(hello_by_ms);
        let name = transport.name();
        let label = TransportLabel { transport: name };
        shared.metrics.connections.get_or_create(&label).inc();
        shared
            .metrics
            .connections_opened
            .get_or_create(&label)
            .inc();
        Self {
            shared: Arc::clone(shared),
            transport: Some(transport),
            name,
            session,
            encoding,
            registration,
            login: None,
            window: Window::new(shared.sessions.session_bytes()),
            heartbeat_ms: u64::from(settings.heartbeat_ms),
            heard_ms: now.mono_ms,
            pinged: false,
            ending: false,
            phase: Phase::Open,
            reason: "lost",
            deliveries: Deliveries::new(now.unix_ms),
            pause: None,
            place,
            welcomed: false,
        }
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut out = Vec::new();
        for _ in 0..TURNS {
            let now = clock::now();
            let mut progress = self.take_signals(now, &mut out);
            if self.phase == Phase::Open && self.place.poll_ousted(cx).is_ready() {
                self.make_room(cx, now, &mut out);
                progress = true;
            }
            if self.phase == Phase::Open {
                progress |= self.take_login(cx, now, &mut out);
                progress |= self.take_messages(now, &mut out);
                progress |= self.take_arrivals(cx, now, &mut out);
            }
            if !matches!(self.phase, Phase::Gone { .. }) {
                // What waited for room was not looked at above, so nothing but this
                // turn would wake the task for it.
                let waited = !self.has_room();
                self.flush(cx, now, &mut out);
                progress |= waited && self.has_room();
            }
            if let Phase::Closing { .. } = self.phase
                && let Some(transport) = &mut self.transport
                && transport.poll_closed(cx).is_ready()
            {
                self.gone(now, None, &mut out);
            }
            if let Phase::Gone { tries } = self.phase
                && (self.session.is_over() || tries >= DETACH_TRIES)
            {
                return Poll::Ready(());
            }
            if !progress {
                self.schedule(now);
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_signals(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        let signals = self.registration.mailbox().take_signals();
        if signals.has(Signal::Drain) && self.phase == Phase::Open {
            let reconnect_within_ms = self.shared.reconnect_within_ms;
            self.step(
                now,
                Input::Drain {
                    reconnect_within_ms,
                },
                out,
            );
        }
        if signals.has(Signal::Overflow) {
            let slow = "this client takes its frames too slowly: connect again and resume";
            self.end(now, Refusal::new(Code::SlowConsumer, slow), out);
        }
        if signals.has(Signal::Stop) {
            let stops = "the server stops: connect again";
            self.end(now, Refusal::new(Code::GoingAway, stops), out);
        }
        self.ending |= signals.has(Signal::Ending);
        if signals.has(Signal::Due) {
            self.due(now, out);
        }
        signals.any()
    }

    fn due(&mut self, now: Now, out: &mut Vec<Output>) {
        match &mut self.phase {
            Phase::Open => {
                if self
                    .session
                    .deadline_ms()
                    .is_some_and(|at| at <= now.mono_ms)
                {
                    self.step(now, Input::Tick, out);
                }
                self.release_credits();
                self.listen_for_life(now, out);
            }
            Phase::Closing { until_ms } if *until_ms <= now.mono_ms => self.gone(now, None, out),
            Phase::Closing { .. } => {}
            Phase::Gone { tries } => {
                *tries += 1;
                self.step(now, Input::Tick, out);
            }
        }
    }

    /// A client that is silent too long is asked, and then given up.
    fn listen_for_life(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.phase != Phase::Open || now.mono_ms < self.silent_until() {
            return;
        }
        if self.pinged {
            let silent = "nothing was heard for too long: send PING at least every heartbeat_ms";
            return self.end(now, Refusal::new(Code::Silent, silent), out);
        }
        self.pinged = true;
        if let Some(transport) = &mut self.transport {
            transport.ping();
        }
    }

    fn silent_until(&self) -> u64 {
        let asked = self.heard_ms + self.heartbeat_ms * 3 / 2;
        let answer_ms = (self.heartbeat_ms / 2).min(PONG_MS);
        if self.pinged {
            asked + answer_ms
        } else {
            asked
        }
    }

    fn take_login(&mut self, cx: &mut Context<'_>, now: Now, out: &mut Vec<Output>) -> bool {
        let Some(login) = &mut self.login else {
            return false;
        };
        let Poll::Ready(result) = login.as_mut().poll(cx) else {
            return false;
        };
        self.login = None;
        let valid = result.is_ok();
        self.step(now, Input::Authenticated(result), out);
        if valid {
            self.place.token_is_valid();
        }
        if let (Some(user), Some(app)) = (self.session.user(), self.session.app()) {
            self.registration.mailbox().note_user(user, app);
        }
        true
    }

    /// The client owes its HELLO and somebody else got the place: it is told so, if the
    /// socket takes that now, and goes.
    fn make_room(&mut self, cx: &mut Context<'_>, now: Now, out: &mut Vec<Output>) {
        let full = "the server is full, and HELLO has not come: connect again and send it at once";
        self.end(now, Refusal::new(Code::TooManyConnections, full), out);
        self.flush(cx, now, out);
        self.gone(now, None, out);
    }

    fn take_messages(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        if self.ending && !self.has_room() {
            return self.skip_to_the_end(now, out);
        }
        let mut taken = 0;
        while taken < TURN_MESSAGES && self.has_room() {
            let Some(message) = self.registration.mailbox().take() else {
                break;
            };
            if let ToSession::Events(events) = &message {
                let bytes = events.iter().map(|event| event.body.content.len()).sum();
                self.window.took(events.len(), bytes);
                self.deliveries.note(events);
            }
            self.step(now, Input::Host(message), out);
            taken += 1;
        }
        if !self.welcomed && self.session.is_live() {
            self.welcomed = true;
            if let Some(transport) = &mut self.transport {
                transport.welcomed();
            }
        }
        if taken > 0 {
            self.release_credits();
        }
        taken > 0
    }

    /// The client takes nothing, and its session is to end: what waits before that
    /// message could never be written.
    fn skip_to_the_end(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        self.ending = false;
        while let Some(message) = self.registration.mailbox().take() {
            if matches!(message, ToSession::Close(_) | ToSession::Replaced) {
                self.step(now, Input::Host(message), out);
                return true;
            }
        }
        false
    }

    /// Gives the user's shard the credits it may have. If its queue is full they are
    /// offered again when more happens, or with the next tick.
    fn release_credits(&mut self) {
        let Some(user) = self.session.user() else {
            return;
        };
        let events = self.window.release();
        if events == 0 {
            return;
        }
        let shard = router::of_user(&self.shared.hosts.map(), user);
        let request = Request::Credit {
            session: self.session.id(),
            user,
            events,
        };
        if self
            .shared
            .hosts
            .submit(ToShard { shard, request })
            .is_err()
        {
            self.window.take_back(events);
        }
    }

    fn take_arrivals(&mut self, cx: &mut Context<'_>, now: Now, out: &mut Vec<Output>) -> bool {
        if !self.has_room() {
            return false;
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.pause = None;
        }
        let Some(transport) = &mut self.transport else {
            return false;
        };
        let mut arrivals = Vec::new();
        if transport.poll_arrivals(cx, &mut arrivals).is_pending() {
            return false;
        }
        self.heard_ms = now.mono_ms;
        self.pinged = false;
        for arrival in arrivals {
            if self.phase != Phase::Open {
                break;
            }
            match arrival {
                Arrival::Frame(bytes) => {
                    self.shared.metrics.frames_received.inc();
                    planted::frame(self.session.user());
                    let limit = self.session_limit();
                    let input = match codec::decode(self.encoding, &bytes, limit) {
                        Ok(frame) => Input::Frame(frame),
                        Err(refusal) => Input::BadFrame(refusal),
                    };
                    self.step(now, input, out);
                }
                Arrival::Alive => {}
                Arrival::Bad(refusal) => self.step(now, Input::BadFrame(refusal), out),
                Arrival::Closing(reason) => {
                    self.reason = reason;
                    self.phase = Phase::Closing {
                        until_ms: now.mono_ms + self.linger_ms(),
                    };
                    self.step(now, Input::Lost, out);
                }
                Arrival::Gone(reason) => self.gone(now, Some(reason), out),
            }
        }
        self.pause = self
            .session
            .take_pause_ms()
            .map(|ms| Box::pin(tokio::time::sleep(Duration::from_millis(ms))));
        true
    }

    fn flush(&mut self, cx: &mut Context<'_>, now: Now, out: &mut Vec<Output>) {
        let Some(transport) = &mut self.transport else {
            return;
        };
        match transport.poll_flush(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self
                .deliveries
                .observe(&self.shared.metrics.delivery_seconds),
            Poll::Ready(Err(_)) => self.gone(now, Some("lost"), out),
        }
    }

    /// Steps the session and does what it wants, until it wants nothing.
    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        self.session.step(now, input, out);
        self.registration.mailbox().note_spent(self.session.spent());
        while !out.is_empty() {
            for output in std::mem::take(out) {
                self.carry_out(now, output, out);
            }
        }
    }

    fn carry_out(&mut self, now: Now, output: Output, out: &mut Vec<Output>) {
        match output {
            Output::Write { bytes, bulk } => {
                if let (Phase::Open, Some(transport)) = (self.phase, &mut self.transport) {
                    self.shared.metrics.frames_sent.inc();
                    transport.queue(bytes, bulk);
                }
            }
            Output::Authenticate(token) => {
                self.place.said_hello();
                let authenticator = Arc::clone(&self.shared.authenticator);
                self.login = Some(Box::pin(async move { authenticator.login(token).await }));
            }
            Output::Submit(mut to) => {
                match &mut to.request {
                    Request::Attach(attach) => {
                        attach.event_credits = self.window.open(attach.event_credits);
                    }
                    Request::Credit { events, .. } => {
                        self.window.grant(*events);
                        return self.release_credits();
                    }
                    _ => {}
                }
                if let Err(to) = self.shared.hosts.submit(to) {
                    self.session.step(now, Input::Overloaded(to), out);
                }
            }
            Output::Close(refusal) => {
                if let (Phase::Open, Some(transport)) = (self.phase, &mut self.transport) {
                    self.reason = refusal
                        .as_ref()
                        .map_or("server", |refusal| refusal.code.name());
                    transport.close(refusal.as_ref());
                    self.phase = Phase::Closing {
                        until_ms: now.mono_ms + self.linger_ms(),
                    };
                    self.login = None;
                }
            }
        }
    }

    /// Tells the client why, if it listens, and ends.
    fn end(&mut self, now: Now, refusal: Refusal, out: &mut Vec<Output>) {
        if self.phase == Phase::Open {
            self.step(now, Input::Host(ToSession::Close(refusal)), out);
        }
    }

    fn gone(&mut self, now: Now, reason: Option<&'static str>, out: &mut Vec<Output>) {
        if let Some(reason) = reason.filter(|_| self.phase == Phase::Open) {
            self.reason = reason;
        }
        self.phase = Phase::Gone { tries: 0 };
        self.transport = None;
        self.login = None;
        self.step(now, Input::Lost, out);
    }

    fn linger_ms(&self) -> u64 {
        if self.session.user().is_some() {
            LINGER_MS
        } else {
            NEWCOMER_LINGER_MS
        }
    }

    fn has_room(&self) -> bool {
        self.phase == Phase::Open
            && self
                .transport
                .as_ref()
                .is_some_and(|transport| transport.queued() < WRITE_BYTES)
    }

    fn session_limit(&self) -> usize {
        let settings = if self.name == "quic" {
            &self.shared.quic
        } else {
            &self.shared.websocket
        };
        settings.limits.frame_bytes as usize
    }

    fn schedule(&self, now: Now) {
        let at = match self.phase {
            Phase::Open => {
                let mut silent = self.silent_until();
                if self.window.is_waiting() && self.session.is_live() {
                    silent = now.mono_ms;
                }
                self.session
                    .deadline_ms()
                    .map_or(silent, |at| at.min(silent))
            }
            Phase::Closing { until_ms } => until_ms,
            Phase::Gone { .. } => now.mono_ms,
        };
        self.shared
            .heartbeat
            .schedule(self.registration.mailbox(), Some(at));
    }
}

impl<T> Connection<T> {
    /// Ends the session at its shard without asking it, which a panic has broken. Should
    /// the shard's queue be full, the device's next session replaces it there.
    fn detach(&self) {
        let Some(user) = self.session.user() else {
            return;
        };
        let shard = router::of_user(&self.shared.hosts.map(), user);
        let session = self.session.id();
        let request = Request::Detach { session, user };
        drop(self.shared.hosts.submit(ToShard { shard, request }));
    }
}

impl<T: Transport> Future for Connection<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // Before anything is taken: what comes after this wakes the task.
        this.registration.mailbox().register(cx.waker());
        ready!(this.poll_turns(cx));
        Poll::Ready(())
    }
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.reason = "panic";
            self.detach();
        }
        let metrics = &self.shared.metrics;
        metrics
            .connections
            .get_or_create(&TransportLabel {
                transport: self.name,
            })
            .dec();
        let closed = Closed {
            transport: self.name,
            reason: self.reason,
        };
        metrics.connections_closed.get_or_create(&closed).inc();
    }
}
