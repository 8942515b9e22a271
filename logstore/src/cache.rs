//! A bounded cache of blocks that were read, verified and decompressed.
//!
//! One for a node, shared by its shards. It holds at most the bytes it was made
//! for: at the bound, blocks that were not used since the clock's hand came by
//! last are dropped. A block larger than a quarter of a part is not kept at all.

use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Parts with a lock of their own, so that shard threads seldom meet.
const PARTS: usize = 8;

/// What a block costs besides its bytes.
const SLOT_BYTES: usize = 96;

/// A segment's handle, then a block of it.
pub(crate) type BlockId = (u64, u32);

/// See the [module](self).
pub struct BlockCache {
    parts: Vec<Mutex<Part>>,
    part_bytes: usize,
}

#[derive(Default)]
struct Part {
    places: HashMap<BlockId, usize>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
}

struct Slot {
    id: BlockId,
    content: Bytes,
    used: bool,
}

impl BlockCache {
    /// A cache of at most so many bytes; 0 keeps nothing.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self {
            parts,
            part_bytes: bytes / PARTS,
        }
    }

    /// Bytes it holds now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| lock(part).bytes).sum()
    }

    pub(crate) fn get(&self, id: BlockId) -> Option<Bytes> {
        let mut part = self.part(id);
        let at = *part.places.get(&id)?;
        let slot = &mut part.slots[at];
        slot.used = true;
        Some(slot.content.clone())
    }

    pub(crate) fn insert(&self, id: BlockId, content: &Bytes) {
        let cost = content.len() + SLOT_BYTES;
        if cost > self.part_bytes / 4 {
            return;
        }
        let mut part = self.part(id);
        if part.places.contains_key(&id) {
            return;
        }
        while part.bytes + cost > self.part_bytes {
            part.drop_one();
        }
        part.bytes += cost;
        let at = part.slots.len();
        part.places.insert(id, at);
        part.slots.push(Slot {
            id,
            content: content.clone(),
            used: false,
        });
    }

    fn part(&self, (segment, block): BlockId) -> MutexGuard<'_, Part> {
        let mixed = (segment << 32 ^ u64::from(block)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        lock(&self.parts[(mixed >> 61) as usize])
    }
}

impl Part {
    /// Drops the first block that the hand finds unused; a full turn clears every
    /// mark, so it ends within two.
    fn drop_one(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = &mut self.slots[self.hand];
            if slot.used {
                slot.used = false;
                self.hand += 1;
                continue;
            }
            let slot = self.slots.swap_remove(self.hand);
            self.bytes -= slot.content.len() + SLOT_BYTES;
            self.places.remove(&slot.id);
            if let Some(moved) = self.slots.get(self.hand) {
                self.places.insert(moved.id, self.hand);
            }
            return;
        }
    }
}

/// A thread that panicked inside leaves a cache that may lack a block, no more.
fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_bound() {
        let cache = BlockCache::new(1 << 16);
        for block in 0..500 {
            cache.insert(
                (1, block),
                &Bytes::from(vec![0; 100 + block as usize % 7 * 100]),
            );
            assert!(cache.bytes() <= 1 << 16);
        }
        assert!(cache.bytes() > 1 << 15);
    }

    #[test]
    fn blocks_in_use_outlive_others() {
        let cache = BlockCache::new(1 << 18);
        let block = Bytes::from(vec![7; 1000]);
        cache.insert((1, 0), &block);
        for other in 1..2000 {
            assert_eq!(cache.get((1, 0)), Some(block.clone()), "after {other}");
            cache.insert((1, other), &block);
        }
        assert_eq!(cache.get((2, 0)), None);
    }

    #[test]
    fn a_block_too_large_and_a_cache_of_nothing_keep_nothing() {
        let cache = BlockCache::new(0);
        cache.insert((1, 0), &Bytes::from_static(b"block"));
        assert_eq!((cache.get((1, 0)), cache.bytes()), (None, 0));
    }
}
