//! The rows of a shard: every family, its sub-key and its value. docs/rows.md says the
//! same for people.
//!
//! | family | inbox | sub | value |
//! | --- | --- | --- | --- |
//! | 0 profile | user | – | [`Profile`] |
//! | 1 device | user | device u64 | [`Device`] |
//! | 2 head | user | – | [`Head`]: also the floor |
//! | 3 mark | user | conversation u64 · user u64 | [`Mark`] |
//! | 4 mark by version | user | version u64 | [`MarkOf`] |
//! | 5 conversation | user | conversation u64 | [`Conversation`] |
//! | 32 event | user | inbox_seq u64 | `chat_wire::event::Header`, body |
//! | 40 incoming | user | conversation u64 · msg_id u64 | inbox_seq u64 |
//! | 41 own, and changes of groups | user | conversation u64 · msg_id u64 | inbox_seq u64 |
//! | 64 dedup | user, group | sender u64 · id 16 | [`Answered`] |
//! | 96 group | group | – | [`Group`] |
//! | 97 member | group | member's inbox key u64 | [`Member`] |
//! | 98 member mark | group | member's inbox key u64 | [`MemberMark`] |
//! | 99 group head | group | – | [`GroupHead`] |
//! | 112 group log | group | group_seq u64 | `chat_wire::event::Header`, body |
//! | 120 roster | 0 | group u64 · member's inbox key u64 | [`Roster`] |
//! | 121 outbox | 0 | destination u16 · number u64 | [`OutboxRow`], body |
//! | 122 outbox state | 0 | destination u16 | [`OutboxState`] |
//! | 123 pending mark | 0 | destination u16 · target u64 · user u64 | [`MemberMark`] |
//! | 124 source | 0 | source u16 | [`Source`] |
//! | 125 settings | 0 | – | `command::Settings` |
//! | 125 cluster | 0 | `01` | `command::Bootstrap` |
//! | 126 last | 0 | – | [`Last`] |
//! | 127 incarnation | 0 | – | [`Incarnation`] |
//!
//! All numbers in keys are big-endian. Values are protobuf, so that fields can be
//! added; numbers of fields are never used twice. Texts are `bytes` here: they were
//! checked where they entered, and are compared and passed on without a copy.

use chat_wire::ids::{
    ClientId, ConversationId, DeviceId, GroupId, InboxKey, MsgId, ShardId, UserId,
};
use prost::Message;

mod values;

pub use values::{
    Answered, Conversation, Device, Group, GroupHead, Head, Incarnation, Last, Mark, MarkOf,
    Member, MemberMark, OpAnswer, OutboxRow, OutboxState, Profile, Roster, Source,
};

use crate::store::{Direction, Key, Range, Row, Unreadable};

/// See the module.
pub const PROFILE: u8 = 0;
/// See the module.
pub const DEVICE: u8 = 1;
/// See the module.
pub const HEAD: u8 = 2;
/// See the module.
pub const MARK: u8 = 3;
/// See the module.
pub const MARK_VERSION: u8 = 4;
/// See the module.
pub const CONVERSATION: u8 = 5;
/// See the module.
pub const EVENT: u8 = 32;
/// See the module.
pub const INCOMING: u8 = 40;
/// See the module.
pub const OWN: u8 = 41;
/// See the module.
pub const DEDUP: u8 = 64;
/// See the module.
pub const GROUP: u8 = 96;
/// See the module.
pub const MEMBER: u8 = 97;
/// See the module.
pub const MEMBER_MARK: u8 = 98;
/// See the module.
pub const GROUP_HEAD: u8 = 99;
/// See the module.
pub const GROUP_LOG: u8 = 112;
/// See the module.
pub const ROSTER: u8 = 120;
/// See the module.
pub const OUTBOX: u8 = 121;
/// See the module.
pub const OUTBOX_STATE: u8 = 122;
/// See the module.
pub const PENDING_MARK: u8 = 123;
/// See the module.
pub const SOURCE: u8 = 124;
/// See the module.
pub const SETTINGS: u8 = 125;
/// See the module.
pub const LAST: u8 = 126;
/// See the module.
pub const INCARNATION: u8 = 127;

