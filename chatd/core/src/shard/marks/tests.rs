use super::*;
use crate::shard::{
    group::read,
    inbox::read::{cursor, events},
    world::{Person, World, conversation, device, person, remote},
};
use bytes::Bytes;
use chat_wire::frame::group_change;

/// Alice has sent Bob three messages.
fn three() -> (World, Person, Person, Vec<i64>) {
    let mut world = World::new(4);
    let (alice, bob) = (person("alice"), person("bob"));
    let ids = (0..3)
        .map(|n| {
            world.ts_ms += 10;
            world.send(&alice, &bob, &n.to_string()).msg_id
        })
        .collect();
    world.settle();
    world.attach(&bob, 1, Some(0));
    (world, alice, bob, ids)
}

fn mark_of(world: &World, inbox: &Person, peer: &Person, user: &Person) -> (i64, i64) {
    let key = keys::mark(inbox.user().key(), conversation(peer), user.user());
    world.row(&key, inbox.user().key()).map_or((0, 0), |row| {
        let mark: Mark = keys::decode(&key, &row).unwrap();
        (mark.delivered, mark.seen)
    })
}

#[test]
fn a_mark_reaches_the_peer_as_a_receipt() {
    let (mut world, alice, bob, ids) = three();
    let effects = world.ack(&bob, 1, 2, &[(conversation(&alice), ids[1], 0)]);
    assert!(
        effects.receipts.is_empty(),
        "DELIVERED is no news to oneself"
    );
    let [(to, sent)] = &effects.pending[..] else {
        panic!("one mark leaves")
    };
    assert_eq!(*to, world.home(alice.user().key()));
    assert_eq!(*sent, remote(alice.user().0, bob.user(), ids[1], 0));
    let effects = world.apply(
        *to,
        command::Marks {
            marks: vec![sent.clone()],
        },
        &Bytes::new(),
    );
    let [told] = &effects.receipts[..] else {
        panic!("one receipt")
    };
    assert_eq!(told.inbox, alice.user());
    assert_eq!(
        (
            told.receipt.from_version,
            told.receipt.to_version,
            told.receipt.delivered_up_to
        ),
        (0, 1, ids[1])
    );
    assert_eq!(mark_of(&world, &alice, &bob, &bob), (ids[1], 0));
}

#[test]
fn seen_raises_delivered_and_tells_the_readers_own_devices() {
    let (mut world, alice, bob, ids) = three();
    let effects = world.ack(&bob, 1, 0, &[(conversation(&alice), 0, ids[2])]);
    assert_eq!(effects.receipts.len(), 1);
    assert_eq!(effects.receipts[0].inbox, bob.user());
    world.settle();
    assert_eq!(mark_of(&world, &bob, &alice, &bob), (ids[2], ids[2]));
    assert_eq!(mark_of(&world, &alice, &bob, &bob), (ids[2], ids[2]));
}

#[test]
fn marks_never_fall_and_repeated_ones_do_nothing() {
    let (mut world, alice, bob, ids) = three();
    world.ack(&bob, 1, 3, &[(conversation(&alice), ids[2], ids[1])]);
    let effects = world.ack(&bob, 1, 1, &[(conversation(&alice), ids[0], ids[0])]);
    assert!(effects.pending.is_empty() && effects.receipts.is_empty());
    assert_eq!(mark_of(&world, &bob, &alice, &bob), (ids[2], ids[1]));
    let store = world.store_of(bob.user());
    assert_eq!(cursor(store, bob.user(), device(1)), Ok(Some(3)));
}

#[test]
fn a_mark_ends_at_the_last_incoming_message_and_never_at_ones_own() {
    let (mut world, alice, bob, ids) = three();
    world.ts_ms += 10;
    let own = world.send(&bob, &alice, "mine").msg_id;
    world.settle();
    world.ack(&bob, 1, 4, &[(conversation(&alice), own, i64::MAX)]);
    assert_eq!(mark_of(&world, &bob, &alice, &bob), (ids[2], ids[2]));
    let effects = world.ack(&bob, 1, 4, &[(conversation(&person("carol")), 9, 9)]);
    assert!(effects.pending.is_empty());
}

