//! Data that older builds wrote: every build after them opens it, reads all of it as they
//! did, and goes on.
//!
//! Beside each packed data directory in `tests/fixtures` stands what the build that wrote it had
//! answered and delivered, compared exactly. `CHAT_TESTS_WRITE_OLD_DATA=<build>:<its chatd>`
//! writes the fixtures of another build, once; written ones are never changed.
//!
//! What an entry does must not change under those who were told of it: a rule of the state
//! machine that is newer than an entry is not applied to it.

mod read;
mod write;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chat_tests::{
    node::{Node, Options},
    skip::skipped,
};
use chat_wire::frame::{Body, Frame, Send};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use read::{Device, Everything};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first release.
const FIRST: &str = "d7917fb";
/// Small enough that little makes segments: the bounds of the first release.
const SMALL: [&str; 4] = [
    "cluster.shards=8",
    "shards.flush_bytes=65536",
    "log.file_bytes=4194304",
    "limits.sends_burst=1000000",
];
/// For the node that was stuck.
const BUDGET: &str = "log.budget_bytes=33554432";

/// What was sent and answered, to be sent once more.
#[derive(Debug, Serialize, Deserialize)]
struct Acknowledged {
    name: String,
    send: Value,
    sent: Value,
}

/// What stands beside a data directory.
#[derive(Debug, Serialize, Deserialize)]
struct Answers {
    acknowledged: Vec<Acknowledged>,
    everything: Vec<Everything>,
}

fn fixtures(build: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(build)
}

fn answers(build: &str, name: &str) -> Answers {
    let path = fixtures(build).join(format!("{name}.json.gz"));
    let text = Command::new("gzip").arg("-dc").arg(path).output();
    let text = text.expect("gzip runs");
    assert!(text.status.success(), "{text:?}");
    serde_json::from_slice(&text.stdout).expect("they are JSON")
}

/// A stopped node on a copy of a fixture.
fn unpacked(build: &str, name: &str, settings: &[&str]) -> Node {
    let options = Options {
        arguments: settings
            .iter()
            .flat_map(|setting| ["--set".into(), setting.into()])
            .collect(),
        ..Options::default()
    };
    let node = Node::prepare(options).expect("a node");
    std::fs::create_dir_all(node.data()).expect("a folder");
    let archive = fixtures(build).join(format!("{name}.tar.gz"));
    let unpacked = Command::new("tar")
        .args(["--no-same-owner", "-C"])
        .arg(node.data())
        .arg("-xzf")
        .arg(archive)
        .status()
        .expect("tar runs");
    assert!(unpacked.success());
    node
}

/// What filled the log is not kept with each SEND.
fn with_long_text(mut send: Value) -> Value {
    send["content"] = serde_json::json!({ "text": "x".repeat(65_000) });
    send
}

fn assert_same(before: &[Everything], now: &[Everything]) {
    assert_eq!(before.len(), now.len());
    for (before, now) in before.iter().zip(now) {
        assert_eq!(before.name, now.name);
        assert_eq!(before.events, now.events, "the inbox of {}", now.name);
        let pages: Vec<_> = before.pages.iter().cloned().map(as_of_now).collect();
        assert_eq!(pages, now.pages, "what {} asked for", now.name);
    }
}

/// A user's id in place of a group's was INVALID_ARGUMENT, and is NOT_FOUND now (R62).
fn as_of_now((asked, answer): (String, Value)) -> (String, Value) {
    if answer == serde_json::json!({ "error": 400 }) {
        return (asked, serde_json::json!({ "error": 404 }));
    }
    (asked, answer)
}

/// Everything acknowledged is sent again, and gets the first answer.
fn assert_kept(node: &Node, acknowledged: &[Acknowledged]) {
    for one in acknowledged {
        let mut device = Device::new(node, &one.name);
        let began = Instant::now();
        // With a small log a repetition, too, may have to wait for room.
        let answer = loop {
            match device.send(&one.send) {
                Ok(answer) => break answer,
                Err(error) => assert!(began.elapsed() < PATIENCE, "stored, and {error}"),
            }
        };
        let mut first = one.sent.clone();
        first["duplicate"] = true.into();
        assert_eq!(answer, first, "{} repeats {}", one.name, one.send);
    }
}

