//! The little that a test's client does: frames, HELLO, and a message.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use chat_wire::{
    codec::{self, Encoding},
    frame::{self, Body, Frame},
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_websockets::{ClientBuilder, CloseCode, Message, WebSocketStream};

use crate::node::{Node, PATIENCE};

pub(crate) trait Stream:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send
{
}
impl Stream for TcpStream {}
impl Stream for TlsStream<TcpStream> {}

/// A client over tokio-websockets.
pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<Box<dyn Stream>>,
    encoding: Encoding,
}

/// What ends a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

impl Client {
    pub(crate) async fn connect(node: &Node, encoding: Encoding, tls: bool) -> Self {
        Self::try_connect(node, encoding, tls).await.unwrap()
    }

    /// A WebSocket, or how its upgrade was refused.
    pub(crate) async fn try_connect(
        node: &Node,
        encoding: Encoding,
        tls: bool,
    ) -> Result<Self, tokio_websockets::Error> {
        let tcp = TcpStream::connect(node.clients).await.unwrap();
        let stream: Box<dyn Stream> = if tls {
            let connector = TlsConnector::from(Arc::new(tls_config(&node.data(), &[])));
            let name = "localhost".try_into().unwrap();
            Box::new(connector.connect(name, tcp).await.unwrap())
        } else {
            Box::new(tcp)
        };
        let protocol = match encoding {
            Encoding::Proto => "chat.v1.proto",
            Encoding::Json => "chat.v1.json",
        };
        let name = "sec-websocket-protocol".try_into().unwrap();
        let (socket, response) = ClientBuilder::new()
            .uri("ws://localhost/v1/ws")
            .unwrap()
            .add_header(name, protocol.try_into().unwrap())
            .unwrap()
            .connect_on(stream)
            .await?;
        assert_eq!(
            response.headers().get("sec-websocket-protocol").unwrap(),
            protocol
        );
        Ok(Self { socket, encoding })
    }

    /// A session of `dev:<name>`, ready for requests.
    pub(crate) async fn hello(node: &Node, name: &str) -> Self {
        let mut client = Self::connect(node, Encoding::Proto, false).await;
        client.send(&hello(&format!("dev:{name}"))).await;
        client.welcome().await;
        client
    }

    /// A session of `dev:<name>` that asks for its whole inbox.
    pub(crate) async fn resume(node: &Node, name: &str) -> Self {
        let mut client = Self::connect(node, Encoding::Proto, false).await;
        client.send(&resume(name)).await;
        client.welcome().await;
        client
    }

    /// What was answered to a request.
    pub(crate) async fn answer(&mut self, req: u32) -> Body {
        loop {
            let frame = self.next().await.expect("a frame and not the end");
            if frame.req == req {
                return frame.body.unwrap();
            }
        }
    }

    /// Reads events until there are so many texts, for which it grants credits.
    pub(crate) async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        let credit = frame::Credit {
            lane: frame::Lane::Events.into(),
            n: u32::try_from(count).unwrap(),
        };
        self.send(&Body::Credit(credit).into()).await;
        while all.len() < count {
            all.append(&mut self.until(texts).await);
        }
        all
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let bytes = codec::encode(self.encoding, frame);
        let message = match self.encoding {
            Encoding::Proto => Message::binary(bytes),
            Encoding::Json => Message::text(String::from_utf8(bytes.to_vec()).unwrap()),
        };
        self.socket.send(message).await.unwrap();
    }

    /// The next frame, or how the connection ended.
    pub(crate) async fn next(&mut self) -> Result<Frame, Closed> {
        let next = async {
            loop {
                let Some(message) = self.socket.next().await else {
                    return Err(Closed {
                        code: 1006,
                        reason: String::new(),
                    });
                };
                let Ok(message) = message else {
                    return Err(Closed {
                        code: 1006,
                        reason: String::new(),
                    });
                };
                if let Some((code, reason)) = message.as_close() {
                    return Err(Closed {
                        code: code.into(),
                        reason: reason.into(),
                    });
                }
                if message.is_text() || message.is_binary() {
                    assert_eq!(message.is_text(), self.encoding == Encoding::Json);
                    let bytes = Bytes::copy_from_slice(message.as_payload());
                    return Ok(codec::decode(self.encoding, &bytes, usize::MAX).unwrap());
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .expect("the server says something in time")
    }

    pub(crate) async fn body(&mut self) -> Body {
        self.next()
            .await
            .expect("a frame and not the end")
            .body
            .unwrap()
    }

    pub(crate) async fn welcome(&mut self) -> frame::Welcome {
        match self.body().await {
            Body::Welcome(welcome) => welcome,
            other => panic!("not WELCOME: {other:?}"),
        }
    }

    /// Reads until a frame is what is looked for.
    pub(crate) async fn until<T>(&mut self, wanted: impl Fn(Body) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.body().await) {
                return found;
            }
        }
    }

    pub(crate) async fn error(&mut self) -> u32 {
        self.until(|body| match body {
            Body::Error(error) => Some(error.code),
            _ => None,
        })
        .await
    }

    pub(crate) async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next().await {
                return closed;
            }
        }
    }

    pub(crate) async fn close(mut self) -> Closed {
        let close = Message::close(Some(CloseCode::NORMAL_CLOSURE), "");
        self.socket.send(close).await.unwrap();
        self.closed().await
    }
}

/// Trusts the node's own certificate.
pub(crate) fn tls_roots(data: &Path) -> rustls::RootCertStore {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(data.join("tls/cert.pem")).unwrap())
        .unwrap();
    roots
}

/// Trusts the node's own certificate.
pub(crate) fn tls_config(data: &Path, alpn: &[&[u8]]) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tls_roots(data))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

pub(crate) fn hello(token: &str) -> Frame {
    let hello = frame::Hello {
        min_version: 1,
        max_version: 1,
        token: token.into(),
        device: 1,
        ..frame::Hello::default()
    };
    Frame::new(1, Body::Hello(hello))
}

/// HELLO of a device that asks for everything.
pub(crate) fn resume(name: &str) -> Frame {
    let mut greeting = hello(&format!("dev:{name}"));
    if let Some(Body::Hello(hello)) = &mut greeting.body {
        hello.resume = Some(frame::Resume::default());
    }
    greeting
}

pub(crate) fn text(req: u32, to: &str, text: &str) -> Frame {
    let send = frame::Send {
        client_msg_id: Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes()),
        to: Some(frame::Target {
            to: Some(frame::target::To::Name(to.into())),
        }),
        content: Some(frame::Content {
            kind: Some(frame::content::Kind::Text(text.into())),
        }),
        ..frame::Send::default()
    };
    Frame::new(req, Body::Send(send))
}

/// The texts of an EVENT.
pub(crate) fn texts(body: Body) -> Option<Vec<String>> {
    let Body::Event(batch) = body else {
        return None;
    };
    Some(batch.events.into_iter().filter_map(text_of).collect())
}

fn text_of(event: frame::Event) -> Option<String> {
    match event.what? {
        frame::event::What::Message(message) => match message.content?.kind? {
            frame::content::Kind::Text(text) => Some(text),
            _ => None,
        },
        frame::event::What::GroupChange(_) => None,
    }
}

pub(crate) fn is_sent(body: Body) -> Option<frame::Sent> {
    match body {
        Body::Sent(sent) => Some(sent),
        _ => None,
    }
}
