//! The chat daemon: edge, shard threads, admin port, metrics, settings.
//!
//! Everything that decides is in `chat-core`, everything that stores in `logstore`;
//! here are sockets, threads and clocks. The binary is a few lines over this library,
//! so that tests and tools reach the same parts.

pub mod admin;
pub mod clock;
pub mod descriptors;
pub mod edge;
pub mod folder;
pub mod metrics;
pub mod overload;
mod planted;
pub mod server;
pub mod settings;
pub mod shards;
pub mod watch;
