//! Frames over QUIC: the first bidirectional stream is the session, every frame with
//! its length before it; pages go out on streams of their own, so that they never
//! stand in the way of live messages.
//!
//! Bounds of a connection: one stream from the client, 64 KiB of it unread (16 KiB in
//! all before WELCOME), 256 KiB to it unacknowledged, [`BULK_FRAMES`] pages that wait. At the bounds the client's
//! requests are not read.

pub mod unproven;

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use chat_wire::{
    error::{Code, Refusal},
    limits::HELLO_BYTES,
};
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use tokio::io::ReadBuf;

use super::transport::{Arrival, Transport, grow, too_much_before_welcome};

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;
/// Bytes of a connection id.
const ID_BYTES: usize = 8;
/// Bytes of the length before a frame.
const LENGTH_BYTES: usize = 4;
/// Pages that wait for their stream; beyond, the client's requests are not read.
pub const BULK_FRAMES: usize = 32;
/// The lane of live frames goes before pages.
const SESSION_PRIORITY: i32 = 1;
/// Silence after which a connection is gone. Longer than two heartbeats.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes of a stream, and of all streams, that the client may send ahead.
const RECEIVE_WINDOW: u32 = 64 * 1024;
/// The same before WELCOME.
const HELLO_WINDOW: u32 = HELLO_BYTES;
/// Bytes to the client that are not acknowledged.
const SEND_WINDOW: u64 = 256 * 1024;
/// Handshakes that wait to be accepted, and bytes kept for them.
const MAX_INCOMING: usize = 1_024;
const INCOMING_BYTES: u64 = 16 * 1024;

/// How connections are set up.
///
/// # Panics
/// Never: the idle timeout fits.
#[must_use]
pub fn server_config(tls: quinn::crypto::rustls::QuicServerConfig) -> quinn::ServerConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(HELLO_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("less than 2^62 ms")));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(MAX_INCOMING as u64 * INCOMING_BYTES);
    config
}

/// How the socket treats packets of connections that it does not know. After a restart
/// these are all old ones: with the same secret as before the node tells their clients,
/// by stateless resets, that they are gone. Without it they would wait for an answer
/// until their own timeout, half a minute or more.
///
/// Bound: a reset a millisecond, so that forged packets cost little; a client repeats
/// its packet until it has one.
#[must_use]
pub fn endpoint_config(secret: &[u8; 32]) -> quinn::EndpointConfig {
    let key = blake3::derive_key("chatd 2026-11 stateless reset of QUIC", secret);
    let mut config = quinn::EndpointConfig::new(Arc::new(ResetKey(key)));
    config
        .min_reset_interval(Duration::from_millis(1))
        .cid_generator(|| Box::new(RandomIds));
    config
}

/// Random connection ids. quinn's own carry a mark by which ids of others are dropped
/// unanswered, but its key is drawn at every start: then no old connection is told.
struct RandomIds;

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&rand::random::<[u8; ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Signs reset tokens.
struct ResetKey([u8; 32]);

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        // Compares in constant time.
        let signature: [u8; blake3::OUT_LEN] = signature
            .try_into()
            .map_err(|_| quinn::crypto::CryptoError)?;
        if blake3::keyed_hash(&self.0, data) == signature {
            Ok(())
        } else {
            Err(quinn::crypto::CryptoError)
        }
    }
}

/// Frames cut from a stream.
#[derive(Debug)]
pub struct Lengths {
    limit: usize,
    partial: Option<Box<Partial>>,
}

#[derive(Debug, Default)]
struct Partial {
    length: [u8; LENGTH_BYTES],
    had: usize,
    frame: Vec<u8>,
}

/// A frame longer than the limit; nothing behind it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

impl Lengths {
    /// Frames of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: None,
        }
    }

    /// Whether no frame is incomplete.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Takes what arrived and appends the frames it completes. Holds only what has
    /// arrived, whatever length was promised.
    ///
    /// # Errors
    /// [`TooLong`], after which nothing may be fed.
    pub fn feed(&mut self, mut input: &[u8], frames: &mut Vec<Bytes>) -> Result<(), TooLong> {
        let mut partial = self
            .partial
            .take()
            .map_or_else(Partial::default, |partial| *partial);
        while !input.is_empty() || partial.is_complete() {
            if partial.had < LENGTH_BYTES {
                let take = input.len().min(LENGTH_BYTES - partial.had);
                partial.length[partial.had..partial.had + take].copy_from_slice(&input[..take]);
                partial.had += take;
                input = &input[take..];
                if partial.had == LENGTH_BYTES && partial.len() > self.limit {
                    return Err(TooLong(partial.len()));
                }
                continue;
            }
            let take = input.len().min(partial.len() - partial.frame.len());
            let whole = partial.len();
            grow(&mut partial.frame, take, whole);
            partial.frame.extend_from_slice(&input[..take]);
            input = &input[take..];
            if partial.is_complete() {
                frames.push(std::mem::take(&mut partial).frame.into());
            }
        }
        if partial.had > 0 {
            self.partial = Some(Box::new(partial));
        }
        Ok(())
    }
}

