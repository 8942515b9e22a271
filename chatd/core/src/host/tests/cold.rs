//! Reads that would wait for the disk: they are done when they no longer would, and
//! the shard goes on meanwhile.

use chat_wire::{
    codec::Encoding,
    error::Code,
    frame::{self, Body},
    ids::{ConversationId, DeviceId, GroupId, MsgId, SessionId, UserId},
};

use super::{
    super::{MAX_WARMING, attach::MAX_WAITING},
    groups::group_of,
};
use crate::{
    message::{Attach, HistoryFrom, Identity, Origin, Read, Request, Resume, ToSession, ToShard},
    simulated::{Faults, Node},
};

fn history(with: &str) -> Body {
    Body::History(frame::HistoryGet {
        conversation: UserId::of("default", with).0,
        from: Some(frame::history_get::From::Before(0)),
        limit: 50,
    })
}

fn texts_of(body: Body) -> Vec<String> {
    match body {
        Body::HistoryPage(page) => page
            .events
            .iter()
            .filter_map(crate::simulated::text_of)
            .collect(),
        other => panic!("no page but {other:?}"),
    }
}

/// One shard, so that all share a thread; bob has messages from ann, and is quiet.
fn quiet_node(messages: u32) -> (Node, SessionId, SessionId) {
    let mut node = Node::with(1, 5, |host, session| {
        session.limits.sends_burst = 10_000;
        // All that is asked for has its turn at once.
        (host.turn_units, host.pass_units) = (u32::MAX, u32::MAX);
    });
    let ann = node.attach("ann", 1, None);
    let bob = node.attach("bob", 1, None);
    for req in 1..=messages {
        node.text(ann, req, "bob", &format!("message {req}"));
        node.wait_sent(ann, req);
    }
    node.run(3_000);
    (node, ann, bob)
}

#[test]
fn a_cold_read_is_answered_when_it_is_warm_and_nobody_waits_for_it_meanwhile() {
    let (mut node, ann, bob) = quiet_node(3);
    node.cool("bob");
    node.readers_hang = true;
    node.frame(bob, 1, history("ann"));
    node.frame(
        bob,
        2,
        Body::Conversations(frame::ConversationsGet::default()),
    );
    node.run(500);
    assert_eq!((node.answer(bob, 1), node.answer(bob, 2)), (None, None));
    assert!(
        node.host
            .store(node.shard_of("bob"))
            .unwrap()
            .is_cold(UserId::of("default", "bob").key())
    );
    // Another user of the same thread is served.
    node.text(ann, 9, "ann", "note");
    node.wait_sent(ann, 9);
    assert_eq!(node.warming(), 2);

    node.readers_hang = false;
    let page = texts_of(node.wait(bob, 1));
    assert_eq!(page, ["message 3", "message 2", "message 1"]);
    assert!(matches!(node.wait(bob, 2), Body::ConversationsPage(_)));
    let counters = node.host.counters();
    assert_eq!((counters.cold_reads, counters.cold_again), (2, 0));
    // Now it is warm.
    node.frame(bob, 3, history("ann"));
    node.wait(bob, 3);
    assert_eq!(node.host.counters().cold_reads, 2);
}

#[test]
fn what_is_cold_again_is_read_there_and_not_warmed_again() {
    let (mut node, _, bob) = quiet_node(1);
    node.cool("bob");
    node.memory_is_short = true;
    node.frame(bob, 1, history("ann"));
    assert_eq!(texts_of(node.wait(bob, 1)), ["message 1"]);
    let counters = node.host.counters();
    assert_eq!((counters.cold_reads, counters.cold_again), (1, 1));
}

#[test]
fn a_resume_that_meets_the_cold_misses_nothing_and_repeats_nothing() {
    let (mut node, ann, bob) = quiet_node(300);
    node.lose(bob);
    node.run(100);
    node.cool("bob");
    node.readers_hang = true;
    let bob = node.open(Encoding::Proto);
    let hello = frame::Hello {
        event_credits: Some(0),
        ..Node::hello("bob", 1, Node::resume_from(0))
    };
    node.frame(bob, 0, Body::Hello(hello));
    node.run(100);
    assert!(node.welcome(bob).is_none(), "its rows are on the disk");
    node.readers_hang = false;
    node.run_until(100, |node| node.welcome(bob).is_some());

    // Each page is cold; messages arrive while it is read.
    let mut credits = 0;
    for req in 301..=320 {
        node.cool("bob");
        node.readers_hang = true;
        node.credit(bob, 10);
        credits += 10;
        let before = node.host.counters().cold_reads;
        node.run(5);
        assert_eq!(node.host.counters().cold_reads, before + 1);
        node.text(ann, req, "bob", &format!("message {req}"));
        node.wait_sent(ann, req);
        assert_eq!(node.events(bob).len(), credits - 10);
        assert!(!node.spins(), "what waits for the disk costs nothing");
        node.readers_hang = false;
        node.run_until(100, |node| node.events(bob).len() == credits);
    }
    node.credit(bob, 1000);
    node.run_until(1_000, |node| node.events(bob).len() >= 320);
    node.run(100);
    let sequences: Vec<_> = node.events(bob).iter().map(|e| e.inbox_seq).collect();
    assert_eq!(sequences, (1..=320).collect::<Vec<_>>());
}

