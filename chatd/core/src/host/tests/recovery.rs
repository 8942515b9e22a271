//! Crashes, flushes, damage, and runs that repeat.

use bytes::Bytes;
use chat_wire::{
    error::Code,
    frame::{Body, target::To},
    ids::{ReplicaId, UserId},
};

use super::super::HostSettings;
use crate::{
    command::{FORMAT, Incarnation},
    shard::keys,
    simulated::{Faults, Node},
    store::{HardState, LogEntry, ShardStore as _, memory::MemoryStore},
};

fn small_flushes(settings: &mut HostSettings) {
    settings.flush_bytes = 4096;
}

#[test]
fn a_retry_after_a_crash_returns_the_first_answer() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    let id = node.id();
    let send = Node::send_of(id, To::Name("bob".into()), "once");
    node.frame(ann, 1, Body::Send(send.clone()));
    let first = node.wait_sent(ann, 1);
    node.crash();
    let ann = node.attach("ann", 1, Node::resume_from(0));
    node.frame(ann, 1, Body::Send(send));
    let again = node.wait_sent(ann, 1);
    assert!(again.duplicate);
    assert_eq!((again.msg_id, again.ts_ms), (first.msg_id, first.ts_ms));
    let other = Node::send_of(id, To::Name("bob".into()), "another body");
    node.frame(ann, 2, Body::Send(other));
    assert_eq!(node.wait_error(ann, 2), Code::Conflict);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run(500);
    assert_eq!(node.texts(bobs), ["once"]);
    assert_eq!(node.texts(ann), ["once"]);
}

#[test]
fn what_was_acknowledged_survives_and_what_was_not_synced_was_not() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "synced");
    node.wait_sent(ann, 1);
    node.run(500);
    node.disk_hangs = true;
    node.text(ann, 2, "bob", "not synced");
    node.run(500);
    assert_eq!(node.answer(ann, 2), None);
    node.crash();
    node.disk_hangs = false;
    let generation = |node: &Node| node.host.status()[1].generation;
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run(500);
    assert_eq!(node.texts(bobs), ["synced"]);
    let before = generation(&node);
    node.crash();
    node.run(500);
    assert_eq!(generation(&node), before, "a crash is no restore");
}

#[test]
fn a_sent_copy_and_a_mark_on_their_way_survive_a_crash() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    let bobs = node.attach("bob", 1, None);
    node.faults = Faults {
        lost: 100,
        ..Faults::NONE
    };
    node.text(ann, 1, "bob", "hi");
    let sent = node.wait_sent(ann, 1);
    node.run_until(100, |node| node.texts(bobs) == ["hi"]);
    node.ack(bobs, 1);
    node.run(1000);
    assert_eq!((node.texts(ann).len(), node.receipts(ann).len()), (0, 0));
    node.crash();
    node.faults = Faults::NONE;
    let ann = node.attach("ann", 1, Node::resume_from(0));
    node.run_until(3000, |node| {
        node.texts(ann) == ["hi"] && !node.receipts(ann).is_empty()
    });
    assert_eq!(node.receipts(ann)[0].delivered_up_to, sent.msg_id);
    node.run(3000);
    let pending = |node: &Node| {
        let stores = (1..=8).map(|shard| node.host.store(chat_wire::ids::ShardId(shard)).unwrap());
        let rows = stores.flat_map(|store| store.rows().map(|(key, _)| key.family));
        rows.filter(|family| matches!(*family, keys::OUTBOX | keys::PENDING_MARK))
            .count()
    };
    assert_eq!(pending(&node), 0, "what was confirmed is gone");
}

#[test]
fn flushes_are_log_entries_and_a_crash_after_each_loses_nothing() {
    let mut node = Node::with(2, 1, |host, session| {
        small_flushes(host);
        session.limits.sends_burst = 10_000;
    });
    let mut texts = Vec::new();
    for round in 0..10 {
        let ann = node.attach("ann", 1, Node::resume_from(0));
        for req in 1..=20 {
            let text = format!("{round} {req}");
            node.text(ann, req, "bob", &text);
            node.wait_sent(ann, req);
            texts.push(text);
        }
        if round % 3 == 0 {
            node.run(200);
        }
        node.crash();
    }
    assert!(
        node.trace
            .iter()
            .filter(|line| line.starts_with("flush"))
            .count()
            > 10
    );
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run_until(500, |node| node.texts(bobs).len() == texts.len());
    assert_eq!(node.texts(bobs), texts);
    assert!(
        node.host
            .status()
            .iter()
            .skip(1)
            .all(|shard| shard.flushed > 0)
    );
}

