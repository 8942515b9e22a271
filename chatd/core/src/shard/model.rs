//! Random commands over several shards, with a transport that shuffles, repeats, drops
//! and delays, and clocks that jump; compared with a model that knows only who said
//! what to whom, and who was where when it was said.

use bytes::Bytes;
use chat_wire::{
    frame::{self, Role, group_change::Kind as Change},
    ids::{ConversationId, GroupId, MsgId, ShardId},
    limits::AFTER_AHEAD_MS,
};
use proptest::{collection::vec, prelude::*};
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    command,
    message::{HistoryFrom, OutboxItem},
    shard::{
        Answer,
        keys::{self, Mark},
        outbox,
        world::{Person, START_MS, World, conversation, member, person, text},
    },
    store::memory::MemoryStore,
};

const SHARDS: u16 = 3;
const PEOPLE: usize = 6;

/// A message that was accepted, as it is sent again.
#[derive(Clone, Debug)]
struct Accepted {
    send: command::Send,
    text: String,
    first: frame::Sent,
}

#[derive(Debug)]
struct Model {
    world: World,
    people: Vec<Person>,
    accepted: Vec<Accepted>,
    /// What everybody must have in the end, by conversation.
    entitled: BTreeMap<(usize, ConversationId), Vec<(MsgId, String)>>,
    members: BTreeMap<GroupId, BTreeMap<usize, Role>>,
    groups: Vec<GroupId>,
    /// Entries that were on their way before, to come again at any time.
    stale: Vec<(ShardId, OutboxItem)>,
    marks: BTreeMap<(usize, ConversationId), (i64, i64)>,
    incarnations: u64,
}

type Act = (u8, u8, u8, u8);

impl Model {
    fn new() -> Self {
        let people: Vec<_> = (0..PEOPLE).map(|n| person(&format!("p{n}"))).collect();
        let mut world = World::new(SHARDS);
        for who in &people {
            world.attach(who, 1, None);
        }
        Self {
            world,
            people,
            accepted: Vec::new(),
            entitled: BTreeMap::new(),
            members: BTreeMap::new(),
            groups: Vec::new(),
            stale: Vec::new(),
            marks: BTreeMap::new(),
            incarnations: 5000,
        }
    }

    fn person(&self, n: u8) -> usize {
        usize::from(n) % self.people.len()
    }

    fn group(&self, n: u8) -> Option<GroupId> {
        let at = usize::from(n) % self.groups.len().max(1);
        self.groups.get(at).copied()
    }

    fn act(&mut self, (kind, a, b, c): Act) {
        match kind {
            0..=3 => self.send(a, b, c),
            4 => self.retry(a),
            5..=6 => self.send_group(a, b),
            7 => self.create(a, b, c),
            8 => self.change_group(a, b, c),
            9..=11 => self.carry(a, b, c),
            12 => self.repeat_stale(a),
            13 => self.ack(a, b, c),
            14 => {
                self.world.ts_ms = START_MS + u64::from(a) * 1000 - u64::from(b) * 500;
            }
            15 => {
                self.incarnations += 1;
                let incarnation = self.incarnations;
                let shard = ShardId(u16::from(a) % SHARDS + 1);
                let command = command::Incarnation { incarnation };
                self.world.apply(shard, command, &Bytes::new());
            }
            _ => self.world.settle_marks(),
        }
    }

    fn expect(&mut self, who: usize, conversation: ConversationId, msg_id: MsgId, text: &str) {
        self.entitled
            .entry((who, conversation))
            .or_default()
            .push((msg_id, text.to_owned()));
    }

