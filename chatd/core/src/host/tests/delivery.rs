//! Cursors, credits, resume, receipts.

use chat_wire::{
    codec::Encoding,
    error::Code,
    frame::{self, Body},
    ids::{ConversationId, UserId},
};

use crate::{command::Floor, simulated::Node};

fn resumed(node: &Node, session: chat_wire::ids::SessionId) -> Option<Body> {
    node.find(session, |frame| match &frame.body {
        Some(body @ (Body::Resumed(_) | Body::Gap(_))) => Some(body.clone()),
        _ => None,
    })
}

fn resume(inbox_seq: u64, marks_version: u64, generation: u32) -> Option<frame::Resume> {
    let resume_token = bytes::Bytes::new();
    Some(frame::Resume {
        inbox_seq,
        marks_version,
        generation,
        resume_token,
    })
}

/// A node where ann has sent bob the texts `1` to `count`.
fn sent(count: u32) -> Node {
    let mut node = Node::with(4, 1, |_, session| session.limits.sends_burst = 10_000);
    let ann = node.attach("ann", 1, None);
    for req in 1..=count {
        node.text(ann, req, "bob", &req.to_string());
        if req % 200 == 0 {
            node.wait_sent(ann, req);
        }
    }
    node.wait_sent(ann, count);
    node
}

fn numbers(texts: &[String]) -> Vec<u32> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn without_resume_events_follow_from_the_head_and_no_mark_moves() {
    let mut node = sent(3);
    let ann = node.attach("ann", 2, None);
    let bobs = node.attach("bob", 1, None);
    assert_eq!(node.welcome(bobs).unwrap().inbox_head, 3);
    assert_eq!(resumed(&node, bobs), None);
    node.text(ann, 1, "bob", "4");
    node.run_until(500, |node| node.texts(bobs) == ["4"]);
    node.run(1000);
    assert_eq!(node.receipts(ann), []);
}

#[test]
fn resume_brings_everything_after_the_cursor_and_zero_asks_for_all() {
    let mut node = sent(700);
    for from in [0, 1, 255, 256, 699, 700] {
        let bobs = node.attach("bob", 1, Node::resume_from(from));
        assert_eq!(
            resumed(&node, bobs),
            Some(Body::Resumed(frame::Resumed { from }))
        );
        let grant = 1000;
        node.credit(bobs, grant);
        let first = u32::try_from(from).unwrap() + 1;
        node.run_until(500, |node| node.texts(bobs).len() == 701 - first as usize);
        assert_eq!(
            numbers(&node.texts(bobs)),
            (first..=700).collect::<Vec<_>>()
        );
        assert!(
            node.events(bobs)
                .iter()
                .zip(from + 1..)
                .all(|(event, seq)| event.inbox_seq == seq)
        );
    }
}

#[test]
fn a_cursor_below_the_floor_is_answered_with_a_gap() {
    let mut node = sent(10);
    let key = UserId::of("default", "bob").key();
    let shard = node.shard_of("bob");
    node.propose(
        shard,
        Floor {
            inbox: key.0,
            oldest_seq: 6,
            dedup_before_ms: 0,
        },
    );
    for (from, gap) in [(0, true), (4, true), (5, false), (10, false)] {
        let bobs = node.attach("bob", 1, Node::resume_from(from));
        let expected = if gap {
            Body::Gap(frame::Gap {
                oldest: 6,
                head: 10,
            })
        } else {
            Body::Resumed(frame::Resumed { from })
        };
        assert_eq!(resumed(&node, bobs), Some(expected), "from {from}");
        node.run(100);
        let first = if gap {
            11
        } else {
            u32::try_from(from).unwrap() + 1
        };
        assert_eq!(numbers(&node.texts(bobs)), (first..=10).collect::<Vec<_>>());
    }
}

