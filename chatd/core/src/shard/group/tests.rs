use super::*;
use crate::shard::{
    group::{
        naming,
        read::{self, is_member, member_shards},
    },
    world::{Person, World, group_state, member, message, person, refused, sent, text},
};
use chat_wire::frame::{Role, group_change::Kind as Change};

/// Alice's group with Bob and Carol, all of it delivered.
fn group() -> (World, GroupId, Person, Person, Person) {
    let mut world = World::new(4);
    let (alice, bob, carol) = (person("alice"), person("bob"), person("carol"));
    let group = world.create(&alice, &[&bob, &carol]);
    world.settle();
    (world, group, alice, bob, carol)
}

fn state_of(world: &World, group: GroupId, who: &Person) -> Result<frame::GroupState, Code> {
    let store = &world.stores[&world.home(group.key())];
    read::group_state(store, group, who.user(), who.app)
        .unwrap()
        .map_err(|refusal| refusal.code)
}

#[test]
fn a_new_group_tells_its_members_and_makes_their_inboxes() {
    let (world, group, alice, bob, carol) = group();
    for who in [&alice, &bob, &carol] {
        assert_eq!(world.texts(who), ["Created bob carol"]);
        let event = &world.inbox(who)[0];
        assert_eq!(
            (event.header.group_seq, event.header.group()),
            (1, Some(group))
        );
    }
    let state = state_of(&world, group, &alice).unwrap();
    assert_eq!(
        (
            &state.name[..],
            state.members,
            state.my_role(),
            state.group_seq
        ),
        ("the group", 3, Role::Owner, 1)
    );
    assert_eq!(
        state_of(&world, group, &bob).unwrap().my_role(),
        Role::Member
    );
}

#[test]
fn a_repeated_creation_is_the_same_group_and_gets_the_first_answer() {
    let mut world = World::new(2);
    let alice = person("alice");
    let id = world.id();
    let group = GroupId::of(alice.user(), id);
    let op = GroupOp {
        name: "g".into(),
        members: vec![member(&person("bob"), Role::Member)],
        ..world.op_command(&alice, group, id, Change::Created)
    };
    let first = group_state(world.commit_op(&op));
    world.op(&alice, group, Change::Added, &[&person("carol")]);
    let again = world.commit_op(&op);
    assert_eq!(again.notices, [Notice::Duplicate { id: Some(id) }]);
    assert_eq!(
        group_state(again),
        frame::GroupState {
            duplicate: true,
            ..first.clone()
        }
    );
    assert_eq!((first.members, first.group_seq), (2, 1));
    let other = GroupOp { digest: 99, ..op };
    assert_eq!(refused(&world.commit_op(&other)), Code::Conflict);
}

#[test]
fn a_groups_id_follows_from_its_creator_and_the_operation() {
    let mut world = World::new(2);
    let alice = person("alice");
    let id = world.id();
    let stolen = GroupId::of(person("bob").user(), id);
    let op = GroupOp {
        name: "g".into(),
        ..world.op_command(&alice, stolen, id, Change::Created)
    };
    assert_eq!(refused(&world.commit_op(&op)), Code::InvalidArgument);
}

#[test]
fn a_group_has_no_more_members_than_the_limit() {
    let mut world = World::new(2);
    let alice = person("alice");
    let people: Vec<_> = (0..50).map(|n| person(&format!("m{n}"))).collect();
    let all: Vec<_> = people.iter().collect();
    let id = world.id();
    let group = GroupId::of(alice.user(), id);
    let op = |people: &[&Person]| GroupOp {
        name: "g".into(),
        members: people.iter().map(|who| member(who, Role::Member)).collect(),
        ..world.op_command(&alice, group, id, Change::Created)
    };
    let (too_many, fits) = (op(&all), op(&all[..49]));
    assert_eq!(refused(&world.commit_op(&too_many)), Code::LimitExceeded);
    assert_eq!(group_state(world.commit_op(&fits)).members, 50);
    let effects = world.op(&alice, group, Change::Added, &[&people[49]]);
    assert_eq!(refused(&effects), Code::LimitExceeded);
    // Members already there do not count twice.
    let effects = world.op(&alice, group, Change::Added, &[&people[3]]);
    assert_eq!(group_state(effects).members, 50);
}

