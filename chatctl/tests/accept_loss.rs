//! What `chatctl inspect --accept-loss` does about a shard that is down for its segments: it
//! rebuilds what can be rebuilt, and lets a shard begin empty only for whoever repeats what
//! is lost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use logstore::{
    cache::BlockCache,
    engine::{self, Append, Options},
    key::{BodyRef, Key, Value, Write},
    log_index::LogEntry,
    replicas::ReplicaKey,
    segment::{MapLimits, SegmentFiles, SegmentOptions},
    shard::Shard,
    storage::{Storage, disk::Disk},
};

const SHARD: u16 = 7;
const ROWS: u64 = 20;

/// A directory with one flushed shard; the path of its segment.
fn directory(path: &Path) -> PathBuf {
    let storage: Arc<dyn Storage> = Arc::new(Disk::new(path).unwrap());
    let options = Options {
        file_bytes: 1 << 20,
        budget_bytes: 8 << 20,
        stop_free_bytes: 0,
        resume_free_bytes: 0,
        ..Options::default()
    };
    let mut log = engine::open(Arc::clone(&storage), options).unwrap().log;
    let key = ReplicaKey {
        shard: SHARD,
        replica: log.next_replica(),
    };
    log.commit(&[Append::CreateReplica { key }]).unwrap();
    let files = SegmentFiles::new(storage, BlockCache::new(0), MapLimits::default()).unwrap();
    let own = SegmentOptions::default();
    let mut shard = Shard::open(key, Default::default(), 0, &[], &files, own).unwrap();
    for position in 1..=ROWS + 1 {
        let entry = LogEntry {
            position,
            term: 1,
            kind: 0,
            payload: vec![3; 500].into(),
        };
        shard.log_mut().append([entry.clone()]).unwrap();
        let entries = vec![entry];
        log.commit(&[Append::Entries { key, entries }]).unwrap();
        if position > ROWS {
            break;
        }
        let body = BodyRef {
            position,
            offset: 0,
            len: 500,
            group: 1,
            order: position,
        };
        let value = Some(Value {
            header: "a row".into(),
            body: Some(body),
        });
        let key = Key::append(9, 32, position);
        shard.apply(position, vec![Write { key, value }]);
    }
    assert!(shard.freeze(ROWS + 1));
    let flushed = shard.flush_job().unwrap().run().unwrap();
    log.commit(&[Append::Segments {
        key,
        position: flushed.position,
        term: flushed.term,
        added: flushed.added(),
        removed: Vec::new(),
    }])
    .unwrap();
    log.prove().unwrap();
    path.join(flushed.segments()[0].path(key.replica))
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn accept(data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let data = data.to_str().unwrap();
    let output: Output = Command::new(env!("CARGO_BIN_EXE_chatctl"))
        .args(["inspect", data, "--accept-loss", "7", "--yes"])
        .args(more)
        .env_clear()
        .env("CHATCTL_STATE", data)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_damaged_footer_is_rebuilt_and_nothing_is_lost() {
    let data = tempfile::tempdir().unwrap();
    let segment = directory(data.path());
    let whole = fs::read(&segment).unwrap();
    flip(&segment, whole.len() - 50);
    let (code, text) = accept(data.path(), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing is lost"), "{text}");
    assert!(fs::read(&segment).unwrap() == whole);
    let (code, text) = accept(data.path(), &[]);
    assert!(code == Some(1) && text.contains("not damaged"), "{text}");
}

#[test]
fn a_shard_begins_empty_only_when_what_is_lost_is_repeated() {
    let data = tempfile::tempdir().unwrap();
    let segment = directory(data.path());
    flip(&segment, 100);
    for wrong in [&[][..], &["--begin-empty", "1"]] {
        let (code, text) = accept(data.path(), wrong);
        assert_eq!(code, Some(5), "{text}");
        assert!(
            text.contains("20 rows") && text.contains("block 0"),
            "{text}"
        );
        assert!(text.contains("--begin-empty 20"), "{text}");
    }
    assert!(!data.path().join("losses").exists(), "nothing was done");
    let (code, text) = accept(data.path(), &["--begin-empty", "20"]);
    assert!(code == Some(0) && text.contains("begins empty"), "{text}");
    assert!(data.path().join("losses/0007").exists());
    let (code, text) = accept(data.path(), &[]);
    assert!(code == Some(1) && text.contains("not damaged"), "{text}");
}
