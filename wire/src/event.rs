//! What an inbox holds, as it is stored: a header that names the event, and a
//! [`crate::body`] that says it.
//!
//! ```text
//! 0         1      2       3        11             19       27          35         36
//! | version | kind | flags | msg_id | conversation | sender | group_seq | name len | name … |
//! ```
//! Big-endian. The time of an event is the time in its `msg_id`.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::{
    body::{self, Body},
    frame,
    ids::{ConversationId, GroupId, MsgId, UserId},
};

/// The version of the stored header.
pub const VERSION: u8 = 1;
/// Bytes before the sender's name.
pub const FIXED_BYTES: usize = 36;
/// Longest name of a user or a group, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// What kind of event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message from somebody else.
    Message = 1,
    /// The sent copy of one's own message.
    Own = 2,
    /// A change of a group.
    GroupChange = 3,
}

/// The stored header of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Reserved, 0.
    pub flags: u8,
    /// Number and time.
    pub msg_id: MsgId,
    /// As the owner of the inbox sees it.
    pub conversation: ConversationId,
    /// Who said or did it.
    pub sender: UserId,
    /// 0 outside groups.
    pub group_seq: u64,
    /// The sender's name at that time.
    pub sender_name: Bytes,
}

/// Why stored bytes are no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Written by a newer version.
    #[error("an event of format {0} needs a newer chatd: this one knows format {VERSION}")]
    Version(u8),
    /// Not what was written.
    #[error("a stored event is damaged: {0}")]
    Damaged(&'static str),
}

impl Header {
    /// The stored form.
    ///
    /// # Panics
    /// If the name is longer than 255 bytes: names are checked where they enter.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FIXED_BYTES + self.sender_name.len());
        out.put_u8(VERSION);
        out.put_u8(self.kind as u8);
        out.put_u8(self.flags);
        out.put_i64(self.msg_id.0);
        out.put_u64(self.conversation.0);
        out.put_u64(self.sender.0);
        out.put_u64(self.group_seq);
        out.put_u8(u8::try_from(self.sender_name.len()).expect("names are at most 128 bytes"));
        out.put_slice(&self.sender_name);
        out.freeze()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`EventError`] for a newer format or damaged bytes.
    pub fn decode(stored: &Bytes) -> Result<Self, EventError> {
        let version = *stored.first().ok_or(EventError::Damaged("no bytes"))?;
        if version != VERSION {
            return Err(EventError::Version(version));
        }
        if stored.len() < FIXED_BYTES
            || stored.len() != FIXED_BYTES + usize::from(stored[FIXED_BYTES - 1])
        {
            return Err(EventError::Damaged("wrong length"));
        }
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&stored[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        Ok(Self {
            kind: match stored[1] {
                1 => Kind::Message,
                2 => Kind::Own,
                3 => Kind::GroupChange,
                _ => return Err(EventError::Damaged("unknown kind")),
            },
            flags: stored[2],
            msg_id: MsgId(word(3).cast_signed()),
            conversation: ConversationId(word(11)),
            sender: UserId(word(19)),
            group_seq: word(27),
            sender_name: stored.slice(FIXED_BYTES..),
        })
    }

    /// The group of the conversation, if it is one.
    #[must_use]
    pub const fn group(&self) -> Option<GroupId> {
        self.conversation.group()
    }
}

/// An event read back: what sessions deliver. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the inbox; 0 if it was read elsewhere.
    pub inbox_seq: u64,
    /// Its header.
    pub header: Header,
    /// What it says.
    pub body: Body,
}

impl Event {
    /// Puts a stored row together.
    ///
    /// # Errors
    /// [`EventError`] for a newer format or damaged bytes.
    pub fn from_row(inbox_seq: u64, header: &Bytes, stored: &Bytes) -> Result<Self, EventError> {
        let body = body::open(stored).map_err(|_| EventError::Damaged("its body"))?;
        Ok(Self {
            inbox_seq,
            header: Header::decode(header)?,
            body,
        })
    }

    /// The event as a frame's part, decoded: for JSON, and for clients in process.
    ///
    /// # Errors
    /// [`EventError`] if the content is no protobuf of its scheme.
    pub fn to_frame(&self) -> Result<frame::Event, EventError> {
        let damaged = |_| EventError::Damaged("its content");
        let content = self.body.content.clone();
        let what = match self.body.scheme {
            body::SCHEME_GROUP_CHANGE => {
                frame::event::What::GroupChange(prost::Message::decode(content).map_err(damaged)?)
            }
            _ => frame::event::What::Message(prost::Message::decode(content).map_err(damaged)?),
        };
        Ok(frame::Event {
            inbox_seq: self.inbox_seq,
            conversation: self.header.conversation.0,
            msg_id: self.header.msg_id.0,
            ts_ms: self.header.msg_id.unix_ms(),
            sender: self.header.sender.0,
            sender_name: String::from_utf8_lossy(&self.header.sender_name).into_owned(),
            group_seq: self.header.group_seq,
            what: Some(what),
        })
    }

    /// Length of [`Event::encode_proto`]'s output.
    #[must_use]
    pub fn proto_len(&self) -> usize {
        let header = &self.header;
        let varint = |value: u64| {
            if value == 0 {
                0
            } else {
                1 + encoded_len_varint(value)
            }
        };
        let bytes = |len: usize| 1 + encoded_len_varint(len as u64) + len;
        let fixed = |value: u64| if value == 0 { 0 } else { 9 };
        varint(self.inbox_seq)
            + fixed(header.conversation.0)
            + varint(header.msg_id.0.cast_unsigned())
            + varint(header.msg_id.unix_ms())
            + fixed(header.sender.0)
            + if header.sender_name.is_empty() {
                0
            } else {
                bytes(header.sender_name.len())
            }
            + varint(header.group_seq)
            + bytes(self.body.content.len())
    }

    /// Writes the protobuf `Event` without decoding its content: the stored content
    /// *is* the protobuf of its part.
    pub fn encode_proto(&self, out: &mut impl BufMut) {
        let header = &self.header;
        put_varint(1, self.inbox_seq, out);
        put_fixed(2, header.conversation.0, out);
        put_varint(3, header.msg_id.0.cast_unsigned(), out);
        put_varint(4, header.msg_id.unix_ms(), out);
        put_fixed(5, header.sender.0, out);
        if !header.sender_name.is_empty() {
            encode_key(6, WireType::LengthDelimited, out);
            encode_varint(header.sender_name.len() as u64, out);
            out.put_slice(&header.sender_name);
        }
        put_varint(7, header.group_seq, out);
        let tag = if self.body.scheme == body::SCHEME_GROUP_CHANGE {
            9
        } else {
            8
        };
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(self.body.content.len() as u64, out);
        out.put_slice(&self.body.content);
    }
}

fn put_varint(tag: u32, value: u64, out: &mut impl BufMut) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn put_fixed(tag: u32, value: u64, out: &mut impl BufMut) {
    if value != 0 {
        encode_key(tag, WireType::SixtyFourBit, out);
        out.put_u64_le(value);
    }
}
