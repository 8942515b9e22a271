//! The session against a model of the server, with lost connections, refusals and
//! repeated answers in between.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use chat_wire::error::Code;
use proptest::prelude::*;

use super::*;
use crate::Refused;

mod server;

use server::{Server, receipt};

const ME: u64 = 7;

fn settings() -> Settings {
    Settings {
        device: 1,
        event_buffer: 8,
        backoff: Backoff {
            first_ms: 10,
            longest_ms: 80,
        },
        kept: 100,
    }
}

fn id(number: u64) -> ClientId {
    let mut bytes = [0; 16];
    bytes[6] = 0x70;
    bytes[8] = 0x80;
    bytes[9..].copy_from_slice(&number.to_be_bytes()[1..]);
    // A recent time: kept messages are forgotten after a day.
    bytes[..6].copy_from_slice(&1_800_000_000_000_u64.to_be_bytes()[2..]);
    ClientId::from_slice(&bytes).unwrap()
}

fn text(conversation: u64, number: u64) -> (ClientId, frame::Send) {
    let id = id(number);
    let send = frame::Send {
        client_msg_id: Bytes::copy_from_slice(&id.0),
        to: Some(frame::Target {
            to: Some(frame::target::To::User(conversation)),
        }),
        content: Some(frame::Content {
            kind: Some(frame::content::Kind::Text(number.to_string())),
        }),
        ..frame::Send::default()
    };
    (id, send)
}

/// Client, network and server, with what the application has got so far.
struct World {
    session: Session,
    server: Server,
    to_server: VecDeque<Frame>,
    now_ms: u64,
    connected: bool,
    numbers: u64,
    sent: Vec<(u64, ClientId)>,
    answered: HashMap<ClientId, i64>,
    events: Vec<u64>,
    taken: usize,
    gaps: Vec<(u64, u64)>,
    confirmed: BTreeMap<u64, i64>,
    marks: BTreeMap<u64, i64>,
}

impl World {
    fn new(resume: Option<State>) -> Self {
        Self {
            session: Session::new(settings(), resume, 5),
            server: Server::new(),
            to_server: VecDeque::new(),
            now_ms: 0,
            connected: false,
            numbers: 0,
            sent: Vec::new(),
            answered: HashMap::new(),
            events: Vec::new(),
            taken: 0,
            gaps: Vec::new(),
            confirmed: BTreeMap::new(),
            marks: BTreeMap::new(),
        }
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            let unread = u32::try_from(self.events.len() - self.taken).unwrap();
            self.session.hello(self.now_ms, "t".into(), unread);
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.to_server.clear();
        self.server.disconnect();
        self.session.disconnected();
    }

    fn send(&mut self, conversation: u64) {
        self.numbers += 1;
        let (id, send) = text(conversation, self.numbers);
        self.sent.push((conversation, id));
        self.session.send(id, send);
    }

    fn mark(&mut self, conversation: u64) {
        let mark = self.marks.entry(conversation).or_default();
        *mark += 1;
        let mut out = Vec::new();
        self.session.mark(conversation, *mark, &mut out);
        self.apply(out);
    }

    fn take(&mut self, count: usize) {
        let count = count.min(self.events.len() - self.taken);
        self.taken += count;
        let acked = self
            .taken
            .checked_sub(1)
            .map_or(0, |last| self.events[last]);
        let generation = self.session.generation;
        self.session
            .taken(u32::try_from(count).unwrap(), acked, generation);
    }

    fn transmit(&mut self) -> bool {
        let to_server = &mut self.to_server;
        self.session
            .transmit(self.now_ms, &mut |frame| to_server.push_back(frame.clone()))
    }

    fn serve(&mut self, fail: bool) -> bool {
        let Some(frame) = self.to_server.pop_front() else {
            return false;
        };
        self.server.hear(&frame, fail);
        true
    }

    fn receive(&mut self) -> bool {
        let Some(frame) = self.server.to_client.pop_front() else {
            return false;
        };
        let mut out = Vec::new();
        self.session.receive(self.now_ms, frame, &mut out);
        self.apply(out);
        true
    }

