//! Shards in memory for the tests of their rules: every command goes through an
//! encoded entry, the log and the store, as in a node; what leaves a shard is carried
//! by hand, or by [`World::settle`].

use bytes::Bytes;
use chat_wire::{
    body,
    error::Code,
    event::Event,
    frame::{self, Role, group_change},
    ids::{
        ClientId, ConversationId, DeviceId, GroupId, InboxKey, MsgId, ReplicaId, ShardId, UserId,
    },
};
use prost::Message as _;
use std::collections::BTreeMap;

use crate::{
    command::{self, BatchBuilder, Command, RemoteMark, Rules},
    message::{HistoryFrom, OutboxItem},
    placement::map::ShardMap,
    shard::{
        Answer, Cache, Context, Effects, Entry, Notice,
        group::naming,
        inbox::read::{self, History},
        marks, outbox,
    },
    store::{Key, LogEntry, ReadRows, Row, ShardStore, memory::MemoryStore},
};

pub(crate) const START_MS: u64 = 1_800_000_000_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Person {
    pub(crate) app: &'static str,
    pub(crate) name: String,
}

impl Person {
    pub(crate) fn user(&self) -> UserId {
        UserId::of(self.app, &self.name)
    }
}

pub(crate) fn person(name: &str) -> Person {
    Person {
        app: "default",
        name: name.into(),
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) settings: command::Settings,
    pub(crate) stores: BTreeMap<ShardId, MemoryStore>,
    caches: BTreeMap<ShardId, Cache>,
    pub(crate) ts_ms: u64,
    pub(crate) epoch: u32,
    /// Those of the entries that are written.
    pub(crate) rules: Rules,
    pub(crate) events: Vec<super::NewEvent>,
    drawn: u64,
}

impl World {
    /// Shards that know their settings.
    pub(crate) fn new(shards: u16) -> Self {
        Self::with(command::Settings {
            version: 1,
            generation: 9,
            epoch: 1,
            shards: u32::from(shards),
            group_members: 50,
            devices: 3,
            content_bytes: 65536,
            mentions: 100,
            outbox_bytes: 1 << 20,
            known_users_only: false,
            incarnation: 0,
        })
    }

    pub(crate) fn with(settings: command::Settings) -> Self {
        let mut world = Self::bare(settings);
        let shards: Vec<_> = world.stores.keys().copied().collect();
        for shard in shards {
            let settings = command::Settings {
                incarnation: 1000 + u64::from(shard.0),
                ..world.settings.clone()
            };
            world.apply(shard, settings, &Bytes::new());
        }
        world
    }

    /// Shards that know nothing yet.
    pub(crate) fn bare(settings: command::Settings) -> Self {
        let shards = (1..=u16::try_from(settings.shards).unwrap()).map(ShardId);
        Self {
            stores: shards
                .clone()
                .map(|shard| (shard, MemoryStore::new(ReplicaId(1))))
                .collect(),
            // Few slots, so that rows are also read where they stand.
            caches: shards.map(|shard| (shard, Cache::new(8))).collect(),
            ts_ms: START_MS,
            epoch: settings.epoch,
            rules: Rules::WRITTEN,
            settings,
            events: Vec::new(),
            drawn: 0,
        }
    }

    pub(crate) fn home(&self, key: InboxKey) -> ShardId {
        ShardMap::even_owner(u16::try_from(self.settings.shards).unwrap(), key)
    }

    pub(crate) fn store_of(&self, user: UserId) -> &MemoryStore {
        &self.stores[&self.home(user.key())]
    }

    pub(crate) fn row(&self, key: &Key, home: InboxKey) -> Option<Row> {
        self.stores[&self.home(home)].get(key).unwrap()
    }

    /// An id of the present time.
    pub(crate) fn id(&mut self) -> ClientId {
        self.id_at(self.ts_ms)
    }

    pub(crate) fn id_at(&mut self, ms: u64) -> ClientId {
        self.drawn += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        id[6] = 0x70;
        id[8..].copy_from_slice(&self.drawn.to_be_bytes());
        id[8] |= 0x80;
        ClientId::from_slice(&id).unwrap()
    }

    /// Commits one command.
    pub(crate) fn apply(
        &mut self,
        shard: ShardId,
        command: impl Into<Command>,
        body: &Bytes,
    ) -> Effects {
        self.apply_all(shard, vec![(command.into(), body.clone())])
            .pop()
            .unwrap()
    }

