//! Reads at a group's home. All need membership: a stranger and a member of another
//! app get NOT_FOUND, so that ids cannot be probed for groups; who asks for a group of
//! the own app that one is not in gets NOT_MEMBER.

use bytes::Bytes;
use chat_wire::{
    error::{Code, Refusal},
    frame,
    ids::{GroupId, InboxKey, ShardId, UserId},
};
use prost::Message as _;

use crate::{
    shard::keys::{self, Group, GroupHead, Member, MemberMark},
    store::{Key, ReadRows, Unreadable},
};

/// What a read at a group's home gives: an answer, or the refusal of one.
pub type Answer<T> = Result<Result<T, Refusal>, Unreadable>;

fn read<M: prost::Message + Default>(
    store: &impl ReadRows,
    key: Key,
) -> Result<Option<M>, Unreadable> {
    store
        .get(&key)?
        .map(|row| keys::decode(&key, &row))
        .transpose()
}

fn as_member(
    store: &impl ReadRows,
    group: GroupId,
    user: UserId,
    app: &str,
) -> Answer<(Group, Member)> {
    let row: Group = match read::<Group>(store, keys::group(group))? {
        Some(row) if row.app == app.as_bytes() => row,
        _ => return Ok(Err(Refusal::new(Code::NotFound, "no such group here"))),
    };
    Ok(match read(store, keys::member(group, user.key()))? {
        Some(member) => Ok((row, member)),
        None => Err(Refusal::new(
            Code::NotMember,
            "only members may read that, and you are none (or no longer)",
        )),
    })
}

/// GROUP_GET, by a user of `app`.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn group_state(
    store: &impl ReadRows,
    group: GroupId,
    user: UserId,
    app: &str,
) -> Answer<frame::GroupState> {
    let (row, member) = match as_member(store, group, user, app)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let head: GroupHead = read(store, keys::group_head(group))?.unwrap_or_default();
    Ok(Ok(frame::GroupState {
        group: group.0,
        name: String::from_utf8_lossy(&row.name).into_owned(),
        members: row.members,
        my_role: member.role,
        group_seq: head.seq,
        msg_id: 0,
        duplicate: false,
        epoch: row.epoch,
    }))
}

/// MEMBERS: at most `limit` behind `cursor`, and `byte_budget` encoded bytes.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn members(
    store: &impl ReadRows,
    group: GroupId,
    (user, app): (UserId, &str),
    cursor: &Bytes,
    limit: usize,
    byte_budget: usize,
) -> Answer<frame::MembersPage> {
    let page = match page(store, group, (user, app), cursor, limit)? {
        Ok(page) => page,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut out = frame::MembersPage {
        group: group.0,
        more: page.len() > limit,
        ..Default::default()
    };
    let mut bytes = 0;
    for (inbox, member) in page.into_iter().take(limit) {
        let entry = frame::Member {
            user: member.user,
            name: String::from_utf8_lossy(&member.name).into_owned(),
            role: member.role,
        };
        bytes += entry.encoded_len() + 4;
        if bytes > byte_budget && !out.members.is_empty() {
            out.more = true;
            break;
        }
        out.members.push(entry);
        out.next = Bytes::copy_from_slice(&inbox.0.to_be_bytes());
    }
    Ok(Ok(out))
}

/// MARKS: what members have read, at most `limit` behind `cursor`.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn member_marks(
    store: &impl ReadRows,
    group: GroupId,
    (user, app): (UserId, &str),
    cursor: &Bytes,
    limit: usize,
) -> Answer<frame::MarksPage> {
    let page = match page(store, group, (user, app), cursor, limit)? {
        Ok(page) => page,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut out = frame::MarksPage {
        group: group.0,
        more: page.len() > limit,
        ..Default::default()
    };
    for (inbox, member) in page.into_iter().take(limit) {
        let mark: MemberMark = read(store, keys::member_mark(group, inbox))?.unwrap_or_default();
        out.marks.push(frame::MemberMark {
            user: member.user,
            delivered_up_to: mark.delivered,
            seen_up_to: mark.seen,
        });
        out.next = Bytes::copy_from_slice(&inbox.0.to_be_bytes());
    }
    Ok(Ok(out))
}

// One more than `limit`, which says whether there are more.
fn page(
    store: &impl ReadRows,
    group: GroupId,
    (user, app): (UserId, &str),
    cursor: &Bytes,
    limit: usize,
) -> Answer<Vec<(InboxKey, Member)>> {
    if let Err(refusal) = as_member(store, group, user, app)? {
        return Ok(Err(refusal));
    }
    let mut range = keys::all(group.key(), keys::MEMBER, &[], limit + 1);
    match cursor.len() {
        0 => {}
        8 => range.from = keys::behind(&Key::new(group.key(), keys::MEMBER, cursor)),
        _ => {
            return Ok(Err(Refusal::new(
                Code::InvalidArgument,
                "that is not a cursor of this list: begin without one",
            )));
        }
    }
    store
        .range(&range)?
        .iter()
        .map(|(key, row)| Ok((InboxKey(keys::word(key.sub(), 0)), keys::decode(key, row)?)))
        .collect::<Result<Vec<_>, Unreadable>>()
        .map(Ok)
}

/// Whether a user is a member, at the group's home.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn is_member(store: &impl ReadRows, group: GroupId, user: UserId) -> Result<bool, Unreadable> {
    Ok(store.get(&keys::member(group, user.key()))?.is_some())
}

/// The shards where a group's members live: for signals that go to all.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn member_shards(store: &impl ReadRows, group: GroupId) -> Result<Vec<ShardId>, Unreadable> {
    let row: Group = read(store, keys::group(group))?.unwrap_or_default();
    let mut shard = 0_u32;
    Ok(row
        .shards
        .chunks_exact(2)
        .filter_map(|pair| {
            shard = shard.saturating_add(pair[0]);
            u16::try_from(shard).ok().map(ShardId)
        })
        .collect())
}
