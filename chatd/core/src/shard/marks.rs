//! Marks: how far somebody has received and seen a conversation. State, not events:
//! merged by max, never beyond the conversation's last incoming message in the
//! reader's own inbox, and SEEN never beyond DELIVERED.
//!
//! A mark goes where it is shown: 1:1 into the peer's inbox, of a group to its home.
//! On its way it is a pending row, overwritten while it waits and deleted when the
//! destination says that it has *that* value. What a device must hear of (a peer's
//! mark, one's own SEEN) takes a version of the inbox's marks; one index row a mark
//! says which version it had last.

use chat_wire::{
    event::{Header, Kind},
    frame,
    ids::{ConversationId, DeviceId, GroupId, InboxKey, MsgId, ShardId, UserId},
};
use std::collections::BTreeMap;

use crate::{
    command::{self, ConversationMark, RemoteMark},
    shard::{
        Effects, NewReceipt, Notice,
        keys::{self, Device, Head, Mark, MarkOf, MemberMark},
        step::{Changes, Shard, Stepped},
    },
    store::{Direction, Range, ReadRows, ShardStore, Unreadable},
};

/// Marks and heads that a command has touched; written once, at its end.
#[derive(Debug)]
struct Book<'a> {
    shard: &'a Shard<'a>,
    changes: Changes,
    heads: BTreeMap<UserId, Head>,
    marks: BTreeMap<(UserId, ConversationId, UserId), Mark>,
}

/// What became of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raised {
    mark: Mark,
    changed: bool,
    seen_changed: bool,
}

impl<'a> Book<'a> {
    fn new(shard: &'a Shard<'a>) -> Self {
        Self {
            shard,
            changes: Changes::default(),
            heads: BTreeMap::new(),
            marks: BTreeMap::new(),
        }
    }

    fn head(&mut self, user: UserId) -> Stepped<Head> {
        if let Some(head) = self.heads.get(&user) {
            return Ok(*head);
        }
        let head = self
            .shard
            .read(&keys::head(user.key()))?
            .unwrap_or_default();
        Ok(head)
    }

    fn raise(
        &mut self,
        inbox: UserId,
        conversation: ConversationId,
        user: UserId,
        (delivered, seen): (i64, i64),
    ) -> Stepped<Raised> {
        let key = (inbox, conversation, user);
        let old = match self.marks.get(&key) {
            Some(mark) => *mark,
            None => self
                .shard
                .read(&keys::mark(inbox.key(), conversation, user))?
                .unwrap_or_default(),
        };
        let seen = old.seen.max(seen);
        let mark = Mark {
            delivered: old.delivered.max(delivered).max(seen),
            seen,
            version: old.version,
        };
        assert!(
            mark.seen <= mark.delivered && mark.delivered >= old.delivered,
            "marks never fall, and what was seen was delivered"
        );
        let changed = mark != old;
        if changed {
            self.marks.insert(key, mark);
        }
        Ok(Raised {
            mark,
            changed,
            seen_changed: mark.seen != old.seen,
        })
    }

    /// Gives a mark the next version and tells the inbox's devices.
    fn tell(&mut self, inbox: UserId, conversation: ConversationId, user: UserId) -> Stepped<()> {
        let mut head = self.head(inbox)?;
        let mark = self
            .marks
            .get_mut(&(inbox, conversation, user))
            .expect("only a mark that was raised is told");
        let Some(version) = head.marks_version.checked_add(1) else {
            // Devices still read it with CONVERSATIONS.
            return Ok(());
        };
        if mark.version != 0 {
            self.changes
                .delete(keys::mark_version(inbox.key(), mark.version));
        }
        self.changes.put(
            keys::mark_version(inbox.key(), version),
            &MarkOf {
                conversation: conversation.0,
                user: user.0,
            },
        );
        self.changes.effects.receipts.push(NewReceipt {
            inbox,
            receipt: receipt(head.marks_version, version, conversation, user, mark),
        });
        mark.version = version;
        head.marks_version = version;
        self.heads.insert(inbox, head);
        Ok(())
    }

    fn finish(mut self) -> Effects {
        for ((inbox, conversation, user), mark) in &self.marks {
            self.changes
                .put(keys::mark(inbox.key(), *conversation, *user), mark);
        }
        for (user, head) in &self.heads {
            self.changes.put(keys::head(user.key()), head);
        }
        self.changes.effects
    }
}

const fn receipt(
    from_version: u64,
    to_version: u64,
    conversation: ConversationId,
    user: UserId,
    mark: &Mark,
) -> frame::Receipt {
    frame::Receipt {
        from_version,
        to_version,
        conversation: conversation.0,
        user: user.0,
        delivered_up_to: mark.delivered,
        seen_up_to: mark.seen,
    }
}

