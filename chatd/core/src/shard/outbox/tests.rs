use super::*;
use crate::{
    command::Send,
    shard::{
        Answer, settings,
        world::{Person, World, person, refused, sent},
    },
};

const SHARD: ShardId = ShardId(1);

fn waiting(messages: usize) -> World {
    let mut world = World::new(1);
    for n in 0..messages {
        world.send(&person("alice"), &person("bob"), &n.to_string());
    }
    world
}

fn confirm_upto(world: &mut World, number: u64) -> Effects {
    let confirm = command::OutboxConfirm {
        destination: 1,
        incarnation: settings::incarnation(&world.stores[&SHARD]).unwrap(),
        number,
    };
    world.apply(SHARD, confirm, &Bytes::new())
}

fn numbers(world: &World) -> Vec<u64> {
    world
        .waiting(SHARD, SHARD)
        .iter()
        .map(|item| item.deliver.number)
        .collect()
}

#[test]
fn entries_leave_when_they_are_confirmed_and_their_bytes_with_them() {
    let mut world = waiting(4);
    assert_eq!(numbers(&world), [1, 2, 3, 4]);
    let full = outboxes(&world.stores[&SHARD]).unwrap()[0];
    assert!(full.bytes > 4 * ROW_BYTES);
    confirm_upto(&mut world, 3);
    assert_eq!(numbers(&world), [4]);
    let less = outboxes(&world.stores[&SHARD]).unwrap()[0];
    assert_eq!((less.confirmed, less.last), (3, 4));
    // All four entries are of one size.
    assert_eq!(less.bytes * 4, full.bytes);
    for number in [2, 3] {
        assert_eq!(
            confirm_upto(&mut world, number).notices,
            [Notice::Duplicate { id: None }]
        );
    }
    confirm_upto(&mut world, 99);
    assert!(numbers(&world).is_empty());
    assert_eq!(outboxes(&world.stores[&SHARD]).unwrap()[0].bytes, 0);
}

#[test]
fn a_confirmation_of_another_incarnation_is_passed_over() {
    let mut world = waiting(2);
    let confirm = command::OutboxConfirm {
        destination: 1,
        incarnation: 5,
        number: 2,
    };
    world.apply(SHARD, confirm, &Bytes::new());
    assert_eq!(numbers(&world), [1, 2]);
}

#[test]
fn at_the_bound_a_message_is_overloaded_and_leaves_nothing_behind() {
    let mut settings = World::new(1).settings;
    settings.outbox_bytes = 2000;
    let mut world = World::with(settings);
    let (alice, bob) = (person("alice"), person("bob"));
    let send = loop {
        let id = world.id();
        let send = Send {
            to_name: Some("bob".into()),
            ..world.send_command(&alice, bob.user().0, id)
        };
        let rows: Vec<_> = world.stores[&SHARD]
            .rows()
            .map(|(key, row)| (*key, row.clone()))
            .collect();
        let effects = world.commit_send(&send, "hello");
        if let Some(Answer::Refused(_)) = &effects.answer {
            assert_eq!(refused(&effects), Code::Overloaded);
            let after: Vec<_> = world.stores[&SHARD]
                .rows()
                .map(|(key, row)| (*key, row.clone()))
                .collect();
            assert_eq!(after, rows);
            break send;
        }
    };
    assert!(outboxes(&world.stores[&SHARD]).unwrap()[0].bytes <= 2000);
    assert!(numbers(&world).len() > 5);
    world.settle();
    assert!(!sent(world.commit_send(&send, "hello")).duplicate);
}

