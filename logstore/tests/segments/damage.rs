//! Damaged segment files: noticed, never served, never taken for absence.

use crate::fixture::{KEY, Rig, files};
use logstore::{
    inspect,
    key::{Key, Order, Row},
    log_index::LogIndex,
    reads::ReadError,
    segment::{Compression, Part, SegmentFiles, SegmentOptions},
    shard::{Shard, ShardError},
    storage::simulated::SimulatedDisk,
};
use std::{collections::BTreeMap, sync::Arc};

/// A small segment with every kind of block, and what is in it.
fn small(compression: Compression) -> (Rig, BTreeMap<Key, Row>) {
    let mut rig = Rig::new(SegmentOptions {
        compression,
        ..SegmentOptions::default()
    });
    let mut rows = Vec::new();
    for inbox in 1..=3_u64 {
        rows.push((Key::append(inbox, 32, 1), vec![1; 8], Some(vec![2; 700])));
        rows.push((Key::posting(inbox, 40, 5, 1), vec![0; 8], None));
        rows.push((Key::new(inbox, 1, b"state"), vec![3; 4], None));
        rows.push((Key::new(inbox, 64, &[9; 24]), vec![4; 4], None));
    }
    rig.put(rows, &[]);
    rig.freeze_and_flush();
    let everything = (Key::first(0, 0), Key::last(u64::MAX, 255));
    let all = rig
        .shard
        .range(&everything.0, &everything.1, Order::Rising, 99)
        .unwrap();
    assert_eq!(all.len(), 12);
    (rig, all.into_iter().collect())
}

fn segment_path(disk: &SimulatedDisk) -> String {
    let path = disk.files().into_iter().find(|path| path.ends_with(".seg"));
    path.unwrap()
}

/// Everything that can be read must be what was written, or an error. Gives the
/// number of errors.
fn read_all(
    rig: &Rig,
    files: &Arc<SegmentFiles>,
    rows: &BTreeMap<Key, Row>,
) -> Result<usize, ShardError> {
    let log = LogIndex::new();
    let shard = Shard::open(
        KEY,
        log,
        rig.shard.flushed(),
        &rig.segments,
        files,
        rig.options,
    )?;
    let mut errors = 0;
    for (key, row) in rows {
        match shard.get(key) {
            Ok(read) => assert_eq!(read.as_ref(), Some(row), "{key:?}"),
            Err(_) => errors += 1,
        }
    }
    let (from, to) = (Key::first(0, 0), Key::last(u64::MAX, 255));
    match shard.range(&from, &to, Order::Falling, 99) {
        Ok(read) => assert_eq!(read.into_iter().collect::<BTreeMap<_, _>>(), *rows),
        Err(_) => errors += 1,
    }
    match shard.count(&Key::first(2, 40), &Key::last(2, 40)) {
        Ok(count) => assert_eq!(count, 1),
        Err(_) => errors += 1,
    }
    match shard.groups(3, &[40], None, 9) {
        Ok(heads) => assert_eq!(heads.len(), 1),
        Err(_) => errors += 1,
    }
    match shard.inboxes(0, u64::MAX, 32, 9) {
        Ok(spans) => assert_eq!(spans.len(), 3),
        Err(_) => errors += 1,
    }
    Ok(errors)
}

#[test]
fn every_flipped_byte_of_a_segment_is_noticed_and_never_served() {
    for compression in [Compression::None, Compression::Lz4] {
        let (rig, rows) = small(compression);
        let path = segment_path(&rig.disk);
        let len = rig.disk.bytes(&path).unwrap().len();
        for at in 0..len {
            let disk = rig.disk.duplicate();
            disk.flip(&path, at, 1 << (at % 8)).unwrap();
            let noticed =
                read_all(&rig, &files(&disk, 0, 4), &rows).map_or(true, |errors| errors > 0);
            let verified = inspect::verify(&disk, &path).is_ok_and(|found| found.is_empty());
            assert!(
                !verified,
                "byte {at} of {len} is not covered by any checksum"
            );
            // Only what no read needs may escape a read: checksums that scrubs alone look at.
            if !noticed {
                let escaped = inspect::verify(&disk, &path).unwrap();
                assert!(!escaped.is_empty(), "byte {at}");
            }
        }
    }
}

