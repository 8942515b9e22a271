//! Where a request goes: every user, group and conversation lives in one shard,
//! which the shard map names. Pure; the daemon knows which thread or node hosts it.

use chat_wire::ids::{ConversationId, GroupId, ShardId, UserId};

use crate::{message::home_of, placement::map::ShardMap};

/// The shard of a user's inbox.
#[must_use]
pub fn of_user(map: &ShardMap, user: UserId) -> ShardId {
    map.shard_of(user.key())
}

/// The home of a group.
#[must_use]
pub fn of_group(map: &ShardMap, group: GroupId) -> ShardId {
    map.shard_of(group.key())
}

/// Where a message to a conversation is numbered: the receiver's inbox, or the home
/// of the group.
#[must_use]
pub fn of_conversation(map: &ShardMap, conversation: ConversationId) -> ShardId {
    map.shard_of(home_of(conversation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_lives_where_its_user_or_group_does() {
        let map = ShardMap::even(64);
        let user = UserId::of("default", "ann");
        let group = GroupId(1 << 63 | 77);
        assert_eq!(of_conversation(&map, user.into()), of_user(&map, user));
        assert_eq!(of_conversation(&map, group.into()), of_group(&map, group));
    }
}
