//! The edge from outside: a real `chatd`, real sockets, and clients that are not ours
//! (tokio-websockets, quinn, bare TCP).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod admin;
mod bounds;
mod budget;
mod client;
mod descriptors;
mod full_disk;
mod newcomers;
mod newer;
mod node;
mod panics;
mod quic;
mod requests;
mod secrets;
mod start;
mod stopped;
mod tokens;
mod websocket;
