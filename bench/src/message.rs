//! The messages of the loads.

use std::time::Instant;

use bytes::Bytes;
use chat_wire::frame::{Body, Content, Frame, Send, Target, content, target};

/// A SEND of a text of `len` bytes. `stamp` stands at the end of the client id, so that
/// whoever gets the event knows when it was sent.
#[must_use]
pub(crate) fn send(req: u32, to: &target::To, len: usize, stamp: u64) -> Frame {
    let mut id = *uuid::Uuid::now_v7().as_bytes();
    // 56 bits; the byte before holds the variant of the UUID.
    id[9..].copy_from_slice(&stamp.to_be_bytes()[1..]);
    let send = Send {
        client_msg_id: Bytes::copy_from_slice(&id),
        to: Some(Target {
            to: Some(to.clone()),
        }),
        content: Some(Content {
            kind: Some(content::Kind::Text("x".repeat(len))),
        }),
        ..Send::default()
    };
    Frame::new(req, Body::Send(send))
}

/// Nanoseconds since `origin`, for [`send`]: unique per sender as long as two sends are
/// not in one nanosecond.
#[must_use]
pub(crate) fn stamp(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX) & ((1 << 56) - 1)
}

/// The stamp in a client id.
#[must_use]
pub(crate) fn stamp_of(client_id: &[u8]) -> Option<u64> {
    let bytes = client_id.get(9..16)?;
    Some(
        bytes
            .iter()
            .fold(0, |stamp, byte| stamp << 8 | u64::from(*byte)),
    )
}
