//! The engine over real files and the simulated disk: what is committed is there
//! after a restart, files are reused, and what must not be taken is refused.

use crate::workload::{contents, create, entries, key, small};
use bytes::Bytes;
use logstore::{
    engine::{Append, LogError, OpenError, Options, open},
    log_index::{AppendError, HardState, LogEntry},
    replicas::ReplicaKey,
    storage::{
        Storage,
        disk::Disk,
        simulated::{Fault, SimulatedDisk},
    },
};
use std::sync::Arc;

#[test]
fn what_was_committed_is_there_after_a_restart_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Disk::new(directory.path().join("data")).unwrap());
    let mut opened = open(Arc::clone(&storage), small()).unwrap();
    assert!(opened.report.created);
    let shard = create(&mut opened.log, 3);
    let state = HardState {
        term: 2,
        vote: 7,
        commit: 4,
    };
    opened
        .log
        .commit(&[
            entries(shard, 1..=5, 1),
            Append::HardState { key: shard, state },
        ])
        .unwrap();
    opened.log.commit(&[entries(shard, 4..=4, 2)]).unwrap();
    drop(opened);

    let opened = open(storage, small()).unwrap();
    let log = &opened.replicas[&3].log;
    assert_eq!(
        log.last_position(),
        4,
        "position 4 of term 2 cut position 5 of term 1"
    );
    assert_eq!(log.term(4), Some(2));
    assert_eq!(log.hard_state(), state);
    assert_eq!(opened.log.next_replica(), shard.replica + 1);
    assert!(opened.damaged.is_empty());
}

#[test]
fn restarts_without_writes_use_up_no_files() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let shard = create(&mut opened.log, 1);
    opened.log.commit(&[entries(shard, 1..=3, 1)]).unwrap();
    opened.log.prove().unwrap();
    let before = disk.files();
    for _ in 0..40 {
        disk.kill();
        let opened = open(Arc::new(disk.clone()), small()).unwrap();
        assert_eq!(opened.log.stats().live_files, 1);
        assert_eq!(opened.replicas[&1].log.last_position(), 3);
    }
    assert_eq!(disk.files(), before);
}

#[test]
fn files_are_reused_once_their_entries_are_compacted_away() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let shard = create(&mut opened.log, 1);
    let mut position = 0;
    for round in 0..200 {
        let last = position + 10;
        opened
            .log
            .commit(&[entries(shard, position + 1..=last, 1)])
            .unwrap();
        position = last;
        if round % 10 == 9 {
            let flush = Append::Segments {
                key: shard,
                position,
                term: 1,
                added: Vec::new(),
                removed: Vec::new(),
            };
            let compact = Append::CompactedTo {
                key: shard,
                position: position - 5,
                term: 1,
            };
            opened.log.commit(&[flush, compact]).unwrap();
            opened.log.reclaim().unwrap();
        }
    }
    assert!(opened.log.stats().generation > 10);
    assert!(disk.files().len() <= 8, "{:?}", disk.files());
    disk.kill();
    let opened = open(Arc::new(disk), small()).unwrap();
    let recovered = &opened.replicas[&1];
    assert_eq!(
        (
            recovered.log.first_position(),
            recovered.log.last_position()
        ),
        (1996, 2000)
    );
    assert_eq!(recovered.flushed, (2000, 1));
    assert_eq!(contents(&recovered.log).len(), 5);
}

#[test]
fn a_batch_of_many_frames_is_cut_and_comes_back_whole() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let shard = create(&mut opened.log, 1);
    let committed = opened.log.commit(&[entries(shard, 1..=900, 1)]).unwrap();
    assert!(committed.frames > 1);
    disk.crash(5);
    let opened = open(Arc::new(disk), small()).unwrap();
    assert_eq!(opened.replicas[&1].log.last_position(), 900);
}

#[test]
fn the_budget_is_kept_and_a_stuck_replica_is_copied_forward() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let stuck = create(&mut opened.log, 1);
    let busy = create(&mut opened.log, 2);
    opened.log.commit(&[entries(stuck, 1..=3, 1)]).unwrap();
    opened.log.commit(&[entries(stuck, 3..=4, 2)]).unwrap();
    let mut position = 0;
    let full = loop {
        match opened
            .log
            .commit(&[entries(busy, position + 1..=position + 20, 1)])
        {
            Ok(_) => position += 20,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, LogError::Full { .. }), "{full}");
    assert!(
        opened
            .log
            .pins(small().budget_bytes / 2)
            .iter()
            .any(|pin| pin.key == stuck)
    );
    // Control records still go: that is how room is made.
    let added = Vec::new();
    let flush = Append::Segments {
        key: busy,
        position,
        term: 1,
        added,
        removed: Vec::new(),
    };
    let compact = Append::CompactedTo {
        key: busy,
        position,
        term: 1,
    };
    opened.log.commit(&[flush, compact]).unwrap();
    assert_eq!(
        opened.log.reclaim().unwrap(),
        0,
        "the stuck replica pins the oldest file"
    );
    assert_eq!(
        opened
            .log
            .pins(0)
            .iter()
            .map(|pin| pin.key)
            .collect::<Vec<_>>(),
        [stuck]
    );
    // 1, 2, 3 and 4 of the second term; the one that was cut is not.
    let copied = opened.log.copy_forward(&[busy, stuck]).unwrap();
    assert_eq!((copied.records, copied.damaged.len()), (4, 0));
    assert!(opened.log.reclaim().unwrap() > 0);
    opened
        .log
        .commit(&[entries(busy, position + 1..=position + 20, 1)])
        .unwrap();
    opened.log.commit(&[entries(stuck, 4..=5, 3)]).unwrap();
    disk.crash(9);
    let opened = open(Arc::new(disk), small()).unwrap();
    assert!(opened.damaged.is_empty(), "{:?}", opened.damaged);
    let log = &opened.replicas[&1].log;
    let terms: Vec<_> = (1..=5).map(|position| log.term(position)).collect();
    assert_eq!(terms, [Some(1), Some(1), Some(2), Some(3), Some(3)]);
    assert_eq!(opened.replicas[&2].log.last_position(), position + 20);
}

