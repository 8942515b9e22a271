//! Random writes, freezes, flushes and restarts; after each, every kind of read
//! must agree with an ordered map.

use crate::fixture::{Put, Rig};
use bytes::Bytes;
use logstore::{
    key::{Key, Order, Row, Shape},
    reads::{GroupHead, Span},
    segment::{Compression, SegmentOptions},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const INBOXES: [u64; 5] = [0, 1, 2, 0x8000_0000_0000_0000, u64::MAX];
const POSTINGS: [u8; 2] = [40, 41];

#[derive(Clone, Debug)]
enum Step {
    /// Rows (which inbox, which kind, which name, bytes of header, bytes of body).
    Write(Vec<(usize, u8, u8, usize, usize)>),
    /// One body in every inbox.
    FanOut(usize),
    /// A run of events in one inbox.
    Run(usize, usize),
    Delete(usize, u8),
    Freeze,
    Flush,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0..5_usize, 0..6_u8, 0..12_u8, 0..60_usize, 0..400_usize);
    let step = prop_oneof![
        8 => prop::collection::vec(row, 1..8).prop_map(Step::Write),
        4 => (0..2000_usize).prop_map(Step::FanOut),
        2 => (0..5_usize, 1..300_usize).prop_map(|(inbox, rows)| Step::Run(inbox, rows)),
        3 => (0..5_usize, 0..12_u8).prop_map(|(inbox, name)| Step::Delete(inbox, name)),
        3 => Just(Step::Freeze),
        3 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

/// The shard, and what it should hold.
struct Pair {
    rig: Rig,
    model: BTreeMap<Key, Row>,
    /// The last sequence by inbox and family, and of orders.
    heads: BTreeMap<(u64, u8), u64>,
    order: u64,
}

impl Pair {
    fn new(options: SegmentOptions) -> Self {
        let (model, heads) = (BTreeMap::new(), BTreeMap::new());
        Self {
            rig: Rig::new(options),
            model,
            heads,
            order: 0,
        }
    }

    fn put(&mut self, rows: Vec<Put>) {
        for (key, header, body) in &rows {
            let row = Row {
                header: header.clone().into(),
                body: body.clone().map(Bytes::from),
            };
            self.model.insert(*key, row);
        }
        self.rig.put(rows, &[]);
    }

    fn event(&mut self, inbox: u64, family: u8) -> Key {
        let head = self.heads.entry((inbox, family)).or_default();
        *head += 1;
        Key::append(inbox, family, *head)
    }

    fn posting(&mut self, inbox: u64, family: u8, group: u64) -> Put {
        self.order += 1 + group % 3;
        let place = self.order.wrapping_mul(0x9e37) % 1000;
        let key = Key::posting(inbox, family, group, self.order);
        (key, place.to_be_bytes().to_vec(), None)
    }

    fn row(&mut self, (inbox, kind, name, header, body): (usize, u8, u8, usize, usize)) -> Put {
        let inbox = INBOXES[inbox];
        let header = vec![name; header];
        let body = (body > 100).then(|| vec![kind; body]);
        match kind {
            0 => (
                Key::new(inbox, 3, &[name; 5][..usize::from(name % 6)]),
                header,
                body,
            ),
            1 => (self.event(inbox, 32), header, body),
            2 => (self.event(inbox, 112), header, body),
            3 => (dedup(inbox, name), header, None),
            4 => (Key::new(inbox, 130, &[name]), header, body),
            _ => self.posting(inbox, POSTINGS[usize::from(name) % 2], u64::from(name % 4)),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(rows) => {
                let rows: Vec<_> = rows.into_iter().map(|row| self.row(row)).collect();
                // Later rows of one entry win, as they do in the model.
                self.put(rows);
            }
            Step::FanOut(body) => {
                let mut rows = Vec::new();
                for inbox in INBOXES {
                    rows.push((self.event(inbox, 32), vec![1; 20], Some(vec![2; body])));
                    rows.push(self.posting(inbox, 40, 9));
                }
                self.put(rows);
            }
            Step::Run(inbox, count) => {
                let inbox = INBOXES[inbox];
                let mut rows = Vec::new();
                for at in 0..count {
                    rows.push((self.event(inbox, 32), vec![3; 30], Some(vec![4; at % 90])));
                    rows.push(self.posting(inbox, 41, at as u64 % 40));
                }
                self.put(rows);
            }
            Step::Delete(inbox, name) => {
                let inbox = INBOXES[inbox];
                let keys = [Key::new(inbox, 130, &[name]), dedup(inbox, name)];
                keys.iter().for_each(|key| drop(self.model.remove(key)));
                self.rig.put(Vec::new(), &keys);
            }
            Step::Freeze => drop(self.rig.freeze()),
            Step::Flush => self.rig.flush(),
            Step::Restart => self.rig.restart(),
        }
    }

    fn check(&self, probes: &[(Key, Key, usize)]) {
        for (key, row) in &self.model {
            assert_eq!(
                self.rig.shard.get(key).unwrap().as_ref(),
                Some(row),
                "{key:?}"
            );
        }
        for (a, b, limit) in probes {
            assert_eq!(
                self.rig.shard.get(a).unwrap().as_ref(),
                self.model.get(a),
                "{a:?}"
            );
            self.check_range(*a.min(b), *a.max(b), *limit);
        }
        let everything = (Key::first(0, 0), Key::last(u64::MAX, 255));
        self.check_range(everything.0, everything.1, usize::MAX);
        for inbox in INBOXES {
            for family in POSTINGS {
                self.check_range(Key::first(inbox, family), Key::last(inbox, family), 30);
                for group in 0..4 {
                    let from = Key::posting(inbox, family, group, self.order / 3);
                    self.check_count(from, Key::posting(inbox, family, group, u64::MAX));
                    self.check_count(from, Key::posting(inbox, family, group + 9, 5));
                }
                self.check_count(Key::first(inbox, family), Key::last(inbox, family));
            }
            self.check_groups(inbox, &POSTINGS);
            self.check_groups(inbox, &POSTINGS[1..]);
        }
        self.check_inboxes();
    }

    fn check_range(&self, from: Key, to: Key, limit: usize) {
        let expected = self
            .model
            .range(from..=to)
            .map(|(key, row)| (*key, row.clone()));
        let rising: Vec<_> = expected.clone().take(limit).collect();
        let falling: Vec<_> = expected.rev().take(limit).collect();
        let shard = &self.rig.shard;
        assert_eq!(
            shard.range(&from, &to, Order::Rising, limit).unwrap(),
            rising
        );
        assert_eq!(
            shard.range(&from, &to, Order::Falling, limit).unwrap(),
            falling
        );
        assert_eq!(
            shard.range(&to, &from, Order::Rising, limit).unwrap(),
            if from == to { rising } else { Vec::new() }
        );
    }

    fn check_count(&self, from: Key, to: Key) {
        let expected = if from <= to {
            self.model.range(from..=to).count()
        } else {
            0
        };
        assert_eq!(
            self.rig.shard.count(&from, &to).unwrap(),
            expected as u64,
            "{from:?} {to:?}"
        );
    }

    fn check_groups(&self, inbox: u64, families: &[u8]) {
        let mut best = BTreeMap::<u64, (u64, u8)>::new();
        for family in families {
            for key in self
                .model
                .range(Key::first(inbox, *family)..=Key::last(inbox, *family))
            {
                let (group, order) = (key.0.number(0), key.0.number(8));
                let known = best.entry(group).or_insert((order, *family));
                if order > known.0 {
                    *known = (order, *family);
                }
            }
        }
        let mut expected: Vec<_> = best.into_iter().collect();
        expected.sort_by_key(|(group, (order, _))| std::cmp::Reverse((*order, *group)));
        let expected = expected.into_iter();
        let expected: Vec<_> = expected
            .map(|(group, (order, family))| GroupHead {
                group,
                order,
                family,
            })
            .collect();
        let (mut pages, mut before) = (Vec::new(), None);
        loop {
            let page = self.rig.shard.groups(inbox, families, before, 3).unwrap();
            let Some(last) = page.last() else { break };
            before = Some((last.order, last.group));
            pages.extend(page);
        }
        assert_eq!(pages, expected);
    }

    fn check_inboxes(&self) {
        let events = self.model.keys().filter(|key| key.family == 32);
        let inboxes: BTreeSet<_> = events.map(|key| key.inbox).collect();
        let last = |inbox: &u64| self.heads[&(*inbox, 32)];
        let expected: Vec<_> = inboxes
            .iter()
            .map(|inbox| Span {
                inbox: *inbox,
                first: 1,
                last: last(inbox),
            })
            .collect();
        let shard = &self.rig.shard;
        assert_eq!(shard.inboxes(0, u64::MAX, 32, 99).unwrap(), expected);
        let some: Vec<_> = expected
            .iter()
            .copied()
            .filter(|span| span.inbox > 0)
            .take(2)
            .collect();
        assert_eq!(shard.inboxes(1, u64::MAX, 32, 2).unwrap(), some);
    }
}

fn dedup(inbox: u64, name: u8) -> Key {
    let mut sub = [name; 24];
    sub[..8].fill(1);
    sub[8..14].copy_from_slice(&(1000 + u64::from(name)).to_be_bytes()[2..]);
    Key::new(inbox, 64, &sub)
}

fn probe() -> impl Strategy<Value = Key> {
    let families = prop::sample::select(vec![0, 3, 32, 39, 40, 41, 64, 112, 130]);
    (0..5_usize, families, 0..12_u8, 0..300_u64).prop_map(|(inbox, family, name, number)| {
        let inbox = INBOXES[inbox];
        match logstore::key::shape(family) {
            Shape::State => Key::new(inbox, family, &[name]),
            Shape::Append => Key::append(inbox, family, number),
            Shape::Posting => Key::posting(inbox, family, u64::from(name), number),
            Shape::Dedup => dedup(inbox, name),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_read_agrees_with_an_ordered_map(
        steps in steps(),
        target_bytes in prop::sample::select(vec![500_u64, 20_000, 64 << 20]),
        packed: bool,
        probes in prop::collection::vec((probe(), probe(), 0..20_usize), 12),
    ) {
        let compression = if packed { Compression::Lz4 } else { Compression::None };
        let mut pair = Pair::new(SegmentOptions { compression, target_bytes });
        let half = steps.len() / 2;
        for (at, step) in steps.into_iter().enumerate() {
            pair.step(step);
            if at == half {
                pair.check(&probes);
            }
        }
        pair.check(&probes);
        pair.rig.freeze();
        pair.rig.flush();
        pair.rig.restart();
        pair.check(&probes);
        prop_assert!(pair.rig.files.mapped().0 <= 2);
        prop_assert!(pair.rig.files.cache().bytes() <= 1 << 20);
    }
}

#[test]
fn a_long_inbox_is_listed_and_counted_without_reading_it() {
    let mut pair = Pair::new(SegmentOptions::default());
    for _ in 0..20 {
        pair.step(Step::Run(1, 1500));
    }
    pair.rig.freeze_and_flush();
    pair.rig.restart();
    pair.check(&[]);
    // Three cold reads; what they put into the cache is what they read.
    let cold = crate::fixture::files(&pair.rig.disk, 64 << 20, 2);
    pair.rig.files = cold.clone();
    pair.rig.restart();
    let shard = &pair.rig.shard;
    let heads = shard.groups(1, &POSTINGS, None, 20).unwrap();
    let all = shard.count(&Key::first(1, 41), &Key::last(1, 41)).unwrap();
    let page = shard
        .range(&Key::first(1, 32), &Key::last(1, 32), Order::Falling, 50)
        .unwrap();
    assert_eq!((heads.len(), all, page.len()), (20, 30_000, 50));
    let read = cold.cache().bytes();
    let written = pair
        .rig
        .disk
        .bytes(&pair.rig.disk.files()[0])
        .unwrap()
        .len();
    assert!(
        read < 300_000,
        "{read} bytes read of a segment of {written}"
    );
}
