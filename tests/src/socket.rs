//! A WebSocket without a library, and one session over it: nothing hides what was written
//! and what was received. It blocks, and panics when the node does not answer: for tests.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use bytes::Bytes;
use chat_wire::{
    codec::{Encoding, decode, encode},
    frame::{Body, Frame, Hello, Welcome},
};

use crate::node::Node;

const WITHIN: Duration = Duration::from_secs(60);

/// See the module.
pub struct Socket {
    stream: TcpStream,
    encoding: Encoding,
    input: Vec<u8>,
    /// How much of it was read as frames.
    used: usize,
    output: Vec<u8>,
    /// Every byte since the connection was made, the upgrade's included.
    pub received: usize,
    /// How often something was written and then waited for, the upgrade not included.
    pub round_trips: u32,
}

impl Socket {
    /// A connection that has said nothing yet.
    ///
    /// # Panics
    /// If the node does not take it, as all that follows.
    #[must_use]
    pub fn connect(node: &Node, encoding: Encoding) -> Self {
        let stream = TcpStream::connect(node.address()).expect("the node listens");
        stream.set_read_timeout(Some(WITHIN)).expect("a time");
        stream.set_nodelay(true).expect("an option");
        let name = match encoding {
            Encoding::Proto => "chat.v1.proto",
            Encoding::Json => "chat.v1.json",
        };
        let mut socket = Self {
            stream,
            encoding,
            input: Vec::new(),
            used: 0,
            output: Vec::new(),
            received: 0,
            round_trips: 0,
        };
        let upgrade = format!(
            "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {name}\r\n\r\n"
        );
        socket
            .stream
            .write_all(upgrade.as_bytes())
            .expect("the node reads");
        loop {
            let head = socket.input.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = head {
                assert!(socket.input.starts_with(b"HTTP/1.1 101"));
                socket.used = end + 4;
                return socket;
            }
            socket.fill();
        }
    }

    /// A session of somebody on a `--dev` node, and its WELCOME.
    #[must_use]
    pub fn attach(node: &Node, encoding: Encoding, name: &str, hello: Hello) -> (Self, Welcome) {
        let mut socket = Self::connect(node, encoding);
        let hello = Hello {
            min_version: 1,
            max_version: 1,
            token: format!("dev:{name}"),
            ..hello
        };
        match socket.ask(1, Body::Hello(hello)) {
            Body::Welcome(welcome) => (socket, welcome),
            other => panic!("no WELCOME: {other:?}"),
        }
    }

    fn fill(&mut self) {
        let mut piece = [0; 64 * 1024];
        let read = self.stream.read(&mut piece).expect("the node answers");
        assert_ne!(read, 0, "the node has closed the connection");
        self.received += read;
        self.input.drain(..self.used);
        self.used = 0;
        self.input.extend_from_slice(&piece[..read]);
    }

    /// Puts a frame behind those that are written next; its mask is zero.
    pub fn queue(&mut self, frame: &Frame) {
        let bytes = encode(self.encoding, frame);
        let text = self.encoding == Encoding::Json;
        self.output.push(if text { 0x81 } else { 0x82 });
        // A length must come in its shortest form.
        if let Ok(len @ 0..=125) = u8::try_from(bytes.len()) {
            self.output.push(0x80 | len);
        } else if let Ok(len) = u16::try_from(bytes.len()) {
            self.output.push(0x80 | 126);
            self.output.extend_from_slice(&len.to_be_bytes());
        } else {
            self.output.push(0x80 | 127);
            let len = bytes.len() as u64;
            self.output.extend_from_slice(&len.to_be_bytes());
        }
        self.output.extend_from_slice(&[0; 4]);
        self.output.extend_from_slice(&bytes);
    }

    /// Writes what is queued.
    pub fn flush(&mut self) {
        self.stream.write_all(&self.output).expect("the node reads");
        self.output.clear();
    }

    /// The payload of the next whole message that is here, if it is one.
    fn message(&mut self) -> Option<Bytes> {
        let input = &self.input[self.used..];
        let short = usize::from(*input.get(1)? & 0x7f);
        let head = match short {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let len = input.get(2..head)?;
        let len = match head {
            2 => short,
            _ => len
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte)),
        };
        let payload = Bytes::copy_from_slice(input.get(head..head + len)?);
        assert_ne!(input[0] & 0x0f, 8, "the node says goodbye: {payload:?}");
        self.used += head + len;
        Some(payload)
    }

    /// The next frame; waits for it.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Frame {
        loop {
            match self.message() {
                Some(payload) => {
                    return decode(self.encoding, &payload, usize::MAX).expect("a frame");
                }
                None => self.fill(),
            }
        }
    }

    /// One round trip: what answers the request.
    pub fn ask(&mut self, req: u32, body: Body) -> Body {
        self.queue(&Frame::new(req, body));
        self.flush();
        self.round_trips += 1;
        loop {
            let frame = self.next();
            // WELCOME is the one answer that does not say to what.
            if frame.req == req || matches!(frame.body, Some(Body::Welcome(_))) {
                return frame.body.expect("a frame says something");
            }
        }
    }
}
