//! The first screen of a new device: HELLO, CONVERSATIONS, HISTORY of the newest one, and
//! every byte that came for it, however long the inbox is and however long its messages.
//!
//! The client is a bare socket, so that nothing hides what was received. Known limit: the
//! inbox has a tenth of the events that `cargo run --release -p bench -- one-node --only
//! pages` measures, since it is filled by real sends in every run of the tests.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chat_tests::node::{Node, Options};
use chat_wire::{
    codec::{Encoding, decode, encode},
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

/// A WebSocket without a library.
struct Raw {
    stream: TcpStream,
    encoding: Encoding,
    input: Vec<u8>,
    /// How much of it was read as frames.
    used: usize,
    output: Vec<u8>,
    /// Every byte since the connection was made, the upgrade's included.
    received: usize,
    /// How often something was written and then waited for, the upgrade not included.
    round_trips: u32,
}

impl Raw {
    fn connect(node: &Node, encoding: Encoding) -> Self {
        let stream = TcpStream::connect(node.address()).expect("the node listens");
        stream.set_read_timeout(Some(WITHIN)).expect("a time");
        stream.set_nodelay(true).expect("an option");
        let name = match encoding {
            Encoding::Proto => "chat.v1.proto",
            Encoding::Json => "chat.v1.json",
        };
        let mut raw = Self {
            stream,
            encoding,
            input: Vec::new(),
            used: 0,
            output: Vec::new(),
            received: 0,
            round_trips: 0,
        };
        let upgrade = format!(
            "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {name}\r\n\r\n"
        );
        raw.stream
            .write_all(upgrade.as_bytes())
            .expect("the node reads");
        loop {
            let head = raw.input.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = head {
                assert!(raw.input.starts_with(b"HTTP/1.1 101"));
                raw.used = end + 4;
                return raw;
            }
            raw.fill();
        }
    }

    /// A session that takes no events, and its WELCOME.
    fn attach(node: &Node, encoding: Encoding, name: &str, device: u64) -> (Self, Welcome) {
        let mut raw = Self::connect(node, encoding);
        let hello = Hello {
            min_version: 1,
            max_version: 1,
            token: format!("dev:{name}"),
            device,
            event_credits: Some(0),
            ..Hello::default()
        };
        match raw.ask(1, Body::Hello(hello)) {
            Body::Welcome(welcome) => (raw, welcome),
            other => panic!("no WELCOME: {other:?}"),
        }
    }

    fn fill(&mut self) {
        let mut piece = [0; 64 * 1024];
        let read = self.stream.read(&mut piece).expect("the node answers");
        assert_ne!(read, 0, "the node has closed the connection");
        self.received += read;
        self.input.drain(..self.used);
        self.used = 0;
        self.input.extend_from_slice(&piece[..read]);
    }

    /// Puts a frame behind those that are written next; its mask is zero.
    fn queue(&mut self, frame: &Frame) {
        let bytes = encode(self.encoding, frame);
        let text = self.encoding == Encoding::Json;
        self.output.push(if text { 0x81 } else { 0x82 });
        // A length must come in its shortest form.
        if let Ok(len @ 0..=125) = u8::try_from(bytes.len()) {
            self.output.push(0x80 | len);
        } else if let Ok(len) = u16::try_from(bytes.len()) {
            self.output.push(0x80 | 126);
            self.output.extend_from_slice(&len.to_be_bytes());
        } else {
            self.output.push(0x80 | 127);
            let len = bytes.len() as u64;
            self.output.extend_from_slice(&len.to_be_bytes());
        }
        self.output.extend_from_slice(&[0; 4]);
        self.output.extend_from_slice(&bytes);
    }

    fn flush(&mut self) {
        self.stream.write_all(&self.output).expect("the node reads");
        self.output.clear();
    }

    /// The payload of the next whole message that is here, if it is one.
    fn message(&mut self) -> Option<Bytes> {
        let input = &self.input[self.used..];
        let short = usize::from(*input.get(1)? & 0x7f);
        let head = match short {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let len = input.get(2..head)?;
        let len = match head {
            2 => short,
            _ => len
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte)),
        };
        let payload = Bytes::copy_from_slice(input.get(head..head + len)?);
        assert_ne!(input[0] & 0x0f, 8, "the node says goodbye: {payload:?}");
        self.used += head + len;
        Some(payload)
    }

    /// The next frame; waits for it.
    fn next(&mut self) -> Frame {
        loop {
            match self.message() {
                Some(payload) => {
                    return decode(self.encoding, &payload, usize::MAX).expect("a frame");
                }
                None => self.fill(),
            }
        }
    }

    /// One round trip.
    fn ask(&mut self, req: u32, body: Body) -> Body {
        self.queue(&Frame::new(req, body));
        self.flush();
        self.round_trips += 1;
        loop {
            let frame = self.next();
            // WELCOME is the one answer that does not say to what.
            if frame.req == req || matches!(frame.body, Some(Body::Welcome(_))) {
                return frame.body.expect("a frame says something");
            }
        }
    }

    /// Sends texts, as many in flight as the server takes.
    fn send_all<'a>(&mut self, texts: impl ExactSizeIterator<Item = (String, &'a str)>) {
        let count = u32::try_from(texts.len()).expect("not so many");
        let mut texts = (10..).zip(texts);
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            while sent < answered + WINDOW
                && let Some((req, (to, text))) = texts.next()
            {
                self.queue(&send(req, &to, text));
                sent += 1;
            }
            self.flush();
            let frame = self.next();
            if frame.req >= 10 {
                assert!(matches!(frame.body, Some(Body::Sent(_))), "{frame:?}");
                answered += 1;
            }
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
    let (mut raw, welcome) = Raw::attach(node, encoding, name, device);
    let get = ConversationsGet::default();
    let Body::ConversationsPage(conversations) = raw.ask(2, Body::Conversations(get)) else {
        panic!("no conversations");
    };
    let newest = conversations.conversations.first().expect("one at least");
    let get = HistoryGet {
        conversation: newest.conversation,
        from: Some(history_get::From::Before(0)),
        limit: 0,
    };
    let Body::HistoryPage(history) = raw.ask(3, Body::History(get)) else {
        panic!("no history");
    };
    let screen = Screen {
        welcome,
        conversations,
        history,
        received: raw.received,
        round_trips: raw.round_trips,
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
                    let (mut raw, _) = Raw::attach(node, Encoding::Proto, &name, 1);
                    raw.send_all((0..EACH).map(|_| ("reader".to_owned(), filling)));
                }
            });
        }
        scope.spawn(move || {
            let (mut raw, _) = Raw::attach(node, Encoding::Proto, "reader", 1);
            let to = |number: u32| (format!("other-{}", number % OTHERS), filling);
            raw.send_all((0..OWN).map(to));
        });
    });
    // The copies of one's own messages come through the outbox.
    let began = Instant::now();
    while Raw::attach(node, Encoding::Proto, "reader", 1).1.inbox_head < TOTAL {
        assert!(began.elapsed() < WITHIN, "not all arrive");
    }
}

#[test]
fn a_new_device_has_its_first_screen_of_a_long_inbox_in_three_round_trips_and_one_mebibyte() {
    let mut node = node();
    let began = Instant::now();
    fill(&node);
    println!("{TOTAL} events after {:?}", began.elapsed());
    let (mut raw, _) = Raw::attach(&node, Encoding::Proto, "sender-7", 1);
    raw.send_all([("reader".to_owned(), "the newest")].into_iter());
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
        let (mut raw, _) = Raw::attach(&node, Encoding::Proto, &name, 1);
        let count = if number == 59 { 60 } else { 1 };
        raw.send_all((0..count).map(|_| ("reader".to_owned(), &*longest)));
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
