//! A node as the crash tests see it: the log and three shards over a simulated disk,
//! doing a fixed list of things, and a model in memory of what must survive.
//!
//! Shards 1 and 2 apply their entries and flush them as segments; shard 3 has only
//! a log, whose suffix changes as a follower's does. A commit is one frame here, so
//! after a crash the node must be exactly at one of two images: before the step
//! that was under way, or after it.

use crate::workload::{contents, entry, key, small};
use bytes::Bytes;
use logstore::{
    cache::BlockCache,
    engine::{Append, Log, Options, open},
    flush::sweep,
    key::{BodyRef, Key, Row, Value, Write},
    log_index::{HardState, LogEntry},
    plant::Plant,
    replicas::{ReplicaKey, SegmentRef},
    segment::{MapLimits, SegmentFiles, SegmentOptions},
    shard::Shard,
    storage::{Storage, simulated::SimulatedDisk},
};
use std::{collections::BTreeMap, error::Error, sync::Arc};

/// What must be found of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardImage {
    pub(crate) first: u64,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) hard_state: HardState,
    pub(crate) flushed: u64,
    pub(crate) segments: usize,
}

/// What must be found of the node.
pub(crate) type Image = BTreeMap<u16, ShardImage>;

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Create(u16),
    /// So many entries, and a hard state.
    Entries(u16, u64),
    /// Entries of two shards in one batch.
    Both(u64),
    /// Of shard 3: as many positions from the end written again, in a new term.
    Rewrite(u64),
    /// Of shard 3: one entry in place of so many at the end.
    Shorten(u64),
    /// Freeze, write segments, enter them, let go of all but a few entries.
    Flush(u16),
    /// Shard 3 needs none of its entries any more.
    FlushAll,
    /// Shard 3 is replaced by a snapshot, so many positions before or behind its last.
    Install(i64),
    Reclaim,
    CopyForward,
    Prove,
    Prepare,
    /// Shard 3 gets a new replica.
    Replace,
}

/// What every run does: some ten files of log, most of them reused.
pub(crate) fn script() -> Vec<Step> {
    use Step::{
        Both, CopyForward, Create, Entries, Flush, FlushAll, Install, Prepare, Prove, Reclaim,
        Replace, Rewrite, Shorten,
    };
    let mut steps = vec![Create(1), Create(2), Create(3), Entries(3, 6), Prove];
    for round in 0..9 {
        steps.extend([Both(9), Entries(1, 12), Entries(3, 5), Rewrite(3)]);
        match round % 3 {
            0 => steps.extend([Flush(1), Prove, Prepare, Both(11), Rewrite(5)]),
            1 => steps.extend([Flush(2), Both(7), Flush(1), Reclaim, Prove]),
            _ => steps.extend([Flush(3), Entries(2, 20), Rewrite(2), Reclaim]),
        }
        match round {
            2 | 6 => steps.extend([Entries(3, 4), Shorten(6), FlushAll]),
            3 => steps.extend([Install(-2), Entries(3, 3)]),
            7 => steps.extend([Install(3), Entries(3, 2)]),
            _ => {}
        }
        if round == 4 {
            steps.push(Replace);
        }
        if round % 2 == 1 {
            steps.extend([Flush(1), Flush(2), CopyForward, Reclaim]);
        }
    }
    steps
}

pub(crate) struct Machine {
    pub(crate) disk: SimulatedDisk,
    log: Log,
    shards: BTreeMap<u16, Shard>,
    /// Shard 3 is a log only.
    keys: BTreeMap<u16, ReplicaKey>,
    pub(crate) image: Image,
    term: u64,
}

pub(crate) type Failed = Box<dyn Error>;

pub(crate) fn options(plant: Option<Plant>) -> Options {
    let file_bytes = 32 << 10;
    Options {
        file_bytes,
        budget_bytes: file_bytes * 14,
        plant: plant.into(),
        ..small()
    }
}

