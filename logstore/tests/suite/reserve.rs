//! The log's reserve belongs to control records: entries never take of it, whatever has
//! been written into it before, so that what makes room always finds some.

use crate::workload::{create, entries, flushed, sized, small};
use logstore::{
    engine::{Append, Log, LogError, Opened, open},
    log_index::HardState,
    replicas::{ReplicaKey, SegmentRef},
    storage::simulated::SimulatedDisk,
};
use proptest::prelude::*;
use std::sync::Arc;

fn opened() -> (SimulatedDisk, Opened) {
    let disk = SimulatedDisk::new();
    let opened = open(Arc::new(disk.clone()), small()).unwrap();
    (disk, opened)
}

/// Commits entry after entry until the log is full.
fn fill(log: &mut Log, busy: ReplicaKey, position: &mut u64) {
    loop {
        match log.commit(&[entries(busy, *position + 1..=*position + 1, 1)]) {
            Ok(_) => *position += 1,
            Err(LogError::Full { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Each flush of three found less of the reserve than the one before, since the entries of
/// the others filled the file that it had rolled into: the third got Full, and the node
/// ended.
#[test]
fn entries_fill_no_file_that_a_flush_took_from_the_reserve() {
    let (_disk, mut opened) = opened();
    let log = &mut opened.log;
    let idle: Vec<_> = (1..=3).map(|shard| create(log, shard)).collect();
    let busy = create(log, 9);
    for key in &idle {
        log.commit(&[entries(*key, 1..=1, 1)]).unwrap();
    }
    let mut position = 0;
    for key in &idle {
        fill(log, busy, &mut position);
        log.commit(&flushed(*key, 1, 1)).unwrap();
        log.reclaim().unwrap();
    }
}

/// Proving the last frame took a file of the reserve, which entries then filled: after two
/// rounds nothing could make room any more.
#[test]
fn proving_takes_no_file_of_the_reserve() {
    let (_disk, mut opened) = opened();
    let log = &mut opened.log;
    let idle = create(log, 1);
    let busy = create(log, 2);
    log.commit(&[entries(idle, 1..=1, 1)]).unwrap();
    let mut position = 0;
    for _ in 0..4 {
        fill(log, busy, &mut position);
        let ready = log.stats().free_files;
        let unproven = log.stats().last_lsn;
        log.prove().unwrap();
        assert_eq!(log.stats().free_files, ready);
        assert!(log.stats().last_lsn >= unproven);
    }
    log.commit(&flushed(idle, 1, 1)).unwrap();
    log.commit(&flushed(busy, position, 1)).unwrap();
    assert!(log.reclaim().unwrap() > 0);
}

/// Whatever the last frame of a full log was, the empty one that proves it fits behind it.
#[test]
fn the_last_entry_of_a_full_log_can_be_proven() {
    for bytes in (0..40_000).step_by(1_777) {
        let (_disk, mut opened) = opened();
        let log = &mut opened.log;
        let busy = create(log, 1);
        let mut position = 0;
        loop {
            // The size that leaves the least behind it is among these.
            let first = sized(
                busy,
                position + 1,
                1 + (bytes * (1 + usize::try_from(position).unwrap())) % 30_000,
            );
            if log.commit(&[first]).is_err() {
                break;
            }
            position += 1;
        }
        assert!(log.prove().unwrap(), "after entries of {bytes} bytes");
    }
}

/// Control records of different sizes; the largest fill a frame.
fn control(key: ReplicaKey, choice: u32) -> Append {
    match choice % 4 {
        0 => Append::HardState {
            key,
            state: HardState {
                term: u64::from(choice),
                vote: 0,
                commit: 0,
            },
        },
        1 => Append::CompactedTo {
            key,
            position: 0,
            term: 0,
        },
        _ => Append::Segments {
            key,
            position: 0,
            term: 0,
            added: vec![SegmentRef {
                id: 1,
                meta: vec![1; (choice as usize * 977) % 32_000].into(),
            }],
            removed: Vec::new(),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_reserve_takes_the_control_records_that_it_promises(
        sizes in prop::collection::vec(1..30_000_usize, 1..6),
        choices in prop::collection::vec(any::<u32>(), 1..60),
        prove in any::<bool>(),
    ) {
        let (_disk, mut opened) = opened();
        let log = &mut opened.log;
        let key = create(log, 1);
        let mut position = 0;
        // At last one that nothing smaller fits behind.
        for size in sizes.iter().cycle().take(60).chain([&1; 400]) {
            match log.commit(&[sized(key, position + 1, *size)]) {
                Ok(_) => position += 1,
                Err(error) => {
                    prop_assert!(matches!(error, LogError::Full { .. }), "{error}");
                }
            }
        }
        let promised = small().reserve_bytes();
        let mut taken = 0;
        for choice in choices.iter().cycle() {
            let frame = log.commit(&[control(key, *choice)]);
            // What would have gone beyond the promise may be refused.
            let Ok(frame) = frame else {
                let next = log.max_entry_bytes() as u64 + 4096;
                prop_assert!(taken + next > promised, "{frame:?} after {taken} of {promised}");
                break;
            };
            taken += frame.bytes;
            if prove {
                taken += u64::from(log.prove().unwrap()) * 4096;
            }
            // Entries stay refused however much control records have written.
            let refused = log.commit(&[sized(key, position + 1, 1)]);
            let is_full = matches!(refused, Err(LogError::Full { .. }));
            prop_assert!(is_full, "an entry after {taken}");
        }
        prop_assert!(taken > 0);
    }
}
