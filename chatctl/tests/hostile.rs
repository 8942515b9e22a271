//! A server, or somebody behind it, that says what would rule a terminal.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Command, Output},
    thread::JoinHandle,
};

/// One of each class: C0, DEL, C1, a turn of the direction, no width, a tag, a selector.
const HOSTILE: &str =
    "a\u{7}\u{1b}[2J\r\u{7f}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}\u{e0101}z";

/// Answers everything with this status and body, until `chatctl` has ended.
fn server(status: &'static str, body: String) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let answers = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            // An empty connection says that it is over.
            if stream.read(&mut head).unwrap_or(0) == 0 {
                return;
            }
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    (address, answers)
}

fn chatctl(address: SocketAddr, arguments: &[&str]) -> Output {
    let state = tempfile::tempdir().expect("a folder");
    Command::new(env!("CARGO_BIN_EXE_chatctl"))
        .args([
            "--admin",
            &address.to_string(),
            "--server",
            &format!("ws://{address}"),
        ])
        .args(["--timeout", "2", "-vv"])
        .args(arguments)
        .current_dir(state.path())
        .env_clear()
        .env("CHATCTL_STATE", state.path())
        .output()
        .expect("chatctl runs")
}

#[test]
fn what_a_server_says_reached_the_terminal_raw_and_is_escaped_in_every_output() {
    let status = serde_json::json!({
        "version": HOSTILE, HOSTILE: HOSTILE, "ready": false, "node": HOSTILE,
        "failed": HOSTILE, "disk_full": false,
        "last_panic": {"reason": HOSTILE, "unix_ms": 1},
        "down": [{"shard": 1, "reason": HOSTILE}],
        "shards": [{"shard": HOSTILE, "serves": HOSTILE, "term": HOSTILE}],
    });
    for code in ["200 OK", "500 Oops", "401 No"] {
        for body in [status.to_string(), HOSTILE.to_owned()] {
            let (address, answers) = server(code, body);
            for arguments in [
                &["status", "--shards"][..],
                &["status", "-o", "json"],
                &["doctor"],
                &["doctor", "-o", "json"],
                &["--as", "alice", "conversations"],
                &["--as", "alice", "send", "bob", "x", "-o", "json"],
            ] {
                let output = chatctl(address, arguments);
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8(said).expect("UTF-8");
                assert!(!said.is_empty(), "{arguments:?}");
                for character in said.chars().filter(|character| *character != '\n') {
                    assert!(
                        !character.is_control()
                            && !HOSTILE.trim_matches(['a', 'z']).contains(character)
                            || character.is_ascii_graphic(),
                        "{arguments:?}, {code}: {character:?} in {said:?}"
                    );
                }
            }
            drop(std::net::TcpStream::connect(address));
            answers.join().expect("the server has ended");
        }
    }
}

#[test]
fn a_name_that_nobody_may_have_is_refused_before_anybody_is_asked() {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let long = "n".repeat(129);
    for name in [&long, "a\u{1b}b", "a\u{9b}b"] {
        let output = chatctl(nowhere, &["--as", "alice", "send", name, "x"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("128 bytes"), "{said}");
    }
    // A character that is only invisible is allowed: such a name is one.
    let output = chatctl(nowhere, &["--as", "alice", "send", "b\u{200d}b", "x"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}
