//! Signals between people: presence, typing, and the marks of groups that are open on
//! somebody's screen. All of it is soft: lost messages cost a signal, no message.

use chat_wire::{
    error::{Code, Refusal},
    frame::{self, Body},
    ids::{ConversationId, GroupId, SessionId, ShardId, UserId},
};
use std::collections::{BTreeMap, BTreeSet};

use super::{Pass, requests::refuse, shard::Shard};
use crate::{
    command::RemoteMark,
    delivery::Slot,
    message::{Origin, Says, ToSession},
    presence::{Present, REFRESH_MS, Subscriptions, Watcher},
    router,
    shard::{group::read as group, inbox::read as inbox, keys, roster},
    store::{ShardStore, Unreadable},
};

/// Sessions that follow the marks of one group; one more is LIMIT_EXCEEDED.
const MAX_FOLLOWERS: usize = 1024;
/// Members of a group here to whom typing is shown; beyond it is dropped.
const MAX_TYPING: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct People {
    pub(super) present: Present,
    subscriptions: Subscriptions,
    /// When subscriptions are said again, and old watchers forgotten.
    refresh_due_ms: Option<u64>,
    followers: BTreeMap<GroupId, BTreeMap<SessionId, UserId>>,
    follows: BTreeMap<SessionId, BTreeSet<GroupId>>,
}

