//! What is to be said where, and by whom after what: a pure function of the dataset and
//! a seed, so that every process of a replay makes the same plan for itself.
//!
//! - Conversations of two become one 1:1 conversation a pair, played one after the
//!   other; some of them, drawn by the seed, are merged by tens into groups.
//! - Conversations of one become a group with listeners drawn by the seed.
//!
//! Within a group, conversations that share a person are played one after the other,
//! so that a message's sender alone tells which of them it belongs to.

use std::collections::{BTreeMap, HashMap};

use chat_wire::ids::{ClientId, GroupId, UserId};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;

/// The app of everybody in the replay.
pub const APP: &str = "default";
/// Most people in a group of merged conversations.
pub const MERGED_MEMBERS: usize = 20;
/// How many listen to somebody who talks alone, and of 100 such groups how many.
const AUDIENCES: [(usize, u32); 5] = [(1, 35), (5, 30), (20, 20), (100, 14), (1_000, 1)];

/// What part of the dataset is played, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How many conversations, drawn by the seed; all if `None`.
    pub conversations: Option<usize>,
    /// Draws everything that is drawn.
    pub seed: u64,
    /// Only conversations of two, and no groups.
    pub pairs_only: bool,
    /// Receivers a send, over the whole run, that audiences are raised to.
    pub receivers_per_send: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            conversations: None,
            seed: 1,
            pairs_only: false,
            receivers_per_send: 10,
        }
    }
}

/// The plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Names of those who take part.
    pub people: Vec<String>,
    /// Their ids.
    pub users: Vec<UserId>,
    /// Where it is said.
    pub places: Vec<Place>,
    /// What is said in order.
    pub threads: Vec<Thread>,
    /// What is said, by number.
    pub lines: Vec<Line>,
    /// Who goes and comes back meanwhile.
    pub churn: Vec<Churn>,
}

/// A conversation of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Two people.
    Pair([u32; 2]),
    /// A group.
    Group {
        /// Who creates it.
        owner: u32,
        /// Everybody in it, the owner first.
        members: Vec<u32>,
    },
}

/// Lines of one place that follow each other: each is said when its sender has the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Where.
    pub place: u32,
    /// Numbers of lines.
    pub lines: Vec<u32>,
}

/// One message of the dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its thread.
    pub thread: u32,
    /// Its place in the thread.
    pub position: u32,
    /// Who says it.
    pub sender: u32,
    /// The words; the server refuses empty ones.
    pub text: String,
    /// When it was said, in seconds after the first message of the plan.
    pub at_s: u64,
}

/// A member that the owner removes, and adds again, while the group talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Churn {
    /// Which group.
    pub place: u32,
    /// Who goes.
    pub member: u32,
    /// The owner's thread has come this far when it removes the member.
    pub remove_at: u32,
    /// And this far when it adds the member again.
    pub add_at: u32,
}

impl Plan {
    /// Makes the plan.
    #[must_use]
    pub fn new(dataset: &Dataset, options: &Options) -> Self {
        Builder::new(dataset, options).build()
    }

    /// Messages, empty ones included.
    #[must_use]
    pub fn sends(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Texts that the server must refuse.
    #[must_use]
    pub fn empty(&self) -> usize {
        self.lines
            .iter()
            .filter(|line| line.text.is_empty())
            .count()
    }

    /// People that messages reach, one a message and person, senders not counted.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.lines
            .iter()
            .filter(|line| !line.text.is_empty())
            .map(|line| self.receivers(self.threads[line.thread as usize].place))
            .sum()
    }

    fn receivers(&self, place: u32) -> u64 {
        match &self.places[place as usize] {
            Place::Pair(_) => 1,
            Place::Group { members, .. } => members.len() as u64 - 1,
        }
    }

    /// The place of a line.
    #[must_use]
    pub fn place_of(&self, line: u32) -> u32 {
        self.threads[self.lines[line as usize].thread as usize].place
    }
}

/// Ids that every process of a run can compute: a message's number is in its client
/// message id, so a receiver knows it without being told.
///
/// ```text
/// | 48 bits: ms of the run's start + position | 7 | 12 bits: kind | 10 | 30 bits: run | 32 bits: number |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunIds {
    /// When the run began, in ms since 1970.
    pub start_ms: u64,
    /// Tells runs apart; 30 bits are used.
    pub run: u32,
}

