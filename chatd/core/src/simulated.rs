//! A whole node on virtual time, in one thread: a host over stores in memory, and
//! clients that speak frames to real sessions. A seed decides when the disk answers,
//! and which messages between shards are lost, repeated or late.

use crate::{
    command::Command,
    host::{Effect, Event, Host, HostSettings, Lookup},
    message::{Now, ShardMessage, ToShard},
    placement::map::ShardMap,
    session::{Input, Output, Session, SessionSettings},
    store::{HardState, LogEntry, memory::MemoryStore},
};
use chat_wire::{
    codec::{self, Encoding},
    error::Refusal,
    frame::Frame,
    ids::{NodeId, ReplicaId, SessionId, ShardId, UserId},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

mod clients;

use clients::authenticate;
pub(crate) use clients::text_of;

/// 2026-09-21, somewhere.
pub(crate) const BEGIN_UNIX_MS: u64 = 1_790_000_000_000;

/// A small generator: the tests' only source of chance.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        chat_wire::ids::mix64(self.0)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What goes wrong between shards, in percent, and how slow the disk is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) late: u64,
    /// Requests that find their shard's queue full.
    pub(crate) full: u64,
    pub(crate) sync_ms: u64,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        lost: 0,
        repeated: 0,
        late: 0,
        full: 0,
        sync_ms: 1,
    };
    pub(crate) const BAD: Self = Self {
        lost: 20,
        repeated: 20,
        late: 30,
        full: 5,
        sync_ms: 15,
    };
}

struct Sync {
    due_ms: u64,
    shard: ShardId,
    ready: u64,
    entries: Vec<LogEntry>,
    hard_state: Option<HardState>,
}

pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) frames: Vec<Frame>,
    pub(crate) closed: Option<Option<Refusal>>,
    encoding: Encoding,
}

pub(crate) struct Node {
    pub(crate) host: Host<MemoryStore>,
    pub(crate) now: Now,
    pub(crate) chance: Chance,
    pub(crate) faults: Faults,
    pub(crate) clients: BTreeMap<SessionId, Client>,
    pub(crate) session_settings: Arc<SessionSettings>,
    pub(crate) settings: HostSettings,
    /// Flushes are written only if this says so.
    pub(crate) flusher_works: bool,
    /// No write reaches the disk.
    pub(crate) disk_hangs: bool,
    /// Nothing cold is read by the readers.
    pub(crate) readers_hang: bool,
    /// What the readers read leaves memory again at once.
    pub(crate) memory_is_short: bool,
    /// The hosts' queues are full.
    pub(crate) queues_full: bool,
    pub(crate) stops: Vec<(ShardId, String)>,
    /// Everything that left the host, in words: two runs must be equal.
    pub(crate) trace: Vec<String>,
    syncs: VecDeque<Sync>,
    flushes: VecDeque<(u64, ShardId)>,
    warming: Vec<(u64, ShardId, u64, Box<Lookup>)>,
    mail: Vec<(u64, ShardMessage)>,
    sessions: u64,
    ids: u64,
    starts: u64,
}

impl Node {
    pub(crate) fn new(shards: u16, seed: u64) -> Self {
        Self::with(shards, seed, |_, _| {})
    }

    pub(crate) fn with(
        shards: u16,
        seed: u64,
        change: impl FnOnce(&mut HostSettings, &mut SessionSettings),
    ) -> Self {
        let mut node = Self::unborn(shards, seed, change);
        node.run(200);
        node
    }

    /// A node whose shards have not heard of each other.
    pub(crate) fn unborn(
        shards: u16,
        seed: u64,
        change: impl FnOnce(&mut HostSettings, &mut SessionSettings),
    ) -> Self {
        let map = Arc::new(ShardMap::even(shards));
        let mut settings = HostSettings::new(NodeId(1), seed, map);
        settings.short_cut = false;
        let mut session_settings = SessionSettings::new(settings.limits, [7; 32]);
        change(&mut settings, &mut session_settings);
        // The buckets of a device stand at its shard.
        settings.limits.sends_per_second = session_settings.limits.sends_per_second;
        settings.limits.sends_burst = session_settings.limits.sends_burst;
        let mut node = Self {
            host: Host::new(settings.clone()),
            now: Now {
                mono_ms: 1,
                unix_ms: BEGIN_UNIX_MS,
            },
            chance: Chance::new(seed),
            faults: Faults::NONE,
            clients: BTreeMap::new(),
            session_settings: Arc::new(session_settings),
            settings,
            flusher_works: true,
            disk_hangs: false,
            readers_hang: false,
            memory_is_short: false,
            queues_full: false,
            stops: Vec::new(),
            trace: Vec::new(),
            syncs: VecDeque::new(),
            flushes: VecDeque::new(),
            warming: Vec::new(),
            mail: Vec::new(),
            sessions: 0,
            ids: 0,
            starts: 0,
        };
        let stores = (0..=shards)
            .map(|shard| {
                (
                    ShardId(shard),
                    MemoryStore::new(ReplicaId(1 + u64::from(shard))),
                )
            })
            .collect();
        node.start(stores);
        node
    }

