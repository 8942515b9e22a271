//! A disk that is full, and one that fills: a small one of its own, which only root can
//! mount; for others these tests are skipped, and say so.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::PathBuf,
    process::Command,
    time::Instant,
};

use chat_wire::{
    codec::Encoding,
    frame::{Body, Frame, HistoryGet},
    ids::UserId,
};
use tempfile::TempDir;

use crate::{
    client::{Client, hello, resume, text},
    node::{Node, PATIENCE, run_on},
};

const DISK_FULL: u32 = 602;
const OVERLOADED: u32 = 600;
/// Events in a page at most.
const PAGE: usize = 200;
/// The bytes of the disk.
const SIZE: &str = "size=96m";
/// Stop well before the end, as nodes do by default.
const THRESHOLDS: [&str; 5] = [
    "dev=true",
    "limits.sends_per_second=100000",
    "limits.sends_burst=100000",
    "log.stop_free_bytes=8388608",
    "log.resume_free_bytes=16777216",
];
/// Go on to the last byte.
const NO_THRESHOLDS: [&str; 3] = [
    "dev=true",
    "limits.sends_per_second=100000",
    "limits.sends_burst=100000",
];

/// A mounted tmpfs, gone when this is dropped.
struct Disk {
    at: TempDir,
}

impl Disk {
    /// None, and a line that `cargo xtask test` counts as skipped (as `chat_tests::skip`
    /// prints it, which stands above this crate), where it may not be mounted.
    fn mount(test: &str) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(at.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { at });
        }
        println!("SKIPPED: {test}: a small disk can be mounted by root only");
        None
    }

    /// A node's folder whose data directory is on this disk.
    fn folder(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(self.data()).unwrap();
        std::os::unix::fs::symlink(self.data(), folder.path().join("data")).unwrap();
        folder
    }

    fn data(&self) -> PathBuf {
        self.at.path().join("data")
    }

    fn filler(&self) -> PathBuf {
        self.at.path().join("filler")
    }

    /// Takes all that is left.
    fn fill(&self) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(self.filler())
            .unwrap();
        // Large pieces, then what is left between them.
        for bytes in [1 << 20, 4096] {
            let piece = vec![7; bytes];
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Gives all but some bytes of it back.
    fn make_room(&self, filler_bytes: u64) {
        let file = File::options().write(true).open(self.filler()).unwrap();
        file.set_len(filler_bytes).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the node may be gone a moment later.
        let unmounted = Command::new("umount")
            .arg("-l")
            .arg(self.at.path())
            .status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.at.path().display());
        }
    }
}

/// Says that the disk is full, as a retryable error.
fn is_full(body: &Body) -> bool {
    match body {
        Body::Error(error) if error.code == DISK_FULL => {
            assert!(
                error.retryable && error.message.contains("disk is full"),
                "{error:?}"
            );
            true
        }
        Body::Sent(_) => false,
        other => panic!("{other:?}"),
    }
}

/// Sends numbered texts to bob, each again and again until it is accepted, as a client does.
#[derive(Default)]
struct Texts {
    /// What was accepted.
    sent: Vec<String>,
    /// What was refused, and comes again under its id.
    refused: Option<(String, Frame)>,
    /// Appended to each.
    filling: String,
}

impl Texts {
    /// Sends the next one, or the one that was refused. True if it was accepted.
    async fn send(&mut self, from: &mut Client) -> bool {
        let (next, frame) = self.refused.take().unwrap_or_else(|| {
            let next = format!("number {} {}", self.sent.len(), self.filling);
            let frame = text(7, "bob", &next);
            (next, frame)
        });
        let began = Instant::now();
        let answer = loop {
            from.send(&frame).await;
            let answer = from.answer(7).await;
            // The log still holds what the full disk kept from being flushed.
            if !matches!(&answer, Body::Error(error) if error.code == OVERLOADED) {
                break answer;
            }
            assert!(began.elapsed() < PATIENCE, "the log gets no room again");
        };
        let accepted = !is_full(&answer);
        if accepted {
            self.sent.push(next);
        } else {
            self.refused = Some((next, frame));
        }
        accepted
    }

