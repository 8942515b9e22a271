//! The checker: believes neither server nor client. It is given what was attempted and
//! what each device saw, and says which of the rules of verification do not hold.
//!
//! It knows messages, users and places (a pair of people, or a group) by dense numbers
//! and bodies by a hash, so that one run costs one pass over the events: stamps and
//! high-water marks, no search. A timeout is [`Outcome::Unknown`], never a failure: such a
//! message may exist or not, but the same for everybody.
//!
//! Known limit: equal hashes of unequal bodies (64 bits) would pass.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

pub use self::report::{Report, Rule, Verdict, Violation};
use self::{delivered::Delivered, membership::Membership};

mod delivered;
mod membership;
mod report;

/// In place of a message's number: the event is a change of a group.
pub const CHANGE: u32 = u32::MAX;
/// In place of a message's number: a message that nobody here sent.
pub const FOREIGN: u32 = u32::MAX - 1;

/// The hash by which bodies are compared.
#[must_use]
pub fn body_hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    hasher.finish()
}

/// What became of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// SENT came.
    Acked {
        /// Its number.
        msg_id: i64,
        /// Its place in a group's log; 0 outside groups.
        group_seq: u64,
    },
    /// A final error came: it must not exist.
    Refused,
    /// Neither came.
    Unknown,
}

/// One message that somebody tried to send, however often.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// By whom.
    pub sender: u32,
    /// Where.
    pub place: u32,
    /// [`body_hash`] of what was said.
    pub body: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Two people.
    Pair([u32; 2]),
    /// A group: who is in it follows from the [`Change`]s.
    Group,
}

/// A change of a group's members, as its log has it; the creation is the first.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Which group.
    pub place: u32,
    /// Its place in the group's log.
    pub group_seq: u64,
    /// Members from here on.
    pub joined: Vec<u32>,
    /// No members any more.
    pub left: Vec<u32>,
}

/// What was attempted, by everybody.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// How many users there are.
    pub users: usize,
    /// By number.
    pub places: Vec<Place>,
    /// By number of the message.
    pub attempts: Vec<Attempt>,
    /// In any order.
    pub changes: Vec<Change>,
    /// Each a list of messages of one place of which the later ones were sent after
    /// the earlier ones had been seen by, or sent on one session of, their sender.
    pub orders: Vec<Vec<u32>>,
}

/// An event as a device saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its place in the inbox.
    pub inbox_seq: u64,
    /// Its number.
    pub msg_id: i64,
    /// [`body_hash`] of what arrived.
    pub body: u64,
    /// Where.
    pub place: u32,
    /// The message's number, [`CHANGE`] or [`FOREIGN`].
    pub message: u32,
    /// 0 outside groups.
    pub group_seq: u64,
    /// It names the device's own user as the one who said or did it.
    pub own: bool,
}

/// Everything one device saw, after its library took out duplicates.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Whose.
    pub user: u32,
    /// Which of the user's devices.
    pub device: u32,
    /// It asked for what comes after this.
    pub from: u64,
    /// The newest sequence number of the inbox at the end, if it is known.
    pub head: Option<u64>,
    /// In order of arrival.
    pub events: Vec<Seen>,
    /// The last sequence number the device acknowledged.
    pub acked: u64,
    /// What the device marked as seen: place and message id.
    pub marked: Vec<(u32, i64)>,
}

/// A user's marks in a place, as somebody read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Delivered up to.
    pub delivered: i64,
    /// Seen up to.
    pub seen: i64,
}

/// The checker of one run. Views first, then histories and marks, then [`Checker::finish`].
pub struct Checker<'a> {
    world: &'a World,
    membership: Membership,
    delivered: Delivered,
    /// What acknowledgements imply, by (place, user).
    implied: HashMap<(u32, u32), Marks>,
    /// User of each view, for messages whose outcome is unknown.
    views: Vec<u32>,
    /// By place and direction: the view that wrote it, and the last number there.
    order: Vec<(u32, i64)>,
    report: Report,
}

impl<'a> Checker<'a> {
    /// A checker of `world`.
    #[must_use]
    pub fn new(world: &'a World) -> Self {
        let mut report = Report::default();
        for attempt in &world.attempts {
            report.attempts += 1;
            match attempt.outcome {
                Outcome::Acked { .. } => report.acknowledged += 1,
                Outcome::Refused => report.refused += 1,
                Outcome::Unknown => report.unknown += 1,
            }
        }
        Self {
            world,
            membership: Membership::new(world, &mut report),
            delivered: Delivered::new(world),
            implied: HashMap::new(),
            views: Vec::new(),
            order: vec![(0, i64::MIN); world.places.len() * 2],
            report,
        }
    }

    /// How many acknowledged messages every device of `user` must have in the end.
    #[must_use]
    pub fn expected(&self, user: u32) -> usize {
        self.membership.expected(user)
    }

    /// What acknowledgements and SEENs imply so far, by place and user.
    #[must_use]
    pub const fn implied(&self) -> &HashMap<(u32, u32), Marks> {
        &self.implied
    }

