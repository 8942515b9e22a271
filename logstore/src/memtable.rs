//! Rows of one shard that are not in a segment yet, in the order of keys.
//!
//! Small values are copied into chunks of the memtable's own; a body is a place in the
//! payload of a log entry, whose buffer is shared and not copied. The memtable keeps
//! those buffers itself, one reference an entry, so that a frozen one can be written
//! by another thread while the log moves on.
//!
//! One ordered map serves points, ranges and lists alike. A list of groups or a
//! count walks the rows of one inbox only, and the whole memtable is bounded by
//! its flush (about 16 MiB), so it needs no index of its own.

use crate::key::{BodyRef, Key, Row, Shape, Write};
use bytes::Bytes;
use headers::{Headers, Place};
use std::collections::{BTreeMap, btree_map};

mod headers;

/// What a row costs beside its header: key, slot and its share of tree nodes.
const ROW_BYTES: u64 = 96;

/// How many bodies back a row's body is looked for, so that the rows of a fan-out
/// share one. A row that misses it costs 40 bytes and nothing else.
const RECENT_BODIES: usize = 4;

#[derive(Default)]
pub(crate) struct Memtable {
    rows: BTreeMap<Key, Slot>,
    headers: Headers,
    bodies: Vec<Body>,
    payloads: Vec<(u64, Bytes)>,
    /// Of bodies and payloads.
    shared_bytes: u64,
    first: Option<u64>,
}

struct Slot {
    /// Of a deleted row the place that its next header may take.
    header: Place,
    deleted: bool,
    /// 0: none; else one more than the place in `bodies`.
    body: u32,
}

#[derive(Clone, Copy)]
struct Body {
    at: BodyRef,
    payload: u32,
}

/// A row of a memtable, seen in place.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    table: &'a Memtable,
    slot: &'a Slot,
}

impl<'a> Seen<'a> {
    /// `None`: deleted.
    pub(crate) fn header(&self) -> Option<&'a [u8]> {
        (!self.slot.deleted).then(|| self.table.headers.get(self.slot.header))
    }

    pub(crate) fn body_ref(&self) -> Option<BodyRef> {
        Some(self.table.bodies[self.slot.body.checked_sub(1)? as usize].at)
    }

    pub(crate) fn body(&self) -> Option<Bytes> {
        let body = self.table.bodies[self.slot.body.checked_sub(1)? as usize];
        let start = body.at.offset as usize;
        let payload = &self.table.payloads[body.payload as usize].1;
        Some(payload.slice(start..start + body.at.len as usize))
    }

    pub(crate) fn row(&self) -> Option<Row> {
        Some(Row {
            header: Bytes::copy_from_slice(self.header()?),
            body: self.body(),
        })
    }
}

impl Memtable {
    /// Enters the writes of the log entry at `position`. `payload` gives the
    /// payload of an entry that is still in the log.
    ///
    /// # Panics
    /// If a write breaks the rules of its family's shape, or names a body that is
    /// not in the log: the state machine above is wrong then, and what it would
    /// have stored could not be read back.
    pub(crate) fn apply(
        &mut self,
        position: u64,
        writes: Vec<Write>,
        payload: impl Fn(u64) -> Option<Bytes>,
    ) {
        self.first.get_or_insert(position);
        for Write { key, value } in writes {
            check_shape(
                &key,
                value.as_ref().map(|value| (&value.header, value.body)),
            );
            let deleted = value.is_none();
            let (header, body) = match value {
                None => (Bytes::new(), 0),
                Some(value) => {
                    let body = value.body.map_or(0, |at| self.body(at, &payload));
                    (value.header, body)
                }
            };
            match self.rows.entry(key) {
                btree_map::Entry::Vacant(vacant) => {
                    let header = self.headers.push(&header);
                    vacant.insert(Slot {
                        header,
                        deleted,
                        body,
                    });
                }
                btree_map::Entry::Occupied(mut occupied) => {
                    let slot = occupied.get_mut();
                    if !deleted {
                        slot.header = self.headers.replace(slot.header, &header);
                    }
                    (slot.deleted, slot.body) = (deleted, body);
                }
            }
        }
    }

