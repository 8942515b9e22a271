//! QUIC: the session on one bidirectional stream, each frame behind its length; pages
//! on streams that the server opens, so that they never hold up a message.
//!
//! Bounds: frames of at most 1 MiB from the server; [`PAGES`] pages read ahead.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use chat_wire::{codec, codec::Encoding, frame::Frame, limits};
use prost::Message;
use quinn::{Connection, ConnectionError, EndpointConfig, RecvStream, SendStream, VarInt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

use super::BACKLOG_BYTES;
use crate::error::TransportError;

/// Pages that wait to be taken; then the server's next stream waits.
const PAGES: usize = 16;
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// The UDP socket of QUIC. Clients that share one share its port; it belongs to the tokio
/// runtime in which it is first used.
#[derive(Clone, Default)]
pub struct Network {
    endpoints: Arc<Mutex<Endpoints>>,
}

#[derive(Default)]
struct Endpoints {
    v4: Option<quinn::Endpoint>,
    v6: Option<quinn::Endpoint>,
}

impl Network {
    /// A socket of its own, opened when it is first used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn endpoint(&self, server: SocketAddr) -> Result<quinn::Endpoint, TransportError> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (slot, local): (_, SocketAddr) = match server {
            SocketAddr::V4(_) => (&mut endpoints.v4, (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (&mut endpoints.v6, (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let endpoint = quinn::Endpoint::new(
            EndpointConfig::default(),
            None,
            UdpSocket::bind(local)?,
            Arc::new(quinn::TokioRuntime),
        )?;
        *slot = Some(endpoint.clone());
        Ok(endpoint)
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

pub(super) fn transport_config() -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(16))
        .stream_receive_window(VarInt::from_u32(1024 * 1024))
        .receive_window(VarInt::from_u32(4 * 1024 * 1024))
        .datagram_receive_buffer_size(None)
        // NAT forgets UDP flows after 30 s in bad networks.
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .max_idle_timeout(Some(VarInt::from_u32(60_000).into()));
    config
}

/// A connection whose session stream is open.
pub(crate) struct Quic {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    outgoing: BytesMut,
    incoming: BytesMut,
    pages: mpsc::Receiver<Result<Frame, TransportError>>,
}

pub(super) async fn connect(
    network: &Network,
    config: quinn::ClientConfig,
    address: SocketAddr,
    host: &str,
) -> Result<Quic, TransportError> {
    let connection = network
        .endpoint(address)?
        .connect_with(config, address, host)
        .map_err(|error| TransportError::Protocol(error.to_string()))?
        .await
        .map_err(connection_error)?;
    let (send, receive) = connection.open_bi().await.map_err(connection_error)?;
    let (sender, pages) = mpsc::channel(PAGES);
    tokio::spawn(read_pages(connection.clone(), sender));
    Ok(Quic {
        connection,
        send,
        receive,
        outgoing: BytesMut::new(),
        incoming: BytesMut::new(),
        pages,
    })
}

/// Reads the server's streams one after the other. Ends with the connection.
async fn read_pages(connection: Connection, pages: mpsc::Sender<Result<Frame, TransportError>>) {
    while let Ok(mut stream) = connection.accept_uni().await {
        let page = stream
            .read_to_end(limits::SERVER_FRAME_BYTES as usize + 4)
            .await
            .map_err(|error| TransportError::Protocol(error.to_string()))
            .and_then(|bytes| {
                let mut bytes = BytesMut::from(Bytes::from(bytes));
                next_frame(&mut bytes)?.ok_or_else(|| {
                    TransportError::Protocol("a stream of the server ended within a frame".into())
                })
            });
        if pages.send(page).await.is_err() {
            return;
        }
    }
}

/// Takes a whole frame from the front of `bytes`.
fn next_frame(bytes: &mut BytesMut) -> Result<Option<Frame>, TransportError> {
    let Some(prefix) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*prefix);
    if length > limits::SERVER_FRAME_BYTES {
        return Err(TransportError::Protocol(format!(
            "the server sent a frame of {length} bytes; no frame is longer than {}",
            limits::SERVER_FRAME_BYTES
        )));
    }
    let length = length as usize;
    if bytes.len() < 4 + length {
        return Ok(None);
    }
    bytes.advance(4);
    let frame = bytes.split_to(length).freeze();
    // The server's bounds, also of the number of fields: a batch of events has more of them
    // than a client may send.
    codec::decode(Encoding::Proto, &frame, limits::SERVER_FRAME_BYTES as usize)
        .map(Some)
        .map_err(|refusal| TransportError::Protocol(refusal.to_string()))
}

impl Quic {
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<Frame>,
    ) -> Poll<Result<(), TransportError>> {
        let before = frames.len();
        while let Poll::Ready(Some(page)) = self.pages.poll_recv(cx) {
            frames.push(page?);
        }
        loop {
            while let Some(frame) = next_frame(&mut self.incoming)? {
                frames.push(frame);
            }
            if frames.len() > before {
                return Poll::Ready(Ok(()));
            }
            let have = self.incoming.len();
            self.incoming.resize(have + READ_BYTES, 0);
            let mut buffer = ReadBuf::new(&mut self.incoming[have..]);
            let read = AsyncRead::poll_read(Pin::new(&mut self.receive), cx, &mut buffer);
            let filled = buffer.filled().len();
            self.incoming.truncate(have + filled);
            if let Err(error) = ready!(read) {
                return Poll::Ready(Err(self.why(error)));
            }
            if filled == 0 {
                let reason = self.connection.close_reason();
                return Poll::Ready(Err(reason.map_or(TransportError::Ended, connection_error)));
            }
        }
    }

    /// An error of a stream hides why the connection ended.
    fn why(&self, error: std::io::Error) -> TransportError {
        self.connection
            .close_reason()
            .map_or(TransportError::Io(error), connection_error)
    }

    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.outgoing.len() >= BACKLOG_BYTES {
            ready!(self.poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn write(&mut self, frame: &Frame) {
        let length = frame.encoded_len();
        self.outgoing.reserve(4 + length);
        self.outgoing
            .put_u32(u32::try_from(length).expect("frames are bounded by the limit"));
        frame
            .encode(&mut self.outgoing)
            .expect("the buffer grows as needed");
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        while !self.outgoing.is_empty() {
            let written = ready!(AsyncWrite::poll_write(
                Pin::new(&mut self.send),
                cx,
                &self.outgoing
            ));
            match written {
                Ok(written) => self.outgoing.advance(written),
                Err(error) => return Poll::Ready(Err(self.why(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) async fn close(mut self: Box<Self>) {
        // Everything written is acknowledged before the connection goes, or it would be lost.
        if self.send.finish().is_ok() {
            let stopped = self.send.stopped();
            drop(tokio::time::timeout(Duration::from_secs(2), stopped).await);
        }
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

fn connection_error(error: ConnectionError) -> TransportError {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
            if code == 0 {
                TransportError::Ended
            } else {
                TransportError::Closed {
                    code,
                    reason: String::from_utf8_lossy(&close.reason).into_owned(),
                }
            }
        }
        error => TransportError::Protocol(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use chat_wire::frame::{Body, Pong};

    use super::*;

    #[test]
    fn frames_are_cut_from_any_pieces_and_a_length_beyond_the_limit_is_refused() {
        let frame: Frame = Body::Pong(Pong { server_time_ms: 7 }).into();
        let mut whole = BytesMut::new();
        for _ in 0..3 {
            whole.put_u32(u32::try_from(frame.encoded_len()).unwrap());
            frame.encode(&mut whole).unwrap();
        }
        for piece in 1..whole.len() {
            let mut bytes = BytesMut::new();
            let mut frames = Vec::new();
            for part in whole.chunks(piece) {
                bytes.put_slice(part);
                while let Some(frame) = next_frame(&mut bytes).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [frame.clone(), frame.clone(), frame.clone()]);
        }
        let mut long = BytesMut::from(&[0xff_u8, 0, 0, 0][..]);
        assert!(next_frame(&mut long).is_err());
    }
}
