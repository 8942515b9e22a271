//! Who may see what: members of a place at a message's position, and how many
//! acknowledged messages that makes for each user.

use std::collections::HashMap;

use super::{Change, Outcome, Place, Report, Rule, World};

/// Positions in a group's log above the first and below the second.
type Interval = (u64, u64);

pub(super) struct Membership {
    places: Vec<Place>,
    /// By (place, user), rising.
    intervals: HashMap<(u32, u32), Vec<Interval>>,
    /// By user: acknowledged messages that every device must have.
    expected: Vec<usize>,
}

impl Membership {
    pub(super) fn new(world: &World, report: &mut Report) -> Self {
        let mut changes: Vec<&Change> = world.changes.iter().collect();
        changes.sort_by_key(|change| (change.place, change.group_seq));
        let mut intervals: HashMap<(u32, u32), Vec<Interval>> = HashMap::new();
        for pair in changes.windows(2) {
            if (pair[0].place, pair[0].group_seq) == (pair[1].place, pair[1].group_seq) {
                report.add(Rule::OneBody, || {
                    format!(
                        "two changes at {} of place {}",
                        pair[0].group_seq, pair[0].place
                    )
                });
            }
        }
        for change in changes {
            for user in &change.joined {
                let of_user = intervals.entry((change.place, *user)).or_default();
                // Adding a member again changes nothing.
                if of_user.last().is_none_or(|last| last.1 != u64::MAX) {
                    of_user.push((change.group_seq, u64::MAX));
                }
            }
            for user in &change.left {
                if let Some(last) = intervals
                    .get_mut(&(change.place, *user))
                    .and_then(|of_user| of_user.last_mut())
                    .filter(|last| last.1 == u64::MAX)
                {
                    last.1 = change.group_seq;
                }
            }
        }
        let mut membership = Self {
            places: world.places.clone(),
            intervals,
            expected: vec![0; world.users],
        };
        membership.count(world);
        membership
    }

    fn count(&mut self, world: &World) {
        let mut positions: Vec<Vec<u64>> = vec![Vec::new(); world.places.len()];
        for attempt in &world.attempts {
            if let Outcome::Acked { group_seq, .. } = attempt.outcome {
                positions[attempt.place as usize].push(group_seq);
            }
        }
        for (place, positions) in world.places.iter().zip(&positions) {
            if let Place::Pair([a, b]) = place {
                self.expected[*a as usize] += positions.len();
                if a != b {
                    self.expected[*b as usize] += positions.len();
                }
            }
        }
        for positions in &mut positions {
            positions.sort_unstable();
        }
        for ((place, user), intervals) in &self.intervals {
            let positions = &positions[*place as usize];
            for (from, to) in intervals {
                let first = positions.partition_point(|at| at <= from);
                let end = positions.partition_point(|at| at < to);
                self.expected[*user as usize] += end - first;
            }
        }
    }

    pub(super) fn expected(&self, user: u32) -> usize {
        self.expected.get(user as usize).copied().unwrap_or(0)
    }

    /// Whether `user` was to get the message at this position.
    pub(super) fn entitled(&self, place: u32, user: u32, group_seq: u64) -> bool {
        match self.places.get(place as usize) {
            None => false,
            Some(Place::Pair(pair)) => pair.contains(&user),
            Some(Place::Group) => self.intervals.get(&(place, user)).is_some_and(|of_user| {
                of_user
                    .iter()
                    .any(|(from, to)| (from + 1..*to).contains(&group_seq))
            }),
        }
    }

    /// Whether `user` may hear of the change at this position: also of one's own
    /// coming and going.
    pub(super) fn told(&self, place: u32, user: u32, group_seq: u64) -> bool {
        self.intervals.get(&(place, user)).is_some_and(|of_user| {
            of_user
                .iter()
                .any(|(from, to)| (*from..=*to).contains(&group_seq))
        })
    }
}
