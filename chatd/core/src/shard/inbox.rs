//! A user's inbox: one numbered log of events, with postings that say where a
//! conversation's messages stand in it. SEND to a person is decided here, at the
//! receiver's inbox; the sender's own history is a copy that goes through the outbox.

pub mod read;

use bytes::Bytes;
use chat_wire::{
    error::Code,
    event::{Header, Kind},
    frame,
    ids::{ConversationId, InboxKey, MsgId, UserId},
};

use crate::{
    command::{Effect, Send, SentCopy},
    shard::{
        Answer, Effects, NewEvent, Notice,
        dedup::{self, Attempt},
        group,
        keys::{self, Answered, Conversation, Head},
        number,
        outbox::Outboxes,
        roster,
        step::{Changes, Shard, Stepped, client_id, refuse, user},
    },
    store::{BodyPlace, Key},
};

/// SEND, to a person or to oneself; to a group see [`group`].
pub(crate) fn send(shard: &Shard<'_>, send: &Send) -> Stepped<Effects> {
    if shard.context.body.len() > shard.body_bytes() {
        return refuse(
            Code::ContentTooLarge,
            "the content is longer than limits.content_bytes: send a media reference",
        );
    }
    let id = client_id(&send.client_id)?;
    let sender = user(send.sender)?;
    if let Some(to) = ConversationId(send.to).group() {
        return group::message::send(shard, send, sender, id, to);
    }
    let receiver = user(send.to)?;
    let home = receiver.key();
    shard.owns(home)?;
    let copy_to = shard.shard_of(sender.key());
    let mut wanted = vec![
        keys::head(home),
        keys::profile(home),
        keys::outbox_state(copy_to),
    ];
    wanted.extend(dedup::keys(home, sender, id, &send.previous)?);
    shard.want(&wanted, &[])?;

    let mut head: Head = shard.read(&keys::head(home))?.unwrap_or_default();
    let attempt = Attempt {
        home,
        sender,
        id,
        digest: send.digest,
        previous: &send.previous,
        dedup_before_ms: head.dedup_before_ms,
    };
    if let Some(first) = attempt.first_answer(shard)? {
        return Ok(Effects {
            answer: Some(Answer::Sent(sent(send, &first, 0, true))),
            notices: vec![Notice::Duplicate { id: Some(id) }],
            ..Effects::default()
        });
    }
    let mut changes = Changes::for_rows(8);
    let receiver_name = open_receiver(shard, send, receiver, &mut changes)?;
    let after = MsgId(send.after);
    let stands = postings(home, sender.into(), after);
    let msg_id = number::next(shard, after, &stands)?;
    let notes = sender == receiver;
    let header = Header {
        kind: if notes { Kind::Own } else { Kind::Message },
        flags: 0,
        msg_id,
        conversation: sender.into(),
        sender,
        group_seq: 0,
        sender_name: Bytes::copy_from_slice(send.sender_name.as_bytes()),
    };
    let body = shard.body(pair(sender, receiver), msg_id);
    let Some(seq) = next(&mut head) else {
        return refuse(Code::OutOfRange, "the receiver's inbox has no number left");
    };
    let stored = header.encode();
    post(&mut changes, receiver, head, header, stored, body);
    let answered = Answered {
        seq,
        msg_id: msg_id.0,
        digest: send.digest,
        op: None,
    };
    changes.put(attempt.key(), &answered);
    changes.put_last(msg_id);
    if !notes {
        let copy = Effect::SentCopy(SentCopy {
            sender: sender.0,
            app: send.app.clone(),
            sender_name: send.sender_name.clone(),
            conversation: receiver.0,
            conversation_name: receiver_name,
            msg_id: msg_id.0,
        });
        let mut outboxes = Outboxes::read(shard, [copy_to])?;
        outboxes.push(shard.context.shard, copy_to, copy, Some(body), &mut changes)?;
        outboxes.finish(&mut changes);
    }
    Ok(changes.answer(Answer::Sent(sent(send, &answered, 0, false))))
}

/// The answer to a SEND, first or repeated. `seq` is shown in groups only.
pub(crate) fn sent(send: &Send, answered: &Answered, seq: u64, duplicate: bool) -> frame::Sent {
    frame::Sent {
        client_msg_id: send.client_id.clone(),
        msg_id: answered.msg_id,
        ts_ms: MsgId(answered.msg_id).unix_ms(),
        seq,
        duplicate,
        conversation: send.to,
    }
}

