//! A group at its home: who is in it with which role, and its log. Every change is an
//! event of the log, in one order with the messages, so that who was a member at a
//! message's commit position needs no clock.
//!
//! What goes out is one outbox entry for each shard where members live; a change that
//! names more members than fit one entry takes several, the event with one of them.
//! Known limit: members per shard stand in one row of at most 4 KiB, which bounds a
//! group to about 1,300 shards; beyond, adding is LIMIT_EXCEEDED.

pub mod naming;
pub mod read;

pub(crate) mod message;
mod rules;

use bytes::Bytes;
use chat_wire::{
    error::Code,
    event::{Header, Kind},
    frame,
    ids::{ClientId, ConversationId, GroupId, MsgId, ShardId, UserId},
};
use prost::Message as _;
use std::collections::BTreeMap;

use crate::{
    command::{Effect, GroupChanged, GroupMessage, GroupOp},
    shard::{
        Answer, Effects, Notice,
        dedup::{self, Attempt},
        keys::{self, Answered, Group, GroupHead, MAX_VALUE_BYTES, Member, OpAnswer},
        number,
        outbox::Outboxes,
        step::{Changes, Shard, Stepped, client_id, refuse, user},
    },
};

/// Encoded bytes of the members that one outbox entry names at most.
const NAMED_BYTES: usize = 3072;
/// Members that one outbox entry removes at most: 9 bytes each.
const LEFT_MEMBERS: usize = 64;

/// What an operation finds.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) shard: &'a Shard<'a>,
    pub(crate) op: &'a GroupOp,
    pub(crate) actor: UserId,
    pub(crate) group: GroupId,
}

/// What an operation does.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The group afterwards; counts are kept by [`apply`].
    pub(crate) row: Group,
    pub(crate) joined: Vec<frame::Member>,
    pub(crate) left: Vec<UserId>,
    /// A member whose role changes.
    pub(crate) changed: Option<Member>,
    /// The actor's role afterwards.
    pub(crate) role: i32,
    /// Nothing changes, nothing is told.
    pub(crate) idle: bool,
}

/// A change of a group.
pub(crate) fn op(shard: &Shard<'_>, op: &GroupOp) -> Stepped<Effects> {
    let actor = user(op.actor)?;
    let id = client_id(&op.op_id)?;
    let Some(group) = ConversationId(op.group).group() else {
        return refuse(Code::InvalidArgument, "that is not the id of a group");
    };
    shard.owns(group.key())?;
    let none = Bytes::new();
    let mut wanted = vec![
        keys::group(group),
        keys::group_head(group),
        keys::member(group, actor.key()),
    ];
    wanted.extend(dedup::keys(group.key(), actor, id, &none)?);
    if op.members.len() <= shard.group_members() as usize {
        wanted.extend(
            op.members
                .iter()
                .map(|member| keys::member(group, UserId(member.user).key())),
        );
    }
    shard.want(&wanted, &[])?;
    let row: Option<Group> = shard.read(&keys::group(group))?;
    let attempt = Attempt {
        home: group.key(),
        sender: actor,
        id,
        digest: op.digest,
        previous: &none,
        dedup_before_ms: row.as_ref().map_or(0, |row| row.dedup_before_ms),
    };
    if let Some(first) = attempt.first_answer(shard)? {
        return Ok(Effects {
            answer: Some(Answer::Group(state(group, &first, true))),
            notices: vec![Notice::Duplicate { id: Some(id) }],
            ..Effects::default()
        });
    }
    if let Some(code) = Code::from_number(op.beyond) {
        return refuse(
            code,
            "the change is beyond a limit of this server: see `limits` of WELCOME",
        );
    }
    let found = Found {
        shard,
        op,
        actor,
        group,
    };
    let plan = rules::plan(&found, row)?;
    apply(&found, id, plan)
}

fn apply(found: &Found<'_>, id: ClientId, mut plan: Plan) -> Stepped<Effects> {
    let (shard, group, op) = (found.shard, found.group, found.op);
    let mut head: GroupHead = shard.read(&keys::group_head(group))?.unwrap_or_default();
    let mut changes = Changes::for_rows(8 + 2 * plan.joined.len());
    let mut msg_id = MsgId(0);
    if !plan.idle {
        msg_id = next(shard, &mut head, 0)?;
        let before = shards_of(&plan.row)?;
        let after = count(shard, &before, &plan)?;
        store_shards(&mut plan.row, &after);
        write_members(group, &plan, head.seq, &mut changes);
        let mut outboxes = Outboxes::read(
            shard,
            before
                .keys()
                .chain(after.keys())
                .copied()
                .collect::<Vec<_>>(),
        )?;
        let event = GroupMessage {
            group: group.0,
            group_seq: head.seq,
            msg_id: msg_id.0,
            sender: found.actor.0,
            sender_name: op.actor_name.clone(),
        };
        tell(found, &plan, &event, &mut outboxes, &mut changes)?;
        outboxes.finish(&mut changes);
        let header = Header {
            kind: Kind::GroupChange,
            flags: 0,
            msg_id,
            conversation: group.into(),
            sender: found.actor,
            group_seq: head.seq,
            sender_name: Bytes::copy_from_slice(op.actor_name.as_bytes()),
        };
        changes.put_bytes(
            keys::group_log(group, head.seq),
            header.encode(),
            Some(shard.body(group.0, msg_id)),
        );
        let row = changes.encode(&plan.row);
        if row.len() > MAX_VALUE_BYTES {
            return refuse(
                Code::LimitExceeded,
                "the members would live in more shards than a group can have",
            );
        }
        changes.put_bytes(keys::group(group), row, None);
        changes.put(keys::group_head(group), &head);
        changes.put_last(msg_id);
    }
    let answered = Answered {
        seq: head.seq,
        msg_id: msg_id.0,
        digest: op.digest,
        op: Some(OpAnswer {
            name: plan.row.name.clone(),
            members: plan.row.members,
            role: plan.role,
            epoch: plan.row.epoch,
        }),
    };
    changes.put(keys::dedup(group.key(), found.actor, id), &answered);
    Ok(changes.answer(Answer::Group(state(group, &answered, false))))
}

