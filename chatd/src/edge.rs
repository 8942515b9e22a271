//! Where clients come in: sockets, TLS, tokens, admission, and the one connection
//! that drives a session behind both transports.
//!
//! A connection is one task. What shard threads say to it waits in its mailbox
//! ([`outbound`]), bounded; what it says to them goes through a bounded queue that
//! may refuse. Nothing else is shared.

pub mod admission;
pub mod auth;
pub mod connection;
mod deliveries;
pub mod heartbeat;
pub mod listeners;
mod meter;
pub mod outbound;
pub mod quic;
pub mod tls;
pub mod transport;
pub mod websocket;
mod window;
