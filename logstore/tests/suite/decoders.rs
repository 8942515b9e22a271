//! Whatever bytes stand on the disk, what reads them answers or says what is wrong: it
//! never panics, and never takes more memory than the bytes can mean. The functions are what
//! a fuzzer calls; here they get samples of every format with bytes changed, cut and
//! repeated, and the cases that were found before (`tests/proptest-regressions`).

use crate::workload::small;
use logstore::{
    engine::open,
    inspect,
    recovery::dump,
    segment::SegmentMeta,
    storage::{Storage, simulated::SimulatedDisk},
    wal::frame,
};
use proptest::prelude::*;
use std::sync::Arc;

/// The first bytes of a file as a frame.
fn frames(bytes: &[u8]) {
    let mut records = Vec::new();
    if let Ok(header) = frame::decode(bytes, &mut records) {
        let lengths: u64 = records.iter().map(|record| u64::from(record.length)).sum();
        assert_eq!(lengths, u64::from(header.body_bytes));
        assert_eq!(records.len(), header.count as usize);
    }
}

fn disk(files: &[(&str, &[u8])]) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    for folder in ["wal", "segments"] {
        disk.create_dir(folder).unwrap();
    }
    for (path, bytes) in files {
        disk.create(path).unwrap().write_at(bytes, 0).unwrap();
    }
    disk
}

/// A directory whose slots of the manifest and log file hold these bytes.
fn directory(slots: [&[u8]; 2], log: &[u8]) {
    let disk = disk(&[
        ("manifest-0", slots[0]),
        ("manifest-1", slots[1]),
        ("wal/00000000.wal", log),
    ]);
    drop(dump(&disk, &small()));
    if let Ok(opened) = open(Arc::new(disk.clone()), small()) {
        // What was opened once is found again: nothing of it was made up for the moment.
        let found = |opened: &logstore::engine::Opened| -> Vec<_> {
            let replicas = opened.replicas.values();
            replicas
                .map(|found| (found.key, found.log.last_position()))
                .collect()
        };
        let first = found(&opened);
        drop(opened);
        disk.kill();
        let again = open(Arc::new(disk), small()).unwrap();
        assert_eq!(found(&again), first);
    }
}

/// A segment file.
fn segment(bytes: &[u8]) {
    let path = "segments/0007-00000003-000000000000002a-000-0.seg";
    let disk = disk(&[(path, bytes)]);
    drop(inspect::describe(&disk, path));
    drop(inspect::verify(&disk, path));
    let storage: Arc<dyn Storage> = Arc::new(disk);
    drop(inspect::rows(&storage, path, |_, _| {}));
    drop(inspect::inboxes(&storage, path));
}

const SLOT: &[u8] = include_bytes!("../samples/log-v1.manifest-0");
const LOG: &[u8] = include_bytes!("../samples/log-v1.wal");
const SEGMENT: &[u8] = include_bytes!("../samples/segment-v1.seg");

/// A sample with a few changes.
fn changed(sample: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..6_u8);
    prop::collection::vec(change, 0..6).prop_map(move |changes| {
        let mut bytes = sample.to_vec();
        for (at, byte, what) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.truncate(at),
                3 => drop(bytes.splice(at..at, [byte; 8])),
                // Lengths and counts at their ends.
                4 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                _ => {
                    let piece = bytes[at..].iter().take(64).copied().collect::<Vec<_>>();
                    let to = usize::from(byte) * bytes.len() / 256;
                    drop(bytes.splice(to..to, piece));
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_bytes_of_a_frame_are_a_panic(
        bytes in prop_oneof![changed(LOG), prop::collection::vec(any::<u8>(), 0..300)],
    ) {
        frames(&bytes);
    }

    #[test]
    fn no_bytes_of_a_log_or_a_manifest_are_a_panic(
        first in changed(SLOT), second in changed(SLOT), log in changed(LOG),
    ) {
        let mut log = log;
        log.resize(64 << 10, 0);
        directory([&first, &second], &log);
    }

    #[test]
    fn no_bytes_of_a_segment_are_a_panic(
        bytes in prop_oneof![
            8 => changed(SEGMENT),
            1 => prop::collection::vec(any::<u8>(), 0..300),
        ],
    ) {
        segment(&bytes);
        drop(SegmentMeta::decode(&bytes));
    }
}

/// Checksums keep most changes out. These are made with right ones, as a defect or an
/// attacker would.
#[test]
fn lengths_of_a_segments_meta_are_bounded_by_its_bytes() {
    for length in [0x7f, 0xff] {
        let mut bytes = vec![1, 0];
        bytes.extend_from_slice(&[0; 28]);
        bytes.extend_from_slice(&[length; 10]);
        assert!(SegmentMeta::decode(&bytes).is_none());
    }
}
