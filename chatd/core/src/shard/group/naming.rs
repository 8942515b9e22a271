//! Whom the event of a change names, put right before it is proposed: the session seals the
//! change and knows no members, and the log keeps the body as it was proposed.
//!
//! - A removal and a role name members by id; readers know people by name, and who was
//!   removed is in no list of members any more. The home has their names. They cannot be
//!   wrong when the entry is applied, since an id is a hash of the name.
//! - An addition may name who is a member already, and perhaps an admin: the event names
//!   those who join. That can be wrong when the entry is applied, because of changes on
//!   their way before it; so the operation says who was left out, and is refused as
//!   UNAVAILABLE (retryable) if they are others by then.
//!
//! Costs a read of a row for each member named, which applying repeats, and so is bounded by the
//! members of a group. Known limit: whom a removal or role names that is itself still on its way
//! in has no row yet, and stays without a name.

use bytes::Bytes;
use chat_wire::{
    body,
    frame::{GroupChange, group_change::Kind as Change},
    ids::{GroupId, UserId},
};
use prost::Message as _;

use crate::{
    command::GroupOp,
    shard::keys::{self, Member},
    store::{ShardStore, Unreadable},
};

/// An operation and its sealed body, as they are proposed.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn named(
    store: &impl ShardStore,
    mut op: GroupOp,
    sealed: Bytes,
) -> Result<(GroupOp, Bytes), Unreadable> {
    let adds = op.change == i32::from(Change::Added);
    if !adds && op.members.iter().all(|member| !member.name.is_empty()) {
        return Ok((op, sealed));
    }
    let Some((opened, mut change)) = open(&sealed) else {
        return Ok((op, sealed));
    };
    let mut named = Vec::with_capacity(change.members.len());
    for mut member in change.members {
        let key = keys::member(GroupId(op.group), UserId(member.user).key());
        match store.get(&key)? {
            Some(_) if adds => {
                op.left_out.push(member.user);
                continue;
            }
            Some(row) if member.name.is_empty() => {
                let row: Member = keys::decode(&key, &row)?;
                member.name = String::from_utf8_lossy(&row.name).into_owned();
            }
            _ => {}
        }
        named.push(member);
    }
    change.members = named;
    let body = body::seal(opened.scheme, opened.salt, &change.encode_to_vec());
    Ok((op, body))
}

fn open(sealed: &Bytes) -> Option<(body::Body, GroupChange)> {
    let opened = body::open(sealed).ok()?;
    if opened.scheme != body::SCHEME_GROUP_CHANGE {
        return None;
    }
    let change = GroupChange::decode(opened.content.clone()).ok()?;
    Some((opened, change))
}
