//! WebSocket: an independent client in both encodings, with and without TLS, and the
//! rules of the RFC on a bare socket.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use chat_wire::{
    codec::Encoding,
    frame::{self, Body, Frame},
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_websockets::Message;

use crate::{
    client::{Client, Closed, hello, is_sent, text, texts},
    node::{Node, PATIENCE, get},
};

#[tokio::test]
async fn an_independent_client_chats_in_both_encodings_with_and_without_tls() {
    let node = Node::dev(&[]);
    let mut expected = Vec::new();
    let mut bob = Client::connect(&node, Encoding::Json, true).await;
    bob.send(&hello("dev:bob")).await;
    bob.welcome().await;
    for (at, (encoding, tls)) in [
        (Encoding::Proto, false),
        (Encoding::Proto, true),
        (Encoding::Json, false),
        (Encoding::Json, true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut alice = Client::connect(&node, encoding, tls).await;
        alice.send(&hello(&format!("dev:alice{at}"))).await;
        let welcome = alice.welcome().await;
        assert_eq!(
            (welcome.version, &*welcome.name),
            (1, &*format!("alice{at}"))
        );
        let says = format!("{at}: größe 😀");
        alice.send(&text(7, "bob", &says)).await;
        assert!(!alice.until(is_sent).await.duplicate);
        expected.push(says);
        assert_eq!(bob.until(texts).await, expected[at..]);
        assert_eq!(alice.close().await.code, 1000);
    }
    node.until(|| node.metric("chatd_delivery_seconds_count") >= 4.0);
    let opened = |transport| {
        node.metric(&format!(
            "chatd_connections_opened_total{{transport=\"{transport}\"}}"
        ))
    };
    assert_eq!((opened("websocket"), opened("websocket_tls")), (2.0, 3.0));
}

#[tokio::test]
async fn the_wrong_kind_of_message_closes_with_1003() {
    let node = Node::dev(&[]);
    let mut proto = Client::connect(&node, Encoding::Proto, false).await;
    proto.socket.send(Message::text("{}")).await.unwrap();
    assert_eq!(proto.closed().await.code, 1003);
    let mut json = Client::connect(&node, Encoding::Json, false).await;
    json.socket.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(json.closed().await.code, 1003);
}

#[tokio::test]
async fn a_frame_beyond_the_limit_is_told_and_closes_with_4101() {
    let node = Node::dev(&[]);
    let mut client = Client::hello(&node, "alice").await;
    client
        .socket
        .send(Message::binary(vec![0; 262_145]))
        .await
        .unwrap();
    assert_eq!(client.error().await, 101);
    assert_eq!(client.closed().await.code, 4101);
}

#[tokio::test]
async fn bytes_that_are_no_frame_close_with_4100() {
    let node = Node::dev(&[]);
    let mut client = Client::hello(&node, "alice").await;
    client
        .socket
        .send(Message::binary(vec![0xff; 10]))
        .await
        .unwrap();
    assert_eq!(client.error().await, 100);
    assert_eq!(client.closed().await.code, 4100);
}

#[tokio::test]
async fn hello_must_come_once_first_and_in_time() {
    let node = Node::dev(&[]);
    let mut silent = Client::connect(&node, Encoding::Proto, false).await;
    let mut other = Client::connect(&node, Encoding::Proto, false).await;
    other.send(&text(3, "bob", "too early")).await;
    assert_eq!(other.closed().await.code, 4103);
    let mut twice = Client::hello(&node, "alice").await;
    twice.send(&hello("dev:alice")).await;
    assert_eq!(twice.closed().await.code, 4103);
    assert_eq!(silent.error().await, 104);
    assert_eq!(silent.closed().await.code, 4104);
}

#[tokio::test]
async fn a_ping_of_either_kind_is_answered() {
    let node = Node::dev(&[]);
    let mut client = Client::hello(&node, "alice").await;
    client
        .send(&Frame::new(9, Body::Ping(frame::Ping {})))
        .await;
    assert!(matches!(client.body().await, Body::Pong(pong) if pong.server_time_ms > 0));
    client.socket.send(Message::ping("there?")).await.unwrap();
    let pong = client.socket.next().await.unwrap().unwrap();
    assert!(pong.is_pong());
    assert_eq!(&pong.as_payload()[..], b"there?");
}

#[tokio::test]
async fn a_second_session_of_a_device_replaces_the_first() {
    let node = Node::dev(&[]);
    let mut first = Client::hello(&node, "alice").await;
    let _second = Client::hello(&node, "alice").await;
    first
        .until(|body| matches!(body, Body::Replaced(_)).then_some(()))
        .await;
    assert_eq!(first.closed().await.code, 4502);
}

#[test]
fn other_paths_and_the_admin_api_are_not_on_the_clients_port() {
    let node = Node::dev(&[]);
    for path in [
        "/",
        "/metrics",
        "/v1/cluster",
        "/healthz",
        "/v1/ws/../cluster",
    ] {
        assert_eq!(get(node.clients, path, "").0, 404, "{path}");
    }
    assert_eq!(get(node.clients, "/v1/ws", "").0, 426);
}

/// A client that writes frames by hand.
struct Bare(TcpStream);

impl Bare {
    fn connect(node: &Node) -> Self {
        let mut stream = TcpStream::connect(node.clients).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(
                b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                  Sec-WebSocket-Protocol: chat.v1.json\r\n\r\n",
            )
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        Self(stream)
    }

    /// A masked frame (the mask is 0, which is allowed).
    fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut bytes = vec![
            first,
            0x80 | u8::try_from(payload.len()).unwrap(),
            0,
            0,
            0,
            0,
        ];
        bytes.extend_from_slice(payload);
        self.0.write_all(&bytes).unwrap();
    }

    /// Opcode and payload of the next frame.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                self.0.read_exact(&mut long).unwrap();
                u16::from_be_bytes(long).into()
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).unwrap();
        (head[0] & 0x0f, payload)
    }

    fn closed(&mut self) -> Closed {
        loop {
            let (opcode, payload) = self.next();
            if opcode == 8 {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                let reason = String::from_utf8_lossy(&payload[2..]).into_owned();
                // Then the stream ends, without a reset.
                let mut rest = Vec::new();
                self.0.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(self.0.read_to_end(&mut rest).unwrap(), 0);
                return Closed { code, reason };
            }
        }
    }
}

