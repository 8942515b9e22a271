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
    let storage: Arc<dyn Storage> = Arc::new(Disk::new(path).expect("a test's own step"));
    let options = Options {
        file_bytes: 1 << 20,
        budget_bytes: 8 << 20,
        stop_free_bytes: 0,
        resume_free_bytes: 0,
        ..Options::default()
    };
    let mut log = engine::open(Arc::clone(&storage), options)
        .expect("a test's own step")
        .log;
    let key = ReplicaKey {
        shard: SHARD,
        replica: log.next_replica(),
    };
    log.commit(&[Append::CreateReplica { key }])
        .expect("a test's own step");
    let files = SegmentFiles::new(storage, BlockCache::new(0), MapLimits::default())
        .expect("a test's own step");
    let own = SegmentOptions::default();
    let mut shard =
        Shard::open(key, Default::default(), 0, &[], &files, own).expect("a test's own step");
    for position in 1..=ROWS + 1 {
        let entry = LogEntry {
            position,
            term: 1,
            kind: 0,
            payload: vec![3; 500].into(),
        };
        shard
            .log_mut()
            .append([entry.clone()])
            .expect("a test's own step");
        let entries = vec![entry];
        log.commit(&[Append::Entries { key, entries }])
            .expect("a test's own step");
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
    let flushed = shard
        .flush_job()
        .expect("a test's own step")
        .run()
        .expect("a test's own step");
    log.commit(&[Append::Segments {
        key,
        position: flushed.position,
        term: flushed.term,
        added: flushed.added(),
        removed: Vec::new(),
    }])
    .expect("a test's own step");
    log.prove().expect("a test's own step");
    path.join(flushed.segments()[0].path(key.replica))
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a test's own step");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("a test's own step");
}

fn accept(data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let data = data.to_str().expect("a test's own step");
    let output: Output = Command::new(env!("CARGO_BIN_EXE_chatctl"))
        .args(["inspect", data, "--accept-loss", "7", "--yes"])
        .args(more)
        .env_clear()
        .env("CHATCTL_STATE", data)
        .output()
        .expect("a test's own step");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8(text).expect("a test's own step"),
    )
}

#[test]
fn a_damaged_footer_is_rebuilt_and_nothing_is_lost() {
    let data = tempfile::tempdir().expect("a test's own step");
    let segment = directory(data.path());
    let whole = fs::read(&segment).expect("a test's own step");
    flip(&segment, whole.len() - 50);
    let (code, text) = accept(data.path(), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing is lost"), "{text}");
    assert!(fs::read(&segment).expect("a test's own step") == whole);
    let (code, text) = accept(data.path(), &[]);
    assert!(code == Some(1) && text.contains("not damaged"), "{text}");
}

#[test]
fn a_shard_begins_empty_only_when_what_is_lost_is_repeated() {
    let data = tempfile::tempdir().expect("a test's own step");
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