    fn pass_time(&mut self, ms: u64) {
        self.now_ms += ms;
        let mut out = Vec::new();
        self.session.tick(self.now_ms, &mut out);
        self.apply(out);
    }

    fn apply(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Events(events) => self.events.extend(events.iter().map(|e| e.inbox_seq)),
                Output::Sent { id, sent, .. } => {
                    assert_eq!(
                        self.answered.insert(id, sent.msg_id),
                        None,
                        "answered twice"
                    );
                }
                Output::Gap(oldest, head) => self.gaps.push((oldest, head)),
                Output::MarkConfirmed {
                    conversation,
                    seen_up_to,
                } => {
                    let confirmed = self.confirmed.entry(conversation).or_default();
                    *confirmed = (*confirmed).max(seen_up_to);
                }
                Output::Lost { reason, .. } => {
                    assert!(!reason.contains("came after"), "{reason}");
                    self.disconnect();
                }
                Output::Attached(_) | Output::Receipt { .. } => {}
                other => panic!("not expected here: {other:?}"),
            }
        }
    }

    /// No more faults: everything that can be done is done.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            self.connect();
            let mut progress = self.transmit();
            progress |= self.serve(false);
            progress |= self.receive();
            if self.taken < self.events.len() {
                self.take(1);
                progress = true;
            }
            if !progress {
                if self.answered.len() == self.sent.len() {
                    return;
                }
                self.pass_time(20);
            }
        }
        panic!("the session does not come to rest");
    }

    fn committed(&self, conversation: u64) -> Vec<ClientId> {
        self.server
            .committed
            .iter()
            .filter(|(other, _)| *other == conversation)
            .map(|(_, id)| *id)
            .collect()
    }

    fn check(&self) {
        for conversation in 0..4 {
            let sent: Vec<_> = self
                .sent
                .iter()
                .filter(|(other, _)| *other == conversation)
                .map(|(_, id)| *id)
                .collect();
            assert_eq!(
                self.committed(conversation),
                sent,
                "conversation {conversation}"
            );
        }
        let unique: HashSet<_> = self.server.committed.iter().collect();
        assert_eq!(unique.len(), self.server.committed.len());
        let all: Vec<u64> = (1..=self.server.inbox.len() as u64).collect();
        assert_eq!(self.events, all);
        assert_eq!(self.server.acked, all.len() as u64);
        assert_eq!(self.server.seen, self.marks);
        assert_eq!(self.confirmed, self.marks);
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Send(u64),
    Transmit,
    Serve,
    Fail,
    Receive,
    Disconnect,
    Connect,
    Event,
    Take(usize),
    Mark(u64),
    Time(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..4_u64).prop_map(Op::Send),
        6 => Just(Op::Transmit),
        6 => Just(Op::Serve),
        2 => Just(Op::Fail),
        6 => Just(Op::Receive),
        1 => Just(Op::Disconnect),
        2 => Just(Op::Connect),
        3 => Just(Op::Event),
        2 => (1..5_usize).prop_map(Op::Take),
        1 => (1..3_u64).prop_map(Op::Mark),
        2 => (1..60_u64).prop_map(Op::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_in_between_every_message_is_committed_once_and_in_order(
        ops in prop::collection::vec(op(), 0..200)
    ) {
        let mut world = World::new(Some(State::default()));
        for op in ops {
            match op {
                Op::Send(conversation) => world.send(conversation),
                Op::Transmit => drop(world.transmit()),
                Op::Serve => drop(world.serve(false)),
                Op::Fail => drop(world.serve(true)),
                Op::Receive => drop(world.receive()),
                Op::Disconnect => world.disconnect(),
                Op::Connect => world.connect(),
                Op::Event => world.server.event(),
                Op::Take(count) => world.take(count),
                Op::Mark(conversation) => world.mark(conversation),
                Op::Time(ms) => world.pass_time(ms),
            }
        }
        world.settle();
        world.check();
    }
}

#[test]
fn a_fresh_device_gets_only_what_comes_after_it_attached() {
    let mut world = World::new(None);
    world.server.event();
    world.settle();
    assert!(world.events.is_empty());
    world.server.event();
    world.settle();
    assert_eq!(world.events, [2]);
    world.disconnect();
    world.server.event();
    world.settle();
    assert_eq!(world.events, [2, 3], "the second connection resumes");
}

#[test]
fn a_message_that_failed_goes_again_before_those_behind_it() {
    let mut world = World::new(None);
    world.settle();
    for _ in 0..3 {
        world.send(2);
    }
    while world.transmit() {}
    world.serve(true);
    while world.serve(false) {}
    assert!(
        world.server.committed.is_empty(),
        "the others are OUT_OF_ORDER"
    );
    while world.receive() {}
    assert!(!world.transmit(), "nothing goes before the pause is over");
    world.settle();
    assert_eq!(world.committed(2), [id(1), id(2), id(3)]);
}

#[test]
fn a_message_given_up_does_not_hold_the_later_ones_back() {
    let mut world = World::new(None);
    world.settle();
    world.send(2);
    world.send(2);
    while world.transmit() {}
    world.serve(true);
    while world.serve(false) {}
    while world.receive() {}
    let mut out = Vec::new();
    world.session.abandon(id(1), &mut out);
    assert!(matches!(out[..], [Output::Abandoned { .. }]));
    world.sent.remove(0);
    world.settle();
    assert_eq!(world.committed(2), [id(2)]);
}

#[test]
fn a_final_refusal_ends_one_message_and_the_later_ones_go_on() {
    let mut world = World::new(None);
    world.settle();
    world.send(2);
    world.send(2);
    while world.transmit() {}
    let frame = world.to_server.pop_front().unwrap();
    world.server.refuse(frame.req, Code::Conflict);
    let refusal = world.server.to_client.pop_front().unwrap();
    let mut out = Vec::new();
    world.session.receive(0, refusal, &mut out);
    let [Output::SendRefused { id: refused, .. }] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!(*refused, id(1));
    world.sent.remove(0);
    world.settle();
    assert_eq!(world.committed(2), [id(2)]);
}

#[test]
fn after_is_the_highest_message_seen_in_the_conversation() {
    let mut world = World::new(Some(State::default()));
    world.settle();
    world.server.event();
    world.server.event();
    world.settle();
    world.send(3);
    world.send(2);
    while world.transmit() {}
    let after: Vec<i64> = world
        .to_server
        .iter()
        .filter_map(|frame| match &frame.body {
            Some(Body::Send(send)) => Some(send.after),
            _ => None,
        })
        .collect();
    assert_eq!(after, [2_000, 0]);
}

#[test]
fn another_generation_is_a_gap_and_gets_what_was_acknowledged_again_first() {
    let mut world = World::new(Some(State::default()));
    world.server.event();
    world.send(2);
    world.settle();
    assert_eq!(world.server.acked, 1);
    world.disconnect();
    world.send(2);
    // Restored from a backup of before all this.
    world.server = Server {
        generation: 2,
        ..Server::new()
    };
    world.server.event();
    world.events.clear();
    world.taken = 0;
    world.settle();
    assert_eq!(world.gaps, [(1, 1)]);
    assert_eq!(world.committed(2), [id(1), id(2)]);
    assert_eq!(world.session.tally().resubmitted, 1);
    world.server.event();
    world.settle();
    assert_eq!(world.events, [2], "numbers of the new generation count");
}

#[test]
fn events_that_come_twice_are_dropped_and_a_hole_ends_the_connection() {
    let mut world = World::new(Some(State::default()));
    world.server.event();
    world.settle();
    let event = |inbox_seq| frame::Event {
        inbox_seq,
        ..frame::Event::default()
    };
    let mut out = Vec::new();
    let batch = frame::EventBatch {
        events: vec![event(1), event(2), event(4)],
    };
    world
        .session
        .receive(0, Body::Event(batch).into(), &mut out);
    let [Output::Events(events), Output::Lost { .. }] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].inbox_seq, 2);
    world.session.disconnected();
    world.session.hello(0, String::new(), 0);
    let mut resume = None;
    world.session.transmit(0, &mut |frame| {
        if let Some(Body::Hello(hello)) = &frame.body {
            resume = hello.resume.clone();
        }
    });
    assert_eq!(resume.unwrap().inbox_seq, 2);
}