#[test]
fn a_floor_that_passes_a_session_that_is_behind_tells_it_gap() {
    let mut node = sent(10);
    let bobs = node.open(Encoding::Proto);
    let mut hello = Node::hello("bob", 1, Node::resume_from(0));
    hello.event_credits = Some(2);
    node.frame(bobs, 0, Body::Hello(hello));
    node.run_until(500, |node| node.texts(bobs).len() == 2);
    let key = UserId::of("default", "bob").key();
    let shard = node.shard_of("bob");
    node.propose(
        shard,
        Floor {
            inbox: key.0,
            oldest_seq: 6,
            dedup_before_ms: 0,
        },
    );
    node.credit(bobs, 100);
    node.run(100);
    let gap = Some(Body::Gap(frame::Gap {
        oldest: 6,
        head: 10,
    }));
    assert!(node.frames(bobs).any(|frame| frame.body == gap));
    assert_eq!(node.texts(bobs).len(), 2);
    let ann = node.attach("ann", 2, None);
    node.text(ann, 1, "bob", "11");
    node.run_until(500, |node| {
        node.texts(bobs).last().is_some_and(|text| text == "11")
    });
}

#[test]
fn a_cursor_of_another_generation_is_always_answered_with_a_gap() {
    let mut node = sent(3);
    let bobs = node.attach("bob", 1, None);
    let generation = node.welcome(bobs).unwrap().generation;
    for from in [0, 2, 3, 99] {
        let bobs = node.attach("bob", 1, resume(from, 0, generation.wrapping_add(1)));
        let gap = Body::Gap(frame::Gap { oldest: 1, head: 3 });
        assert_eq!(resumed(&node, bobs), Some(gap), "from {from}");
    }
}

#[test]
fn a_cursor_ahead_in_the_same_generation_is_a_stale_leader_and_no_gap() {
    let mut node = sent(3);
    let bobs = node.attach("bob", 1, None);
    let generation = node.welcome(bobs).unwrap().generation;
    for ahead in [
        resume(4, 0, generation),
        resume(u64::MAX, 0, generation),
        resume(4, 0, 0),
        resume(0, 1, generation),
        resume(0, u64::MAX, 0),
    ] {
        let bobs = node.attach("bob", 1, ahead);
        assert_eq!(node.closed(bobs), Some(Code::StaleLeader));
        assert!(resumed(&node, bobs).is_none());
    }
    // The session that was there goes on.
    assert_eq!(node.closed(bobs), None);
}

#[test]
fn a_newer_session_of_a_device_replaces_the_older_one() {
    let mut node = sent(1);
    let older = node.attach("bob", 1, None);
    let other = node.attach("bob", 2, None);
    let newer = node.attach("bob", 1, Node::resume_from(0));
    node.run(10);
    assert_eq!(node.closed(older), Some(Code::Replaced));
    let replaced = Some(Body::Replaced(frame::Replaced {}));
    assert!(node.frames(older).any(|frame| frame.body == replaced));
    assert_eq!((node.closed(other), node.closed(newer)), (None, None));
    assert_eq!(node.host.counters().replaced, 1);
}

#[test]
fn one_device_too_many_takes_the_place_of_the_longest_unseen() {
    let mut node = Node::with(4, 1, |host, _| host.limits.devices = 2);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "1");
    node.wait_sent(ann, 1);
    let first = node.attach("bob", 1, Node::resume_from(0));
    node.run(1000);
    node.ack(first, 1);
    node.run(1000);
    let second = node.attach("bob", 2, None);
    node.run(1000);
    let third = node.attach("bob", 3, None);
    node.run(10);
    assert_eq!(node.closed(first), Some(Code::Replaced));
    assert_eq!((node.closed(second), node.closed(third)), (None, None));
    // Its next resume takes another place, and goes on where it was.
    let back = node.attach("bob", 1, Node::resume_from(1));
    assert_eq!(
        resumed(&node, back),
        Some(Body::Resumed(frame::Resumed { from: 1 }))
    );
}

/// A device that was forgotten, or changed its number: its cursor says what it has.
#[test]
fn a_device_that_is_not_known_was_told_gap_instead_of_its_events() {
    let mut node = sent(600);
    let bobs = node.attach("bob", 77, Node::resume_from(597));
    let from = Body::Resumed(frame::Resumed { from: 597 });
    assert_eq!(resumed(&node, bobs), Some(from));
    node.run_until(500, |node| node.texts(bobs).len() == 3);
    // What it stored is acknowledged, for their sender; and the rest when it says so.
    let ann = node.attach("ann", 2, None);
    let delivered = |node: &Node| node.receipts(ann).last().map(|mark| mark.delivered_up_to);
    node.ack(bobs, 600);
    node.run_until(2000, |node| {
        delivered(node) == Some(node.events(bobs)[2].msg_id)
    });
}