/// The key of the shard's own rows.
pub const SHARD: InboxKey = InboxKey(0);

/// Longest value of a row, in bytes.
pub const MAX_VALUE_BYTES: usize = 4096;

fn two(first: u64, second: u64) -> [u8; 16] {
    let mut sub = [0; 16];
    sub[..8].copy_from_slice(&first.to_be_bytes());
    sub[8..].copy_from_slice(&second.to_be_bytes());
    sub
}

/// The profile of an inbox: it exists if this row does.
#[must_use]
pub fn profile(inbox: InboxKey) -> Key {
    Key::new(inbox, PROFILE, &[])
}

/// A device of a user.
#[must_use]
pub fn device(inbox: InboxKey, device: DeviceId) -> Key {
    Key::new(inbox, DEVICE, &device.0.to_be_bytes())
}

/// The head of an inbox.
#[must_use]
pub fn head(inbox: InboxKey) -> Key {
    Key::new(inbox, HEAD, &[])
}

/// What `user` has read in `conversation`, as the owner of the inbox sees it.
#[must_use]
pub fn mark(inbox: InboxKey, conversation: ConversationId, user: UserId) -> Key {
    Key::new(inbox, MARK, &two(conversation.0, user.0))
}

/// The mark that a version of an inbox changed.
#[must_use]
pub fn mark_version(inbox: InboxKey, version: u64) -> Key {
    Key::new(inbox, MARK_VERSION, &version.to_be_bytes())
}

/// A conversation's name.
#[must_use]
pub fn conversation(inbox: InboxKey, conversation: ConversationId) -> Key {
    Key::new(inbox, CONVERSATION, &conversation.0.to_be_bytes())
}

/// An event of an inbox.
#[must_use]
pub fn event(inbox: InboxKey, inbox_seq: u64) -> Key {
    Key::new(inbox, EVENT, &inbox_seq.to_be_bytes())
}

/// Where a message of a conversation stands: `family` is [`INCOMING`] or [`OWN`].
#[must_use]
pub fn posting(inbox: InboxKey, family: u8, conversation: ConversationId, msg_id: MsgId) -> Key {
    let order = msg_id.0.cast_unsigned();
    Key::new(inbox, family, &two(conversation.0, order))
}

/// The newest posting of a conversation.
#[must_use]
pub fn newest_posting(inbox: InboxKey, family: u8, conversation: ConversationId) -> Range {
    Range {
        from: posting(inbox, family, conversation, MsgId(0)),
        to: posting(inbox, family, conversation, MsgId(i64::MAX)),
        direction: Direction::Falling,
        limit: 1,
    }
}

/// The answer to a client message id or op id.
#[must_use]
pub fn dedup(home: InboxKey, sender: UserId, id: ClientId) -> Key {
    let mut sub = [0; 24];
    sub[..8].copy_from_slice(&sender.0.to_be_bytes());
    sub[8..].copy_from_slice(&id.0);
    Key::new(home, DEDUP, &sub)
}

/// What a group is.
#[must_use]
pub fn group(group: GroupId) -> Key {
    Key::new(group.key(), GROUP, &[])
}

/// A member of a group, at the group's home.
#[must_use]
pub fn member(group: GroupId, member: InboxKey) -> Key {
    Key::new(group.key(), MEMBER, &member.0.to_be_bytes())
}

/// What a member has read, at the group's home.
#[must_use]
pub fn member_mark(group: GroupId, member: InboxKey) -> Key {
    Key::new(group.key(), MEMBER_MARK, &member.0.to_be_bytes())
}

/// What moves with every event of a group.
#[must_use]
pub fn group_head(group: GroupId) -> Key {
    Key::new(group.key(), GROUP_HEAD, &[])
}