/// What an id of a run names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum IdKind {
    /// A line's SEND.
    Line = 1,
    /// The creation of a place's group.
    Create = 2,
    /// A removal of a churn.
    Remove = 3,
    /// An addition of a churn.
    Add = 4,
}

const RUN_MASK: u64 = (1 << 30) - 1;

impl RunIds {
    /// The id of `number`; `ahead_ms` keeps ids of one sender rising.
    #[must_use]
    pub fn id(self, kind: IdKind, number: u32, ahead_ms: u32) -> ClientId {
        let mut bytes = [0; 16];
        let ms = self.start_ms + u64::from(ahead_ms);
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        bytes[6..8].copy_from_slice(&(0x7000 | kind as u16).to_be_bytes());
        let low = 0b10 << 62 | (u64::from(self.run) & RUN_MASK) << 32 | u64::from(number);
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        ClientId(bytes)
    }

    /// The id of a line. Positions are far below the ten minutes that ids may run ahead.
    #[must_use]
    pub fn line(self, plan: &Plan, number: u32) -> ClientId {
        let position = plan.lines[number as usize].position;
        self.id(IdKind::Line, number, position.min(60_000))
    }

    /// The number of the line that has this id, if it is one of this run.
    #[must_use]
    pub fn line_number(self, id: &[u8]) -> Option<u32> {
        let id = ClientId::from_slice(id)?;
        let low = u64::from_be_bytes(id.0[8..].try_into().ok()?);
        let kind = u16::from_be_bytes([id.0[6], id.0[7]]) & 0xfff;
        let ours =
            kind == IdKind::Line as u16 && low >> 32 & RUN_MASK == u64::from(self.run) & RUN_MASK;
        ours.then_some(u32::try_from(low & u64::from(u32::MAX)).ok()?)
    }

    /// The group that a place becomes.
    #[must_use]
    pub fn group(self, plan: &Plan, place: u32) -> Option<GroupId> {
        match &plan.places[place as usize] {
            Place::Pair(_) => None,
            Place::Group { owner, .. } => Some(GroupId::of(
                plan.users[*owner as usize],
                self.id(IdKind::Create, place, 0),
            )),
        }
    }
}

/// A conversation as the plan takes it up.
struct Talk {
    /// Index into the dataset.
    conversation: usize,
    first: u32,
    second: Option<u32>,
}

struct Builder<'a> {
    dataset: &'a Dataset,
    options: Options,
    random: StdRng,
    plan: Plan,
    /// Person of the dataset → person of the plan.
    person: HashMap<u32, u32>,
    begin_s: u64,
}

impl<'a> Builder<'a> {
    fn new(dataset: &'a Dataset, options: &Options) -> Self {
        Self {
            dataset,
            options: *options,
            random: StdRng::seed_from_u64(options.seed),
            plan: Plan {
                people: vec![],
                users: vec![],
                places: vec![],
                threads: vec![],
                lines: vec![],
                churn: vec![],
            },
            person: HashMap::new(),
            begin_s: 0,
        }
    }

    fn build(mut self) -> Plan {
        let talks = self.choose();
        let (mut of_two, mut alone): (Vec<Talk>, Vec<Talk>) =
            talks.into_iter().partition(|talk| talk.second.is_some());
        if self.options.pairs_only {
            alone.clear();
        } else {
            let merged = of_two.len() * 1_000 / 4_018 / 10 * 10;
            // In dataset order before and after the draw: a pair's conversations stay in order.
            let mut drawn: Vec<usize> = (0..of_two.len()).collect();
            drawn.shuffle(&mut self.random);
            let mut is_merged = vec![false; of_two.len()];
            for at in &drawn[..merged] {
                is_merged[*at] = true;
            }
            let mut flags = is_merged.into_iter();
            let (groups, rest) = of_two.into_iter().partition(|_| flags.next() == Some(true));
            of_two = rest;
            self.merge(groups);
        }
        self.pairs(&of_two);
        self.audiences(&alone);
        self.plan
    }

