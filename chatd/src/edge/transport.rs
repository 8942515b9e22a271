//! What a connection needs of the thing that carries its frames: WebSocket and QUIC
//! implement it, and everything above is the same for both.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::Bytes;
use chat_wire::{
    error::{Code, Refusal},
    limits::HELLO_BYTES,
};

/// What came from a client.
#[derive(Debug)]
pub enum Arrival {
    /// A whole frame.
    Frame(Bytes),
    /// A sign of life without meaning.
    Alive,
    /// A frame that cannot be read, after which nothing can: the client is told.
    Bad(Refusal),
    /// The transport has begun to close, for this reason: `client` or `protocol`.
    Closing(&'static str),
    /// The connection is gone, for this reason: `client` or `lost`.
    Gone(&'static str),
}

/// A connection as the session sees it: whole frames, one after another.
pub trait Transport: Send + Unpin + 'static {
    /// Its name in metrics.
    fn name(&self) -> &'static str;

    /// The client has its WELCOME: from now on it may send what the limits say, and
    /// not only [`HELLO_BYTES`].
    fn welcomed(&mut self);

    /// Reads once and appends what that completed. Ready means something did happen.
    fn poll_arrivals(&mut self, cx: &mut Context<'_>, arrivals: &mut Vec<Arrival>) -> Poll<()>;

    /// Queues a frame to be written; a bulk frame may overtake and be overtaken.
    fn queue(&mut self, frame: Bytes, bulk: bool);

    /// Bytes that are queued and not written.
    fn queued(&self) -> usize;

    /// Writes what is queued.
    ///
    /// # Errors
    /// If the connection is gone.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Queues something that makes the client answer, if the transport has that.
    fn ping(&mut self);

    /// Begins to close after what is queued.
    fn close(&mut self, refusal: Option<&Refusal>);

    /// Ready when the other side has taken what was written, or is gone.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// What a client is told that sends more before WELCOME than HELLO can need.
pub(super) fn too_much_before_welcome() -> Refusal {
    let much = format!("more than {HELLO_BYTES} bytes before WELCOME: send HELLO alone, and wait");
    Refusal::new(Code::FrameTooLarge, much)
}

/// Makes room for `more` bytes of something that will have `whole`: at most doubled, as
/// vectors grow, and never beyond the whole.
pub(super) fn grow(bytes: &mut Vec<u8>, more: usize, whole: usize) {
    let needed = bytes.len() + more;
    if needed > bytes.capacity() {
        let doubled = (bytes.capacity() * 2).min(whole);
        bytes.reserve_exact(needed.max(doubled) - bytes.len());
    }
}
