use super::*;
use chat_wire::{
    body::{self, Body},
    event::{Event, Header, Kind},
    ids::{ConversationId, MsgId, UserId},
};

fn events(content_bytes: usize) -> ToSession {
    let stored = body::seal(0, [0; 16], &vec![7; content_bytes]);
    let body: Body = body::open(&stored).unwrap();
    let header = Header {
        kind: Kind::Message,
        flags: 0,
        msg_id: MsgId(1),
        conversation: ConversationId(1),
        sender: UserId(1),
        group_seq: 0,
        sender_name: "a".into(),
    };
    ToSession::Events(vec![Event {
        inbox_seq: 1,
        header,
        body,
    }])
}

fn sessions(session_bytes: usize, total_bytes: usize) -> Arc<Sessions> {
    Arc::new(Sessions::new(Bounds {
        session_messages: 8,
        session_bytes,
        total_bytes,
    }))
}

#[test]
fn messages_come_out_in_order_and_an_empty_mailbox_holds_no_memory() {
    let sessions = sessions(1 << 20, 1 << 20);
    let registration = sessions.open();
    let mailbox = registration.mailbox();
    assert!(sessions.send(mailbox.session(), ToSession::Replaced));
    assert!(sessions.send(mailbox.session(), events(10)));
    assert!(sessions.queued_bytes() > 0);
    assert_eq!(mailbox.take(), Some(ToSession::Replaced));
    assert_eq!(mailbox.take(), Some(events(10)));
    assert_eq!(mailbox.take(), None);
    assert_eq!(sessions.queued_bytes(), 0);
    assert_eq!(lock(&mailbox.queue).messages.capacity(), 0);
}

#[test]
fn a_session_that_does_not_take_is_cut_at_each_bound_and_frees_what_it_held() {
    for (session_bytes, total_bytes, each) in [
        (1 << 30, 1 << 30, 1),
        (100_000, 1 << 30, 40_000),
        (1 << 30, 100_000, 40_000),
    ] {
        let sessions = sessions(session_bytes, total_bytes);
        let registration = sessions.open();
        let session = registration.mailbox().session();
        let taken = (0..100)
            .take_while(|_| sessions.send(session, events(each)))
            .count();
        assert!(
            (1..=8).contains(&taken),
            "{taken} messages before the bound"
        );
        assert!(registration.mailbox().take_signals().has(Signal::Overflow));
        assert_eq!(registration.mailbox().take(), None);
        assert_eq!(sessions.queued_bytes(), 0);
        assert!(!sessions.send(session, ToSession::Replaced), "it is going");
    }
}

#[test]
fn when_all_mailboxes_are_full_a_small_one_still_takes_its_share() {
    let sessions = sessions(1 << 20, 100_000);
    let (greedy, modest) = (sessions.open(), sessions.open());
    assert!(
        sessions.send(greedy.mailbox().session(), events(99_000))
            || greedy.mailbox().take_signals().has(Signal::Overflow)
    );
    assert!(sessions.send(modest.mailbox().session(), events(1_000)));
}

#[test]
fn a_dropped_session_is_unknown_and_returns_its_bytes() {
    let sessions = sessions(1 << 20, 1 << 20);
    let registration = sessions.open();
    let session = registration.mailbox().session();
    assert!(sessions.send(session, events(1_000)));
    drop(registration);
    assert!(!sessions.send(session, ToSession::Replaced));
    assert_eq!((sessions.len(), sessions.queued_bytes()), (0, 0));
}

#[test]
fn a_signal_reaches_every_session_once() {
    let sessions = sessions(1 << 20, 1 << 20);
    let all: Vec<_> = (0..100).map(|_| sessions.open()).collect();
    sessions.signal_all(Signal::Drain);
    for registration in &all {
        let signals = registration.mailbox().take_signals();
        assert!(signals.has(Signal::Drain) && !signals.has(Signal::Stop));
        assert_eq!(registration.mailbox().take_signals(), Signals(0));
    }
}

#[test]
fn a_message_that_ends_the_session_is_signalled() {
    let sessions = sessions(1 << 20, 1 << 20);
    let registration = sessions.open();
    let mailbox = registration.mailbox();
    sessions.send(mailbox.session(), events(10));
    assert!(!mailbox.take_signals().has(Signal::Ending));
    sessions.send(mailbox.session(), ToSession::Replaced);
    assert!(mailbox.take_signals().has(Signal::Ending));
}
