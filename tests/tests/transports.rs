//! What docs/protocol.md says of transports, against a real node with clients that
//! share nothing with the server but the schema: raw upgrades, tokio-websockets, quinn.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use chat_tests::node::Node;
use chat_wire::{
    codec::{Encoding, decode, encode},
    error::Code,
    frame::{
        Body, Content, Credit, Frame, Hello, HistoryGet, Lane, Ping, Resume, Send, Target, content,
        history_get, target,
    },
};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_websockets::{ClientBuilder, Limits, Message, WebSocketStream};

const WITHIN: Duration = Duration::from_secs(30);
const LIMIT: usize = 1 << 20;

/// The head of the answer to an upgrade with these headers, and the connection.
async fn upgrade(node: &Node, path: &str, extra: &str) -> anyhow::Result<(String, TcpStream)> {
    let mut stream = TcpStream::connect(node.address()).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: chat.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Byte by byte: what follows the head belongs to the WebSocket.
        head.push(timeout(WITHIN, stream.read_u8()).await??);
    }
    Ok((String::from_utf8(head)?, stream))
}

struct WebSocket {
    stream: WebSocketStream<TcpStream>,
    encoding: Encoding,
}

impl WebSocket {
    async fn open(node: &Node, encoding: Encoding) -> anyhow::Result<Self> {
        let name = match encoding {
            Encoding::Proto => "chat.v1.proto",
            Encoding::Json => "chat.v1.json",
        };
        let offer = format!("Sec-WebSocket-Protocol: {name}\r\n");
        let (head, stream) = upgrade(node, "/v1/ws", &offer).await?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
        ensure!(
            head.to_lowercase().contains(&offer.to_lowercase()),
            "{head}"
        );
        let limits = Limits::default().max_payload_len(Some(LIMIT));
        let stream = ClientBuilder::new().limits(limits).take_over(stream);
        Ok(Self { stream, encoding })
    }

    async fn attached(node: &Node, encoding: Encoding, hello: Hello) -> anyhow::Result<Self> {
        let mut socket = Self::open(node, encoding).await?;
        socket.write(&Frame::new(1, Body::Hello(hello))).await?;
        let welcome = socket.read().await?;
        ensure!(
            matches!(welcome.body, Some(Body::Welcome(_))),
            "{welcome:?}"
        );
        Ok(socket)
    }

    async fn write(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let bytes = encode(self.encoding, frame);
        let message = match self.encoding {
            Encoding::Proto => Message::binary(bytes),
            Encoding::Json => Message::text(String::from_utf8(bytes.to_vec())?),
        };
        Ok(self.stream.send(message).await?)
    }

    async fn read(&mut self) -> anyhow::Result<Frame> {
        let message = timeout(WITHIN, self.stream.next())
            .await?
            .context("the end")??;
        ensure!(
            message.is_text() == (self.encoding == Encoding::Json),
            "{message:?}"
        );
        let bytes = Bytes::copy_from_slice(message.as_payload());
        decode(self.encoding, &bytes, LIMIT).map_err(|refusal| anyhow::anyhow!("{refusal}"))
    }

    /// The code of the last ERROR, if one came, and the close code.
    async fn end(&mut self) -> anyhow::Result<(Option<u32>, u16)> {
        let mut last = None;
        while let Some(message) = timeout(WITHIN, self.stream.next()).await? {
            let message = message?;
            if let Some((code, _)) = message.as_close() {
                return Ok((last, code.into()));
            }
            let bytes = Bytes::copy_from_slice(message.as_payload());
            if let Ok(frame) = decode(self.encoding, &bytes, LIMIT)
                && let Some(Body::Error(error)) = frame.body
            {
                ensure!(
                    frame.req == 0,
                    "an error that ends a session answers nothing"
                );
                last = Some(error.code);
            }
        }
        bail!("the connection ended without a close frame")
    }
}

fn hello(name: &str, device: u64) -> Hello {
    Hello {
        min_version: 1,
        max_version: 1,
        token: format!("dev:{name}"),
        device,
        ..Hello::default()
    }
}

fn from_the_start(name: &str, device: u64) -> Hello {
    Hello {
        resume: Some(Resume::default()),
        ..hello(name, device)
    }
}

fn message(req: u32, id: u8, to: &str, text: &str, now_ms: u64) -> Frame {
    let mut client_msg_id = [0; 16];
    client_msg_id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    (client_msg_id[6], client_msg_id[8], client_msg_id[15]) = (0x70, 0x80, id);
    let content = Content {
        kind: Some(content::Kind::Text(text.into())),
    };
    let send = Send {
        client_msg_id: Bytes::copy_from_slice(&client_msg_id),
        to: Some(Target {
            to: Some(target::To::Name(to.into())),
        }),
        content: Some(content),
        ..Send::default()
    };
    Frame::new(req, Body::Send(send))
}

