//! The client's own task: joins the session to a transport, the queue and the
//! application. One task a client; frames that are there together are read, answered
//! and written together.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use chat_wire::{
    frame::{self, Body, Frame},
    ids::ClientId,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Sleep},
};

use crate::{
    Config, ConnectError, Incoming, Refused, RequestError, SendError, Start, Token, TransportKind,
    error::TransportError,
    queue::{self, Recovered, Writer},
    session::{Output, Session, Settings},
    shared::{Command, MAX_REQUESTS, Shared},
    transport::{Connector, Transport},
};

mod deliver;

/// Commands and batches of frames taken in one pass, before writing.
const PASS: usize = 256;
/// Acknowledged messages kept in memory when the queue is there too.
const KEPT_IN_MEMORY: usize = 1024;

type SendAnswer = oneshot::Sender<Result<frame::Sent, SendError>>;
type RequestAnswer = oneshot::Sender<Result<Body, RequestError>>;

/// Why a connection, or the client, is over.
enum End {
    /// Connect again, not before the pause.
    Lost {
        reason: String,
        pause_ms: u64,
    },
    /// Connect again after this, without counting it as a failure.
    Goaway {
        pause_ms: u64,
    },
    Final(ConnectError),
}

pub(crate) struct Driver {
    config: Config,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    writer: Option<Writer>,
    session: Session,
    sends: HashMap<u64, SendAnswer>,
    requests: HashMap<u64, RequestAnswer>,
    /// Told once, when the first session begins or cannot.
    ready: Option<oneshot::Sender<Result<(), ConnectError>>>,
    /// What became of messages and did not fit into the queue's channel.
    over: Vec<(ClientId, bool)>,
    started: Instant,
    sleep: Pin<Box<Sleep>>,
    sleep_until_ms: u64,
    collect_at_ms: Option<u64>,
    /// When the connection is to be left, and to where.
    leave_at_ms: Option<u64>,
    next_endpoint: Option<crate::Endpoint>,
    transport_kind: TransportKind,
    attempts: u32,
    /// Reused by each pass.
    frames: Vec<Frame>,
    outputs: Vec<Output>,
    taken: Vec<Command>,
}

impl Driver {
    pub(crate) fn new(
        config: Config,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        writer: Option<Writer>,
        recovered: Recovered,
        ready: oneshot::Sender<Result<(), ConnectError>>,
    ) -> Self {
        let resume = match &config.start {
            Start::Fresh => None,
            Start::From(_) | Start::Saved(_) => Some(shared.arrivals.state()),
        };
        let kept = if writer.is_some() {
            queue::MAX_KEPT
        } else {
            KEPT_IN_MEMORY
        };
        let settings = Settings {
            device: config.device,
            event_buffer: config.event_buffer,
            backoff: config.backoff,
            kept,
        };
        let mut session = Session::new(settings, resume, rand::random());
        shared
            .counts
            .damaged
            .store(recovered.damaged, Ordering::Relaxed);
        for (id, send) in recovered.kept {
            session.keep(id, send);
        }
        for (id, send) in recovered.waiting {
            session.send(id, send);
        }
        Self {
            config,
            shared,
            commands,
            writer,
            session,
            sends: HashMap::new(),
            requests: HashMap::new(),
            ready: Some(ready),
            over: Vec::new(),
            started: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            sleep_until_ms: 0,
            collect_at_ms: None,
            leave_at_ms: None,
            next_endpoint: None,
            transport_kind: TransportKind::WebSocket,
            attempts: 0,
            frames: Vec::new(),
            outputs: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire)
    }
}

/// Runs until the application closes the client or the server refuses it.
pub(crate) async fn run(mut driver: Driver) {
    let error = match connect_again_and_again(&mut driver).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    finish(driver, error).await;
}

enum Never {}

async fn connect_again_and_again(driver: &mut Driver) -> Result<Never, ConnectError> {
    let connector = Connector::new(
        driver.config.endpoint.clone(),
        driver.config.encoding,
        &driver.config.trust,
        driver.config.network.clone(),
    )?;
    let mut failures = 0_u32;
    loop {
        let before = driver.shared.counts.connects.load(Ordering::Relaxed);
        let end = one_connection(driver, &connector).await;
        driver.session.disconnected();
        driver.collect_at_ms = None;
        driver.leave_at_ms = None;
        if driver.is_closing() {
            return Err(ConnectError::Closed);
        }
        if driver.shared.counts.connects.load(Ordering::Relaxed) > before {
            failures = 0;
            driver.attempts = 0;
        }
        let (reason, pause) = match end {
            End::Final(error) => return Err(error),
            End::Goaway { pause_ms } => (
                "the server is going away".to_owned(),
                Duration::from_millis(pause_ms),
            ),
            End::Lost { reason, pause_ms } => {
                failures = failures.saturating_add(1);
                let pause = driver.config.backoff.pause(failures, rand::random());
                (reason, pause.max(Duration::from_millis(pause_ms)))
            }
        };
        if driver.ready.is_some()
            && driver.started.elapsed() + pause > driver.config.connect_timeout
        {
            return Err(ConnectError::Unreachable {
                endpoint: driver.config.endpoint.to_string(),
                attempts: driver.attempts,
                last: reason,
            });
        }
        tracing::debug!(%reason, ?pause, "the connection is lost");
        driver.shared.arrivals.push_signal(Incoming::Disconnected {
            reason,
            retry_in: pause,
        });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = driver.shared.close.notified() => return Err(ConnectError::Closed),
        }
    }
}