    /// The conversations that are played, in dataset order, and their people.
    fn choose(&mut self) -> Vec<Talk> {
        let mut talks: Vec<Talk> = self
            .dataset
            .conversations
            .iter()
            .enumerate()
            .map(|(conversation, said)| {
                let first = said.messages[0].sender;
                let second = said.messages.iter().map(|m| m.sender).find(|s| *s != first);
                Talk {
                    conversation,
                    first,
                    second,
                }
            })
            .filter(|talk| !self.options.pairs_only || talk.second.is_some())
            .collect();
        if let Some(count) = self.options.conversations {
            talks.shuffle(&mut self.random);
            talks.truncate(count);
            talks.sort_by_key(|talk| talk.conversation);
        }
        let mut people: Vec<u32> = talks
            .iter()
            .flat_map(|talk| [Some(talk.first), talk.second])
            .flatten()
            .collect();
        people.sort_unstable();
        people.dedup();
        for (number, person) in people.iter().enumerate() {
            let name = self.dataset.people[*person as usize].clone();
            self.plan.users.push(UserId::of(APP, &name));
            self.plan.people.push(name);
            self.person.insert(*person, index(number));
        }
        for talk in &mut talks {
            talk.first = self.person[&talk.first];
            talk.second = talk.second.map(|second| self.person[&second]);
        }
        self.begin_s = talks.first().map_or(0, |talk| {
            self.dataset.conversations[talk.conversation].messages[0].at_s
        });
        talks
    }

    /// Appends a conversation to a thread.
    fn play(&mut self, thread: u32, conversation: usize) {
        for said in &self.dataset.conversations[conversation].messages {
            let lines = &mut self.plan.threads[thread as usize].lines;
            let number = index(self.plan.lines.len());
            self.plan.lines.push(Line {
                thread,
                position: index(lines.len()),
                sender: self.person[&said.sender],
                text: said.text.clone(),
                at_s: said.at_s.saturating_sub(self.begin_s),
            });
            lines.push(number);
        }
    }

    fn thread(&mut self, place: u32) -> u32 {
        self.plan.threads.push(Thread {
            place,
            lines: vec![],
        });
        index(self.plan.threads.len() - 1)
    }

    fn place(&mut self, place: Place) -> u32 {
        self.plan.places.push(place);
        index(self.plan.places.len() - 1)
    }

    fn pairs(&mut self, talks: &[Talk]) {
        let mut threads: BTreeMap<[u32; 2], u32> = BTreeMap::new();
        for talk in talks {
            let second = talk.second.expect("only conversations of two come here");
            let pair = [talk.first.min(second), talk.first.max(second)];
            let thread = match threads.get(&pair) {
                Some(thread) => *thread,
                None => {
                    let place = self.place(Place::Pair(pair));
                    let thread = self.thread(place);
                    threads.insert(pair, thread);
                    thread
                }
            };
            self.play(thread, talk.conversation);
        }
    }

    /// Ten conversations of two make a group.
    fn merge(&mut self, mut talks: Vec<Talk>) {
        talks.shuffle(&mut self.random);
        for ten in talks.chunks_mut(10) {
            ten.sort_by_key(|talk| talk.conversation);
            let owner = ten[0].first;
            let mut members = vec![owner];
            for person in ten
                .iter()
                .flat_map(|talk| [Some(talk.first), talk.second])
                .flatten()
            {
                if !members.contains(&person) {
                    members.push(person);
                }
            }
            // A guest only listens: one whom the owner can remove without stopping a talk.
            let guest = self.listeners(owner, 1, &members).first().copied();
            if let Some(guest) = guest.filter(|_| members.len() < MERGED_MEMBERS) {
                members.push(guest);
            }
            let guest = guest.filter(|guest| members.contains(guest));
            let place = self.place(Place::Group { owner, members });
            // Conversations that share a person share a thread.
            let mut threads: Vec<(Vec<u32>, Vec<usize>)> = Vec::new();
            for talk in ten.iter() {
                let mut people = vec![talk.first];
                people.extend(talk.second);
                let mut conversations = vec![talk.conversation];
                threads.retain(|(others, theirs)| {
                    let shared = others.iter().any(|person| people.contains(person));
                    if shared {
                        people.extend(others);
                        conversations.extend(theirs);
                    }
                    !shared
                });
                conversations.sort_unstable();
                threads.push((people, conversations));
            }
            for (people, conversations) in threads {
                let thread = self.thread(place);
                for conversation in conversations {
                    self.play(thread, conversation);
                }
                if let Some(guest) = guest.filter(|_| people.contains(&owner)) {
                    self.churn(place, thread, guest);
                }
            }
        }
    }

