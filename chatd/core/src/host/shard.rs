//! One shard of a host: its replica, what is on its way into the log, and all that is
//! kept in memory beside its state. After a restart all of it is made anew.

use chat_wire::{
    error::{Code, Refusal},
    ids::ShardId,
};
use std::collections::VecDeque;

use super::{
    Effect, HostSettings, Pass, Place, ShardStatus,
    accounts::Accounts,
    acks::Acks,
    attach::Attaching,
    incoming::Incoming,
    marks::Relay,
    outgoing::Outgoing,
    people::People,
    proposals::{Proposals, Waiter},
    requests::disk_full,
    room::{MAX_WAIT_MS, no_room},
};
use crate::{
    command::{Command, Flush, Settings},
    delivery::Delivery,
    message::{Now, Says, ToSession},
    replica::Replica,
    shard::entry::Cache,
    store::{LogEntry, ShardStore, Unreadable},
};

/// Slots of the cache of small rows, a shard.
const CACHE_SLOTS: usize = 4096;
/// Pages that sessions behind the head get in one pass; the rest get theirs in the next.
const PAGES_A_PASS: usize = 16;

/// See the module.
pub(super) struct Shard<S: ShardStore> {
    pub(super) id: ShardId,
    pub(super) replica: Replica<S>,
    pub(super) cache: Cache,
    pub(super) proposals: Proposals,
    /// Committed entries; more than one only while a flush must wait.
    pub(super) committed: VecDeque<raft::eraftpb::Entry>,
    pub(super) applied: u64,
    /// An entry of this leader's own term was applied: nothing of its log is unknown.
    pub(super) leads: bool,
    /// As this shard's log has them.
    pub(super) settings: Option<Settings>,
    /// What shard 0 said before this shard led.
    pub(super) settings_heard: Option<Settings>,
    /// The version of settings that was proposed last.
    pub(super) settings_proposed: u64,
    /// Of shard 0: when the settings are said again.
    pub(super) settings_due_ms: u64,
    pub(super) flush: FlushState,
    pub(super) attaching: Attaching,
    pub(super) delivery: Delivery,
    pub(super) accounts: Accounts,
    pub(super) acks: Acks,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    pub(super) relay: Relay,
    pub(super) people: People,
    pub(super) stopped: Option<Stopped>,
    pub(super) no_room: NoRoom,
}

/// Since when requests find no room in the log, although the shard has no more of it than
/// its part: one that has more waits for its own sake.
#[derive(Debug, Default)]
pub(super) struct NoRoom {
    since_ms: u64,
    /// The last one.
    last_ms: u64,
}

impl NoRoom {
    /// For so long nobody may ask before it counts as over.
    const QUIET_MS: u64 = 2 * MAX_WAIT_MS;

    fn refused(&mut self, now_ms: u64) {
        if self.last_ms == 0 || now_ms > self.last_ms + Self::QUIET_MS {
            self.since_ms = now_ms;
        }
        self.last_ms = now_ms;
    }

    fn for_ms(&self, now_ms: u64) -> u64 {
        if self.last_ms == 0 || now_ms > self.last_ms + Self::QUIET_MS {
            return 0;
        }
        self.last_ms - self.since_ms
    }
}

/// Why a shard stopped.
#[derive(Clone, Debug)]
pub(super) struct Stopped {
    pub(super) reason: String,
    told: bool,
}

/// Where the shard's flushes stand.
#[derive(Debug, Default)]
pub(super) struct FlushState {
    /// Somebody asked for one.
    wanted: bool,
    /// One is in the log and not applied.
    pub(super) proposed: bool,
    /// It is committed, but two frozen parts wait to be written: applying waits.
    pub(super) blocked: bool,
    /// Frozen parts that are being written.
    pub(super) running: usize,
}

impl FlushState {
    /// Somebody asks for one. One that is on its way is enough.
    pub(super) fn want(&mut self) {
        self.wanted = !self.proposed && self.running == 0;
    }