    fn start(&mut self, stores: Vec<(ShardId, MemoryStore)>) {
        self.starts += 1;
        self.settings.seed = self.settings.seed.wrapping_add(self.starts);
        self.host = Host::new(self.settings.clone());
        for (shard, store) in stores {
            let replica = ReplicaId(1 + u64::from(shard.0));
            self.host
                .add_shard(shard, replica, store, self.now)
                .unwrap();
        }
    }

    /// The process is killed and started again: what was not synced is gone.
    pub(crate) fn crash(&mut self) {
        self.crash_and(|_, store| store.restarted());
    }

    /// The process is killed, and starts with what `change` makes of each store.
    pub(crate) fn crash_and(
        &mut self,
        mut change: impl FnMut(ShardId, MemoryStore) -> MemoryStore,
    ) {
        self.syncs.clear();
        self.flushes.clear();
        self.warming.clear();
        self.mail.clear();
        self.clients.clear();
        let shards: Vec<_> = self
            .host
            .status()
            .iter()
            .map(|status| status.shard)
            .collect();
        let stores = shards
            .into_iter()
            .map(|shard| {
                (
                    shard,
                    change(shard, self.host.store(shard).unwrap().clone()),
                )
            })
            .collect();
        self.start(stores);
        self.trace.push("crash".into());
    }

    /// A connection without HELLO.
    pub(crate) fn open(&mut self, encoding: Encoding) -> SessionId {
        self.sessions += 1;
        let id = SessionId(self.sessions);
        let session = Session::new(
            self.session_settings.clone(),
            id,
            encoding,
            self.settings.map.clone(),
            *blake3::hash(&self.sessions.to_be_bytes()).as_bytes(),
            self.now,
        );
        let client = Client {
            session,
            frames: Vec::new(),
            closed: None,
            encoding,
        };
        self.clients.insert(id, client);
        id
    }

