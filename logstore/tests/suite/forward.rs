//! Copying forward changes nothing of what a start finds: nothing that was cut comes back,
//! and damage is told as it would have been told without it.

use crate::workload::{contents, create, entries, entry, flushed, small};
use logstore::{
    engine::{Append, Forwarded, Log, Opened, open},
    log_index::LogEntry,
    loss::accept_loss,
    replicas::ReplicaKey,
    storage::simulated::SimulatedDisk,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

fn opened(disk: &SimulatedDisk) -> Opened {
    open(Arc::new(disk.clone()), small()).unwrap()
}

/// Another shard fills files and is flushed, so that only the stuck one keeps them.
fn push_away(log: &mut Log, busy: ReplicaKey, position: &mut u64) {
    let files = log.stats().live_files;
    while log.stats().live_files < files + 2 {
        log.commit(&[entries(busy, *position + 1..=*position + 20, 1)])
            .unwrap();
        *position += 20;
    }
    log.commit(&flushed(busy, *position, 1)).unwrap();
}

/// Entries that a later, compacted one had cut were copied, and it was not.
#[test]
fn what_was_cut_stays_cut_after_copying_forward() {
    let disk = SimulatedDisk::new();
    let mut opened_log = opened(&disk);
    let log = &mut opened_log.log;
    let stuck = create(log, 1);
    let busy = create(log, 2);
    log.commit(&[entries(stuck, 1..=6, 1)]).unwrap();
    log.commit(&[entries(stuck, 3..=3, 2)]).unwrap();
    log.commit(&flushed(stuck, 3, 2)).unwrap();
    let mut position = 0;
    push_away(log, busy, &mut position);
    assert_eq!(log.copy_forward(&[stuck]).unwrap(), Forwarded::default());
    assert!(log.reclaim().unwrap() > 0, "nobody needs the file");
    disk.kill();
    assert_eq!(opened(&disk).replicas[&1].log.last_position(), 3);
}

/// The copies are what is cut later, from a file behind theirs.
#[test]
fn copies_that_were_cut_later_are_not_copied_again() {
    let disk = SimulatedDisk::new();
    let mut opened_log = opened(&disk);
    let log = &mut opened_log.log;
    let stuck = create(log, 1);
    let busy = create(log, 2);
    log.commit(&[entries(stuck, 1..=6, 1)]).unwrap();
    let mut position = 0;
    push_away(log, busy, &mut position);
    assert_eq!(log.copy_forward(&[stuck]).unwrap().records, 6);
    assert!(log.reclaim().unwrap() > 0);
    log.commit(&[entries(stuck, 3..=3, 2)]).unwrap();
    log.commit(&flushed(stuck, 2, 1)).unwrap();
    push_away(log, busy, &mut position);
    // Position 3 of the second term, and none of the six.
    assert_eq!(log.copy_forward(&[stuck]).unwrap().records, 1);
    log.commit(&flushed(stuck, 3, 2)).unwrap();
    push_away(log, busy, &mut position);
    while log.copy_forward(&[stuck]).unwrap().records + log.reclaim().unwrap() > 0 {}
    disk.kill();
    assert_eq!(opened(&disk).replicas[&1].log.last_position(), 3);
}

/// A stuck shard with an entry in each frame, the second of which is destroyed.
fn destroyed(header: bool) -> (SimulatedDisk, Opened, ReplicaKey) {
    let disk = SimulatedDisk::new();
    let mut opened_log = opened(&disk);
    let log = &mut opened_log.log;
    let stuck = create(log, 1);
    let busy = create(log, 2);
    for position in 1..=4 {
        log.commit(&[entries(stuck, position..=position, 1)])
            .unwrap();
    }
    let mut position = 0;
    push_away(log, busy, &mut position);
    log.prove().unwrap();
    let path = "wal/00000000.wal";
    let bytes = disk.bytes(path).unwrap();
    let body = bytes.windows(6).position(|part| part == b"1/2@1 ").unwrap();
    let at = if header { body / 4096 * 4096 + 9 } else { body };
    disk.flip(path, at, 1).unwrap();
    (disk, opened_log, stuck)
}

/// A proven entry whose body had rotted was passed over by the copy, and with its file the
/// only sign of it was gone: the replica came back shorter, without a word.
#[test]
fn damage_that_is_found_while_copying_forward_is_told_for_ever() {
    for header in [false, true] {
        let (disk, mut opened_log, stuck) = destroyed(header);
        let log = &mut opened_log.log;
        let copied = log.copy_forward(&[stuck]).unwrap();
        assert_eq!((copied.records, &copied.damaged[..]), (3, &[stuck][..]));
        assert!(log.replica(stuck).unwrap().damage.is_some());
        assert!(log.reclaim().unwrap() > 0);
        for _ in 0..2 {
            disk.kill();
            let again = opened(&disk);
            let [damaged] = &again.damaged[..] else {
                panic!("header {header}: {:?}", again.replicas.keys())
            };
            let damage = &damaged.damage;
            assert_eq!((damaged.key, damage.kept_to, damage.seen_to), (stuck, 1, 4));
        }
        // And once it is accepted it stays so, with the copies of what was behind it.
        disk.kill();
        accept_loss(Arc::new(disk.clone()), small(), 1).unwrap();
        disk.kill();
        let mut again = opened(&disk);
        let busy = again.replicas[&2].key;
        let mut position = again.replicas[&2].log.last_position();
        push_away(&mut again.log, busy, &mut position);
        while again.log.reclaim().unwrap() > 0 {}
        disk.kill();
        let again = opened(&disk);
        assert!(again.damaged.is_empty(), "{:?}", again.damaged);
        assert_eq!(again.replicas[&1].log.last_position(), 1);
    }
}

#[test]
fn damage_that_was_accepted_is_not_found_again_by_copying_forward() {
    for header in [false, true] {
        let (disk, mut opened_log, stuck) = destroyed(header);
        drop(opened_log);
        loop {
            disk.kill();
            let opened = opened(&disk);
            let Some(damaged) = opened.damaged.first() else {
                break;
            };
            let shard = damaged.key.shard;
            drop(opened);
            disk.kill();
            accept_loss(Arc::new(disk.clone()), small(), shard).unwrap();
        }
        disk.kill();
        opened_log = opened(&disk);
        let copied = opened_log.log.copy_forward(&[stuck]).unwrap();
        assert_eq!((copied.records, copied.damaged.len()), (1, 0));
        assert!(opened_log.log.reclaim().unwrap() > 0);
        disk.kill();
        let again = opened(&disk);
        assert!(again.damaged.is_empty(), "{:?}", again.damaged);
        assert_eq!(again.replicas[&1].log.last_position(), 1);
    }
}

#[test]
fn replicas_that_are_not_named_are_not_copied() {
    let disk = SimulatedDisk::new();
    let mut opened_log = opened(&disk);
    let log = &mut opened_log.log;
    let stepped = create(log, 1);
    let stuck = create(log, 3);
    let busy = create(log, 2);
    log.commit(&[entries(stepped, 1..=2, 1), entries(stuck, 1..=3, 1)])
        .unwrap();
    push_away(log, busy, &mut 0);
    assert_eq!(log.copy_forward(&[stuck]).unwrap().records, 3);
    assert_eq!(log.reclaim().unwrap(), 0);
    let pins: Vec<_> = log.pins(0).iter().map(|pin| pin.key).collect();
    assert_eq!(pins, [stepped]);
    log.commit(&flushed(stepped, 2, 1)).unwrap();
    assert!(log.reclaim().unwrap() > 0);
}

/// What happens to three logs between copies; none of it may be undone by them.
#[derive(Clone, Debug)]
enum Step {
    /// So many entries behind the last, or from some positions before it on.
    Append {
        shard: u16,
        back: u64,
        count: u64,
    },
    /// Up to so many before the last.
    Compact {
        shard: u16,
        keep: u64,
    },
    /// A snapshot, so many positions before or behind the last.
    Install {
        shard: u16,
        at: i64,
    },
    PushAway,
    CopyForward(Vec<u16>),
    Reclaim,
    Prove,
    Kill,
    Crash(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let shard = 1..4_u16;
    let step = prop_oneof![
        6 => (shard.clone(), 0..6_u64, 1..6_u64)
            .prop_map(|(shard, back, count)| Step::Append { shard, back, count }),
        3 => (shard.clone(), 0..4_u64).prop_map(|(shard, keep)| Step::Compact { shard, keep }),
        1 => (shard.clone(), -3..4_i64).prop_map(|(shard, at)| Step::Install { shard, at }),
        3 => Just(Step::PushAway),
        4 => prop::collection::vec(shard, 1..4).prop_map(Step::CopyForward),
        3 => Just(Step::Reclaim),
        2 => Just(Step::Prove),
        2 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..50)
}

#[derive(Default)]
struct Model {
    compacted: u64,
    compacted_term: u64,
    entries: Vec<LogEntry>,
}

impl Model {
    fn last(&self) -> u64 {
        self.compacted + self.entries.len() as u64
    }

    fn term(&self, position: u64) -> u64 {
        let entry = self.entries.iter().find(|entry| entry.position == position);
        entry.map_or(self.compacted_term, |entry| entry.term)
    }
}

struct Node {
    disk: SimulatedDisk,
    log: Log,
    keys: BTreeMap<u16, ReplicaKey>,
    model: BTreeMap<u16, Model>,
    busy: u64,
    term: u64,
}

const BUSY: u16 = 9;

impl Node {
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let mut log = opened(&disk).log;
        let shards = [1, 2, 3, BUSY];
        let keys = shards.map(|shard| (shard, create(&mut log, shard)));
        Self {
            disk,
            log,
            keys: keys.into(),
            model: (1..4).map(|shard| (shard, Model::default())).collect(),
            busy: 0,
            term: 1,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append { shard, back, count } => {
                self.term += 1;
                let model = self.model.get_mut(&shard).unwrap();
                let from = (model.last() + 1)
                    .saturating_sub(back)
                    .max(model.compacted + 1);
                model.entries.retain(|entry| entry.position < from);
                let new = (from..from + count).map(|at| entry(shard, at, self.term));
                model.entries.extend(new);
                let append = entries(self.keys[&shard], from..=from + count - 1, self.term);
                self.log.commit(&[append]).unwrap();
            }
            Step::Compact { shard, keep } => {
                let model = self.model.get_mut(&shard).unwrap();
                let position = model.last().saturating_sub(keep);
                if position <= model.compacted {
                    return;
                }
                let term = model.term(position);
                model.entries.retain(|entry| entry.position > position);
                (model.compacted, model.compacted_term) = (position, term);
                self.log
                    .commit(&flushed(self.keys[&shard], position, term))
                    .unwrap();
            }
            Step::Install { shard, at } => {
                let model = self.model.get_mut(&shard).unwrap();
                let position = model.last().saturating_add_signed(at);
                if position <= model.compacted {
                    return;
                }
                self.term += 1;
                model.entries.clear();
                (model.compacted, model.compacted_term) = (position, self.term);
                let installed = Append::Installed {
                    key: self.keys[&shard],
                    position,
                    term: self.term,
                    segments: Vec::new(),
                };
                self.log.commit(&[installed]).unwrap();
            }
            Step::PushAway => {
                // What is stuck is copied before the log is full.
                for _ in 0..4 {
                    let keys: Vec<_> = self.keys.values().copied().collect();
                    if self.log.stats().live_files >= 6 {
                        self.log.copy_forward(&keys).unwrap();
                    }
                    self.log.reclaim().unwrap();
                }
                let busy = self.keys[&BUSY];
                let files = self.log.stats().live_files;
                while self.log.stats().live_files == files {
                    let append = entries(busy, self.busy + 1..=self.busy + 40, 1);
                    self.log.commit(&[append]).unwrap();
                    self.busy += 40;
                }
                self.log.commit(&flushed(busy, self.busy, 1)).unwrap();
            }
            Step::CopyForward(shards) => {
                let keys: Vec<_> = shards.iter().map(|shard| self.keys[shard]).collect();
                let copied = self.log.copy_forward(&keys).unwrap();
                assert!(copied.damaged.is_empty());
            }
            Step::Reclaim => {
                self.log.reclaim().unwrap();
            }
            Step::Prove => {
                self.log.prove().unwrap();
            }
            Step::Kill => {
                self.disk.kill();
                self.restart();
            }
            Step::Crash(seed) => {
                self.disk.crash(seed);
                self.restart();
            }
        }
    }

    fn restart(&mut self) {
        let opened = opened(&self.disk);
        assert!(opened.damaged.is_empty(), "{:?}", opened.damaged);
        for (shard, model) in &self.model {
            let log = &opened.replicas[shard].log;
            let compacted = (model.compacted, model.compacted_term);
            assert_eq!(log.compacted(), compacted, "shard {shard}");
            assert_eq!(contents(log), model.entries, "shard {shard}");
        }
        self.log = opened.log;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn copying_forward_changes_nothing_that_a_start_finds(steps in steps()) {
        let mut node = Node::new();
        for step in steps {
            node.step(step);
        }
        node.step(Step::Kill);
    }
}