    /// Commits one entry.
    pub(crate) fn apply_all(
        &mut self,
        shard: ShardId,
        commands: Vec<(Command, Bytes)>,
    ) -> Vec<Effects> {
        let mut builder = BatchBuilder::new(self.ts_ms, self.epoch);
        for (command, body) in &commands {
            builder.push(command, body);
        }
        let payload = command::in_format(builder.finish(), self.rules);
        let batch = command::decode(&payload).unwrap();
        let store = self.stores.get_mut(&shard).unwrap();
        let position = store.applied() + 1;
        store.append(&[LogEntry {
            position,
            term: 1,
            kind: 0,
            payload: payload.clone(),
        }]);
        let cache = self.caches.get_mut(&shard).unwrap();
        let mut entry = Entry::new(&*store, cache, payload);
        let mut all = Vec::new();
        for item in batch.items.iter().flatten() {
            let context = Context {
                shard,
                position,
                rules: batch.rules,
                ts_ms: batch.ts_ms,
                epoch: batch.epoch,
                body_offset: item.body_offset,
                body: &item.body,
            };
            let effects = entry.run(&context, &item.command).unwrap();
            self.events.extend(effects.events.iter().cloned());
            all.push(effects);
        }
        let writes = entry.finish();
        store.apply(position, writes);
        all
    }

    /// What the log of a shard gives when consecutive commands of one time share
    /// entries of these sizes, over a cache of so many slots.
    pub(crate) fn replayed(&self, shard: ShardId, cuts: &[usize], slots: usize) -> MemoryStore {
        let mut world = Self::bare(self.settings.clone());
        world.caches.insert(shard, Cache::new(slots));
        let mut sizes = cuts.iter().copied().cycle();
        let mut part: Vec<(Command, Bytes)> = Vec::new();
        let mut size = sizes.next().unwrap();
        for entry in self.stores[&shard].log() {
            let batch = command::decode(&entry.payload).unwrap();
            let now = (batch.ts_ms, batch.epoch, batch.rules);
            if part.len() >= size || (world.ts_ms, world.epoch, world.rules) != now {
                if !part.is_empty() {
                    world.apply_all(shard, std::mem::take(&mut part));
                }
                size = sizes.next().unwrap();
                (world.ts_ms, world.epoch, world.rules) = now;
            }
            part.extend(
                batch
                    .items
                    .into_iter()
                    .flatten()
                    .map(|item| (item.command, item.body)),
            );
        }
        if !part.is_empty() {
            world.apply_all(shard, part);
        }
        world.stores.remove(&shard).unwrap()
    }

    /// Writes rows as no command would.
    pub(crate) fn write(&mut self, shard: ShardId, writes: Vec<crate::store::Write>) {
        let store = self.stores.get_mut(&shard).unwrap();
        let position = store.applied() + 1;
        store.append(&[LogEntry {
            position,
            term: 1,
            kind: 0,
            payload: Bytes::new(),
        }]);
        store.apply(position, writes);
        self.caches.insert(shard, Cache::new(8));
    }

    /// Puts an earlier state of a shard in place of the present one.
    pub(crate) fn replace(&mut self, shard: ShardId, store: MemoryStore) {
        self.stores.insert(shard, store);
        self.caches.insert(shard, Cache::new(8));
    }

    /// The same, of all shards.
    pub(crate) fn restore(&mut self, stores: BTreeMap<ShardId, MemoryStore>) {
        for (shard, store) in stores {
            self.replace(shard, store);
        }
    }

    pub(crate) fn send_command(&self, from: &Person, to: u64, id: ClientId) -> command::Send {
        command::Send {
            app: from.app.into(),
            sender: from.user().0,
            sender_name: from.name.clone(),
            client_id: Bytes::copy_from_slice(&id.0),
            to,
            digest: 7,
            ..Default::default()
        }
    }

    pub(crate) fn commit_send(&mut self, send: &command::Send, text: &str) -> Effects {
        let shard = self.home(InboxKey(chat_wire::ids::mix64(send.to)));
        self.apply(shard, send.clone(), &message(text))
    }

    /// Sends by name, with a fresh id.
    pub(crate) fn send(&mut self, from: &Person, to: &Person, text: &str) -> frame::Sent {
        let id = self.id();
        let send = command::Send {
            to_name: Some(to.name.clone()),
            ..self.send_command(from, to.user().0, id)
        };
        sent(self.commit_send(&send, text))
    }

    /// Sends to a group, with a fresh id.
    pub(crate) fn send_group(&mut self, from: &Person, group: GroupId, text: &str) -> Effects {
        let id = self.id();
        let send = self.send_command(from, group.0, id);
        self.commit_send(&send, text)
    }

