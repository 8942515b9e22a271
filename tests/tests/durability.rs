//! SENT means synced, in the real `chatd`: `strace` makes every `fdatasync` slow, or
//! fail, and the clients must notice. (A SIGKILL keeps the page cache: it shows
//! recovery, not durability.)

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chat_client::{Client, Config, Content, Target, Token};
use chat_tests::{node::Node, skip};
use rustix::process::{Pid, Signal, kill_process};

const DELAY: Duration = Duration::from_millis(200);
const SENDS: u32 = 5;
const NEVER: Duration = Duration::from_secs(3);
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// `strace` attached to a process; detached when dropped.
struct Injection(Child);

impl Injection {
    /// Does `what` to every sync of the process from now on. `None` where processes
    /// may not be traced.
    fn into(process: u32, what: &str) -> anyhow::Result<Option<Self>> {
        let mut child = match Command::new("strace")
            .args(["-f", "-e", "trace=fdatasync", "-e"])
            .arg(format!("inject=fdatasync:{what}"))
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut lines = BufReader::new(child.stderr.take().context("its messages")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        if !line.contains("attached") {
            child.wait()?;
            return Ok(None);
        }
        // Read on, or strace would stop at a full pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Some(Self(child)))
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        let process = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        // SIGTERM, so that it lets go of the process.
        if process.is_none_or(|process| kill_process(process, Signal::TERM).is_err()) {
            return;
        }
        drop(self.0.wait());
    }
}

async fn alice(node: &Node) -> anyhow::Result<Client> {
    let config = Config::new(node.websocket().parse()?, Token::dev("alice"), 1);
    let (client, mut events) = Client::connect(config).await?;
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let first = client
        .send(Target::name("bob"), Content::text("first"))
        .await?;
    first.await?;
    Ok(client)
}

const NO_TRACE: &str = "strace is missing, or processes may not be traced here";

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_takes_200_ms_delays_every_sent_by_as_much() -> anyhow::Result<()> {
    let node = Node::start()?;
    let client = alice(&node).await?;
    let process = node.process().context("the node runs")?;
    let Some(_injection) = Injection::into(process, "delay_exit=200000")? else {
        skip::skipped(
            "a_sync_that_takes_200_ms_delays_every_sent_by_as_much",
            NO_TRACE,
        );
        return Ok(());
    };
    for number in 0..SENDS {
        let started = Instant::now();
        let pending = client
            .send(Target::name("bob"), Content::text(format!("{number}")))
            .await?;
        pending.await?;
        let took = started.elapsed();
        ensure!(
            took >= DELAY,
            "SENT {number} came after {took:?}, before its sync was over"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_lets_no_sent_out_and_ends_the_node() -> anyhow::Result<()> {
    let mut node = Node::start()?;
    let client = alice(&node).await?;
    let process = node.process().context("the node runs")?;
    let Some(injection) = Injection::into(process, "error=EIO")? else {
        skip::skipped(
            "a_sync_that_fails_lets_no_sent_out_and_ends_the_node",
            NO_TRACE,
        );
        return Ok(());
    };
    let lost = client
        .send(Target::name("bob"), Content::text("never durable"))
        .await?;
    let answer = tokio::time::timeout(NEVER, lost).await;
    ensure!(
        !matches!(answer, Ok(Ok(_))),
        "SENT for a message whose sync failed"
    );
    let status = node.wait_exit(ENDS_WITHIN)?;
    ensure!(!status.success(), "the node ended as if all were well");
    ensure!(
        node.log().contains("never tried again"),
        "the log does not say why: {}",
        node.log()
    );
    drop(injection);

    // What was acknowledged before is there, and the client's message goes through now.
    node.restart()?;
    let again = client
        .send(Target::name("bob"), Content::text("after"))
        .await?;
    again.await?;
    Ok(())
}
