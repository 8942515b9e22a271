//! The transition function: which part of the shard a command belongs to, what it
//! sees there, and how it writes.

use bytes::{Bytes, BytesMut};
use chat_wire::{
    error::{Code, Refusal},
    ids::{ClientId, InboxKey, MsgId, ShardId, UserId},
    limits::Limits,
};
use prost::Message;

use crate::{
    command::{Command, Settings},
    placement::map::ShardMap,
    shard::{
        Answer, Context, Effects, Found, Needs, Notice, Step, attach, group, inbox, keys, marks,
        outbox, roster, settings,
    },
    store::{BodyPlace, Key, Range, Row, Unreadable, Value, Write},
};

/// Bytes of one destination's outbox if the settings do not say: 64 MiB.
pub const OUTBOX_BYTES: u64 = 64 << 20;

/// Says what a command needs to know first, or what it does. Call it again with what
/// it asked for; most commands ask once.
#[must_use]
pub fn step(context: &Context<'_>, command: &Command, found: &Found) -> Step {
    match attempt(context, command, found) {
        Ok(effects) => Step::Effects(Box::new(effects)),
        Err(Stop::Needs(needs)) => Step::Needs(needs),
        Err(Stop::Refused(refusal)) => Step::Effects(Box::new(Effects {
            answer: Some(Answer::Refused(refusal)),
            ..Effects::default()
        })),
        Err(Stop::Unreadable(unreadable)) => Step::Unreadable(unreadable),
    }
}

fn attempt(context: &Context<'_>, command: &Command, found: &Found) -> Stepped<Effects> {
    let shard = Shard::new(context, found)?;
    match command {
        Command::Bootstrap(bootstrap) => settings::bootstrap(&shard, bootstrap),
        Command::Settings(new) => settings::settings(&shard, new),
        Command::Flush(_) => Ok(Effects {
            notices: vec![Notice::Flush],
            ..Effects::default()
        }),
        Command::Floor(floor) => settings::floor(&shard, floor),
        Command::Incarnation(incarnation) => outbox::incarnation(&shard, incarnation),
        Command::Handshake(handshake) => outbox::handshake(&shard, handshake),
        Command::OutboxConfirm(confirm) => outbox::confirm(&shard, confirm),
        Command::MarksConfirm(confirm) => marks::confirm(&shard, confirm),
        Command::Attach(attach) => shard.ready().and_then(|()| attach::attach(&shard, attach)),
        Command::Send(send) => shard.ready().and_then(|()| inbox::send(&shard, send)),
        Command::GroupOp(op) => shard.ready().and_then(|()| group::op(&shard, op)),
        Command::Deliver(deliver) => shard
            .ready()
            .and_then(|()| roster::deliver(&shard, deliver)),
        Command::Acks(acks) => shard.ready().and_then(|()| marks::acks(&shard, acks)),
        Command::Marks(remote) => shard.ready().and_then(|()| marks::remote(&shard, remote)),
    }
}

/// Why a command is not done yet, or never will be.
#[derive(Debug)]
pub(crate) enum Stop {
    Needs(Needs),
    Refused(Refusal),
    Unreadable(Unreadable),
}

pub(crate) type Stepped<T> = Result<T, Stop>;

impl From<Unreadable> for Stop {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable)
    }
}

/// Ends the command with an answer and no write.
pub(crate) fn refuse<T>(code: Code, message: impl Into<String>) -> Stepped<T> {
    Err(Stop::Refused(Refusal::new(code, message)))
}

/// What a command sees of its shard.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    pub(crate) context: &'a Context<'a>,
    found: &'a Found,
    settings: Option<Settings>,
}

impl<'a> Shard<'a> {
    fn new(context: &'a Context<'a>, found: &'a Found) -> Stepped<Self> {
        let mut shard = Self {
            context,
            found,
            settings: None,
        };
        shard.want(&[keys::settings(), keys::incarnation(), keys::last()], &[])?;
        shard.settings = shard.read(&keys::settings())?;
        Ok(shard)
    }

    /// The settings as this log has them.
    pub(crate) const fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// Refuses commands before the shard knows its settings, or by another map.
    fn ready(&self) -> Stepped<()> {
        match &self.settings {
            None => refuse(
                Code::Unavailable,
                "this shard has not heard the cluster's settings yet: try again",
            ),
            Some(settings) if settings.epoch != self.context.epoch => refuse(
                Code::WrongShard,
                "the shard map changed while the request was on its way: try again",
            ),
            Some(_) => Ok(()),
        }
    }

    /// Asks for all that is missing of these, in one round. What is named twice is read
    /// twice: looking for it among thousands would cost more.
    pub(crate) fn want(&self, keys: &[Key], ranges: &[Range]) -> Stepped<()> {
        let mut needs = Needs::default();
        for key in keys {
            if self.found.row(key).is_none() {
                needs.keys.push(*key);
            }
        }
        for range in ranges {
            if self.found.range(range).is_none() {
                needs.ranges.push(*range);
            }
        }
        if needs.keys.is_empty() && needs.ranges.is_empty() {
            Ok(())
        } else {
            Err(Stop::Needs(needs))
        }
    }

