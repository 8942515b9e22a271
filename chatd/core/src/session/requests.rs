//! Requests of a client as commands and reads for shards: checked fields, resolved
//! names, digests, sealed bodies.

use bytes::Bytes;
use chat_wire::{
    body,
    error::{Code, Refusal},
    frame::{self, Body, group_change::Kind as Change, target::To},
    ids::{ClientId, ConversationId, GroupId, UserId},
    limits::Limits,
};
use prost::Message as _;

use super::check;
use crate::{
    command,
    message::{GroupRead, HistoryFrom, Identity, Now, Origin, Read, Request},
    placement::map::ShardMap,
    router,
};

/// A SEND whose fields are good. Nothing was hashed yet.
pub(super) struct CheckedSend {
    pub(super) id: ClientId,
    pub(super) abandons: Option<ClientId>,
    pub(super) to: ConversationId,
    to_name: Option<String>,
    send: frame::Send,
}

pub(super) fn check_send(
    send: frame::Send,
    identity: &Identity,
    limits: &Limits,
    now: Now,
) -> Result<CheckedSend, Refusal> {
    let id = check::client_id("clientMsgId", &send.client_msg_id, now)?;
    let abandons = if send.abandons.is_empty() {
        None
    } else {
        Some(check::client_id("abandons", &send.abandons, now)?)
    };
    let (to, to_name) = match send.to.as_ref().and_then(|target| target.to.as_ref()) {
        Some(To::User(id)) => (check::user("to.user", *id)?.into(), None),
        Some(To::Name(name)) => {
            check::name("to.name", name)?;
            (UserId::of(&identity.app, name).into(), Some(name.clone()))
        }
        Some(To::Group(id)) => (check::group("to.group", *id)?.into(), None),
        None => {
            return Err(Refusal::new(
                Code::InvalidArgument,
                "`to` is missing: name a user, a name or a group",
            ));
        }
    };
    check::content(send.content.as_ref(), limits)?;
    check::mentions(&send.mentions, limits)?;
    check::msg_id("after", send.after)?;
    check::msg_id("replyTo", send.reply_to)?;
    Ok(CheckedSend {
        id,
        abandons,
        to,
        to_name,
        send,
    })
}

impl CheckedSend {
    /// Whether it names somebody whose inbox it would make.
    pub(super) const fn may_make_inbox(&self) -> bool {
        self.to_name.is_some()
    }

    /// Bytes of its content.
    pub(super) fn content_bytes(&self) -> usize {
        let content = self.send.content.as_ref();
        content.map_or(0, prost::Message::encoded_len)
    }
}

/// The digest that tells a retry from another message under the same id: the first 8
/// bytes, big-endian, of BLAKE3 over, in this order and big-endian: length (u32) and
/// protobuf of the content · conversation (u64) · reply_to (i64) · number of mentions
/// (u32) and each (u64) · silent (u8).
#[must_use]
pub fn send_digest(send: &frame::Send, to: ConversationId) -> u64 {
    let content = send
        .content
        .as_ref()
        .map(prost::Message::encode_to_vec)
        .unwrap_or_default();
    let mut hash = blake3::Hasher::new();
    hash.update(&len32(content.len()));
    hash.update(&content);
    hash.update(&to.0.to_be_bytes());
    hash.update(&send.reply_to.to_be_bytes());
    hash.update(&len32(send.mentions.len()));
    for user in &send.mentions {
        hash.update(&user.to_be_bytes());
    }
    hash.update(&[u8::from(send.silent)]);
    first_u64(&hash.finalize())
}

/// The digest of an operation on a group: change (i32) · group (u64) · length (u32)
/// and name · number of members (u32) and of each its id (u64) and role (i32).
#[must_use]
pub fn group_digest(op: &command::GroupOp) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&op.change.to_be_bytes());
    hash.update(&op.group.to_be_bytes());
    hash.update(&len32(op.name.len()));
    hash.update(op.name.as_bytes());
    hash.update(&len32(op.members.len()));
    for member in &op.members {
        hash.update(&member.user.to_be_bytes());
        hash.update(&member.role.to_be_bytes());
    }
    first_u64(&hash.finalize())
}

fn len32(len: usize) -> [u8; 4] {
    u32::try_from(len)
        .expect("frames are far below 4 GiB")
        .to_be_bytes()
}

fn first_u64(hash: &blake3::Hash) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(bytes)
}

