//! A session's frames, generated from `proto/chat.proto`.

#![allow(missing_docs, reason = "the schema documents them")]
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]

include!(concat!(env!("OUT_DIR"), "/chat.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/chat.v1.serde.rs"));

pub use frame::Body;

/// The schema as a serialized `FileDescriptorSet`: tools and tests list frames by it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chat.v1.descriptors"));

impl From<Body> for Frame {
    fn from(body: Body) -> Self {
        Self {
            req: 0,
            body: Some(body),
        }
    }
}

impl Frame {
    /// A request, or an answer to the request `req`.
    #[must_use]
    pub fn new(req: u32, body: Body) -> Self {
        Self {
            req,
            body: Some(body),
        }
    }
}