    /// People who are not in `others`, at most `count`.
    fn listeners(&mut self, speaker: u32, count: usize, others: &[u32]) -> Vec<u32> {
        let mut everybody: Vec<u32> = (0..index(self.plan.people.len()))
            .filter(|person| *person != speaker && !others.contains(person))
            .collect();
        let (drawn, _) = everybody.partial_shuffle(&mut self.random, count);
        drawn.to_vec()
    }

    /// Groups of those who talk alone, with audiences.
    fn audiences(&mut self, talks: &[Talk]) {
        let mut sizes: Vec<usize> = talks
            .iter()
            .map(|_| {
                let mut roll = self.random.random_range(0..100_u32);
                let class = AUDIENCES.iter().find(|(_, share)| {
                    let hit = roll < *share;
                    roll = roll.saturating_sub(*share);
                    hit
                });
                class
                    .map_or(1, |(size, _)| *size)
                    .min(self.plan.people.len() - 1)
            })
            .collect();
        self.raise(talks, &mut sizes);
        for (number, (talk, size)) in talks.iter().zip(sizes).enumerate() {
            let mut members = vec![talk.first];
            members.extend(self.listeners(talk.first, size, &[]));
            let place = self.place(Place::Group {
                owner: talk.first,
                members: members.clone(),
            });
            let thread = self.thread(place);
            self.play(thread, talk.conversation);
            // The first few that are long enough, and then every tenth.
            let long = self.plan.threads[thread as usize].lines.len() >= 4;
            if long && size >= 5 && (number % 10 == 0 || self.plan.churn.len() < 5) {
                self.churn(place, thread, members[1]);
            }
        }
    }

    /// Raises the audiences of the longest talks until the whole run has the receivers
    /// a send that are asked for, and not many more.
    fn raise(&self, talks: &[Talk], sizes: &mut [usize]) {
        let length = |at: usize| {
            let said = &self.dataset.conversations[talks[at].conversation].messages;
            said.iter()
                .filter(|message| !message.text.is_empty())
                .count() as u64
        };
        let alone: u64 = talks
            .iter()
            .map(|talk| self.dataset.conversations[talk.conversation].messages.len() as u64)
            .sum();
        // Pairs and merged groups stand in the plan already.
        let wanted = (self.plan.sends() + alone) * self.options.receivers_per_send;
        let mut have = self.plan.deliveries()
            + (0..talks.len())
                .map(|at| length(at) * sizes[at] as u64)
                .sum::<u64>();
        let mut longest: Vec<usize> = (0..talks.len()).collect();
        longest.sort_by_key(|at| (u64::MAX - length(*at), *at));
        for at in longest {
            for (size, _) in AUDIENCES.iter().rev() {
                let size = (*size).min(self.plan.people.len() - 1);
                let more = length(at) * (size as u64).saturating_sub(sizes[at] as u64);
                if have < wanted && size > sizes[at] && have + more <= wanted + wanted / 8 {
                    have += more;
                    sizes[at] = size;
                }
            }
        }
    }

    fn churn(&mut self, place: u32, thread: u32, member: u32) {
        let length = index(self.plan.threads[thread as usize].lines.len());
        if length < 3 {
            return;
        }
        let remove_at = self.random.random_range(1..length - 1);
        let add_at = self.random.random_range(remove_at + 1..length);
        self.plan.churn.push(Churn {
            place,
            member,
            remove_at,
            add_at,
        });
    }
}

fn index(number: usize) -> u32 {
    u32::try_from(number).expect("the dataset has fewer than 2^32 of anything")
}

#[cfg(test)]
mod tests;
