//! The shards of this node and the threads that own them.
//!
//! Shard threads step hosts; the log thread makes one write and one sync of what all
//! of them want durable; the flush thread writes segments; reader threads wait for what
//! of them is not in memory. Sessions reach them by
//! [`Shards::submit`], they reach sessions by [`Sessions::send`]: these two are the
//! border between the async world of sockets and the threads here.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions},
    io::BufWriter,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use chat_core::{
    command::MAX_ENTRY_BYTES,
    host::{Counters, Event, Host, HostSettings, Place, Trail, largest_entry_bytes},
    message::{ShardMessage, ToShard},
    placement::map::{SYSTEM, ShardMap},
};
use chat_wire::ids::{NodeId, ShardId};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use logstore::{
    engine::{self, PrepareFile},
    segment::SegmentOptions,
    shard::{Shard, ShardError},
    storage::{
        Storage,
        observed::{Observed, Observer},
    },
};
use tokio::sync::Notify;

use crate::{
    clock,
    edge::{connection::Hosts, outbound::Sessions},
    metrics::{self, Metrics},
    watch::{self, Role, Watch},
};

mod commit;
mod flusher;
mod log;
mod opening;
mod readers;
mod renewal;
mod room;
mod status;
mod thread;
mod walk;

pub use status::{DownShard, NodeStatus, ShardReport};
pub use walk::{EVENTS_A_PAGE, WalkPage, WalkRequest};

use commit::{LogThread, ToLog};
use flusher::Flusher;
use opening::Opened;
use room::SharedRoom;
use thread::{QUEUE_EVENTS, SESSION_EVENTS, SHARD_EVENTS, Thread, ToThread};

/// Requests that wait for the log thread. A shard thread that finds it full waits:
/// then the disk is what everything waits for.
const LOG_QUEUE: usize = 1024;
/// How long an answer of a shard thread is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the shards of a node are built from.
pub struct Config {
    /// The data directory.
    pub storage: Arc<dyn Storage>,
    /// How the log is laid out.
    pub engine: engine::Options,
    /// How segments are written.
    pub segments: SegmentOptions,
    /// Bytes of decompressed blocks that are kept.
    pub cache_bytes: usize,
    /// This node, drawn at its first start.
    pub node: NodeId,
    /// Shard threads.
    pub threads: usize,
    /// How many ranges the map has: taken at the first start only.
    pub shards: u16,
    /// What each host is told; `node` and `map` are filled in here.
    pub host: HostSettings,
    /// Where to write the size of each write of the log, a line each.
    pub trace_log_writes: Option<PathBuf>,
    /// Shards that have panicked again and again, and where: they stay down.
    pub panicked: Vec<Panicked>,
    /// Hears of the threads.
    pub watch: Arc<Watch>,
}

impl Config {
    fn observed(self) -> Self {
        Self {
            storage: Arc::new(Observed::new(self.storage, Arc::new(DiskCalls))),
            ..self
        }
    }
}

/// A shard that would panic again if it were stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked {
    /// Which.
    pub shard: u16,
    /// The position of its log at which it did.
    pub position: u64,
}