    fn send(&mut self, from: u8, to: u8, after: u8) {
        let (from, to) = (self.person(from), self.person(to));
        let (sender, receiver) = (self.people[from].clone(), self.people[to].clone());
        let id = self.world.id();
        let mut send = self.world.send_command(&sender, receiver.user().0, id);
        // The sender has seen something of this conversation, perhaps.
        if after.is_multiple_of(2) {
            let newest = HistoryFrom::Before(MsgId(0));
            let page = self
                .world
                .history(&sender, conversation(&receiver), newest, 1);
            send.after = page.next.0;
        }
        let said = format!("{}", self.accepted.len());
        let effects = self.world.commit_send(&send, &said);
        let Some(Answer::Sent(first)) = effects.answer else {
            panic!("refused: {:?}", effects.answer)
        };
        assert!(!first.duplicate);
        // Clocks jump here by minutes; what is promised is for seconds.
        let ahead_ms = MsgId(send.after).unix_ms().saturating_sub(self.world.ts_ms);
        assert!(first.msg_id > send.after || ahead_ms > AFTER_AHEAD_MS);
        let msg_id = MsgId(first.msg_id);
        self.expect(from, conversation(&receiver), msg_id, &said);
        if from != to {
            self.expect(to, conversation(&sender), msg_id, &said);
        }
        self.accepted.push(Accepted {
            send,
            text: said,
            first,
        });
    }

    fn send_group(&mut self, from: u8, group: u8) {
        let from = self.person(from);
        let Some(group) = self.group(group) else {
            return;
        };
        let id = self.world.id();
        let send = self.world.send_command(&self.people[from], group.0, id);
        let said = format!("{}", self.accepted.len());
        let effects = self.world.commit_send(&send, &said);
        let is_member = self.members[&group].contains_key(&from);
        let Some(Answer::Sent(first)) = effects.answer else {
            assert!(!is_member, "a member was refused: {:?}", effects.answer);
            return;
        };
        assert!(is_member && !first.duplicate);
        for who in self.members[&group].clone().into_keys() {
            self.expect(who, group.into(), MsgId(first.msg_id), &said);
        }
        self.accepted.push(Accepted {
            send,
            text: said,
            first,
        });
    }

    fn retry(&mut self, n: u8) {
        if self.accepted.is_empty() {
            return;
        }
        let Accepted { send, text, first } =
            self.accepted[usize::from(n) % self.accepted.len()].clone();
        let effects = self.world.commit_send(&send, &text);
        assert_eq!(
            effects.answer,
            Some(Answer::Sent(frame::Sent {
                duplicate: true,
                ..first
            }))
        );
    }

    fn create(&mut self, owner: u8, b: u8, c: u8) {
        if self.groups.len() == 3 {
            return;
        }
        let owner = self.person(owner);
        let members: BTreeSet<usize> = [self.person(b), self.person(c)].into();
        let people: Vec<_> = members.iter().map(|n| self.people[*n].clone()).collect();
        let creator = self.people[owner].clone();
        let group = self
            .world
            .create(&creator, &people.iter().collect::<Vec<_>>());
        let mut roles: BTreeMap<_, _> = members.iter().map(|n| (*n, Role::Member)).collect();
        roles.insert(owner, Role::Owner);
        self.groups.push(group);
        self.members.insert(group, roles);
        let names: Vec<_> = people.iter().map(|who| who.name.clone()).collect();
        self.tell(
            group,
            &format!("Created {}", names.join(" ")),
            &BTreeSet::new(),
        );
    }

    /// The group's newest event goes to all who are in it, and to `also`.
    fn tell(&mut self, group: GroupId, said: &str, also: &BTreeSet<usize>) {
        let home = self.world.home(group.key());
        let key = keys::group_head(group);
        let row = self.world.row(&key, group.key()).unwrap();
        let head: keys::GroupHead = keys::decode(&key, &row).unwrap();
        assert_eq!(MsgId(head.msg_id).shard(), home);
        let mut told: BTreeSet<_> = self.members[&group].keys().copied().collect();
        told.extend(also);
        for who in told {
            self.expect(who, group.into(), MsgId(head.msg_id), said);
        }
    }