#[test]
fn a_message_reaches_every_member_once_and_the_sender_as_an_own_one() {
    let (mut world, group, alice, bob, carol) = group();
    let first = sent(world.send_group(&bob, group, "hi"));
    assert_eq!(first.seq, 2);
    world.settle();
    for who in [&alice, &bob, &carol] {
        assert_eq!(world.texts(who)[1..], ["hi"]);
        let event = &world.inbox(who)[1];
        assert_eq!(event.header.group_seq, 2);
        assert_eq!(event.header.msg_id.0, first.msg_id);
        let own = who == &bob;
        assert_eq!(event.header.kind == Kind::Own, own);
    }
}

#[test]
fn one_entry_goes_to_each_shard_where_members_live() {
    let mut world = World::new(4);
    let alice = person("alice");
    let people: Vec<_> = (0..30).map(|n| person(&format!("m{n}"))).collect();
    let group = world.create(&alice, &people.iter().collect::<Vec<_>>());
    world.settle();
    let effects = world.send_group(&alice, group, "hi");
    let shards = member_shards(&world.stores[&world.home(group.key())], group).unwrap();
    assert!(shards.len() > 2);
    let told: Vec<_> = effects
        .outbox
        .iter()
        .map(|entry| entry.destination)
        .collect();
    assert_eq!(told, shards);
}

#[test]
fn a_retry_gets_its_first_answer_also_after_its_sender_left() {
    let (mut world, group, _, bob, _) = group();
    let id = world.id();
    let send = world.send_command(&bob, group.0, id);
    let first = sent(world.commit_send(&send, "bye"));
    let leave = world.id();
    let op = world.op_command(&bob, group, leave, Change::Left);
    let left = group_state(world.commit_op(&op));
    assert_eq!((left.my_role(), left.members), (Role::Unspecified, 2));
    world.settle();
    assert_eq!(
        sent(world.commit_send(&send, "bye")),
        frame::Sent {
            duplicate: true,
            ..first
        }
    );
    assert_eq!(
        group_state(world.commit_op(&op)),
        frame::GroupState {
            duplicate: true,
            ..left
        }
    );
    assert_eq!(
        refused(&world.send_group(&bob, group, "more")),
        Code::NotMember
    );
}

#[test]
fn who_is_removed_sees_the_removal_and_nothing_after() {
    let (mut world, group, alice, bob, carol) = group();
    world.send_group(&alice, group, "before");
    let removed = world.op(&alice, group, Change::Removed, &[&bob]);
    assert_eq!(group_state(removed).members, 2);
    world.send_group(&alice, group, "after");
    world.settle();
    assert_eq!(world.texts(&bob)[1..], ["before", "Removed bob"]);
    assert_eq!(world.texts(&carol)[1..], ["before", "Removed bob", "after"]);
    world.op(&alice, group, Change::Added, &[&bob]);
    world.send_group(&alice, group, "again");
    world.settle();
    assert_eq!(
        world.texts(&bob)[1..],
        ["before", "Removed bob", "Added bob", "again"]
    );
}

#[test]
fn a_change_names_whom_it_is_about_also_where_the_operation_has_only_ids() {
    let (mut world, group, alice, bob, carol) = group();
    world.role(&alice, group, &bob, Role::Admin);
    world.op(&bob, group, Change::Removed, &[&carol]);
    world.settle();
    assert_eq!(world.texts(&alice)[1..], ["Role bob", "Removed carol"]);
    assert_eq!(world.texts(&carol)[1..], ["Role bob", "Removed carol"]);
    let frame::event::What::GroupChange(change) =
        world.inbox(&alice)[1].to_frame().unwrap().what.unwrap()
    else {
        panic!("no change of a group")
    };
    assert_eq!(change.members, [member(&bob, Role::Admin)]);
}

#[test]
fn names_leave_alone_what_has_them_what_is_no_change_and_who_is_no_member() {
    let (world, group, alice, ..) = group();
    let home = &world.stores[&world.home(group.key())];
    let dave = person("dave");
    let of = |name: &str| GroupOp {
        members: vec![frame::Member {
            name: name.into(),
            ..member(&dave, Role::Unspecified)
        }],
        ..world.op_command(&alice, group, ClientId([7; 16]), Change::Removed)
    };
    let sealed = |op: &GroupOp| {
        let change = frame::GroupChange {
            kind: op.change,
            members: op.members.clone(),
            name: String::new(),
        };
        let content = change.encode_to_vec();
        chat_wire::body::seal(chat_wire::body::SCHEME_GROUP_CHANGE, [3; 16], &content)
    };
    for op in [of("dave"), of("")] {
        let body = sealed(&op);
        let kept = (op.clone(), body.clone());
        assert_eq!(naming::named(home, op, body), Ok(kept));
    }
    for body in [message("hi"), Bytes::from_static(b"cut")] {
        let kept = (of(""), body.clone());
        assert_eq!(naming::named(home, of(""), body), Ok(kept));
    }
}