impl Partial {
    fn len(&self) -> usize {
        u32::from_be_bytes(self.length) as usize
    }

    fn is_complete(&self) -> bool {
        self.had == LENGTH_BYTES && self.frame.len() == self.len()
    }
}

#[derive(Clone, Copy)]
struct Unwelcome {
    left: usize,
    frame_bytes: usize,
}

/// A QUIC connection whose session stream is open.
pub struct Quic {
    connection: quinn::Connection,
    send: SendStream,
    receive: RecvStream,
    lengths: Lengths,
    /// Bytes that the client may still send before WELCOME, and the limit of a frame
    /// from then on.
    unwelcome: Option<Unwelcome>,
    pending: Vec<u8>,
    written: usize,
    bulk: VecDeque<Bytes>,
    bulk_bytes: usize,
    /// The page that is being written.
    page: Option<Step>,
    /// The code and reason that the connection closes with.
    closing: Option<(VarInt, String)>,
    /// Ready when the client has everything.
    taken: Option<Step>,
    /// The client has finished its side: ready when the connection is gone.
    finished: Option<Step>,
}

type Step = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Quic {
    /// A connection with its session stream.
    #[must_use]
    pub fn new(
        connection: quinn::Connection,
        send: SendStream,
        receive: RecvStream,
        frame_bytes: usize,
    ) -> Self {
        // Only a closed stream has no priority; then the next write says so.
        drop(send.set_priority(SESSION_PRIORITY));
        Self {
            connection,
            send,
            receive,
            lengths: Lengths::new(frame_bytes.min(HELLO_BYTES as usize)),
            unwelcome: Some(Unwelcome {
                left: HELLO_BYTES as usize,
                frame_bytes,
            }),
            pending: Vec::new(),
            written: 0,
            bulk: VecDeque::new(),
            bulk_bytes: 0,
            page: None,
            closing: None,
            taken: None,
            finished: None,
        }
    }

    /// The client will say nothing more, but takes answers and events until it closes
    /// the connection. Its silence ends it otherwise.
    fn finish(&mut self) -> Option<Arrival> {
        if !self.lengths.is_idle() {
            let within = "the stream ended within a frame";
            return Some(Arrival::Bad(Refusal::new(Code::Malformed, within)));
        }
        let connection = self.connection.clone();
        self.finished = Some(Box::pin(async move { drop(connection.closed().await) }));
        None
    }

    /// Writes pages, one stream after another.
    fn poll_bulk(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(page) = &mut self.page {
                ready!(page.as_mut().poll(cx));
                self.page = None;
            }
            let Some(frame) = self.bulk.pop_front() else {
                self.bulk = VecDeque::new();
                return Poll::Ready(());
            };
            self.bulk_bytes -= frame.len();
            let connection = self.connection.clone();
            self.page = Some(Box::pin(async move {
                // A stream that fails fails with its connection, which says so.
                drop(write_page(&connection, frame).await);
            }));
        }
    }
}

async fn write_page(connection: &quinn::Connection, frame: Bytes) -> Result<(), quinn::WriteError> {
    let mut stream = connection.open_uni().await?;
    let length = u32::try_from(frame.len()).expect("pages are cut far below 4 GiB");
    let mut parts = [Bytes::copy_from_slice(&length.to_be_bytes()), frame];
    stream.write_all_chunks(&mut parts).await?;
    // Closed only if the client stopped it: then it does not want the page.
    drop(stream.finish());
    Ok(())
}

/// Whether the client went by itself.
fn gone(why: Option<quinn::ConnectionError>) -> Arrival {
    use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed};
    Arrival::Gone(match why {
        Some(ApplicationClosed(_) | ConnectionClosed(_)) => "client",
        _ => "lost",
    })
}

