//! What is committed takes effect: rows are written, then answers, events, outbox
//! entries and marks go where they belong. Only a leader's leave the shard.

use chat_wire::{
    body,
    error::{Code, Refusal},
    event::Kind,
    ids::GroupId,
};
use raft::eraftpb::{Entry as RaftEntry, EntryType};

use super::{
    Effect, Pass,
    proposals::Waiter,
    shard::{Shard, refuse},
};
use crate::{
    command::{self, Batch, Bootstrap, Command, Item, Settings},
    message::{Origin, Says, ToSession},
    shard::{Answer, Context, Effects, Notice, Reach, entry::Entry, settings},
    store::{ShardStore, Unreadable},
};

/// What writing a row counts among the bytes that one poll applies: it takes as long as so
/// many bytes of a long body do.
const ROW_BYTES: usize = 512;

impl<S: ShardStore> Shard<S> {
    /// Applies what is committed, as far as flushes allow.
    pub(super) fn apply_committed(&mut self, pass: &mut Pass<'_>) -> Result<(), Unreadable> {
        while self.may_apply(pass)
            && let Some(entry) = self.committed.front().cloned()
        {
            assert_eq!(
                entry.index,
                self.applied + 1,
                "Raft commits positions in order, without gaps"
            );
            pass.trail.apply(entry.index);
            if !self.apply_entry(pass, &entry)? {
                break;
            }
            self.committed.pop_front();
            pass.apply_bytes = pass.apply_bytes.saturating_sub(entry.data.len());
            self.applied = entry.index;
            self.replica.applied(entry.index);
            let own = self.replica.is_leader() && entry.term == self.replica.term();
            if own && !self.leads {
                self.leads = true;
                self.begin(pass)?;
            }
        }
        Ok(())
    }

    /// False if the entry has to wait, or stops the shard.
    fn apply_entry(&mut self, pass: &mut Pass<'_>, entry: &RaftEntry) -> Result<bool, Unreadable> {
        if entry.get_entry_type() != EntryType::EntryNormal {
            self.stop(format!(
                "position {} changes the members of the shard, which this chatd does not know: start the newer version that wrote it",
                entry.index
            ));
            return Ok(false);
        }
        let (position, term) = (entry.index, entry.term);
        if entry.data.is_empty() {
            self.end_lost(pass, position, term);
            return Ok(true);
        }
        let batch = match command::decode(&entry.data) {
            Ok(batch) => batch,
            Err(error) => {
                self.stop(format!("position {position}: {error}"));
                return Ok(false);
            }
        };
        let flushes = |item: &Item| matches!(item.command, Command::Flush(_));
        if batch.items.iter().flatten().any(flushes) && !self.freeze(pass, position) {
            return Ok(false);
        }
        let (effects, rows) = self.run(&batch, entry)?;
        pass.apply_bytes = pass.apply_bytes.saturating_sub(rows * ROW_BYTES);
        let mut waiters = self.end_lost(pass, position, term).into_iter();
        let mut effects = effects.into_iter();
        for item in &batch.items {
            let waiter = waiters.next().unwrap_or(Waiter::Nobody);
            let Some(item) = item else { continue };
            let Some(effects) = effects.next() else { break };
            self.take_effect(pass, item, effects, waiter)?;
        }
        Ok(true)
    }

    /// Steps the commands, and writes their rows: how many.
    fn run(
        &mut self,
        batch: &Batch,
        entry: &RaftEntry,
    ) -> Result<(Vec<Effects>, usize), Unreadable> {
        let mut all = Vec::with_capacity(batch.items.len());
        let store = self.replica.store();
        let mut running = Entry::new(store, &mut self.cache, entry.data.clone());
        for item in batch.items.iter().flatten() {
            let context = Context {
                shard: self.id,
                position: entry.index,
                rules: batch.rules,
                ts_ms: batch.ts_ms,
                epoch: batch.epoch,
                body_offset: item.body_offset,
                body: &item.body,
            };
            all.push(running.run(&context, &item.command)?);
        }
        let writes = running.finish();
        let rows = writes.len();
        if !writes.is_empty() {
            self.replica.store_mut().apply(entry.index, writes);
        }
        Ok((all, rows))
    }