#[test]
fn an_ack_beyond_the_head_or_of_an_unknown_device_is_passed_over() {
    let (mut world, alice, bob, ids) = three();
    let marks = [(conversation(&alice), ids[2], 0)];
    assert!(world.ack(&bob, 1, 4, &marks).pending.is_empty());
    assert!(world.ack(&bob, 77, 3, &marks).pending.is_empty());
    let store = world.store_of(bob.user());
    assert_eq!(cursor(store, bob.user(), device(1)), Ok(Some(0)));
    assert_eq!(mark_of(&world, &bob, &alice, &bob), (0, 0));
}

#[test]
fn devices_of_one_command_are_merged() {
    let (mut world, alice, bob, ids) = three();
    world.attach(&bob, 2, Some(0));
    let ack = |device, cursor, delivered, seen| command::DeviceAck {
        user: bob.user().0,
        device,
        cursor,
        marks: vec![ConversationMark {
            conversation: alice.user().0,
            delivered,
            seen,
        }],
    };
    let acks = command::Acks {
        devices: vec![
            ack(1, 1, ids[0], ids[0]),
            ack(2, 3, ids[2], ids[1]),
            ack(1, 2, ids[1], 0),
        ],
    };
    let effects = world.apply(world.home(bob.user().key()), acks, &Bytes::new());
    let versions: Vec<_> = effects
        .receipts
        .iter()
        .map(|told| (told.receipt.from_version, told.receipt.to_version))
        .collect();
    assert_eq!(versions, [(0, 1), (1, 2)]);
    assert_eq!(mark_of(&world, &bob, &alice, &bob), (ids[2], ids[1]));
    let store = world.store_of(bob.user());
    assert_eq!(cursor(store, bob.user(), device(1)), Ok(Some(2)));
    assert_eq!(cursor(store, bob.user(), device(2)), Ok(Some(3)));
    // One index row a mark.
    let chain = receipts_since(store, bob.user(), 0, 100).unwrap();
    assert_eq!(chain.len(), 1);
    assert_eq!((chain[0].from_version, chain[0].to_version), (0, 2));
}

#[test]
fn a_pending_mark_stays_until_exactly_that_value_is_confirmed() {
    let (mut world, alice, bob, ids) = three();
    let shard = world.home(bob.user().key());
    world.ack(&bob, 1, 1, &[(conversation(&alice), ids[0], 0)]);
    let old = pending(&world.stores[&shard], None, 10).unwrap();
    world.ack(&bob, 1, 2, &[(conversation(&alice), ids[1], 0)]);
    let confirm = |mark: &RemoteMark| command::MarksConfirm {
        marks: vec![mark.clone()],
    };
    world.apply(shard, confirm(&old[0].1), &Bytes::new());
    let new = pending(&world.stores[&shard], None, 10).unwrap();
    assert_eq!(new.len(), 1);
    assert_eq!(new[0].1.delivered, ids[1]);
    for _ in 0..2 {
        world.apply(shard, confirm(&new[0].1), &Bytes::new());
        assert_eq!(pending(&world.stores[&shard], None, 10), Ok(vec![]));
    }
}

#[test]
fn pending_marks_are_read_in_pages() {
    let mut world = World::new(2);
    let bob = person("bob");
    for n in 0..7 {
        world.send(&person(&format!("peer {n}")), &bob, "x");
    }
    let marks: Vec<_> = (0..7)
        .map(|n| (conversation(&person(&format!("peer {n}"))), i64::MAX, 0))
        .collect();
    world.attach(&bob, 1, None);
    world.ack(&bob, 1, 7, &marks);
    let store = world.store_of(bob.user());
    let all = pending(store, None, 100).unwrap();
    assert_eq!(all.len(), 7);
    let mut paged = Vec::new();
    while let Some(last) = {
        let page = pending(store, paged.last().cloned(), 3).unwrap();
        paged.extend(page.iter().cloned());
        page.last().cloned()
    } {
        assert_eq!(paged.last(), Some(&last));
    }
    assert_eq!(paged, all);
}

#[test]
fn receipts_are_a_chain_without_a_hole_also_in_pages() {
    let mut world = World::new(2);
    let alice = person("alice");
    world.attach(&alice, 1, None);
    let shard = world.home(alice.user().key());
    for n in 1..=20 {
        let peer = person(&format!("peer {}", n % 6));
        let marks = vec![remote(alice.user().0, peer.user(), n, n / 2)];
        world.apply(shard, command::Marks { marks }, &Bytes::new());
    }
    let store = world.store_of(alice.user());
    let mut version = 3;
    let mut told = Vec::new();
    loop {
        let page = receipts_since(store, alice.user(), version, 2).unwrap();
        let Some(last) = page.last() else { break };
        for receipt in &page {
            assert_eq!(
                receipt.from_version,
                version.max(told.last().copied().unwrap_or(3))
            );
            told.push(receipt.to_version);
        }
        version = last.to_version;
    }
    assert_eq!(told, [15, 16, 17, 18, 19, 20]);
    assert_eq!(receipts_since(store, alice.user(), u64::MAX, 2), Ok(vec![]));
}