#[test]
fn every_device_of_a_user_gets_every_event_and_has_its_own_cursor() {
    let mut node = Node::new(4, 1);
    let ann = [node.attach("ann", 1, None), node.attach("ann", 2, None)];
    let bobs = [node.attach("bob", 1, None), node.attach("bob", 2, None)];
    node.text(ann[0], 1, "bob", "hi");
    node.run_until(500, |node| {
        ann.iter().chain(&bobs).all(|id| node.texts(*id) == ["hi"])
    });
    node.ack(bobs[0], 1);
    node.run_until(1000, |node| node.receipts(ann[1]).len() == 1);
    node.lose(bobs[0]);
    node.lose(bobs[1]);
    let again = node.attach("bob", 2, Node::resume_from(0));
    node.run_until(100, |node| node.texts(again) == ["hi"]);
}

#[test]
fn no_more_events_are_sent_than_there_are_credits() {
    let mut node = sent(20);
    let ann = node.attach("ann", 2, None);
    let bobs = node.open(Encoding::Proto);
    let mut hello = Node::hello("bob", 1, Node::resume_from(0));
    hello.event_credits = Some(7);
    node.frame(bobs, 0, Body::Hello(hello));
    node.run(200);
    assert_eq!(node.texts(bobs).len(), 7);
    // New ones wait behind the others.
    node.text(ann, 1, "bob", "21");
    node.run(200);
    assert_eq!(node.texts(bobs).len(), 7);
    node.credit(bobs, 1);
    node.run(10);
    assert_eq!(node.texts(bobs).len(), 8);
    node.credit(bobs, 100);
    node.run_until(100, |node| node.texts(bobs).len() == 21);
    assert_eq!(numbers(&node.texts(bobs)), (1..=21).collect::<Vec<_>>());
}

#[test]
fn a_device_that_never_reads_is_closed_and_its_events_wait() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    let bobs = node.open(Encoding::Proto);
    let mut hello = Node::hello("bob", 1, None);
    hello.event_credits = Some(1);
    node.frame(bobs, 0, Body::Hello(hello));
    node.run(10);
    node.text(ann, 1, "bob", "1");
    node.run(40_000);
    assert_eq!(node.closed(bobs), None, "it is not behind");
    node.text(ann, 2, "bob", "2");
    node.wait_sent(ann, 2);
    node.run(25_000);
    assert!(
        node.host
            .status()
            .iter()
            .any(|shard| shard.inbox_lag_ms >= 24_000)
    );
    // An ACK is a sign of life.
    node.ack(bobs, 1);
    node.run(25_000);
    assert_eq!(node.closed(bobs), None);
    node.run(6_000);
    assert_eq!(node.closed(bobs), Some(Code::SlowConsumer));
    assert_eq!(node.host.counters().slow_consumers, 1);
    let again = node.attach("bob", 1, Node::resume_from(1));
    node.run_until(100, |node| node.texts(again) == ["2"]);
}

#[test]
fn an_ack_beyond_what_was_sent_ends_the_session() {
    let mut node = sent(5);
    node.attach("bob", 1, None);
    let bobs = node.attach("bob", 1, Node::resume_from(3));
    node.run_until(100, |node| node.texts(bobs).len() == 2);
    for seq in [0, 3, 5, 4] {
        node.ack(bobs, seq);
    }
    node.run(10);
    assert_eq!(node.closed(bobs), None);
    node.ack(bobs, 6);
    node.run(10);
    assert_eq!(node.closed(bobs), Some(Code::OutOfRange));
    let bobs = node.attach("bob", 1, None);
    node.ack(bobs, u64::MAX);
    node.run(10);
    assert_eq!(node.closed(bobs), Some(Code::OutOfRange));
}

#[test]
fn acks_of_a_shard_become_one_command_every_200_ms() {
    let mut node = Node::with(1, 1, |_, session| session.limits.sends_burst = 10_000);
    let ann = node.attach("ann", 1, None);
    let bobs = node.attach("bob", 1, None);
    for req in 1..=50 {
        node.text(ann, req, "bob", "x");
        node.wait_sent(ann, req);
    }
    node.run_until(500, |node| node.texts(bobs).len() == 50);
    node.run(1000);
    let before = node.host.counters().commands;
    for seq in 1..=50 {
        node.ack(bobs, seq);
        node.run(10);
    }
    node.run(1000);
    // Half a second of ACKs: three or four commands, and as many marks and confirmations.
    let commands = node.host.counters().commands - before;
    assert!(
        (6..=16).contains(&commands),
        "{commands} commands for 50 ACKs"
    );
    assert_eq!(
        node.receipts(ann).last().unwrap().delivered_up_to,
        node.events(bobs)[49].msg_id
    );
}

