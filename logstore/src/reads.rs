//! Reads over the layers of a shard: the active memtable, frozen ones, then
//! segments from the newest to the oldest. The newest layer that knows a key
//! decides, also when it says that the row was deleted.
//!
//! A merge holds one position a layer and nothing else; what it returns is bounded
//! by the caller's `limit`. A segment whose index says that it begins further on is
//! not touched before the merge comes there: the newest page of an inbox is read from
//! the newest segments, however many hold it.

pub use crate::{key::Order, memtable::Span, segment::ReadError};
use crate::{
    key::{Key, Row, Shape},
    memtable::{Memtable, Seen},
    segment::{
        cursor::{GroupCursor, RowCursor, Share},
        reader::Segment,
    },
};
use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

/// A conversation of an inbox, as a list of them shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHead {
    /// The conversation.
    pub group: u64,
    /// Its highest order.
    pub order: u64,
    /// The posting family that has it; the posting tells where the row stands.
    pub family: u8,
}

/// A memtable that takes no more writes, until it is a segment.
pub(crate) struct Frozen {
    pub(crate) table: Memtable,
    /// The highest position whose writes may be in it, and its term.
    pub(crate) position: u64,
    pub(crate) term: u64,
}

/// The immutable layers of a shard at one moment. Cheap to clone and to send to
/// another thread, for reads that may wait for the disk. It does not see what was
/// applied after the last freeze.
#[derive(Clone, Default)]
pub struct SegmentReader {
    /// Oldest first; newer than all segments.
    pub(crate) frozen: Vec<Arc<Frozen>>,
    /// Oldest first.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) generation: u64,
}

impl SegmentReader {
    /// Changes whenever the list of layers does: what was read before is a hint then.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn view(&self) -> View<'_> {
        View {
            active: None,
            frozen: &self.frozen,
            segments: &self.segments,
        }
    }

    /// See [`Shard::get`](crate::shard::Shard::get).
    ///
    /// # Errors
    /// If a block that may hold the row is damaged.
    pub fn get(&self, key: &Key) -> Result<Option<Row>, ReadError> {
        self.view().get(key)
    }

    /// See [`Shard::range`](crate::shard::Shard::range).
    ///
    /// # Errors
    /// If a block of the range is damaged.
    pub fn range(
        &self,
        from: &Key,
        to: &Key,
        order: Order,
        limit: usize,
    ) -> Result<Vec<(Key, Row)>, ReadError> {
        self.view().range(from, to, order, limit)
    }

    /// See [`Shard::count`](crate::shard::Shard::count).
    ///
    /// # Errors
    /// If a block that must be looked into is damaged.
    pub fn count(&self, from: &Key, to: &Key) -> Result<u64, ReadError> {
        self.view().count(from, to)
    }

    /// See [`Shard::groups`](crate::shard::Shard::groups).
    ///
    /// # Errors
    /// If a block of the lists is damaged.
    pub fn groups(
        &self,
        inbox: u64,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, ReadError> {
        self.view().groups(inbox, families, before, limit)
    }
}

/// All layers, for one read.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) active: Option<&'a Memtable>,
    pub(crate) frozen: &'a [Arc<Frozen>],
    pub(crate) segments: &'a [Arc<Segment>],
}

