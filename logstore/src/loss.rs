//! Going on after damage that no peer can repair: for a stopped node.
//!
//! A replica whose log is damaged is cut at the last position that is there without a gap.
//! One whose segments cannot be opened gets their ends rebuilt, if all their blocks prove
//! themselves: then nothing is lost. Otherwise it begins empty, as a whole: without one
//! segment its heads, dedup rows and streams would fall back, and nobody would be told. That
//! is done only for whoever repeats what is lost ([`begin_empty`]).
//!
//! What was acknowledged and is gone must be told to those who remember it: the loss stays
//! [`pending`] until whoever steps the shard has done so and calls [`settle`].

use crate::{
    engine::{self, Append, LogError, OpenError, Opened, Options, Recovered},
    inspect,
    replicas::{Damage, ReplicaKey},
    segment::{
        SegmentMeta, Unrepairable,
        repair::{self, Proven},
    },
    storage::Storage,
};
use std::{io, sync::Arc};

/// A file for each loss that nobody has acted upon, named by its shard.
const DIRECTORY: &str = "losses";

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The log was cut.
    Cut(Loss),
    /// The ends of these segments were written again; nothing is lost.
    Rebuilt(Vec<String>),
}

/// What was given up of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Whose.
    pub key: ReplicaKey,
    /// The log ends here now.
    pub kept_to: u64,
    /// Positions from `kept_to` + 1 to this one were written and are lost, with
    /// anything the log does not name any more.
    pub seen_to: u64,
    /// What had happened.
    pub reason: String,
}

/// What is gone when a replica begins empty: all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeLoss {
    /// Whose.
    pub key: ReplicaKey,
    /// Positions up to here were written.
    pub last_position: u64,
    /// Its segments.
    pub segments: Vec<LostSegment>,
}

/// A segment of a replica that begins empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostSegment {
    /// The file.
    pub path: String,
    /// Rows that are not postings.
    pub rows: u64,
    /// Postings.
    pub postings: u64,
    /// What is wrong with it; `None` if it can be read and goes all the same.
    pub damage: Option<String>,
}

impl WholeLoss {
    /// Rows that are lost; those of the log behind the segments not counted.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.rows).sum()
    }
}

