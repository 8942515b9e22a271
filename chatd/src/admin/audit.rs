//! Loss is measured, not assumed: a walk over all inboxes that never ends, paced so
//! that messages do not notice it.
//!
//! What is found missing is counted once: a place that was counted is remembered,
//! up to [`REMEMBERED`] places; beyond them nothing more is counted, and the log says
//! so. Known limit: after a restart everything is counted anew.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chat_wire::ids::ShardId;

use crate::{
    metrics::Metrics,
    shards::{Shards, WalkPage, WalkRequest},
};

/// Places that were counted: beyond so many, the disk needs a person and no count.
pub const REMEMBERED: usize = 4_096;
/// Between two pages at least, however fast the walk may go.
const PAUSE_AT_LEAST: Duration = Duration::from_millis(1);
/// After a page that could not be had, and after a round over nothing.
const PAUSE_IDLE: Duration = Duration::from_secs(1);

/// Walks for ever, `events_per_second` at most.
pub async fn walk(shards: Shards, metrics: Arc<Metrics>, events_per_second: u64) {
    let mut audit = Audit {
        metrics,
        counted: BTreeSet::new(),
        full: false,
    };
    let order: Vec<ShardId> = shards.walk_order().collect();
    loop {
        let mut seen = 0;
        for shard in &order {
            let mut next = Some(WalkRequest {
                shard: *shard,
                inbox: 0,
                inbox_seq: 1,
            });
            while let Some(request) = next {
                let asked = shards.clone();
                let page = tokio::task::spawn_blocking(move || asked.walk_page(request)).await;
                let Ok(Some(page)) = page else {
                    // Busy, down or ending: others first, and this one next round.
                    tokio::time::sleep(PAUSE_IDLE).await;
                    break;
                };
                audit.count(request, &page);
                seen += page.events;
                next = page.next;
                tokio::time::sleep(pause(page.events, events_per_second)).await;
            }
        }
        if seen == 0 {
            tokio::time::sleep(PAUSE_IDLE).await;
        }
    }
}

/// How long a page of so many events is to take.
fn pause(events: u64, events_per_second: u64) -> Duration {
    let micros = events.saturating_mul(1_000_000) / events_per_second.max(1);
    Duration::from_micros(micros).max(PAUSE_AT_LEAST)
}

struct Audit {
    metrics: Arc<Metrics>,
    /// (shard, inbox, sequence number) of what was counted.
    counted: BTreeSet<(u16, u64, u64)>,
    full: bool,
}

impl Audit {
    fn count(&mut self, request: WalkRequest, page: &WalkPage) {
        self.metrics.audit_blocks.inc_by(page.events);
        self.metrics.audit_inboxes.inc_by(page.inboxes);
        if page.lost == 0 && page.gaps == 0 {
            return;
        }
        let (inbox, seq) = page
            .first_lost
            .unwrap_or((request.inbox, request.inbox_seq));
        let place = (request.shard.0, inbox, seq);
        if self.counted.contains(&place) {
            return;
        }
        if self.counted.len() >= REMEMBERED {
            if !std::mem::replace(&mut self.full, true) {
                tracing::error!("the audit found more places than it counts");
            }
            return;
        }
        self.counted.insert(place);
        self.metrics.messages_lost.inc_by(page.lost);
        self.metrics.sequence_gaps.inc_by(page.gaps);
        tracing::error!(
            shard = request.shard.0,
            inbox = format!("{inbox:016x}"),
            inbox_seq = seq,
            lost = page.lost,
            "stored messages are missing or cannot be read: stop the node and run chatctl inspect"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lost: u64, first_lost: Option<(u64, u64)>) -> WalkPage {
        WalkPage {
            next: None,
            inboxes: 1,
            events: 10,
            lost,
            gaps: u64::from(lost > 0),
            first_lost,
        }
    }

    #[test]
    fn a_missing_message_is_counted_once_in_all_rounds() {
        let metrics = Arc::new(Metrics::new());
        let mut audit = Audit {
            metrics: Arc::clone(&metrics),
            counted: BTreeSet::new(),
            full: false,
        };
        let request = WalkRequest {
            shard: ShardId(3),
            inbox: 0,
            inbox_seq: 1,
        };
        for _ in 0..5 {
            audit.count(request, &page(0, None));
            audit.count(request, &page(2, Some((7, 40))));
        }
        assert_eq!(
            (metrics.messages_lost.get(), metrics.sequence_gaps.get()),
            (2, 1)
        );
        assert_eq!(
            (metrics.audit_blocks.get(), metrics.audit_inboxes.get()),
            (100, 10)
        );
        audit.count(request, &page(1, Some((7, 90))));
        assert_eq!(metrics.messages_lost.get(), 3);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let metrics = Arc::new(Metrics::new());
        let mut audit = Audit {
            metrics: Arc::clone(&metrics),
            counted: BTreeSet::new(),
            full: false,
        };
        let request = WalkRequest {
            shard: ShardId(1),
            inbox: 0,
            inbox_seq: 1,
        };
        for seq in 0..2 * REMEMBERED as u64 {
            audit.count(request, &page(1, Some((1, seq))));
        }
        assert_eq!(audit.counted.len(), REMEMBERED);
        assert_eq!(metrics.messages_lost.get(), REMEMBERED as u64);
    }

    #[test]
    fn the_pace_is_kept() {
        assert_eq!(pause(500, 500), Duration::from_secs(1));
        assert_eq!(pause(2_000, 10_000_000), PAUSE_AT_LEAST);
        assert_eq!(pause(0, 500), PAUSE_AT_LEAST);
    }
}