pub(super) fn build_send(
    checked: CheckedSend,
    identity: &Identity,
    previous: Option<ClientId>,
    origin: Origin,
    salt: [u8; 16],
) -> Request {
    let CheckedSend {
        id,
        to,
        to_name,
        send,
        ..
    } = checked;
    let digest = send_digest(&send, to);
    let message = frame::Message {
        content: send.content,
        reply_to: send.reply_to,
        mentions: send.mentions,
        silent: send.silent,
        client_msg_id: Bytes::copy_from_slice(&id.0),
    };
    let command = command::Send {
        app: identity.app.clone(),
        sender: identity.user.0,
        sender_name: identity.name.clone(),
        client_id: Bytes::copy_from_slice(&id.0),
        to: to.0,
        to_name,
        after: send.after,
        previous: previous
            .map(|id| Bytes::copy_from_slice(&id.0))
            .unwrap_or_default(),
        digest,
    };
    let body = body::seal(body::SCHEME_MESSAGE, salt, &message.encode_to_vec());
    Request::Send {
        origin,
        send: Box::new(command),
        body,
    }
}

/// A group operation of a client, checked. `None` if the frame is none.
pub(super) fn group_op(
    frame: Body,
    identity: &Identity,
    limits: &Limits,
    now: Now,
) -> Option<Result<command::GroupOp, Refusal>> {
    Some(match frame {
        Body::GroupCreate(create) => group_create(create, identity, limits, now),
        Body::GroupUpdate(update) => check::name("name", &update.name).and_then(|()| {
            let change = (Change::Renamed, update.name, Vec::new());
            op(&update.op_id, Some(update.group), change, identity, now)
        }),
        Body::GroupAdd(add) => named_members(&add.members, identity, limits).and_then(|members| {
            op(
                &add.op_id,
                Some(add.group),
                (Change::Added, String::new(), members),
                identity,
                now,
            )
        }),
        Body::GroupRemove(remove) => removed_members(&remove.members, limits).and_then(|members| {
            let change = (Change::Removed, String::new(), members);
            op(&remove.op_id, Some(remove.group), change, identity, now)
        }),
        Body::GroupLeave(leave) => {
            let oneself = member(identity.user, &identity.name, frame::Role::Unspecified);
            let change = (Change::Left, String::new(), vec![oneself]);
            op(&leave.op_id, Some(leave.group), change, identity, now)
        }
        Body::GroupRole(role) => group_role(&role, identity, now),
        _ => return None,
    })
}

/// How many a change names who may be new here: their inboxes are made where they live, and
/// whether they were is not told.
pub(super) fn names_of(op: &command::GroupOp) -> u32 {
    let adds = [Change::Created, Change::Added].map(i32::from);
    if adds.contains(&op.change) {
        u32::try_from(op.members.len()).unwrap_or(u32::MAX)
    } else {
        0
    }
}

fn group_create(
    create: frame::GroupCreate,
    identity: &Identity,
    limits: &Limits,
    now: Now,
) -> Result<command::GroupOp, Refusal> {
    check::name("name", &create.name)?;
    let mut members = if create.members.is_empty() {
        Vec::new()
    } else {
        named_members(&create.members, identity, limits)?
    };
    members.retain(|member| member.user != identity.user.0);
    check::count("members", members.len() + 1, limits.group_members)?;
    op(
        &create.op_id,
        None,
        (Change::Created, create.name, members),
        identity,
        now,
    )
}

fn group_role(
    role: &frame::GroupRole,
    identity: &Identity,
    now: Now,
) -> Result<command::GroupOp, Refusal> {
    let user = check::user("member", role.member)?;
    let wanted = match frame::Role::try_from(role.role) {
        Ok(frame::Role::Unspecified) | Err(_) => {
            return Err(Refusal::new(
                Code::InvalidArgument,
                "`role` must be member, admin or owner",
            ));
        }
        Ok(role) => role,
    };
    let members = vec![member(user, "", wanted)];
    op(
        &role.op_id,
        Some(role.group),
        (Change::Role, String::new(), members),
        identity,
        now,
    )
}

fn op(
    op_id: &Bytes,
    group: Option<u64>,
    (change, name, members): (Change, String, Vec<frame::Member>),
    identity: &Identity,
    now: Now,
) -> Result<command::GroupOp, Refusal> {
    let id = check::client_id("opId", op_id, now)?;
    let group = match group {
        Some(group) => check::group("group", group)?,
        None => GroupId::of(identity.user, id),
    };
    let mut op = command::GroupOp {
        app: identity.app.clone(),
        actor: identity.user.0,
        actor_name: identity.name.clone(),
        op_id: Bytes::copy_from_slice(&id.0),
        group: group.0,
        change: change.into(),
        name,
        members,
        digest: 0,
    };
    op.digest = group_digest(&op);
    Ok(op)
}

