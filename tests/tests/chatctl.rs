//! `chatctl` as a person uses it, against a real node.

use std::process::Command;

use anyhow::{Context as _, ensure};
use chat_tests::node::{Node, binary};
use serde_json::Value;

/// What `chatctl --as person …` prints; it must end well.
fn chatctl(node: &Node, person: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(binary("chatctl")?)
        .args(["--server", &node.websocket(), "--as", person])
        .arg("--state")
        .arg(node.folder().join("chatctl"))
        .args(arguments)
        .output()
        .context("chatctl runs")?;
    ensure!(
        output.status.success(),
        "{arguments:?} as {person}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn audit(node: &Node, person: &str) -> anyhow::Result<Value> {
    let said = chatctl(node, person, &["-o", "json", "audit"])?;
    serde_json::from_str(&said).with_context(|| said.clone())
}

#[test]
fn an_audit_finds_the_members_of_groups_as_their_events_say() -> anyhow::Result<()> {
    let node = Node::start()?;
    for arguments in [
        "group create hikers bob carol dave",
        "group role hikers bob admin",
        "group remove hikers carol",
        "group add hikers erin bob",
        "send group:hikers hello",
    ] {
        chatctl(&node, "alice", &arguments.split(' ').collect::<Vec<_>>())?;
    }
    chatctl(&node, "dave", &["group", "leave", "hikers"])?;
    chatctl(&node, "bob", &["group", "add", "hikers", "dave"])?;
    // Who saw all, who is an admin, who was removed, who was away, who came later.
    for person in ["alice", "bob", "carol", "dave", "erin"] {
        let report = audit(&node, person)?;
        assert_eq!(report["groupsCompared"], 1, "{person}: {report}");
        for kind in ["lost", "doubled", "reordered", "roster"] {
            assert_eq!(report[kind], Value::Array(Vec::new()), "{person}: {report}");
        }
    }
    Ok(())
}

#[test]
fn changes_of_a_group_are_read_by_names() -> anyhow::Result<()> {
    let node = Node::start()?;
    for arguments in [
        "group create hikers bob carol",
        "group role hikers bob admin",
        "group remove hikers carol",
    ] {
        chatctl(&node, "alice", &arguments.split(' ').collect::<Vec<_>>())?;
    }
    chatctl(&node, "bob", &["group", "leave", "hikers"])?;
    let told = [
        "alice: * created the group hikers",
        "alice: * made bob admin",
        "alice: * removed carol",
        "bob: * left",
    ];
    // Carol has no list of members to look anybody up in.
    for (person, count) in [("alice", 4), ("bob", 4), ("carol", 3)] {
        let listened = chatctl(&node, person, &["listen", "--all", "--until-now"])?;
        let history = chatctl(&node, person, &["history", "group:hikers"])?;
        for said in [listened, history] {
            // Behind the time, and before the number of the group.
            let lines: Vec<&str> = said
                .lines()
                .map(|line| {
                    let line = line.split_once(' ').map_or(line, |(_, rest)| rest);
                    line.split_once(" [group").map_or(line, |(text, _)| text)
                })
                .collect();
            ensure!(lines == told[..count], "{person}: {said}");
        }
    }
    Ok(())
}
