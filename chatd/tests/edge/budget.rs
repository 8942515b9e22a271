//! The log has a budget: one session cannot use it up for good.

use std::time::Instant;

use bytes::Bytes;
use chat_wire::{
    codec::Encoding,
    frame::{Body, Content, Frame, GroupCreate, Send, Target, content, target},
};

use crate::{
    client::{Client, hello, text},
    node::{Node, PATIENCE},
};

const MEMBERS: u32 = 1_023;
const SENDS: u32 = 384;
/// SENDs that wait for an answer.
const WINDOW: u32 = 64;
/// Six files of the smallest size.
const SETTINGS: [&str; 5] = [
    "dev=true",
    "log.budget_bytes=25165824",
    "limits.sends_per_second=100000",
    "limits.sends_burst=100000",
    "edge.drain_timeout_ms=1000",
];

async fn group(of: &mut Client) -> u64 {
    let create = GroupCreate {
        op_id: Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes()),
        name: "everybody".into(),
        members: (0..MEMBERS)
            .map(|number| format!("member{number}"))
            .collect(),
    };
    of.send(&Frame::new(1, Body::GroupCreate(create))).await;
    match of.answer(1).await {
        Body::GroupState(state) => state.group,
        other => panic!("{other:?}"),
    }
}

fn to_group(req: u32, group: u64) -> Frame {
    let send = Send {
        client_msg_id: Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes()),
        to: Some(Target {
            to: Some(target::To::Group(group)),
        }),
        content: Some(Content {
            kind: Some(content::Kind::Text("x".repeat(65_000))),
        }),
        ..Send::default()
    };
    Frame::new(req, Body::Send(send))
}

/// Sends as fast as it may. How many were accepted; the rest was refused with an error
/// that says to come again.
async fn flood(from: &mut Client, group: u64) -> usize {
    let (mut accepted, mut asked, mut answered) = (0, 0, 0);
    while answered < SENDS {
        while asked < SENDS && asked < answered + WINDOW {
            asked += 1;
            from.send(&to_group(1_000 + asked, group)).await;
        }
        match from.body().await {
            Body::Sent(_) => accepted += 1,
            Body::Error(error) => assert!(error.retryable, "{error:?}"),
            _ => continue,
        }
        answered += 1;
    }
    accepted
}

/// Sends until it is accepted, as a client does: the same again, since what comes behind it
/// must wait.
async fn send_until_accepted(from: &mut Client, to: &str) {
    let began = Instant::now();
    let frame = text(7, to, "is anybody there?");
    loop {
        from.send(&frame).await;
        let refused = match from.answer(7).await {
            Body::Sent(_) => return,
            Body::Error(error) => error,
            other => panic!("{other:?}"),
        };
        assert!(refused.retryable, "{refused:?}");
        assert!(
            began.elapsed() < PATIENCE,
            "nothing is accepted any more: {refused:?}"
        );
    }
}

/// A session of somebody new, as soon as one is let in.
async fn newcomer(node: &Node, name: &str) -> Client {
    let began = Instant::now();
    loop {
        let mut client = Client::connect(node, Encoding::Proto, false).await;
        client.send(&hello(&format!("dev:{name}"))).await;
        match client.next().await {
            Ok(frame) if matches!(frame.body, Some(Body::Welcome(_))) => return client,
            Ok(frame) => assert!(
                matches!(&frame.body, Some(Body::Error(error)) if error.retryable),
                "{frame:?}"
            ),
            Err(closed) => assert_eq!(closed.code, 4600),
        }
        assert!(began.elapsed() < PATIENCE, "nobody is let in");
    }
}

/// Every SEND and HELLO was DISK_FULL from then on, SIGTERM did not end the node, and a
/// restart changed nothing.
#[tokio::test]
async fn one_ordinary_session_stopped_a_node_for_good() {
    let mut node = Node::start(&SETTINGS);
    let mut attacker = Client::hello(&node, "attacker").await;
    let group = group(&mut attacker).await;
    let accepted = flood(&mut attacker, group).await;
    assert!(accepted > 0);

    let mut carol = newcomer(&node, "carol").await;
    send_until_accepted(&mut carol, "dave").await;
    node.until(|| node.get("/readyz").0 == 200);
    assert!(node.get("/v1/cluster").1.contains("\"disk_full\":false"));
    node.terminate();
    let began = Instant::now();
    while node.is_running() {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::yield_now();
    }

    // What was accepted is delivered, and the node goes on.
    let node = Node::start_in(node.kill(), &SETTINGS);
    let mut carol = newcomer(&node, "carol").await;
    send_until_accepted(&mut carol, "dave").await;
    let mut member = Client::resume(&node, "member5").await;
    let read = member.texts(accepted).await;
    assert!(read.iter().all(|text| text.len() == 65_000));
}

#[test]
fn a_log_that_cannot_hold_the_largest_request_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["cluster.group_members=100000", "limits.frame_bytes=1048576"];
    let (code, said) = crate::node::run_on(&folder.path().join("data"), &settings);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("the log is too small") && said.contains("set `log.file_bytes` to "),
        "{said}"
    );
}