/// Opens what is on the disk and reads all of it; the image and the machine.
pub(crate) fn start(disk: &SimulatedDisk, plant: Option<Plant>) -> Result<Machine, Failed> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let opened = open(Arc::clone(&storage), options(plant))?;
    if let Some(damaged) = opened.damaged.first() {
        return Err(format!("{:?} is damaged: {:?}", damaged.key, damaged.damage).into());
    }
    let files = SegmentFiles::planted(
        Arc::clone(&storage),
        BlockCache::new(64 << 10),
        MapLimits::default(),
        plant,
    )?;
    let mut machine = Machine {
        disk: disk.clone(),
        log: opened.log,
        shards: BTreeMap::new(),
        keys: BTreeMap::new(),
        image: Image::new(),
        term: 1,
    };
    for (id, recovered) in opened.replicas {
        let flushed = recovered.flushed.0;
        let image = ShardImage {
            first: recovered.log.first_position(),
            entries: contents(&recovered.log),
            hard_state: recovered.log.hard_state(),
            flushed,
            segments: recovered.segments.len(),
        };
        let highest = image.entries.iter().map(|entry| entry.term).max();
        machine.term = machine.term.max(highest.unwrap_or(0));
        machine.image.insert(id, image);
        machine.keys.insert(id, recovered.key);
        let mut shard = Shard::open(
            recovered.key,
            recovered.log,
            flushed,
            &recovered.segments,
            &files,
            SegmentOptions::default(),
        )?;
        if id != 3 {
            for position in flushed + 1..=shard.log().last_position() {
                apply(&mut shard, position);
            }
        }
        machine.shards.insert(id, shard);
    }
    let found = machine.shards.values().map(|shard| {
        let metas = shard.segments().map(|meta| SegmentRef {
            id: meta.id(),
            meta: meta.encode().into(),
        });
        (shard.key(), metas.collect::<Vec<_>>())
    });
    let found: Vec<_> = found.collect();
    sweep(
        disk,
        found.iter().map(|(key, segments)| (*key, &segments[..])),
        &[],
    )?;
    machine.files(&files);
    Ok(machine)
}

impl Machine {
    fn files(&mut self, files: &Arc<SegmentFiles>) {
        FILES.with(|slot| *slot.borrow_mut() = Some(Arc::clone(files)));
    }

    /// Does one step; the image it leads to if it is completed.
    pub(crate) fn step(&mut self, step: Step) -> Result<(), Failed> {
        let after = self.after(step);
        match step {
            Step::Create(id) => {
                let key = key(id, self.log.next_replica());
                self.log.commit(&[Append::CreateReplica { key }])?;
                self.open_new(key);
            }
            Step::Replace => {
                let old = self.keys[&3];
                let new = key(3, self.log.next_replica());
                let create = Append::CreateReplica { key: new };
                self.log
                    .commit(&[Append::RetireReplica { key: old }, create])?;
                self.open_new(new);
            }
            Step::Entries(..) | Step::Both(_) | Step::Rewrite(_) | Step::Shorten(_) => {
                let mut batch = Vec::new();
                for (id, image) in &after {
                    let before = &self.image[id];
                    let key = self.keys[id];
                    let fresh: Vec<LogEntry> = image
                        .entries
                        .iter()
                        .filter(|entry| !before.entries.contains(entry))
                        .cloned()
                        .collect();
                    if !fresh.is_empty() {
                        batch.push(Append::Entries {
                            key,
                            entries: fresh.clone(),
                        });
                        self.shards
                            .get_mut(id)
                            .unwrap()
                            .log_mut()
                            .append(fresh)
                            .unwrap();
                    }
                    if image.hard_state != before.hard_state {
                        batch.push(Append::HardState {
                            key,
                            state: image.hard_state,
                        });
                    }
                }
                self.log.commit(&batch)?;
                for id in [1, 2] {
                    let Some(shard) = self.shards.get_mut(&id) else {
                        continue;
                    };
                    for position in shard.applied() + 1..=shard.log().last_position() {
                        apply(shard, position);
                    }
                }
            }
            Step::Flush(id) => self.flush(id, &after)?,
            Step::FlushAll => self.flush(3, &after)?,
            Step::Install(_) => {
                let installed = Append::Installed {
                    key: self.keys[&3],
                    position: after[&3].flushed,
                    term: self.term,
                    segments: Vec::new(),
                };
                self.log.commit(&[installed])?;
                let log = self.shards.get_mut(&3).unwrap().log_mut();
                log.reset_to(after[&3].flushed, self.term);
            }
            Step::Reclaim => {
                self.log.reclaim()?;
            }
            Step::CopyForward => {
                let keys: Vec<_> = self.keys.values().copied().collect();
                let copied = self.log.copy_forward(&keys)?;
                assert!(copied.damaged.is_empty(), "{copied:?}");
            }
            Step::Prove => {
                self.log.prove()?;
            }
            Step::Prepare => {
                if let Some(job) = self.log.prepare_pool_file() {
                    let result = job.run();
                    let failed = result.is_err();
                    self.log.prepared(result);
                    if failed {
                        return Err("preparing a file failed".into());
                    }
                }
            }
        }
        self.image = after;
        self.term += 1;
        Ok(())
    }