    pub(crate) fn attach(&mut self, who: &Person, device: u64, resume_seq: Option<u64>) -> Effects {
        let attach = command::Attach {
            app: who.app.into(),
            name: who.name.clone(),
            user: who.user().0,
            device,
            resume_seq,
            generation: 0,
        };
        self.apply(self.home(who.user().key()), attach, &Bytes::new())
    }

    pub(crate) fn ack(
        &mut self,
        who: &Person,
        device: u64,
        cursor: u64,
        marks: &[(ConversationId, i64, i64)],
    ) -> Effects {
        let acks = command::Acks {
            devices: vec![command::DeviceAck {
                user: who.user().0,
                device,
                cursor,
                marks: marks
                    .iter()
                    .map(
                        |(conversation, delivered, seen)| command::ConversationMark {
                            conversation: conversation.0,
                            delivered: *delivered,
                            seen: *seen,
                        },
                    )
                    .collect(),
            }],
        };
        self.apply(self.home(who.user().key()), acks, &Bytes::new())
    }

    pub(crate) fn op_command(
        &self,
        actor: &Person,
        group: GroupId,
        id: ClientId,
        change: group_change::Kind,
    ) -> command::GroupOp {
        command::GroupOp {
            app: actor.app.into(),
            actor: actor.user().0,
            actor_name: actor.name.clone(),
            op_id: Bytes::copy_from_slice(&id.0),
            group: group.0,
            change: change.into(),
            digest: 3,
            ..Default::default()
        }
    }

    pub(crate) fn commit_op(&mut self, op: &command::GroupOp) -> Effects {
        let change = frame::GroupChange {
            kind: op.change,
            members: op.members.clone(),
            name: op.name.clone(),
        };
        let body = body::seal(body::SCHEME_GROUP_CHANGE, [2; 16], &change.encode_to_vec());
        let home = self.home(GroupId(op.group).key());
        let body = naming::named(&self.stores[&home], op, body).unwrap();
        self.apply(home, op.clone(), &body)
    }

    /// An operation with a fresh id on these people, as a session makes it: a removal
    /// names them by id only.
    pub(crate) fn op(
        &mut self,
        actor: &Person,
        group: GroupId,
        change: group_change::Kind,
        people: &[&Person],
    ) -> Effects {
        let id = self.id();
        let op = command::GroupOp {
            members: people
                .iter()
                .map(|who| match change {
                    group_change::Kind::Removed => by_id(who, Role::Unspecified),
                    _ => member(who, Role::Member),
                })
                .collect(),
            ..self.op_command(actor, group, id, change)
        };
        self.commit_op(&op)
    }

    pub(crate) fn role(
        &mut self,
        actor: &Person,
        group: GroupId,
        who: &Person,
        role: Role,
    ) -> Effects {
        let id = self.id();
        let op = command::GroupOp {
            members: vec![by_id(who, role)],
            ..self.op_command(actor, group, id, group_change::Kind::Role)
        };
        self.commit_op(&op)
    }

    /// Makes a group.
    pub(crate) fn create(&mut self, owner: &Person, people: &[&Person]) -> GroupId {
        let id = self.id();
        let group = GroupId::of(owner.user(), id);
        let op = command::GroupOp {
            name: "the group".into(),
            members: people.iter().map(|who| member(who, Role::Member)).collect(),
            ..self.op_command(owner, group, id, group_change::Kind::Created)
        };
        assert!(matches!(self.commit_op(&op).answer, Some(Answer::Group(_))));
        group
    }

    /// Everything that waits in the outbox of `from` for `to`.
    pub(crate) fn waiting(&self, from: ShardId, to: ShardId) -> Vec<OutboxItem> {
        outbox::entries(&self.stores[&from], from, to, 0, 1000, usize::MAX).unwrap()
    }

    /// Carries one entry of an outbox, and what its destination says back.
    pub(crate) fn deliver(&mut self, to: ShardId, item: &OutboxItem) -> Effects {
        let from = ShardId(u16::try_from(item.deliver.source).unwrap());
        let effects = self.apply(to, item.deliver.clone(), &item.body);
        for notice in &effects.notices {
            if let Notice::Applied {
                incarnation,
                number,
                previous,
                ..
            } = notice
            {
                if let Some(applied) = previous {
                    let handshake = command::Handshake {
                        destination: u32::from(to.0),
                        incarnation: *incarnation,
                        applied: *applied,
                    };
                    self.apply(from, handshake, &Bytes::new());
                }
                let confirm = command::OutboxConfirm {
                    destination: u32::from(to.0),
                    incarnation: *incarnation,
                    number: *number,
                };
                self.apply(from, confirm, &Bytes::new());
            }
        }
        effects
    }