#[test]
fn entries_are_read_in_pages_of_rows_and_bytes() {
    let world = waiting(10);
    let store = &world.stores[&SHARD];
    let read = |after, limit, budget| -> Vec<_> {
        entries(store, SHARD, SHARD, after, limit, budget)
            .unwrap()
            .iter()
            .map(|item| item.deliver.number)
            .collect()
    };
    assert_eq!(read(0, 3, usize::MAX), [1, 2, 3]);
    assert_eq!(read(8, 30, usize::MAX), [9, 10]);
    assert_eq!(read(4, 30, 0), [5]);
    assert!(read(10, 30, 100).is_empty());
    let none = entries(store, SHARD, ShardId(9), 0, 30, 100).unwrap();
    assert!(none.is_empty());
}

fn new_incarnation(world: &mut World, incarnation: u64) {
    world.apply(SHARD, command::Incarnation { incarnation }, &Bytes::new());
}

#[test]
fn a_new_incarnation_sends_nothing_before_its_destination_has_answered() {
    let mut world = waiting(3);
    let items = world.waiting(SHARD, SHARD);
    // Two are applied, but the confirmations were lost with the cut.
    for item in &items[..2] {
        world.apply(SHARD, item.deliver.clone(), &item.body);
    }
    new_incarnation(&mut world, 5);
    let id = world.id();
    let send = world.send_command(&person("alice"), person("bob").user().0, id);
    let effects = world.commit_send(&send, "3");
    assert!(effects.outbox.is_empty());
    assert_eq!(numbers(&world), [0]);
    // Late entries of the old incarnation still count until the question came.
    world.apply(SHARD, items[2].deliver.clone(), &items[2].body);
    let question = world.waiting(SHARD, SHARD).remove(0);
    world.deliver(SHARD, &question);
    assert_eq!(numbers(&world), [4]);
    // And not after it.
    let late = world.apply(SHARD, items[2].deliver.clone(), &items[2].body);
    assert!(late.events.is_empty());
    world.settle();
    assert_eq!(world.texts(&person("alice")), ["0", "1", "2", "3"]);
}

#[test]
fn a_source_that_was_cut_numbers_its_new_entries_behind_what_is_known_there() {
    // Shard 1 sends to shard 2, is cut to where it had sent one, and goes on.
    let mut world = World::new(2);
    let (bob, alice) = pair_of_shards(&world);
    let other = ShardId(2);
    world.send(&alice, &bob, "0");
    let cut = world.stores[&SHARD].clone();
    for n in 1..4 {
        world.send(&alice, &bob, &n.to_string());
    }
    for item in world.waiting(SHARD, other) {
        world.apply(other, item.deliver.clone(), &item.body);
    }
    assert_eq!(world.texts(&alice), ["0", "1", "2", "3"]);
    world.replace(SHARD, cut);
    new_incarnation(&mut world, 5);
    world.send(&alice, &bob, "4");
    world.settle();
    assert_eq!(world.texts(&alice), ["0", "1", "2", "3", "4"]);
    let state = outboxes(&world.stores[&SHARD]).unwrap()[0];
    assert_eq!(
        (state.confirmed, state.last, state.handshake),
        (5, 5, false)
    );
    // An outbox that begins under a later incarnation asks first, too.
    let items: Vec<_> = outboxes(&world.stores[&SHARD]).unwrap();
    assert_eq!(items.len(), 1);
    world.send(&bob, &bob, "notes");
    let id = world.id();
    let send = world.send_command(&person_in(&world, SHARD, "x"), bob.user().0, id);
    let effects = world.commit_send(&send, "5");
    assert_eq!(effects.outbox.len(), 1);
    assert_eq!(effects.outbox[0].deliver.number, 0);
    assert_eq!(world.waiting(SHARD, SHARD)[0].deliver.number, 0);
    world.settle();
    assert_eq!(world.texts(&bob), ["0", "4", "notes", "5"]);
}

