//! The admin port.

use std::fs;

use crate::{
    client::{Client, is_sent, text},
    node::{Node, get, run},
};

#[tokio::test]
async fn health_metrics_and_the_state_of_the_cluster_are_told() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    alice.send(&text(2, "bob", "counted")).await;
    alice.until(is_sent).await;
    assert_eq!(node.get("/healthz").0, 200);
    assert_eq!(node.get("/readyz").0, 200);
    let (status, cluster) = node.get("/v1/cluster");
    assert_eq!(status, 200);
    let body = cluster.split("\r\n\r\n").nth(1).unwrap();
    let cluster: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(cluster["connections"], 1);
    assert_eq!(cluster["ready"], true);
    assert_eq!(
        cluster["shards"].as_array().unwrap().len(),
        5,
        "four and the system shard"
    );
    node.until(|| node.metric("chatd_messages_acknowledged_total") == 1.0);
    let text = node.get("/metrics").1;
    for name in [
        "chatd_delivery_seconds_bucket",
        "chatd_messages_acknowledged_total",
        "chatd_messages_delivered_total",
        "chatd_messages_lost_total",
        "chatd_sequence_gap_total",
        "chatd_audit_blocks_total",
        "chatd_inbox_lag_ms",
        "chatd_connections_opened_total",
        "chatd_duplicates_suppressed_total",
        "chatd_outbox_entries",
        "chatd_outbox_oldest_ms",
        "chatd_log_sync_seconds_bucket",
        "chatd_log_batch_bytes_bucket",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name} is not in\n{text}"
        );
    }
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(node.get("/v1/nothing").0, 404);
    assert_eq!(node.get("/../etc/passwd").0, 404);
}

#[test]
fn only_names_of_admin_hosts_are_answered() {
    let node = Node::dev(&["admin.hosts=chat.internal"]);
    for path in ["/healthz", "/readyz", "/metrics", "/v1/cluster"] {
        let (status, said) = get(node.admin, path, "Host: evil.example\r\n");
        assert_eq!(status, 421, "{path}");
        assert!(said.contains("admin.hosts"), "{said}");
        for host in ["localhost:7444", "chat.internal", "192.0.2.1"] {
            let answered = get(node.admin, path, &format!("Host: {host}\r\n")).0;
            assert_eq!(answered, 200, "{path} of {host}");
        }
    }
}

#[test]
fn paths_that_climb_lead_nowhere_and_past_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "a-token-of-operators\n").unwrap();
    let node = Node::dev(&[&format!("admin.token_file={}", file.display())]);
    let right = "Authorization: Bearer a-token-of-operators\r\n";
    for path in [
        "/../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/healthz/../metrics",
        "/healthz/..%2fmetrics",
        "/readyz/../v1/cluster",
        "/healthz%00/metrics",
        "/healthz;/metrics",
        "//metrics",
        "/./metrics",
        "/metrics/",
        "/v1/../../data/secret",
        "/v1/cluster/..",
        "/v1/%2e%2e/metrics",
        "/..\\..\\etc\\passwd",
        "/metrics?/../healthz",
        "/METRICS",
        "file:///etc/passwd",
        "/data/../../../proc/self/environ",
    ] {
        let (status, said) = get(node.admin, path, "");
        assert!(matches!(status, 400 | 401 | 404 | 421), "{path}: {status}");
        let (known, also) = get(node.admin, path, right);
        let is_metrics = path.starts_with("/metrics?");
        assert!(
            is_metrics || matches!(known, 400 | 404 | 421),
            "{path}: {known}"
        );
        for said in [said, also] {
            assert!(
                !said.contains("root:") && !said.contains("PATH="),
                "{path}: {said}"
            );
        }
    }
}

