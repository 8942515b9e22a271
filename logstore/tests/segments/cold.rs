//! Reads that do not wait for the disk: what is cold is told, never read, and warm
//! again once somebody else has read it.

use crate::fixture::{Put, Rig, files};
use logstore::{
    key::{Key, Order},
    reads::ReadError,
    segment::{Compression, SegmentOptions},
};

const INBOX: u64 = 7;
const EVENT: u8 = 32;
const INCOMING: u8 = 40;
const NAME: u8 = 0;

/// A message of some KiB with its posting, and the inbox's name.
fn message(number: u64) -> Vec<Put> {
    let place = number.to_be_bytes().to_vec();
    vec![
        (
            Key::append(INBOX, EVENT, number),
            vec![1; 30],
            Some(number.to_be_bytes().repeat(500)),
        ),
        (
            Key::posting(INBOX, INCOMING, number % 3, number),
            place,
            None,
        ),
        (Key::new(INBOX, NAME, b""), vec![5; 10], None),
    ]
}

/// Three segments of 40 messages each, opened anew, and a cache of so many bytes.
fn rig(cache_bytes: usize) -> Rig {
    // As it is, a segment is many pages.
    let mut rig = Rig::new(SegmentOptions {
        compression: Compression::None,
        ..SegmentOptions::default()
    });
    for number in 1..=120 {
        rig.put(message(number), &[]);
        if number % 40 == 0 {
            rig.freeze_and_flush();
        }
    }
    rig.files = files(&rig.disk, cache_bytes, 8);
    rig.restart();
    rig
}

/// What a read gives, and how often it had to be warmed; it never waits by itself.
fn warmed<T>(
    rig: &Rig,
    at_hand: impl Fn() -> Result<T, ReadError>,
    elsewhere: impl Fn(),
) -> (T, u32) {
    let mut warmed = 0;
    loop {
        let before = rig.disk.cold_reads().len();
        let found = at_hand();
        assert_eq!(
            rig.disk.cold_reads().len(),
            before,
            "it waited for the disk"
        );
        match found {
            Ok(found) => return (found, warmed),
            Err(ReadError::Cold) => {}
            Err(error) => panic!("{error}"),
        }
        elsewhere();
        warmed += 1;
        assert!(warmed < 3, "it stays cold");
    }
}

#[test]
fn a_cold_read_is_told_and_is_warm_after_the_same_read_elsewhere() {
    // With a cache of blocks, and with the page cache alone.
    for cache_bytes in [1 << 20, 0] {
        let rig = rig(cache_bytes);
        let (shard, reader) = (&rig.shard, rig.shard.reader());
        let (from, to) = (Key::first(INBOX, EVENT), Key::last(INBOX, EVENT));
        rig.disk.evict();
        let read = || shard.at_hand().range(&from, &to, Order::Falling, 50);
        let (rows, times) = warmed(&rig, read, || {
            reader.range(&from, &to, Order::Falling, 50).unwrap();
        });
        assert_eq!((rows.len(), times), (50, 1));
        assert_eq!(rows, shard.range(&from, &to, Order::Falling, 50).unwrap());

        let key = Key::append(INBOX, EVENT, 3);
        let read = || shard.at_hand().get(&key);
        let (row, times) = warmed(&rig, read, || drop(reader.get(&key).unwrap()));
        assert!(row.is_some());
        assert_eq!(times, 1, "the oldest messages were not read before");

        let (from, to) = (
            Key::posting(INBOX, INCOMING, 1, 0),
            Key::posting(INBOX, INCOMING, 1, 200),
        );
        rig.disk.evict();
        let read = || shard.at_hand().count(&from, &to);
        let (count, times) = warmed(&rig, read, || {
            reader.count(&from, &to).unwrap();
        });
        assert_eq!((count, times), (40, 1));

        rig.disk.evict();
        let read = || shard.at_hand().groups(INBOX, &[INCOMING], None, 2);
        let (groups, _) = warmed(&rig, read, || {
            reader.groups(INBOX, &[INCOMING], None, 2).unwrap();
        });
        assert_eq!(groups.len(), 2);
    }
}

#[test]
fn what_memory_knows_is_at_hand_whatever_the_disk_does() {
    let mut rig = rig(1 << 20);
    rig.disk.evict();
    rig.put(message(121), &[]);
    let before = rig.disk.cold_reads().len();
    let newest = Key::append(INBOX, EVENT, 121);
    assert!(rig.shard.at_hand().get(&newest).unwrap().is_some());
    let name = Key::new(INBOX, NAME, b"");
    assert!(rig.shard.at_hand().get(&name).unwrap().is_some());
    // Without segments nothing is ever cold.
    let empty = Rig::new(SegmentOptions::default());
    empty.disk.evict();
    assert!(empty.shard.at_hand().get(&newest).unwrap().is_none());
    assert_eq!(rig.disk.cold_reads().len(), before);
}

#[test]
fn a_file_that_is_not_open_is_cold() {
    let rig = rig(1 << 20);
    // Only one may be mapped: the newest takes the place of the others.
    let files = files(&rig.disk, 0, 1);
    let shard = logstore::shard::Shard::open(
        crate::fixture::KEY,
        logstore::log_index::LogIndex::new(),
        rig.shard.flushed(),
        &rig.segments,
        &files,
        rig.options,
    )
    .unwrap();
    let oldest = Key::append(INBOX, EVENT, 1);
    assert!(matches!(shard.at_hand().get(&oldest), Err(ReadError::Cold)));
    assert!(shard.reader().get(&oldest).unwrap().is_some());
}
