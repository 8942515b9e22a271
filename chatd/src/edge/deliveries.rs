//! How long messages took: from the time in their numbers to their events on the
//! receiver's socket.
//!
//! Only events of messages that were made while the connection was there count: what
//! waited for a device that was away says nothing about the server. Known limit: the
//! time in a number is in milliseconds, and is the proposer's clock.

use chat_wire::event::{Event, Kind};

use crate::{clock, metrics::Histogram};

/// Events that are queued and not yet written. Bounded by what a connection queues.
#[derive(Debug)]
pub(super) struct Deliveries {
    began_unix_ms: u64,
    /// (time of messages, how many of that time).
    queued: Vec<(u64, u64)>,
}

impl Deliveries {
    /// Of a connection that began then.
    pub(super) const fn new(began_unix_ms: u64) -> Self {
        Self {
            began_unix_ms,
            queued: Vec::new(),
        }
    }

    /// These are queued.
    pub(super) fn note(&mut self, events: &[Event]) {
        for event in events {
            let made = event.header.msg_id.unix_ms();
            if event.header.kind != Kind::Message || made < self.began_unix_ms {
                continue;
            }
            match self.queued.last_mut() {
                Some((last, count)) if *last == made => *count += 1,
                _ => self.queued.push((made, 1)),
            }
        }
    }

    /// Everything that was queued is written.
    pub(super) fn observe(&mut self, seconds: &Histogram) {
        if self.queued.is_empty() {
            return;
        }
        let now = clock::now().unix_ms;
        for (made, count) in std::mem::take(&mut self.queued) {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of a delivery")]
            seconds.observe_many(now.saturating_sub(made) as f64 / 1e3, count);
        }
    }
}
