//! The data directory of a node that does not run: looked at, compared, and written to as
//! another version, or a damaged disk, would have left it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use chat_core::{
    command::{BATCH_HEADER_BYTES, BatchBuilder, Command, Flush},
    placement::map::ShardMap,
    router,
};
use chat_wire::ids::UserId;
use logstore::{
    engine::{self, Append},
    log_index::{HardState, LogEntry},
    storage::disk::Disk,
};

/// A command kind that is not given out.
pub(crate) const UNKNOWN_KIND: u8 = 200;

/// The shard of a user in a node of the tests.
pub(crate) fn shard_of(name: &str) -> u16 {
    router::of_user(&ShardMap::even(4), UserId::of("default", name)).0
}

/// Every byte below a directory, but the number of the process that had it last.
pub(crate) fn bytes(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut folders = vec![data.to_owned()];
    let mut found = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("LOCK") {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn open(data: &Path) -> engine::Opened {
    let options = engine::Options {
        file_bytes: 4 << 20,
        budget_bytes: 32 << 20,
        stop_free_bytes: 0,
        resume_free_bytes: 0,
        ..engine::Options::default()
    };
    engine::open(Arc::new(Disk::new(data).unwrap()), options).unwrap()
}

/// The log of a shard.
pub(crate) fn entries(data: &Path, shard: u16) -> Vec<LogEntry> {
    open(data).replicas[&shard]
        .log
        .entries(0, u64::MAX, u64::MAX)
}

/// Puts an entry at a position, in place of it and all behind it, and calls it committed.
pub(crate) fn put(data: &Path, shard: u16, position: u64, payload: Bytes) {
    let mut opened = open(data);
    let replica = &opened.replicas[&shard];
    let (key, state) = (replica.key, replica.log.hard_state());
    let entry = LogEntry {
        position,
        term: state.term,
        kind: 0,
        payload,
    };
    let state = HardState {
        commit: position,
        ..state
    };
    let batch = [
        Append::Entries {
            key,
            entries: vec![entry],
        },
        Append::HardState { key, state },
    ];
    opened.log.commit(&batch).unwrap();
    opened.log.prove().unwrap();
}

/// Puts a command behind the last entry of a shard. Its position.
pub(crate) fn add(data: &Path, shard: u16, command: &Command) -> u64 {
    add_payload(data, shard, batch(command))
}

/// Puts a command that nobody knows behind the last entry of a shard. Its position.
pub(crate) fn add_unknown(data: &Path, shard: u16) -> u64 {
    let mut payload = batch(&Command::Flush(Flush {})).to_vec();
    payload[BATCH_HEADER_BYTES] = UNKNOWN_KIND;
    add_payload(data, shard, payload.into())
}

fn add_payload(data: &Path, shard: u16, payload: Bytes) -> u64 {
    let position = entries(data, shard).last().unwrap().position + 1;
    put(data, shard, position, payload);
    position
}

fn batch(command: &Command) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_ms = u64::try_from(now.as_millis()).unwrap();
    let mut batch = BatchBuilder::new(now_ms, ShardMap::even(4).epoch);
    batch.push(command, &[]);
    batch.finish()
}
