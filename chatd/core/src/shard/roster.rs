//! The receiving end of outboxes: entries of a source are applied in the order of
//! their numbers, each once; and the roster, which says who of this shard is in which
//! group, so that one entry reaches them all.
//!
//! Fan-out reads, per receiver, the roster row and the inbox head, nothing else.

use bytes::Bytes;
use chat_wire::{
    event::{Header, Kind},
    frame::Member,
    ids::{GroupId, InboxKey, MsgId, UserId},
};
use std::collections::BTreeMap;

use crate::{
    command::{Deliver, Effect, GroupChanged, GroupMessage},
    shard::{
        Effects, Notice,
        attach::names,
        inbox,
        keys::{self, Conversation, Head, Profile, Roster, Source},
        outbox::shard_id,
        step::{Changes, Shard, Stepped, Stop},
    },
    store::{Key, Range, Row, ShardStore, Unreadable},
};

/// Roster rows read at once; a longer roster takes one round more a page.
pub const ROSTER_PAGE: usize = 4096;

/// An entry of an outbox arrives.
pub(crate) fn deliver(shard: &Shard<'_>, deliver: &Deliver) -> Stepped<Effects> {
    let from = shard_id(deliver.source)?;
    let key = keys::source(from);
    let known: Option<Source> = shard.read(&key)?;
    let mut source = known.unwrap_or(Source {
        incarnation: deliver.incarnation,
        applied: 0,
        since_ms: deliver.since_ms,
    });
    let mut changes = Changes::default();
    let applied = |source: &Source, previous| Notice::Applied {
        source: from,
        incarnation: source.incarnation,
        number: source.applied,
        previous,
    };
    if deliver.number == 0 {
        // A new incarnation asks what is applied; it sends nothing before it knows.
        if source.incarnation != deliver.incarnation {
            if deliver.since_ms <= source.since_ms {
                changes.notice(Notice::Duplicate { id: None });
                return Ok(changes.effects);
            }
            source.incarnation = deliver.incarnation;
            source.since_ms = deliver.since_ms;
        }
        changes.put(key, &source);
        changes.notice(applied(&source, Some(source.applied)));
        return Ok(changes.effects);
    }
    if source.incarnation != deliver.incarnation {
        // Of an incarnation that is over, or of one that has not asked yet.
        changes.notice(Notice::Duplicate { id: None });
        return Ok(changes.effects);
    }
    if deliver.number <= source.applied {
        changes.notice(Notice::Duplicate { id: None });
        changes.notice(applied(&source, None));
        return Ok(changes.effects);
    }
    if deliver.confirmed > source.applied && deliver.confirmed < deliver.number {
        changes.notice(Notice::OutboxGap {
            source: from,
            from: source.applied + 1,
            to: deliver.confirmed,
        });
        source.applied = deliver.confirmed;
        changes.put(key, &source);
    }
    if deliver.number == source.applied + 1 {
        apply(shard, deliver, &mut changes)?;
        source.applied = deliver.number;
        changes.put(key, &source);
    }
    // With a hole before it the entry waits: the source sees from where to repeat.
    changes.notice(applied(&source, None));
    Ok(changes.effects)
}

fn apply(shard: &Shard<'_>, deliver: &Deliver, changes: &mut Changes) -> Stepped<()> {
    let effect = deliver.effect.as_ref().and_then(|e| e.effect.as_ref());
    match effect {
        Some(Effect::SentCopy(copy)) => inbox::sent_copy(shard, copy, changes),
        Some(Effect::GroupMessage(message)) => {
            let members = members_here(shard, GroupId(message.group))?;
            fan_out(shard, message, Kind::Message, &members, changes)
        }
        Some(Effect::GroupChange(change)) => group_change(shard, change, changes),
        None => Err(Stop::Unreadable(Unreadable(format!(
            "entry {} of the outbox of shard {} is of a kind that this chatd does not know: \
             start the newer version that wrote it",
            deliver.number, deliver.source
        )))),
    }
}

/// Makes an inbox if there is none. False if it belongs to another name or app.
/// Reads the profile.
pub(crate) fn open_inbox(
    shard: &Shard<'_>,
    user: UserId,
    app: &str,
    name: &str,
    changes: &mut Changes,
) -> Stepped<bool> {
    let key = keys::profile(user.key());
    if let Some(profile) = shard.read::<Profile>(&key)? {
        return Ok(profile.app == app.as_bytes() && profile.name == name.as_bytes());
    }
    if !names(app, name, user) {
        return Ok(false);
    }
    changes.put(
        key,
        &Profile {
            user: user.0,
            app: Bytes::copy_from_slice(app.as_bytes()),
            name: Bytes::copy_from_slice(name.as_bytes()),
            created_ms: shard.context.ts_ms,
        },
    );
    changes.effects.reach.inboxes += 1;
    Ok(true)
}

