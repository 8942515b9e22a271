//! Sockets: one port number for WebSocket (TCP) and QUIC (UDP), and what happens
//! between a client's first byte and a connection.
//!
//! Everything up to HELLO has one deadline, from the first byte on, and a bounded
//! number at once ([`super::admission`]). A WebSocket over the cap is told so (503) by a
//! few tasks at most; beyond them the socket is just closed.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket},
    sync::Arc,
    time::Duration,
};

use chat_wire::{error::Code, limits::HELLO_BYTES};
use quinn::{Runtime as _, VarInt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use super::{
    admission::{Admission, NoPlace, Place, PlaceWatch, Source},
    connection::{Connection, Shared},
    meter::{Meter, Metered},
    quic::{
        Quic,
        unproven::{Careful, Handshake, Unproven},
    },
    websocket::{
        WebSocket,
        upgrade::{self, Rules},
    },
};
use crate::{clock, watch::Watch};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4_096;
/// Tasks that tell clients there is no place.
const REFUSALS: usize = 64;
/// How long one of them takes.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// What a client without a place is told to wait, in seconds.
const RETRY_AFTER_S: u32 = 5;
/// Pause after the system refused a socket: mostly the limit of open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// First byte of a TLS handshake; no HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error(
        "port {} of {} is in use by another process ({transport}): stop it, or choose another with {setting}",
        address.port(),
        address.ip()
    )]
    InUse {
        /// Which address.
        address: SocketAddr,
        /// TCP or UDP.
        transport: &'static str,
        /// The setting that names it.
        setting: &'static str,
    },
    /// The system says no.
    #[error("cannot listen on {address} ({transport}): {error}; see the setting {setting}")]
    Io {
        /// Which address.
        address: SocketAddr,
        /// TCP or UDP.
        transport: &'static str,
        /// The setting that names it.
        setting: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// Bound sockets of one address.
pub struct Bound {
    /// Where, with the port that was found if 0 was asked for.
    pub address: SocketAddr,
    tcp: Vec<StdTcpListener>,
    udp: Option<UdpSocket>,
}

/// Binds an address for WebSocket and, with buffers of so many bytes, for QUIC: one TCP
/// socket for each acceptor.
///
/// # Errors
/// [`BindError`].
pub fn bind(
    address: SocketAddr,
    acceptors: usize,
    udp_buffer_bytes: Option<usize>,
) -> Result<Bound, BindError> {
    const SETTING: &str = "listen";
    let failed = |transport, error: io::Error| bind_error(address, transport, SETTING, error);
    // Sockets that share a port would share it with another chatd, too: the first
    // one does not share, and shows whether the port is free.
    let probe = tcp_socket(address, false).map_err(|error| failed("TCP", error))?;
    let at = probe.local_addr().map_err(|error| failed("TCP", error))?;
    drop(probe);
    let tcp = (0..acceptors.max(1))
        .map(|_| tcp_socket(at, true))
        .collect::<Result<_, _>>()
        .map_err(|error| failed("TCP", error))?;
    let udp = udp_buffer_bytes
        .map(|bytes| udp_socket(at, bytes))
        .transpose()
        .map_err(|error| failed("UDP", error))?;
    Ok(Bound {
        address: at,
        tcp,
        udp,
    })
}

/// Tells a port that is taken from everything else.
#[must_use]
pub fn bind_error(
    address: SocketAddr,
    transport: &'static str,
    setting: &'static str,
    error: io::Error,
) -> BindError {
    if error.kind() == io::ErrorKind::AddrInUse {
        BindError::InUse {
            address,
            transport,
            setting,
        }
    } else {
        BindError::Io {
            address,
            transport,
            setting,
            error,
        }
    }
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<StdTcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for connections of the process before.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One socket takes the packets of all connections: with the kernel's default a burst
/// finds it full.
fn udp_socket(address: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let udp = UdpSocket::bind(address)?;
    let socket = SockRef::from(&udp);
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    // Linux says twice what it was asked for.
    let receive = socket.recv_buffer_size()? / 2;
    let send = socket.send_buffer_size()? / 2;
    if receive.min(send) < buffer_bytes {
        tracing::warn!(
            buffer_bytes,
            receive,
            send,
            "the kernel caps the buffers of the UDP socket, so bursts of QUIC packets are \
             dropped: set net.core.rmem_max and net.core.wmem_max to edge.udp_buffer_bytes"
        );
    }
    Ok(udp)
}

/// What the doors of the edge share.
pub struct Edge {
    /// For the connections.
    pub shared: Arc<Shared>,
    /// Who is told when the accepting of connections panics.
    pub watch: Arc<Watch>,
    /// Who may come in.
    pub admission: Arc<Admission>,
    /// TLS for WebSockets, if there is a certificate.
    pub tls: Option<TlsAcceptor>,
    /// Whether WebSockets without TLS may come.
    pub plain: bool,
    /// What requests may come through.
    pub rules: Rules,
    /// How long everything up to HELLO may take.
    pub handshake_timeout_ms: u64,
}

/// The tasks that accept.
pub struct Listeners {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    endpoints: Vec<quinn::Endpoint>,
}

impl Edge {
    /// Begins to accept on what was bound.
    ///
    /// # Errors
    /// If the runtime cannot take a socket.
    pub fn listen(
        self: &Arc<Self>,
        bound: Bound,
        quic: Option<&(quinn::EndpointConfig, quinn::ServerConfig)>,
    ) -> io::Result<Listeners> {
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let mut tasks = Vec::new();
        for listener in bound.tcp {
            let listener = TcpListener::from_std(listener)?;
            let accept = accept_tcp(Arc::clone(self), listener, Arc::clone(&refusals));
            tasks.push(tokio::spawn(self.watch.task("TCP port", accept)));
        }
        let mut endpoints = Vec::new();
        if let (Some((endpoint, server)), Some(socket)) = (quic, bound.udp) {
            let runtime = Arc::new(quinn::TokioRuntime);
            let unproven = Arc::new(Unproven::default());
            let socket = Careful::new(runtime.wrap_udp_socket(socket)?, Arc::clone(&unproven));
            let endpoint = quinn::Endpoint::new_with_abstract_socket(
                endpoint.clone(),
                Some(server.clone()),
                Arc::new(socket),
                runtime,
            )?;
            let accept = accept_quic(Arc::clone(self), endpoint.clone(), unproven);
            tasks.push(tokio::spawn(self.watch.task("QUIC port", accept)));
            endpoints.push(endpoint);
        }
        Ok(Listeners { tasks, endpoints })
    }
}

impl Listeners {
    /// Accepts nobody any more; connections that are open stay.
    pub fn stop_accepting(&self) {
        for task in &self.tasks {
            task.abort();
        }
        for endpoint in &self.endpoints {
            endpoint.set_server_config(None);
        }
    }

    /// Lets the last packets of QUIC connections leave.
    pub async fn wait_idle(&self, at_most: Duration) {
        let idle = async {
            for endpoint in &self.endpoints {
                endpoint.wait_idle().await;
            }
        };
        if tokio::time::timeout(at_most, idle).await.is_err() {
            tracing::debug!("QUIC connections were still closing");
        }
    }
}

async fn accept_tcp(edge: Arc<Edge>, listener: TcpListener, refusals: Arc<Semaphore>) {
    loop {
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let now_ms = clock::mono_ms();
        match edge.admission.admit(Source::Proven(source.ip()), now_ms) {
            Ok(place) => {
                let edge = Arc::clone(&edge);
                // Its own task, which ends with the handshake: the connection's task
                // is then no larger than the connection.
                tokio::spawn(Box::pin(async move {
                    let ousted = place.watch();
                    edge.in_time(ousted, edge.open_tcp(stream, place, now_ms))
                        .await;
                }));
            }
            Err(no_place) => {
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tokio::spawn(async move {
                        drop(tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream, no_place)).await);
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Tells a client without TLS why it is not let in. One with TLS would cost a
/// handshake and is just closed.
async fn refuse(mut stream: TcpStream, no_place: NoPlace) -> io::Result<()> {
    if no_place == NoPlace::Address || is_tls(&stream).await? {
        return Ok(());
    }
    // The request is read first: what is unread makes a reset.
    let mut head = [0; 1024];
    let _ = stream.read(&mut head).await?;
    stream
        .write_all(upgrade::no_place(RETRY_AFTER_S).as_bytes())
        .await?;
    stream.shutdown().await?;
    while stream.read(&mut head).await? > 0 {}
    Ok(())
}

async fn is_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE)
}

impl Edge {
    /// Carries a handshake out, unless its time is over or somebody else gets its place.
    async fn in_time<T>(&self, ousted: PlaceWatch, handshake: impl Future<Output = T>) {
        let timeout = Duration::from_millis(self.handshake_timeout_ms);
        tokio::select! {
            biased;
            result = tokio::time::timeout(timeout, handshake) => drop(result),
            () = ousted.ousted() => {}
        }
    }

    async fn open_tcp(&self, stream: TcpStream, place: Place, began_ms: u64) -> io::Result<()> {
        // Answers go out when they are written, whether or not more comes.
        stream.set_nodelay(true)?;
        if is_tls(&stream).await? {
            let Some(tls) = &self.tls else { return Ok(()) };
            let stream = Metered::new(stream, HELLO_BYTES as usize);
            // Boxed: the stream would stand in the task several times over.
            let stream = Box::new(tls.accept(stream).await?);
            return self
                .open_websocket(stream, "websocket_tls", place, began_ms)
                .await;
        }
        if !self.plain {
            let mut stream = stream;
            let only_tls = upgrade::Refused {
                status: 400,
                message: "this port speaks TLS only: use wss:// or https://",
            };
            return answer(&mut stream, &only_tls.response()).await;
        }
        let stream = Metered::new(stream, HELLO_BYTES as usize);
        self.open_websocket(stream, "websocket", place, began_ms)
            .await
    }

    async fn open_websocket<S>(
        &self,
        mut stream: S,
        name: &'static str,
        place: Place,
        began_ms: u64,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Meter + Unpin + Send + 'static,
    {
        let mut head = Vec::with_capacity(1024);
        let upgrade = loop {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
            match upgrade::parse(&head, self.rules) {
                Ok(None) => {}
                Ok(Some(upgrade)) => break upgrade,
                Err(refused) => return answer(&mut stream, &refused.response()).await,
            }
        };
        stream.write_all(upgrade.response().as_bytes()).await?;
        stream.flush().await?;
        let settings = &self.shared.websocket;
        let frame_bytes = settings.limits.frame_bytes;
        let early = head.split_off(upgrade.head_bytes);
        let transport = WebSocket::new(stream, name, upgrade.encoding, frame_bytes, early);
        tokio::spawn(Connection::new(
            &self.shared,
            settings,
            transport,
            upgrade.encoding,
            place,
            began_ms + self.handshake_timeout_ms,
        ));
        Ok(())
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    // See above: the rest of the request is thrown away, within the handshake's time.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn accept_quic(edge: Arc<Edge>, endpoint: quinn::Endpoint, unproven: Arc<Unproven>) {
    while let Some(incoming) = endpoint.accept().await {
        let now_ms = clock::mono_ms();
        let ip = incoming.remote_address().ip();
        let proven = incoming.remote_address_validated();
        // Packets may come from addresses that are not theirs.
        if !proven && incoming.may_retry() && edge.admission.must_prove(ip, now_ms) {
            drop(incoming.retry());
            continue;
        }
        let source = if proven {
            Source::Proven(ip)
        } else {
            Source::Claimed(ip)
        };
        let Ok(place) = edge.admission.admit(source, now_ms) else {
            incoming.refuse();
            continue;
        };
        let claim = if proven {
            None
        } else {
            let Some(claim) = unproven.begin(incoming.remote_address(), now_ms) else {
                drop(incoming.retry());
                continue;
            };
            Some(claim)
        };
        let edge = Arc::clone(&edge);
        tokio::spawn(Box::pin(async move {
            let ousted = place.watch();
            edge.in_time(ousted, edge.open_quic(incoming, place, claim, now_ms))
                .await;
        }));
    }
    // When the node stops this task is aborted and does not come here.
    panic!("the QUIC endpoint has ended by itself");
}

impl Edge {
    async fn open_quic(
        &self,
        incoming: quinn::Incoming,
        mut place: Place,
        claim: Option<Handshake>,
        began_ms: u64,
    ) -> Result<(), quinn::ConnectionError> {
        let connection = incoming.accept()?.await?;
        if let Some(claim) = claim {
            claim.proven();
        }
        if place.prove(clock::mono_ms()).is_err() {
            let code = VarInt::from(Code::TooManyConnections.number());
            connection.close(
                code,
                b"too many connections from this address: try again later",
            );
            return Ok(());
        }
        // Dropped at the deadline: a client without a stream said no HELLO.
        let late = Late(Some(connection.clone()));
        let (send, receive) = connection.accept_bi().await?;
        late.came();
        let settings = &self.shared.quic;
        let frame_bytes = settings.limits.frame_bytes as usize;
        let transport = Quic::new(connection, send, receive, frame_bytes);
        tokio::spawn(Connection::new(
            &self.shared,
            settings,
            transport,
            chat_wire::codec::Encoding::Proto,
            place,
            began_ms + self.handshake_timeout_ms,
        ));
        Ok(())
    }
}

/// Closes a connection whose session stream did not come in time.
struct Late(Option<quinn::Connection>);

impl Late {
    fn came(mut self) {
        self.0 = None;
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            let code = VarInt::from(Code::HelloTimeout.number());
            connection.close(code, b"open a stream and send HELLO first");
        }
    }
}
