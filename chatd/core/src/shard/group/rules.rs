//! Who may change a group, and how.
//!
//! | operation | needs | refused |
//! | --- | --- | --- |
//! | create | nobody made it | LIMIT_EXCEEDED |
//! | rename | admin | |
//! | add | admin; members already are passed over | LIMIT_EXCEEDED, UNAVAILABLE (see `naming`) |
//! | remove | admin; of admins and owners: owner; not oneself | NOT_FOUND |
//! | leave | membership | LAST_OWNER, while others remain |
//! | role | owner | NOT_FOUND, LAST_OWNER |
//!
//! Who is no member gets NOT_MEMBER, who has too low a role NOT_ALLOWED, and a group of
//! another app is NOT_FOUND.

use bytes::Bytes;
use chat_wire::{
    error::Code,
    event::MAX_NAME_BYTES,
    frame::{self, Role, group_change},
    ids::{ClientId, GroupId, UserId},
};
use std::collections::BTreeMap;

use super::{Found, Plan};
use crate::shard::{
    attach::names,
    keys::{self, Group, Member},
    step::{Stepped, refuse, user},
};

/// What the operation does, or why not.
pub(crate) fn plan(found: &Found<'_>, row: Option<Group>) -> Stepped<Plan> {
    let kind = group_change::Kind::try_from(found.op.change);
    if found.op.members.len() > found.shard.group_members() as usize {
        return refuse(Code::LimitExceeded, "more members than a group can have");
    }
    if kind == Ok(group_change::Kind::Created) {
        return create(found, row);
    }
    let row = match row {
        Some(row) if row.app == found.op.app.as_bytes() => row,
        _ => return refuse(Code::NotFound, "no such group here"),
    };
    let key = keys::member(found.group, found.actor.key());
    let Some(actor) = found.shard.read::<Member>(&key)? else {
        return refuse(
            Code::NotMember,
            "only members may do that, and you are none (or no longer)",
        );
    };
    let same = Plan {
        row,
        joined: Vec::new(),
        left: Vec::new(),
        changed: None,
        role: actor.role,
        idle: false,
    };
    match kind {
        Ok(group_change::Kind::Renamed) => rename(found, &actor, same),
        Ok(group_change::Kind::Added) => add(found, &actor, same),
        Ok(group_change::Kind::Removed) => remove(found, &actor, same),
        Ok(group_change::Kind::Left) => leave(found, &actor, same),
        Ok(group_change::Kind::Role) => role(found, &actor, same),
        _ => refuse(
            Code::Unsupported,
            "this server does not know this change of a group",
        ),
    }
}

fn create(found: &Found<'_>, row: Option<Group>) -> Stepped<Plan> {
    let op = found.op;
    if row.is_some() {
        return refuse(
            Code::Conflict,
            "this group exists: make a new id for a new group",
        );
    }
    let by_op = ClientId::from_slice(&op.op_id).map(|id| GroupId::of(found.actor, id));
    if by_op != Some(found.group) || !names(&op.app, &op.actor_name, found.actor) {
        return refuse(
            Code::InvalidArgument,
            "a new group's id follows from its creator and the operation",
        );
    }
    check_name(&op.name)?;
    let owner = frame::Member {
        user: found.actor.0,
        name: op.actor_name.clone(),
        role: Role::Owner.into(),
    };
    let mut joined = BTreeMap::from([(found.actor, owner)]);
    for member in named(found)? {
        joined
            .entry(UserId(member.user))
            .or_insert_with(|| as_member(member));
    }
    check_limit(found, joined.len())?;
    Ok(Plan {
        row: Group {
            group: found.group.0,
            app: Bytes::copy_from_slice(op.app.as_bytes()),
            name: Bytes::copy_from_slice(op.name.as_bytes()),
            creator: found.actor.0,
            created_ms: found.shard.context.ts_ms,
            owners: 1,
            ..Group::default()
        },
        joined: joined.into_values().collect(),
        left: Vec::new(),
        changed: None,
        role: Role::Owner.into(),
        idle: false,
    })
}

fn rename(found: &Found<'_>, actor: &Member, mut plan: Plan) -> Stepped<Plan> {
    at_least(actor, Role::Admin)?;
    check_name(&found.op.name)?;
    plan.row.name = Bytes::copy_from_slice(found.op.name.as_bytes());
    Ok(plan)
}