#[test]
fn a_session_that_goes_away_meanwhile_is_forgotten() {
    let (mut node, _, bob) = quiet_node(1);
    let group = group_of(&mut node, bob, 1, &["ann"]);
    node.run(3_000);
    let shard = node.shard_of("bob");
    let store = node.host.store(shard).unwrap();
    store.cool(GroupId(group.group).key());
    store.cool(UserId::of("default", "bob").key());
    node.readers_hang = true;
    let marks = frame::MarksGet {
        group: group.group,
        follow: true,
        ..frame::MarksGet::default()
    };
    node.frame(bob, 2, Body::Marks(marks));
    node.frame(bob, 3, history("ann"));
    // A second device does not get beyond HELLO.
    let second = node.open(Encoding::Proto);
    node.frame(second, 0, Body::Hello(Node::hello("bob", 2, None)));
    node.run(20);
    assert_eq!(node.warming(), 3);
    let attached = node.host.counters().attached;
    node.lose(bob);
    node.lose(second);
    node.readers_hang = false;
    node.run(1_000);
    assert_eq!(node.warming(), 0);
    assert_eq!(node.host.followers(shard), 0);
    assert_eq!(node.host.counters().attached, attached);
    assert_eq!(node.host.status()[1].sessions, 1, "ann's");
}

#[test]
fn the_last_word_on_following_a_group_is_the_last_one_said() {
    let (mut node, _, bob) = quiet_node(1);
    let group = group_of(&mut node, bob, 1, &["ann"]);
    let shard = node.shard_of("bob");
    let marks = |follow| {
        Body::Marks(frame::MarksGet {
            group: group.group,
            follow,
            ..frame::MarksGet::default()
        })
    };
    node.readers_hang = true;
    let store = node.host.store(shard).unwrap();
    store.cool(GroupId(group.group).key());
    node.frame(bob, 2, marks(true));
    node.frame(bob, 3, marks(false));
    node.readers_hang = false;
    node.wait(bob, 2);
    node.wait(bob, 3);
    node.run(100);
    assert_eq!(node.host.followers(shard), 0);
}

#[test]
fn a_newer_session_of_a_device_is_not_ended_by_an_older_one_that_waited() {
    let (mut node, _, bob) = quiet_node(1);
    node.lose(bob);
    node.run(100);
    node.cool("bob");
    node.readers_hang = true;
    let open = |node: &mut Node| {
        let session = node.open(Encoding::Proto);
        node.frame(session, 0, Body::Hello(Node::hello("bob", 1, None)));
        session
    };
    let older = open(&mut node);
    let newer = open(&mut node);
    node.readers_hang = false;
    node.run_until(1_000, |node| node.welcome(newer).is_some());
    node.run(100);
    assert!(node.welcome(older).is_none() && node.closed(newer).is_none());
    let replaced = |frame: &frame::Frame| matches!(frame.body, Some(Body::Replaced(_)));
    assert!(node.frames(older).any(replaced));
}

/// A request of a session that the host does not know.
fn read(node: &Node, req: u32) -> ToShard {
    let user = UserId::of("default", "bob");
    ToShard {
        shard: node.shard_of("bob"),
        request: Request::Read {
            origin: Origin {
                session: SessionId(999),
                req,
            },
            user,
            read: Read::History {
                conversation: ConversationId(UserId::of("default", "ann").0),
                from: HistoryFrom::Before(MsgId(0)),
                limit: 10,
            },
        },
    }
}

