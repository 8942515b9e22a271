//! Who is in a group: what MEMBERS says against what the group's events imply.
//!
//! Somebody who was there from the creation on has every change, so the two must be equal.
//! Who came later, or was away, knows only of those whom the events since then name:
//! these must be in the list or not, with the role that was said. Known limit: a group that
//! changes on every look is not compared; the report counts it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use chat_client::{
    Client, Code, HistoryFrom, RequestError,
    frame::{Event, GroupChange, GroupState, Member, Role, event::What, group_change::Kind},
    ids::GroupId,
};

use crate::{failure::Failure, output};

/// Looks at a group that changes meanwhile, at most.
const LOOKS: usize = 5;
/// Looks for events that are still on their way into the inbox, at most.
const WAITS: usize = 50;
/// Between two of them.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is known of one person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Gone,
    /// A member; the role if an event told it.
    Member(Option<Role>),
}

/// What a group's events say of its members, in the order of the group's log.
#[derive(Debug)]
pub(super) struct Roster {
    me: u64,
    /// Every change since the creation was seen.
    complete: bool,
    said: BTreeMap<u64, (String, Said)>,
    /// The last entry of the group's log that was seen.
    seq: u64,
    /// The last change among them.
    changed_seq: u64,
}

impl Roster {
    pub(super) const fn new(me: u64) -> Self {
        Self {
            me,
            complete: false,
            said: BTreeMap::new(),
            seq: 0,
            changed_seq: 0,
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        self.seq = self.seq.max(event.group_seq);
        if let Some(What::GroupChange(change)) = &event.what {
            self.changed_seq = self.changed_seq.max(event.group_seq);
            self.change(event, change);
        }
    }

    fn change(&mut self, event: &Event, change: &GroupChange) {
        match change.kind() {
            Kind::Created => {
                self.said.clear();
                self.complete = true;
                for member in &change.members {
                    self.say(member, Said::Member(Some(member.role())));
                }
            }
            Kind::Added => {
                let back = change.members.iter().any(|member| member.user == self.me);
                if back && !matches!(self.of(self.me), Some(Said::Member(_))) {
                    // What was before, and what happened in between, is not known.
                    self.said.clear();
                    self.complete = false;
                }
                for member in &change.members {
                    // An addition also names people who were members already, and keep their roles.
                    match self.of(member.user) {
                        Some(Said::Member(_)) => {}
                        Some(Said::Gone) => self.say(member, Said::Member(Some(Role::Member))),
                        None if self.complete => {
                            self.say(member, Said::Member(Some(Role::Member)));
                        }
                        None => self.say(member, Said::Member(None)),
                    }
                }
            }
            Kind::Removed => {
                for member in &change.members {
                    self.gone(member);
                }
            }
            Kind::Left => self.gone(&Member {
                user: event.sender,
                name: event.sender_name.clone(),
                ..Member::default()
            }),
            Kind::Role => {
                for member in &change.members {
                    self.say(member, Said::Member(Some(member.role())));
                }
            }
            Kind::Renamed | Kind::Unspecified => {}
        }
    }

    fn of(&self, user: u64) -> Option<Said> {
        self.said.get(&user).map(|(_, said)| *said)
    }

    fn say(&mut self, member: &Member, said: Said) {
        let (name, now) = self
            .said
            .entry(member.user)
            .or_insert_with(|| (String::new(), said));
        if !member.name.is_empty() {
            name.clone_from(&member.name);
        }
        *now = said;
    }

    fn gone(&mut self, member: &Member) {
        if member.user == self.me {
            self.said.clear();
            self.complete = false;
        }
        self.say(member, Said::Gone);
    }

    /// Where the list, or none for somebody who is told to be no member, differs from what
    /// the events say.
    fn differences(&self, group: GroupId, members: Option<&[Member]>) -> Vec<String> {
        let Some(members) = members else {
            return match self.of(self.me) {
                Some(Said::Member(_)) => vec![format!(
                    "group {group}: its events have you in it, the server says that you are not"
                )],
                _ => Vec::new(),
            };
        };
        let listed: BTreeMap<u64, &Member> =
            members.iter().map(|member| (member.user, member)).collect();
        let mut found = Vec::new();
        for (user, (name, said)) in &self.said {
            let who = who(*user, name);
            match (said, listed.get(user)) {
                (Said::Gone, Some(_)) => found.push(format!(
                    "group {group}: {who} is listed, and has gone by its events"
                )),
                (Said::Member(_), None) => found.push(format!(
                    "group {group}: {who} is not listed, and is a member by its events"
                )),
                (Said::Member(Some(role)), Some(member)) if member.role() != *role => {
                    found.push(format!(
                        "group {group}: {who} is listed as {}, and is {} by its events",
                        output::role(member.role()),
                        output::role(*role)
                    ));
                }
                _ => {}
            }
        }
        if listed.len() != members.len() {
            found.push(format!("group {group}: somebody is listed twice"));
        }
        if self.complete {
            let unknown = listed.iter().filter(|(user, _)| self.of(**user).is_none());
            found.extend(unknown.map(|(user, member)| {
                format!(
                    "group {group}: {} is listed, and no event says so",
                    who(*user, &member.name)
                )
            }));
        }
        found
    }
}

fn who(user: u64, name: &str) -> String {
    match name {
        "" => format!("user {user}"),
        name => output::clean(name),
    }
}

/// What a comparison found.
pub(super) enum Compared {
    /// The differences.
    With(Vec<String>),
    /// The group changed on every look.
    Restless,
}

/// Compares a group whose history was read up to the message `last`. What is in the
/// list may still be on its way into the inbox, and the other way around: only a list
/// around which nothing changed counts, after every event up to then.
pub(super) async fn compare(
    client: &Client,
    group: GroupId,
    mut roster: Roster,
    mut last: i64,
) -> Result<Compared, Failure> {
    for _ in 0..LOOKS {
        let before = state(client, group).await?;
        let members = match &before {
            Some(_) => members(client, group).await?,
            None => None,
        };
        let after = state(client, group).await?;
        let (Some(before), Some(after), Some(members)) = (&before, &after, &members) else {
            if before.is_some() || after.is_some() {
                continue;
            }
            let told = |roster: &Roster| roster.differences(group, None).is_empty();
            read_until(client, group, &mut roster, &mut last, told).await?;
            return Ok(Compared::With(roster.differences(group, None)));
        };
        let head = after.group_seq;
        let there = |roster: &Roster| roster.seq >= head;
        if !read_until(client, group, &mut roster, &mut last, there).await? {
            return Ok(Compared::With(vec![format!(
                "group {group}: its log is at {head}, and its events here end at {}",
                roster.seq
            )]));
        }
        if roster.changed_seq <= before.group_seq {
            return Ok(Compared::With(roster.differences(group, Some(members))));
        }
    }
    Ok(Compared::Restless)
}

/// Reads on in the history until something holds. False if it does not come to that.
async fn read_until(
    client: &Client,
    group: GroupId,
    roster: &mut Roster,
    last: &mut i64,
    holds: impl Fn(&Roster) -> bool,
) -> Result<bool, Failure> {
    for _ in 0..WAITS {
        if holds(roster) {
            return Ok(true);
        }
        loop {
            let page = client
                .history(group.into(), HistoryFrom::After(*last), 0)
                .await?;
            for event in &page.events {
                roster.event(event);
                *last = (*last).max(event.msg_id);
            }
            if !page.more {
                break;
            }
        }
        if !holds(roster) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(holds(roster))
}

/// `None` for who is no member.
fn of_member<T>(answer: Result<T, RequestError>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if matches!(error.code(), Some(Code::NotMember | Code::NotFound)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn state(client: &Client, group: GroupId) -> Result<Option<GroupState>, Failure> {
    of_member(client.group(group).await)
}

async fn members(client: &Client, group: GroupId) -> Result<Option<Vec<Member>>, Failure> {
    let mut members = Vec::new();
    let mut cursor = Bytes::new();
    loop {
        let Some(page) = of_member(client.members(group, cursor, 0).await)? else {
            return Ok(None);
        };
        members.extend(page.members);
        if !page.more {
            return Ok(Some(members));
        }
        cursor = page.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: u64 = 1;
    const BOB: u64 = 2;
    const CAROL: u64 = 3;
    const GROUP: GroupId = GroupId(1 << 63 | 7);

    fn member(user: u64, role: Role) -> Member {
        Member {
            user,
            name: format!("m{user}"),
            role: role.into(),
        }
    }

    fn event(group_seq: u64, kind: Kind, members: Vec<Member>) -> Event {
        Event {
            group_seq,
            sender: ALICE,
            what: Some(What::GroupChange(GroupChange {
                kind: kind.into(),
                members,
                ..GroupChange::default()
            })),
            ..Event::default()
        }
    }

    fn created() -> Event {
        let people = [(ALICE, Role::Owner), (BOB, Role::Member)];
        let members = people.map(|(user, role)| member(user, role)).to_vec();
        event(1, Kind::Created, members)
    }

    fn roster(me: u64, events: &[Event]) -> Roster {
        let mut roster = Roster::new(me);
        for event in events {
            roster.event(event);
        }
        roster
    }

    fn found(roster: &Roster, listed: &[(u64, Role)]) -> Vec<String> {
        let listed: Vec<_> = listed
            .iter()
            .map(|(user, role)| member(*user, *role))
            .collect();
        roster.differences(GROUP, Some(&listed))
    }

    #[test]
    fn a_list_that_follows_from_the_events_has_no_difference() {
        let mut events = vec![
            created(),
            event(2, Kind::Role, vec![member(BOB, Role::Admin)]),
            // Bob is there already, and stays an admin.
            event(
                3,
                Kind::Added,
                vec![member(BOB, Role::Member), member(CAROL, Role::Member)],
            ),
        ];
        let three = [
            (ALICE, Role::Owner),
            (BOB, Role::Admin),
            (CAROL, Role::Member),
        ];
        assert!(found(&roster(ALICE, &events), &three).is_empty());
        let removed = event(4, Kind::Removed, vec![member(BOB, Role::Unspecified)]);
        events.push(removed);
        let two = [(ALICE, Role::Owner), (CAROL, Role::Member)];
        assert!(found(&roster(ALICE, &events), &two).is_empty());
        events.push(Event {
            sender: CAROL,
            ..event(5, Kind::Left, vec![member(CAROL, Role::Unspecified)])
        });
        assert!(found(&roster(ALICE, &events), &two[..1]).is_empty());
    }

    #[test]
    fn each_kind_of_difference_is_found_once() {
        let events = [created()];
        let told = roster(ALICE, &events);
        let alice = (ALICE, Role::Owner);
        for (listed, says) in [
            (vec![alice], "m2 is not listed"),
            (vec![alice, (BOB, Role::Admin)], "is listed as admin"),
            (
                vec![alice, (BOB, Role::Member), (CAROL, Role::Member)],
                "no event says so",
            ),
            (
                vec![alice, (BOB, Role::Member), (BOB, Role::Member)],
                "twice",
            ),
        ] {
            let found = found(&told, &listed);
            assert!(
                matches!(&found[..], [one] if one.contains(says)),
                "{says}: {found:?}"
            );
        }
        let removed = event(2, Kind::Removed, vec![member(BOB, Role::Unspecified)]);
        let told = roster(ALICE, &[created(), removed]);
        let found = found(&told, &[alice, (BOB, Role::Member)]);
        assert!(
            matches!(&found[..], [one] if one.contains("has gone")),
            "{found:?}"
        );
    }

    #[test]
    fn who_came_later_knows_only_whom_the_events_name() {
        let late = [
            event(9, Kind::Added, vec![member(CAROL, Role::Member)]),
            event(10, Kind::Removed, vec![member(BOB, Role::Unspecified)]),
        ];
        let told = roster(CAROL, &late);
        assert!(found(&told, &[(ALICE, Role::Owner), (CAROL, Role::Member)]).is_empty());
        let again = [(BOB, Role::Member), (CAROL, Role::Member)];
        assert_eq!(found(&told, &again).len(), 1);
    }

    #[test]
    fn who_was_away_forgets_what_was_before() {
        let mut events = vec![
            created(),
            event(2, Kind::Removed, vec![member(BOB, Role::Unspecified)]),
        ];
        let away = roster(BOB, &events);
        assert!(away.differences(GROUP, None).is_empty());
        assert_eq!(found(&away, &[(BOB, Role::Member)]).len(), 1);
        events.push(event(8, Kind::Added, vec![member(BOB, Role::Member)]));
        let back = roster(BOB, &events);
        // Alice may have given the group away meanwhile.
        assert!(found(&back, &[(BOB, Role::Member), (CAROL, Role::Owner)]).is_empty());
        assert_eq!(back.differences(GROUP, None).len(), 1);
    }
}