    fn body(&mut self, at: BodyRef, payload: &impl Fn(u64) -> Option<Bytes>) -> u32 {
        let recent = self.bodies.iter().enumerate().rev().take(RECENT_BODIES);
        if let Some((index, _)) = recent.into_iter().find(|(_, body)| body.at == at) {
            return number(index + 1);
        }
        let known = self.payloads.iter().enumerate().rev().take(RECENT_BODIES);
        let found = known
            .into_iter()
            .find(|(_, (position, _))| *position == at.position);
        let index = found.map_or(self.payloads.len(), |(index, _)| index);
        if index == self.payloads.len() {
            let bytes = payload(at.position).expect("the body's entry is still in the log");
            self.shared_bytes += bytes.len() as u64;
            self.payloads.push((at.position, bytes));
        }
        let end = at.offset as usize + at.len as usize;
        assert!(
            end <= self.payloads[index].1.len(),
            "a body beyond its entry's payload"
        );
        self.bodies.push(Body {
            at,
            payload: number(index),
        });
        self.shared_bytes += size_of::<Body>() as u64;
        number(self.bodies.len())
    }

    /// `None`: not here. A row without a header: deleted here.
    pub(crate) fn get(&self, key: &Key) -> Option<Seen<'_>> {
        self.rows.get(key).map(|slot| Seen { table: self, slot })
    }

    /// Rows from `from` to `to`, both included, deleted ones too.
    pub(crate) fn range<'a>(
        &'a self,
        from: &Key,
        to: &Key,
    ) -> impl DoubleEndedIterator<Item = (Key, Seen<'a>)> + use<'a> {
        let rows = (from <= to).then(|| self.rows.range(*from..=*to));
        rows.into_iter()
            .flatten()
            .map(|(key, slot)| (*key, Seen { table: self, slot }))
    }

    /// All rows, rising.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Key, Seen<'_>)> {
        self.rows
            .iter()
            .map(|(key, slot)| (*key, Seen { table: self, slot }))
    }

    /// The groups of a posting family of an inbox with the highest order of each,
    /// in the order of their numbers: one seek a group, not one step a row.
    pub(crate) fn groups(&self, inbox: u64, family: u8) -> Vec<(u64, u64)> {
        let mut groups = Vec::new();
        let from = Key::first(inbox, family);
        let mut to = Key::last(inbox, family);
        while let Some((key, _)) = self.rows.range(from..=to).next_back() {
            let group = key.number(0);
            groups.push((group, key.number(8)));
            let Some(below) = group.checked_sub(1) else {
                break;
            };
            to = Key::posting(inbox, family, below, u64::MAX);
        }
        groups.reverse();
        groups
    }

    /// Inboxes from `from` to `to` that have rows of an append family, with the
    /// lowest and the highest sequence of them: two seeks an inbox.
    pub(crate) fn spans(&self, from: u64, to: u64, family: u8, limit: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut next = Some(from);
        while let Some(inbox) = next.filter(|inbox| *inbox <= to && spans.len() < limit) {
            let Some((key, _)) = self.rows.range(Key::first(inbox, family)..).next() else {
                break;
            };
            let found = key.inbox;
            if found > to {
                break;
            }
            next = if key.family > family {
                found.checked_add(1)
            } else {
                Some(found)
            };
            if found == inbox && key.family == family {
                let highest = self.rows.range(..=Key::last(inbox, family)).next_back();
                let last = highest.map_or(0, |(key, _)| key.number(0));
                spans.push(Span {
                    inbox,
                    first: key.number(0),
                    last,
                });
                next = inbox.checked_add(1);
            }
        }
        spans
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.rows.len() as u64 * ROW_BYTES + self.headers.bytes() + self.shared_bytes
    }

    /// The first position that was applied here.
    pub(crate) fn first_position(&self) -> Option<u64> {
        self.first
    }
}

/// What an inbox has of an append family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The inbox key.
    pub inbox: u64,
    /// The lowest sequence number.
    pub first: u64,
    /// The highest sequence number.
    pub last: u64,
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a memtable is flushed long before four billion bodies")
}

fn check_shape(key: &Key, value: Option<(&Bytes, Option<BodyRef>)>) {
    match key.shape() {
        Shape::State => {}
        Shape::Append => assert_eq!(key.sub().len(), 8, "an append row without a sequence"),
        Shape::Dedup => assert_eq!(key.sub().len(), 24, "a dedup row without scope and id"),
        Shape::Posting => {
            assert_eq!(key.sub().len(), 16, "a posting without group and order");
            let (header, body) = value.expect("postings are not deleted one by one");
            assert!(
                header.len() == 8 && body.is_none(),
                "a posting is one number"
            );
        }
    }
    let header = value.map_or(0, |(header, _)| header.len());
    assert!(
        header <= crate::key::MAX_HEADER,
        "a header of {header} bytes"
    );
}

#[cfg(test)]
mod tests;
