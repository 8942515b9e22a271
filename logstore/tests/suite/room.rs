//! What the log says of its room is true: whoever commits no more than that is never told
//! that the log is full.

use crate::workload::{create, flushed, key, small};
use logstore::{
    engine::{Append, Log, LogError, Options, entry_bytes, open},
    log_index::{HardState, LogEntry},
    replicas::ReplicaKey,
    storage::simulated::SimulatedDisk,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

fn options() -> Options {
    Options {
        stop_free_bytes: 8 << 10,
        resume_free_bytes: 16 << 10,
        ..small()
    }
}

/// What a caller does between asking for room.
#[derive(Clone, Debug)]
enum Step {
    /// Entries of these sizes, as many as there is room for, in batches of so many.
    Entries {
        sizes: Vec<usize>,
        batch: usize,
        prove: bool,
    },
    /// A shard is flushed up to its last entry but one, and files are reused.
    Flush(u16),
    Prepare,
    CopyForward,
    /// The disk has so many bytes more than are used now.
    Disk(Option<u32>),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![4 => 1..400_usize, 2 => 1..9_000_usize, 1 => 9_000..32_000_usize];
    let entries = (
        prop::collection::vec(size, 1..40),
        1..20_usize,
        any::<bool>(),
    );
    let step = prop_oneof![
        8 => entries.prop_map(|(sizes, batch, prove)| Step::Entries { sizes, batch, prove }),
        4 => (1..=SHARDS).prop_map(Step::Flush),
        2 => Just(Step::Prepare),
        1 => Just(Step::CopyForward),
        1 => prop::option::of(0..400_000_u32).prop_map(Step::Disk),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

const SHARDS: u16 = 3;

struct Caller {
    disk: SimulatedDisk,
    log: Log,
    last: BTreeMap<u16, u64>,
    next: u16,
}

impl Caller {
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let mut log = open(Arc::new(disk.clone()), options()).unwrap().log;
        for shard in 1..=SHARDS {
            create(&mut log, shard);
        }
        Self {
            disk,
            log,
            last: (1..=SHARDS).map(|shard| (shard, 0)).collect(),
            next: 0,
        }
    }

    fn key(shard: u16) -> ReplicaKey {
        key(shard, u32::from(shard) - 1)
    }

    /// An entry and the hard state that goes with it.
    fn entry(&mut self, bytes: usize) -> [Append; 2] {
        self.next = self.next % SHARDS + 1;
        let key = Self::key(self.next);
        let last = self.last.get_mut(&self.next).unwrap();
        *last += 1;
        let entry = LogEntry {
            position: *last,
            term: 1,
            kind: 0,
            payload: vec![7; bytes].into(),
        };
        let state = HardState {
            term: 1,
            vote: 1,
            commit: *last - 1,
        };
        let entries = vec![entry];
        [
            Append::Entries { key, entries },
            Append::HardState { key, state },
        ]
    }

    /// Takes of these sizes what there is room for, and commits that, however it is batched.
    fn entries(&mut self, sizes: &[usize], batch: usize, prove: bool) -> Result<(), LogError> {
        let largest = sizes
            .iter()
            .map(|size| entry_bytes(*size))
            .max()
            .unwrap_or(0);
        let mut room = self.log.room().bytes(largest);
        let mut taken: Vec<usize> = Vec::new();
        for size in sizes {
            if entry_bytes(*size) <= room {
                room -= entry_bytes(*size);
                taken.push(*size);
            }
        }
        for sizes in taken.chunks(batch) {
            let appends: Vec<Append> = sizes.iter().flat_map(|size| self.entry(*size)).collect();
            self.log.commit(&appends)?;
            if prove {
                self.log.prove()?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), LogError> {
        match step {
            Step::Entries {
                sizes,
                batch,
                prove,
            } => self.entries(&sizes, batch, prove)?,
            Step::Flush(shard) => {
                let position = self.last[&shard].saturating_sub(1);
                // The reserve bounds how many control records a full log takes.
                match self.log.commit(&flushed(Self::key(shard), position, 1)) {
                    Ok(_) | Err(LogError::Full { .. } | LogError::DiskFull { .. }) => {}
                    Err(error) => return Err(error),
                }
                self.log.reclaim()?;
            }
            Step::Prepare => {
                if let Some(job) = self.log.prepare_pool_file() {
                    // While it is being made, entries go on.
                    self.entries(&[3_000; 8], 3, false)?;
                    let result = job.run();
                    self.log.prepared(result);
                }
            }
            Step::CopyForward => {
                let keys: Vec<_> = (1..=SHARDS).map(Self::key).collect();
                self.log.copy_forward(&keys)?;
                self.log.reclaim()?;
            }
            Step::Disk(more) => {
                let capacity = more.map(|more| self.disk.used() + u64::from(more));
                self.disk.set_capacity(capacity);
                self.log.check_space().unwrap();
            }
            Step::Restart => {
                self.disk.kill();
                let opened = open(Arc::new(self.disk.clone()), options());
                match opened {
                    Ok(opened) => self.log = opened.log,
                    // No room for the tail: more of the disk, and it starts.
                    Err(error) => {
                        assert!(error.to_string().contains("disk is full"), "{error}");
                        self.disk.set_capacity(None);
                        self.log = open(Arc::new(self.disk.clone()), options()).unwrap().log;
                    }
                }
            }
        }
        let stats = self.log.stats();
        // A start may go beyond it by a file to write and the reserve.
        let most = stats.budget_bytes / options().file_bytes + 3;
        let files = (stats.live_files + stats.free_files) as u64;
        assert!(files <= most, "{stats:?}");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn entries_within_the_room_are_never_refused(steps in steps()) {
        let mut caller = Caller::new();
        for step in steps {
            let what = format!("{step:?}");
            let room = caller.log.room();
            let done = caller.step(step);
            prop_assert!(done.is_ok(), "{what} with {room:?}: {done:?}");
        }
    }
}

/// The other side: the worst case leaves no more unused than the reserve, and what a frame
/// of the largest entry may not fit.
#[test]
fn the_room_is_used_up_to_the_reserve() {
    let mut caller = Caller::new();
    let largest = entry_bytes(300);
    while caller.log.room().bytes(largest) >= largest {
        caller.entries(&[300], 1, true).unwrap();
    }
    let stats = caller.log.stats();
    assert_eq!(stats.free_files, 2, "{stats:?}");
    assert_eq!(
        stats.live_files as u64,
        options().budget_bytes / options().file_bytes - 2
    );
    let error = caller.entries(&[300], 1, true);
    assert!(error.is_ok(), "nothing was taken");
    // Two more may fit, each within what is certain for one.
    let more = (0..3).map_while(|_| {
        let entry = caller.entry(300);
        caller.log.commit(&entry).ok()
    });
    assert!(more.count() < 3);
}

#[test]
fn a_disk_below_its_threshold_has_no_room_and_says_that_it_is_the_disk() {
    let mut caller = Caller::new();
    assert!(!caller.log.room().disk_is_short);
    caller
        .disk
        .set_capacity(Some(caller.disk.used() + (4 << 10)));
    caller.log.check_space().unwrap();
    let room = caller.log.room();
    assert_eq!((room.bytes(8192), room.disk_is_short), (0, true));
    // Above it, but without room for another file: what is ready counts.
    caller
        .disk
        .set_capacity(Some(caller.disk.used() + (40 << 10)));
    caller.log.check_space().unwrap();
    let room = caller.log.room();
    assert!(room.disk_is_short && room.bytes(8192) > 0);
    assert!(room.bytes(8192) < options().file_bytes);
}

#[test]
fn a_file_that_could_not_be_prepared_is_not_counted_until_one_could() {
    let mut caller = Caller::new();
    let before = caller.log.room().bytes(8192);
    caller.log.prepare_pool_file().unwrap();
    caller
        .log
        .prepared(Err(std::io::ErrorKind::StorageFull.into()));
    let room = caller.log.room();
    assert!(room.disk_is_short && room.bytes(8192) < before);
    let job = caller.log.prepare_pool_file().unwrap();
    caller.log.prepared(job.run());
    assert_eq!(caller.log.room().bytes(8192), before);
}

#[test]
fn the_smallest_budget_takes_its_entries_whatever_was_written_before() {
    for bodies in [
        vec![100],
        vec![31_000, 31_000],
        vec![20_000; 9],
        vec![300; 200],
    ] {
        let options = Options {
            pool_files: 0,
            ..small()
        };
        let budget_bytes = options.smallest_budget(bodies.iter().copied()).unwrap();
        let options = Options {
            budget_bytes,
            ..options
        };
        for before in [0, 9_000, 27_000, 50_000] {
            let disk = SimulatedDisk::new();
            let mut log = open(Arc::new(disk), options.clone()).unwrap().log;
            for shard in 1..=SHARDS {
                create(&mut log, shard);
            }
            let mut caller = Caller {
                disk: SimulatedDisk::new(),
                log,
                ..Caller::new()
            };
            for _ in 0..before / 3_000 {
                let entry = caller.entry(3_000);
                caller.log.commit(&entry).unwrap();
            }
            for shard in 1..=SHARDS {
                let last = caller.last[&shard];
                caller
                    .log
                    .commit(&flushed(Caller::key(shard), last, 1))
                    .unwrap();
            }
            caller.log.reclaim().unwrap();
            let appends: Vec<Append> = bodies
                .iter()
                .flat_map(|bytes| caller.entry(*bytes))
                .collect();
            for append in appends.chunks(2) {
                caller.log.commit(append).unwrap();
            }
        }
    }
    assert_eq!(small().smallest_budget([33 << 10]), None);
}
