//! Sessions begin and end at their user's shard.

use bytes::Bytes;
use chat_wire::{
    error::{Code, Refusal},
    ids::SessionId,
};
use std::collections::{BTreeSet, VecDeque};

use super::{
    Pass, lookup::Lookup, parked::Purpose, proposals::Waiter, requests::disk_full, room::no_room,
    shard::Shard,
};
use crate::{
    command::{self, Command, Rules},
    delivery::Start,
    message::{Attach, Attached, Resume, Resumed, ToSession},
    shard::{Answer, Context, entry::Entry},
    store::ShardStore,
};

/// Sessions that wait for a shard to begin serving, at most; one more is closed as
/// UNAVAILABLE.
pub(super) const MAX_WAITING: usize = 4096;

/// A session on its way in.
#[derive(Debug)]
pub(super) struct WaitingAttach {
    pub(super) attach: Attach,
    /// What the device had acknowledged before: a resume is an ACK too.
    cursor: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attaching {
    /// Until the shard serves.
    waiting: VecDeque<Attach>,
    /// Their command is on its way, and they are still there.
    proposed: BTreeSet<SessionId>,
}

impl Attaching {
    /// The session is not on its way any more. True if it was.
    pub(super) fn gone(&mut self, session: SessionId) -> bool {
        self.waiting.retain(|attach| attach.session != session);
        self.proposed.remove(&session)
    }

    /// All of them, for whom it is over. Those whose command waits hear of it there.
    pub(super) fn take_all(&mut self) -> Vec<SessionId> {
        self.proposed.clear();
        self.waiting
            .drain(..)
            .map(|attach| attach.session)
            .collect()
    }
}

impl<S: ShardStore> Shard<S> {
    pub(super) fn attach(&mut self, pass: &mut Pass<'_>, attach: Attach) {
        let session = attach.session;
        if self.serves() {
            return self.prepare(pass, attach);
        }
        if let Some(stopped) = &self.stopped {
            let refusal = Refusal::new(
                Code::Damaged,
                format!("shard {} does not serve: {}", self.id, stopped.reason),
            );
            return pass.tell(session, ToSession::Close(refusal));
        }
        if self.attaching.waiting.len() >= MAX_WAITING {
            let many = "the shard is not ready, and too many wait for it: connect again";
            let refusal = Refusal::new(Code::Unavailable, many);
            return pass.tell(session, ToSession::Close(refusal));
        }
        self.attaching.waiting.push_back(attach);
    }

    /// The shard may serve now: those who waited are admitted.
    pub(super) fn admit_waiting(&mut self, pass: &mut Pass<'_>) {
        if self.serves() {
            for attach in std::mem::take(&mut self.attaching.waiting) {
                self.prepare(pass, attach);
            }
        }
    }

    /// What the command reads is brought into memory first.
    fn prepare(&mut self, pass: &mut Pass<'_>, attach: Attach) {
        let (user, device) = (attach.identity.user, attach.device);
        // An older session of the device that waits for the disk would begin after this
        // one, and end it.
        for older in pass.parked.take_attaches(self.id, user, device) {
            pass.counters.replaced += 1;
            pass.tell(older, ToSession::Replaced);
        }
        let devices = self.settings.as_ref().map_or(0, |set| set.devices);
        let lookup = Lookup::Device {
            user,
            device,
            devices: devices as usize,
        };
        self.look_up(pass, lookup, Purpose::Attach(Box::new(attach)));
    }

    /// The rows of the inbox and its devices are in memory.
    pub(super) fn admit(&mut self, pass: &mut Pass<'_>, attach: Attach, cursor: u64) {
        if pass.disk_full {
            return self.attach_to_read(pass, attach, cursor);
        }
        let session = attach.session;
        let command = command_of(&attach);
        let waiter = Waiter::Attach(Box::new(WaitingAttach { attach, cursor }));
        if self.proposals.push(command, Bytes::new(), waiter).is_ok() {
            self.attaching.proposed.insert(session);
        } else {
            let full = "the shard's queue is full: connect again";
            let refusal = Refusal::new(Code::Overloaded, full);
            pass.tell(session, ToSession::Close(refusal));
        }
    }

    /// Its command has waited for room in the log for too long.
    pub(super) fn attach_without_room(&mut self, pass: &mut Pass<'_>, waiting: WaitingAttach) {
        // Unless the connection was lost meanwhile.
        if self.attaching.gone(waiting.attach.session) {
            self.attach_to_read(pass, waiting.attach, waiting.cursor);
        }
    }

    /// The disk or the log is full, and nothing can be written: a device that is known begins a
    /// session that reads. Its command is run and dropped, so the log does not learn that
    /// it was here; what it acknowledges waits for room.
    fn attach_to_read(&mut self, pass: &mut Pass<'_>, attach: Attach, cursor: u64) {
        let session = attach.session;
        let context = Context {
            shard: self.id,
            position: self.applied,
            rules: Rules::WRITTEN,
            ts_ms: pass.now.unix_ms,
            epoch: pass.settings.map.epoch,
            body_offset: 0,
            body: &Bytes::new(),
        };
        let command = Command::Attach(command_of(&attach));
        let answer = Entry::new(self.replica.store(), &mut self.cache, Bytes::new())
            .run(&context, &command)
            .map(|effects| effects.answer);
        match answer {
            Ok(Some(answer @ Answer::Attached { known: true, .. })) => {
                self.attaching.proposed.insert(session);
                self.attached(pass, &WaitingAttach { attach, cursor }, &answer);
            }
            Ok(Some(Answer::Refused(refusal))) => {
                pass.tell(session, ToSession::Close(refusal));
            }
            Ok(_) => {
                let refusal = if pass.disk_full {
                    disk_full()
                } else {
                    no_room()
                };
                pass.tell(session, ToSession::Close(refusal));
            }
            Err(unreadable) => self.stop(unreadable.to_string()),
        }
    }

