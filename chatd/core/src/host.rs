//! The shards of one thread: `step` takes events, `poll` says what follows from them.
//!
//! ```text
//! step ─▶ queue of commands ─▶ poll: one entry a shard and pass ─▶ Effect::Persist
//!                                                                       │
//! answers, events, messages ◀─ poll: apply what is committed ◀─ step(Persisted)
//! ```
//! The host owns its shards outright and knows no other: what is for another shard
//! leaves as [`Effect::ToShard`]. Nothing that depends on a position leaves before
//! [`Event::Persisted`] for it came.
//!
//! A read for a session that would wait for the disk leaves as [`Effect::Warm`], and is
//! done when what it needs is in memory. Known limit: what applying a command reads is
//! read on the shard's thread, warm or not.

mod accounts;
mod acks;
mod apply;
mod attach;
mod incoming;
mod lookup;
mod marks;
mod outgoing;
mod parked;
mod people;
mod proposals;
mod reads;
mod requests;
mod room;
mod shard;
mod trail;
mod turns;

use bytes::Bytes;
use chat_wire::{
    error::{Code, Refusal},
    ids::{NodeId, ReplicaId, SessionId, ShardId},
    limits::Limits,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    command::{Command, Incarnation, MAX_ENTRY_BYTES, Settings},
    message::{Now, ShardMessage, ToSession, ToShard},
    placement::map::ShardMap,
    replica::{Replica, ReplicaError},
    store::{HardState, LogEntry, ShardStore},
};
use parked::{Parked, Shelved};
use room::Room;
use shard::Shard;
use turns::{Admitted, Turns};

pub use lookup::Lookup;
pub use parked::MAX_WARMING;
pub use room::{EntryCost, LogRoom, Returned, largest_entry_bytes};
pub use trail::{Place, Trail};

/// Passes of one [`Host::poll`] at most; what is left is done by the next, which
/// [`Host::deadline_ms`] asks for at once.
const MAX_PASSES: usize = 32;
/// Bytes of entries, and of rows, applied in one poll at most; the next one goes on with the
/// shards behind. So nobody waits for all that a large change does in many shards, and a
/// long log is applied shard after shard: the first ones serve while the others are at it.
const MAX_APPLY_BYTES: usize = 4 * 1024 * 1024;
/// A tick of Raft, in ms.
pub const TICK_MS: u64 = 100;

/// What a host is told once.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// This node.
    pub node: NodeId,
    /// Random, drawn anew at every start: ids of a new cluster and of new shards
    /// follow from it.
    pub seed: u64,
    /// Which shard owns which keys.
    pub map: Arc<ShardMap>,
    /// What clients are told; of it, `group_members`, `devices`, `content_bytes` and
    /// `mentions` are the cluster's settings at bootstrap, and later the log's.
    pub limits: Limits,
    /// Bytes of one destination's outbox; the cluster's setting at bootstrap.
    pub outbox_bytes: u64,
    /// Only who has connected once can be written to; the cluster's setting at bootstrap.
    pub known_users_only: bool,
    /// ACKs and MARKs of a shard go into its log at most this often.
    pub ack_flush_ms: u64,
    /// Outbox entries and marks without progress for so long are sent again.
    pub outbox_resend_ms: u64,
    /// What destinations have applied is collected for so long, unless it is much:
    /// each confirmation is a command, and one a message would double the log.
    pub confirm_ms: u64,
    /// Changes of presence are told at most this often.
    pub presence_coalesce_ms: u64,
    /// A session behind without credit or ACK for so long is closed.
    pub slow_consumer_ms: u64,
    /// Bytes applied after which a flush is proposed.
    pub flush_bytes: u64,
    /// Bytes of an entry at most, unless one command alone is longer.
    pub entry_bytes: usize,
    /// What entries take of the node's log.
    pub entry_cost: EntryCost,
    /// Shard 0 repeats the settings to all shards this often.
    pub settings_repeat_ms: u64,
    /// A user's devices together may do as much as so many of them: see
    /// [`crate::session::device_rate`].
    pub user_devices: u32,
    /// Inboxes that one user may make in an hour.
    pub new_inboxes_per_hour: u32,
    /// What one user may have done on a thread before others have their turn, in the units of
    /// [`crate::cost`].
    pub turn_units: u32,
    /// What all users may have done in a pass: as many plain SENDs as a thread takes from its
    /// queue at once fit into it.
    pub pass_units: u32,
    /// Messages between shards of this host stay inside. A simulator that wants to
    /// lose them says no.
    pub short_cut: bool,
}

