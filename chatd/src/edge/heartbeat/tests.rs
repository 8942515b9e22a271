use super::*;
use crate::edge::outbound::Bounds;
use proptest::prelude::*;

fn wheel() -> (Arc<Sessions>, Heartbeat, u64) {
    let sessions = Arc::new(Sessions::new(Bounds::default()));
    let heartbeat = Heartbeat::new(Arc::clone(&sessions), 1);
    let start = lock(&heartbeat.wheels[0]).tick * TICK_MS;
    (sessions, heartbeat, start)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is scheduled in whatever order: due at its last deadline, to the
    /// second, never before, and once.
    #[test]
    fn the_last_deadline_counts(deadlines in prop::collection::vec((0u64..20_000, 0u64..2_000_000), 1..20)) {
        let (sessions, heartbeat, start) = wheel();
        let registration = sessions.open();
        let mailbox = registration.mailbox();
        let mut now = start;
        let mut deadline = None;
        for (pause, ahead) in deadlines {
            now += pause;
            heartbeat.advance(0, now);
            let due = mailbox.take_signals().has(Signal::Due);
            if let Some(at) = deadline {
                prop_assert_eq!(due, now / TICK_MS * TICK_MS >= at);
            }
            heartbeat.schedule(mailbox, Some(now + ahead));
            deadline = Some(now + ahead);
        }
        let at = deadline.expect("one at least");
        let last_whole = at.div_ceil(TICK_MS).max(now / TICK_MS + 1) * TICK_MS;
        heartbeat.advance(0, last_whole - 1);
        prop_assert!(!mailbox.take_signals().has(Signal::Due));
        heartbeat.advance(0, last_whole);
        prop_assert!(mailbox.take_signals().has(Signal::Due));
        heartbeat.advance(0, last_whole + 10_000_000);
        prop_assert!(!mailbox.take_signals().has(Signal::Due));
    }
}

#[test]
fn a_deadline_that_only_moves_later_adds_no_entries() {
    let (sessions, heartbeat, start) = wheel();
    let registration = sessions.open();
    for frame in 0..10_000 {
        heartbeat.schedule(registration.mailbox(), Some(start + 30_000 + frame));
    }
    let entries: usize = lock(&heartbeat.wheels[0]).slots.iter().map(Vec::len).sum();
    assert_eq!(entries, 1);
}

#[test]
fn no_deadline_and_a_gone_session_are_never_due() {
    let (sessions, heartbeat, start) = wheel();
    let (kept, gone) = (sessions.open(), sessions.open());
    heartbeat.schedule(kept.mailbox(), Some(start + 5_000));
    heartbeat.schedule(kept.mailbox(), None);
    heartbeat.schedule(gone.mailbox(), Some(start + 5_000));
    drop(gone);
    heartbeat.advance(0, start + 1_000_000);
    assert!(!kept.mailbox().take_signals().has(Signal::Due));
}
