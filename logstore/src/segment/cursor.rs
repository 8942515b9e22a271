//! Places in the tables of a segment that move one entry at a time, either way.
//!
//! A cursor holds the block it is in and nothing else; blocks of a table have
//! consecutive numbers, so the next one needs no index.

use super::{
    block::Kind,
    files::ReadError,
    footer::Section,
    postings,
    reader::{Segment, posting_row},
    table::{self, Entry},
};
use crate::key::{Key, Order, Row, Shape};
use bytes::Bytes;
use std::{ops::Range, sync::Arc};

/// A place in one table.
struct Cursor {
    segment: Arc<Segment>,
    kind: Kind,
    blocks: Range<u32>,
    order: Order,
    number: u32,
    content: Bytes,
    /// The interval of the block that `entries` are of.
    interval: usize,
    entries: Vec<Entry>,
    /// The current entry; beyond the end there is none.
    at: usize,
}

impl Cursor {
    /// At the last entry at or below `key`; rising, at the first if there is none.
    fn seek(
        segment: &Arc<Segment>,
        section: &Section,
        key: &[u8],
        order: Order,
    ) -> Result<Self, ReadError> {
        let blocks = section.first..section.first + section.blocks;
        let mut cursor = Self {
            segment: segment.clone(),
            kind: section.kind,
            number: blocks.start,
            blocks,
            order,
            content: Bytes::new(),
            interval: 0,
            entries: Vec::new(),
            at: 0,
        };
        match cursor.segment.locate(section, key)? {
            Some((number, _)) => {
                cursor.load(number)?;
                let interval = cursor.view()?.interval_of(key).flatten();
                cursor.enter(interval.ok_or_else(|| cursor.malformed())?)?;
                let above = cursor.entries.partition_point(|entry| entry.key() <= key);
                cursor.at = above.saturating_sub(1);
            }
            None if order == Order::Rising && !cursor.blocks.is_empty() => {
                cursor.load(cursor.number)?;
                cursor.enter(0)?;
            }
            None => {}
        }
        Ok(cursor)
    }

    fn load(&mut self, number: u32) -> Result<(), ReadError> {
        self.content = self.segment.block(number, self.kind)?;
        self.number = number;
        Ok(())
    }

    /// Takes an interval of the block apart, and goes to its first or last entry.
    fn enter(&mut self, interval: usize) -> Result<(), ReadError> {
        let entries = self
            .view()?
            .interval(interval)
            .filter(|entries| !entries.is_empty());
        self.entries = entries.ok_or_else(|| self.malformed())?;
        self.interval = interval;
        self.at = if self.order == Order::Rising {
            0
        } else {
            self.entries.len() - 1
        };
        Ok(())
    }

    fn view(&self) -> Result<table::View<'_>, ReadError> {
        table::View::new(&self.content).ok_or_else(|| self.malformed())
    }

    fn malformed(&self) -> ReadError {
        self.segment.malformed(self.number)
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(self.at)?;
        Some((entry.key(), &self.content[entry.value.clone()]))
    }

    fn advance(&mut self) -> Result<(), ReadError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        match self.order {
            Order::Rising if self.at + 1 < self.entries.len() => self.at += 1,
            Order::Rising if self.interval + 1 < self.view()?.intervals() => {
                self.enter(self.interval + 1)?;
            }
            Order::Rising if self.number + 1 < self.blocks.end => {
                self.load(self.number + 1)?;
                self.enter(0)?;
            }
            Order::Falling if self.at > 0 => self.at -= 1,
            Order::Falling if self.interval > 0 => self.enter(self.interval - 1)?,
            Order::Falling if self.number > self.blocks.start => {
                self.load(self.number - 1)?;
                let last = self.view()?.intervals().checked_sub(1);
                self.enter(last.ok_or_else(|| self.malformed())?)?;
            }
            Order::Rising | Order::Falling => self.entries.clear(),
        }
        Ok(())
    }
}

/// The rows or the postings of a segment from one key to another.
pub(crate) struct RowCursor {
    cursor: Cursor,
    from: Key,
    to: Key,
    /// The current row; `None` is the end.
    key: Option<Key>,
    /// The postings of the current chunk, and which is the current one.
    chunk: Vec<(u64, u64)>,
    at: usize,
}

/// What a segment may have of a range.
pub(crate) enum Share {
    /// Nothing.
    Nothing,
    /// Nothing before this key, in the order asked for: until a read comes there the
    /// segment need not be touched.
    Behind(Key),
    /// Something, perhaps.
    Unknown,
}

impl RowCursor {
    /// What a segment may have of a range, as its filter and its index of inboxes say.
    pub(crate) fn share(
        segment: &Segment,
        from: &Key,
        to: &Key,
        order: Order,
    ) -> Result<Share, ReadError> {
        let meta = segment.meta();
        if from > to || *from > meta.max || *to < meta.min {
            return Ok(Share::Nothing);
        }
        if from.inbox != to.inbox {
            return Ok(Share::Unknown);
        }
        if !segment.holds_inbox(from.inbox)? {
            return Ok(Share::Nothing);
        }
        if from.family != to.family || from.shape() != Shape::Append {
            return Ok(Share::Unknown);
        }
        let record = segment.record(from.inbox)?;
        let sequences = record.as_ref().and_then(|record| record.of(from.family));
        // Sub-keys of append families are numbers; a longer one lies behind its number.
        let here = sequences.filter(|s| s.first <= to.number(0) && s.last >= from.number(0));
        let Some(here) = here else {
            return Ok(Share::Nothing);
        };
        Ok(Share::Behind(match order {
            Order::Rising => Key::append(from.inbox, from.family, here.first).max(*from),
            Order::Falling => Key::up_to(from.inbox, from.family, here.last).min(*to),
        }))
    }

