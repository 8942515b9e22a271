//! WebSocket: one frame a message, binary for protobuf and text for JSON, in the clear
//! or over TLS.
//!
//! Bounds: messages of at most 1 MiB from the server.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use chat_wire::{codec, codec::Encoding, frame::Frame, limits};
use futures_util::{Sink, SinkExt, Stream};
use http::{HeaderValue, Uri, header::SEC_WEBSOCKET_PROTOCOL};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_websockets::{ClientBuilder, Config, Error, Limits, Message, WebSocketStream, upgrade};

use super::BACKLOG_BYTES;
use crate::{TransportKind, error::TransportError};

/// Messages taken in one pass; then the client's task looks at other things.
const BATCH: usize = 64;

pub(crate) struct WebSocket {
    stream: WebSocketStream<Io>,
    encoding: Encoding,
    tls: bool,
}

pub(super) async fn connect(
    address: SocketAddr,
    host: &str,
    tls: Option<Arc<ClientConfig>>,
    encoding: Encoding,
) -> Result<WebSocket, TransportError> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let is_tls = tls.is_some();
    let stream = match tls {
        None => Io::Plain(tcp),
        Some(config) => {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| TransportError::Protocol(error.to_string()))?;
            Io::Tls(Box::new(
                TlsConnector::from(config).connect(name, tcp).await?,
            ))
        }
    };
    let scheme = if is_tls { "wss" } else { "ws" };
    let authority = if host.contains(':') {
        format!("[{host}]:{}", address.port())
    } else {
        format!("{host}:{}", address.port())
    };
    let uri: Uri = format!("{scheme}://{authority}/v1/ws")
        .parse()
        .map_err(|error: http::uri::InvalidUri| TransportError::Protocol(error.to_string()))?;
    let protocol = match encoding {
        Encoding::Proto => "chat.v1.proto",
        Encoding::Json => "chat.v1.json",
    };
    let (stream, _) = ClientBuilder::from_uri(uri)
        .config(Config::default().flush_threshold(BACKLOG_BYTES))
        .limits(Limits::default().max_payload_len(Some(limits::SERVER_FRAME_BYTES as usize)))
        .add_header(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol))
        .map_err(websocket_error)?
        .connect_on(stream)
        .await
        .map_err(websocket_error)?;
    Ok(WebSocket {
        stream,
        encoding,
        tls: is_tls,
    })
}

impl WebSocket {
    pub(super) const fn kind(&self) -> TransportKind {
        if self.tls {
            TransportKind::WebSocketTls
        } else {
            TransportKind::WebSocket
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<Frame>,
    ) -> Poll<Result<(), TransportError>> {
        let before = frames.len();
        while frames.len() - before < BATCH {
            match Pin::new(&mut self.stream).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Some((code, reason)) = message.as_close() {
                        return Poll::Ready(Err(closed(code.into(), reason)));
                    }
                    if message.is_close() {
                        return Poll::Ready(Err(TransportError::Ended));
                    }
                    if message.is_binary() || message.is_text() {
                        let bytes = Bytes::from(message.into_payload());
                        let frame = codec::decode(
                            self.encoding,
                            &bytes,
                            limits::SERVER_FRAME_BYTES as usize,
                        )
                        .map_err(|refusal| TransportError::Protocol(refusal.to_string()))?;
                        frames.push(frame);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(websocket_error(error))),
                Poll::Ready(None) => return Poll::Ready(Err(TransportError::Ended)),
                Poll::Pending => break,
            }
        }
        if frames.len() > before {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Pin::new(&mut self.stream)
            .poll_ready(cx)
            .map_err(websocket_error)
    }

    pub(super) fn write(&mut self, frame: &Frame) -> Result<(), TransportError> {
        let bytes = codec::encode(self.encoding, frame);
        let message = match self.encoding {
            Encoding::Proto => Message::binary(bytes),
            Encoding::Json => Message::text(bytes),
        };
        Pin::new(&mut self.stream)
            .start_send(message)
            .map_err(websocket_error)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(websocket_error)?;
        Poll::Ready(Ok(()))
    }

    pub(super) async fn close(mut self: Box<Self>) {
        // A server that is gone cannot answer.
        drop(tokio::time::timeout(Duration::from_secs(2), self.stream.close()).await);
    }
}

/// A stream in the clear or over TLS.
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

fn closed(code: u16, reason: &str) -> TransportError {
    if code == 1000 {
        TransportError::Ended
    } else {
        TransportError::Closed {
            code: u32::from(code.checked_sub(4000).unwrap_or(code)),
            reason: reason.to_owned(),
        }
    }
}

fn websocket_error(error: Error) -> TransportError {
    match error {
        Error::Io(error) => TransportError::Io(error),
        Error::AlreadyClosed => TransportError::Ended,
        Error::Upgrade(upgrade::Error::DidNotSwitchProtocols(status)) => {
            TransportError::Io(io::Error::other(match status {
                503 => "the server has no place for another connection (HTTP 503)".to_owned(),
                429 => {
                    "the server takes no more connections from this address (HTTP 429)".to_owned()
                }
                404 | 426 | 400 => {
                    format!("there is no chatd at this address: it answered HTTP {status}")
                }
                status => format!("the server answered HTTP {status}"),
            }))
        }
        error => TransportError::Protocol(error.to_string()),
    }
}
