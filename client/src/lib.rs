//! The Rust client of chatd: connects, resumes, sends, acknowledges.
//!
//! [`Client::connect`] returns after WELCOME; from then on a task of its own keeps
//! the session: it connects again with growing, jittered pauses, resumes where the
//! device stopped, repeats what was not answered in the order of each conversation,
//! and drops events that came twice. What comes from the server arrives at
//! [`Events`]; what the application says goes through [`Client`], which is cheap to
//! clone.
//!
//! ```no_run
//! use chat_client::{Client, Config, Content, Incoming, Start, Target, Token};
//! use chat_client::{frame::event::What, ids::ConversationId};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = Config::new("ws://127.0.0.1:7443".parse()?, Token::dev("alice"), 1);
//! config.start = Start::From(0); // everything that waits in the inbox
//! let (client, mut events) = Client::connect(config).await?;
//! println!("connected as {}", client.name());
//!
//! // Queued at once; the pending message is answered when it is durable.
//! let pending = client.send(Target::name("bob"), Content::text("hello")).await?;
//! let sent = pending.await?;
//! println!("message {} is committed", sent.msg_id);
//!
//! while let Some(incoming) = events.recv().await {
//!     match incoming {
//!         Incoming::Event(event) => {
//!             if let Some(What::Message(message)) = &event.what {
//!                 println!("{}: {:?}", event.sender_name, message.content);
//!             }
//!             client.mark(ConversationId(event.conversation), event.msg_id); // SEEN
//!         }
//!         Incoming::Receipt(receipt) => println!("seen up to {}", receipt.seen_up_to),
//!         Incoming::Closed(error) => return Err(error.into()),
//!         other => println!("{other:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
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
