//! Bugs planted in the upper half of the engine, and the checks that find them.

use crate::fixture::{KEY, Rig, planted};
use logstore::{
    flush,
    key::Key,
    log_index::LogIndex,
    plant::Plant,
    replicas::ReplicaKey,
    segment::SegmentOptions,
    shard::Shard,
    storage::{
        Storage as _,
        simulated::{Fault, SimulatedDisk},
    },
};

fn dedup(ms: u64, rest: u8) -> Key {
    let mut sub = [rest; 24];
    sub[..8].copy_from_slice(&77_u64.to_be_bytes());
    sub[8..14].copy_from_slice(&ms.to_be_bytes()[2..]);
    Key::new(9, 64, &sub)
}

/// Ten flushes with ids of rising times. Gives how many ids were forgotten.
fn forgotten(plant: Option<Plant>) -> usize {
    let mut rig = Rig::planted(SegmentOptions::default(), plant);
    let ids: Vec<_> = (0..200_u64)
        .map(|at| dedup(5000 + at / 3, at.to_le_bytes()[0]))
        .collect();
    for some in ids.chunks(20) {
        rig.put(
            some.iter()
                .map(|id| (*id, b"answer".to_vec(), None))
                .collect(),
            &[],
        );
        rig.freeze_and_flush();
    }
    rig.restart();
    ids.iter()
        .filter(|id| rig.shard.get(id).unwrap().is_none())
        .count()
}

#[test]
fn no_id_is_ever_forgotten_and_a_probe_off_by_one_segment_is_caught() {
    assert_eq!(forgotten(None), 0);
    assert!(forgotten(Some(Plant::DedupFilterOffByOneSegment)) > 0);
}

#[test]
fn a_fresh_id_needs_no_read_and_a_strange_old_one_only_filters() {
    let mut rig = Rig::new(SegmentOptions::default());
    for flush in 0..10_u64 {
        let ids = (0..200_u64).map(|at| dedup(5000 + flush, at.to_le_bytes()[0]));
        rig.put(ids.map(|id| (id, vec![7; 300], None)).collect(), &[]);
        rig.freeze_and_flush();
    }
    rig.files = planted(&rig.disk, 64 << 20, 16, None);
    rig.restart();
    let read = || rig.files.cache().bytes();
    assert_eq!(read(), 0);
    assert_eq!(rig.shard.get(&dedup(5010, 1)).unwrap(), None);
    assert_eq!(read(), 0, "a fresh id was looked for on the disk");
    assert_eq!(rig.shard.get(&dedup(5000, 250)).unwrap(), None);
    assert!(
        read() < 10 * (4096 + 100),
        "{} bytes read for one id",
        read()
    );
}

/// Flushes, lets the log know, takes the power away: whether the shard comes back.
fn survives(plant: Option<Plant>, seed: u64) -> bool {
    let mut rig = Rig::planted(SegmentOptions::default(), plant);
    let row = |at: u64| {
        (
            Key::append(at % 5, 32, at / 5 + 1),
            vec![1; 50],
            Some(vec![2; 900]),
        )
    };
    rig.put((0..100).map(row).collect(), &[]);
    rig.freeze_and_flush();
    rig.disk.crash(seed);
    let files = planted(&rig.disk, 0, 4, None);
    let (log, flushed) = (LogIndex::new(), rig.shard.flushed());
    let Ok(shard) = Shard::open(KEY, log, flushed, &rig.segments, &files, rig.options) else {
        return false;
    };
    (0..100).all(|at| {
        let (key, header, body) = row(at);
        let read = shard.get(&key).ok().flatten();
        read.is_some_and(|row| row.header == header && row.body.as_deref() == body.as_deref())
    })
}

#[test]
fn segments_that_the_log_names_outlive_a_crash() {
    assert!((0..40).all(|seed| survives(None, seed)));
}

#[test]
fn a_missing_sync_of_the_directory_or_of_a_segment_is_caught() {
    assert!(!(0..40).all(|seed| survives(Some(Plant::SkipSegmentDirSync), seed)));
    assert!(!(0..40).all(|seed| survives(Some(Plant::SkipSegmentSync), seed)));
}

/// A shard with one segment and a frozen memtable.
fn waiting() -> Rig {
    let mut rig = Rig::new(SegmentOptions {
        target_bytes: 3000,
        ..SegmentOptions::default()
    });
    let mut event = |sequence: u64| {
        rig.put(
            vec![(
                Key::append(1, 32, sequence),
                vec![1; 50],
                Some(vec![2; 400]),
            )],
            &[],
        );
        if sequence == 4 {
            rig.freeze_and_flush();
        }
    };
    (1..=20).for_each(&mut event);
    assert!(rig.freeze());
    rig
}