#[test]
fn receipts_follow_each_other_without_a_hole_and_resume_brings_the_rest() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    let people = ["bob", "cid", "dan"].map(|name| (name, node.attach(name, 1, None)));
    let mut req = 0;
    let mut round = |node: &mut Node, ann| {
        for (name, session) in people {
            req += 1;
            node.text(ann, req, name, "x");
            node.wait_sent(ann, req);
            node.run_until(500, |node| !node.events(session).is_empty());
            let newest = node.events(session).last().unwrap().inbox_seq;
            node.run(300);
            node.ack(
                session,
                newest.max(node.events(session).last().unwrap().inbox_seq),
            );
        }
        node.run(1000);
    };
    round(&mut node, ann);
    let first = node.receipts(ann);
    assert_eq!(first.len(), 3);
    for (at, receipt) in first.iter().enumerate() {
        assert_eq!(
            (receipt.from_version, receipt.to_version),
            (at as u64, at as u64 + 1)
        );
    }
    // Two rounds are missed; each conversation's newest mark comes once.
    node.lose(ann);
    let other = node.attach("ann", 2, None);
    round(&mut node, other);
    round(&mut node, other);
    let seq = node.events(other).last().unwrap().inbox_seq;
    let again = node.attach("ann", 1, resume(seq, 3, 0));
    node.run_until(500, |node| node.receipts(again).len() == 3);
    let late = node.receipts(again);
    assert_eq!(late[0].from_version, 3);
    assert!(
        late.windows(2)
            .all(|pair| pair[0].to_version == pair[1].from_version)
    );
    let newest = node.welcome(again).unwrap().marks_version;
    assert_eq!(late[2].to_version, newest);
}

#[test]
fn receipts_are_coalesced_under_pressure_and_never_dropped() {
    let mut node = Node::new(4, 1);
    let ann = node.open(Encoding::Proto);
    let mut hello = Node::hello("ann", 1, None);
    hello.event_credits = Some(0);
    node.frame(ann, 0, Body::Hello(hello));
    let bobs = node.attach("bob", 1, None);
    for req in 1..=5 {
        node.text(ann, req, "bob", "x");
        let sent = node.wait_sent(ann, req);
        node.run_until(500, |node| node.events(bobs).len() == req as usize);
        node.ack(bobs, u64::from(req));
        node.run(500);
        assert_eq!(
            node.receipts(ann),
            [],
            "no credit, no receipt after {}",
            sent.msg_id
        );
    }
    node.credit(ann, 10);
    node.run_until(500, |node| !node.receipts(ann).is_empty());
    let receipts = node.receipts(ann);
    assert_eq!(receipts.len(), 1);
    assert_eq!((receipts[0].from_version, receipts[0].to_version), (0, 5));
    assert_eq!(receipts[0].delivered_up_to, node.events(bobs)[4].msg_id);
}

#[test]
fn an_ack_that_was_lost_is_made_up_for_by_the_resume() {
    let mut node = sent(4);
    let ann = node.attach("ann", 2, None);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run_until(500, |node| node.events(bobs).len() == 4);
    // The connection breaks before the ACK arrives; the device had stored three.
    let third = node.events(bobs)[2].msg_id;
    node.lose(bobs);
    node.attach("bob", 1, Node::resume_from(3));
    node.run_until(1000, |node| !node.receipts(ann).is_empty());
    assert_eq!(node.receipts(ann)[0].delivered_up_to, third);
}

#[test]
fn marks_never_pass_the_last_message_of_others() {
    let mut node = sent(2);
    let ann = node.attach("ann", 2, None);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run_until(500, |node| node.events(bobs).len() == 2);
    let conversation = node.events(bobs)[0].conversation;
    let last = node.events(bobs)[1].msg_id;
    node.frame(
        bobs,
        0,
        Body::Mark(frame::Mark {
            conversation,
            seen_up_to: i64::MAX,
        }),
    );
    node.run_until(1000, |node| !node.receipts(ann).is_empty());
    let receipt = *node.receipts(ann).last().unwrap();
    assert_eq!((receipt.delivered_up_to, receipt.seen_up_to), (last, last));
}

