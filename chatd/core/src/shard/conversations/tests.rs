use super::*;
use crate::command::Rules;
use crate::shard::world::{World, conversation as conversation_of, person};
use chat_wire::frame::group_change;
use prost::Message as _;

fn list(world: &World, who: &str, cursor: &Bytes, limit: usize) -> frame::ConversationsPage {
    let user = person(who).user();
    conversations(
        world.store_of(user),
        user,
        cursor,
        limit,
        1 << 20,
        frame::Conversation::encoded_len,
    )
    .unwrap()
    .unwrap()
}

fn names(page: &frame::ConversationsPage) -> Vec<(&str, u64)> {
    page.conversations
        .iter()
        .map(|entry| (&entry.name[..], entry.unread))
        .collect()
}

#[test]
fn conversations_come_newest_first_with_names_and_unread_counts() {
    let mut world = World::new(4);
    let (alice, bob, carol) = (person("alice"), person("bob"), person("carol"));
    let group = world.create(&alice, &[&bob]);
    world.settle();
    world.ts_ms += 10;
    let first = world.send(&carol, &bob, "1").msg_id;
    world.ts_ms += 10;
    world.send(&carol, &bob, "2");
    world.ts_ms += 10;
    world.send(&bob, &alice, "only sent");
    world.ts_ms += 10;
    world.send(&bob, &bob, "notes");
    world.settle();
    let page = list(&world, "bob", &Bytes::new(), 10);
    assert_eq!(
        names(&page),
        [("bob", 0), ("alice", 0), ("carol", 2), ("the group", 0)]
    );
    assert_eq!((page.inbox_head, page.more), (5, false));
    world.attach(&bob, 1, None);
    world.ack(&bob, 1, 5, &[(conversation_of(&carol), 0, first)]);
    world.settle();
    let page = list(&world, "bob", &Bytes::new(), 10);
    let with_carol = &page.conversations[2];
    assert_eq!(
        (
            with_carol.unread,
            with_carol.delivered_up_to,
            with_carol.seen_up_to
        ),
        (1, first, first)
    );
    assert!(matches!(
        with_carol.last_event.as_ref().unwrap().what,
        Some(frame::event::What::Message(_))
    ));
    let carols = list(&world, "carol", &Bytes::new(), 10);
    assert_eq!(
        (
            carols.conversations[0].peer_seen_up_to,
            carols.marks_version
        ),
        (first, 1)
    );
    assert_eq!(carols.conversations[0].name, "bob");
    // A renamed group is shown so.
    let id = world.id();
    let rename = crate::command::GroupOp {
        name: "renamed".into(),
        ..world.op_command(&alice, group, id, group_change::Kind::Renamed)
    };
    world.ts_ms += 10;
    world.commit_op(&rename);
    world.settle();
    assert_eq!(
        names(&list(&world, "bob", &Bytes::new(), 1)),
        [("renamed", 0)]
    );
}

/// One message, a creation and a renaming were three unread ones, and a DELIVERED mark
/// could stand on a change.
#[test]
fn changes_of_a_group_counted_as_unread_messages() {
    for (rules, unread) in [(Rules::WRITTEN, 1), (Rules::One, 3)] {
        let mut world = World::new(2);
        world.rules = rules;
        let (alice, bob) = (person("alice"), person("bob"));
        let group = world.create(&alice, &[&bob]);
        world.ts_ms += 10;
        let said = crate::shard::world::sent(world.send_group(&alice, group, "hi")).msg_id;
        world.ts_ms += 10;
        let id = world.id();
        let rename = crate::command::GroupOp {
            name: "renamed".into(),
            ..world.op_command(&alice, group, id, group_change::Kind::Renamed)
        };
        let renamed = crate::shard::world::group_state(world.commit_op(&rename)).msg_id;
        world.settle();
        let page = list(&world, "bob", &Bytes::new(), 10);
        assert_eq!(names(&page), [("renamed", unread)]);
        world.attach(&bob, 1, None);
        world.ack(&bob, 1, 3, &[(group.into(), renamed, renamed)]);
        let page = list(&world, "bob", &Bytes::new(), 10);
        let last = if rules == Rules::One { renamed } else { said };
        let entry = &page.conversations[0];
        assert_eq!((entry.unread, entry.delivered_up_to), (0, last));
        assert_eq!(entry.seen_up_to, last);
    }
}

#[test]
fn pages_follow_each_other_without_a_gap() {
    let mut world = World::new(2);
    let bob = person("bob");
    for n in 0..11 {
        world.ts_ms += 1;
        world.send(&person(&format!("peer {n:02}")), &bob, "x");
    }
    let mut cursor = Bytes::new();
    let mut all = Vec::new();
    loop {
        let page = list(&world, "bob", &cursor, 4);
        all.extend(page.conversations.iter().map(|entry| entry.name.clone()));
        cursor = page.next.clone();
        if !page.more {
            break;
        }
    }
    let expected: Vec<_> = (0..11).rev().map(|n| format!("peer {n:02}")).collect();
    assert_eq!(all, expected);
}

#[test]
fn a_page_ends_at_its_budget_but_has_one_entry_at_least() {
    let mut world = World::new(1);
    let bob = person("bob");
    for n in 0..3 {
        world.send(&person(&format!("peer {n}")), &bob, "x");
    }
    let user = bob.user();
    let store = world.store_of(user);
    let page = conversations(store, user, &Bytes::new(), 10, 1, |_| 2)
        .unwrap()
        .unwrap();
    assert_eq!((page.conversations.len(), page.more), (1, true));
}

#[test]
fn a_cursor_of_something_else_is_refused() {
    let world = World::new(1);
    let user = person("bob").user();
    let answer = conversations(
        world.store_of(user),
        user,
        &Bytes::from_static(b"x"),
        1,
        1,
        |_| 2,
    );
    assert_eq!(answer.unwrap().unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn an_event_below_the_floor_is_not_shown() {
    let mut world = World::new(1);
    let bob = person("bob");
    world.send(&person("alice"), &bob, "x");
    let floor = crate::command::Floor {
        inbox: bob.user().key().0,
        oldest_seq: 2,
        dedup_before_ms: 0,
    };
    world.apply(world.home(bob.user().key()), floor, &Bytes::new());
    let page = list(&world, "bob", &Bytes::new(), 10);
    assert_eq!(page.conversations[0].last_event, None);
    assert_eq!(page.conversations[0].name, "alice");
}
