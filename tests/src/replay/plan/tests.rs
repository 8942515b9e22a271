use std::collections::HashSet;

use super::*;
use crate::dataset::sample;

fn plan(options: &Options) -> (Dataset, Plan) {
    let dataset = sample(3, 300);
    let plan = Plan::new(&dataset, options);
    (dataset, plan)
}

#[test]
fn every_message_of_the_dataset_is_said_once_and_in_its_order() {
    let (dataset, plan) = plan(&Options::default());
    let count: usize = dataset.conversations.iter().map(|c| c.messages.len()).sum();
    assert_eq!(plan.lines.len(), count);
    let mut said: Vec<&str> = plan.lines.iter().map(|line| line.text.as_str()).collect();
    let mut given: Vec<&str> = dataset
        .conversations
        .iter()
        .flat_map(|c| c.messages.iter().map(|m| m.text.as_str()))
        .collect();
    said.sort_unstable();
    given.sort_unstable();
    assert_eq!(said, given);
    for (number, thread) in plan.threads.iter().enumerate() {
        for (position, line) in thread.lines.iter().enumerate() {
            let line = &plan.lines[*line as usize];
            assert_eq!(
                (line.thread as usize, line.position as usize),
                (number, position)
            );
        }
    }
    // A conversation stands in its thread as one piece.
    for conversation in &dataset.conversations {
        let texts: Vec<&str> = conversation
            .messages
            .iter()
            .map(|m| m.text.as_str())
            .collect();
        let found = plan.threads.iter().any(|thread| {
            let lines: Vec<&str> = thread
                .lines
                .iter()
                .map(|line| plan.lines[*line as usize].text.as_str())
                .collect();
            lines.windows(texts.len()).any(|window| window == texts)
        });
        assert!(found, "{} is torn apart", conversation.id);
    }
}

#[test]
fn a_sender_belongs_to_one_thread_of_a_place() {
    let (_, plan) = plan(&Options::default());
    let mut home = HashMap::new();
    for line in &plan.lines {
        let place = plan.threads[line.thread as usize].place;
        assert_eq!(
            *home.entry((place, line.sender)).or_insert(line.thread),
            line.thread
        );
    }
}

#[test]
fn groups_hold_their_talkers_once_and_within_bounds() {
    let (_, plan) = plan(&Options::default());
    let mut merged = 0;
    for (number, place) in plan.places.iter().enumerate() {
        let talkers: HashSet<u32> = plan
            .lines
            .iter()
            .filter(|line| plan.threads[line.thread as usize].place as usize == number)
            .map(|line| line.sender)
            .collect();
        match place {
            Place::Pair(pair) => assert!(pair[0] < pair[1] && talkers == HashSet::from(*pair)),
            Place::Group { owner, members } => {
                let set: HashSet<u32> = members.iter().copied().collect();
                assert_eq!(set.len(), members.len(), "twice in a group");
                assert!(members[0] == *owner && talkers.is_subset(&set));
                if talkers.len() > 1 {
                    merged += 1;
                    assert!(members.len() <= MERGED_MEMBERS);
                }
            }
        }
    }
    assert!(merged > 0, "conversations are merged");
    assert!(!plan.churn.is_empty(), "members go and come back");
    for churn in &plan.churn {
        let Place::Group { owner, members } = &plan.places[churn.place as usize] else {
            panic!("only groups have members");
        };
        assert!(members.contains(&churn.member) && churn.member != *owner);
        assert!(churn.remove_at < churn.add_at);
        assert!(plan.lines.iter().all(|line| line.sender != churn.member
            || plan.threads[line.thread as usize].place != churn.place));
    }
}

#[test]
fn the_same_seed_makes_the_same_plan_and_another_seed_another() {
    let (_, a) = plan(&Options::default());
    let (_, b) = plan(&Options::default());
    let (_, c) = plan(&Options {
        seed: 2,
        ..Options::default()
    });
    assert!(a == b && a != c);
}

#[test]
fn audiences_are_raised_until_the_run_has_its_deliveries() {
    let low = plan(&Options {
        receivers_per_send: 0,
        ..Options::default()
    })
    .1;
    let wanted = low.deliveries() / low.sends() + 2;
    let high = plan(&Options {
        receivers_per_send: wanted,
        ..Options::default()
    })
    .1;
    assert!(low.deliveries() < wanted * low.sends());
    assert!(
        high.deliveries() >= wanted * high.sends(),
        "{}",
        high.deliveries()
    );
    assert!(high.deliveries() <= (wanted * high.sends()) * 9 / 8);
}

#[test]
fn a_part_of_the_dataset_can_be_played_also_of_pairs_only() {
    let (_, part) = plan(&Options {
        conversations: Some(40),
        ..Options::default()
    });
    assert!(part.people.len() <= 80 && part.sends() < 1_600);
    let pairs = Options {
        conversations: Some(40),
        pairs_only: true,
        ..Options::default()
    };
    let (_, part) = plan(&pairs);
    assert!(
        part.places
            .iter()
            .all(|place| matches!(place, Place::Pair(_)))
    );
}

#[test]
fn ids_lead_back_to_their_lines_and_only_within_their_run() {
    let (_, plan) = plan(&Options {
        conversations: Some(10),
        ..Options::default()
    });
    let ids = RunIds {
        start_ms: 1_800_000_000_000,
        run: 77,
    };
    let other = RunIds { run: 78, ..ids };
    for number in 0..index(plan.lines.len()) {
        let id = ids.line(&plan, number);
        assert_eq!(ids.line_number(&id.0), Some(number));
        assert_eq!(other.line_number(&id.0), None);
        assert_eq!(
            id.unix_ms(),
            ids.start_ms + u64::from(plan.lines[number as usize].position)
        );
    }
    assert_eq!(ids.line_number(&ids.id(IdKind::Create, 3, 0).0), None);
    assert_eq!(ids.line_number(b"short"), None);
}
