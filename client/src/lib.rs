//! The Rust client of chatd: connects, resumes, sends, acknowledges.
//!
//! [`Client::connect`] returns after WELCOME; from then on a task of its own keeps
//! the session: it connects again with growing, jittered pauses, resumes where the
//! device stopped, repeats what was not answered in the order of each conversation,
//! and drops events that came twice. What comes from the server arrives at
//! [`Events`]; what the application says goes through [`Client`], which is cheap to
//! clone.
//!
//! `cargo run -p chat-client --example hello`, beside a `chatd --dev`:
//!
#![doc = concat!("```no_run\n", include_str!("../examples/hello.rs"), "```")]
//!
//! # Bounds
//! Messages not answered: [`Config::queue`], then [`Client::send`] waits. Events not
//! taken: [`Config::event_buffer`], then the server holds the rest back. Requests not
//! answered: [`client::MAX_REQUESTS`], then they wait.
//!
//! # Limits
//! One session a client; a second one of the same device ends the first
//! ([`ConnectError::Replaced`]). No 0-RTT and no datagrams.

pub mod admin;
mod arrivals;
mod backoff;
pub mod client;
mod config;
mod driver;
mod error;
mod queue;
mod session;
mod shared;
mod transport;

pub use arrivals::{Connected, Events, Incoming, TransportKind};
pub use backoff::Backoff;
pub use chat_wire::{codec::Encoding, error::Code, frame, ids};
pub use client::{Client, HistoryFrom, Pending, Statistics};
pub use config::{
    Config, Content, Endpoint, EndpointError, Message, Queue, Start, State, Target, Token, Trust,
};
pub use error::{ConnectError, Refused, RequestError, SendError};
pub use queue::QueueError;
pub use transport::Network;
