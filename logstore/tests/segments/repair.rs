//! A shard whose segments cannot be opened: its ends are rebuilt from its blocks, or it
//! begins empty as a whole, after saying so. Never is one segment dropped.

use crate::fixture::{KEY, Rig, files};
use logstore::{
    engine::{Append, Options, open},
    key::Key,
    loss::{Accepted, LossError, accept_loss, begin_empty, pending},
    reads::Order,
    segment::SegmentOptions,
    shard::Shard,
    storage::simulated::SimulatedDisk,
};
use std::sync::Arc;

fn options() -> Options {
    Options {
        file_bytes: 64 << 10,
        budget_bytes: 640 << 10,
        stop_free_bytes: 0,
        resume_free_bytes: 0,
        scan_threads: 1,
        log_id: 7,
        ..Options::default()
    }
}

/// Two segments that a log names, and the paths of their files.
fn flushed() -> (SimulatedDisk, Vec<String>) {
    let mut rig = Rig::new(SegmentOptions::default());
    for round in 1..=2 {
        let rows = (1..=9_u64).map(|inbox| {
            (
                Key::append(inbox, 32, round),
                vec![1; 8],
                Some(vec![2; 900]),
            )
        });
        rig.put(rows.collect(), &[]);
        rig.freeze_and_flush();
    }
    let mut log = open(Arc::new(rig.disk.clone()), options()).unwrap().log;
    log.commit(&[
        Append::CreateReplica { key: KEY },
        Append::Segments {
            key: KEY,
            position: rig.shard.flushed(),
            term: 1,
            added: rig.segments.clone(),
            removed: Vec::new(),
        },
    ])
    .unwrap();
    log.prove().unwrap();
    rig.disk.kill();
    let paths = rig.disk.files();
    let paths = paths.into_iter().filter(|path| path.ends_with(".seg"));
    (rig.disk, paths.collect())
}

/// Opens the shard and counts its rows; `None` if it is down.
fn rows(disk: &SimulatedDisk) -> Option<usize> {
    disk.kill();
    let mut opened = open(Arc::new(disk.clone()), options()).unwrap();
    let found = opened.replicas.remove(&KEY.shard)?;
    let files = files(disk, 0, 2);
    let flushed = found.flushed.0;
    let (key, log) = (found.key, found.log);
    let options = SegmentOptions::default();
    let shard = Shard::open(key, log, flushed, &found.segments, &files, options).ok()?;
    let (from, to) = (Key::first(0, 0), Key::last(u64::MAX, 255));
    Some(shard.range(&from, &to, Order::Rising, 99).unwrap().len())
}

fn accept(disk: &SimulatedDisk) -> Result<Accepted, LossError> {
    disk.kill();
    accept_loss(Arc::new(disk.clone()), options(), KEY.shard)
}

/// One flipped byte of a footer stopped all writes of a node, and nothing could be done
/// about it.
#[test]
fn ends_that_are_damaged_are_rebuilt_from_whole_blocks_byte_for_byte() {
    let (disk, paths) = flushed();
    assert_eq!(rows(&disk), Some(18));
    assert!(matches!(accept(&disk), Err(LossError::NotDamaged(7))));
    let path = &paths[0];
    let whole = disk.bytes(path).unwrap();
    let places = whole.len() - 96;
    let places = u64::from_le_bytes(whole[places + 32..places + 40].try_into().unwrap());
    let ends = (0..32).chain(usize::try_from(places).unwrap()..whole.len());
    for at in ends {
        let disk = disk.duplicate();
        disk.flip(path, at, 0x10).unwrap();
        assert_eq!(
            accept(&disk).unwrap(),
            Accepted::Rebuilt(vec![path.clone()])
        );
        assert!(disk.bytes(path).unwrap() == whole, "byte {at}");
        assert!(pending(&disk).unwrap().is_empty(), "nothing is lost");
        if at % 50 == 0 {
            assert_eq!(rows(&disk), Some(18));
        }
    }
    // All of them at once, and cut off.
    disk.overwrite(path, usize::try_from(places).unwrap(), &[0; 50])
        .unwrap();
    disk.overwrite(path, 0, &[0; 32]).unwrap();
    assert_eq!(rows(&disk), None);
    accept(&disk).unwrap();
    assert_eq!(rows(&disk), Some(18));
}

#[test]
fn a_crash_while_ends_are_rebuilt_leaves_what_can_be_rebuilt() {
    use logstore::storage::simulated::Fault;
    let (disk, paths) = flushed();
    let whole = disk.bytes(&paths[1]).unwrap();
    disk.flip(&paths[1], whole.len() - 50, 1).unwrap();
    for effect in 1.. {
        let disk = disk.duplicate();
        disk.plan(disk.effects() + effect, Fault::PowerOff);
        let done = accept_loss(Arc::new(disk.clone()), options(), KEY.shard).is_ok();
        disk.crash(effect);
        if done {
            assert!(effect > 5);
            break;
        }
        match accept(&disk) {
            Ok(_) | Err(LossError::NotDamaged(_)) => {}
            Err(error) => panic!("{effect}: {error}"),
        }
        assert_eq!(rows(&disk), Some(18), "{effect}");
    }
}

#[test]
fn a_shard_with_a_damaged_block_begins_empty_only_when_told_twice_what_is_lost() {
    let (disk, paths) = flushed();
    disk.flip(&paths[0], 60, 1).unwrap();
    let before = (
        disk.bytes(&paths[0]).unwrap(),
        disk.bytes(&paths[1]).unwrap(),
    );
    let Err(LossError::Whole(lost)) = accept(&disk) else {
        panic!("it was not refused")
    };
    assert_eq!((lost.key, lost.rows()), (KEY, 18));
    let [bad, good] = &lost.segments[..] else {
        panic!("{lost:?}")
    };
    assert_eq!((&bad.path, &good.path), (&paths[0], &paths[1]));
    let damage = bad.damage.as_deref().unwrap();
    assert!(damage.starts_with("block 0: "), "{damage}");
    assert_eq!(good.damage, None);
    // Nothing was done.
    let after = (
        disk.bytes(&paths[0]).unwrap(),
        disk.bytes(&paths[1]).unwrap(),
    );
    assert!(before == after && pending(&disk).unwrap().is_empty());

    let mut other = (*lost).clone();
    other.segments.pop();
    disk.kill();
    let refused = begin_empty(Arc::new(disk.clone()), options(), &other);
    assert!(matches!(refused, Err(LossError::Unconfirmed(_))));
    assert!(pending(&disk).unwrap().is_empty());

    disk.kill();
    let key = begin_empty(Arc::new(disk.clone()), options(), &lost).unwrap();
    assert!(key.shard == KEY.shard && key.replica > KEY.replica);
    assert_eq!(pending(&disk).unwrap(), [KEY.shard]);
    assert_eq!(rows(&disk), Some(0));
    disk.kill();
    let opened = open(Arc::new(disk.clone()), options()).unwrap();
    assert_eq!(opened.replicas[&KEY.shard].key, key);
    assert_eq!(opened.replicas[&KEY.shard].log.last_position(), 0);
}

#[test]
fn a_segment_that_is_missing_is_lost_and_not_passed_over() {
    use logstore::storage::Storage as _;
    let (disk, paths) = flushed();
    disk.remove(&paths[1]).unwrap();
    let Err(LossError::Whole(lost)) = accept(&disk) else {
        panic!("it was not refused")
    };
    assert_eq!(lost.rows(), 18);
    assert!(lost.segments[1].damage.is_some());
}