impl HostSettings {
    /// Defaults for a node.
    #[must_use]
    pub fn new(node: NodeId, seed: u64, map: Arc<ShardMap>) -> Self {
        Self {
            node,
            seed,
            map,
            limits: Limits::default(),
            outbox_bytes: 64 * 1024 * 1024,
            known_users_only: false,
            ack_flush_ms: 200,
            outbox_resend_ms: 1_000,
            confirm_ms: 500,
            presence_coalesce_ms: 1_000,
            slow_consumer_ms: 30_000,
            flush_bytes: 16 * 1024 * 1024,
            entry_bytes: MAX_ENTRY_BYTES,
            entry_cost: EntryCost {
                overhead: 256,
                block: 4096,
            },
            settings_repeat_ms: 1_000,
            user_devices: 2,
            new_inboxes_per_hour: 5_000,
            turn_units: 2_000,
            pass_units: 32_000,
            short_cut: true,
        }
    }
}

/// What happens to a host.
#[derive(Debug)]
pub enum Event {
    /// A session asks something.
    Session(ToShard),
    /// A shard says something.
    Shard(ShardMessage),
    /// Everything up to this ready of a shard is on the disk.
    Persisted {
        /// Which shard.
        shard: ShardId,
        /// As [`Effect::Persist`] numbered it.
        ready: u64,
    },
    /// What was frozen first cannot be written: the shard stops, or its log would grow for
    /// ever.
    CannotFlush {
        /// Which shard.
        shard: ShardId,
        /// For the person on call.
        reason: String,
    },
    /// What was frozen first is in segments.
    Flushed {
        /// Which shard.
        shard: ShardId,
    },
    /// The log's budget or the node's memory wants this shard flushed.
    FlushWanted {
        /// Which shard.
        shard: ShardId,
    },
    /// What [`Effect::Warm`] asked for was read, whatever came of it.
    Warmed {
        /// Which shard.
        shard: ShardId,
        /// As the effect numbered it.
        ticket: u64,
    },
    /// The disk is full: writers are told DISK_FULL; or no longer.
    DiskFull(bool),
    /// Time has passed. `poll` looks at the time by itself; this does nothing more.
    Tick,
}

/// What a host wants done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Write and sync, then step [`Event::Persisted`]. The entries are readable in the
    /// store already. Those of one poll go into one write and one sync.
    Persist {
        /// Which shard.
        shard: ShardId,
        /// Its copy here.
        replica: ReplicaId,
        /// Its number.
        ready: u64,
        /// New entries, in order.
        entries: Vec<LogEntry>,
        /// The hard state, if it changed.
        hard_state: Option<HardState>,
    },
    /// Hand this to a session; if it is gone, drop it.
    ToSession {
        /// Which.
        session: SessionId,
        /// What.
        message: ToSession,
    },
    /// Hand this to the host of its destination. May be lost.
    ToShard(ShardMessage),
    /// Write what was frozen up to before this position as segments, then step
    /// [`Event::Flushed`].
    Flush {
        /// Which shard.
        shard: ShardId,
        /// The position of the flush.
        position: u64,
    },
    /// Read this from the segments on another thread, so that it is in memory, then
    /// step [`Event::Warmed`]. At most [`MAX_WARMING`] are on their way.
    Warm {
        /// Which shard.
        shard: ShardId,
        /// Its number in this host.
        ticket: u64,
        /// What.
        lookup: Box<Lookup>,
    },
    /// The shard stops: its data cannot be read, or needs a newer version.
    Stop {
        /// Which shard.
        shard: ShardId,
        /// For the person on call.
        reason: String,
    },
}

