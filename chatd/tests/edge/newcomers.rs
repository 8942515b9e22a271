//! Before a token is valid: what connections may hold that have not shown one, and that
//! they keep nobody out who has one.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
};

use chat_wire::{
    codec::Encoding,
    frame::{self, Body},
    limits::HELLO_BYTES,
};
use futures_util::SinkExt as _;
use socket2::{Domain, Socket, Type};
use tokio_websockets::Message;

use crate::{
    client::{Client, hello, is_sent, text},
    node::{Node, PATIENCE},
};

const UPGRADE: &str = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A WebSocket without a HELLO, on a bare socket.
struct Tokenless(TcpStream);

impl Tokenless {
    fn connect(node: &Node) -> Self {
        let mut stream = TcpStream::connect(node.clients).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        Self(stream)
    }

    /// The first part of a message, then a ping. True when the pong says that the server
    /// holds the part, false if it closed instead.
    fn holds_a_part(&mut self, bytes: usize) -> bool {
        let length = u64::try_from(bytes).unwrap().to_be_bytes();
        let mut frames = [&[0x02, 0xff][..], &length, &[0; 4]].concat();
        frames.resize(frames.len() + bytes, b'x');
        frames.extend_from_slice(&[0x89, 0x80, 0, 0, 0, 0]);
        // The server may close while this is written.
        let _closed = self.0.write_all(&frames).is_err();
        let mut opcode = [0];
        self.0.read_exact(&mut opcode).is_ok() && opcode[0] == 0x8a
    }
}

#[test]
fn tokenless_connections_with_partial_frames_held_a_quarter_of_a_mebibyte_each() {
    const EACH: usize = 150;
    let node = Node::dev(&["edge.handshake_timeout_ms=60000"]);
    let before = node.memory();
    let mut all = Vec::new();
    for _ in 0..EACH {
        // 65,536 bytes and more have this form of a length.
        let mut part = Tokenless::connect(&node);
        part.holds_a_part(200_000);
        all.push(part);
    }
    let grown = node.memory().saturating_sub(before);
    // 2 x 16 KiB each, and what the process needs anyway.
    let ceiling = EACH as u64 * 32 * 1024 + (8 << 20);
    assert!(
        grown < ceiling,
        "{grown} bytes for {EACH} connections without a token"
    );
}

#[test]
fn half_open_connections_cost_a_few_kibibytes_each() {
    const EACH: usize = 300;
    let node = Node::dev(&["edge.handshake_timeout_ms=60000"]);
    let before = node.memory();
    let open: Vec<_> = (0..3 * EACH)
        .map(|at| {
            let mut stream = TcpStream::connect(node.clients).unwrap();
            // Silence; a TLS handshake that promises 16 KiB and never ends; a long head.
            let tls = [&b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"[..], &[0; 7_000]].concat();
            let head = [&b"GET /v1/ws HTTP/1.1\r\nCookie: "[..], &[b'x'; 7_000]].concat();
            let drip = [&b""[..], &tls, &head][at % 3];
            stream.write_all(drip).unwrap();
            stream
        })
        .collect();
    let newcomers = |node: &Node| node.metric("chatd_newcomers");
    node.until(|| newcomers(&node) >= (3 * EACH) as f64);
    let grown = node.memory().saturating_sub(before);
    let ceiling = 3 * EACH as u64 * 32 * 1024 + (8 << 20);
    assert!(
        grown < ceiling,
        "{grown} bytes for {} half-open ones",
        open.len()
    );
}

#[tokio::test]
async fn before_welcome_a_client_may_send_16_kib_and_is_told_so() {
    let node = Node::dev(&[]);
    for tls in [false, true] {
        // One message, promised or sent, and many small ones.
        let mut long = Client::connect(&node, Encoding::Proto, tls).await;
        let bytes = HELLO_BYTES as usize + 1;
        long.socket
            .send(Message::binary(vec![0; bytes]))
            .await
            .unwrap();
        assert_eq!(long.error().await, 101);
        assert_eq!(long.closed().await.code, 4101);
        let mut pings = Client::connect(&node, Encoding::Proto, tls).await;
        for _ in 0..200 {
            let ping = Message::ping(vec![7; 125]);
            if pings.socket.send(ping).await.is_err() {
                break;
            }
        }
        assert_eq!(pings.error().await, 101);
        assert_eq!(pings.closed().await.code, 4101);
        // After WELCOME the limit is that of frames.
        let mut alice = Client::connect(&node, Encoding::Proto, tls).await;
        alice.send(&hello("dev:alice")).await;
        alice.welcome().await;
        alice.send(&text(2, "alice", &"x".repeat(60_000))).await;
        alice.until(is_sent).await;
    }
}

#[tokio::test]
async fn the_longest_hello_fits_into_what_may_be_sent_before_welcome() {
    let node = Node::dev(&[]);
    for encoding in [Encoding::Proto, Encoding::Json] {
        let mut client = Client::connect(&node, encoding, true).await;
        let mut greeting = hello(&"x".repeat(chat_wire::limits::TOKEN_BYTES));
        if let Some(Body::Hello(hello)) = &mut greeting.body {
            hello.resume = Some(frame::Resume::default());
        }
        client.send(&greeting).await;
        // Its token is read, and none.
        assert_eq!(client.error().await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_kept_valid_tokens_out() {
    let node = Node::dev(&[
        "edge.max_connections=8",
        "edge.reserved=2",
        "edge.handshake_timeout_ms=60000",
    ]);
    let mut silent: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(node.clients).unwrap())
        .collect();
    node.until(|| node.metric("chatd_newcomers") == 6.0);
    // Eight valid tokens come in one after another, as soon as a moment has passed in
    // which nobody gives way.
    let mut known = Vec::new();
    for at in 0..8 {
        let come_in = async {
            loop {
                if let Ok(client) = Client::try_connect(&node, Encoding::Proto, false).await {
                    break client;
                }
            }
        };
        let mut client = tokio::time::timeout(PATIENCE, come_in).await.unwrap();
        client.send(&hello(&format!("dev:user{at}"))).await;
        client.welcome().await;
        known.push(client);
    }
    node.until(|| node.metric("chatd_connections{transport=\"websocket\"}") == 8.0);
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "it gave way");
    }
    for client in &mut known {
        client.send(&text(2, "user0", "served")).await;
        client.until(is_sent).await;
    }
}

#[test]
fn one_address_took_all_places_without_a_token() {
    let node = Node::dev(&[
        "edge.trusted_proxies=",
        "edge.handshakes_per_address=4",
        "edge.handshake_timeout_ms=60000",
    ]);
    let _silent: Vec<_> = (0..4).map(|_| from([127, 0, 0, 2], node.clients)).collect();
    node.until(|| node.metric("chatd_newcomers") == 4.0);
    let mut fifth = from([127, 0, 0, 2], node.clients);
    assert_eq!(fifth.read(&mut [0]).unwrap_or(0), 0, "it is closed");
    let refused = "chatd_connections_refused_total{reason=\"address\"}";
    assert_eq!(node.metric(refused), 1.0);
    // Others do not notice.
    let mut other = from([127, 0, 0, 3], node.clients);
    other.write_all(UPGRADE.as_bytes()).unwrap();
    let mut answer = [0; 12];
    other.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
}

/// A connection from one of the many addresses of loopback.
pub(crate) fn from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((IpAddr::from(address), 0)).into())
        .unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
