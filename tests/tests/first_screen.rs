//! The first screen of a new device: HELLO, CONVERSATIONS, HISTORY of the newest one, and
//! every byte that came for it, however long the inbox is and however long its messages.
//!
//! The client is a bare socket, so that nothing hides what was received. Known limit: the
//! inbox has a tenth of the events that `cargo run --release -p bench -- one-node --only
//! pages` measures, since it is filled by real sends in every run of the tests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_tests::{
    node::{Node, Options},
    socket::Socket,
};
use chat_wire::{
    codec::Encoding,
    frame::{
        Body, Content, ConversationsGet, ConversationsPage, Event, Frame, Hello, HistoryGet,
        HistoryPage, Send, Target, Welcome, content, event, history_get, target,
    },
    ids::UserId,
};

/// People who write to the reader, and how much each.
const SENDERS: u32 = 200;
const EACH: u32 = 450;
/// What the reader writes, and to how many others.
const OWN: u32 = 10_000;
const OTHERS: u32 = 1_000;
const TOTAL: u64 = (SENDERS * EACH + OWN) as u64;
/// Sends in flight of one client.
const WINDOW: u32 = 128;
/// Clients that fill the inbox at once.
const THREADS: u32 = 8;

const ROUND_TRIPS: u32 = 3;
const RECEIVED: usize = 1 << 20;
/// The longest text whose content is within the limit.
const LONGEST: usize = 65_536 - 4;
const WITHIN: Duration = Duration::from_secs(60);

/// A session that takes no events.
fn attach(node: &Node, encoding: Encoding, name: &str, device: u64) -> (Socket, Welcome) {
    let hello = Hello {
        device,
        event_credits: Some(0),
        ..Hello::default()
    };
    Socket::attach(node, encoding, name, hello)
}

/// Sends texts, as many in flight as the server takes.
fn send_all<'a>(socket: &mut Socket, texts: impl ExactSizeIterator<Item = (String, &'a str)>) {
    let count = u32::try_from(texts.len()).expect("not so many");
    let mut texts = (10..).zip(texts);
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < answered + WINDOW
            && let Some((req, (to, text))) = texts.next()
        {
            socket.queue(&send(req, &to, text));
            sent += 1;
        }
        socket.flush();
        let frame = socket.next();
        if frame.req >= 10 {
            assert!(matches!(frame.body, Some(Body::Sent(_))), "{frame:?}");
            answered += 1;
        }
    }
}

fn send(req: u32, to: &str, text: &str) -> Frame {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock");
    let ms = u64::try_from(now.as_millis()).expect("a clock");
    let mut id = [0; 16];
    id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    (id[6], id[8]) = (0x70, 0x80);
    id[12..].copy_from_slice(&req.to_be_bytes());
    let send = Send {
        client_msg_id: Bytes::copy_from_slice(&id),
        to: Some(Target {
            to: Some(target::To::Name(to.into())),
        }),
        content: Some(Content {
            kind: Some(content::Kind::Text(text.into())),
        }),
        ..Send::default()
    };
    Frame::new(req, Body::Send(send))
}

