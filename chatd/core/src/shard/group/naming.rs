//! The names of whom a change is about. A removal and a role name members by id; readers
//! know people by name, and who was removed is in no list of members any more.
//!
//! The session seals the change and knows no members, and the log keeps the body as it was
//! proposed. So the home puts the names in before it proposes: its member rows have them. They
//! cannot be wrong when the entry is applied, since an id is a hash of the name.
//! Costs a read of a row for each member named, which applying repeats, and so is bounded by the
//! members of a group. Known limit: whom an operation adds that is itself still on its way
//! has no row yet, and stays without a name.

use bytes::Bytes;
use chat_wire::{
    body,
    frame::GroupChange,
    ids::{GroupId, UserId},
};
use prost::Message as _;

use crate::{
    command::GroupOp,
    shard::keys::{self, Member},
    store::{ShardStore, Unreadable},
};

/// The sealed body of an operation, with the names of the members whom it names by id. What
/// has all its names, or is no change, stays as it is.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn named(store: &impl ShardStore, op: &GroupOp, sealed: Bytes) -> Result<Bytes, Unreadable> {
    if op.members.iter().all(|member| !member.name.is_empty()) {
        return Ok(sealed);
    }
    let Some((opened, mut change)) = open(&sealed) else {
        return Ok(sealed);
    };
    for member in &mut change.members {
        if !member.name.is_empty() {
            continue;
        }
        let key = keys::member(GroupId(op.group), UserId(member.user).key());
        if let Some(row) = store.get(&key)? {
            let row: Member = keys::decode(&key, &row)?;
            member.name = String::from_utf8_lossy(&row.name).into_owned();
        }
    }
    Ok(body::seal(
        opened.scheme,
        opened.salt,
        &change.encode_to_vec(),
    ))
}

fn open(sealed: &Bytes) -> Option<(body::Body, GroupChange)> {
    let opened = body::open(sealed).ok()?;
    if opened.scheme != body::SCHEME_GROUP_CHANGE {
        return None;
    }
    let change = GroupChange::decode(opened.content.clone()).ok()?;
    Some((opened, change))
}