#[test]
fn every_truncation_of_a_segment_is_noticed_when_it_is_opened() {
    let (rig, rows) = small(Compression::Lz4);
    let path = segment_path(&rig.disk);
    let bytes = rig.disk.bytes(&path).unwrap();
    for end in 0..bytes.len() {
        let disk = SimulatedDisk::new();
        let files = files(&disk, 0, 4);
        write(&disk, &path, &bytes[..end]);
        let opened = read_all(&rig, &files, &rows);
        assert!(
            matches!(opened, Err(ShardError::Segment { .. })),
            "cut at {end}"
        );
    }
    let disk = SimulatedDisk::new();
    let files = files(&disk, 0, 4);
    write(&disk, &path, &bytes);
    assert_eq!(read_all(&rig, &files, &rows).unwrap(), 0);
}

fn write(disk: &SimulatedDisk, path: &str, bytes: &[u8]) {
    use logstore::storage::Storage as _;
    let file = disk.create(path).unwrap();
    file.write_at(bytes, 0).unwrap();
}

#[test]
fn a_damaged_block_is_an_error_that_names_it_and_the_rest_is_served() {
    let options = SegmentOptions {
        compression: Compression::None,
        ..SegmentOptions::default()
    };
    let mut rig = Rig::new(options);
    let body = |sequence: u64| sequence.to_be_bytes().repeat(25);
    let row = |sequence| {
        (
            Key::append(1, 32, sequence),
            vec![1; 8],
            Some(body(sequence)),
        )
    };
    rig.put((1..=500).map(row).collect(), &[]);
    rig.freeze_and_flush();
    let path = segment_path(&rig.disk);
    let bytes = rig.disk.bytes(&path).unwrap();
    let at = bytes
        .windows(200)
        .position(|window| window == body(500))
        .unwrap();
    rig.disk.flip(&path, at + 5, 1).unwrap();
    rig.files = files(&rig.disk, 0, 4);
    rig.restart();
    let error = rig.shard.get(&Key::append(1, 32, 500)).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Damaged {
                part: Part::Block(_),
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains(&path), "{error}");
    assert!(rig.shard.get(&Key::append(1, 32, 1)).unwrap().is_some());
    let last = rig
        .shard
        .range(&Key::first(1, 32), &Key::last(1, 32), Order::Falling, 1);
    assert!(last.is_err(), "a damaged block is not the end of a list");
}

#[test]
fn a_segment_that_is_missing_stops_its_shard() {
    use logstore::storage::Storage as _;
    let (rig, rows) = small(Compression::Lz4);
    rig.disk.remove(&segment_path(&rig.disk)).unwrap();
    let opened = read_all(&rig, &files(&rig.disk, 0, 4), &rows);
    let Err(ShardError::Segment { source, .. }) = opened else {
        panic!("it was opened")
    };
    assert!(matches!(source, ReadError::Open { .. }));
}

#[test]
fn a_block_that_the_disk_put_elsewhere_is_noticed() {
    let (rig, rows) = small(Compression::None);
    let path = segment_path(&rig.disk);
    let bytes = rig.disk.bytes(&path).unwrap();
    // Block 1 begins behind block 0, which begins behind the header of the file.
    let len =
        |at: usize| 40 + u32::from_le_bytes(bytes[at + 12..at + 16].try_into().unwrap()) as usize;
    let (first, second) = (32, 32 + len(32));
    let block = bytes[second..second + len(second)].to_vec();
    rig.disk.overwrite(&path, first, &block).unwrap();
    assert!(read_all(&rig, &files(&rig.disk, 0, 4), &rows).unwrap() > 0);
}