#[test]
fn the_version_of_marks_does_not_move_over_a_hole() {
    let mut world = World::new(None);
    world.settle();
    let mut versions = Vec::new();
    for (from, to) in [(0, 1), (1, 3), (4, 5), (5, 6), (2, 4), (1, 2)] {
        let mut out = Vec::new();
        world
            .session
            .receive(0, receipt(from, to, 3, 9, 1).into(), &mut out);
        versions.push((out.len(), world.session.marks.version()));
    }
    assert_eq!(
        versions,
        [(1, 1), (1, 3), (1, 3), (1, 3), (1, 4), (0, 4)],
        "a receipt behind a hole is told, but not counted"
    );
}

#[test]
fn silence_is_answered_by_a_heartbeat_and_then_by_another_connection() {
    let mut world = World::new(None);
    world.settle();
    let quiet = world.session.deadline_ms();
    assert_eq!(quiet, 60_000);
    let mut out = Vec::new();
    world.session.tick(quiet, &mut out);
    let mut frames = Vec::new();
    world
        .session
        .transmit(quiet, &mut |frame| frames.push(frame.clone()));
    assert!(matches!(frames[0].body, Some(Body::Ping(_))));
    assert_eq!(world.session.deadline_ms(), quiet + PONG_MS);
    world.session.tick(quiet + PONG_MS, &mut out);
    assert!(matches!(out[..], [Output::Lost { .. }]));
    world.disconnect();
    world.now_ms = quiet + PONG_MS;
    world.settle();
    assert_eq!(
        world.session.deadline_ms(),
        world.now_ms + 30_000,
        "after a silent loss it knocks twice as often"
    );
}