async fn one_connection(driver: &mut Driver, connector: &Connector) -> End {
    driver.attempts += 1;
    let token = match driver.config.token.read() {
        Ok(token) => token,
        // A file that is being replaced may be back in a moment.
        Err(error) if driver.ready.is_none() => {
            return End::Lost {
                reason: ConnectError::Token(error.to_string()).to_string(),
                pause_ms: 0,
            };
        }
        Err(error) => return End::Final(ConnectError::Token(error.to_string())),
    };
    let endpoint = driver
        .next_endpoint
        .take()
        .unwrap_or_else(|| connector.endpoint.clone());
    let shared = Arc::clone(&driver.shared);
    let connected = tokio::select! {
        connected = Box::pin(connector.connect(&endpoint)) => connected,
        () = shared.close.notified() => return End::Final(ConnectError::Closed),
    };
    let mut transport = match connected {
        Ok(transport) => transport,
        Err(error) => return ended(error),
    };
    driver.transport_kind = transport.kind();
    driver.forget_unwanted();
    let unread = driver.shared.arrivals.unread();
    let longest_ms = match (driver.config.heartbeat, transport.kind()) {
        (Some(heartbeat), _) => u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX),
        // NAT forgets UDP soon; spread, so that clients do not knock together.
        (None, TransportKind::Quic) => rand::random_range(20_000..=30_000),
        (None, _) => u64::MAX,
    };
    driver.session.limit_heartbeat(longest_ms);
    let now_ms = driver.now_ms();
    driver.session.hello(now_ms, token, unread);
    let end = poll_fn(|cx| driver.pass(cx, &mut transport)).await;
    if let End::Final(_) | End::Goaway { .. } = &end {
        transport.close().await;
    }
    end
}

fn ended(error: TransportError) -> End {
    if let TransportError::Closed { code, reason } = &error {
        let code_known = chat_wire::error::Code::from_number(*code);
        if code_known == Some(chat_wire::error::Code::Replaced) {
            return End::Final(ConnectError::Replaced);
        }
        if let Some(code) = code_known
            && (200..300).contains(&code.number())
            && code != chat_wire::error::Code::TokenExpired
        {
            return End::Final(ConnectError::Refused(Refused::new(code, reason.clone())));
        }
    }
    End::Lost {
        reason: error.to_string(),
        pause_ms: 0,
    }
}

impl Driver {
    /// Does what can be done now; ready when the connection is over.
    fn pass(&mut self, cx: &mut Context<'_>, transport: &mut Transport) -> Poll<End> {
        self.shared.arrivals.driver.register(cx.waker());
        loop {
            let mut progress = false;
            match self.read(cx, transport) {
                Ok(read) => progress |= read,
                Err(end) => return Poll::Ready(end),
            }
            progress |= self.take_commands(cx);
            progress |= self.collect();
            if let Some(end) = self.time() {
                return Poll::Ready(end);
            }
            if let Some(end) = self.deliver() {
                return Poll::Ready(end);
            }
            let closing = self.is_closing();
            match self.write(cx, transport) {
                Ok(all) => {
                    if closing && all {
                        return Poll::Ready(End::Final(ConnectError::Closed));
                    }
                }
                Err(error) => return Poll::Ready(ended(error)),
            }
            self.write_over();
            if !progress && self.rest(cx) {
                return Poll::Pending;
            }
        }
    }

