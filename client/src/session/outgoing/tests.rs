use super::*;

fn outgoing(kept: usize) -> Outgoing {
    Outgoing::new(Backoff::default(), kept, 1)
}

fn id(number: u8) -> ClientId {
    let mut bytes = [number; 16];
    bytes[6] = 0x70;
    bytes[8] = 0x80;
    ClientId::from_slice(&bytes).unwrap()
}

fn to(target: To) -> frame::Send {
    frame::Send {
        to: Some(frame::Target { to: Some(target) }),
        ..frame::Send::default()
    }
}

#[test]
fn a_rate_limit_is_kept_without_being_refused() {
    let mut outgoing = outgoing(0);
    outgoing.welcomed(1_000, UserId(1), "x", 10, 3);
    for number in 0..10 {
        outgoing.push(id(number), to(To::User(u64::from(number))));
    }
    let mut times = Vec::new();
    let mut now_ms = 1_000;
    for req in 1..=10 {
        while outgoing.transmit(now_ms, req, &mut |_| {}).is_none() {
            let next = outgoing.deadline_ms();
            assert!(next > now_ms && next <= now_ms + 100);
            now_ms = next;
            outgoing.tick(now_ms);
        }
        times.push(now_ms - 1_000);
    }
    assert_eq!(times, [0, 0, 0, 100, 200, 300, 400, 500, 600, 700]);
}

#[test]
fn a_name_and_its_id_share_one_lane_when_the_app_is_known() {
    let mut outgoing = outgoing(0);
    let bob = UserId::of("default", "bob");
    outgoing.push(id(1), to(To::Name("bob".into())));
    outgoing.push(id(2), to(To::User(bob.0)));
    assert_eq!(outgoing.lanes.len(), 2);
    outgoing.welcomed(0, UserId::of("default", "me"), "me", 0, 0);
    assert_eq!(outgoing.lanes.len(), 1);
    assert_eq!(
        outgoing.conversation_of(&to(To::Name("bob".into()))),
        Some(bob.0)
    );
}

#[test]
fn what_is_kept_is_bounded_by_count_and_by_bytes() {
    let mut few = outgoing(3);
    for number in 0..10 {
        few.keep(id(number), to(To::User(1)));
    }
    let kept: Vec<_> = few.kept.iter().map(|(id, _)| *id).collect();
    assert_eq!(kept, [id(7), id(8), id(9)]);

    let mut large = outgoing(1_000);
    for number in 0..40 {
        let mut send = to(To::User(1));
        send.client_msg_id = Bytes::from(vec![number; 1024 * 1024]);
        large.keep(id(number), send);
    }
    assert!(large.kept_bytes <= KEPT_BYTES && large.kept.len() >= 14);
}

#[test]
fn a_lane_that_is_done_leaves_nothing_behind() {
    let mut outgoing = outgoing(0);
    outgoing.welcomed(0, UserId(1), "x", 0, 0);
    for number in 0..5 {
        outgoing.push(id(number), to(To::User(u64::from(number))));
    }
    for req in 1..=5 {
        outgoing.transmit(0, req, &mut |_| {}).unwrap();
        outgoing.answered(req, Verdict::Sent).unwrap();
    }
    assert_eq!(outgoing.len(), 0);
    assert!(outgoing.lanes.is_empty() && outgoing.in_flight.is_empty());
    assert_eq!(outgoing.answered(3, Verdict::Sent), None, "an answer twice");
}
