//! Applies the commands of one log entry, one after the other: each sees what those
//! before it wrote, and the store gets all writes at once. Beside the store stands a
//! [`Cache`] of the rows that nearly every command reads; it changes nothing of what
//! is found, only where.

use bytes::Bytes;
use std::collections::BTreeMap;

use crate::{
    command::Command,
    shard::{
        Context, Effects,
        found::{Found, Rows, drive},
        keys,
    },
    store::{Direction, Key, Range, Row, ShardStore, Unreadable, Value, Write},
};

/// The entry that is being applied. Drop it without [`Entry::finish`] and nothing
/// happened.
#[derive(Debug)]
pub struct Entry<'a, S> {
    over: Over<'a, S>,
    found: Found,
}

impl<'a, S: ShardStore> Entry<'a, S> {
    /// Begins with the payload that bodies stand in.
    pub fn new(store: &'a S, cache: &'a mut Cache, payload: Bytes) -> Self {
        Self {
            over: Over {
                store,
                cache,
                payload,
                written: BTreeMap::new(),
            },
            found: Found::default(),
        }
    }

    /// Applies one command. Its writes are kept here: those of the effects are empty.
    ///
    /// # Errors
    /// [`Unreadable`] if a row cannot be read or verified: the entry must be dropped.
    pub fn run(&mut self, context: &Context<'_>, command: &Command) -> Result<Effects, Unreadable> {
        let mut effects = drive(context, command, &mut self.found, &mut self.over)?;
        for write in effects.writes.drain(..) {
            self.over.written.insert(write.key, write.value);
        }
        Ok(effects)
    }

    /// What the store has to apply, by key, each key once.
    #[must_use]
    pub fn finish(self) -> Vec<Write> {
        let Over { cache, written, .. } = self.over;
        written
            .into_iter()
            .map(|(key, value)| {
                cache.written(&key, value.as_ref());
                Write { key, value }
            })
            .collect()
    }
}

/// A store under the writes of the commands before.
#[derive(Debug)]
struct Over<'a, S> {
    store: &'a S,
    cache: &'a mut Cache,
    payload: Bytes,
    written: BTreeMap<Key, Option<Value>>,
}

impl<S> Over<'_, S> {
    fn as_row(&self, value: &Value) -> Row {
        let body = value.body.map(|place| {
            let from = place.offset as usize;
            self.payload.slice(from..from + place.len as usize)
        });
        Row {
            header: value.header.clone(),
            body,
        }
    }
}

impl<S: ShardStore> Rows for Over<'_, S> {
    fn row(&mut self, key: &Key) -> Result<Option<Row>, Unreadable> {
        if let Some(written) = self.written.get(key) {
            return Ok(written.as_ref().map(|value| self.as_row(value)));
        }
        if let Some(row) = self.cache.row(key) {
            return Ok(row);
        }
        let row = self.store.get(key)?;
        self.cache.read(key, row.as_ref());
        Ok(row)
    }

    fn rows(&mut self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable> {
        if range.from > range.to {
            return Ok(Vec::new());
        }
        let written = || self.written.range(range.from..=range.to);
        if written().next().is_none() {
            return self.store.range(range);
        }
        let deleted = written().filter(|(_, value)| value.is_none()).count();
        let limit = range.limit.saturating_add(deleted);
        let mut merged: BTreeMap<_, _> = self
            .store
            .range(&Range { limit, ..*range })?
            .into_iter()
            .collect();
        for (key, value) in written() {
            match value {
                Some(value) => merged.insert(*key, self.as_row(value)),
                None => merged.remove(key),
            };
        }
        Ok(match range.direction {
            Direction::Rising => merged.into_iter().take(range.limit).collect(),
            Direction::Falling => merged.into_iter().rev().take(range.limit).collect(),
        })
    }

    fn count(&mut self, from: &Key, to: &Key) -> Result<u64, Unreadable> {
        let mut count = self.store.count(from, to)?;
        if from <= to {
            for (key, value) in self.written.range(*from..=*to) {
                match (self.store.get(key)?.is_some(), value.is_some()) {
                    (false, true) => count += 1,
                    (true, false) => count -= 1,
                    _ => {}
                }
            }
        }
        Ok(count)
    }
}

/// Small rows of one shard that were read or written lately: heads, profiles,
/// settings, groups. A fixed number of slots; a row that needs a taken slot takes it.
/// It must be made anew whenever the store changes by anything but applying
/// [`Entry::finish`]'s writes.
#[derive(Clone, Debug)]
pub struct Cache {
    slots: Vec<Option<(Key, Option<Bytes>)>>,
}

impl Cache {
    /// A cache of at least this many slots, 1 at least.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            slots: vec![None; slots.next_power_of_two()],
        }
    }

    fn row(&self, key: &Key) -> Option<Option<Row>> {
        match &self.slots[self.slot(key)] {
            Some((cached, header)) if cached == key => {
                Some(header.clone().map(|header| Row { header, body: None }))
            }
            _ => None,
        }
    }

    fn read(&mut self, key: &Key, row: Option<&Row>) {
        if row.is_none_or(|row| row.body.is_none()) {
            self.put(key, row.map(|row| &row.header));
        }
    }

    fn written(&mut self, key: &Key, value: Option<&Value>) {
        self.put(key, value.map(|value| &value.header));
    }

    // Copies: a slice would keep a whole block or entry in memory.
    fn put(&mut self, key: &Key, header: Option<&Bytes>) {
        if is_cached(key.family) {
            let slot = self.slot(key);
            self.slots[slot] = Some((*key, header.map(|bytes| Bytes::copy_from_slice(bytes))));
        }
    }

    fn slot(&self, key: &Key) -> usize {
        let sub = key.sub();
        let mut hash = key.inbox.0 ^ u64::from(key.family).rotate_left(32);
        for at in (0..sub.len()).step_by(8) {
            hash = chat_wire::ids::mix64(hash ^ keys::word(sub, at));
        }
        // Inbox keys are mixed, and the shard's own rows are few.
        let hash = hash ^ hash >> 32;
        usize::try_from(hash & 0xffff_ffff).expect("32 bits") & (self.slots.len() - 1)
    }
}

/// Rows without bodies that are read again and again; not those that are new with
/// every message.
const fn is_cached(family: u8) -> bool {
    matches!(
        family,
        keys::PROFILE
            | keys::DEVICE
            | keys::HEAD
            | keys::MARK
            | keys::CONVERSATION
            | keys::GROUP
            | keys::MEMBER
            | keys::MEMBER_MARK
            | keys::GROUP_HEAD
            | keys::OUTBOX_STATE
            | keys::SOURCE
            | keys::SETTINGS
            | keys::LAST
            | keys::INCARNATION
    )
}

#[cfg(test)]
mod tests;