#[test]
fn whoever_waits_for_an_answer_notices_sooner_that_the_server_is_gone() {
    let mut world = World::new(None);
    world.settle();
    world.now_ms = 30_000;
    world.send(2);
    assert!(world.transmit());
    assert_eq!(world.session.deadline_ms(), 30_000 + IMPATIENT_MS);
    let mut out = Vec::new();
    world.session.tick(32_000, &mut out);
    assert!(out.is_empty());
    assert_eq!(world.session.deadline_ms(), 32_000 + URGENT_PONG_MS);
    world.session.tick(37_000, &mut out);
    assert!(matches!(out[..], [Output::Lost { .. }]));
}

#[test]
fn a_transport_that_forgets_early_has_a_shorter_heartbeat() {
    let mut world = World::new(None);
    world.session.limit_heartbeat(3_000);
    world.settle();
    assert_eq!(world.session.deadline_ms(), 3_000);
}

#[test]
fn a_refused_token_is_final_and_an_overloaded_server_is_not() {
    for (code, is_final) in [(Code::BadToken, true), (Code::TooManyConnections, false)] {
        let mut world = World::new(None);
        world.connect();
        world.server.refuse(0, code);
        let error = world.server.to_client.pop_front().unwrap();
        let mut out = Vec::new();
        world.session.receive(0, error, &mut out);
        assert_eq!(
            matches!(out[..], [Output::Refused(_)]),
            is_final,
            "{code:?}"
        );
        assert_eq!(
            matches!(out[..], [Output::Lost { .. }]),
            !is_final,
            "{code:?}"
        );
    }
}

#[test]
fn subscriptions_are_made_again_on_each_connection() {
    let mut world = World::new(None);
    world.settle();
    let subscribe = Body::PresenceSubscribe(frame::PresenceSubscribe { users: vec![4, 5] });
    world.session.request(subscribe.clone());
    let mut frames = Vec::new();
    world
        .session
        .transmit(0, &mut |frame| frames.push(frame.clone()));
    let mut out = Vec::new();
    let done = Frame::new(frames[0].req, Body::Done(frame::Done {}));
    world.session.receive(0, done, &mut out);
    assert!(matches!(out[..], [Output::Answered { ticket: 1, .. }]));
    world.disconnect();
    world.connect();
    while world.transmit() {}
    world.serve(false);
    while world.receive() {}
    while world.transmit() {}
    assert!(
        world
            .to_server
            .iter()
            .any(|frame| frame.body.as_ref() == Some(&subscribe))
    );
}