    /// Reads on until there is all that was accepted, in order and once. What was refused
    /// may be there already: it was on its way when the disk became full.
    async fn all_arrive(&self, to: &mut Client, read: &mut Vec<String>) {
        let missing = self.sent.len().saturating_sub(read.len());
        read.append(&mut to.texts(missing).await);
        let (accepted, more) = read.split_at(self.sent.len());
        assert!(
            accepted == self.sent,
            "what was read is not what was accepted"
        );
        let refused = self.refused.iter().map(|(text, _)| text);
        assert!(more.iter().eq(refused.take(more.len())), "{more:?}");
    }

    async fn send_until_full(&mut self, from: &mut Client) {
        let began = Instant::now();
        while self.send(from).await {
            assert!(
                began.elapsed() < PATIENCE,
                "the disk is full and nothing is refused"
            );
        }
    }

    async fn send_until_accepted(&mut self, from: &mut Client) {
        let began = Instant::now();
        while !self.send(from).await {
            assert!(
                began.elapsed() < PATIENCE,
                "there is room and nothing is accepted"
            );
        }
    }
}

/// How many events a person has of a conversation, at most a page of them.
async fn history(of: &mut Client, with: &str) -> usize {
    let get = HistoryGet {
        conversation: UserId::of("default", with).0,
        limit: 200,
        ..HistoryGet::default()
    };
    of.send(&Frame::new(8, Body::History(get))).await;
    match of.answer(8).await {
        Body::HistoryPage(page) => page.events.len(),
        other => panic!("{other:?}"),
    }
}

/// How a session of somebody new ends while the disk is full.
async fn stranger(node: &Node) -> u16 {
    let mut client = Client::connect(node, Encoding::Proto, false).await;
    client.send(&hello("dev:stranger")).await;
    client.closed().await.code
}

#[test]
fn a_new_data_directory_on_a_full_disk_is_refused_and_says_so() {
    let Some(disk) = Disk::mount("a_new_data_directory_on_a_full_disk_is_refused_and_says_so")
    else {
        return;
    };
    let folder = disk.folder();
    let data = folder.path().join("data");
    disk.fill();
    // No byte is left; then room for the node's own files, and none for a log.
    let filled = fs::metadata(disk.filler()).unwrap().len();
    for room in [0, 1 << 20] {
        disk.make_room(filled - room);
        let (code, said) = run_on(&data, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("disk") && said.contains(" full") && said.contains("/data"),
            "{said}"
        );
    }
    // What the tries have left behind does not matter.
    disk.make_room(0);
    drop(Node::start_in(folder, &["dev=true"]));
}

#[tokio::test]
async fn while_the_disk_is_full_sends_are_refused_reads_are_served_and_nothing_is_lost() {
    let Some(disk) = Disk::mount(
        "while_the_disk_is_full_sends_are_refused_reads_are_served_and_nothing_is_lost",
    ) else {
        return;
    };
    let node = Node::start_in(disk.folder(), &THRESHOLDS);
    let mut alice = Client::hello(&node, "alice").await;
    let mut bob = Client::hello(&node, "bob").await;
    let mut texts = Texts::default();
    for _ in 0..3 {
        assert!(texts.send(&mut alice).await);
    }
    texts.all_arrive(&mut bob, &mut Vec::new()).await;
    disk.fill();
    texts.send_until_full(&mut alice).await;
    node.until(|| node.get("/v1/cluster").1.contains("\"disk_full\":true"));
    // Open sessions read, and so do those who come again; somebody new waits.
    // The copies of one's own come by the outbox, and the last may wait for room.
    assert!(history(&mut alice, "bob").await >= 3);
    assert!(history(&mut bob, "alice").await >= texts.sent.len().min(PAGE));
    bob.close().await;
    let mut bob = Client::resume(&node, "bob").await;
    let mut read = Vec::new();
    texts.all_arrive(&mut bob, &mut read).await;
    assert_eq!(stranger(&node).await, 4602);
    assert_eq!(node.get("/healthz").0, 200, "a restart makes no room");
    // Tried again, it is refused again.
    assert!(!texts.send(&mut alice).await);

    disk.make_room(0);
    texts.send_until_accepted(&mut alice).await;
    assert!(texts.send(&mut alice).await, "and so is the next");
    texts.all_arrive(&mut bob, &mut read).await;
    assert_eq!(
        Client::hello(&node, "stranger").await.close().await.code,
        1000
    );
    node.until(|| node.get("/v1/cluster").1.contains("\"disk_full\":false"));

    let node = Node::start_in(node.kill(), &THRESHOLDS);
    let mut bob = Client::resume(&node, "bob").await;
    texts.all_arrive(&mut bob, &mut Vec::new()).await;
}

