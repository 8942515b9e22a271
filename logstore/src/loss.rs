//! Accepting a loss: for a stopped node whose damaged replica has no peer to be
//! repaired from. It cuts the replica's log at the last position that is there
//! without a gap and says what is lost. What was acknowledged is gone then, and those
//! who remember it must be told: the loss stays [`pending`] until whoever steps the
//! shard has done so and calls [`settle`].

use crate::{
    engine::{self, Append, LogError, OpenError, Options},
    replicas::{Damage, ReplicaKey},
    storage::Storage,
};
use std::{io, sync::Arc};

/// A file for each loss that nobody has acted upon, named by its shard.
const DIRECTORY: &str = "losses";

/// What was given up.
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

/// Why a loss was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    /// The directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The shard is not damaged.
    #[error("shard {0} is not damaged: there is no loss to accept")]
    NotDamaged(u16),
    /// The cut could not be made durable.
    #[error(transparent)]
    Log(#[from] LogError),
    /// That there is a loss could not be noted.
    #[error("the loss cannot be noted in the data directory: {0}")]
    Note(io::Error),
}

/// Cuts the damaged replica of a shard and makes the cut durable.
///
/// # Errors
/// See [`LossError`]; nothing is cut then.
pub fn accept_loss(
    storage: Arc<dyn Storage>,
    options: Options,
    shard: u16,
) -> Result<Loss, LossError> {
    let note_in = Arc::clone(&storage);
    let mut opened = engine::open(storage, options)?;
    let damaged = opened
        .damaged
        .iter()
        .find(|damaged| damaged.key.shard == shard);
    let Some(damaged) = damaged else {
        return Err(LossError::NotDamaged(shard));
    };
    let key = damaged.key;
    let Damage {
        kept_to,
        seen_to,
        reason,
        ..
    } = damaged.damage.clone();
    // Before the cut: a note without a cut costs nothing, a cut without a note hides it.
    note(&*note_in, shard).map_err(LossError::Note)?;
    opened.log.commit(&[Append::LossAccepted {
        key,
        position: kept_to,
        holes: opened.report.holes.clone(),
    }])?;
    opened.log.prove()?;
    Ok(Loss {
        key,
        kept_to,
        seen_to,
        reason,
    })
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
