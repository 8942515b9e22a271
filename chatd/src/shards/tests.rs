use std::{path::Path, time::Instant};

use bytes::Bytes;
use chat_core::{
    command,
    message::{Attach, Attached, HistoryFrom, Identity, Origin, Read, Request, Resume, ToSession},
    placement::map::ShardMap,
    router,
};
use chat_wire::{
    body,
    codec::Encoding,
    frame,
    ids::{ClientId, DeviceId, MsgId, UserId},
};
use logstore::storage::{disk::Disk, simulated::SimulatedDisk};
use prost::Message as _;

use super::*;
use crate::edge::outbound::{Bounds, Registration};

const LONG: Duration = Duration::from_secs(20);

struct Node {
    shards: Shards,
    join: Join,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
}

fn start(dir: &Path) -> Node {
    start_with(dir, 64 * 1024)
}

fn start_with(dir: &Path, flush_bytes: u64) -> Node {
    ready(open(dir, flush_bytes))
}

fn ready(node: Node) -> Node {
    let started = Instant::now();
    while !node.shards.status().ready {
        assert!(
            started.elapsed() < LONG,
            "not ready: {:?}",
            node.shards.status()
        );
    }
    node
}

mod stepped;

fn engine_options() -> engine::Options {
    engine::Options {
        file_bytes: 2 << 20,
        budget_bytes: 16 << 20,
        stop_free_bytes: 0,
        resume_free_bytes: 0,
        log_id: 9,
        ..engine::Options::default()
    }
}

fn open(dir: &Path, flush_bytes: u64) -> Node {
    open_on(Arc::new(Disk::new(dir).unwrap()), flush_bytes)
}

fn open_on(storage: Arc<dyn Storage>, flush_bytes: u64) -> Node {
    let node = NodeId(7);
    let map = Arc::new(ShardMap::even(4));
    let config = Config {
        storage,
        engine: engine_options(),
        segments: SegmentOptions::default(),
        cache_bytes: 1 << 20,
        node,
        threads: 2,
        shards: 4,
        host: HostSettings {
            flush_bytes,
            ..HostSettings::new(node, 3, map)
        },
        trace_log_writes: None,
        panicked: Vec::new(),
        watch: Watch::new(|ended| eprintln!("{ended}")),
    };
    let sessions = Arc::new(Sessions::new(Bounds::default()));
    let metrics = Arc::new(Metrics::new());
    let (shards, join) =
        Shards::start(config, Arc::clone(&sessions), Arc::clone(&metrics)).unwrap();
    Node {
        shards,
        join,
        sessions,
        metrics,
    }
}

impl Node {
    fn submit(&self, conversation: u64, request: Request) {
        let shard = router::of_conversation(
            &self.shards.map(),
            chat_wire::ids::ConversationId(conversation),
        );
        self.shards.submit(ToShard { shard, request }).unwrap();
    }

    fn attach(&self, name: &str, resume: Option<u64>) -> (Registration, Attached) {
        let resume = resume.map(|inbox_seq| Resume {
            inbox_seq,
            marks_version: 0,
            generation: 0,
        });
        self.attach_from(name, resume)
    }

    fn attach_from(&self, name: &str, resume: Option<Resume>) -> (Registration, Attached) {
        let registration = self.sessions.open();
        let user = UserId::of("default", name);
        let attach = Attach {
            session: registration.mailbox().session(),
            identity: Identity {
                app: "default".into(),
                name: name.into(),
                user,
                device: None,
                expires_ms: u64::MAX,
            },
            device: DeviceId(1),
            resume,
            encoding: Encoding::Proto,
            event_credits: 10_000,
            foreground: true,
        };
        self.submit(user.0, Request::Attach(attach));
        match next(&registration) {
            ToSession::Attached(attached) => (registration, attached),
            other => panic!("{other:?}"),
        }
    }

    fn send(&self, from: &Registration, sender: &str, to: &str, number: u32) {
        let (sender_id, to_id) = (UserId::of("default", sender), UserId::of("default", to));
        let mut id = *uuid::Uuid::now_v7().as_bytes();
        id[12..].copy_from_slice(&number.to_be_bytes());
        let message = frame::Message {
            content: Some(frame::Content {
                kind: Some(frame::content::Kind::Text(format!(
                    "message {number} {}",
                    "x".repeat(300)
                ))),
            }),
            client_msg_id: Bytes::copy_from_slice(&id),
            ..Default::default()
        };
        let send = command::Send {
            app: "default".into(),
            sender: sender_id.0,
            sender_name: sender.into(),
            client_id: Bytes::copy_from_slice(&ClientId(id).0),
            to: to_id.0,
            to_name: Some(to.into()),
            digest: u64::from(number),
            ..Default::default()
        };
        let body = body::seal(body::SCHEME_MESSAGE, [1; 16], &message.encode_to_vec());
        let origin = Origin {
            session: from.mailbox().session(),
            req: number,
        };
        self.submit(
            to_id.0,
            Request::Send {
                origin,
                send: Box::new(send),
                body,
            },
        );
    }
}

