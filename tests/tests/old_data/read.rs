//! Everything that a person is shown: the inbox from its first event, and the answers to all
//! that can be asked of it.

use chat_tests::{node::Node, socket::Socket};
use chat_wire::{
    codec::Encoding,
    frame::{
        Body, ConversationsGet, Credit, GroupGet, Hello, HistoryGet, Lane, MarksGet, MembersGet,
        Resume, Welcome, history_get,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The device that reads: none that wrote.
const READER: u64 = 77;
/// Events that it takes at once.
pub(crate) const CREDITS: u32 = 512;

/// What one person is shown.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Everything {
    pub(crate) name: String,
    /// Of the inbox, from 1 on.
    pub(crate) events: Vec<Value>,
    /// Answers, by request. Texts of errors are left out, and what an inbox counts as unread.
    pub(crate) pages: Vec<(String, Value)>,
}

/// A session of somebody.
pub(crate) struct Device {
    pub(crate) socket: Socket,
    pub(crate) welcome: Welcome,
    requests: u32,
}

impl Device {
    /// One that takes no events.
    pub(crate) fn new(node: &Node, name: &str) -> Self {
        Self::with(node, name, READER, 0)
    }

    /// One that takes events from the first on, if it takes any.
    pub(crate) fn with(node: &Node, name: &str, device: u64, credits: u32) -> Self {
        let hello = Hello {
            device,
            resume: (credits > 0).then(Resume::default),
            event_credits: Some(credits),
            ..Hello::default()
        };
        let (socket, welcome) = Socket::attach(node, Encoding::Proto, name, hello);
        Self {
            socket,
            welcome,
            requests: 1,
        }
    }

    pub(crate) fn ask(&mut self, body: Body) -> Body {
        self.requests += 1;
        let answer = self.socket.ask(self.requests, body);
        let more = Credit {
            lane: Lane::Bulk.into(),
            n: 1,
        };
        self.socket
            .queue(&chat_wire::frame::Frame::new(0, Body::Credit(more)));
        answer
    }

    /// SENT, or what came instead.
    pub(crate) fn send(&mut self, send: &Value) -> Result<Value, String> {
        match self.ask(Body::Send(super::send_of(send))) {
            sent @ Body::Sent(_) => Ok(super::value_of(sent)),
            other => Err(format!("{other:?}")),
        }
    }

    /// All events of the inbox, as a session with credits gets them.
    pub(crate) fn inbox(&mut self) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        while (events.len() as u64) < self.welcome.inbox_head {
            let frame = self.socket.next();
            let Some(Body::Event(batch)) = frame.body else {
                continue;
            };
            let more = Credit {
                lane: Lane::Events.into(),
                n: u32::try_from(batch.events.len()).expect("few"),
            };
            self.socket
                .queue(&chat_wire::frame::Frame::new(0, Body::Credit(more)));
            self.socket.flush();
            let mut value = super::value_of(Body::Event(batch));
            events.append(value["events"].as_array_mut().expect("events"));
        }
        events
    }
}

/// What each of them is shown.
pub(crate) fn everything(node: &Node, names: &[&str]) -> Vec<Everything> {
    names.iter().map(|name| everything_of(node, name)).collect()
}

fn everything_of(node: &Node, name: &str) -> Everything {
    let events = inbox(node, name);
    let mut device = Device::new(node, name);
    let mut pages = Vec::new();
    let mut conversations = Vec::new();
    let mut cursor = bytes::Bytes::new();
    loop {
        let get = ConversationsGet { cursor, limit: 0 };
        let Body::ConversationsPage(page) = device.ask(Body::Conversations(get)) else {
            panic!("no conversations of {name}");
        };
        conversations.extend(page.conversations.iter().map(|one| one.conversation));
        cursor = page.next.clone();
        let more = page.more;
        pages.push((
            "conversations".into(),
            comparable(Body::ConversationsPage(page)),
        ));
        if !more {
            break;
        }
    }
    for conversation in conversations {
        let mut after = 0;
        loop {
            let get = HistoryGet {
                conversation,
                from: Some(history_get::From::After(after)),
                limit: 200,
            };
            let page = device.ask(Body::History(get));
            let next = match &page {
                Body::HistoryPage(page) if page.more => Some(page.next),
                _ => None,
            };
            pages.push((format!("history {conversation} {after}"), comparable(page)));
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        for body in [
            Body::GroupGet(GroupGet {
                group: conversation,
            }),
            Body::Members(MembersGet {
                group: conversation,
                limit: 200,
                ..MembersGet::default()
            }),
            Body::Marks(MarksGet {
                group: conversation,
                limit: 200,
                ..MarksGet::default()
            }),
        ] {
            let asked = format!("{} {conversation}", kind(&body));
            pages.push((asked, comparable(device.ask(body))));
        }
    }
    Everything {
        name: name.into(),
        events,
        pages,
    }
}

const fn kind(body: &Body) -> &'static str {
    match body {
        Body::GroupGet(_) => "group",
        Body::Members(_) => "members",
        _ => "marks",
    }
}

fn inbox(node: &Node, name: &str) -> Vec<Value> {
    let mut device = Device::with(node, name, READER, CREDITS);
    let events = device.inbox();
    for (event, seq) in events.iter().zip(1_u64..) {
        assert_eq!(event["inboxSeq"], seq.to_string(), "the inbox of {name}");
    }
    events
}

/// Without what is for people, and what a release may count in another way.
fn comparable(body: Body) -> Value {
    if let Body::Error(error) = &body {
        return json!({ "error": error.code });
    }
    let mut value = super::value_of(body);
    let list = value.get_mut("conversations").and_then(Value::as_array_mut);
    for conversation in list.into_iter().flatten() {
        if let Some(fields) = conversation.as_object_mut() {
            fields.remove("unread");
        }
    }
    value
}
