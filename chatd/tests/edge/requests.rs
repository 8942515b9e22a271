//! Requests that are wrong, at a real node: each is told why, nothing of it is kept, and
//! the session and the node go on.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use chat_core::command::{Command, Floor};
use chat_wire::{
    codec::{self, Encoding},
    frame::{
        Ack, Body, Content, Frame, GroupCreate, GroupLeave, HistoryGet, Mark, Reauth, Resume, Send,
        Target, Typing, content, history_get::From, target::To,
    },
    ids::UserId,
};
use futures_util::SinkExt as _;
use tokio_websockets::Message;

use crate::{
    client::{Client, hello, is_sent, text},
    node::Node,
    stopped::{self, shard_of},
};

fn id_of(name: &str) -> u64 {
    UserId::of("default", name).0
}

fn op_id() -> Bytes {
    Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes())
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// A SEND with one thing changed.
fn send(req: u32, to: To, change: impl FnOnce(&mut Send)) -> Frame {
    let mut send = Send {
        client_msg_id: op_id(),
        to: Some(Target { to: Some(to) }),
        content: Some(Content {
            kind: Some(content::Kind::Text("well".into())),
        }),
        ..Send::default()
    };
    change(&mut send);
    Frame::new(req, Body::Send(send))
}

fn bob() -> To {
    To::Name("bob".into())
}

impl Client {
    /// The error that a request is answered with; 0 if it is answered with something else.
    async fn refused(&mut self, frame: &Frame) -> u32 {
        self.send(frame).await;
        match self.answer(frame.req).await {
            Body::Error(error) => error.code,
            _ => 0,
        }
    }

    /// The session is as good as before.
    async fn is_served(&mut self) {
        assert_eq!(self.refused(&text(9_999, "bob", "good")).await, 0);
    }
}

/// A group of alice, with bob.
async fn group(alice: &mut Client) -> u64 {
    let create = GroupCreate {
        op_id: op_id(),
        name: "a group".into(),
        members: vec!["bob".into()],
    };
    alice
        .send(&Frame::new(500, Body::GroupCreate(create)))
        .await;
    match alice.answer(500).await {
        Body::GroupState(state) => state.group,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nobody_sends_as_somebody_else() {
    let node = Node::dev(&[]);
    let mut bob = Client::hello(&node, "bob").await;
    let mut mallory = Client::hello(&node, "mallory").await;
    // Whom one has written to may show that they type.
    assert_eq!(bob.refused(&text(2, "mallory", "who is it?")).await, 0);
    mallory.send(&text(2, "bob", "mallory")).await;
    mallory.until(is_sent).await;
    let event = bob
        .until(|body| match body {
            Body::Event(batch) => {
                let mut events = batch.events.into_iter();
                events.find(|event| event.sender != id_of("bob"))
            }
            _ => None,
        })
        .await;
    assert_eq!(
        (event.sender, &*event.sender_name),
        (id_of("mallory"), "mallory")
    );
    // The one frame with a field for it: it is filled in by the server.
    let typing = Typing {
        conversation: id_of("bob"),
        on: true,
        user: id_of("alice"),
    };
    mallory.send(&Body::Typing(typing).into()).await;
    let typing = bob
        .until(|body| match body {
            Body::Typing(typing) => Some(typing),
            _ => None,
        })
        .await;
    assert_eq!(
        (typing.user, typing.conversation),
        (id_of("mallory"), id_of("mallory"))
    );
    mallory.is_served().await;
    // A session does not become another one's.
    let reauth = Reauth {
        token: "dev:alice".into(),
    };
    let reauth = Frame::new(3, Body::Reauth(reauth));
    assert_eq!(mallory.refused(&reauth).await, 203);
    mallory.is_served().await;
}

#[tokio::test]
async fn who_has_left_a_group_cannot_send_to_it() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    let mut bob = Client::hello(&node, "bob").await;
    let group = group(&mut alice).await;
    assert_eq!(bob.refused(&send(2, To::Group(group), |_| ())).await, 0);
    let leave = GroupLeave {
        op_id: op_id(),
        group,
    };
    assert_eq!(
        bob.refused(&Frame::new(3, Body::GroupLeave(leave))).await,
        0
    );
    assert_eq!(bob.refused(&send(4, To::Group(group), |_| ())).await, 300);
    bob.is_served().await;
}

#[tokio::test]
async fn groups_and_people_of_another_app_are_not_found() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    let group = group(&mut alice).await;
    let mut eve = Client::hello(&node, "eve@shop").await;
    assert_eq!(eve.refused(&send(2, To::Group(group), |_| ())).await, 404);
    let stranger = To::User(id_of("alice"));
    assert_eq!(eve.refused(&send(3, stranger, |_| ())).await, 404);
    eve.is_served().await;
}

#[tokio::test]
async fn the_same_id_with_another_text_is_a_conflict_and_the_first_stays() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    let id = op_id();
    let say = |req, text: &str| {
        let kind = Some(content::Kind::Text(text.into()));
        send(req, bob(), |send| {
            send.client_msg_id = id.clone();
            send.content = Some(Content { kind });
        })
    };
    assert_eq!(alice.refused(&say(2, "first")).await, 0);
    assert_eq!(alice.refused(&say(3, "other")).await, 500);
    alice.send(&say(4, "first")).await;
    assert!(alice.until(is_sent).await.duplicate);
    let mut bob = Client::resume(&node, "bob").await;
    alice.is_served().await;
    assert_eq!(bob.texts(2).await, ["first", "good"]);
}

