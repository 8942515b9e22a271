use std::{fs, io};

use chat_core::host::Place;
use chat_wire::ids::ShardId;

use super::*;
use crate::watch::Role;

fn panic_at(shard: u16, position: u64, served: bool) -> Ended {
    Ended {
        role: Role::Shards(0),
        at: Some("chatd/src/shards/thread.rs:1".into()),
        text: Some("planted"),
        place: Some(Place {
            shard: ShardId(shard),
            position,
            served,
        }),
    }
}

fn down(note: &Note) -> Vec<(u16, u64)> {
    let down = note.down().into_iter();
    down.map(|panicked| (panicked.shard, panicked.position))
        .collect()
}

#[test]
fn a_shard_that_panics_twice_at_a_position_stays_down_and_one_that_got_on_does_not() {
    let mut note = Note::default();
    note.panicked(&panic_at(3, 10, true), 1);
    assert_eq!(down(&note), []);
    note.settle();
    note.panicked(&panic_at(3, 11, true), 2);
    assert_eq!(down(&note), []);
    // A flush of what was applied: the node has served meanwhile.
    note.settle();
    note.panicked(&panic_at(3, 11, true), 3);
    assert_eq!(down(&note), [(3, 11)]);
}

#[test]
fn a_shard_that_panics_at_every_start_stays_down_though_its_position_moves_on() {
    let mut note = Note::default();
    // What a leader begins with is an entry: the next start finds one more.
    note.panicked(&panic_at(3, 10, false), 1);
    note.panicked(&panic_at(3, 11, false), 2);
    assert_eq!(down(&note), [(3, 11)]);
    // But not for a start long ago.
    let mut note = Note::default();
    note.panicked(&panic_at(3, 10, false), 1);
    note.settle();
    note.panicked(&panic_at(3, 11, false), 2);
    assert_eq!(down(&note), []);
}

#[test]
fn two_shards_that_panic_in_turns_both_stay_down() {
    let mut note = Note::default();
    for (shard, position) in [(3, 10), (5, 90), (3, 10), (5, 90)] {
        note.panicked(&panic_at(shard, position, false), 1);
    }
    assert_eq!(down(&note), [(3, 10), (5, 90)]);
}

#[test]
fn another_version_tries_again() {
    let mut note = Note::default().for_version("1");
    for _ in 0..2 {
        note.panicked(&panic_at(3, 10, false), 1);
    }
    assert_eq!(down(&note.clone().for_version("1")), [(3, 10)]);
    let other = note.for_version("2");
    assert_eq!(down(&other), []);
    assert!(!other.reason.is_empty(), "the reason is still shown");
}

#[test]
fn the_note_has_one_size_whatever_it_says_and_however_often() {
    let mut note = Note::default();
    for shard in 0..4_096 {
        let mut ended = panic_at(shard, u64::MAX - 1, false);
        ended.at = Some("\u{1}".repeat(5_000));
        note.panicked(&ended, u64::MAX);
        note.panicked(&ended, u64::MAX);
        let bytes = note.bytes();
        assert_eq!(bytes.len(), NOTE_BYTES);
        assert_eq!(Note::read(&bytes), Some(note.clone()));
    }
    assert_eq!(down(&note).len(), SHARDS);
    assert_eq!(note.down().last().unwrap().shard, 4_095);
}

#[test]
fn a_torn_or_foreign_note_is_as_none() {
    let mut note = Note::default();
    note.panicked(&panic_at(3, 10, false), 1);
    let whole = note.bytes();
    for cut in [0, 1, 16, 17, 4_096, whole.len() - 1] {
        assert_eq!(Note::read(&whole[..cut]), None);
    }
    let mut torn = whole.clone();
    torn[40] ^= 1;
    assert_eq!(Note::read(&torn), None);
    assert_eq!(
        Note::read(b"what somebody wrote here, longer than a checksum"),
        None
    );
    assert_eq!(Note::read(&whole), Some(note));
}

#[test]
fn a_note_is_kept_over_starts_and_begun_anew_when_it_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let open = || {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
    };
    let words = LastWords::new(open(), "1");
    assert_eq!(words.last(), None);
    let empty = fs::read(&path).unwrap();
    assert_eq!(
        empty.len(),
        NOTE_BYTES,
        "its room is taken before it is needed"
    );
    words.remember(&panic_at(3, 10, false));
    words.remember(&panic_at(3, 10, false));
    let words = LastWords::new(open(), "1");
    assert_eq!(
        words.down(),
        [Panicked {
            shard: 3,
            position: 10
        }]
    );
    assert!(words.last().unwrap().0.contains("shard 3, position 10"));
    assert_eq!(fs::read(&path).unwrap().len(), NOTE_BYTES);
    fs::write(&path, "lost").unwrap();
    assert_eq!(LastWords::new(open(), "1").down(), []);
    // Nor does a node need it.
    let missing = LastWords::new(Err(io::ErrorKind::StorageFull), "1");
    missing.remember(&panic_at(3, 10, false));
    assert!(missing.last().is_some());
}
