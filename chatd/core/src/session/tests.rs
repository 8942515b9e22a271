//! Rules of a session, each driven by frames through a whole node on virtual time.

use chat_wire::{
    codec::Encoding,
    error::Code,
    frame::{self, Body, Frame, target::To},
    ids::{ClientId, UserId},
    limits::{EVENT_BATCH_BYTES, HELLO_TIMEOUT_MS},
};

use super::*;
use crate::simulated::{BEGIN_UNIX_MS, Node};

mod fields;
mod opening;

fn bob() -> To {
    To::Name("bob".into())
}

#[test]
fn ping_is_answered_with_the_servers_time() {
    let mut node = Node::new(2, 1);
    let session = node.attach("ann", 1, None);
    node.frame(session, 9, Body::Ping(frame::Ping {}));
    let expected = frame::Pong {
        server_time_ms: node.now.unix_ms,
    };
    assert_eq!(node.answer(session, 9), Some(Body::Pong(expected)));
}

#[test]
fn a_frame_that_is_not_known_is_refused_and_the_session_goes_on() {
    let mut node = Node::new(2, 1);
    let session = node.attach("ann", 1, None);
    node.input(session, Input::Frame(Frame { req: 3, body: None }));
    assert_eq!(node.wait_error(session, 3), Code::Unsupported);
    node.text(session, 4, "bob", "still here");
    node.wait_sent(session, 4);
}

#[test]
fn a_frame_that_only_servers_send_ends_the_session() {
    let mut node = Node::new(2, 1);
    for body in [
        Body::Welcome(frame::Welcome::default()),
        Body::Sent(frame::Sent::default()),
        Body::Event(frame::EventBatch::default()),
        Body::Done(frame::Done {}),
    ] {
        let session = node.attach("ann", 1, None);
        node.frame(session, 1, body);
        assert_eq!(node.closed(session), Some(Code::UnexpectedFrame));
    }
}

#[test]
fn bytes_that_are_no_frame_are_answered_and_end_the_session() {
    let mut node = Node::new(2, 1);
    let session = node.attach("ann", 1, None);
    node.input(
        session,
        Input::BadFrame(Refusal::new(Code::Malformed, "not a frame")),
    );
    assert_eq!(node.closed(session), Some(Code::Malformed));
    let last = node.frames(session).last().unwrap();
    assert!(matches!(&last.body, Some(Body::Error(error)) if error.code == 100));
    node.run(100);
    assert_eq!(
        node.host
            .status()
            .iter()
            .map(|shard| shard.sessions)
            .sum::<usize>(),
        0
    );
}

#[test]
fn a_request_needs_a_number_that_is_not_in_use() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    let send = Node::send_of(node.id(), bob(), "x");
    node.frame(ann, 0, Body::Send(send));
    let error = node.frames(ann).last().unwrap();
    assert!(matches!(&error.body, Some(Body::Error(error)) if error.code == 400));
    node.text(ann, 5, "bob", "one");
    node.text(ann, 5, "bob", "two");
    assert_eq!(node.wait_error(ann, 5), Code::InvalidArgument);
    node.run_until(500, |node| {
        matches!(node.answer(ann, 5), Some(Body::Sent(_)))
    });
    node.text(ann, 5, "bob", "three");
    node.run(500);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run_until(500, |node| node.texts(bobs) == ["one", "three"]);
}

