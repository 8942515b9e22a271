//! What is written by the build of a fixture: a node with something of everything in it, and
//! one whose log is full of what was never flushed.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use chat_tests::node::{Node, Options};
use chat_wire::{
    frame::{
        Ack, Body, Frame, GroupAdd, GroupCreate, GroupLeave, GroupRemove, GroupRole, GroupUpdate,
        Mark, Role,
    },
    ids::UserId,
};
use serde_json::{Value, json};

use super::{Acknowledged, Answers, BUDGET, SMALL, read, read::Device};

const PEOPLE: [&str; 8] = [
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi",
];
/// Devices that write have this number.
const WRITER: u64 = 1;
const WITHIN: Duration = Duration::from_secs(60);
/// What `after` may move a message's time by in the first release.
const AHEAD_MS: i64 = 10 * 86_400_000;

pub(crate) fn write(folder: &Path, binary: &Path) -> anyhow::Result<()> {
    whole(folder, binary)?;
    stuck(folder, binary)
}

fn node(binary: &Path, settings: &[&str]) -> anyhow::Result<Node> {
    Node::start_with(Options {
        binary: Some(binary.to_owned()),
        arguments: settings
            .iter()
            .flat_map(|setting| ["--set".into(), setting.into()])
            .collect(),
        ..Options::default()
    })
}

pub(crate) fn id(number: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let ms = u64::try_from(now.as_millis()).expect("a clock");
    let mut id = [0; 16];
    id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    id[8..].copy_from_slice(&number.to_be_bytes());
    (id[6], id[8]) = (0x70, 0x80);
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(id)
}

fn op(number: u64) -> bytes::Bytes {
    let send = json!({ "clientMsgId": id(number) });
    super::send_of(&send).client_msg_id
}

/// One text from one person to another, acknowledged.
pub(crate) fn say(node: &Node, from: &str, to: &str, number: u64, text: &str) -> Acknowledged {
    let mut device = Device::with(node, from, WRITER, 0);
    let send = json!({
        "clientMsgId": id(number),
        "to": { "name": to },
        "content": { "text": text },
    });
    said(&mut device, from, send)
}

fn said(device: &mut Device, name: &str, send: Value) -> Acknowledged {
    let sent = device.send(&send).expect("SENT");
    Acknowledged {
        name: name.into(),
        send,
        sent,
    }
}