#[test]
fn a_fragmented_hello_with_a_ping_inside_is_one_hello() {
    let node = Node::dev(&[]);
    let mut bare = Bare::connect(&node);
    bare.frame(0x01, br#"{"req":1,"hello":{"minVersion":1,"maxVersion":1,"#);
    bare.frame(0x89, b"in between");
    bare.frame(0x00, br#""token":"dev:"#);
    bare.frame(0x80, r#"größe","device":"5"}}"#.as_bytes());
    assert_eq!(bare.next(), (10, b"in between".to_vec()));
    let (opcode, payload) = bare.next();
    let text = String::from_utf8(payload).unwrap();
    assert!(
        opcode == 1 && text.contains("welcome") && text.contains("größe"),
        "{text}"
    );
}

#[test]
fn what_breaks_the_rfc_closes_with_its_code_and_says_why() {
    let node = Node::dev(&[]);
    for (name, code, act) in [
        (
            "no mask",
            1002,
            (|bare: &mut Bare| bare.0.write_all(&[0x81, 1, b'x']).unwrap()) as fn(&mut Bare),
        ),
        ("reserved bit", 1002, |bare| bare.frame(0xc1, b"x")),
        ("reserved opcode", 1002, |bare| bare.frame(0x83, b"x")),
        ("continuation of nothing", 1002, |bare| {
            bare.frame(0x80, b"x")
        }),
        ("fragmented ping", 1002, |bare| bare.frame(0x09, b"x")),
        ("bad close code", 1002, |bare| {
            bare.frame(0x88, &1005u16.to_be_bytes())
        }),
        ("not UTF-8", 1007, |bare| bare.frame(0x81, b"\xff\xfe")),
    ] {
        let mut bare = Bare::connect(&node);
        act(&mut bare);
        let closed = bare.closed();
        assert_eq!(closed.code, code, "{name}");
        assert!(!closed.reason.is_empty() || code == 1005, "{name}");
    }
    let mut bare = Bare::connect(&node);
    bare.frame(0x88, &[&1001u16.to_be_bytes()[..], b"leaving"].concat());
    assert_eq!(
        bare.closed().code,
        1001,
        "a close is answered with its own code"
    );
}

#[test]
fn a_frame_that_drips_in_does_not_stretch_the_time_for_hello() {
    let node = Node::dev(&[]);
    let mut bare = Bare::connect(&node);
    let began = std::time::Instant::now();
    let mut drip = bare.0.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let frame = [&[0x81, 0xfe, 1, 0, 0, 0, 0, 0][..], &[b' '; 256]].concat();
        for byte in frame {
            if drip.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
    });
    loop {
        let (opcode, payload) = bare.next();
        if opcode == 8 {
            assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), 4104);
            break;
        }
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(8));
    bare.0.shutdown(std::net::Shutdown::Both).unwrap();
    writer.join().unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_silent_and_one_that_does_stays() {
    let node = Node::dev(&["edge.websocket_heartbeat_ms=1000"]);
    let mut lively = Client::hello(&node, "lively").await;
    let mut bare = Bare::connect(&node);
    let hello = br#"{"hello":{"minVersion":1,"maxVersion":1,"token":"dev:a","device":"5"}}"#;
    bare.frame(0x81, hello);
    let silent = tokio::task::spawn_blocking(move || {
        let mut pinged = false;
        loop {
            match bare.next() {
                (9, _) => pinged = true,
                (8, payload) => return (pinged, u16::from_be_bytes([payload[0], payload[1]])),
                _ => {}
            }
        }
    });
    // Its library answers pings while it waits for frames.
    let end = tokio::select! {
        end = silent => end.unwrap(),
        frame = lively.next() => panic!("{frame:?}"),
    };
    assert_eq!(end, (true, 4105));
    lively
        .send(&Frame::new(9, Body::Ping(frame::Ping {})))
        .await;
    assert!(matches!(lively.body().await, Body::Pong(_)));
}
