//! What a client may cost: each of the attacks that were seen, held by its buckets, and what
//! must work at the defaults all the same.

use chat_wire::{
    error::Code,
    frame::{self, Body, target::To},
    ids::{ClientId, SessionId, UserId},
};

use crate::{bucket::MAX_DEBT_MS, cost, host::accounts::MAX_LEFT, simulated::Node};

/// Sends texts until one is refused as RATE_LIMITED. How many were taken.
fn sent_at_once(node: &mut Node, session: SessionId, from_req: u32, at_most: u32) -> u32 {
    for req in from_req..from_req + at_most {
        node.text(session, req, "bob", "x");
    }
    node.run(100);
    let taken = |node: &Node, req: &u32| matches!(node.answer(session, *req), Some(Body::Sent(_)));
    let reqs = from_req..from_req + at_most;
    u32::try_from(reqs.filter(|req| taken(node, req)).count()).unwrap()
}

/// The error of a request, and when to come again.
fn refused(node: &mut Node, session: SessionId, req: u32) -> (Code, u32) {
    match node.wait(session, req) {
        Body::Error(error) => (Code::from_number(error.code).unwrap(), error.retry_after_ms),
        other => panic!("no ERROR but {other:?}"),
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

fn create(node: &mut Node, session: SessionId, req: u32, members: Vec<String>) -> ClientId {
    let id = node.id();
    let create = frame::GroupCreate {
        op_id: bytes::Bytes::copy_from_slice(&id.0),
        name: "all".into(),
        members,
    };
    node.frame(session, req, Body::GroupCreate(create));
    id
}

fn created(node: &mut Node, session: SessionId, req: u32) -> frame::GroupState {
    match node.wait(session, req) {
        Body::GroupState(state) => state,
        other => panic!("no GROUP_STATE but {other:?}"),
    }
}

/// Waits as long as a client is told until a text passes. How long that was, in ms.
fn waits_for_a_text(node: &mut Node, session: SessionId, mut req: u32) -> u64 {
    let begun = node.now.mono_ms;
    let id = node.id();
    loop {
        let send = Node::send_of(id, To::Name("bob".into()), "x");
        node.frame(session, req, Body::Send(send));
        match node.wait(session, req) {
            Body::Sent(_) => return node.now.mono_ms - begun,
            Body::Error(error) => {
                assert_eq!(error.code, u32::from(Code::RateLimited.number()));
                assert!(u64::from(error.retry_after_ms) <= MAX_DEBT_MS + 1);
                node.run(u64::from(error.retry_after_ms));
            }
            other => panic!("{other:?}"),
        }
        req += 1;
    }
}

/// 21,200 SENDs were taken in two seconds at a limit of 100 a second, 200 with each session.
#[test]
fn a_device_that_connects_again_finds_the_bucket_that_it_left() {
    let mut node = Node::new(1, 1);
    let begun = node.now.mono_ms;
    let (mut taken, mut ended) = (0, 0);
    for _ in 0..20 {
        // Half of the sessions are lost, the others replaced by the next.
        let session = node.attach("ann", 1, None);
        taken += sent_at_once(&mut node, session, 1, 210);
        ended += 1;
        if ended % 2 == 0 {
            node.lose(session);
        }
    }
    let ms = node.now.mono_ms - begun;
    let allowed = 200 + ms / 10;
    assert!(
        u64::from(taken) <= allowed && taken > 200,
        "{taken} in {ms} ms, {allowed} allowed"
    );
}

#[test]
fn the_rest_of_a_burst_is_there_for_the_next_session_of_the_device() {
    let mut node = Node::new(1, 1);
    let first = node.attach("ann", 1, None);
    assert_eq!(sent_at_once(&mut node, first, 1, 50), 50);
    let second = node.attach("ann", 1, None);
    assert_eq!(node.closed(first), Some(Code::Replaced));
    // 50 were sent, and 10 a tenth of a second came back.
    let taken = sent_at_once(&mut node, second, 1, 200);
    assert!((150..=190).contains(&taken), "{taken}");
}

#[test]
fn a_new_device_number_is_no_new_allowance() {
    let mut node = Node::new(1, 1);
    let begun = node.now.mono_ms;
    let mut taken = 0;
    for device in 1..=15 {
        let session = node.attach("ann", device, None);
        taken += sent_at_once(&mut node, session, 1, 210);
    }
    let ms = node.now.mono_ms - begun;
    // Twice a device's burst and rate, and what sessions overdraw: an eighth of a burst each.
    let allowed = 2 * (200 + ms / 10) + 15 * 25;
    assert!(
        u64::from(taken) <= allowed && taken > 400,
        "{taken} in {ms} ms, {allowed} allowed"
    );
}

#[test]
fn plain_sends_pass_at_the_rate_that_welcome_tells_for_as_long_as_one_likes() {
    let mut node = Node::new(1, 1);
    let ann = node.attach("ann", 1, None);
    for req in 1..=600 {
        node.text(ann, req, "bob", "x");
        node.run(10);
    }
    node.run(100);
    for req in 1..=600 {
        let answer = node.answer(ann, req);
        assert!(matches!(answer, Some(Body::Sent(_))), "{req}: {answer:?}");
    }
}

/// 240 of them took a node from 65 to 1,330 MB of memory.
#[test]
fn a_creation_of_1023_new_names_passes_at_the_defaults_and_is_paid_for_afterwards() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    create(&mut node, ann, 1, names("new", 1_023));
    assert_eq!(created(&mut node, ann, 1).members, 1_024);
    create(&mut node, ann, 2, names("newer", 1_023));
    let (code, wait_ms) = refused(&mut node, ann, 2);
    assert_eq!(code, Code::RateLimited);
    let units = cost::group_change(1_023) + cost::deliveries(1_024);
    let debt_ms = (units - 20_000) / 10;
    assert!(
        (debt_ms - 200..=debt_ms + 20).contains(&wait_ms),
        "{wait_ms} of {debt_ms}"
    );
    // Connecting again, also as another device, does not help for long: the user pays too.
    node.run(u64::from(wait_ms));
    create(&mut node, ann, 3, names("newest", 1_023));
    assert_eq!(created(&mut node, ann, 3).members, 1_024);
}

#[test]
fn a_message_of_64_kb_to_1024_members_passes_at_the_defaults_and_is_paid_for_afterwards() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    create(&mut node, ann, 1, names("member", 1_023));
    let group = created(&mut node, ann, 1).group;
    node.run(10_000);
    let text = "x".repeat(64_000);
    let send = Node::send_of(node.id(), To::Group(group), &text);
    node.frame(ann, 2, Body::Send(send));
    node.wait_sent(ann, 2);
    node.text(ann, 3, "bob", "now?");
    assert_eq!(refused(&mut node, ann, 3).0, Code::RateLimited);
}

