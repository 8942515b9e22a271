//! The decisions of `chatd`, without I/O: no clock, no socket, no disk, no thread,
//! no randomness. Time, salts and settings are arguments; effects are values that
//! the caller carries out.
//!
//! A [`session`] is stepped by its connection's task, a [`host`] by its shard
//! thread; they meet only in [`message`]. The daemon spreads them over cores, a
//! simulator can hold many nodes of them in one thread.

pub mod bucket;
pub mod command;
pub mod cost;
pub mod delivery;
pub mod host;
pub mod message;
pub mod placement;
pub mod presence;
pub mod replica;
pub mod router;
pub mod session;
pub mod shard;
pub mod store;

#[cfg(test)]
mod simulated;
