//! Every queue has a bound, and what happens there; nothing leaves before its sync.

use bytes::Bytes;
use chat_wire::{
    body,
    codec::Encoding,
    error::Code,
    frame::{self, Body, target::To},
    ids::{ClientId, DeviceId, SessionId, ShardId, UserId},
};

use super::super::{
    Effect, Event, HostSettings, LogRoom,
    attach::MAX_WAITING,
    outgoing::WINDOW,
    proposals::{MAX_QUEUED, MAX_QUEUED_BYTES},
};
use crate::{
    command,
    message::{Attach, Identity, Origin, Request, ToSession, ToShard},
    shard::keys,
    simulated::{Faults, Node},
};

pub(super) fn send(node: &mut Node, req: u32, body_bytes: usize) -> ToShard {
    let id = node.id();
    send_as(node, id, req, body_bytes)
}

fn send_as(node: &Node, id: ClientId, req: u32, body_bytes: usize) -> ToShard {
    let to = UserId::of("default", "bob");
    let send = command::Send {
        app: "default".into(),
        sender: UserId::of("default", "ann").0,
        sender_name: "ann".into(),
        client_id: Bytes::copy_from_slice(&id.0),
        to: to.0,
        to_name: Some("bob".into()),
        digest: 1,
        ..command::Send::default()
    };
    let origin = Origin {
        session: SessionId(99),
        req,
    };
    let body = body::seal(body::SCHEME_MESSAGE, [0; 16], &vec![0; body_bytes]);
    let request = Request::Send {
        origin,
        send: Box::new(send),
        body,
    };
    ToShard {
        shard: crate::router::of_user(&node.settings.map, to),
        request,
    }
}

/// Everything has its turn at once: for the bounds of what comes behind.
fn without_turns(host: &mut HostSettings) {
    (host.turn_units, host.pass_units) = (u32::MAX, u32::MAX);
}

/// The refusals that leave the host now.
fn refusals(node: &mut Node) -> Vec<(u32, Code)> {
    let mut effects = Vec::new();
    node.host.poll(node.now, &mut effects);
    let refused = effects.iter().filter_map(|effect| match effect {
        Effect::ToSession {
            message: ToSession::Refused { req, refusal, .. },
            ..
        } => Some((*req, refusal.code)),
        _ => None,
    });
    refused.collect()
}

#[test]
fn nothing_leaves_before_the_sync_it_depends_on() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    let bobs = node.attach("bob", 1, None);
    node.run(2000);
    node.disk_hangs = true;
    let before = node.frames(ann).count() + node.frames(bobs).count();
    node.text(ann, 1, "bob", "hi");
    let late = node.open(Encoding::Proto);
    node.frame(late, 0, Body::Hello(Node::hello("late", 1, None)));
    node.run(5000);
    assert_eq!(node.frames(ann).count() + node.frames(bobs).count(), before);
    assert!(node.welcome(late).is_none());
    node.disk_hangs = false;
    node.wait_sent(ann, 1);
    node.run_until(100, |node| {
        node.texts(bobs) == ["hi"] && node.welcome(late).is_some()
    });
}

#[test]
fn while_the_disk_is_slow_entries_grow_instead_of_their_number() {
    let mut node = Node::with(1, 1, |_, session| {
        session.limits.sends_burst = 10_000;
        session.limits.in_flight = 1000;
    });
    let ann = node.attach("ann", 1, None);
    node.run(2000);
    let before = node.host.counters().clone();
    node.disk_hangs = true;
    for req in 1..=500 {
        node.text(ann, req, "bob", "x");
        node.run(1);
    }
    assert_eq!(node.host.counters().entries - before.entries, 8);
    node.disk_hangs = false;
    node.wait_sent(ann, 500);
    node.run(1000);
    let entries = node.host.counters().entries - before.entries;
    let commands = node.host.counters().commands - before.commands;
    assert!(
        commands >= 1000 && entries < 60,
        "{commands} commands in {entries} entries"
    );
}

#[test]
fn a_queue_that_is_full_of_commands_or_bytes_refuses_the_next() {
    let mut node = Node::with(1, 1, |host, _| without_turns(host));
    for req in 0..=u32::try_from(MAX_QUEUED).unwrap() {
        let to = send(&mut node, req, 1);
        node.submit(to);
    }
    let last = u32::try_from(MAX_QUEUED).unwrap();
    assert_eq!(refusals(&mut node), [(last, Code::Overloaded)]);

    let mut node = Node::with(1, 1, |host, _| without_turns(host));
    let fit = u32::try_from(MAX_QUEUED_BYTES / (65_536 + body::HEADER_BYTES)).unwrap();
    for req in 0..=fit {
        let to = send(&mut node, req, 65_536);
        node.submit(to);
    }
    assert_eq!(refusals(&mut node), [(fit, Code::Overloaded)]);
}