    fn change_group(&mut self, actor: u8, group: u8, what: u8) {
        let (actor, target) = (self.person(actor), self.person(what / 4));
        let Some(group) = self.group(group) else {
            return;
        };
        let change =
            [Change::Added, Change::Removed, Change::Left, Change::Role][what as usize % 4];
        let named: Vec<usize> = if change == Change::Left {
            vec![]
        } else {
            vec![target]
        };
        let id = self.world.id();
        let op = command::GroupOp {
            members: named
                .iter()
                .map(|n| member(&self.people[*n], Role::Admin))
                .collect(),
            ..self
                .world
                .op_command(&self.people[actor], group, id, change)
        };
        let Some(Answer::Group(first)) = self.world.commit_op(&op).answer else {
            return;
        };
        let again = self.world.commit_op(&op).answer;
        assert!(matches!(again, Some(Answer::Group(state)) if state.duplicate));
        let members = self.members.get_mut(&group).unwrap();
        assert!(members.contains_key(&actor), "only members change a group");
        let before: BTreeSet<_> = members.keys().copied().collect();
        match change {
            Change::Added => {
                members.entry(target).or_insert(Role::Member);
            }
            Change::Removed => {
                members.remove(&target).unwrap();
            }
            Change::Left => {
                members.remove(&actor).unwrap();
            }
            _ => {
                *members.get_mut(&target).unwrap() = Role::Admin;
            }
        }
        assert_eq!(first.members as usize, members.len());
        let owners = members
            .values()
            .filter(|role| **role == Role::Owner)
            .count();
        assert!(owners > 0 || members.is_empty(), "a group without an owner");
        if first.msg_id != 0 {
            let names: Vec<_> = named.iter().map(|n| self.people[*n].name.clone()).collect();
            let said = format!("{change:?} {}", names.join(" "));
            self.tell(group, &said, &before);
        }
    }

    fn carry(&mut self, from: u8, to: u8, how: u8) {
        let from = ShardId(u16::from(from) % SHARDS + 1);
        let to = ShardId(u16::from(to) % SHARDS + 1);
        let items = self.world.waiting(from, to);
        if items.is_empty() {
            return;
        }
        let item = items[usize::from(how) / 4 % items.len()].clone();
        match how % 4 {
            // Applied, but the answer is lost.
            0 => {
                self.world.apply(to, item.deliver.clone(), &item.body);
            }
            // Out of order, or the next one.
            1 => {
                self.world.deliver(to, &item);
            }
            2 => {
                for item in &items {
                    self.world.deliver(to, item);
                }
            }
            _ => {
                for item in items.iter().rev() {
                    self.world.apply(to, item.deliver.clone(), &item.body);
                }
            }
        }
        self.stale.push((to, item));
    }

    fn repeat_stale(&mut self, n: u8) {
        if self.stale.is_empty() {
            return;
        }
        let (to, item) = self.stale[usize::from(n) % self.stale.len()].clone();
        self.world.apply(to, item.deliver.clone(), &item.body);
    }

    fn ack(&mut self, who: u8, upto: u8, seen: u8) {
        let who = self.person(who);
        let person = self.people[who].clone();
        let inbox = self.world.inbox(&person);
        if inbox.is_empty() {
            return;
        }
        let upto = usize::from(upto) % inbox.len();
        let event = &inbox[upto];
        let id = event.header.msg_id.0;
        let seen = if seen.is_multiple_of(2) { id } else { 0 };
        let marks = [(event.header.conversation, id, seen)];
        self.world.ack(&person, 1, event.inbox_seq, &marks);
        self.check_marks();
    }

