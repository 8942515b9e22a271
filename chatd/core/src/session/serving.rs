//! An attached session: frames of the client to its shards, answers back.

use bytes::Bytes;
use chat_wire::{
    codec::{self, Encoding},
    error::{Code, Refusal},
    event::{Event, EventError},
    frame::{self, Body, Frame},
    ids::{ClientId, ConversationId, GroupId, MsgId, UserId},
    limits::{EVENT_BATCH, EVENT_BATCH_BYTES},
};

use super::{
    MAX_CREDITS, MAX_FOLLOWED, MAX_WAITING_READS, Output, Session, State, Waiting, Work, check,
    requests,
};
use crate::{
    cost,
    message::{Now, Origin, Request, ToSession, ToShard},
    router,
};

impl Session {
    pub(super) fn frame(&mut self, now: Now, frame: Frame, out: &mut Vec<Output>) {
        let Frame { req, body } = frame;
        match (&self.state, body) {
            (State::Hello { .. }, Some(Body::Hello(hello))) => self.hello(now, hello, out),
            (State::Live, Some(body)) => self.serve(now, req, body, out),
            (State::Live, None) => {
                let unknown = "this server does not know the frame: see `capabilities` of WELCOME";
                self.refuse(req, Refusal::new(Code::Unsupported, unknown), out);
            }
            (State::Hello { .. }, _) => self.unexpected("HELLO must come first", out),
            _ => self.unexpected("only HELLO may come before WELCOME, and only once", out),
        }
    }

    fn unexpected(&mut self, why: &str, out: &mut Vec<Output>) {
        self.end(Refusal::new(Code::UnexpectedFrame, why), out);
    }

    fn serve(&mut self, now: Now, req: u32, body: Body, out: &mut Vec<Output>) {
        let Some(user) = self.user() else { return };
        if let Body::Ack(_) | Body::Credit(_) | Body::Mark(_) | Body::Ping(_) | Body::Reauth(_) =
            body
        {
            // They are never refused: what follows them waits longer.
            self.spend(now, cost::SIGNAL);
        }
        match body {
            Body::Send(send) => self.send(now, req, send, out),
            Body::Ack(ack) => {
                let request = Request::Ack {
                    session: self.id,
                    user,
                    inbox_seq: ack.inbox_seq,
                };
                self.tell(user, request, out);
            }
            Body::Credit(credit) => self.credit(req, user, credit, out),
            Body::Mark(mark) => self.mark(req, user, mark, out),
            Body::Ping(_) => {
                let pong = frame::Pong {
                    server_time_ms: now.unix_ms,
                };
                self.write(req, Body::Pong(pong), out);
            }
            Body::Reauth(reauth) => match self.check_req(req) {
                Ok(()) => self.reauth(req, reauth.token, out),
                Err(refusal) => self.refuse(req, refusal, out),
            },
            Body::Typing(typing) => self.typing(now, req, user, typing, out),
            Body::PresenceSubscribe(subscribe) => self.presence(now, req, user, &subscribe, out),
            Body::Hello(_) => self.unexpected("HELLO comes once", out),
            Body::History(_)
            | Body::Conversations(_)
            | Body::GroupGet(_)
            | Body::Members(_)
            | Body::Marks(_) => self.read(now, req, &body, out),
            Body::GroupCreate(_)
            | Body::GroupUpdate(_)
            | Body::GroupAdd(_)
            | Body::GroupRemove(_)
            | Body::GroupLeave(_)
            | Body::GroupRole(_) => self.group_op(now, req, body, out),
            Body::Welcome(_)
            | Body::Resumed(_)
            | Body::Gap(_)
            | Body::Replaced(_)
            | Body::Pong(_)
            | Body::TokenExpiring(_)
            | Body::Goaway(_)
            | Body::Error(_)
            | Body::Sent(_)
            | Body::Event(_)
            | Body::Receipt(_)
            | Body::MarksPage(_)
            | Body::HistoryPage(_)
            | Body::ConversationsPage(_)
            | Body::GroupState(_)
            | Body::MembersPage(_)
            | Body::Presence(_)
            | Body::Done(_) => self.unexpected("only servers send such a frame", out),
        }
    }

