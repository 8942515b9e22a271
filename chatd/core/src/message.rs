//! What sessions, hosts and shards say to each other. Channels between them are
//! bounded; what happens when one is full stands at each kind.

use bytes::Bytes;
use chat_wire::{
    codec::Encoding,
    error::Refusal,
    event::Event,
    frame,
    ids::{
        ClientId, ConversationId, DeviceId, GroupId, InboxKey, MsgId, SessionId, ShardId, UserId,
    },
    limits::Limits,
};

use crate::command::{self, RemoteMark};

/// Time as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds of a clock that never goes back, from any origin.
    pub mono_ms: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// Who a session speaks for, as its token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The app.
    pub app: String,
    /// The name: the token's `sub`.
    pub name: String,
    /// `UserId::of(app, name)`.
    pub user: UserId,
    /// The token's `device` claim, if it has one.
    pub device: Option<DeviceId>,
    /// When the token ends, ms since 1970.
    pub expires_ms: u64,
}

/// A request's way back: the session and the number it chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Who asked.
    pub session: SessionId,
    /// The request's number.
    pub req: u32,
}

/// From a session to the host of a shard. If the host's queue is full the session
/// answers OVERLOADED (retryable) for requests that have a `req`; ACK, CREDIT, MARK
/// and DETACH are kept by the session and offered again.
#[derive(Clone, Debug, PartialEq)]
pub struct ToShard {
    /// Which shard.
    pub shard: ShardId,
    /// What.
    pub request: Request,
}

/// What a session asks of a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Begins the session at its user's shard. Answered by [`ToSession::Attached`]
    /// or [`ToSession::Close`].
    Attach(Attach),
    /// The session is over.
    Detach {
        /// Which.
        session: SessionId,
        /// Whose.
        user: UserId,
    },
    /// A message: at the receiver's shard, or the group's home. Answered by
    /// [`ToSession::Sent`] or [`ToSession::Refused`].
    Send {
        /// Who waits.
        origin: Origin,
        /// The command.
        send: Box<command::Send>,
        /// The sealed body.
        body: Bytes,
    },
    /// A change of a group, at its home. Answered by GROUP_STATE.
    GroupOp {
        /// Who waits.
        origin: Origin,
        /// The command.
        op: Box<command::GroupOp>,
        /// The sealed body: the `GroupChange` it becomes.
        body: Bytes,
    },
    /// A cumulative acknowledgement, at the user's shard.
    Ack {
        /// Which session.
        session: SessionId,
        /// Whose.
        user: UserId,
        /// Up to here.
        inbox_seq: u64,
    },
    /// Seen up to, at the user's shard.
    Mark {
        /// Which session.
        session: SessionId,
        /// Whose.
        user: UserId,
        /// Where.
        conversation: ConversationId,
        /// Up to here.
        seen: MsgId,
    },
    /// More events may be sent, at the user's shard.
    Credit {
        /// Which session.
        session: SessionId,
        /// Whose.
        user: UserId,
        /// How many more.
        events: u32,
    },
    /// Reads at the user's shard, answered by a PAGE in [`ToSession::Answer`].
    Read {
        /// Who waits.
        origin: Origin,
        /// Who asks.
        user: UserId,
        /// What.
        read: Read,
    },
    /// Reads at a group's home, answered by a PAGE or GROUP_STATE.
    ReadGroup {
        /// Who waits.
        origin: Origin,
        /// Who asks.
        user: UserId,
        /// The app of who asks: groups of another are not found.
        app: String,
        /// Of which group.
        group: GroupId,
        /// What.
        read: GroupRead,
    },
    /// Replaces the subscriptions of a session, at the user's shard. Answered by DONE.
    PresenceSubscribe {
        /// Who waits.
        origin: Origin,
        /// Who asks.
        user: UserId,
        /// Of whom.
        users: Vec<UserId>,
    },
    /// What a session spent since it said so last, at the user's shard; the last of a
    /// session comes before its DETACH. Kept and added up while the queue is full.
    Spent {
        /// Which session.
        session: SessionId,
        /// Whose.
        user: UserId,
        /// Of which device.
        device: DeviceId,
        /// In units; below zero if more was given back.
        units: i64,
        /// Inboxes made for what it sent.
        inboxes: u32,
    },
    /// At the sender's shard; dropped first when anything is full.
    Typing {
        /// Which session.
        session: SessionId,
        /// Who types.
        user: UserId,
        /// Where.
        conversation: ConversationId,
        /// Begins or ends.
        on: bool,
    },
}

/// See [`Request::Attach`].
#[derive(Clone, Debug, PartialEq)]
pub struct Attach {
    /// Which session.
    pub session: SessionId,
    /// Whose.
    pub identity: Identity,
    /// The device.
    pub device: DeviceId,
    /// Where it resumes.
    pub resume: Option<Resume>,
    /// How it encodes: hosts cut batches of events by their encoded size.
    pub encoding: Encoding,
    /// Events it takes at first.
    pub event_credits: u32,
    /// Its presence counts: false for a session in the background.
    pub foreground: bool,
}

/// Where a device resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The last event it has.
    pub inbox_seq: u64,
    /// The last version of marks it has.
    pub marks_version: u64,
    /// The generation it had; 0 if unknown.
    pub generation: u32,
}

/// Reads at the user's shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// HISTORY.
    History {
        /// Of which conversation.
        conversation: ConversationId,
        /// From where.
        from: HistoryFrom,
        /// Events at most.
        limit: u32,
    },
    /// CONVERSATIONS.
    Conversations {
        /// Opaque; empty for the first page.
        cursor: Bytes,
        /// Entries at most.
        limit: u32,
    },
}

/// See [`Read::History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryFrom {
    /// Newest first, below this; 0 from the newest.
    Before(MsgId),
    /// Oldest first, above this.
    After(MsgId),
}

