//! Signed tokens at a real node: keys from a file and from an address, read again
//! while it runs; tokens that expire in a session.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use chat_wire::{codec::Encoding, frame::Body};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::json;

use crate::{
    client::{Client, hello},
    node::Node,
};

pub(crate) struct Signer {
    kid: &'static str,
    key: EncodingKey,
    pub(crate) set: String,
}

impl Signer {
    pub(crate) fn new(kid: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(kid.into());
        Self {
            kid,
            key,
            set: json!({"keys": [jwk]}).to_string(),
        }
    }

    pub(crate) fn token(&self, name: &str, seconds: u64) -> String {
        self.sign(&json!({"sub": name, "aud": "chat", "exp": now_s() + seconds}))
    }

    fn sign(&self, claims: &serde_json::Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.into());
        encode(&header, claims, &self.key).unwrap()
    }
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

async fn says_hello(node: &Node, token: &str) -> Result<Client, u16> {
    let mut client = Client::connect(node, Encoding::Json, false).await;
    client.send(&hello(token)).await;
    match client.body().await {
        Body::Welcome(_) => Ok(client),
        Body::Error(_) => Err(client.closed().await.code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_while_the_node_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    fs::write(&file, &old.set).unwrap();
    let node = Node::start(&[&format!("auth.jwks_file={}", file.display())]);
    let mut alice = says_hello(&node, &old.token("alice", 600)).await.unwrap();
    assert_eq!(
        says_hello(&node, &new.token("alice", 600)).await.err(),
        Some(4200)
    );
    assert_eq!(says_hello(&node, "dev:alice").await.err(), Some(4200));
    assert_eq!(says_hello(&node, "").await.err(), Some(4200));

    fs::write(&file, &new.set).unwrap();
    node.until(|| node.log().contains("read new keys"));
    assert!(says_hello(&node, &new.token("bob", 600)).await.is_ok());
    assert_eq!(
        says_hello(&node, &old.token("bob", 600)).await.err(),
        Some(4200)
    );
    // Broken keys change nothing, and an open session is not touched by any of it.
    fs::write(&file, "{").unwrap();
    node.until(|| node.log().contains("the old keys stay in use"));
    assert!(says_hello(&node, &new.token("bob", 600)).await.is_ok());
    alice
        .send(&crate::client::text(2, "alice", "still here"))
        .await;
    alice.until(crate::client::is_sent).await;
    assert!(
        !node.log().contains(&new.token("bob", 600)[..40]),
        "no token in the log"
    );
}

#[tokio::test]
async fn a_token_that_expires_ends_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let signer = Signer::new("a");
    fs::write(&file, &signer.set).unwrap();
    let node = Node::start(&[&format!("auth.jwks_file={}", file.display())]);
    let mut alice = says_hello(&node, &signer.token("alice", 2)).await.unwrap();
    alice
        .until(|body| matches!(body, Body::TokenExpiring(_)).then_some(()))
        .await;
    assert_eq!(alice.error().await, 201);
    assert_eq!(alice.closed().await.code, 4201);
}

#[tokio::test]
async fn a_token_that_is_expired_for_another_audience_unsigned_or_mistyped_is_refused() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let signer = Signer::new("a");
    fs::write(&file, &signer.set).unwrap();
    let node = Node::start(&[&format!("auth.jwks_file={}", file.display())]);
    let exp = now_s() + 600;
    let good = json!({"sub": "alice", "aud": "chat", "exp": exp});
    let unsigned = [json!({"alg": "none", "typ": "JWT"}), good.clone()]
        .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
        .join(".")
        + ".";
    let cases = [
        // More than a clock may be wrong.
        (
            json!({"sub": "alice", "aud": "chat", "exp": exp - 4200}),
            4201,
        ),
        (json!({"sub": "alice", "aud": "shop", "exp": exp}), 4202),
        (json!({"sub": 7, "aud": "chat", "exp": exp}), 4200),
        (json!({"sub": "alice", "aud": "chat", "exp": "soon"}), 4200),
        (json!({"sub": "alice", "aud": "chat"}), 4200),
    ];
    for (claims, code) in cases {
        let refused = says_hello(&node, &signer.sign(&claims)).await.err();
        assert_eq!(refused, Some(code), "{claims}");
    }
    assert_eq!(says_hello(&node, &unsigned).await.err(), Some(4200));
    assert!(says_hello(&node, &signer.sign(&good)).await.is_ok());
}

/// An address that answers with what it is told to.
fn serve(answer: Arc<Mutex<String>>, asked: Arc<AtomicU32>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            drop(stream.read(&mut request));
            asked.fetch_add(1, Ordering::SeqCst);
            drop(stream.write_all(answer.lock().unwrap().as_bytes()));
        }
    });
    url
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn keys_at_an_address_are_fetched_and_a_redirect_is_not_followed() {
    let signer = Signer::new("a");
    let redirect = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/evil\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (answer, asked) = (
        Arc::new(Mutex::new(redirect.to_owned())),
        Arc::new(AtomicU32::new(0)),
    );
    let url = serve(Arc::clone(&answer), Arc::clone(&asked));
    let node = Node::start(&[&format!("auth.jwks_url={url}"), "auth.jwks_every_s=10"]);
    node.until(|| node.log().contains("redirects are not followed"));
    // It runs, and logins can be tried again later.
    assert_eq!(
        says_hello(&node, &signer.token("alice", 600)).await.err(),
        Some(4603)
    );
    *answer.lock().unwrap() = ok(&signer.set);
    let before = asked.load(Ordering::SeqCst);
    node.until(|| asked.load(Ordering::SeqCst) > before);
    let mut tries = 0;
    while says_hello(&node, &signer.token("alice", 600))
        .await
        .is_err()
    {
        tries += 1;
        assert!(tries < 10_000, "{}", node.log());
    }
}

#[test]
fn an_address_without_tls_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let (code, said) = crate::node::run(&[
        "--data",
        &data,
        "--set",
        "auth.jwks_url=http://keys.example.com/jwks.json",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("only https://"), "{said}");
}
