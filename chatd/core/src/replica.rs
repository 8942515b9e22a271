//! One Raft member, stepped: propose, take what is ready, say what is persisted.
//! The algorithm is the crate `raft`; this is its driver for one shard.
//!
//! Only `advance_append_async` and `on_persist_ready` are used: what a position
//! depends on leaves only after its sync was reported (invariants 1 and 2). A ready
//! that only raises the commit position is not written by itself: it rides along
//! with the next write, since a restarted replica finds the commit position again.
//!
//! Known limit: one voter. Messages to other replicas are dropped, changes of
//! membership are refused.

use bytes::Bytes;
use chat_wire::ids::{ReplicaId, ShardId};
use raft::{
    Config, RawNode, StateRole,
    eraftpb::{Entry, EntryType, Message, MessageType},
};

use crate::store::{HardState, LogEntry, ShardStore};

/// Ticks without a leader before a replica campaigns; a tick is 100 ms.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between two heartbeats of a leader.
pub const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries in one message between replicas.
const MESSAGE_BYTES: u64 = 1024 * 1024;
/// Bytes that are proposed and not committed at most; more is refused.
const UNCOMMITTED_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of committed entries that are applied in one go at most.
const COMMITTED_BYTES: u64 = 8 * 1024 * 1024;

/// Why a replica cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log of shard {shard} cannot be opened by raft: {reason}. Look at it with `chatctl inspect` on the stopped node"
)]
pub struct ReplicaError {
    /// Which shard.
    pub shard: ShardId,
    /// What raft says.
    pub reason: String,
}

/// What has to go to the disk before the replica hears
/// [`Replica::persisted`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToPersist {
    /// Its number.
    pub ready: u64,
    /// New entries.
    pub entries: Vec<LogEntry>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
}

/// What one ready brought.
#[derive(Debug, Default)]
pub struct Taken {
    /// For the disk.
    pub persist: Option<ToPersist>,
    /// Entries to apply, in order.
    pub committed: Vec<Entry>,
}

/// One copy of a shard.
pub struct Replica<S: ShardStore> {
    shard: ShardId,
    id: ReplicaId,
    raft: RawNode<S>,
    seed: u64,
    /// Term and role for which the election timeout was drawn.
    drawn_for: (u64, StateRole),
    timeout_ticks: usize,
}

impl<S: ShardStore> Replica<S> {
    /// Starts from what the store holds. Its initial state names this replica as the
    /// only voter, and nothing as uncommitted that stands in segments.
    ///
    /// # Errors
    /// [`ReplicaError`] if raft refuses the stored state.
    pub fn new(shard: ShardId, id: ReplicaId, store: S, seed: u64) -> Result<Self, ReplicaError> {
        let refused = |error: raft::Error| ReplicaError {
            shard,
            reason: error.to_string(),
        };
        let applied = store.flushed();
        let config = Config {
            id: id.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: COMMITTED_BYTES,
            ..Config::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, store, &silent).map_err(refused)?;
        let mut replica = Self {
            shard,
            id,
            raft,
            seed,
            drawn_for: (u64::MAX, StateRole::Follower),
            timeout_ticks: 0,
        };
        replica.fix_timeout();
        Ok(replica)
    }

    /// Asks for leadership at once: with one voter there is nobody to wait for.
    ///
    /// # Errors
    /// [`ReplicaError`] if raft refuses.
    pub fn campaign(&mut self) -> Result<(), ReplicaError> {
        let result = self.raft.campaign();
        self.fix_timeout();
        result.map_err(|error| ReplicaError {
            shard: self.shard,
            reason: error.to_string(),
        })
    }

    /// A tenth of a second has passed.
    pub fn tick(&mut self) {
        self.raft.tick();
        self.fix_timeout();
    }

    /// Appends a payload to the log, if this replica leads. `None` if it does not,
    /// or if too much is uncommitted. The position is final only when it comes back
    /// committed with this term.
    pub fn propose(&mut self, payload: Bytes) -> Option<(u64, u64)> {
        if !self.is_leader() {
            return None;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id.0;
        message.entries = vec![Entry {
            data: payload,
            ..Entry::default()
        }]
        .into();
        let proposed = self.raft.raft.step(message).is_ok();
        self.fix_timeout();
        proposed.then(|| (self.raft.raft.raft_log.last_index(), self.raft.raft.term))
    }

    /// Takes what is ready: its entries are readable in the store already, and go to
    /// the disk; what is committed is to be applied, and [`Replica::applied`] told.
    pub fn take(&mut self) -> Option<Taken> {
        if !self.raft.has_ready() {
            return None;
        }
        let mut ready = self.raft.ready();
        let entries: Vec<_> = ready.take_entries().into_iter().map(log_entry).collect();
        let hard_state = ready.hs().map(|state| HardState {
            term: state.term,
            vote: state.vote,
            commit: state.commit,
        });
        let store = self.raft.mut_store();
        if !entries.is_empty() {
            store.append(&entries);
        }
        if let Some(state) = hard_state {
            store.set_hard_state(state);
        }
        let mut persist = None;
        if ready.must_sync() {
            let hard_state = hard_state.or_else(|| Some(self.hard_state()));
            persist = Some(ToPersist {
                ready: ready.number(),
                entries,
                hard_state,
            });
        }
        let committed = ready.take_committed_entries();
        self.raft.advance_append_async(ready);
        Some(Taken { persist, committed })
    }

    /// Everything up to this ready is on the disk.
    pub fn persisted(&mut self, ready: u64) {
        self.raft.on_persist_ready(ready);
        self.fix_timeout();
    }

    /// Everything up to this position is applied.
    pub fn applied(&mut self, position: u64) {
        self.raft.advance_apply_to(position);
        self.fix_timeout();
    }

    /// Whether this replica leads its shard.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// The present term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raft.raft.term
    }

    /// The last position of the log, and the last committed one.
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        (
            self.raft.raft.raft_log.last_index(),
            self.raft.raft.raft_log.committed,
        )
    }

    /// Its own id.
    #[must_use]
    pub const fn id(&self) -> ReplicaId {
        self.id
    }

    /// The shard's log and state.
    #[must_use]
    pub fn store(&self) -> &S {
        self.raft.store()
    }

    /// The shard's log and state.
    pub fn store_mut(&mut self) -> &mut S {
        self.raft.mut_store()
    }

    fn hard_state(&self) -> HardState {
        let state = self.raft.raft.hard_state();
        HardState {
            term: state.term,
            vote: state.vote,
            commit: state.commit,
        }
    }

    /// raft draws its election timeout from a thread's RNG. Ours is a function of
    /// seed, term and role, written back after every call, so that runs repeat.
    fn fix_timeout(&mut self) {
        let now = (self.raft.raft.term, self.raft.raft.state);
        if now != self.drawn_for {
            self.drawn_for = now;
            let draw = chat_wire::ids::mix64(self.seed ^ self.id.0 ^ now.0.rotate_left(32));
            #[expect(clippy::cast_possible_truncation, reason = "below ELECTION_TICKS")]
            let jitter = (draw % ELECTION_TICKS as u64) as usize;
            self.timeout_ticks = ELECTION_TICKS + jitter;
        }
        self.raft
            .raft
            .set_randomized_election_timeout(self.timeout_ticks);
    }
}

/// Raft's entry type as it stands in the log.
fn log_entry(entry: Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    };
    LogEntry {
        position: entry.index,
        term: entry.term,
        kind,
        payload: entry.data,
    }
}