/// Why a shard cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// It is here already.
    #[error("shard {0} is hosted by this thread already")]
    Twice(ShardId),
    /// Raft refuses its log.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// What the shards of a host have done since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// SENDs answered with SENT, duplicates included.
    pub acknowledged: u64,
    /// Events handed to sessions.
    pub delivered: u64,
    /// SENDs, operations and outbox entries that had been applied before.
    pub duplicates: u64,
    /// Requests answered with an error.
    pub refused: u64,
    /// Requests refused because the log had no room.
    pub no_room: u64,
    /// Entries proposed.
    pub entries: u64,
    /// Commands in them.
    pub commands: u64,
    /// Sessions attached.
    pub attached: u64,
    /// Sessions ended by a newer one of their device.
    pub replaced: u64,
    /// Sessions closed as SLOW_CONSUMER.
    pub slow_consumers: u64,
    /// Outbox entries sent, repetitions included.
    pub outbox_sent: u64,
    /// Times that an outbox was sent again for want of progress.
    pub outbox_rewinds: u64,
    /// Roster rows refused because the id belongs to another name.
    pub name_collisions: u64,
    /// Outbox entries that a source had confirmed and this side has lost.
    pub outbox_lost: u64,
    /// Events for inboxes without a number left.
    pub undeliverable: u64,
    /// Reads that waited until another thread had read into memory what they need.
    pub cold_reads: u64,
    /// Of those, the ones that found it cold again, and waited for the disk here.
    pub cold_again: u64,
}

/// How a shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Which.
    pub shard: ShardId,
    /// Its copy here.
    pub replica: ReplicaId,
    /// It leads and has its settings: requests are served.
    pub serves: bool,
    /// Raft's term.
    pub term: u64,
    /// Last position of the log.
    pub last: u64,
    /// Last committed position.
    pub committed: u64,
    /// Last applied position.
    pub applied: u64,
    /// Last position that stands in segments.
    pub flushed: u64,
    /// Commands that wait to be proposed.
    pub queued: usize,
    /// Attached sessions.
    pub sessions: usize,
    /// Outbox entries that are not confirmed.
    pub outbox_entries: u64,
    /// For how long the oldest of them has waited, in ms.
    pub outbox_age_ms: u64,
    /// For how long the slowest connected device has not taken its next event, in ms.
    pub inbox_lag_ms: u64,
    /// For how long requests have found no room in the log, in ms, although the shard has
    /// no more of it than its part.
    pub no_room_ms: u64,
    /// The cluster's generation as the shard knows it; 0 before it does.
    pub generation: u32,
    /// Why it stopped, if it did.
    pub stopped: Option<String>,
}

/// What a pass over the shards works with.
struct Pass<'a> {
    settings: &'a HostSettings,
    now: Now,
    disk_full: bool,
    /// No new work is begun: the node ends.
    finishing: bool,
    room: &'a mut Room,
    /// What may still be applied in this poll.
    apply_bytes: usize,
    trail: &'a Trail,
    parked: &'a mut Parked,
    counters: &'a mut Counters,
    effects: &'a mut Vec<Effect>,
}

impl Pass<'_> {
    fn tell(&mut self, session: SessionId, message: ToSession) {
        match &message {
            ToSession::Events(events) => self.counters.delivered += events.len() as u64,
            ToSession::Refused { .. } => self.counters.refused += 1,
            _ => {}
        }
        self.effects.push(Effect::ToSession { session, message });
    }

    fn say(&mut self, from: ShardId, to: ShardId, says: crate::message::Says) {
        self.effects
            .push(Effect::ToShard(ShardMessage { from, to, says }));
    }
}

/// The shards of one thread. Add them, then alternate: [`Host::step`] with everything
/// that happened, [`Host::poll`] once, do the effects; poll again at
/// [`Host::deadline_ms`].
pub struct Host<S: ShardStore> {
    settings: HostSettings,
    shards: BTreeMap<ShardId, Shard<S>>,
    /// Shards with something to do.
    dirty: BTreeSet<ShardId>,
    effects: Vec<Effect>,
    parked: Parked,
    turns: Turns,
    counters: Counters,
    /// Shards that are here and cannot be stepped, and why.
    down: BTreeMap<ShardId, String>,
    disk_full: bool,
    finishing: bool,
    room: Room,
    now: Now,
    next_tick_ms: u64,
    trail: Arc<Trail>,
    /// The shard that the next poll begins with.
    next_shard: ShardId,
}

impl<S: ShardStore> Host<S> {
    /// A host without shards.
    #[must_use]
    pub fn new(settings: HostSettings) -> Self {
        Self {
            room: Room::new(settings.entry_cost),
            finishing: false,
            turns: Turns::new(settings.turn_units, settings.pass_units),
            settings,
            shards: BTreeMap::new(),
            dirty: BTreeSet::new(),
            effects: Vec::new(),
            parked: Parked::default(),
            counters: Counters::default(),
            down: BTreeMap::new(),
            disk_full: false,
            now: Now::default(),
            next_tick_ms: 0,
            trail: Arc::default(),
            next_shard: ShardId(0),
        }
    }

