//! One sealed segment: what it holds of a key, a range or an inbox.
//!
//! Every block is copied out of the map and verified before a byte of it is
//! believed; what was verified may be found again in the bounded cache. What is
//! returned is owned. A read of a point that is not here ends at the meta or a
//! filter in nearly all cases.

use super::{
    block::Kind,
    builder::{DELETED, INLINE_BODY, NO_BODY, SHARED_BODY},
    encoding::Input,
    files::{Open, Part, ReadError, SegmentFiles},
    filter,
    footer::{FilterPlace, Section, SegmentMeta, Summary},
    inbox::Record,
    postings, table,
};
use crate::{
    key::{Key, Row, Shape},
    memtable::Span,
    plant::is_planted,
};
use bytes::Bytes;
use std::sync::Arc;

/// A sealed segment of a replica. Open only while it is read.
pub(crate) struct Segment {
    file: Arc<Sealed>,
    /// A block that is not in memory is waited for; without, it is
    /// [`ReadError::Cold`].
    waits: bool,
}

struct Sealed {
    id: u64,
    path: String,
    meta: SegmentMeta,
    files: Arc<SegmentFiles>,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.files.close(self.id);
    }
}

impl Segment {
    /// A handle on a file; it is not opened yet.
    pub(crate) fn new(meta: SegmentMeta, replica: u32, files: Arc<SegmentFiles>) -> Arc<Self> {
        Self::at(meta.path(replica), meta, files)
    }

    /// The same at a path of its own.
    pub(crate) fn at(path: String, meta: SegmentMeta, files: Arc<SegmentFiles>) -> Arc<Self> {
        let id = files.handle();
        let file = Arc::new(Sealed {
            id,
            path,
            meta,
            files,
        });
        Arc::new(Self { file, waits: true })
    }

    /// The same file, read without ever waiting for the disk.
    pub(crate) fn at_hand(&self) -> Arc<Self> {
        let file = self.file.clone();
        Arc::new(Self { file, waits: false })
    }

    pub(crate) fn meta(&self) -> &SegmentMeta {
        &self.file.meta
    }

    /// Opens the file and compares its footer with what the log says of it.
    pub(crate) fn check(&self) -> Result<(), ReadError> {
        let open = self.open()?;
        if open.footer.digest != self.file.meta.digest
            || open.footer.file_bytes != self.file.meta.file_bytes
        {
            return Err(self.damaged(Part::Footer, "the log knows another content of this name"));
        }
        Ok(())
    }

