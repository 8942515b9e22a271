//! Groups over several shards, through sessions.

use chat_wire::{
    error::Code,
    frame::{self, Body, group_change::Kind as Change, target::To},
    ids::{ClientId, SessionId, UserId},
};

use crate::simulated::Node;

fn create(id: ClientId, members: &[&str]) -> Body {
    Body::GroupCreate(frame::GroupCreate {
        op_id: id.0.to_vec().into(),
        name: "the group".into(),
        members: members.iter().map(|name| (*name).to_owned()).collect(),
    })
}

fn state(body: Body) -> frame::GroupState {
    match body {
        Body::GroupState(state) => state,
        other => panic!("no GROUP_STATE but {other:?}"),
    }
}

pub(super) fn group_of(
    node: &mut Node,
    session: SessionId,
    req: u32,
    members: &[&str],
) -> frame::GroupState {
    let id = node.id();
    node.frame(session, req, create(id, members));
    state(node.wait(session, req))
}

pub(super) fn say(node: &mut Node, session: SessionId, req: u32, group: u64, text: &str) {
    let send = Node::send_of(node.id(), To::Group(group), text);
    node.frame(session, req, Body::Send(send));
}

#[test]
fn a_message_to_a_group_reaches_every_member_once_and_nobody_else() {
    let mut node = Node::new(8, 3);
    let names = ["ann", "bob", "cid", "dan", "eve"];
    let sessions = names.map(|name| node.attach(name, 1, None));
    let eve = sessions[4];
    let group = group_of(&mut node, sessions[0], 1, &names[1..4]);
    assert_eq!(
        (group.members, group.my_role),
        (4, frame::Role::Owner.into())
    );
    say(&mut node, sessions[1], 1, group.group, "hello");
    let sent = node.wait_sent(sessions[1], 1);
    assert_eq!(sent.seq, 2);
    for session in &sessions[..4] {
        node.run_until(500, |node| node.texts(*session) == ["hello"]);
        let events = node.events(*session);
        assert_eq!(events.len(), 2, "the creation and the message");
        assert_eq!((events[1].group_seq, events[1].msg_id), (2, sent.msg_id));
    }
    node.run(500);
    assert_eq!(node.events(eve), []);
    say(&mut node, eve, 1, group.group, "me too");
    assert_eq!(node.wait_error(eve, 1), Code::NotMember);
}

#[test]
fn a_repeated_creation_names_the_same_group() {
    let mut node = Node::new(4, 3);
    let ann = node.attach("ann", 1, None);
    let id = node.id();
    node.frame(ann, 1, create(id, &["bob"]));
    node.frame(ann, 2, create(id, &["bob"]));
    node.frame(ann, 3, create(id, &["cid"]));
    let (first, second) = (state(node.wait(ann, 1)), state(node.wait(ann, 2)));
    assert_eq!((first.group, first.msg_id), (second.group, second.msg_id));
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(node.wait_error(ann, 3), Code::Conflict);
}

#[test]
fn who_is_removed_sees_that_and_nothing_after_it_and_a_retry_still_has_its_answer() {
    let mut node = Node::new(8, 3);
    let [ann, bobs] = ["ann", "bob"].map(|name| node.attach(name, 1, None));
    let group = group_of(&mut node, ann, 1, &["bob"]).group;
    let id = node.id();
    let send = Node::send_of(id, To::Group(group), "while I am here");
    node.frame(bobs, 1, Body::Send(send.clone()));
    let first = node.wait_sent(bobs, 1);
    let remove = frame::GroupRemove {
        op_id: node.id().0.to_vec().into(),
        group,
        members: vec![UserId::of("default", "bob").0],
    };
    node.frame(ann, 2, Body::GroupRemove(remove));
    assert_eq!(state(node.wait(ann, 2)).members, 1);
    say(&mut node, ann, 3, group, "without bob");
    node.wait_sent(ann, 3);
    say(&mut node, bobs, 2, group, "let me in");
    assert_eq!(node.wait_error(bobs, 2), Code::NotMember);
    node.frame(bobs, 3, Body::Send(send));
    let again = node.wait_sent(bobs, 3);
    assert!(again.duplicate);
    assert_eq!((again.msg_id, again.seq), (first.msg_id, first.seq));
    node.run(1000);
    assert_eq!(node.texts(bobs), ["while I am here"]);
    let last = node.events(bobs).pop().unwrap();
    let Some(frame::event::What::GroupChange(change)) = last.what else {
        panic!()
    };
    assert_eq!(change.kind(), frame::group_change::Kind::Removed);
}

