//! All parts of a node in one thread, on virtual time and a simulated disk: shard threads,
//! log thread, flush thread, pool and readers, stepped one after the other. What is slow or
//! full is so because the test says it.

use chat_core::message::Now;
use chat_wire::{error::Code, limits::Limits};
use logstore::storage::simulated::SimulatedDisk;
use proptest::prelude::*;

use super::*;
use crate::shards::{room::Room, thread::ToThread};

const SHARDS: u16 = 4;
/// Passes in which whatever the node waits for has come: a virtual millisecond each.
const SOON: usize = 20_000;

struct Stepped {
    disk: SimulatedDisk,
    budget_files: u64,
    parts: Parts,
    sessions: Arc<Sessions>,
    now: Now,
    /// The flush thread is at work.
    flushes: bool,
    /// The pool thread is.
    prepares: bool,
}

fn options(budget_files: u64) -> engine::Options {
    engine::Options {
        file_bytes: 512 << 10,
        budget_bytes: budget_files * (512 << 10),
        stop_free_bytes: 256 << 10,
        resume_free_bytes: 512 << 10,
        log_id: 9,
        ..engine::Options::default()
    }
}

fn parts(disk: &SimulatedDisk, budget_files: u64, flush_bytes: u64) -> (Parts, Arc<Sessions>) {
    let node = NodeId(7);
    let config = Config {
        storage: Arc::new(disk.clone()),
        engine: options(budget_files),
        segments: SegmentOptions::default(),
        cache_bytes: 1 << 20,
        node,
        threads: 2,
        shards: SHARDS,
        host: HostSettings {
            flush_bytes,
            limits: Limits {
                frame_bytes: 66_000,
                group_members: 2,
                ..Limits::default()
            },
            ..HostSettings::new(node, 3, Arc::new(ShardMap::even(SHARDS)))
        },
        trace_log_writes: None,
        panicked: Vec::new(),
        watch: Watch::new(|ended| eprintln!("{ended}")),
    };
    let sessions = Arc::new(Sessions::new(Bounds::default()));
    let parts = Parts::new(config, Arc::clone(&sessions), Arc::new(Metrics::new())).unwrap();
    (parts, sessions)
}

impl Stepped {
    fn new(budget_files: u64) -> Self {
        Self::on(SimulatedDisk::new(), budget_files, clock::now())
    }

    fn on(disk: SimulatedDisk, budget_files: u64, now: Now) -> Self {
        let (parts, sessions) = parts(&disk, budget_files, 16 << 20);
        let mut node = Self {
            disk,
            budget_files,
            parts,
            sessions,
            now,
            flushes: true,
            prepares: true,
        };
        node.run(50);
        node
    }

    /// The process is killed and started again.
    fn restart(self) -> Self {
        self.restart_after(|_| {})
    }

    /// The same, with something done to the disk between.
    fn restart_after(self, change: impl FnOnce(&SimulatedDisk)) -> Self {
        let Self {
            disk,
            budget_files,
            parts,
            now,
            ..
        } = self;
        drop(parts);
        disk.kill();
        change(&disk);
        Self::on(disk, budget_files, now)
    }

    /// Every part does what it can once.
    fn pass(&mut self) {
        let Parts {
            shards,
            threads,
            log_thread,
            log,
            flusher,
            pool_queue,
            readers_queue,
        } = &mut self.parts;
        for thread in threads.iter_mut() {
            for _ in 0..1024 {
                let Ok(event) = thread.queue.try_recv() else {
                    break;
                };
                thread.take(self.now, event);
            }
            thread.step(self.now);
        }
        log_thread.step(self.now.mono_ms, None).unwrap();
        if self.prepares
            && let Ok(job) = pool_queue.try_recv()
        {
            log.send(ToLog::Prepared(job.run())).unwrap();
        }
        let asked = self.flushes.then(|| flusher.queue.try_recv().ok());
        assert!(flusher.step(self.now.mono_ms, asked.flatten()));
        while let Ok(warm) = readers_queue.try_recv() {
            readers::read(warm, &shards.shared);
        }
        self.now.mono_ms += 1;
        self.now.unix_ms += 1;
        assert_eq!(shards.shared.failure.get(), None);
    }