/// The next place in a group's log.
pub(crate) fn next(shard: &Shard<'_>, head: &mut GroupHead, after: i64) -> Stepped<MsgId> {
    let Some(seq) = head.seq.checked_add(1) else {
        return refuse(Code::OutOfRange, "the group's log has no number left");
    };
    // The home counts the whole group: nothing that stands in it is above its last number.
    let msg_id = number::next(shard, MsgId(after), &[])?;
    *head = GroupHead {
        seq,
        msg_id: msg_id.0,
    };
    Ok(msg_id)
}

fn write_members(group: GroupId, plan: &Plan, seq: u64, changes: &mut Changes) {
    for member in &plan.joined {
        changes.put(
            keys::member(group, UserId(member.user).key()),
            &Member {
                user: member.user,
                name: Bytes::copy_from_slice(member.name.as_bytes()),
                role: member.role,
                joined_seq: seq,
            },
        );
    }
    // A mark of who goes stays: marks never fall, also not when somebody comes back.
    for user in &plan.left {
        changes.delete(keys::member(group, user.key()));
    }
    if let Some(member) = &plan.changed {
        changes.put(keys::member(group, UserId(member.user).key()), member);
    }
}

/// Puts a change into the outboxes of all shards that have, had or get members.
fn tell(
    found: &Found<'_>,
    plan: &Plan,
    event: &GroupMessage,
    outboxes: &mut Outboxes,
    changes: &mut Changes,
) -> Stepped<()> {
    let shard = found.shard;
    let mut parts: BTreeMap<ShardId, (Vec<frame::Member>, Vec<u64>)> = shards_of(&plan.row)?
        .into_keys()
        .map(|destination| (destination, Default::default()))
        .collect();
    for member in &plan.joined {
        let destination = shard.shard_of(UserId(member.user).key());
        parts.entry(destination).or_default().0.push(member.clone());
    }
    for user in &plan.left {
        let destination = shard.shard_of(user.key());
        parts.entry(destination).or_default().1.push(user.0);
    }
    let name = String::from_utf8_lossy(&plan.row.name).into_owned();
    let part = |event, joined, left| {
        Effect::GroupChange(GroupChanged {
            event,
            app: found.op.app.clone(),
            name: name.clone(),
            joined,
            left,
            group: found.group.0,
        })
    };
    for (destination, (joined, left)) in parts {
        let mut push =
            |effect, body| outboxes.push(shard.context.shard, destination, effect, body, changes);
        let mut joined = in_parts(joined);
        let last = joined.pop().unwrap_or_default();
        for more in joined {
            push(part(None, more, Vec::new()), None)?;
        }
        let mut left = left.chunks(LEFT_MEMBERS).map(<[u64]>::to_vec);
        let first = left.next().unwrap_or_default();
        let body = shard.body(found.group.0, MsgId(event.msg_id));
        push(part(Some(event.clone()), last, first), Some(body))?;
        for more in left {
            push(part(None, Vec::new(), more), None)?;
        }
    }
    Ok(())
}

fn in_parts(members: Vec<frame::Member>) -> Vec<Vec<frame::Member>> {
    let mut parts: Vec<Vec<_>> = Vec::new();
    let mut bytes = usize::MAX;
    for member in members {
        let len = member.encoded_len() + 4;
        if bytes.saturating_add(len) > NAMED_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += len;
        parts.last_mut().expect("pushed above").push(member);
    }
    parts
}

/// Where a group's members live, and how many.
pub(crate) fn shards_of(row: &Group) -> Stepped<BTreeMap<ShardId, u32>> {
    let mut shards = BTreeMap::new();
    let mut shard = 0_u32;
    for pair in row.shards.chunks_exact(2) {
        shard = shard.saturating_add(pair[0]);
        shards.insert(super::outbox::shard_id(shard)?, pair[1]);
    }
    Ok(shards)
}

fn store_shards(row: &mut Group, shards: &BTreeMap<ShardId, u32>) {
    row.shards.clear();
    let mut before = 0;
    for (shard, members) in shards {
        row.shards.extend([u32::from(shard.0) - before, *members]);
        before = u32::from(shard.0);
    }
    row.members = shards.values().sum();
}

fn count(
    shard: &Shard<'_>,
    before: &BTreeMap<ShardId, u32>,
    plan: &Plan,
) -> Stepped<BTreeMap<ShardId, u32>> {
    let mut shards = before.clone();
    for member in &plan.joined {
        *shards
            .entry(shard.shard_of(UserId(member.user).key()))
            .or_default() += 1;
    }
    for user in &plan.left {
        match shards.get_mut(&shard.shard_of(user.key())) {
            Some(members) if *members > 0 => *members -= 1,
            _ => return refuse(Code::Internal, "a group's count of members is wrong"),
        }
    }
    shards.retain(|_, members| *members > 0);
    Ok(shards)
}

/// The answer to an operation, first or repeated.
fn state(group: GroupId, answered: &Answered, duplicate: bool) -> frame::GroupState {
    let op = answered.op.clone().unwrap_or_default();
    frame::GroupState {
        group: group.0,
        name: String::from_utf8_lossy(&op.name).into_owned(),
        members: op.members,
        my_role: op.role,
        group_seq: answered.seq,
        msg_id: answered.msg_id,
        duplicate,
        epoch: op.epoch,
    }
}

#[cfg(test)]
mod tests;
