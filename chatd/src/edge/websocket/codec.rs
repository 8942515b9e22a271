//! RFC 6455 without a socket: bytes from a client become messages, messages become
//! bytes. Ours and not a library's, because an idle connection must hold no buffer.
//!
//! A decoder holds memory only while a frame or message is incomplete, and never
//! more than has arrived of it. Extensions are never negotiated, permessage-deflate
//! least of all: a few bytes would unpack into many before anybody is authenticated.

use bytes::Bytes;

use super::super::transport::grow;

/// Payload of a control frame at most.
const CONTROL_BYTES: usize = 125;
/// Bytes of a header at most, with the mask.
const HEADER_BYTES: usize = 14;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole message of text: valid UTF-8.
    Text(Bytes),
    /// A whole message of bytes.
    Binary(Bytes),
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    /// An answer to a ping, or a sign of life.
    Pong,
    /// The client closes, with this code if it named one.
    Close(Option<u16>),
}

/// What a client did against the RFC. The connection closes with [`Violation::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something the protocol does not allow.
    #[error("{0}")]
    Protocol(&'static str),
    /// Text or a close reason that is not UTF-8.
    #[error("text that is not UTF-8")]
    NotUtf8,
    /// A message longer than the limit.
    #[error("a message longer than {limit} bytes: send less at once")]
    TooLong {
        /// Bytes a message may have.
        limit: usize,
    },
}

impl Violation {
    /// The close code.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooLong { .. } => 1009,
        }
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next part of a message.
    Continuation = 0,
    /// Text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The end.
    Close = 8,
    /// A question.
    Ping = 9,
    /// Its answer.
    Pong = 10,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    const fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The receiving side of one connection.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    partial: Option<Box<Partial>>,
}

/// What has arrived of something incomplete.
#[derive(Debug, Default)]
struct Partial {
    header: [u8; HEADER_BYTES],
    header_len: usize,
    frame: Option<Head>,
    message: Option<Message>,
    control: Vec<u8>,
}

/// A frame whose header is complete.
#[derive(Clone, Copy, Debug)]
struct Head {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// How much of the payload has come.
    had: usize,
    len: usize,
}

/// A data message, maybe of several frames.
#[derive(Debug)]
struct Message {
    text: bool,
    bytes: Vec<u8>,
    /// Up to here it is known to be UTF-8.
    checked: usize,
}

impl Decoder {
    /// A decoder for messages of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: None,
        }
    }

    /// Takes what arrived and appends what it completes. Nothing may be fed after a
    /// violation or a [`Item::Close`].
    ///
    /// # Errors
    /// [`Violation`] when the connection must be closed; what was complete before it
    /// stands in `items`.
    pub fn feed(&mut self, mut input: &[u8], items: &mut Vec<Item>) -> Result<(), Violation> {
        let mut partial = self
            .partial
            .take()
            .map_or_else(Partial::default, |partial| *partial);
        while !input.is_empty() {
            let Some(mut head) = partial.head(&mut input, self.limit)? else {
                break;
            };
            let take = input.len().min(head.len - head.had);
            let (now, rest) = input.split_at(take);
            input = rest;
            partial.payload(&mut head, now)?;
            if head.had < head.len {
                partial.frame = Some(head);
                break;
            }
            partial.frame = None;
            if let Some(item) = partial.complete(head)? {
                let closed = matches!(item, Item::Close(_));
                items.push(item);
                if closed {
                    return Ok(());
                }
            }
        }
        if partial.header_len > 0 || partial.frame.is_some() || partial.message.is_some() {
            self.partial = Some(Box::new(partial));
        }
        Ok(())
    }

    /// From now on messages of at most `limit` bytes.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether nothing is incomplete: no memory is held.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.partial.is_none()
    }
}

impl Partial {
    /// The header of the frame in hand, as soon as it is complete and allowed.
    fn head(&mut self, input: &mut &[u8], limit: usize) -> Result<Option<Head>, Violation> {
        if let Some(head) = self.frame {
            return Ok(Some(head));
        }
        loop {
            let needed = self.header_needs()?;
            if self.header_len >= needed {
                break;
            }
            let take = input.len().min(needed - self.header_len);
            if take == 0 {
                return Ok(None);
            }
            self.header[self.header_len..self.header_len + take].copy_from_slice(&input[..take]);
            self.header_len += take;
            *input = &input[take..];
        }
        let head = self.parse(limit)?;
        self.header_len = 0;
        if head.len == 0 || !input.is_empty() {
            return Ok(Some(head));
        }
        self.frame = Some(head);
        Ok(None)
    }

    /// How long the header is, as far as one can tell; checks what it can already.
    fn header_needs(&self) -> Result<usize, Violation> {
        if self.header_len < 2 {
            return Ok(2);
        }
        if self.header[0] & 0x70 != 0 {
            return Err(Violation::Protocol(
                "a reserved bit is set: no extension was agreed on",
            ));
        }
        if self.header[1] & 0x80 == 0 {
            return Err(Violation::Protocol("a client's frame without a mask"));
        }
        Ok(match self.header[1] & 0x7f {
            126 => 8,
            127 => 14,
            _ => 6,
        })
    }

