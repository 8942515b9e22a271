//! A loss that was accepted stays accepted, whatever checkpoints and other shards do
//! afterwards; and it accepts what was known then and nothing else.

use crate::workload::{create, entries, flushed, small};
use logstore::{
    engine::{Log, Opened, open},
    loss::accept_loss,
    recovery::dump,
    replicas::ReplicaKey,
    storage::simulated::SimulatedDisk,
    wal::frame::{self, FrameHeader, Record, RecordHeader, kind},
};
use std::sync::Arc;

/// What is destroyed of position 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// Its body: only its own replica is damaged.
    Body,
    /// Its whole frame: every replica is.
    Frame,
}

/// Where a frame with the entry at a position of shard 1 begins, and where its body does.
fn place_of(disk: &SimulatedDisk, position: u64) -> (String, usize, usize) {
    let start = format!("1/{position}@1 ");
    for path in disk.files() {
        let bytes = disk.bytes(&path).unwrap();
        let found = bytes
            .windows(start.len())
            .position(|window| window == start.as_bytes());
        if let Some(at) = found {
            return (path, at / frame::BLOCK * frame::BLOCK, at);
        }
    }
    panic!("position {position} is in no file")
}

fn destroy(disk: &SimulatedDisk, position: u64, lost: Lost) {
    let (path, frame, body) = place_of(disk, position);
    let at = if lost == Lost::Body { body } else { frame + 8 };
    disk.flip(&path, at, 1).unwrap();
}

/// A shard with entries in a frame each, behind a file that another shard filled.
struct Case {
    disk: SimulatedDisk,
    victim: ReplicaKey,
    busy: ReplicaKey,
}

impl Case {
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let mut opened = open(Arc::new(disk.clone()), small()).unwrap();
        let victim = create(&mut opened.log, 1);
        let busy = create(&mut opened.log, 2);
        let mut position = 0;
        while opened.log.stats().live_files < 2 {
            position += 1;
            opened
                .log
                .commit(&[entries(busy, position..=position, 1)])
                .unwrap();
        }
        for position in 1..=6 {
            opened
                .log
                .commit(&[entries(victim, position..=position, 1)])
                .unwrap();
        }
        opened.log.prove().unwrap();
        disk.kill();
        Self { disk, victim, busy }
    }

    fn open(&self) -> Opened {
        self.disk.kill();
        open(Arc::new(self.disk.clone()), small()).unwrap()
    }

    fn accept_all(&self) {
        for damaged in self.open().damaged {
            let shard = damaged.key.shard;
            accept_loss(Arc::new(self.disk.clone()), small(), shard).unwrap();
        }
    }

    /// The other shard is flushed and its oldest file reused: a checkpoint.
    fn checkpoint(&self, opened: &mut Opened) {
        let last = opened.replicas[&2].log.last_position();
        opened.log.commit(&flushed(self.busy, last, 1)).unwrap();
        assert!(opened.log.reclaim().unwrap() > 0);
    }
}

/// Positions 3 and 4 in a new term, durable.
fn goes_on(log: &mut Log, victim: ReplicaKey) {
    log.commit(&[entries(victim, 3..=4, 2)]).unwrap();
    log.prove().unwrap();
}

/// A loss that was accepted was damage again after a checkpoint, another shard's flush
/// and a restart: what accepts it was not read below the checkpoint, the damage was.
#[test]
fn an_accepted_loss_does_not_come_back_with_a_checkpoint() {
    for lost in [Lost::Body, Lost::Frame] {
        let case = Case::new();
        destroy(&case.disk, 3, lost);
        let damaged = case.open().damaged.len();
        assert_eq!(damaged, if lost == Lost::Body { 1 } else { 2 });
        case.accept_all();
        let mut opened = case.open();
        assert!(opened.damaged.is_empty(), "{lost:?}");
        assert_eq!(opened.replicas[&1].log.last_position(), 2);
        goes_on(&mut opened.log, case.victim);
        case.checkpoint(&mut opened);
        for _ in 0..2 {
            let opened = case.open();
            assert!(opened.damaged.is_empty(), "{lost:?}: {:?}", opened.damaged);
            let log = &opened.replicas[&1].log;
            assert_eq!((log.last_position(), log.term(3)), (4, Some(2)));
        }
    }
}