#[test]
fn a_group_that_a_session_does_not_know_yet_is_charged_for_with_the_first_answer() {
    let mut node = Node::new(4, 1);
    let creator = node.attach("ann", 1, None);
    create(&mut node, creator, 1, names("member", 1_000));
    let group = created(&mut node, creator, 1).group;
    node.run(20_000);
    let ann = node.attach("ann", 2, None);
    let say = |node: &mut Node, req| {
        let send = Node::send_of(node.id(), To::Group(group), "short");
        node.frame(ann, req, Body::Send(send));
    };
    // 20,000 units are four messages to a thousand.
    for req in 1..=4 {
        say(&mut node, req);
        node.wait_sent(ann, req);
    }
    say(&mut node, 5);
    assert_eq!(refused(&mut node, ann, 5).0, Code::RateLimited);
}

#[test]
fn a_duplicate_and_a_final_refusal_are_charged_little() {
    let mut node = Node::new(1, 1);
    let ann = node.attach("ann", 1, None);
    let text = "x".repeat(60_000);
    let send = Node::send_of(node.id(), To::Name("bob".into()), &text);
    for req in 1..=150 {
        node.frame(ann, req, Body::Send(send.clone()));
        assert_eq!(node.wait_sent(ann, req).duplicate, req > 1);
    }
    // Nobody is found, 150 times: 63,000 units if it had been done.
    for req in 201..=350 {
        let nobody = To::User(UserId::of("default", "nobody").0);
        let send = Node::send_of(node.id(), nobody, &text);
        node.frame(ann, req, Body::Send(send));
        assert_eq!(node.wait_error(ann, req), Code::NotFound);
    }
}

