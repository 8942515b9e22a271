use super::*;

fn arrivals(auto_ack: bool) -> (Arc<Arrivals>, Events) {
    let arrivals = Arrivals::new(State::default(), 8, auto_ack);
    let events = Events::new(Arc::clone(&arrivals));
    (arrivals, events)
}

fn event(inbox_seq: u64) -> frame::Event {
    frame::Event {
        inbox_seq,
        ..frame::Event::default()
    }
}

fn receipt(user: u64, version: u64) -> frame::Receipt {
    frame::Receipt {
        from_version: version - 1,
        to_version: version,
        conversation: 1,
        user,
        delivered_up_to: version.cast_signed(),
        seen_up_to: 0,
    }
}

fn connected(generation: u32) -> Connected {
    Connected {
        session: SessionId(1),
        user: UserId(1),
        name: "me".into(),
        generation,
        inbox_head: 0,
        transport: TransportKind::Quic,
        attempts: 1,
    }
}

#[test]
fn the_state_names_what_was_taken_and_nothing_that_only_waits() {
    let (arrivals, mut events) = arrivals(true);
    arrivals.push_connected(connected(1), 3, 0);
    arrivals.push_events(vec![event(4), event(5)]);
    arrivals.push_receipt(receipt(2, 1), 1);
    assert_eq!(arrivals.state(), State::default());
    assert_eq!(arrivals.unread(), 2);
    events.try_recv();
    assert_eq!(arrivals.state().inbox_seq, 3);
    events.try_recv();
    let state = arrivals.state();
    assert_eq!((state.inbox_seq, state.acked, state.generation), (4, 4, 1));
    assert_eq!(state.marks_version, 0);
    events.try_recv();
    events.try_recv();
    assert_eq!(arrivals.state().marks_version, 1);
    let collected = arrivals.collect();
    assert_eq!((collected.taken, collected.acked), (2, 5));
}

#[test]
fn receipts_that_wait_are_merged_and_the_version_moves_when_all_are_taken() {
    let (arrivals, mut events) = arrivals(true);
    for version in 1..=100 {
        arrivals.push_receipt(receipt(version % 2, version), version);
    }
    let Some(Incoming::Receipt(first)) = events.try_recv() else {
        panic!("a receipt waits");
    };
    assert_eq!(first.delivered_up_to, 99);
    assert_eq!(arrivals.state().marks_version, 0, "one is not taken yet");
    assert!(events.try_recv().is_some());
    assert_eq!(arrivals.state().marks_version, 100);
    assert!(events.try_recv().is_none());
}

#[test]
fn without_auto_ack_only_the_application_acknowledges() {
    let (arrivals, mut events) = arrivals(false);
    arrivals.push_events(vec![event(1), event(2)]);
    while events.try_recv().is_some() {}
    assert_eq!(arrivals.collect().acked, 0);
    arrivals.ack(1);
    arrivals.ack(0);
    assert_eq!(arrivals.collect().acked, 1);
}

#[test]
fn the_numbers_of_an_old_generation_are_not_acknowledged_in_the_new_one() {
    let (arrivals, mut events) = arrivals(true);
    arrivals.push_connected(connected(1), 0, 0);
    arrivals.push_events(vec![event(900)]);
    arrivals.push_connected(connected(2), 3, 7);
    arrivals.push_gap(1, 3);
    events.try_recv();
    events.try_recv();
    let collected = arrivals.collect();
    assert_eq!((collected.acked, collected.generation), (900, 1));
    events.try_recv();
    let state = arrivals.state();
    assert_eq!(
        (state.generation, state.acked, state.marks_version),
        (2, 0, 7)
    );
    assert!(matches!(
        events.try_recv(),
        Some(Incoming::Gap { oldest: 1, head: 3 })
    ));
    assert_eq!(arrivals.state().inbox_seq, 3);
}

#[test]
fn everything_that_waits_has_its_bound() {
    let (arrivals, mut events) = arrivals(true);
    for _ in 0..MAX_SIGNALS * 2 {
        arrivals.push_signal(Incoming::Typing(frame::Typing::default()));
        arrivals.push_connected(connected(1), 0, 0);
    }
    for conversation in 0..MAX_MARKS as u64 * 2 {
        arrivals.mark(conversation, 1);
    }
    assert_eq!(arrivals.state().marks.len(), MAX_MARKS);
    assert_eq!(arrivals.collect().marks.len(), MAX_MARKS);
    let mut count = 0;
    while events.try_recv().is_some() {
        count += 1;
    }
    assert_eq!(count, MAX_SIGNALS + 1);
    for user in 0..MAX_RECEIPTS as u64 {
        assert!(arrivals.has_room());
        arrivals.push_receipt(receipt(user, user + 1), user + 1);
    }
    assert!(!arrivals.has_room(), "the task stops reading");
    arrivals.collect();
    events.try_recv();
    assert!(arrivals.has_room() && arrivals.is_urgent(), "and is woken");
}

#[test]
fn whoever_drops_the_events_still_lets_credits_flow() {
    let (arrivals, events) = arrivals(true);
    arrivals.push_events(vec![event(1), event(2)]);
    drop(events);
    arrivals.push_events(vec![event(3)]);
    assert!(arrivals.is_urgent());
    let collected = arrivals.collect();
    assert_eq!((collected.taken, collected.acked), (3, 0));
}

#[tokio::test]
async fn a_waiting_application_is_woken_and_the_end_comes_last() {
    let (arrivals, mut events) = arrivals(true);
    let task = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(incoming) = events.recv().await {
            seen.push(incoming);
        }
        seen
    });
    tokio::task::yield_now().await;
    arrivals.push_events(vec![event(1)]);
    arrivals.end(ConnectError::Replaced);
    let seen = task.await.unwrap();
    assert!(matches!(
        seen[..],
        [Incoming::Event(_), Incoming::Closed(ConnectError::Replaced)]
    ));
}

#[test]
fn a_mark_is_forgotten_only_when_a_receipt_covers_it() {
    let (arrivals, _events) = arrivals(true);
    arrivals.mark(1, 10);
    arrivals.mark(1, 5);
    arrivals.confirm_mark(1, 9);
    assert_eq!(arrivals.state().marks.get(&1), Some(&10));
    arrivals.confirm_mark(1, 10);
    assert!(arrivals.state().marks.is_empty());
}