    fn send(&mut self, now: Now, req: u32, send: frame::Send, out: &mut Vec<Output>) {
        let claimed = ClientId::from_slice(&send.client_msg_id);
        let Some(identity) = &self.identity else {
            return;
        };
        let checked = self
            .check_req(req)
            .and_then(|()| requests::check_send(send, identity, &self.settings.limits, now));
        let checked = match checked {
            Ok(checked) => checked,
            Err(refusal) => return self.refuse_send(req, claimed, &refusal, out),
        };
        let (id, to) = (checked.id, checked.to);
        let (bytes, new) = (checked.content_bytes(), checked.may_make_inbox());
        let work = self.work.get_or_insert_default();
        let previous = match work.lanes.admit(to, id, checked.abandons) {
            Ok(previous) => previous,
            Err(refusal) => return self.refuse_send(req, Some(id), &refusal, out),
        };
        let passes = self
            .passes(now)
            .and_then(|()| self.strangers_pass(now, new))
            .and_then(|()| self.room());
        if let Err(refusal) = passes {
            self.work.get_or_insert_default().lanes.held_back(to, id);
            return self.refuse_send(req, Some(id), &refusal, out);
        }
        let charged = to.group().map_or_else(
            || cost::send(bytes),
            |group| cost::group_send(bytes, self.sizes.of(group)),
        );
        self.spend(now, charged);
        let Some(identity) = &self.identity else {
            return;
        };
        let origin = Origin {
            session: self.id,
            req,
        };
        let request = requests::build_send(checked, identity, previous, origin, self.salts.draw());
        let work = self.work.get_or_insert_default();
        work.lanes.forwarded(to, id);
        work.in_flight.insert(
            req,
            Waiting::Send {
                id,
                conversation: to,
                bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
                charged,
            },
        );
        let shard = router::of_conversation(&self.map, to);
        out.push(Output::Submit(ToShard { shard, request }));
    }

    fn group_op(&mut self, now: Now, req: u32, body: Body, out: &mut Vec<Output>) {
        let Some(identity) = &self.identity else {
            return;
        };
        let Some(op) = requests::group_op(body, identity, &self.settings.limits, now) else {
            return;
        };
        let op = self
            .check_req(req)
            .and(op)
            .and_then(|op| self.room().map(|()| op))
            .and_then(|op| self.passes(now).map(|()| op))
            .and_then(|op| {
                let new = requests::names_of(&op) > 0;
                self.strangers_pass(now, new).map(|()| op)
            });
        let op = match op {
            Ok(op) => op,
            Err(refusal) => return self.refuse(req, refusal, out),
        };
        let charged = cost::group_change(op.members.len());
        let names = requests::names_of(&op);
        self.spend(now, charged);
        let body = requests::group_body(&op, self.salts.draw());
        let shard = router::of_conversation(&self.map, ConversationId(op.group));
        let origin = Origin {
            session: self.id,
            req,
        };
        let request = Request::GroupOp {
            origin,
            op: Box::new(op),
            body,
        };
        self.ask(
            req,
            Waiting::Change { charged, names },
            ToShard { shard, request },
            out,
        );
    }