fn now_ms() -> anyhow::Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

#[tokio::test]
async fn a_websocket_closes_with_what_the_error_says() -> anyhow::Result<()> {
    let node = Node::start()?;
    let first = |code: Code| (Some(u32::from(code.number())), code.websocket_close());

    // Before HELLO.
    let mut socket = WebSocket::open(&node, Encoding::Json).await?;
    socket.write(&Frame::new(1, Body::Ping(Ping {}))).await?;
    assert_eq!(socket.end().await?, first(Code::UnexpectedFrame));

    let mut socket = WebSocket::open(&node, Encoding::Json).await?;
    let stranger = Hello {
        token: "neither dev nor a JWT".into(),
        ..hello("eve", 1)
    };
    socket.write(&Frame::new(1, Body::Hello(stranger))).await?;
    assert_eq!(socket.end().await?, first(Code::BadToken));

    // What is no frame, and what is too long for one.
    for encoding in [Encoding::Json, Encoding::Proto] {
        let mut socket = WebSocket::attached(&node, encoding, hello("eve", 2)).await?;
        let long = "x".repeat(300 * 1024);
        let (bad, huge) = match encoding {
            Encoding::Json => (Message::text("{"), Message::text(long)),
            Encoding::Proto => (Message::binary(&b"\xff"[..]), Message::binary(long)),
        };
        socket.stream.send(bad).await?;
        assert_eq!(socket.end().await?, first(Code::Malformed));

        let mut socket = WebSocket::attached(&node, encoding, hello("eve", 3)).await?;
        socket.stream.send(huge).await?;
        assert_eq!(socket.end().await?, first(Code::FrameTooLarge));
    }

    // The other kind of message is no matter of frames.
    let mut socket = WebSocket::attached(&node, Encoding::Json, hello("eve", 4)).await?;
    socket
        .stream
        .send(Message::binary(&b"\x08\x01"[..]))
        .await?;
    assert_eq!(socket.end().await?, (None, 1003));

    // Who says goodbye hears it back.
    let mut socket = WebSocket::attached(&node, Encoding::Proto, hello("eve", 5)).await?;
    socket.stream.send(Message::close(None, "")).await?;
    assert_eq!(socket.end().await?, (None, 1000));
    Ok(())
}

#[tokio::test]
async fn an_upgrade_that_is_not_understood_is_told_so() -> anyhow::Result<()> {
    let node = Node::start()?;
    let offer = |names: &str| format!("Sec-WebSocket-Protocol: {names}\r\n");
    for (path, extra, status) in [
        ("/v2/ws", String::new(), "404"),
        ("/v1/ws", offer("mqtt"), "400"),
        ("/v1/ws", offer("mqtt, chat.v1.json"), "101"),
        ("/v1/ws", String::new(), "101"),
    ] {
        let extensions = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        let (head, _) = upgrade(&node, path, &(extra + extensions)).await?;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {head}"
        );
        assert!(
            !head.contains("Extensions"),
            "no extension is agreed to: {head}"
        );
    }
    Ok(())
}

/// A session over QUIC, written with nothing but quinn.
struct Quic {
    _endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
}

impl Quic {
    async fn open(node: &Node) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(node.certificate())? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"chat/1".to_vec()];
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        let connection = timeout(WITHIN, endpoint.connect(node.address(), "localhost")?).await??;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self {
            _endpoint: endpoint,
            connection,
            send,
            receive,
        })
    }

    async fn write(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let bytes = encode(Encoding::Proto, frame);
        self.send
            .write_all(&u32::try_from(bytes.len())?.to_be_bytes())
            .await?;
        Ok(self.send.write_all(&bytes).await?)
    }

    async fn read(&mut self) -> anyhow::Result<Frame> {
        read_frame(&mut self.receive).await
    }
}

async fn read_frame(stream: &mut quinn::RecvStream) -> anyhow::Result<Frame> {
    let mut length = [0; 4];
    timeout(WITHIN, stream.read_exact(&mut length)).await??;
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    timeout(WITHIN, stream.read_exact(&mut bytes)).await??;
    decode(Encoding::Proto, &bytes.into(), LIMIT).map_err(|refusal| anyhow::anyhow!("{refusal}"))
}

