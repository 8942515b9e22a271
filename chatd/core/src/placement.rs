//! Which shard owns which inbox keys.

pub mod map;