    /// Adds a shard, of which this replica is the only voter: the store's initial state
    /// says so. Applying begins behind what the store holds in segments, and the
    /// replica asks for leadership at once.
    ///
    /// # Errors
    /// [`HostError`]: the shard is not added.
    pub fn add_shard(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
        store: S,
        now: Now,
    ) -> Result<(), HostError> {
        if self.shards.contains_key(&shard) {
            return Err(HostError::Twice(shard));
        }
        let mut member = Replica::new(shard, replica, store, self.settings.seed)?;
        member.campaign()?;
        self.shards.insert(shard, Shard::new(shard, member));
        self.dirty.insert(shard);
        self.now = now;
        self.next_tick_ms = now.mono_ms + TICK_MS;
        Ok(())
    }

    /// A shard of this host cannot be stepped until an operator acts: who asks it for
    /// something is told why.
    pub fn set_down(&mut self, shard: ShardId, reason: String) {
        self.down.insert(shard, reason);
    }

    /// Lends room in the log for the next [`Host::poll`]; a host that was never lent any has
    /// a log without a bound. What is left is to be [given back](Host::give_back).
    pub const fn lend(&mut self, room: LogRoom) {
        self.room.lend(room);
    }

    /// What of the lent room was not used.
    pub const fn give_back(&mut self) -> Returned {
        self.room.give_back()
    }

    /// The node ends: what sessions have asked for is still carried out, nothing else is
    /// begun. What other shards' outboxes have brought stays in them.
    pub fn finish(&mut self) {
        self.finishing = true;
        for (id, shard) in &mut self.shards {
            shard.proposals.drop_own();
            self.dirty.insert(*id);
        }
    }

    /// Takes one thing that happened. Effects come with the next [`Host::poll`].
    pub fn step(&mut self, now: Now, event: Event) {
        self.now = now;
        let id = match &event {
            Event::Session(_) => {
                if let Event::Session(to) = event {
                    self.session(to);
                }
                return;
            }
            Event::Shard(message) => message.to,
            Event::Persisted { shard, .. }
            | Event::Flushed { shard }
            | Event::CannotFlush { shard, .. }
            | Event::Warmed { shard, .. }
            | Event::FlushWanted { shard } => *shard,
            Event::DiskFull(full) => {
                self.disk_full = *full;
                return self.refuse_waiting();
            }
            Event::Tick => return,
        };
        let mut pass = Pass {
            settings: &self.settings,
            now,
            disk_full: self.disk_full,
            finishing: self.finishing,
            room: &mut self.room,
            apply_bytes: 0,
            trail: &self.trail,
            parked: &mut self.parked,
            counters: &mut self.counters,
            effects: &mut self.effects,
        };
        let Some(shard) = self.shards.get_mut(&id) else {
            return;
        };
        self.dirty.insert(id);
        self.trail.enter(shard.place());
        match event {
            Event::Shard(message) => shard.message(&mut pass, message.from, message.says),
            Event::Persisted { ready, .. } => shard.replica.persisted(ready),
            Event::Flushed { .. } => shard.flush.finished(),
            Event::FlushWanted { .. } => shard.flush.want(),
            Event::CannotFlush { reason, .. } => shard.stop(reason),
            Event::Warmed { ticket, .. } => {
                if let Some(waiting) = pass.parked.returned(ticket) {
                    shard.warmed(&mut pass, waiting);
                }
            }
            Event::Session(_) | Event::DiskFull(_) | Event::Tick => {}
        }
        self.trail.leave();
    }

    /// A request has its turn now, or waits for it.
    fn session(&mut self, to: ToShard) {
        match self.turns.admit(to) {
            Admitted::Now(to) => self.serve(to),
            Admitted::Later => {}
            Admitted::Refused(refused) => {
                let mut pass = Pass {
                    settings: &self.settings,
                    now: self.now,
                    disk_full: self.disk_full,
                    apply_bytes: 0,
                    parked: &mut self.parked,
                    counters: &mut self.counters,
                    effects: &mut self.effects,
                    finishing: self.finishing,
                    room: &mut self.room,
                    trail: &self.trail,
                };
                for to in refused {
                    let many = "too many requests wait for their turn, most of them this user's";
                    let refusal = Refusal::new(Code::Overloaded, many);
                    requests::refuse_request(&mut pass, to, &refusal);
                }
            }
        }
    }

