//! A storage engine for many ordered logs on one disk: a write-ahead log shared
//! by every shard (one sync for all of them), a memtable a shard that points into
//! that log, and immutable memory-mapped segments sorted by key.
//!
//! It knows shards, positions and keys. It knows nothing of chat, Raft or sockets,
//! has no threads and reads no clock: callers own the threads.

pub mod key;
pub mod log_index;
mod memtable;
mod mmap;
pub mod reads;
pub mod shard;
pub mod storage;