#[test]
fn a_flush_on_a_full_disk_can_be_tried_again_and_one_that_fails_stops_the_node() {
    use logstore::{flush::FlushError, storage::simulated::Fault};
    let (mut rig, _) = small(Compression::Lz4);
    rig.put(vec![(Key::new(1, 1, b"more"), vec![1; 4], None)], &[]);
    assert!(rig.freeze());
    for (after, fault) in [(2, Fault::NoSpace), (3, Fault::Io)] {
        rig.disk.plan(rig.disk.effects() + after, fault);
        let error = rig.shard.flush_job().unwrap().run().unwrap_err();
        match fault {
            Fault::NoSpace => assert!(matches!(error, FlushError::DiskFull { .. }), "{error}"),
            _ => assert!(matches!(error, FlushError::Disk { .. }), "{error}"),
        }
        assert!(rig.shard.get(&Key::new(1, 1, b"more")).unwrap().is_some());
    }
    rig.flush();
    assert_eq!(rig.shard.oldest_unflushed(), None);
    rig.restart();
    assert!(rig.shard.get(&Key::new(1, 1, b"more")).unwrap().is_some());
}

#[test]
fn a_segment_under_which_the_disk_failed_is_fenced_until_it_was_read_through() {
    use logstore::storage::Storage as _;
    let (rig, rows) = small(Compression::Lz4);
    let path = segment_path(&rig.disk);
    let note = format!("{path}\nsegments/other.seg\nsegm");
    rig.disk
        .create("faults")
        .unwrap()
        .write_at(note.as_bytes(), 0)
        .unwrap();
    let opened = read_all(&rig, &files(&rig.disk, 0, 4), &rows);
    let Err(ShardError::Segment { source, .. }) = opened else {
        panic!("it was opened")
    };
    assert!(matches!(source, ReadError::Fenced { .. }), "{source}");

    let len = rig.disk.bytes(&path).unwrap().len();
    rig.disk.flip(&path, len / 2, 1).unwrap();
    assert_ne!(inspect::lift_fence(&rig.disk, &path).unwrap(), []);
    assert_eq!(inspect::fences(&rig.disk).unwrap().len(), 3);
    rig.disk.flip(&path, len / 2, 1).unwrap();
    assert_eq!(inspect::lift_fence(&rig.disk, &path).unwrap(), []);
    assert_eq!(
        inspect::fences(&rig.disk).unwrap(),
        ["segm", "segments/other.seg"]
    );
    assert_eq!(read_all(&rig, &files(&rig.disk, 0, 4), &rows).unwrap(), 0);
}

#[test]
fn looking_into_a_file_gives_its_rows_its_blocks_and_its_inboxes() {
    let (rig, rows) = small(Compression::Lz4);
    let path = segment_path(&rig.disk);
    let storage: Arc<dyn logstore::storage::Storage> = Arc::new(rig.disk.clone());
    assert_eq!(
        inspect::segments(&rig.disk).unwrap(),
        std::slice::from_ref(&path)
    );
    let mut seen = BTreeMap::new();
    inspect::rows(&storage, &path, |key, row| {
        drop(seen.insert(key, row.unwrap()))
    })
    .unwrap();
    assert_eq!(seen, rows);
    let described = inspect::describe(&rig.disk, &path).unwrap();
    assert_eq!((described.meta.rows, described.meta.postings), (9, 3));
    assert!(described.blocks.iter().all(|block| block.kind.is_some()));
    let inboxes = inspect::inboxes(&storage, &path).unwrap();
    let found: Vec<_> = inboxes
        .iter()
        .map(|i| (i.inbox, i.rows, i.postings))
        .collect();
    assert_eq!(found, [(1, 3, 1), (2, 3, 1), (3, 3, 1)]);
    assert_eq!(inboxes[0].sequences, [(32, 1, 1, 1)]);
}
