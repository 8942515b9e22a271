//! Accepting a loss: for a stopped node whose damaged replica has no peer to be
//! repaired from. It cuts the replica's log at the last position that is there
//! without a gap and says what is lost. Whoever calls it draws a new generation of
//! the cluster and a new incarnation of the shard: what was acknowledged is gone.

use crate::{
    engine::{self, Append, LogError, OpenError, Options},
    replicas::{Damage, ReplicaKey},
    storage::Storage,
};
use std::sync::Arc;

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
    opened.log.commit(&[Append::LossAccepted {
        key,
        position: kept_to,
    }])?;
    opened.log.prove()?;
    Ok(Loss {
        key,
        kept_to,
        seen_to,
        reason,
    })
}
