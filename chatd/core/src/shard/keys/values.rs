//! The values of rows, each a protobuf message. Which row holds which stands in the
//! table of [`super`].

use bytes::Bytes;
use prost::Message;

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
    /// When that began; 0 for the first. Earlier ones do not count any more.
    #[prost(uint64, tag = "3")]
    pub since_ms: u64,
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
    /// When it began, ms since 1970: later than those before, also where clocks fall.
    #[prost(uint64, tag = "3")]
    pub since_ms: u64,
}
