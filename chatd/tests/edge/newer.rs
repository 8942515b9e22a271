//! Data of a newer version: nothing of it is guessed, nothing of it is lost.
//!
//! Versions and checksums are changed as docs/format.md has them, not with the engine's
//! own code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use chat_wire::frame::Body;

use crate::{
    client::{Client, hello, is_sent, text},
    node::{Node, run_on},
    stopped::{self, UNKNOWN_KIND, shard_of},
};

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
        }
    }
    !crc
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The slot of the manifest that counts, with its format one higher.
fn newer_manifest(data: &Path) -> (PathBuf, Vec<u8>) {
    let slots = ["manifest-0", "manifest-1"].map(|name| {
        let path = data.join(name);
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    });
    let (path, mut bytes) = slots
        .into_iter()
        .max_by_key(|(_, bytes)| long(bytes, 8))
        .unwrap();
    assert_eq!((&bytes[..4], bytes[4]), (&b"CMAN"[..], 1));
    assert_eq!(word(&bytes, 28), crc32(bytes[..28].iter().copied()));
    bytes[4] = 2;
    let crc = crc32(bytes[..28].iter().copied());
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    (path, bytes)
}

/// The log file with the newest frame, with that frame's format one higher.
fn newer_frame(data: &Path) -> (PathBuf, Vec<u8>) {
    let files = fs::read_dir(data.join("wal")).unwrap();
    let (lsn, at, path, mut bytes) = files
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let bytes = fs::read(&path).unwrap();
            let frames = (0..bytes.len()).step_by(4096);
            let (lsn, at) = frames
                .filter(|at| bytes[*at..].starts_with(b"CLOG"))
                .map(|at| (long(&bytes, at + 16), at))
                .max()?;
            Some((lsn, at, path, bytes))
        })
        .max()
        .unwrap();
    assert!(lsn > 1, "the log has frames");
    let checked = |bytes: &[u8]| {
        let records = word(bytes, at + 48) as usize * 48;
        let headers = &bytes[at + 80..at + 80 + records];
        crc32(bytes[at..at + 76].iter().chain(headers).copied())
    };
    assert_eq!((bytes[at + 4], word(&bytes, at + 76)), (1, checked(&bytes)));
    bytes[at + 4] = 2;
    let crc = checked(&bytes);
    bytes[at + 76..at + 80].copy_from_slice(&crc.to_le_bytes());
    (path, bytes)
}

#[tokio::test]
async fn data_of_a_newer_format_is_refused_with_both_versions_and_left_as_it_is() {
    let node = Node::dev(&[]);
    let mut alice = Client::hello(&node, "alice").await;
    alice.send(&text(2, "bob", "of this version")).await;
    alice.until(is_sent).await;
    alice.close().await;
    let folder = node.stop();
    let data = folder.path().join("data");
    for (path, newer) in [newer_manifest(&data), newer_frame(&data)] {
        let old = fs::read(&path).unwrap();
        fs::write(&path, newer).unwrap();
        let before = stopped::bytes(&data);
        // Twice: the first try must not have made the second one different.
        for _ in 0..2 {
            let (code, said) = run_on(&data, &[]);
            assert_eq!(code, Some(1), "{}: {said}", path.display());
            let all = [
                &*data.display().to_string(),
                "format 2",
                "up to 1",
                "start the version that wrote it, or a newer one",
            ];
            for part in all {
                assert!(said.contains(part), "{part} is not in: {said}");
            }
            assert!(
                stopped::bytes(&data) == before,
                "{}: the directory was changed",
                path.display()
            );
        }
        fs::write(&path, old).unwrap();
    }
    // To the version that wrote it everything is there.
    let node = Node::start_in(folder, &["dev=true"]);
    let mut bob = Client::resume(&node, "bob").await;
    assert_eq!(bob.texts(1).await, ["of this version"]);
}

#[tokio::test]
async fn a_segment_of_a_newer_version_keeps_its_shard_down_and_stays_as_it_is() {
    let node = Node::dev(&["shards.flush_bytes=65536"]);
    let [bob, alice, carol] = names();
    let mut from = Client::hello(&node, &alice).await;
    let long = "x".repeat(60_000);
    for req in 2..5 {
        from.send(&text(req, &bob, &long)).await;
        from.until(is_sent).await;
    }
    let segment = || {
        let prefix = format!("{:04}-", shard_of(&bob));
        let segments = fs::read_dir(node.data().join("segments")).ok()?;
        let mut paths = segments.map(|entry| entry.unwrap().path());
        paths.find(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&prefix) && name.ends_with(".seg")
        })
    };
    // Entered in the log, and not only written.
    let shard = usize::from(shard_of(&bob));
    node.until(|| cluster(&node)["shards"][shard]["flushed"].as_u64() > Some(0));
    let path = segment().unwrap();
    from.close().await;
    let folder = node.stop();

    let old = fs::read(&path).unwrap();
    let mut newer = old.clone();
    let footer = newer.len() - 96;
    assert!(newer[footer..].starts_with(b"LGSTFOOT") && newer[footer + 8] == 1);
    newer[footer + 8] = 2;
    let crc = crc32(newer[footer..footer + 92].iter().copied());
    newer[footer + 92..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &newer).unwrap();
    let node = Node::spawn(folder, &["dev=true"]);
    node.until(|| node.get("/readyz").1.contains(" is down: "));
    let (status, said) = node.get("/readyz");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(status, 503);
    for part in [&format!("shard {shard} "), name, "a newer version wrote it"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    others_are_served(&node, &bob, &alice, &carol).await;
    let folder = node.kill();
    assert!(fs::read(&path).unwrap() == newer, "the file was changed");
    fs::write(&path, old).unwrap();
    let node = Node::start_in(folder, &["dev=true"]);
    let mut to = Client::resume(&node, &bob).await;
    assert_eq!(to.texts(3).await, [&*long, &*long, &*long]);
}