/// The stored body of an operation: the change as members will see it. A creation
/// shows its creator, as the owner, before those named.
pub(super) fn group_body(op: &command::GroupOp, salt: [u8; 16]) -> Bytes {
    let mut members = op.members.clone();
    if op.change == i32::from(Change::Created) {
        let owner = member(UserId(op.actor), &op.actor_name, frame::Role::Owner);
        members.insert(0, owner);
    }
    let change = frame::GroupChange {
        kind: op.change,
        members,
        name: op.name.clone(),
    };
    body::seal(body::SCHEME_GROUP_CHANGE, salt, &change.encode_to_vec())
}

fn member(user: UserId, name: &str, role: frame::Role) -> frame::Member {
    frame::Member {
        user: user.0,
        name: name.to_owned(),
        role: role.into(),
    }
}

/// Members by name, each once, in the order of their ids.
fn named_members(
    names: &[String],
    identity: &Identity,
    limits: &Limits,
) -> Result<Vec<frame::Member>, Refusal> {
    check::count("members", names.len(), limits.group_members)?;
    if names.is_empty() {
        return Err(Refusal::new(
            Code::InvalidArgument,
            "`members` is empty: name somebody",
        ));
    }
    let mut members = Vec::with_capacity(names.len());
    for name in names {
        check::name("members", name)?;
        members.push(member(
            UserId::of(&identity.app, name),
            name,
            frame::Role::Member,
        ));
    }
    members.sort_unstable_by_key(|member| member.user);
    members.dedup_by_key(|member| member.user);
    Ok(members)
}

fn removed_members(ids: &[u64], limits: &Limits) -> Result<Vec<frame::Member>, Refusal> {
    check::count("members", ids.len(), limits.group_members)?;
    if ids.is_empty() {
        return Err(Refusal::new(
            Code::InvalidArgument,
            "`members` is empty: name somebody",
        ));
    }
    let mut members = ids
        .iter()
        .map(|id| {
            Ok(member(
                check::user("members", *id)?,
                "",
                frame::Role::Unspecified,
            ))
        })
        .collect::<Result<Vec<_>, Refusal>>()?;
    members.sort_unstable_by_key(|member| member.user);
    members.dedup_by_key(|member| member.user);
    Ok(members)
}

/// A read of a client, checked, and where it goes. `None` if the frame is none.
pub(super) fn read(
    frame: &Body,
    identity: &Identity,
    origin: Origin,
    limits: &Limits,
    map: &ShardMap,
) -> Option<Result<crate::message::ToShard, Refusal>> {
    let user = identity.user;
    let own = |read: Result<Read, Refusal>| {
        read.map(|read| crate::message::ToShard {
            shard: router::of_user(map, user),
            request: Request::Read { origin, user, read },
        })
    };
    let home = |group: u64, read: Result<GroupRead, Refusal>| {
        let group = check::group("group", group)?;
        read.map(|read| crate::message::ToShard {
            shard: router::of_group(map, group),
            request: Request::ReadGroup {
                origin,
                user,
                app: identity.app.clone(),
                group,
                read,
            },
        })
    };
    let paged = |cursor: &Bytes| check::cursor(cursor);
    Some(match frame {
        Body::History(get) => own(history(get, limits)),
        Body::Conversations(get) => own(paged(&get.cursor).map(|cursor| Read::Conversations {
            cursor,
            limit: check::page(get.limit, limits),
        })),
        Body::GroupGet(get) => home(get.group, Ok(GroupRead::State)),
        Body::Members(get) => home(
            get.group,
            paged(&get.cursor).map(|cursor| GroupRead::Members {
                cursor,
                limit: check::page(get.limit, limits),
            }),
        ),
        Body::Marks(get) => home(
            get.group,
            paged(&get.cursor).map(|cursor| GroupRead::Marks {
                follow: get.follow,
                cursor,
                limit: check::page(get.limit, limits),
            }),
        ),
        _ => return None,
    })
}

fn history(get: &frame::HistoryGet, limits: &Limits) -> Result<Read, Refusal> {
    use chat_wire::ids::MsgId;
    let conversation = check::conversation(get.conversation)?;
    let from = match get.from {
        None => HistoryFrom::Before(MsgId(0)),
        Some(frame::history_get::From::Before(id)) => {
            HistoryFrom::Before(MsgId(check::msg_id("before", id)?))
        }
        Some(frame::history_get::From::After(id)) => {
            HistoryFrom::After(MsgId(check::msg_id("after", id)?))
        }
    };
    Ok(Read::History {
        conversation,
        from,
        limit: check::page(get.limit, limits),
    })
}