#[test]
fn sends_over_the_rate_are_told_when_to_come_again() {
    let mut node = Node::new(2, 1);
    // His inbox is there: making one costs more.
    node.attach("bob", 1, None);
    let ann = node.attach("ann", 1, None);
    for req in 1..=201 {
        node.text(ann, req, "bob", "x");
    }
    let Some(Body::Error(error)) = node.answer(ann, 201) else {
        panic!()
    };
    assert_eq!(Code::from_number(error.code), Some(Code::RateLimited));
    assert!(error.retryable && (1..=10).contains(&error.retry_after_ms));
    // The bucket is the device's: after the time it was told, one passes.
    let id = ClientId::from_slice(&error.client_msg_id).unwrap();
    node.run(u64::from(error.retry_after_ms));
    node.frame(ann, 300, Body::Send(Node::send_of(id, bob(), "x")));
    node.wait_sent(ann, 300);
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut node = Node::with(2, 1, |_, session| session.limits.in_flight = 3);
    let ann = node.attach("ann", 1, None);
    node.disk_hangs = true;
    for req in 1..=4 {
        node.text(ann, req, "bob", "x");
    }
    assert_eq!(node.wait_error(ann, 4), Code::Overloaded);
    node.disk_hangs = false;
    for req in 1..=3 {
        node.wait_sent(ann, req);
    }
}

#[test]
fn after_a_failed_send_later_ones_wait_for_it_or_for_its_end() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    node.queues_full = true;
    let first = node.text(ann, 1, "bob", "first");
    assert_eq!(node.wait_error(ann, 1), Code::Overloaded);
    node.queues_full = false;
    let second = node.text(ann, 2, "bob", "second");
    assert_eq!(node.wait_error(ann, 2), Code::OutOfOrder);
    // Another conversation is free.
    node.text(ann, 3, "cid", "free");
    node.wait_sent(ann, 3);
    node.frame(ann, 4, Body::Send(Node::send_of(first, bob(), "first")));
    node.frame(ann, 5, Body::Send(Node::send_of(second, bob(), "second")));
    let (one, two) = (node.wait_sent(ann, 4), node.wait_sent(ann, 5));
    assert!(one.msg_id < two.msg_id);
    // Or it is given up.
    node.queues_full = true;
    let third = node.text(ann, 6, "bob", "third");
    node.queues_full = false;
    let fourth = node.id();
    let abandons = frame::Send {
        abandons: third.0.to_vec().into(),
        ..Node::send_of(fourth, bob(), "fourth")
    };
    node.frame(ann, 7, Body::Send(abandons));
    node.wait_sent(ann, 7);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run_until(500, |node| {
        node.texts(bobs) == ["first", "second", "fourth"]
    });
}

#[test]
fn a_send_behind_one_that_came_to_nothing_is_out_of_order_in_the_log() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    // A name that is good for a frame, and an id of nobody: refused where it is applied.
    let nobody = To::User(UserId::of("default", "nobody").0);
    let [one, two] = [node.id(), node.id()];
    node.frame(ann, 1, Body::Send(Node::send_of(one, nobody.clone(), "x")));
    node.frame(ann, 2, Body::Send(Node::send_of(two, nobody.clone(), "y")));
    assert_eq!(node.wait_error(ann, 1), Code::NotFound);
    assert!(matches!(
        node.wait_error(ann, 2),
        Code::OutOfOrder | Code::NotFound
    ));
    node.frame(ann, 3, Body::Send(Node::send_of(two, nobody, "y")));
    assert_eq!(node.wait_error(ann, 3), Code::NotFound);
}

#[test]
fn what_a_full_queue_gives_back_is_offered_again_and_coalesced() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    let bobs = node.attach("bob", 1, None);
    for (req, text) in [(1, "one"), (2, "two"), (3, "three")] {
        node.text(ann, req, "bob", text);
    }
    let last = node.wait_sent(ann, 3).msg_id;
    node.run_until(500, |node| node.events(bobs).len() == 3);
    let conversation = node.events(bobs)[0].conversation;
    node.queues_full = true;
    for seq in 1..=3 {
        node.ack(bobs, seq);
        node.credit(bobs, 1);
        let seen_up_to = node.events(bobs)[usize::try_from(seq).unwrap() - 1].msg_id;
        node.frame(
            bobs,
            0,
            Body::Mark(frame::Mark {
                conversation,
                seen_up_to,
            }),
        );
    }
    node.run(200);
    assert_eq!(node.receipts(ann), []);
    node.queues_full = false;
    node.run_until(2000, |node| {
        node.receipts(ann).iter().any(|r| r.seen_up_to == last)
    });
    assert_eq!(node.receipts(ann).last().unwrap().delivered_up_to, last);
    let kept = &node.clients[&bobs].session.kept;
    assert!(kept.is_none(), "{kept:?}");
}

