//! What can go wrong, by what the caller does next.

use std::io;

use chat_wire::{error::Code, frame, ids::ClientId};

use crate::queue::QueueError;

/// The server's final word on a request or a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} ({number}): {message}", code.map_or("UNKNOWN", Code::name))]
pub struct Refused {
    /// The code, if this version knows it.
    pub code: Option<Code>,
    /// Its number.
    pub number: u32,
    /// Whether the same can succeed later.
    pub retryable: bool,
    /// When to try again, ms; 0 if the server does not know.
    pub retry_after_ms: u32,
    /// What happened and what to do.
    pub message: String,
}

impl From<frame::Error> for Refused {
    fn from(error: frame::Error) -> Self {
        Self {
            code: Code::from_number(error.code),
            number: error.code,
            retryable: error.retryable,
            retry_after_ms: error.retry_after_ms,
            message: error.message,
        }
    }
}

impl Refused {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            number: u32::from(code.number()),
            retryable: code.retryable(),
            retry_after_ms: 0,
            message: message.into(),
        }
    }
}

/// Why there is no session, or no longer one. None of these is tried again by the
/// client itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// A field of [`crate::Config`] has no valid value.
    #[error("the configuration of the client is wrong: {0}")]
    Config(String),
    /// The token could not be read.
    #[error("the token cannot be read: {0}: check the file it comes from")]
    Token(String),
    /// The queue's file.
    #[error(transparent)]
    Queue(QueueError),
    /// The certificates that are to be trusted cannot be used.
    #[error("no certificate to trust: {0}")]
    Trust(String),
    /// No session within [`crate::Config::connect_timeout`].
    #[error("no server at {endpoint} after {attempts} attempts: {last}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// How often.
        attempts: u32,
        /// What happened the last time.
        last: String,
    },
    /// The server refuses this device, token or version.
    #[error("the server refuses the session: {0}")]
    Refused(Refused),
    /// A newer session of the same device took over.
    #[error("another session of the same device took over: give this one a device of its own")]
    Replaced,
    /// The application closed the client.
    #[error("the client is closed")]
    Closed,
}

/// Why a message has no SENT. It is no longer in the queue, unless the client was
/// closed and the queue is on disk.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// [`crate::Client::try_send`] only: try later.
    #[error("{bound} messages wait for their answer already: wait for one of them")]
    QueueFull {
        /// The bound.
        bound: usize,
    },
    /// The message could not be written to the queue's file: it is not sent.
    #[error(transparent)]
    Queue(QueueError),
    /// The server's final word: sending the same again is useless.
    #[error("message {id} is refused: {refused}")]
    Refused {
        /// The message.
        id: ClientId,
        /// Why.
        refused: Refused,
    },
    /// [`crate::Client::abandon`] was called. It may have been committed all the same.
    #[error("message {id} was given up: whether it was committed is not known")]
    Abandoned {
        /// The message.
        id: ClientId,
    },
    /// The client ended first: whether the message was committed is not known. One
    /// with a queue on disk sends it again when it is opened the next time.
    #[error("the client ended before the message was answered")]
    Closed,
}

impl SendError {
    /// The server's code, if it was the server.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { refused, .. } => refused.code,
            _ => None,
        }
    }

    /// Whether the same message may be tried again later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::QueueFull { .. } | Self::Closed)
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// The server's final word.
    #[error("{0}")]
    Refused(Refused),
    /// No answer in time: whether a change was made is not known. Asking again is safe
    /// only with the same operation, so read the state first.
    #[error("no answer within {after_ms} ms: the server is unreachable or overloaded")]
    TimedOut {
        /// [`crate::Config::request_timeout`].
        after_ms: u64,
    },
    /// The client ended first.
    #[error("the client ended before the request was answered")]
    Closed,
    /// An answer of a kind that does not fit the request.
    #[error("the server answered with another kind of frame: it is not of this protocol version")]
    UnexpectedAnswer,
}

impl RequestError {
    /// The server's code, if it was the server.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refused) => refused.code,
            _ => None,
        }
    }
}

/// Why a connection was lost: the client connects again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(String),
    /// Closed by the server with an error code.
    #[error("closed by the server with code {code}: {reason}")]
    Closed { code: u32, reason: String },
    /// Closed without an error.
    #[error("the server closed the connection")]
    Ended,
}