    pub(super) fn finished(&mut self) {
        self.running = self.running.saturating_sub(1);
        self.blocked = false;
    }
}

impl<S: ShardStore> Shard<S> {
    pub(super) fn new(id: ShardId, replica: Replica<S>) -> Self {
        let applied = replica.store().flushed();
        Self {
            id,
            replica,
            cache: Cache::new(CACHE_SLOTS),
            proposals: Proposals::default(),
            committed: VecDeque::new(),
            applied,
            leads: false,
            settings: None,
            settings_heard: None,
            settings_proposed: 0,
            settings_due_ms: 0,
            flush: FlushState::default(),
            attaching: Attaching::default(),
            delivery: Delivery::default(),
            accounts: Accounts::default(),
            acks: Acks::default(),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            relay: Relay::default(),
            people: People::default(),
            stopped: None,
            no_room: NoRoom::default(),
        }
    }

    /// Whether requests are served: it leads, knows its log, and has settings.
    pub(super) fn serves(&self) -> bool {
        self.leads && self.settings.is_some() && self.stopped.is_none()
    }

    /// Does what can be done now. True if more can be done in another pass.
    pub(super) fn advance(&mut self, pass: &mut Pass<'_>) -> bool {
        let more = match self.try_advance(pass) {
            Ok(more) => more && self.stopped.is_none(),
            Err(unreadable) => {
                self.stop(unreadable.to_string());
                false
            }
        };
        if let Some(stopped) = &mut self.stopped
            && !stopped.told
        {
            stopped.told = true;
            let reason = stopped.reason.clone();
            self.end_everything(pass, &reason);
            // It is not stepped any more, so what it has proposed goes nowhere.
            pass.room.put_back(self.proposals.take_unsent());
            pass.effects.push(Effect::Stop {
                shard: self.id,
                reason,
            });
        }
        self.delivery
            .drain(|session, message| pass.tell(session, message));
        more
    }

    fn try_advance(&mut self, pass: &mut Pass<'_>) -> Result<bool, Unreadable> {
        if self.stopped.is_some() {
            return Ok(false);
        }
        self.take_ready(pass)?;
        if self.leads {
            if !pass.finishing {
                self.on_time(pass)?;
            }
            self.propose(pass);
            self.take_ready(pass)?;
            self.send_pages(pass);
            self.send_outboxes(pass)?;
        }
        let proposable = self.proposals.queued() > 0
            && self.proposals.can_propose()
            && !self.proposals.is_short();
        let more = self.leads && (proposable || self.delivery.wants_pages());
        Ok(more || (!self.committed.is_empty() && !self.flush.blocked))
    }

    /// Takes readies, and applies what is committed.
    fn take_ready(&mut self, pass: &mut Pass<'_>) -> Result<(), Unreadable> {
        self.apply_committed(pass)?;
        while self.may_apply(pass)
            && let Some(taken) = self.replica.take()
        {
            if let Some(persist) = taken.persist {
                let bytes = |entry: &LogEntry| pass.room.cost(entry.payload.len());
                self.proposals.sent(persist.entries.iter().map(bytes).sum());
                pass.effects.push(Effect::Persist {
                    shard: self.id,
                    replica: self.replica.id(),
                    ready: persist.ready,
                    entries: persist.entries,
                    hard_state: persist.hard_state,
                });
            }
            self.committed.extend(taken.committed);
            self.apply_committed(pass)?;
        }
        if self.leads && !self.replica.is_leader() {
            self.leads = false;
            self.end_everything(pass, "the shard has another leader");
        }
        Ok(())
    }

    /// Whether applying may go on now.
    pub(super) fn may_apply(&self, pass: &Pass<'_>) -> bool {
        !self.flush.blocked && self.stopped.is_none() && pass.apply_bytes > 0
    }

