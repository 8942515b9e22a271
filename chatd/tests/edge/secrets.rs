//! Tokens, contents and keys are nowhere but where they belong: not in a log that says
//! everything, not in metrics, not in an error.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chat_wire::{
    codec::Encoding,
    frame::{Body, Frame},
};

use crate::{
    client::{Client, hello, is_sent, text, tls_config},
    node::{Node, get},
    tokens::Signer,
};

/// Says HELLO and then something wrong; all that the server says back.
async fn refused(node: &Node, token: &str) -> String {
    let mut client = Client::connect(node, Encoding::Json, false).await;
    client.send(&hello(token)).await;
    let mut said = String::new();
    loop {
        match client.next().await {
            Ok(frame) => {
                said.push_str(&format!("{frame:?}\n"));
                if matches!(frame.body, Some(Body::Welcome(_))) {
                    client.send(&hello(token)).await;
                }
            }
            Err(closed) => return said + &closed.reason,
        }
    }
}

#[tokio::test]
async fn tokens_payloads_and_keys_stand_in_no_metric_no_log_at_trace_level_and_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, admin) = (folder.path().join("keys.json"), folder.path().join("admin"));
    let (signer, stranger) = (Signer::new("ours"), Signer::new("theirs"));
    fs::write(&keys, &signer.set).unwrap();
    let admin_token = "the-token-of-the-admin-port";
    fs::write(&admin, admin_token).unwrap();
    // A certificate of its own, of which the key is a secret.
    let made = Node::dev(&[]);
    tls_config(&made.data(), &[]);
    let made = made.stop();
    let tls = made.path().join("data/tls");
    let node = Node::start(&[
        &format!("auth.jwks_file={}", keys.display()),
        &format!("admin.token_file={}", admin.display()),
        &format!("tls.certificate={}", tls.join("cert.pem").display()),
        &format!("tls.key={}", tls.join("key.pem").display()),
        "tls.allow_plain=true",
        "logging.filter=trace",
    ]);
    let good = signer.token("alice", 600);
    let late = signer.token("late", 0);
    let forged = stranger.token("alice", 600);
    let payload = "a payload that only bob may read";

    let mut errors = String::new();
    for token in [&good, &late, &forged, &format!("{good}x")] {
        errors += &refused(&node, token).await;
    }
    let mut alice = Client::connect(&node, Encoding::Json, false).await;
    alice.send(&hello(&good)).await;
    alice.welcome().await;
    alice.send(&text(2, "bob", payload)).await;
    alice.until(is_sent).await;
    // Refused with the content in hand.
    alice.send(&text(3, "", payload)).await;
    let refused = alice.answer(3).await;
    assert!(matches!(refused, Body::Error(_)), "{refused:?}");
    errors += &format!("{refused:?}");
    alice.send(&Frame::default()).await;
    alice.close().await;

    let mut said = vec![("errors", errors), ("log", String::new())];
    for path in ["/metrics", "/v1/cluster", "/readyz", "/healthz", "/none"] {
        for header in [
            String::new(),
            "Authorization: Bearer wrong\r\n".to_owned(),
            format!("Authorization: Bearer {admin_token}\r\n"),
        ] {
            said.push((path, get(node.admin, path, &header).1));
        }
    }
    assert!(
        said.iter()
            .any(|(_, text)| text.contains("chatd_logins_total"))
    );
    let key = fs::read_to_string(tls.join("key.pem")).unwrap();
    let key = key.lines().nth(1).unwrap().to_owned();
    let own = fs::read(node.data().join("SECRET")).unwrap();
    let hexadecimal: String = own.iter().map(|byte| format!("{byte:02x}")).collect();
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        signature(&good),
        signature(&late),
        signature(&forged),
        good.split('.').nth(1).unwrap().to_owned(),
        admin_token.to_owned(),
        payload.to_owned(),
        STANDARD.encode(payload),
        key,
        STANDARD.encode(&own),
        hexadecimal,
    ];
    // Once all is over: the log has the most.
    let log = node.log();
    said[1].1 = log;
    for (place, text) in &said {
        assert!(!text.is_empty(), "{place} says nothing");
        for secret in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "{secret} stands in {place}"
            );
        }
    }
}
