//! What the records of the chain add up to.
//!
//! Records count in the order in which they were first written: a moved one takes
//! the place of its origin, and once. Control records up to the checkpoint are in it
//! already; entries are not. A hole in the chain damages every replica that existed
//! there, a wrong body only its own, and neither one whose loss was accepted behind it:
//! as long as the damage is in the log, so is the record that accepts it, whatever a
//! checkpoint holds.

use crate::{
    log_index::{AppendError, LogEntry, LogIndex},
    manifest::Checkpoint,
    opening::OpenError,
    plant::{Planted, is_planted},
    recovery::chain::Chain,
    replicas::{Damage, Hole, HoleList, ReplicaKey, ReplicaState, Replicas, Unfit},
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
    /// What this replay found; the first of each replica.
    found: BTreeMap<ReplicaKey, Damage>,
    /// Positions that are not there so far.
    gaps: BTreeMap<ReplicaKey, Gap>,
    /// Frames that are missing, or in which a control record is wrong.
    pub(crate) holes: Vec<Hole>,
    accepted: Acceptances,
    checkpoint_lsn: u64,
}

/// Positions that a log should have before those that were seen. It is no damage if all
/// of those are cut later or not needed: copying forward leaves out what was cut.
#[derive(Clone, Copy, Debug)]
struct Gap {
    lsn: u64,
    from: u64,
    to: u64,
    seen: u64,
}

/// A loss that was accepted.
#[derive(Clone, Debug)]
struct Acceptance {
    lsn: u64,
    /// The log ended here: what was behind it, damaged or not, is given up.
    position: u64,
    /// The holes of which it was known; `None` in records of older versions: all of them.
    holes: Option<Vec<Hole>>,
}

/// All losses that the log says were accepted, known before it is replayed.
#[derive(Debug, Default)]
struct Acceptances(BTreeMap<ReplicaKey, Vec<Acceptance>>);

impl Acceptances {
    fn of(files: &[ScannedFile], chain: &Chain) -> Self {
        let mut all = Self::default();
        for at in &chain.frames {
            let file = &files[at.file];
            let frame = &file.frames[at.frame];
            for record in &file.records[frame.records.clone()] {
                let header = &record.header;
                if header.kind != kind::LOSS_ACCEPTED {
                    continue;
                }
                // One that cannot be read accepts nothing.
                let Some(body) = &record.body else { continue };
                let Some(HoleList(holes)) = HoleList::decode(body) else {
                    continue;
                };
                let lsn = if is_moved(record) {
                    header.origin.lsn
                } else {
                    frame.header.lsn
                };
                all.0
                    .entry(ReplicaKey::of(header))
                    .or_default()
                    .push(Acceptance {
                        lsn,
                        position: header.position,
                        holes,
                    });
            }
        }
        all
    }

    fn after(&self, key: ReplicaKey, lsn: u64) -> impl Iterator<Item = &Acceptance> {
        let all = self.0.get(&key).into_iter().flatten();
        all.filter(move |acceptance| acceptance.lsn > lsn)
    }

    /// Something of a replica was given up later.
    fn has_any(&self, key: ReplicaKey, lsn: u64) -> bool {
        self.after(key, lsn).next().is_some()
    }

    /// What is at a position in a frame was given up later.
    fn has_position(&self, key: ReplicaKey, lsn: u64, position: u64) -> bool {
        self.after(key, lsn)
            .any(|acceptance| acceptance.position < position)
    }

    fn has_hole(&self, key: ReplicaKey, hole: Hole) -> bool {
        self.after(key, hole.lsn).any(|acceptance| {
            let known = acceptance.holes.as_ref();
            known.is_none_or(|known| known.iter().any(|other| hole.is_within(*other)))
        })
    }
}