    /// A read takes a bulk credit when it goes out, for the PAGE that comes back.
    fn read(&mut self, now: Now, req: u32, body: &Body, out: &mut Vec<Output>) {
        let Some(identity) = &self.identity else {
            return;
        };
        let origin = Origin {
            session: self.id,
            req,
        };
        let Some(read) = requests::read(body, identity, origin, &self.settings.limits, &self.map)
        else {
            return;
        };
        let to = match self
            .check_req(req)
            .and(read)
            .and_then(|to| self.room().map(|()| to))
            .and_then(|to| self.passes(now).map(|()| to))
        {
            Ok(to) => to,
            Err(refusal) => return self.refuse(req, refusal, out),
        };
        if let Body::Marks(get) = body
            && get.follow
            && let Err(refusal) = self.follow(get.group)
        {
            return self.refuse(req, refusal, out);
        }
        let charged = cost::at_once(&to.request);
        if let Body::GroupGet(_) = body {
            self.spend(now, charged);
            return self.ask(req, Waiting::Other, to, out);
        }
        if self.bulk_credits > 0 {
            self.bulk_credits -= 1;
            self.spend(now, charged);
            return self.ask(req, Waiting::Bulk { charged }, to, out);
        }
        let work = self.work.get_or_insert_default();
        if work.waiting_reads.len() >= MAX_WAITING_READS {
            let many =
                format!("{MAX_WAITING_READS} reads wait for bulk credits: grant some with CREDIT");
            return self.refuse(req, Refusal::new(Code::Overloaded, many), out);
        }
        work.in_flight.insert(req, Waiting::Bulk { charged });
        work.waiting_reads.push_back((req, to));
        self.spend(now, charged);
    }

    fn follow(&mut self, group: u64) -> Result<(), Refusal> {
        let group = check::group("group", group)?;
        let followed = &mut self.work.get_or_insert_default().followed;
        if followed.len() >= MAX_FOLLOWED && !followed.contains(&group) {
            return Err(Refusal::new(
                Code::LimitExceeded,
                format!("a session follows the marks of {MAX_FOLLOWED} groups at most"),
            ));
        }
        followed.insert(group);
        Ok(())
    }

    fn credit(&mut self, req: u32, user: UserId, credit: frame::Credit, out: &mut Vec<Output>) {
        match frame::Lane::try_from(credit.lane) {
            Ok(frame::Lane::Events) => {
                let events = credit.n.min(MAX_CREDITS);
                let request = Request::Credit {
                    session: self.id,
                    user,
                    events,
                };
                self.tell(user, request, out);
            }
            Ok(frame::Lane::Bulk) => {
                self.bulk_credits = self.bulk_credits.saturating_add(credit.n).min(MAX_CREDITS);
                self.release_reads(out);
            }
            Err(_) => {
                let unknown = "`lane` must be LANE_EVENTS or LANE_BULK";
                self.refuse(req, Refusal::new(Code::InvalidArgument, unknown), out);
            }
        }
    }

    fn release_reads(&mut self, out: &mut Vec<Output>) {
        let Some(work) = &mut self.work else { return };
        while self.bulk_credits > 0
            && let Some((_, to)) = work.waiting_reads.pop_front()
        {
            self.bulk_credits -= 1;
            out.push(Output::Submit(to));
        }
    }

    fn mark(&mut self, req: u32, user: UserId, mark: frame::Mark, out: &mut Vec<Output>) {
        let checked = check::conversation(mark.conversation).and_then(|conversation| {
            if mark.seen_up_to <= 0 {
                let none = "`seenUpTo` must be the msg_id of a message";
                return Err(Refusal::new(Code::OutOfRange, none));
            }
            Ok((conversation, MsgId(mark.seen_up_to)))
        });
        match checked {
            Ok((conversation, seen)) => {
                let request = Request::Mark {
                    session: self.id,
                    user,
                    conversation,
                    seen,
                };
                self.tell(user, request, out);
            }
            Err(refusal) => self.refuse(req, refusal, out),
        }
    }

