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
//! | 41 own | user | conversation u64 · msg_id u64 | inbox_seq u64 |
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

use bytes::Bytes;
use chat_wire::ids::{
    ClientId, ConversationId, DeviceId, GroupId, InboxKey, MsgId, ShardId, UserId,
};
use prost::Message;

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

/// Who an inbox belongs to.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Profile {
    /// The user.
    #[prost(fixed64, tag = "1")]
    pub user: u64,
    /// The app.
    #[prost(bytes = "bytes", tag = "2")]
    pub app: Bytes,
    /// The name.
    #[prost(bytes = "bytes", tag = "3")]
    pub name: Bytes,
    /// When it was made, ms since 1970.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
}

/// A device.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Device {
    /// It has acknowledged everything up to here.
    #[prost(uint64, tag = "1")]
    pub cursor: u64,
    /// When it attached or acknowledged last, ms since 1970.
    #[prost(uint64, tag = "2")]
    pub seen_ms: u64,
}

/// What moves with every event of an inbox, and the floor, which is read with it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Head {
    /// Number of the newest event.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Version of the newest mark.
    #[prost(uint64, tag = "2")]
    pub marks_version: u64,
    /// The first event that can still be read; 0 if nothing is gone.
    #[prost(uint64, tag = "3")]
    pub oldest_seq: u64,
    /// Client ids dated before this are TOO_OLD.
    #[prost(uint64, tag = "4")]
    pub dedup_before_ms: u64,
}

impl Head {
    /// The first event that can still be read.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.oldest_seq.max(1)
    }
}

/// Watermarks of a user in a conversation, in somebody's inbox.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Mark {
    /// Delivered up to.
    #[prost(int64, tag = "1")]
    pub delivered: i64,
    /// Seen up to.
    #[prost(int64, tag = "2")]
    pub seen: i64,
    /// The version of the inbox's marks that set it; 0 if no device is told.
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

/// Which mark a version changed.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MarkOf {
    /// The conversation.
    #[prost(fixed64, tag = "1")]
    pub conversation: u64,
    /// Whose mark.
    #[prost(fixed64, tag = "2")]
    pub user: u64,
}

/// What a list shows of a conversation beside its events.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Conversation {
    /// The peer's or the group's name.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
}

/// The first answer to an id, in the fields it is made of.
#[derive(Clone, PartialEq, Message)]
pub struct Answered {
    /// Sequence number in the inbox or group.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Number of the message; 0 if an operation changed nothing.
    #[prost(int64, tag = "2")]
    pub msg_id: i64,
    /// Digest of the fields that came with the id.
    #[prost(fixed64, tag = "3")]
    pub digest: u64,
    /// Of a group's operation.
    #[prost(message, optional, tag = "4")]
    pub op: Option<OpAnswer>,
}

/// See [`Answered::op`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct OpAnswer {
    /// The group's name.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Its members.
    #[prost(uint32, tag = "2")]
    pub members: u32,
    /// The actor's role.
    #[prost(int32, tag = "3")]
    pub role: i32,
    /// The group's epoch.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
}

/// What a group is, at its home.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Group {
    /// The group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// The app of the group and all its members.
    #[prost(bytes = "bytes", tag = "2")]
    pub app: Bytes,
    /// Its name.
    #[prost(bytes = "bytes", tag = "3")]
    pub name: Bytes,
    /// Who made it.
    #[prost(fixed64, tag = "4")]
    pub creator: u64,
    /// When, ms since 1970.
    #[prost(uint64, tag = "5")]
    pub created_ms: u64,
    /// Kept for end-to-end encryption; 0 in this version.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    /// Members.
    #[prost(uint32, tag = "7")]
    pub members: u32,
    /// Members who are owners.
    #[prost(uint32, tag = "8")]
    pub owners: u32,
    /// Where members live: pairs of (shard less the shard before, members there).
    #[prost(uint32, repeated, tag = "9")]
    pub shards: Vec<u32>,
    /// Client ids dated before this are TOO_OLD.
    #[prost(uint64, tag = "10")]
    pub dedup_before_ms: u64,
}

/// What moves with every event of a group.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GroupHead {
    /// Number of the newest event.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Its message id.
    #[prost(int64, tag = "2")]
    pub msg_id: i64,
}

/// A member, at the group's home.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Member {
    /// The user.
    #[prost(fixed64, tag = "1")]
    pub user: u64,
    /// The name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// `frame::Role`.
    #[prost(int32, tag = "3")]
    pub role: i32,
    /// The event that made it a member.
    #[prost(uint64, tag = "4")]
    pub joined_seq: u64,
}

/// Watermarks that nobody's inbox versions.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MemberMark {
    /// Delivered up to.
    #[prost(int64, tag = "1")]
    pub delivered: i64,
    /// Seen up to.
    #[prost(int64, tag = "2")]
    pub seen: i64,
}

/// A member who lives in this shard.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Roster {
    /// The user.
    #[prost(fixed64, tag = "1")]
    pub user: u64,
    /// The app.
    #[prost(bytes = "bytes", tag = "2")]
    pub app: Bytes,
    /// The name.
    #[prost(bytes = "bytes", tag = "3")]
    pub name: Bytes,
}

/// An entry of an outbox.
#[derive(Clone, PartialEq, Message)]
pub struct OutboxRow {
    /// Bytes of all entries up to this one, since the outbox began.
    #[prost(uint64, tag = "1")]
    pub sum_bytes: u64,
    /// What it does at its destination.
    #[prost(message, optional, tag = "2")]
    pub effect: Option<crate::command::OutboxEffect>,
}

/// Where the outbox for one destination stands. Rows are numbered for ever; what the
/// destination is told is row + `shift`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct OutboxState {
    /// The newest row.
    #[prost(uint64, tag = "1")]
    pub last: u64,
    /// Rows up to here are applied there, and gone.
    #[prost(uint64, tag = "2")]
    pub confirmed: u64,
    /// Bytes of all entries up to `last`, since the outbox began.
    #[prost(uint64, tag = "3")]
    pub sum_bytes: u64,
    /// The same up to `confirmed`.
    #[prost(uint64, tag = "4")]
    pub confirmed_bytes: u64,
    /// See above.
    #[prost(uint64, tag = "5")]
    pub shift: u64,
    /// The incarnation is new, and the destination has not yet said what it had
    /// applied: nothing leaves before.
    #[prost(bool, tag = "6")]
    pub handshake: bool,
    /// Rows up to here are from before the new incarnation.
    #[prost(uint64, tag = "7")]
    pub cut: u64,
}

/// What is applied of a source's outbox.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Source {
    /// Its incarnation.
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    /// Everything up to here.
    #[prost(uint64, tag = "2")]
    pub applied: u64,
    /// The incarnation before, of which nothing counts any more.
    #[prost(fixed64, tag = "3")]
    pub previous: u64,
}

/// The last message id.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Last {
    /// See `MsgId`.
    #[prost(int64, tag = "1")]
    pub msg_id: i64,
}

/// A shard's incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Incarnation {
    /// Random.
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    /// How many there were before: outboxes of a first incarnation need no handshake.
    #[prost(uint32, tag = "2")]
    pub earlier: u32,
}