/// Why a loss was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    /// The directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The shard is not damaged.
    #[error("shard {0} is not damaged: there is no loss to accept")]
    NotDamaged(u16),
    /// Its segments cannot be made whole: it can only begin empty. Nothing was done.
    #[error(
        "shard {} has segments that cannot be rebuilt from their blocks: it can only begin empty",
        .0.key.shard
    )]
    Whole(Box<WholeLoss>),
    /// What would be lost is not what was confirmed. Nothing was done.
    #[error("what would be lost of shard {} is not what was confirmed", .0.key.shard)]
    Unconfirmed(Box<WholeLoss>),
    /// A segment is described in a form that this version does not know.
    #[error(
        "segment {id} of shard {shard} is described in a form that this version does not know: \
         use the version that wrote it, or a newer one"
    )]
    UnknownSegment {
        /// The shard.
        shard: u16,
        /// The segment's number.
        id: u64,
    },
    /// What was decided could not be made durable.
    #[error(transparent)]
    Log(#[from] LogError),
    /// That there is a loss could not be noted.
    #[error("the loss cannot be noted in the data directory: {0}")]
    Note(io::Error),
    /// A segment cannot be rewritten, or its fence not be lifted.
    #[error("segment {path}: {source}")]
    Segment {
        /// The file.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// Cuts the damaged log of a shard, or rebuilds the ends of its segments, and makes that
/// durable.
///
/// # Errors
/// See [`LossError`]; nothing is cut then.
pub fn accept_loss(
    storage: Arc<dyn Storage>,
    options: Options,
    shard: u16,
) -> Result<Accepted, LossError> {
    let mut opened = engine::open(Arc::clone(&storage), options)?;
    let damaged = opened
        .damaged
        .iter()
        .find(|damaged| damaged.key.shard == shard);
    let Some(damaged) = damaged else {
        return rebuild(&*storage, &opened, shard).map(Accepted::Rebuilt);
    };
    let key = damaged.key;
    let Damage {
        kept_to,
        seen_to,
        reason,
        ..
    } = damaged.damage.clone();
    // Before the cut: a note without a cut costs nothing, a cut without a note hides it.
    note(&*storage, shard).map_err(LossError::Note)?;
    opened.log.commit(&[Append::LossAccepted {
        key,
        position: kept_to,
        holes: opened.report.holes.clone(),
    }])?;
    opened.log.prove()?;
    Ok(Accepted::Cut(Loss {
        key,
        kept_to,
        seen_to,
        reason,
    }))
}

/// Retires the replica of a shard whose segments cannot be made whole, and begins another,
/// empty one in its place. `confirmed` is what [`accept_loss`] said would be lost.
///
/// # Errors
/// See [`LossError`]. Nothing is done if less or more would be lost now.
pub fn begin_empty(
    storage: Arc<dyn Storage>,
    options: Options,
    confirmed: &WholeLoss,
) -> Result<ReplicaKey, LossError> {
    let shard = confirmed.key.shard;
    let mut opened = engine::open(Arc::clone(&storage), options)?;
    match judge(&*storage, &opened, shard)? {
        Judged::Lost(lost) if lost == *confirmed => {}
        Judged::Lost(lost) => return Err(LossError::Unconfirmed(Box::new(lost))),
        Judged::Provable(_) => return Err(LossError::NotDamaged(shard)),
    }
    note(&*storage, shard).map_err(LossError::Note)?;
    let new = ReplicaKey {
        shard,
        replica: opened.log.next_replica(),
    };
    opened.log.commit(&[
        Append::RetireReplica { key: confirmed.key },
        Append::CreateReplica { key: new },
    ])?;
    opened.log.prove()?;
    Ok(new)
}

/// What the segments of a shard are.
enum Judged {
    /// All blocks of all of them are whole.
    Provable(Vec<(String, Proven)>),
    /// Some are not.
    Lost(WholeLoss),
}

fn judge(storage: &dyn Storage, opened: &Opened, shard: u16) -> Result<Judged, LossError> {
    let recovered = opened.replicas.get(&shard);
    let recovered = recovered.ok_or(LossError::NotDamaged(shard))?;
    let Recovered { key, log, .. } = recovered;
    let (mut proven, mut segments, mut lost) = (Vec::new(), Vec::new(), false);
    for segment in &recovered.segments {
        let id = segment.id;
        let unknown = LossError::UnknownSegment { shard, id };
        let meta = SegmentMeta::decode(&segment.meta).ok_or(unknown)?;
        let path = meta.path(key.replica);
        let damage = match repair::prove(storage, &path, &meta) {
            Ok(found) => {
                proven.push((path.clone(), found));
                None
            }
            Err(Unrepairable::Io(source)) if source.kind() != io::ErrorKind::NotFound => {
                return Err(LossError::Segment { path, source });
            }
            Err(error) => Some(error.to_string()),
        };
        lost |= damage.is_some();
        segments.push(LostSegment {
            path,
            rows: meta.rows,
            postings: meta.postings,
            damage,
        });
    }
    Ok(if lost {
        Judged::Lost(WholeLoss {
            key: *key,
            last_position: log.last_position(),
            segments,
        })
    } else {
        Judged::Provable(proven)
    })
}

/// Writes again what is wrong with the ends of a shard's segments, and lifts their fences.
fn rebuild(storage: &dyn Storage, opened: &Opened, shard: u16) -> Result<Vec<String>, LossError> {
    let proven = match judge(storage, opened, shard)? {
        Judged::Provable(proven) => proven,
        Judged::Lost(lost) => return Err(LossError::Whole(Box::new(lost))),
    };
    let failed = |path: &str| {
        let path = path.to_owned();
        |source| LossError::Segment { path, source }
    };
    let fences = inspect::fences(storage).map_err(failed("faults"))?;
    let mut rebuilt = Vec::new();
    for (path, found) in proven {
        let fenced = fences.contains(&path);
        if found.is_whole && !fenced {
            continue;
        }
        // A fenced one is written anew, too: the disk failed where it stood.
        repair::rebuild(storage, &path, &found).map_err(failed(&path))?;
        if fenced {
            inspect::lift(storage, &path).map_err(failed(&path))?;
        }
        rebuilt.push(path);
    }
    if rebuilt.is_empty() {
        return Err(LossError::NotDamaged(shard));
    }
    Ok(rebuilt)
}

fn note(storage: &dyn Storage, shard: u16) -> io::Result<()> {
    storage.create_dir(DIRECTORY)?;
    match storage.create(&path(shard)) {
        Ok(file) => file.sync()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    storage.sync_dir(DIRECTORY)?;
    storage.sync_dir("")
}

fn path(shard: u16) -> String {
    format!("{DIRECTORY}/{shard:04}")
}

/// The shards with a loss that nobody has acted upon.
///
/// # Errors
/// What the disk says.
pub fn pending(storage: &dyn Storage) -> io::Result<Vec<u16>> {
    match storage.list(DIRECTORY) {
        Ok(names) => Ok(names.iter().filter_map(|name| name.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A loss was acted upon, durably.
///
/// # Errors
/// What the disk says; it may be called again.
pub fn settle(storage: &dyn Storage, shard: u16) -> io::Result<()> {
    match storage.remove(&path(shard)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => storage.sync_dir(DIRECTORY),
    }
}
