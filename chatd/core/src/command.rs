//! What a shard's log says: commands, each a protobuf message of its kind, so that
//! fields can be added. How they stand in an entry of the log is in `batch`.

use bytes::{Bytes, BytesMut};

mod batch;
mod rules;

pub use rules::Rules;
#[cfg(test)]
pub(crate) use rules::in_format;

pub use batch::{
    BATCH_HEADER_BYTES, Batch, BatchBuilder, BatchError, COMMAND_HEADER_BYTES, FLAG_SKIPPABLE,
    FORMAT, Item, MAX_COMMANDS, MAX_ENTRY_BYTES, decode,
};

macro_rules! commands {
    ($($(#[$doc:meta])* $kind:literal $name:ident,)*) => {
        /// A command, with its meta decoded.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Command {
            $($(#[$doc])* $name($name),)*
        }

        impl Command {
            /// The number of its kind, for ever.
            #[must_use]
            pub const fn kind(&self) -> u8 {
                match self { $(Self::$name(_) => $kind,)* }
            }

            fn decode_meta(kind: u8, meta: &[u8]) -> Option<Result<Self, prost::DecodeError>> {
                match kind {
                    $($kind => Some(<$name as prost::Message>::decode(meta).map(Self::$name)),)*
                    _ => None,
                }
            }

            fn meta_len(&self) -> usize {
                match self { $(Self::$name(meta) => prost::Message::encoded_len(meta),)* }
            }

            fn encode_meta(&self, out: &mut BytesMut) {
                match self {
                    $(Self::$name(meta) => prost::Message::encode(meta, out)
                        .expect("a BytesMut grows"),)*
                }
            }
        }

        $(impl From<$name> for Command {
            fn from(meta: $name) -> Self { Self::$name(meta) }
        })*
    };
}

commands! {
    /// First entry of shard 0: the cluster begins.
    1 Bootstrap,
    /// What the cluster's settings are from here on.
    2 Settings,
    /// A device begins a session.
    3 Attach,
    /// A message to a person or a group. Has a body.
    4 Send,
    /// A change of a group. Has a body: the `GroupChange` it becomes.
    5 GroupOp,
    /// An entry of another shard's outbox (or one's own). May have a body.
    6 Deliver,
    /// A destination has applied the outbox up to a number.
    7 OutboxConfirm,
    /// Cursors of devices, and marks that follow from them.
    8 Acks,
    /// Marks from other shards.
    9 Marks,
    /// A destination has marks: pending rows go.
    10 MarksConfirm,
    /// Everything before this position goes to segments.
    11 Flush,
    /// An inbox begins later, and ids before a time are too old.
    12 Floor,
    /// The shard was restored or cut: its outboxes begin anew.
    13 Incarnation,
    /// What a destination had applied of an older incarnation.
    14 Handshake,
}

/// See [`Command::Bootstrap`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bootstrap {
    /// Random, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub cluster_id: Bytes,
    /// Random, never 0.
    #[prost(uint32, tag = "2")]
    pub generation: u32,
    /// How many ranges the map has.
    #[prost(uint32, tag = "3")]
    pub shards: u32,
}

/// See [`Command::Settings`]. In shard 0 it changes the cluster's settings; in all
/// others it repeats them, so that `step` finds them in its own log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Settings {
    /// Grows with every change.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// The cluster's generation.
    #[prost(uint32, tag = "2")]
    pub generation: u32,
    /// The epoch of the shard map.
    #[prost(uint32, tag = "3")]
    pub epoch: u32,
    /// How many ranges the map has.
    #[prost(uint32, tag = "4")]
    pub shards: u32,
    /// Members of a group.
    #[prost(uint32, tag = "5")]
    pub group_members: u32,
    /// Devices of a user.
    #[prost(uint32, tag = "6")]
    pub devices: u32,
    /// Encoded bytes of a content.
    #[prost(uint32, tag = "7")]
    pub content_bytes: u32,
    /// Users mentioned in a message.
    #[prost(uint32, tag = "8")]
    pub mentions: u32,
    /// Bytes of one destination's outbox, with the bodies it pins.
    #[prost(uint64, tag = "9")]
    pub outbox_bytes: u64,
    /// Random: the shard's first incarnation, taken only if it has none.
    #[prost(fixed64, tag = "10")]
    pub incarnation: u64,
    /// Naming somebody makes no inbox: only who has connected once can be written to.
    #[prost(bool, tag = "11")]
    pub known_users_only: bool,
}

/// See [`Command::Attach`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attach {
    /// The app.
    #[prost(string, tag = "1")]
    pub app: String,
    /// The token's `sub`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// `UserId::of(app, name)`.
    #[prost(fixed64, tag = "3")]
    pub user: u64,
    /// The device.
    #[prost(fixed64, tag = "4")]
    pub device: u64,
    /// The cursor the device resumes from, if it resumes.
    #[prost(uint64, optional, tag = "5")]
    pub resume_seq: Option<u64>,
    /// The generation it had; 0 if unknown.
    #[prost(uint32, tag = "6")]
    pub generation: u32,
}