#[test]
fn a_log_with_many_flushes_is_applied_as_fast_as_they_are_written() {
    let mut node = Node::with(1, 1, |host, _| small_flushes(host));
    let ann = node.attach("ann", 1, None);
    for req in 1..=150 {
        node.text(ann, req, "bob", "x");
        node.wait_sent(ann, req);
    }
    node.run(500);
    // All segments are lost, but the log is there.
    node.crash_and(|shard, store| {
        if shard.0 != 1 {
            return store.restarted();
        }
        let (voter, term) = (ReplicaId(2), store.log().last().unwrap().term);
        let hard_state = HardState {
            term,
            vote: voter.0,
            commit: store.applied(),
        };
        let mut fresh = MemoryStore::new(voter);
        fresh.append(store.log());
        fresh.persist(store.log(), Some(hard_state));
        fresh.restarted()
    });
    node.flusher_works = false;
    node.run(300);
    let applied = |node: &Node| node.host.status()[1].applied;
    let (stuck, committed) = (applied(&node), node.host.status()[1].committed);
    assert!(stuck < committed, "two frozen parts wait: applying waits");
    assert!(!node.spins(), "and does not spin");
    node.flusher_works = true;
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run_until(5000, |node| node.texts(bobs).len() == 150);
    assert!(node.host.status()[1].serves);
}

#[test]
fn without_a_flusher_a_leader_proposes_two_flushes_and_no_third() {
    let mut node = Node::with(1, 1, |host, _| small_flushes(host));
    let ann = node.attach("ann", 1, None);
    node.flusher_works = false;
    for req in 1..=150 {
        node.text(ann, req, "bob", "x");
        node.wait_sent(ann, req);
    }
    assert_eq!(
        node.trace
            .iter()
            .filter(|line| line.starts_with("flush"))
            .count(),
        2
    );
    node.flusher_works = true;
    node.run(500);
    assert!(
        node.trace
            .iter()
            .filter(|line| line.starts_with("flush"))
            .count()
            > 2
    );
}

fn a_stopped_shard_and_the_others(mut node: Node, reason: &str) {
    let shard = node.shard_of("bob");
    let others: Vec<_> = ["ann", "cid", "dan", "eve"]
        .into_iter()
        .filter(|n| node.shard_of(n) != shard)
        .collect();
    let [one, two] = [others[0], others[1]];
    let session = node.attach(one, 7, None);
    node.text(session, 1, "bob", "x");
    node.run(500);
    assert_eq!(node.stops.len(), 1, "{:?}", node.stops);
    assert_eq!(node.stops[0].0, shard);
    assert!(node.stops[0].1.contains(reason), "{:?}", node.stops);
    assert_eq!(node.wait_error(session, 1), Code::Damaged);
    let status = node.host.status();
    let stopped: Vec<_> = status
        .iter()
        .filter(|status| status.stopped.is_some())
        .collect();
    assert_eq!(stopped.len(), 1);
    assert!(!stopped[0].serves);
    let bobs = node.attach("bob", 1, None);
    assert_eq!(node.closed(bobs), Some(Code::Damaged));
    node.text(session, 2, two, "the others go on");
    node.wait_sent(session, 2);
}

#[test]
fn an_entry_of_a_kind_that_is_not_known_stops_its_shard_with_the_reason() {
    let mut node = Node::new(8, 1);
    let shard = node.shard_of("bob");
    node.crash_and(|id, store| {
        let mut store = store.restarted();
        if id == shard {
            let mut payload = vec![FORMAT];
            payload.extend([0; 12]);
            payload.extend(1_u32.to_be_bytes());
            payload.extend([200, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let last = store.log().last().unwrap().clone();
            let (position, payload) = (last.position + 1, Bytes::from(payload));
            let entry = LogEntry {
                position,
                term: last.term,
                kind: 0,
                payload,
            };
            store.append(std::slice::from_ref(&entry));
            store.persist(&[entry], None);
        }
        store
    });
    node.run(500);
    a_stopped_shard_and_the_others(node, "command of kind 200");
}

#[test]
fn a_row_that_cannot_be_read_stops_its_shard_and_the_others_go_on() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "x");
    node.wait_sent(ann, 1);
    node.run(500);
    let shard = node.shard_of("bob");
    let key = keys::head(UserId::of("default", "bob").key());
    node.crash_and(|id, store| {
        let mut store = store.restarted();
        if id == shard {
            store.damage(Some(key));
        }
        store
    });
    a_stopped_shard_and_the_others(node, "row");
}

