//! From a data directory to shards that can be stepped: recovers the log, creates the
//! shards at the first start, opens their segments. What cannot be opened stays down,
//! and the others serve.

use std::{collections::BTreeMap, sync::Arc};

use chat_core::{host::largest_entry_bytes, placement::map::ShardMap};
use chat_wire::ids::{NodeId, ReplicaId, mix64};
use logstore::{
    cache::BlockCache,
    engine::{self, Append, Log, Recovered},
    flush,
    log_index::LogIndex,
    loss,
    replicas::ReplicaKey,
    segment::{MapLimits, SegmentFiles},
    shard::{Shard, ShardError},
};

use super::{Config, DownShard, Panicked, StartError, renewal::Losses, room};

/// What a data directory holds.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) map: Arc<ShardMap>,
    pub(super) shards: Vec<Shard>,
    /// Replicas that are never stepped.
    pub(super) stuck: Vec<ReplicaKey>,
    pub(super) down: Vec<DownShard>,
    /// Accepted since the last start.
    pub(super) losses: Arc<Losses>,
}

/// Opens the directory, or creates one in an empty directory.
pub(super) fn open(config: &Config) -> Result<Opened, StartError> {
    let engine::Opened {
        mut log,
        mut replicas,
        damaged,
        ..
    } = {
        let largest = largest_entry_bytes(&config.host.limits);
        room::check(&config.engine, largest, usize::from(config.shards) + 1)?;
        engine::open(Arc::clone(&config.storage), config.engine.clone())?
    };
    if replicas.is_empty() && damaged.is_empty() {
        replicas = create_shards(&mut log, config.shards)?;
    }
    let known = replicas
        .keys()
        .chain(damaged.iter().map(|damaged| &damaged.key.shard));
    let map = Arc::new(ShardMap::even(
        known.copied().max().unwrap_or(config.shards),
    ));
    // The data may have more shards than the settings of its first start say now.
    let largest = largest_entry_bytes(&config.host.limits);
    room::check(&config.engine, largest, map.len() + 1)?;
    let mut stuck: Vec<_> = damaged.iter().map(|damaged| damaged.key).collect();
    let found = replicas
        .values()
        .map(|found| (found.key, &found.segments[..]));
    let swept = flush::sweep(&*config.storage, found, &stuck).map_err(|source| StartError::Io {
        what: "files that a crash left behind cannot be removed",
        source,
    })?;
    if !swept.is_empty() {
        tracing::info!(
            files = swept.len(),
            "removed what a crash left of unfinished segments"
        );
    }
    let mut down = damaged.iter().map(down_shard).collect();
    stuck.extend(take_panicked(config, &mut replicas, &mut down));
    let shards = open_shards(config, replicas, &mut down, &mut stuck)?;
    let lost = loss::pending(&*config.storage).map_err(|source| StartError::Io {
        what: "the notes of accepted losses cannot be read",
        source,
    })?;
    let losses = Losses::new(Arc::clone(&config.storage), lost, config.host.seed);
    Ok(Opened {
        log,
        map,
        shards,
        stuck,
        down,
        losses,
    })
}

/// The first start: a replica of each shard, the system shard included.
fn create_shards(log: &mut Log, shards: u16) -> Result<BTreeMap<u16, Recovered>, StartError> {
    let first = log.next_replica();
    let keys: Vec<_> = (0..=shards)
        .map(|shard| ReplicaKey {
            shard,
            replica: first + u32::from(shard),
        })
        .collect();
    let appends: Vec<_> = keys
        .iter()
        .map(|key| Append::CreateReplica { key: *key })
        .collect();
    log.commit(&appends)?;
    let new = |key: ReplicaKey| Recovered {
        key,
        log: LogIndex::new(),
        flushed: (0, 0),
        segments: Vec::new(),
    };
    Ok(keys.into_iter().map(|key| (key.shard, new(key))).collect())
}

/// Shards that would panic again stay down, as they are; the others serve.
fn take_panicked(
    config: &Config,
    replicas: &mut BTreeMap<u16, Recovered>,
    down: &mut Vec<DownShard>,
) -> Vec<ReplicaKey> {
    let mut keys = Vec::new();
    for Panicked { shard, position } in &config.panicked {
        let Some(recovered) = replicas.remove(shard) else {
            continue;
        };
        keys.push(recovered.key);
        down.push(DownShard {
            shard: *shard,
            reason: format!(
                "it has panicked twice at position {position}, which is a defect of this version \
                 and no loss: report the place that `chatctl doctor` shows, and start a version \
                 that mends it. To try this one again, remove the file PANIC from the data \
                 directory of the stopped node"
            ),
        });
    }
    keys
}

/// A shard whose segments cannot be opened stays down; the others serve.
fn open_shards(
    config: &Config,
    replicas: BTreeMap<u16, Recovered>,
    down: &mut Vec<DownShard>,
    stuck: &mut Vec<ReplicaKey>,
) -> Result<Vec<Shard>, StartError> {
    let files = SegmentFiles::new(
        Arc::clone(&config.storage),
        BlockCache::new(config.cache_bytes),
        MapLimits::default(),
    )
    .map_err(|source| StartError::Io {
        what: "the directory of segments cannot be created",
        source,
    })?;
    let mut shards = Vec::with_capacity(replicas.len());
    for (number, recovered) in replicas {
        let Recovered {
            key,
            log,
            flushed,
            segments,
        } = recovered;
        match Shard::open(key, log, flushed.0, &segments, &files, config.segments) {
            Ok(shard) => shards.push(shard),
            Err(error @ ShardError::UnknownSegment { .. }) => {
                return Err(StartError::Segment(error));
            }
            Err(error) => {
                stuck.push(key);
                down.push(DownShard {
                    shard: number,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(shards)
}

fn down_shard(damaged: &engine::Damaged) -> DownShard {
    let damage = &damaged.damage;
    DownShard {
        shard: damaged.key.shard,
        reason: format!(
            "its log is damaged: {}. Positions {} to {} are lost here; without a replica \
             elsewhere only `chatctl inspect --accept-loss` on the stopped node goes on without them",
            damage.reason,
            damage.kept_to + 1,
            damage.seen_to,
        ),
    }
}

/// Raft's name of a replica. The engine's numbers are never reused on a node, and a
/// node's id never by another, so these are fresh for every placement.
pub(super) fn replica_id(node: NodeId, key: ReplicaKey) -> ReplicaId {
    ReplicaId(mix64(node.0 ^ u64::from(key.replica)).max(1))
}