    /// A request has its turn.
    fn serve(&mut self, to: ToShard) {
        let mut pass = Pass {
            settings: &self.settings,
            now: self.now,
            disk_full: self.disk_full,
            apply_bytes: 0,
            parked: &mut self.parked,
            counters: &mut self.counters,
            effects: &mut self.effects,
            finishing: self.finishing,
            room: &mut self.room,
            trail: &self.trail,
        };
        let Some(shard) = self.shards.get_mut(&to.shard) else {
            let down = self.down.get(&to.shard).map(String::as_str);
            return requests::refuse_unknown_shard(&mut pass, to, down);
        };
        self.dirty.insert(to.shard);
        self.trail.enter(shard.place());
        shard.request(&mut pass, to.request);
        self.trail.leave();
    }

    /// While the disk is full nobody waits for what may be written much later.
    fn refuse_waiting(&mut self) {
        if !self.disk_full {
            return;
        }
        let mut pass = Pass {
            settings: &self.settings,
            now: self.now,
            disk_full: true,
            finishing: self.finishing,
            room: &mut self.room,
            apply_bytes: 0,
            trail: &self.trail,
            parked: &mut self.parked,
            counters: &mut self.counters,
            effects: &mut self.effects,
        };
        for shard in self.shards.values_mut() {
            shard.refuse_waiting(&mut pass);
        }
    }

    /// Proposes what was collected, takes what is ready, applies what is committed and
    /// delivers, until nothing more can be done without the disk.
    pub fn poll(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.now = now;
        while now.mono_ms >= self.next_tick_ms && !self.shards.is_empty() {
            self.next_tick_ms += TICK_MS;
            // A long pause of the process is one tick, not a hundred.
            self.next_tick_ms = self
                .next_tick_ms
                .max(now.mono_ms.saturating_sub(TICK_MS) + 1);
            for shard in self.shards.values_mut() {
                shard.replica.tick();
            }
        }
        for (id, shard) in &self.shards {
            if shard
                .due_ms(&self.settings)
                .is_some_and(|due| due <= now.mono_ms)
            {
                self.dirty.insert(*id);
            }
        }
        self.unshelve(now);
        self.turns.begin_pass();
        while let Some(to) = self.turns.next() {
            self.serve(to);
        }
        self.hand_out(now, out);
        let mut apply_bytes = MAX_APPLY_BYTES;
        for _ in 0..MAX_PASSES {
            let mut dirty = std::mem::take(&mut self.dirty);
            while apply_bytes > 0 {
                let next = dirty.range(self.next_shard..).next().or(dirty.first());
                let Some(id) = next.copied() else { break };
                dirty.remove(&id);
                self.next_shard = ShardId(id.0.wrapping_add(1));
                let mut pass = Pass {
                    settings: &self.settings,
                    now,
                    disk_full: self.disk_full,
                    finishing: self.finishing,
                    room: &mut self.room,
                    apply_bytes,
                    trail: &self.trail,
                    parked: &mut self.parked,
                    counters: &mut self.counters,
                    effects: &mut self.effects,
                };
                let Some(shard) = self.shards.get_mut(&id) else {
                    continue;
                };
                self.trail.enter(shard.place());
                let more = shard.advance(&mut pass);
                self.trail.leave();
                apply_bytes = pass.apply_bytes;
                if more {
                    self.dirty.insert(id);
                }
            }
            self.dirty.append(&mut dirty);
            self.hand_out(now, out);
            if self.dirty.is_empty() || apply_bytes == 0 {
                break;
            }
        }
    }

    /// There is room for what found none: it is looked at once more.
    fn unshelve(&mut self, now: Now) {
        for _ in 0..self.parked.room() {
            let Some((id, shelved)) = self.parked.unshelve() else {
                break;
            };
            let Some(shard) = self.shards.get_mut(&id) else {
                continue;
            };
            self.dirty.insert(id);
            let mut pass = Pass {
                settings: &self.settings,
                now,
                disk_full: self.disk_full,
                finishing: self.finishing,
                room: &mut self.room,
                apply_bytes: 0,
                trail: &self.trail,
                parked: &mut self.parked,
                counters: &mut self.counters,
                effects: &mut self.effects,
            };
            self.trail.enter(shard.place());
            match shelved {
                Shelved::Page(session) => shard.delivery.release(session),
                Shelved::Attach(attach) => shard.attach(&mut pass, *attach),
            }
            self.trail.leave();
        }
    }