    /// What stands under a key here: the outer `None` is nothing, the inner one a
    /// deleted row.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Option<Row>>, ReadError> {
        if !self.may_hold(key)? {
            return Ok(None);
        }
        let open = self.open()?;
        if key.shape() == Shape::Posting {
            return Ok(self.posting(&open.summary, key)?.map(Some));
        }
        let mut bytes = Vec::with_capacity(table::MAX_KEY);
        key.write(&mut bytes);
        let Some((number, _)) = self.locate(&open.summary.rows, &bytes)? else {
            return Ok(None);
        };
        let content = self.block(number, Kind::Rows)?;
        let found = table::View::new(&content).and_then(|view| view.floor(&bytes));
        match found.ok_or_else(|| self.malformed(number))? {
            Some(entry) if entry.key() == bytes => self
                .row(&open.summary, number, &content[entry.value])
                .map(Some),
            _ => Ok(None),
        }
    }

    /// Whether it is worth looking for a key: the meta, the time in its id, and the
    /// filter that fits its shape.
    fn may_hold(&self, key: &Key) -> Result<bool, ReadError> {
        if *key < self.file.meta.min || *key > self.file.meta.max {
            return Ok(false);
        }
        match key.shape() {
            Shape::Dedup => {
                let planted = is_planted!(self.file.files.plant, DedupFilterOffByOneSegment);
                let ms = key.client_ms() + u64::from(planted);
                if self
                    .file
                    .meta
                    .highest_client_ms
                    .is_none_or(|highest| highest < ms)
                {
                    return Ok(false);
                }
                self.in_key_filter(key)
            }
            Shape::State => self.in_key_filter(key),
            Shape::Append => {
                let record = self.record(key.inbox)?;
                let sequences = record.as_ref().and_then(|record| record.of(key.family));
                let sequence = key.number(0);
                Ok(sequences.is_some_and(|s| s.first <= sequence && sequence <= s.last))
            }
            Shape::Posting => self.holds_inbox(key.inbox),
        }
    }

    fn in_key_filter(&self, key: &Key) -> Result<bool, ReadError> {
        let mut bytes = Vec::with_capacity(table::MAX_KEY);
        key.write(&mut bytes);
        let open = self.open()?;
        self.in_filter(open.summary.key_filter, filter::hash(&bytes))
    }

    /// Whether the filter of inboxes lets an inbox in.
    pub(crate) fn holds_inbox(&self, inbox: u64) -> Result<bool, ReadError> {
        if inbox < self.file.meta.min.inbox || inbox > self.file.meta.max.inbox {
            return Ok(false);
        }
        let open = self.open()?;
        self.in_filter(
            open.summary.inbox_filter,
            filter::hash(&inbox.to_be_bytes()),
        )
    }

    fn in_filter(&self, place: FilterPlace, hash: u64) -> Result<bool, ReadError> {
        let Some(page) = filter::page(hash, place.lines) else {
            return Ok(false);
        };
        let number = place.first + page;
        let content = self.block(number, Kind::Filter)?;
        filter::holds(&content, hash, place.lines).ok_or_else(|| self.malformed(number))
    }

    /// What the inbox index says of an inbox.
    pub(crate) fn record(&self, inbox: u64) -> Result<Option<Record>, ReadError> {
        if !self.holds_inbox(inbox)? {
            return Ok(None);
        }
        let open = self.open()?;
        let key = inbox.to_be_bytes();
        let Some((number, _)) = self.locate(&open.summary.inboxes, &key)? else {
            return Ok(None);
        };
        let content = self.block(number, Kind::Inboxes)?;
        let found = table::View::new(&content).and_then(|view| view.floor(&key));
        match found.ok_or_else(|| self.malformed(number))? {
            Some(entry) if entry.key() == key => {
                let record = Record::decode(&content[entry.value]);
                record.map(Some).ok_or_else(|| self.malformed(number))
            }
            _ => Ok(None),
        }
    }

    /// The sequences of an append family, of the inboxes from `from` to `to`.
    pub(crate) fn spans(
        self: &Arc<Self>,
        from: u64,
        to: u64,
        family: u8,
        limit: usize,
    ) -> Result<Vec<Span>, ReadError> {
        let mut spans = Vec::new();
        let open = self.open()?;
        let section = &open.summary.inboxes;
        let start = self.locate(section, &from.to_be_bytes())?;
        let mut at = start.map_or(section.first, |(number, _)| number);
        while spans.len() < limit && at < section.first + section.blocks {
            let content = self.block(at, Kind::Inboxes)?;
            let entries = table::View::new(&content).and_then(|view| view.entries());
            for entry in entries.ok_or_else(|| self.malformed(at))? {
                let inbox = entry.key().try_into().map(u64::from_be_bytes);
                let inbox = inbox.map_err(|_| self.malformed(at))?;
                if inbox > to {
                    return Ok(spans);
                }
                let record = Record::decode(&content[entry.value]);
                let record = record.ok_or_else(|| self.malformed(at))?;
                let found = record
                    .of(family)
                    .filter(|_| inbox >= from && spans.len() < limit);
                spans.extend(found.map(|s| Span {
                    inbox,
                    first: s.first,
                    last: s.last,
                }));
            }
            at += 1;
        }
        Ok(spans)
    }

    /// How many postings stand below a key, or at it if it is included: one block of
    /// the index and one of postings, however many there are.
    fn rank(&self, summary: &Summary, key: &Key, included: bool) -> Result<u64, ReadError> {
        let mut bytes = Vec::with_capacity(table::MAX_KEY);
        key.write(&mut bytes);
        let Some((number, before)) = self.locate(&summary.postings, &bytes)? else {
            return Ok(0);
        };
        let content = self.block(number, Kind::Postings)?;
        let malformed = || self.malformed(number);
        let view = table::View::new(&content).ok_or_else(malformed)?;
        let (mut rank, mut last, mut fits) = (before, None, true);
        let walked = view.walk(|entry| {
            if entry.key() > &bytes[..] {
                return false;
            }
            // The chunk before is full; of the last one a part counts.
            if let Some(value) = last.replace(entry.value.clone()) {
                let count = postings::count(&content[value]);
                fits &= count.is_some();
                rank += count.unwrap_or_default();
            }
            true
        });
        let entry = view.floor(&bytes).filter(|_| fits && walked.is_some());
        let Some(entry) = entry.ok_or_else(malformed)? else {
            return Ok(rank);
        };
        let first = Key::read(entry.key()).ok_or_else(malformed)?;
        let chunk = postings::unpack(first.number(8), &content[entry.value]);
        let counted = chunk
            .ok_or_else(malformed)?
            .into_iter()
            .filter(|(order, _)| {
                let at = Key::posting(first.inbox, first.family, first.number(0), *order);
                at < *key || (included && at == *key)
            });
        Ok(rank + counted.count() as u64)
    }

    /// How many postings stand from `from` to `to`, both included.
    pub(crate) fn count(&self, from: &Key, to: &Key) -> Result<u64, ReadError> {
        if from > to
            || *to < self.file.meta.min
            || *from > self.file.meta.max
            || self.file.meta.postings == 0
        {
            return Ok(0);
        }
        if from.inbox == to.inbox && !self.holds_inbox(from.inbox)? {
            return Ok(0);
        }
        let open = self.open()?;
        let to = self.rank(&open.summary, to, true)?;
        Ok(to - self.rank(&open.summary, from, false)?)
    }

    fn posting(&self, summary: &Summary, key: &Key) -> Result<Option<Row>, ReadError> {
        let mut bytes = Vec::with_capacity(table::MAX_KEY);
        key.write(&mut bytes);
        let Some((number, _)) = self.locate(&summary.postings, &bytes)? else {
            return Ok(None);
        };
        let content = self.block(number, Kind::Postings)?;
        let malformed = || self.malformed(number);
        let found = table::View::new(&content).and_then(|view| view.floor(&bytes));
        let Some(entry) = found.ok_or_else(malformed)? else {
            return Ok(None);
        };
        let first = Key::read(entry.key()).ok_or_else(malformed)?;
        let group = |key: &Key| (key.inbox, key.family, key.number(0));
        if group(&first) != group(key) || key.sub().len() != 16 {
            return Ok(None);
        }
        let chunk = postings::unpack(first.number(8), &content[entry.value]);
        let chunk = chunk.ok_or_else(malformed)?;
        let order = key.number(8);
        let at = chunk.binary_search_by_key(&order, |(order, _)| *order);
        Ok(at.ok().map(|at| posting_row(chunk[at].1)))
    }

    /// A row from its value in the table of rows; `None` is a deleted one.
    pub(crate) fn row(
        &self,
        summary: &Summary,
        number: u32,
        value: &[u8],
    ) -> Result<Option<Row>, ReadError> {
        let malformed = || self.malformed(number);
        let mut input = Input(value);
        let kind = input.byte().ok_or_else(malformed)?;
        if kind == DELETED {
            return Ok(None);
        }
        let header = input.prefixed().ok_or_else(malformed)?;
        let header = Bytes::copy_from_slice(header);
        let body = match kind {
            NO_BODY => None,
            INLINE_BODY => Some(Bytes::copy_from_slice(input.0)),
            SHARED_BODY => {
                let block = input.varint().and_then(|at| u32::try_from(at).ok());
                let block = block
                    .filter(|at| *at < summary.bodies.1)
                    .ok_or_else(malformed)?;
                let slot = input.count().ok_or_else(malformed)?;
                Some(self.shared_body(summary.bodies.0 + block, slot)?)
            }
            _ => return Err(malformed()),
        };
        Ok(Some(Row { header, body }))
    }

    fn shared_body(&self, number: u32, slot: usize) -> Result<Bytes, ReadError> {
        let content = self.block(number, Kind::Bodies)?;
        let body = bodies(&content).and_then(|bodies| bodies.get(slot).map(|body| body.2.clone()));
        body.map(|range| Bytes::copy_from_slice(&content[range]))
            .ok_or_else(|| self.malformed(number))
    }

    /// The block of a table whose first key is the last at or below `key`, and the
    /// weight of the table before that block.
    pub(crate) fn locate(
        &self,
        section: &Section,
        key: &[u8],
    ) -> Result<Option<(u32, u64)>, ReadError> {
        let top = section.tops.partition_point(|top| &top[..] <= key);
        let Some(top) = top.checked_sub(1).and_then(|top| u32::try_from(top).ok()) else {
            return Ok(None);
        };
        let number = section.index + top;
        let content = self.block(number, Kind::Index)?;
        let found = table::View::new(&content)
            .and_then(|view| view.floor(key))
            .flatten();
        let place = found.and_then(|entry| {
            let mut input = Input(&content[entry.value]);
            Some((u32::try_from(input.varint()?).ok()?, input.varint()?))
        });
        place.map(Some).ok_or_else(|| self.malformed(number))
    }

    /// The content of a block, verified, from the cache or the map.
    pub(crate) fn block(&self, number: u32, kind: Kind) -> Result<Bytes, ReadError> {
        let id = (self.file.id, number);
        if let Some(content) = self.file.files.cache.get(id) {
            return Ok(content);
        }
        let open = self.open()?;
        if !self.waits && !open.is_at_hand(number) {
            return Err(ReadError::Cold);
        }
        let content = open.read(number, kind);
        let content = content.map_err(|reason| self.damaged(Part::Block(number), reason))?;
        let content = Bytes::from(content);
        self.file.files.cache.insert(id, &content);
        Ok(content)
    }

    pub(crate) fn open(&self) -> Result<Arc<Open>, ReadError> {
        let Sealed {
            id,
            path,
            meta,
            files,
        } = &*self.file;
        if self.waits {
            files.open(*id, path, meta.name)
        } else {
            files.opened(*id).ok_or(ReadError::Cold)
        }
    }

    /// The block is what was written, but not what a reader of this version expects.
    pub(crate) fn malformed(&self, number: u32) -> ReadError {
        self.damaged(Part::Block(number), "its content cannot be taken apart")
    }

    fn damaged(&self, part: Part, reason: &'static str) -> ReadError {
        ReadError::Damaged {
            segment: self.file.path.clone(),
            part,
            reason,
        }
    }
}

/// A posting as a row: where it stands.
pub(crate) fn posting_row(place: u64) -> Row {
    Row {
        header: Bytes::copy_from_slice(&place.to_be_bytes()),
        body: None,
    }
}

/// The bodies of a block of them: group, order, and where each stands in it.
pub(crate) fn bodies(content: &[u8]) -> Option<Vec<(u64, u64, std::ops::Range<usize>)>> {
    let (rest, count) = content.split_last_chunk::<4>()?;
    let table = (u32::from_le_bytes(*count) as usize).checked_mul(20)?;
    let start = rest.len().checked_sub(table)?;
    let mut input = Input(&rest[start..]);
    let mut bodies = Vec::new();
    let mut from = 0;
    while !input.0.is_empty() {
        let (group, order, end) = (input.u64()?, input.u64()?, input.u32()? as usize);
        if end < from || end > start {
            return None;
        }
        bodies.push((group, order, from..end));
        from = end;
    }
    Some(bodies)
}
