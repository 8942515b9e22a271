//! QUIC: an independent client over quinn.

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
};

use bytes::Bytes;
use chat_wire::{
    codec::{self, Encoding},
    frame::{self, Body, Frame},
};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};

use crate::{
    client::{hello, is_sent, text, texts, tls_config, tls_roots},
    newcomers::from,
    node::{Node, PATIENCE},
};

struct Client {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    _endpoint: Endpoint,
}

async fn connect(node: &Node, alpn: &[u8]) -> Result<(Endpoint, Connection), ConnectionError> {
    let tls = tls_config(&node.data(), &[alpn]);
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let connecting = endpoint.connect(node.clients, "localhost").unwrap();
    let connection = tokio::time::timeout(PATIENCE, connecting).await.unwrap()?;
    Ok((endpoint, connection))
}

fn framed(frame: &Frame) -> Vec<u8> {
    let bytes = codec::encode(Encoding::Proto, frame);
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[..], &bytes[..]].concat()
}

async fn read(stream: &mut RecvStream) -> Frame {
    let read = async {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await.unwrap();
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut bytes).await.unwrap();
        codec::decode(Encoding::Proto, &Bytes::from(bytes), usize::MAX).unwrap()
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap()
}

impl Client {
    async fn hello(node: &Node, name: &str) -> Self {
        let (endpoint, connection) = connect(node, b"chat/1").await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&framed(&hello(&format!("dev:{name}"))))
            .await
            .unwrap();
        assert!(matches!(
            read(&mut receive).await.body,
            Some(Body::Welcome(_))
        ));
        Self {
            connection,
            send,
            receive,
            _endpoint: endpoint,
        }
    }

    async fn send(&mut self, frame: &Frame) {
        self.send.write_all(&framed(frame)).await.unwrap();
    }

    async fn until<T>(&mut self, wanted: impl Fn(Body) -> Option<T>) -> T {
        loop {
            let body = read(&mut self.receive).await.body.unwrap();
            if let Some(found) = wanted(body) {
                return found;
            }
        }
    }

    async fn closed(&self) -> ConnectionError {
        tokio::time::timeout(PATIENCE, self.connection.closed())
            .await
            .unwrap()
    }
}

fn code(error: &ConnectionError) -> u64 {
    match error {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("closed by {other}"),
    }
}

// The metrics are asked for on this thread while the client goes on.
#[tokio::test(flavor = "multi_thread")]
async fn two_clients_chat_and_a_page_comes_on_a_stream_of_its_own() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    let mut bob = Client::hello(&node, "bob").await;
    alice.send(&text(2, "bob", "over QUIC")).await;
    let sent = alice.until(is_sent).await;
    assert_eq!(bob.until(texts).await, ["over QUIC"]);

    let history = frame::HistoryGet {
        conversation: sent.conversation,
        from: Some(frame::history_get::From::Before(0)),
        limit: 10,
    };
    // The sender's own copy comes through the outbox: asked until it is there.
    let page = loop {
        alice.send(&Frame::new(3, Body::History(history))).await;
        let mut stream = tokio::time::timeout(PATIENCE, alice.connection.accept_uni())
            .await
            .unwrap()
            .unwrap();
        let frame = read(&mut stream).await;
        assert_eq!(frame.req, 3);
        assert_eq!(
            stream.read(&mut [0; 1]).await.unwrap(),
            None,
            "one frame, then the end"
        );
        let Some(Body::HistoryPage(page)) = frame.body else {
            panic!("no page")
        };
        alice
            .send(&Frame::new(
                0,
                Body::Credit(frame::Credit { lane: 1, n: 1 }),
            ))
            .await;
        if !page.events.is_empty() {
            break page;
        }
    };
    assert_eq!(page.events[0].msg_id, sent.msg_id);
    assert_eq!(node.metric("chatd_connections{transport=\"quic\"}"), 2.0);
    alice.connection.close(0u32.into(), b"bye");
    node.until(|| node.metric("chatd_connections{transport=\"quic\"}") < 2.0);
    let closed = "chatd_connections_closed_total{transport=\"quic\",reason=\"client\"}";
    assert_eq!(node.metric(closed), 1.0);
}