    /// Effects leave; messages between shards of this host stay.
    fn hand_out(&mut self, now: Now, out: &mut Vec<Effect>) {
        let mut effects = VecDeque::from(std::mem::take(&mut self.effects));
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::ToShard(message)
                    if self.settings.short_cut && self.shards.contains_key(&message.to) =>
                {
                    self.step(now, Event::Shard(message));
                    effects.extend(self.effects.drain(..));
                }
                other => out.push(other),
            }
        }
    }

    /// Puts a command of an operator into a shard's log: a floor, settings of shard 0, a
    /// new incarnation. False if the shard is not here, does not lead, or is full: try
    /// again.
    pub fn propose(&mut self, now: Now, shard: ShardId, command: Command) -> bool {
        self.now = now;
        let Some(to) = self.shards.get_mut(&shard) else {
            return false;
        };
        self.dirty.insert(shard);
        to.leads && to.proposals.push_own(command, Bytes::new())
    }

    /// After a loss was accepted: the generation changes, so that cursors from before
    /// are answered GAP, and with `incarnation` the shard's outboxes begin anew. False
    /// until the shard leads; asked again it is as if asked once.
    pub fn renew(
        &mut self,
        now: Now,
        shard: ShardId,
        generation: u32,
        incarnation: Option<u64>,
    ) -> bool {
        let Some(to) = self.shards.get(&shard).filter(|to| to.leads) else {
            return false;
        };
        // Without settings nothing is served; they come from shard 0 and are looked at then.
        let Some(settings) = to.settings.clone() else {
            return false;
        };
        let mut commands = Vec::new();
        if settings.generation != generation {
            commands.push(Command::Settings(Settings {
                version: settings.version + 1,
                generation,
                ..settings
            }));
        }
        if let Some(incarnation) = incarnation {
            commands.push(Command::Incarnation(Incarnation { incarnation }));
        }
        commands
            .into_iter()
            .all(|command| self.propose(now, shard, command))
    }

    /// When [`Host::poll`] is due if nothing happens before, on the clock that never
    /// goes back.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        if self.shards.is_empty() {
            return None;
        }
        if !self.dirty.is_empty()
            || !self.effects.is_empty()
            || self.turns.is_waiting()
            || self.parked.may_unshelve()
        {
            return Some(self.now.mono_ms);
        }
        let timers = self
            .shards
            .values()
            .filter_map(|shard| shard.due_ms(&self.settings));
        timers.chain([self.next_tick_ms]).min()
    }

    /// A shard's log and state.
    #[must_use]
    pub fn store(&self, shard: ShardId) -> Option<&S> {
        self.shards.get(&shard).map(|shard| shard.replica.store())
    }

    /// A shard's log and state.
    pub fn store_mut(&mut self, shard: ShardId) -> Option<&mut S> {
        self.shards
            .get_mut(&shard)
            .map(|shard| shard.replica.store_mut())
    }

    /// Where this host is, for whoever looks after a panic.
    #[must_use]
    pub fn trail(&self) -> Arc<Trail> {
        Arc::clone(&self.trail)
    }

    /// What was done since the host began.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How each shard is, as of the last step or poll.
    #[must_use]
    pub fn status(&self) -> Vec<ShardStatus> {
        self.shards
            .values()
            .map(|shard| shard.status(self.now))
            .collect()
    }
}

#[cfg(test)]
impl<S: ShardStore> Host<S> {
    /// Sessions that follow marks at a shard.
    fn followers(&self, shard: ShardId) -> usize {
        self.shards[&shard].people.followers()
    }

    /// The worst sizes of what is proposed and not on its way to the disk.
    fn unsent_bytes(&self) -> u64 {
        let shards = self.shards.values();
        shards.map(|shard| shard.proposals.unsent_bytes()).sum()
    }

    /// Users whose accounts are kept.
    fn accounts(&self) -> usize {
        self.shards.values().map(|shard| shard.accounts.len()).sum()
    }

    /// Watched (session, user) pairs.
    fn watches(&self) -> usize {
        self.shards
            .values()
            .map(|shard| shard.people.present.pairs())
            .sum()
    }
}

#[cfg(test)]
mod tests;
