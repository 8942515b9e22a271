//! From what people type to ids: names of people, `group:NAME`, numbers of groups.

use bytes::Bytes;
use chat_client::{
    Client, Target, frame,
    ids::{ConversationId, GroupId, UserId},
};

use chat_wire::limits::NAME_BYTES;

use crate::failure::{FAILED, Failure};

/// Pages of conversations or members that are searched for a name.
const PAGES: usize = 50;

/// A person or a group, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Person(String),
    Group(GroupId),
    GroupNamed(String),
}

impl std::str::FromStr for Typed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(group) = text.strip_prefix("group:") {
            return Ok(match number(group) {
                Some(group) => Self::Group(group),
                None if group.is_empty() => return Err("`group:` without a name".to_owned()),
                None => Self::GroupNamed(group.to_owned()),
            });
        }
        match number(text) {
            Some(group) => Ok(Self::Group(group)),
            None => Ok(Self::Person(checked(text)?)),
        }
    }
}

/// A name as docs/protocol.md (R18) allows it: nobody has another.
pub(crate) fn checked(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("no name".to_owned());
    }
    if name.len() > NAME_BYTES || name.chars().any(char::is_control) {
        return Err(format!(
            "a name has 1 to {NAME_BYTES} bytes and no control characters"
        ));
    }
    Ok(name.to_owned())
}

/// The number of a group has its top bit set: no name of a person is taken for one by accident.
fn number(text: &str) -> Option<GroupId> {
    let number: u64 = text.parse().ok()?;
    ConversationId(number).group()
}

/// The group that was typed where only a group makes sense: `group:` may be left out.
pub(crate) async fn group(client: &Client, typed: &str) -> Result<GroupId, Failure> {
    let name = typed.strip_prefix("group:").unwrap_or(typed);
    match number(name) {
        Some(group) => Ok(group),
        None => group_named(client, name).await,
    }
}

pub(crate) async fn target(client: &Client, typed: &Typed) -> Result<Target, Failure> {
    Ok(match typed {
        Typed::Person(name) => Target::name(name.clone()),
        Typed::Group(group) => Target::Group(*group),
        Typed::GroupNamed(name) => Target::Group(group_named(client, name).await?),
    })
}

pub(crate) async fn conversation(
    client: &Client,
    typed: &Typed,
) -> Result<ConversationId, Failure> {
    Ok(match typed {
        Typed::Person(name) => user(client, name).await?.into(),
        Typed::Group(group) => (*group).into(),
        Typed::GroupNamed(name) => group_named(client, name).await?.into(),
    })
}

/// The id of a person of one's own app.
pub(crate) async fn user(client: &Client, name: &str) -> Result<UserId, Failure> {
    // The id follows from app and name; the default app shows in one's own id.
    if UserId::of("default", &client.name()) == client.user() {
        return Ok(UserId::of("default", name));
    }
    if name == client.name() {
        return Ok(client.user());
    }
    let found = find(client, |conversation| {
        ConversationId(conversation.conversation).user().is_some() && conversation.name == name
    })
    .await?;
    match found.as_slice() {
        [one, ..] => Ok(UserId(one.conversation)),
        [] => Err(
            Failure::new(FAILED, format!("you have no conversation with {name}"))
                .hint("send a message first"),
        ),
    }
}

async fn group_named(client: &Client, name: &str) -> Result<GroupId, Failure> {
    let found = find(client, |conversation| {
        ConversationId(conversation.conversation).group().is_some() && conversation.name == name
    })
    .await?;
    match found.as_slice() {
        [one] => Ok(GroupId(one.conversation)),
        [] => Err(
            Failure::new(FAILED, format!("you are in no group named {name}"))
                .hint("`chatctl conversations` lists your groups"),
        ),
        many => {
            let numbers: Vec<_> = many
                .iter()
                .map(|group| group.conversation.to_string())
                .collect();
            Err(Failure::new(
                FAILED,
                format!("{} of your groups are named {name}", many.len()),
            )
            .hint(format!("say which by its number: {}", numbers.join(", "))))
        }
    }
}

async fn find(
    client: &Client,
    wanted: impl Fn(&frame::Conversation) -> bool,
) -> Result<Vec<frame::Conversation>, Failure> {
    let mut found = Vec::new();
    let mut cursor = Bytes::new();
    for _ in 0..PAGES {
        let page = client.conversations(cursor, 0).await?;
        found.extend(page.conversations.into_iter().filter(&wanted));
        if !page.more {
            break;
        }
        cursor = page.next;
    }
    Ok(found)
}

/// All members of a group, at most [`PAGES`] pages.
pub(crate) async fn members(
    client: &Client,
    group: GroupId,
) -> Result<Vec<frame::Member>, Failure> {
    let mut members = Vec::new();
    let mut cursor = Bytes::new();
    for _ in 0..PAGES {
        let page = client.members(group, cursor, 0).await?;
        members.extend(page.members);
        if !page.more {
            break;
        }
        cursor = page.next;
    }
    Ok(members)
}

/// The ids of members by their names.
pub(crate) async fn members_named(
    client: &Client,
    group: GroupId,
    names: &[String],
) -> Result<Vec<UserId>, Failure> {
    let members = members(client, group).await?;
    names
        .iter()
        .map(|name| {
            members
                .iter()
                .find(|member| member.name == *name)
                .map(|member| UserId(member.user))
                .ok_or_else(|| {
                    Failure::new(FAILED, format!("{name} is no member of the group"))
                        .hint(format!("`chatctl group members {group}` lists them"))
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_groups_are_told_apart() {
        for (text, typed) in [
            ("bob", Typed::Person("bob".into())),
            ("12", Typed::Person("12".into())),
            (
                "9223372036854775808",
                Typed::Group(GroupId(9_223_372_036_854_775_808)),
            ),
            (
                "group:9223372036854775809",
                Typed::Group(GroupId(9_223_372_036_854_775_809)),
            ),
            ("group:friends", Typed::GroupNamed("friends".into())),
            ("group:12", Typed::GroupNamed("12".into())),
        ] {
            assert_eq!(text.parse(), Ok(typed));
        }
        assert!("".parse::<Typed>().is_err());
        assert!("group:".parse::<Typed>().is_err());
    }
}
