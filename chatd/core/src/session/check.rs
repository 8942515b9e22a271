//! What a client may write into a field. Each check answers with the refusal that
//! says which field is wrong, and never repeats what stood in it.

use chat_wire::{
    error::{Code, Refusal},
    frame::{self, content::Kind},
    ids::{ClientId, ConversationId, GroupId, UserId},
    limits::{CUSTOM_TYPE_BYTES, ID_AHEAD_MS, Limits, MEDIA_URL_BYTES, NAME_BYTES},
};

use crate::message::Now;

/// Longest cursor of a page, in bytes: the server's own are shorter.
const CURSOR_BYTES: usize = 64;
/// Entries of a page when the client does not say.
const DEFAULT_PAGE: u32 = 50;

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidArgument, message)
}

fn not_found(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::NotFound, message)
}

/// A name of a user, an app or a group.
pub(super) fn name(field: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
        return Err(invalid(format!(
            "`{field}` must have 1 to {NAME_BYTES} bytes of UTF-8 without control characters"
        )));
    }
    Ok(())
}

/// A user whom a request acts on. The id of a group is the id of no user here.
pub(super) fn user(field: &str, id: u64) -> Result<UserId, Refusal> {
    match ConversationId(id).user() {
        Some(user) if id != 0 => Ok(user),
        Some(_) => Err(invalid(format!("`{field}` is missing: name a user's id"))),
        None => Err(not_found(format!(
            "`{field}` is a group's id: no such user"
        ))),
    }
}

/// One of many ids that are only noted.
pub(super) fn one_user(field: &str, id: u64) -> Result<UserId, Refusal> {
    user(field, id).map_err(|_| invalid(format!("`{field}` names what is no user's id")))
}

/// A group. The id of a user is the id of no group here.
pub(super) fn group(field: &str, id: u64) -> Result<GroupId, Refusal> {
    match ConversationId(id).group() {
        Some(group) => Ok(group),
        None if id == 0 => Err(invalid(format!("`{field}` is missing: name a group's id"))),
        None => Err(not_found(format!(
            "`{field}` is a user's id: no such group"
        ))),
    }
}

pub(super) fn conversation(id: u64) -> Result<ConversationId, Refusal> {
    if id == 0 {
        return Err(invalid(
            "`conversation` is missing: name a user id or a group id",
        ));
    }
    Ok(ConversationId(id))
}

/// A client message id or an op id: UUIDv7, not from the future.
pub(super) fn client_id(field: &str, bytes: &[u8], now: Now) -> Result<ClientId, Refusal> {
    let id = ClientId::from_slice(bytes).ok_or_else(|| {
        invalid(format!(
            "`{field}` must be a UUID of version 7, in 16 bytes"
        ))
    })?;
    if id.unix_ms() > now.unix_ms.saturating_add(ID_AHEAD_MS) {
        return Err(Refusal::new(
            Code::ExpiredId,
            format!(
                "`{field}` is dated more than 10 minutes ahead of the server: date ids by `serverTimeMs` of WELCOME"
            ),
        ));
    }
    Ok(id)
}

/// A message number that may be 0 for none.
pub(super) fn msg_id(field: &str, number: i64) -> Result<i64, Refusal> {
    if number < 0 {
        return Err(Refusal::new(
            Code::OutOfRange,
            format!("`{field}` must be a msg_id, or 0 for none"),
        ));
    }
    Ok(number)
}

/// The content of a message. How long it is stands in [`beyond`].
pub(super) fn content(content: Option<&frame::Content>) -> Result<(), Refusal> {
    let empty = || {
        Refusal::new(
            Code::EmptyContent,
            "the message has no content: a text needs a character",
        )
    };
    let content = content.ok_or_else(empty)?;
    match content.kind.as_ref().ok_or_else(empty)? {
        Kind::Text(text) if text.is_empty() => return Err(empty()),
        Kind::Text(_) => {}
        Kind::Media(media) => {
            let control = |text: &str| text.chars().any(char::is_control);
            if media.url.is_empty() || media.url.len() > MEDIA_URL_BYTES || control(&media.url) {
                return Err(invalid(format!(
                    "`media.url` must have 1 to {MEDIA_URL_BYTES} bytes without control characters"
                )));
            }
            if media.mime_type.len() > CUSTOM_TYPE_BYTES || control(&media.mime_type) {
                return Err(invalid(format!(
                    "`media.mimeType` has at most {CUSTOM_TYPE_BYTES} bytes, without control characters"
                )));
            }
            if !matches!(media.blake3.len(), 0 | 32) {
                return Err(invalid("`media.blake3` has 32 bytes, or none"));
            }
        }
        Kind::Custom(custom) => {
            if custom.r#type.is_empty()
                || custom.r#type.len() > CUSTOM_TYPE_BYTES
                || custom.r#type.chars().any(char::is_control)
            {
                return Err(invalid(format!(
                    "`custom.type` must have 1 to {CUSTOM_TYPE_BYTES} bytes without control characters"
                )));
            }
        }
        Kind::System(_) | Kind::Encrypted(_) => {
            return Err(Refusal::new(
                Code::Unsupported,
                "this server takes text, media and custom contents from clients",
            ));
        }
    }
    Ok(())
}

/// What an operator may have lowered since a message was first sent: a retry of it is
/// recognised before anybody looks at this.
pub(super) fn beyond(send: &frame::Send, limits: &Limits) -> Option<Code> {
    let len = send.content.as_ref().map_or(0, prost::Message::encoded_len);
    if len > limits.content_bytes as usize {
        return Some(Code::ContentTooLarge);
    }
    (send.mentions.len() > limits.mentions as usize).then_some(Code::LimitExceeded)
}

/// Who is mentioned.
pub(super) fn mentions(mentions: &[u64]) -> Result<(), Refusal> {
    mentions
        .iter()
        .try_for_each(|id| one_user("mentions", *id).map(drop))
}

pub(super) fn count(field: &str, count: usize, limit: u32) -> Result<(), Refusal> {
    if count > limit as usize {
        return Err(Refusal::new(
            Code::LimitExceeded,
            format!("`{field}` has {count} entries; the limit is {limit}"),
        ));
    }
    Ok(())
}

pub(super) fn cursor(cursor: &bytes::Bytes) -> Result<bytes::Bytes, Refusal> {
    if cursor.len() > CURSOR_BYTES {
        return Err(invalid(
            "`cursor` is none of this server: begin with an empty one",
        ));
    }
    Ok(bytes::Bytes::copy_from_slice(cursor))
}

/// How many entries a page has: what is asked for, within the limit.
pub(super) fn page(limit: u32, limits: &Limits) -> u32 {
    let asked = if limit == 0 { DEFAULT_PAGE } else { limit };
    asked.min(limits.history_page)
}
