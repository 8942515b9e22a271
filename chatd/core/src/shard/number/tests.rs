use super::*;
use crate::{
    command::Rules,
    shard::{
        step::Changes,
        world::{Person, START_MS, World, conversation, id_of, person, sent},
    },
};
use chat_wire::{frame, ids::ConversationId};
use proptest::prelude::*;
use std::collections::BTreeMap;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How far apart servers' clocks may be: docs/protocol.md, R38. What is left of
/// `AFTER_AHEAD_MS` is for milliseconds that fill up.
const SKEW_MS: u64 = 4_000;

/// A number of this time, which nobody has given.
fn id_at(unix_ms: u64) -> i64 {
    MsgId::new(unix_ms - MSG_ID_EPOCH_MS, ShardId(1), 0).0
}

fn send_after(world: &mut World, from: &Person, to: &Person, after: i64) -> frame::Sent {
    let id = world.id();
    let mut send = world.send_command(from, to.user().0, id);
    send.to_name = Some(to.name.clone());
    send.after = after;
    sent(world.commit_send(&send, "x"))
}

/// The last number of all shards becomes this, as the log of an older version left it.
fn put_ahead(world: &mut World, unix_ms: u64) {
    let shards: Vec<_> = world.stores.keys().copied().collect();
    for shard in shards {
        let mut changes = Changes::default();
        changes.put_last(MsgId::new(unix_ms - MSG_ID_EPOCH_MS, shard, 0));
        world.write(shard, changes.effects.writes);
    }
}

fn people<const N: usize>(names: [&str; N]) -> [Person; N] {
    names.map(person)
}

#[test]
fn after_of_one_sender_moved_the_times_of_strangers_by_a_day() {
    for ahead_ms in [
        AFTER_AHEAD_MS + 1,
        AFTER_KNOWN_AHEAD_MS,
        DAY_MS,
        10 * DAY_MS,
    ] {
        let mut world = World::new(1);
        let [mallory, eve, carol, dave] = people(["mallory", "eve", "carol", "dave"]);
        let own = send_after(&mut world, &mallory, &eve, id_at(START_MS + ahead_ms));
        let other = world.send(&carol, &dave, "hello");
        // Ignored, not cut to what would have counted.
        assert_eq!((own.ts_ms, other.ts_ms), (START_MS, START_MS), "{ahead_ms}");
    }
}

#[test]
fn a_few_seconds_ahead_count_whatever_they_name() {
    let mut world = World::new(1);
    let [mallory, eve, carol, dave] = people(["mallory", "eve", "carol", "dave"]);
    let latest = START_MS + AFTER_AHEAD_MS;
    assert_eq!(
        send_after(&mut world, &mallory, &eve, id_at(latest)).ts_ms,
        latest
    );
    // It is one shard, so others are moved along: by that much and no more.
    assert_eq!(world.send(&carol, &dave, "hello").ts_ms, latest);
    world.ts_ms += 2;
    let again = send_after(&mut world, &mallory, &eve, id_at(latest + 3));
    assert_eq!(again.ts_ms, latest, "beyond, and unknown");
}

#[test]
fn further_ahead_only_a_message_of_the_same_conversation_counts() {
    let mut world = World::new(1);
    let [alice, bob, carol] = people(["alice", "bob", "carol"]);
    let ahead = START_MS + AFTER_KNOWN_AHEAD_MS;
    world.ts_ms = ahead;
    let question = world.send(&alice, &bob, "question");
    world.settle();
    world.ts_ms = START_MS;
    put_ahead(&mut world, START_MS);
    // Another conversation's message is none of this one.
    assert_eq!(
        send_after(&mut world, &bob, &carol, question.msg_id).ts_ms,
        START_MS
    );
    assert_eq!(
        send_after(&mut world, &carol, &alice, question.msg_id).ts_ms,
        START_MS
    );
    // The copy that its sender has, for the answer.
    let answer = send_after(&mut world, &bob, &alice, question.msg_id);
    assert!(answer.msg_id > question.msg_id);
    // The message that its receiver has, for what follows it.
    put_ahead(&mut world, START_MS);
    let more = send_after(&mut world, &alice, &bob, question.msg_id);
    assert!(more.msg_id > question.msg_id);
}