/// What devices of this shard have acknowledged and seen. An item beyond its inbox's
/// head, or of a device that is not known, is passed over.
pub(crate) fn acks(shard: &Shard<'_>, acks: &command::Acks) -> Stepped<Effects> {
    let (mut wanted, mut ranges) = (Vec::new(), Vec::new());
    for ack in &acks.devices {
        let user = UserId(ack.user);
        let inbox = user.key();
        wanted.push(keys::head(inbox));
        if ack.device != 0 {
            wanted.push(keys::device(inbox, DeviceId(ack.device)));
        }
        for mark in &ack.marks {
            let conversation = ConversationId(mark.conversation);
            wanted.push(keys::mark(inbox, conversation, user));
            ranges.push(keys::newest_posting(inbox, keys::INCOMING, conversation));
        }
    }
    shard.want(&wanted, &ranges)?;
    let mut book = Book::new(shard);
    let mut devices: BTreeMap<_, Device> = BTreeMap::new();
    for ack in &acks.devices {
        let user = UserId(ack.user);
        let head = book.head(user)?;
        if ack.cursor > head.seq {
            continue;
        }
        if ack.device != 0 {
            let key = keys::device(user.key(), DeviceId(ack.device));
            let device = match devices.get(&key) {
                Some(device) => Some(*device),
                None => shard.read(&key)?,
            };
            let Some(device) = device else {
                continue;
            };
            devices.insert(
                key,
                Device {
                    cursor: device.cursor.max(ack.cursor),
                    seen_ms: device.seen_ms.max(shard.context.ts_ms),
                },
            );
        }
        for mark in &ack.marks {
            own_mark(shard, &mut book, user, mark)?;
        }
    }
    for (key, device) in devices {
        book.changes.put(key, &device);
    }
    Ok(book.finish())
}

fn own_mark(
    shard: &Shard<'_>,
    book: &mut Book<'_>,
    user: UserId,
    said: &ConversationMark,
) -> Stepped<()> {
    let conversation = ConversationId(said.conversation);
    let newest = keys::newest_posting(user.key(), keys::INCOMING, conversation);
    let Some((key, _)) = shard.range(&newest)?.first() else {
        return Ok(());
    };
    let last = keys::word(key.sub(), 8).cast_signed();
    let at_most = (said.delivered.min(last), said.seen.min(last));
    let raised = book.raise(user, conversation, user, at_most)?;
    if !raised.changed {
        return Ok(());
    }
    let remote = RemoteMark {
        target: conversation.0,
        user: user.0,
        delivered: raised.mark.delivered,
        seen: raised.mark.seen,
    };
    let destination = shard.shard_of(InboxKey(chat_wire::ids::mix64(conversation.0)));
    book.changes.put(
        keys::pending_mark(destination, remote.target, user),
        &MemberMark {
            delivered: remote.delivered,
            seen: remote.seen,
        },
    );
    book.changes.effects.pending.push((destination, remote));
    if raised.seen_changed {
        book.tell(user, conversation, user)?;
    }
    Ok(())
}

/// Marks from other shards, for inboxes and groups that live here. All are confirmed,
/// also those that change nothing or belong to nobody.
pub(crate) fn remote(shard: &Shard<'_>, marks: &command::Marks) -> Stepped<Effects> {
    let mut wanted = Vec::with_capacity(marks.marks.len() * 3);
    for mark in &marks.marks {
        let (target, user) = (ConversationId(mark.target), UserId(mark.user));
        match target.group() {
            Some(group) => wanted.extend([
                keys::member(group, user.key()),
                keys::member_mark(group, user.key()),
            ]),
            None => {
                let inbox = UserId(target.0).key();
                wanted.extend([
                    keys::profile(inbox),
                    keys::head(inbox),
                    keys::mark(inbox, user.into(), user),
                ]);
            }
        }
    }
    shard.want(&wanted, &[])?;
    let mut book = Book::new(shard);
    let mut members: BTreeMap<(GroupId, UserId), MemberMark> = BTreeMap::new();
    for mark in &marks.marks {
        let user = UserId(mark.user);
        if let Some(group) = ConversationId(mark.target).group() {
            member_mark(shard, group, mark, &mut members, &mut book.changes)?;
            continue;
        }
        let inbox = UserId(mark.target);
        if shard.row(&keys::profile(inbox.key()))?.is_none() {
            continue;
        }
        let said = (mark.delivered, mark.seen);
        if book.raise(inbox, user.into(), user, said)?.changed {
            book.tell(inbox, user.into(), user)?;
        }
    }
    for ((group, user), mark) in members {
        book.changes
            .put(keys::member_mark(group, user.key()), &mark);
    }
    book.changes
        .notice(Notice::MarksApplied(marks.marks.clone()));
    Ok(book.finish())
}

fn member_mark(
    shard: &Shard<'_>,
    group: GroupId,
    said: &RemoteMark,
    members: &mut BTreeMap<(GroupId, UserId), MemberMark>,
    changes: &mut Changes,
) -> Stepped<()> {
    let user = UserId(said.user);
    if shard.row(&keys::member(group, user.key()))?.is_none() {
        return Ok(());
    }
    let old = match members.get(&(group, user)) {
        Some(mark) => *mark,
        None => shard
            .read(&keys::member_mark(group, user.key()))?
            .unwrap_or_default(),
    };
    let seen = old.seen.max(said.seen);
    let mark = MemberMark {
        delivered: old.delivered.max(said.delivered).max(seen),
        seen,
    };
    if mark != old {
        members.insert((group, user), mark);
        changes.effects.member_marks.push(RemoteMark {
            delivered: mark.delivered,
            seen: mark.seen,
            ..said.clone()
        });
    }
    Ok(())
}