/// See [`Command::Send`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Send {
    /// The sender's app.
    #[prost(string, tag = "1")]
    pub app: String,
    /// The sender.
    #[prost(fixed64, tag = "2")]
    pub sender: u64,
    /// The sender's name.
    #[prost(string, tag = "3")]
    pub sender_name: String,
    /// The client message id, 16 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub client_id: Bytes,
    /// A user id or group id: the conversation as the sender sees it.
    #[prost(fixed64, tag = "5")]
    pub to: u64,
    /// The receiver's name, if the client named one: its inbox may be created.
    #[prost(string, optional, tag = "6")]
    pub to_name: Option<String>,
    /// Highest msg_id seen by the sender; 0 for none.
    #[prost(int64, tag = "7")]
    pub after: i64,
    /// The id in flight before this one; empty for none.
    #[prost(bytes = "bytes", tag = "8")]
    pub previous: Bytes,
    /// Digest of the decoded fields content, to, reply_to, mentions, silent.
    #[prost(fixed64, tag = "9")]
    pub digest: u64,
}

/// See [`Command::GroupOp`]. Creation is an operation on the group that
/// `GroupId::of(actor, op_id)` names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupOp {
    /// The actor's app.
    #[prost(string, tag = "1")]
    pub app: String,
    /// Who does it.
    #[prost(fixed64, tag = "2")]
    pub actor: u64,
    /// The actor's name.
    #[prost(string, tag = "3")]
    pub actor_name: String,
    /// The op id, 16 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub op_id: Bytes,
    /// The group.
    #[prost(fixed64, tag = "5")]
    pub group: u64,
    /// `chat_wire::frame::group_change::Kind`.
    #[prost(int32, tag = "6")]
    pub change: i32,
    /// Created or renamed: the group's name.
    #[prost(string, tag = "7")]
    pub name: String,
    /// Whom it is about; of removals and roles only the id (the body has the names).
    #[prost(message, repeated, tag = "8")]
    pub members: Vec<chat_wire::frame::Member>,
    /// Digest of the decoded fields.
    #[prost(fixed64, tag = "9")]
    pub digest: u64,
}

/// See [`Command::Deliver`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Deliver {
    /// The shard whose outbox it is.
    #[prost(uint32, tag = "1")]
    pub source: u32,
    /// Its incarnation.
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
    /// The number of the entry in the outbox for this shard; 0 asks what is applied,
    /// and is how an incarnation that is not the first begins.
    #[prost(uint64, tag = "3")]
    pub number: u64,
    /// What to do; none with number 0.
    #[prost(message, optional, tag = "4")]
    pub effect: Option<OutboxEffect>,
    /// Everything up to here was confirmed. A destination that has applied less was
    /// cut or restored: the rest is gone, and it goes on from here.
    #[prost(uint64, tag = "5")]
    pub confirmed: u64,
    /// With number 0: when the incarnation began. Later ones take over from earlier
    /// ones, in whatever order their questions arrive.
    #[prost(uint64, tag = "6")]
    pub since_ms: u64,
}

/// What an outbox entry does at its destination.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OutboxEffect {
    /// Which.
    #[prost(oneof = "Effect", tags = "1, 2, 3")]
    pub effect: Option<Effect>,
}

/// See [`OutboxEffect`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Effect {
    /// The sender's own history. Has the message's body.
    #[prost(message, tag = "1")]
    SentCopy(SentCopy),
    /// A group's message for the members who live here. Has its body.
    #[prost(message, tag = "2")]
    GroupMessage(GroupMessage),
    /// A group's change, with what it does to the roster. Has its body.
    #[prost(message, tag = "3")]
    GroupChange(GroupChanged),
}

/// See [`Effect::SentCopy`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct SentCopy {
    /// The sender, whose inbox gets it.
    #[prost(fixed64, tag = "1")]
    pub sender: u64,
    /// The sender's app.
    #[prost(string, tag = "2")]
    pub app: String,
    /// The sender's name.
    #[prost(string, tag = "3")]
    pub sender_name: String,
    /// The receiver: the conversation as the sender sees it.
    #[prost(fixed64, tag = "4")]
    pub conversation: u64,
    /// The receiver's name.
    #[prost(string, tag = "5")]
    pub conversation_name: String,
    /// The message's number.
    #[prost(int64, tag = "6")]
    pub msg_id: i64,
}