fn last_change(world: &World, who: &Person) -> frame::GroupChange {
    match world.inbox(who).last().unwrap().to_frame().unwrap().what {
        Some(frame::event::What::GroupChange(change)) => change,
        other => panic!("no change of a group: {other:?}"),
    }
}

#[test]
fn an_addition_named_who_was_a_member_already_and_an_admin_as_a_member() {
    let (mut world, group, alice, bob, carol) = group();
    let dave = person("dave");
    world.role(&alice, group, &bob, Role::Admin);
    world.op(&alice, group, Change::Added, &[&bob, &carol, &dave]);
    world.settle();
    for who in [&alice, &bob, &dave] {
        let change = last_change(&world, who);
        assert_eq!(change.kind(), Change::Added);
        assert_eq!(change.members, [member(&dave, Role::Member)]);
    }
}

/// Somebody left, or came, between the naming and the log.
#[test]
fn an_addition_whose_names_are_not_right_any_more_is_tried_again() {
    let (mut world, group, alice, bob, carol) = group();
    let [dave, eve] = ["dave", "eve"].map(person);
    let home = world.home(group.key());
    let add = |world: &World, id, people: &[&Person]| {
        let op = GroupOp {
            members: people.iter().map(|who| member(who, Role::Member)).collect(),
            ..world.op_command(&alice, group, id, Change::Added)
        };
        let change = frame::GroupChange {
            kind: op.change,
            members: op.members.clone(),
            name: String::new(),
        };
        let content = change.encode_to_vec();
        let body = chat_wire::body::seal(chat_wire::body::SCHEME_GROUP_CHANGE, [3; 16], &content);
        naming::named(&world.stores[&home], op, body).unwrap()
    };
    let [first, second] = [world.id(), world.id()];
    // Bob goes and Dave comes while these are on their way.
    let with_bob = add(&world, first, &[&bob, &eve]);
    let with_dave = add(&world, second, &[&dave, &eve]);
    world.op(&alice, group, Change::Removed, &[&bob]);
    world.op(&alice, group, Change::Added, &[&dave]);
    for (op, body) in [with_bob, with_dave] {
        let effects = world.apply(home, op, &body);
        assert_eq!(refused(&effects), Code::Unavailable);
    }
    let (op, body) = add(&world, first, &[&bob, &eve]);
    world.apply(home, op, &body);
    world.settle();
    let change = last_change(&world, &carol);
    let mut named = [member(&bob, Role::Member), member(&eve, Role::Member)];
    named.sort_by_key(|member| change.members.iter().position(|other| other == member));
    assert_eq!(change.members, named);
}

#[test]
fn a_change_that_is_beyond_a_limit_now_gets_its_first_answer_still() {
    let (mut world, group, alice, ..) = group();
    let dave = person("dave");
    let id = world.id();
    let op = GroupOp {
        members: vec![member(&dave, Role::Member)],
        ..world.op_command(&alice, group, id, Change::Added)
    };
    let first = group_state(world.commit_op(&op));
    let beyond = GroupOp {
        members: Vec::new(),
        beyond: u32::from(Code::LimitExceeded.number()),
        ..op
    };
    let home = world.home(group.key());
    let again = group_state(world.apply(home, beyond.clone(), &Bytes::new()));
    assert!(again.duplicate && again.msg_id == first.msg_id);
    let op_id = Bytes::copy_from_slice(&world.id().0);
    let new = GroupOp { op_id, ..beyond };
    let effects = world.apply(home, new, &Bytes::new());
    assert_eq!(refused(&effects), Code::LimitExceeded);
}

#[test]
fn who_is_added_sees_nothing_from_before() {
    let (mut world, group, alice, _, _) = group();
    let dave = person("dave");
    world.send_group(&alice, group, "before");
    world.op(&alice, group, Change::Added, &[&dave]);
    world.send_group(&alice, group, "after");
    world.settle();
    assert_eq!(world.texts(&dave), ["Added dave", "after"]);
}

