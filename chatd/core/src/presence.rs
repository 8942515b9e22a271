//! Who is there, at the shard of each user: soft state, never written to disk. After a
//! failover sessions register again, and watchers watch again.
//!
//! Both sides are here. A *subscriber's* shard keeps what its sessions want to know,
//! and asks the shards of those users to watch them; a *watched* user's shard tells
//! watchers, and changes within a second become one. Whether B is shown to A is
//! decided at A's shard: only if B has written to A.
//!
//! Bounds: subscriptions by the limit of the session; [`MAX_WATCHERS`] a user,
//! [`MAX_WATCHES`] a shard: what is above is not watched, and tried again with the next
//! refresh; [`MAX_LAST_SEEN`] users who went, then the longest gone are forgotten.

use chat_wire::{
    frame::{self, PresenceState},
    ids::{SessionId, ShardId, UserId},
};
use std::collections::{BTreeMap, BTreeSet};

/// Sessions that watch one user.
pub const MAX_WATCHERS: usize = 10_000;
/// Watched (session, user) pairs of a shard.
pub const MAX_WATCHES: usize = 1_000_000;
/// Users who went away, and whose last time is known.
pub const MAX_LAST_SEEN: usize = 100_000;
/// Subscriptions are said again this often, since messages between shards may be lost.
pub const REFRESH_MS: u64 = 60_000;
/// A watcher that was not said again for so long is forgotten.
const FORGET_MS: u64 = 3 * REFRESH_MS;

/// Where changes of a watched user go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watcher {
    /// The session that subscribed.
    pub session: SessionId,
    /// Its user.
    pub user: UserId,
    /// The shard where it is attached.
    pub shard: ShardId,
}

#[derive(Debug, Default)]
struct Watched {
    watchers: BTreeMap<SessionId, Watcher>,
    /// What they were told last.
    told: Option<PresenceState>,
}

#[derive(Debug)]
struct Watches {
    users: Vec<UserId>,
    said_ms: u64,
}

/// The watched side.
#[derive(Debug, Default)]
pub struct Present {
    online: BTreeMap<UserId, u32>,
    last_seen: BTreeMap<UserId, u64>,
    gone: BTreeSet<(u64, UserId)>,
    watched: BTreeMap<UserId, Watched>,
    watches: BTreeMap<SessionId, Watches>,
    pairs: usize,
    changed: BTreeSet<UserId>,
    flush_due_ms: Option<u64>,
}

impl Present {
    /// A session of a user began. `tell_ms` is when its watchers hear of it.
    pub fn came(&mut self, user: UserId, tell_ms: u64) {
        let sessions = self.online.entry(user).or_default();
        *sessions += 1;
        if *sessions == 1 {
            if let Some(at) = self.last_seen.remove(&user) {
                self.gone.remove(&(at, user));
            }
            self.change(user, tell_ms);
        }
    }

    /// A session of a user ended.
    pub fn went(&mut self, user: UserId, unix_ms: u64, tell_ms: u64) {
        let Some(sessions) = self.online.get_mut(&user) else {
            return;
        };
        *sessions -= 1;
        if *sessions > 0 {
            return;
        }
        self.online.remove(&user);
        self.last_seen.insert(user, unix_ms);
        self.gone.insert((unix_ms, user));
        if self.gone.len() > MAX_LAST_SEEN
            && let Some((_, longest_gone)) = self.gone.pop_first()
        {
            self.last_seen.remove(&longest_gone);
        }
        self.change(user, tell_ms);
    }

    fn change(&mut self, user: UserId, tell_ms: u64) {
        if self.watched.contains_key(&user) {
            self.changed.insert(user);
            self.flush_due_ms.get_or_insert(tell_ms);
        }
    }

    /// A user as watchers see it.
    #[must_use]
    pub fn of(&self, user: UserId, unix_ms: u64) -> frame::Presence {
        let online = self.online.contains_key(&user);
        let last_seen = self.last_seen.get(&user).copied().unwrap_or(0);
        frame::Presence {
            user: user.0,
            state: state(online).into(),
            last_seen_ms: if online { unix_ms } else { last_seen },
        }
    }

    /// A session watches these users, and none of those before.
    pub fn watch(&mut self, now_ms: u64, watcher: Watcher, users: Vec<UserId>) {
        self.forget(watcher.session);
        let mut kept = Vec::with_capacity(users.len());
        for user in users {
            if self.pairs >= MAX_WATCHES {
                break;
            }
            let online = self.online.contains_key(&user);
            let watched = self.watched.entry(user).or_default();
            if watched.watchers.len() < MAX_WATCHERS {
                watched.told.get_or_insert(state(online));
                watched.watchers.insert(watcher.session, watcher);
                self.pairs += 1;
                kept.push(user);
            }
        }
        if !kept.is_empty() {
            self.watches.insert(
                watcher.session,
                Watches {
                    users: kept,
                    said_ms: now_ms,
                },
            );
        }
    }

    /// A session watches nobody any more.
    pub fn forget(&mut self, session: SessionId) {
        let Some(watches) = self.watches.remove(&session) else {
            return;
        };
        for user in watches.users {
            self.pairs -= 1;
            if let Some(watched) = self.watched.get_mut(&user) {
                watched.watchers.remove(&session);
                if watched.watchers.is_empty() {
                    self.watched.remove(&user);
                }
            }
        }
    }

    /// Watched (session, user) pairs: never more than [`MAX_WATCHES`].
    #[must_use]
    pub const fn pairs(&self) -> usize {
        self.pairs
    }