#[test]
fn marks_that_a_full_queue_gives_back_are_bounded() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    node.queues_full = true;
    for conversation in 1..=256 {
        node.frame(
            ann,
            0,
            Body::Mark(frame::Mark {
                conversation,
                seen_up_to: 1,
            }),
        );
    }
    assert_eq!(node.closed(ann), None);
    node.frame(
        ann,
        0,
        Body::Mark(frame::Mark {
            conversation: 257,
            seen_up_to: 1,
        }),
    );
    assert_eq!(node.closed(ann), Some(Code::Overloaded));
    // Its shard still hears that it is gone.
    node.run(100);
    assert!(!node.clients[&ann].session.is_over());
    node.queues_full = false;
    node.run(100);
    assert!(node.clients[&ann].session.is_over());
    assert_eq!(
        node.host
            .status()
            .iter()
            .map(|shard| shard.sessions)
            .sum::<usize>(),
        0
    );
}

#[test]
fn an_attach_that_finds_the_queue_full_is_offered_again() {
    let mut node = Node::new(2, 1);
    node.queues_full = true;
    let ann = node.open(Encoding::Proto);
    node.frame(ann, 0, Body::Hello(Node::hello("ann", 1, None)));
    node.run(500);
    assert!(node.welcome(ann).is_none());
    node.queues_full = false;
    node.run_until(100, |node| node.welcome(ann).is_some());
    // But not for ever.
    node.queues_full = true;
    let late = node.open(Encoding::Proto);
    node.frame(late, 0, Body::Hello(Node::hello("late", 1, None)));
    node.run(10_100);
    assert_eq!(node.closed(late), Some(Code::Unavailable));
}

#[test]
fn pages_wait_for_bulk_credits_and_too_many_are_refused() {
    let mut node = Node::with(2, 1, |_, session| session.limits.bulk_credits = 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "x");
    let conversation = node.wait_sent(ann, 1).conversation;
    let get = frame::HistoryGet {
        conversation,
        from: None,
        limit: 0,
    };
    for req in 2..=19 {
        node.frame(ann, req, Body::History(get));
    }
    assert!(matches!(node.wait(ann, 2), Body::HistoryPage(_)));
    assert_eq!(node.wait_error(ann, 19), Code::Overloaded);
    node.run(100);
    assert_eq!(node.answer(ann, 3), None);
    let grant = |n| {
        Body::Credit(frame::Credit {
            lane: frame::Lane::Bulk.into(),
            n,
        })
    };
    node.frame(ann, 0, grant(2));
    node.run(10);
    assert!(node.answer(ann, 3).is_some() && node.answer(ann, 4).is_some());
    assert_eq!(node.answer(ann, 5), None);
    node.frame(ann, 0, grant(u32::MAX));
    node.frame(ann, 0, grant(u32::MAX));
    node.run(10);
    assert!(matches!(node.answer(ann, 18), Some(Body::HistoryPage(_))));
}

#[test]
fn events_are_cut_by_their_encoded_size() {
    for encoding in [Encoding::Proto, Encoding::Json] {
        let mut node = Node::new(2, 1);
        let ann = node.attach("ann", 1, None);
        // Each of these is six times as long in JSON.
        let text = "\u{1}".repeat(30_000);
        for req in 1..=12 {
            node.text(ann, req, "bob", &text);
        }
        node.wait_sent(ann, 12);
        let bobs = node.open(encoding);
        node.frame(
            bobs,
            0,
            Body::Hello(Node::hello("bob", 1, Node::resume_from(0))),
        );
        node.run_until(1000, |node| node.events(bobs).len() == 12);
        let batches = node.frames(bobs).filter_map(|frame| match &frame.body {
            Some(Body::Event(batch)) => {
                Some((batch.events.len(), codec::encode(encoding, frame).len()))
            }
            _ => None,
        });
        for (events, bytes) in batches {
            assert!(
                events == 1 || bytes <= EVENT_BATCH_BYTES,
                "{events} events, {bytes} bytes"
            );
        }
    }
}