#[tokio::test]
async fn a_log_entry_of_an_unknown_kind_stops_its_shard_is_told_and_nothing_is_lost() {
    let node = Node::dev(&[]);
    let [bob, alice, carol] = names();
    let mut from = Client::hello(&node, &alice).await;
    for (req, said) in (2..).zip(["one", "two"]) {
        from.send(&text(req, &bob, said)).await;
        from.until(is_sent).await;
    }
    from.close().await;
    let folder = node.stop();
    let data = folder.path().join("data");
    let shard = shard_of(&bob);
    let position = stopped::add_unknown(&data, shard);
    let before = stopped::entries(&data, shard);

    let node = Node::spawn(folder, &["dev=true"]);
    let why = format!(
        "position {position}: the log has a command of kind {UNKNOWN_KIND} that this chatd does \
         not know: start the newer version that wrote it"
    );
    node.until(|| node.log().contains(&why));
    let line = node.log();
    let line = line.lines().find(|line| line.contains(&why)).unwrap();
    assert!(
        line.contains("ERROR") && line.contains(&format!("shard={shard}")),
        "{line}"
    );
    node.until(|| {
        let cluster = cluster(&node);
        let shards = cluster["shards"].as_array().unwrap();
        shards
            .iter()
            .filter(|shard| shard["serves"] == true)
            .count()
            == 4
    });
    let (status, said) = node.get("/readyz");
    assert_eq!(status, 503);
    assert!(
        said.contains(&format!("shard {shard} ")) && said.contains(&why),
        "{said}"
    );
    let told = cluster(&node);
    assert_eq!(told["ready"], false);
    assert_eq!(told["down"][0]["shard"], shard);
    assert_eq!(told["down"][0]["reason"], *why);
    assert_eq!(told["shards"][usize::from(shard)]["stopped"], *why);
    others_are_served(&node, &bob, &alice, &carol).await;

    // What this version could not apply is as it was, with all before it.
    let folder = node.stop();
    let after = stopped::entries(&data, shard);
    assert_eq!(after[..before.len()], before);
    // For a version that knows the kind the shard goes on: here the entry becomes one that
    // says nothing.
    stopped::put(&data, shard, position, bytes::Bytes::new());
    let node = Node::start_in(folder, &["dev=true"]);
    let mut to = Client::resume(&node, &bob).await;
    assert_eq!(to.texts(2).await, ["one", "two"]);
    let mut from = Client::hello(&node, &alice).await;
    from.send(&text(9, &bob, "three")).await;
    from.until(is_sent).await;
    assert_eq!(to.texts(1).await, ["three"]);
}

/// One whose shard is to stop, and two of other shards.
fn names() -> [String; 3] {
    const STOPS: &str = "bob";
    let mut others = (0..)
        .map(|number| format!("person-{number}"))
        .filter(|name| shard_of(name) != shard_of(STOPS));
    [STOPS.into(), others.next().unwrap(), others.next().unwrap()]
}

fn cluster(node: &Node) -> serde_json::Value {
    let answer = node.get("/v1/cluster").1;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    serde_json::from_str(body).unwrap_or_default()
}

/// A shard is down: its people are told so, those of the others chat.
async fn others_are_served(node: &Node, down: &str, alice: &str, carol: &str) {
    let mut from = Client::hello(node, alice).await;
    let mut to = Client::hello(node, carol).await;
    from.send(&text(2, carol, "you are served")).await;
    from.until(is_sent).await;
    assert_eq!(to.texts(1).await, ["you are served"]);
    from.send(&text(3, down, "you are not")).await;
    match from.answer(3).await {
        Body::Error(error) => assert_eq!((error.code, error.retryable), (608, true), "{error:?}"),
        other => panic!("{other:?}"),
    }
    let mut refused = Client::connect(node, chat_wire::codec::Encoding::Proto, false).await;
    refused.send(&hello(&format!("dev:{down}"))).await;
    assert_eq!(refused.closed().await.code, 4608);
    from.close().await;
    to.close().await;
    assert_eq!(node.get("/healthz").0, 200, "a restart mends no damage");
}