    /// Checks what a device saw: rules 1, 2, 3, 4, 6 and 7.
    pub fn view(&mut self, view: &View) {
        self.views.push(view.user);
        let number = u32::try_from(self.views.len()).expect("fewer devices than u32::MAX");
        let mut last_seq = view.from;
        let mut acked_here = 0;
        for event in &view.events {
            if Some(event.inbox_seq) != last_seq.checked_add(1) {
                self.report.add(Rule::Gapless, || {
                    format!("{} has {} after {last_seq}", name(view), event.inbox_seq)
                });
            }
            last_seq = event.inbox_seq;
            self.same_everywhere(view, event);
            self.in_order(view, event, number);
            self.imply(view, event);
            if self.allowed(view, event) && self.fresh(view, event, number) {
                acked_here += 1;
            }
        }
        if let Some(head) = view.head.filter(|head| *head != last_seq) {
            self.report.add(Rule::Gapless, || {
                format!("{} ends at {last_seq}, its inbox at {head}", name(view))
            });
        }
        for (place, seen) in &view.marked {
            let marks = self.implied.entry((*place, view.user)).or_default();
            marks.seen = marks.seen.max(*seen);
            marks.delivered = marks.delivered.max(*seen);
        }
        if acked_here != self.membership.expected(view.user) {
            self.missing(view, number);
        }
    }

    /// Checks pages read back against what a device saw (rule 8): each conversation's
    /// events in rising `msg_id`, the same as were delivered.
    pub fn histories(&mut self, view: &View, histories: &[(u32, Vec<Seen>)]) {
        let key = |event: &Seen| (event.place, event.msg_id);
        let mut had: Vec<Seen> = view.events.clone();
        had.sort_unstable_by_key(key);
        let mut places = 0;
        for (place, events) in histories {
            if let Some(pair) = events
                .windows(2)
                .find(|pair| pair[0].msg_id >= pair[1].msg_id)
            {
                self.report.add(Rule::History, || {
                    format!(
                        "the history of place {place} at {} has {} before {}",
                        name(view),
                        pair[0].msg_id,
                        pair[1].msg_id
                    )
                });
            }
            let from = had.partition_point(|event| event.place < *place);
            let to = had.partition_point(|event| event.place <= *place);
            places += usize::from(from < to);
            let differs = had[from..to].len() != events.len()
                || had[from..to]
                    .iter()
                    .zip(events)
                    .any(|(a, b)| digest(a) != digest(b));
            if differs {
                self.report.add(Rule::History, || {
                    format!(
                        "the history of place {place} at {} has {} events, delivered were {}, or \
                         others",
                        name(view),
                        events.len(),
                        to - from
                    )
                });
            }
        }
        let all = had.chunk_by(|a, b| a.place == b.place).count();
        if places != all {
            self.report.add(Rule::History, || {
                format!(
                    "{} has events in {all} places and histories of {places}",
                    name(view)
                )
            });
        }
    }

    /// Checks the marks of `user` in `place` as they were read at rest (rule 5).
    pub fn marks(&mut self, place: u32, user: u32, found: Marks) {
        let implied = self
            .implied
            .get(&(place, user))
            .copied()
            .unwrap_or_default();
        if found != implied {
            self.report.add(Rule::Marks, || {
                format!(
                    "user {user} in place {place}: delivered {} seen {}, acknowledgements imply {} \
                     and {}",
                    found.delivered, found.seen, implied.delivered, implied.seen
                )
            });
        }
        if found.seen > found.delivered {
            self.report.add(Rule::Marks, || {
                format!("user {user} in place {place}: seen above delivered")
            });
        }
    }

    /// Checks one change of a mark as a device was told (rule 5: marks only rise).
    /// Returns the merged marks for the next call.
    pub fn receipt(&mut self, device: &str, before: Marks, told: Marks) -> Marks {
        if told.delivered < before.delivered || told.seen < before.seen {
            self.report.add(Rule::Marks, || {
                format!("{device} was told of falling marks: {told:?}")
            });
        }
        Marks {
            delivered: told.delivered.max(before.delivered),
            seen: told.seen.max(before.seen),
        }
    }

    /// What holds over all devices, and the verdict.
    #[must_use]
    pub fn finish(mut self) -> Report {
        for order in &self.world.orders {
            let mut last = (0, i64::MIN);
            for message in order {
                let Some(msg_id) = self.delivered.number(*message) else {
                    continue;
                };
                if msg_id <= last.1 {
                    self.report.add(Rule::Order, || {
                        format!(
                            "message {message} has number {msg_id}, but {} before it has {}",
                            last.0, last.1
                        )
                    });
                }
                last = (*message, msg_id);
            }
        }
        for (message, attempt) in self.world.attempts.iter().enumerate() {
            if attempt.outcome != Outcome::Unknown {
                continue;
            }
            let message = u32::try_from(message).expect("messages are numbered in 32 bits");
            let (devices, group_seq) = self.delivered.devices(message);
            if devices == 0 {
                continue;
            }
            let entitled = self
                .views
                .iter()
                .filter(|user| self.membership.entitled(attempt.place, **user, group_seq))
                .count();
            if entitled != devices {
                self.report.add(Rule::ExactlyOnce, || {
                    format!(
                        "message {message}, never answered, is on {devices} of {entitled} devices"
                    )
                });
            }
        }
        self.report.devices = self.views.len();
        self.report
    }