    fn run(&mut self, passes: usize) {
        for _ in 0..passes {
            self.pass();
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..SOON {
            if done(self) {
                return;
            }
            self.pass();
        }
        panic!("{what}: not within {SOON} virtual ms");
    }

    /// Connects until it is let in.
    fn attach(&mut self, name: &str) -> (Registration, Attached) {
        for _ in 0..200 {
            if let Some(attached) = self.try_attach(name) {
                return attached;
            }
            self.run(100);
        }
        panic!("{name} is not let in: {:?}", self.status());
    }

    fn try_attach(&mut self, name: &str) -> Option<(Registration, Attached)> {
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
            resume: None,
            encoding: Encoding::Proto,
            event_credits: 0,
            foreground: false,
        };
        self.submit(user.0, Request::Attach(attach));
        for _ in 0..SOON {
            match registration.mailbox().take() {
                Some(ToSession::Attached(attached)) => return Some((registration, attached)),
                Some(ToSession::Close(refusal)) => {
                    assert!(refusal.code.retryable(), "{refusal:?}");
                    return None;
                }
                Some(other) => panic!("{other:?}"),
                None => self.pass(),
            }
        }
        panic!("{name} hears nothing: {:?}", self.status());
    }

    fn submit(&self, conversation: u64, request: Request) {
        let map = self.parts.shards.map();
        let to = chat_wire::ids::ConversationId(conversation);
        let shard = router::of_conversation(&map, to);
        self.parts
            .shards
            .submit(ToShard { shard, request })
            .unwrap();
    }

    fn send(&self, from: &Registration, to: &str, number: u32, bytes: usize) {
        let (sender, to_id) = (UserId::of("default", "ann"), UserId::of("default", to));
        let mut id = *uuid::Uuid::now_v7().as_bytes();
        id[12..].copy_from_slice(&number.to_be_bytes());
        let send = command::Send {
            app: "default".into(),
            sender: sender.0,
            sender_name: "ann".into(),
            client_id: Bytes::copy_from_slice(&ClientId(id).0),
            to: to_id.0,
            to_name: Some(to.into()),
            digest: u64::from(number),
            ..Default::default()
        };
        let body = body::seal(body::SCHEME_MESSAGE, [1; 16], &vec![7; bytes]);
        let origin = Origin {
            session: from.mailbox().session(),
            req: number,
        };
        let request = Request::Send {
            origin,
            send: Box::new(send),
            body,
        };
        self.submit(to_id.0, request);
    }

    /// What is lent, proposed and not written, or neither: at rest it is what the log says.
    fn room(&self) -> (i64, Room) {
        let room = self.parts.log_thread.room();
        (self.parts.shards.shared.room.lendable(), room)
    }

    fn status(&self) -> Vec<chat_core::host::ShardStatus> {
        let threads = self.parts.threads.iter();
        let mut all: Vec<_> = threads.flat_map(|thread| thread.host.status()).collect();
        all.sort_by_key(|status| status.shard);
        all
    }

    fn disk_is_full(&self) -> bool {
        self.parts.shards.shared.disk_full.load(Ordering::Acquire)
    }

    /// Sends until it is accepted, as a client does.
    fn accepted(&mut self, from: &Registration, to: &str, number: u32, bytes: usize) {
        for attempt in 0..200 {
            self.send(from, to, number + attempt, bytes);
            for _ in 0..SOON {
                match from.mailbox().take() {
                    Some(ToSession::Sent { req, .. }) if req == number + attempt => return,
                    Some(ToSession::Refused { req, refusal, .. }) if req == number + attempt => {
                        assert!(refusal.code.retryable(), "{refusal:?}");
                        break;
                    }
                    Some(_) => {}
                    None => self.pass(),
                }
            }
            self.run(100);
        }
        panic!("nothing is accepted any more: {:?}", self.status());
    }
}

/// (Answers SENT, codes of refusals) that have come.
fn answers(from: &Registration) -> (usize, Vec<Code>) {
    let (mut sent, mut refused) = (0, Vec::new());
    while let Some(message) = from.mailbox().take() {
        match message {
            ToSession::Sent { .. } => sent += 1,
            ToSession::Refused { refusal, .. } => refused.push(refusal.code),
            _ => {}
        }
    }
    (sent, refused)
}

/// Held entries kept the flush that was to free their room: every later SEND was DISK_FULL,
/// with a disk that is nearly empty.
#[test]
fn a_log_full_of_what_one_session_sent_is_overloaded_and_gets_out_again() {
    let mut node = Stepped::new(6);
    let (ann, _) = node.attach("ann");
    node.flushes = false;
    for number in 0..200 {
        node.send(&ann, &format!("user{}", number % 20), number, 30_000);
        node.pass();
    }
    node.run(3_000);
    let (sent, refused) = answers(&ann);
    assert!(sent > 20, "{sent}");
    assert_eq!(sent + refused.len(), 200);
    assert!(
        refused.iter().all(|code| *code == Code::Overloaded),
        "{refused:?}"
    );
    assert!(!node.disk_is_full());
    // The flush is an entry, and is in the log already: only the flush thread is late.
    assert!(node.status().iter().any(|shard| shard.flushed == 0));
    node.flushes = true;
    node.accepted(&ann, "user1", 1_000, 30_000);
    node.run(5_000);
    let (lendable, room) = node.room();
    assert_eq!(lendable, room.ready_bytes, "nothing of the room is lost");
}

