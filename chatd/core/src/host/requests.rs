//! What sessions and other shards ask of a shard.

use bytes::Bytes;
use chat_wire::{
    error::{Code, Refusal},
    ids::{ClientId, ShardId},
};

use super::{Pass, proposals::Waiter, room::no_room, shard::Shard};
use crate::{
    command,
    message::{Origin, Request, Says, ToSession, ToShard},
    shard::group::naming,
    store::{ShardStore, Unreadable},
};

/// When to try again what a shard cannot do yet.
pub(super) const RETRY_MS: u32 = 200;

impl<S: ShardStore> Shard<S> {
    pub(super) fn request(&mut self, pass: &mut Pass<'_>, request: Request) {
        match request {
            Request::Attach(attach) => self.attach(pass, attach),
            Request::Detach { session, .. } => self.detach(pass, session),
            Request::Spent {
                session,
                user,
                device,
                units,
                inboxes,
            } => self.spent(pass, session, (user, device), units, inboxes),
            Request::Send { origin, send, body } => self.send(pass, origin, *send, body),
            Request::GroupOp { origin, op, body } => self.group_op(pass, origin, *op, body),
            Request::Ack {
                session, inbox_seq, ..
            } => self.acknowledge(pass, session, inbox_seq),
            Request::Mark {
                session,
                conversation,
                seen,
                ..
            } => {
                self.seen(pass, session, conversation, seen);
            }
            Request::Credit {
                session, events, ..
            } => {
                self.delivery.credit(pass.now.mono_ms, session, events);
            }
            Request::Read { origin, user, read } => match self.may_read() {
                Ok(()) => self.read(pass, origin, user, read),
                Err(refusal) => refuse(pass, origin, refusal),
            },
            Request::ReadGroup {
                origin,
                user,
                app,
                group,
                read,
            } => match self.may_read() {
                Ok(()) => self.read_group(pass, origin, (user, app), group, read),
                Err(refusal) => refuse(pass, origin, refusal),
            },
            Request::PresenceSubscribe {
                origin,
                user,
                users,
            } => {
                self.subscribe(pass, origin, user, &users);
            }
            Request::Typing {
                session,
                conversation,
                on,
                ..
            } => {
                let typed = self.typing(pass, session, conversation, on);
                self.stop_unless(typed);
            }
        }
    }

    pub(super) fn message(&mut self, pass: &mut Pass<'_>, from: ShardId, says: Says) {
        if let Says::Settings(settings) = says {
            return self.settings_said(pass, settings);
        }
        if !self.leads || self.stopped.is_some() {
            return;
        }
        match says {
            Says::Outbox(items) => self.outbox_arrives(pass, from, items),
            Says::OutboxApplied {
                incarnation,
                number,
                previous,
            } => {
                self.outbox_applied(pass, from, incarnation, number, previous);
            }
            Says::Marks(marks) => self.marks_arrive(pass, &marks),
            Says::MarksApplied(marks) => self.marks_confirmed(pass, marks),
            // Taken above.
            Says::Settings(_) => {}
            Says::Watch {
                watcher,
                watcher_user,
                users,
            } => {
                self.watch(pass, from, (watcher, watcher_user), users);
            }
            Says::PresenceChanged {
                watcher,
                watcher_user,
                presence,
            } => {
                let changed = self.presence_changed(watcher, watcher_user, presence);
                self.stop_unless(changed);
            }
            Says::Typing {
                sender,
                conversation,
                to,
                on,
            } => {
                let typed = self.typing_arrives(pass, from, sender, (conversation, to), on);
                self.stop_unless(typed);
            }
        }
    }

    /// What cannot be read is not absent: the shard stops.
    fn stop_unless(&mut self, result: Result<(), Unreadable>) {
        if let Err(unreadable) = result {
            self.stop(unreadable.to_string());
        }
    }

    fn send(&mut self, pass: &mut Pass<'_>, origin: Origin, send: command::Send, body: Bytes) {
        let id = ClientId::from_slice(&send.client_id).unwrap_or_default();
        let waiter = Waiter::Send { origin, id };
        self.propose_for(pass, send, body, waiter);
    }