    /// The image after a step, by the model alone.
    pub(crate) fn after(&self, step: Step) -> Image {
        let mut image = self.image.clone();
        let mut add = |id: u16, from: u64, count: u64, term: u64| {
            let Some(shard) = image.get_mut(&id) else {
                return;
            };
            shard.entries.retain(|entry| entry.position < from);
            shard
                .entries
                .extend((from..from + count).map(|at| entry(id, at, term)));
            shard.hard_state = HardState {
                term,
                vote: u64::from(id),
                commit: (from - 1).max(shard.flushed),
            };
        };
        let last = |id: u16| {
            let shard = self.image.get(&id);
            shard.map_or(0, |shard| shard.first + shard.entries.len() as u64 - 1)
        };
        match step {
            Step::Create(id) => {
                image.insert(
                    id,
                    ShardImage {
                        first: 1,
                        ..ShardImage::default()
                    },
                );
            }
            Step::Replace => {
                image.insert(
                    3,
                    ShardImage {
                        first: 1,
                        ..ShardImage::default()
                    },
                );
            }
            // One term for the shards that apply: what they hold follows from the position.
            Step::Entries(3, count) => add(3, last(3) + 1, count, self.term),
            Step::Entries(id, count) => add(id, last(id) + 1, count, 1),
            Step::Both(count) => {
                add(1, last(1) + 1, count, 1);
                add(2, last(2) + 1, count, 1);
            }
            Step::Rewrite(back) => {
                let back = back.min(self.image[&3].entries.len() as u64);
                add(3, last(3) + 1 - back, back.max(1), self.term);
            }
            Step::Shorten(back) => {
                // What was flushed was committed, and is not cut.
                let back = back.min(last(3) - self.image[&3].flushed);
                add(3, last(3) + 1 - back, 1, self.term);
            }
            Step::FlushAll => {
                let shard = image.get_mut(&3).unwrap();
                shard.flushed = last(3);
                shard.hard_state.commit = shard.hard_state.commit.max(last(3));
                shard.first = last(3) + 1;
                shard.entries.clear();
            }
            Step::Install(at) => {
                let shard = image.get_mut(&3).unwrap();
                let position = last(3).saturating_add_signed(at).max(shard.flushed);
                shard.flushed = position;
                shard.hard_state.commit = shard.hard_state.commit.max(position);
                shard.first = position + 1;
                shard.entries.clear();
            }
            Step::Flush(id) => {
                let shard = image.get_mut(&id).unwrap();
                let last = last(id);
                if last > shard.flushed {
                    shard.flushed = last;
                    shard.segments += usize::from(id != 3);
                    shard.hard_state.commit = shard.hard_state.commit.max(last);
                    let first = (last - 2).max(shard.first);
                    shard.entries.retain(|entry| entry.position >= first);
                    shard.first = first;
                }
            }
            Step::Reclaim | Step::CopyForward | Step::Prove | Step::Prepare => {}
        }
        image
    }

