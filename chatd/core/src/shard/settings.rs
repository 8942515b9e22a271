//! What a shard is told: the cluster's identity and settings, and where an inbox
//! begins. `step` finds them in its own log, so that replicas agree.

use chat_wire::{error::Code, ids::InboxKey};

use crate::{
    command::{Bootstrap, Floor, Settings},
    shard::{
        Effects, Notice,
        keys::{self, Group, Head, Incarnation},
        step::{Changes, Shard, Stepped, refuse},
    },
    store::{ShardStore, Unreadable},
};

/// The cluster begins: once.
pub(crate) fn bootstrap(shard: &Shard<'_>, bootstrap: &Bootstrap) -> Stepped<Effects> {
    let mut changes = Changes::default();
    if shard.row(&keys::cluster())?.is_some() {
        changes.notice(Notice::Duplicate { id: None });
    } else {
        changes.put(keys::cluster(), bootstrap);
    }
    Ok(changes.effects)
}

/// Newer settings win; the first ones also name the shard's first incarnation.
pub(crate) fn settings(shard: &Shard<'_>, new: &Settings) -> Stepped<Effects> {
    if !(1..=u32::from(chat_wire::ids::MAX_SHARD)).contains(&new.shards) {
        return refuse(Code::InvalidArgument, "a map has 1 to 4,095 shards");
    }
    let mut changes = Changes::default();
    if new.incarnation != 0 && shard.row(&keys::incarnation())?.is_none() {
        changes.put(
            keys::incarnation(),
            &Incarnation {
                incarnation: new.incarnation,
                earlier: 0,
                since_ms: shard.context.ts_ms,
            },
        );
    }
    if shard
        .settings()
        .is_some_and(|old| old.version >= new.version)
    {
        changes.notice(Notice::Duplicate { id: None });
    } else {
        changes.put(keys::settings(), new);
        changes.notice(Notice::Settings(new.clone()));
    }
    Ok(changes.effects)
}

/// An inbox begins later, a group forgets answers: merged by max.
pub(crate) fn floor(shard: &Shard<'_>, floor: &Floor) -> Stepped<Effects> {
    let inbox = InboxKey(floor.inbox);
    let (head_key, profile_key) = (keys::head(inbox), keys::profile(inbox));
    let group_key = crate::store::Key::new(inbox, keys::GROUP, &[]);
    shard.want(&[head_key, profile_key, group_key], &[])?;
    let mut changes = Changes::default();
    if shard.row(&profile_key)?.is_some() {
        let mut head: Head = shard.read(&head_key)?.unwrap_or_default();
        // Nothing that does not exist yet can be gone.
        let oldest = floor.oldest_seq.min(head.seq.saturating_add(1));
        head.oldest_seq = head.oldest_seq.max(oldest);
        head.dedup_before_ms = head.dedup_before_ms.max(floor.dedup_before_ms);
        changes.put(head_key, &head);
        changes.notice(Notice::Floor {
            inbox,
            oldest_seq: head.oldest(),
        });
    }
    if let Some(mut row) = shard.read::<Group>(&group_key)? {
        row.dedup_before_ms = row.dedup_before_ms.max(floor.dedup_before_ms);
        changes.put(group_key, &row);
    }
    Ok(changes.effects)
}

/// The settings that a shard's log has.
///
/// # Errors
/// [`Unreadable`] if the row cannot be read or verified.
pub fn current(store: &impl ShardStore) -> Result<Option<Settings>, Unreadable> {
    let key = keys::settings();
    store
        .get(&key)?
        .map(|row| keys::decode(&key, &row))
        .transpose()
}

/// The cluster's identity; only in shard 0.
///
/// # Errors
/// [`Unreadable`] if the row cannot be read or verified.
pub fn cluster(store: &impl ShardStore) -> Result<Option<Bootstrap>, Unreadable> {
    let key = keys::cluster();
    store
        .get(&key)?
        .map(|row| keys::decode(&key, &row))
        .transpose()
}

/// The shard's incarnation; 0 before it has one.
///
/// # Errors
/// [`Unreadable`] if the row cannot be read or verified.
pub fn incarnation(store: &impl ShardStore) -> Result<u64, Unreadable> {
    let key = keys::incarnation();
    Ok(match store.get(&key)? {
        Some(row) => keys::decode::<Incarnation>(&key, &row)?.incarnation,
        None => 0,
    })
}

#[cfg(test)]
mod tests;