#[test]
fn data_of_the_first_release_reads_as_it_did_and_goes_on() {
    let answers = answers(FIRST, "node");
    let mut node = unpacked(FIRST, "node", &SMALL);
    node.restart().expect("data of the first release opens");
    let names: Vec<&str> = answers.everything.iter().map(|one| &*one.name).collect();
    assert_same(&answers.everything, &read::everything(&node, &names));
    assert_kept(&node, &answers.acknowledged);

    // It goes on: above what stands there, behind it, and through further flushes.
    let text = "m".repeat(1_000);
    let new: Vec<Acknowledged> = (0..300)
        .map(|number| write::say(&node, "alice", "bob", number, &text))
        .collect();
    node.kill();
    node.restart().expect("what old and new build wrote opens");
    let now = read::everything(&node, &names);
    for (before, now) in answers.everything.iter().zip(&now) {
        let kept = &now.events[..before.events.len()];
        assert_eq!(before.events, kept, "the inbox of {}", now.name);
    }
    let bob = |all: &[Everything]| -> Vec<Value> {
        let bob = all.iter().find(|one| one.name == "bob").expect("bob");
        bob.events.clone()
    };
    let (old, all) = (bob(&answers.everything), bob(&now));
    let added = &all[old.len()..];
    assert_eq!(added.len(), new.len());
    let id = |event: &Value| -> i64 {
        event["msgId"]
            .as_str()
            .expect("an id")
            .parse()
            .expect("a number")
    };
    let peer = &added[0]["conversation"];
    let highest = old
        .iter()
        .filter(|event| event["conversation"] == *peer)
        .map(id)
        .max();
    let mut last = highest.expect("they had talked");
    for (event, new) in added.iter().zip(&new) {
        assert_eq!(event["msgId"], new.sent["msgId"]);
        assert!(id(event) > last, "{event} after {last}");
        last = id(event);
    }
    assert_kept(&node, &answers.acknowledged);
    assert!(node.terminate().expect("it ends").success());
}

/// It was stuck for good: every SEND was refused, with an empty disk, after every restart.
#[test]
fn a_node_of_the_first_release_whose_log_is_full_gets_out_by_itself() {
    let answers = answers(FIRST, "stuck");
    let mut node = unpacked(FIRST, "stuck", &[&SMALL[2..], &[BUDGET]].concat());
    node.restart().expect("it opens, and is ready");
    // Several times what the log holds.
    let text = "x".repeat(65_000);
    let began = Instant::now();
    let mut carol = Device::new(&node, "carol");
    for number in 0..300 {
        let send = serde_json::json!({
            "clientMsgId": write::id(5_000 + number),
            "to": { "name": "dave" },
            "content": { "text": text },
        });
        while let Err(error) = carol.send(&send) {
            assert!(began.elapsed() < PATIENCE, "SEND {number}: {error}");
        }
    }
    drop(carol);
    let full = |one: &Acknowledged| Acknowledged {
        name: one.name.clone(),
        send: with_long_text(one.send.clone()),
        sent: one.sent.clone(),
    };
    let acknowledged: Vec<_> = answers.acknowledged.iter().map(full).collect();
    assert!(!acknowledged.is_empty());
    assert_kept(&node, &acknowledged);
    assert!(node.terminate().expect("it ends").success());
}

/// Not a test of this build: see the module.
#[test]
fn fixtures_are_written_by_the_build_that_is_named() -> anyhow::Result<()> {
    let Ok(build) = std::env::var("CHAT_TESTS_WRITE_OLD_DATA") else {
        skipped(
            "fixtures_are_written_by_the_build_that_is_named",
            "it writes samples of another build, once (CHAT_TESTS_WRITE_OLD_DATA)",
        );
        return Ok(());
    };
    let (name, binary) = build.split_once(':').context("<build>:<its chatd>")?;
    let folder = fixtures(name);
    anyhow::ensure!(!folder.exists(), "{name} stands already, and never changes");
    std::fs::create_dir_all(&folder)?;
    write::write(&folder, Path::new(binary))
}

/// A SEND as it stands in the answers.
fn send_of(value: &Value) -> Send {
    let frame = serde_json::json!({ "req": 1, "send": value }).to_string();
    let frame =
        chat_wire::codec::decode(chat_wire::codec::Encoding::Json, &frame.into(), usize::MAX);
    match frame.expect("a frame").body {
        Some(Body::Send(send)) => send,
        other => panic!("{other:?}"),
    }
}

/// A frame's body as it stands in the answers.
fn value_of(body: Body) -> Value {
    let bytes = chat_wire::codec::encode(chat_wire::codec::Encoding::Json, &Frame::new(0, body));
    let mut value: Value = serde_json::from_slice(&bytes).expect("JSON");
    let object = value.as_object_mut().expect("a frame is an object");
    let body = object.keys().find(|key| *key != "req").cloned();
    object
        .remove(&body.expect("a frame says something"))
        .expect("it is there")
}
