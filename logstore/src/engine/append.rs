//! What can be committed, and its form in a frame.

use crate::{
    log_index::{HardState, LogEntry},
    replicas::{Hole, HoleList, ReplicaKey, SegmentChange, SegmentRef},
    wal::frame::{FORMAT, Record, RecordHeader, kind},
};
use std::ops::Range;

/// Something to be made durable.
#[derive(Clone, Debug)]
pub enum Append {
    /// Entries of a shard's log, with rising positions. One at a position that
    /// exists cuts that position and all after it.
    Entries {
        /// Whose.
        key: ReplicaKey,
        /// What.
        entries: Vec<LogEntry>,
    },
    /// Term, vote and commit.
    HardState {
        /// Whose.
        key: ReplicaKey,
        /// What.
        state: HardState,
    },
    /// A new replica; its number is [`Log::next_replica`](super::Log::next_replica)
    /// or higher, and its shard has no live one.
    CreateReplica {
        /// Which.
        key: ReplicaKey,
    },
    /// A replica ends: its log and its segments are not needed any more.
    RetireReplica {
        /// Which.
        key: ReplicaKey,
    },
    /// Entries up to a position are not needed any more; it must have been flushed.
    CompactedTo {
        /// Whose.
        key: ReplicaKey,
        /// Up to and with this position.
        position: u64,
        /// Its term.
        term: u64,
    },
    /// Segments were added and removed: the commit point of a flush or compaction.
    /// Their files are durable already.
    Segments {
        /// Whose.
        key: ReplicaKey,
        /// The segments hold the state up to and with this position.
        position: u64,
        /// Its term.
        term: u64,
        /// The new ones.
        added: Vec<SegmentRef>,
        /// The numbers of those that go.
        removed: Vec<u64>,
    },
    /// Segments that replace all state and log of a replica: a snapshot's.
    Installed {
        /// Whose.
        key: ReplicaKey,
        /// They hold the state up to and with this position.
        position: u64,
        /// Its term.
        term: u64,
        /// All segments.
        segments: Vec<SegmentRef>,
    },
    /// An operator accepts that what came after a position is lost.
    LossAccepted {
        /// Whose.
        key: ReplicaKey,
        /// The log ends here.
        position: u64,
        /// The holes that are known, see
        /// [`RecoveryReport::holes`](crate::recovery::RecoveryReport::holes): others are
        /// new damage.
        holes: Vec<Hole>,
    },
}

impl Append {
    /// Whether it is taken on a full disk, from the reserve: what frees room, and entries
    /// without a payload. A leader begins with one of those, and can neither know what of
    /// its log is committed nor serve reads before.
    pub(super) fn is_control(&self) -> bool {
        match self {
            Self::Entries { entries, .. } => entries.iter().all(|entry| entry.payload.is_empty()),
            _ => true,
        }
    }

    /// The replica it concerns.
    #[must_use]
    pub fn key(&self) -> ReplicaKey {
        match self {
            Self::Entries { key, .. }
            | Self::HardState { key, .. }
            | Self::CreateReplica { key }
            | Self::RetireReplica { key }
            | Self::CompactedTo { key, .. }
            | Self::Segments { key, .. }
            | Self::Installed { key, .. }
            | Self::LossAccepted { key, .. } => *key,
        }
    }
}

/// Bodies of control records, one after the other.
#[derive(Default)]
pub(super) struct Bodies(Vec<u8>, Vec<Range<usize>>);

/// The records of a batch, and the bodies of its control records in `bodies`.
pub(super) fn records<'a>(batch: &'a [Append], bodies: &'a mut Bodies) -> Vec<Record<'a>> {
    bodies.0.clear();
    bodies.1.clear();
    let mut count = 0;
    for append in batch {
        let start = bodies.0.len();
        put_body(append, &mut bodies.0);
        bodies.1.push(start..bodies.0.len());
        count += if let Append::Entries { entries, .. } = append {
            entries.len()
        } else {
            1
        };
    }
    let mut records = Vec::with_capacity(count);
    for (append, range) in batch.iter().zip(&bodies.1) {
        let key = append.key();
        let header = |kind, position, term| RecordHeader {
            shard: key.shard,
            replica: key.replica,
            kind,
            position,
            term,
            needs: FORMAT,
            ..RecordHeader::default()
        };
        let header = match append {
            Append::Entries { entries, .. } => {
                records.extend(entries.iter().map(|entry| Record {
                    header: RecordHeader {
                        sub: entry.kind,
                        ..header(kind::ENTRY, entry.position, entry.term)
                    },
                    body: &entry.payload,
                }));
                continue;
            }
            Append::HardState { state, .. } => header(kind::HARD_STATE, state.commit, state.term),
            Append::CreateReplica { .. } => header(kind::REPLICA_CREATED, 0, 0),
            Append::RetireReplica { .. } => header(kind::REPLICA_RETIRED, 0, 0),
            Append::CompactedTo { position, term, .. } => {
                header(kind::COMPACTED_TO, *position, *term)
            }
            Append::Segments { position, term, .. } => header(kind::SEGMENTS, *position, *term),
            Append::Installed { position, term, .. } => header(kind::INSTALLED, *position, *term),
            Append::LossAccepted { position, .. } => header(kind::LOSS_ACCEPTED, *position, 0),
        };
        records.push(Record {
            header,
            body: &bodies.0[range.clone()],
        });
    }
    records
}

fn put_body(append: &Append, to: &mut Vec<u8>) {
    match append {
        Append::HardState { state, .. } => to.extend_from_slice(&state.vote.to_le_bytes()),
        Append::Segments { added, removed, .. } => SegmentChange::encode(added, removed, to),
        Append::Installed { segments, .. } => SegmentChange::encode(segments, &[], to),
        Append::LossAccepted { holes, .. } => HoleList::encode(holes, to),
        Append::Entries { .. }
        | Append::CreateReplica { .. }
        | Append::RetireReplica { .. }
        | Append::CompactedTo { .. } => {}
    }
}