fn text(event: &Event) -> &str {
    match &event.what {
        Some(event::What::Message(message)) => match &message.content {
            Some(Content {
                kind: Some(content::Kind::Text(text)),
            }) => text,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What a new device has when it can show something.
struct Screen {
    welcome: Welcome,
    conversations: ConversationsPage,
    history: HistoryPage,
    received: usize,
    round_trips: u32,
}

fn first_screen(node: &Node, encoding: Encoding, name: &str, device: u64) -> Screen {
    let (mut socket, welcome) = attach(node, encoding, name, device);
    let get = ConversationsGet::default();
    let Body::ConversationsPage(conversations) = socket.ask(2, Body::Conversations(get)) else {
        panic!("no conversations");
    };
    let newest = conversations.conversations.first().expect("one at least");
    let get = HistoryGet {
        conversation: newest.conversation,
        from: Some(history_get::From::Before(0)),
        limit: 0,
    };
    let Body::HistoryPage(history) = socket.ask(3, Body::History(get)) else {
        panic!("no history");
    };
    let screen = Screen {
        welcome,
        conversations,
        history,
        received: socket.received,
        round_trips: socket.round_trips,
    };
    println!(
        "first screen of {name} in {encoding:?}: {} conversations, {} events, {} round trips, {} bytes",
        screen.conversations.conversations.len(),
        screen.history.events.len(),
        screen.round_trips,
        screen.received
    );
    assert!(screen.round_trips <= ROUND_TRIPS);
    assert!(screen.received <= RECEIVED, "{} bytes", screen.received);
    screen
}

fn node() -> Node {
    let settings = [
        "limits.sends_per_second=1000000",
        "limits.sends_burst=1000000",
        "edge.connects_per_second=100000",
        "edge.connects_burst=100000",
    ];
    let options = Options {
        arguments: settings
            .iter()
            .flat_map(|setting| ["--set".into(), setting.into()])
            .collect(),
        ..Options::default()
    };
    Node::start_with(options).expect("a node")
}

fn fill(node: &Node) {
    let filling = "x".repeat(80);
    std::thread::scope(|scope| {
        let filling = &*filling;
        for thread in 0..THREADS {
            scope.spawn(move || {
                for number in (thread..SENDERS).step_by(THREADS as usize) {
                    let name = format!("sender-{number}");
                    let (mut socket, _) = attach(node, Encoding::Proto, &name, 1);
                    send_all(
                        &mut socket,
                        (0..EACH).map(|_| ("reader".to_owned(), filling)),
                    );
                }
            });
        }
        scope.spawn(move || {
            let (mut socket, _) = attach(node, Encoding::Proto, "reader", 1);
            let to = |number: u32| (format!("other-{}", number % OTHERS), filling);
            send_all(&mut socket, (0..OWN).map(to));
        });
    });
    // The copies of one's own messages come through the outbox.
    let began = Instant::now();
    while attach(node, Encoding::Proto, "reader", 1).1.inbox_head < TOTAL {
        assert!(began.elapsed() < WITHIN, "not all arrive");
    }
}

#[test]
fn a_new_device_has_its_first_screen_of_a_long_inbox_in_three_round_trips_and_one_mebibyte() {
    let mut node = node();
    let began = Instant::now();
    fill(&node);
    println!("{TOTAL} events after {:?}", began.elapsed());
    let (mut socket, _) = attach(&node, Encoding::Proto, "sender-7", 1);
    send_all(
        &mut socket,
        [("reader".to_owned(), "the newest")].into_iter(),
    );
    // From memtables and segments, and after a crash.
    let mut device = 100;
    for crash in [false, true] {
        if crash {
            node.kill();
            node.restart().expect("the node comes back");
        }
        for encoding in [Encoding::Proto, Encoding::Json] {
            device += 1;
            let screen = first_screen(&node, encoding, "reader", device);
            assert_eq!(screen.welcome.inbox_head, TOTAL + 1);
            assert_eq!(screen.conversations.inbox_head, TOTAL + 1);
            let list = &screen.conversations.conversations;
            assert_eq!((list.len(), screen.conversations.more), (50, true));
            let last = |at: usize| list[at].last_event.as_ref().expect("an event");
            assert!((1..50).all(|at| last(at - 1).msg_id > last(at).msg_id));
            assert_eq!(text(last(0)), "the newest");
            assert_eq!(list[0].name, "sender-7");
            assert_eq!(list[0].unread, u64::from(EACH) + 1);
            assert_eq!(screen.history.events.len(), 50);
            assert_eq!(
                screen.history.conversation,
                UserId::of("default", "sender-7").0
            );
            assert_eq!(screen.history.events[0].msg_id, last(0).msg_id);
        }
    }
}

#[test]
fn the_first_screen_stays_below_a_mebibyte_when_every_message_is_as_long_as_allowed() {
    let node = node();
    let longest = "x".repeat(LONGEST);
    for number in 0..60 {
        let name = format!("sender-{number}");
        let (mut socket, _) = attach(&node, Encoding::Proto, &name, 1);
        let count = if number == 59 { 60 } else { 1 };
        send_all(
            &mut socket,
            (0..count).map(|_| ("reader".to_owned(), &*longest)),
        );
    }
    for (device, encoding) in (101..).zip([Encoding::Proto, Encoding::Json]) {
        let screen = first_screen(&node, encoding, "reader", device);
        let list = &screen.conversations.conversations;
        // Pages are cut by their bytes, and say that there is more.
        assert!(list.len() < 50 && screen.conversations.more);
        assert!(!screen.history.events.is_empty() && screen.history.more);
        assert_eq!(list[0].name, "sender-59");
        assert_eq!(text(&screen.history.events[0]).len(), LONGEST);
    }
}