    /// The command is applied: the session begins.
    pub(super) fn attached(
        &mut self,
        pass: &mut Pass<'_>,
        waiting: &WaitingAttach,
        answer: &Answer,
    ) {
        let attach = &waiting.attach;
        let session = attach.session;
        let Answer::Attached {
            head,
            cursor,
            oldest,
            marks_version,
            dropped,
            known,
        } = *answer
        else {
            return;
        };
        // The connection was lost meanwhile: nobody is there to be attached.
        if !self.attaching.proposed.remove(&session) {
            return;
        }
        let user = attach.identity.user;
        if let Some(device) = dropped
            && let Some(older) = self.delivery.of_device(user, device)
        {
            self.replace(pass, older);
        }
        let generation = self
            .settings
            .as_ref()
            .map_or(0, |settings| settings.generation);
        let here = Here {
            head,
            oldest,
            marks_version,
            generation,
            known,
        };
        let Some((resumed, from, marks)) = here.resume(attach.resume) else {
            let ahead = "your cursor is ahead of this server's copy: connect again";
            let refusal = Refusal::new(Code::StaleLeader, ahead);
            return pass.tell(session, ToSession::Close(refusal));
        };
        let mut limits = pass.settings.limits;
        if let Some(settings) = &self.settings {
            limits.group_members = settings.group_members;
            limits.devices = settings.devices;
            limits.content_bytes = settings.content_bytes;
            limits.mentions = settings.mentions;
        }
        let allowance = self.allow(pass, user, attach.device);
        let attached = Attached {
            inbox_head: head,
            marks_version,
            generation,
            resumed,
            limits,
            allowance,
        };
        pass.tell(session, ToSession::Attached(attached));
        let start = Start {
            user,
            device: attach.device,
            encoding: attach.encoding,
            foreground: attach.foreground,
            cursor: from,
            head,
            acked: cursor,
            marks_version: marks,
            marks_head: marks_version,
            credits: attach.event_credits,
        };
        if let Some(older) = self.delivery.of_device(user, attach.device) {
            self.replace(pass, older);
        }
        self.delivery.attach(session, start);
        if attach.foreground {
            self.came(pass, user);
        }
        pass.counters.attached += 1;
        if let Resumed::From(from) = resumed
            && from > waiting.cursor
        {
            self.acks
                .ack(pass.now.mono_ms, user, attach.device, waiting.cursor, from);
        }
    }

    fn replace(&mut self, pass: &mut Pass<'_>, older: SessionId) {
        self.detach(pass, older);
        pass.counters.replaced += 1;
        pass.tell(older, ToSession::Replaced);
    }

    /// The session is over, or follows a group of this shard no more.
    pub(super) fn detach(&mut self, pass: &mut Pass<'_>, session: SessionId) {
        self.attaching.gone(session);
        pass.parked.forget(self.id, session);
        self.unfollow_all(session);
        if let Some(slot) = self.delivery.detach(session) {
            self.accounts.left(pass, slot.user);
            self.went(pass, session, &slot);
        }
    }
}

fn command_of(attach: &Attach) -> command::Attach {
    command::Attach {
        app: attach.identity.app.clone(),
        name: attach.identity.name.clone(),
        user: attach.identity.user.0,
        device: attach.device.0,
        resume_seq: attach.resume.map(|resume| resume.inbox_seq),
        generation: attach.resume.map_or(0, |resume| resume.generation),
    }
}

/// The inbox, as a device that resumes finds it.
struct Here {
    head: u64,
    oldest: u64,
    marks_version: u64,
    generation: u32,
    known: bool,
}

impl Here {
    /// What a device is told, after which event and after which version of marks it
    /// goes on. `None` if it is ahead of this inbox: a stale leader.
    fn resume(&self, resume: Option<Resume>) -> Option<(Resumed, u64, u64)> {
        let gap = Resumed::Gap {
            oldest: self.oldest,
            head: self.head,
        };
        let Some(resume) = resume else {
            return Some((Resumed::Fresh, self.head, self.marks_version));
        };
        if resume.generation != 0 && resume.generation != self.generation {
            return Some((gap, self.head, self.marks_version));
        }
        if resume.inbox_seq > self.head || resume.marks_version > self.marks_version {
            return None;
        }
        // A device that was forgotten (the 21st took its place) cannot go on.
        let forgotten = !self.known && resume.inbox_seq > 0;
        if resume.inbox_seq + 1 < self.oldest || forgotten {
            return Some((gap, self.head, resume.marks_version));
        }
        Some((
            Resumed::From(resume.inbox_seq),
            resume.inbox_seq,
            resume.marks_version,
        ))
    }
}