#[tokio::test]
async fn another_protocol_is_refused_in_the_handshake() {
    let node = Node::dev(&[]);
    let refused = connect(&node, b"h3").await.err().unwrap();
    assert!(
        matches!(refused, ConnectionError::ConnectionClosed(_)),
        "{refused}"
    );
}

#[tokio::test]
async fn without_a_stream_in_time_the_connection_closes_with_hello_timeout() {
    let node = Node::dev(&["edge.handshake_timeout_ms=300"]);
    let (_endpoint, connection) = connect(&node, b"chat/1").await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, connection.closed())
        .await
        .unwrap();
    assert_eq!(code(&closed), 104);
}

#[tokio::test]
async fn a_frame_beyond_the_limit_is_told_and_closes_with_101() {
    let node = Node::dev(&[]);
    let mut client = Client::hello(&node, "alice").await;
    client
        .send
        .write_all(&300_000u32.to_be_bytes())
        .await
        .unwrap();
    let told = client
        .until(|body| match body {
            Body::Error(error) => Some(error.code),
            _ => None,
        })
        .await;
    assert_eq!((told, code(&client.closed().await)), (101, 101));
}

#[tokio::test]
async fn a_client_can_open_one_stream_and_no_more() {
    let node = Node::dev(&[]);
    let client = Client::hello(&node, "alice").await;
    for opened in [
        tokio::time::timeout(std::time::Duration::from_millis(200), async {
            client.connection.open_bi().await.map(drop)
        })
        .await,
        tokio::time::timeout(std::time::Duration::from_millis(200), async {
            client.connection.open_uni().await.map(drop)
        })
        .await,
    ] {
        assert!(opened.is_err(), "it waits for a credit that never comes");
    }
}

#[tokio::test]
async fn a_connection_keeps_its_session_when_its_address_changes() {
    let node = Node::dev(&[]);
    let mut client = Client::hello(&node, "alice").await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client._endpoint.rebind(socket).unwrap();
    client.send(&text(2, "alice", "from elsewhere")).await;
    client.until(is_sent).await;
}

#[tokio::test]
async fn a_client_that_had_finished_its_stream_was_not_answered() {
    let node = Node::dev(&[]);
    let mut client = Client::hello(&node, "alice").await;
    client.send(&text(2, "alice", "the last word")).await;
    client.send.finish().unwrap();
    client.until(is_sent).await;
    assert_eq!(client.until(texts).await, ["the last word"]);
    // What others say goes on to come, until it closes.
    let mut bob = Client::hello(&node, "bob").await;
    bob.send(&text(2, "alice", "still there?")).await;
    assert_eq!(client.until(texts).await, ["still there?"]);
    client.connection.close(0u32.into(), b"done");
    let closed = "chatd_connections_closed_total{transport=\"quic\",reason=\"client\"}";
    tokio::task::spawn_blocking(move || node.until(|| node.metric(closed) == 1.0))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stream_that_ends_within_a_frame_is_told_and_closes_with_100() {
    let node = Node::dev(&[]);
    let mut client = Client::hello(&node, "alice").await;
    let frame = framed(&text(2, "alice", "half of it"));
    client
        .send
        .write_all(&frame[..frame.len() / 2])
        .await
        .unwrap();
    client.send.finish().unwrap();
    let told = client
        .until(|body| match body {
            Body::Error(error) => Some(error.code),
            _ => None,
        })
        .await;
    assert_eq!((told, code(&client.closed().await)), (100, 100));
}

/// A stream that is reset is over, and so is its session: who wants another one needs
/// another connection, and that has its price.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_stream_resets_costs_nothing_that_stays() {
    const RESETS: u32 = 200;
    let node = Node::dev(&[]);
    let mut bob = Client::hello(&node, "bob").await;
    let before = node.memory();
    for _ in 0..RESETS {
        let (_endpoint, connection) = connect(&node, b"chat/1").await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        // More of a frame than may come before WELCOME is never kept.
        let part = [&20_000u32.to_be_bytes()[..], &[0; 8_000]].concat();
        send.write_all(&part).await.unwrap();
        send.reset(7u32.into()).unwrap();
        drop(receive.stop(7u32.into()));
        let closed = tokio::time::timeout(PATIENCE, connection.closed());
        closed.await.unwrap();
    }
    let sessions = "chatd_connections{transport=\"quic\"}";
    node.until(|| node.metric(sessions) == 1.0 && node.metric("chatd_newcomers") == 0.0);
    let grown = node.memory().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes after {RESETS} resets");
    bob.send(&text(2, "bob", "served")).await;
    bob.until(is_sent).await;
}