/// What was confirmed stayed in the outbox for ever when the queue was full just then.
#[test]
fn a_confirmation_that_finds_the_queue_full_is_written_later() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    node.run(2000);
    let id = node.id();
    let first = send_as(&node, id, 1, 0);
    let shard = first.shard;
    assert_ne!(shard, node.shard_of("ann"));
    node.submit(first);
    node.run_until(400, |node| !node.events(ann).is_empty());
    // The same again: they add nothing to the outbox, and so nothing else is confirmed.
    node.host.lend(LogRoom {
        lent: 0,
        ..LogRoom::UNBOUNDED
    });
    for req in 2..2 + u32::try_from(MAX_QUEUED).unwrap() {
        let again = send_as(&node, id, req, 0);
        node.submit(again);
    }
    node.run(700);
    let owed = |node: &Node| {
        let rows = node.host.store(shard).unwrap().rows();
        rows.filter(|(key, _)| key.family == keys::OUTBOX).count()
    };
    assert_eq!(owed(&node), 1);
    node.host.lend(LogRoom::UNBOUNDED);
    node.run_until(2000, |node| owed(node) == 0);
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "before");
    let conversation = node.wait_sent(ann, 1).conversation;
    node.run(500);
    node.host.step(node.now, Event::DiskFull(true));
    node.text(ann, 2, "bob", "during");
    assert_eq!(node.wait_error(ann, 2), Code::DiskFull);
    let get = frame::HistoryGet {
        conversation,
        from: None,
        limit: 0,
    };
    node.frame(ann, 3, Body::History(get));
    assert!(matches!(node.wait(ann, 3), Body::HistoryPage(page) if page.events.len() == 1));
    let late = node.attach("late", 1, None);
    assert_eq!(node.closed(late), Some(Code::DiskFull));
    // Who was here before reads on.
    let ann = node.attach("ann", 1, Node::resume_from(0));
    node.run(500);
    assert_eq!(node.texts(ann), ["before"]);
    // What is collected waits, and does not spin.
    node.ack(ann, 1);
    node.run(1000);
    assert!(!node.spins());
    node.host.step(node.now, Event::DiskFull(false));
    node.text(ann, 4, "bob", "after");
    node.run_until(500, |node| {
        matches!(node.answer(ann, 4), Some(Body::Sent(_) | Body::Error(_)))
    });
}

#[test]
fn who_waits_when_the_disk_becomes_full_is_told_and_a_retry_has_the_first_answer() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    node.run(500);
    node.disk_hangs = true;
    let id = node.text(ann, 1, "bob", "held");
    let late = node.open(Encoding::Proto);
    node.frame(late, 0, Body::Hello(Node::hello("late", 1, None)));
    node.run(100);
    assert_eq!((node.answer(ann, 1), node.closed(late)), (None, None));
    node.host.step(node.now, Event::DiskFull(true));
    assert_eq!(node.wait_error(ann, 1), Code::DiskFull);
    node.run(100);
    assert_eq!(node.closed(late), Some(Code::DiskFull));
    // There is room: what was on its way is written.
    node.disk_hangs = false;
    node.host.step(node.now, Event::DiskFull(false));
    node.run(500);
    let again = Node::send_of(id, To::Name("bob".into()), "held");
    node.frame(ann, 2, Body::Send(again));
    assert!(node.wait_sent(ann, 2).duplicate);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run(500);
    assert_eq!(node.texts(bobs), ["held"]);
}

#[test]
fn a_shard_that_is_not_here_is_wrong_and_one_that_is_down_says_why() {
    let mut node = Node::new(2, 1);
    for (down, code) in [(false, Code::WrongShard), (true, Code::Damaged)] {
        if down {
            node.host.set_down(ShardId(77), "a segment is gone".into());
        }
        let mut to = send(&mut node, 5, 1);
        to.shard = ShardId(77);
        node.submit(to);
        assert_eq!(refusals(&mut node), [(5, code)]);
    }
}

#[test]
fn before_a_shard_has_its_settings_sends_are_unavailable_and_sessions_wait() {
    let mut node = Node::unborn(2, 1, |_, _| {});
    node.faults = Faults {
        lost: 100,
        ..Faults::NONE
    };
    node.run(100);
    let to = send(&mut node, 5, 1);
    node.submit(to);
    assert_eq!(refusals(&mut node), [(5, Code::Unavailable)]);
    let ann = node.open(Encoding::Proto);
    node.frame(ann, 0, Body::Hello(Node::hello("ann", 1, None)));
    node.run(1000);
    assert!(node.welcome(ann).is_none() && node.closed(ann).is_none());
    node.faults = Faults::NONE;
    node.run_until(2000, |node| node.welcome(ann).is_some());
    assert!(
        node.host
            .status()
            .iter()
            .all(|shard| shard.serves && shard.generation != 0)
    );
}

pub(super) fn attach(session: u64) -> ToShard {
    let user = UserId::of("default", "ann");
    let identity = Identity {
        app: "default".into(),
        name: "ann".into(),
        user,
        device: None,
        expires_ms: u64::MAX,
    };
    let attach = Attach {
        session: SessionId(session),
        identity,
        device: DeviceId(session),
        resume: None,
        encoding: Encoding::Proto,
        event_credits: 1,
        foreground: true,
    };
    ToShard {
        shard: ShardId(1),
        request: Request::Attach(attach),
    }
}

