//! What clients can do to a node: no more than the bounds say, and others are served.

use std::{io::Write as _, net::TcpStream};

use chat_wire::codec::Encoding;

use crate::{
    client::{Client, hello, is_sent, text, texts},
    node::{Node, get},
};

#[tokio::test]
async fn over_the_cap_a_websocket_is_told_when_to_come_back_and_then_let_in() {
    let node = Node::dev(&["edge.max_connections=2"]);
    let alice = Client::hello(&node, "alice").await;
    let _bob = Client::hello(&node, "bob").await;
    let (status, text) = get(node.clients, "/v1/ws", "");
    assert_eq!(status, 503, "{text}");
    assert!(
        text.contains("Retry-After: 5") && text.contains("\"code\":607"),
        "{text}"
    );
    assert!(node.metric("chatd_connections_refused_total{reason=\"connections\"}") >= 1.0);
    alice.close().await;
    node.until(|| get(node.clients, "/v1/ws", "").0 == 426);
}

#[test]
fn half_open_handshakes_end_at_their_deadline_and_leave_room() {
    let node = Node::dev(&["edge.handshake_timeout_ms=300", "edge.handshakes_at_once=8"]);
    let open: Vec<_> = (0..8u8)
        .map(|at| {
            let mut stream = TcpStream::connect(node.clients).unwrap();
            // Silence, a drip of TLS, a drip of HTTP.
            let drip: &[u8] =
                [&b""[..], b"\x16\x03\x01", b"GET /v1/ws HTTP/1.1\r\n"][usize::from(at % 3)];
            stream.write_all(drip).unwrap();
            stream
        })
        .collect();
    // While they are open, nobody else is let in; then they are gone by themselves.
    node.until(|| get(node.clients, "/v1/ws", "").0 == 426);
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_never_reads_costs_bounded_memory_and_nobody_else() {
    // More than the sockets between them hold.
    const MESSAGES: u32 = 400;
    let node = Node::dev(&[
        "limits.sends_per_second=100000",
        "limits.sends_burst=100000",
        "edge.outbound_session_bytes=1048576",
        "shards.slow_consumer_ms=2000",
        "log.budget_bytes=134217728",
    ]);
    let mut deaf = Client::connect(&node, Encoding::Proto, false).await;
    let mut greeting = hello("dev:deaf");
    if let Some(chat_wire::frame::Body::Hello(hello)) = &mut greeting.body {
        hello.event_credits = Some(1_000_000);
    }
    deaf.send(&greeting).await;
    deaf.welcome().await;
    // From here on it does not read.
    let mut alice = Client::hello(&node, "alice").await;
    let before = node.memory();
    let long = "x".repeat(60_000);
    for req in 0..MESSAGES {
        alice.send(&text(req + 10, "deaf", &long)).await;
        alice.until(is_sent).await;
    }
    let closed = "chatd_connections_closed_total{transport=\"websocket\",reason=\"SLOW_CONSUMER\"}";
    node.until(|| node.metric(closed) == 1.0);
    // The messages themselves, and the copies of their sender, are in memtables until
    // they are flushed.
    let grown = node.memory().saturating_sub(before);
    assert!(
        grown < 200 << 20,
        "{grown} bytes for one client that does not read"
    );
    assert!(node.metric("chatd_outbound_bytes") < 100_000.0);
    // The others go on, and what waited is in the inbox.
    let mut bob = Client::hello(&node, "bob").await;
    alice.send(&text(2, "bob", "still here")).await;
    assert_eq!(bob.until(texts).await, ["still here"]);
    let mut again = Client::connect(&node, Encoding::Proto, false).await;
    if let Some(chat_wire::frame::Body::Hello(hello)) = &mut greeting.body {
        hello.resume = Some(chat_wire::frame::Resume::default());
    }
    again.send(&greeting).await;
    let mut had = 0;
    while had < MESSAGES as usize {
        had += again.until(texts).await.len();
        // Nothing else is in the inbox: this many events are its first ones. A device
        // that takes long without a word would be a slow consumer again.
        let ack = chat_wire::frame::Ack {
            inbox_seq: had as u64,
        };
        again.send(&chat_wire::frame::Body::Ack(ack).into()).await;
    }
    assert_eq!(had, MESSAGES as usize);
}

#[tokio::test]
async fn a_flood_of_pings_is_answered_no_faster_than_it_is_read() {
    let node = Node::dev(&[]);
    let mut flood = Client::hello(&node, "flood").await;
    let before = node.memory();
    {
        use futures_util::SinkExt as _;
        for _ in 0..20_000 {
            // As much as fits: the server stops reading when its answers are not read.
            let ping = tokio_websockets::Message::ping(vec![7; 125]);
            if futures_util::future::poll_immediate(flood.socket.feed(ping))
                .await
                .is_none()
            {
                break;
            }
        }
    }
    let mut alice = Client::hello(&node, "alice").await;
    alice.send(&text(2, "alice", "served")).await;
    alice.until(is_sent).await;
    let grown = node.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
}