#[test]
fn a_removal_and_a_role_name_members_for_readers_also_after_a_restart() {
    let mut node = Node::new(8, 3);
    let [ann, cid] = ["ann", "cid"].map(|name| node.attach(name, 1, None));
    let group = group_of(&mut node, ann, 1, &["bob", "cid"]).group;
    let bob = UserId::of("default", "bob").0;
    let role = frame::GroupRole {
        op_id: node.id().0.to_vec().into(),
        group,
        member: bob,
        role: frame::Role::Admin.into(),
    };
    node.frame(ann, 2, Body::GroupRole(role));
    state(node.wait(ann, 2));
    let remove = frame::GroupRemove {
        op_id: node.id().0.to_vec().into(),
        group,
        members: vec![bob],
    };
    node.frame(ann, 3, Body::GroupRemove(remove));
    state(node.wait(ann, 3));
    node.run_until(500, |node| node.events(cid).len() == 3);
    let changes = |node: &Node, session| -> Vec<_> {
        let events = node.events(session).into_iter();
        events
            .filter_map(|event| match event.what {
                Some(frame::event::What::GroupChange(change)) => Some(change),
                _ => None,
            })
            .map(|change| (change.kind(), change.members))
            .collect()
    };
    let named = |role: frame::Role| {
        vec![frame::Member {
            user: bob,
            name: "bob".into(),
            role: role.into(),
        }]
    };
    let told = [
        (Change::Role, named(frame::Role::Admin)),
        (Change::Removed, named(frame::Role::Unspecified)),
    ];
    assert_eq!(changes(&node, cid)[1..], told);
    node.crash();
    let again = node.attach("cid", 2, Node::resume_from(0));
    node.run_until(500, |node| node.events(again).len() == 3);
    assert_eq!(changes(&node, again)[1..], told);
}

#[test]
fn roles_rename_leave_and_lists() {
    let mut node = Node::new(8, 3);
    let [ann, bobs, cid] = ["ann", "bob", "cid"].map(|name| node.attach(name, 1, None));
    let group = group_of(&mut node, ann, 1, &["bob"]).group;
    let op_id = |node: &mut Node| bytes::Bytes::copy_from_slice(&node.id().0);
    let rename = |op_id| {
        Body::GroupUpdate(frame::GroupUpdate {
            op_id,
            group,
            name: "new".into(),
        })
    };
    let body = rename(op_id(&mut node));
    node.frame(bobs, 1, body);
    assert_eq!(node.wait_error(bobs, 1), Code::NotAllowed);
    let role = frame::GroupRole {
        op_id: op_id(&mut node),
        group,
        member: UserId::of("default", "bob").0,
        role: frame::Role::Admin.into(),
    };
    node.frame(ann, 2, Body::GroupRole(role));
    state(node.wait(ann, 2));
    let body = rename(op_id(&mut node));
    node.frame(bobs, 2, body);
    assert_eq!(state(node.wait(bobs, 2)).name, "new");
    let add = frame::GroupAdd {
        op_id: op_id(&mut node),
        group,
        members: vec!["cid".into(), "bob".into()],
    };
    node.frame(bobs, 3, Body::GroupAdd(add));
    assert_eq!(state(node.wait(bobs, 3)).members, 3);
    let leave = |op_id| Body::GroupLeave(frame::GroupLeave { op_id, group });
    let body = leave(op_id(&mut node));
    node.frame(ann, 3, body);
    assert_eq!(node.wait_error(ann, 3), Code::LastOwner);
    let members = frame::MembersGet {
        group,
        ..frame::MembersGet::default()
    };
    node.frame(cid, 1, Body::Members(members.clone()));
    let Body::MembersPage(page) = node.wait(cid, 1) else {
        panic!()
    };
    assert_eq!(page.members.len(), 3);
    let body = leave(op_id(&mut node));
    node.frame(cid, 2, body);
    state(node.wait(cid, 2));
    node.frame(cid, 3, Body::Members(members));
    assert_eq!(node.wait_error(cid, 3), Code::NotMember);
    node.frame(cid, 4, Body::GroupGet(frame::GroupGet { group }));
    assert_eq!(node.wait_error(cid, 4), Code::NotMember);
}

