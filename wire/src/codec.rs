//! Frames as bytes: protobuf, and its canonical JSON twin.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};

use crate::{
    error::{Code, Refusal},
    event::{Event, EventError},
    frame::{Body, EventBatch, Frame},
};

/// How a session writes its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `chat.v1.proto`, and always on QUIC.
    #[default]
    Proto,
    /// `chat.v1.json`.
    Json,
}

/// Reads one frame of at most `limit` bytes.
///
/// A frame whose kind is unknown decodes to `body: None`: it is answered with
/// UNSUPPORTED, and the session goes on.
///
/// # Errors
/// FRAME_TOO_LARGE, or MALFORMED for bytes that are no frame.
pub fn decode(encoding: Encoding, bytes: &Bytes, limit: usize) -> Result<Frame, Refusal> {
    if bytes.len() > limit {
        return Err(Refusal::new(
            Code::FrameTooLarge,
            format!(
                "a frame of {} bytes; the limit is {limit}: send less at once",
                bytes.len()
            ),
        ));
    }
    match encoding {
        Encoding::Proto => Frame::decode(bytes.clone()).map_err(|error| {
            Refusal::new(
                Code::Malformed,
                format!("not a protobuf frame of chat.v1: {error}"),
            )
        }),
        Encoding::Json => serde_json::from_slice(bytes).map_err(|error| {
            Refusal::new(
                Code::Malformed,
                format!("not a JSON frame of chat.v1: {error}"),
            )
        }),
    }
}

/// Writes one frame.
#[must_use]
pub fn encode(encoding: Encoding, frame: &Frame) -> Bytes {
    match encoding {
        Encoding::Proto => frame.encode_to_vec().into(),
        Encoding::Json => serde_json::to_vec(frame)
            .expect("frames have string keys and no maps")
            .into(),
    }
}

/// Writes one EVENT frame from stored events, without decoding them where the
/// encoding allows.
///
/// # Errors
/// [`EventError`] if a stored content cannot be read (JSON only).
pub fn encode_events(encoding: Encoding, events: &[Event]) -> Result<Bytes, EventError> {
    match encoding {
        Encoding::Json => {
            let events = events
                .iter()
                .map(Event::to_frame)
                .collect::<Result<_, _>>()?;
            Ok(encode(encoding, &Body::Event(EventBatch { events }).into()))
        }
        Encoding::Proto => {
            let field = |len: usize| 1 + encoded_len_varint(len as u64) + len;
            let batch: usize = events.iter().map(|event| field(event.proto_len())).sum();
            let mut out = BytesMut::with_capacity(2 + encoded_len_varint(batch as u64) + batch);
            encode_key(EVENT_FIELD, WireType::LengthDelimited, &mut out);
            encode_varint(batch as u64, &mut out);
            for event in events {
                out.put_u8(1 << 3 | WireType::LengthDelimited as u8);
                encode_varint(event.proto_len() as u64, &mut out);
                event.encode_proto(&mut out);
            }
            Ok(out.freeze())
        }
    }
}

/// The field number of EVENT in `Frame`.
const EVENT_FIELD: u32 = 25;

#[cfg(test)]
mod tests;
