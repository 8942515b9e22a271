//! Who waits for whom: a request of a bystander waits behind a bounded cost, whatever others
//! ask for.

use bytes::Bytes;
use chat_wire::ids::{SessionId, ShardId, UserId};

use crate::{
    cost,
    host::{Effect, turns::MAX_WAITING},
    message::{Origin, Read, Request, ToSession, ToShard},
    simulated::Node,
};

fn origin(session: u64, req: u32) -> Origin {
    Origin {
        session: SessionId(session),
        req,
    }
}

/// A page of conversations, as large as they are.
fn page(node: &Node, session: u64, user: u64, req: u32) -> ToShard {
    let user = UserId(user);
    let read = Read::Conversations {
        cursor: Bytes::new(),
        limit: 200,
    };
    let origin = origin(session, req);
    ToShard {
        shard: crate::router::of_user(&node.settings.map, user),
        request: Request::Read { origin, user, read },
    }
}

/// Who has an answer after this poll, in order: sessions and requests.
fn answers(node: &mut Node) -> Vec<(u64, u32, bool)> {
    let mut effects = Vec::new();
    node.host.poll(node.now, &mut effects);
    let answered = effects.into_iter().filter_map(|effect| match effect {
        Effect::ToSession {
            session,
            message: ToSession::Answer { req, .. },
        } => Some((session.0, req, true)),
        Effect::ToSession {
            session,
            message: ToSession::Refused { req, .. },
        } => Some((session.0, req, false)),
        _ => None,
    });
    answered.collect()
}

/// Four sessions that asked for pages took the others' p50 from 3.7 to 114 ms.
#[test]
fn a_bystander_waits_behind_one_turn_of_each_user_and_not_behind_all_they_asked_for() {
    let mut node = Node::new(1, 1);
    for req in 0..250 {
        for session in 1..=4 {
            let asked = page(&node, session, 100, req);
            node.submit(asked);
        }
    }
    let bystander = page(&node, 9, 200, 7);
    let units = cost::at_once(&bystander.request);
    node.submit(bystander);
    let first = answers(&mut node);
    let before = first.iter().position(|(session, ..)| *session == 9);
    let before = u32::try_from(before.expect("the bystander is answered in the first pass"));
    // All four sessions are one user's: they share a turn, and the request that ends it.
    assert!(before.unwrap() * units < node.settings.turn_units + units);
}

#[test]
fn what_is_done_before_a_bystander_is_bounded_however_many_users_ask() {
    let mut node = Node::new(1, 1);
    for req in 0..10 {
        for user in 1..=100 {
            let asked = page(&node, user, user, req);
            node.submit(asked);
        }
    }
    let bystander = page(&node, 9_999, 200, 7);
    let units = cost::at_once(&bystander.request);
    node.submit(bystander);
    let (mut done, mut passes) = (0, 0);
    let waited = loop {
        let answered = answers(&mut node);
        passes += 1;
        assert!(!answered.is_empty(), "a pass in which nobody is served");
        let (pass, last_begun) = (node.settings.pass_units, 2 * units);
        assert!(u32::try_from(answered.len()).unwrap() * units < pass / 2 * 3 + last_begun);
        if let Some(at) = answered.iter().position(|(session, ..)| *session == 9_999) {
            break done + at;
        }
        done += answered.len();
    };
    // A turn of each that was there before, two requests, and what a pass or two began with.
    let begun = 2 * usize::try_from(node.settings.pass_units / units).unwrap();
    assert!(
        waited <= 2 * 100 + begun && passes < 20,
        "{waited} requests, {passes} passes"
    );
}

#[test]
fn requests_of_a_user_keep_their_order_and_all_have_their_turn() {
    let mut node = Node::new(1, 1);
    for req in 0..50 {
        let asked = page(&node, 1, 100, req);
        node.submit(asked);
    }
    let mut answered = Vec::new();
    while node.host.deadline_ms() == Some(node.now.mono_ms) {
        answered.extend(answers(&mut node));
    }
    let reqs: Vec<_> = answered.iter().map(|(_, req, _)| *req).collect();
    assert_eq!(reqs, (0..50).collect::<Vec<_>>());
}

#[test]
fn where_too_much_waits_the_user_with_most_is_refused_and_not_who_comes_last() {
    let mut node = Node::new(1, 1);
    let many = u32::try_from(MAX_WAITING).unwrap() + 10;
    for req in 0..many {
        let asked = page(&node, 1, 100, req);
        node.submit(asked);
    }
    let heavy = answers(&mut node);
    let refused = heavy.iter().filter(|(.., done)| !done).count();
    assert!((5..10).contains(&refused), "{refused}");
    // There is no room: the heavy one makes some.
    for req in 0..4 {
        let asked = page(&node, 1, 100, many + req);
        node.submit(asked);
    }
    for session in 2..=3 {
        for req in 0..3 {
            let asked = page(&node, session, session * 7, req);
            node.submit(asked);
        }
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.extend(answers(&mut node));
    }
    let others = seen.iter().filter(|(session, ..)| *session != 1);
    let others: Vec<_> = others.collect();
    assert_eq!(others.len(), 6);
    assert!(others.iter().all(|(.., done)| *done), "{others:?}");
}

/// A creation in 64 shards was applied in all of them before anybody else was served.
#[test]
fn a_large_change_in_many_shards_is_applied_over_many_polls() {
    let mut node = Node::with(64, 1, |host, _| host.short_cut = true);
    let ann = node.attach("ann", 1, None);
    let members = (0..1_023).map(|n| format!("member-{n}")).collect();
    let create = chat_wire::frame::GroupCreate {
        op_id: Bytes::copy_from_slice(&node.id().0),
        name: "all".into(),
        members,
    };
    node.frame(ann, 1, chat_wire::frame::Body::GroupCreate(create));
    let applied = |node: &Node| -> Vec<(ShardId, u64)> {
        let status = node.host.status();
        status
            .iter()
            .map(|shard| (shard.shard, shard.applied))
            .collect()
    };
    node.wait(ann, 1);
    let mut most = 0;
    for _ in 0..200 {
        let before = applied(&node);
        node.run(1);
        let after = applied(&node);
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after);
        most = most.max(moved.count());
    }
    // Each shard has sixteen new inboxes of this group: about eighty kilobytes of rows.
    assert!(most > 1 && most < 64, "{most} shards in one poll");
}
