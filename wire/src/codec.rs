//! Frames as bytes: protobuf, and its canonical JSON twin.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};

use crate::{
    error::{Code, Refusal},
    event::{Event, EventError},
    frame::{self, Body, EventBatch, Frame},
};

mod scan;
mod spelling;

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
/// Texts are copied, byte strings of protobuf are slices of `bytes`. What a frame may
/// cost in memory is bounded before it is decoded, by the number of its fields and
/// their nesting ([`crate::limits::FRAME_FIELDS`], [`crate::limits::FRAME_DEPTH`]).
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
    let fields = scan::fields_allowed(limit);
    match encoding {
        Encoding::Proto => {
            scan::proto(bytes, fields).map_err(|error| malformed("protobuf", error))?;
            Frame::decode(bytes.clone()).map_err(|error| malformed("protobuf", error))
        }
        Encoding::Json => {
            scan::json(bytes, fields).map_err(|error| malformed("JSON", error))?;
            serde_json::from_slice(bytes)
                .or_else(|error| spelled_otherwise(bytes).ok_or(error))
                .map_err(|error| malformed("JSON", without_value(&error)))
        }
    }
}

/// A frame in a spelling that the mapping allows and the decoder does not take.
fn spelled_otherwise(bytes: &[u8]) -> Option<Frame> {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).ok()?;
    serde_json::from_slice(&spelling::plain(bytes)).ok()
}

fn malformed(encoding: &str, what: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        Code::Malformed,
        format!("not a {encoding} frame of chat.v1: {what}"),
    )
}

/// What a parser says, without the value that it met: that may be a token or a text,
/// and refusals are logged.
fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (error.classify(), text.rsplit_once(", expected ")) {
        (serde_json::error::Category::Data, Some((_, expected))) => format!("expected {expected}"),
        (serde_json::error::Category::Data, None) => format!(
            "a value has a wrong form, or a field comes twice, at line {} column {}",
            error.line(),
            error.column()
        ),
        _ => text,
    }
}

/// Writes one frame.
#[must_use]
pub fn encode(encoding: Encoding, frame: &Frame) -> Bytes {
    match encoding {
        Encoding::Proto => frame.encode_to_vec().into(),
        Encoding::Json => serde_json::to_vec(frame)
            .unwrap_or_else(|_| {
                serde_json::to_vec(&with_known_names(frame.clone()))
                    .expect("frames have string keys, no maps, and now only known enum values")
            })
            .into(),
    }
}

/// JSON has no name for an enum value of a later version (a role, a kind of change):
/// it is shown as the first, unspecified one.
fn with_known_names(mut frame: Frame) -> Frame {
    fn known<E: TryFrom<i32>>(value: &mut i32) {
        if E::try_from(*value).is_err() {
            *value = 0;
        }
    }
    fn members(members: &mut [frame::Member]) {
        for member in members {
            known::<frame::Role>(&mut member.role);
        }
    }
    fn event(event: &mut frame::Event) {
        if let Some(frame::event::What::GroupChange(change)) = &mut event.what {
            known::<frame::group_change::Kind>(&mut change.kind);
            members(&mut change.members);
        }
    }
    match &mut frame.body {
        Some(Body::Credit(credit)) => known::<frame::Lane>(&mut credit.lane),
        Some(Body::GroupRole(role)) => known::<frame::Role>(&mut role.role),
        Some(Body::GroupState(state)) => known::<frame::Role>(&mut state.my_role),
        Some(Body::MembersPage(page)) => members(&mut page.members),
        Some(Body::Presence(presence)) => known::<frame::PresenceState>(&mut presence.state),
        Some(Body::Event(batch)) => batch.events.iter_mut().for_each(event),
        Some(Body::HistoryPage(page)) => page.events.iter_mut().for_each(event),
        Some(Body::ConversationsPage(page)) => page
            .conversations
            .iter_mut()
            .filter_map(|conversation| conversation.last_event.as_mut())
            .for_each(event),
        _ => {}
    }
    frame
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