#[test]
fn another_apps_group_is_not_found() {
    let (mut world, group, ..) = group();
    let stranger = Person {
        app: "other",
        name: "alice".into(),
    };
    assert_eq!(
        refused(&world.send_group(&stranger, group, "x")),
        Code::NotFound
    );
    let effects = world.op(&stranger, group, Change::Left, &[]);
    assert_eq!(refused(&effects), Code::NotFound);
    assert_eq!(state_of(&world, group, &stranger), Err(Code::NotFound));
    let nobody = GroupId(1 << 63 | 77);
    let alice = person("alice");
    assert_eq!(
        refused(&world.send_group(&alice, nobody, "x")),
        Code::NotFound
    );
    assert_eq!(
        state_of(&world, group, &person("eve")),
        Err(Code::NotMember)
    );
}

#[test]
fn roles_decide_who_may_do_what() {
    let (mut world, group, alice, bob, carol) = group();
    let dave = person("dave");
    let stranger = person("eve");
    for (who, code) in [(&bob, Code::NotAllowed), (&stranger, Code::NotMember)] {
        for change in [Change::Renamed, Change::Added, Change::Removed] {
            let effects = world.op(who, group, change, &[&dave]);
            assert_eq!(refused(&effects), code, "{change:?}");
        }
        let effects = world.role(who, group, &carol, Role::Admin);
        assert_eq!(refused(&effects), code);
    }
    world.role(&alice, group, &bob, Role::Admin);
    assert_eq!(
        group_state(world.op(&bob, group, Change::Added, &[&dave])).members,
        4
    );
    // An admin removes members, not admins and not owners, and gives no roles.
    world.role(&alice, group, &dave, Role::Admin);
    for target in [&dave, &alice] {
        let effects = world.op(&bob, group, Change::Removed, &[target]);
        assert_eq!(refused(&effects), Code::NotAllowed);
    }
    let effects = world.role(&bob, group, &carol, Role::Admin);
    assert_eq!(refused(&effects), Code::NotAllowed);
    assert_eq!(
        group_state(world.op(&bob, group, Change::Removed, &[&carol])).members,
        3
    );
    assert_eq!(
        group_state(world.op(&alice, group, Change::Removed, &[&dave])).members,
        2
    );
}

#[test]
fn whom_a_removal_or_role_names_must_be_a_member() {
    let (mut world, group, alice, bob, _) = group();
    let dave = person("dave");
    for effects in [
        world.op(&alice, group, Change::Removed, &[&bob, &dave]),
        world.role(&alice, group, &dave, Role::Admin),
    ] {
        assert_eq!(refused(&effects), Code::NotFound);
    }
    for effects in [
        world.op(&alice, group, Change::Removed, &[&alice]),
        world.op(&alice, group, Change::Removed, &[]),
        world.role(&alice, group, &bob, Role::Unspecified),
        world.op(&alice, group, Change::Role, &[&bob, &bob]),
    ] {
        assert_eq!(refused(&effects), Code::InvalidArgument);
    }
    assert_eq!(state_of(&world, group, &alice).unwrap().group_seq, 1);
}

#[test]
fn the_last_owner_cannot_leave_or_step_down_while_others_remain() {
    let (mut world, group, alice, bob, carol) = group();
    assert_eq!(
        refused(&world.op(&alice, group, Change::Left, &[])),
        Code::LastOwner
    );
    assert_eq!(
        refused(&world.role(&alice, group, &alice, Role::Member)),
        Code::LastOwner
    );
    world.role(&alice, group, &bob, Role::Owner);
    let stepped = group_state(world.role(&alice, group, &alice, Role::Admin));
    assert_eq!(stepped.my_role(), Role::Admin);
    world.op(&alice, group, Change::Left, &[]);
    world.op(&carol, group, Change::Left, &[]);
    // Alone, also an owner may go; the group stays, without anybody.
    assert_eq!(
        group_state(world.op(&bob, group, Change::Left, &[])).members,
        0
    );
    world.settle();
    assert_eq!(state_of(&world, group, &bob), Err(Code::NotMember));
}

#[test]
fn an_operation_that_changes_nothing_is_no_event_and_is_remembered() {
    let (mut world, group, alice, bob, _) = group();
    let id = world.id();
    let op = GroupOp {
        members: vec![member(&bob, Role::Member)],
        ..world.op_command(&alice, group, id, Change::Added)
    };
    let effects = world.commit_op(&op);
    assert!(effects.outbox.is_empty());
    let state = group_state(effects);
    assert_eq!((state.group_seq, state.msg_id), (1, 0));
    assert!(group_state(world.commit_op(&op)).duplicate);
    let same = world.role(&alice, group, &bob, Role::Member);
    assert!(same.outbox.is_empty());
}

