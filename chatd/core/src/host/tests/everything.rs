//! Everything at once: people who chat in pairs and in a group, over shards whose
//! messages are lost, repeated and late, on a slow disk, with crashes and broken
//! connections. At rest every device has every acknowledged message exactly once, in
//! its sender's order, and nobody else has any.

use chat_wire::{
    frame::{self, Body, Frame, target::To},
    ids::{ClientId, SessionId, UserId},
};
use std::collections::{BTreeMap, BTreeSet};

use super::groups::group_of;
use crate::simulated::{Faults, Node, text_of};

const NAMES: [&str; 5] = ["ann", "bob", "cid", "dan", "eve"];
/// Members of the group.
const MEMBERS: usize = 3;
/// Stands for the group among the people one writes to.
const GROUP: usize = NAMES.len();

struct Message {
    id: ClientId,
    to: usize,
    text: String,
}

#[derive(Default)]
struct Device {
    number: u64,
    session: Option<SessionId>,
    read: usize,
    events: Vec<frame::Event>,
}

struct Person {
    name: &'static str,
    devices: [Device; 2],
    /// In the order in which they were written.
    unacknowledged: Vec<Message>,
    in_flight: BTreeMap<u32, ClientId>,
    next_req: u32,
}

impl Person {
    fn cursor(&self, device: usize) -> u64 {
        self.devices[device].events.len() as u64
    }
}

