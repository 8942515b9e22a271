//! Copying forward: what replicas that nobody steps still need of the oldest file goes to
//! the end of the log, so that the file can be reused.
//!
//! Only what a replay would find there is copied: no entry that a later one cut. What
//! should be there and is not, or is not what was written, is damage of its replica, and a
//! record says so before the file goes: the copies alone would look whole.

use super::{Log, LogError};
use crate::{
    recovery::live::LiveFile,
    replicas::{Damage, Hole, ReplicaKey},
    wal::{
        frame::{MOVED, Origin, Record, RecordHeader, kind},
        pool::RESERVE,
        scan::{self, FoundFrame, ScannedFile, Wanted},
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, io};

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// So many records.
    pub records: usize,
    /// Replicas that were sound as far as was known, and are damaged.
    pub damaged: Vec<ReplicaKey>,
}

/// An entry that a replay would find, with its place in the order.
struct Entry<'a> {
    origin: Origin,
    header: RecordHeader,
    body: Option<&'a Bytes>,
}

impl Log {
    /// Copies what these replicas need of the oldest file to the end of the log. They are
    /// not stepped: stuck, damaged, or down for their segments; any other is flushed
    /// instead. Then [`Log::reclaim`] can reuse the file, once no other needs it. Nothing
    /// is copied when there is no room for all of it; it may take one file of the reserve,
    /// since it frees one.
    ///
    /// # Errors
    /// See [`LogError`]. It reads the whole file: the log waits that long.
    pub fn copy_forward(&mut self, not_stepped: &[ReplicaKey]) -> Result<Forwarded, LogError> {
        self.check_poison()?;
        if self.live.len() <= 1 {
            return Ok(Forwarded::default());
        }
        let claims: BTreeMap<ReplicaKey, u64> = self
            .live
            .claims(0, &self.replicas)
            .into_iter()
            .filter(|(key, _)| not_stepped.contains(key))
            .collect();
        if claims.is_empty() {
            return Ok(Forwarded::default());
        }
        let oldest = self.live.files()[0].clone();
        let wanted = Wanted {
            log_id: self.writer.numbers().log_id,
            first_lsn: oldest.first_lsn,
            check_lengths: true,
            check_bodies: true,
        };
        let scanned = scan::scan(&*self.storage, oldest.number, wanted)
            .map_err(|error| self.poison(io::Error::other(error)))?;
        let frames = counting(&scanned, &oldest);
        let holes = self.new_holes(&frames, &oldest);
        let entries = self.entries(&scanned, &frames, &claims);
        let damage = self.new_damage(&claims, &holes, &entries);
        let bodies: Vec<(RecordHeader, Vec<u8>)> = damage
            .iter()
            .map(|(key, damage)| super::damage_record(*key, damage))
            .collect();
        let damaged = bodies.iter().map(|(header, body)| Record {
            header: *header,
            body,
        });
        let copies = entries.values().flatten().filter_map(|entry| {
            let mut header = entry.header;
            header.flags |= MOVED;
            header.origin = entry.origin;
            let body = entry.body?;
            Some(Record { header, body })
        });
        let records: Vec<Record<'_>> = damaged.chain(copies).collect();
        if !self.write_forward(&records)? {
            return Ok(Forwarded::default());
        }
        let keys: Vec<ReplicaKey> = claims.into_keys().collect();
        self.live.release(&keys);
        Ok(Forwarded {
            records: records.len() - damage.len(),
            damaged: damage.into_keys().collect(),
        })
    }

    /// What is missing of the file and was there at the start.
    fn new_holes(&self, frames: &[&FoundFrame], oldest: &LiveFile) -> Vec<Hole> {
        let mut holes = Vec::new();
        let mut last = None;
        for FoundFrame { header, .. } in frames {
            let whole = match last {
                None => header.lsn == oldest.first_lsn,
                Some(last) => header.previous_lsn == last,
            };
            if !whole {
                let after = last.unwrap_or(oldest.first_lsn - 1);
                let lsn = header.previous_lsn;
                holes.push(Hole { after, lsn });
            }
            last = Some(header.lsn);
        }
        if last != Some(oldest.last_lsn) {
            let after = last.unwrap_or(oldest.first_lsn - 1);
            let lsn = oldest.last_lsn;
            holes.push(Hole { after, lsn });
        }
        let known = &self.live.known;
        holes.retain(|hole| !known.iter().any(|other| hole.is_within(*other)));
        holes
    }