impl<'a> View<'a> {
    /// Newest first.
    fn memtables(self) -> impl Iterator<Item = &'a Memtable> {
        let frozen = self.frozen.iter().rev().map(|frozen| &frozen.table);
        self.active.into_iter().chain(frozen)
    }

    /// Newest first.
    fn segments(self) -> impl Iterator<Item = &'a Arc<Segment>> {
        self.segments.iter().rev()
    }

    pub(crate) fn get(self, key: &Key) -> Result<Option<Row>, ReadError> {
        self.recent(key).map_or_else(|| self.flushed(key), Ok)
    }

    /// What the memtables say of a key; the outer `None` is nothing.
    pub(crate) fn recent(self, key: &Key) -> Option<Option<Row>> {
        let seen = self.memtables().find_map(|table| table.get(key))?;
        Some(seen.row())
    }

    /// What the segments say of a key.
    pub(crate) fn flushed(self, key: &Key) -> Result<Option<Row>, ReadError> {
        for segment in self.segments() {
            if let Some(row) = segment.get(key)? {
                return Ok(row);
            }
        }
        Ok(None)
    }

    pub(crate) fn range(
        self,
        from: &Key,
        to: &Key,
        order: Order,
        limit: usize,
    ) -> Result<Vec<(Key, Row)>, ReadError> {
        let mut merge = Merge::new(order);
        for table in self.memtables() {
            merge.add_older([Layer::new(table, from, to, order)]);
        }
        for segment in self.segments() {
            match RowCursor::share(segment, from, to, order)? {
                Share::Nothing => {}
                Share::Behind(key) => merge.add_older([Layer::Later { segment, key }]),
                Share::Unknown => {
                    let cursors = RowCursor::open(segment, from, to, order)?;
                    merge.add_older(cursors.into_iter().map(Layer::Segment));
                }
            }
        }
        let (mut rows, mut last) = (Vec::new(), None);
        while rows.len() < limit
            && let Some(Head {
                key, age, number, ..
            }) = merge.heads.pop()
        {
            let layer = &mut merge.layers[number];
            if let Layer::Later { segment, .. } = *layer {
                let cursors = RowCursor::open(segment, from, to, order)?;
                merge.add(age, cursors.into_iter().map(Layer::Segment));
                continue;
            }
            // The newest layer that has a key comes first, and decides.
            if last.replace(key) != Some(key)
                && let Some(row) = layer.row()?
            {
                rows.push((key, row));
            }
            layer.advance()?;
            let next = layer.key();
            merge.head(next, age, number);
        }
        Ok(rows)
    }

    pub(crate) fn count(self, from: &Key, to: &Key) -> Result<u64, ReadError> {
        assert!(
            from.shape() == Shape::Posting && to.family == from.family && to.inbox == from.inbox,
            "only postings of one family of one inbox are counted"
        );
        let memory = self
            .memtables()
            .map(|table| table.range(from, to).count() as u64);
        let mut count = memory.sum();
        for segment in self.segments() {
            count += segment.count(from, to)?;
        }
        Ok(count)
    }

    pub(crate) fn groups(
        self,
        inbox: u64,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, ReadError> {
        let mut lists = Vec::new();
        for family in families.iter().copied() {
            lists.extend(
                self.memtables()
                    .map(|table| List::memory(table, inbox, family)),
            );
            for segment in self.segments() {
                if let Some(cursor) = GroupCursor::open(segment, inbox, family)? {
                    lists.push(List::segment(cursor, family)?);
                }
            }
        }
        let mut seen = BTreeSet::new();
        let mut heads = Vec::new();
        while heads.len() < limit {
            // The lowest family of those that have the highest order; a list that has
            // ended takes no part.
            let next = lists.iter_mut().filter(|list| list.head.is_some());
            let next = next.max_by_key(|list| (list.head, Reverse(list.family)));
            let Some(list) = next else { break };
            let Some((order, group)) = list.head else {
                break;
            };
            let family = list.family;
            list.advance()?;
            let wanted = before.is_none_or(|before| (order, group) < before);
            if seen.insert(group) && wanted {
                heads.push(GroupHead {
                    group,
                    order,
                    family,
                });
            }
        }
        Ok(heads)
    }

    pub(crate) fn inboxes(
        self,
        from: u64,
        to: u64,
        family: u8,
        limit: usize,
    ) -> Result<Vec<Span>, ReadError> {
        assert!(
            crate::key::shape(family) == Shape::Append,
            "spans are of append families"
        );
        let mut spans = BTreeMap::<u64, Span>::new();
        let memory = self
            .memtables()
            .map(|table| Ok(table.spans(from, to, family, limit)));
        let sealed = self
            .segments()
            .map(|segment| segment.spans(from, to, family, limit));
        for found in memory.chain(sealed) {
            for span in found? {
                let known = spans.entry(span.inbox).or_insert(span);
                known.first = known.first.min(span.first);
                known.last = known.last.max(span.last);
            }
        }
        Ok(spans.into_values().take(limit).collect())
    }
}

/// Layers, and which of them is next.
struct Merge<'a> {
    layers: Vec<Layer<'a>>,
    heads: BinaryHeap<Head>,
    order: Order,
    /// Layers of higher ages are older; two of one segment hold different keys.
    ages: usize,
}