/// A log without room stayed so after every restart.
#[test]
fn a_node_that_was_killed_with_its_log_full_gets_out_at_the_next_start() {
    let mut node = Stepped::new(6);
    let (ann, _) = node.attach("ann");
    node.flushes = false;
    for number in 0..200 {
        node.send(&ann, &format!("user{}", number % 20), number, 30_000);
        node.pass();
    }
    node.run(3_000);
    let mut node = node.restart();
    let (ann, _) = node.attach("ann");
    node.accepted(&ann, "user1", 1_000, 30_000);
}

/// Entries that were held because the log was full were told as durable.
#[test]
fn what_the_full_disk_does_not_take_is_told_to_nobody() {
    let mut node = Stepped::new(6);
    node.run(2_000);
    node.prepares = false;
    node.flushes = false;
    node.disk.set_capacity(Some(node.disk.used()));
    // Until not even the reserve has a file, nor the one that is written any room.
    let key = node.parts.threads[0].replicas[&ShardId(0)];
    for _ in 0..4 * 128 {
        let compacted = ToLog::Compacted {
            key,
            position: 0,
            term: 0,
        };
        node.parts.log.send(compacted).unwrap();
        node.pass();
    }
    assert!(node.disk_is_full());
    let log = node.parts.log_thread.stats();
    let state = logstore::log_index::HardState {
        term: 1,
        vote: 0,
        commit: 1,
    };
    let appends = vec![engine::Append::HardState { key, state }];
    for ready in 1..=3 {
        let commit = commit::Commit {
            thread: 0,
            appends: appends.clone(),
            readies: vec![(ShardId(0), ready)],
        };
        node.parts.log.send(ToLog::Commit(commit)).unwrap();
        node.parts.log_thread.step(0, None).unwrap();
    }
    let told = |node: &Stepped| {
        let told = node.parts.threads[0].queue.try_iter();
        let readies = told.filter_map(|event| match event {
            ToThread::Persisted(readies) => Some(readies),
            _ => None,
        });
        readies
            .flatten()
            .map(|(_, ready)| ready)
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&node), [0; 0]);
    assert_eq!(node.parts.log_thread.stats().last_lsn, log.last_lsn);
    // With room, each of them once and in order.
    node.disk.set_capacity(None);
    node.parts.log_thread.step(0, None).unwrap();
    assert_eq!(told(&node), [1, 2, 3]);
}

/// Whose flush found the disk full was never told to try again.
#[test]
fn a_flush_that_found_the_disk_full_is_done_when_there_is_room() {
    let mut node = Stepped::new(8);
    let (ann, _) = node.attach("ann");
    for number in 0..20 {
        node.send(&ann, "bob", number, 30_000);
        node.pass();
    }
    node.run(2_000);
    let bobs = router::of_user(&node.parts.shards.map(), UserId::of("default", "bob"));
    let flushed = |node: &Stepped| node.status()[usize::from(bobs.0)].flushed;
    let before = flushed(&node);
    node.disk.set_capacity(Some(node.disk.used()));
    node.parts.shards.shared.want_flush(bobs);
    node.run(3_500);
    assert_eq!(flushed(&node), before);
    node.disk.set_capacity(None);
    node.until("the flush is tried again", |node| flushed(node) > before);
}

/// Replicas that were down for their segment were neither flushed nor copied forward: the
/// oldest log file stayed, and soon nobody could write.
#[test]
fn one_shard_with_a_bad_segment_does_not_stop_the_writes_of_the_node() {
    let mut node = Stepped::new(6);
    let (ann, _) = node.attach("ann");
    let shard = |node: &Stepped, name: &str| {
        router::of_user(&node.parts.shards.map(), UserId::of("default", name))
    };
    let bobs = shard(&node, "bob");
    assert_ne!(bobs, shard(&node, "ann"));
    let mut names = (0..100).map(|number| format!("user{number}"));
    let other = names.find(|name| shard(&node, name) != bobs).unwrap();
    node.accepted(&ann, "bob", 1, 1_000);
    node.parts.shards.shared.want_flush(bobs);
    node.until("the flush", |node| {
        node.status()[usize::from(bobs.0)].flushed > 0
    });
    node.accepted(&ann, "bob", 1_000, 1_000);
    node.run(1_000);
    let mut node = node.restart_after(|disk| {
        let prefix = format!("segments/{:04}-", bobs.0);
        let files = disk.files();
        let file = files.iter().find(|file| file.starts_with(&prefix)).unwrap();
        let len = disk.bytes(file).unwrap().len();
        disk.flip(file, len - 50, 1).unwrap();
    });
    assert_eq!(node.parts.shards.shared.down().len(), 1);
    let (ann, _) = node.attach("ann");
    // Several times what the log holds.
    for number in 0..400 {
        node.accepted(&ann, &other, 1_000 * (number + 2), 30_000);
    }
}

