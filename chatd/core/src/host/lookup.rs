//! What is read for sessions, as values: a read runs on the shard's thread for what it
//! finds, or on another one so that it is in memory.

use chat_wire::{
    codec::{self, Encoding},
    error::Refusal,
    event::{Event, EventError},
    frame::{self, Body},
    ids::{DeviceId, GroupId, UserId},
    limits::EVENT_BATCH_BYTES,
};
use prost::Message as _;

use crate::{
    message::{GroupRead, Read},
    shard::{conversations, group::read as group, inbox::read as inbox, keys, marks},
    store::{ReadRows, Unreadable},
};

/// Receipts that catch up in one page.
const RECEIPTS: usize = 256;

/// A read of a shard's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// A page of an inbox.
    Inbox {
        /// Whose.
        user: UserId,
        /// What.
        read: Read,
        /// How the page will be encoded: it is cut by that.
        encoding: Encoding,
    },
    /// A page of a group, at its home.
    Group {
        /// Who asks.
        user: UserId,
        /// Of which app.
        app: String,
        /// Which group.
        group: GroupId,
        /// What.
        read: GroupRead,
    },
    /// Events for a session that catches up.
    Events {
        /// Whose.
        user: UserId,
        /// The last event it has.
        after: u64,
        /// Events at most.
        limit: usize,
    },
    /// Receipts for a session that catches up.
    Receipts {
        /// Whose.
        user: UserId,
        /// The last version it has.
        after: u64,
    },
    /// What the command that begins a session needs.
    Device {
        /// Whose.
        user: UserId,
        /// Which device.
        device: DeviceId,
        /// Devices of a user at most.
        devices: usize,
    },
}

/// What a [`Lookup`] finds.
pub(super) enum Found {
    /// An answer, or a refusal.
    Page(Box<Result<Body, Refusal>>),
    /// The events, and the oldest that the inbox still has.
    Events { oldest: u64, events: Vec<Event> },
    /// The receipts; the last ones if `done`.
    Receipts {
        receipts: Vec<frame::Receipt>,
        done: bool,
    },
    /// The device's cursor, if the device is known.
    Cursor(Option<u64>),
}

impl Lookup {
    /// Reads it for nothing but to have it in memory. What cannot be read is told to
    /// the shard when it reads it again.
    pub fn warm(&self, rows: &impl ReadRows) {
        drop(self.run(rows));
    }

    pub(super) fn run(&self, rows: &impl ReadRows) -> Result<Found, Unreadable> {
        let page = match self {
            Self::Inbox {
                user,
                read,
                encoding,
            } => inbox_page(rows, *user, read, *encoding)?,
            Self::Group {
                user,
                app,
                group,
                read,
            } => group_page(rows, (*user, app), *group, read)?,
            Self::Events { user, after, limit } => {
                let events = inbox::events(rows, *user, *after, *limit, EVENT_BATCH_BYTES)?;
                let oldest = inbox::head(rows, *user)?.map_or(1, |head| head.oldest());
                return Ok(Found::Events { oldest, events });
            }
            Self::Receipts { user, after } => {
                let receipts = marks::receipts_since(rows, *user, *after, RECEIPTS)?;
                let done = receipts.len() < RECEIPTS;
                return Ok(Found::Receipts { receipts, done });
            }
            Self::Device {
                user,
                device,
                devices,
            } => {
                inbox::head(rows, *user)?;
                rows.range(&keys::all(user.key(), keys::DEVICE, &[], devices + 1))?;
                return inbox::cursor(rows, *user, *device).map(Found::Cursor);
            }
        };
        Ok(Found::Page(Box::new(page)))
    }
}

/// What a read gives: a page, or a refusal.
type Page = Result<Result<Body, Refusal>, Unreadable>;

fn inbox_page(rows: &impl ReadRows, user: UserId, read: &Read, encoding: Encoding) -> Page {
    match read {
        Read::History {
            conversation,
            from,
            limit,
        } => {
            let history = inbox::history(
                rows,
                user,
                *conversation,
                *from,
                *limit as usize,
                EVENT_BATCH_BYTES,
                |event| encoded_len(encoding, event),
            )?;
            let events = history.events.iter().map(Event::to_frame);
            Ok(Ok(Body::HistoryPage(frame::HistoryPage {
                conversation: conversation.0,
                events: events.collect::<Result<_, _>>().map_err(damaged)?,
                more: history.more,
                next: history.next.0,
            })))
        }
        Read::Conversations { cursor, limit } => {
            let limit = *limit as usize;
            let page = conversations::conversations(
                rows,
                user,
                cursor,
                limit,
                EVENT_BATCH_BYTES,
                |conversation| conversation_len(encoding, conversation),
            )?;
            Ok(page.map(Body::ConversationsPage))
        }
    }
}

fn group_page(rows: &impl ReadRows, who: (UserId, &str), of: GroupId, read: &GroupRead) -> Page {
    Ok(match read {
        GroupRead::State => group::group_state(rows, of, who.0, who.1)?.map(Body::GroupState),
        GroupRead::Members { cursor, limit } => {
            group::members(rows, of, who, cursor, *limit as usize, EVENT_BATCH_BYTES)?
                .map(Body::MembersPage)
        }
        GroupRead::Marks { cursor, limit, .. } => {
            group::member_marks(rows, of, who, cursor, *limit as usize)?.map(Body::MarksPage)
        }
    })
}

fn damaged(error: EventError) -> Unreadable {
    Unreadable(error.to_string())
}

/// What an event costs in a page of this encoding.
fn encoded_len(encoding: Encoding, event: &Event) -> usize {
    match encoding {
        Encoding::Proto => event.proto_len() + 4,
        Encoding::Json => codec::encode_events(encoding, std::slice::from_ref(event))
            .map_or(0, |bytes| bytes.len()),
    }
}

/// What a conversation costs in a page of this encoding.
fn conversation_len(encoding: Encoding, conversation: &frame::Conversation) -> usize {
    match encoding {
        Encoding::Proto => conversation.encoded_len() + 4,
        Encoding::Json => {
            let page = frame::ConversationsPage {
                conversations: vec![conversation.clone()],
                ..Default::default()
            };
            codec::encode(encoding, &Body::ConversationsPage(page).into()).len()
        }
    }
}
