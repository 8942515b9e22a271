//! Presence and typing.

use chat_wire::{
    error::Code,
    frame::{self, Body, PresenceState},
    ids::{SessionId, UserId},
};

use super::{
    bounds::attach,
    groups::{group_of, say},
};
use crate::{
    message::Request,
    simulated::{Faults, Node},
};

fn subscribe(node: &mut Node, session: SessionId, req: u32, names: &[&str]) {
    let users = names
        .iter()
        .map(|name| UserId::of("default", name).0)
        .collect();
    node.frame(
        session,
        req,
        Body::PresenceSubscribe(frame::PresenceSubscribe { users }),
    );
    assert_eq!(node.wait(session, req), Body::Done(frame::Done {}));
    node.run(50);
}

fn shown(node: &Node, session: SessionId) -> Vec<(u64, PresenceState)> {
    node.frames(session)
        .filter_map(|frame| match &frame.body {
            Some(Body::Presence(presence)) => Some((presence.user, presence.state())),
            _ => None,
        })
        .collect()
}

fn typing(node: &Node, session: SessionId) -> Vec<frame::Typing> {
    node.frames(session)
        .filter_map(|frame| match &frame.body {
            Some(Body::Typing(typing)) => Some(*typing),
            _ => None,
        })
        .collect()
}

fn types(node: &mut Node, session: SessionId, conversation: u64) {
    let typing = frame::Typing {
        conversation,
        on: true,
        user: 0,
    };
    node.frame(session, 0, Body::Typing(typing));
    node.run(50);
}

#[test]
fn presence_is_shown_only_of_those_who_have_written_to_one() {
    let mut node = Node::new(8, 5);
    let [ann, bobs, cid] = ["ann", "bob", "cid"].map(|name| node.attach(name, 1, None));
    let bob = UserId::of("default", "bob").0;
    node.text(bobs, 1, "ann", "hi");
    node.wait_sent(bobs, 1);
    // To write to somebody shows nothing; nor does a group.
    node.text(ann, 1, "cid", "hi");
    node.wait_sent(ann, 1);
    let group = group_of(&mut node, cid, 1, &["ann"]).group;
    say(&mut node, cid, 2, group, "hi");
    node.wait_sent(cid, 2);
    node.run(100);
    subscribe(&mut node, ann, 2, &["bob", "cid", "nobody"]);
    assert_eq!(shown(&node, ann), [(bob, PresenceState::Online)]);
    // Cid writes: from now on.
    node.text(cid, 3, "ann", "hello");
    node.run(100);
    let cids = UserId::of("default", "cid").0;
    assert_eq!(shown(&node, ann)[1..], [(cids, PresenceState::Online)]);
}

/// One is subscribed already when a stranger speaks in a shared group.
#[test]
fn a_message_in_a_group_shows_no_strangers_presence() {
    let mut node = Node::new(8, 5);
    let [ann, cid] = ["ann", "cid"].map(|name| node.attach(name, 1, None));
    let group = group_of(&mut node, cid, 1, &["ann"]).group;
    node.run(100);
    subscribe(&mut node, ann, 1, &["cid"]);
    say(&mut node, cid, 2, group, "hi all");
    node.wait_sent(cid, 2);
    node.run_until(500, |node| node.texts(ann) == ["hi all"]);
    node.run(3_000);
    assert_eq!(shown(&node, ann), []);
    // A message to oneself does, at once.
    node.text(cid, 3, "ann", "hi ann");
    node.run_until(500, |node| shown(node, ann).len() == 1);
}

#[test]
fn changes_are_coalesced_and_the_last_time_is_told() {
    let mut node = Node::new(8, 5);
    let [ann, bobs] = ["ann", "bob"].map(|name| node.attach(name, 1, None));
    let bob = UserId::of("default", "bob").0;
    node.text(bobs, 1, "ann", "hi");
    node.wait_sent(bobs, 1);
    subscribe(&mut node, ann, 1, &["bob"]);
    assert_eq!(shown(&node, ann).len(), 1);
    // A flap within a second is nothing.
    node.lose(bobs);
    node.run(100);
    let bobs = node.attach("bob", 1, None);
    node.run(3000);
    assert_eq!(shown(&node, ann).len(), 1);
    let went_ms = node.now.unix_ms;
    node.lose(bobs);
    node.run(500);
    assert_eq!(shown(&node, ann).len(), 1);
    node.run(1000);
    assert_eq!(shown(&node, ann)[1..], [(bob, PresenceState::Offline)]);
    let last_seen = node.frames(ann).filter_map(|frame| match &frame.body {
        Some(Body::Presence(presence)) => Some(presence.last_seen_ms),
        _ => None,
    });
    let last_seen = last_seen.last().unwrap();
    assert!((went_ms..went_ms + 100).contains(&last_seen));
    // A second device keeps one there.
    let [one, _two] = [1, 2].map(|device| node.attach("bob", device, None));
    node.run(2000);
    node.lose(one);
    node.run(2000);
    assert_eq!(
        shown(&node, ann).last(),
        Some(&(bob, PresenceState::Online))
    );
}

