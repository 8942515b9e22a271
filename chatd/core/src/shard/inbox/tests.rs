use super::*;
use crate::{
    command::{self, Rules},
    message::HistoryFrom,
    shard::{
        inbox::read::{events, has_written, last_incoming},
        world::{self, Person, START_MS, World, conversation, id_of, person, refused, sent, text},
    },
    store::ReadRows,
};
use bytes::Bytes;
use chat_wire::ids::{ClientId, MSG_ID_EPOCH_MS, MSG_ID_MAX_COUNTER, ShardId};

fn two() -> (World, Person, Person) {
    (World::new(4), person("alice"), person("bob"))
}

#[test]
fn a_message_by_name_makes_the_inbox_and_both_sides_have_it() {
    let (mut world, alice, bob) = two();
    let first = world.send(&alice, &bob, "hello");
    assert!(!first.duplicate && first.seq == 0 && first.msg_id > 0);
    assert_eq!(first.ts_ms, START_MS);
    world.settle();
    assert_eq!(world.texts(&bob), ["hello"]);
    assert_eq!(world.texts(&alice), ["hello"]);
    let [theirs] = &world.inbox(&bob)[..] else {
        panic!("one event")
    };
    assert_eq!(theirs.header.kind, Kind::Message);
    assert_eq!(theirs.header.conversation, conversation(&alice));
    assert_eq!(&theirs.header.sender_name[..], b"alice");
    let own = &world.inbox(&alice)[0];
    assert_eq!(own.header.kind, Kind::Own);
    assert_eq!(own.header.conversation, conversation(&bob));
    assert_eq!(own.header.msg_id, theirs.header.msg_id);
    assert_eq!(own.body, theirs.body);
}

#[test]
fn a_retry_gets_the_first_answer_and_changes_nothing() {
    let (mut world, alice, bob) = two();
    let id = world.id();
    let send = Send {
        to_name: Some("bob".into()),
        ..world.send_command(&alice, bob.user().0, id)
    };
    let first = sent(world.commit_send(&send, "once"));
    world.ts_ms += 60_000;
    let again = world.commit_send(&send, "once");
    assert_eq!(again.notices, [Notice::Duplicate { id: Some(id) }]);
    assert!(again.events.is_empty() && again.outbox.is_empty());
    assert_eq!(
        sent(again),
        frame::Sent {
            duplicate: true,
            ..first
        }
    );
    world.settle();
    assert_eq!(world.texts(&bob), ["once"]);
    assert_eq!(world.texts(&alice), ["once"]);
}

#[test]
fn a_retry_in_the_same_entry_is_seen_as_one() {
    let (mut world, alice, bob) = two();
    let id = world.id();
    let send = Send {
        to_name: Some("bob".into()),
        ..world.send_command(&alice, bob.user().0, id)
    };
    let shard = world.home(bob.user().key());
    let body = world::message("once");
    let twice = vec![
        (send.clone().into(), body.clone()),
        (send.into(), body.clone()),
    ];
    let effects = world.apply_all(shard, twice);
    assert_eq!(effects[0].events.len(), 1);
    assert!(effects[1].events.is_empty());
    assert_eq!(world.texts(&bob), ["once"]);
}

#[test]
fn the_same_id_with_another_content_is_a_conflict() {
    let (mut world, alice, bob) = two();
    let id = world.id();
    let mut send = world.send_command(&alice, bob.user().0, id);
    send.to_name = Some("bob".into());
    world.commit_send(&send, "one");
    send.digest += 1;
    assert_eq!(refused(&world.commit_send(&send, "two")), Code::Conflict);
    assert_eq!(world.texts(&bob), ["one"]);
}

#[test]
fn the_same_id_from_two_senders_is_two_messages() {
    let (mut world, alice, bob) = two();
    let carol = person("carol");
    let id = world.id();
    for sender in [&alice, &carol] {
        let mut send = world.send_command(sender, bob.user().0, id);
        send.to_name = Some("bob".into());
        assert!(!sent(world.commit_send(&send, &sender.name)).duplicate);
    }
    assert_eq!(world.texts(&bob), ["alice", "carol"]);
}

