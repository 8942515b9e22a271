//! Room in the log: what is proposed has it, what frees it never waits for it, and
//! whoever waits is told in time.

use chat_wire::{
    error::Code,
    frame::{Body, Error, target::To},
    ids::ShardId,
};

use super::{
    super::{Event, LogRoom, room::MAX_WAIT_MS},
    bounds::send,
};
use crate::{command::Settings, shard::settings, simulated::Node};

const NONE: LogRoom = LogRoom {
    lent: 0,
    free: u64::MAX,
    capacity: u64::MAX,
};

fn of(node: &Node, shard: ShardId) -> super::super::ShardStatus {
    let status = node.host.status();
    status[usize::from(shard.0)].clone()
}

fn error(node: &mut Node, session: chat_wire::ids::SessionId, req: u32) -> Error {
    match node.wait(session, req) {
        Body::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

/// One session stopped a node for good: the flush waited in the log's queue behind
/// entries for which it was to make room.
#[test]
fn a_flush_waits_for_nothing_that_it_must_free() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "before");
    node.wait_sent(ann, 1);
    node.run(2000);
    let shard = node.shard_of("bob");
    node.host.lend(NONE);
    node.text(ann, 2, "bob", "waits");
    node.run(50);
    assert_eq!(node.answer(ann, 2), None);
    let before = of(&node, shard);
    node.host.step(node.now, Event::FlushWanted { shard });
    node.run(50);
    let after = of(&node, shard);
    assert_eq!((before.flushed, after.flushed), (0, before.applied));
    assert!(after.queued > 0, "and what waited still waits");
    let returned = node.host.give_back();
    assert!(returned.left == 0 && returned.reserve > 0, "{returned:?}");
}

#[test]
fn without_room_a_request_waits_a_moment_and_is_then_overloaded_with_a_time_to_try_again() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "before");
    node.wait_sent(ann, 1);
    node.run(2000);
    node.host.lend(NONE);
    let id = node.text(ann, 2, "bob", "waits");
    let late = node.open(chat_wire::codec::Encoding::Proto);
    node.frame(late, 0, Body::Hello(Node::hello("late", 1, None)));
    node.run(MAX_WAIT_MS - 100);
    assert_eq!((node.answer(ann, 2), node.closed(late)), (None, None));
    assert!(!node.spins());
    node.run(200);
    let refused = error(&mut node, ann, 2);
    assert_eq!(refused.code, u32::from(Code::Overloaded.number()));
    assert!(refused.retryable && refused.retry_after_ms > 0);
    // Somebody new is told, too; who was here before reads.
    assert_eq!(node.closed(late), Some(Code::Overloaded));
    let again = node.attach("ann", 1, Node::resume_from(0));
    node.run(MAX_WAIT_MS + 100);
    assert_eq!(node.texts(again), ["before"]);
    // With room it is taken, as if it had never been asked.
    node.host.lend(LogRoom::UNBOUNDED);
    let again_sent = Node::send_of(id, To::Name("bob".into()), "waits");
    node.frame(again, 3, Body::Send(again_sent));
    assert!(!node.wait_sent(again, 3).duplicate);
}

/// What is lent is never exceeded, and nothing of it is lost: entries are cut to it.
#[test]
fn an_entry_takes_as_many_commands_as_there_is_room_for() {
    let mut node = Node::new(1, 1);
    let ann = node.attach("ann", 1, None);
    node.run(2000);
    node.host.lend(NONE);
    for req in 1..=10 {
        node.text(ann, req, "bob", &"x".repeat(3000));
    }
    node.run(10);
    // Two of them fit a block each and the one that proves them.
    let room = LogRoom {
        lent: 3 * 4096,
        ..NONE
    };
    node.host.lend(room);
    node.run(100);
    let sent = (1..=10).filter(|req| node.answer(ann, *req).is_some());
    assert_eq!(sent.count(), 2);
    assert_eq!(node.host.give_back().left, 0);
    node.host.lend(LogRoom::UNBOUNDED);
    node.wait_sent(ann, 10);
}

#[test]
fn the_shard_with_most_of_the_log_is_refused_first_and_deliveries_before_requests() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    let name = |node: &Node, wanted: &dyn Fn(ShardId) -> bool| {
        let mut names = (0..100).map(|number| format!("user{number}"));
        names.find(|name| wanted(node.shard_of(name))).unwrap()
    };
    let anns = node.shard_of("ann");
    let heavy = name(&node, &|shard| shard != anns);
    let heavy_shard = node.shard_of(&heavy);
    let light = name(&node, &|shard| shard != anns && shard != heavy_shard);
    for req in 1..=20 {
        node.text(ann, req, &heavy, &"x".repeat(1000));
    }
    node.wait_sent(ann, 20);
    node.run(2000);
    let bytes = |node: &Node, shard| {
        use crate::store::ShardStore as _;
        node.host.store(shard).unwrap().log_bytes()
    };
    // The copies have gone to the sender's shard: it has about as much.
    let free = bytes(&node, heavy_shard).min(bytes(&node, anns)) - 1;
    assert!(bytes(&node, node.shard_of(&light)) < free);
    node.host.lend(LogRoom {
        lent: u64::MAX,
        free,
        capacity: 1 << 30,
    });
    node.text(ann, 21, &heavy, "refused");
    node.text(ann, 22, &light, "taken");
    assert_eq!(node.wait_error(ann, 21), Code::Overloaded);
    node.wait_sent(ann, 22);
    // Its copy is a delivery to a heavy shard: it waits, and comes when there is room.
    node.run(5000);
    let copies = |node: &Node| {
        node.texts(ann)
            .iter()
            .filter(|text| *text == "taken")
            .count()
    };
    assert_eq!(copies(&node), 0);
    node.host.lend(LogRoom::UNBOUNDED);
    node.run(3000);
    assert_eq!(copies(&node), 1);
}

