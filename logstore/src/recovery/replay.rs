//! What the records of the chain add up to.
//!
//! Records count in the order in which they were first written: a moved one takes
//! the place of its origin, and once. Control records up to the checkpoint are in it
//! already; entries are not. A hole in the chain damages every replica that existed
//! there, a wrong body only its own.

use crate::{
    log_index::{AppendError, LogEntry, LogIndex},
    manifest::Checkpoint,
    opening::OpenError,
    plant::Plant,
    recovery::chain::Chain,
    replicas::{Damage, ReplicaKey, Replicas, Unfit},
    wal::{
        frame::{FORMAT, MOVED, Origin, RecordHeader, SKIPPABLE, kind},
        scan::{FoundRecord, ScannedFile},
    },
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// A record of the unproven tail.
#[derive(Clone, Debug)]
pub(crate) struct TailRecord {
    pub(crate) header: RecordHeader,
    pub(crate) body: Bytes,
}

/// The sum.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) replicas: Replicas,
    pub(crate) logs: BTreeMap<ReplicaKey, LogIndex>,
    /// Replicas whose damage no record names yet.
    pub(crate) new_damage: BTreeSet<ReplicaKey>,
    checkpoint_lsn: u64,
}

pub(crate) fn replay(
    files: &[ScannedFile],
    chain: &Chain,
    checkpoint: &Checkpoint,
    plant: Option<Plant>,
) -> Result<Replayed, OpenError> {
    let mut sum = Replayed {
        replicas: checkpoint.replicas.clone(),
        checkpoint_lsn: checkpoint.lsn,
        ..Replayed::default()
    };
    for (key, state) in &sum.replicas.all {
        let mut log = LogIndex::new();
        log.compact_to(state.compacted.0, state.compacted.1);
        sum.logs.insert(*key, log);
    }
    let in_order = plant != Some(Plant::MovedOutOfOrder);
    let mut moved: BTreeMap<Origin, &FoundRecord> = BTreeMap::new();
    for at in chain.frames.iter().filter(|_| in_order) {
        let file = &files[at.file];
        let records = &file.records[file.frames[at.frame].records.clone()];
        for record in records.iter().filter(|record| is_moved(record)) {
            let known = moved.entry(record.header.origin).or_insert(record);
            if known.body.is_none() {
                *known = record;
            }
        }
    }
    let mut holes = chain.holes.iter().peekable();
    for (index, at) in chain.frames.iter().enumerate() {
        while let Some((_, lsn)) = holes.next_if(|(before, _)| *before == index) {
            sum.hole(*lsn);
        }
        let file = &files[at.file];
        let frame = &file.frames[at.frame];
        let lsn = frame.header.lsn;
        while let Some(first) = moved.first_entry().filter(|first| first.key().lsn < lsn) {
            let (origin, record) = first.remove_entry();
            sum.record(origin.lsn, record)?;
        }
        for (index, record) in (0..).zip(&file.records[frame.records.clone()]) {
            if is_moved(record) && in_order {
                continue;
            }
            // A copy stands in for an original whose body is wrong.
            let copy = moved.remove(&Origin { lsn, index });
            let copy = copy.filter(|copy| record.body.is_none() && copy.body.is_some());
            sum.record(lsn, copy.unwrap_or(record))?;
        }
    }
    holes.for_each(|(_, lsn)| sum.hole(*lsn));
    for (origin, record) in moved {
        sum.record(origin.lsn, record)?;
    }
    sum.finish();
    Ok(sum)
}

fn is_moved(record: &FoundRecord) -> bool {
    record.header.flags & MOVED != 0
}

impl Replayed {
    /// A durable frame is gone, and with it the names of whom it concerned.
    fn hole(&mut self, lsn: u64) {
        let keys: Vec<ReplicaKey> = self.replicas.all.keys().copied().collect();
        for key in keys {
            self.damage(
                key,
                lsn,
                format!("frame {lsn} was durable and is not there any more"),
            );
        }
    }

    fn damage(&mut self, key: ReplicaKey, lsn: u64, reason: String) {
        let last = self.logs.get(&key).map_or(0, LogIndex::last_position);
        let state = self.replicas.all.entry(key).or_default();
        if state.damage.is_none() {
            state.damage = Some(Damage {
                lsn,
                kept_to: last,
                seen_to: last,
                reason,
            });
            self.new_damage.insert(key);
        }
    }