    /// Lossy: what is over the rate is dropped without a word.
    fn typing(
        &mut self,
        now: Now,
        req: u32,
        user: UserId,
        typing: frame::Typing,
        out: &mut Vec<Output>,
    ) {
        match check::conversation(typing.conversation) {
            Ok(conversation) if self.passes(now).is_ok() => {
                let members = conversation.group().map_or(0, |group| self.sizes.of(group));
                self.spend(now, cost::typing(members));
                let shard = router::of_user(&self.map, user);
                let request = Request::Typing {
                    session: self.id,
                    user,
                    conversation,
                    on: typing.on,
                };
                out.push(Output::Submit(ToShard { shard, request }));
            }
            Ok(_) => {}
            Err(refusal) => self.refuse(req, refusal, out),
        }
    }

    fn presence(
        &mut self,
        now: Now,
        req: u32,
        user: UserId,
        subscribe: &frame::PresenceSubscribe,
        out: &mut Vec<Output>,
    ) {
        let limit = self.settings.limits.presence_subscriptions;
        let users = self
            .check_req(req)
            .and_then(|()| self.room())
            .and_then(|()| self.passes(now))
            .and_then(|()| check::count("users", subscribe.users.len(), limit))
            .and_then(|()| {
                subscribe
                    .users
                    .iter()
                    .map(|id| check::user("users", *id))
                    .collect::<Result<Vec<_>, _>>()
            });
        match users {
            Ok(mut users) => {
                users.sort_unstable();
                users.dedup();
                self.spend(now, cost::presence(users.len()));
                let origin = Origin {
                    session: self.id,
                    req,
                };
                let shard = router::of_user(&self.map, user);
                let request = Request::PresenceSubscribe {
                    origin,
                    user,
                    users,
                };
                self.ask(req, Waiting::Other, ToShard { shard, request }, out);
            }
            Err(refusal) => self.refuse(req, refusal, out),
        }
    }

    /// To the user's shard; kept and coalesced while the queue is full.
    fn tell(&mut self, user: UserId, request: Request, out: &mut Vec<Output>) {
        let shard = router::of_user(&self.map, user);
        let to = ToShard { shard, request };
        if self.kept.is_some() {
            self.keep_on(to, out);
        } else {
            out.push(Output::Submit(to));
        }
    }

    fn ask(&mut self, req: u32, waiting: Waiting, to: ToShard, out: &mut Vec<Output>) {
        self.work
            .get_or_insert_default()
            .in_flight
            .insert(req, waiting);
        out.push(Output::Submit(to));
    }

    fn check_req(&self, req: u32) -> Result<(), Refusal> {
        let busy = |work: &Work| work.in_flight.contains_key(&req);
        if req == 0 {
            Err(Refusal::new(
                Code::InvalidArgument,
                "`req` is missing: number your requests from 1",
            ))
        } else if self.work.as_deref().is_some_and(busy) {
            Err(Refusal::new(
                Code::InvalidArgument,
                format!("request {req} still waits for its answer: choose another number"),
            ))
        } else {
            Ok(())
        }
    }

    /// A place for another request.
    fn room(&self) -> Result<(), Refusal> {
        let limit = self.settings.limits.in_flight;
        let waiting = self.work.as_ref().map_or(0, |work| work.in_flight.len());
        if waiting >= limit as usize {
            return Err(Refusal::new(
                Code::Overloaded,
                format!("{limit} requests wait for their answers: wait for some"),
            ));
        }
        Ok(())
    }

    /// Whether there is something left to spend.
    fn passes(&mut self, now: Now) -> Result<(), Refusal> {
        self.purse.passes(&self.settings.limits, now)
    }

    /// Whether somebody may be named who may be new here.
    fn strangers_pass(&self, now: Now, new: bool) -> Result<(), Refusal> {
        if new {
            return self.purse.strangers_pass(now);
        }
        Ok(())
    }

    fn spend(&mut self, now: Now, units: u32) {
        self.purse.spend(&self.settings.limits, now, units);
    }

    /// What a request that was charged for has cost.
    fn settle(&mut self, now: Now, charged: u32, cost: u32) {
        self.purse.settle(&self.settings.limits, now, charged, cost);
    }

