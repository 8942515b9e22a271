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
    /// Events that should be there and are not, or cannot be read. A head that is lost
    /// counts as one.
    pub lost: u64,
    /// Runs of such events.
    pub gaps: u64,
    /// The inbox key and sequence number of the first of them; 0 is the head.
    pub first_lost: Option<(u64, u64)>,
}

impl WalkPage {
    /// A run of what is lost begins.
    fn lose(&mut self, inbox: u64, seq: u64) {
        self.lost += 1;
        self.gaps += 1;
        self.first_lost.get_or_insert((inbox, seq));
    }
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
            let (oldest, head) = match bounds(store, span.inbox) {
                Some(bounds) => bounds,
                // Its events say that there was a head: what it counted is not known any
                // more, and what is stored is looked at.
                None => {
                    if first == 1 {
                        page.lose(span.inbox, 0);
                    }
                    (1, span.last)
                }
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

/// The first and last event that an inbox should have, as its head says; none if the head
/// is missing, or cannot be read or decoded: every inbox with events has one.
fn bounds(store: &RaftStore, inbox: u64) -> Option<(u64, u64)> {
    let row = store.get(&keys::head(InboxKey(inbox))).ok()??;
    let head = keys::Head::decode(row.header).ok()?;
    Some((head.oldest_seq.max(1), head.seq))
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
        if previous == Some(seq - 1) {
            page.lost += 1;
        } else {
            page.lose(inbox, seq);
        }
        previous = Some(seq);
    }
}

fn sequence(key: &Key) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key.sub()[..8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chat_core::store::{ShardStore as _, Value, Write};
    use chat_wire::ids::ReplicaId;
    use logstore::{
        cache::BlockCache,
        log_index::{LogEntry, LogIndex},
        replicas::ReplicaKey,
        segment::{MapLimits, SegmentFiles, SegmentOptions},
        shard::Shard,
        storage::simulated::SimulatedDisk,
    };

    use super::*;

    /// Its key, its head as bytes if it has one, and its events.
    type Inbox<'a> = (u64, Option<Vec<u8>>, &'a [u64]);

    fn store(inboxes: &[Inbox<'_>]) -> RaftStore {
        let disk = Arc::new(SimulatedDisk::new());
        let limits = MapLimits::default();
        let files = SegmentFiles::new(disk, BlockCache::new(0), limits).unwrap();
        let key = ReplicaKey {
            shard: 1,
            replica: 1,
        };
        let options = SegmentOptions::default();
        let mut shard = Shard::open(key, LogIndex::new(), 0, &[], &files, options).unwrap();
        let entry = LogEntry {
            position: 1,
            term: 1,
            kind: 0,
            payload: "the entry".into(),
        };
        shard.log_mut().append([entry]).unwrap();
        let mut store = RaftStore::new(shard, ReplicaId(1));
        let write = |key, header: &[u8]| Write {
            key,
            value: Some(Value {
                header: header.to_vec().into(),
                body: None,
            }),
        };
        for (inbox, head, events) in inboxes {
            let inbox = InboxKey(*inbox);
            let events = events.iter();
            let mut writes: Vec<_> = events
                .map(|seq| write(keys::event(inbox, *seq), b"event"))
                .collect();
            writes.extend(head.iter().map(|head| write(keys::head(inbox), head)));
            store.apply(1, writes);
        }
        store
    }

    fn head(seq: u64) -> Option<Vec<u8>> {
        let head = keys::Head {
            seq,
            ..keys::Head::default()
        };
        Some(head.encode_to_vec())
    }

    fn walk(store: &RaftStore) -> WalkPage {
        let mut total = WalkPage::default();
        let mut next = Some(WalkRequest {
            shard: ShardId(1),
            inbox: 0,
            inbox_seq: 1,
        });
        while let Some(request) = next {
            let page = request.read(store);
            total.inboxes += page.inboxes;
            total.events += page.events;
            total.lost += page.lost;
            total.gaps += page.gaps;
            total.first_lost = total.first_lost.or(page.first_lost);
            next = page.next;
        }
        total
    }

    #[test]
    fn the_lost_end_of_an_inbox_is_counted() {
        let page = walk(&store(&[(5, head(10), &[1, 2, 3, 4, 5, 6, 7])]));
        assert_eq!((page.inboxes, page.events), (1, 7));
        assert_eq!((page.lost, page.gaps), (3, 1));
        assert_eq!(page.first_lost, Some((5, 8)));
    }

    #[test]
    fn runs_of_lost_events_are_counted_once_each() {
        let page = walk(&store(&[(5, head(9), &[2, 5, 6, 9])]));
        assert_eq!((page.events, page.lost, page.gaps), (4, 5, 3));
        assert_eq!(page.first_lost, Some((5, 1)));
    }

    /// Such an inbox was passed over, and where eight of them stood together the walk of
    /// the shard ended.
    #[test]
    fn an_inbox_whose_head_is_missing_or_cannot_be_decoded_is_not_passed_over() {
        for lost in [None, Some(vec![0xFF; 7])] {
            let mut inboxes: Vec<Inbox<'_>> = Vec::new();
            for inbox in 1..=9 {
                inboxes.push((inbox, lost.clone(), &[1, 3]));
            }
            inboxes.push((10, head(2), &[1, 2]));
            let page = walk(&store(&inboxes));
            assert_eq!((page.inboxes, page.events), (10, 9 * 2 + 2));
            // The head, and the hole before the last event that is stored.
            assert_eq!((page.lost, page.gaps), (9 * 2, 9 * 2));
            assert_eq!(page.first_lost, Some((1, 0)));
        }
    }
}