/// Words that do not repeat and compress a little.
fn words(seed: u64, count: u64) -> String {
    let word = |n: u64| format!("{:x}", chat_wire::ids::mix64(seed * 1_000 + n) % 1_000_000);
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

/// Groups, marks, segments, a log with what is not flushed, an `after` a day ahead.
fn whole(folder: &Path, binary: &Path) -> anyhow::Result<()> {
    let mut node = node(binary, &SMALL)?;
    let mut acknowledged = Vec::new();
    let [mut alice, mut bob] = ["alice", "bob"].map(|name| Device::with(&node, name, WRITER, 0));

    for number in 0..250 {
        let text = words(number, 24);
        let send = |to: &str| json!({ "clientMsgId": id(number), "to": { "name": to }, "content": { "text": text } });
        let one = said(&mut alice, "alice", send("bob"));
        let two = said(&mut bob, "bob", send("alice"));
        if number % 20 == 0 {
            acknowledged.extend([one, two]);
        }
    }
    let to_bob = acknowledged[0].sent["msgId"].clone();
    for (number, content) in [
        json!({ "text": "größer 😀 \"quoted\"" }),
        json!({ "media": { "url": "https://chat.example/a.png", "mimeType": "image/png",
                           "sizeBytes": "12345", "caption": "a picture" } }),
        json!({ "custom": { "type": "poll", "data": "AAECAw==" } }),
    ]
    .into_iter()
    .enumerate()
    {
        let send = json!({
            "clientMsgId": id(10_000 + number as u64), "to": { "name": "bob" }, "content": content,
            "replyTo": to_bob, "silent": true,
            "mentions": [UserId::of("default", "bob").0.to_string()],
        });
        acknowledged.push(said(&mut alice, "alice", send));
    }
    let notes = json!({ "clientMsgId": id(10_100), "to": { "name": "alice" },
                        "content": { "text": "a note to myself" } });
    acknowledged.push(said(&mut alice, "alice", notes));

    let group = group(&node, &mut acknowledged)?;

    // One `after` ahead of the clock, and what strangers say in the same shard behind it.
    let now = acknowledged[0].sent["msgId"].as_str().context("an id")?;
    let far = now.parse::<i64>()? + (AHEAD_MS << 22);
    let ahead = json!({ "clientMsgId": id(40_000), "to": { "name": "frank" },
                        "after": far.to_string(), "content": { "text": "from tomorrow" } });
    let mut erin = Device::with(&node, "erin", WRITER, 0);
    acknowledged.push(said(&mut erin, "erin", ahead));
    for (number, to) in (41_000..).zip(PEOPLE) {
        acknowledged.push(say(
            &node,
            "grace",
            to,
            number,
            "after the one from tomorrow",
        ));
    }

    marks(&node, group, &to_bob)?;
    settled(&node)?;
    let status: Value = serde_json::from_str(&node.get("/v1/cluster")?.1)?;
    let shards = status["shards"].as_array().context("shards")?;
    let number = |shard: &Value, what: &str| shard[what].as_u64().unwrap_or(0);
    println!("{status:#}");
    ensure!(shards.iter().any(|shard| number(shard, "flushed") > 0));
    ensure!(
        shards
            .iter()
            .any(|shard| number(shard, "applied") > number(shard, "flushed") + 1)
    );
    node.kill();
    pack(&node, &folder.join("node.tar.gz"))?;
    node.restart()?;
    let answers = Answers {
        acknowledged,
        everything: read::everything(&node, &PEOPLE),
    };
    keep(folder, "node", &answers)
}

/// A group, and everything that can be done to it.
fn group(node: &Node, acknowledged: &mut Vec<Acknowledged>) -> anyhow::Result<u64> {
    let [mut alice, mut bob, mut carol, mut dave, mut erin] =
        ["alice", "bob", "carol", "dave", "erin"].map(|name| Device::with(node, name, WRITER, 0));
    let create = GroupCreate {
        op_id: op(20_000),
        name: "walkers".into(),
        members: ["bob", "carol", "dave", "frank", "grace"]
            .map(String::from)
            .into(),
    };
    let Body::GroupState(group) = alice.ask(Body::GroupCreate(create)) else {
        anyhow::bail!("no group");
    };
    let group = group.group;
    let mut number = 30_000;
    let mut talk = |device: &mut Device, name: &str, count: u64, kept: &mut Vec<Acknowledged>| {
        for at in 0..count {
            number += 1;
            let send = json!({ "clientMsgId": id(number), "to": { "group": group.to_string() },
                               "content": { "text": words(number, 20) } });
            let one = said(device, name, send);
            if at == 0 {
                kept.push(one);
            }
        }
    };
    let changed = |body: Body| -> anyhow::Result<()> {
        ensure!(matches!(body, Body::GroupState(_)), "{body:?}");
        Ok(())
    };
    talk(&mut carol, "carol", 40, acknowledged);
    changed(alice.ask(Body::GroupUpdate(GroupUpdate {
        op_id: op(20_001),
        group,
        name: "hikers".into(),
    })))?;
    changed(alice.ask(Body::GroupRole(GroupRole {
        op_id: op(20_002),
        group,
        member: UserId::of("default", "dave").0,
        role: Role::Admin.into(),
    })))?;
    changed(dave.ask(Body::GroupRemove(GroupRemove {
        op_id: op(20_003),
        group,
        members: vec![UserId::of("default", "carol").0],
    })))?;
    changed(dave.ask(Body::GroupAdd(GroupAdd {
        op_id: op(20_004),
        group,
        members: vec!["erin".into(), "heidi".into()],
    })))?;
    talk(&mut erin, "erin", 40, acknowledged);
    changed(dave.ask(Body::GroupLeave(GroupLeave {
        op_id: op(20_005),
        group,
    })))?;
    talk(&mut bob, "bob", 40, acknowledged);
    Ok(group)
}

/// Bob has everything and has seen a part of it.
fn marks(node: &Node, group: u64, seen: &Value) -> anyhow::Result<()> {
    let mut bob = Device::with(node, "bob", WRITER, read::CREDITS);
    let head = bob.inbox().len() as u64;
    let seen_up_to = seen.as_str().context("an id")?.parse()?;
    let newest = match bob.ask(Body::History(chat_wire::frame::HistoryGet {
        conversation: group,
        limit: 1,
        ..Default::default()
    })) {
        Body::HistoryPage(page) => page.events[0].msg_id,
        other => anyhow::bail!("{other:?}"),
    };
    for body in [
        Body::Ack(Ack { inbox_seq: head }),
        Body::Mark(Mark {
            conversation: UserId::of("default", "alice").0,
            seen_up_to,
        }),
        Body::Mark(Mark {
            conversation: group,
            seen_up_to: newest,
        }),
    ] {
        bob.socket.queue(&Frame::new(0, body));
    }
    bob.socket.flush();
    // They are in alice's list when all of it has gone its way.
    let began = Instant::now();
    loop {
        let mut alice = Device::with(node, "alice", 5, 0);
        let Body::ConversationsPage(page) = alice.ask(Body::Conversations(Default::default()))
        else {
            anyhow::bail!("no conversations");
        };
        if page
            .conversations
            .iter()
            .any(|one| one.peer_seen_up_to == seen_up_to)
        {
            return Ok(());
        }
        ensure!(began.elapsed() < WITHIN, "marks do not arrive");
    }
}

/// Nothing is on its way between shards any more.
fn settled(node: &Node) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let status: Value = serde_json::from_str(&node.get("/v1/cluster")?.1)?;
        let shards = status["shards"].as_array().context("shards")?;
        if shards
            .iter()
            .all(|shard| shard["outbox_entries"].as_u64() == Some(0))
        {
            return Ok(());
        }
        ensure!(
            began.elapsed() < WITHIN,
            "outboxes do not become empty: {status}"
        );
    }
}