fn next(registration: &Registration) -> ToSession {
    let started = Instant::now();
    loop {
        if let Some(message) = registration.mailbox().take() {
            return message;
        }
        assert!(started.elapsed() < LONG, "nothing came");
        std::thread::yield_now();
    }
}

/// Takes messages until `count` events came; what else comes must be SENT or RECEIPT.
fn events(registration: &Registration, count: usize) -> Vec<chat_wire::event::Event> {
    let mut found = Vec::new();
    while found.len() < count {
        match next(registration) {
            ToSession::Events(mut events) => found.append(&mut events),
            ToSession::Sent { .. } | ToSession::Signal(_) => {}
            other => panic!("{other:?}"),
        }
    }
    found
}

#[test]
fn messages_go_through_raft_log_and_segments_and_survive_a_restart() {
    const COUNT: u32 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let (alice, _) = node.attach("alice", None);
    let (bob, _) = node.attach("bob", None);
    for number in 1..=COUNT {
        node.send(&alice, "alice", "bob", number);
    }
    let live = events(&bob, COUNT as usize);
    let copies = events(&alice, COUNT as usize);
    assert!(
        live.iter()
            .zip(1..)
            .all(|(event, seq)| event.inbox_seq == seq)
    );
    assert!(copies.iter().zip(&live).all(|(copy, event)| {
        copy.header.msg_id == event.header.msg_id && copy.body.content == event.body.content
    }));
    let started = Instant::now();
    let bobs = router::of_user(&node.shards.map(), UserId::of("default", "bob"));
    while node.shards.status().shards[usize::from(bobs.0)].flushed == 0 {
        assert!(started.elapsed() < LONG, "nothing was flushed");
    }
    node.join.stop();

    let node = start(dir.path());
    let (bob, attached) = node.attach("bob", Some(0));
    assert_eq!(attached.inbox_head, u64::from(COUNT));
    assert_eq!(events(&bob, COUNT as usize), live);
    node.join.stop();
}

#[test]
fn a_walk_reads_every_event_and_finds_none_missing() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let (alice, _) = node.attach("alice", None);
    let (bob, _) = node.attach("bob", None);
    for number in 1..=300 {
        node.send(&alice, "alice", "bob", number);
    }
    events(&bob, 300);
    events(&alice, 300);
    let mut total = WalkPage::default();
    for shard in node.shards.walk_order() {
        let mut next = Some(WalkRequest {
            shard,
            inbox: 0,
            inbox_seq: 1,
        });
        while let Some(request) = next {
            let page = node.shards.walk_page(request).unwrap();
            total.inboxes += page.inboxes;
            total.events += page.events;
            total.lost += page.lost;
            next = page.next;
        }
    }
    assert_eq!((total.inboxes, total.events, total.lost), (2, 600, 0));
    node.join.stop();
}

/// Flips a byte of the stored text in whatever log file holds it first.
fn damage(dir: &Path, text: &str) {
    use std::os::unix::fs::FileExt as _;
    for entry in std::fs::read_dir(dir.join("wal")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes
            .windows(text.len())
            .position(|part| part == text.as_bytes());
        if let Some(at) = found {
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(b"?", at as u64).unwrap();
            return;
        }
    }
    panic!("no log file holds {text}");
}

