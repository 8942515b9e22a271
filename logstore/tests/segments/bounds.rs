//! What a shard refuses, and what it never holds more of than it says.

use crate::fixture::{Put, Rig, planted};
use logstore::{
    cache::BlockCache,
    flush::FlushError,
    key::{Key, Order},
    segment::{Compression, MapLimits, SegmentFiles, SegmentOptions},
    shard::MAX_FROZEN,
    storage::Storage,
};
use std::sync::Arc;

fn event(sequence: u64) -> Put {
    (
        Key::append(1, 32, sequence),
        vec![1; 30],
        Some(vec![2; 100]),
    )
}

#[test]
fn a_third_frozen_memtable_waits_for_an_install() {
    let mut rig = Rig::new(SegmentOptions::default());
    for at in 0..MAX_FROZEN as u64 {
        rig.put(vec![event(at + 1)], &[]);
        assert!(rig.freeze());
    }
    rig.put(vec![event(9)], &[]);
    let oldest = rig.shard.oldest_unflushed();
    assert!(!rig.freeze(), "two wait already");
    assert_eq!((rig.shard.oldest_unflushed(), oldest), (Some(1), Some(1)));
    rig.flush();
    assert_eq!(rig.shard.flushed(), 1);
    assert!(rig.freeze());
    rig.flush();
    rig.flush();
    assert_eq!(
        (
            rig.shard.flush_job().is_none(),
            rig.shard.oldest_unflushed()
        ),
        (true, None)
    );
    assert_eq!(rig.shard.flushed(), rig.position - 1);
    assert_eq!(rig.shard.memtable_bytes(), 0);
}

#[test]
fn a_flush_entry_that_is_applied_again_after_a_restart_changes_nothing() {
    let mut rig = Rig::new(SegmentOptions::default());
    rig.put(vec![event(1)], &[]);
    rig.freeze_and_flush();
    rig.restart();
    assert!(rig.shard.freeze(rig.position), "its segments are there");
    assert!(rig.shard.flush_job().is_none());
}

#[test]
fn a_flush_of_nothing_moves_the_position_and_writes_no_file() {
    let mut rig = Rig::new(SegmentOptions::default());
    assert!(rig.freeze() && rig.freeze());
    rig.flush();
    assert_eq!((rig.shard.flushed(), rig.segments.len()), (1, 0));
}

#[test]
#[should_panic(expected = "applied below")]
fn what_was_flushed_cannot_be_applied_again() {
    let mut rig = Rig::new(SegmentOptions::default());
    rig.put(vec![event(1)], &[]);
    rig.freeze_and_flush();
    rig.shard.apply(1, Vec::new());
}

#[test]
fn a_reader_on_another_thread_sees_what_was_frozen_and_when_it_is_old() {
    let mut rig = Rig::new(SegmentOptions::default());
    rig.put((1..=50).map(event).collect(), &[]);
    rig.freeze_and_flush();
    rig.put(vec![event(51)], &[]);
    assert!(rig.freeze());
    rig.put(vec![event(52)], &[]);
    let reader = rig.shard.reader();
    let (from, to) = (Key::first(1, 32), Key::last(1, 32));
    let other = reader.clone();
    let page = std::thread::spawn(move || other.range(&from, &to, Order::Falling, 2).unwrap());
    let page = page.join().unwrap();
    assert_eq!(
        page[0].0,
        Key::append(1, 32, 51),
        "52 is in the active memtable"
    );
    assert_eq!(reader.generation(), rig.shard.reader().generation());
    rig.flush();
    assert_ne!(reader.generation(), rig.shard.reader().generation());
    assert!(
        reader.get(&Key::append(1, 32, 51)).unwrap().is_some(),
        "and it still reads"
    );
}

#[test]
fn a_flush_that_needs_a_damaged_segment_says_so_and_loses_nothing() {
    let options = SegmentOptions {
        compression: Compression::None,
        ..SegmentOptions::default()
    };
    let mut rig = Rig::new(options);
    rig.put(vec![event(1)], &[]);
    rig.freeze_and_flush();
    rig.put(vec![event(2)], &[]);
    // The block of the inbox index, by its kind.
    let path = rig.disk.files()[0].clone();
    let found = logstore::inspect::describe(&rig.disk, &path).unwrap();
    let index = found
        .blocks
        .iter()
        .find(|b| b.kind == Some(logstore::segment::Kind::Inboxes));
    let offset = usize::try_from(index.unwrap().offset).unwrap();
    rig.disk.flip(&path, offset + 45, 1).unwrap();
    rig.files = planted(&rig.disk, 0, 4, None);
    rig.restart();
    assert!(rig.freeze());
    let error = rig.shard.flush_job().unwrap().run().unwrap_err();
    assert!(matches!(error, FlushError::Older(_)), "{error}");
    assert!(error.to_string().contains(&path), "{error}");
    assert!(rig.shard.get(&Key::append(1, 32, 2)).unwrap().is_some());
}

