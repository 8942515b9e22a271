use super::*;
use crate::{
    command,
    shard::world::{Person, World, person, text},
    store::Unreadable,
};
use bytes::Bytes;
use chat_wire::{frame::group_change::Kind as Change, ids::ShardId};

/// One shard, whose outbox to itself holds what alice sent to bob.
fn waiting(messages: usize) -> (World, ShardId) {
    let mut world = World::new(1);
    for n in 0..messages {
        world.send(&person("alice"), &person("bob"), &n.to_string());
    }
    (world, ShardId(1))
}

#[test]
fn only_the_next_number_is_applied_and_every_answer_says_which_that_is() {
    let (mut world, shard) = waiting(3);
    let items = world.waiting(shard, shard);
    let number = |effects: &Effects| match effects.notices.last() {
        Some(Notice::Applied { number, .. }) => *number,
        other => panic!("not Applied: {other:?}"),
    };
    let mut apply = |n: usize| {
        let item = &items[n];
        world.apply(shard, item.deliver.clone(), &item.body)
    };
    let late = apply(2);
    assert_eq!((late.events.len(), number(&late)), (0, 0));
    assert_eq!(apply(0).events.len(), 1);
    let twice = apply(0);
    assert_eq!((twice.events.len(), number(&twice)), (0, 1));
    assert_eq!(twice.notices[0], Notice::Duplicate { id: None });
    assert_eq!(number(&apply(1)), 2);
    assert_eq!(number(&apply(2)), 3);
    assert_eq!(world.texts(&person("alice")), ["0", "1", "2"]);
}

#[test]
fn an_entry_of_an_incarnation_that_has_not_asked_is_not_applied() {
    let (mut world, shard) = waiting(1);
    let mut item = world.waiting(shard, shard).remove(0);
    world.apply(shard, item.deliver.clone(), &item.body);
    item.deliver.incarnation += 1;
    item.deliver.number += 1;
    let effects = world.apply(shard, item.deliver.clone(), &item.body);
    assert!(effects.events.is_empty());
    assert_eq!(world.texts(&person("alice")).len(), 1);
}

#[test]
fn an_entry_of_an_unknown_kind_stops_the_shard() {
    let mut world = World::new(1);
    let deliver = Deliver {
        source: 1,
        incarnation: 1001,
        number: 1,
        effect: Some(command::OutboxEffect { effect: None }),
        confirmed: 0,
        since_ms: 0,
    };
    let store = &world.stores[&ShardId(1)];
    let context = crate::shard::Context {
        shard: ShardId(1),
        position: store.applied() + 1,
        rules: command::Rules::WRITTEN,
        ts_ms: world.ts_ms,
        epoch: 1,
        body_offset: 0,
        body: &Bytes::new(),
    };
    let stopped = crate::shard::run(&context, &deliver.into(), store);
    assert!(matches!(stopped, Err(Unreadable(why)) if why.contains("newer version")));
    world.send(&person("alice"), &person("bob"), "x");
}

#[test]
fn a_member_whose_id_has_another_name_here_is_passed_over() {
    let mut world = World::new(1);
    let (alice, bob) = (person("alice"), person("bob"));
    world.attach(&bob, 1, None);
    let change = GroupChanged {
        event: None,
        app: "other".into(),
        name: "g".into(),
        joined: vec![crate::shard::world::member(
            &bob,
            chat_wire::frame::Role::Member,
        )],
        left: vec![],
        group: 1 << 63 | 5,
    };
    let deliver = Deliver {
        source: 1,
        incarnation: 1001,
        number: 1,
        effect: Some(command::OutboxEffect {
            effect: Some(Effect::GroupChange(change)),
        }),
        confirmed: 0,
        since_ms: 0,
    };
    let effects = world.apply(ShardId(1), deliver, &Bytes::new());
    assert_eq!(
        effects.notices[0],
        Notice::NameCollision { user: bob.user() }
    );
    let group = GroupId(1 << 63 | 5);
    let store = &world.stores[&ShardId(1)];
    assert_eq!(is_in_roster(store, group, bob.user()), Ok(false));
    assert!(world.inbox(&bob).is_empty() && world.inbox(&alice).is_empty());
}

#[test]
fn a_roster_longer_than_a_page_is_read_to_its_end() {
    let mut settings = World::new(1).settings;
    settings.group_members = 6000;
    settings.outbox_bytes = 1 << 30;
    let mut world = World::with(settings);
    let alice = person("alice");
    let people: Vec<_> = (0..ROSTER_PAGE + 100)
        .map(|n| person(&format!("m{n}")))
        .collect();
    let all: Vec<&Person> = people.iter().collect();
    let group = world.create(&alice, &all);
    world.settle();
    world.events.clear();
    world.send_group(&alice, group, "hi");
    world.settle();
    assert_eq!(world.events.len(), people.len() + 1);
    let store = &world.stores[&ShardId(1)];
    let mut found = Vec::new();
    loop {
        let page = roster(store, group, found.last().copied(), 1000).unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found.len(), people.len() + 1);
}

#[test]
fn a_destination_that_lost_what_it_had_confirmed_goes_on_and_says_what_is_gone() {
    let (mut world, shard) = waiting(3);
    let before = world.stores.clone();
    let items = world.waiting(shard, shard);
    for item in &items {
        world.deliver(shard, item);
    }
    world.send(&person("alice"), &person("bob"), "3");
    let next = world.waiting(shard, shard).remove(0);
    assert_eq!((next.deliver.number, next.deliver.confirmed), (4, 3));
    // The destination is cut to where it was.
    world.restore(before);
    let effects = world.apply(shard, next.deliver.clone(), &next.body);
    assert_eq!(
        effects.notices[0],
        Notice::OutboxGap {
            source: shard,
            from: 1,
            to: 3
        }
    );
    assert_eq!(world.texts(&person("alice")), ["3"]);
}

#[test]
fn everyone_learns_of_a_change_in_the_order_it_was_made() {
    let mut world = World::new(3);
    let (alice, bob, carol) = (person("alice"), person("bob"), person("carol"));
    let group = world.create(&alice, &[&bob]);
    world.send_group(&bob, group, "1");
    world.op(&alice, group, Change::Added, &[&carol]);
    world.send_group(&carol, group, "2");
    world.op(&carol, group, Change::Left, &[]);
    world.send_group(&bob, group, "3");
    world.settle();
    let seqs = |who| -> Vec<_> {
        world
            .inbox(who)
            .iter()
            .map(|event| (event.header.group_seq, text(event)))
            .collect()
    };
    assert_eq!(seqs(&alice), seqs(&bob));
    assert_eq!(seqs(&alice).len(), 6);
    let carols = seqs(&carol);
    assert_eq!(carols[..], seqs(&alice)[2..5]);
}