    /// Carries marks to their destinations until none waits.
    pub(crate) fn settle_marks(&mut self) {
        let shards: Vec<_> = self.stores.keys().copied().collect();
        for shard in shards {
            for (to, mark) in marks::pending(&self.stores[&shard], None, 1000).unwrap() {
                let marks = vec![mark];
                let effects = self.apply(
                    to,
                    command::Marks {
                        marks: marks.clone(),
                    },
                    &Bytes::new(),
                );
                assert_eq!(effects.notices, [Notice::MarksApplied(marks.clone())]);
                self.apply(shard, command::MarksConfirm { marks }, &Bytes::new());
            }
            assert_eq!(marks::pending(&self.stores[&shard], None, 1), Ok(vec![]));
        }
    }

    /// Carries everything until nothing waits.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut quiet = true;
            let shards: Vec<_> = self.stores.keys().copied().collect();
            for from in shards {
                for outbox in outbox::outboxes(&self.stores[&from]).unwrap() {
                    for item in self.waiting(from, outbox.destination) {
                        quiet = false;
                        self.deliver(outbox.destination, &item);
                    }
                }
            }
            if quiet {
                break;
            }
        }
        self.settle_marks();
    }

    pub(crate) fn inbox(&self, who: &Person) -> Vec<Event> {
        read::events(self.store_of(who.user()), who.user(), 0, 10_000, usize::MAX).unwrap()
    }

    /// What an inbox says, in its order.
    pub(crate) fn texts(&self, who: &Person) -> Vec<String> {
        self.inbox(who).iter().map(text).collect()
    }

    pub(crate) fn history(
        &self,
        who: &Person,
        conversation: ConversationId,
        from: HistoryFrom,
        limit: usize,
    ) -> History {
        let store = self.store_of(who.user());
        let measure = |event: &Event| event.body.content.len();
        read::history(
            store,
            who.user(),
            conversation,
            from,
            limit,
            1 << 20,
            measure,
        )
        .unwrap()
    }
}

pub(crate) fn member(who: &Person, role: Role) -> frame::Member {
    frame::Member {
        user: who.user().0,
        name: who.name.clone(),
        role: role.into(),
    }
}

/// As removals and roles name somebody.
fn by_id(who: &Person, role: Role) -> frame::Member {
    frame::Member {
        name: String::new(),
        ..member(who, role)
    }
}

pub(crate) fn message(text: &str) -> Bytes {
    let message = frame::Message {
        content: Some(frame::Content {
            kind: Some(frame::content::Kind::Text(text.into())),
        }),
        ..Default::default()
    };
    body::seal(body::SCHEME_MESSAGE, [1; 16], &message.encode_to_vec())
}

/// A message's text, or what a change did to whom.
pub(crate) fn text(event: &Event) -> String {
    match event.to_frame().unwrap().what.unwrap() {
        frame::event::What::Message(message) => match message.content.unwrap().kind.unwrap() {
            frame::content::Kind::Text(text) => text,
            other => panic!("no text: {other:?}"),
        },
        frame::event::What::GroupChange(change) => {
            let names: Vec<_> = change.members.iter().map(|m| m.name.clone()).collect();
            format!("{:?} {}", change.kind(), names.join(" "))
        }
    }
}

pub(crate) fn sent(effects: Effects) -> frame::Sent {
    match effects.answer {
        Some(Answer::Sent(sent)) => sent,
        other => panic!("not SENT: {other:?}"),
    }
}

pub(crate) fn group_state(effects: Effects) -> frame::GroupState {
    match effects.answer {
        Some(Answer::Group(state)) => state,
        other => panic!("no GROUP_STATE: {other:?}"),
    }
}

/// The code of a refusal, which leaves nothing behind.
pub(crate) fn refused(effects: &Effects) -> Code {
    assert!(effects.events.is_empty() && effects.outbox.is_empty());
    match &effects.answer {
        Some(Answer::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn conversation(who: &Person) -> ConversationId {
    who.user().into()
}

pub(crate) fn device(number: u64) -> DeviceId {
    DeviceId(number)
}

pub(crate) fn id_of(sent: &frame::Sent) -> MsgId {
    MsgId(sent.msg_id)
}

/// All marks of a user and the receipts that told of them.
pub(crate) fn remote(target: u64, user: UserId, delivered: i64, seen: i64) -> RemoteMark {
    RemoteMark {
        target,
        user: user.0,
        delivered,
        seen,
    }
}