#[test]
fn a_retry_of_something_stored_is_answered_once_the_bucket_lets_it_pass() {
    let mut node = Node::new(1, 1);
    let ann = node.attach("ann", 1, None);
    let send = Node::send_of(node.id(), To::Name("bob".into()), "stored");
    node.frame(ann, 1, Body::Send(send.clone()));
    let first = node.wait_sent(ann, 1);
    sent_at_once(&mut node, ann, 100, 210);
    let later = node.attach("ann", 1, None);
    let mut req = 1;
    loop {
        node.frame(later, req, Body::Send(send.clone()));
        match node.wait(later, req) {
            Body::Sent(sent) => {
                assert_eq!((sent.msg_id, sent.duplicate), (first.msg_id, true));
                break;
            }
            Body::Error(error) => {
                assert!(error.retryable, "{error:?}");
                node.run(u64::from(error.retry_after_ms));
            }
            other => panic!("{other:?}"),
        }
        req += 1;
    }
}

/// CONVERSATIONS was free: four sessions took the others' p50 from 3.7 to 114 ms.
#[test]
fn reads_presence_and_typing_pay_too() {
    let conversations = || {
        Body::Conversations(frame::ConversationsGet {
            limit: 200,
            ..frame::ConversationsGet::default()
        })
    };
    let presence = || {
        let users = (1..=1_000).map(|n| UserId::of("default", &format!("u{n}")).0);
        let users = users.collect();
        Body::PresenceSubscribe(frame::PresenceSubscribe { users })
    };
    let mut node = Node::new(4, 1);
    for (name, ask, at_most) in [
        ("reader", &conversations as &dyn Fn() -> Body, 18),
        ("watcher", &presence, 11),
    ] {
        let session = node.attach(name, 1, None);
        for req in 1..=200 {
            node.frame(session, req, ask());
        }
        node.run(100);
        let limited = |req: &u32| matches!(node.answer(session, *req), Some(Body::Error(error)) if error.code == u32::from(Code::RateLimited.number()));
        let passed = 200 - (1..=200).filter(limited).count();
        assert!(
            (5..=at_most).contains(&passed),
            "{name}: {passed} passed at once"
        );
    }
}

/// Typing to 40 members, 200 at once, was 8,000 frames.
#[test]
fn typing_to_a_group_pays_for_its_members() {
    let mut node = Node::new(4, 1);
    let ann = node.attach("ann", 1, None);
    let members = names("member", 40);
    create(&mut node, ann, 1, members.clone());
    let group = created(&mut node, ann, 1).group;
    let member = node.attach(&members[0], 1, None);
    node.run(10_000);
    for turn in 0..200 {
        let typing = frame::Typing {
            conversation: group,
            on: turn % 2 == 0,
            user: 0,
        };
        node.frame(ann, 0, Body::Typing(typing));
    }
    node.run(100);
    let typings = node
        .frames(member)
        .filter(|frame| matches!(frame.body, Some(Body::Typing(_))));
    let typings = typings.count();
    assert!((50..=95).contains(&typings), "{typings}");
}

