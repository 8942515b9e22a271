//! Panics that tests plant, to see what becomes of a node that has a defect.
//!
//! The environment variable `CHATD_PLANTED_PANIC` says where: `thread:NAME` when that
//! thread asks for work, `apply:SHARD:POSITION` when that entry is applied,
//! `user:NAME` when that user of the app `default` sends a frame after HELLO. Only
//! builds with debug assertions look at it: a release has no such places.

use std::fmt::Display;

use chat_wire::ids::{ShardId, UserId};

/// What the variable says of this kind of place.
#[cfg(debug_assertions)]
fn planted(kind: &str) -> Option<&'static str> {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("CHATD_PLANTED_PANIC").ok());
    PLANTED.as_deref()?.strip_prefix(kind)?.strip_prefix(':')
}

/// A thread asks for work.
#[inline]
pub(crate) fn thread(role: impl Display) {
    #[cfg(debug_assertions)]
    if planted("thread").is_some_and(|name| name == role.to_string()) {
        panic!("planted in a thread");
    }
    #[cfg(not(debug_assertions))]
    let _ = role;
}

/// An entry is applied.
#[inline]
pub(crate) fn apply(shard: ShardId, position: u64) {
    #[cfg(debug_assertions)]
    if planted("apply").is_some_and(|at| at == format!("{}:{position}", shard.0)) {
        panic!("planted in an entry");
    }
    #[cfg(not(debug_assertions))]
    let _ = (shard, position);
}

/// A session gets a frame from its client.
#[inline]
pub(crate) fn frame(user: Option<UserId>) {
    #[cfg(debug_assertions)]
    if planted("user").is_some_and(|name| user == Some(UserId::of("default", name))) {
        panic!("planted in a connection");
    }
    #[cfg(not(debug_assertions))]
    let _ = user;
}