    fn group_op(&mut self, pass: &mut Pass<'_>, origin: Origin, op: command::GroupOp, body: Bytes) {
        let waiter = Waiter::GroupOp { origin };
        if let Err(refusal) = self.may_write(pass) {
            return super::shard::refuse(pass, waiter, refusal);
        }
        match naming::named(self.replica.store(), &op, body) {
            Ok(body) => self.propose_for(pass, op, body, waiter),
            Err(unreadable) => {
                let why = unreadable.to_string();
                self.stop(why.clone());
                super::shard::refuse(pass, waiter, Refusal::new(Code::Damaged, why));
            }
        }
    }

    fn propose_for(
        &mut self,
        pass: &mut Pass<'_>,
        command: impl Into<command::Command>,
        body: Bytes,
        waiter: Waiter,
    ) {
        if let Err(refusal) = self.may_write(pass) {
            return super::shard::refuse(pass, waiter, refusal);
        }
        if !pass.room.takes_requests(self.log_bytes()) {
            self.count_no_room(pass);
            return super::shard::refuse(pass, waiter, no_room());
        }
        if let Err(waiter) = self.proposals.push(command, body, waiter) {
            let full = "the shard's queue is full: try again";
            super::shard::refuse(pass, waiter, Refusal::new(Code::Overloaded, full));
        }
    }

    fn may_read(&self) -> Result<(), Refusal> {
        if let Some(stopped) = &self.stopped {
            let why = format!("shard {} does not serve: {}", self.id, stopped.reason);
            return Err(Refusal::new(Code::Damaged, why));
        }
        if self.serves() {
            return Ok(());
        }
        let starting = format!("shard {} is starting: try again", self.id);
        Err(Refusal {
            retry_after_ms: Some(RETRY_MS),
            ..Refusal::new(Code::Unavailable, starting)
        })
    }

    fn may_write(&self, pass: &Pass<'_>) -> Result<(), Refusal> {
        self.may_read()?;
        if pass.disk_full {
            return Err(disk_full());
        }
        Ok(())
    }

    /// The disk is full: who waits for a command is told so now. One that is on its way
    /// into the log keeps its place, and takes effect when there is room; who tries it
    /// again under its id is then told that it did.
    pub(super) fn refuse_waiting(&mut self, pass: &mut Pass<'_>) {
        for waiter in self.proposals.take_waiters() {
            if let Waiter::Attach(waiting) = &waiter {
                self.attaching.gone(waiting.attach.session);
            }
            super::shard::refuse(pass, waiter, disk_full());
        }
    }
}

/// What writers are told while the disk is full.
pub(super) fn disk_full() -> Refusal {
    let full = "the server's disk is full: nothing is accepted until space is freed";
    Refusal::new(Code::DiskFull, full)
}

pub(super) fn refuse(pass: &mut Pass<'_>, origin: Origin, refusal: Refusal) {
    let message = ToSession::Refused {
        req: origin.req,
        client_id: None,
        refusal,
    };
    pass.tell(origin.session, message);
}

/// A request came to a host that does not have its shard, or has it and cannot step it.
pub(super) fn refuse_unknown_shard(pass: &mut Pass<'_>, to: ToShard, down: Option<&str>) {
    let refusal = match down {
        None => {
            let elsewhere = format!("shard {} is not served here: try again", to.shard);
            Refusal::new(Code::WrongShard, elsewhere)
        }
        Some(reason) => Refusal::new(
            Code::Damaged,
            format!("shard {} does not serve: {reason}", to.shard),
        ),
    };
    refuse_request(pass, to, &refusal);
}

/// Tells whoever waits for a request that it comes to nothing.
pub(super) fn refuse_request(pass: &mut Pass<'_>, to: ToShard, refusal: &Refusal) {
    let refusal = refusal.clone();
    match to.request {
        Request::Attach(attach) => pass.tell(attach.session, ToSession::Close(refusal)),
        Request::Send { origin, send, .. } => {
            let client_id = ClientId::from_slice(&send.client_id);
            let message = ToSession::Refused {
                req: origin.req,
                client_id,
                refusal,
            };
            pass.tell(origin.session, message);
        }
        Request::GroupOp { origin, .. }
        | Request::Read { origin, .. }
        | Request::ReadGroup { origin, .. }
        | Request::PresenceSubscribe { origin, .. } => refuse(pass, origin, refusal),
        // The attachment is gone with the shard; nobody waits for these.
        Request::Detach { .. }
        | Request::Spent { .. }
        | Request::Ack { .. }
        | Request::Mark { .. }
        | Request::Credit { .. }
        | Request::Typing { .. } => {}
    }
}