/// It was refused for ever: the log was not full enough to ask for a flush, and the shard
/// not large enough to ask for one itself.
#[test]
fn a_shard_that_is_refused_for_its_part_of_the_log_is_flushed() {
    use crate::store::ShardStore as _;
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    for req in 1..=20 {
        node.text(ann, req, "bob", &"x".repeat(1000));
    }
    node.wait_sent(ann, 20);
    node.run(2000);
    let shard = node.shard_of("bob");
    let bytes = node.host.store(shard).unwrap().log_bytes();
    node.host.lend(LogRoom {
        lent: u64::MAX,
        free: bytes - 1,
        capacity: 2 * bytes,
    });
    let id = node.text(ann, 21, "bob", "refused");
    assert_eq!(node.wait_error(ann, 21), Code::Overloaded);
    node.run(100);
    assert!(of(&node, shard).flushed > 0);
    assert!(node.host.store(shard).unwrap().log_bytes() < bytes / 2);
    let flushed = of(&node, shard).flushed;
    node.run(5_000);
    assert_eq!(of(&node, shard).flushed, flushed, "once is enough");
    let again = Node::send_of(id, To::Name("bob".into()), "refused");
    node.frame(ann, 22, Body::Send(again));
    assert!(!node.wait_sent(ann, 22).duplicate);
}

#[test]
fn a_node_without_room_says_since_when_unless_one_shard_alone_has_too_much() {
    let mut node = Node::new(2, 1);
    node.run(2000);
    let shard = node.shard_of("bob");
    for (capacity, not_ready) in [(1 << 30, true), (100, false)] {
        node.host.lend(LogRoom { capacity, ..NONE });
        for req in 0..7 {
            let to = send(&mut node, req, 1);
            node.submit(to);
            node.run(MAX_WAIT_MS + 20);
        }
        let no_room_ms = of(&node, shard).no_room_ms;
        assert_eq!(no_room_ms > 5_000, not_ready, "{no_room_ms} ms");
        // Nobody asks, nobody is refused.
        node.run(3 * MAX_WAIT_MS);
        assert_eq!(of(&node, shard).no_room_ms, 0);
    }
}

#[test]
fn what_a_shard_says_before_it_serves_does_not_wait_for_room() {
    let mut node = Node::new(1, 1);
    node.run(100);
    node.host.lend(NONE);
    let shard = ShardId(1);
    let settings = settings::current(node.host.store(shard).unwrap()).unwrap();
    let newer = Settings {
        version: 1_000,
        generation: 77,
        ..settings.unwrap()
    };
    node.propose(shard, newer);
    assert_eq!(of(&node, shard).generation, 77);
}

#[test]
fn what_a_stopped_shard_had_proposed_gives_its_room_back() {
    // Ten megabytes at once are more than a device may send.
    let mut node = Node::with(1, 1, |_, session| session.limits.sends_burst = 100_000);
    let ann = node.attach("ann", 1, None);
    node.run(2000);
    let mut room = LogRoom {
        lent: 1 << 30,
        ..NONE
    };
    node.host.lend(room);
    // More than is applied in one poll: what is proposed then is taken by the next.
    node.disk_hangs = true;
    for req in 1..=160 {
        node.text(ann, req, "bob", &"x".repeat(60_000));
    }
    node.run(5);
    node.disk_hangs = false;
    for _ in 0..10 {
        if node.host.unsent_bytes() > 0 {
            break;
        }
        node.run(1);
    }
    let unsent = node.host.unsent_bytes();
    assert!(unsent > 0, "nothing was proposed and not taken");
    let left = node.host.give_back().left;
    room.lent = left;
    node.host.lend(room);
    let shard = node.shard_of("bob");
    let reason = "its segments cannot be read".to_owned();
    node.host
        .step(node.now, Event::CannotFlush { shard, reason });
    node.run(50);
    assert_eq!(
        of(&node, shard).stopped.as_deref(),
        Some("its segments cannot be read")
    );
    assert_eq!(node.stops.len(), 1);
    assert_eq!(node.host.unsent_bytes(), 0);
    assert_eq!(node.host.give_back().left, left + unsent);
}

#[test]
fn a_node_that_ends_carries_out_what_was_asked_and_begins_nothing_else() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    let bob = node.attach("bob", 1, None);
    node.run(2000);
    node.text(ann, 1, "bob", "the last");
    node.host.finish();
    node.wait_sent(ann, 1);
    node.run(20);
    assert_eq!(node.texts(bob), ["the last"]);
    let last = |node: &Node| {
        node.host
            .status()
            .iter()
            .map(|shard| shard.last)
            .sum::<u64>()
    };
    let before = last(&node);
    node.ack(bob, 1);
    for shard in 0..=8 {
        let shard = ShardId(shard);
        node.host.step(node.now, Event::FlushWanted { shard });
    }
    node.run(5000);
    assert_eq!(last(&node), before, "neither copies nor marks nor flushes");
    let command = crate::command::Flush {};
    assert!(node.host.propose(node.now, ShardId(1), command.into()));
    node.run(5);
    assert_eq!(last(&node), before + 1, "but what an operator says");
}
