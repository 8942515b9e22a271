//! A storage engine for many ordered logs on one disk: a write-ahead log shared
//! by every shard (one sync for all of them), a memtable a shard that points into
//! that log, and immutable memory-mapped segments sorted by key.
//!
//! It knows shards, positions and keys. It knows nothing of chat, Raft or sockets,
//! reads no clock and has no threads: callers own them (only the scan of a start uses
//! a few, as many as it is told).
//!
//! # Example: what sensors measured
//! One shard; an inbox for each sensor, an append family for what it measured, and a
//! state row for what it is called. The caller orders the entries (here there is one
//! writer; in a cluster, Raft does) and says what each of them writes.
//! ```
//! use logstore::{
//!     cache::BlockCache,
//!     engine::{self, Append, Options},
//!     key::{BodyRef, Key, Order, Value, Write},
//!     log_index::LogEntry,
//!     replicas::ReplicaKey,
//!     segment::{MapLimits, SegmentFiles, SegmentOptions},
//!     shard::Shard,
//!     storage::{Storage, disk::Disk},
//! };
//! use std::sync::Arc;
//!
//! const NAME: u8 = 0; // a state family
//! const MEASURED: u8 = 32; // an append family
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let storage: Arc<dyn Storage> = Arc::new(Disk::new(directory.path())?);
//! let options = Options {
//!     file_bytes: 1 << 20,
//!     budget_bytes: 8 << 20,
//!     stop_free_bytes: 0,
//!     ..Options::default()
//! };
//! let mut log = engine::open(storage.clone(), options.clone())?.log;
//! let key = ReplicaKey { shard: 1, replica: log.next_replica() };
//! log.commit(&[Append::CreateReplica { key }])?;
//!
//! let cache = BlockCache::new(8 << 20);
//! let files = SegmentFiles::new(storage.clone(), cache, MapLimits::default())?;
//! let segments = SegmentOptions::default();
//! let mut shard = Shard::open(key, Default::default(), 0, &[], &files, segments)?;
//!
//! // Entry 1: sensor 7 has measured something, and has a name.
//! let entry = |position, payload: &'static [u8]| LogEntry {
//!     position,
//!     term: 1,
//!     kind: 0,
//!     payload: payload.into(),
//! };
//! let entries = vec![entry(1, b"21.5 degrees")];
//! shard.log_mut().append(entries.clone())?;
//! log.commit(&[Append::Entries { key, entries }])?; // durable from here on
//! let body = BodyRef { position: 1, offset: 0, len: 12, group: 7, order: 1 };
//! let row = |header: &'static [u8], body| Some(Value { header: header.into(), body });
//! shard.apply(
//!     1,
//!     vec![
//!         Write { key: Key::append(7, MEASURED, 1), value: row(b"noon", Some(body)) },
//!         Write { key: Key::new(7, NAME, b""), value: row(b"roof", None) },
//!     ],
//! );
//!
//! // Entry 2 is a flush: what was applied before it becomes a segment.
//! let entries = vec![entry(2, b"")];
//! shard.log_mut().append(entries.clone())?;
//! log.commit(&[Append::Entries { key, entries }])?;
//! assert!(shard.freeze(2));
//! let job = shard.flush_job().expect("something was frozen");
//! let flushed = std::thread::spawn(|| job.run()).join().expect("it does not panic")?;
//! log.commit(&[Append::Segments {
//!     key,
//!     position: flushed.position,
//!     term: flushed.term,
//!     added: flushed.added(),
//!     removed: Vec::new(),
//! }])?;
//! shard.install(flushed);
//!
//! // After a restart everything is there.
//! drop((log, shard));
//! let mut opened = engine::open(storage, options)?;
//! let found = opened.replicas.remove(&1).expect("it was created");
//! let flushed = found.flushed.0;
//! let shard = Shard::open(key, found.log, flushed, &found.segments, &files, segments)?;
//! let (first, last) = (Key::first(7, MEASURED), Key::last(7, MEASURED));
//! let newest = shard.range(&first, &last, Order::Falling, 10)?;
//! assert_eq!(newest[0].1.header, "noon");
//! assert_eq!(newest[0].1.body.as_deref(), Some(&b"21.5 degrees"[..]));
//! assert_eq!(shard.get(&Key::new(7, NAME, b""))?.expect("it has a name").header, "roof");
//! # Ok(())
//! # }
//! ```

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
mod opening;
pub mod plant;
pub mod reads;
pub mod recovery;
pub mod replicas;
pub mod segment;
pub mod shard;
pub mod storage;
pub mod wal;