/// See [`Effect::GroupMessage`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupMessage {
    /// The group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Its place in the group's log.
    #[prost(uint64, tag = "2")]
    pub group_seq: u64,
    /// Its number.
    #[prost(int64, tag = "3")]
    pub msg_id: i64,
    /// The sender.
    #[prost(fixed64, tag = "4")]
    pub sender: u64,
    /// The sender's name.
    #[prost(string, tag = "5")]
    pub sender_name: String,
}

/// See [`Effect::GroupChange`]: members are added first, then all get the event,
/// then members are removed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupChanged {
    /// The event; none with entries that only carry more of `joined` or `left`.
    #[prost(message, optional, tag = "1")]
    pub event: Option<GroupMessage>,
    /// The app of the group and all its members.
    #[prost(string, tag = "2")]
    pub app: String,
    /// The group's name from now on.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Who of this shard joins.
    #[prost(message, repeated, tag = "4")]
    pub joined: Vec<chat_wire::frame::Member>,
    /// Who of this shard goes.
    #[prost(fixed64, repeated, tag = "5")]
    pub left: Vec<u64>,
    /// The group.
    #[prost(fixed64, tag = "6")]
    pub group: u64,
}

/// See [`Command::OutboxConfirm`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct OutboxConfirm {
    /// The destination.
    #[prost(uint32, tag = "1")]
    pub destination: u32,
    /// Of which incarnation.
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
    /// Everything up to here is applied there.
    #[prost(uint64, tag = "3")]
    pub number: u64,
}

/// See [`Command::Acks`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Acks {
    /// One a device, or a user's seen mark.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<DeviceAck>,
}

/// What one device has said since the last time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceAck {
    /// Whose.
    #[prost(fixed64, tag = "1")]
    pub user: u64,
    /// Which device.
    #[prost(fixed64, tag = "2")]
    pub device: u64,
    /// Its cursor; merged by max. 0 leaves it.
    #[prost(uint64, tag = "3")]
    pub cursor: u64,
    /// Marks that follow from the cursor, and MARKs of the device.
    #[prost(message, repeated, tag = "4")]
    pub marks: Vec<ConversationMark>,
}

/// Watermarks of one user in one conversation, merged by max.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConversationMark {
    /// The conversation as the user sees it.
    #[prost(fixed64, tag = "1")]
    pub conversation: u64,
    /// Delivered up to.
    #[prost(int64, tag = "2")]
    pub delivered: i64,
    /// Seen up to; raises `delivered`.
    #[prost(int64, tag = "3")]
    pub seen: i64,
}

/// See [`Command::Marks`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Marks {
    /// Which.
    #[prost(message, repeated, tag = "1")]
    pub marks: Vec<RemoteMark>,
}

/// A mark on its way to a peer's inbox or to a group's home.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoteMark {
    /// Whose inbox or which group it goes to.
    #[prost(fixed64, tag = "1")]
    pub target: u64,
    /// Who has read.
    #[prost(fixed64, tag = "2")]
    pub user: u64,
    /// Delivered up to.
    #[prost(int64, tag = "3")]
    pub delivered: i64,
    /// Seen up to.
    #[prost(int64, tag = "4")]
    pub seen: i64,
}

/// See [`Command::MarksConfirm`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct MarksConfirm {
    /// As they were sent: a pending row goes only if it is still equal.
    #[prost(message, repeated, tag = "1")]
    pub marks: Vec<RemoteMark>,
}

/// See [`Command::Flush`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Flush {}

/// See [`Command::Floor`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Floor {
    /// The key of the inbox.
    #[prost(fixed64, tag = "1")]
    pub inbox: u64,
    /// The first event that can still be read.
    #[prost(uint64, tag = "2")]
    pub oldest_seq: u64,
    /// Client ids dated before this (ms since 1970) are TOO_OLD.
    #[prost(uint64, tag = "3")]
    pub dedup_before_ms: u64,
}

/// See [`Command::Incarnation`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Incarnation {
    /// Random.
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
}

/// See [`Command::Handshake`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Handshake {
    /// The destination that answers.
    #[prost(uint32, tag = "1")]
    pub destination: u32,
    /// The new incarnation it was told.
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
    /// The last number it applied of the one before.
    #[prost(uint64, tag = "3")]
    pub applied: u64,
}

#[cfg(test)]
mod tests;
