//! The example in the documentation of chat-client, run against a real node.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::Context as _;
use chat_tests::node::{Node, binary};

const WITHIN: Duration = Duration::from_secs(30);

#[test]
fn the_example_of_the_client_library_runs() -> anyhow::Result<()> {
    let node = Node::start()?;
    let mut example = Command::new(binary("examples/hello")?)
        .arg(format!("ws://{}", node.address()))
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = example.stdout.take().context("the example's output")?;
    let (say, said_lines) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                return;
            }
        }
    });
    let mut said = Vec::new();
    // Its own message comes back as an event: the last thing that it waits for.
    while !said.iter().any(|line: &String| line.starts_with("alice: ")) {
        let Ok(line) = said_lines.recv_timeout(WITHIN) else {
            break;
        };
        said.push(line);
    }
    example.kill()?;
    example.wait()?;
    let text = said.join("\n");
    assert!(text.contains("connected as alice"), "{text}");
    assert!(text.contains("is committed"), "{text}");
    assert!(text.contains("alice: ") && text.contains("hello"), "{text}");
    Ok(())
}