    fn record(&mut self, lsn: u64, record: &FoundRecord) -> Result<(), OpenError> {
        let header = &record.header;
        let key = ReplicaKey {
            shard: header.shard,
            replica: header.replica,
        };
        let old = lsn <= self.checkpoint_lsn;
        let Some(body) = &record.body else {
            // What the checkpoint contains is not needed from here.
            let needed = if header.kind == kind::ENTRY {
                self.logs
                    .get(&key)
                    .is_some_and(|log| header.position > log.compacted().0)
            } else {
                !old
            };
            if needed {
                let what = format!(
                    "record at position {} in frame {lsn}: wrong checksum",
                    header.position
                );
                self.damage(key, lsn, what);
                self.seen(key, header.position);
            }
            return Ok(());
        };
        if !old {
            self.fold(lsn, header, body)?;
        }
        self.log(lsn, key, header, body);
        Ok(())
    }

    /// Folds a control record into the replicas' state.
    fn fold(&mut self, lsn: u64, header: &RecordHeader, body: &[u8]) -> Result<(), OpenError> {
        let key = ReplicaKey {
            shard: header.shard,
            replica: header.replica,
        };
        let unknown = !kind::is_known(header.kind);
        match self.replicas.apply(lsn, header, body) {
            Ok(()) => {
                if matches!(
                    header.kind,
                    kind::DAMAGED | kind::LOSS_ACCEPTED | kind::REPLICA_RETIRED
                ) {
                    self.new_damage.remove(&key);
                }
                Ok(())
            }
            Err(Unfit::UnknownKind | Unfit::NoReplica) if unknown => {
                if header.flags & SKIPPABLE != 0 {
                    return Ok(());
                }
                Err(OpenError::NewerKind {
                    kind: header.kind,
                    needs: header.needs,
                    known: FORMAT,
                })
            }
            Err(Unfit::UnknownKind) => unreachable!("a known kind is folded in"),
            Err(Unfit::NoReplica) => {
                self.damage(
                    key,
                    lsn,
                    "the record that created the replica is not there".to_owned(),
                );
                Ok(())
            }
            Err(Unfit::Malformed) => {
                let what = format!(
                    "a record of kind {} in frame {lsn} cannot be read",
                    header.kind
                );
                self.damage(key, lsn, what);
                Ok(())
            }
        }
    }

    /// What a record does to the entries.
    fn log(&mut self, lsn: u64, key: ReplicaKey, header: &RecordHeader, body: &Bytes) {
        let (position, term) = (header.position, header.term);
        match header.kind {
            kind::REPLICA_RETIRED => {
                self.logs.remove(&key);
            }
            kind::ENTRY => self.entry(lsn, key, header, body),
            _ if !self.replicas.all.contains_key(&key) => {}
            kind::REPLICA_CREATED => {
                self.logs.entry(key).or_default();
            }
            kind::COMPACTED_TO => self.logs.entry(key).or_default().compact_to(position, term),
            kind::INSTALLED => {
                let log = self.logs.entry(key).or_default();
                let compacted = log.compacted().0;
                if position >= compacted {
                    log.reset_to(position, term);
                } else {
                    log.truncate_after(compacted);
                }
            }
            kind::LOSS_ACCEPTED => self.logs.entry(key).or_default().truncate_after(position),
            _ => {}
        }
    }

    fn entry(&mut self, lsn: u64, key: ReplicaKey, header: &RecordHeader, body: &Bytes) {
        if !self.replicas.all.contains_key(&key) {
            return;
        }
        let log = self.logs.entry(key).or_default();
        let entry = LogEntry {
            position: header.position,
            term: header.term,
            kind: header.sub,
            payload: body.clone(),
        };
        match log.append([entry]) {
            Ok(()) => {}
            // It is not needed, but it cut what came after it.
            Err(AppendError::Compacted { compacted, .. }) => log.truncate_after(compacted),
            Err(AppendError::Gap { last, position }) => {
                let what = format!("positions {} to {} are not there", last + 1, position - 1);
                self.damage(key, lsn, what);
            }
        }
        self.seen(key, header.position);
    }

    fn seen(&mut self, key: ReplicaKey, position: u64) {
        if let Some(damage) = self
            .replicas
            .all
            .get_mut(&key)
            .and_then(|s| s.damage.as_mut())
        {
            damage.seen_to = damage.seen_to.max(position);
        }
    }

    fn finish(&mut self) {
        for (key, state) in &mut self.replicas.all {
            let log = self.logs.entry(*key).or_default();
            if let Some(damage) = &mut state.damage {
                damage.kept_to = log.last_position();
                damage.seen_to = damage.seen_to.max(damage.kept_to);
            }
            log.set_hard_state(state.raised_hard_state());
        }
    }
}
