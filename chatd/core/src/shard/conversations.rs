//! CONVERSATIONS: the first screen of an inbox, newest first, merged at read from the
//! lists that segments keep. Nothing of it is written with a message.

use bytes::Bytes;
use chat_wire::{
    error::{Code, Refusal},
    event::Event,
    frame,
    ids::{ConversationId, InboxKey, MsgId, UserId},
};

use crate::{
    shard::{
        inbox::read::{event, read_head},
        keys::{self, Conversation, Head, Mark},
    },
    store::{GroupHead, Key, ReadRows, Unreadable},
};

/// A page of an inbox's conversations: at most `limit`, and `byte_budget` bytes as
/// `measure` counts them unless one alone is longer. The inner error is for a cursor that is none.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn conversations(
    store: &impl ReadRows,
    user: UserId,
    cursor: &Bytes,
    limit: usize,
    byte_budget: usize,
    measure: impl Fn(&frame::Conversation) -> usize,
) -> Result<Result<frame::ConversationsPage, Refusal>, Unreadable> {
    let before = match cursor.len() {
        0 => None,
        16 => Some((keys::word(cursor, 0), keys::word(cursor, 8))),
        _ => {
            return Ok(Err(Refusal::new(
                Code::InvalidArgument,
                "that is not a cursor of this list: begin without one",
            )));
        }
    };
    let inbox = user.key();
    let head = read_head(store, inbox)?;
    let heads = store.groups(inbox, &[keys::INCOMING, keys::OWN], before, limit + 1)?;
    let mut page = frame::ConversationsPage {
        more: heads.len() > limit,
        inbox_head: head.seq,
        marks_version: head.marks_version,
        ..Default::default()
    };
    let mut bytes = 0;
    for group in heads.into_iter().take(limit) {
        let entry = conversation(store, user, &head, group)?;
        bytes += measure(&entry);
        if bytes > byte_budget && !page.conversations.is_empty() {
            page.more = true;
            break;
        }
        page.conversations.push(entry);
        let next = [group.order.to_be_bytes(), group.group.to_be_bytes()].concat();
        page.next = next.into();
    }
    Ok(Ok(page))
}

fn conversation(
    store: &impl ReadRows,
    user: UserId,
    head: &Head,
    group: GroupHead,
) -> Result<frame::Conversation, Unreadable> {
    let inbox = user.key();
    let id = ConversationId(group.group);
    let last = last_event(store, inbox, id, MsgId(group.order.cast_signed()))?;
    let own = mark(store, keys::mark(inbox, id, user))?;
    let peer = match id.user() {
        Some(peer) if peer != user => mark(store, keys::mark(inbox, id, peer))?,
        _ => Mark::default(),
    };
    let unread_from = MsgId(own.seen.saturating_add(1));
    let unread = store.count(
        &keys::posting(inbox, keys::INCOMING, id, unread_from),
        &keys::posting(inbox, keys::INCOMING, id, MsgId(i64::MAX)),
    )?;
    let name = name(store, user, id, last.as_ref())?;
    let shown = last
        .filter(|event| event.inbox_seq >= head.oldest())
        .map(|event| {
            event
                .to_frame()
                .map_err(|error| Unreadable(format!("an event of {:016x}: {error}", inbox.0)))
        })
        .transpose()?;
    Ok(frame::Conversation {
        conversation: id.0,
        name,
        last_event: shown,
        unread,
        delivered_up_to: own.delivered,
        seen_up_to: own.seen,
        peer_delivered_up_to: peer.delivered,
        peer_seen_up_to: peer.seen,
    })
}

fn mark(store: &impl ReadRows, key: Key) -> Result<Mark, Unreadable> {
    Ok(store
        .get(&key)?
        .map(|row| keys::decode(&key, &row))
        .transpose()?
        .unwrap_or_default())
}

fn last_event(
    store: &impl ReadRows,
    inbox: InboxKey,
    conversation: ConversationId,
    msg_id: MsgId,
) -> Result<Option<Event>, Unreadable> {
    for family in [keys::INCOMING, keys::OWN] {
        let posting = keys::posting(inbox, family, conversation, msg_id);
        if let Some(row) = store.get(&posting)? {
            let key = keys::event(inbox, keys::posting_seq(&posting, &row)?);
            return match store.get(&key)? {
                Some(row) => event(&key, &row).map(Some),
                None => Err(Unreadable(format!("event {key:?} is missing"))),
            };
        }
    }
    Ok(None)
}

/// The peer's name stands in what the peer said, or in the row that the first own
/// message left; a group's in the row that every joining and renaming writes.
fn name(
    store: &impl ReadRows,
    user: UserId,
    conversation: ConversationId,
    last: Option<&Event>,
) -> Result<String, Unreadable> {
    let name = match last {
        Some(event)
            if conversation.group().is_none()
                && (event.header.sender == conversation_user(conversation)
                    || conversation_user(conversation) == user) =>
        {
            event.header.sender_name.clone()
        }
        _ => {
            let key = keys::conversation(user.key(), conversation);
            match store.get(&key)? {
                Some(row) => keys::decode::<Conversation>(&key, &row)?.name,
                None => Bytes::new(),
            }
        }
    };
    Ok(String::from_utf8_lossy(&name).into_owned())
}

const fn conversation_user(conversation: ConversationId) -> UserId {
    UserId(conversation.0)
}

#[cfg(test)]
mod tests;