    pub(super) fn refuse(&self, req: u32, refusal: Refusal, out: &mut Vec<Output>) {
        self.write_frame(&refusal.to_frame(req), false, out);
    }

    fn refuse_send(
        &mut self,
        req: u32,
        id: Option<ClientId>,
        refusal: &Refusal,
        out: &mut Vec<Output>,
    ) {
        let mut frame = refusal.to_frame(req);
        if let (Some(Body::Error(error)), Some(id)) = (&mut frame.body, id) {
            error.client_msg_id = Bytes::copy_from_slice(&id.0);
        }
        self.write_frame(&frame, false, out);
        self.tidy();
    }

    /// A request was refused: by its shard, or by a full queue.
    pub(super) fn refused(&mut self, now: Now, req: u32, refusal: Refusal, out: &mut Vec<Output>) {
        let Some(work) = &mut self.work else { return };
        let waiting = work.in_flight.remove(&req);
        match waiting {
            Some(Waiting::Send {
                id, conversation, ..
            }) => {
                if refusal.code.retryable() {
                    work.lanes.failed(conversation, id);
                } else {
                    work.lanes.settled(conversation, id);
                }
                self.refuse_send(req, Some(id), &refusal, out);
            }
            Some(Waiting::Bulk { .. }) => {
                self.refuse(req, refusal, out);
                self.bulk_credits += 1;
                self.release_reads(out);
            }
            Some(Waiting::Change { .. } | Waiting::Other) => self.refuse(req, refusal, out),
            // Its session has forgotten it: nobody waits.
            None => {}
        }
        if let Some(
            Waiting::Send { charged, .. }
            | Waiting::Change { charged, .. }
            | Waiting::Bulk { charged },
        ) = waiting
        {
            self.settle(now, charged, cost::NOTHING_DONE);
        }
        self.tidy();
    }

    pub(super) fn host(&mut self, now: Now, message: ToSession, out: &mut Vec<Output>) {
        match message {
            ToSession::Attached(attached) => self.attached(now, &attached, out),
            ToSession::Answer { req, body } => {
                let work = self.work.as_mut();
                if let Some(waiting) = work.and_then(|work| work.in_flight.remove(&req)) {
                    let (shown, at) = (Shown::of(&body), out.len());
                    self.write(req, body, out);
                    self.settle_answer(now, waiting, shown, written(&out[at..]));
                    self.tidy();
                }
            }
            ToSession::Sent {
                req,
                sent,
                members,
                inboxes,
                ..
            } => {
                let Some(work) = &mut self.work else { return };
                if let Some(Waiting::Send {
                    id,
                    conversation,
                    bytes,
                    charged,
                }) = work.in_flight.remove(&req)
                {
                    work.lanes.settled(conversation, id);
                    let cost = match conversation.group() {
                        _ if sent.duplicate => cost::NOTHING_DONE,
                        Some(group) => {
                            self.sizes.learn(group, members);
                            cost::group_send(bytes as usize, members)
                        }
                        None => cost::send(bytes as usize) + inboxes * cost::INBOX,
                    };
                    self.purse.made_inboxes(inboxes);
                    self.settle(now, charged, cost);
                    self.write(req, Body::Sent(sent), out);
                    self.tidy();
                }
            }
            ToSession::Refused { req, refusal, .. } => self.refused(now, req, refusal, out),
            ToSession::Wait { what, ms } => self.purse.wait(now, what, ms),
            ToSession::SpentBefore { units } => {
                self.purse.spent_before(&self.settings.limits, now, units);
            }
            ToSession::Events(events) => self.events(&events, out),
            ToSession::Signal(body) => self.write(0, body, out),
            ToSession::Replaced => {
                self.write(0, Body::Replaced(frame::Replaced {}), out);
                self.over(out);
                let newer = "a newer session of this device took over";
                out.push(Output::Close(Some(Refusal::new(Code::Replaced, newer))));
            }
            ToSession::Close(refusal) => self.end(refusal, out),
        }
    }

