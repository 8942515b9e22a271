//! Stable error codes. The range says who is at fault, the code what to do.
//!
//! 1xx frame · 2xx authentication · 3xx authorization · 4xx request · 5xx conflict ·
//! 6xx server. A WebSocket that is closed for an error closes with 4000 + code,
//! a QUIC connection with the code itself.

use crate::frame;

macro_rules! codes {
    ($(#[doc = $doc:literal] $name:ident = $code:literal, $text:literal, $retryable:literal;)*) => {
        /// What can go wrong between a client and the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $doc] $name = $code,)*
        }

        impl Code {
            /// Every code, rising.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code's name in documents and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means, as docs/protocol.md says it.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $doc.trim_ascii(),)* }
            }

            /// Whether the same request can succeed later, unchanged.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }
        }
    };
}

codes! {
    /// Bytes that are no frame, or text that is not UTF-8 or not JSON.
    Malformed = 100, "MALFORMED", false;
    /// Longer than the frame limit.
    FrameTooLarge = 101, "FRAME_TOO_LARGE", false;
    /// A frame, version or encoding this server does not know.
    Unsupported = 102, "UNSUPPORTED", false;
    /// HELLO did not come first, came twice, or a frame came that only servers send.
    UnexpectedFrame = 103, "UNEXPECTED_FRAME", false;
    /// HELLO did not arrive in time.
    HelloTimeout = 104, "HELLO_TIMEOUT", true;
    /// No frame and no answer to a heartbeat for too long.
    Silent = 105, "SILENT", true;

    /// The token is missing, unreadable, not signed by a known key, or has claims of a wrong type.
    BadToken = 200, "BAD_TOKEN", false;
    /// The token's time is over.
    TokenExpired = 201, "TOKEN_EXPIRED", false;
    /// The token is for another audience.
    WrongAudience = 202, "WRONG_AUDIENCE", false;
    /// REAUTH named another user, app or device.
    IdentityChanged = 203, "IDENTITY_CHANGED", false;
    /// The name's id belongs to another name already.
    NameCollision = 204, "NAME_COLLISION", false;

    /// Not a member, or no longer one.
    NotMember = 300, "NOT_MEMBER", false;
    /// The role does not allow it.
    NotAllowed = 301, "NOT_ALLOWED", false;

    /// A field is missing or has no valid value.
    InvalidArgument = 400, "INVALID_ARGUMENT", false;
    /// A text without a character, or no content.
    EmptyContent = 401, "EMPTY_CONTENT", false;
    /// Longer than the content limit.
    ContentTooLarge = 402, "CONTENT_TOO_LARGE", false;
    /// No such user, group or member here: also another app's.
    NotFound = 404, "NOT_FOUND", false;
    /// The id is dated more than ten minutes ahead of the server.
    ExpiredId = 405, "EXPIRED_ID", false;
    /// The id is older than the dedup floor: whether it was accepted is no longer known.
    TooOld = 406, "TOO_OLD", false;
    /// More members, mentions, subscriptions or devices than allowed.
    LimitExceeded = 407, "LIMIT_EXCEEDED", false;
    /// An ACK beyond what was delivered, or a number that cannot be.
    OutOfRange = 408, "OUT_OF_RANGE", false;

    /// The same id came before with another body.
    Conflict = 500, "CONFLICT", false;
    /// An earlier SEND of this conversation failed: send that one again first.
    OutOfOrder = 501, "OUT_OF_ORDER", true;
    /// A newer session of the same device took over.
    Replaced = 502, "REPLACED", false;
    /// The last owner cannot leave or step down while others remain.
    LastOwner = 503, "LAST_OWNER", false;

    /// A queue is full: try again.
    Overloaded = 600, "OVERLOADED", true;
    /// Too many requests: wait for `retry_after_ms`.
    RateLimited = 601, "RATE_LIMITED", true;
    /// The disk is full: writes wait until space is freed.
    DiskFull = 602, "DISK_FULL", true;
    /// The shard has no leader here now.
    Unavailable = 603, "UNAVAILABLE", true;
    /// The shard map changed while the request was on its way.
    WrongShard = 604, "WRONG_SHARD", true;
    /// The server is going away: connect again.
    GoingAway = 605, "GOING_AWAY", true;
    /// Behind for too long without credit or ACK: connect again and resume.
    SlowConsumer = 606, "SLOW_CONSUMER", true;
    /// No place for another connection.
    TooManyConnections = 607, "TOO_MANY_CONNECTIONS", true;
    /// Stored data could not be read or verified; the operators are told.
    Damaged = 608, "DAMAGED", true;
    /// The client's cursor is ahead of this replica: connect again.
    StaleLeader = 609, "STALE_LEADER", true;
    /// A defect of the server; its log says more.
    Internal = 699, "INTERNAL", true;
}

impl Code {
    /// The stable number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code of a number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| u32::from(code.number()) == number)
    }

    /// The close code of a WebSocket that ends for this reason.
    #[must_use]
    pub const fn websocket_close(self) -> u16 {
        4000 + self.number()
    }
}

/// A refusal on its way to a client: a code, and a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} ({}): {message}", code.name(), code.number())]
pub struct Refusal {
    /// What happened.
    pub code: Code,
    /// For people. Never holds a token or a payload.
    pub message: String,
    /// When to try again, if the server knows.
    pub retry_after_ms: Option<u32>,
}

impl Refusal {
    /// A refusal without a time.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// The frame that tells the client.
    #[must_use]
    pub fn to_frame(&self, req: u32) -> frame::Frame {
        frame::Frame {
            req,
            body: Some(frame::Body::Error(frame::Error {
                code: u32::from(self.code.number()),
                retryable: self.code.retryable(),
                retry_after_ms: self.retry_after_ms.unwrap_or(0),
                message: self.message.clone(),
                client_msg_id: bytes::Bytes::new(),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_lead_back_to_their_codes() {
        assert!(
            Code::ALL
                .windows(2)
                .all(|pair| pair[0].number() < pair[1].number())
        );
        for code in Code::ALL {
            assert_eq!(Code::from_number(u32::from(code.number())), Some(*code));
        }
        assert_eq!(Code::from_number(999), None);
    }
}
