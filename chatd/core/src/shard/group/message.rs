//! SEND to a group: committed in the group's log, which is SENT; then one outbox entry
//! for each shard where members live.

use bytes::Bytes;
use chat_wire::{
    error::Code,
    event::{Header, Kind},
    ids::{ClientId, GroupId, UserId},
};

use crate::{
    command::{Effect, GroupMessage, Send},
    shard::{
        Answer, Effects, Notice,
        dedup::{self, Attempt},
        inbox::sent,
        keys::{self, Answered, Group, GroupHead},
        outbox::Outboxes,
        step::{Changes, Shard, Stepped, refuse},
    },
};

pub(crate) fn send(
    shard: &Shard<'_>,
    send: &Send,
    sender: UserId,
    id: ClientId,
    group: GroupId,
) -> Stepped<Effects> {
    let home = group.key();
    shard.owns(home)?;
    let member = keys::member(group, sender.key());
    let mut wanted = vec![keys::group(group), keys::group_head(group), member];
    wanted.extend(dedup::keys(home, sender, id, &send.previous)?);
    shard.want(&wanted, &[])?;
    let row: Option<Group> = shard.read(&keys::group(group))?;
    let attempt = Attempt {
        home,
        sender,
        id,
        digest: send.digest,
        previous: &send.previous,
        dedup_before_ms: row.as_ref().map_or(0, |row| row.dedup_before_ms),
    };
    if let Some(first) = attempt.first_answer(shard)? {
        return Ok(Effects {
            answer: Some(Answer::Sent(sent(send, &first, first.seq, true))),
            notices: vec![Notice::Duplicate { id: Some(id) }],
            ..Effects::default()
        });
    }
    let row = match row {
        Some(row) if row.app == send.app.as_bytes() => row,
        _ => return refuse(Code::NotFound, "no such group here"),
    };
    if shard.row(&member)?.is_none() {
        return refuse(
            Code::NotMember,
            "only members may send to a group, and you are none (or no longer)",
        );
    }
    let shards = super::shards_of(&row)?;
    let mut outboxes = Outboxes::read(shard, shards.keys().copied())?;
    let mut head: GroupHead = shard.read(&keys::group_head(group))?.unwrap_or_default();
    let msg_id = super::next(shard, &mut head, send.after)?;
    let body = shard.body(group.0, msg_id);
    let mut changes = Changes::for_rows(4 + 2 * shards.len());
    let header = Header {
        kind: Kind::Message,
        flags: 0,
        msg_id,
        conversation: group.into(),
        sender,
        group_seq: head.seq,
        sender_name: Bytes::copy_from_slice(send.sender_name.as_bytes()),
    };
    changes.put_bytes(
        keys::group_log(group, head.seq),
        header.encode(),
        Some(body),
    );
    changes.put(keys::group_head(group), &head);
    let answered = Answered {
        seq: head.seq,
        msg_id: msg_id.0,
        digest: send.digest,
        op: None,
    };
    changes.put(attempt.key(), &answered);
    changes.put_last(msg_id);
    let message = GroupMessage {
        group: group.0,
        group_seq: head.seq,
        msg_id: msg_id.0,
        sender: sender.0,
        sender_name: send.sender_name.clone(),
    };
    changes.effects.reach.members = shards.values().sum();
    for destination in shards.into_keys() {
        outboxes.push(
            shard.context.shard,
            destination,
            Effect::GroupMessage(message.clone()),
            Some(body),
            &mut changes,
        )?;
    }
    outboxes.finish(&mut changes);
    Ok(changes.answer(Answer::Sent(sent(send, &answered, head.seq, false))))
}