    fn propose(&mut self, pass: &mut Pass<'_>) {
        let epoch = pass.settings.map.epoch;
        let bytes = self.replica.store().unflushed_bytes();
        let old = self.flush.wanted && self.applied > self.replica.store().flushed();
        let heavy = self.flush.running == 0
            && self.applied > self.replica.store().flushed()
            && pass.room.wants_flush(self.log_bytes(), shards(pass));
        let due = (bytes >= pass.settings.flush_bytes || old || heavy) && !pass.finishing;
        // One that is running and one that waits: a third would stop the applying.
        if due && !self.flush.proposed && self.flush.running < 2 {
            self.flush.proposed = true;
            self.flush.wanted = false;
            let flush = Command::Flush(Flush {});
            self.proposals
                .propose_alone(&mut self.replica, &flush, (pass.now, epoch), pass.room);
        }
        let commands = self.proposals.propose(
            &mut self.replica,
            (pass.now, epoch),
            pass.settings.entry_bytes,
            pass.room,
        );
        if commands > 0 {
            pass.counters.entries += 1;
            pass.counters.commands += u64::from(commands);
        }
        let waited = |since| pass.now.mono_ms >= since + MAX_WAIT_MS;
        if self.proposals.short_since_ms().is_some_and(waited) {
            self.refuse_without_room(pass);
        }
    }

    /// There was no room in the log for too long: nobody waits for what may be written
    /// much later.
    fn refuse_without_room(&mut self, pass: &mut Pass<'_>) {
        let refusal = if pass.disk_full {
            disk_full()
        } else {
            no_room()
        };
        for waiter in self.proposals.take_queued_waiters() {
            self.count_no_room(pass);
            match waiter {
                Waiter::Attach(waiting) => self.attach_without_room(pass, *waiting),
                waiter => refuse(pass, waiter, refusal.clone()),
            }
        }
    }

    /// A request found no room.
    pub(super) fn count_no_room(&mut self, pass: &mut Pass<'_>) {
        pass.counters.no_room += 1;
        if !pass.disk_full && pass.room.is_light(self.log_bytes(), shards(pass)) {
            self.no_room.refused(pass.now.mono_ms);
        }
    }

    /// What the shard has of the log, all in all.
    pub(super) fn log_bytes(&self) -> u64 {
        self.replica.store().log_bytes()
    }

    /// Pages for sessions behind the head, and receipts behind their versions.
    fn send_pages(&mut self, pass: &mut Pass<'_>) {
        for _ in 0..PAGES_A_PASS {
            let Some((session, wanted)) = self.delivery.next_wanted(pass.now.mono_ms) else {
                break;
            };
            self.page(pass, session, wanted);
            if self.stopped.is_some() {
                break;
            }
        }
    }

    /// What is due by the clock.
    fn on_time(&mut self, pass: &mut Pass<'_>) -> Result<(), Unreadable> {
        let now_ms = pass.now.mono_ms;
        self.repeat_settings(pass);
        self.flush_acks(pass)?;
        self.confirm_outboxes(pass);
        self.rewind_outboxes(pass);
        self.confirm_marks(pass);
        self.repeat_marks(pass)?;
        self.tell_presence(pass);
        let before_ms = now_ms.saturating_sub(pass.settings.slow_consumer_ms);
        for session in self.delivery.slow(before_ms) {
            pass.counters.slow_consumers += 1;
            let late = "the session was behind without CREDIT or ACK for too long: connect again and resume";
            let refusal = Refusal::new(Code::SlowConsumer, late);
            self.close(pass, session, refusal);
        }
        Ok(())
    }