/// Reads at a group's home. All need membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRead {
    /// GROUP_GET.
    State,
    /// MEMBERS.
    Members {
        /// Opaque; empty for the first page.
        cursor: Bytes,
        /// Entries at most.
        limit: u32,
    },
    /// MARKS.
    Marks {
        /// Whether RECEIPTs of the group follow from now on.
        follow: bool,
        /// Opaque; empty for the first page.
        cursor: Bytes,
        /// Entries at most.
        limit: u32,
    },
}

/// From a host to a session. Credits bound the events; what cannot be bounded by
/// them (answers, receipts) is bounded by the session's requests in flight and by
/// coalescing. A session that does not take them is closed as SLOW_CONSUMER.
#[derive(Clone, Debug, PartialEq)]
pub enum ToSession {
    /// The session is attached: WELCOME, and RESUMED or GAP.
    Attached(Attached),
    /// An answer to a request.
    Answer {
        /// The request's number.
        req: u32,
        /// The answer.
        body: frame::Body,
    },
    /// A message is committed.
    Sent {
        /// The request's number.
        req: u32,
        /// The client message id.
        client_id: ClientId,
        /// The answer.
        sent: frame::Sent,
        /// Members of the group; 0 to a person.
        members: u32,
        /// Inboxes made for it.
        inboxes: u32,
    },
    /// A request is refused. `client_id` names the message of a SEND.
    Refused {
        /// The request's number.
        req: u32,
        /// Of a SEND.
        client_id: Option<ClientId>,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// Events in order, within the credits.
    Events(Vec<Event>),
    /// RECEIPT, PRESENCE, TYPING: no answer to anything.
    Signal(frame::Body),
    /// Nothing that costs passes for a while.
    Wait {
        /// Which bound was reached.
        what: Wait,
        /// For so long.
        ms: u32,
    },
    /// An older session of the device had spent so many units more than this one was told
    /// when it began; below zero if it gave them back.
    SpentBefore {
        /// Units.
        units: i64,
    },
    /// A newer session of the device took over: REPLACED, then closed.
    Replaced,
    /// The session ends with this error.
    Close(Refusal),
}

/// See [`ToSession::Attached`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Number of the newest event.
    pub inbox_head: u64,
    /// Version of the newest mark.
    pub marks_version: u64,
    /// The cluster's generation.
    pub generation: u32,
    /// What follows.
    pub resumed: Resumed,
    /// The cluster's limits that clients are told.
    pub limits: Limits,
    /// What the device may spend.
    pub allowance: Allowance,
}

/// What a device may spend when its session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Left in its bucket, in units: see [`crate::cost`].
    pub device_units: i64,
    /// Until the user's bucket lets something pass.
    pub wait_ms: u32,
    /// Until the user may make an inbox again.
    pub strangers_wait_ms: u32,
}

/// Which bound makes a session wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The user's bucket is empty: RATE_LIMITED.
    User,
    /// The user has made too many inboxes: RATE_LIMITED where one could be made.
    Strangers,
    /// The node sheds the heaviest: OVERLOADED.
    Overload,
}

/// What a session is told after WELCOME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// It did not resume: events follow from `inbox_head + 1`.
    Fresh,
    /// Everything after `from` follows.
    From(u64),
    /// Events below `oldest` are gone; they follow from `head + 1`.
    Gap {
        /// The first event that can still be read.
        oldest: u64,
        /// The newest event.
        head: u64,
    },
}

/// From one shard's leader to another's, itself included. Lossy: outboxes and
/// pending marks are durable, and offered again until they are confirmed.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardMessage {
    /// Who says it.
    pub from: ShardId,
    /// To whom.
    pub to: ShardId,
    /// What.
    pub says: Says,
}

/// See [`ShardMessage`].
#[derive(Clone, Debug, PartialEq)]
pub enum Says {
    /// Entries of an outbox, in order.
    Outbox(Vec<OutboxItem>),
    /// Everything of this incarnation up to `number` is applied.
    OutboxApplied {
        /// Whose outbox.
        incarnation: u64,
        /// Up to here.
        number: u64,
        /// Set if the incarnation was new here: what was applied of the older one.
        previous: Option<u64>,
    },
    /// Marks for inboxes or groups of the destination.
    Marks(Vec<RemoteMark>),
    /// They are committed.
    MarksApplied(Vec<RemoteMark>),
    /// Sessions of `from` want to know of changes of these users; replaces what
    /// was said before for this session. Bounded by the limit of subscriptions.
    Watch {
        /// Who wants to know.
        watcher: SessionId,
        /// Where its changes go.
        watcher_user: UserId,
        /// Of whom.
        users: Vec<UserId>,
    },
    /// A watched user came or went.
    PresenceChanged {
        /// Who wanted to know.
        watcher: SessionId,
        /// Where it is attached.
        watcher_user: UserId,
        /// What changed.
        presence: frame::Presence,
    },
    /// Somebody types to a user of the destination, or in a group with members there.
    Typing {
        /// Who.
        sender: UserId,
        /// As the receiver sees it: the sender, or a group.
        conversation: ConversationId,
        /// The receiver; none for a group.
        to: Option<UserId>,
        /// Begins or ends.
        on: bool,
    },
    /// The cluster's settings, from shard 0.
    Settings(command::Settings),
}

/// An entry of an outbox on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxItem {
    /// What the destination's log will say.
    pub deliver: command::Deliver,
    /// The stored body; empty if there is none.
    pub body: Bytes,
}

/// Where something lives: short for the two steps that everybody takes.
#[must_use]
pub fn home_of(conversation: ConversationId) -> InboxKey {
    InboxKey(chat_wire::ids::mix64(conversation.0))
}
