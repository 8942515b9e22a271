//! Identifiers, their bit layouts and how they are derived.
//!
//! | id | bits |
//! | --- | --- |
//! | [`UserId`] | `0` · 63 bits of BLAKE3(len·app·len·sub), each `len` a big-endian u32 |
//! | [`GroupId`] | `1` · 63 bits of BLAKE3(creator as big-endian u64 · op id, 16 bytes) |
//! | [`ConversationId`] | a [`UserId`] or a [`GroupId`]: the top bit tells |
//! | [`MsgId`] | `0` · milliseconds since 2025-01-01 (41) · shard (12) · counter (10) |
//! | [`ClientId`] | 128-bit UUIDv7: client message ids and op ids |
//! | [`InboxKey`] | [`mix64`] of a user's or group's id: what is stored and sharded |
//!
//! Placement and stored keys depend on these for ever: the golden values in
//! `ids/tests.rs` and `tests/frames/layouts.rs` must never change.

use std::fmt;

/// Milliseconds from the Unix epoch to 2025-01-01T00:00:00Z, where message ids begin.
pub const MSG_ID_EPOCH_MS: u64 = 1_735_689_600_000;
/// Highest time a message id can carry, in ms since [`MSG_ID_EPOCH_MS`] (2094-09).
pub const MSG_ID_MAX_MS: u64 = (1 << 41) - 1;
/// Highest value of the counter of a message id.
pub const MSG_ID_MAX_COUNTER: u16 = (1 << 10) - 1;
/// Highest number of a shard; 0 is the system shard.
pub const MAX_SHARD: u16 = (1 << 12) - 1;

const TOP_BIT: u64 = 1 << 63;

/// The SplitMix64 finalizer: a bijection on u64 that spreads ids evenly.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014, with Stafford's variant 13 of the multipliers.
#[must_use]
pub const fn mix64(id: u64) -> u64 {
    let mut z = id;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A user of one app; the top bit is 0 and the value is never 0.
    UserId
}
id! {
    /// A group; the top bit is 1.
    GroupId
}
id! {
    /// A peer's user id, one's own id (notes to oneself) or a group id.
    ConversationId
}
id! {
    /// A device of a user, chosen by the device, never 0.
    DeviceId
}
id! {
    /// A live connection of one device; unique within a node's process.
    SessionId
}
id! {
    /// A `chatd` process with its data directory.
    NodeId
}
id! {
    /// One copy of a shard on one node; fresh for every placement, never reused.
    ReplicaId
}
id! {
    /// `mix64` of a user's or group's id. 0 is the key of the shard's own rows.
    InboxKey
}

/// A range of inbox keys: 1 to 4,095; 0 is the system shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl UserId {
    /// The id of the user whom tokens of `app` call `sub`.
    #[must_use]
    pub fn of(app: &str, sub: &str) -> Self {
        let mut hash = blake3::Hasher::new();
        for part in [app, sub] {
            let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
            hash.update(&len.to_be_bytes());
            hash.update(part.as_bytes());
        }
        // 0 is refused as an id; its preimage would have to be found first.
        Self((first_u64(&hash.finalize()) & !TOP_BIT).max(1))
    }

    /// Where this user's inbox is stored.
    #[must_use]
    pub const fn key(self) -> InboxKey {
        InboxKey(mix64(self.0))
    }
}

impl GroupId {
    /// The id of the group that `creator` makes by the operation `op_id`: a
    /// repeated creation names the same group.
    #[must_use]
    pub fn of(creator: UserId, op_id: ClientId) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(&creator.0.to_be_bytes());
        hash.update(&op_id.0);
        Self(first_u64(&hash.finalize()) | TOP_BIT)
    }

    /// Where this group's log is stored.
    #[must_use]
    pub const fn key(self) -> InboxKey {
        InboxKey(mix64(self.0))
    }
}

fn first_u64(hash: &blake3::Hash) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(bytes)
}

impl ConversationId {
    /// The group, if this conversation is one.
    #[must_use]
    pub const fn group(self) -> Option<GroupId> {
        if self.0 & TOP_BIT == 0 {
            None
        } else {
            Some(GroupId(self.0))
        }
    }

    /// The peer (or oneself), if this conversation is no group.
    #[must_use]
    pub const fn user(self) -> Option<UserId> {
        if self.0 & TOP_BIT == 0 {
            Some(UserId(self.0))
        } else {
            None
        }
    }
}

impl From<UserId> for ConversationId {
    fn from(user: UserId) -> Self {
        Self(user.0)
    }
}

impl From<GroupId> for ConversationId {
    fn from(group: GroupId) -> Self {
        Self(group.0)
    }
}

/// The number of a message: unique in the cluster, ordered in time, positive in a
/// signed 64-bit column. Its order is the order of a conversation. 0 is "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MsgId(pub i64);

impl MsgId {
    /// Puts the parts together. `ms` counts from [`MSG_ID_EPOCH_MS`].
    ///
    /// # Panics
    /// If a part exceeds its bits: callers hold them within bounds.
    #[must_use]
    pub const fn new(ms: u64, shard: ShardId, counter: u16) -> Self {
        assert!(ms <= MSG_ID_MAX_MS && shard.0 <= MAX_SHARD && counter <= MSG_ID_MAX_COUNTER);
        Self((ms << 22 | (shard.0 as u64) << 10 | counter as u64).cast_signed())
    }

    /// Milliseconds since [`MSG_ID_EPOCH_MS`].
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0.cast_unsigned() >> 22
    }

    /// The shard that numbered the message.
    #[must_use]
    pub const fn shard(self) -> ShardId {
        ShardId((self.0 >> 10 & 0xfff) as u16)
    }

    /// Tells messages of one shard and millisecond apart.
    #[must_use]
    pub const fn counter(self) -> u16 {
        (self.0 & 0x3ff) as u16
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.ms() + MSG_ID_EPOCH_MS
    }
}

impl fmt::Display for MsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A UUIDv7 made by the sending device: the key of idempotence of a message
/// (client message id) or of another mutation (op id).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub [u8; 16]);

impl ClientId {
    /// Takes 16 bytes that are a UUID of version 7; `None` for anything else.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        (bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10).then_some(Self(bytes))
    }

    /// The time in the id, in ms since the Unix epoch.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        self.0[..6]
            .iter()
            .fold(0, |ms, byte| ms << 8 | u64::from(*byte))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests;