#[test]
fn a_failed_sync_poisons_the_log_for_ever() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let shard = create(&mut opened.log, 1);
    disk.plan(disk.effects() + 2, Fault::Io);
    let error = opened.log.commit(&[entries(shard, 1..=1, 1)]).unwrap_err();
    assert!(matches!(error, LogError::Io(_)), "{error}");
    let effects = disk.effects();
    let error = opened.log.commit(&[entries(shard, 1..=1, 1)]).unwrap_err();
    assert!(matches!(error, LogError::Poisoned { .. }), "{error}");
    assert!(opened.log.prove().is_err() && opened.log.reclaim().is_err());
    assert_eq!(disk.effects(), effects, "nothing was tried again");
}

#[test]
fn failed_and_short_writes_poison_the_log_too() {
    for fault in [Fault::Io, Fault::Short, Fault::NoSpace] {
        let disk = SimulatedDisk::new();
        let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
        let shard = create(&mut opened.log, 1);
        disk.plan(disk.effects() + 1, fault);
        assert!(matches!(
            opened.log.commit(&[entries(shard, 1..=1, 1)]),
            Err(LogError::Io(_))
        ));
        assert!(opened.log.poisoned().is_some());
        disk.crash(3);
        let opened = open(Arc::new(disk), small()).unwrap();
        assert!(opened.damaged.is_empty());
        assert_eq!(opened.replicas[&1].log.last_position(), 0);
    }
}

#[test]
fn a_full_disk_refuses_entries_and_takes_control_records_and_opens() {
    let disk = SimulatedDisk::new();
    let options = Options {
        stop_free_bytes: 40 << 10,
        resume_free_bytes: 200 << 10,
        ..small()
    };
    let mut opened = open(Arc::new(disk.clone()), options.clone()).unwrap();
    let shard = create(&mut opened.log, 1);
    disk.set_capacity(Some(disk.used() + (100 << 10)));
    let mut position = 0;
    let full = loop {
        match opened
            .log
            .commit(&[entries(shard, position + 1..=position + 20, 1)])
        {
            Ok(_) => position += 20,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, LogError::DiskFull { .. }), "{full}");
    assert!(opened.log.poisoned().is_none());
    let state = HardState {
        term: 9,
        vote: 0,
        commit: position,
    };
    opened
        .log
        .commit(&[Append::HardState { key: shard, state }])
        .unwrap();
    assert!(!opened.log.check_space().unwrap().accepting);
    // What a leader begins with, or nothing could be read.
    let begins = LogEntry {
        position: position + 1,
        term: 9,
        kind: 0,
        payload: Bytes::new(),
    };
    let begins = Append::Entries {
        key: shard,
        entries: vec![begins],
    };
    opened.log.commit(&[begins]).unwrap();
    position += 1;

    disk.kill();
    let mut opened = open(Arc::new(disk.clone()), options).unwrap();
    assert_eq!(opened.replicas[&1].log.last_position(), position);
    assert!(!opened.log.check_space().unwrap().accepting);
    let one_more = [entries(shard, position + 1..=position + 1, 1)];
    assert!(matches!(
        opened.log.commit(&one_more),
        Err(LogError::DiskFull { .. })
    ));
    disk.set_capacity(Some(disk.used() + (100 << 10)));
    assert!(
        !opened.log.check_space().unwrap().accepting,
        "between the thresholds"
    );
    disk.set_capacity(None);
    assert!(opened.log.check_space().unwrap().accepting);
    opened.log.commit(&one_more).unwrap();
}

#[test]
fn ballast_is_allocated_and_given_up_one_by_one() {
    let disk = SimulatedDisk::new();
    let options = Options {
        ballast_files: 2,
        ballast_bytes: 64 << 10,
        ..small()
    };
    let opened = open(Arc::new(disk.clone()), options).unwrap();
    let before = disk.used();
    assert!(opened.log.fill_ballast().unwrap());
    assert_eq!(disk.used(), before + (128 << 10));
    assert!(opened.log.give_up_ballast().unwrap());
    assert!(opened.log.give_up_ballast().unwrap());
    assert!(!opened.log.give_up_ballast().unwrap());
    disk.set_capacity(Some(disk.used() + (100 << 10)));
    assert!(!opened.log.fill_ballast().unwrap());
    assert_eq!(disk.used(), before + (64 << 10));
}