    /// A row that was found, or asks for it.
    pub(crate) fn row(&self, key: &Key) -> Stepped<Option<&'a Row>> {
        self.found.row(key).ok_or_else(|| {
            Stop::Needs(Needs {
                keys: vec![*key],
                ..Needs::default()
            })
        })
    }

    /// A row's value that was found, or asks for it.
    pub(crate) fn read<M: Message + Default>(&self, key: &Key) -> Stepped<Option<M>> {
        match self.row(key)? {
            None => Ok(None),
            Some(row) => Ok(Some(keys::decode(key, row)?)),
        }
    }

    /// Rows that were found, or asks for them.
    pub(crate) fn range(&self, range: &Range) -> Stepped<&'a [(Key, Row)]> {
        self.found.range(range).ok_or_else(|| {
            Stop::Needs(Needs {
                ranges: vec![*range],
                ..Needs::default()
            })
        })
    }

    /// Which shard owns a key.
    pub(crate) fn shard_of(&self, key: InboxKey) -> ShardId {
        let shards = self.settings.as_ref().map_or(1, |settings| settings.shards);
        ShardMap::even_owner(u16::try_from(shards).unwrap_or(u16::MAX), key)
    }

    /// Refuses what belongs to another shard.
    pub(crate) fn owns(&self, key: InboxKey) -> Stepped<()> {
        if self.shard_of(key) == self.context.shard {
            Ok(())
        } else {
            refuse(
                Code::WrongShard,
                "this inbox or group lives in another shard: try again",
            )
        }
    }

    /// Members of a group at most.
    pub(crate) fn group_members(&self) -> u32 {
        self.limit(Limits::default().group_members, |settings| {
            settings.group_members
        })
    }

    /// Whether naming somebody makes no inbox. A log that has not heard of it says no.
    pub(crate) fn known_users_only(&self) -> bool {
        let settings = self.settings.as_ref();
        settings.is_some_and(|settings| settings.known_users_only)
    }

    /// Devices of a user at most.
    pub(crate) fn devices(&self) -> u32 {
        self.limit(Limits::default().devices, |settings| settings.devices)
    }

    /// Bytes of a body at most: the content's limit, and what stands around it.
    pub(crate) fn body_bytes(&self) -> usize {
        let content = self.limit(Limits::default().content_bytes, |settings| {
            settings.content_bytes
        });
        let mentions = self.limit(Limits::default().mentions, |settings| settings.mentions);
        content as usize + mentions as usize * 8 + 512
    }

    /// Bytes of one destination's outbox at most.
    pub(crate) fn outbox_bytes(&self) -> u64 {
        self.settings
            .as_ref()
            .map(|settings| settings.outbox_bytes)
            .filter(|bytes| *bytes != 0)
            .unwrap_or(OUTBOX_BYTES)
    }

    fn limit(&self, default: u32, of: impl Fn(&Settings) -> u32) -> u32 {
        self.settings
            .as_ref()
            .map(of)
            .filter(|limit| *limit != 0)
            .unwrap_or(default)
    }

    /// The place of this command's body.
    pub(crate) fn body(&self, group: u64, msg_id: MsgId) -> BodyPlace {
        BodyPlace {
            offset: self.context.body_offset,
            len: u32::try_from(self.context.body.len()).expect("a batch is far below 4 GiB"),
            group,
            order: msg_id.0.cast_unsigned(),
        }
    }
}

/// Collects what a command does. Small values share one buffer.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) effects: Effects,
    buffer: BytesMut,
}

impl Changes {
    /// Room for this many rows.
    pub(crate) fn for_rows(rows: usize) -> Self {
        let mut changes = Self::default();
        changes.effects.writes.reserve_exact(rows);
        changes.buffer.reserve(rows * 48);
        changes
    }

    /// Encodes a value without writing it.
    pub(crate) fn encode(&mut self, value: &impl Message) -> Bytes {
        let len = value.encoded_len();
        if self.buffer.capacity() < len {
            self.buffer.reserve(len.max(1024));
        }
        value.encode(&mut self.buffer).expect("a BytesMut grows");
        self.buffer.split().freeze()
    }

    /// Writes a small value.
    pub(crate) fn put(&mut self, key: Key, value: &impl Message) {
        let header = self.encode(value);
        self.put_bytes(key, header, None);
    }

    /// Writes a number.
    pub(crate) fn put_number(&mut self, key: Key, number: u64) {
        if self.buffer.capacity() < 8 {
            self.buffer.reserve(1024);
        }
        self.buffer.extend_from_slice(&number.to_be_bytes());
        let header = self.buffer.split().freeze();
        self.put_bytes(key, header, None);
    }

    /// Writes a value as it is, perhaps with a body.
    pub(crate) fn put_bytes(&mut self, key: Key, header: Bytes, body: Option<BodyPlace>) {
        self.effects.writes.push(Write {
            key,
            value: Some(Value { header, body }),
        });
    }

    /// Deletes a row.
    pub(crate) fn delete(&mut self, key: Key) {
        self.effects.writes.push(Write { key, value: None });
    }

    /// Keeps the last message id.
    pub(crate) fn put_last(&mut self, msg_id: MsgId) {
        self.put(keys::last(), &keys::Last { msg_id: msg_id.0 });
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.effects.notices.push(notice);
    }

    pub(crate) fn answer(mut self, answer: Answer) -> Effects {
        self.effects.answer = Some(answer);
        self.effects
    }
}

/// An id that a session checked: UUIDv7, 16 bytes.
pub(crate) fn client_id(bytes: &[u8]) -> Stepped<ClientId> {
    match ClientId::from_slice(bytes) {
        Some(id) => Ok(id),
        None => refuse(
            Code::InvalidArgument,
            "the id is no UUID of version 7: make one for every message",
        ),
    }
}

/// A user id that can be one.
pub(crate) fn user(id: u64) -> Stepped<UserId> {
    if id == 0 || id >> 63 != 0 {
        return refuse(Code::InvalidArgument, "that is not the id of a user");
    }
    Ok(UserId(id))
}

#[cfg(test)]
mod tests;