    /// Rule 2: one (inbox, seq) holds one event, whichever device looks.
    fn same_everywhere(&mut self, view: &View, event: &Seen) {
        if !self.delivered.same(view.user, event) {
            self.report.add(Rule::OneBody, || {
                format!("{} sees another event at {}", name(view), event.inbox_seq)
            });
        }
    }

    /// Rule 4 on one device: a sender's messages of a pair, and everything of a group,
    /// arrive in the order of their numbers.
    fn in_order(&mut self, view: &View, event: &Seen, number: u32) {
        let Some(place) = self.world.places.get(event.place as usize) else {
            return;
        };
        let own = match place {
            Place::Pair(_) => self
                .world
                .attempts
                .get(event.message as usize)
                .is_some_and(|attempt| attempt.sender == view.user),
            Place::Group => false,
        };
        let slot = &mut self.order[event.place as usize * 2 + usize::from(own)];
        if slot.0 == number && slot.1 >= event.msg_id {
            let last = slot.1;
            self.report.add(Rule::Order, || {
                format!(
                    "{} has {} after {last} in place {}",
                    name(view),
                    event.msg_id,
                    event.place
                )
            });
        }
        *slot = (number, event.msg_id);
    }

    /// What the device's acknowledgement of this event implies: it is delivered, unless it
    /// is one's own. Changes of a group count like messages.
    fn imply(&mut self, view: &View, event: &Seen) {
        if event.inbox_seq <= view.acked && !event.own {
            let marks = self.implied.entry((event.place, view.user)).or_default();
            marks.delivered = marks.delivered.max(event.msg_id);
        }
    }

    /// Rules 6 and 7; `true` if the event is a message to be counted.
    fn allowed(&mut self, view: &View, event: &Seen) -> bool {
        if event.message == CHANGE {
            if !self
                .membership
                .told(event.place, view.user, event.group_seq)
            {
                self.report.add(Rule::MembersOnly, || {
                    format!(
                        "{} is told of a change of place {}",
                        name(view),
                        event.place
                    )
                });
            }
            return false;
        }
        let Some(attempt) = self.world.attempts.get(event.message as usize) else {
            self.report.add(Rule::NobodySent, || {
                format!(
                    "{} has {} at {}, which nobody sent",
                    name(view),
                    event.msg_id,
                    event.inbox_seq
                )
            });
            return false;
        };
        if attempt.body != event.body
            || attempt.place != event.place
            || event.own != (attempt.sender == view.user)
            || attempt.outcome == Outcome::Refused
        {
            self.report.add(Rule::NobodySent, || {
                format!(
                    "{} has message {} with another body, sender or place, or though it was refused",
                    name(view),
                    event.message
                )
            });
        }
        if !self
            .membership
            .entitled(event.place, view.user, event.group_seq)
        {
            self.report.add(Rule::MembersOnly, || {
                format!(
                    "{} was given message {} of place {}",
                    name(view),
                    event.message,
                    event.place
                )
            });
            return false;
        }
        true
    }

    /// Rule 1: once on this device, with the number its sender was told. `true` if it
    /// counts as an acknowledged message seen here for the first time.
    fn fresh(&mut self, view: &View, event: &Seen, number: u32) -> bool {
        if !self.delivered.stamp(event, number) {
            self.report.add(Rule::ExactlyOnce, || {
                format!("{} has message {} twice", name(view), event.message)
            });
            return false;
        }
        if !self.delivered.agree(event) {
            self.report.add(Rule::OneBody, || {
                format!(
                    "message {} has two numbers: {} at {}",
                    event.message,
                    event.msg_id,
                    name(view)
                )
            });
        }
        matches!(
            self.world.attempts[event.message as usize].outcome,
            Outcome::Acked { .. }
        )
    }

    /// The slow way, once something is known to be missing: which.
    fn missing(&mut self, view: &View, number: u32) {
        for (message, attempt) in self.world.attempts.iter().enumerate() {
            let message = u32::try_from(message).expect("messages are numbered in 32 bits");
            let Outcome::Acked { group_seq, msg_id } = attempt.outcome else {
                continue;
            };
            if self
                .membership
                .entitled(attempt.place, view.user, group_seq)
                && !self.delivered.stamped(message, number)
            {
                self.report.lost += 1;
                self.report.add(Rule::ExactlyOnce, || {
                    format!(
                        "{} lacks message {message} ({msg_id}) of place {}",
                        name(view),
                        attempt.place
                    )
                });
            }
        }
    }
}

fn name(view: &View) -> String {
    format!("device {} of user {}", view.device, view.user)
}

/// What must be equal wherever the event is seen.
fn digest(event: &Seen) -> u64 {
    let mut hasher = DefaultHasher::new();
    (
        event.msg_id,
        event.body,
        event.place,
        event.message,
        event.group_seq,
    )
        .hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
