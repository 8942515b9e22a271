//! Reads of applied state: pages for requests, and for sessions that catch up.

use chat_wire::{
    codec::{self, Encoding},
    error::Refusal,
    event::{Event, EventError},
    frame::{self, Body},
    ids::{GroupId, SessionId, UserId},
    limits::EVENT_BATCH_BYTES,
};

use super::{Pass, requests::refuse, shard::Shard};
use crate::{
    delivery::Wanted,
    message::{GroupRead, Origin, Read, ToSession},
    shard::{conversations, group::read as group, inbox::read as inbox, marks},
    store::{ShardStore, Unreadable},
};

/// Receipts that catch up in one page.
const RECEIPTS: usize = 256;

/// What a read gives: a page, or a refusal.
type Page = Result<Result<Body, Refusal>, Unreadable>;

impl<S: ShardStore> Shard<S> {
    /// The page that a session waits for.
    pub(super) fn page(&mut self, session: SessionId, wanted: Wanted) -> Result<(), Unreadable> {
        let store = self.replica.store();
        match wanted {
            Wanted::Events {
                user, after, limit, ..
            } => {
                let events = inbox::events(store, user, after, limit, EVENT_BATCH_BYTES)?;
                let oldest = inbox::head(store, user)?.map_or(1, |head| head.oldest());
                self.delivery.events_page(session, oldest, events);
            }
            Wanted::Receipts { user, after } => {
                let receipts = marks::receipts_since(store, user, after, RECEIPTS)?;
                let done = receipts.len() < RECEIPTS;
                self.delivery.receipts_page(session, receipts, done);
            }
        }
        Ok(())
    }

    pub(super) fn read(&mut self, pass: &mut Pass<'_>, origin: Origin, user: UserId, read: Read) {
        let page = match read {
            Read::History {
                conversation,
                from,
                limit,
            } => {
                let encoding = self
                    .delivery
                    .slot(origin.session)
                    .map_or(Encoding::Proto, |s| s.encoding);
                let measure = |event: &Event| encoded_len(encoding, event);
                let store = self.replica.store();
                let limit = limit as usize;
                inbox::history(
                    store,
                    user,
                    conversation,
                    from,
                    limit,
                    EVENT_BATCH_BYTES,
                    measure,
                )
                .and_then(|history| {
                    let events = history.events.iter().map(Event::to_frame);
                    let page = frame::HistoryPage {
                        conversation: conversation.0,
                        events: events.collect::<Result<_, _>>().map_err(damaged)?,
                        more: history.more,
                        next: history.next.0,
                    };
                    Ok(Ok(Body::HistoryPage(page)))
                })
            }
            Read::Conversations { cursor, limit } => {
                let store = self.replica.store();
                conversations::conversations(
                    store,
                    user,
                    &cursor,
                    limit as usize,
                    EVENT_BATCH_BYTES,
                )
                .map(|page| page.map(Body::ConversationsPage))
            }
        };
        self.answer_read(pass, origin, page);
    }

    pub(super) fn read_group(
        &mut self,
        pass: &mut Pass<'_>,
        origin: Origin,
        who: (UserId, &str),
        of: GroupId,
        read: GroupRead,
    ) {
        let store = self.replica.store();
        let page = match read {
            GroupRead::State => {
                group::group_state(store, of, who.0, who.1).map(|page| page.map(Body::GroupState))
            }
            GroupRead::Members { cursor, limit } => {
                group::members(store, of, who, &cursor, limit as usize, EVENT_BATCH_BYTES)
                    .map(|page| page.map(Body::MembersPage))
            }
            GroupRead::Marks {
                follow,
                cursor,
                limit,
            } => {
                let page = group::member_marks(store, of, who, &cursor, limit as usize);
                page.map(|page| {
                    let page = page?;
                    self.follow(of, origin.session, who.0, follow)?;
                    Ok(Body::MarksPage(page))
                })
            }
        };
        self.answer_read(pass, origin, page);
    }

    fn answer_read(&mut self, pass: &mut Pass<'_>, origin: Origin, page: Page) {
        match page {
            Ok(Ok(body)) => {
                let message = ToSession::Answer {
                    req: origin.req,
                    body,
                };
                pass.tell(origin.session, message);
            }
            Ok(Err(refusal)) => refuse(pass, origin, refusal),
            Err(unreadable) => {
                // One damaged block does not stop the shard from numbering messages,
                // but whoever reads it must know.
                let why = format!("{unreadable}: the operators are told");
                let refusal = Refusal::new(chat_wire::error::Code::Damaged, why);
                refuse(pass, origin, refusal);
            }
        }
    }
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