#[tokio::test]
async fn an_id_from_the_future_is_refused() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    let dated = |ahead_ms: u64| {
        let mut id = op_id().to_vec();
        id[..6].copy_from_slice(&(now_ms() + ahead_ms).to_be_bytes()[2..]);
        Bytes::from(id)
    };
    for (ahead_ms, code) in [(20 * 60_000, 405), (5 * 60_000, 0)] {
        let frame = send(2, bob(), |send| send.client_msg_id = dated(ahead_ms));
        assert_eq!(alice.refused(&frame).await, code, "{ahead_ms} ms ahead");
    }
    alice.is_served().await;
}

#[tokio::test]
async fn an_id_below_the_dedup_floor_is_too_old_and_a_cursor_below_it_a_gap() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    let first = send(2, bob(), |_| ());
    assert_eq!(alice.refused(&first).await, 0);
    for req in 3..6 {
        assert_eq!(alice.refused(&send(req, bob(), |_| ())).await, 0);
    }
    alice.close().await;
    // Retention will propose this entry.
    let floor = Floor {
        inbox: UserId::of("default", "bob").key().0,
        oldest_seq: 3,
        dedup_before_ms: now_ms(),
    };
    let folder = node.stop();
    let data = folder.path().join("data");
    stopped::add(&data, shard_of("bob"), &Command::Floor(floor));
    let node = Node::start_in(folder, &["dev=true"]);
    let mut alice = Client::hello(&node, "alice").await;
    assert_eq!(alice.refused(&first).await, 406);
    alice.is_served().await;
    let mut bob = Client::resume(&node, "bob").await;
    let gap = bob
        .until(|body| match body {
            Body::Gap(gap) => Some(gap),
            _ => None,
        })
        .await;
    assert_eq!((gap.oldest, gap.head), (3, 5));
}

#[tokio::test]
async fn numbers_beyond_what_exists_are_refused_or_empty_and_overflow_nothing() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    alice.is_served().await;
    for (req, after, code) in [(2, -1, 408), (3, i64::MIN, 408)] {
        let frame = send(req, bob(), |send| send.after = after);
        assert_eq!(alice.refused(&frame).await, code, "after {after}");
    }
    // As far ahead as a number can say: it does not count.
    for req in [4, 5] {
        let frame = send(req, bob(), |send| send.after = i64::MAX);
        assert_eq!(alice.refused(&frame).await, 0);
    }
    let pages = [
        From::Before(i64::MIN),
        From::Before(i64::MAX),
        From::After(i64::MAX),
        From::After(i64::MIN),
    ];
    for (req, from) in (10..).zip(pages) {
        let get = HistoryGet {
            conversation: id_of("bob"),
            from: Some(from),
            limit: u32::MAX,
        };
        alice.send(&Frame::new(req, Body::History(get))).await;
        match alice.answer(req).await {
            Body::HistoryPage(page) => assert!(page.events.len() <= 200),
            Body::Error(error) => assert_eq!(error.code, 408, "{error:?}"),
            other => panic!("{other:?}"),
        }
    }
    let mark = Mark {
        conversation: id_of("bob"),
        seen_up_to: i64::MAX,
    };
    alice.send(&Body::Mark(mark).into()).await;
    alice.is_served().await;
    let ack = Ack {
        inbox_seq: u64::MAX,
    };
    alice.send(&Body::Ack(ack).into()).await;
    assert_eq!(alice.closed().await.code, 4408);

    for (inbox_seq, marks_version) in [(u64::MAX, 0), (0, u64::MAX)] {
        let mut greeting = hello("dev:alice");
        if let Some(Body::Hello(hello)) = &mut greeting.body {
            hello.resume = Some(Resume {
                inbox_seq,
                marks_version,
                ..Resume::default()
            });
        }
        let mut ahead = Client::connect(&node, Encoding::Proto, false).await;
        ahead.send(&greeting).await;
        assert_eq!(ahead.closed().await.code, 4609);
    }
    Client::hello(&node, "alice").await.is_served().await;
    assert_eq!(node.get("/readyz").0, 200);
}

#[tokio::test]
async fn a_frame_of_an_unknown_kind_is_refused_and_one_cut_short_ends_the_session() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    // req 7, and a field 1000 of no bytes: what a newer client may send.
    let unknown = Message::binary(&b"\x08\x07\xc2\x3e\x00"[..]);
    alice.socket.send(unknown).await.unwrap();
    match alice.answer(7).await {
        Body::Error(error) => assert_eq!((error.code, error.retryable), (102, false), "{error:?}"),
        other => panic!("{other:?}"),
    }
    alice.is_served().await;
    let whole = codec::encode(Encoding::Proto, &text(8, "bob", "cut short"));
    let cut = Message::binary(whole.slice(..whole.len() - 4));
    alice.socket.send(cut).await.unwrap();
    assert_eq!(alice.error().await, 100);
    assert_eq!(alice.closed().await.code, 4100);
    // Nothing of it was taken.
    let mut bob = Client::resume(&node, "bob").await;
    Client::hello(&node, "alice").await.is_served().await;
    assert_eq!(bob.texts(2).await, ["good", "good"]);
}