    fn parse(&self, limit: usize) -> Result<Head, Violation> {
        let header = &self.header[..self.header_len];
        let fin = header[0] & 0x80 != 0;
        let opcode =
            Opcode::from_bits(header[0] & 0x0f).ok_or(Violation::Protocol("a reserved opcode"))?;
        let short = header[1] & 0x7f;
        let len = match short {
            126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            127 => u64::from_be_bytes(
                header[2..10]
                    .try_into()
                    .expect("eight bytes of a long header"),
            ),
            _ => u64::from(short),
        };
        if (short == 126 && len < 126) || (short == 127 && len < 0x1_0000) {
            return Err(Violation::Protocol(
                "a length that is not written in its shortest form",
            ));
        }
        if opcode.is_control() {
            if !fin {
                return Err(Violation::Protocol("a fragmented control frame"));
            }
            if short > 125 {
                return Err(Violation::Protocol(
                    "a control frame of more than 125 bytes",
                ));
            }
        } else if (opcode == Opcode::Continuation) != self.message.is_some() {
            return Err(Violation::Protocol(if opcode == Opcode::Continuation {
                "a continuation of nothing"
            } else {
                "a new message inside a fragmented one"
            }));
        }
        let before = self
            .message
            .as_ref()
            .map_or(0, |message| message.bytes.len());
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if !opcode.is_control() && len > limit.saturating_sub(before) {
            return Err(Violation::TooLong { limit });
        }
        let mask = header[header.len() - 4..]
            .try_into()
            .expect("four bytes of a mask");
        Ok(Head {
            fin,
            opcode,
            mask,
            had: 0,
            len,
        })
    }

    /// Unmasks what came of the payload to where it belongs.
    fn payload(&mut self, head: &mut Head, now: &[u8]) -> Result<(), Violation> {
        let out = if head.opcode.is_control() {
            debug_assert!(head.len <= CONTROL_BYTES, "checked with the header");
            &mut self.control
        } else {
            let text = head.opcode == Opcode::Text;
            &mut self
                .message
                .get_or_insert_with(|| Message {
                    text,
                    bytes: Vec::new(),
                    checked: 0,
                })
                .bytes
        };
        let at = out.len();
        // The whole frame at once if it is here, else about what has arrived: a
        // promised length costs its sender more than us.
        grow(out, now.len(), at - head.had + head.len);
        out.extend_from_slice(now);
        unmask(&mut out[at..], head.mask, head.had);
        head.had += now.len();
        match &mut self.message {
            Some(message) if !head.opcode.is_control() => message.check(),
            _ => Ok(()),
        }
    }

    /// A frame is complete: what does that make?
    fn complete(&mut self, head: Head) -> Result<Option<Item>, Violation> {
        Ok(match head.opcode {
            Opcode::Ping => Some(Item::Ping(std::mem::take(&mut self.control).into())),
            Opcode::Pong => {
                self.control = Vec::new();
                Some(Item::Pong)
            }
            Opcode::Close => Some(Item::Close(close_code(&std::mem::take(&mut self.control))?)),
            _ if !head.fin => None,
            _ => {
                let message = self.message.take().expect("payload() put it there");
                if message.text && message.checked < message.bytes.len() {
                    return Err(Violation::NotUtf8);
                }
                let bytes = Bytes::from(message.bytes);
                Some(if message.text {
                    Item::Text(bytes)
                } else {
                    Item::Binary(bytes)
                })
            }
        })
    }
}

impl Message {
    /// Looks at what is new only; the start of a character may wait for its end.
    fn check(&mut self) -> Result<(), Violation> {
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            Err(error) if error.error_len().is_some() => return Err(Violation::NotUtf8),
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::Protocol("a close code of one byte")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::Protocol("a close code that may not be sent"));
            }
            std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Some(code))
        }
    }
}

/// Applies the mask to bytes that stand at `at` of the payload.
fn unmask(bytes: &mut [u8], mask: [u8; 4], at: usize) {
    let mut mask = mask;
    mask.rotate_left(at % 4);
    let word = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let value = u64::from_ne_bytes((&*chunk).try_into().expect("eight bytes")) ^ word;
        chunk.copy_from_slice(&value.to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends a whole unmasked frame, as servers send.
pub fn encode(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(payload.len() + 10);
    out.push(0x80 | opcode as u8);
    match payload.len() {
        #[expect(clippy::cast_possible_truncation, reason = "at most 125")]
        len @ 0..=125 => out.push(len as u8),
        len => {
            if let Ok(len) = u16::try_from(len) {
                out.push(126);
                out.extend_from_slice(&len.to_be_bytes());
            } else {
                out.push(127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
    }
    out.extend_from_slice(payload);
}

/// Appends a close frame; the reason is cut to what fits, between characters.
pub fn encode_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(CONTROL_BYTES);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(CONTROL_BYTES - 2)]);
    encode(Opcode::Close, &payload, out);
}

#[cfg(test)]
mod tests;