    /// The entries of each replica that are left when all records were counted in order,
    /// those of later files included.
    fn entries<'a>(
        &self,
        scanned: &'a ScannedFile,
        frames: &[&FoundFrame],
        claims: &BTreeMap<ReplicaKey, u64>,
    ) -> BTreeMap<ReplicaKey, Vec<Entry<'a>>> {
        let mut in_order: Vec<Entry<'_>> = Vec::new();
        for frame in frames {
            for (index, record) in (0..).zip(&scanned.records[frame.records.clone()]) {
                let header = record.header;
                let here = Origin {
                    lsn: frame.header.lsn,
                    index,
                };
                let moved = header.flags & MOVED != 0;
                if claims.contains_key(&ReplicaKey::of(&header)) {
                    in_order.push(Entry {
                        origin: if moved { header.origin } else { here },
                        header,
                        body: record.body.as_ref(),
                    });
                }
            }
        }
        in_order.sort_by_key(|entry| entry.origin);
        let mut left: BTreeMap<ReplicaKey, Vec<Entry<'_>>> = BTreeMap::new();
        for entry in in_order {
            let key = ReplicaKey::of(&entry.header);
            let position = entry.header.position;
            let left = left.entry(key).or_default();
            match entry.header.kind {
                kind::ENTRY => {
                    let twice = left.last().is_some_and(|last| last.origin == entry.origin);
                    // Two copies of one record: the sound one.
                    if twice && entry.body.is_none() {
                        continue;
                    }
                    left.retain(|other| other.header.position < position);
                    left.push(entry);
                }
                kind::INSTALLED => left.clear(),
                kind::LOSS_ACCEPTED => left.retain(|other| other.header.position <= position),
                _ => {}
            }
        }
        for (key, left) in &mut left {
            let state = self.replicas.all.get(key);
            let compacted = state.map_or(u64::MAX, |state| state.compacted.0);
            let needed = compacted.saturating_add(1)..self.live.cut_behind(0, *key);
            left.retain(|entry| needed.contains(&entry.header.position));
        }
        left
    }

    /// Replicas that were not known to be damaged and are.
    fn new_damage(
        &self,
        claims: &BTreeMap<ReplicaKey, u64>,
        holes: &[Hole],
        entries: &BTreeMap<ReplicaKey, Vec<Entry<'_>>>,
    ) -> BTreeMap<ReplicaKey, Damage> {
        let mut found = BTreeMap::new();
        for (key, seen_to) in claims {
            let Some(state) = self.replicas.all.get(key) else {
                continue;
            };
            if state.damage.is_some() {
                continue;
            }
            let hole = holes.iter().find(|hole| state.created_lsn <= hole.lsn);
            let entries = entries.get(key).into_iter().flatten();
            let wrong = entries.clone().find(|entry| entry.body.is_none());
            let damage = |lsn, kept_to: u64, reason| Damage {
                lsn,
                kept_to,
                seen_to: (*seen_to).max(kept_to),
                reason,
            };
            let damage = match (hole, wrong) {
                (Some(Hole { lsn, .. }), _) => damage(
                    *lsn,
                    state.compacted.0,
                    format!("frame {lsn} was durable and is not there any more"),
                ),
                (None, Some(entry)) => {
                    let (position, lsn) = (entry.header.position, entry.origin.lsn);
                    damage(
                        lsn,
                        position - 1,
                        format!("record at position {position} in frame {lsn}: wrong checksum"),
                    )
                }
                (None, None) => continue,
            };
            found.insert(*key, damage);
        }
        found
    }

    /// Writes all of it, or nothing for want of room.
    fn write_forward(&mut self, records: &[Record<'_>]) -> Result<bool, LogError> {
        let plan = self.plan(records, true)?;
        match self.make_room((plan.files + RESERVE).saturating_sub(1), true) {
            Ok(()) => {}
            Err(LogError::Full { .. } | LogError::DiskFull { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        for frame in plan.frames {
            self.write_planned(&records[frame], true)?;
        }
        Ok(true)
    }
}

/// The frames of a file that count.
fn counting<'a>(scanned: &'a ScannedFile, file: &LiveFile) -> Vec<&'a FoundFrame> {
    let frames = scanned.frames.iter();
    frames
        .filter(|frame| frame.header.lsn <= file.last_lsn && !file.cut.contains(&frame.header.lsn))
        .collect()
}