    fn read(&mut self, cx: &mut Context<'_>, transport: &mut Transport) -> Result<bool, End> {
        if !self.shared.arrivals.has_room() {
            let now_ms = self.now_ms();
            self.session.not_listening(now_ms);
            return Ok(false);
        }
        let now_ms = self.now_ms();
        let mut progress = false;
        while self.frames.len() < PASS {
            match transport.poll_read(cx, &mut self.frames) {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(error)) => {
                    // What came before the end still counts: an ERROR says why.
                    self.receive(now_ms);
                    if let Some(end) = self.deliver() {
                        return Err(end);
                    }
                    if let Some(at) = self.leave_at_ms {
                        let pause_ms = at.saturating_sub(now_ms);
                        return Err(End::Goaway { pause_ms });
                    }
                    return Err(ended(error));
                }
                Poll::Pending => break,
            }
        }
        self.receive(now_ms);
        Ok(progress)
    }

    fn receive(&mut self, now_ms: u64) {
        for frame in self.frames.drain(..) {
            self.session.receive(now_ms, frame, &mut self.outputs);
        }
    }

    fn take_commands(&mut self, cx: &mut Context<'_>) -> bool {
        if self.session.open_requests() >= MAX_REQUESTS {
            self.forget_unwanted();
            if self.session.open_requests() >= MAX_REQUESTS {
                return false;
            }
        }
        let Poll::Ready(count) = self.commands.poll_recv_many(cx, &mut self.taken, PASS) else {
            return false;
        };
        if count == 0 {
            // The last client is gone.
            self.shared.closing.store(true, Ordering::Release);
            return false;
        }
        let mut taken = std::mem::take(&mut self.taken);
        for command in taken.drain(..) {
            self.command(command);
        }
        self.taken = taken;
        true
    }

    /// Requests whose caller has given up are not repeated.
    fn forget_unwanted(&mut self) {
        self.requests.retain(|ticket, answer| {
            let wanted = !answer.is_closed();
            if !wanted {
                self.session.forget_request(*ticket);
            }
            wanted
        });
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Send { id, send, answer } => {
                let ticket = self.session.send(id, *send);
                if let Some(answer) = answer {
                    self.sends.insert(ticket, answer);
                }
            }
            Command::Abandon(id) => self.session.abandon(id, &mut self.outputs),
            Command::Request { body, answer } => {
                let ticket = self.session.request(*body);
                self.requests.insert(ticket, answer);
            }
            Command::Typing(typing) => self.session.typing(typing),
            Command::Reauth { token, answer } => {
                if let Token::Fixed(fixed) = &mut self.config.token {
                    fixed.clone_from(&token);
                }
                let ticket = self.session.request(Body::Reauth(frame::Reauth { token }));
                self.requests.insert(ticket, answer);
            }
        }
    }

    /// What the application has taken, acknowledged and seen.
    fn collect(&mut self) -> bool {
        let arrivals = &self.shared.arrivals;
        if !arrivals.is_dirty() {
            return false;
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let at = *self
            .collect_at_ms
            .get_or_insert(now_ms + self.config.ack_delay_ms);
        if !arrivals.is_urgent() && now_ms < at && !self.shared.closing.load(Ordering::Acquire) {
            return false;
        }
        self.collect_at_ms = None;
        let collected = arrivals.collect();
        self.session
            .taken(collected.taken, collected.acked, collected.generation);
        for (conversation, seen_up_to) in collected.marks {
            self.session
                .mark(conversation, seen_up_to, &mut self.outputs);
        }
        true
    }

    fn time(&mut self) -> Option<End> {
        let now_ms = self.now_ms();
        if self.session.deadline_ms() <= now_ms {
            self.session.tick(now_ms, &mut self.outputs);
        }
        if self.leave_at_ms.is_some_and(|at| at <= now_ms) {
            return Some(End::Goaway { pause_ms: 0 });
        }
        None
    }

    /// True when all is written.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        transport: &mut Transport,
    ) -> Result<bool, TransportError> {
        let now_ms = self.now_ms();
        let mut all = false;
        while let Poll::Ready(room) = transport.poll_room(cx) {
            room?;
            let mut failed = None;
            let more = self.session.transmit(now_ms, &mut |frame| {
                failed = transport.write(frame).err();
            });
            if let Some(error) = failed {
                return Err(error);
            }
            if !more {
                all = true;
                break;
            }
        }
        let flushed = match transport.poll_flush(cx) {
            Poll::Ready(flushed) => flushed.map(|()| true)?,
            Poll::Pending => false,
        };
        Ok(all && flushed)
    }

    /// Sets the timer; false if it has run out meanwhile.
    fn rest(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self
            .session
            .deadline_ms()
            .min(self.collect_at_ms.unwrap_or(u64::MAX))
            .min(self.leave_at_ms.unwrap_or(u64::MAX));
        // A day is for ever: the timer's own range is shorter than u64.
        let deadline = deadline.min(self.now_ms() + 86_400_000);
        if self.sleep_until_ms != deadline {
            self.sleep_until_ms = deadline;
            self.sleep
                .as_mut()
                .reset(self.started + Duration::from_millis(deadline));
        }
        self.sleep.as_mut().poll(cx).is_pending()
    }
}

async fn finish(mut driver: Driver, error: ConnectError) {
    driver.shared.closing.store(true, Ordering::Release);
    driver.shared.room.close();
    driver.commands.close();
    // Dropping the answers tells those who wait that the client is closed.
    while driver.commands.try_recv().is_ok() {}
    driver.sends.clear();
    driver.requests.clear();
    if let Some(writer) = driver.writer.take() {
        for (id, acknowledged) in driver.over.drain(..) {
            if !writer.over(id, acknowledged) {
                // The next process sends it once more, and gets the first answer.
                break;
            }
        }
        writer.stop().await;
    }
    match driver.ready.take() {
        Some(ready) => drop(ready.send(Err(error))),
        None => driver.shared.arrivals.end(error),
    }
    driver.shared.closed.store(true, Ordering::Release);
    driver.shared.closed_notify.notify_waiters();
}
