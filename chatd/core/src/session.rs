//! One device's session, from HELLO to GOAWAY: checks what the client says, routes
//! it to shards, and writes what they answer. Stepped by the connection's task.

use bytes::Bytes;
use chat_wire::{error::Refusal, frame::Frame};

use crate::message::{Identity, ToSession, ToShard};

/// What happens to a session.
#[derive(Debug)]
pub enum Input {
    /// A frame came.
    Frame(Frame),
    /// Bytes came that are no frame: the session tells the client and ends.
    BadFrame(Refusal),
    /// The answer to [`Output::Authenticate`].
    Authenticated(Result<Identity, Refusal>),
    /// A host says something.
    Host(ToSession),
    /// A [`Output::Submit`] found the host's queue full; it comes back.
    Overloaded(ToShard),
    /// The server drains: GOAWAY, then the session goes on until the client leaves
    /// or the daemon closes it.
    Drain {
        /// The client reconnects at a random time within this.
        reconnect_within_ms: u32,
    },
    /// Time has passed: the deadline of [`Session::deadline_ms`] is due.
    Tick,
}

/// What a session wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Write this frame. Bulk frames (pages) may go on a stream of their own.
    Write {
        /// The encoded frame.
        bytes: Bytes,
        /// A PAGE.
        bulk: bool,
    },
    /// Check this token and answer with [`Input::Authenticated`].
    Authenticate(String),
    /// Hand this to the host of its shard.
    Submit(ToShard),
    /// End the connection after what was written. A WebSocket closes with 1000 for
    /// none, else with 4000 + code; QUIC with the code.
    Close(Option<Refusal>),
}