/// A shard whose older segment could not be read stayed as it was, and kept the log.
#[test]
fn a_shard_that_cannot_be_flushed_stops_and_the_others_go_on() {
    let mut node = Stepped::new(6);
    let (ann, _) = node.attach("ann");
    let bobs = router::of_user(&node.parts.shards.map(), UserId::of("default", "bob"));
    let anns = router::of_user(&node.parts.shards.map(), UserId::of("default", "ann"));
    let mut names = (0..100).map(|number| format!("user{number}"));
    let other = names.find(|name| {
        let shard = router::of_user(&node.parts.shards.map(), UserId::of("default", name));
        shard != bobs && shard != anns
    });
    assert_ne!(bobs, anns);
    node.send(&ann, "bob", 1, 1_000);
    node.run(500);
    let reason = "a block of it is damaged".to_owned();
    let shared = Arc::clone(&node.parts.shards.shared);
    shared.send_to_thread(shared.thread_of(bobs), ToThread::CannotFlush(bobs, reason));
    node.run(10);
    assert!(node.status()[usize::from(bobs.0)].stopped.is_some());
    assert_eq!(shared.down().len(), 1);
    // Several times what the log holds.
    let other = other.unwrap();
    for number in 0..400 {
        node.accepted(&ann, &other, 1_000 * (number + 1), 30_000);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// So many SENDs of so many bytes, spread over so many users.
    Sends(u32, usize, u32),
    Pass(usize),
    /// The flush thread works, or does not.
    Flushes(bool),
    /// So many bytes are free, or all that is wanted.
    Disk(Option<u64>),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![3 => 1..1_000_usize, 2 => 20_000..60_000_usize];
    let step = prop_oneof![
        6 => (1..80_u32, bytes, 1..40_u32).prop_map(|(n, bytes, users)| Step::Sends(n, bytes, users)),
        4 => (1..1_500_usize).prop_map(Step::Pass),
        2 => any::<bool>().prop_map(Step::Flushes),
        2 => prop::option::of(0..3_000_000_u64).prop_map(Step::Disk),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_node_always_gets_out_again_by_itself(budget_files in 6..10_u64, steps in steps()) {
        let mut node = Stepped::new(budget_files);
        let mut ann = Some(node.attach("ann").0);
        let (mut number, mut sent) = (0, 0);
        for step in steps {
            match step {
                Step::Sends(count, bytes, users) => {
                    for _ in 0..count {
                        number += 1;
                        let to = format!("user{}", number % users);
                        if let Some(ann) = &ann {
                            node.send(ann, &to, number, bytes);
                        }
                        node.pass();
                    }
                }
                Step::Pass(passes) => node.run(passes),
                Step::Flushes(works) => node.flushes = works,
                Step::Disk(free) => {
                    let capacity = free.map(|free| node.disk.used() + free);
                    node.disk.set_capacity(capacity);
                }
                Step::Restart => {
                    let from = ann.take();
                    sent += from.map_or(0, |from| answers(&from).0);
                    // A process that starts on a full disk may have to wait for its files.
                    node.disk.set_capacity(None);
                    node = node.restart();
                    ann = Some(node.attach("ann").0);
                }
            }
        }
        // The disk has room, and all parts work.
        node.disk.set_capacity(None);
        node.flushes = true;
        let ann = match ann {
            Some(ann) => ann,
            None => node.attach("ann").0,
        };
        node.run(1_500);
        sent += answers(&ann).0;
        for user in 0..20 {
            number += 1_000;
            node.accepted(&ann, &format!("user{user}"), number, 30_000);
            sent += 1;
        }
        node.run(5_000);
        sent += answers(&ann).0;
        prop_assert!(!node.disk_is_full());
        let (lendable, room) = node.room();
        prop_assert_eq!(lendable, room.ready_bytes, "nothing of the room is lost");
        for shard in node.status() {
            prop_assert!(shard.serves && shard.outbox_entries == 0, "{:?}", shard);
        }
        // What was told as durable is there after a restart.
        let mut node = node.restart();
        let inbox = node.attach("ann").1.inbox_head;
        prop_assert!(inbox >= sent as u64, "{} copies of {} SENT", inbox, sent);
    }
}