#[test]
fn a_page_that_cannot_be_read_is_refused_and_the_shard_goes_on() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "x");
    let conversation = node.wait_sent(ann, 1).conversation;
    node.run(500);
    let shard = node.shard_of("ann");
    let key = keys::event(UserId::of("default", "ann").key(), 1);
    node.host.store_mut(shard).unwrap().damage(Some(key));
    let get = chat_wire::frame::HistoryGet {
        conversation,
        from: None,
        limit: 0,
    };
    node.frame(ann, 2, Body::History(get));
    assert_eq!(node.wait_error(ann, 2), Code::Damaged);
    assert_eq!(node.stops, []);
    node.text(ann, 3, "bob", "y");
    node.wait_sent(ann, 3);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut node = Node::with(8, seed, |host, _| small_flushes(host));
        node.faults = Faults::BAD;
        let sessions = ["ann", "bob", "cid"].map(|name| node.attach(name, 1, None));
        for req in 1..=60 {
            let at = usize::try_from(node.chance.below(3)).unwrap();
            let to = ["ann", "bob", "cid"][usize::try_from(node.chance.below(3)).unwrap()];
            node.text(sessions[at], req, to, "x");
            node.run(10);
            let newest = node
                .events(sessions[at])
                .last()
                .map_or(0, |event| event.inbox_seq);
            node.ack(sessions[at], newest);
        }
        node.run(500);
        node.crash();
        node.attach("ann", 1, Node::resume_from(0));
        node.run(2000);
        node.trace
    };
    for seed in [1, 2] {
        let (first, second) = (run(seed), run(seed));
        assert!(first.len() > 300, "{}", first.len());
        for (line, (one, two)) in first.iter().zip(&second).enumerate() {
            assert_eq!(one, two, "seed {seed}, line {line}");
        }
        assert_eq!(first.len(), second.len());
    }
    assert_ne!(run(1), run(2));
}

#[test]
fn a_shard_with_a_new_incarnation_asks_first_and_nothing_is_lost_or_doubled() {
    for seed in 0..6 {
        let mut node = Node::new(8, seed);
        let [ann, cid] = ["ann", "cid"].map(|name| node.attach(name, 1, None));
        let source = node.shard_of("bob");
        let texts: Vec<_> = (1..=30).map(|req| req.to_string()).collect();
        node.faults = Faults::BAD;
        node.faults.full = 0;
        for (req, text) in (1..).zip(&texts) {
            node.text(ann, req, "bob", text);
            if req == 12 || req == 20 {
                let incarnation = 1000 + u64::from(req);
                node.propose(source, Incarnation { incarnation });
            }
        }
        // To this destination the shard has owed nothing before.
        node.text(cid, 1, "bob", "first");
        node.wait_sent(ann, 30);
        node.wait_sent(cid, 1);
        node.faults = Faults::NONE;
        node.run_until(20_000, |node| {
            node.texts(ann).len() >= 30 && !node.texts(cid).is_empty()
        });
        node.run(5_000);
        assert_eq!(
            (node.texts(ann), node.texts(cid)),
            (texts, vec!["first".to_owned()])
        );
        assert_eq!(node.host.counters().outbox_lost, 0, "seed {seed}");
        assert!(
            node.host
                .status()
                .iter()
                .all(|status| status.outbox_entries == 0)
        );
    }
}

/// The map changed while an entry was on its way: it was refused, and never proposed again
/// although its source sent it again and again.
#[test]
fn an_outbox_entry_refused_as_wrong_shard_left_its_stream_hanging() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    let shard = node.shard_of("ann");
    assert_ne!(
        shard,
        node.shard_of("bob"),
        "the copy goes to another shard"
    );
    let settings = crate::shard::settings::current(node.host.store(shard).unwrap());
    let settings = settings.unwrap().unwrap();
    let with = |version, epoch| crate::command::Settings {
        version,
        epoch,
        ..settings.clone()
    };
    node.propose(shard, with(2, settings.epoch + 1));
    node.run(100);
    node.text(ann, 1, "bob", "hi");
    node.wait_sent(ann, 1);
    node.run(3_000);
    assert_eq!(node.texts(ann), Vec::<String>::new(), "it was refused");
    node.propose(shard, with(3, settings.epoch));
    node.run_until(10_000, |node| node.texts(ann) == ["hi"]);
}

/// A destination that was restored has lost what it had confirmed: what is new arrives,
/// and what is gone is counted.
#[test]
fn the_stream_goes_on_after_its_destination_was_cut() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    let shard = node.shard_of("ann");
    assert_ne!(
        shard,
        node.shard_of("bob"),
        "the copies go to another shard"
    );
    node.text(ann, 1, "bob", "kept");
    node.wait_sent(ann, 1);
    node.run(2_000);
    let earlier = node.host.store(shard).unwrap().clone();
    for (req, text) in [(2, "lost"), (3, "lost too")] {
        node.text(ann, req, "bob", text);
        node.wait_sent(ann, req);
    }
    node.run(2_000);
    node.crash_and(|id, store| {
        let store = if id == shard { earlier.clone() } else { store };
        store.restarted()
    });
    node.run(500);
    let ann = node.attach("ann", 1, Node::resume_from(0));
    node.text(ann, 1, "bob", "new");
    node.wait_sent(ann, 1);
    node.run_until(10_000, |node| node.texts(ann) == ["kept", "new"]);
    assert_eq!(node.host.counters().outbox_lost, 2);
}
