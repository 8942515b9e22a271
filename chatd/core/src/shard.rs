//! The shard as a state machine: `step(command, found)` says which rows it needs,
//! or what the command does. Pure: it reads no clock, randomness, settings or cache.
//! Leader and followers run the same function over the same log and get the same
//! writes; only the leader's answers and deliveries leave the node.

use bytes::Bytes;
use chat_wire::{
    error::Refusal,
    event::Header,
    frame,
    ids::{ClientId, DeviceId, InboxKey, ShardId, UserId},
};

use crate::{
    command::{self, RemoteMark, Rules},
    store::{Key, Range, Unreadable, Write},
};

pub mod conversations;
pub mod entry;
pub mod found;
pub mod group;
pub mod inbox;
pub mod keys;
pub mod marks;
pub mod outbox;
pub mod roster;
pub mod settings;
pub mod step;

mod attach;
mod dedup;
#[cfg(test)]
mod model;
mod number;
#[cfg(test)]
mod world;

pub use entry::{Cache, Entry};
pub use found::{Found, run};
pub use step::step;

/// What `step` asks for before it can go on. Bounded: see each command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Rows.
    pub keys: Vec<Key>,
    /// Bounded ranges.
    pub ranges: Vec<Range>,
    /// Ranges of posting families that are only counted.
    pub counts: Vec<(Key, Key)>,
}

/// What a command does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// Rows to write, in order; a later one of the same key wins.
    pub writes: Vec<Write>,
    /// For whoever waits for the command; none for commands nobody waits for.
    pub answer: Option<Answer>,
    /// New events of inboxes here, for live sessions. The body is the command's.
    pub events: Vec<NewEvent>,
    /// New entries of outboxes, for their destinations. The body is the command's.
    pub outbox: Vec<NewOutboxEntry>,
    /// Marks that changed, for live sessions: RECEIPT.
    pub receipts: Vec<NewReceipt>,
    /// Marks on their way to other shards (durable as pending rows).
    pub pending: Vec<(ShardId, RemoteMark)>,
    /// Marks of group members that changed here, for those who follow the group.
    pub member_marks: Vec<RemoteMark>,
    /// What the host must know.
    pub notices: Vec<Notice>,
    /// How far it went: for its price, and for nothing else.
    pub reach: Reach,
}

/// What a command's price follows from beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Members of the group.
    pub members: u32,
    /// Inboxes that were made.
    pub inboxes: u32,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To ATTACH.
    Attached {
        /// Number of the newest event.
        head: u64,
        /// The device's cursor as it now stands.
        cursor: u64,
        /// The first event that can still be read (1 if nothing is gone).
        oldest: u64,
        /// Version of the newest mark.
        marks_version: u64,
        /// The device that made room for this one: its session ends.
        dropped: Option<DeviceId>,
        /// The device was known before this command.
        known: bool,
    },
    /// To SEND.
    Sent(frame::Sent),
    /// To a group operation.
    Group(frame::GroupState),
    /// To anything. No row was written, unless the command says otherwise.
    Refused(Refusal),
}

/// An event that an inbox got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Whose inbox.
    pub user: UserId,
    /// Its number there.
    pub inbox_seq: u64,
    /// Its header.
    pub header: Header,
}

/// An entry that an outbox got.
#[derive(Clone, Debug, PartialEq)]
pub struct NewOutboxEntry {
    /// For whom.
    pub destination: ShardId,
    /// What the destination's log will say.
    pub deliver: command::Deliver,
}

/// A mark of an inbox that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReceipt {
    /// Whose inbox.
    pub inbox: UserId,
    /// What it says, with versions.
    pub receipt: frame::Receipt,
}

/// What the host must know beside the answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The cluster's settings changed (shard 0), or this shard's copy did.
    Settings(command::Settings),
    /// Freeze everything before this entry.
    Flush,
    /// The command repeated one that had been applied.
    Duplicate {
        /// Of which id; none for an outbox entry.
        id: Option<ClientId>,
    },
    /// An outbox of `source` is applied up to `number`.
    Applied {
        /// Whose.
        source: ShardId,
        /// Which incarnation.
        incarnation: u64,
        /// Up to here.
        number: u64,
        /// Of the incarnation before, if this one was new.
        previous: Option<u64>,
    },
    /// Marks from elsewhere are applied and can be confirmed to their sources.
    MarksApplied(Vec<RemoteMark>),
    /// An inbox has a new floor.
    Floor {
        /// Which.
        inbox: InboxKey,
        /// The first event that can still be read.
        oldest_seq: u64,
    },
    /// A roster row or sent copy was refused: the id belongs to another name.
    NameCollision {
        /// Which.
        user: UserId,
    },
    /// This shard had lost what it had confirmed to `source`: entries in between
    /// never arrive. To be counted as lost.
    OutboxGap {
        /// Whose outbox.
        source: ShardId,
        /// The first entry that is gone.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// An inbox has no number left for an event: it is not delivered.
    Undeliverable {
        /// Whose.
        user: UserId,
    },
}

/// Either what a command needs first, or what it does.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Call again with these found.
    Needs(Needs),
    /// Done.
    Effects(Box<Effects>),
    /// A row that was found has no value of its kind: applying stops here.
    Unreadable(Unreadable),
}

/// What a command finds in its own entry.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// This shard.
    pub shard: ShardId,
    /// The log entry's position.
    pub position: u64,
    /// The rules of the entry's format.
    pub rules: Rules,
    /// The proposer's clock, ms since 1970.
    pub ts_ms: u64,
    /// The epoch of the map it routed by.
    pub epoch: u32,
    /// Offset of the command's body in the entry's payload.
    pub body_offset: u32,
    /// The command's body.
    pub body: &'a Bytes,
}