#[test]
fn maps_keep_to_their_number_and_to_their_bytes() {
    let mut rig = Rig::new(SegmentOptions::default());
    for flush in 0..6 {
        rig.put((1..=50).map(|at| event(flush * 50 + at)).collect(), &[]);
        rig.freeze_and_flush();
    }
    let bytes = rig
        .shard
        .segments()
        .map(|meta| meta.file_bytes)
        .max()
        .unwrap();
    for (limits, most) in [
        (
            MapLimits {
                maps: 2,
                bytes: u64::MAX,
            },
            (2, u64::MAX),
        ),
        (
            MapLimits {
                maps: 100,
                bytes: bytes * 3,
            },
            (3, bytes * 3),
        ),
        // One that is larger than the bound alone is mapped all the same, and alone.
        (
            MapLimits {
                maps: 100,
                bytes: 1,
            },
            (1, bytes),
        ),
    ] {
        let storage: Arc<dyn Storage> = Arc::new(rig.disk.clone());
        rig.files = SegmentFiles::new(storage, BlockCache::new(0), limits).unwrap();
        rig.restart();
        for sequence in (1..=300).step_by(7) {
            assert!(
                rig.shard
                    .get(&Key::append(1, 32, sequence))
                    .unwrap()
                    .is_some()
            );
            let (maps, bytes) = rig.files.mapped();
            assert!(
                maps <= most.0 && bytes <= most.1,
                "{maps} maps of {bytes} bytes"
            );
        }
    }
}

#[test]
fn a_shard_that_is_dropped_leaves_no_maps() {
    let mut rig = Rig::new(SegmentOptions::default());
    rig.put(vec![event(1)], &[]);
    rig.freeze_and_flush();
    rig.restart();
    assert!(rig.shard.get(&Key::append(1, 32, 1)).unwrap().is_some());
    let Rig { files, shard, .. } = rig;
    assert_eq!(files.mapped().0, 1);
    drop(shard);
    assert_eq!(files.mapped(), (0, 0));
}

#[test]
fn a_key_that_is_a_posting_cut_short_is_not_that_posting() {
    let mut rig = Rig::new(SegmentOptions::default());
    rig.put(vec![(Key::posting(1, 40, 0, 0), vec![0; 8], None)], &[]);
    rig.freeze_and_flush();
    let padded = [
        Key::first(1, 40),
        Key::new(1, 40, &[0; 8]),
        Key::new(1, 40, &[0; 17]),
    ];
    assert!(
        padded
            .iter()
            .all(|key| rig.shard.get(key).unwrap().is_none())
    );
    assert!(rig.shard.get(&Key::posting(1, 40, 0, 0)).unwrap().is_some());
}

/// Ranges whose ends are rows: of segments their first and last ones, and of the memtable
/// above them. A bound that is compared as if it were outside loses one row, at the edge
/// of one layer only.
#[test]
fn a_range_that_ends_on_a_segments_first_or_last_row_has_it() {
    let mut rig = Rig::new(SegmentOptions::default());
    // Each segment has rows of its own inboxes, so that its ends are inside the ranges.
    let inbox_rows = |inboxes: [u64; 2]| {
        inboxes.into_iter().flat_map(|inbox| {
            (1..=3).map(move |sequence| {
                let (header, body) = (vec![1; 30], Some(vec![2; 100]));
                (Key::append(inbox, 32, sequence), header, body)
            })
        })
    };
    let layers = [[1, 2], [5, 6], [3, 4]];
    let mut all: Vec<Key> = Vec::new();
    for (number, inboxes) in layers.into_iter().enumerate() {
        let rows: Vec<Put> = inbox_rows(inboxes).collect();
        all.extend(rows.iter().map(|(key, _, _)| *key));
        rig.put(rows, &[]);
        if number < 2 {
            rig.freeze_and_flush();
        }
    }
    assert_eq!(rig.segments.len(), 2);
    all.sort();
    for (first, from) in all.iter().enumerate() {
        for (last, to) in all.iter().enumerate().skip(first) {
            let expected = &all[first..=last];
            for order in [Order::Rising, Order::Falling] {
                let found = rig.shard.range(from, to, order, 99).unwrap();
                let mut found: Vec<Key> = found.into_iter().map(|(key, _)| key).collect();
                if order == Order::Falling {
                    found.reverse();
                }
                assert_eq!(found, expected, "{from:?} to {to:?}, {order:?}");
            }
        }
        let one = rig.shard.range(from, from, Order::Rising, 1).unwrap();
        assert_eq!(one.len(), 1, "{from:?}");
    }
}