/// Why the shards of a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine refuses the data directory.
    #[error(transparent)]
    Engine(#[from] engine::OpenError),
    /// The log cannot be written.
    #[error("the log cannot be written: {0}")]
    Log(#[from] engine::LogError),
    /// The largest request, or all flushes, would not fit.
    #[error(transparent)]
    LogTooSmall(#[from] room::LogTooSmall),
    /// A shard's log and Raft do not fit.
    #[error(transparent)]
    Host(#[from] chat_core::host::HostError),
    /// A segment needs a newer version.
    #[error(transparent)]
    Segment(ShardError),
    /// A thread or a file could not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What the threads share.
pub(crate) struct Shared {
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    queues: Vec<Sender<ToThread>>,
    room: SharedRoom,
    disk_full: AtomicBool,
    stopping: AtomicBool,
    failed: AtomicBool,
    failure: OnceLock<String>,
    failure_told: Notify,
    down: Mutex<Vec<DownShard>>,
    watch: Arc<Watch>,
    load: Load,
}

/// What the threads know of the node's pressures.
#[derive(Default)]
struct Load {
    /// How old the queue was that a shard thread took from, the most since it was looked at.
    queue_ms: AtomicU64,
    /// Files of the log, in percent of its budget.
    log_percent: AtomicU64,
}

impl Shared {
    fn threads(&self) -> usize {
        self.queues.len()
    }

    fn thread_of(&self, shard: ShardId) -> usize {
        usize::from(shard.0) % self.queues.len()
    }

    /// For what must arrive: only as much is sent as the queue keeps room for.
    fn send_to_thread(&self, thread: usize, to: ToThread) {
        let role = shard_thread(thread);
        if watch::send(&self.queues[thread], role, to).is_err() {
            tracing::debug!(thread, "a shard thread has ended: the node is stopping");
        }
    }

    /// Lossy: what is dropped at a full queue is durable at its source and is sent
    /// again.
    fn send_to_shard(&self, message: ShardMessage) {
        let thread = self.thread_of(message.to);
        let queue = &self.queues[thread];
        if queue.len() >= SHARD_EVENTS
            || queue.try_send(ToThread::Shard(Box::new(message))).is_err()
        {
            self.count_full(thread);
        }
    }

    /// Lossy: the log thread asks again until it is done.
    fn want_flush(&self, shard: ShardId) {
        let thread = self.thread_of(shard);
        let queue = &self.queues[thread];
        if queue.len() >= SHARD_EVENTS || queue.try_send(ToThread::FlushWanted(shard)).is_err() {
            tracing::debug!(shard = shard.0, "asking for a flush found the queue full");
        }
    }

    fn spawn(
        &self,
        role: Role,
        trail: Arc<Trail>,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<JoinHandle<()>, StartError> {
        let spawned = self.watch.spawn(role, trail, run);
        spawned.map_err(|source| StartError::Io {
            what: "a thread cannot be started",
            source,
        })
    }

    fn count_full(&self, thread: usize) {
        let thread = u32::try_from(thread).unwrap_or(u32::MAX);
        self.metrics
            .shard_queue_full
            .get_or_create(&metrics::Thread { thread })
            .inc();
    }

    fn down(&self) -> Vec<DownShard> {
        self.down
            .lock()
            .expect("nothing panics while it holds this")
            .clone()
    }

    fn shard_stopped(&self, shard: ShardId, reason: String) {
        tracing::error!(shard = shard.0, reason, "a shard has stopped");
        let mut down = self
            .down
            .lock()
            .expect("nothing panics while it holds this");
        down.push(DownShard {
            shard: shard.0,
            reason,
        });
    }

    /// A write or sync failed: nothing is acknowledged any more, and the node ends.
    fn fail(&self, reason: String) {
        tracing::error!(
            reason,
            "the node stops: a failed write is never tried again"
        );
        if self.failure.set(reason).is_ok() {
            self.watch.ask_to_end();
            self.failed.store(true, Ordering::Release);
            self.failure_told.notify_waiters();
        }
    }
}

/// The way to the shards. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    shared: Arc<Shared>,
    map: Arc<ShardMap>,
    node: NodeId,
}

/// Ends the threads.
pub struct Join {
    shared: Arc<Shared>,
    log: Sender<ToLog>,
    shard_threads: Vec<JoinHandle<()>>,
    log_thread: JoinHandle<()>,
    flush_thread: JoinHandle<()>,
    pool_thread: JoinHandle<()>,
    reader_threads: Vec<JoinHandle<()>>,
}

impl Shards {
    /// Opens the data directory, recovers what is there, and starts the threads.
    /// Returns before the shards have replayed their logs: [`NodeStatus::ready`]
    /// tells.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        config: Config,
        sessions: Arc<Sessions>,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Join), StartError> {
        let Parts {
            shards,
            threads,
            log_thread,
            log,
            flusher,
            pool_queue,
            readers_queue,
        } = Parts::new(config, sessions, metrics)?;
        let shared = Arc::clone(&shards.shared);
        let log_thread = shared.spawn(Role::Log, Arc::default(), move || log_thread.run())?;
        let flush_thread = shared.spawn(Role::Flush, Arc::default(), move || flusher.run())?;
        let pool_log = log.clone();
        let prepare = move || commit::prepare_files(&pool_queue, &pool_log);
        let pool_thread = shared.spawn(Role::Pool, Arc::default(), prepare)?;
        let reader_threads = readers::start(&readers_queue, &shared)?;
        let shard_threads = threads
            .into_iter()
            .map(|thread| {
                let (role, trail) = (shard_thread(thread.index), thread.host.trail());
                shared.spawn(role, trail, move || thread.run())
            })
            .collect::<Result<_, _>>()?;
        let join = Join {
            shared,
            log,
            shard_threads,
            log_thread,
            flush_thread,
            pool_thread,
            reader_threads,
        };
        Ok((shards, join))
    }

    /// Hands a session's request to its shard's thread. Never waits.
    ///
    /// # Errors
    /// The request comes back if the queue is full, or the node is ending.
    #[expect(
        clippy::result_large_err,
        reason = "it comes back by value: nothing is copied or boxed on the way in"
    )]
    pub fn submit(&self, to: ToShard) -> Result<(), ToShard> {
        let thread = self.shared.thread_of(to.shard);
        let queue = &self.shared.queues[thread];
        if queue.len() >= SESSION_EVENTS {
            self.shared.count_full(thread);
            return Err(to);
        }
        queue
            .try_send(ToThread::Session(to))
            .map_err(|error| match error {
                TrySendError::Full(ToThread::Session(to))
                | TrySendError::Disconnected(ToThread::Session(to)) => to,
                _ => unreachable!("what comes back is what was sent"),
            })
    }

    /// How old the oldest event was that a shard thread took since the last look, in ms, and
    /// the percent of the log's budget that is used. Asks the threads for the next look.
    #[must_use]
    pub fn pressures(&self) -> (u64, u64) {
        let queue_ms = self.shared.load.queue_ms.swap(0, Ordering::Relaxed);
        let now_ms = clock::now().mono_ms;
        for queue in &self.shared.queues {
            // A queue without a place is as old as can be: that thread takes nothing.
            if queue.try_send(ToThread::Age(now_ms)).is_err() {
                self.shared
                    .load
                    .queue_ms
                    .fetch_max(u64::MAX, Ordering::Relaxed);
            }
        }
        (
            queue_ms,
            self.shared.load.log_percent.load(Ordering::Relaxed),
        )
    }

    /// Memory is short: shards with large memtables are flushed now.
    pub fn memory_short(&self) {
        for queue in &self.shared.queues {
            // One that finds no place is said again with the next look.
            drop(queue.try_send(ToThread::MemoryShort));
        }
    }

    /// The shard map.
    #[must_use]
    pub fn map(&self) -> Arc<ShardMap> {
        Arc::clone(&self.map)
    }

    /// Resolves when the node has to end because a write failed.
    pub async fn failed(&self) -> String {
        loop {
            let told = self.shared.failure_told.notified();
            if let Some(reason) = self.shared.failure.get() {
                return reason.clone();
            }
            told.await;
        }
    }

    /// How the node is. Waits for every shard thread: call it off the event loop.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let mut threads = Vec::new();
        for queue in &self.shared.queues {
            let (answer, status) = bounded(1);
            let asked = queue.try_send(ToThread::Status(answer)).is_ok();
            threads.push(status.recv_timeout(ANSWER_TIMEOUT).ok().filter(|_| asked));
        }
        let down = self.shared.down();
        let status = NodeStatus::new(
            self.node,
            &self.map,
            threads,
            down,
            self.shared.failure.get().cloned(),
            self.shared.disk_full.load(Ordering::Relaxed),
        );
        status.show(&self.shared.metrics);
        status
    }

    /// The shards a walk goes through, in order.
    pub fn walk_order(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.map.shards().filter(|shard| *shard != SYSTEM)
    }

    /// Reads a page of the walk. Waits for the shard's thread: call it off the event
    /// loop. `None` if the thread is too busy or gone.
    #[must_use]
    pub fn walk_page(&self, request: WalkRequest) -> Option<WalkPage> {
        let (answer, page) = bounded(1);
        let queue = &self.shared.queues[self.shared.thread_of(request.shard)];
        if queue.len() >= SESSION_EVENTS {
            return None;
        }
        queue.try_send(ToThread::Walk(request, answer)).ok()?;
        page.recv_timeout(ANSWER_TIMEOUT).ok()
    }
}

