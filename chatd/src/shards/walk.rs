//! The sampled walk over inboxes: loss is measured, not assumed. A page looks at a
//! few inboxes of one shard and reads every event that should be there.
//!
//! Known limit: it compares an inbox with its own head and floor. Whether a group
//! message reached every member it was for is not checked here.

use chat_core::{
    shard::keys,
    store::{Direction, Key, Range, ReadRows},
};
use chat_wire::ids::{InboxKey, ShardId};
use prost::Message as _;

use super::log::RaftStore;

/// Inboxes in one page: it runs on the shard's thread.
const INBOXES_A_PAGE: usize = 8;
/// Events read for one page; a longer inbox goes on in the next.
pub const EVENTS_A_PAGE: u64 = 2_000;

/// Where a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkRequest {
    /// Which shard.
    pub shard: ShardId,
    /// The first inbox key to look at.
    pub inbox: u64,
    /// The first event of it to look at.
    pub inbox_seq: u64,
}

/// What a page of the walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalkPage {
    /// Where to go on; none at the end of the shard.
    pub next: Option<WalkRequest>,
    /// Inboxes looked at.
    pub inboxes: u64,
    /// Events read and verified.
    pub events: u64,
    /// Events that should be there and are not, or cannot be read.
    pub lost: u64,
    /// Runs of such events.
    pub gaps: u64,
    /// The inbox key and sequence number of the first of them.
    pub first_lost: Option<(u64, u64)>,
}

impl WalkRequest {
    /// Reads one page.
    pub(super) fn read(self, store: &RaftStore) -> WalkPage {
        let mut page = WalkPage::default();
        let spans = match store
            .shard()
            .inboxes(self.inbox, u64::MAX, keys::EVENT, INBOXES_A_PAGE)
        {
            Ok(spans) => spans,
            Err(error) => {
                tracing::error!(shard = self.shard.0, %error, "the walk cannot list inboxes");
                page.gaps = 1;
                return page;
            }
        };
        let full = spans.len() == INBOXES_A_PAGE;
        for span in spans {
            let first = if span.inbox == self.inbox {
                self.inbox_seq.max(1)
            } else {
                1
            };
            let budget = EVENTS_A_PAGE - page.events.min(EVENTS_A_PAGE);
            if budget == 0 {
                page.next = Some(Self {
                    inbox: span.inbox,
                    inbox_seq: first,
                    ..self
                });
                return page;
            }
            let Some((oldest, head)) = bounds(store, span.inbox, span.last) else {
                continue;
            };
            let from = first.max(oldest);
            let to = head.min(from.saturating_add(budget - 1));
            check(store, span.inbox, from, to, &mut page);
            if to < head {
                page.next = Some(Self {
                    inbox: span.inbox,
                    inbox_seq: to + 1,
                    ..self
                });
                return page;
            }
            page.inboxes += 1;
            page.next = span.inbox.checked_add(1).map(|inbox| Self {
                inbox,
                inbox_seq: 1,
                ..self
            });
        }
        if !full {
            page.next = None;
        }
        page
    }
}

/// The first and last event that an inbox should have. An unreadable head is not
/// taken for an empty inbox: what segments hold is checked then.
fn bounds(store: &RaftStore, inbox: u64, last_stored: u64) -> Option<(u64, u64)> {
    match store.get(&keys::head(InboxKey(inbox))) {
        Ok(Some(row)) => {
            let head = keys::Head::decode(row.header).ok()?;
            Some((head.oldest_seq.max(1), head.seq))
        }
        Ok(None) => None,
        Err(_) => Some((1, last_stored)),
    }
}

fn check(store: &RaftStore, inbox: u64, from: u64, to: u64, page: &mut WalkPage) {
    if from > to {
        return;
    }
    let event = |seq| keys::event(InboxKey(inbox), seq);
    let range = Range {
        from: event(from),
        to: event(to),
        direction: Direction::Rising,
        limit: usize::try_from(to - from + 1).unwrap_or(usize::MAX),
    };
    let mut missing = Vec::new();
    match store.range(&range) {
        Ok(rows) => {
            page.events += rows.len() as u64;
            let mut rows = rows.iter().map(|(key, _)| sequence(key)).peekable();
            for seq in from..=to {
                if rows.next_if_eq(&seq).is_none() {
                    missing.push(seq);
                }
            }
        }
        // A block in the way is damaged: which events it held shows one by one.
        Err(_) => {
            for seq in from..=to {
                match store.get(&event(seq)) {
                    Ok(Some(_)) => page.events += 1,
                    Ok(None) | Err(_) => missing.push(seq),
                }
            }
        }
    }
    let mut previous = None;
    for seq in missing {
        page.lost += 1;
        if previous != Some(seq - 1) {
            page.gaps += 1;
            page.first_lost.get_or_insert((inbox, seq));
        }
        previous = Some(seq);
    }
}

fn sequence(key: &Key) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key.sub()[..8]);
    u64::from_be_bytes(bytes)
}