#[test]
fn an_id_below_the_floor_is_too_old_also_if_its_row_still_stands() {
    let (mut world, alice, bob) = two();
    let id = world.id();
    let mut send = world.send_command(&alice, bob.user().0, id);
    send.to_name = Some("bob".into());
    world.commit_send(&send, "one");
    let floor = command::Floor {
        inbox: bob.user().key().0,
        oldest_seq: 0,
        dedup_before_ms: START_MS + 1,
    };
    world.apply(world.home(bob.user().key()), floor, &Bytes::new());
    assert_eq!(refused(&world.commit_send(&send, "one")), Code::TooOld);
    world.ts_ms += 2;
    world.send(&alice, &bob, "two");
    assert_eq!(world.texts(&bob), ["one", "two"]);
}

#[test]
fn an_id_more_than_ten_minutes_ahead_is_refused() {
    let (mut world, alice, bob) = two();
    world.send(&alice, &bob, "first");
    for (ahead, ok) in [(600_000, true), (600_001, false)] {
        let id = world.id_at(START_MS + ahead);
        let send = world.send_command(&alice, bob.user().0, id);
        let effects = world.commit_send(&send, "x");
        if ok {
            sent(effects);
        } else {
            assert_eq!(refused(&effects), Code::ExpiredId);
        }
    }
}

#[test]
fn a_message_whose_predecessor_failed_is_out_of_order_until_that_one_came() {
    let (mut world, alice, bob) = two();
    let (one, two) = (world.id(), world.id());
    let mut first = world.send_command(&alice, bob.user().0, one);
    first.to_name = Some("bob".into());
    let mut second = world.send_command(&alice, bob.user().0, two);
    second.to_name = Some("bob".into());
    second.previous = Bytes::copy_from_slice(&one.0);
    assert_eq!(
        refused(&world.commit_send(&second, "two")),
        Code::OutOfOrder
    );
    sent(world.commit_send(&first, "one"));
    sent(world.commit_send(&second, "two"));
    assert_eq!(world.texts(&bob), ["one", "two"]);
}

#[test]
fn by_id_only_an_inbox_of_the_same_app_is_found() {
    let (mut world, alice, bob) = two();
    let id = world.id();
    let send = world.send_command(&alice, bob.user().0, id);
    assert_eq!(refused(&world.commit_send(&send, "x")), Code::NotFound);
    world.attach(&bob, 1, None);
    sent(world.commit_send(&send, "x"));
    let stranger = Person {
        app: "other",
        name: "alice".into(),
    };
    let id = world.id();
    let send = world.send_command(&stranger, bob.user().0, id);
    assert_eq!(refused(&world.commit_send(&send, "y")), Code::NotFound);
    assert_eq!(world.texts(&bob), ["x"]);
}

#[test]
fn an_id_that_belongs_to_another_name_is_a_collision() {
    let (mut world, alice, bob) = two();
    world.send(&alice, &bob, "x");
    let id = world.id();
    let mut send = world.send_command(&alice, bob.user().0, id);
    send.to_name = Some("bobby".into());
    assert_eq!(refused(&world.commit_send(&send, "y")), Code::NameCollision);
    let nobody = person("nobody");
    let mut send = world.send_command(&alice, nobody.user().0, id);
    send.to_name = Some("bobby".into());
    assert_eq!(refused(&world.commit_send(&send, "y")), Code::NameCollision);
}

#[test]
fn what_one_sends_to_oneself_is_one_own_event() {
    let (mut world, alice, _) = two();
    world.send(&alice, &alice, "milk");
    world.settle();
    let inbox = world.inbox(&alice);
    assert_eq!(inbox.len(), 1);
    assert_eq!(inbox[0].header.kind, Kind::Own);
    let store = world.store_of(alice.user());
    assert_eq!(
        last_incoming(store, alice.user(), conversation(&alice)),
        Ok(MsgId(0))
    );
}