impl<'a> Merge<'a> {
    fn new(order: Order) -> Self {
        Self {
            layers: Vec::new(),
            heads: BinaryHeap::new(),
            order,
            ages: 0,
        }
    }

    fn add_older(&mut self, layers: impl IntoIterator<Item = Layer<'a>>) {
        self.ages += 1;
        self.add(self.ages, layers);
    }

    fn add(&mut self, age: usize, layers: impl IntoIterator<Item = Layer<'a>>) {
        for layer in layers {
            self.head(layer.key(), age, self.layers.len());
            self.layers.push(layer);
        }
    }

    fn head(&mut self, key: Option<Key>, age: usize, number: usize) {
        let order = self.order;
        let head = key.map(|key| Head {
            key,
            age,
            number,
            order,
        });
        self.heads.extend(head);
    }
}

/// Where a layer stands: the next is that of the highest or lowest key, and of those
/// the newest.
#[derive(PartialEq, Eq)]
struct Head {
    key: Key,
    age: usize,
    /// The layer's place.
    number: usize,
    order: Order,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = match self.order {
            Order::Rising => other.key.cmp(&self.key),
            Order::Falling => self.key.cmp(&other.key),
        };
        by_key.then((other.age, other.number).cmp(&(self.age, self.number)))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One layer's place in a merge of rows.
enum Layer<'a> {
    Memory {
        rows: Box<dyn Iterator<Item = (Key, Seen<'a>)> + 'a>,
        at: Option<(Key, Seen<'a>)>,
    },
    Segment(RowCursor),
    /// A segment without a row before `key`, which may be none of its rows.
    Later {
        segment: &'a Arc<Segment>,
        key: Key,
    },
}

impl<'a> Layer<'a> {
    fn new(table: &'a Memtable, from: &Key, to: &Key, order: Order) -> Self {
        let rows = table.range(from, to);
        let mut rows: Box<dyn Iterator<Item = _>> = match order {
            Order::Rising => Box::new(rows),
            Order::Falling => Box::new(rows.rev()),
        };
        let at = rows.next();
        Self::Memory { rows, at }
    }

    fn key(&self) -> Option<Key> {
        match self {
            Self::Memory { at, .. } => at.as_ref().map(|(key, _)| *key),
            Self::Segment(cursor) => cursor.key(),
            Self::Later { key, .. } => Some(*key),
        }
    }

    fn row(&self) -> Result<Option<Row>, ReadError> {
        match self {
            Self::Memory { at, .. } => Ok(at.as_ref().and_then(|(_, seen)| seen.row())),
            Self::Segment(cursor) => cursor.row(),
            Self::Later { .. } => Ok(None),
        }
    }

    fn advance(&mut self) -> Result<(), ReadError> {
        match self {
            Self::Memory { rows, at } => *at = rows.next(),
            Self::Segment(cursor) => cursor.advance()?,
            Self::Later { .. } => {}
        }
        Ok(())
    }
}

/// One layer's list of the groups of an inbox, newest first.
struct List {
    family: u8,
    head: Option<(u64, u64)>,
    rest: Groups,
}

enum Groups {
    Memory(std::vec::IntoIter<(u64, u64)>),
    Segment(GroupCursor),
}

impl List {
    fn memory(table: &Memtable, inbox: u64, family: u8) -> Self {
        let groups = table.groups(inbox, family).into_iter();
        let mut rest: Vec<_> = groups.map(|(group, order)| (order, group)).collect();
        rest.sort_unstable_by(|a, b| b.cmp(a));
        let mut rest = rest.into_iter();
        Self {
            family,
            head: rest.next(),
            rest: Groups::Memory(rest),
        }
    }

    fn segment(mut cursor: GroupCursor, family: u8) -> Result<Self, ReadError> {
        Ok(Self {
            family,
            head: cursor.next()?,
            rest: Groups::Segment(cursor),
        })
    }

    fn advance(&mut self) -> Result<(), ReadError> {
        self.head = match &mut self.rest {
            Groups::Memory(rest) => rest.next(),
            Groups::Segment(cursor) => cursor.next()?,
        };
        Ok(())
    }
}