/// Plain messages until the log has no room and no flush gets any.
fn stuck(folder: &Path, binary: &Path) -> anyhow::Result<()> {
    let mut node = node(binary, &[&SMALL[2..], &[BUDGET]].concat())?;
    let mut alice = Device::with(&node, "alice", WRITER, 0);
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    while refused < 20 {
        let number = acknowledged.len() as u64;
        ensure!(number < 2_000, "this build does not get stuck");
        let send = json!({ "clientMsgId": id(number), "to": { "name": "bob" } });
        let mut answer = alice.send(&super::with_long_text(send.clone()));
        while let Err(error) = &answer
            && refused < 20
        {
            println!("{error}");
            refused += 1;
            // That build says nothing when it has room again; here it never has.
            std::thread::sleep(Duration::from_millis(100));
            answer = alice.send(&super::with_long_text(send.clone()));
        }
        if let Ok(sent) = answer {
            acknowledged.push(Acknowledged {
                name: "alice".into(),
                send,
                sent,
            });
        }
    }
    node.kill();
    pack(&node, &folder.join("stuck.tar.gz"))?;
    let answers = Answers {
        acknowledged,
        everything: Vec::new(),
    };
    keep(folder, "stuck", &answers)
}

fn keep(folder: &Path, name: &str, answers: &Answers) -> anyhow::Result<()> {
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(answers)?)?;
    let packed = Command::new("gzip").arg("-n9").arg(&path).status()?;
    ensure!(packed.success(), "gzip: {packed}");
    Ok(())
}

/// Without the development certificate: no key belongs into a repository.
fn pack(node: &Node, to: &Path) -> anyhow::Result<()> {
    let packed = Command::new("tar")
        .args(["--sparse", "--hole-detection=raw", "--owner=0", "--group=0"])
        .args(["--exclude=./tls", "--sort=name", "-C"])
        .arg(node.data())
        .arg("-czf")
        .arg(to)
        .arg(".")
        .status()?;
    ensure!(packed.success(), "tar: {packed}");
    Ok(())
}
