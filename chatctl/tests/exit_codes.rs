//! The exit codes that scripts rely on, and what an error says to do, without a server.

use std::process::{Command, Output};

fn chatctl(arguments: &[&str]) -> (tempfile::TempDir, Output) {
    let state = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_chatctl"))
        .args(arguments)
        .current_dir(state.path())
        .env_clear()
        .env("CHATCTL_STATE", state.path())
        .output()
        .expect("chatctl runs");
    (state, output)
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[test]
fn a_wrong_command_line_is_2_and_says_what_is_missing() {
    let (_state, output) = chatctl(&["send", "bob"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("<TEXT>"));
    let (_state, output) = chatctl(&["send", "bob", "hello"]);
    assert_eq!(output.status.code(), Some(2), "nobody to speak as");
    assert!(said(&output).contains("--as NAME"));
}

#[test]
fn no_server_is_3_and_says_how_to_start_one() {
    // Port 1 needs root to listen on, and nobody does.
    let server = ["--server", "ws://127.0.0.1:1", "--timeout", "1"];
    let (_state, output) = chatctl(&[&server[..], &["--as", "alice", "send", "bob", "x"]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("chatd --dev"));
    let (_state, output) = chatctl(&["--admin", "127.0.0.1:1", "status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("--admin"));
}

#[test]
fn a_token_that_cannot_be_read_is_4() {
    let (_state, output) = chatctl(&["--token-file", "missing", "conversations"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output).contains("missing"));
}

#[test]
fn doctor_is_5_when_something_is_bad_and_names_it_in_json() {
    let arguments = [
        "-o",
        "json",
        "--server",
        "127.0.0.1:1",
        "--admin",
        "127.0.0.1:1",
        "doctor",
    ];
    let (_state, output) = chatctl(&arguments);
    assert_eq!(output.status.code(), Some(5));
    let checks = String::from_utf8(output.stdout).unwrap();
    assert!(
        checks
            .lines()
            .any(|line| line.contains("\"BAD\"") && line.contains("TCP port"))
    );
}

#[test]
fn inspect_refuses_what_is_no_data_directory() {
    let (_state, output) = chatctl(&["inspect", "."]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("not the data directory"));
}
