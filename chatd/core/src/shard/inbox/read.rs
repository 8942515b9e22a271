//! Reads of an inbox: events by number, a conversation's history in the order of its
//! message ids, and what the host asks before it tells somebody something.

use chat_wire::{
    event::Event,
    ids::{ConversationId, DeviceId, InboxKey, MsgId, UserId},
};

use crate::{
    message::HistoryFrom,
    shard::keys::{self, Device, Head},
    store::{Direction, Key, Range, ReadRows, Row, Unreadable},
};

/// Rows read from the store at once, so that a budget of bytes is not overshot by
/// a page of the longest bodies.
const READ_ROWS: usize = 32;
/// Postings of history that one call passes over because their events are gone.
const MAX_MASKED_PAGES: usize = 16;

/// The head of an inbox; none if there is no such inbox.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn head(store: &impl ReadRows, user: UserId) -> Result<Option<Head>, Unreadable> {
    if store.get(&keys::profile(user.key()))?.is_none() {
        return Ok(None);
    }
    read_head(store, user.key()).map(Some)
}

pub(crate) fn read_head(store: &impl ReadRows, inbox: InboxKey) -> Result<Head, Unreadable> {
    let key = keys::head(inbox);
    match store.get(&key)? {
        Some(row) => keys::decode(&key, &row),
        None => Ok(Head::default()),
    }
}

/// A device's cursor, if the device is known.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn cursor(
    store: &impl ReadRows,
    user: UserId,
    device: DeviceId,
) -> Result<Option<u64>, Unreadable> {
    let key = keys::device(user.key(), device);
    match store.get(&key)? {
        Some(row) => Ok(Some(keys::decode::<Device>(&key, &row)?.cursor)),
        None => Ok(None),
    }
}

/// Events behind `after_seq` and above the floor, rising: at most `limit`, and
/// `byte_budget` stored bytes unless one alone is longer.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified, or one is missing in between.
pub fn events(
    store: &impl ReadRows,
    user: UserId,
    after_seq: u64,
    limit: usize,
    byte_budget: usize,
) -> Result<Vec<Event>, Unreadable> {
    let inbox = user.key();
    let mut next = match after_seq.checked_add(1) {
        Some(next) => next.max(read_head(store, inbox)?.oldest()),
        None => return Ok(Vec::new()),
    };
    let mut events = Vec::new();
    let mut bytes = 0;
    while events.len() < limit {
        let page = READ_ROWS.min(limit - events.len());
        let rows = store.range(&Range {
            from: keys::event(inbox, next),
            to: keys::event(inbox, u64::MAX),
            direction: Direction::Rising,
            limit: page,
        })?;
        let read = rows.len();
        for (key, row) in rows {
            let seq = keys::word(key.sub(), 0);
            if seq != next {
                return Err(Unreadable(format!(
                    "event {next} of inbox {:016x} is missing: {seq} follows",
                    inbox.0
                )));
            }
            bytes += row.header.len() + row.body.as_ref().map_or(0, bytes::Bytes::len);
            if bytes > byte_budget && !events.is_empty() {
                return Ok(events);
            }
            events.push(event(&key, &row)?);
            let Some(following) = next.checked_add(1) else {
                return Ok(events);
            };
            next = following;
        }
        if read < page {
            break;
        }
    }
    Ok(events)
}

/// A stored event as it is delivered.
pub(crate) fn event(key: &Key, row: &Row) -> Result<Event, Unreadable> {
    let body = row
        .body
        .as_ref()
        .ok_or_else(|| Unreadable(format!("event {key:?} has lost its body")))?;
    Event::from_row(keys::word(key.sub(), 0), &row.header, body)
        .map_err(|error| Unreadable(format!("event {key:?}: {error}")))
}

/// A page of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// In the order asked for.
    pub events: Vec<Event>,
    /// There are more in this direction.
    pub more: bool,
    /// Goes into `from` of the next request; 0 if nothing was found.
    pub next: MsgId,
}