#[test]
fn beyond_the_second_ceiling_also_a_message_of_the_conversation_does_not_count() {
    let mut world = World::new(1);
    let [alice, bob] = people(["alice", "bob"]);
    world.ts_ms = START_MS + AFTER_KNOWN_AHEAD_MS + 1;
    let question = world.send(&alice, &bob, "question");
    world.settle();
    world.ts_ms = START_MS;
    put_ahead(&mut world, START_MS);
    let answer = send_after(&mut world, &bob, &alice, question.msg_id);
    assert_eq!(answer.ts_ms, START_MS);
}

#[test]
fn notes_to_oneself_count_as_a_conversation() {
    let mut world = World::new(1);
    let alice = person("alice");
    world.ts_ms = START_MS + AFTER_KNOWN_AHEAD_MS;
    let note = world.send(&alice, &alice, "milk");
    world.ts_ms = START_MS;
    put_ahead(&mut world, START_MS);
    let next = send_after(&mut world, &alice, &alice, note.msg_id);
    assert!(next.msg_id > note.msg_id);
}

/// Two shards, and two people who answer each other as fast as they can: each pair of
/// answers may gain a millisecond on the clock, and the second ceiling ends that.
#[test]
fn two_who_push_each_other_end_at_the_second_ceiling() {
    let mut world = World::new(2);
    let names: Vec<_> = (0..).map(|n| person(&format!("p{n}"))).take(50).collect();
    let in_shard = |world: &World, shard| {
        names
            .iter()
            .find(|who| world.home(who.user().key()) == ShardId(shard))
            .cloned()
            .unwrap()
    };
    let (mallory, eve) = (in_shard(&world, 1), in_shard(&world, 2));
    put_ahead(&mut world, START_MS + AFTER_KNOWN_AHEAD_MS - 100);
    let mut after = 0;
    for _ in 0..300 {
        after = send_after(&mut world, &mallory, &eve, after).msg_id;
        world.settle();
        after = send_after(&mut world, &eve, &mallory, after).msg_id;
        world.settle();
    }
    let latest = START_MS + AFTER_KNOWN_AHEAD_MS + 1;
    let strangers = [person("carol"), person("dave")];
    for to in strangers.iter().chain([&mallory, &eve]) {
        let stranger = world.send(&strangers[0], to, "hello");
        assert!(
            stranger.ts_ms <= latest,
            "ahead by {}",
            stranger.ts_ms - START_MS
        );
    }
    assert!(
        id_of(&world.send(&strangers[1], &eve, "x")).unix_ms() > latest - 2,
        "it got there"
    );
}

#[test]
fn a_shard_that_is_a_day_ahead_runs_on_until_the_clock_reaches_it() {
    let mut world = World::new(1);
    let [alice, bob] = people(["alice", "bob"]);
    world.rules = Rules::One;
    let far = send_after(&mut world, &alice, &bob, id_at(START_MS + 10 * DAY_MS));
    assert_eq!(far.ts_ms, START_MS + DAY_MS + 1);
    world.rules = Rules::WRITTEN;
    let mut last = far.msg_id;
    for hour in 0..24 {
        world.ts_ms = START_MS + hour * 60 * 60 * 1000;
        let next = world.send(&alice, &bob, "x");
        assert!(next.msg_id > last);
        assert_eq!(next.ts_ms, far.ts_ms, "it moves no further");
        last = next.msg_id;
    }
    world.ts_ms = START_MS + DAY_MS + 2;
    assert_eq!(world.send(&alice, &bob, "x").ts_ms, world.ts_ms);
}

/// What stands in an old log with format 1 was acknowledged with these numbers.
#[test]
fn entries_of_format_1_are_numbered_as_they_were() {
    let mut world = World::new(1);
    world.rules = Rules::One;
    let [alice, bob] = people(["alice", "bob"]);
    let at = |world: &mut World, after| {
        let sent = send_after(world, &alice, &bob, after);
        (sent.ts_ms - START_MS, id_of(&sent).counter())
    };
    assert_eq!(at(&mut world, 0), (0, 0));
    assert_eq!(at(&mut world, id_at(START_MS)), (1, 0));
    assert_eq!(at(&mut world, id_at(START_MS)), (1, 1));
    assert_eq!(at(&mut world, id_at(START_MS + 7_000)), (7_001, 0));
    assert_eq!(
        at(&mut world, id_at(START_MS + 2 * DAY_MS)),
        (DAY_MS + 1, 0)
    );
    assert_eq!(at(&mut world, -1), (DAY_MS + 1, 1));
    assert_eq!(at(&mut world, i64::MAX), (DAY_MS + 1, 2));
}