/// Destinations have these marks: pending rows go, unless they were raised meanwhile.
pub(crate) fn confirm(shard: &Shard<'_>, confirm: &command::MarksConfirm) -> Stepped<Effects> {
    let pending: Vec<_> = confirm
        .marks
        .iter()
        .map(|mark| {
            let home = InboxKey(chat_wire::ids::mix64(mark.target));
            keys::pending_mark(shard.shard_of(home), mark.target, UserId(mark.user))
        })
        .collect();
    shard.want(&pending, &[])?;
    let mut changes = Changes::default();
    for (key, mark) in pending.into_iter().zip(&confirm.marks) {
        let sent = MemberMark {
            delivered: mark.delivered,
            seen: mark.seen,
        };
        if shard.read::<MemberMark>(&key)? == Some(sent) {
            changes.delete(key);
        }
    }
    Ok(changes.effects)
}

/// Marks that wait for their destinations, at most `limit` behind `after`.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn pending(
    store: &impl ShardStore,
    after: Option<(ShardId, RemoteMark)>,
    limit: usize,
) -> Result<Vec<(ShardId, RemoteMark)>, Unreadable> {
    let mut range = keys::all(keys::SHARD, keys::PENDING_MARK, &[], limit);
    if let Some((shard, mark)) = after {
        range.from = keys::behind(&keys::pending_mark(shard, mark.target, UserId(mark.user)));
    }
    store
        .range(&range)?
        .iter()
        .map(|(key, row)| {
            let mark: MemberMark = keys::decode(key, row)?;
            let destination = keys::word(key.sub(), 0) >> 48;
            let remote = RemoteMark {
                target: keys::word(key.sub(), 2),
                user: keys::word(key.sub(), 10),
                delivered: mark.delivered,
                seen: mark.seen,
            };
            let destination = ShardId(u16::try_from(destination).expect("16 bits"));
            Ok((destination, remote))
        })
        .collect()
}

/// Marks of an inbox that changed behind `version`, in order of their last change, as
/// a chain of receipts without a hole: at most `limit`.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn receipts_since(
    store: &impl ReadRows,
    user: UserId,
    version: u64,
    limit: usize,
) -> Result<Vec<frame::Receipt>, Unreadable> {
    let Some(first) = version.checked_add(1) else {
        return Ok(Vec::new());
    };
    let inbox = user.key();
    let rows = store.range(&Range {
        from: keys::mark_version(inbox, first),
        to: keys::mark_version(inbox, u64::MAX),
        direction: Direction::Rising,
        limit,
    })?;
    let mut from = version;
    rows.iter()
        .map(|(key, row)| {
            let of: MarkOf = keys::decode(key, row)?;
            let (conversation, reader) = (ConversationId(of.conversation), UserId(of.user));
            let mark_key = keys::mark(inbox, conversation, reader);
            let mark: Mark = store
                .get(&mark_key)?
                .map(|row| keys::decode(&mark_key, &row))
                .transpose()?
                .unwrap_or_default();
            let to = keys::word(key.sub(), 0);
            let receipt = receipt(from, to, conversation, reader, &mark);
            from = to;
            Ok(receipt)
        })
        .collect()
}

/// The DELIVERED marks that follow from acknowledging `from_seq + 1 ..= to_seq`, and up
/// to which event they were computed: at most `limit` events are read.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn marks_between(
    store: &impl ShardStore,
    user: UserId,
    from_seq: u64,
    to_seq: u64,
    limit: usize,
) -> Result<(Vec<ConversationMark>, u64), Unreadable> {
    if from_seq >= to_seq {
        return Ok((Vec::new(), to_seq));
    }
    let inbox = user.key();
    let rows = store.range(&Range {
        from: keys::event(inbox, from_seq + 1),
        to: keys::event(inbox, to_seq),
        direction: Direction::Rising,
        limit,
    })?;
    let mut delivered: BTreeMap<ConversationId, MsgId> = BTreeMap::new();
    let mut reached = if rows.len() < limit { to_seq } else { from_seq };
    for (key, row) in &rows {
        let header = Header::decode(&row.header)
            .map_err(|error| Unreadable(format!("event {key:?}: {error}")))?;
        if header.sender != user && header.kind == Kind::Message {
            let mark = delivered.entry(header.conversation).or_default();
            *mark = header.msg_id.max(*mark);
        }
        reached = reached.max(keys::word(key.sub(), 0));
    }
    let marks = delivered
        .into_iter()
        .map(|(conversation, msg_id)| ConversationMark {
            conversation: conversation.0,
            delivered: msg_id.0,
            seen: 0,
        })
        .collect();
    Ok((marks, reached))
}

#[cfg(test)]
mod tests;
