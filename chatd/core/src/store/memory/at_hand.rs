//! A store in memory whose inboxes can be cold, as far as it can be read without
//! waiting for them.

use std::cell::Cell;

use chat_wire::ids::InboxKey;

use super::{
    super::{AtHand, GroupHead, Key, Range, ReadRows, Row, Unreadable},
    MemoryStore,
};

/// See [`ShardStore::at_hand`](super::super::ShardStore::at_hand).
#[derive(Debug)]
pub struct MemoryAtHand<'a> {
    store: &'a MemoryStore,
    met_cold: Cell<bool>,
}

impl<'a> MemoryAtHand<'a> {
    pub(super) fn new(store: &'a MemoryStore) -> Self {
        Self {
            store,
            met_cold: Cell::new(false),
        }
    }

    fn meet(&self, inbox: InboxKey) -> Result<(), Unreadable> {
        if self.store.is_cold(inbox) {
            self.met_cold.set(true);
            return Err(Unreadable(format!("inbox {:016x} is cold", inbox.0)));
        }
        Ok(())
    }
}

impl ReadRows for MemoryAtHand<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Unreadable> {
        self.meet(key.inbox)?;
        self.store.get(key)
    }

    fn range(&self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable> {
        self.meet(range.from.inbox)?;
        self.store.range(range)
    }

    fn count(&self, from: &Key, to: &Key) -> Result<u64, Unreadable> {
        self.meet(from.inbox)?;
        self.store.count(from, to)
    }

    fn groups(
        &self,
        inbox: InboxKey,
        families: &[u8],
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<GroupHead>, Unreadable> {
        self.meet(inbox)?;
        self.store.groups(inbox, families, before, limit)
    }
}

impl AtHand for MemoryAtHand<'_> {
    fn met_cold(&self) -> bool {
        self.met_cold.get()
    }
}
