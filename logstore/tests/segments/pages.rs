//! What a page of a large inbox costs on a cold disk: how many reads of a segment wait.

use crate::fixture::{Put, Rig, files};
use logstore::{
    key::{Key, Order},
    segment::{Compression, SegmentOptions},
};
use std::collections::BTreeMap;

const INBOX: u64 = 1 << 40;
const EVENT: u8 = 32;
const INCOMING: u8 = 40;
const SEGMENTS: u64 = 5;
const EVENTS: u64 = 100_000;

fn message(inbox: u64, number: u64) -> [Put; 2] {
    let body: Vec<u8> = (0..12)
        .flat_map(|at| (number * 31 + at).to_be_bytes())
        .collect();
    [
        (Key::append(inbox, EVENT, number), vec![1; 20], Some(body)),
        (
            Key::posting(inbox, INCOMING, number % 20, number),
            number.to_be_bytes().to_vec(),
            None,
        ),
    ]
}

/// One inbox of many events over several segments, in each of them among others; just
/// started, with nothing in memory but what a start reads.
fn large_inbox() -> Rig {
    let mut rig = Rig::new(SegmentOptions {
        compression: Compression::None,
        ..SegmentOptions::default()
    });
    let each = EVENTS / SEGMENTS;
    for segment in 0..SEGMENTS {
        for number in segment * each + 1..=(segment + 1) * each {
            let mut rows = message(INBOX, number).to_vec();
            if number % 10 == 0 {
                let other = (number % 1000) << 31;
                rows.extend(message(other, number));
            }
            rig.put(rows, &[]);
        }
        rig.freeze_and_flush();
    }
    rig.files = files(&rig.disk, 8 << 20, 16);
    rig.restart();
    rig.disk.evict();
    rig
}

/// How many reads of each segment wait for the disk, the fewest first.
fn waits(rig: &Rig, read: impl FnOnce(&Rig)) -> Vec<usize> {
    let before = rig.disk.cold_reads().len();
    read(rig);
    let mut files = BTreeMap::<usize, usize>::new();
    for read in rig.disk.cold_reads().split_off(before) {
        *files.entry(read.file).or_default() += 1;
    }
    let mut counts: Vec<_> = files.into_values().collect();
    counts.sort_unstable();
    counts
}

#[test]
fn the_newest_page_is_read_from_one_segment_and_the_others_are_only_asked_where_they_begin() {
    let rig = large_inbox();
    let (from, to) = (Key::first(INBOX, EVENT), Key::last(INBOX, EVENT));
    let page = |rig: &Rig| {
        let rows = rig.shard.range(&from, &to, Order::Falling, 50).unwrap();
        let sequences: Vec<_> = rows.iter().map(|(key, _)| key.number(0)).collect();
        assert_eq!(sequences, (EVENTS - 49..=EVENTS).rev().collect::<Vec<_>>());
    };
    // Of an older one: a page of the filter, the index of inboxes and one block of them.
    // Of the newest besides: its table of places, and a block or two of rows with their
    // index.
    let counts = waits(&rig, page);
    assert_eq!(counts[..4], [3; 4]);
    assert!(counts.len() == 5 && counts[4] <= 6, "{counts:?}");
    assert_eq!(waits(&rig, page), [], "now it is in memory");
}

#[test]
fn a_page_from_the_middle_is_read_from_the_segment_that_has_it() {
    let rig = large_inbox();
    let (from, to) = (Key::append(INBOX, EVENT, 50_001), Key::last(INBOX, EVENT));
    let counts = waits(&rig, |rig| {
        let rows = rig.shard.range(&from, &to, Order::Rising, 50).unwrap();
        let sequences: Vec<_> = rows.iter().map(|(key, _)| key.number(0)).collect();
        assert_eq!(sequences, (50_001..=50_050).collect::<Vec<_>>());
    });
    assert_eq!(counts[..4], [3; 4]);
    assert!(counts.len() == 5 && counts[4] <= 6, "{counts:?}");
}

#[test]
fn a_page_of_a_conversation_costs_its_postings_in_each_segment_and_the_blocks_of_its_rows() {
    const GROUP: u64 = 3;
    let rig = large_inbox();
    let posting = |order| Key::posting(INBOX, INCOMING, GROUP, order);
    let mut newest = Vec::new();
    let counts = waits(&rig, |rig| {
        let rows = rig
            .shard
            .range(&posting(0), &posting(u64::MAX), Order::Falling, 50);
        newest = rows.unwrap().iter().map(|(key, _)| key.number(8)).collect();
    });
    // A page of the filter, the table of places, a block of postings and its index: how
    // far the postings of a group reach is told by no index.
    assert_eq!(counts, [4; 5]);
    assert_eq!(newest.len(), 50);
    let counts = waits(&rig, |rig| {
        for number in &newest {
            let key = Key::append(INBOX, EVENT, *number);
            assert!(rig.shard.get(&key).unwrap().is_some());
        }
    });
    // Inline bodies stand by their number in the inbox: the 50 are among the newest 1,000
    // events, of some 170 bytes, in blocks of 16 KiB that follow each other.
    assert_eq!(counts.len(), 1, "only the newest segment has them");
    assert!(counts[0] <= 1_000 * 170 / (16 << 10) + 5, "{counts:?}");
}

#[test]
fn what_a_newer_layer_deletes_at_the_edge_of_a_segment_stays_deleted() {
    let mut rig = Rig::new(SegmentOptions::default());
    for number in 1..=10 {
        rig.put(message(INBOX, number).to_vec(), &[]);
    }
    rig.freeze_and_flush();
    let key = |number| Key::append(INBOX, EVENT, number);
    rig.put(Vec::new(), &[key(1), key(10)]);
    for (order, expected) in [
        (Order::Rising, (2..=9).collect::<Vec<_>>()),
        (Order::Falling, (2..=9).rev().collect()),
    ] {
        let (from, to) = (Key::first(INBOX, EVENT), Key::last(INBOX, EVENT));
        let rows = rig.shard.range(&from, &to, order, 50).unwrap();
        let sequences: Vec<_> = rows.iter().map(|(key, _)| key.number(0)).collect();
        assert_eq!(sequences, expected);
    }
}