#[test]
fn after_an_accepted_loss_the_generation_and_the_incarnation_are_new() {
    const COUNT: u32 = 50;
    const LOST: u32 = 30;
    let dir = tempfile::tempdir().unwrap();
    let node = start_with(dir.path(), 64 << 20);
    let (alice, _) = node.attach("alice", None);
    let (bob, before) = node.attach("bob", None);
    for number in 1..=COUNT {
        node.send(&alice, "alice", "bob", number);
        // One entry a message, so that the damage is in the middle.
        events(&bob, 1);
    }
    events(&alice, COUNT as usize);
    let bobs = router::of_user(&node.shards.map(), UserId::of("default", "bob"));
    node.join.stop();

    // The first copy in the log is the receiver's: the sender's follows from it.
    damage(dir.path(), &format!("message {LOST} "));
    let node = open(dir.path(), 64 << 20);
    let status = node.shards.status();
    assert_eq!(status.down.len(), 1, "{:?}", status.down);
    assert_eq!(status.down[0].shard, bobs.0);
    node.join.stop();

    let storage: Arc<dyn Storage> = Arc::new(Disk::new(dir.path()).unwrap());
    logstore::loss::accept_loss(Arc::clone(&storage), engine_options(), bobs.0).unwrap();
    assert_eq!(logstore::loss::pending(&*storage).unwrap(), [bobs.0]);

    let node = start_with(dir.path(), 64 << 20);
    let started = Instant::now();
    while !logstore::loss::pending(&*storage).unwrap().is_empty() {
        assert!(started.elapsed() < LONG, "the loss is not told");
    }
    let resume = Resume {
        inbox_seq: u64::from(COUNT),
        marks_version: 0,
        generation: before.generation,
    };
    let (bob, after) = node.attach_from("bob", Some(resume));
    assert_ne!(after.generation, before.generation);
    assert_eq!(after.inbox_head, u64::from(LOST - 1));
    assert!(
        matches!(after.resumed, chat_core::message::Resumed::Gap { .. }),
        "{after:?}"
    );
    // Its outbox has begun anew: the sender's shard takes what comes now.
    let (alice, copies) = node.attach("alice", None);
    node.send(&alice, "alice", "bob", COUNT + 1);
    assert_eq!(events(&bob, 1)[0].inbox_seq, u64::from(LOST));
    assert_eq!(events(&alice, 1)[0].inbox_seq, copies.inbox_head + 1);
    node.join.stop();
}

/// A page of the newest messages of bob with alice.
fn history(node: &Node, bob: &Registration, req: u32) -> frame::HistoryPage {
    let [alice, user] = ["alice", "bob"].map(|name| UserId::of("default", name));
    let request = Request::Read {
        origin: Origin {
            session: bob.mailbox().session(),
            req,
        },
        user,
        read: Read::History {
            conversation: alice.into(),
            from: HistoryFrom::Before(MsgId(0)),
            limit: 50,
        },
    };
    node.submit(user.0, request);
    loop {
        match next(bob) {
            ToSession::Answer {
                req: answered,
                body: frame::Body::HistoryPage(page),
            } if answered == req => return page,
            ToSession::Sent { .. } | ToSession::Signal(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_not_in_memory_is_read_by_the_readers_and_not_by_the_shards_thread() {
    const COUNT: u32 = 1_000;
    let disk = SimulatedDisk::new();
    let node = ready(open_on(Arc::new(disk.clone()), 64 * 1024));
    let (alice, _) = node.attach("alice", None);
    let (bob, _) = node.attach("bob", None);
    for number in 1..=COUNT {
        node.send(&alice, "alice", "bob", number);
    }
    let live = events(&bob, COUNT as usize);
    events(&alice, COUNT as usize);
    let bobs = router::of_user(&node.shards.map(), UserId::of("default", "bob"));
    let flushed = |node: &Node| node.shards.status().shards[usize::from(bobs.0)].flushed;
    let started = Instant::now();
    while flushed(&node) == 0 {
        assert!(started.elapsed() < LONG, "nothing was flushed");
    }
    node.join.stop();

    // No flush comes between: a new segment would be opened by whoever reads it first.
    let node = ready(open_on(Arc::new(disk.clone()), 64 << 20));
    let (bob, _) = node.attach("bob", None);
    let before = (disk.cold_reads().len(), node.metrics.cold_reads.get());
    disk.evict();
    let page = history(&node, &bob, 1);
    assert_eq!(page.events.len(), 50);
    assert!(page.more);
    let newest = live.iter().rev().map(|event| event.header.msg_id.0);
    assert!(
        page.events
            .iter()
            .map(|event| event.msg_id)
            .eq(newest.take(50))
    );

    // A device that has nothing yet: from its first row to the last event.
    disk.evict();
    let (second, _) = node.attach("bob", Some(0));
    assert_eq!(events(&second, COUNT as usize), live);

    let waited = disk.cold_reads().split_off(before.0);
    assert!(waited.len() > 10, "{waited:?}");
    assert!(
        !waited.iter().any(|read| read.thread.starts_with("shards-")),
        "{waited:?}"
    );
    // Of each kind one at least: the page, the device, a batch of events.
    assert!(node.metrics.cold_reads.get() >= before.1 + 3);
    assert_eq!(node.metrics.cold_reads_again.get(), 0);
    assert!(node.metrics.encode().contains("chatd_cold_reads_total "));
    node.join.stop();
}