impl Transport for Quic {
    fn name(&self) -> &'static str {
        "quic"
    }

    fn welcomed(&mut self) {
        if let Some(unwelcome) = self.unwelcome.take() {
            self.lengths.limit = unwelcome.frame_bytes;
            self.connection
                .set_receive_window(VarInt::from_u32(RECEIVE_WINDOW));
        }
    }

    fn poll_arrivals(&mut self, cx: &mut Context<'_>, arrivals: &mut Vec<Arrival>) -> Poll<()> {
        if let Some(finished) = &mut self.finished {
            ready!(finished.as_mut().poll(cx));
            arrivals.push(gone(self.connection.close_reason()));
            return Poll::Ready(());
        }
        let mut space = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        match ready!(self.receive.poll_read_buf(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => arrivals.extend(self.finish()),
            Ok(()) if !self.may_send(buffer.filled().len()) => {
                arrivals.push(Arrival::Bad(too_much_before_welcome()));
            }
            Ok(()) => {
                let mut frames = Vec::new();
                let result = self.lengths.feed(buffer.filled(), &mut frames);
                arrivals.extend(frames.into_iter().map(Arrival::Frame));
                if let Err(TooLong(bytes)) = result {
                    let limit = self.lengths.limit;
                    arrivals.push(Arrival::Bad(Refusal::new(
                        Code::FrameTooLarge,
                        format!(
                            "a frame of {bytes} bytes; the limit is {limit}: send less at once"
                        ),
                    )));
                }
            }
            Err(ReadError::Reset(_)) => arrivals.push(Arrival::Gone("client")),
            Err(ReadError::ConnectionLost(why)) => arrivals.push(gone(Some(why))),
            Err(_) => arrivals.push(Arrival::Gone("lost")),
        }
        Poll::Ready(())
    }

    fn queue(&mut self, frame: Bytes, bulk: bool) {
        if self.closing.is_some() {
            return;
        }
        if bulk {
            self.bulk_bytes += frame.len();
            self.bulk.push_back(frame);
        } else {
            let length = u32::try_from(frame.len()).expect("frames are cut far below 4 GiB");
            self.pending.reserve(LENGTH_BYTES + frame.len());
            self.pending.extend_from_slice(&length.to_be_bytes());
            self.pending.extend_from_slice(&frame);
        }
    }

    fn queued(&self) -> usize {
        let bulk = if self.bulk.len() >= BULK_FRAMES {
            self.bulk_bytes
        } else {
            0
        };
        self.pending.len() - self.written + bulk
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Live frames first; pages go on whether or not these can.
        let live = self.poll_live(cx);
        if self.poll_bulk(cx).is_pending() {
            tracing::trace!("pages wait for the client");
        }
        live
    }

    fn ping(&mut self) {
        // QUIC asks by itself: a client that does not answer is gone after the idle
        // timeout.
    }

    fn close(&mut self, refusal: Option<&Refusal>) {
        if self.closing.is_none() {
            self.closing = Some(refusal.map_or_else(
                || (VarInt::from_u32(0), String::new()),
                |refusal| (refusal.code.number().into(), refusal.message.clone()),
            ));
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_live(cx)).is_err() {
            return Poll::Ready(());
        }
        ready!(self.poll_bulk(cx));
        if self.taken.is_none() {
            // Finished twice or stopped by the client: nothing is left to wait for.
            drop(self.send.finish());
            let stopped = self.send.stopped();
            self.taken = Some(Box::pin(async move { drop(stopped.await) }));
        }
        let taken = self.taken.as_mut().expect("set above");
        taken.as_mut().poll(cx)
    }
}

impl Quic {
    /// Counts what came before WELCOME. False if that is too much.
    fn may_send(&mut self, bytes: usize) -> bool {
        let Some(unwelcome) = &mut self.unwelcome else {
            return true;
        };
        let fits = bytes <= unwelcome.left;
        unwelcome.left = unwelcome.left.saturating_sub(bytes);
        fits
    }

    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.pending.len() {
            let write = pin!(self.send.write(&self.pending[self.written..])).poll(cx);
            match ready!(write) {
                Ok(bytes) => self.written += bytes,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        self.written = 0;
        self.pending = Vec::new();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        let (code, reason) = self.closing.take().unwrap_or_default();
        self.connection.close(code, reason.as_bytes());
    }
}

#[cfg(test)]
mod tests;
