//! A client in another language, written from docs/protocol.md alone, talks to a real
//! node: `tests/python/client.py`. If it cannot, the page is not enough.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, bail, ensure};
use chat_tests::{node::Node, python, skip::skipped};
use serde_json::Value;

/// A device of somebody.
struct Device<'a> {
    python: &'a Path,
    url: String,
    name: &'static str,
    state: PathBuf,
}

impl Device<'_> {
    fn output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Command::new(self.python)
            .arg(python::sources().join("client.py"))
            .args([
                "--url",
                &self.url,
                "--as",
                self.name,
                "--from-start",
                "--state",
            ])
            .arg(&self.state)
            .args(arguments)
            .output()
            .context("python does not start")
    }

    /// The lines that a command prints.
    fn run(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let output = self.output(arguments)?;
        if !output.status.success() {
            bail!(
                "{} {arguments:?}: {}\n{}{}",
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        lines(&output)
    }

    /// The code of the error that a command ends with.
    fn refused(&self, arguments: &[&str]) -> anyhow::Result<u64> {
        let output = self.output(arguments)?;
        ensure!(output.status.code() == Some(1), "{arguments:?}: {output:?}");
        lines(&output)?[0]["error"]["code"]
            .as_u64()
            .context("an error has a code")
    }
}

fn lines(output: &Output) -> anyhow::Result<Vec<Value>> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

fn texts(events: &[Value], pointer: &str) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| event.pointer(pointer)?.as_str())
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_client_in_python_sends_receives_resumes_and_reads_history() -> anyhow::Result<()> {
    let python = match python::ready() {
        Ok(python) => python,
        Err(reason) => {
            skipped(
                "a_client_in_python_sends_receives_resumes_and_reads_history",
                &reason,
            );
            return Ok(());
        }
    };
    let mut node = Node::start()?;
    let folder = tempfile::tempdir()?;
    let device = |name, state: &str| Device {
        python: &python,
        url: format!("{}/v1/ws", node.websocket()),
        name,
        state: folder.path().join(state),
    };
    let (alice, bob) = (device("alice", "alice"), device("bob", "bob"));
    let laptop = device("bob", "laptop");

    // Bob's device attaches for the first time; then three messages come.
    bob.run(&["attach"])?;
    let said = ["one", "two", "größer 😀 \"quoted\""];
    let mut sent = Vec::new();
    for text in said {
        sent.push(alice.run(&["send", "bob", text])?[0]["sent"].clone());
    }
    let events = bob.run(&["listen", "--count", "3"])?;
    assert_eq!(texts(&events, "/event/message/content/text"), said);
    assert_eq!(texts(&events, "/event/inboxSeq"), ["1", "2", "3"]);
    let conversation = events[0]["event"]["conversation"]
        .as_str()
        .context("alice's id")?
        .to_owned();

    // What bob acknowledged, alice learns: delivered, and after a MARK, seen.
    let last = sent[2]["msgId"].as_str().context("a msgId")?.to_owned();
    let bobs_id = sent[2]["conversation"]
        .as_str()
        .context("bob's id")?
        .to_owned();
    alice.run(&["receipts", &bobs_id, "deliveredUpTo", &last])?;
    bob.run(&["mark", &conversation, &last])?;
    alice.run(&["receipts", &bobs_id, "seenUpTo", &last])?;

    // The server is killed; a retry gets the first answer, and bob goes on where he was.
    node.kill();
    node.restart()?;
    let first_id = "0193000000007000800000000000002a";
    let again = |text| alice.run(&["send", "bob", text, "--client-id", first_id]);
    let (first, second) = (again("four")?, again("four")?);
    assert_eq!(first[0]["sent"]["msgId"], second[0]["sent"]["msgId"]);
    assert_eq!(second[0]["sent"]["duplicate"], true);
    let refused = alice.refused(&["send", "bob", "five", "--client-id", first_id])?;
    assert_eq!(refused, 500, "CONFLICT: the same id with another text");
    let events = bob.run(&["listen", "--count", "1"])?;
    assert_eq!(texts(&events, "/event/message/content/text"), ["four"]);
    assert_eq!(events[0]["event"]["inboxSeq"], "4");

    // History, in pages of three, newest first.
    let pages = bob.run(&["history", &conversation, "--limit", "3"])?;
    let found: Vec<String> = pages
        .iter()
        .filter_map(|page| page["page"]["events"].as_array())
        .flat_map(|events| texts(events, "/message/content/text"))
        .collect();
    assert_eq!(pages.len(), 2);
    assert_eq!(found, ["four", "größer 😀 \"quoted\"", "two", "one"]);

    // A new device starts with the list of conversations.
    let page = laptop.run(&["conversations"])?;
    let listed = &page[0]["page"]["conversations"][0];
    assert_eq!(listed["name"], "alice");
    assert_eq!(listed["lastEvent"]["message"]["content"]["text"], "four");
    assert_eq!(listed["unread"], "1", "three of four were seen: {listed}");

    assert_eq!(alice.refused(&["send", "bob", ""])?, 401, "EMPTY_CONTENT");
    Ok(())
}