/// One user made 40,000 inboxes in four seconds.
#[test]
fn new_inboxes_are_capped_for_a_user_and_hour_in_messages_and_in_groups() {
    let mut node = Node::with(4, 1, |host, session| {
        host.new_inboxes_per_hour = 40;
        session.limits.sends_burst = 100_000;
    });
    let ann = node.attach("ann", 1, None);
    let to_name = |node: &mut Node, session, req, name: String| {
        node.text(session, req, &name, "x");
        match node.wait(session, req) {
            Body::Sent(_) => true,
            Body::Error(error) => {
                assert_eq!(error.code, u32::from(Code::RateLimited.number()));
                false
            }
            other => panic!("{other:?}"),
        }
    };
    let made = (1..=100)
        .filter(|n| to_name(&mut node, ann, *n, format!("new-{n}")))
        .count();
    // What was made is said in parts of 9.
    assert!((40..=50).contains(&made), "{made}");
    create(&mut node, ann, 200, names("member", 3));
    assert_eq!(refused(&mut node, ann, 200).0, Code::RateLimited);
    // Who is known is reached by id, also from another session.
    let again = node.attach("ann", 2, None);
    assert!(!to_name(&mut node, again, 1, "newer".into()));
    let known = To::User(UserId::of("default", "new-1").0);
    let send = Node::send_of(node.id(), known, "x");
    node.frame(again, 2, Body::Send(send));
    node.wait_sent(again, 2);
    // Members count as well, whether they are new or not.
    let bob = node.attach("bob", 1, None);
    create(&mut node, bob, 1, names("member", 60));
    created(&mut node, bob, 1);
    node.run(50);
    assert!(!to_name(&mut node, bob, 2, "somebody".into()));
}

#[test]
fn a_user_in_debt_waits_with_all_devices_and_not_for_ever() {
    let mut node = Node::new(4, 1);
    let one = node.attach("ann", 1, None);
    let other = node.attach("ann", 2, None);
    node.run(1_000);
    create(&mut node, one, 1, names("a", 1_000));
    created(&mut node, one, 1);
    node.run(50);
    // 45,100 units of the user's 40,000 are gone: a quarter of a second at 20,000 a second.
    let third = node.attach("ann", 3, None);
    for session in [other, third] {
        let wait_ms = waits_for_a_text(&mut node, session, 1);
        assert!((50..300).contains(&wait_ms), "{wait_ms}");
        create(&mut node, session, 100, names("b", 1_000));
        created(&mut node, session, 100);
        node.run(50);
        if session == other {
            node.run(2_000);
        }
    }
    // Others are not concerned.
    let bob = node.attach("bob", 1, None);
    assert!(waits_for_a_text(&mut node, bob, 1) < 10);
}

#[test]
fn accounts_of_users_who_left_are_bounded() {
    let mut node = Node::new(1, 1);
    let shard = node.shard_of("ann");
    for user in 0..MAX_LEFT as u64 + 500 {
        let request = crate::message::Request::Spent {
            session: SessionId(1_000_000 + user),
            user: UserId(1 + user),
            device: chat_wire::ids::DeviceId(1),
            units: 1_000,
            inboxes: 1,
        };
        node.submit(crate::message::ToShard { shard, request });
    }
    let accounts = node.host.accounts();
    assert!((MAX_LEFT..=MAX_LEFT + 1).contains(&accounts), "{accounts}");
}

#[test]
fn with_known_users_only_naming_somebody_makes_no_inbox() {
    let mut node = Node::with(4, 1, |host, _| host.known_users_only = true);
    let ann = node.attach("ann", 1, None);
    node.text(ann, 1, "bob", "are you there?");
    assert_eq!(node.wait_error(ann, 1), Code::NotFound);
    create(&mut node, ann, 2, vec!["bob".into(), "cid".into()]);
    created(&mut node, ann, 2);
    node.run(500);
    // Once he is here he is written to, and had nothing before.
    let bob = node.attach("bob", 1, None);
    assert_eq!(node.welcome(bob).unwrap().inbox_head, 0);
    node.text(ann, 3, "bob", "now");
    node.wait_sent(ann, 3);
    node.run_until(500, |node| node.texts(bob) == ["now"]);
}
