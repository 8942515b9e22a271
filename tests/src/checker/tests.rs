//! The checker is believed only because it bites: a run that is right passes, and each
//! planted fault is found under its rule.

use proptest::prelude::*;

use super::*;

mod author;

use author::{Run, honest};

type Pages = Vec<(u32, Vec<Seen>)>;

fn histories(view: &View) -> Pages {
    let mut events = view.events.clone();
    events.sort_by_key(|event| (event.place, event.msg_id));
    events
        .chunk_by(|a, b| a.place == b.place)
        .map(|c| (c[0].place, c.to_vec()))
        .collect()
}

fn check(run: &Run) -> Report {
    let mut checker = Checker::new(&run.world);
    for view in &run.views {
        checker.view(view);
    }
    for view in &run.views {
        checker.histories(view, &histories(view));
    }
    checker.finish()
}

fn long() -> Run {
    let script: Vec<u16> = (0..400_u32)
        .map(|n| u16::try_from((n * 7_919 + 13) % 1_999).unwrap())
        .collect();
    honest(&script)
}

/// The position, in the first view of user 0, of the message that `pick` likes.
fn position(run: &Run, pick: impl Fn(&Seen) -> bool) -> usize {
    let acked = |event: &Seen| {
        run.world
            .attempts
            .get(event.message as usize)
            .is_some_and(|attempt| matches!(attempt.outcome, Outcome::Acked { .. }))
    };
    let events = &run.views[0].events;
    (20..events.len())
        .find(|at| acked(&events[*at]) && pick(&events[*at]))
        .unwrap()
}