/// Finds the receiver's inbox, or makes it if the client named a name. By id only an
/// inbox of the sender's app exists. Gives the receiver's name.
fn open_receiver(
    shard: &Shard<'_>,
    send: &Send,
    receiver: UserId,
    changes: &mut Changes,
) -> Stepped<String> {
    if let Some(name) = &send.to_name {
        if shard.known_users_only() && shard.row(&keys::profile(receiver.key()))?.is_none() {
            return refuse(
                Code::NotFound,
                "no such user here: only who has connected once can be written to",
            );
        }
        return if roster::open_inbox(shard, receiver, &send.app, name, changes)? {
            Ok(name.clone())
        } else {
            refuse(
                Code::NameCollision,
                "the name's id belongs to another name already: they cannot be told apart",
            )
        };
    }
    match shard.read::<keys::Profile>(&keys::profile(receiver.key()))? {
        Some(profile) if profile.app == send.app.as_bytes() => {
            Ok(String::from_utf8_lossy(&profile.name).into_owned())
        }
        _ => refuse(
            Code::NotFound,
            "no such user here: name somebody who has not been here yet by name",
        ),
    }
}

/// The sender's own history of a message. False if the inbox belongs to another name.
pub(crate) fn sent_copy(shard: &Shard<'_>, copy: &SentCopy, changes: &mut Changes) -> Stepped<()> {
    let sender = UserId(copy.sender);
    let inbox = sender.key();
    let conversation = ConversationId(copy.conversation);
    let name_key = keys::conversation(inbox, conversation);
    shard.want(&[keys::head(inbox), keys::profile(inbox), name_key], &[])?;
    if !roster::open_inbox(shard, sender, &copy.app, &copy.sender_name, changes)? {
        changes.notice(Notice::NameCollision { user: sender });
        return Ok(());
    }
    let mut head: Head = shard.read(&keys::head(inbox))?.unwrap_or_default();
    if next(&mut head).is_none() {
        changes.notice(Notice::Undeliverable { user: sender });
        return Ok(());
    }
    // A user's name never changes: the id follows from it.
    if shard.row(&name_key)?.is_none() {
        let name = Bytes::copy_from_slice(copy.conversation_name.as_bytes());
        changes.put(name_key, &Conversation { name });
    }
    let msg_id = MsgId(copy.msg_id);
    let header = Header {
        kind: Kind::Own,
        flags: 0,
        msg_id,
        conversation,
        sender,
        group_seq: 0,
        sender_name: Bytes::copy_from_slice(copy.sender_name.as_bytes()),
    };
    let body = shard.body(pair(sender, UserId(copy.conversation)), msg_id);
    let stored = header.encode();
    post(changes, sender, head, header, stored, body);
    Ok(())
}

/// Takes the next number of an inbox; none if there is none left.
pub(crate) fn next(head: &mut Head) -> Option<u64> {
    head.seq = head.seq.checked_add(1)?;
    Some(head.seq)
}

/// Writes an event at `head.seq`, its posting, and the head.
pub(crate) fn post(
    changes: &mut Changes,
    owner: UserId,
    head: Head,
    header: Header,
    stored: Bytes,
    body: BodyPlace,
) {
    let inbox: InboxKey = owner.key();
    let family = if header.sender == owner {
        keys::OWN
    } else {
        keys::INCOMING
    };
    changes.put_bytes(keys::event(inbox, head.seq), stored, Some(body));
    changes.put_number(
        keys::posting(inbox, family, header.conversation, header.msg_id),
        head.seq,
    );
    changes.put(keys::head(inbox), &head);
    changes.effects.events.push(NewEvent {
        user: owner,
        inbox_seq: head.seq,
        header,
    });
}

/// Where a message of a conversation can stand in an inbox: said by the peer, or by its owner.
fn postings(inbox: InboxKey, conversation: ConversationId, msg_id: MsgId) -> [Key; 2] {
    [keys::INCOMING, keys::OWN].map(|family| keys::posting(inbox, family, conversation, msg_id))
}

/// Under which number the bodies of two people stand together: the same for both.
fn pair(a: UserId, b: UserId) -> u64 {
    a.key().0.wrapping_add(b.key().0)
}

#[cfg(test)]
mod tests;