#[test]
fn what_a_cut_source_wrote_between_two_incarnations_is_sent() {
    let mut world = World::new(2);
    let (bob, alice) = pair_of_shards(&world);
    let other = ShardId(2);
    world.send(&alice, &bob, "0");
    let cut = world.stores[&SHARD].clone();
    for n in 1..4 {
        world.send(&alice, &bob, &n.to_string());
    }
    for item in world.waiting(SHARD, other) {
        world.apply(other, item.deliver.clone(), &item.body);
    }
    world.replace(SHARD, cut);
    new_incarnation(&mut world, 5);
    world.send(&alice, &bob, "4");
    new_incarnation(&mut world, 6);
    world.send(&alice, &bob, "5");
    world.settle();
    assert_eq!(world.texts(&alice), ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn a_late_question_of_an_earlier_incarnation_is_passed_over() {
    let mut world = waiting(2);
    new_incarnation(&mut world, 5);
    let early = world.waiting(SHARD, SHARD).remove(0);
    world.ts_ms -= 1000;
    new_incarnation(&mut world, 6);
    let question = world.waiting(SHARD, SHARD).remove(0);
    world.apply(SHARD, question.deliver.clone(), &question.body);
    let late = world.apply(SHARD, early.deliver.clone(), &early.body);
    assert_eq!(late.notices, [Notice::Duplicate { id: None }]);
    world.settle();
    assert_eq!(world.texts(&person("alice")), ["0", "1"]);
}

#[test]
fn a_second_incarnation_before_the_first_was_answered_loses_nothing() {
    let mut world = waiting(3);
    let items = world.waiting(SHARD, SHARD);
    world.apply(SHARD, items[0].deliver.clone(), &items[0].body);
    new_incarnation(&mut world, 5);
    let question = world.waiting(SHARD, SHARD).remove(0);
    // The answer is lost; meanwhile there is a third.
    world.apply(SHARD, question.deliver.clone(), &question.body);
    world.send(&person("alice"), &person("bob"), "3");
    new_incarnation(&mut world, 6);
    world.send(&person("alice"), &person("bob"), "4");
    // Late answers of the second are no answers to the third.
    let late = command::Handshake {
        destination: 1,
        incarnation: 5,
        applied: 3,
    };
    world.apply(SHARD, late, &Bytes::new());
    world.settle();
    assert_eq!(world.texts(&person("alice")), ["0", "1", "2", "3", "4"]);
}

/// Two people of whom the first lives in shard 1 and the second in shard 2.
fn pair_of_shards(world: &World) -> (Person, Person) {
    (
        person_in(world, ShardId(1), "a"),
        person_in(world, ShardId(2), "b"),
    )
}

fn person_in(world: &World, shard: ShardId, prefix: &str) -> Person {
    (0..)
        .map(|n| person(&format!("{prefix}{n}")))
        .find(|who| world.home(who.user().key()) == shard)
        .unwrap()
}

#[test]
fn a_host_asks_before_old_and_new_outboxes_of_a_later_incarnation_send() {
    let mut node = crate::simulated::Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "before");
    node.wait_sent(ann, 1);
    node.run(500);
    let shard = node.shard_of("bob");
    node.propose(shard, command::Incarnation { incarnation: 77 });
    node.run(500);
    // Bob's shard has an outbox for Ann's, and none yet for the others.
    let others: Vec<_> = ["carol", "dave", "eve", "frank", "grace"]
        .into_iter()
        .filter(|name| node.shard_of(name) != node.shard_of("ann"))
        .collect();
    assert!(others.iter().any(|name| node.shard_of(name) != shard));
    node.text(ann, 2, "bob", "after");
    node.wait_sent(ann, 2);
    let sessions: Vec<_> = others
        .iter()
        .map(|name| node.attach(name, 1, None))
        .collect();
    for session in &sessions {
        node.text(*session, 1, "bob", "new");
        node.wait_sent(*session, 1);
    }
    node.run(5_000);
    assert_eq!(node.texts(ann), ["before", "after"]);
    for session in sessions {
        assert_eq!(node.texts(session), ["new"]);
    }
    let store = node.host.store(shard).unwrap();
    assert!(
        outboxes(store)
            .unwrap()
            .iter()
            .all(|outbox| !outbox.handshake && outbox.bytes == 0)
    );
}