/// What the threads of a node run, before they do: a test steps it in one thread.
struct Parts {
    shards: Shards,
    threads: Vec<Thread>,
    log_thread: LogThread,
    log: Sender<ToLog>,
    flusher: Flusher,
    pool_queue: Receiver<PrepareFile>,
    readers_queue: Receiver<readers::Warm>,
}

impl Parts {
    fn new(
        config: Config,
        sessions: Arc<Sessions>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let config = config.observed();
        let Opened {
            mut log,
            map,
            shards,
            stuck,
            down,
            losses,
        } = opening::open(&config)?;
        // Known before anybody asks: a node also starts on a full disk, to be read.
        let disk_full = !log.check_space().map_or(true, |space| space.accepting);
        let largest = largest_entry_bytes(&config.host.limits)
            .max(MAX_ENTRY_BYTES.min(log.max_entry_bytes()));
        let entry_bytes = room::ENTRY_COST.of(largest);
        let trace = open_trace(config.trace_log_writes.as_deref())?;
        let (queues, receivers): (Vec<_>, Vec<_>) = (0..config.threads.max(1))
            .map(|_| bounded(QUEUE_EVENTS))
            .unzip();
        let shared = Arc::new(Shared {
            sessions,
            metrics,
            queues,
            room: SharedRoom::new(room::capacity_bytes(&config.engine, entry_bytes)),
            disk_full: AtomicBool::new(disk_full),
            stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: OnceLock::new(),
            failure_told: Notify::new(),
            down: Mutex::new(down),
            watch: Arc::clone(&config.watch),
            load: Load::default(),
        });

        let (log_sender, log_queue) = bounded(LOG_QUEUE);
        // A flush and a memtable to free for each shard.
        let (flusher, flusher_queue) = bounded(shards.len().max(1) * 2);
        let (pool, pool_queue) = bounded(1);
        let (readers, readers_queue) = readers::queue(receivers.len());
        let mut threads: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(index, queue)| Thread {
                index,
                host: Host::new(HostSettings {
                    node: config.node,
                    map: Arc::clone(&map),
                    entry_bytes: MAX_ENTRY_BYTES.min(log.max_entry_bytes()),
                    entry_cost: room::ENTRY_COST,
                    ..config.host.clone()
                }),
                queue,
                log: log_sender.clone(),
                flusher: flusher.clone(),
                readers: readers.clone(),
                shared: Arc::clone(&shared),
                replicas: HashMap::new(),
                flushing: HashSet::new(),
                commits_in_flight: 0,
                effects: Vec::new(),
                counted: Counters::default(),
                renewals: Vec::new(),
            })
            .collect();
        drop((flusher, readers));
        own_all(&mut threads, shards, &shared, config.node)?;
        for thread in &mut threads {
            thread.renewals = losses.parts(thread.replicas.keys().copied());
        }
        tell_at_start(&mut threads, &shared, disk_full);