    /// False if two frozen parts wait already: the flush, and all behind it, wait.
    fn freeze(&mut self, pass: &mut Pass<'_>, position: u64) -> bool {
        // After a restart applying begins with the flush that is done.
        if position <= self.replica.store().flushed() + 1 {
            self.flush.proposed = false;
            return true;
        }
        if !self.replica.store_mut().freeze(position) {
            self.flush.blocked = true;
            return false;
        }
        self.flush.proposed = false;
        self.flush.running += 1;
        pass.effects.push(Effect::Flush {
            shard: self.id,
            position,
        });
        true
    }

    /// The waiters of this entry; those of entries that were cut are told.
    fn end_lost(&mut self, pass: &mut Pass<'_>, position: u64, term: u64) -> Vec<Waiter> {
        let mut lost = Vec::new();
        let waiters = self.proposals.take(position, term, &mut lost);
        for waiter in lost {
            let gone = "the shard changed its leader: try again";
            refuse(pass, waiter, Refusal::new(Code::Unavailable, gone));
        }
        waiters
    }

    fn take_effect(
        &mut self,
        pass: &mut Pass<'_>,
        item: &Item,
        effects: Effects,
        waiter: Waiter,
    ) -> Result<(), Unreadable> {
        for notice in effects.notices {
            self.notice(pass, item, notice);
        }
        if !self.leads {
            return Ok(());
        }
        if let Some(answer) = effects.answer {
            self.answer(pass, waiter, answer, effects.reach);
        }
        if !effects.events.is_empty() {
            let Ok(body) = body::open(&item.body) else {
                self.stop("a body in the log is not as it was sealed".into());
                return Ok(());
            };
            for event in &effects.events {
                let (user, seq) = (event.user, event.inbox_seq);
                self.delivery
                    .event(pass.now.mono_ms, user, seq, &event.header, &body);
                if event.header.kind == Kind::Message && event.header.group_seq == 0 {
                    self.written(user, event.header.sender);
                }
            }
        }
        for entry in effects.outbox {
            self.outgoing.add(pass.now.mono_ms, entry, &item.body);
        }
        for receipt in effects.receipts {
            self.delivery.receipt(receipt.inbox, &receipt.receipt);
        }
        if !effects.pending.is_empty() {
            let repeat_ms = pass.now.mono_ms + pass.settings.outbox_resend_ms;
            self.relay.add(repeat_ms, effects.pending);
        }
        if !effects.member_marks.is_empty() {
            self.tell_followers(pass, &effects.member_marks);
        }
        match &item.command {
            Command::Handshake(_) | Command::Incarnation(_) => self.load_outboxes(pass)?,
            Command::GroupOp(op) => self.group_changed(GroupId(op.group))?,
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, pass: &mut Pass<'_>, waiter: Waiter, answer: Answer, reach: Reach) {
        match (waiter, answer) {
            (Waiter::Attach(waiting), answer @ Answer::Attached { .. }) => {
                self.attached(pass, &waiting, &answer);
            }
            (
                Waiter::Send {
                    origin: Origin { session, req },
                    id,
                },
                Answer::Sent(sent),
            ) => {
                pass.counters.acknowledged += 1;
                pass.tell(
                    session,
                    ToSession::Sent {
                        req,
                        client_id: id,
                        sent,
                        members: reach.members,
                        inboxes: reach.inboxes,
                    },
                );
            }
            (
                Waiter::GroupOp {
                    origin: Origin { session, req },
                },
                Answer::Group(state),
            ) => {
                let body = chat_wire::frame::Body::GroupState(state);
                pass.tell(session, ToSession::Answer { req, body });
            }
            (Waiter::Nobody, _) => {}
            (waiter, Answer::Refused(refusal)) => {
                if let Waiter::Attach(waiting) = &waiter {
                    self.attaching.gone(waiting.attach.session);
                }
                refuse(pass, waiter, refusal);
            }
            (waiter, _) => {
                let other = "a command got the answer of another kind";
                refuse(pass, waiter, Refusal::new(Code::Internal, other));
            }
        }
    }

    fn notice(&mut self, pass: &mut Pass<'_>, item: &Item, notice: Notice) {
        match notice {
            Notice::Settings(new) => {
                self.settings = Some(new);
                self.settings_due_ms = 0;
                self.admit_waiting(pass);
            }
            // Frozen before the entry was run.
            Notice::Flush => {}
            Notice::Duplicate { .. } => {
                if self.leads {
                    pass.counters.duplicates += 1;
                }
            }
            Notice::Applied {
                source,
                incarnation,
                number,
                previous,
            } => {
                let proposed = match &item.command {
                    Command::Deliver(deliver) => deliver.number,
                    _ => number,
                };
                self.incoming.applied(source, incarnation, number, proposed);
                if self.leads {
                    let says = Says::OutboxApplied {
                        incarnation,
                        number,
                        previous,
                    };
                    self.incoming.answer(source, says);
                }
            }
            Notice::MarksApplied(marks) => {
                if self.leads {
                    self.marks_applied(pass, marks);
                }
            }
            // Sessions below the floor find the hole themselves.
            Notice::Floor { .. } => {}
            _ if !self.leads => {}
            Notice::NameCollision { .. } => pass.counters.name_collisions += 1,
            Notice::OutboxGap { from, to, .. } => pass.counters.outbox_lost += to - from + 1,
            Notice::Undeliverable { .. } => pass.counters.undeliverable += 1,
        }
    }

    /// Leads from now on, with all of the log applied: what the state says is owed to
    /// others is sent, and a new cluster is made.
    fn begin(&mut self, pass: &mut Pass<'_>) -> Result<(), Unreadable> {
        self.settings = settings::current(self.replica.store())?;
        self.load_outboxes(pass)?;
        self.relay.begin(pass.now.mono_ms);
        if self.id.0 == 0 && self.settings.is_none() {
            self.bootstrap(pass);
        }
        if let Some(said) = self.settings_heard.take() {
            self.settings_said(pass, said);
        }
        self.admit_waiting(pass);
        Ok(())
    }

    /// The first entries of a cluster.
    fn bootstrap(&mut self, pass: &mut Pass<'_>) {
        let seed = pass.settings.seed;
        let random = |what: &str| {
            let mut hash = blake3::Hasher::new_derive_key("chatd a new cluster");
            hash.update(&seed.to_be_bytes());
            hash.update(what.as_bytes());
            hash.finalize()
        };
        let id = random("cluster id");
        let generation = random("generation");
        let generation = u32::from_be_bytes([
            generation.as_bytes()[0],
            generation.as_bytes()[1],
            generation.as_bytes()[2],
            generation.as_bytes()[3],
        ])
        .max(1);
        let shards = u32::try_from(pass.settings.map.len()).expect("at most 4,095");
        let bootstrap = Bootstrap {
            cluster_id: bytes::Bytes::copy_from_slice(&id.as_bytes()[..16]),
            generation,
            shards,
        };
        let limits = &pass.settings.limits;
        let settings = Settings {
            version: 1,
            generation,
            epoch: pass.settings.map.epoch,
            shards,
            group_members: limits.group_members,
            devices: limits.devices,
            content_bytes: limits.content_bytes,
            mentions: limits.mentions,
            outbox_bytes: pass.settings.outbox_bytes,
            known_users_only: pass.settings.known_users_only,
            incarnation: self.first_incarnation(seed),
        };
        // The queue is empty: the shard just began to lead.
        self.proposals.push_own(bootstrap, bytes::Bytes::new());
        self.proposals.push_own(settings, bytes::Bytes::new());
    }

    /// Shard 0 says what the cluster's settings are.
    pub(super) fn settings_said(&mut self, pass: &mut Pass<'_>, said: Settings) {
        if !self.leads {
            self.settings_heard = Some(said);
            return;
        }
        let own = self
            .settings
            .as_ref()
            .map_or(0, |settings| settings.version);
        let known = own.max(self.settings_proposed);
        if self.id.0 == 0 || said.version <= known {
            return;
        }
        let version = said.version;
        let settings = Settings {
            incarnation: self.first_incarnation(pass.settings.seed),
            ..said
        };
        if self.proposals.push_own(settings, bytes::Bytes::new()) {
            self.settings_proposed = version;
        }
    }

    fn first_incarnation(&self, seed: u64) -> u64 {
        chat_wire::ids::mix64(seed ^ u64::from(self.id.0).rotate_left(40) ^ self.replica.id().0)
            .max(1)
    }
}
