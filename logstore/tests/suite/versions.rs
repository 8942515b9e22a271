//! Other versions: a directory of this one is opened for ever, and what a newer one
//! wrote stops this one with a word on what it needs.

use crate::workload::{contents, create, entries, entry, small};
use logstore::{
    engine::{Append, OpenError, open},
    log_index::HardState,
    recovery::dump,
    replicas::SegmentRef,
    storage::{Storage, simulated::SimulatedDisk},
    wal::frame::{self, FrameHeader, Record, RecordHeader, SKIPPABLE},
};
use std::{fs, path::PathBuf, sync::Arc};

/// Samples are kept without their trailing zeros.
const SAMPLES: [(&str, &str, usize); 3] = [
    ("manifest-0", "log-v1.manifest-0", 64 << 10),
    ("manifest-1", "log-v1.manifest-1", 64 << 10),
    ("wal/00000000.wal", "log-v1.wal", 64 << 10),
];

fn sample(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(name)
}

/// Two shards, entries, a hard state, a flush, a replica retired.
fn written() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let one = create(&mut opened.log, 1);
    let two = create(&mut opened.log, 2);
    let gone = create(&mut opened.log, 9);
    let state = HardState {
        term: 4,
        vote: 11,
        commit: 3,
    };
    opened
        .log
        .commit(&[
            entries(one, 1..=4, 2),
            Append::HardState { key: one, state },
        ])
        .unwrap();
    let added = vec![SegmentRef {
        id: 5,
        meta: "a segment".into(),
    }];
    let flush = Append::Segments {
        key: one,
        position: 3,
        term: 2,
        added,
        removed: Vec::new(),
    };
    let compact = Append::CompactedTo {
        key: one,
        position: 2,
        term: 2,
    };
    opened.log.commit(&[flush, compact]).unwrap();
    opened
        .log
        .commit(&[entries(two, 1..=2, 1), Append::RetireReplica { key: gone }])
        .unwrap();
    opened.log.prove().unwrap();
    disk.kill();
    disk
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    bytes.truncate(end);
    bytes
}

#[test]
#[ignore = "writes the samples of a new version, once"]
fn write_the_samples() {
    let disk = written();
    for (path, name, _) in SAMPLES {
        fs::write(sample(name), trimmed(disk.bytes(path).unwrap())).unwrap();
    }
}

#[test]
fn a_directory_of_version_1_is_opened_for_ever() {
    let disk = SimulatedDisk::new();
    disk.create_dir("wal").unwrap();
    for (path, name, len) in SAMPLES {
        let mut bytes = fs::read(sample(name)).unwrap();
        bytes.resize(len, 0);
        disk.create(path).unwrap().write_at(&bytes, 0).unwrap();
    }
    let dumped = dump(&disk, &small()).unwrap().unwrap();
    assert_eq!(dumped.frames.len(), 7);
    assert!(dumped.frames.iter().all(|frame| frame.counts));
    let opened = open(Arc::new(disk), small()).unwrap();
    assert!(opened.damaged.is_empty());
    let one = &opened.replicas[&1];
    assert_eq!(contents(&one.log), [entry(1, 3, 2), entry(1, 4, 2)]);
    assert_eq!(
        one.log.hard_state(),
        HardState {
            term: 4,
            vote: 11,
            commit: 3
        }
    );
    assert_eq!(
        (one.flushed, &one.segments[0].meta[..]),
        ((3, 2), &b"a segment"[..])
    );
    assert_eq!(opened.replicas[&2].log.last_position(), 2);
    assert_eq!((opened.replicas.len(), opened.log.next_replica()), (2, 3));
}

#[test]
fn this_version_still_writes_the_bytes_of_its_samples() {
    let disk = written();
    for (path, name, _) in SAMPLES {
        assert_eq!(
            trimmed(disk.bytes(path).unwrap()),
            fs::read(sample(name)).unwrap(),
            "{path}"
        );
    }
}

/// Puts a frame of one's own behind the sample's last.
fn with_record(flags: u8) -> SimulatedDisk {
    let disk = written();
    let last = dump(&disk, &small())
        .unwrap()
        .unwrap()
        .frames
        .pop()
        .unwrap();
    let block = last.header.block + 1;
    let header = FrameHeader {
        epoch: last.header.epoch,
        lsn: last.header.lsn + 1,
        previous_lsn: last.header.lsn,
        synced_lsn: last.header.lsn,
        block,
        log_id: last.header.log_id,
        ..FrameHeader::default()
    };
    let record = RecordHeader {
        shard: 1,
        kind: 99,
        flags,
        needs: 7,
        ..RecordHeader::default()
    };
    let mut bytes = Vec::new();
    frame::encode(
        &mut bytes,
        header,
        &[Record {
            header: record,
            body: b"?",
        }],
    );
    disk.overwrite("wal/00000000.wal", block as usize * frame::BLOCK, &bytes)
        .unwrap();
    disk
}

#[test]
fn a_record_of_an_unknown_kind_stops_with_the_format_it_needs() {
    let error = open(Arc::new(with_record(0)), small()).err().unwrap();
    assert!(
        matches!(
            error,
            OpenError::NewerKind {
                kind: 99,
                needs: 7,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("format 7"));
}

#[test]
fn a_record_that_may_be_skipped_is_skipped() {
    let opened = open(Arc::new(with_record(SKIPPABLE)), small()).unwrap();
    assert!(opened.damaged.is_empty());
    assert_eq!(opened.replicas.len(), 2);
}
