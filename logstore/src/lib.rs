//! A storage engine for many ordered logs on one disk: a write-ahead log shared
//! by every shard (one sync for all of them), a memtable a shard that points into
//! that log, and immutable memory-mapped segments sorted by key.
//!
//! It knows shards, positions and keys. It knows nothing of chat, Raft or sockets,
//! reads no clock and has no threads: callers own them (only the scan of a start uses
//! a few, as many as it is told).

pub mod cache;
pub mod engine;
pub mod flush;
mod hot;
pub mod inspect;
pub mod key;
pub mod log_index;
pub mod loss;
mod manifest;
mod memtable;
mod mmap;
pub mod plant;
pub mod reads;
pub mod recovery;
pub mod replicas;
pub mod segment;
pub mod shard;
pub mod storage;
pub mod wal;