fn add(found: &Found<'_>, actor: &Member, mut plan: Plan) -> Stepped<Plan> {
    at_least(actor, Role::Admin)?;
    let mut joined = BTreeMap::new();
    let mut already = Vec::new();
    for member in named(found)? {
        let key = keys::member(found.group, UserId(member.user).key());
        if found.shard.row(&key)?.is_none() {
            joined.insert(member.user, as_member(member));
        } else {
            already.push(member.user);
        }
    }
    let exact = already == found.op.left_out || found.shard.context.rules.additions_name_members();
    if !exact && !joined.is_empty() {
        return refuse(
            Code::Unavailable,
            "the group's members changed while this was on its way: try again",
        );
    }
    check_limit(found, plan.row.members as usize + joined.len())?;
    plan.idle = joined.is_empty();
    plan.joined = joined.into_values().collect();
    Ok(plan)
}

fn remove(found: &Found<'_>, actor: &Member, mut plan: Plan) -> Stepped<Plan> {
    at_least(actor, Role::Admin)?;
    let mut left = BTreeMap::new();
    for member in &found.op.members {
        let target = find(found, member.user)?;
        if target.user == found.actor.0 {
            return refuse(
                Code::InvalidArgument,
                "one does not remove oneself: leave the group",
            );
        }
        if target.role != i32::from(Role::Member) {
            at_least(actor, Role::Owner)?;
        }
        left.insert(target.user, target.role);
    }
    if left.is_empty() {
        return refuse(Code::InvalidArgument, "nobody is named");
    }
    let owners = left.values().filter(|role| is_owner(**role)).count();
    plan.row.owners -= u32::try_from(owners).expect("members are fewer");
    plan.left = left.into_keys().map(UserId).collect();
    Ok(plan)
}

fn leave(found: &Found<'_>, actor: &Member, mut plan: Plan) -> Stepped<Plan> {
    if is_owner(actor.role) {
        if plan.row.owners == 1 && plan.row.members > 1 {
            return last_owner();
        }
        plan.row.owners -= 1;
    }
    plan.left = vec![found.actor];
    plan.role = Role::Unspecified.into();
    Ok(plan)
}

fn role(found: &Found<'_>, actor: &Member, mut plan: Plan) -> Stepped<Plan> {
    at_least(actor, Role::Owner)?;
    let [member] = &found.op.members[..] else {
        return refuse(Code::InvalidArgument, "a role is given to one member");
    };
    let role = match Role::try_from(member.role) {
        Ok(role) if role != Role::Unspecified => i32::from(role),
        _ => return refuse(Code::InvalidArgument, "that is not a role"),
    };
    let target = find(found, member.user)?;
    match (is_owner(target.role), is_owner(role)) {
        (true, false) if plan.row.owners == 1 => return last_owner(),
        (true, false) => plan.row.owners -= 1,
        (false, true) => plan.row.owners += 1,
        _ => {}
    }
    if target.user == found.actor.0 {
        plan.role = role;
    }
    plan.idle = target.role == role;
    plan.changed = Some(Member { role, ..target });
    Ok(plan)
}

fn last_owner<T>() -> Stepped<T> {
    refuse(
        Code::LastOwner,
        "a group needs an owner: make another member one first",
    )
}

fn find(found: &Found<'_>, id: u64) -> Stepped<Member> {
    let target = user(id)?;
    match found.shard.read(&keys::member(found.group, target.key()))? {
        Some(member) => Ok(member),
        None => refuse(Code::NotFound, "no such member in this group"),
    }
}

/// The people whom an operation names, who belong to the group's app by their names.
fn named<'a>(found: &Found<'a>) -> Stepped<&'a [frame::Member]> {
    for member in &found.op.members {
        user(member.user)?;
        check_name(&member.name)?;
        if !names(&found.op.app, &member.name, UserId(member.user)) {
            return refuse(
                Code::InvalidArgument,
                "a member's id does not follow from the name",
            );
        }
    }
    Ok(&found.op.members)
}

fn as_member(member: &frame::Member) -> frame::Member {
    frame::Member {
        role: Role::Member.into(),
        ..member.clone()
    }
}

fn check_name(name: &str) -> Stepped<()> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return refuse(Code::InvalidArgument, "a name has 1 to 128 bytes");
    }
    Ok(())
}

fn check_limit(found: &Found<'_>, members: usize) -> Stepped<()> {
    let limit = found.shard.group_members();
    if members > limit as usize {
        return refuse(
            Code::LimitExceeded,
            format!("a group has at most {limit} members"),
        );
    }
    Ok(())
}

fn is_owner(role: i32) -> bool {
    role == i32::from(Role::Owner)
}

/// Roles rise with their numbers.
fn at_least(actor: &Member, role: Role) -> Stepped<()> {
    if actor.role < i32::from(role) {
        return refuse(
            Code::NotAllowed,
            "your role in this group does not allow it",
        );
    }
    Ok(())
}