#[test]
fn empty_files_are_prepared_up_to_the_bound_and_used() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let shard = create(&mut opened.log, 1);
    while let Some(job) = opened.log.prepare_pool_file() {
        assert!(opened.log.prepare_pool_file().is_none(), "one at a time");
        opened.log.prepared(job.run());
    }
    assert_eq!(opened.log.stats().free_files, small().pool_files + 2);
    opened.log.commit(&[entries(shard, 1..=300, 1)]).unwrap();
    assert!(opened.log.stats().live_files > 1);
    assert_eq!(opened.log.stats().stalls, 0);
}

#[test]
fn what_contradicts_the_log_is_refused_and_nothing_is_written() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let shard = create(&mut opened.log, 1);
    let effects = disk.effects();
    let gone = ReplicaKey {
        shard: 1,
        replica: 99,
    };
    for batch in [
        entries(gone, 1..=1, 1),
        Append::CreateReplica { key: shard },
        Append::CreateReplica {
            key: ReplicaKey {
                replica: shard.replica + 1,
                ..shard
            },
        },
        Append::CompactedTo {
            key: shard,
            position: 1,
            term: 1,
        },
        Append::LossAccepted {
            key: shard,
            position: 0,
            holes: Vec::new(),
        },
    ] {
        let refused = opened.log.commit(std::slice::from_ref(&batch));
        assert!(
            matches!(refused, Err(LogError::Refused { .. })),
            "{batch:?}"
        );
    }
    let payload = vec![0; opened.log.max_entry_bytes() + 1].into();
    let large = LogEntry {
        position: 1,
        term: 1,
        kind: 0,
        payload,
    };
    let large = Append::Entries {
        key: shard,
        entries: vec![large],
    };
    assert!(matches!(
        opened.log.commit(&[large]),
        Err(LogError::TooLarge { .. })
    ));
    assert_eq!(disk.effects(), effects);
}

#[test]
fn a_retired_replica_is_gone_and_its_shard_can_have_a_new_one() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let old = create(&mut opened.log, 1);
    opened.log.commit(&[entries(old, 1..=3, 1)]).unwrap();
    let new = key(1, opened.log.next_replica());
    opened
        .log
        .commit(&[
            Append::RetireReplica { key: old },
            Append::CreateReplica { key: new },
        ])
        .unwrap();
    opened.log.commit(&[entries(new, 1..=1, 5)]).unwrap();
    disk.crash(1);
    let opened = open(Arc::new(disk), small()).unwrap();
    assert_eq!(opened.replicas[&1].key, new);
    assert_eq!(opened.replicas[&1].log.term(1), Some(5));
    assert_eq!(opened.replicas[&1].log.last_position(), 1);
}

#[test]
fn an_installed_snapshot_replaces_log_and_segments() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let shard = create(&mut opened.log, 1);
    opened.log.commit(&[entries(shard, 1..=30, 1)]).unwrap();
    let segments = vec![logstore::replicas::SegmentRef {
        id: 4,
        meta: "s".into(),
    }];
    let installed = Append::Installed {
        key: shard,
        position: 20,
        term: 2,
        segments,
    };
    opened.log.commit(&[installed]).unwrap();
    opened.log.commit(&[entries(shard, 21..=22, 2)]).unwrap();
    disk.crash(1);
    let opened = open(Arc::new(disk), small()).unwrap();
    let recovered = &opened.replicas[&1];
    assert_eq!(
        (
            recovered.log.first_position(),
            recovered.log.last_position()
        ),
        (21, 22)
    );
    assert_eq!(recovered.log.term(20), Some(2));
    assert_eq!(
        recovered.log.hard_state().commit,
        20,
        "what was installed was committed"
    );
    assert_eq!(recovered.segments.len(), 1);
}

#[test]
fn an_entry_before_the_log_begins_is_refused_by_the_index() {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk), small()).unwrap();
    let shard = create(&mut opened.log, 1);
    let Append::Entries { entries, .. } = entries(shard, 2..=2, 1) else {
        unreachable!()
    };
    let mut log = logstore::log_index::LogIndex::new();
    assert_eq!(
        log.append(entries),
        Err(AppendError::Gap {
            position: 2,
            last: 0
        })
    );
}

#[test]
fn options_out_of_bounds_are_refused() {
    for options in [
        Options {
            file_bytes: 1000,
            ..small()
        },
        Options {
            file_bytes: 4096,
            ..small()
        },
        Options {
            budget_bytes: small().file_bytes * 5,
            ..small()
        },
        Options {
            stop_free_bytes: 2,
            resume_free_bytes: 1,
            ..small()
        },
    ] {
        let opened = open(Arc::new(SimulatedDisk::new()), options);
        assert!(matches!(opened.err(), Some(OpenError::Options(_))));
    }
}