    /// What was answered has its price now. `bytes` were written.
    fn settle_answer(&mut self, now: Now, waiting: Waiting, shown: Shown, bytes: usize) {
        if let Some((group, members)) = shown.group {
            self.sizes.learn(group, members);
        }
        match waiting {
            Waiting::Change { charged, .. } if shown.entries == 0 => {
                self.settle(now, charged, cost::NOTHING_DONE);
            }
            Waiting::Change { names, .. } => {
                self.purse.made_inboxes(names);
                let members = shown.group.map_or(0, |(_, members)| members);
                self.spend(now, cost::deliveries(members));
            }
            Waiting::Bulk { charged } => {
                self.settle(now, charged, cost::page(shown.entries, bytes));
            }
            Waiting::Send { .. } | Waiting::Other => {}
        }
    }

    fn events(&mut self, events: &[Event], out: &mut Vec<Output>) {
        if let State::Live = self.state
            && write_events(self.encoding, events, out).is_err()
        {
            let damaged = "a stored message cannot be read; the operators are told";
            self.end(Refusal::new(Code::Damaged, damaged), out);
        }
    }

    /// Frees what nothing in flight needs.
    fn tidy(&mut self) {
        self.work = self.work.take().filter(|work| {
            !(work.in_flight.is_empty()
                && work.lanes.is_empty()
                && work.waiting_reads.is_empty()
                && work.followed.is_empty())
        });
    }
}

/// What an answer shows of what it cost.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// Of a PAGE; of a change of a group 1, and 0 if nothing changed.
    entries: usize,
    /// A group and its members.
    group: Option<(GroupId, u32)>,
}

impl Shown {
    fn of(body: &Body) -> Self {
        let entries = match body {
            Body::HistoryPage(page) => page.events.len(),
            Body::ConversationsPage(page) => page.conversations.len(),
            Body::MembersPage(page) => page.members.len(),
            Body::MarksPage(page) => page.marks.len(),
            Body::GroupState(state) => usize::from(!state.duplicate && state.msg_id != 0),
            _ => 0,
        };
        let group = match body {
            Body::GroupState(state) => ConversationId(state.group)
                .group()
                .map(|group| (group, state.members)),
            _ => None,
        };
        Self { entries, group }
    }
}

/// Bytes that are to be written.
fn written(out: &[Output]) -> usize {
    let bytes = |output: &Output| match output {
        Output::Write { bytes, .. } => bytes.len(),
        _ => 0,
    };
    out.iter().map(bytes).sum()
}

/// Writes events in frames of at most [`EVENT_BATCH`] events and
/// [`EVENT_BATCH_BYTES`] encoded bytes; one event alone may be longer.
fn write_events(
    encoding: Encoding,
    events: &[Event],
    out: &mut Vec<Output>,
) -> Result<(), EventError> {
    let mut rest = events;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fit = rest
            .iter()
            .take(EVENT_BATCH)
            .take_while(|event| {
                bytes += event.proto_len() + 4;
                bytes <= EVENT_BATCH_BYTES
            })
            .count();
        let (batch, behind) = rest.split_at(fit.max(1));
        write_batch(encoding, batch, out)?;
        rest = behind;
    }
    Ok(())
}

/// JSON is longer than protobuf by how much only its encoder knows: too long a frame
/// is halved.
fn write_batch(
    encoding: Encoding,
    batch: &[Event],
    out: &mut Vec<Output>,
) -> Result<(), EventError> {
    let bytes = codec::encode_events(encoding, batch)?;
    if bytes.len() > EVENT_BATCH_BYTES && batch.len() > 1 {
        let (first, second) = batch.split_at(batch.len() / 2);
        write_batch(encoding, first, out)?;
        return write_batch(encoding, second, out);
    }
    out.push(Output::Write { bytes, bulk: false });
    Ok(())
}
