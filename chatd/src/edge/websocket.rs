//! Frames over a WebSocket, plain or in TLS.
//!
//! An idle one holds no buffer: reads go through the stack, and what waits to be
//! written stands in one vector that is freed when it is empty. What is queued is
//! written together, at most 16 KiB at a time in TLS records.

pub mod codec;
pub mod upgrade;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use chat_wire::{
    codec::Encoding,
    error::{Code, Refusal},
    limits::HELLO_BYTES,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::codec::{Decoder, Item, Opcode, Violation};
use super::{
    meter::{self, Meter},
    transport::{Arrival, Transport, too_much_before_welcome},
};

/// Bytes of one read.
pub const READ_BYTES: usize = 16 * 1024;

/// A WebSocket whose handshake is done.
pub struct WebSocket<S> {
    stream: S,
    name: &'static str,
    encoding: Encoding,
    decoder: Decoder,
    /// The limit of a message from WELCOME on.
    frame_bytes: u32,
    /// Frames that came with the request; read first.
    early: Vec<u8>,
    pending: Vec<u8>,
    written: usize,
    /// What follows a violation cannot be read, a close neither.
    deaf: bool,
    close: Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    No,
    /// A close frame is queued; the client's is awaited.
    Said,
    /// What comes cannot be read any more: it is thrown away until the client closes.
    Deaf,
    /// Both have said it, or the client is gone.
    Both,
}

impl<S: AsyncRead + AsyncWrite + Meter + Unpin> WebSocket<S> {
    /// A WebSocket over a stream; `early` is what was read behind the request.
    pub fn new(
        stream: S,
        name: &'static str,
        encoding: Encoding,
        frame_bytes: u32,
        early: Vec<u8>,
    ) -> Self {
        Self {
            stream,
            name,
            encoding,
            decoder: Decoder::new(frame_bytes.min(HELLO_BYTES) as usize),
            frame_bytes,
            early,
            pending: Vec::new(),
            written: 0,
            deaf: false,
            close: Close::No,
        }
    }

    /// One read through the stack. 0 is the end of the stream.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        items: &mut Vec<Item>,
    ) -> Poll<io::Result<(usize, Result<(), Violation>)>> {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            return Poll::Ready(Ok((early.len(), self.decoder.feed(&early, items))));
        }
        let mut space = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        Poll::Ready(Ok((bytes.len(), self.decoder.feed(bytes, items))))
    }

    fn say_close(&mut self, code: u16, reason: &str) {
        if self.close == Close::No {
            codec::encode_close(code, reason, &mut self.pending);
            self.close = if self.deaf { Close::Deaf } else { Close::Said };
        }
    }

    fn arrival(&mut self, item: Item) -> Option<Arrival> {
        Some(match (item, self.encoding) {
            (Item::Text(bytes), Encoding::Json) | (Item::Binary(bytes), Encoding::Proto) => {
                Arrival::Frame(bytes)
            }
            (Item::Text(_), Encoding::Proto) => {
                self.say_close(1003, "chat.v1.proto travels in binary messages");
                Arrival::Closing("protocol")
            }
            (Item::Binary(_), Encoding::Json) => {
                self.say_close(1003, "chat.v1.json travels in text messages");
                Arrival::Closing("protocol")
            }
            (Item::Ping(payload), _) => {
                codec::encode(Opcode::Pong, &payload, &mut self.pending);
                Arrival::Alive
            }
            (Item::Pong, _) => Arrival::Alive,
            (Item::Close(code), _) => {
                self.say_close(code.unwrap_or(1000), "");
                self.close = Close::Both;
                Arrival::Closing("client")
            }
        })
    }

    fn violated(&mut self, violation: Violation) -> Arrival {
        if let Violation::TooLong { .. } = violation {
            self.deaf = true;
            // The session tells the client in a frame, and closes with 4101.
            return Arrival::Bad(Refusal::new(Code::FrameTooLarge, violation.to_string()));
        }
        self.say_close(violation.code(), &violation.to_string());
        self.close = Close::Deaf;
        Arrival::Closing("protocol")
    }
}

impl<S: AsyncRead + AsyncWrite + Meter + Unpin + Send + 'static> Transport for WebSocket<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn welcomed(&mut self) {
        self.decoder.set_limit(self.frame_bytes as usize);
        self.stream.lift();
    }

    fn poll_arrivals(&mut self, cx: &mut Context<'_>, arrivals: &mut Vec<Arrival>) -> Poll<()> {
        let mut items = Vec::new();
        match ready!(self.poll_read(cx, &mut items)) {
            Err(error) if meter::is_used_up(&error) => {
                self.deaf = true;
                // What still comes is thrown away.
                self.stream.lift();
                arrivals.push(Arrival::Bad(too_much_before_welcome()));
            }
            Err(_) => arrivals.push(Arrival::Gone("lost")),
            Ok((0, _)) => arrivals.push(Arrival::Gone("client")),
            Ok((_, result)) => {
                arrivals.reserve_exact(items.len());
                for item in items {
                    arrivals.extend(self.arrival(item));
                }
                if let Err(violation) = result {
                    let arrival = self.violated(violation);
                    arrivals.push(arrival);
                }
            }
        }
        Poll::Ready(())
    }

    fn queue(&mut self, frame: Bytes, _bulk: bool) {
        if self.close != Close::No {
            return;
        }
        let opcode = match self.encoding {
            Encoding::Proto => Opcode::Binary,
            Encoding::Json => Opcode::Text,
        };
        codec::encode(opcode, &frame, &mut self.pending);
    }

    fn queued(&self) -> usize {
        self.pending.len() - self.written
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.written += bytes,
            }
        }
        // TLS may hold records back; a bare socket does nothing here.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.written = 0;
        self.pending = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn ping(&mut self) {
        if self.close == Close::No {
            codec::encode(Opcode::Ping, b"", &mut self.pending);
        }
    }

    fn close(&mut self, refusal: Option<&Refusal>) {
        match refusal {
            None => self.say_close(1000, ""),
            Some(refusal) => {
                self.say_close(refusal.code.websocket_close(), &refusal.message);
            }
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        while self.close == Close::Said {
            let mut items = Vec::new();
            match ready!(self.poll_read(cx, &mut items)) {
                Ok((1.., Ok(()))) if !items.iter().any(|item| matches!(item, Item::Close(_))) => {}
                Ok((1.., Err(_))) => self.close = Close::Deaf,
                _ => self.close = Close::Both,
            }
        }
        if ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        // What is unread when a socket closes makes a reset, and a reset takes our
        // last words from the client's hands.
        while self.close == Close::Deaf {
            let mut space = [std::mem::MaybeUninit::uninit(); READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                self.close = Close::Both;
            }
        }
        Poll::Ready(())
    }
}