/// An event of a group's log.
#[must_use]
pub fn group_log(group: GroupId, group_seq: u64) -> Key {
    Key::new(group.key(), GROUP_LOG, &group_seq.to_be_bytes())
}

/// A member who lives in this shard.
#[must_use]
pub fn roster(group: GroupId, member: InboxKey) -> Key {
    Key::new(SHARD, ROSTER, &two(group.0, member.0))
}

/// The member's inbox of a key made by [`roster`].
#[must_use]
pub fn roster_inbox(key: &Key) -> InboxKey {
    InboxKey(word(key.sub(), 8))
}

/// An entry of an outbox. `row` never begins anew.
#[must_use]
pub fn outbox(destination: ShardId, row: u64) -> Key {
    let mut sub = [0; 10];
    sub[..2].copy_from_slice(&destination.0.to_be_bytes());
    sub[2..].copy_from_slice(&row.to_be_bytes());
    Key::new(SHARD, OUTBOX, &sub)
}

/// Where an outbox stands.
#[must_use]
pub fn outbox_state(destination: ShardId) -> Key {
    Key::new(SHARD, OUTBOX_STATE, &destination.0.to_be_bytes())
}

/// A mark on its way to another shard.
#[must_use]
pub fn pending_mark(destination: ShardId, target: u64, user: UserId) -> Key {
    let mut sub = [0; 18];
    sub[..2].copy_from_slice(&destination.0.to_be_bytes());
    sub[2..].copy_from_slice(&two(target, user.0));
    Key::new(SHARD, PENDING_MARK, &sub)
}

/// What is applied of another shard's outbox.
#[must_use]
pub fn source(source: ShardId) -> Key {
    Key::new(SHARD, SOURCE, &source.0.to_be_bytes())
}

/// The cluster's settings as this shard knows them.
#[must_use]
pub fn settings() -> Key {
    Key::new(SHARD, SETTINGS, &[])
}

/// The cluster's identity; only in shard 0.
#[must_use]
pub fn cluster() -> Key {
    Key::new(SHARD, SETTINGS, &[1])
}

/// The last message id of this shard.
#[must_use]
pub fn last() -> Key {
    Key::new(SHARD, LAST, &[])
}

/// This shard's incarnation.
#[must_use]
pub fn incarnation() -> Key {
    Key::new(SHARD, INCARNATION, &[])
}

/// All rows of a family of an inbox whose sub-keys begin with `prefix`.
#[must_use]
pub fn all(inbox: InboxKey, family: u8, prefix: &[u8], limit: usize) -> Range {
    let mut to = [0xff; 32];
    to[..prefix.len()].copy_from_slice(prefix);
    Range {
        from: Key::new(inbox, family, prefix),
        to: Key::new(inbox, family, &to),
        direction: Direction::Rising,
        limit,
    }
}

/// The first key behind `key` in its family.
#[must_use]
pub fn behind(key: &Key) -> Key {
    let sub = key.sub();
    let mut longer = [0; 32];
    longer[..sub.len()].copy_from_slice(sub);
    Key::new(key.inbox, key.family, &longer[..sub.len() + 1])
}

/// The big-endian number at an offset of a sub-key; missing bytes count as 0.
#[must_use]
pub fn word(sub: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(sub.iter().skip(at)) {
        *to = *from;
    }
    u64::from_be_bytes(bytes)
}

/// The value of a posting.
///
/// # Errors
/// [`Unreadable`] if it is no number.
pub fn posting_seq(key: &Key, row: &Row) -> Result<u64, Unreadable> {
    <[u8; 8]>::try_from(&row.header[..])
        .map(u64::from_be_bytes)
        .map_err(|_| Unreadable(format!("posting {key:?} holds no number")))
}

/// The value of a row.
///
/// # Errors
/// [`Unreadable`] if the bytes are not of this kind.
pub fn decode<M: Message + Default>(key: &Key, row: &Row) -> Result<M, Unreadable> {
    M::decode(row.header.clone())
        .map_err(|error| Unreadable(format!("row {key:?} holds no value of its family: {error}")))
}
