//! What clients and `chatd` say to each other: schema, identifiers, error codes,
//! limits and the two encodings. No I/O, no clock, no randomness.
//!
//! Read downwards: [`codec`] turns bytes into [`frame::Frame`]s; a frame carries
//! [`event`]s; both use [`limits`], [`error`] and [`ids`].

pub mod body;
pub mod codec;
pub mod error;
pub mod event;
pub mod frame;
pub mod ids;
pub mod limits;