#[test]
fn delivered_marks_follow_from_the_events_between_two_cursors() {
    let mut world = World::new(2);
    let (alice, bob, carol) = (person("alice"), person("bob"), person("carol"));
    let group = world.create(&carol, &[&bob]);
    let one = world.send(&alice, &bob, "1").msg_id;
    world.send(&bob, &alice, "own");
    world.send(&bob, &bob, "notes");
    let two = world.send(&alice, &bob, "2").msg_id;
    world.settle();
    let inbox = world.inbox(&bob);
    let head = inbox.last().unwrap().inbox_seq;
    assert!(
        inbox
            .iter()
            .any(|event| event.header.group() == Some(group))
    );
    let store = world.store_of(bob.user());
    let (marks, reached) = marks_between(store, bob.user(), 0, head, 100).unwrap();
    assert_eq!(reached, head);
    let got: Vec<_> = marks
        .iter()
        .map(|mark| (mark.conversation, mark.delivered))
        .collect();
    // A change of a group is no message: it is delivered, and nobody is told.
    assert_eq!(got, [(alice.user().0, two)]);
    // In pages.
    let (marks, reached) = marks_between(store, bob.user(), 0, head, 2).unwrap();
    assert_eq!(reached, 2);
    assert!(marks.iter().any(|mark| mark.delivered == one));
    assert_eq!(
        marks_between(store, bob.user(), head, head, 2),
        Ok((vec![], head))
    );
    assert_eq!(events(store, bob.user(), head, 9, 9).unwrap(), []);
}

#[test]
fn marks_of_a_group_stand_at_its_home_and_only_of_members() {
    let mut world = World::new(4);
    let (alice, bob, carol) = (person("alice"), person("bob"), person("carol"));
    let group = world.create(&alice, &[&bob, &carol]);
    world.send_group(&alice, group, "x");
    world.settle();
    world.attach(&bob, 1, Some(0));
    let last = world.inbox(&bob).last().unwrap().header.msg_id.0;
    world.ack(&bob, 1, 2, &[(group.into(), last, last)]);
    world.settle();
    let home = world.home(group.key());
    let who = (alice.user(), "default");
    let read_all = |world: &World| {
        let store = &world.stores[&home];
        let page = read::member_marks(store, group, who, &Bytes::new(), 10);
        let mut marks: Vec<_> = page
            .unwrap()
            .unwrap()
            .marks
            .iter()
            .map(|mark| (mark.user, mark.delivered_up_to, mark.seen_up_to))
            .collect();
        marks.sort_unstable();
        marks
    };
    let mut expected = vec![
        (alice.user().0, 0, 0),
        (bob.user().0, last, last),
        (carol.user().0, 0, 0),
    ];
    expected.sort_unstable();
    assert_eq!(read_all(&world), expected);
    // Somebody who is no member: confirmed, without effect.
    let dave = person("dave");
    let marks = vec![remote(group.0, dave.user(), 5, 5)];
    let effects = world.apply(
        home,
        command::Marks {
            marks: marks.clone(),
        },
        &Bytes::new(),
    );
    assert!(effects.member_marks.is_empty());
    assert_eq!(effects.notices, [Notice::MarksApplied(marks)]);
    // Who goes and comes back has read what was read.
    world.op(&alice, group, group_change::Kind::Removed, &[&bob]);
    world.op(&alice, group, group_change::Kind::Added, &[&bob]);
    assert_eq!(read_all(&world), expected);
}

#[test]
fn marks_for_nobody_make_no_inbox() {
    let mut world = World::new(1);
    let marks = vec![remote(person("ghost").user().0, person("bob").user(), 5, 5)];
    let before = world.stores[&ShardId(1)].rows().count();
    world.apply(ShardId(1), command::Marks { marks }, &Bytes::new());
    assert_eq!(world.stores[&ShardId(1)].rows().count(), before);
}