#[test]
fn another_apps_users_and_groups_are_not_found() {
    let mut node = Node::new(8, 3);
    let ann = node.attach("ann", 1, None);
    let group = group_of(&mut node, ann, 1, &["bob"]).group;
    let spy = node.open(chat_wire::codec::Encoding::Proto);
    let hello = frame::Hello {
        token: "other/ann".into(),
        ..Node::hello("", 1, None)
    };
    node.frame(spy, 0, Body::Hello(hello));
    node.run(100);
    let to_user = Node::send_of(node.id(), To::User(UserId::of("default", "ann").0), "x");
    node.frame(spy, 1, Body::Send(to_user));
    assert_eq!(node.wait_error(spy, 1), Code::NotFound);
    say(&mut node, spy, 2, group, "x");
    assert_eq!(node.wait_error(spy, 2), Code::NotFound);
    node.frame(spy, 3, Body::GroupGet(frame::GroupGet { group }));
    assert_eq!(node.wait_error(spy, 3), Code::NotFound);
    // A name is one of one's own app.
    node.text(spy, 4, "bob", "to the other bob");
    node.wait_sent(spy, 4);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run(500);
    assert_eq!(node.texts(bobs), Vec::<String>::new());
}

#[test]
fn who_follows_a_groups_marks_gets_receipts_until_it_stops_leaves_or_goes() {
    let mut node = Node::new(8, 3);
    let [ann, bobs, cid] = ["ann", "bob", "cid"].map(|name| node.attach(name, 1, None));
    let group = group_of(&mut node, ann, 1, &["bob", "cid"]).group;
    let marks = |follow| {
        Body::Marks(frame::MarksGet {
            group,
            follow,
            ..frame::MarksGet::default()
        })
    };
    for session in [ann, bobs, cid] {
        node.frame(session, 2, marks(true));
        let Body::MarksPage(page) = node.wait(session, 2) else {
            panic!()
        };
        assert_eq!(page.group, group);
    }
    let round = |node: &mut Node, req| {
        say(node, ann, req, group, "x");
        let sent = node.wait_sent(ann, req);
        let newest = |node: &Node| node.events(bobs).last().cloned();
        node.run_until(500, |node| {
            newest(node).is_some_and(|event| event.msg_id == sent.msg_id)
        });
        let seq = newest(node).unwrap().inbox_seq;
        node.ack(bobs, seq);
        node.run(1000);
        sent.msg_id
    };
    let of_bob = |node: &Node, session| {
        let bob = UserId::of("default", "bob").0;
        let mine = node.receipts(session).into_iter();
        mine.filter(|r| r.user == bob && r.to_version == 0)
            .map(|r| r.delivered_up_to)
            .max()
    };
    let first = round(&mut node, 10);
    assert_eq!([ann, cid].map(|id| of_bob(&node, id)), [Some(first); 2]);
    // Ann stops; cid is removed; the others go on.
    node.frame(ann, 3, marks(false));
    node.wait(ann, 3);
    let remove = frame::GroupRemove {
        op_id: node.id().0.to_vec().into(),
        group,
        members: vec![UserId::of("default", "cid").0],
    };
    node.frame(ann, 4, Body::GroupRemove(remove));
    node.wait(ann, 4);
    let second = round(&mut node, 11);
    assert_eq!([ann, cid].map(|id| of_bob(&node, id)), [Some(first); 2]);
    assert_eq!(of_bob(&node, bobs), Some(second));
    // Who is gone is followed nowhere.
    node.lose(bobs);
    node.run(100);
    let shard = crate::router::of_group(&node.settings.map, chat_wire::ids::GroupId(group));
    assert_eq!(node.host.followers(shard), 0);
}

