//! Sessions, credits and pages against a model: an inbox that grows, and a session that
//! gives credits when it likes.

use bytes::Bytes;
use chat_wire::{
    body,
    event::Kind,
    ids::{ConversationId, MsgId, ShardId},
};
use proptest::prelude::*;

use super::*;

const USER: UserId = UserId(5);
const SESSION: SessionId = SessionId(1);

fn header(seq: u64) -> Header {
    Header {
        kind: Kind::Message,
        flags: 0,
        msg_id: MsgId::new(seq, ShardId(1), 0),
        conversation: ConversationId(9),
        sender: UserId(9),
        group_seq: 0,
        sender_name: Bytes::new(),
    }
}

fn stored() -> Stored {
    body::open(&body::seal(body::SCHEME_MESSAGE, [0; 16], b"x")).unwrap()
}

fn event(inbox_seq: u64) -> Event {
    Event {
        inbox_seq,
        header: header(inbox_seq),
        body: stored(),
    }
}

fn start(cursor: u64, head: u64, credits: u32) -> Start {
    Start {
        user: USER,
        device: DeviceId(1),
        encoding: Encoding::Proto,
        foreground: true,
        cursor,
        head,
        acked: cursor,
        marks_version: 0,
        marks_head: 0,
        credits,
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many new events.
    Grow(u64),
    Credit(u32),
    /// A pass: pages of at most so many events, then everything leaves.
    Pass(usize),
    Ack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..300_u64).prop_map(Step::Grow),
        (0..200_u32).prop_map(Step::Credit),
        (1..100_usize).prop_map(Step::Pass),
        Just(Step::Ack),
    ];
    prop::collection::vec(step, 1..60)
}

/// Everything that leaves, as numbers.
fn drain(delivery: &mut Delivery, got: &mut Vec<u64>) {
    delivery.drain(|session, message| {
        assert_eq!(session, SESSION);
        let ToSession::Events(events) = message else {
            panic!("{message:?}")
        };
        assert!(events.len() <= EVENT_BATCH);
        got.extend(events.iter().map(|event| event.inbox_seq));
    });
}

fn pages(delivery: &mut Delivery, page: usize) {
    for _ in 0..4 {
        let Some((session, wanted)) = delivery.next_wanted(0) else {
            break;
        };
        let Wanted::Events {
            after, head, limit, ..
        } = wanted
        else {
            panic!("{wanted:?}")
        };
        let last = head.min(after + limit.min(page) as u64);
        delivery.events_page(session, 1, (after + 1..=last).map(event).collect());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn events_come_in_order_without_a_gap_and_never_beyond_the_credits(
        steps in steps(), cursor in 0..50_u64, behind in 0..500_u64, credits in 0..300_u32,
    ) {
        let mut delivery = Delivery::default();
        let mut head = cursor + behind;
        let mut granted = u64::from(credits);
        let mut got = Vec::new();
        delivery.attach(SESSION, start(cursor, head, credits));
        for step in steps {
            match step {
                Step::Grow(events) => {
                    for seq in head + 1..=head + events {
                        delivery.event(0, USER, seq, &header(seq), &stored());
                    }
                    head += events;
                }
                Step::Credit(n) => {
                    granted += u64::from(n);
                    delivery.credit(0, SESSION, n);
                }
                Step::Pass(page) => {
                    pages(&mut delivery, page);
                    drain(&mut delivery, &mut got);
                }
                Step::Ack => {
                    let written = delivery.slot(SESSION).unwrap().cursor;
                    prop_assert!(delivery.ack(0, SESSION, written).is_ok());
                    prop_assert!(delivery.ack(0, SESSION, written + 1).is_err());
                }
            }
            prop_assert!(got.iter().copied().eq(cursor + 1..=cursor + got.len() as u64));
            prop_assert!(got.len() as u64 <= granted);
            // Behind without credit is noticed, and only that.
            let slot = delivery.slot(SESSION).unwrap();
            if delivery.slowest_since_ms().is_some() {
                prop_assert!(slot.cursor < slot.head);
            }
        }
        delivery.credit(0, SESSION, MAX_CREDITS);
        while delivery.wants_pages() {
            pages(&mut delivery, 100);
        }
        drain(&mut delivery, &mut got);
        prop_assert_eq!(got.len() as u64, head - cursor);
        prop_assert!(delivery.detach(SESSION).is_some());
        prop_assert!(delivery.is_empty() && delivery.slowest_since_ms().is_none());
    }
}

#[test]
fn pages_are_given_to_sessions_in_turn() {
    let mut delivery = Delivery::default();
    for session in 1..=3 {
        let device = DeviceId(session);
        delivery.attach(
            SessionId(session),
            Start {
                device,
                ..start(0, 1000, 1000)
            },
        );
    }
    let served: Vec<_> = (0..6)
        .map(|_| {
            let (session, wanted) = delivery.next_wanted(0).unwrap();
            let Wanted::Events { after, limit, .. } = wanted else {
                panic!("{wanted:?}")
            };
            let last = after + limit as u64;
            delivery.events_page(session, 1, (after + 1..=last).map(event).collect());
            session.0
        })
        .collect();
    assert_eq!(served, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_page_with_a_hole_before_it_is_a_gap_and_the_session_goes_on_from_the_head() {
    let mut delivery = Delivery::default();
    delivery.attach(SESSION, start(3, 10, 100));
    assert!(delivery.next_wanted(0).is_some());
    delivery.events_page(SESSION, 7, (7..=10).map(event).collect());
    let mut out = Vec::new();
    delivery.drain(|_, message| out.push(message));
    let gap = Body::Gap(frame::Gap {
        oldest: 7,
        head: 10,
    });
    assert_eq!(out, [ToSession::Signal(gap)]);
    delivery.event(0, USER, 11, &header(11), &stored());
    let mut got = Vec::new();
    drain(&mut delivery, &mut got);
    assert_eq!(got, [11]);
}
