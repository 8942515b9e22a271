use super::*;
use crate::{
    command,
    shard::world::{START_MS, World, message, person},
};
use chat_wire::ids::{MSG_ID_EPOCH_MS, MSG_ID_MAX_MS};

fn rounds(world: &World, command: &Command, body: &Bytes, shard: ShardId) -> (usize, Effects) {
    let store = &world.stores[&shard];
    let context = Context {
        shard,
        position: store.applied() + 1,
        rules: command::Rules::WRITTEN,
        ts_ms: START_MS,
        epoch: 1,
        body_offset: 0,
        body,
    };
    let mut found = Found::default();
    found.begin(&mut &*store).unwrap();
    for round in 0.. {
        match step(&context, command, &found) {
            Step::Needs(needs) => found.fill(&needs, &mut &*store).unwrap(),
            Step::Effects(effects) => return (round, *effects),
            Step::Unreadable(why) => panic!("{why}"),
        }
    }
    unreachable!("a loop without an end")
}

fn a_send(world: &mut World) -> (Command, ShardId) {
    let (alice, bob) = (person("alice"), person("bob"));
    let id = world.id();
    let send = command::Send {
        to_name: Some("bob".into()),
        ..world.send_command(&alice, bob.user().0, id)
    };
    (send.into(), world.home(bob.user().key()))
}

#[test]
fn most_commands_ask_once() {
    let mut world = World::new(4);
    let (alice, bob) = (person("alice"), person("bob"));
    world.send(&alice, &bob, "x");
    let (send, shard) = a_send(&mut world);
    assert_eq!(rounds(&world, &send, &message("x"), shard).0, 1);
    let item = (1..=4)
        .map(ShardId)
        .find_map(|to| world.waiting(shard, to).pop().map(|item| (to, item)))
        .unwrap();
    let deliver = item.1.deliver.into();
    assert!(rounds(&world, &deliver, &item.1.body, item.0).0 <= 2);
    let group = world.create(&alice, &[&bob]);
    let id = world.id();
    let send = world.send_command(&alice, group.0, id).into();
    let home = world.home(group.key());
    assert_eq!(rounds(&world, &send, &message("x"), home).0, 2);
}

#[test]
fn the_same_command_over_the_same_rows_has_the_same_effects() {
    let mut world = World::new(2);
    world.send(&person("alice"), &person("bob"), "x");
    let (send, shard) = a_send(&mut world);
    let body = message("x");
    let once = rounds(&world, &send, &body, shard).1;
    assert!(once.writes.len() > 5);
    assert_eq!(rounds(&world, &send, &body, shard).1, once);
}

#[test]
fn a_row_that_holds_no_value_of_its_family_stops_the_shard() {
    let mut world = World::new(1);
    world.send(&person("alice"), &person("bob"), "x");
    let (send, shard) = a_send(&mut world);
    let mut changes = Changes::default();
    changes.put_bytes(
        keys::head(person("bob").user().key()),
        Bytes::from_static(b"\xff\xff\xff"),
        None,
    );
    world.write(shard, changes.effects.writes);
    let store = &world.stores[&shard];
    let context = Context {
        shard,
        position: store.applied() + 1,
        rules: command::Rules::WRITTEN,
        ts_ms: START_MS,
        epoch: 1,
        body_offset: 0,
        body: &message("x"),
    };
    assert!(crate::shard::run(&context, &send, store).is_err());
}

#[test]
fn a_clock_beyond_what_message_ids_can_carry_is_refused() {
    let mut world = World::new(1);
    world.ts_ms = MSG_ID_EPOCH_MS + MSG_ID_MAX_MS + 1;
    let (alice, bob) = (person("alice"), person("bob"));
    world.attach(&bob, 1, None);
    let id = world.id_at(START_MS);
    let send = world.send_command(&alice, bob.user().0, id);
    assert_eq!(
        crate::shard::world::refused(&world.commit_send(&send, "x")),
        Code::Unavailable
    );
    // Before 2025 it counts from the last message.
    world.ts_ms = 5;
    let id = world.id_at(0);
    let send = world.send_command(&alice, bob.user().0, id);
    assert_eq!(
        crate::shard::world::sent(world.commit_send(&send, "x")).ts_ms,
        MSG_ID_EPOCH_MS
    );
}

#[test]
fn ids_that_are_none_are_refused() {
    let mut world = World::new(1);
    let (alice, bob) = (person("alice"), person("bob"));
    let id = world.id();
    let good = world.send_command(&alice, bob.user().0, id);
    let mut wrong = Vec::new();
    for client_id in [&b""[..], &[0; 16], &[7; 15]] {
        wrong.push(command::Send {
            client_id: Bytes::copy_from_slice(client_id),
            ..good.clone()
        });
    }
    for sender in [0, 1 << 63] {
        wrong.push(command::Send {
            sender,
            ..good.clone()
        });
    }
    wrong.push(command::Send {
        to: 0,
        ..good.clone()
    });
    wrong.push(command::Send {
        previous: Bytes::from_static(b"x"),
        ..good
    });
    for send in wrong {
        let effects = world.apply(ShardId(1), send.clone(), &message("x"));
        let code = crate::shard::world::refused(&effects);
        assert_eq!(code, Code::InvalidArgument, "{send:?}");
    }
}