    /// Marks never fall, SEEN is never beyond DELIVERED, nor that beyond what came in.
    fn check_marks(&mut self) {
        for who in 0..self.people.len() {
            let person = self.people[who].clone();
            let inbox = self.world.inbox(&person);
            let mut last: BTreeMap<ConversationId, i64> = BTreeMap::new();
            for event in &inbox {
                let last = last.entry(event.header.conversation).or_default();
                if event.header.sender != person.user() {
                    *last = event.header.msg_id.0.max(*last);
                }
            }
            for (conversation, last) in last {
                let key = keys::mark(person.user().key(), conversation, person.user());
                let Some(row) = self.world.row(&key, person.user().key()) else {
                    continue;
                };
                let mark: Mark = keys::decode(&key, &row).unwrap();
                assert!(mark.seen <= mark.delivered && mark.delivered <= last);
                let old = self
                    .marks
                    .insert((who, conversation), (mark.delivered, mark.seen))
                    .unwrap_or_default();
                assert!(old.0 <= mark.delivered && old.1 <= mark.seen);
            }
        }
    }

    /// At rest everybody has exactly what they are entitled to.
    fn check(&mut self) {
        self.world.settle();
        self.check_marks();
        for (from, store) in &self.world.stores {
            for outbox in outbox::outboxes(store).unwrap() {
                assert_eq!(outbox.bytes, 0, "outbox of {from}");
            }
        }
        for (who, person) in self.people.iter().enumerate() {
            let inbox = self.world.inbox(person);
            let mut got: BTreeMap<ConversationId, Vec<(MsgId, String)>> = BTreeMap::new();
            for (n, event) in inbox.iter().enumerate() {
                assert_eq!(event.inbox_seq, n as u64 + 1);
                got.entry(event.header.conversation)
                    .or_default()
                    .push((event.header.msg_id, text(event)));
            }
            let conversations: BTreeSet<_> = got
                .keys()
                .chain(
                    self.entitled
                        .keys()
                        .filter(|(n, _)| *n == who)
                        .map(|(_, conversation)| conversation),
                )
                .copied()
                .collect();
            for id in conversations {
                let mut got = got.remove(&id).unwrap_or_default();
                let mut expected = self.entitled.get(&(who, id)).cloned().unwrap_or_default();
                if id.group().is_some() {
                    // A group has one order, which every member sees.
                    assert_eq!(got, expected, "{} in {id}", person.name);
                }
                got.sort_unstable();
                expected.sort_unstable();
                assert_eq!(got, expected, "{} with {id}", person.name);
                let all = HistoryFrom::After(MsgId(0));
                let history: Vec<_> = self
                    .world
                    .history(person, id, all, 1000)
                    .events
                    .iter()
                    .map(|event| (event.header.msg_id, text(event)))
                    .collect();
                assert_eq!(history, expected);
            }
        }
        for ((who, conversation), mark) in &self.marks {
            let person = &self.people[*who];
            let Some(peer) = conversation.user().filter(|peer| *peer != person.user()) else {
                continue;
            };
            let key = keys::mark(peer.key(), person.user().into(), person.user());
            let row = self.world.row(&key, peer.key()).unwrap();
            let there: Mark = keys::decode(&key, &row).unwrap();
            assert_eq!((there.delivered, there.seen), *mark, "the peer's copy");
        }
    }
}

fn rows_of(store: &MemoryStore) -> Vec<(crate::store::Key, crate::store::Row)> {
    store.rows().map(|(key, row)| (*key, row.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn everybody_gets_exactly_what_was_said_to_them_whatever_the_transport_does(
        acts in vec((0..17_u8, any::<u8>(), any::<u8>(), any::<u8>()), 1..150),
        cuts in vec(1..6_usize, 1..8),
    ) {
        let mut model = Model::new();
        for act in acts {
            model.act(act);
        }
        model.check();
        // The same log in other entries, over other caches, has the same rows.
        for (shard, store) in &model.world.stores {
            for (cuts, slots) in [(&cuts[..], 1), (&[1][..], 4096)] {
                let again = model.world.replayed(*shard, cuts, slots);
                prop_assert_eq!(rows_of(&again), rows_of(store));
            }
        }
    }
}
