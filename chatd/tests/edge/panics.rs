//! What becomes of a node that has a defect: panics are planted in the real binary, in
//! each of its threads, in an entry of a log and in a connection's task.

use std::{fs, process::ExitStatus, time::Instant};

use tempfile::TempDir;

use crate::{
    client::{Client, is_sent, text},
    node::{Node, PATIENCE, SETTINGS, command},
    stopped::shard_of,
};

const PLANTED: &str = "CHATD_PLANTED_PANIC";
/// `EX_SOFTWARE`.
const PANICKED: Option<i32> = Some(70);

/// Runs a node until it ends by itself; how, and what it said.
fn run(folder: &TempDir, planted: &str) -> (ExitStatus, String) {
    let mut command = command();
    command.env(PLANTED, planted).arg("--dev");
    command.arg("--data").arg(folder.path().join("data"));
    for setting in SETTINGS {
        command.args(["--set", setting]);
    }
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            // A zombie: it is there and does nothing.
            child.kill().unwrap();
        }
        std::thread::yield_now();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status, said)
}

fn note(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("data/PANIC")).unwrap()
}

/// Two names whose inboxes are in other shards.
fn names() -> (String, String) {
    let user = |number: u32| format!("user-{number}");
    let first = user(0);
    let other = (1..)
        .map(user)
        .find(|name| shard_of(name) != shard_of(&first))
        .unwrap();
    (first, other)
}

#[test]
fn a_panic_in_any_thread_left_a_zombie_and_now_ends_the_node_with_a_reason() {
    for thread in ["shards-0", "log", "flush", "pool", "reader-2"] {
        let folder = tempfile::tempdir().unwrap();
        let (status, said) = run(&folder, &format!("thread:{thread}"));
        assert_eq!(status.code(), PANICKED, "{thread}: {said}");
        // Others go on until the process has ended, and may say something in between.
        let mut lines = said.lines();
        let last = lines.rfind(|line| line.contains("the node ends at once"));
        let last = last.unwrap_or_default();
        assert!(
            last.contains("noted=true")
                && last.contains(thread)
                && last.contains("planted in a thread"),
            "{thread}: {said}"
        );
        assert!(note(&folder).contains(thread), "{}", note(&folder));
    }
}

#[tokio::test]
async fn a_shard_that_panics_twice_at_a_position_stays_down_there_and_the_others_serve() {
    let position = 12;
    let (bob, carol) = names();
    let planted = format!("apply:{}:{position}", shard_of(&bob));
    let mut node = Node::planted(tempfile::tempdir().unwrap(), &planted);
    node.until(|| node.get("/readyz").0 == 200);
    let mut alice = Client::hello(&node, &carol).await;
    let mut acknowledged = 0;
    for req in 2.. {
        alice.send(&text(req, &bob, &format!("{req}"))).await;
        if !sent(&mut alice).await {
            break;
        }
        acknowledged += 1;
    }
    assert!(acknowledged > 0);
    assert_eq!(node.wait().code(), PANICKED, "{}", node.log());
    let folder = node.kill();

    // The entry is in the log: the next start comes to it again.
    let (status, said) = run(&folder, &planted);
    assert_eq!(status.code(), PANICKED, "{said}");

    let node = Node::planted(folder, &planted);
    let down = format!("panicked twice at position {position}");
    node.until(|| {
        let (status, text) = node.get("/readyz");
        status == 503 && text.contains(&down) && !text.contains("do not serve yet")
    });
    assert_eq!(node.get("/healthz").0, 200, "a restart mends nothing");
    let cluster = node.get("/v1/cluster").1;
    assert!(cluster.contains(&down) && cluster.contains("planted in an entry"));
    let mut alice = Client::hello(&node, &carol).await;
    alice.send(&text(2, &carol, "to another shard")).await;
    alice.until(is_sent).await;
    drop(alice);
    let folder = node.stop();

    // Nothing is lost: without the defect, and when it is told to try again, all is there.
    fs::remove_file(folder.path().join("data/PANIC")).unwrap();
    let node = Node::start_in(folder, &["dev=true"]);
    let mut bob = Client::resume(&node, &bob).await;
    let texts = bob.texts(acknowledged).await;
    assert!(texts.len() >= acknowledged);
    assert!(
        texts
            .iter()
            .zip(2..)
            .all(|(text, req)| *text == format!("{req}"))
    );
}

/// Whether the next answer is SENT; false if the node is gone.
async fn sent(client: &mut Client) -> bool {
    while let Ok(frame) = client.next().await {
        if frame.body.and_then(is_sent).is_some() {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_panic_in_a_connections_task_ends_that_connection_and_its_session_alone() {
    let node = Node::planted(tempfile::tempdir().unwrap(), "user:mallory");
    node.until(|| node.get("/readyz").0 == 200);
    let mut alice = Client::hello(&node, "alice").await;
    let mut mallory = Client::hello(&node, "mallory").await;
    let sessions = || {
        let cluster = node.get("/v1/cluster").1;
        let json = &cluster[cluster.find("\r\n\r\n").unwrap()..];
        let status: serde_json::Value = serde_json::from_str(json).unwrap();
        let shards = status["shards"].as_array().unwrap();
        shards
            .iter()
            .map(|shard| shard["sessions"].as_u64().unwrap())
            .sum::<u64>()
    };
    node.until(|| sessions() == 2);
    mallory.send(&text(2, "alice", "what has the defect")).await;
    while mallory.next().await.is_ok() {}
    node.until(|| node.metric("chatd_task_panics_total") == 1.0);
    node.until(|| sessions() == 1);
    let closed = "chatd_connections_closed_total{transport=\"websocket\",reason=\"panic\"}";
    assert_eq!(node.metric(closed), 1.0);
    assert!(
        node.log().contains("planted in a connection"),
        "{}",
        node.log()
    );
    alice.send(&text(2, "bob", "others go on")).await;
    alice.until(is_sent).await;
    let health = node.get("/healthz");
    assert_eq!(health.0, 200, "{}", health.1);
    assert!(!note(&node.folder).contains("planted"));
}

#[test]
fn a_probe_during_recovery_had_no_answer_and_is_told_that_the_node_lives() {
    let folder = tempfile::tempdir().unwrap();
    // A start opens this file once the log is read, and waits for somebody to read it.
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let trace = format!("log.trace_writes={}", pipe.display());
    let mut starting = Node::starting(folder, &["dev=true", &trace]);
    assert_eq!(starting.get("/healthz").0, 200);
    let (status, said) = starting.get("/readyz");
    assert_eq!(status, 503);
    assert!(said.contains("data directory is being opened"), "{said}");
    assert_eq!(starting.get("/v1/cluster").0, 503);
    assert_eq!(starting.get("/metrics").0, 200);
    let reader = fs::File::open(pipe).unwrap();
    starting.until(|| starting.get("/readyz").0 == 200);
    drop(reader);
    starting.terminate();
    starting.wait();
}