#[tokio::test]
async fn a_node_starts_on_a_full_disk_and_serves_reads() {
    let Some(disk) = Disk::mount("a_node_starts_on_a_full_disk_and_serves_reads") else {
        return;
    };
    let node = Node::start_in(disk.folder(), &THRESHOLDS);
    let mut alice = Client::hello(&node, "alice").await;
    Client::hello(&node, "bob").await.close().await;
    let mut texts = Texts::default();
    for _ in 0..20 {
        assert!(texts.send(&mut alice).await);
    }
    let folder = node.kill();
    // Not even the number of the process that had it before is left to be overwritten.
    File::create(disk.data().join("LOCK")).unwrap();
    disk.fill();
    // A start that uses something up would not work a second time.
    let mut folder = Some(folder);
    for _ in 0..3 {
        let node = Node::start_in(folder.take().unwrap(), &THRESHOLDS);
        let mut bob = Client::resume(&node, "bob").await;
        texts.all_arrive(&mut bob, &mut Vec::new()).await;
        assert_eq!(history(&mut bob, "alice").await, texts.sent.len());
        let mut alice = Client::hello(&node, "alice").await;
        texts.send_until_full(&mut alice).await;
        assert_eq!(stranger(&node).await, 4602);
        folder = Some(node.kill());
    }
    let node = Node::start_in(folder.take().unwrap(), &THRESHOLDS);
    let mut alice = Client::hello(&node, "alice").await;
    disk.make_room(0);
    texts.send_until_accepted(&mut alice).await;
    let mut bob = Client::resume(&node, "bob").await;
    texts.all_arrive(&mut bob, &mut Vec::new()).await;
}

#[tokio::test]
async fn a_disk_that_is_full_to_the_last_byte_refuses_what_does_not_fit_and_takes_it_later() {
    let Some(disk) = Disk::mount(
        "a_disk_that_is_full_to_the_last_byte_refuses_what_does_not_fit_and_takes_it_later",
    ) else {
        return;
    };
    let node = Node::start_in(disk.folder(), &NO_THRESHOLDS);
    let mut alice = Client::hello(&node, "alice").await;
    Client::hello(&node, "bob").await.close().await;
    let mut texts = Texts {
        filling: "x".repeat(60_000),
        ..Texts::default()
    };
    disk.fill();
    // Until the log has used up what it had prepared.
    texts.send_until_full(&mut alice).await;
    let accepted = texts.sent.len();
    assert!(accepted > 10, "{accepted}");
    assert_ne!(history(&mut alice, "bob").await, 0);
    disk.make_room(0);
    texts.send_until_accepted(&mut alice).await;

    // Once more, with a crash while it is full.
    disk.fill();
    texts.send_until_full(&mut alice).await;
    let node = Node::start_in(node.kill(), &NO_THRESHOLDS);
    let mut bob = reader(&node).await;
    let mut read = Vec::new();
    texts.all_arrive(&mut bob, &mut read).await;
    disk.make_room(0);
    let mut alice = Client::hello(&node, "alice").await;
    texts.send_until_accepted(&mut alice).await;
    // Once, however often it was refused.
    assert!(texts.send(&mut alice).await, "and so is the next");
    texts.all_arrive(&mut bob, &mut read).await;
}

/// A session of bob that asks for everything, as soon as one is let in: a node that goes on
/// to the last byte finds out by trying that there is none.
async fn reader(node: &Node) -> Client {
    let began = Instant::now();
    loop {
        let mut client = Client::connect(node, Encoding::Proto, false).await;
        client.send(&resume("bob")).await;
        match client.next().await {
            Ok(frame) if matches!(frame.body, Some(Body::Welcome(_))) => return client,
            Ok(frame) => assert!(is_full(&frame.body.unwrap())),
            Err(closed) => assert_eq!(closed.code, 4602),
        }
        assert!(began.elapsed() < PATIENCE, "nobody is let in");
    }
}