/// Clocks that are apart, a shard each, and what everybody has seen.
struct Talk {
    world: World,
    people: Vec<Person>,
    skews_ms: Vec<u64>,
    clock_ms: u64,
    seen: BTreeMap<(usize, ConversationId), i64>,
}

impl Talk {
    fn new(skews_ms: Vec<u64>) -> Self {
        Self {
            world: World::new(u16::try_from(skews_ms.len()).unwrap()),
            people: (0..4).map(|n| person(&format!("p{n}"))).collect(),
            skews_ms,
            clock_ms: START_MS,
            seen: BTreeMap::new(),
        }
    }

    fn set_clock(&mut self, to: &Person) {
        let shard = self.world.home(to.user().key());
        self.world.ts_ms = self.clock_ms + self.skews_ms[usize::from(shard.0) - 1];
    }

    /// One says something to another, and both see it. Its number, and the highest its
    /// sender had seen.
    fn say(&mut self, from: usize, to: usize) -> (i64, i64) {
        let (sender, receiver) = (self.people[from].clone(), self.people[to].clone());
        self.set_clock(&receiver);
        let key = (from, conversation(&receiver));
        let after = self.seen.get(&key).copied().unwrap_or(0);
        let number = send_after(&mut self.world, &sender, &receiver, after).msg_id;
        for key in [key, (to, conversation(&sender))] {
            let seen = self.seen.entry(key).or_default();
            *seen = number.max(*seen);
        }
        (number, after)
    }
}

proptest! {
    /// The copies of what was sent stay in the outboxes for as long as they like.
    #[test]
    fn an_answer_never_sorts_before_its_question_while_clocks_are_seconds_apart(
        skews in proptest::collection::vec(0..=SKEW_MS, 4),
        steps in proptest::collection::vec((0_usize..4, 0_usize..4, 0_u64..30, any::<bool>()), 1..120),
    ) {
        let mut talk = Talk::new(skews);
        for (from, to, pause_ms, carried) in steps {
            talk.clock_ms += pause_ms;
            let (number, after) = talk.say(from, to);
            prop_assert!(number > after);
            if carried {
                talk.world.settle();
            }
        }
    }

    /// The same with shards that are pushed ahead, and clocks further apart: then the copy
    /// of the question must have come to the one who asked it.
    #[test]
    fn pushed_shards_keep_that_order_once_the_question_has_come_to_both(
        skews in proptest::collection::vec(0..=20_000_u64, 4),
        steps in proptest::collection::vec((0_usize..4, 0_usize..4, 0_u64..30), 1..80),
    ) {
        let mut talk = Talk::new(skews);
        let [mallory, eve] = people(["mallory", "eve"]);
        for (from, to, pause_ms) in steps {
            talk.clock_ms += pause_ms;
            for (sender, receiver) in [(&mallory, &eve), (&eve, &mallory)] {
                talk.set_clock(receiver);
                let latest = id_at(talk.world.ts_ms + AFTER_AHEAD_MS);
                send_after(&mut talk.world, sender, receiver, latest);
            }
            let (number, after) = talk.say(from, to);
            prop_assert!(number > after);
            talk.world.settle();
        }
    }

    /// Whatever others say they have seen, real or not: a message of another app is dated
    /// at most so far ahead of the clock of the shard that counts it.
    #[test]
    fn what_other_apps_claim_dates_a_message_by_seconds_at_most(
        claims in proptest::collection::vec((0_usize..3, 0_usize..3, prop_oneof![
            (0..40_000_u64).prop_map(|ahead| id_at(START_MS + ahead)),
            any::<i64>(),
            Just(0),
        ], any::<bool>()), 1..60),
    ) {
        let mut world = World::new(2);
        let attackers: Vec<_> = (0..3)
            .map(|n| Person { app: "other", name: format!("a{n}") })
            .collect();
        let [carol, dave] = people(["carol", "dave"]);
        let mut last = 0;
        for (from, to, claim, real) in claims {
            let after = if real { last } else { claim };
            last = send_after(&mut world, &attackers[from], &attackers[to], after).msg_id;
            world.settle();
        }
        for (from, to) in [(&carol, &dave), (&dave, &carol)] {
            let ahead_ms = world.send(from, to, "hello").ts_ms - START_MS;
            // The few claims here gain their few milliseconds on what counts unseen.
            prop_assert!(ahead_ms <= AFTER_AHEAD_MS + 60, "ahead by {ahead_ms} ms");
        }
    }
}