/// A client that offers keys of few bytes, so that its first flight is one datagram, from
/// an address of loopback.
fn endpoint_of(node: &Node, address: [u8; 4]) -> Endpoint {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tls_roots(&node.data()))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"chat/1".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = Endpoint::client((address, 0).into()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    endpoint
}

/// First datagrams of clients, caught on their way to a server that is none.
fn initials(node: &Node, count: usize) -> Vec<Vec<u8>> {
    let trap = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    trap.set_read_timeout(Some(PATIENCE)).unwrap();
    let endpoint = endpoint_of(node, [127, 0, 0, 1]);
    let mut datagram = [0; 2048];
    // Kept until all are there: one that is given up says so.
    let mut connecting = Vec::new();
    let mut caught: Vec<Vec<u8>> = Vec::new();
    while caught.len() < count {
        let to = trap.local_addr().unwrap();
        connecting.push(endpoint.connect(to, "localhost").unwrap());
        loop {
            let length = trap.recv(&mut datagram).unwrap();
            // A repetition of one before has its connection id.
            let id = &datagram[6..14];
            if !caught.iter().any(|other| &other[6..14] == id) {
                caught.push(datagram[..length].to_vec());
                break;
            }
        }
    }
    caught
}

fn is_retry(datagram: &[u8]) -> bool {
    datagram.len() > 5 && datagram[0] & 0xf0 == 0xf0 && datagram[1..5] == [0, 0, 0, 1]
}

