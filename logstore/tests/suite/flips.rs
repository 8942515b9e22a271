//! Every byte of a log, flipped: the damage is reported, or the byte lies outside
//! every frame and nothing changes, or it is in the last frame, which nothing proves,
//! and that is cut like a torn write. Something that was never written is never
//! served. (`tests/segments` does the same with a segment.)

use crate::{
    sweep::quietly,
    workload::{contents, create, entries, small},
};
use logstore::{
    engine::{Append, Opened, open},
    log_index::{HardState, LogEntry},
    loss::{Accepted, LossError, accept_loss},
    plant::Plant,
    replicas::ReplicaKey,
    storage::simulated::SimulatedDisk,
};
use std::{collections::BTreeMap, sync::Arc};

const LOG: &str = "wal/00000000.wal";
const BLOCK: usize = 4096;

/// Entries and hard state of each shard.
type Found = BTreeMap<u16, (Vec<LogEntry>, HardState)>;

fn found(opened: &Opened) -> Found {
    let replicas = opened.replicas.values();
    let of = |log| -> (Vec<LogEntry>, HardState) { (contents(log), log.hard_state()) };
    replicas
        .map(|replica| (replica.key.shard, of(&replica.log)))
        .collect()
}

/// Frames: creation of two shards, two of entries, one hard state with an entry.
/// The last is proven by an empty one only if asked.
fn disk(proven: bool) -> (SimulatedDisk, Vec<Found>) {
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let one = create(&mut opened.log, 1);
    let two = create(&mut opened.log, 2);
    opened
        .log
        .commit(&[entries(one, 1..=2, 1), entries(two, 1..=1, 1)])
        .unwrap();
    opened.log.commit(&[entries(one, 3..=3, 1)]).unwrap();
    let before = found(&open(Arc::new(disk.duplicate()), small()).unwrap());
    let state = HardState {
        term: 3,
        vote: 2,
        commit: 1,
    };
    let hard = Append::HardState { key: two, state };
    opened.log.commit(&[hard, entries(two, 2..=2, 3)]).unwrap();
    if proven {
        opened.log.prove().unwrap();
    }
    disk.kill();
    let after = found(&open(Arc::new(disk.duplicate()), small()).unwrap());
    (disk, vec![before, after])
}

/// Offsets of the bytes that some frame's checksums cover, and the last frame's first.
fn covered(log: &[u8]) -> (Vec<usize>, usize) {
    let u32_at = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap()) as usize;
    let mut covered = Vec::new();
    let (mut at, mut last) = (0, 0);
    while log[at..].starts_with(b"CLOG") {
        let bytes = 80 + u32_at(at + 48) * 48 + u32_at(at + 52);
        covered.extend(at..at + bytes);
        last = at;
        at += bytes.next_multiple_of(BLOCK);
    }
    (covered, last)
}

/// Flips one bit of each byte of the log in turn; what was wrong with the answers.
pub(crate) fn flip_all(proven: bool, plant: Option<Plant>) -> Vec<String> {
    let (disk, images) = disk(proven);
    let log = disk.bytes(LOG).unwrap();
    let (covered, last) = covered(&log);
    let end = covered.last().unwrap() + BLOCK;
    let mut options = small();
    options.plant = plant.into();
    let mut wrong = Vec::new();
    let inside: std::collections::BTreeSet<usize> = covered.into_iter().collect();
    // Padding and zeros too: no checksum covers them, so nothing may depend on them.
    for offset in 0..end {
        if plant.is_some() && !wrong.is_empty() {
            break;
        }
        let flipped = disk.duplicate();
        flipped.flip(LOG, offset, 1 << (offset % 8)).unwrap();
        let opened = match quietly(|| open(Arc::new(flipped), options.clone())) {
            Some(Ok(opened)) => opened,
            // It does not open: nothing is served.
            Some(Err(_)) => continue,
            None => {
                wrong.push(format!("byte {offset}: a panic"));
                continue;
            }
        };
        let now = found(&opened);
        let whole = now == images[1];
        let fine = if !inside.contains(&offset) {
            whole && opened.damaged.is_empty()
        } else if offset >= last {
            // The last frame is cut; with nothing in it, nothing is missing.
            opened.damaged.is_empty() && (now == images[usize::from(proven)])
        } else {
            // What is served of sound shards is right, and some shard is not sound.
            let served = now
                .iter()
                .all(|(shard, what)| images[1].get(shard) == Some(what));
            served && !opened.damaged.is_empty()
        };
        if !fine {
            let ends: Vec<_> = now.iter().map(|(id, (log, _))| (id, log.len())).collect();
            let damage: Vec<_> = opened.damaged.iter().map(|of| &of.damage.reason).collect();
            wrong.push(format!("byte {offset} of {last}: {ends:?}, {damage:?}"));
        }
    }
    wrong
}

#[test]
fn every_flipped_byte_of_a_log_is_detected_or_without_effect() {
    for proven in [false, true] {
        let wrong = flip_all(proven, None);
        assert!(
            wrong.is_empty(),
            "{} wrong, the first: {}",
            wrong.len(),
            wrong[0]
        );
    }
}