    /// The cursors that a range needs in a segment that has a share of it: one or two.
    pub(crate) fn open(
        segment: &Arc<Segment>,
        from: &Key,
        to: &Key,
        order: Order,
    ) -> Result<Vec<Self>, ReadError> {
        let families = if from.inbox == to.inbox {
            from.family..=to.family
        } else {
            0..=u8::MAX
        };
        let postings = families
            .clone()
            .any(|family| crate::key::shape(family) == Shape::Posting);
        let rows = families
            .clone()
            .any(|family| crate::key::shape(family) != Shape::Posting);
        let summary = &segment.open()?.summary;
        let sections = [(rows, &summary.rows), (postings, &summary.postings)];
        let wanted = sections
            .into_iter()
            .filter(|(wanted, section)| *wanted && section.blocks > 0);
        wanted
            .map(|(_, section)| Self::seek(segment, section, from, to, order))
            .collect()
    }

    fn seek(
        segment: &Arc<Segment>,
        section: &Section,
        from: &Key,
        to: &Key,
        order: Order,
    ) -> Result<Self, ReadError> {
        let mut bytes = Vec::with_capacity(table::MAX_KEY);
        if order == Order::Rising { from } else { to }.write(&mut bytes);
        let cursor = Cursor::seek(segment, section, &bytes, order)?;
        let (from, to) = (*from, *to);
        let mut this = Self {
            cursor,
            from,
            to,
            key: None,
            chunk: Vec::new(),
            at: 0,
        };
        this.enter()?;
        while let Some(key) = this.key {
            let before = if order == Order::Rising {
                key < from
            } else {
                key > to
            };
            if !before {
                break;
            }
            this.step()?;
        }
        this.bound();
        Ok(this)
    }

    pub(crate) fn key(&self) -> Option<Key> {
        self.key
    }

    /// The current row; `None` if it is a deleted one.
    pub(crate) fn row(&self) -> Result<Option<Row>, ReadError> {
        if let Some((_, place)) = self.chunk.get(self.at) {
            return Ok(Some(posting_row(*place)));
        }
        let Some((_, value)) = self.cursor.entry() else {
            return Ok(None);
        };
        let segment = &self.cursor.segment;
        segment.row(&segment.open()?.summary, self.cursor.number, value)
    }

    pub(crate) fn advance(&mut self) -> Result<(), ReadError> {
        self.step()?;
        self.bound();
        Ok(())
    }

    /// Ends where the range does.
    fn bound(&mut self) {
        self.key = self.key.filter(|key| (self.from..=self.to).contains(key));
    }

    fn step(&mut self) -> Result<(), ReadError> {
        let next = match self.cursor.order {
            Order::Rising => self.at.checked_add(1),
            Order::Falling => self.at.checked_sub(1),
        };
        if let Some((next, (order, _))) = next.and_then(|at| Some((at, self.chunk.get(at)?))) {
            self.key = self.key.map(|key| posting_key(&key, *order));
            self.at = next;
            return Ok(());
        }
        self.cursor.advance()?;
        self.enter()
    }

    /// Takes the entry that the cursor has come to.
    fn enter(&mut self) -> Result<(), ReadError> {
        let Some((bytes, value)) = self.cursor.entry() else {
            self.key = None;
            return Ok(());
        };
        let malformed = || self.cursor.segment.malformed(self.cursor.number);
        let key = Key::read(bytes).ok_or_else(malformed)?;
        self.key = Some(key);
        if self.cursor.kind == Kind::Postings {
            // A chunk is of one group: falling, one below the range ends it unread.
            if self.cursor.order == Order::Falling && group_of(&key) < group_of(&self.from) {
                self.key = None;
                return Ok(());
            }
            let chunk = postings::unpack(key.number(8), value).filter(|chunk| !chunk.is_empty());
            let chunk = chunk.ok_or_else(malformed)?;
            self.at = if self.cursor.order == Order::Rising {
                0
            } else {
                chunk.len() - 1
            };
            self.key = Some(posting_key(&key, chunk[self.at].0));
            self.chunk = chunk;
        }
        Ok(())
    }
}

fn group_of(key: &Key) -> (u64, u8, u64) {
    (key.inbox, key.family, key.number(0))
}

fn posting_key(of: &Key, order: u64) -> Key {
    Key::posting(of.inbox, of.family, of.number(0), order)
}

/// The groups of an inbox in a segment, newest first.
pub(crate) struct GroupCursor {
    cursor: Cursor,
    inbox: u64,
    family: u8,
}

impl GroupCursor {
    /// `None`: the inbox is not here.
    pub(crate) fn open(
        segment: &Arc<Segment>,
        inbox: u64,
        family: u8,
    ) -> Result<Option<Self>, ReadError> {
        if segment.meta().postings == 0 || !segment.holds_inbox(inbox)? {
            return Ok(None);
        }
        let section = &segment.open()?.summary.groups;
        let key = postings::group_key(inbox, family, u64::MAX, u64::MAX);
        let mut cursor = Cursor::seek(segment, section, &key, Order::Rising)?;
        if cursor.entry().is_some_and(|(at, _)| at < &key[..]) {
            cursor.advance()?;
        }
        Ok(Some(Self {
            cursor,
            inbox,
            family,
        }))
    }

    /// The next (order, group).
    pub(crate) fn next(&mut self) -> Result<Option<(u64, u64)>, ReadError> {
        let Some((key, _)) = self.cursor.entry() else {
            return Ok(None);
        };
        let read = postings::read_group_key(key);
        let (list, head) = read.ok_or_else(|| self.cursor.segment.malformed(self.cursor.number))?;
        if list != (self.inbox, self.family) {
            return Ok(None);
        }
        self.cursor.advance()?;
        Ok(Some(head))
    }
}