#[tokio::test(flavor = "multi_thread")]
async fn ninety_six_forged_initials_a_second_locked_their_address_out() {
    const VICTIM: [u8; 4] = [127, 0, 0, 9];
    let node = Node::dev(&[
        "edge.trusted_proxies=",
        "edge.connects_per_second=1",
        "edge.connects_burst=40",
        "edge.handshake_timeout_ms=20000",
    ]);
    let forged = initials(&node, 96);
    let socket = std::net::UdpSocket::bind((std::net::IpAddr::from(VICTIM), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for initial in &forged {
        socket.send_to(initial, node.clients).unwrap();
    }
    // A few are taken at their word; all others are asked to prove it.
    let mut datagram = [0; 2048];
    let mut retries = 0;
    while retries < 80 {
        let length = socket.recv(&mut datagram).unwrap();
        retries += usize::from(is_retry(&datagram[..length]));
    }
    // Over TCP, and over QUIC, the real owner of the address comes in.
    for _ in 0..20 {
        let mut tcp = from(VICTIM, node.clients);
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        tcp.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
    }
    let endpoint = endpoint_of(&node, VICTIM);
    let connecting = endpoint.connect(node.clients, "localhost").unwrap();
    let connection = tokio::time::timeout(PATIENCE, connecting).await.unwrap();
    assert!(connection.is_ok(), "{connection:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_initial_was_answered_with_more_than_three_times_its_bytes() {
    const FORGED: usize = 12;
    let node = Node::dev(&["edge.trusted_proxies=", "edge.handshake_timeout_ms=8000"]);
    let victims: Vec<_> = initials(&node, FORGED)
        .into_iter()
        .enumerate()
        .map(|(at, initial)| {
            let address = [127, 0, 1, u8::try_from(at + 1).unwrap()];
            let socket = std::net::UdpSocket::bind((std::net::IpAddr::from(address), 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(&initial, node.clients).unwrap();
            (socket, initial.len())
        })
        .collect();
    node.until(|| node.metric("chatd_newcomers") == FORGED as f64);
    // All repetitions, and the close at the end.
    node.until(|| node.metric("chatd_newcomers") == 0.0);
    // What was on its way then has gone when somebody else has been served.
    let mut client = Client::hello(&node, "alice").await;
    client.send(&text(2, "alice", "served")).await;
    client.until(is_sent).await;
    for (socket, sent) in victims {
        socket.set_nonblocking(true).unwrap();
        let mut datagram = [0; 2048];
        let mut datagrams = Vec::new();
        while let Ok(length) = socket.recv(&mut datagram) {
            datagrams.push(length);
        }
        let received: usize = datagrams.iter().sum();
        assert!(received > 0, "the handshake was answered");
        assert!(
            received <= 3 * sent,
            "{received} bytes for {sent}: {datagrams:?}"
        );
    }
}

#[test]
fn a_kernel_that_caps_the_buffers_of_udp_is_warned_of() {
    let node = Node::dev(&["edge.udp_buffer_bytes=1073741824"]);
    let said = node.log();
    assert!(said.contains("net.core.rmem_max"), "{said}");
}

/// Initials from addresses that never answer, more than handshakes are allowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_initials_is_answered_by_retry_and_real_clients_come_through() {
    const INITIALS: usize = 300;
    let node = Node::dev(&[
        "edge.handshakes_at_once=64",
        "edge.handshake_timeout_ms=20000",
    ]);
    // Real Initials, caught on their way to a server that is none.
    let trap = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    trap.set_read_timeout(Some(PATIENCE)).unwrap();
    let tls = tls_config(&node.data(), &[b"chat/1"]);
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let flood = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    flood.set_read_timeout(Some(PATIENCE)).unwrap();
    let answers = flood.try_clone().unwrap();
    let retried = tokio::task::spawn_blocking(move || {
        let mut datagram = [0; 2048];
        loop {
            // A long header of version 1 and of the type Retry.
            let length = answers.recv(&mut datagram).unwrap();
            if length > 5 && datagram[0] & 0xf0 == 0xf0 {
                return;
            }
        }
    });
    let mut datagram = [0; 2048];
    // Kept: one that is given up says so.
    let mut connecting = Vec::new();
    for _ in 0..INITIALS {
        connecting.push(
            endpoint
                .connect(trap.local_addr().unwrap(), "localhost")
                .unwrap(),
        );
        let length = trap.recv(&mut datagram).unwrap();
        flood.send_to(&datagram[..length], node.clients).unwrap();
    }
    retried.await.unwrap();
    let mut client = Client::hello(&node, "alice").await;
    client.send(&text(2, "alice", "through the flood")).await;
    client.until(is_sent).await;
}

#[tokio::test]
async fn early_data_is_not_accepted() {
    let node = Node::dev(&[]);
    let mut tls = tls_config(&node.data(), &[b"chat/1"]);
    tls.enable_early_data = true;
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let first = endpoint
        .connect(node.clients, "localhost")
        .unwrap()
        .await
        .unwrap();
    let (mut send, mut receive) = first.open_bi().await.unwrap();
    send.write_all(&framed(&hello("dev:alice"))).await.unwrap();
    // By now the ticket of the session has come, too.
    assert!(matches!(
        read(&mut receive).await.body,
        Some(Body::Welcome(_))
    ));
    let again = endpoint.connect(node.clients, "localhost").unwrap();
    assert!(
        again.into_0rtt().is_err(),
        "the server's tickets allow no early data"
    );
}