/// Flips a byte of the body of the entry at a position of shard 1.
fn flip_entry(disk: &SimulatedDisk, position: u64) {
    let log = disk.bytes(LOG).unwrap();
    let body = format!("1/{position}@1 ").into_bytes();
    let at = log
        .windows(body.len())
        .position(|window| window == body)
        .unwrap();
    disk.flip(LOG, at, 4).unwrap();
}

#[test]
fn a_wrong_body_retires_its_own_replica_and_stays_known() {
    let (disk, images) = disk(true);
    flip_entry(&disk, 2);
    for _ in 0..3 {
        let opened = open(Arc::new(disk.clone()), small()).unwrap();
        assert_eq!(found(&opened)[&2], images[1][&2], "the other shard goes on");
        let [damaged] = &opened.damaged[..] else {
            panic!("{:?}", opened.damaged)
        };
        assert_eq!(damaged.key.shard, 1);
        assert_eq!((damaged.damage.kept_to, damaged.damage.seen_to), (1, 3));
        assert_eq!(damaged.log.last_position(), 1);
        disk.kill();
    }
}

#[test]
fn a_lost_frame_retires_every_replica_that_was_there() {
    let (disk, _) = disk(true);
    disk.overwrite(LOG, 2 * BLOCK, &[0; 512]).unwrap();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    assert!(opened.replicas.is_empty());
    assert_eq!(opened.damaged.len(), 2);
    // A replica that is created afterwards has nothing to do with it.
    let old = opened.damaged[0].key;
    let new = ReplicaKey {
        replica: opened.log.next_replica(),
        ..old
    };
    let create = Append::CreateReplica { key: new };
    opened
        .log
        .commit(&[Append::RetireReplica { key: old }, create])
        .unwrap();
    opened.log.commit(&[entries(new, 1..=3, 1)]).unwrap();
    disk.crash(3);
    let opened = open(Arc::new(disk), small()).unwrap();
    assert_eq!(opened.replicas[&1].log.last_position(), 3);
    assert_eq!(opened.damaged.len(), 1);
}

#[test]
fn a_misdirected_write_is_found_on_both_sides() {
    use logstore::storage::simulated::Fault;
    let disk = SimulatedDisk::new();
    let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
    let one = create(&mut opened.log, 1);
    disk.plan(disk.effects() + 1, Fault::Misdirected(8 * BLOCK as u64));
    opened.log.commit(&[entries(one, 1..=1, 1)]).unwrap();
    opened.log.commit(&[entries(one, 2..=2, 1)]).unwrap();
    disk.kill();
    let opened = open(Arc::new(disk), small()).unwrap();
    assert_eq!(opened.damaged.len(), 1);
    assert!(opened.replicas.is_empty());
}

#[test]
fn an_accepted_loss_cuts_at_the_damage_and_the_shard_goes_on() {
    let (disk, images) = disk(true);
    flip_entry(&disk, 2);
    let storage = || Arc::new(disk.clone());
    assert!(matches!(
        accept_loss(storage(), small(), 2),
        Err(LossError::NotDamaged(2))
    ));
    disk.kill();
    let Accepted::Cut(loss) = accept_loss(storage(), small(), 1).unwrap() else {
        panic!("nothing to rebuild")
    };
    assert_eq!((loss.key.shard, loss.kept_to, loss.seen_to), (1, 1, 3));
    disk.crash(1);
    let mut opened = open(storage(), small()).unwrap();
    assert!(opened.damaged.is_empty());
    assert_eq!(opened.replicas[&1].log.last_position(), 1);
    assert_eq!(found(&opened)[&2], images[1][&2]);
    let key = opened.replicas[&1].key;
    opened.log.commit(&[entries(key, 2..=4, 9)]).unwrap();
    disk.crash(2);
    let opened = open(storage(), small()).unwrap();
    assert!(opened.damaged.is_empty());
    assert_eq!(opened.replicas[&1].log.last_position(), 4);
    assert_eq!(opened.replicas[&1].log.term(2), Some(9));
}

#[test]
fn a_frame_in_the_body_of_an_entry_is_not_taken_for_one() {
    // A client that knows the format sends frames as messages; their number of the
    // directory is what it cannot know.
    let (disk, _) = disk(true);
    let forged = disk.bytes(LOG).unwrap()[3 * BLOCK..4 * BLOCK].to_vec();
    let other = SimulatedDisk::new();
    let mut opened = open(
        Arc::new(other.clone()),
        logstore::engine::Options {
            log_id: 1,
            ..small()
        },
    )
    .unwrap();
    create(&mut opened.log, 1);
    other.kill();
    other.overwrite(LOG, 3 * BLOCK, &forged).unwrap();
    let opened = open(Arc::new(other), small()).unwrap();
    assert!(opened.damaged.is_empty());
    assert_eq!(opened.replicas[&1].log.last_position(), 0);
}
