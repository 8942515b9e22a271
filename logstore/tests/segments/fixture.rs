//! A shard on a disk in memory, fed as an engine's caller would.

use bytes::Bytes;
use logstore::{
    cache::BlockCache,
    key::{BodyRef, Key, Value, Write},
    log_index::{LogEntry, LogIndex},
    plant::Plant,
    replicas::{ReplicaKey, SegmentRef},
    segment::{MapLimits, SegmentFiles, SegmentOptions},
    shard::Shard,
    storage::{Storage, simulated::SimulatedDisk},
};
use std::sync::Arc;

pub(crate) const KEY: ReplicaKey = ReplicaKey {
    shard: 7,
    replica: 3,
};

/// A row to write: a key, a header, and bytes of a body.
pub(crate) type Put = (Key, Vec<u8>, Option<Vec<u8>>);

pub(crate) struct Rig {
    pub(crate) disk: SimulatedDisk,
    pub(crate) files: Arc<SegmentFiles>,
    pub(crate) options: SegmentOptions,
    pub(crate) shard: Shard,
    pub(crate) position: u64,
    /// What the log would know.
    pub(crate) segments: Vec<SegmentRef>,
    /// Writes by position, to be applied again after a restart.
    history: Vec<(u64, Vec<Write>)>,
}

pub(crate) fn files(disk: &SimulatedDisk, cache: usize, maps: usize) -> Arc<SegmentFiles> {
    planted(disk, cache, maps, None)
}

pub(crate) fn planted(
    disk: &SimulatedDisk,
    cache: usize,
    maps: usize,
    plant: Option<Plant>,
) -> Arc<SegmentFiles> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let limits = MapLimits {
        maps,
        ..MapLimits::default()
    };
    SegmentFiles::planted(storage, BlockCache::new(cache), limits, plant).unwrap()
}

impl Rig {
    pub(crate) fn new(options: SegmentOptions) -> Self {
        Self::planted(options, None)
    }

    pub(crate) fn planted(options: SegmentOptions, plant: Option<Plant>) -> Self {
        let disk = SimulatedDisk::new();
        let files = planted(&disk, 1 << 20, 2, plant);
        let shard = Shard::open(KEY, LogIndex::new(), 0, &[], &files, options).unwrap();
        let (segments, history) = (Vec::new(), Vec::new());
        Self {
            disk,
            files,
            options,
            shard,
            position: 0,
            segments,
            history,
        }
    }

    /// One log entry: bodies that are equal stand in its payload once.
    pub(crate) fn put(&mut self, rows: Vec<Put>, deleted: &[Key]) {
        let position = self.position + 1;
        let mut payload = b"entry:".to_vec();
        let mut bodies: Vec<(Vec<u8>, BodyRef)> = Vec::new();
        let mut writes = Vec::new();
        for (key, header, body) in rows {
            let body = body.map(|body| {
                if let Some((_, at)) = bodies.iter().find(|(known, _)| *known == body) {
                    return *at;
                }
                let offset = u32::try_from(payload.len()).unwrap();
                let len = u32::try_from(body.len()).unwrap();
                let at = BodyRef {
                    position,
                    offset,
                    len,
                    group: position % 5,
                    order: position,
                };
                payload.extend_from_slice(&body);
                bodies.push((body, at));
                at
            });
            writes.push(Write {
                key,
                value: Some(Value {
                    header: header.into(),
                    body,
                }),
            });
        }
        writes.extend(deleted.iter().map(|key| Write {
            key: *key,
            value: None,
        }));
        self.history.push((position, writes.clone()));
        self.append(payload.into());
        self.shard.apply(position, writes);
    }

    fn append(&mut self, payload: Bytes) {
        self.position += 1;
        let entry = LogEntry {
            position: self.position,
            term: 1,
            kind: 0,
            payload,
        };
        self.shard.log_mut().append([entry]).unwrap();
    }

    /// A flush entry.
    pub(crate) fn freeze(&mut self) -> bool {
        self.append(Bytes::new());
        self.shard.freeze(self.position)
    }

    /// Writes the oldest frozen memtable, if there is one.
    pub(crate) fn flush(&mut self) {
        let Some(job) = self.shard.flush_job() else {
            return;
        };
        let flushed = job.run().unwrap();
        self.segments.extend(flushed.added());
        drop(self.shard.install(flushed));
    }

    pub(crate) fn freeze_and_flush(&mut self) {
        assert!(self.freeze());
        self.flush();
    }

    /// Stops and starts again with what the log would have.
    pub(crate) fn restart(&mut self) {
        let flushed = self.shard.flushed();
        let mut log = std::mem::take(self.shard.log_mut());
        if flushed > 0 {
            log.compact_to(flushed, 1);
        }
        self.history.retain(|(position, _)| *position > flushed);
        let shard = Shard::open(KEY, log, flushed, &self.segments, &self.files, self.options);
        self.shard = shard.unwrap();
        for (position, writes) in &self.history {
            self.shard.apply(*position, writes.clone());
        }
    }
}