#[test]
fn history_equals_what_was_delivered_in_the_order_of_the_conversation() {
    let mut node = sent(120);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run_until(500, |node| node.events(bobs).len() == 120);
    let conversation = UserId::of("default", "ann").0;
    let (mut pages, mut before) = (Vec::new(), 0);
    for req in 1.. {
        let from = Some(frame::history_get::From::Before(before));
        let get = frame::HistoryGet {
            conversation,
            from,
            limit: 50,
        };
        node.frame(bobs, req, Body::History(get));
        let Body::HistoryPage(page) = node.wait(bobs, req) else {
            panic!()
        };
        pages.extend(page.events);
        before = page.next;
        if !page.more {
            break;
        }
    }
    pages.reverse();
    assert_eq!(pages, node.events(bobs));
    assert!(ConversationId(conversation).group().is_none());
}

#[test]
fn a_new_device_starts_with_conversations() {
    let mut node = sent(30);
    let bobs = node.attach("bob", 9, None);
    let get = frame::ConversationsGet::default();
    node.frame(bobs, 1, Body::Conversations(get));
    let Body::ConversationsPage(page) = node.wait(bobs, 1) else {
        panic!()
    };
    assert_eq!(page.inbox_head, 30);
    assert_eq!(page.conversations.len(), 1);
    let first = &page.conversations[0];
    assert_eq!((first.unread, first.name.as_str()), (30, "ann"));
    let last = first.last_event.as_ref().unwrap();
    assert_eq!(crate::simulated::text_of(last).as_deref(), Some("30"));
}

/// A control character is one byte in protobuf and six in JSON.
#[test]
fn a_page_of_conversations_in_json_is_cut_by_what_it_takes_in_json() {
    let mut node = Node::new(4, 1);
    let text = "\u{1}".repeat(20_000);
    for name in ["ann", "cid", "dan", "eve"] {
        let sender = node.attach(name, 1, None);
        node.text(sender, 1, "bob", &text);
        node.wait_sent(sender, 1);
    }
    let bobs = node.open(Encoding::Json);
    node.frame(bobs, 0, Body::Hello(Node::hello("bob", 1, None)));
    node.run_until(1_000, |node| node.welcome(bobs).is_some());
    let (mut found, mut cursor) = (0, bytes::Bytes::new());
    for req in 1..=4 {
        let get = frame::ConversationsGet { cursor, limit: 0 };
        node.frame(bobs, req, Body::Conversations(get));
        let answer = node.wait(bobs, req);
        let encoded = chat_wire::codec::encode(Encoding::Json, &answer.clone().into());
        assert!(encoded.len() < 140_000, "{} bytes", encoded.len());
        let Body::ConversationsPage(page) = answer else {
            panic!()
        };
        found += page.conversations.len();
        cursor = page.next;
    }
    assert_eq!(found, 4, "one of 120 kB in each page");
}

#[test]
fn a_session_far_behind_does_not_starve_the_others() {
    let mut node = sent(5000);
    let ann = node.attach("ann", 2, None);
    let cid = node.attach("cid", 1, None);
    let bobs = node.open(Encoding::Proto);
    let mut hello = Node::hello("bob", 1, Node::resume_from(0));
    hello.event_credits = Some(100_000);
    node.frame(bobs, 0, Body::Hello(hello));
    node.run_until(100, |node| node.welcome(bobs).is_some());
    node.text(ann, 1, "cid", "through");
    node.run_until(20, |node| node.texts(cid) == ["through"]);
    node.run_until(100, |node| node.texts(bobs).len() == 5000);
}

/// One command looks through 4,096 events of a device: the marks of the others follow in
/// the next.
#[test]
fn an_ack_of_more_events_than_one_command_looks_through_marks_them_all() {
    let mut node = sent(4_100);
    let cid = node.attach("cid", 1, None);
    node.text(cid, 1, "bob", "last");
    let last = node.wait_sent(cid, 1).msg_id;
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.credit(bobs, 10_000);
    node.run_until(5_000, |node| node.events(bobs).len() == 4_101);
    node.ack(bobs, 4_101);
    node.run_until(5_000, |node| {
        node.receipts(cid)
            .iter()
            .any(|mark| mark.delivered_up_to == last)
    });
}
