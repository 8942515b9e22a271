//! What the control records of the log add up to, replica by replica.
//!
//! The same fold runs on every commit and on every start, so that what a running
//! node believes is what it would believe after a crash. A checkpoint in the
//! manifest is this fold at some lsn. Known limit: it knows where a log begins and
//! what was flushed, not its entries; those stand in [`crate::log_index`].

use crate::{
    log_index::HardState,
    wal::frame::{RecordHeader, kind},
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A replica's name on this node: the shard, and a number that is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaKey {
    /// The shard.
    pub shard: u16,
    /// The replica's number on this node.
    pub replica: u32,
}

impl ReplicaKey {
    /// Whose a record is.
    pub(crate) fn of(header: &RecordHeader) -> Self {
        Self {
            shard: header.shard,
            replica: header.replica,
        }
    }
}

/// A segment of a replica as the log names it; what `meta` says is the segments' own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// Its number within the replica; never reused.
    pub id: u64,
    /// Its description.
    pub meta: Bytes,
}

/// Where a replica's log was found to be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The frame.
    pub lsn: u64,
    /// The last position that is there without a gap.
    pub kept_to: u64,
    /// The highest position that the log still names: those between are lost.
    pub seen_to: u64,
    /// What was found.
    pub reason: String,
}

/// Frames that were durable and of which something is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The last frame before them.
    pub after: u64,
    /// The last of them.
    pub lsn: u64,
}

impl Hole {
    /// Whether all that is missing here was missing there.
    pub(crate) fn is_within(self, other: Self) -> bool {
        self.after >= other.after && self.lsn <= other.lsn
    }
}

/// What the log says of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaState {
    /// The frame that created it.
    pub created_lsn: u64,
    /// Term, vote, commit.
    pub hard_state: HardState,
    /// Entries up to here are not needed (position, term).
    pub compacted: (u64, u64),
    /// The segments hold the state up to here (position, term).
    pub flushed: (u64, u64),
    /// Its segments by number.
    pub segments: BTreeMap<u64, Bytes>,
    /// Set once damage was found: it is not stepped any more.
    pub damage: Option<Damage>,
}

/// All replicas of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// By name.
    pub all: BTreeMap<ReplicaKey, ReplicaState>,
    /// Numbers below this have been given out.
    pub next_replica: u32,
}

/// Why a record cannot be folded in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// This build does not know the kind.
    UnknownKind,
    /// The body is not what the kind says. With a right checksum that is a defect.
    Malformed,
    /// There is no such replica.
    NoReplica,
}

impl Replicas {
    /// The replica of a shard that is neither retired nor damaged.
    #[must_use]
    pub fn live(&self, shard: u16) -> Option<(ReplicaKey, &ReplicaState)> {
        let from = ReplicaKey { shard, replica: 0 };
        let to = ReplicaKey {
            shard,
            replica: u32::MAX,
        };
        let mut replicas = self.all.range(from..=to).rev();
        replicas
            .find(|(_, state)| state.damage.is_none())
            .map(|(key, state)| (*key, state))
    }

    /// Folds one record in. Entries change nothing here.
    pub(crate) fn apply(
        &mut self,
        lsn: u64,
        header: &RecordHeader,
        body: &[u8],
    ) -> Result<(), Unfit> {
        let key = ReplicaKey::of(header);
        if header.kind == kind::REPLICA_CREATED {
            self.next_replica = self.next_replica.max(key.replica + 1);
            let state = ReplicaState {
                created_lsn: lsn,
                ..ReplicaState::default()
            };
            self.all.entry(key).or_insert(state);
            return Ok(());
        }
        if header.kind == kind::REPLICA_RETIRED {
            self.all.remove(&key);
            return Ok(());
        }
        let state = self.all.get_mut(&key).ok_or(Unfit::NoReplica)?;
        let (position, term) = (header.position, header.term);
        match header.kind {
            kind::ENTRY => {}
            kind::HARD_STATE => {
                let vote = u64::from_le_bytes(body.try_into().map_err(|_| Unfit::Malformed)?);
                state.hard_state = HardState {
                    term,
                    vote,
                    commit: position,
                };
            }
            kind::COMPACTED_TO => {
                if position > state.compacted.0 {
                    state.compacted = (position, term);
                }
            }
            kind::SEGMENTS => {
                let change = SegmentChange::decode(body).ok_or(Unfit::Malformed)?;
                change.removed.iter().for_each(|id| {
                    state.segments.remove(id);
                });
                let added = change
                    .added
                    .into_iter()
                    .map(|segment| (segment.id, segment.meta));
                state.segments.extend(added);
                if position > state.flushed.0 {
                    state.flushed = (position, term);
                }
            }
            kind::INSTALLED => {
                let change = SegmentChange::decode(body).ok_or(Unfit::Malformed)?;
                let added = change
                    .added
                    .into_iter()
                    .map(|segment| (segment.id, segment.meta));
                state.segments = added.collect();
                state.flushed = (position, term);
                state.compacted = (position, term);
            }
            kind::DAMAGED => {
                let damage = Damage::decode(body).ok_or(Unfit::Malformed)?;
                state.damage = Some(damage);
            }
            kind::LOSS_ACCEPTED => {
                state.damage = None;
                state.hard_state.commit = state.hard_state.commit.min(position);
            }
            _ => return Err(Unfit::UnknownKind),
        }
        Ok(())
    }
}

