//! How a node starts, refuses to, and ends.

use std::{fs, net::TcpListener};

use chat_wire::frame::Body;

use crate::{
    client::{Client, hello, is_sent, text, texts},
    node::{Node, get, run},
};

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[test]
fn without_a_way_to_check_tokens_it_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run(&["--data", &path(&folder, "data")]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("auth.jwks_file") && said.contains("--dev"),
        "{said}"
    );
    assert!(!folder.path().join("data").exists(), "nothing was written");
}

#[test]
fn dev_is_refused_off_loopback() {
    let (code, said) = run(&["--dev", "--listen", "0.0.0.0:7443"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("loopback"), "{said}");
}

#[test]
fn a_wrong_settings_file_is_refused_with_key_line_and_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("chatd.yaml"),
        "dev: true\nedge:\n  max_conections: 5\n",
    )
    .unwrap();
    let (code, said) = run(&["--config", &path(&folder, "chatd.yaml")]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("line 3")
            && said.contains("`edge.max_conections`")
            && said.contains("did you mean `edge.max_connections`"),
        "{said}"
    );
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = address.split(':').next_back().unwrap();
    for (flag, setting) in [("--listen", "listen"), ("--admin-listen", "admin.listen")] {
        let other = if flag == "--listen" {
            "--admin-listen"
        } else {
            "--listen"
        };
        let data = path(&folder, "data");
        let (code, said) = run(&[
            "--dev",
            "--data",
            &data,
            flag,
            &address,
            other,
            "127.0.0.1:0",
        ]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains(port)
                && said.contains("in use by another process")
                && said.contains(setting),
            "{said}"
        );
    }
}

#[test]
fn another_chatd_on_the_same_port_is_noticed() {
    let node = Node::dev(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run(&[
        "--dev",
        "--data",
        &path(&folder, "data"),
        "--listen",
        &node.clients.to_string(),
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let node = Node::dev(&[]);
    let data = node.data().display().to_string();
    let (code, said) = run(&[
        "--dev",
        "--data",
        &data,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("in use by another process") && said.contains("--data"),
        "{said}"
    );
    assert_eq!(node.get("/readyz").0, 200, "the first one goes on");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let data = path(&folder, "file/data");
    let (code, said) = run(&[
        "--dev",
        "--data",
        &data,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot be written"), "{said}");
}

#[tokio::test]
async fn sigterm_tells_clients_takes_nobody_new_and_exits_0() {
    let mut node = Node::dev(&[
        "edge.drain_timeout_ms=20000",
        "edge.reconnect_within_ms=1234",
    ]);
    let mut alice = Client::hello(&node, "alice").await;
    alice.send(&text(2, "bob", "before")).await;
    alice.until(is_sent).await;
    node.terminate();
    let within = alice
        .until(|body| match body {
            Body::Goaway(goaway) => Some(goaway.reconnect_within_ms),
            _ => None,
        })
        .await;
    assert_eq!(within, 1234);
    node.until(|| node.get("/readyz").1.contains("draining"));
    assert!(
        std::net::TcpStream::connect(node.clients).is_err() || get(node.clients, "/", "").0 != 101
    );
    // Those who are there can still finish.
    alice.send(&text(3, "bob", "while it drains")).await;
    alice.until(is_sent).await;
    alice.close().await;
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
}

#[tokio::test]
async fn a_client_that_stays_is_closed_as_going_away_when_the_drain_is_over() {
    let mut node = Node::dev(&["edge.drain_timeout_ms=100"]);
    let mut alice = Client::hello(&node, "alice").await;
    node.terminate();
    assert_eq!(alice.closed().await.code, 4605);
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    alice.send(&text(2, "bob", "survives")).await;
    alice.until(is_sent).await;
    let node = Node::start_in(node.kill(), &["dev=true"]);
    let mut bob = Client::connect(&node, chat_wire::codec::Encoding::Proto, false).await;
    let mut greeting = hello("dev:bob");
    if let Some(Body::Hello(hello)) = &mut greeting.body {
        hello.resume = Some(chat_wire::frame::Resume::default());
    }
    bob.send(&greeting).await;
    bob.welcome().await;
    assert_eq!(bob.until(texts).await, ["survives"]);
}

#[test]
fn the_documentation_of_settings_can_be_printed() {
    let (code, said) = run(&["--print-configuration"]);
    assert_eq!((code, said), (Some(0), chatd::settings::reference()));
}

#[tokio::test]
async fn logs_in_json_hold_neither_tokens_nor_texts() {
    let node = Node::dev(&["logging.format=json", "logging.filter=trace"]);
    let mut alice = Client::hello(&node, "alice-secret-token").await;
    alice.send(&text(2, "bob", "a-secret-text")).await;
    alice.until(is_sent).await;
    alice.close().await;
    node.until(|| node.metric("chatd_connections{transport=\"websocket\"}") == 0.0);
    let log = node.log();
    assert!(
        log.lines().count() > 0 && log.lines().all(|line| line.starts_with('{')),
        "{log}"
    );
    assert!(
        !log.contains("dev:alice-secret-token") && !log.contains("a-secret-text"),
        "{log}"
    );
    let metrics = node.get("/metrics").1;
    assert!(!metrics.contains("alice-secret-token") && !metrics.contains("a-secret-text"));
}
