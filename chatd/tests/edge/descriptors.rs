//! A process that may open few files, and strangers who hold connections open.

use std::{
    io::Read as _,
    net::TcpStream,
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    client::{Client, is_sent, text},
    node::{Node, PATIENCE},
};

/// What the node may open.
const FILES: usize = 900;

/// This process holds the other ends.
fn raise_own_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// `chatd` by a shell that lowers the limit, for good.
fn limited(files: usize) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_chatd"))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn without_a_token_connections_took_all_descriptors_and_now_the_node_goes_on() {
    raise_own_limit();
    let node = Node::by(
        limited(FILES),
        &[
            "dev=true",
            "edge.handshake_timeout_ms=60000",
            "shards.flush_bytes=65536",
            "limits.sends_per_second=1000000",
            "limits.sends_burst=1000000",
        ],
    );
    node.until(|| node.get("/readyz").0 == 200);
    let mut alice = Client::hello(&node, "alice").await;
    // Idle ones: they say nothing, and would take more than the node may open.
    let idle: Vec<_> = (0..FILES + 300)
        .filter_map(|_| TcpStream::connect(node.clients).ok())
        .collect();
    assert!(idle.len() > FILES);
    let open = || {
        std::fs::read_dir(format!("/proc/{}/fd", node.id()))
            .unwrap()
            .count()
    };
    // A tenth of the places waits for valid tokens: newcomers meet their own bound first.
    node.until(|| node.metric("chatd_connections_refused_total{reason=\"handshakes\"}") > 0.0);
    assert!(open() < FILES, "{}", open());
    // It commits, flushes, and answers who looks after it.
    let long = "x".repeat(8_000);
    let mut req = 1;
    let flushed = || {
        let cluster = node.get("/v1/cluster").1;
        cluster.contains("\"flushed\":") && {
            let mut positions = cluster.split("\"flushed\":").skip(1);
            positions.any(|rest| !rest.starts_with("0,"))
        }
    };
    while !flushed() {
        req += 1;
        alice.send(&text(req, "bob", &long)).await;
        alice.until(is_sent).await;
    }
    assert_eq!(node.get("/readyz").0, 200);
    assert_eq!(node.get("/healthz").0, 200);
    assert!(
        node.log()
            .contains("the limit of open files leaves room for"),
        "{}",
        node.log()
    );
    drop(idle);
}

#[test]
fn a_limit_that_leaves_nothing_for_clients_is_refused_with_what_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = limited(256)
        .args(["--dev", "--data"])
        .arg(folder.path().join("data"))
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("may open 256 files") && said.contains("ulimit -n"),
        "{said}"
    );
}

#[test]
fn idle_connections_to_the_admin_port_kept_probes_out_and_now_make_room_for_them() {
    let node = Node::dev(&[]);
    let mut idle: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(node.admin).unwrap())
        .collect();
    for _ in 0..10 {
        assert_eq!(node.get("/healthz").0, 200);
    }
    let sockets = node.get("/metrics").1;
    assert!(
        sockets.contains("chatd_connections_refused_total{reason=\"admin\"}"),
        "{sockets}"
    );
    // The oldest was closed for those who came, not by a timeout.
    idle[0].set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(idle[0].read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_head_that_never_ends_is_not_waited_for_at_the_admin_port() {
    use std::io::Write as _;
    let node = Node::dev(&[]);
    let mut slow = TcpStream::connect(node.admin).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc")
        .unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    // One that is kept after an answer is not kept for ever.
    let mut kept = TcpStream::connect(node.admin).unwrap();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    kept.set_read_timeout(Some(PATIENCE)).unwrap();
    rest.clear();
    kept.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8(rest).unwrap().contains("200 OK"));
}