struct World {
    node: Node,
    people: Vec<Person>,
    group: u64,
    /// Acknowledged texts, by (sender, to), in order.
    acknowledged: BTreeMap<(usize, usize), Vec<(String, i64)>>,
    texts: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut node = Node::with(6, seed, |host, session| {
            host.flush_bytes = 8 * 1024;
            session.limits.sends_burst = 100_000;
        });
        let people: Vec<_> = NAMES
            .iter()
            .map(|name| Person {
                name,
                devices: [1, 2].map(|number| Device {
                    number,
                    ..Device::default()
                }),
                unacknowledged: Vec::new(),
                in_flight: BTreeMap::new(),
                next_req: 1,
            })
            .collect();
        // Everybody's first device begins with the empty inbox.
        let founder = node.attach(NAMES[0], 99, None);
        for name in &NAMES[1..] {
            node.attach(name, 99, None);
        }
        let group = group_of(&mut node, founder, 1, &NAMES[1..MEMBERS]).group;
        node.run(500);
        Self {
            node,
            people,
            group,
            acknowledged: BTreeMap::new(),
            texts: 0,
        }
    }

    fn connect(&mut self, at: usize, device: usize) {
        let person = &mut self.people[at];
        let resume = Node::resume_from(person.cursor(device));
        let session = self.node.open(chat_wire::codec::Encoding::Proto);
        let mut hello = Node::hello(person.name, person.devices[device].number, resume);
        hello.event_credits = Some(20);
        self.node.frame(session, 0, Body::Hello(hello));
        person.devices[device].session = Some(session);
        person.devices[device].read = 0;
        if device == 0 {
            person.in_flight.clear();
        }
    }

    fn write(&mut self, at: usize) {
        let others = NAMES.len() as u64 + u64::from(at < MEMBERS);
        let to = usize::try_from(self.node.chance.below(others)).unwrap();
        self.texts += 1;
        let text = format!("text {}", self.texts);
        let id = self.node.id();
        self.people[at]
            .unacknowledged
            .push(Message { id, to, text });
    }

    /// Sends what is not in flight, in order.
    fn send(&mut self, at: usize) {
        let person = &mut self.people[at];
        let Some(session) = person.devices[0].session else {
            return;
        };
        if self.node.welcome(session).is_none() {
            return;
        }
        let in_flight: BTreeSet<_> = person.in_flight.values().copied().collect();
        let mut frames = Vec::new();
        for Message { id, to, text } in &person.unacknowledged {
            if !in_flight.contains(id) {
                let target = match *to {
                    GROUP => To::Group(self.group),
                    to => To::Name(NAMES[to].into()),
                };
                let req = person.next_req;
                person.next_req += 1;
                person.in_flight.insert(req, *id);
                frames.push((req, Body::Send(Node::send_of(*id, target, text))));
            }
        }
        for (req, body) in frames {
            self.node.frame(session, req, body);
        }
    }

    /// What arrived at a device: stored, acknowledged, paid for with credits.
    fn read(&mut self, at: usize, device: usize) {
        let Some(session) = self.people[at].devices[device].session else {
            return;
        };
        if self
            .node
            .clients
            .get(&session)
            .is_none_or(|client| client.closed.is_some())
        {
            self.people[at].devices[device].session = None;
            return;
        }
        let read = self.people[at].devices[device].read;
        let frames: Vec<Frame> = self.node.frames(session).skip(read).cloned().collect();
        self.people[at].devices[device].read += frames.len();
        let mut got = 0;
        for frame in frames {
            match frame.body {
                Some(Body::Event(batch)) => {
                    for event in batch.events {
                        got += 1;
                        let events = &mut self.people[at].devices[device].events;
                        assert_eq!(
                            event.inbox_seq,
                            events.len() as u64 + 1,
                            "no gap, no repeat"
                        );
                        events.push(event);
                    }
                }
                Some(Body::Sent(sent)) => self.acknowledge(at, frame.req, &sent),
                Some(Body::Error(error)) => {
                    assert!(error.retryable, "{error:?}");
                    self.people[at].in_flight.remove(&frame.req);
                }
                Some(Body::Gap(gap)) => panic!("{gap:?}"),
                _ => {}
            }
        }
        if got > 0 {
            self.node.credit(session, got);
            let cursor = self.people[at].cursor(device);
            self.node.ack(session, cursor);
        }
    }

    fn acknowledge(&mut self, at: usize, req: u32, sent: &frame::Sent) {
        let person = &mut self.people[at];
        let id = person.in_flight.remove(&req).unwrap();
        let place = person
            .unacknowledged
            .iter()
            .position(|message| message.id == id)
            .unwrap();
        let message = person.unacknowledged.remove(place);
        let texts = self.acknowledged.entry((at, message.to)).or_default();
        texts.push((message.text, sent.msg_id));
    }

    fn step(&mut self) {
        let ms = self.node.chance.below(40);
        self.node.run(ms);
        for at in 0..self.people.len() {
            for device in [0, 1] {
                self.read(at, device);
            }
            if self.people[at].devices[0].session.is_none() {
                self.connect(at, 0);
            }
            self.send(at);
        }
    }

    fn chaos(&mut self, steps: usize) {
        for _ in 0..steps {
            for at in 0..self.people.len() {
                if self.node.chance.percent(40) {
                    self.write(at);
                }
                if self.node.chance.percent(3)
                    && let Some(session) = self.people[at].devices[0].session.take()
                {
                    self.node.lose(session);
                }
            }
            if self.node.chance.percent(2) {
                self.node.crash();
                for person in &mut self.people {
                    person.devices[0].session = None;
                }
            }
            self.step();
        }
    }

    fn rest(&mut self) {
        self.node.faults = Faults::NONE;
        for at in 0..self.people.len() {
            self.connect(at, 1);
        }
        for _ in 0..400 {
            self.step();
        }
        for person in &self.people {
            assert!(
                person.unacknowledged.is_empty(),
                "{} is not done",
                person.name
            );
        }
    }

    fn check(&mut self) {
        for (at, person) in self.people.iter().enumerate() {
            let [live, late] = &person.devices;
            assert_eq!(live.events, late.events, "{}'s devices agree", person.name);
            let mut expected = BTreeSet::new();
            for ((sender, to), texts) in &self.acknowledged {
                let entitled = *sender == at || *to == at || (*to == GROUP && at < MEMBERS);
                if entitled {
                    expected.extend(texts.iter().map(|(text, _)| text.clone()));
                    self.check_order(&live.events, *sender, *to, texts);
                }
            }
            let texts: Vec<_> = live.events.iter().filter_map(text_of).collect();
            assert_eq!(
                texts.len(),
                expected.len(),
                "{}: each exactly once",
                person.name
            );
            assert_eq!(texts.into_iter().collect::<BTreeSet<_>>(), expected);
        }
        self.check_marks();
    }

    /// One sender's messages to one place are in the order in which they were written.
    fn check_order(
        &self,
        events: &[frame::Event],
        sender: usize,
        to: usize,
        texts: &[(String, i64)],
    ) {
        let wanted: BTreeSet<_> = texts.iter().map(|(text, _)| text).collect();
        let mut written: Vec<_> = texts.iter().map(|(text, _)| text.clone()).collect();
        written.sort_by_key(|text| text[5..].parse::<u32>().unwrap());
        let got: Vec<_> = events
            .iter()
            .filter_map(text_of)
            .filter(|t| wanted.contains(t))
            .collect();
        assert_eq!(got, written, "{} to {to}", NAMES[sender]);
    }

    /// Everybody acknowledged everything: marks say so.
    fn check_marks(&mut self) {
        self.node.run(5_000);
        for (at, writer) in NAMES.iter().enumerate() {
            let session = self.people[at].devices[0].session.unwrap();
            let get = frame::ConversationsGet::default();
            self.node
                .frame(session, 1_000_000, Body::Conversations(get));
            let Body::ConversationsPage(page) = self.node.wait(session, 1_000_000) else {
                panic!()
            };
            for (to, name) in NAMES.iter().enumerate().filter(|(to, _)| *to != at) {
                let last = self
                    .acknowledged
                    .get(&(at, to))
                    .and_then(|texts| texts.iter().map(|(_, msg_id)| *msg_id).max());
                let user = UserId::of("default", name).0;
                let of = page.conversations.iter().find(|c| c.conversation == user);
                let delivered = of.map(|c| c.peer_delivered_up_to);
                assert_eq!(delivered.filter(|d| *d != 0), last, "{writer} to {name}");
            }
        }
    }
}

#[test]
fn under_faults_and_crashes_every_device_has_every_message_once_and_in_order() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        world.node.faults = Faults::BAD;
        world.chaos(120);
        world.rest();
        world.check();
        let texts: usize = world.acknowledged.values().map(Vec::len).sum();
        assert!(texts > 150, "seed {seed}: {texts} texts");
        assert_eq!(world.node.stops, []);
    }
}