/// Takes an event out of one device, and closes the numbers behind it.
fn take(view: &mut View, at: usize) {
    view.events.remove(at);
    for event in &mut view.events[at..] {
        event.inbox_seq -= 1;
    }
    view.head = view.head.map(|head| head - 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_right_run_passes(script in prop::collection::vec(0..2_000_u16, 0..300)) {
        let run = honest(&script);
        let report = check(&run);
        prop_assert_eq!(report.total(), 0, "{}", report);
    }

    #[test]
    fn any_acknowledged_message_taken_from_any_device_is_missed(
        device in 0..12_usize, at in any::<prop::sample::Index>(),
    ) {
        let mut run = long();
        let view = &run.views[device];
        let messages: Vec<usize> = (0..view.events.len())
            .filter(|at| run.world.attempts.get(view.events[*at].message as usize)
                .is_some_and(|a| matches!(a.outcome, Outcome::Acked { .. })))
            .collect();
        let at = messages[at.index(messages.len())];
        take(&mut run.views[device], at);
        let report = check(&run);
        prop_assert_eq!(report.lost, 1, "{}", report);
        prop_assert!(report.of(Rule::ExactlyOnce) == 1);
        prop_assert_eq!(report.verdict(), Verdict::Fail);
    }
}

#[test]
fn a_message_delivered_twice_is_found() {
    let mut run = long();
    let at = position(&run, |_| true);
    let copy = run.views[0].events[at];
    let view = &mut run.views[0];
    view.events.push(Seen {
        inbox_seq: view.head.unwrap() + 1,
        ..copy
    });
    view.head = view.head.map(|head| head + 1);
    assert_eq!(check(&run).of(Rule::ExactlyOnce), 1);
}

#[test]
fn an_unanswered_message_on_one_device_only_is_found() {
    let mut run = long();
    let at = (0..run.views[0].events.len())
        .find(|at| {
            run.world
                .attempts
                .get(run.views[0].events[*at].message as usize)
                .is_some_and(|attempt| attempt.outcome == Outcome::Unknown)
        })
        .expect("the script leaves some unanswered");
    take(&mut run.views[0], at);
    assert!(check(&run).of(Rule::ExactlyOnce) >= 1);
}

#[test]
fn another_body_is_found() {
    let mut run = long();
    let at = position(&run, |_| true);
    run.views[0].events[at].body ^= 1;
    let report = check(&run);
    assert_eq!(report.of(Rule::NobodySent), 1);
    assert_eq!(
        report.of(Rule::OneBody),
        1,
        "the other device has the right one"
    );
}

#[test]
fn a_body_that_was_refused_or_that_nobody_sent_is_found() {
    let mut run = long();
    let at = position(&run, |_| true);
    run.world.attempts[run.views[0].events[at].message as usize].outcome = Outcome::Refused;
    assert!(check(&run).of(Rule::NobodySent) >= 2);
    let mut run = long();
    run.views[0].events[at].message = FOREIGN;
    assert_eq!(check(&run).of(Rule::NobodySent), 1);
}

#[test]
fn a_message_in_another_name_is_found() {
    let mut run = long();
    let at = position(&run, |event| !event.own);
    run.views[0].events[at].own = true;
    assert_eq!(check(&run).of(Rule::NobodySent), 1);
}

#[test]
fn two_events_at_one_position_are_found() {
    let mut run = long();
    let at = position(&run, |event| event.place == 0);
    let events = &mut run.views[0].events;
    let next = (at + 1..events.len())
        .find(|next| events[*next].place != 0)
        .unwrap();
    let (a, b) = (events[at].inbox_seq, events[next].inbox_seq);
    events.swap(at, next);
    (events[at].inbox_seq, events[next].inbox_seq) = (a, b);
    assert!(check(&run).of(Rule::OneBody) >= 2);
}

#[test]
fn a_message_with_another_number_than_its_sender_was_told_is_found() {
    let mut run = long();
    let at = position(&run, |event| event.place == 0);
    let message = run.views[0].events[at].message as usize;
    let Outcome::Acked { msg_id, .. } = &mut run.world.attempts[message].outcome else {
        panic!("picked as acknowledged");
    };
    *msg_id += 1;
    assert_eq!(check(&run).of(Rule::OneBody), 4, "on each device of both");
}

#[test]
fn a_gap_and_an_inbox_that_goes_on_are_found() {
    let mut run = long();
    for event in &mut run.views[0].events[10..] {
        event.inbox_seq += 1;
    }
    assert!(check(&run).of(Rule::Gapless) >= 1);
    let mut run = long();
    run.views[3].head = Some(1_000_000);
    assert_eq!(check(&run).of(Rule::Gapless), 1);
    let mut run = long();
    run.views[0].events[10].inbox_seq = u64::MAX;
    assert!(check(&run).of(Rule::Gapless) >= 1);
}

#[test]
fn an_order_turned_round_is_found() {
    let mut run = long();
    let order = &mut run.world.orders[0];
    let acked: Vec<usize> = (0..order.len())
        .filter(|at| {
            matches!(
                run.world.attempts[order[*at] as usize].outcome,
                Outcome::Acked { .. }
            )
        })
        .collect();
    order.swap(acked[4], acked[5]);
    assert_eq!(check(&run).of(Rule::Order), 1);
    // And on a device: a group's messages out of order.
    let mut run = long();
    let events = &mut run.views[0].events;
    let of_group: Vec<usize> = (0..events.len())
        .filter(|at| events[*at].place == 2)
        .skip(5)
        .take(2)
        .collect();
    let (a, b) = (events[of_group[0]].inbox_seq, events[of_group[1]].inbox_seq);
    events.swap(of_group[0], of_group[1]);
    (events[of_group[0]].inbox_seq, events[of_group[1]].inbox_seq) = (a, b);
    assert!(check(&run).of(Rule::Order) >= 1);
}

#[test]
fn a_message_shown_to_one_who_left_or_never_came_is_found() {
    let mut run = long();
    let at = position(&run, |event| event.place == 2);
    let message = run.views[0].events[at];
    let stranger = &mut run.views[10];
    assert_eq!(stranger.user, 5);
    let inbox_seq = stranger.head.unwrap() + 1;
    stranger.events.push(Seen {
        inbox_seq,
        ..message
    });
    stranger.head = Some(inbox_seq);
    assert_eq!(check(&run).of(Rule::MembersOnly), 1);

    // One who left gets a message of the time between.
    let mut run = long();
    let away = run
        .world
        .changes
        .iter()
        .find(|change| change.place == 2 && change.left == [3])
        .expect("the script removes user 3")
        .group_seq;
    let between = *run.views[0]
        .events
        .iter()
        .find(|event| event.place == 2 && event.group_seq > away && event.message < FOREIGN)
        .expect("the group talks on");
    let view = &mut run.views[6];
    assert_eq!(view.user, 3);
    let inbox_seq = view.head.unwrap() + 1;
    view.events.push(Seen {
        inbox_seq,
        ..between
    });
    view.head = Some(inbox_seq);
    assert_eq!(check(&run).of(Rule::MembersOnly), 1);
}

#[test]
fn marks_that_differ_from_the_acknowledgements_are_found() {
    let run = long();
    let highest = |user: u32, place: u32| {
        run.views[user as usize * 2]
            .events
            .iter()
            .filter(|event| event.place == place && !event.own)
            .map(|event| event.msg_id)
            .max()
            .unwrap()
    };
    let delivered = highest(1, 0);
    let with = |found: Marks| {
        let mut checker = Checker::new(&run.world);
        for view in &run.views {
            checker.view(view);
        }
        checker.marks(0, 1, found);
        checker.finish().of(Rule::Marks)
    };
    assert_eq!(with(Marks { delivered, seen: 0 }), 0);
    assert_eq!(
        with(Marks {
            delivered: delivered - 1,
            seen: 0
        }),
        1,
        "a mark was lost"
    );
    assert_eq!(
        with(Marks {
            delivered: delivered + 1,
            seen: 0
        }),
        1,
        "marks ahead of delivery"
    );
    assert_eq!(
        with(Marks {
            delivered,
            seen: delivered
        }),
        1,
        "seen, but nobody said so"
    );
    assert_eq!(
        with(Marks {
            delivered: 0,
            seen: delivered
        }),
        2,
        "seen above delivered"
    );
}

#[test]
fn marks_that_fall_are_found() {
    let world = World::default();
    let mut checker = Checker::new(&world);
    let marks = checker.receipt(
        "a",
        Marks::default(),
        Marks {
            delivered: 9,
            seen: 3,
        },
    );
    let marks = checker.receipt(
        "a",
        marks,
        Marks {
            delivered: 9,
            seen: 2,
        },
    );
    assert_eq!(
        marks,
        Marks {
            delivered: 9,
            seen: 3
        }
    );
    assert_eq!(checker.finish().of(Rule::Marks), 1);
}

#[test]
fn a_history_that_lacks_repeats_or_turns_round_an_event_is_found() {
    let run = long();
    let with = |change: &dyn Fn(&mut Pages)| {
        let mut pages = histories(&run.views[0]);
        change(&mut pages);
        let mut checker = Checker::new(&run.world);
        checker.histories(&run.views[0], &pages);
        checker.finish().of(Rule::History)
    };
    assert_eq!(with(&|_| {}), 0);
    assert_eq!(with(&|pages| pages[1].1.truncate(3)), 1);
    assert_eq!(
        with(&|pages| pages[1].1.swap(3, 4)),
        2,
        "out of order, and so not the same"
    );
    assert_eq!(
        with(&|pages| {
            let copy = pages[0].1[2];
            pages[0].1.insert(2, copy);
        }),
        2
    );
    assert_eq!(
        with(&|pages| drop(pages.remove(0))),
        1,
        "a conversation is not shown"
    );
    assert_eq!(with(&|pages| pages[0].1[1].body ^= 1), 1);
}

#[test]
fn a_run_without_answers_is_unknown_and_no_pass() {
    let mut run = long();
    for attempt in &mut run.world.attempts {
        attempt.outcome = Outcome::Unknown;
    }
    for view in &mut run.views {
        view.events.clear();
        view.head = Some(0);
    }
    assert_eq!(check(&run).verdict(), Verdict::Unknown);
}

#[test]
fn many_devices_of_many_messages_are_checked_in_one_pass() {
    let messages: u32 = 100_000;
    let mut world = World {
        users: 8,
        places: vec![Place::Group],
        changes: vec![Change {
            place: 0,
            group_seq: 1,
            joined: (0..8).collect(),
            left: vec![],
        }],
        ..World::default()
    };
    let events: Vec<Seen> = (0..messages)
        .map(|message| {
            let body = u64::from(message) * 31;
            let (msg_id, group_seq) = (i64::from(message) + 5, u64::from(message) + 2);
            let outcome = Outcome::Acked { msg_id, group_seq };
            world.attempts.push(Attempt {
                sender: message % 8,
                place: 0,
                body,
                outcome,
            });
            let inbox_seq = u64::from(message) + 1;
            Seen {
                inbox_seq,
                msg_id,
                body,
                place: 0,
                message,
                group_seq,
                own: false,
            }
        })
        .collect();
    let mut checker = Checker::new(&world);
    for user in 0..8 {
        assert_eq!(checker.expected(user), messages as usize);
        let mut events = events.clone();
        for event in &mut events {
            event.own = event.message % 8 == user;
        }
        let head = Some(u64::from(messages));
        checker.view(&View {
            user,
            head,
            events,
            ..View::default()
        });
    }
    let report = checker.finish();
    assert_eq!(
        (report.verdict(), report.acknowledged),
        (Verdict::Pass, messages as usize)
    );
}