fn attach(node: &Node, number: u64) -> ToShard {
    let attach = Attach {
        session: SessionId(10_000 + number),
        identity: Identity {
            app: "default".into(),
            name: "bob".into(),
            user: UserId::of("default", "bob"),
            device: None,
            expires_ms: u64::MAX,
        },
        device: DeviceId(10_000 + number),
        resume: Some(Resume {
            inbox_seq: 0,
            marks_version: 0,
            generation: 0,
        }),
        encoding: Encoding::Proto,
        event_credits: 0,
        foreground: true,
    };
    ToShard {
        shard: node.shard_of("bob"),
        request: Request::Attach(attach),
    }
}

/// What a host says to sessions now.
fn told(node: &mut Node) -> Vec<(SessionId, ToSession)> {
    let mut effects = Vec::new();
    node.host.poll(node.now, &mut effects);
    let told = effects.iter().filter_map(|effect| match effect {
        super::super::Effect::ToSession { session, message } => Some((*session, message.clone())),
        _ => None,
    });
    let told = told.collect();
    for effect in effects {
        node.effect(effect);
    }
    told
}

#[test]
fn what_finds_no_room_is_refused_or_waits_its_turn() {
    let (mut node, ann, bob) = quiet_node(30);
    node.faults = Faults::NONE;
    node.lose(bob);
    node.run(100);
    let bob = node.open(Encoding::Proto);
    let hello = frame::Hello {
        event_credits: Some(0),
        ..Node::hello("bob", 1, Node::resume_from(0))
    };
    node.frame(bob, 0, Body::Hello(hello));
    node.run_until(100, |node| node.welcome(bob).is_some());
    node.cool("bob");
    node.readers_hang = true;
    let bound = u32::try_from(MAX_WARMING).unwrap();
    for req in 1..=bound {
        let to = read(&node, req);
        node.submit(to);
    }
    assert_eq!(told(&mut node), []);
    assert_eq!(node.warming(), MAX_WARMING);
    // A request is refused.
    let to = read(&node, bound + 1);
    node.submit(to);
    let refused = told(&mut node);
    assert!(
        matches!(&refused[..], [(_, ToSession::Refused { req, refusal, .. })]
            if *req == bound + 1 && refusal.code == Code::Overloaded
                && refusal.retry_after_ms.is_some()),
        "{refused:?}"
    );
    // A session that catches up waits, and costs nothing meanwhile.
    node.credit(bob, 100);
    node.run(5);
    assert!(!node.spins());
    assert_eq!((node.events(bob).len(), node.warming()), (0, MAX_WARMING));
    // So do sessions on their way in, up to their bound.
    for number in 0..MAX_WAITING as u64 {
        let to = attach(&node, number);
        node.submit(to);
    }
    assert_eq!(told(&mut node), []);
    let to = attach(&node, MAX_WAITING as u64);
    node.submit(to);
    let closed = told(&mut node);
    assert!(
        matches!(&closed[..], [(_, ToSession::Close(refusal))] if refusal.code == Code::Overloaded),
        "{closed:?}"
    );
    assert!(!node.spins());
    // What is on the shelf of a session that is gone is gone too.
    let user = UserId::of("default", "bob");
    for number in 3..MAX_WAITING as u64 {
        let session = SessionId(10_000 + number);
        node.submit(ToShard {
            shard: node.shard_of("bob"),
            request: Request::Detach { session, user },
        });
    }
    // Others are served; then there is room, and everyone has what they waited for.
    node.text(ann, 99, "ann", "note");
    node.wait_sent(ann, 99);
    let attached = node.host.counters().attached;
    node.readers_hang = false;
    node.run_until(2_000, |node| node.events(bob).len() == 30);
    node.run_until(2_000, |node| node.host.counters().attached == attached + 3);
    assert!(!node.spins());
}

#[test]
fn a_shard_that_stops_tells_those_who_wait_for_the_disk() {
    let (mut node, ann, bob) = quiet_node(1);
    node.cool("bob");
    node.readers_hang = true;
    node.frame(bob, 1, history("ann"));
    let late = node.open(Encoding::Proto);
    node.frame(late, 0, Body::Hello(Node::hello("bob", 2, None)));
    node.run(5);
    assert_eq!(node.warming(), 2);
    let shard = node.shard_of("bob");
    let damaged = crate::shard::keys::profile(UserId::of("default", "zoe").key());
    node.host.store_mut(shard).unwrap().damage(Some(damaged));
    node.text(ann, 9, "zoe", "are you there?");
    assert_eq!(node.wait_error(bob, 1), Code::Damaged);
    assert_eq!(node.closed(late), Some(Code::Damaged));
    node.readers_hang = false;
    node.run(100);
    assert_eq!(node.stops.len(), 1);
}
