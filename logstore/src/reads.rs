//! Reads over the layers of a shard: the active memtable, frozen ones, then
//! segments from the newest to the oldest. The newest layer that knows a key
//! decides, also when it says that the row was deleted.
//!
//! A merge holds one position a layer and nothing else; what it returns is bounded
//! by the caller's `limit`.

pub use crate::memtable::Span;
use crate::{
    key::{Key, Row, Shape},
    memtable::{Memtable, Seen},
};
use std::{collections::BTreeSet, sync::Arc};

/// The direction of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Lowest key first.
    Rising,
    /// Highest key first.
    Falling,
}

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

/// Why a read gave no answer. None of these means that a row is absent.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A block of a segment is not what was written: repair it from a peer, or
    /// fence the shard.
    #[error(
        "block {block} of {segment} is damaged ({reason}): repair the shard from a peer, or look at the file with `chatctl inspect`"
    )]
    Damaged {
        /// The file.
        segment: String,
        /// The number of the block in it, or [`u32::MAX`] for its footer.
        block: u32,
        /// What did not fit.
        reason: &'static str,
    },
    /// The file could not be opened or mapped.
    #[error("cannot open {segment}: {source}")]
    Open {
        /// The file.
        segment: String,
        /// What the disk said.
        source: std::io::Error,
    },
}

/// A memtable that takes no more writes, until it is a segment.
pub(crate) struct Frozen {
    pub(crate) table: Memtable,
    /// The highest position whose writes may be in it.
    pub(crate) position: u64,
}

/// The immutable layers of a shard at one moment. Cheap to clone and to send to
/// another thread, for reads that may wait for the disk. It does not see what was
/// applied after the last freeze.
#[derive(Clone, Default)]
pub struct SegmentReader {
    /// Oldest first.
    pub(crate) frozen: Vec<Arc<Frozen>>,
    pub(crate) generation: u64,
}

impl SegmentReader {
    /// Changes whenever the list of layers does: what was read before is a hint then.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// See [`Shard::get`](crate::shard::Shard::get).
    ///
    /// # Errors
    /// If a block that may hold the row is damaged.
    pub fn get(&self, key: &Key) -> Result<Option<Row>, ReadError> {
        View {
            active: None,
            sealed: self,
        }
        .get(key)
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
        View {
            active: None,
            sealed: self,
        }
        .range(from, to, order, limit)
    }

    /// See [`Shard::count`](crate::shard::Shard::count).
    ///
    /// # Errors
    /// If a block that must be looked into is damaged.
    pub fn count(&self, from: &Key, to: &Key) -> Result<u64, ReadError> {
        View {
            active: None,
            sealed: self,
        }
        .count(from, to)
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
        View {
            active: None,
            sealed: self,
        }
        .groups(inbox, families, before, limit)
    }
}

/// All layers, for one read.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) active: Option<&'a Memtable>,
    pub(crate) sealed: &'a SegmentReader,
}

impl<'a> View<'a> {
    /// Newest first.
    fn memtables(self) -> impl Iterator<Item = &'a Memtable> {
        let frozen = self.sealed.frozen.iter().rev().map(|frozen| &frozen.table);
        self.active.into_iter().chain(frozen)
    }

    pub(crate) fn get(self, key: &Key) -> Result<Option<Row>, ReadError> {
        if let Some(seen) = self.memtables().find_map(|table| table.get(key)) {
            return Ok(seen.row());
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
        let mut layers: Vec<_> = self
            .memtables()
            .map(|table| Layer::new(table, from, to, order))
            .collect();
        let mut rows = Vec::new();
        while rows.len() < limit {
            let next = layers.iter().filter_map(|layer| layer.key());
            let next = if order == Order::Rising {
                next.min()
            } else {
                next.max()
            };
            let Some(next) = next else { break };
            let mut newest = true;
            for layer in layers.iter_mut().filter(|layer| layer.key() == Some(next)) {
                if newest && let Some(row) = layer.row()? {
                    rows.push((next, row));
                }
                newest = false;
                layer.advance()?;
            }
        }
        Ok(rows)
    }

    pub(crate) fn count(self, from: &Key, to: &Key) -> Result<u64, ReadError> {
        assert!(
            from.shape() == Shape::Posting && to.family == from.family && to.inbox == from.inbox,
            "only postings of one inbox are counted"
        );
        Ok(self
            .memtables()
            .map(|table| table.range(from, to).count() as u64)
            .sum())
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
        }
        let mut seen = BTreeSet::new();
        let mut heads = Vec::new();
        while heads.len() < limit {
            // The lowest family of those that have the highest order; a list that is
            // empty takes no part.
            let next = lists.iter_mut().filter(|list| list.head.is_some());
            let next = next.max_by_key(|list| (list.head, std::cmp::Reverse(list.family)));
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
        let mut spans = std::collections::BTreeMap::<u64, Span>::new();
        let found = self
            .memtables()
            .flat_map(|table| table.spans(from, to, family, limit));
        for span in found {
            let known = spans.entry(span.inbox).or_insert(span);
            known.first = known.first.min(span.first);
            known.last = known.last.max(span.last);
        }
        Ok(spans.into_values().take(limit).collect())
    }
}

/// One layer's place in a merge of rows.
enum Layer<'a> {
    Memory {
        rows: Box<dyn Iterator<Item = (Key, Seen<'a>)> + 'a>,
        at: Option<(Key, Seen<'a>)>,
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
        }
    }

    fn row(&self) -> Result<Option<Row>, ReadError> {
        match self {
            Self::Memory { at, .. } => Ok(at.as_ref().and_then(|(_, seen)| seen.row())),
        }
    }

    fn advance(&mut self) -> Result<(), ReadError> {
        match self {
            Self::Memory { rows, at } => *at = rows.next(),
        }
        Ok(())
    }
}

/// One layer's list of the groups of an inbox, newest first.
struct List {
    family: u8,
    head: Option<(u64, u64)>,
    rest: std::vec::IntoIter<(u64, u64)>,
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
            rest,
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "lists of segments can fail")]
    fn advance(&mut self) -> Result<(), ReadError> {
        self.head = self.rest.next();
        Ok(())
    }
}