#[test]
fn an_answer_never_sorts_before_what_its_sender_had_seen() {
    let (mut world, alice, bob) = two();
    let question = world.send(&alice, &bob, "question");
    // The answer's shard has a clock that is behind.
    world.ts_ms -= 5_000;
    let id = world.id();
    let mut answer = world.send_command(&bob, alice.user().0, id);
    answer.to_name = Some("alice".into());
    answer.after = question.msg_id;
    let answer = sent(world.commit_send(&answer, "answer"));
    assert!(answer.msg_id > question.msg_id);
    assert!(id_of(&answer).ms() - id_of(&question).ms() <= 1);
}

#[test]
fn message_ids_of_a_shard_rise_also_when_its_clock_falls_or_a_millisecond_is_full() {
    let (mut world, alice, bob) = two();
    let mut last = world.send(&alice, &bob, "x").msg_id;
    for n in 0..2200 {
        if n == 1500 {
            world.ts_ms -= 86_400_000;
        }
        let next = world.send(&alice, &bob, "x").msg_id;
        assert!(next > last);
        last = next;
    }
    assert_eq!(
        MsgId(last).ms(),
        START_MS - MSG_ID_EPOCH_MS + 2200 / (u64::from(MSG_ID_MAX_COUNTER) + 1)
    );
}

#[test]
fn a_sequence_number_that_would_overflow_is_refused() {
    let (mut world, alice, bob) = two();
    world.send(&alice, &bob, "x");
    let shard = world.home(bob.user().key());
    let full = Head {
        seq: u64::MAX,
        ..Head::default()
    };
    let mut changes = Changes::default();
    changes.put(keys::head(bob.user().key()), &full);
    world.write(shard, changes.effects.writes);
    let id = world.id();
    let send = world.send_command(&alice, bob.user().0, id);
    assert_eq!(refused(&world.commit_send(&send, "y")), Code::OutOfRange);
}

#[test]
fn a_sent_copy_to_a_full_inbox_does_not_block_the_outbox() {
    let (mut world, alice, bob) = two();
    world.attach(&alice, 1, None);
    let mut changes = Changes::default();
    let full = Head {
        seq: u64::MAX,
        ..Head::default()
    };
    changes.put(keys::head(alice.user().key()), &full);
    let shard = world.home(alice.user().key());
    world.write(shard, changes.effects.writes);
    world.send(&alice, &bob, "x");
    let from = world.home(bob.user().key());
    let item = world.waiting(from, shard).remove(0);
    let effects = world.deliver(shard, &item);
    assert_eq!(
        effects.notices[0],
        Notice::Undeliverable { user: alice.user() }
    );
    assert!(world.waiting(from, shard).is_empty());
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    let (mut world, alice, bob) = two();
    let id = world.id();
    let mut send = world.send_command(&alice, bob.user().0, id);
    send.to_name = Some("bob".into());
    let long = "x".repeat(70_000);
    assert_eq!(
        refused(&world.commit_send(&send, &long)),
        Code::ContentTooLarge
    );
}

#[test]
fn a_retry_after_the_limit_fell_was_refused_as_too_large() {
    let (mut world, alice, bob) = two();
    let long = "x".repeat(60_000);
    let send = |world: &mut World| Send {
        to_name: Some("bob".into()),
        client_id: Bytes::copy_from_slice(&world.id().0),
        ..world.send_command(&alice, bob.user().0, ClientId([0; 16]))
    };
    let [first, other] = [send(&mut world), send(&mut world)];
    let answer = sent(world.commit_send(&first, &long));
    let home = world.home(bob.user().key());
    let lower = command::Settings {
        version: 2,
        content_bytes: 100,
        ..world.settings.clone()
    };
    world.apply(home, lower, &Bytes::new());
    let again = sent(world.commit_send(&first, &long));
    assert!(again.duplicate && again.msg_id == answer.msg_id);
    assert_eq!(
        refused(&world.commit_send(&other, &long)),
        Code::ContentTooLarge
    );
    // What its session found too large comes without its body.
    let beyond = |send: &Send| Send {
        beyond: u32::from(Code::ContentTooLarge.number()),
        ..send.clone()
    };
    let none = Bytes::new();
    let again = sent(world.apply(home, beyond(&first), &none));
    assert!(again.duplicate && again.msg_id == answer.msg_id);
    let effects = world.apply(home, beyond(&other), &none);
    assert_eq!(refused(&effects), Code::ContentTooLarge);
    // Entries of format 1 were refused so.
    world.rules = Rules::One;
    let effects = world.commit_send(&first, &long);
    assert_eq!(refused(&effects), Code::ContentTooLarge);
}