    pub(crate) fn input(&mut self, session: SessionId, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(client) = self.clients.get_mut(&session) else {
                return;
            };
            let mut out = Vec::new();
            client.session.step(self.now, input, &mut out);
            for output in out {
                match output {
                    Output::Write { bytes, .. } => {
                        let frame = codec::decode(client.encoding, &bytes, usize::MAX).unwrap();
                        self.trace.push(format!("{session} {frame:?}"));
                        client.frames.push(frame);
                    }
                    Output::Authenticate(token) => {
                        inputs.push_back(Input::Authenticated(authenticate(&token)));
                    }
                    Output::Submit(to)
                        if self.queues_full || self.chance.percent(self.faults.full) =>
                    {
                        inputs.push_back(Input::Overloaded(to));
                    }
                    Output::Submit(to) => self.host.step(self.now, Event::Session(to)),
                    Output::Close(refusal) => client.closed = Some(refusal),
                }
            }
        }
    }

    /// The connection breaks.
    pub(crate) fn lose(&mut self, session: SessionId) {
        self.input(session, Input::Lost);
        self.clients.remove(&session);
    }

    /// A command into a shard's log, and its effects.
    pub(crate) fn propose(&mut self, shard: ShardId, command: impl Into<Command>) {
        assert!(self.host.propose(self.now, shard, command.into()));
        self.run(50);
    }

    /// Whether the host asks to be polled again at once, with nothing new.
    pub(crate) fn spins(&mut self) -> bool {
        self.pass();
        self.host.deadline_ms().unwrap() <= self.now.mono_ms
    }

    /// Where a user lives.
    pub(crate) fn shard_of(&self, name: &str) -> ShardId {
        crate::router::of_user(&self.settings.map, UserId::of("default", name))
    }

    pub(crate) fn submit(&mut self, to: ToShard) {
        self.host.step(self.now, Event::Session(to));
    }

    /// Some virtual milliseconds.
    pub(crate) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.pass();
            self.now.mono_ms += 1;
            self.now.unix_ms += 1;
        }
    }

    pub(crate) fn run_until(&mut self, at_most_ms: u64, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..at_most_ms {
            if done(self) {
                return;
            }
            self.run(1);
        }
        assert!(
            done(self),
            "it did not happen within {at_most_ms} virtual ms"
        );
    }

    fn pass(&mut self) {
        let due: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, client)| {
                client
                    .session
                    .deadline_ms()
                    .is_some_and(|due| due <= self.now.mono_ms)
            })
            .map(|(id, _)| *id)
            .collect();
        for session in due {
            self.input(session, Input::Tick);
        }
        let (now_ms, hangs) = (self.now.mono_ms, self.disk_hangs);
        while let Some(sync) = self
            .syncs
            .pop_front_if(|sync| !hangs && sync.due_ms <= now_ms)
        {
            let Sync {
                shard,
                ready,
                entries,
                hard_state,
                ..
            } = sync;
            self.host
                .store_mut(shard)
                .unwrap()
                .persist(&entries, hard_state);
            self.host.step(self.now, Event::Persisted { shard, ready });
        }
        if self.flusher_works {
            let now_ms = self.now.mono_ms;
            while let Some((_, shard)) = self.flushes.pop_front_if(|(due, _)| *due <= now_ms) {
                assert!(self.host.store_mut(shard).unwrap().flush_done());
                self.host.step(self.now, Event::Flushed { shard });
            }
        }
        self.warm();
        let now_ms = self.now.mono_ms;
        let (due, later) = std::mem::take(&mut self.mail)
            .into_iter()
            .partition(|m| m.0 <= now_ms);
        self.mail = later;
        for (_, message) in due {
            self.host.step(self.now, Event::Shard(message));
        }
        let mut effects = Vec::new();
        self.host.poll(self.now, &mut effects);
        for effect in effects {
            self.effect(effect);
        }
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Persist {
                shard,
                ready,
                entries,
                hard_state,
                ..
            } => {
                // One log for all shards: syncs end in the order they began.
                let slow_ms = 1 + self.chance.below(self.faults.sync_ms);
                let due_ms = self.now.mono_ms + slow_ms;
                let due_ms = self
                    .syncs
                    .back()
                    .map_or(due_ms, |last| last.due_ms.max(due_ms));
                let positions: Vec<_> = entries.iter().map(|e| (e.position, e.term)).collect();
                self.trace.push(format!(
                    "persist {shard} {ready} {positions:?} {hard_state:?}"
                ));
                self.syncs.push_back(Sync {
                    due_ms,
                    shard,
                    ready,
                    entries,
                    hard_state,
                });
            }
            Effect::ToSession { session, message } => self.input(session, Input::Host(message)),
            Effect::ToShard(message) => {
                self.trace
                    .push(format!("{} -> {}", message.from, message.to));
                if self.chance.percent(self.faults.lost) {
                    return;
                }
                if self.chance.percent(self.faults.repeated) {
                    let due_ms = self.now.mono_ms + self.chance.below(300);
                    self.mail.push((due_ms, message.clone()));
                }
                let late = self.chance.percent(self.faults.late);
                let due_ms = self.now.mono_ms + if late { self.chance.below(200) } else { 0 };
                self.mail.push((due_ms, message));
            }
            Effect::Flush { shard, position } => {
                self.trace.push(format!("flush {shard} {position}"));
                self.flushes
                    .push_back((self.now.mono_ms + self.chance.below(20), shard));
            }
            Effect::Warm {
                shard,
                ticket,
                lookup,
            } => {
                self.trace.push(format!("warm {shard} {ticket} {lookup:?}"));
                let due_ms = self.now.mono_ms + 1 + self.chance.below(10);
                self.warming.push((due_ms, shard, ticket, lookup));
            }
            Effect::Stop { shard, reason } => self.stops.push((shard, reason)),
        }
    }

    /// What the readers do, in any order.
    fn warm(&mut self) {
        if self.readers_hang {
            return;
        }
        let now_ms = self.now.mono_ms;
        let (due, later) = std::mem::take(&mut self.warming)
            .into_iter()
            .partition(|warm| warm.0 <= now_ms);
        self.warming = later;
        for (_, shard, ticket, lookup) in due {
            if !self.memory_is_short {
                lookup.warm(self.host.store(shard).unwrap());
            }
            self.host.step(self.now, Event::Warmed { shard, ticket });
        }
    }

    /// Reads that are with the readers.
    pub(crate) fn warming(&self) -> usize {
        self.warming.len()
    }

    /// A user's inbox leaves memory.
    pub(crate) fn cool(&self, name: &str) {
        let inbox = UserId::of("default", name).key();
        self.host.store(self.shard_of(name)).unwrap().cool(inbox);
    }
}