impl People {
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.present
            .due_ms()
            .into_iter()
            .chain(self.refresh_due_ms)
            .min()
    }

    fn follow(&mut self, of: GroupId, session: SessionId, user: UserId) -> Result<(), Refusal> {
        let followers = self.followers.entry(of).or_default();
        if followers.len() >= MAX_FOLLOWERS && !followers.contains_key(&session) {
            let many = format!("{MAX_FOLLOWERS} sessions follow this group's marks already");
            return Err(Refusal::new(Code::LimitExceeded, many));
        }
        followers.insert(session, user);
        self.follows.entry(session).or_default().insert(of);
        Ok(())
    }

    fn unfollow(&mut self, of: GroupId, session: SessionId) {
        if let Some(followers) = self.followers.get_mut(&of) {
            followers.remove(&session);
            if followers.is_empty() {
                self.followers.remove(&of);
            }
        }
        if let Some(groups) = self.follows.get_mut(&session) {
            groups.remove(&of);
            if groups.is_empty() {
                self.follows.remove(&session);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn followers(&self) -> usize {
        self.followers.values().map(BTreeMap::len).sum()
    }

    fn unfollow_all(&mut self, session: SessionId) {
        for of in self.follows.get(&session).cloned().unwrap_or_default() {
            self.unfollow(of, session);
        }
    }
}

impl<S: ShardStore> Shard<S> {
    /// A session of a user began here.
    pub(super) fn came(&mut self, pass: &Pass<'_>, user: UserId) {
        let tell_ms = pass.now.mono_ms + pass.settings.presence_coalesce_ms;
        self.people.present.came(user, tell_ms);
    }

    /// A session of a user ended here.
    pub(super) fn went(&mut self, pass: &mut Pass<'_>, session: SessionId, slot: &Slot) {
        let tell_ms = pass.now.mono_ms + pass.settings.presence_coalesce_ms;
        let user = slot.user;
        if slot.foreground {
            self.people.present.went(user, pass.now.unix_ms, tell_ms);
        }
        let old = self.people.subscriptions.replace(session, &[]);
        self.say_watches(pass, (session, user), &[], &old);
    }

    /// Whatever the session followed here, it does no longer.
    pub(super) fn unfollow_all(&mut self, session: SessionId) {
        self.people.unfollow_all(session);
    }

    pub(super) fn subscribe(
        &mut self,
        pass: &mut Pass<'_>,
        origin: Origin,
        user: UserId,
        users: &[UserId],
    ) {
        if self
            .delivery
            .slot(origin.session)
            .is_none_or(|slot| slot.user != user)
        {
            let apart = "the session is not attached here: connect again";
            return refuse(pass, origin, Refusal::new(Code::Unavailable, apart));
        }
        let old = self.people.subscriptions.replace(origin.session, users);
        self.people
            .refresh_due_ms
            .get_or_insert(pass.now.mono_ms + REFRESH_MS);
        let message = ToSession::Answer {
            req: origin.req,
            body: Body::Done(frame::Done {}),
        };
        pass.tell(origin.session, message);
        self.say_watches(pass, (origin.session, user), users, &old);
    }

    /// Tells the shards of these users whom the session watches there; those of `old`
    /// hear of it even if that is nobody.
    fn say_watches(
        &self,
        pass: &mut Pass<'_>,
        (watcher, watcher_user): (SessionId, UserId),
        users: &[UserId],
        old: &[UserId],
    ) {
        let map = &pass.settings.map;
        let mut by_shard: BTreeMap<ShardId, Vec<UserId>> = BTreeMap::new();
        for user in old {
            by_shard.entry(router::of_user(map, *user)).or_default();
        }
        for user in users {
            by_shard
                .entry(router::of_user(map, *user))
                .or_default()
                .push(*user);
        }
        for (shard, users) in by_shard {
            pass.say(
                self.id,
                shard,
                Says::Watch {
                    watcher,
                    watcher_user,
                    users,
                },
            );
        }
    }

    /// Sessions of another shard watch users of this one.
    pub(super) fn watch(
        &mut self,
        pass: &mut Pass<'_>,
        from: ShardId,
        (session, user): (SessionId, UserId),
        users: Vec<UserId>,
    ) {
        let watcher = Watcher {
            session,
            user,
            shard: from,
        };
        let told: Vec<_> = users
            .iter()
            .map(|user| self.people.present.of(*user, pass.now.unix_ms))
            .collect();
        self.people.present.watch(pass.now.mono_ms, watcher, users);
        self.people
            .refresh_due_ms
            .get_or_insert(pass.now.mono_ms + REFRESH_MS);
        for presence in told {
            self.say_presence(pass, watcher, presence);
        }
    }

    fn say_presence(&self, pass: &mut Pass<'_>, watcher: Watcher, presence: frame::Presence) {
        let Watcher {
            session: watcher,
            user: watcher_user,
            shard,
        } = watcher;
        pass.say(
            self.id,
            shard,
            Says::PresenceChanged {
                watcher,
                watcher_user,
                presence,
            },
        );
    }

    /// A user that a session here subscribed to came or went. It is shown only if it
    /// has written to the session's user.
    pub(super) fn presence_changed(
        &mut self,
        session: SessionId,
        owner: UserId,
        presence: frame::Presence,
    ) -> Result<(), Unreadable> {
        let writer = UserId(presence.user);
        if self.people.subscriptions.heard(session, presence)
            && inbox::has_written(self.replica.store(), owner, writer)?
        {
            self.people.subscriptions.shown(session, writer);
            self.delivery.signal(session, Body::Presence(presence));
        }
        Ok(())
    }

    /// A user got a message of another: sessions that subscribed may know it now.
    pub(super) fn written(&mut self, owner: UserId, writer: UserId) {
        if self.people.subscriptions.is_empty() {
            return;
        }
        for session in self.delivery.of_user(owner).to_vec() {
            if let Some(presence) = self.people.subscriptions.written(session, writer) {
                self.delivery.signal(session, Body::Presence(presence));
            }
        }
    }

    /// What is due of presence.
    pub(super) fn tell_presence(&mut self, pass: &mut Pass<'_>) {
        let now = pass.now;
        for (watcher, presence) in self.people.present.flush(now.mono_ms, now.unix_ms) {
            self.say_presence(pass, watcher, presence);
        }
        if self
            .people
            .refresh_due_ms
            .is_none_or(|due| due > now.mono_ms)
        {
            return;
        }
        self.people.present.sweep(now.mono_ms);
        let all: Vec<(SessionId, Vec<UserId>)> = self
            .people
            .subscriptions
            .all()
            .map(|(session, users)| (session, users.collect()))
            .collect();
        for (session, users) in &all {
            if let Some(slot) = self.delivery.slot(*session) {
                self.say_watches(pass, (*session, slot.user), users, &[]);
            }
        }
        self.people.refresh_due_ms = Some(now.mono_ms + REFRESH_MS);
    }

    /// A session here types.
    pub(super) fn typing(
        &mut self,
        pass: &mut Pass<'_>,
        session: SessionId,
        conversation: ConversationId,
        on: bool,
    ) -> Result<(), Unreadable> {
        let Some(sender) = self.delivery.slot(session).map(|slot| slot.user) else {
            return Ok(());
        };
        let Some(of) = conversation.group() else {
            let to = conversation.user().filter(|to| *to != sender);
            if let Some(to) = to {
                let shard = router::of_user(&pass.settings.map, to);
                let conversation = sender.into();
                pass.say(
                    self.id,
                    shard,
                    Says::Typing {
                        sender,
                        conversation,
                        to: Some(to),
                        on,
                    },
                );
            }
            return Ok(());
        };
        let home = router::of_group(&pass.settings.map, of);
        if home == self.id {
            return self.relay_typing(pass, sender, of, on);
        }
        pass.say(
            self.id,
            home,
            Says::Typing {
                sender,
                conversation,
                to: None,
                on,
            },
        );
        Ok(())
    }

    /// Somebody types to a user here, or in a group: asked of its home by the typing
    /// member's shard, or relayed by the home to where members live.
    pub(super) fn typing_arrives(
        &mut self,
        pass: &mut Pass<'_>,
        from: ShardId,
        sender: UserId,
        (conversation, to): (ConversationId, Option<UserId>),
        on: bool,
    ) -> Result<(), Unreadable> {
        let body = |conversation: ConversationId| {
            Body::Typing(frame::Typing {
                conversation: conversation.0,
                on,
                user: sender.0,
            })
        };
        if let Some(to) = to {
            if self.converse(to, sender)? {
                self.delivery.lossy_signal(to, &body(sender.into()));
            }
            return Ok(());
        }
        let Some(of) = conversation.group() else {
            return Ok(());
        };
        if router::of_group(&pass.settings.map, of) != from {
            return self.relay_typing(pass, sender, of, on);
        }
        for member in roster::roster(self.replica.store(), of, None, MAX_TYPING)? {
            if member != sender {
                self.delivery.lossy_signal(member, &body(conversation));
            }
        }
        Ok(())
    }

    fn relay_typing(
        &self,
        pass: &mut Pass<'_>,
        sender: UserId,
        of: GroupId,
        on: bool,
    ) -> Result<(), Unreadable> {
        let store = self.replica.store();
        if group::is_member(store, of, sender)? {
            for shard in group::member_shards(store, of)? {
                let conversation = of.into();
                pass.say(
                    self.id,
                    shard,
                    Says::Typing {
                        sender,
                        conversation,
                        to: None,
                        on,
                    },
                );
            }
        }
        Ok(())
    }

    /// Whether a user here has a conversation with a peer.
    fn converse(&self, owner: UserId, peer: UserId) -> Result<bool, Unreadable> {
        let store = self.replica.store();
        if inbox::has_written(store, owner, peer)? {
            return Ok(true);
        }
        let own = keys::newest_posting(owner.key(), keys::OWN, peer.into());
        Ok(!store.range(&own)?.is_empty())
    }

    /// A member reads a group's marks, and wants to follow them or not.
    pub(super) fn follow(
        &mut self,
        of: GroupId,
        session: SessionId,
        user: UserId,
        follow: bool,
    ) -> Result<(), Refusal> {
        if follow {
            return self.people.follow(of, session, user);
        }
        self.people.unfollow(of, session);
        Ok(())
    }

    /// Marks of members changed: those who follow the group get a RECEIPT without
    /// versions.
    pub(super) fn tell_followers(&self, pass: &mut Pass<'_>, marks: &[RemoteMark]) {
        for mark in marks {
            let Some(followers) = self.people.followers.get(&GroupId(mark.target)) else {
                continue;
            };
            let receipt = frame::Receipt {
                from_version: 0,
                to_version: 0,
                conversation: mark.target,
                user: mark.user,
                delivered_up_to: mark.delivered,
                seen_up_to: mark.seen,
            };
            for session in followers.keys() {
                pass.tell(*session, ToSession::Signal(Body::Receipt(receipt)));
            }
        }
    }

    /// A group changed: who is no member any more follows it no more.
    pub(super) fn group_changed(&mut self, of: GroupId) -> Result<(), Unreadable> {
        let Some(followers) = self.people.followers.get(&of) else {
            return Ok(());
        };
        let store = self.replica.store();
        let mut gone = Vec::new();
        for (session, user) in followers {
            if !group::is_member(store, of, *user)? {
                gone.push(*session);
            }
        }
        for session in gone {
            self.people.unfollow(of, session);
        }
        Ok(())
    }
}