        let log_thread = LogThread::new(
            log,
            log_queue,
            pool,
            Arc::clone(&shared),
            stuck,
            entry_bytes,
            trace,
        );
        Ok(Self {
            shards: Shards {
                shared: Arc::clone(&shared),
                map,
                node: config.node,
            },
            threads,
            log_thread,
            log: log_sender.clone(),
            flusher: Flusher::new(flusher_queue, log_sender, shared),
            pool_queue,
            readers_queue,
        })
    }
}

impl Hosts for Shards {
    fn submit(&self, to: ToShard) -> Result<(), ToShard> {
        Self::submit(self, to)
    }

    fn map(&self) -> Arc<ShardMap> {
        Self::map(self)
    }
}

impl Join {
    /// Lets the shard threads finish what is under way, syncs the log, and ends all
    /// threads. After a failure they have ended already.
    ///
    /// It takes bounded time whatever the log's state: shard threads begin nothing new and
    /// leave what the disk does not take within some seconds, which nobody was told of;
    /// flushes that have not begun are done after the next start.
    pub fn stop(self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.watch.ask_to_end();
        for thread in 0..self.shared.threads() {
            self.shared.send_to_thread(thread, ToThread::Stop);
        }
        for thread in self.shard_threads {
            join(thread);
        }
        // The flush thread and the readers end with the last who could ask them, the pool's
        // with the log.
        join(self.flush_thread);
        for thread in self.reader_threads {
            join(thread);
        }
        drop(self.log.send(ToLog::Stop));
        drop(self.log);
        join(self.log_thread);
        join(self.pool_thread);
    }
}

/// Hands each shard to its thread. Raft looks at its log for the first time here.
fn own_all(
    threads: &mut [Thread],
    shards: Vec<Shard>,
    shared: &Shared,
    node: NodeId,
) -> Result<(), StartError> {
    for shard in shards {
        let id = ShardId(shard.key().shard);
        watch::about(Some(Place {
            shard: id,
            position: shard.log().last_position(),
            served: false,
        }));
        threads[shared.thread_of(id)].own(shard, node)?;
    }
    watch::about(None);
    Ok(())
}

/// What the hosts know before anybody asks them for something.
fn tell_at_start(threads: &mut [Thread], shared: &Shared, disk_full: bool) {
    for DownShard { shard, reason } in shared.down() {
        let shard = ShardId(shard);
        let thread = shared.thread_of(shard);
        threads[thread].host.set_down(shard, reason);
    }
    for thread in threads {
        let full = Event::DiskFull(disk_full);
        thread.host.step(clock::now(), full);
    }
}

fn open_trace(path: Option<&Path>) -> Result<Option<BufWriter<File>>, StartError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let opened = OpenOptions::new().create(true).append(true).open(path);
    let file = opened.map_err(|source| StartError::Io {
        what: "the file for the trace of log writes cannot be opened",
        source,
    })?;
    Ok(Some(BufWriter::new(file)))
}

fn join(thread: JoinHandle<()>) {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    if thread.join().is_err() {
        tracing::error!(name, "a thread has panicked");
    }
}

/// Says of a thread when it is in a call to the disk.
struct DiskCalls;

impl Observer for DiskCalls {
    fn begins(&self) {
        watch::disk_begins();
    }

    fn ends(&self) {
        watch::disk_ends();
    }
}

fn shard_thread(index: usize) -> Role {
    Role::Shards(u16::try_from(index).expect("settings allow 256"))
}

#[cfg(test)]
mod tests;
