//! Counts what a client sends before it is welcome, over TCP: TLS, HTTP and frames
//! together. Where the count is used up reads fail, so that nothing above can be made to
//! keep more than that, whatever was promised to come.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// A socket that gives so many bytes and no more, until that is lifted.
pub struct Metered<S> {
    stream: S,
    /// `usize::MAX`: without a bound.
    left: usize,
}

/// Something over a [`Metered`] socket.
pub trait Meter {
    /// From now on it gives everything that comes.
    fn lift(&mut self);
}

impl<S> Metered<S> {
    /// At most `bytes` come out of it.
    pub const fn new(stream: S, bytes: usize) -> Self {
        Self {
            stream,
            left: bytes,
        }
    }
}

impl<S> Meter for Metered<S> {
    fn lift(&mut self) {
        self.left = usize::MAX;
    }
}

impl Meter for Box<TlsStream<Metered<TcpStream>>> {
    fn lift(&mut self) {
        self.get_mut().0.lift();
    }
}

/// Whether an error says that the count is used up.
pub(super) fn is_used_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::QuotaExceeded
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.left == usize::MAX {
            return Pin::new(&mut this.stream).poll_read(cx, out);
        }
        if this.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        // Cleared first, which is a few kilobytes for each newcomer and not for sessions.
        let at_most = this.left.min(out.remaining());
        let mut part = ReadBuf::new(out.initialize_unfilled_to(at_most));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        out.advance(read);
        this.left -= read;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn what_is_promised_is_given_and_then_no_more_until_it_is_lifted() {
        let mut metered = Metered::new(&[7u8; 100][..], 60);
        let mut all = Vec::new();
        let error = metered.read_to_end(&mut all).await.unwrap_err();
        assert!(is_used_up(&error));
        assert_eq!(all, [7; 60]);
        metered.lift();
        assert_eq!(metered.read_to_end(&mut all).await.unwrap(), 40);
    }
}