#[test]
fn a_draining_server_says_so_and_the_session_goes_on() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    node.input(
        ann,
        Input::Drain {
            reconnect_within_ms: 700,
        },
    );
    let goaway = node.find(ann, |frame| match &frame.body {
        Some(Body::Goaway(goaway)) => Some(goaway.reconnect_within_ms),
        _ => None,
    });
    assert_eq!(goaway, Some(700));
    node.text(ann, 1, "bob", "bye");
    node.wait_sent(ann, 1);
    // Who is not yet in does not come in.
    let late = node.open(Encoding::Proto);
    node.input(
        late,
        Input::Drain {
            reconnect_within_ms: 700,
        },
    );
    assert_eq!(node.closed(late), Some(Code::GoingAway));
}

#[test]
fn a_resume_token_says_the_generation_and_a_forged_one_says_nothing() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    let welcome = node.welcome(ann).unwrap();
    assert_eq!(welcome.resume_token.len(), 20);
    let resume = |token: Bytes| {
        Some(frame::Resume {
            resume_token: token,
            ..frame::Resume::default()
        })
    };
    let other = |generation: u32| {
        // What a server of another generation, with the same key, would have given out.
        let mut settings = node.session_settings.as_ref().clone();
        settings.heartbeat_ms = 1;
        let mut session = Session::new(
            Arc::new(settings),
            SessionId(1),
            Encoding::Proto,
            node.settings.map.clone(),
            [0; 32],
            node.now,
        );
        session.device = DeviceId(1);
        session.resume_token(UserId(welcome.user), generation)
    };
    assert_eq!(other(welcome.generation), welcome.resume_token);
    let older = other(welcome.generation.wrapping_add(1));
    let mut forged = older.to_vec();
    forged[10] ^= 1;
    let is_gap = |node: &Node, session| {
        node.frames(session)
            .any(|frame| matches!(frame.body, Some(Body::Gap(_))))
    };
    let session = node.attach("ann", 1, resume(older));
    assert!(is_gap(&node, session));
    let session = node.attach("ann", 1, resume(forged.into()));
    assert!(!is_gap(&node, session));
}

#[test]
fn an_idle_session_is_small_and_frees_what_requests_needed() {
    assert!(
        size_of::<Session>() <= 256,
        "{} bytes",
        size_of::<Session>()
    );
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    for req in 1..=100 {
        node.text(ann, req, "bob", "x");
    }
    assert!(node.clients[&ann].session.work.is_some());
    node.wait_sent(ann, 100);
    let session = &node.clients[&ann].session;
    assert!(session.work.is_none() && session.kept.is_none());
    let identity = session.identity.as_ref().unwrap();
    let heap = size_of::<Identity>() + identity.app.capacity() + identity.name.capacity();
    assert!(size_of::<Session>() + heap < 600);
}

#[test]
fn digests_tell_messages_apart_and_ignore_what_does_not_count() {
    let mut node = Node::new(1, 1);
    let send = Node::send_of(node.id(), bob(), "x");
    let to = ConversationId(5);
    let digest = send_digest(&send, to);
    let same = frame::Send {
        after: 77,
        client_msg_id: "other".into(),
        ..send.clone()
    };
    assert_eq!(send_digest(&same, to), digest);
    let others = [
        frame::Send {
            reply_to: 1,
            ..send.clone()
        },
        frame::Send {
            mentions: vec![1],
            ..send.clone()
        },
        frame::Send {
            silent: true,
            ..send.clone()
        },
        Node::send_of(ClientId::default(), bob(), "y"),
    ];
    for other in others {
        assert_ne!(send_digest(&other, to), digest);
    }
    assert_ne!(send_digest(&send, ConversationId(6)), digest);
    assert!(node.now.unix_ms > BEGIN_UNIX_MS);
}
