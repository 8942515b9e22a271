//! The shard map: ranges of inbox keys, cut evenly at first. A split later makes
//! two ranges of one, at any key.

use chat_wire::ids::{InboxKey, MAX_SHARD, ShardId};

/// The system shard: node registry, map, cluster settings.
pub const SYSTEM: ShardId = ShardId(0);

/// A shard map. Cheap to share behind an `Arc`; changed only by the log of shard 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    /// Grows by one with every change.
    pub epoch: u32,
    /// Lowest key of each range and its shard, by key; the first begins at 0.
    ranges: Vec<(u64, ShardId)>,
}

impl ShardMap {
    /// `shards` ranges of equal size, numbered from 1.
    ///
    /// # Panics
    /// If `shards` is 0 or more than [`MAX_SHARD`].
    #[must_use]
    pub fn even(shards: u16) -> Self {
        assert!((1..=MAX_SHARD).contains(&shards), "{shards} shards");
        let width = (1u128 << 64) / u128::from(shards);
        let ranges = (0..shards)
            .map(|i| {
                let from = u64::try_from(width * u128::from(i)).expect("below 2^64");
                (from, ShardId(i + 1))
            })
            .collect();
        Self { epoch: 1, ranges }
    }

    /// What `ShardMap::even(shards).shard_of(key)` says, without making the map.
    #[must_use]
    pub fn even_owner(shards: u16, key: InboxKey) -> ShardId {
        let width = (1u128 << 64) / u128::from(shards.max(1));
        let range = u16::try_from(u128::from(key.0) / width).unwrap_or(u16::MAX);
        ShardId(range.min(shards.max(1) - 1) + 1)
    }

    /// The shard that owns a key. A binary search.
    #[must_use]
    pub fn shard_of(&self, key: InboxKey) -> ShardId {
        let at = self.ranges.partition_point(|(from, _)| *from <= key.0);
        self.ranges[at - 1].1
    }

    /// All shards but the system shard.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.ranges.iter().map(|(_, shard)| *shard)
    }

    /// How many ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Never: a map has at least one range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_shard_and_the_ranges_are_even() {
        for shards in [1, 3, 64, 4095] {
            let map = ShardMap::even(shards);
            assert_eq!(map.shard_of(InboxKey(0)), ShardId(1));
            assert_eq!(map.shard_of(InboxKey(u64::MAX)), ShardId(shards));
            for pair in map.ranges.windows(2) {
                assert_eq!(map.shard_of(InboxKey(pair[1].0 - 1)), pair[0].1);
                assert_eq!(map.shard_of(InboxKey(pair[1].0)), pair[1].1);
                for key in [pair[1].0 - 1, pair[1].0].map(InboxKey) {
                    assert_eq!(ShardMap::even_owner(shards, key), map.shard_of(key));
                }
            }
            assert_eq!(
                ShardMap::even_owner(shards, InboxKey(u64::MAX)),
                ShardId(shards)
            );
        }
    }
}
