//! The edge from outside: a real `chatd`, real sockets, and clients that are not ours
//! (tokio-websockets, quinn, bare TCP).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod admin;
mod bounds;
mod client;
mod node;
mod quic;
mod start;
mod tokens;
mod websocket;