/// Adds who joins, tells all, removes who goes: in this order.
fn group_change(shard: &Shard<'_>, change: &GroupChanged, changes: &mut Changes) -> Stepped<()> {
    let group = GroupId(change.group);
    let mut wanted = Vec::with_capacity(change.joined.len() * 2);
    for member in &change.joined {
        let inbox = UserId(member.user).key();
        wanted.extend([keys::profile(inbox), keys::head(inbox)]);
    }
    shard.want(&wanted, &[roster_page(group, None)])?;
    let mut members = members_here(shard, group)?;
    for member in &change.joined {
        join(shard, change, member, &mut members, changes)?;
    }
    let name = Bytes::copy_from_slice(change.name.as_bytes());
    let named = if change.joined.is_empty() && change.left.is_empty() {
        // A new name, or a role.
        members.keys().copied().collect()
    } else {
        joined_inboxes(&change.joined, &members)
    };
    if !named.is_empty() {
        let value = changes.encode(&Conversation { name });
        for inbox in named {
            changes.put_bytes(keys::conversation(inbox, group.into()), value.clone(), None);
        }
    }
    if let Some(event) = &change.event {
        fan_out(shard, event, Kind::GroupChange, &members, changes)?;
    }
    for user in &change.left {
        changes.delete(keys::roster(group, UserId(*user).key()));
    }
    Ok(())
}

fn joined_inboxes(joined: &[Member], members: &BTreeMap<InboxKey, UserId>) -> Vec<InboxKey> {
    joined
        .iter()
        .map(|member| UserId(member.user).key())
        .filter(|inbox| members.contains_key(inbox))
        .collect()
}

fn join(
    shard: &Shard<'_>,
    change: &GroupChanged,
    member: &Member,
    members: &mut BTreeMap<InboxKey, UserId>,
    changes: &mut Changes,
) -> Stepped<()> {
    let user = UserId(member.user);
    if shard.known_users_only() && shard.row(&keys::profile(user.key()))?.is_none() {
        changes.notice(Notice::Undeliverable { user });
        return Ok(());
    }
    if !open_inbox(shard, user, &change.app, &member.name, changes)? {
        changes.notice(Notice::NameCollision { user });
        return Ok(());
    }
    members.insert(user.key(), user);
    changes.put(
        keys::roster(GroupId(change.group), user.key()),
        &Roster {
            user: user.0,
            app: Bytes::copy_from_slice(change.app.as_bytes()),
            name: Bytes::copy_from_slice(member.name.as_bytes()),
        },
    );
    Ok(())
}

/// Writes a group's event into the inbox of each member.
fn fan_out(
    shard: &Shard<'_>,
    message: &GroupMessage,
    kind: Kind,
    members: &BTreeMap<InboxKey, UserId>,
    changes: &mut Changes,
) -> Stepped<()> {
    let wanted: Vec<_> = members.keys().map(|inbox| keys::head(*inbox)).collect();
    shard.want(&wanted, &[])?;
    changes.effects.writes.reserve(members.len() * 3);
    changes.effects.events.reserve(members.len());
    let theirs = Header {
        kind,
        flags: 0,
        msg_id: MsgId(message.msg_id),
        conversation: GroupId(message.group).into(),
        sender: UserId(message.sender),
        group_seq: message.group_seq,
        sender_name: Bytes::copy_from_slice(message.sender_name.as_bytes()),
    };
    let own = Header {
        kind: if kind == Kind::Message {
            Kind::Own
        } else {
            kind
        },
        ..theirs.clone()
    };
    let (theirs_stored, own_stored) = (theirs.encode(), own.encode());
    let body = shard.body(message.group, theirs.msg_id);
    for (inbox, user) in members {
        let mut head: Head = shard.read(&keys::head(*inbox))?.unwrap_or_default();
        if inbox::next(&mut head).is_none() {
            changes.notice(Notice::Undeliverable { user: *user });
            continue;
        }
        let (header, stored) = if *user == theirs.sender {
            (&own, &own_stored)
        } else {
            (&theirs, &theirs_stored)
        };
        inbox::post(changes, *user, head, header.clone(), stored.clone(), body);
    }
    Ok(())
}

fn roster_page(group: GroupId, after: Option<&Key>) -> Range {
    let mut page = keys::all(
        keys::SHARD,
        keys::ROSTER,
        &group.0.to_be_bytes(),
        ROSTER_PAGE,
    );
    if let Some(after) = after {
        page.from = keys::behind(after);
    }
    page
}

/// Members of a group who live here, by inbox key.
fn members_here(shard: &Shard<'_>, group: GroupId) -> Stepped<BTreeMap<InboxKey, UserId>> {
    let mut page = roster_page(group, None);
    let mut members = BTreeMap::new();
    loop {
        let rows = shard.range(&page)?;
        for (key, row) in rows {
            members.insert(keys::roster_inbox(key), roster_user(key, row)?);
        }
        match rows.last() {
            Some((last, _)) if rows.len() == page.limit => page = roster_page(group, Some(last)),
            _ => return Ok(members),
        }
    }
}

/// Only the user of a roster row: names are not needed for a fan-out.
fn roster_user(key: &Key, row: &Row) -> Result<UserId, Unreadable> {
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    struct User {
        #[prost(fixed64, tag = "1")]
        user: u64,
    }
    keys::decode::<User>(key, row).map(|row| UserId(row.user))
}

/// Members of a group who live here, at most `limit`, behind `after`: for typing,
/// which is only shown to members.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn roster(
    store: &impl ShardStore,
    group: GroupId,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<UserId>, Unreadable> {
    let after = after.map(|user| keys::roster(group, user.key()));
    store
        .range(&Range {
            limit,
            ..roster_page(group, after.as_ref())
        })?
        .iter()
        .map(|(key, row)| roster_user(key, row))
        .collect()
}

/// Whether a user of this shard is in a group, as far as this shard knows.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn is_in_roster(
    store: &impl ShardStore,
    group: GroupId,
    user: UserId,
) -> Result<bool, Unreadable> {
    Ok(store.get(&keys::roster(group, user.key()))?.is_some())
}

#[cfg(test)]
mod tests;
