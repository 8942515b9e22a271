//! What a session tells its driver.

use chat_wire::{
    frame::{self, Body},
    ids::{ClientId, SessionId, UserId},
};

use crate::Refused;

/// What the session wants done, in this order.
#[derive(Debug)]
pub(crate) enum Output {
    /// The session is attached; events follow after `cursor`.
    Attached(Attached),
    Events(Vec<frame::Event>),
    /// Events up to `.1` come no more; the first still readable is `.0`.
    Gap(u64, u64),
    Receipt {
        receipt: frame::Receipt,
        marks_version: u64,
    },
    MarkConfirmed {
        conversation: u64,
        seen_up_to: i64,
    },
    Presence(frame::Presence),
    Typing(frame::Typing),
    TokenExpiring {
        in_ms: u64,
    },
    Sent {
        ticket: u64,
        id: ClientId,
        sent: frame::Sent,
    },
    SendRefused {
        ticket: u64,
        id: ClientId,
        refused: Refused,
    },
    Abandoned {
        ticket: u64,
        id: ClientId,
    },
    Answered {
        ticket: u64,
        answer: Result<Body, Refused>,
    },
    /// Connect again at a random time within this.
    Goaway {
        within_ms: u64,
        endpoint: String,
    },
    /// The connection is of no more use: connect again.
    Lost {
        reason: String,
        retry_after_ms: u64,
    },
    /// The server does not want this device; connecting again is useless.
    Refused(Refused),
    Replaced,
}

/// See [`Output::Attached`].
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
    pub(crate) name: String,
    pub(crate) limits: frame::Limits,
    pub(crate) generation: u32,
    pub(crate) inbox_head: u64,
    pub(crate) server_time_ms: u64,
    pub(crate) cursor: u64,
    pub(crate) marks_version: u64,
}

/// Counted since the client began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) resent: u64,
    pub(crate) resubmitted: u64,
    pub(crate) answered_twice: u64,
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
}