#[test]
fn off_loopback_it_needs_a_token_and_then_demands_it() {
    let (code, said) = run(&["--set", "auth.jwks_file=x", "--admin-listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("admin.token_file"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "a-token-of-operators\n").unwrap();
    let node = Node::dev(&[&format!("admin.token_file={}", file.display())]);
    assert_eq!(node.get("/readyz").0, 200);
    for path in ["/metrics", "/v1/cluster"] {
        assert_eq!(node.get(path).0, 401, "{path}");
        let wrong = "Authorization: Bearer a-token-of-operator\r\n";
        assert_eq!(get(node.admin, path, wrong).0, 401);
        let right = "Authorization: Bearer a-token-of-operators\r\n";
        assert_eq!(get(node.admin, path, right).0, 200);
    }
    fs::write(&file, "short\n").unwrap();
    let data = folder.path().join("data").display().to_string();
    let setting = format!("admin.token_file={}", file.display());
    let (code, said) = run(&[
        "--dev",
        "--data",
        &data,
        "--set",
        &setting,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("at least 16 bytes"), "{said}");
}

#[tokio::test]
async fn the_audit_reads_what_is_stored_and_finds_nothing_missing() {
    let node = Node::dev(&["audit.events_per_second=1000000"]);
    let mut alice = Client::hello(&node, "alice").await;
    for req in 1..=50 {
        alice.send(&text(req + 1, "bob", "audited")).await;
        alice.until(is_sent).await;
    }
    node.until(|| node.metric("chatd_audit_blocks_total") >= 100.0);
    assert_eq!(node.metric("chatd_messages_lost_total"), 0.0);
    assert_eq!(node.metric("chatd_sequence_gap_total"), 0.0);
}

/// 10,000 events among which one block is damaged on the disk, as a bad sector does it.
#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_block_among_ten_thousand_events_is_counted_within_a_minute() {
    const EVENTS: u32 = 10_000;
    let settings = [
        "audit.events_per_second=1000000",
        "limits.sends_per_second=1000000",
        "limits.sends_burst=1000000",
        "shards.flush_bytes=65536",
        "cluster.shards=1",
    ];
    let node = Node::dev(&settings);
    let mut alice = Client::hello(&node, "alice").await;
    // One to oneself is one event; many under way at once.
    let mut answered = 0;
    for req in 0..EVENTS {
        alice
            .send(&text(
                req + 2,
                "alice",
                &format!("{req}: {}", "x".repeat(200)),
            ))
            .await;
        if req >= 100 {
            alice.until(is_sent).await;
            answered += 1;
        }
        if req % 100 == 0 {
            let credit = chat_wire::frame::Credit { lane: 0, n: 100 };
            alice
                .send(&chat_wire::frame::Body::Credit(credit).into())
                .await;
        }
    }
    while answered < EVENTS {
        alice.until(is_sent).await;
        answered += 1;
    }
    node.until(|| node.metric("chatd_audit_blocks_total") >= f64::from(EVENTS));
    assert_eq!(node.metric("chatd_messages_lost_total"), 0.0);

    let folder = node.kill();
    let segment = largest_segment(&folder.path().join("data"));
    let mut bytes = fs::read(&segment).unwrap();
    // Within the first block. What it holds may be what the shard needs to go on: then
    // it stops, and the walk counts all the same.
    bytes[600] ^= 0x10;
    fs::write(&segment, bytes).unwrap();
    let began = std::time::Instant::now();
    let node = Node::spawn(folder, &[&["dev=true"], &settings[..]].concat());
    node.until(|| node.metric("chatd_messages_lost_total") > 0.0);
    assert!(began.elapsed() < std::time::Duration::from_secs(60));
    assert!(node.metric("chatd_sequence_gap_total") >= 1.0);
    assert!(
        node.log().contains("missing or cannot be read"),
        "{}",
        node.log()
    );
}

fn largest_segment(data: &std::path::Path) -> std::path::PathBuf {
    let mut folders = vec![data.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.metadata().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|end| end == "seg") {
                found.push((entry.metadata().unwrap().len(), entry.path()));
            }
        }
    }
    found.into_iter().max().expect("a flush wrote a segment").1
}