#[test]
fn a_session_follows_so_many_groups_at_most() {
    let mut node = Node::with(4, 3, |_, session| session.limits.bulk_credits = 100);
    let ann = node.attach("ann", 1, None);
    for req in 1..=33 {
        let group = group_of(&mut node, ann, req, &[]).group;
        let get = frame::MarksGet {
            group,
            follow: true,
            ..frame::MarksGet::default()
        };
        node.frame(ann, 100 + req, Body::Marks(get));
        match node.wait(ann, 100 + req) {
            Body::MarksPage(_) => assert!(req <= 32),
            Body::Error(error) => {
                assert_eq!(
                    (req, error.code),
                    (33, u32::from(Code::LimitExceeded.number()))
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Who had followed 32 groups could follow no other, whatever it gave up.
#[test]
fn groups_that_are_followed_no_more_took_their_places_for_ever() {
    let mut node = Node::with(4, 3, |_, session| session.limits.bulk_credits = 200);
    let [ann, cid] = ["ann", "cid"].map(|name| node.attach(name, 1, None));
    let marks = |node: &mut Node, req, group, follow| {
        let get = frame::MarksGet {
            group,
            follow,
            ..frame::MarksGet::default()
        };
        node.frame(ann, req, Body::Marks(get));
        node.wait(ann, req)
    };
    let groups: Vec<_> = (1..=34)
        .map(|req| group_of(&mut node, ann, req, &[]).group)
        .collect();
    for (req, group) in (100..).zip(&groups[..32]) {
        assert!(matches!(
            marks(&mut node, req, *group, true),
            Body::MarksPage(_)
        ));
    }
    let limit = u32::from(Code::LimitExceeded.number());
    let refused = |answer| matches!(answer, Body::Error(error) if error.code == limit);
    assert!(refused(marks(&mut node, 200, groups[32], true)));
    // Given up, or left: both give the place back.
    assert!(matches!(
        marks(&mut node, 201, groups[0], false),
        Body::MarksPage(_)
    ));
    assert!(matches!(
        marks(&mut node, 202, groups[32], true),
        Body::MarksPage(_)
    ));
    assert!(refused(marks(&mut node, 203, groups[33], true)));
    let leave = frame::GroupLeave {
        op_id: node.id().0.to_vec().into(),
        group: groups[1],
    };
    node.frame(ann, 204, Body::GroupLeave(leave));
    node.wait(ann, 204);
    assert!(matches!(
        marks(&mut node, 205, groups[1], false),
        Body::Error(_)
    ));
    assert!(matches!(
        marks(&mut node, 206, groups[33], true),
        Body::MarksPage(_)
    ));
    // A stranger's question takes no place.
    for req in 1..=40 {
        let get = frame::MarksGet {
            group: groups[5],
            follow: true,
            ..frame::MarksGet::default()
        };
        node.frame(cid, req, Body::Marks(get));
        assert_eq!(node.wait_error(cid, req), Code::NotMember);
    }
    node.lose(ann);
    node.run(100);
    let shards = node.settings.map.shards().collect::<Vec<_>>();
    let followers: usize = shards.iter().map(|shard| node.host.followers(*shard)).sum();
    assert_eq!(followers, 0, "every home heard that the session is over");
}