#[test]
fn sessions_that_wait_for_a_shard_are_bounded() {
    let mut node = Node::unborn(1, 1, |host, _| without_turns(host));
    node.faults = Faults {
        lost: 100,
        ..Faults::NONE
    };
    node.run(100);
    for session in 1..=MAX_WAITING as u64 + 1 {
        node.submit(attach(session));
    }
    let mut effects = Vec::new();
    node.host.poll(node.now, &mut effects);
    let closed: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToSession {
                session,
                message: ToSession::Close(refusal),
            } => Some((session.0, refusal.code)),
            _ => None,
        })
        .collect();
    assert_eq!(closed, [(MAX_WAITING as u64 + 1, Code::Unavailable)]);
}

#[test]
fn a_session_that_is_lost_while_it_attaches_leaves_nothing_behind() {
    let mut node = Node::new(1, 1);
    node.submit(attach(1000));
    let user = UserId::of("default", "ann");
    let request = Request::Detach {
        session: SessionId(1000),
        user,
    };
    node.submit(ToShard {
        shard: ShardId(1),
        request,
    });
    node.run(500);
    assert_eq!(node.host.status()[1].sessions, 0);
    assert_eq!(node.host.counters().attached, 0);
}

#[test]
fn too_many_marks_at_once_end_the_session() {
    let mut node = Node::new(1, 1);
    let ann = node.attach("ann", 1, None);
    node.ack(ann, 0);
    node.run(300);
    for conversation in 1..=257 {
        node.frame(
            ann,
            0,
            Body::Mark(frame::Mark {
                conversation,
                seen_up_to: 1,
            }),
        );
    }
    node.run(10);
    assert_eq!(node.closed(ann), Some(Code::Overloaded));
}

#[test]
fn a_stream_of_an_outbox_has_a_window_and_what_is_behind_it_waits_in_the_store() {
    let mut node = Node::with(8, 1, |_, session| session.limits.sends_burst = 10_000);
    let ann = node.attach("ann", 1, None);
    assert_ne!(node.shard_of("ann"), node.shard_of("bob"));
    node.faults = Faults {
        lost: 100,
        ..Faults::NONE
    };
    let before = node.host.counters().outbox_sent;
    let many = u32::try_from(WINDOW).unwrap() + 500;
    for req in 1..=many {
        node.text(ann, req, "bob", "x");
        if req % 100 == 0 {
            node.wait_sent(ann, req);
        }
    }
    node.wait_sent(ann, many);
    let status = node.host.status();
    let source = status
        .iter()
        .find(|status| status.outbox_entries > 0)
        .unwrap();
    assert_eq!(source.outbox_entries, u64::from(many));
    assert_eq!(node.host.counters().outbox_sent - before, WINDOW);
    node.run(500);
    node.faults = Faults::NONE;
    node.run_until(20_000, |node| node.texts(ann).len() == 512);
    node.credit(ann, 10_000);
    node.run_until(20_000, |node| node.texts(ann).len() == many as usize);
    node.run(1000);
    assert!(
        node.host
            .status()
            .iter()
            .all(|status| status.outbox_entries == 0)
    );
    assert!(
        node.events(ann)
            .iter()
            .zip(1..)
            .all(|(event, seq)| event.inbox_seq == seq)
    );
}

#[test]
fn a_full_outbox_refuses_a_send_and_those_in_flight_behind_it_do_not_overtake() {
    let mut node = Node::with(8, 1, |host, _| host.outbox_bytes = 1500);
    let ann = node.attach("ann", 1, None);
    let bobs = node.attach("bob", 1, None);
    node.faults = Faults {
        lost: 100,
        ..Faults::NONE
    };
    let large = node.text(ann, 1, "bob", &"x".repeat(2000));
    let small = node.text(ann, 2, "bob", "small");
    assert_eq!(node.wait_error(ann, 1), Code::Overloaded);
    assert_eq!(node.wait_error(ann, 2), Code::OutOfOrder);
    node.run(100);
    assert_eq!(node.events(bobs), []);
    // Given up, the next may pass; it leaves nothing behind that it was ever tried.
    let abandons = frame::Send {
        abandons: large.0.to_vec().into(),
        ..Node::send_of(small, To::Name("bob".into()), "small")
    };
    node.frame(ann, 3, Body::Send(abandons));
    assert!(!node.wait_sent(ann, 3).duplicate);
}

#[test]
fn an_idle_host_asks_for_nothing_but_its_ticks() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "x");
    node.wait_sent(ann, 1);
    node.run(5000);
    let trace = node.trace.len();
    let mut effects = Vec::new();
    for _ in 0..900 {
        node.now.mono_ms += 1;
        node.host.poll(node.now, &mut effects);
        assert!(node.host.deadline_ms().unwrap() > node.now.mono_ms);
    }
    assert_eq!(node.trace.len(), trace);
    // Only the settings are said again, once a second.
    assert!(effects.len() <= 8, "{effects:?}");
}
