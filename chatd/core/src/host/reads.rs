//! Reads of applied state: pages for requests, for sessions that catch up, and what a
//! session needs to begin. What is in memory is read at once; the rest when it is.

use chat_wire::{
    codec::Encoding,
    error::{Code, Refusal},
    frame::Body,
    ids::{GroupId, SessionId, UserId},
};

use super::{
    Effect, Pass,
    lookup::{Found, Lookup},
    parked::{Purpose, Waiting},
    requests::{RETRY_MS, refuse},
    shard::Shard,
};
use crate::{
    delivery::Wanted,
    message::{GroupRead, Origin, Read, ToSession},
    store::{AtHand as _, ShardStore, Unreadable},
};

impl<S: ShardStore> Shard<S> {
    /// The page that a session waits for.
    pub(super) fn page(&mut self, pass: &mut Pass<'_>, session: SessionId, wanted: Wanted) {
        let lookup = match wanted {
            Wanted::Events {
                user, after, limit, ..
            } => Lookup::Events { user, after, limit },
            Wanted::Receipts { user, after } => Lookup::Receipts { user, after },
        };
        self.look_up(pass, lookup, Purpose::Page(session));
    }

    pub(super) fn read(&mut self, pass: &mut Pass<'_>, origin: Origin, user: UserId, read: Read) {
        let slot = self.delivery.slot(origin.session);
        let encoding = slot.map_or(Encoding::Proto, |slot| slot.encoding);
        let lookup = Lookup::Inbox {
            user,
            read,
            encoding,
        };
        self.look_up(pass, lookup, Purpose::Answer(origin));
    }

    pub(super) fn read_group(
        &mut self,
        pass: &mut Pass<'_>,
        origin: Origin,
        (user, app): (UserId, String),
        group: GroupId,
        read: GroupRead,
    ) {
        let mut purpose = Purpose::Answer(origin);
        if let GroupRead::Marks { follow, .. } = read {
            // The last one decides whether the group is followed: those before it are
            // done before it, also if that waits for the disk.
            for older in pass.parked.take_marks(self.id, origin.session, group) {
                self.warmed(pass, older);
            }
            purpose = Purpose::Marks {
                origin,
                user,
                group,
                follow,
            };
        }
        let lookup = Lookup::Group {
            user,
            app,
            group,
            read,
        };
        self.look_up(pass, lookup, purpose);
    }

    /// Reads what is in memory; what is not is read into it first.
    pub(super) fn look_up(&mut self, pass: &mut Pass<'_>, lookup: Lookup, purpose: Purpose) {
        if let Some(found) = self.find(&lookup) {
            return self.found(pass, purpose, found);
        }
        if pass.parked.room() == 0 {
            return self.find_no_room(pass, purpose);
        }
        if let Purpose::Page(session) = purpose {
            self.delivery.hold(session);
        }
        pass.counters.cold_reads += 1;
        let ticket = pass.parked.park(self.id, lookup.clone(), purpose);
        pass.effects.push(Effect::Warm {
            shard: self.id,
            ticket,
            lookup: Box::new(lookup),
        });
    }

    /// What a read needs was read into memory. If it has left it again already, this
    /// thread waits for it: nothing is warmed twice.
    pub(super) fn warmed(&mut self, pass: &mut Pass<'_>, waiting: Waiting) {
        let Waiting {
            lookup, purpose, ..
        } = waiting;
        if let Purpose::Page(session) = purpose {
            self.delivery.release(session);
        }
        let found = self.find(&lookup).unwrap_or_else(|| {
            pass.counters.cold_again += 1;
            lookup.run(self.replica.store())
        });
        self.found(pass, purpose, found);
    }

    /// `None`: it would have to wait for the disk.
    fn find(&self, lookup: &Lookup) -> Option<Result<Found, Unreadable>> {
        let at_hand = self.replica.store().at_hand();
        let found = lookup.run(&at_hand);
        (!at_hand.met_cold()).then_some(found)
    }

    fn found(&mut self, pass: &mut Pass<'_>, purpose: Purpose, found: Result<Found, Unreadable>) {
        match (purpose, found) {
            (Purpose::Answer(origin), Ok(Found::Page(page))) => answer(pass, origin, *page),
            (
                Purpose::Marks {
                    origin,
                    user,
                    group,
                    follow,
                },
                Ok(Found::Page(page)),
            ) => {
                let page = page.and_then(|page| {
                    self.follow(group, origin.session, user, follow)?;
                    Ok(page)
                });
                answer(pass, origin, page);
            }
            (Purpose::Answer(origin) | Purpose::Marks { origin, .. }, Err(unreadable)) => {
                // One damaged block does not stop the shard from numbering messages,
                // but whoever reads it must know.
                let why = format!("{unreadable}: the operators are told");
                refuse(pass, origin, Refusal::new(Code::Damaged, why));
            }
            (Purpose::Page(session), Ok(Found::Events { oldest, events })) => {
                self.delivery.events_page(session, oldest, events);
            }
            (Purpose::Page(session), Ok(Found::Receipts { receipts, done })) => {
                self.delivery.receipts_page(session, receipts, done);
            }
            (Purpose::Attach(attach), Ok(Found::Cursor(cursor))) => {
                self.admit(pass, *attach, cursor);
            }
            // What cannot be read is not absent: the shard stops.
            (Purpose::Page(_) | Purpose::Attach(_), Err(unreadable)) => {
                self.stop(unreadable.to_string());
            }
            (_, Ok(_)) => unreachable!("a lookup finds what it is made for"),
        }
    }

    /// Too much is being warmed already.
    fn find_no_room(&mut self, pass: &mut Pass<'_>, purpose: Purpose) {
        let many = "too many wait for the disk: try again";
        let refusal = Refusal {
            retry_after_ms: Some(RETRY_MS),
            ..Refusal::new(Code::Overloaded, many)
        };
        match purpose {
            Purpose::Answer(origin) | Purpose::Marks { origin, .. } => {
                refuse(pass, origin, refusal);
            }
            Purpose::Page(session) => {
                self.delivery.hold(session);
                pass.parked.shelve_page(self.id, session);
            }
            Purpose::Attach(attach) => {
                if let Err(attach) = pass.parked.shelve_attach(self.id, attach) {
                    pass.tell(attach.session, ToSession::Close(refusal));
                }
            }
        }
    }

    /// The shard serves no more: whoever waits for a read of it is told.
    pub(super) fn end_reads(&self, pass: &mut Pass<'_>, refusal: &Refusal) {
        for purpose in pass.parked.take_all(self.id) {
            match purpose {
                Purpose::Answer(origin) | Purpose::Marks { origin, .. } => {
                    refuse(pass, origin, refusal.clone());
                }
                Purpose::Attach(attach) => {
                    pass.tell(attach.session, ToSession::Close(refusal.clone()));
                }
                // It is attached, and told so.
                Purpose::Page(_) => {}
            }
        }
    }
}

fn answer(pass: &mut Pass<'_>, origin: Origin, page: Result<Body, Refusal>) {
    match page {
        Ok(body) => {
            let req = origin.req;
            pass.tell(origin.session, ToSession::Answer { req, body });
        }
        Err(refusal) => refuse(pass, origin, refusal),
    }
}