pub(crate) fn replay(
    files: &[ScannedFile],
    chain: &Chain,
    checkpoint: &Checkpoint,
    plant: Planted,
) -> Result<Replayed, OpenError> {
    let mut sum = Replayed {
        replicas: checkpoint.replicas.clone(),
        checkpoint_lsn: checkpoint.lsn,
        accepted: Acceptances::of(files, chain),
        ..Replayed::default()
    };
    for (key, state) in &sum.replicas.all {
        let mut log = LogIndex::new();
        log.compact_to(state.compacted.0, state.compacted.1);
        sum.logs.insert(*key, log);
    }
    let in_order = !is_planted!(plant, MovedOutOfOrder);
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
        while let Some((_, hole)) = holes.next_if(|(before, _)| *before == index) {
            sum.hole(*hole);
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
    holes.for_each(|(_, hole)| sum.hole(*hole));
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
    /// Durable frames are gone, and with them the names of whom they concerned: anyone
    /// that existed then.
    fn hole(&mut self, hole: Hole) {
        let Hole { lsn, .. } = hole;
        let existed = |state: &ReplicaState| state.created_lsn <= lsn;
        let existing = self.replicas.all.iter().filter(|(_, state)| existed(state));
        let keys: Vec<ReplicaKey> = existing.map(|(key, _)| *key).collect();
        for key in keys {
            if !self.accepted.has_hole(key, hole) {
                let what = format!("frame {lsn} was durable and is not there any more");
                self.damage(key, lsn, what);
            }
        }
        self.holes.push(hole);
    }

    fn damage(&mut self, key: ReplicaKey, lsn: u64, reason: String) {
        let last = self.logs.get(&key).map_or(0, LogIndex::last_position);
        self.found.entry(key).or_insert(Damage {
            lsn,
            kept_to: last,
            seen_to: last,
            reason,
        });
    }

    fn record(&mut self, lsn: u64, record: &FoundRecord) -> Result<(), OpenError> {
        let header = &record.header;
        let key = ReplicaKey::of(header);
        let Some(body) = &record.body else {
            self.wrong_body(lsn, key, header);
            return Ok(());
        };
        if lsn > self.checkpoint_lsn {
            self.fold(lsn, header, body)?;
        }
        self.log(lsn, key, header, body);
        Ok(())
    }

    /// What the checkpoint contains is not needed from here, nor what was given up.
    fn wrong_body(&mut self, lsn: u64, key: ReplicaKey, header: &RecordHeader) {
        let position = header.position;
        let needed = if header.kind == kind::ENTRY {
            let log = self.logs.get(&key);
            let compacted = log.is_none_or(|log| position <= log.compacted().0);
            !compacted && !self.accepted.has_position(key, lsn, position)
        } else if lsn > self.checkpoint_lsn {
            let hole = Hole {
                after: lsn - 1,
                lsn,
            };
            self.holes.push(hole);
            !self.accepted.has_hole(key, hole)
        } else {
            false
        };
        if needed {
            let what = format!("record at position {position} in frame {lsn}: wrong checksum");
            self.damage(key, lsn, what);
            self.seen(key, position);
        }
    }

    /// Folds a control record into the replicas' state.
    fn fold(&mut self, lsn: u64, header: &RecordHeader, body: &[u8]) -> Result<(), OpenError> {
        let key = ReplicaKey::of(header);
        let unknown = !kind::is_known(header.kind);
        match self.replicas.apply(lsn, header, body) {
            Ok(()) => {
                if header.kind == kind::REPLICA_RETIRED {
                    self.found.remove(&key);
                    self.gaps.remove(&key);
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
                // What is left of it is collected.
                self.replicas.all.entry(key).or_default();
                if !self.accepted.has_any(key, lsn) {
                    let what = "the record that created the replica is not there".to_owned();
                    self.damage(key, lsn, what);
                }
                self.fold(lsn, header, body)
            }
            Err(Unfit::Malformed) if self.accepted.has_any(key, lsn) => Ok(()),
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
            kind::COMPACTED_TO => {
                self.logs.entry(key).or_default().compact_to(position, term);
                if self.gaps.get(&key).is_some_and(|gap| gap.seen <= position) {
                    self.gaps.remove(&key);
                }
            }
            kind::INSTALLED => {
                self.gaps.remove(&key);
                let log = self.logs.entry(key).or_default();
                let compacted = log.compacted().0;
                if position >= compacted {
                    log.reset_to(position, term);
                } else {
                    log.truncate_after(compacted);
                }
            }
            kind::LOSS_ACCEPTED => self.loss_accepted(lsn, key, position),
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
            // It cut all that came after it.
            Ok(()) => drop(self.gaps.remove(&key)),
            // It is not needed, but it cut, too.
            Err(AppendError::Compacted { compacted, .. }) => {
                log.truncate_after(compacted);
                self.gaps.remove(&key);
            }
            Err(AppendError::Gap { position, .. })
                if self.accepted.has_position(key, lsn, position) => {}
            Err(AppendError::Gap { last, position }) => {
                let gap = self.gaps.entry(key).or_insert(Gap {
                    lsn,
                    from: last + 1,
                    to: position - 1,
                    seen: position,
                });
                gap.seen = gap.seen.max(position);
            }
        }
        self.seen(key, header.position);
    }

    /// The log ends at a position, and what was kept then must be there now.
    fn loss_accepted(&mut self, lsn: u64, key: ReplicaKey, position: u64) {
        let log = self.logs.entry(key).or_default();
        log.truncate_after(position);
        let next = log.last_position() + 1;
        if next <= position && !self.accepted.has_position(key, lsn, next) {
            let what = format!(
                "positions {next} to {position}, kept when a loss was accepted, are not there"
            );
            self.damage(key, lsn, what);
        }
    }

    fn seen(&mut self, key: ReplicaKey, position: u64) {
        let known = self.replicas.all.get_mut(&key);
        let known = known.and_then(|state| state.damage.as_mut());
        for damage in known.into_iter().chain(self.found.get_mut(&key)) {
            damage.seen_to = damage.seen_to.max(position);
        }
    }

    fn finish(&mut self) {
        for (key, gap) in std::mem::take(&mut self.gaps) {
            let what = format!("positions {} to {} are not there", gap.from, gap.to);
            self.damage(key, gap.lsn, what);
            self.seen(key, gap.seen);
        }
        for (key, found) in std::mem::take(&mut self.found) {
            let state = self.replicas.all.entry(key).or_default();
            match &mut state.damage {
                Some(known) => known.seen_to = known.seen_to.max(found.seen_to),
                None => {
                    state.damage = Some(found);
                    self.new_damage.insert(key);
                }
            }
        }
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
