use chat_wire::error::Code;

use crate::{
    command,
    shard::{
        Answer, Effects,
        inbox::read::cursor,
        world::{World, device, person, refused},
    },
};
use bytes::Bytes;

/// (head, cursor, known, dropped)
fn attached(effects: Effects) -> (u64, u64, bool, Option<u64>) {
    match effects.answer {
        Some(Answer::Attached {
            head,
            cursor,
            known,
            dropped,
            ..
        }) => (head, cursor, known, dropped.map(|device| device.0)),
        other => panic!("not attached: {other:?}"),
    }
}

fn busy() -> World {
    let mut world = World::new(2);
    for n in 0..10 {
        world.send(&person("alice"), &person("bob"), &n.to_string());
    }
    world
}

#[test]
fn the_first_token_makes_an_empty_inbox() {
    let mut world = World::new(2);
    let effects = world.attach(&person("bob"), 1, None);
    assert_eq!(attached(effects), (0, 0, false, None));
}

#[test]
fn without_resume_a_device_begins_at_the_head() {
    let mut world = busy();
    let bob = person("bob");
    assert_eq!(attached(world.attach(&bob, 1, None)), (10, 10, false, None));
    world.send(&person("alice"), &bob, "more");
    assert_eq!(attached(world.attach(&bob, 1, None)), (11, 11, true, None));
}

#[test]
fn a_resume_leaves_the_cursor_to_the_acknowledgement_that_carries_its_marks() {
    let mut world = busy();
    let bob = person("bob");
    for resume in [0, 4, 2, 99] {
        let (_, cursor, ..) = attached(world.attach(&bob, 1, Some(resume)));
        assert_eq!(cursor, 0, "resume from {resume}");
    }
    world.ack(&bob, 1, 4, &[]);
    let (_, stands, ..) = attached(world.attach(&bob, 1, Some(2)));
    assert_eq!(stands, 4, "never lowered");
    let store = world.store_of(bob.user());
    assert_eq!(cursor(store, bob.user(), device(1)), Ok(Some(4)));
}

#[test]
fn a_cursor_of_another_generation_moves_nothing() {
    let mut world = busy();
    let bob = person("bob");
    world.attach(&bob, 1, Some(0));
    world.ack(&bob, 1, 3, &[]);
    let attach = command::Attach {
        app: "default".into(),
        name: "bob".into(),
        user: bob.user().0,
        device: 1,
        resume_seq: Some(8),
        generation: 8,
    };
    let effects = world.apply(world.home(bob.user().key()), attach, &Bytes::new());
    assert_eq!(attached(effects), (10, 3, true, None));
}

#[test]
fn one_device_too_many_takes_the_place_of_the_longest_unseen() {
    let mut world = busy();
    let bob = person("bob");
    for device in [1, 2, 3] {
        world.ts_ms += 1000;
        world.attach(&bob, device, Some(0));
    }
    world.ts_ms += 1000;
    // An acknowledgement is a sign of life too.
    world.ack(&bob, 1, 5, &[]);
    world.ts_ms += 1000;
    assert_eq!(attached(world.attach(&bob, 4, None)).3, Some(2));
    assert_eq!(attached(world.attach(&bob, 3, None)).3, None);
    let (_, cursor, known, dropped) = attached(world.attach(&bob, 2, Some(7)));
    assert_eq!((cursor, known, dropped), (0, false, Some(1)));
}

#[test]
fn an_id_that_belongs_to_another_name_cannot_attach() {
    let mut world = busy();
    let bob = person("bob");
    for (app, name) in [("default", "bobby"), ("other", "bob")] {
        let attach = command::Attach {
            app: app.into(),
            name: name.into(),
            user: bob.user().0,
            device: 1,
            resume_seq: None,
            generation: 0,
        };
        let effects = world.apply(world.home(bob.user().key()), attach, &Bytes::new());
        assert_eq!(refused(&effects), Code::NameCollision);
    }
}

#[test]
fn a_device_without_a_number_is_refused() {
    let mut world = busy();
    let effects = world.attach(&person("bob"), 0, None);
    assert_eq!(refused(&effects), Code::InvalidArgument);
}