#[test]
fn a_member_whose_id_does_not_follow_from_the_name_is_refused() {
    let (mut world, group, alice, ..) = group();
    let id = world.id();
    let mut op = GroupOp {
        members: vec![member(&person("dave"), Role::Member)],
        ..world.op_command(&alice, group, id, Change::Added)
    };
    op.members[0].name = "mallory".into();
    assert_eq!(refused(&world.commit_op(&op)), Code::InvalidArgument);
}

#[test]
fn sends_to_one_group_may_use_the_ids_of_sends_to_another() {
    let (mut world, group, alice, bob, _) = group();
    let other = world.create(&alice, &[&bob]);
    let id = world.id();
    for group in [group, other] {
        let send = world.send_command(&alice, group.0, id);
        assert!(!sent(world.commit_send(&send, "x")).duplicate);
    }
}

#[test]
fn a_group_of_long_names_is_told_in_parts_and_in_order() {
    let mut settings = World::new(1).settings;
    settings.group_members = 1024;
    let mut world = World::with(settings);
    let alice = person("alice");
    let people: Vec<_> = (0..600).map(|n| person(&format!("{n:->128}"))).collect();
    let all: Vec<_> = people.iter().collect();
    let group = world.create(&alice, &all);
    world.settle();
    world.send_group(&alice, group, "hi");
    world.op(&alice, group, Change::Removed, &all[..500]);
    world.send_group(&alice, group, "after");
    world.settle();
    for (n, who) in people.iter().enumerate() {
        let texts: Vec<_> = world.inbox(who)[1..]
            .iter()
            .map(|event| text(event).split(' ').next().unwrap().to_owned())
            .collect();
        if n < 500 {
            assert_eq!(texts, ["hi", "Removed"]);
        } else {
            assert_eq!(texts, ["hi", "Removed", "after"]);
        }
    }
    let home = &world.stores[&world.home(group.key())];
    assert_eq!(is_member(home, group, people[0].user()), Ok(false));
    assert_eq!(is_member(home, group, people[599].user()), Ok(true));
}

#[test]
fn members_are_read_in_pages_with_their_roles() {
    let (mut world, group, alice, bob, carol) = group();
    world.role(&alice, group, &bob, Role::Admin);
    let store = &world.stores[&world.home(group.key())];
    let who = (carol.user(), "default");
    let mut cursor = Bytes::new();
    let mut all = Vec::new();
    loop {
        let page = read::members(store, group, who, &cursor, 2, 1 << 20)
            .unwrap()
            .unwrap();
        all.extend(page.members.iter().map(|m| (m.name.clone(), m.role())));
        cursor = page.next;
        if !page.more {
            break;
        }
    }
    all.sort_unstable();
    assert_eq!(
        all,
        [
            ("alice".into(), Role::Owner),
            ("bob".into(), Role::Admin),
            ("carol".into(), Role::Member)
        ]
    );
    let short = read::members(store, group, who, &Bytes::new(), 3, 1)
        .unwrap()
        .unwrap();
    assert_eq!((short.members.len(), short.more), (1, true));
    let eve = (person("eve").user(), "default");
    let refusal = read::members(store, group, eve, &Bytes::new(), 3, 1).unwrap();
    assert_eq!(refusal.unwrap_err().code, Code::NotMember);
    let wrong = read::members(store, group, who, &Bytes::from_static(b"x"), 3, 1).unwrap();
    assert_eq!(wrong.unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn a_full_outbox_of_one_destination_refuses_the_whole_message() {
    let mut settings = World::new(4).settings;
    settings.outbox_bytes = 4096;
    let mut world = World::with(settings);
    let (alice, bob, carol) = (person("alice"), person("bob"), person("carol"));
    let group = world.create(&alice, &[&bob, &carol]);
    let mut accepted = 0;
    let id = loop {
        let id = world.id();
        let send = world.send_command(&alice, group.0, id);
        let effects = world.commit_send(&send, &"x".repeat(300));
        if let Some(Answer::Refused(refusal)) = &effects.answer {
            assert_eq!(refusal.code, Code::Overloaded);
            assert!(refusal.code.retryable());
            break id;
        }
        accepted += 1;
    };
    assert!(accepted > 3);
    world.settle();
    // It left no trace: the same id goes through, as a first.
    let send = world.send_command(&alice, group.0, id);
    let late = sent(world.commit_send(&send, "late"));
    assert_eq!((late.duplicate, late.seq), (false, accepted + 2));
    let shard = world.home(group.key());
    let effects = world.apply(shard, send, &message("late"));
    assert!(sent(effects).duplicate);
}