/// A conversation's events in the order of their message ids, incoming and own, above
/// the floor: at most `limit`, and `byte_budget` bytes as `measure` counts them unless
/// one alone is longer.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn history(
    store: &impl ReadRows,
    user: UserId,
    conversation: ConversationId,
    from: HistoryFrom,
    limit: usize,
    byte_budget: usize,
    measure: impl Fn(&Event) -> usize,
) -> Result<History, Unreadable> {
    let inbox = user.key();
    let oldest = read_head(store, inbox)?.oldest();
    let mut page = History {
        events: Vec::new(),
        more: false,
        next: MsgId(0),
    };
    let mut bytes = 0;
    let mut from = from;
    for _ in 0..MAX_MASKED_PAGES {
        let found = postings(store, inbox, conversation, from, limit + 1)?;
        page.more = found.len() > limit;
        for (msg_id, seq) in found.into_iter().take(limit) {
            if seq >= oldest {
                if page.events.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                let key = keys::event(inbox, seq);
                let row = store
                    .get(&key)?
                    .ok_or_else(|| Unreadable(format!("event {key:?} is missing")))?;
                let event = event(&key, &row)?;
                bytes += measure(&event);
                if bytes > byte_budget && !page.events.is_empty() {
                    page.more = true;
                    return Ok(page);
                }
                page.events.push(event);
            }
            page.next = msg_id;
        }
        if !page.more || page.events.len() == limit {
            return Ok(page);
        }
        from = match from {
            HistoryFrom::Before(_) => HistoryFrom::Before(page.next),
            HistoryFrom::After(_) => HistoryFrom::After(page.next),
        };
    }
    Ok(page)
}

/// Postings of both kinds, merged.
fn postings(
    store: &impl ReadRows,
    inbox: InboxKey,
    conversation: ConversationId,
    from: HistoryFrom,
    limit: usize,
) -> Result<Vec<(MsgId, u64)>, Unreadable> {
    let (low, high, direction) = match from {
        HistoryFrom::Before(MsgId(0)) => (MsgId(0), MsgId(i64::MAX), Direction::Falling),
        HistoryFrom::Before(below) => (MsgId(0), MsgId(below.0 - 1), Direction::Falling),
        HistoryFrom::After(above) if above.0 == i64::MAX => return Ok(Vec::new()),
        HistoryFrom::After(above) => (
            MsgId(above.0.max(0) + 1),
            MsgId(i64::MAX),
            Direction::Rising,
        ),
    };
    let mut merged = Vec::new();
    if high.0 < low.0 {
        return Ok(merged);
    }
    for family in [keys::INCOMING, keys::OWN] {
        let rows = store.range(&Range {
            from: keys::posting(inbox, family, conversation, low),
            to: keys::posting(inbox, family, conversation, high),
            direction,
            limit,
        })?;
        for (key, row) in &rows {
            let msg_id = MsgId(keys::word(key.sub(), 8).cast_signed());
            merged.push((msg_id, keys::posting_seq(key, row)?));
        }
    }
    match direction {
        Direction::Rising => merged.sort_unstable(),
        Direction::Falling => merged.sort_unstable_by(|a, b| b.cmp(a)),
    }
    merged.truncate(limit);
    Ok(merged)
}

/// The last incoming message of a conversation; 0 if there is none.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn last_incoming(
    store: &impl ReadRows,
    user: UserId,
    conversation: ConversationId,
) -> Result<MsgId, Unreadable> {
    let newest = keys::newest_posting(user.key(), keys::INCOMING, conversation);
    Ok(store.range(&newest)?.first().map_or(MsgId(0), |(key, _)| {
        MsgId(keys::word(key.sub(), 8).cast_signed())
    }))
}

/// Whether `writer` has written to `owner`, whose inbox lives here: the rule by which
/// presence is shown.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn has_written(
    store: &impl ReadRows,
    owner: UserId,
    writer: UserId,
) -> Result<bool, Unreadable> {
    Ok(last_incoming(store, owner, writer.into())?.0 != 0)
}