/// What is refused for good itself is told so, and what was refused for good is not waited
/// for; only one that can still come is.
#[test]
fn a_send_behind_one_that_was_refused_for_good_was_out_of_order() {
    let (mut world, alice, bob) = two();
    world.ts_ms += 1_000_000;
    let nobody = person("nobody").user();
    let behind = |world: &mut World, to: u64, previous: ClientId| {
        let id = world.id();
        let send = Send {
            previous: Bytes::copy_from_slice(&previous.0),
            ..world.send_command(&alice, to, id)
        };
        world.commit_send(&send, "x").answer
    };
    let code = |answer: Option<Answer>| match answer {
        Some(Answer::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    };
    world.send(&alice, &bob, "hello");
    let floor = command::Floor {
        inbox: bob.user().key().0,
        oldest_seq: 0,
        dedup_before_ms: START_MS + 10,
    };
    world.apply(world.home(bob.user().key()), floor, &Bytes::new());
    let lost = world.id();
    let old = world.id_at(START_MS);
    let ahead = world.id_at(world.ts_ms + 11 * 60 * 1000);
    let to_bob = bob.user().0;
    assert_eq!(code(behind(&mut world, nobody.0, lost)), Code::NotFound);
    assert_eq!(code(behind(&mut world, to_bob, lost)), Code::OutOfOrder);
    for previous in [old, ahead] {
        let answer = behind(&mut world, to_bob, previous);
        assert!(matches!(answer, Some(Answer::Sent(_))), "{answer:?}");
    }
    // Entries of format 1 were refused so.
    world.rules = Rules::One;
    assert_eq!(code(behind(&mut world, nobody.0, lost)), Code::OutOfOrder);
    assert_eq!(code(behind(&mut world, to_bob, old)), Code::OutOfOrder);
}

#[test]
fn a_send_at_the_wrong_shard_is_told_so() {
    let (mut world, alice, bob) = two();
    let id = world.id();
    let mut send = world.send_command(&alice, bob.user().0, id);
    send.to_name = Some("bob".into());
    let home = world.home(bob.user().key());
    let other = ShardId(home.0 % 4 + 1);
    let effects = world.apply(other, send, &world::message("x"));
    assert_eq!(refused(&effects), Code::WrongShard);
}

#[test]
fn history_is_in_the_order_of_message_ids_both_ways_and_in_pages() {
    let (mut world, alice, bob) = two();
    let mut after = 0;
    for n in 0..10 {
        let (from, to) = if n % 2 == 0 {
            (&alice, &bob)
        } else {
            (&bob, &alice)
        };
        let id = world.id();
        let mut send = world.send_command(from, to.user().0, id);
        send.to_name = Some(to.name.clone());
        send.after = after;
        after = sent(world.commit_send(&send, &n.to_string())).msg_id;
    }
    world.send(&alice, &person("carol"), "elsewhere");
    world.settle();
    for who in [&alice, &bob] {
        let peer = if who == &alice { &bob } else { &alice };
        let mut seen = Vec::new();
        let mut from = HistoryFrom::Before(MsgId(0));
        loop {
            let page = world.history(who, conversation(peer), from, 3);
            seen.extend(page.events.iter().map(text));
            from = HistoryFrom::Before(page.next);
            if !page.more {
                break;
            }
        }
        let expected: Vec<_> = (0..10).rev().map(|n| n.to_string()).collect();
        assert_eq!(seen, expected);
        let rising = world.history(who, conversation(peer), HistoryFrom::After(MsgId(0)), 4);
        assert_eq!(
            rising.events.iter().map(text).collect::<Vec<_>>(),
            ["0", "1", "2", "3"]
        );
        assert!(rising.more);
        let rest = world.history(who, conversation(peer), HistoryFrom::After(rising.next), 6);
        assert_eq!((rest.events.len(), rest.more), (6, false));
    }
}

#[test]
fn a_page_of_history_ends_at_its_budget_but_has_one_event_at_least() {
    let (mut world, alice, bob) = two();
    for text in ["a", "b", "c"] {
        world.send(&alice, &bob, text);
    }
    let store = world.store_of(bob.user());
    for (budget, expected) in [(0, 1), (20, 2), (1000, 3)] {
        let page = read::history(
            store,
            bob.user(),
            conversation(&alice),
            HistoryFrom::Before(MsgId(0)),
            50,
            budget,
            |_| 10,
        )
        .unwrap();
        assert_eq!((page.events.len(), page.more), (expected, expected < 3));
    }
    let first = events(store, bob.user(), 0, 50, 0).unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!(
        events(store, bob.user(), 1, 1, 9999).unwrap()[0].inbox_seq,
        2
    );
}

#[test]
fn the_floor_masks_events_history_and_says_where_the_inbox_begins() {
    let (mut world, alice, bob) = two();
    for n in 0..100 {
        world.send(&alice, &bob, &n.to_string());
    }
    let shard = world.home(bob.user().key());
    let floor = |oldest_seq| command::Floor {
        inbox: bob.user().key().0,
        oldest_seq,
        dedup_before_ms: 0,
    };
    let effects = world.apply(shard, floor(98), &Bytes::new());
    assert_eq!(
        effects.notices,
        [Notice::Floor {
            inbox: bob.user().key(),
            oldest_seq: 98
        }]
    );
    world.apply(shard, floor(50), &Bytes::new());
    assert_eq!(world.texts(&bob), ["97", "98", "99"]);
    let from = HistoryFrom::After(MsgId(0));
    let page = world.history(&bob, conversation(&alice), from, 10);
    assert_eq!(page.events.len(), 3);
    assert!(!page.more);
    let Some(Answer::Attached { oldest, head, .. }) = world.attach(&bob, 1, None).answer else {
        panic!("not attached")
    };
    assert_eq!((oldest, head), (98, 100));
}

#[test]
fn a_missing_event_is_never_passed_over() {
    let (mut world, alice, bob) = two();
    for text in ["a", "b", "c"] {
        world.send(&alice, &bob, text);
    }
    let shard = world.home(bob.user().key());
    let mut changes = Changes::default();
    changes.delete(keys::event(bob.user().key(), 2));
    world.write(shard, changes.effects.writes);
    let store = world.store_of(bob.user());
    assert!(events(store, bob.user(), 0, 10, 9999).is_err());
}

#[test]
fn only_who_has_written_to_somebody_shows_presence() {
    let (mut world, alice, bob) = two();
    world.send(&alice, &bob, "x");
    world.settle();
    let bobs = world.store_of(bob.user());
    assert_eq!(has_written(bobs, bob.user(), alice.user()), Ok(true));
    let alices = world.store_of(alice.user());
    assert_eq!(has_written(alices, alice.user(), bob.user()), Ok(false));
    assert_eq!(
        alices.count(
            &keys::posting(alice.user().key(), keys::OWN, conversation(&bob), MsgId(0)),
            &keys::posting(
                alice.user().key(),
                keys::OWN,
                conversation(&bob),
                MsgId(i64::MAX)
            ),
        ),
        Ok(1)
    );
}