/// A hole damaged replicas that were created behind it, when a checkpoint knew them.
#[test]
fn a_hole_is_no_damage_of_a_replica_that_was_created_behind_it() {
    let case = Case::new();
    destroy(&case.disk, 3, Lost::Frame);
    case.accept_all();
    let mut opened = case.open();
    let new = create(&mut opened.log, 7);
    opened.log.commit(&[entries(new, 1..=1, 1)]).unwrap();
    case.checkpoint(&mut opened);
    let opened = case.open();
    assert!(opened.damaged.is_empty(), "{:?}", opened.damaged);
    assert_eq!(opened.replicas[&7].log.last_position(), 1);
}

#[test]
fn what_was_kept_when_a_loss_was_accepted_and_is_lost_later_is_new_damage() {
    for lost in [Lost::Body, Lost::Frame] {
        for later in [Lost::Body, Lost::Frame] {
            let case = Case::new();
            destroy(&case.disk, 4, lost);
            case.accept_all();
            let mut opened = case.open();
            case.checkpoint(&mut opened);
            destroy(&case.disk, 2, later);
            let opened = case.open();
            let [damaged] = opened
                .damaged
                .iter()
                .filter(|of| of.key == case.victim)
                .collect::<Vec<_>>()[..]
            else {
                panic!("{lost:?}, {later:?}: not damaged")
            };
            assert_eq!(damaged.damage.kept_to, 1, "{lost:?}, {later:?}");
        }
    }
}

/// The hole was accepted; the frame before it, of which nothing tells whose it was, was
/// not.
#[test]
fn a_hole_that_grew_after_it_was_accepted_is_new_damage() {
    let case = Case::new();
    destroy(&case.disk, 5, Lost::Frame);
    case.accept_all();
    assert!(case.open().damaged.is_empty());
    destroy(&case.disk, 4, Lost::Frame);
    assert_eq!(case.open().damaged.len(), 2);
}

#[test]
fn what_was_given_up_may_rot_without_being_damage_again() {
    let case = Case::new();
    destroy(&case.disk, 3, Lost::Body);
    case.accept_all();
    destroy(&case.disk, 5, Lost::Body);
    let opened = case.open();
    assert!(opened.damaged.is_empty(), "{:?}", opened.damaged);
    assert_eq!(opened.replicas[&1].log.last_position(), 2);
}

/// Versions before wrote no holes into the record: then all before it were known.
#[test]
fn a_loss_that_an_older_version_accepted_stays_accepted() {
    let case = Case::new();
    destroy(&case.disk, 3, Lost::Frame);
    let keys: Vec<ReplicaKey> = case.open().damaged.iter().map(|of| of.key).collect();
    case.disk.kill();
    let last = dump(&case.disk, &small()).unwrap().unwrap().frames;
    let last = last.iter().max_by_key(|frame| frame.header.lsn).unwrap();
    let header = FrameHeader {
        epoch: last.header.epoch,
        lsn: last.header.lsn + 1,
        previous_lsn: last.header.lsn,
        synced_lsn: last.header.lsn,
        file: last.file,
        block: last.header.block + 1,
        log_id: last.header.log_id,
        ..FrameHeader::default()
    };
    let record = |key: &ReplicaKey| RecordHeader {
        shard: key.shard,
        replica: key.replica,
        kind: kind::LOSS_ACCEPTED,
        position: kept_to(&case, *key),
        needs: 1,
        ..RecordHeader::default()
    };
    let records: Vec<_> = keys
        .iter()
        .map(|key| Record {
            header: record(key),
            body: b"",
        })
        .collect();
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, header, &records);
    let path = format!("wal/{:08}.wal", last.file);
    let at = (last.header.block as usize + 1) * frame::BLOCK;
    case.disk.overwrite(&path, at, &bytes).unwrap();
    let mut opened = case.open();
    assert!(opened.damaged.is_empty(), "{:?}", opened.damaged);
    goes_on(&mut opened.log, case.victim);
    case.checkpoint(&mut opened);
    let opened = case.open();
    assert!(opened.damaged.is_empty(), "{:?}", opened.damaged);
    assert_eq!(opened.replicas[&1].log.last_position(), 4);
}

/// Where the log of a damaged replica ends.
fn kept_to(case: &Case, key: ReplicaKey) -> u64 {
    let copy = case.disk.duplicate();
    let opened = open(Arc::new(copy), small()).unwrap();
    let found = opened.damaged.iter().find(|of| of.key == key).unwrap();
    found.damage.kept_to
}