#[test]
fn a_new_subscription_replaces_the_old_one_and_a_gone_session_watches_nobody() {
    let mut node = Node::new(8, 5);
    let [ann, bobs, cid] = ["ann", "bob", "cid"].map(|name| node.attach(name, 1, None));
    for session in [bobs, cid] {
        node.text(session, 1, "ann", "hi");
        node.wait_sent(session, 1);
    }
    subscribe(&mut node, ann, 1, &["bob"]);
    subscribe(&mut node, ann, 2, &["cid"]);
    let before = shown(&node, ann).len();
    node.lose(bobs);
    node.run(3000);
    assert_eq!(shown(&node, ann).len(), before);
    node.lose(cid);
    node.run(3000);
    assert_eq!(shown(&node, ann).len(), before + 1);
    node.lose(ann);
    node.run(100);
    assert_eq!(node.host.watches(), 0);
}

#[test]
fn presence_agrees_after_quiet_however_many_messages_are_lost() {
    for seed in 0..5 {
        let mut node = Node::new(8, seed);
        let [ann, bobs] = ["ann", "bob"].map(|name| node.attach(name, 1, None));
        node.text(bobs, 1, "ann", "hi");
        node.wait_sent(bobs, 1);
        node.run(100);
        node.faults = Faults {
            lost: 60,
            full: 0,
            ..Faults::BAD
        };
        subscribe(&mut node, ann, 1, &["bob"]);
        node.lose(bobs);
        node.run(5_000);
        node.faults = Faults::NONE;
        node.run(70_000);
        let last = shown(&node, ann).last().map(|(_, state)| *state);
        assert_eq!(last, Some(PresenceState::Offline), "seed {seed}");
    }
}

#[test]
fn one_subscribes_only_where_one_is_attached() {
    let mut node = Node::new(2, 5);
    let ann = node.attach("ann", 1, None);
    node.frame(
        ann,
        1,
        Body::PresenceSubscribe(frame::PresenceSubscribe { users: vec![0] }),
    );
    assert_eq!(node.wait_error(ann, 1), Code::InvalidArgument);
}

#[test]
fn typing_reaches_the_peer_of_a_conversation_and_nobody_else() {
    let mut node = Node::new(8, 5);
    let [ann, bobs, cid] = ["ann", "bob", "cid"].map(|name| node.attach(name, 1, None));
    let [anns, bob, cids] = ["ann", "bob", "cid"].map(|name| UserId::of("default", name).0);
    // Without a conversation there is none to type in.
    types(&mut node, ann, bob);
    assert_eq!(typing(&node, bobs), []);
    node.text(ann, 1, "bob", "hi");
    node.wait_sent(ann, 1);
    node.run(100);
    types(&mut node, ann, bob);
    let expected = frame::Typing {
        conversation: anns,
        on: true,
        user: anns,
    };
    assert_eq!(typing(&node, bobs), [expected]);
    types(&mut node, ann, cids);
    types(&mut node, ann, anns);
    assert_eq!(typing(&node, cid).len() + typing(&node, ann).len(), 0);
}

#[test]
fn typing_in_a_group_reaches_the_other_members_only() {
    let mut node = Node::new(8, 5);
    let [ann, bobs, cid, eve] = ["ann", "bob", "cid", "eve"].map(|name| node.attach(name, 1, None));
    let group = group_of(&mut node, ann, 1, &["bob", "cid"]).group;
    node.run(500);
    types(&mut node, bobs, group);
    let user = UserId::of("default", "bob").0;
    let expected = frame::Typing {
        conversation: group,
        on: true,
        user,
    };
    assert_eq!(typing(&node, ann), [expected]);
    assert_eq!(typing(&node, cid), [expected]);
    types(&mut node, eve, group);
    let seen: usize = [ann, bobs, cid, eve]
        .map(|id| typing(&node, id).len())
        .iter()
        .sum();
    assert_eq!(seen, 2);
}

#[test]
fn a_session_in_the_background_does_not_show_its_user() {
    let mut node = Node::new(1, 5);
    let bobs = node.attach("bob", 1, None);
    // Ann writes, so that bob may see her, and goes.
    let anns = node.attach("ann", 1, None);
    node.text(anns, 1, "bob", "hi");
    node.wait_sent(anns, 1);
    node.lose(anns);
    let mut background = attach(1000);
    let Request::Attach(request) = &mut background.request else {
        panic!()
    };
    request.foreground = false;
    node.submit(background);
    node.run(100);
    assert_eq!(node.host.counters().attached, 3);
    subscribe(&mut node, bobs, 1, &["ann"]);
    let ann = UserId::of("default", "ann").0;
    assert_eq!(shown(&node, bobs), [(ann, PresenceState::Offline)]);
}
