//! A run as an honest server and honest clients would leave it.

use super::*;

/// A right run: people, pairs and groups, with members who go and come back.
pub(super) struct Run {
    pub(super) world: World,
    pub(super) views: Vec<View>,
}

pub(super) const USERS: u32 = 6;

/// Plays `script` honestly: each number picks what happens next.
pub(super) fn honest(script: &[u16]) -> Run {
    let mut author = Author::new();
    for step in script {
        author.clock += 5;
        let group = usize::from(step % 2);
        if step % 11 == 0 && author.members[group].len() > 1 {
            author.come_or_go(group);
        } else {
            author.say(*step);
        }
    }
    author.done()
}

struct Author {
    world: World,
    inboxes: Vec<Vec<Seen>>,
    members: [Vec<u32>; 2],
    group_seq: [u64; 2],
    clock: i64,
}

impl Author {
    fn new() -> Self {
        let mut author = Self {
            world: World {
                users: USERS as usize,
                places: vec![
                    Place::Pair([0, 1]),
                    Place::Pair([2, 0]),
                    Place::Group,
                    Place::Group,
                ],
                orders: vec![Vec::new(); 4],
                ..World::default()
            },
            inboxes: vec![Vec::new(); USERS as usize],
            members: [vec![0, 1, 2, 3], vec![0, 4, 5]],
            group_seq: [1, 1],
            clock: 1_000,
        };
        for group in 0..2 {
            let members = author.members[group].clone();
            author.change(
                group,
                10 + i64::try_from(group).unwrap(),
                &members,
                &members,
                &[],
            );
        }
        author
    }

    fn change(&mut self, group: usize, msg_id: i64, told: &[u32], joined: &[u32], left: &[u32]) {
        let place = u32::try_from(group).unwrap() + 2;
        let group_seq = self.group_seq[group];
        self.world.changes.push(Change {
            place,
            group_seq,
            joined: joined.to_vec(),
            left: left.to_vec(),
        });
        let event = Seen {
            inbox_seq: 0,
            msg_id,
            body: 1,
            place,
            message: CHANGE,
            group_seq,
            own: false,
        };
        push(&mut self.inboxes, told, 0, event);
    }

    /// The guest of the group goes, or comes back.
    fn come_or_go(&mut self, group: usize) {
        self.group_seq[group] += 1;
        let who = if group == 0 { 3 } else { 5 };
        let mut told = self.members[group].clone();
        let clock = self.clock;
        if told.contains(&who) {
            self.members[group].retain(|user| *user != who);
            self.change(group, clock, &told, &[], &[who]);
        } else {
            self.members[group].push(who);
            told.push(who);
            self.change(group, clock, &told, &[who], &[]);
        }
    }

    fn say(&mut self, step: u16) {
        let place = u32::from(step % 4);
        let (sender, receivers, group_seq) = match self.world.places[place as usize] {
            Place::Pair(pair) => (pair[usize::from(step / 4 % 2)], pair.to_vec(), 0),
            Place::Group => {
                let group = place as usize - 2;
                self.group_seq[group] += 1;
                (0, self.members[group].clone(), self.group_seq[group])
            }
        };
        let message = u32::try_from(self.world.attempts.len()).unwrap();
        let body = body_hash(&step.to_be_bytes());
        let msg_id = self.clock;
        let outcome = match step % 23 {
            7 => Outcome::Refused,
            9 => Outcome::Unknown,
            _ => Outcome::Acked { msg_id, group_seq },
        };
        self.world.attempts.push(Attempt {
            sender,
            place,
            body,
            outcome,
        });
        self.world.orders[place as usize].push(message);
        let exists = match outcome {
            Outcome::Refused => false,
            Outcome::Unknown => step.is_multiple_of(3),
            Outcome::Acked { .. } => true,
        };
        if exists {
            let event = Seen {
                inbox_seq: 0,
                msg_id,
                body,
                place,
                message,
                group_seq,
                own: false,
            };
            push(&mut self.inboxes, &receivers, sender, event);
        }
    }

    fn done(self) -> Run {
        let views = (0..USERS)
            .flat_map(|user| {
                let events = &self.inboxes[user as usize];
                [0, 1].map(|device| View {
                    user,
                    device,
                    from: 0,
                    head: Some(events.len() as u64),
                    acked: if device == 0 { events.len() as u64 } else { 0 },
                    events: events.clone(),
                    marked: vec![],
                })
            })
            .collect();
        Run {
            world: self.world,
            views,
        }
    }
}

fn push(inboxes: &mut [Vec<Seen>], receivers: &[u32], by: u32, event: Seen) {
    for user in receivers {
        let inbox = &mut inboxes[*user as usize];
        let inbox_seq = inbox.len() as u64 + 1;
        let own = *user == by;
        inbox.push(Seen {
            inbox_seq,
            own,
            ..event
        });
    }
}