    /// When [`Shard::on_time`] has something to do.
    pub(super) fn due_ms(&self, settings: &HostSettings) -> Option<u64> {
        if !self.leads || self.stopped.is_some() {
            return None;
        }
        let slow = self
            .delivery
            .slowest_since_ms()
            .map(|since| since + settings.slow_consumer_ms);
        let repeat = (self.id.0 == 0 && self.settings.is_some()).then_some(self.settings_due_ms);
        [
            slow,
            repeat,
            self.proposals.due_ms(),
            self.acks.due_ms(settings),
            self.outgoing.due_ms(),
            self.relay.due_ms(),
            self.people.due_ms(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn repeat_settings(&mut self, pass: &mut Pass<'_>) {
        let Some(settings) = self.settings.clone().filter(|_| self.id.0 == 0) else {
            return;
        };
        if pass.now.mono_ms < self.settings_due_ms {
            return;
        }
        self.settings_due_ms = pass.now.mono_ms + pass.settings.settings_repeat_ms;
        for shard in pass.settings.map.shards() {
            pass.say(self.id, shard, Says::Settings(settings.clone()));
        }
    }

    pub(super) fn stop(&mut self, reason: String) {
        if self.stopped.is_none() {
            self.stopped = Some(Stopped {
                reason,
                told: false,
            });
        }
    }

    /// Leadership is gone, or the shard has stopped: whoever waits is told, sessions
    /// attach elsewhere.
    fn end_everything(&mut self, pass: &mut Pass<'_>, reason: &str) {
        let code = if self.stopped.is_some() {
            Code::Damaged
        } else {
            Code::Unavailable
        };
        let refusal = Refusal::new(code, format!("{reason}: try again"));
        for waiter in self.proposals.take_all() {
            refuse(pass, waiter, refusal.clone());
        }
        self.end_reads(pass, &refusal);
        let attached: Vec<_> = self
            .delivery
            .sessions()
            .chain(self.attaching.take_all())
            .collect();
        for session in attached {
            pass.tell(session, ToSession::Close(refusal.clone()));
        }
        self.flush.proposed = false;
        self.delivery = Delivery::default();
        self.accounts = Accounts::default();
        self.acks = Acks::default();
        self.outgoing = Outgoing::default();
        self.incoming = Incoming::default();
        self.relay = Relay::default();
        self.people = People::default();
    }

    pub(super) fn place(&self) -> Place {
        Place {
            shard: self.id,
            position: self.applied,
            served: self.leads,
        }
    }

    pub(super) fn status(&self, now: Now) -> ShardStatus {
        let (last, committed) = self.replica.positions();
        let age = |since: Option<u64>| since.map_or(0, |since| now.mono_ms.saturating_sub(since));
        let (outbox_entries, outbox_since) = self.outgoing.depth();
        ShardStatus {
            shard: self.id,
            replica: self.replica.id(),
            serves: self.serves(),
            term: self.replica.term(),
            last,
            committed,
            applied: self.applied,
            flushed: self.replica.store().flushed(),
            queued: self.proposals.queued(),
            sessions: self.delivery.len(),
            outbox_entries,
            outbox_age_ms: age(outbox_since),
            inbox_lag_ms: age(self.delivery.slowest_since_ms()),
            no_room_ms: self.no_room.for_ms(now.mono_ms),
            generation: self
                .settings
                .as_ref()
                .map_or(0, |settings| settings.generation),
            stopped: self.stopped.as_ref().map(|stopped| stopped.reason.clone()),
        }
    }
}

/// All shards, with the system's.
fn shards(pass: &Pass<'_>) -> usize {
    pass.settings.map.len() + 1
}

/// Tells whoever waits for a command that it came to nothing.
pub(super) fn refuse(pass: &mut Pass<'_>, waiter: Waiter, refusal: Refusal) {
    match waiter {
        Waiter::Attach(waiting) => pass.tell(waiting.attach.session, ToSession::Close(refusal)),
        Waiter::Send { origin, id } => pass.tell(
            origin.session,
            ToSession::Refused {
                req: origin.req,
                client_id: Some(id),
                refusal,
            },
        ),
        Waiter::GroupOp { origin } => pass.tell(
            origin.session,
            ToSession::Refused {
                req: origin.req,
                client_id: None,
                refusal,
            },
        ),
        Waiter::Nobody => {}
    }
}