    fn flush(&mut self, id: u16, after: &Image) -> Result<(), Failed> {
        let (before, after) = (&self.image[&id], &after[&id]);
        if before == after {
            return Ok(());
        }
        let shard = self.shards.get_mut(&id).unwrap();
        let key = self.keys[&id];
        let position = after.flushed;
        let term = shard.log().term(position).unwrap();
        let compacted = after.first - 1;
        let compacted_term = shard.log().term(compacted).unwrap();
        let flushed = if id == 3 {
            None
        } else {
            assert!(shard.freeze(position + 1));
            Some(shard.flush_job().unwrap().run()?)
        };
        let added = flushed
            .as_ref()
            .map_or(Vec::new(), |flushed| flushed.added());
        let segments = Append::Segments {
            key,
            position,
            term,
            added,
            removed: Vec::new(),
        };
        let compact = Append::CompactedTo {
            key,
            position: compacted,
            term: compacted_term,
        };
        self.log.commit(&[segments, compact])?;
        if let Some(flushed) = flushed {
            shard.install(flushed);
        }
        shard.log_mut().compact_to(compacted, compacted_term);
        Ok(())
    }

    fn open_new(&mut self, key: ReplicaKey) {
        let files = FILES.with(|files| files.borrow().clone()).unwrap();
        let log = logstore::log_index::LogIndex::new();
        let options = SegmentOptions::default();
        let shard = Shard::open(key, log, 0, &[], &files, options).unwrap();
        self.shards.insert(key.shard, shard);
        self.keys.insert(key.shard, key);
    }

    /// Compares every row of shards 1 and 2 with what their positions say.
    pub(crate) fn check_rows(&self) -> Result<(), Failed> {
        for id in [1, 2] {
            let Some(shard) = self.shards.get(&id) else {
                continue;
            };
            for (key, row) in rows(id, shard.log().last_position()) {
                let found = shard.get(&key)?;
                if found.as_ref() != Some(&row) {
                    return Err(format!("shard {id}, {key:?}: {found:?} for {row:?}").into());
                }
            }
        }
        Ok(())
    }
}

thread_local! {
    /// The segment files of the machine that was started last on this thread.
    static FILES: std::cell::RefCell<Option<Arc<SegmentFiles>>> = const { std::cell::RefCell::new(None) };
}

const BODY_OFFSET: u32 = 20;

fn apply(shard: &mut Shard, position: u64) {
    let payload = shard.log().payload(position).unwrap();
    let len = u32::try_from(payload.len()).unwrap() - BODY_OFFSET;
    let writes = row_keys(shard.key().shard, position);
    let writes = writes.into_iter().map(|(key, header, body)| {
        let body = body.then_some(BodyRef {
            position,
            offset: BODY_OFFSET,
            len,
            group: 1,
            order: position,
        });
        Write {
            key,
            value: Some(Value { header, body }),
        }
    });
    shard.apply(position, writes.collect());
}

/// What the entry at a position writes.
fn row_keys(shard: u16, position: u64) -> Vec<(Key, Bytes, bool)> {
    let inbox = u64::from(shard) * 100 + position % 3;
    let number = Bytes::copy_from_slice(&position.to_be_bytes());
    let mut posting = position.to_be_bytes().to_vec();
    posting.splice(0..0, (position % 2).to_be_bytes());
    let mut id = position.to_be_bytes().to_vec();
    // The time of a UUIDv7 stands in its first six bytes.
    id.extend_from_slice(&position.to_be_bytes()[2..]);
    id.resize(24, 7);
    vec![
        (Key::new(inbox, 5, b"state"), number.clone(), false),
        (
            Key::new(inbox, 32, &position.to_be_bytes()),
            number.clone(),
            true,
        ),
        (Key::new(inbox, 40, &posting), number.clone(), false),
        (Key::new(inbox, 64, &id), number, false),
    ]
}

/// All rows after the entry at a position.
fn rows(shard: u16, last: u64) -> BTreeMap<Key, Row> {
    let mut rows = BTreeMap::new();
    for position in 1..=last {
        let payload = entry(shard, position, 1).payload;
        for (key, header, body) in row_keys(shard, position) {
            let body = body.then(|| payload.slice(BODY_OFFSET as usize..));
            rows.insert(key, Row { header, body });
        }
    }
    rows
}
