//! Holds back credits, so that a shard never sends more events than a connection's
//! mailbox holds, however many its client takes.
//!
//! A client counts events, a mailbox bytes; an event may have a few bytes or 64 KiB.
//! So the shard is given credits for about half a mailbox at a time, by the size of
//! the events seen last, and more only as they are taken out, which happens as fast as
//! the socket takes them. A client that reads slowly is thereby slowed down and not
//! cut off; one that does not read is behind, and the shard ends its session.
//!
//! Known limit: when events suddenly grow from bytes to 64 KiB, what is under way may
//! overflow the mailbox once; the client resumes, with a small window.

use chat_wire::limits::CONTENT_BYTES;

/// Credits that are out at most, however small the events.
const MAX_EVENTS: u32 = 1_024;

/// The credits of one session.
#[derive(Debug)]
pub(super) struct Window {
    /// Bytes that may be under way.
    bytes: u32,
    /// About how long an event is; at first the worst is assumed.
    event_bytes: u32,
    /// Credits the shard has and has not used.
    out: u32,
    /// Credits of the client that the shard has not been given.
    held: u32,
    opened: bool,
}

impl Window {
    /// For a mailbox of so many bytes.
    pub(super) fn new(mailbox_bytes: usize) -> Self {
        Self {
            bytes: u32::try_from(mailbox_bytes / 2).unwrap_or(u32::MAX),
            event_bytes: CONTENT_BYTES,
            out: 0,
            held: 0,
            opened: false,
        }
    }

    /// The client's first credits; gives those of the shard. An attachment that is
    /// offered again keeps what it had.
    pub(super) fn open(&mut self, credits: u32) -> u32 {
        if !std::mem::replace(&mut self.opened, true) {
            self.held = credits;
            self.release();
        }
        self.out
    }

    /// The client grants more.
    pub(super) fn grant(&mut self, credits: u32) {
        self.held = self.held.saturating_add(credits);
    }

    /// Events left the mailbox.
    pub(super) fn took(&mut self, events: usize, bytes: usize) {
        let events = u32::try_from(events).unwrap_or(u32::MAX).max(1);
        self.out = self.out.saturating_sub(events);
        let mean = u32::try_from(bytes).unwrap_or(u32::MAX) / events;
        // Rises at once and falls slowly.
        self.event_bytes = mean.max(self.event_bytes / 4 * 3).max(64);
    }

    /// Credits that the shard may now have; 0 until enough have been used.
    pub(super) fn release(&mut self) -> u32 {
        let size = (self.bytes / self.event_bytes).clamp(1, MAX_EVENTS);
        if self.out > size / 2 {
            return 0;
        }
        let credits = self.held.min(size - self.out);
        self.held -= credits;
        self.out += credits;
        credits
    }

    /// The shard's queue was full: they did not go out.
    pub(super) fn take_back(&mut self, credits: u32) {
        self.out = self.out.saturating_sub(credits);
        self.held = self.held.saturating_add(credits);
    }

    /// Whether there is something to release.
    pub(super) fn is_waiting(&self) -> bool {
        self.held > 0 && self.out == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever is granted and taken: never more out than the window, no credit
        /// is lost or made, and as long as the client grants, the shard gets some.
        #[test]
        fn credits_are_conserved_and_bounded(
            first in 0u32..2_000,
            steps in prop::collection::vec((0u32..500, 1usize..64, 1usize..70_000), 1..60),
        ) {
            let mut window = Window::new(8 << 20);
            let mut shard = u64::from(window.open(first));
            let mut granted = u64::from(first);
            let mut delivered = 0;
            prop_assert_eq!(u64::from(window.open(7)), shard, "opened once");
            for (more, events, event_bytes) in steps {
                window.grant(more);
                granted += u64::from(more);
                let events = events.min(usize::try_from(shard).unwrap());
                if events > 0 {
                    window.took(events, events * event_bytes);
                    shard -= events as u64;
                    delivered += events as u64;
                }
                let credits = window.release();
                shard += u64::from(credits);
                prop_assert_eq!(shard + u64::from(window.held) + delivered, granted);
                prop_assert!(shard <= u64::from(MAX_EVENTS));
                prop_assert!(shard > 0 || delivered == granted);
                if credits > 0 {
                    prop_assert!(shard * u64::from(window.event_bytes) <= 4 << 20 || shard == 1);
                }
            }
        }
    }

    #[test]
    fn small_events_get_a_wide_window_and_long_ones_a_narrow_one() {
        let mut window = Window::new(8 << 20);
        assert_eq!(window.open(u32::MAX), 64, "at first the worst is assumed");
        for _ in 0..40 {
            window.took(32, 32 * 300);
            window.release();
        }
        assert!((513..=1_024).contains(&window.out), "{}", window.out);
        window.took(32, 32 * 65_536);
        assert_eq!(window.release(), 0, "more than enough are out");
    }

    #[test]
    fn credits_that_did_not_go_out_wait() {
        let mut window = Window::new(8 << 20);
        window.open(0);
        window.grant(10);
        assert_eq!(window.release(), 10);
        window.take_back(10);
        assert!(window.is_waiting());
        assert_eq!(window.release(), 10);
        assert!(!window.is_waiting());
    }
}