#[tokio::test]
async fn both_transports_and_encodings_carry_the_same_events_and_pages() -> anyhow::Result<()> {
    let node = Node::start()?;
    let mut alice = WebSocket::attached(&node, Encoding::Json, hello("alice", 1)).await?;
    alice
        .write(&message(2, 1, "bob", "größer 😀", now_ms()?))
        .await?;
    let sent = alice.read().await?;
    let Some(Body::Sent(sent)) = sent.body else {
        bail!("{sent:?}")
    };

    // One event, three ways.
    let mut seen = Vec::new();
    for (device, encoding) in [(7, Encoding::Json), (8, Encoding::Proto)] {
        let mut bob = WebSocket::attached(&node, encoding, from_the_start("bob", device)).await?;
        let resumed = bob.read().await?;
        ensure!(
            matches!(resumed.body, Some(Body::Resumed(_))),
            "{resumed:?}"
        );
        seen.push(bob.read().await?);
    }
    let mut bob = Quic::open(&node).await?;
    let hello = Body::Hello(from_the_start("bob", 9));
    bob.write(&Frame::new(1, hello)).await?;
    let (welcome, resumed) = (bob.read().await?, bob.read().await?);
    ensure!(
        matches!(welcome.body, Some(Body::Welcome(_))),
        "{welcome:?}"
    );
    ensure!(
        matches!(resumed.body, Some(Body::Resumed(_))),
        "{resumed:?}"
    );
    seen.push(bob.read().await?);
    let Some(Body::Event(batch)) = &seen[0].body else {
        bail!("{seen:?}")
    };
    assert_eq!(batch.events[0].msg_id, sent.msg_id);
    assert_eq!(seen[1], seen[0]);
    assert_eq!(seen[2], seen[0]);

    // A page has a stream of its own, and the session stream goes on beside it.
    let history = HistoryGet {
        conversation: batch.events[0].conversation,
        from: Some(history_get::From::Before(0)),
        limit: 10,
    };
    bob.write(&Frame::new(2, Body::History(history))).await?;
    bob.write(&Frame::new(3, Body::Ping(Ping {}))).await?;
    let pong = bob.read().await?;
    ensure!(
        matches!(pong.body, Some(Body::Pong(_))) && pong.req == 3,
        "{pong:?}"
    );
    let mut stream = timeout(WITHIN, bob.connection.accept_uni()).await??;
    let page = read_frame(&mut stream).await?;
    assert_eq!(page.req, 2);
    let Some(Body::HistoryPage(page)) = page.body else {
        bail!("{page:?}")
    };
    assert_eq!(page.events, batch.events);
    Ok(())
}

#[tokio::test]
async fn a_quic_connection_closes_with_the_code_of_the_error() -> anyhow::Result<()> {
    let node = Node::start()?;
    let mut eve = Quic::open(&node).await?;
    let credit = Credit {
        lane: Lane::Events.into(),
        n: 1,
    };
    eve.write(&Body::Credit(credit).into()).await?;
    let error = eve.read().await?;
    let Some(Body::Error(error)) = error.body else {
        bail!("{error:?}")
    };
    assert_eq!(error.code, u32::from(Code::UnexpectedFrame.number()));
    let closed = timeout(WITHIN, eve.connection.closed()).await?;
    let quinn::ConnectionError::ApplicationClosed(closed) = closed else {
        bail!("{closed}")
    };
    assert_eq!(
        closed.error_code.into_inner(),
        u64::from(Code::UnexpectedFrame.number())
    );

    // A length beyond the limit is refused before a byte of it came.
    let mut eve = Quic::open(&node).await?;
    eve.send.write_all(&u32::MAX.to_be_bytes()).await?;
    let error = eve.read().await?;
    let Some(Body::Error(error)) = error.body else {
        bail!("{error:?}")
    };
    assert_eq!(error.code, u32::from(Code::FrameTooLarge.number()));
    Ok(())
}

/// Without the node's secret in its data directory, this client would wait for its own
/// timeout: half a minute in which it believes that it is connected.
#[tokio::test]
async fn a_quic_client_learns_at_once_that_the_server_was_killed() -> anyhow::Result<()> {
    let mut node = Node::start()?;
    let mut alice = Quic::open(&node).await?;
    let hello = Body::Hello(hello("alice", 1));
    alice.write(&Frame::new(1, hello)).await?;
    let welcome = alice.read().await?;
    ensure!(
        matches!(welcome.body, Some(Body::Welcome(_))),
        "{welcome:?}"
    );
    node.kill();
    node.restart()?;
    alice.write(&Frame::new(2, Body::Ping(Ping {}))).await?;
    let closed = timeout(Duration::from_secs(5), alice.connection.closed()).await?;
    assert_eq!(closed, quinn::ConnectionError::Reset);
    Ok(())
}