    /// Forgets watchers that were not said again.
    pub fn sweep(&mut self, now_ms: u64) {
        let old = |watches: &Watches| watches.said_ms + FORGET_MS <= now_ms;
        let gone: Vec<_> = self
            .watches
            .iter()
            .filter(|(_, watches)| old(watches))
            .map(|(id, _)| *id)
            .collect();
        for session in gone {
            self.forget(session);
        }
    }

    /// When [`Present::flush`] has something to do.
    #[must_use]
    pub const fn due_ms(&self) -> Option<u64> {
        self.flush_due_ms
    }

    /// Changes since the last time, for whom they are. Who came and went in between
    /// has not changed.
    pub fn flush(&mut self, now_ms: u64, unix_ms: u64) -> Vec<(Watcher, frame::Presence)> {
        if self.flush_due_ms.is_none_or(|due| due > now_ms) {
            return Vec::new();
        }
        self.flush_due_ms = None;
        let mut told = Vec::new();
        for user in std::mem::take(&mut self.changed) {
            let presence = self.of(user, unix_ms);
            let Some(watched) = self.watched.get_mut(&user) else {
                continue;
            };
            let new = presence.state();
            if watched.told.replace(new) != Some(new) {
                told.extend(
                    watched
                        .watchers
                        .values()
                        .map(|watcher| (*watcher, presence)),
                );
            }
        }
        told
    }
}

const fn state(online: bool) -> PresenceState {
    if online {
        PresenceState::Online
    } else {
        PresenceState::Offline
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    presence: Option<frame::Presence>,
    shown: bool,
}

/// The subscriber's side.
#[derive(Debug, Default)]
pub struct Subscriptions {
    sessions: BTreeMap<SessionId, BTreeMap<UserId, Known>>,
}

impl Subscriptions {
    /// Replaces what a session wants to know; returns those it no longer wants.
    pub fn replace(&mut self, session: SessionId, users: &[UserId]) -> Vec<UserId> {
        let mut old = self.sessions.remove(&session).unwrap_or_default();
        if !users.is_empty() {
            let new = users
                .iter()
                .map(|user| (*user, old.remove(user).unwrap_or_default()));
            let new = new.collect();
            self.sessions.insert(session, new);
        }
        old.into_keys().collect()
    }

    /// Whether nobody here wants to know anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// All sessions that subscribe, and to whom.
    pub fn all(&self) -> impl Iterator<Item = (SessionId, impl Iterator<Item = UserId> + '_)> + '_ {
        self.sessions
            .iter()
            .map(|(session, users)| (*session, users.keys().copied()))
    }

    /// A watched user's shard says how it is. True if the session does not know that
    /// yet; it may be shown if the user has written to it.
    pub fn heard(&mut self, session: SessionId, presence: frame::Presence) -> bool {
        let known = self
            .sessions
            .get_mut(&session)
            .and_then(|users| users.get_mut(&UserId(presence.user)));
        let Some(known) = known else { return false };
        let news = known.presence.is_none_or(|old| old.state != presence.state) || !known.shown;
        known.presence = Some(presence);
        news
    }

    /// The session was shown the user.
    pub fn shown(&mut self, session: SessionId, user: UserId) {
        if let Some(known) = self
            .sessions
            .get_mut(&session)
            .and_then(|users| users.get_mut(&user))
        {
            known.shown = true;
        }
    }

    /// A user has written: what the session may know from now on, if it was not shown
    /// before.
    pub fn written(&mut self, session: SessionId, writer: UserId) -> Option<frame::Presence> {
        let known = self.sessions.get_mut(&session)?.get_mut(&writer)?;
        if known.shown {
            return None;
        }
        let presence = known.presence?;
        known.shown = true;
        Some(presence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId(1);
    const BOB: UserId = UserId(2);

    fn watcher(session: u64) -> Watcher {
        Watcher {
            session: SessionId(session),
            user: ANN,
            shard: ShardId(1),
        }
    }

    #[test]
    fn a_change_is_told_once_and_a_flap_not_at_all() {
        let mut present = Present::default();
        present.watch(0, watcher(1), vec![BOB]);
        present.came(BOB, 1000);
        present.came(BOB, 1000);
        assert_eq!(present.flush(999, 0), []);
        let told = present.flush(1000, 77);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].1.state(), PresenceState::Online);
        present.went(BOB, 5, 2000);
        present.went(BOB, 6, 2000);
        present.came(BOB, 2100);
        assert_eq!(present.flush(2000, 0), []);
        present.went(BOB, 9, 4000);
        let told = present.flush(4000, 0);
        assert_eq!(
            (told[0].1.state(), told[0].1.last_seen_ms),
            (PresenceState::Offline, 9)
        );
    }

    #[test]
    fn watchers_of_one_user_are_bounded_and_old_ones_forgotten() {
        let mut present = Present::default();
        for session in 0..=MAX_WATCHERS as u64 {
            present.watch(0, watcher(session), vec![BOB]);
        }
        assert_eq!(present.pairs, MAX_WATCHERS);
        present.came(BOB, 0);
        assert_eq!(present.flush(0, 0).len(), MAX_WATCHERS);
        present.watch(FORGET_MS, watcher(3), vec![BOB]);
        present.sweep(FORGET_MS);
        assert_eq!(present.pairs, 1);
        present.forget(SessionId(3));
        assert!(present.watched.is_empty() && present.watches.is_empty());
    }

    #[test]
    fn who_went_longest_ago_is_forgotten_first() {
        let mut present = Present::default();
        for user in 0..=MAX_LAST_SEEN as u64 {
            present.came(UserId(user), 0);
            present.went(UserId(user), 1000 + user, 0);
        }
        assert_eq!(present.last_seen.len(), MAX_LAST_SEEN);
        assert_eq!(present.of(UserId(0), 0).last_seen_ms, 0);
        assert_eq!(present.of(UserId(1), 0).last_seen_ms, 1001);
    }
}