#[test]
fn a_crash_at_any_effect_of_a_flush_leaves_what_the_log_names() {
    let (mut effect, mut rubbish) = (1, 0);
    loop {
        let mut rig = waiting();
        rig.disk.plan(rig.disk.effects() + effect, Fault::PowerOff);
        let done = rig.shard.flush_job().unwrap().run().is_ok();
        rig.disk.crash(effect);
        rig.files = planted(&rig.disk, 0, 4, None);
        rig.restart();
        for sequence in 1..=20 {
            assert!(
                rig.shard
                    .get(&Key::append(1, 32, sequence))
                    .unwrap()
                    .is_some()
            );
        }
        let found = [(KEY, &rig.segments[..])];
        rubbish += flush::sweep(&rig.disk, found, &[]).unwrap().len();
        // And it goes on from there.
        assert!(rig.freeze());
        rig.flush();
        rig.restart();
        for sequence in 1..=20 {
            assert!(
                rig.shard
                    .get(&Key::append(1, 32, sequence))
                    .unwrap()
                    .is_some()
            );
        }
        if done {
            break;
        }
        effect += 1;
    }
    assert!(
        effect > 9 && rubbish > 0,
        "{effect} effects, {rubbish} files left behind"
    );
}

/// The chain of an inbox as a reader of its rows would compute it.
fn chain(rows: &[(Vec<u8>, Vec<u8>)]) -> [u8; 32] {
    rows.iter().fold([0; 32], |previous, (header, body)| {
        let mut hash = blake3::Hasher::new();
        hash.update(&previous)
            .update(header)
            .update(body.get(24..56).unwrap_or_default());
        *hash.finalize().as_bytes()
    })
}

#[test]
fn the_chain_of_an_inbox_goes_on_from_segment_to_segment() {
    // Parts of 500 bytes: an inbox is cut between segments of one flush, too.
    let mut rig = Rig::new(SegmentOptions {
        target_bytes: 500,
        ..SegmentOptions::default()
    });
    let mut rows = Vec::new();
    for number in 1..=30_u8 {
        let sequence = u64::from(number);
        let header = sequence.to_le_bytes().to_vec();
        let body = vec![number; 40 + usize::from(number)];
        let key = Key::append(4, 32, sequence);
        rig.put(vec![(key, header.clone(), Some(body.clone()))], &[]);
        rows.push((header, body));
        if number % 7 == 0 {
            rig.put(vec![(Key::append(8, 32, sequence / 7), vec![1], None)], &[]);
            rig.freeze_and_flush();
        }
    }
    let storage: std::sync::Arc<dyn logstore::storage::Storage> =
        std::sync::Arc::new(SimulatedDisk::clone(&rig.disk));
    let (mut segments, mut last) = (0, 0);
    for path in logstore::inspect::segments(&rig.disk).unwrap() {
        segments += 1;
        for inbox in logstore::inspect::inboxes(&storage, &path).unwrap() {
            if inbox.inbox == 4 {
                let (family, _, end, _) = inbox.sequences[0];
                assert_eq!(family, 32);
                assert_eq!(
                    inbox.chain,
                    Some(chain(&rows[..usize::try_from(end).unwrap()])),
                    "up to {end}"
                );
                last = last.max(end);
            }
        }
    }
    assert_eq!(last, 28);
    assert!(segments > 4, "{segments} segments");
}

#[test]
fn a_sweep_keeps_what_is_named_and_what_belongs_to_a_damaged_replica() {
    let rig = waiting();
    let other = |path: &str| {
        rig.disk.create(path).unwrap();
        path.to_owned()
    };
    let damaged = ReplicaKey {
        shard: 9,
        replica: 4,
    };
    let its = other("segments/0009-00000004-0000000000000001-000-0.seg");
    let gone = other("segments/0009-00000003-0000000000000001-000-0.seg");
    let cut = other("segments/0007-00000003-0000000000000099-000-0.seg.tmp");
    let named = rig.shard.segments().map(|meta| meta.path(KEY.replica));
    let mut kept: Vec<_> = named.chain([its]).collect();
    kept.sort();
    let mut swept = flush::sweep(&rig.disk, [(KEY, &rig.segments[..])], &[damaged]).unwrap();
    swept.sort();
    assert_eq!(swept, [cut, gone]);
    let left: Vec<_> = rig
        .disk
        .files()
        .into_iter()
        .filter(|f| f.starts_with("segments/"))
        .collect();
    assert_eq!(left, kept);
}