impl ReplicaState {
    /// The hard state to go on with: what was flushed was committed.
    #[must_use]
    pub fn raised_hard_state(&self) -> HardState {
        HardState {
            commit: self.hard_state.commit.max(self.flushed.0),
            ..self.hard_state
        }
    }
}

/// Body of [`kind::SEGMENTS`] and [`kind::INSTALLED`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentChange {
    pub(crate) added: Vec<SegmentRef>,
    pub(crate) removed: Vec<u64>,
}

impl SegmentChange {
    pub(crate) fn encode(added: &[SegmentRef], removed: &[u64], to: &mut Vec<u8>) {
        put_len(to, added.len());
        for segment in added {
            to.extend_from_slice(&segment.id.to_le_bytes());
            put_len(to, segment.meta.len());
            to.extend_from_slice(&segment.meta);
        }
        put_len(to, removed.len());
        removed
            .iter()
            .for_each(|id| to.extend_from_slice(&id.to_le_bytes()));
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut from = Reader(body);
        let mut change = Self::default();
        for _ in 0..from.u32()? {
            let id = from.u64()?;
            let len = from.u32()? as usize;
            change.added.push(SegmentRef {
                id,
                meta: Bytes::copy_from_slice(from.bytes(len)?),
            });
        }
        for _ in 0..from.u32()? {
            change.removed.push(from.u64()?);
        }
        from.0.is_empty().then_some(change)
    }
}

/// Body of [`kind::LOSS_ACCEPTED`]: the holes of which it was known. Older versions wrote
/// none.
pub(crate) struct HoleList(pub(crate) Option<Vec<Hole>>);

impl HoleList {
    pub(crate) fn encode(holes: &[Hole], to: &mut Vec<u8>) {
        put_len(to, holes.len());
        for hole in holes {
            to.extend_from_slice(&hole.after.to_le_bytes());
            to.extend_from_slice(&hole.lsn.to_le_bytes());
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut from = Reader(body);
        if body.is_empty() {
            return Some(Self(None));
        }
        let mut holes = Vec::new();
        for _ in 0..from.u32()? {
            holes.push(Hole {
                after: from.u64()?,
                lsn: from.u64()?,
            });
        }
        from.0.is_empty().then_some(Self(Some(holes)))
    }
}

impl Damage {
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.lsn.to_le_bytes());
        to.extend_from_slice(&self.kept_to.to_le_bytes());
        to.extend_from_slice(&self.seen_to.to_le_bytes());
        put_len(to, self.reason.len());
        to.extend_from_slice(self.reason.as_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let (lsn, kept_to, seen_to) = (from.u64()?, from.u64()?, from.u64()?);
        let len = from.u32()? as usize;
        let reason = String::from_utf8(from.bytes(len)?.to_vec()).ok()?;
        Some(Self {
            lsn,
            kept_to,
            seen_to,
            reason,
        })
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut from = Reader(body);
        let damage = Self::read(&mut from)?;
        from.0.is_empty().then_some(damage)
    }
}

impl Replicas {
    /// As the manifest holds them.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.next_replica.to_le_bytes());
        put_len(to, self.all.len());
        for (key, state) in &self.all {
            to.extend_from_slice(&key.shard.to_le_bytes());
            to.extend_from_slice(&key.replica.to_le_bytes());
            for number in [
                state.created_lsn,
                state.hard_state.term,
                state.hard_state.vote,
                state.hard_state.commit,
                state.compacted.0,
                state.compacted.1,
                state.flushed.0,
                state.flushed.1,
            ] {
                to.extend_from_slice(&number.to_le_bytes());
            }
            to.push(u8::from(state.damage.is_some()));
            if let Some(damage) = &state.damage {
                damage.encode(to);
            }
            put_len(to, state.segments.len());
            for (id, meta) in &state.segments {
                to.extend_from_slice(&id.to_le_bytes());
                put_len(to, meta.len());
                to.extend_from_slice(meta);
            }
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut replicas = Self {
            next_replica: from.u32()?,
            all: BTreeMap::new(),
        };
        for _ in 0..from.u32()? {
            let key = ReplicaKey {
                shard: from.u16()?,
                replica: from.u32()?,
            };
            let created_lsn = from.u64()?;
            let (term, vote, commit) = (from.u64()?, from.u64()?, from.u64()?);
            let compacted = (from.u64()?, from.u64()?);
            let flushed = (from.u64()?, from.u64()?);
            let damage = if from.u8()? == 0 {
                None
            } else {
                Some(Damage::read(from)?)
            };
            let mut segments = BTreeMap::new();
            for _ in 0..from.u32()? {
                let id = from.u64()?;
                let len = from.u32()? as usize;
                segments.insert(id, Bytes::copy_from_slice(from.bytes(len)?));
            }
            let hard_state = HardState { term, vote, commit };
            let state = ReplicaState {
                created_lsn,
                hard_state,
                compacted,
                flushed,
                segments,
                damage,
            };
            replicas.all.insert(key, state);
        }
        Some(replicas)
    }
}

fn put_len(to: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("bounded by the size of a frame");
    to.extend_from_slice(&len.to_le_bytes());
}

/// Reads little-endian numbers from the front; `None` at the end of the bytes.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
}
