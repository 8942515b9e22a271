//! Watches the threads of a node: which of them works, waits or is in a disk call, which
//! has stood still, and which has ended without having been asked to.
//!
//! A thread says what it does with one relaxed store into its `Beacon`; it reads no
//! clock. Whoever asks how the threads are ([`Watch::look`]) compares with what was there
//! when they were asked before, so what stands still is found by asking twice.
//!
//! A thread that panics, or returns unasked, cannot be gone on without: the node's own
//! end ([`Ended`]) is called from the panic's hook, before anything is unwound. A panic in
//! any other task ends that task alone, and is counted.
//!
//! Known limits: a thread that works in ever new passes and achieves nothing is not found,
//! nor is one that dies while the process ends anyway.

use std::{
    cell::RefCell,
    future::Future,
    io,
    panic::PanicHookInfo,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};

use chat_core::host::{Place, Trail};
use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError, SendError, Sender};

use crate::planted;

/// A thread with work that has done nothing for so long is stuck.
pub const STUCK_MS: u64 = 60_000;

/// A thread that the node cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Owns shards; by its number.
    Shards(u16),
    /// Writes the log.
    Log,
    /// Writes segments.
    Flush,
    /// Prepares log files.
    Pool,
    /// Reads segments; by its number.
    Reader(u16),
    /// Opens the data directory. It may take as long as it takes.
    Start,
    /// A task of the runtime that must not end, such as one that accepts connections.
    Task(&'static str),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shards(number) => write!(f, "shards-{number}"),
            Self::Log => f.write_str("log"),
            Self::Flush => f.write_str("flush"),
            Self::Pool => f.write_str("pool"),
            Self::Reader(number) => write!(f, "reader-{number}"),
            Self::Start => f.write_str("start"),
            Self::Task(name) => write!(f, "task {name}"),
        }
    }
}

/// What a thread does, in four bits of a beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Waits for its queue: it has no work.
    Waits,
    Works,
    /// In a call to the disk, which takes as long as the disk takes.
    Disk,
    /// Waits for room in the queue of another thread.
    Sends(Role),
    Ended,
}

/// Bits of a beacon below the count of changes: what is done, and whose queue is full.
const BELOW_COUNT: u32 = 24;

impl Doing {
    fn bits(self) -> u64 {
        let to = |role| match role {
            Role::Shards(number) => u64::from(number) << 8,
            Role::Log => 1 << 4,
            Role::Flush => 2 << 4,
            Role::Pool => 3 << 4,
            Role::Reader(number) => u64::from(number) << 8 | 4 << 4,
            // Nobody sends to these.
            Role::Start | Role::Task(_) => 5 << 4,
        };
        match self {
            Self::Waits => 0,
            Self::Works => 1,
            Self::Disk => 2,
            Self::Sends(role) => 3 | to(role),
            Self::Ended => 4,
        }
    }

    fn of(bits: u64) -> Self {
        let number = u16::try_from(bits >> 8 & 0xffff).expect("sixteen bits");
        let to = match bits >> 4 & 0xf {
            0 => Role::Shards(number),
            1 => Role::Log,
            2 => Role::Flush,
            3 => Role::Pool,
            4 => Role::Reader(number),
            _ => Role::Start,
        };
        match bits & 0xf {
            0 => Self::Waits,
            1 => Self::Works,
            2 => Self::Disk,
            3 => Self::Sends(to),
            _ => Self::Ended,
        }
    }
}

/// What a thread says of itself. Only the thread writes, so that it need not add.
#[derive(Debug)]
struct Beacon {
    role: Role,
    /// A count of changes above what is done.
    value: AtomicU64,
}

impl Beacon {
    fn says(&self, doing: Doing) {
        let changes = (self.value.load(Ordering::Relaxed) >> BELOW_COUNT).wrapping_add(1);
        let value = changes << BELOW_COUNT | doing.bits();
        self.value.store(value, Ordering::Relaxed);
    }

    fn doing(value: u64) -> Doing {
        Doing::of(value & ((1 << BELOW_COUNT) - 1))
    }
}

/// Why a node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which thread or task is gone.
    pub role: Role,
    /// Where it panicked, as `file:line`; `None` if it returned.
    pub at: Option<String>,
    /// What the panic says, if that is a constant of the program. Other texts may quote
    /// what a client sent, and are left out.
    pub text: Option<&'static str>,
    /// The shard that it was busy with.
    pub place: Option<Place>,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            role,
            at,
            text,
            place,
        } = self;
        match at {
            Some(at) => write!(f, "{role} panicked at {at}")?,
            None => write!(f, "{role} has ended without having been asked to")?,
        }
        if let Some(text) = text {
            write!(f, ": {text}")?;
        }
        if let Some(Place {
            shard, position, ..
        }) = place
        {
            write!(f, " (shard {shard}, position {position})")?;
        }
        Ok(())
    }
}

/// What is wrong with a thread.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It is gone.
    #[error("the thread {0} has ended without having been asked to")]
    Ended(Role),
    /// It has work, is in no disk call, and has done nothing.
    #[error("the thread {0} has had work for {1} s and done nothing")]
    Stuck(Role, u64),
}

/// A thread as it was seen last.
struct Seen {
    beacon: Arc<Beacon>,
    value: u64,
    since_ms: u64,
}

/// The threads of a node.
pub struct Watch {
    threads: Mutex<Vec<Seen>>,
    asked: AtomicBool,
    end: Box<dyn Fn(&Ended) + Send + Sync>,
}

/// Where the present thread says what it does, and who hears of its panic.
struct Here {
    role: Role,
    /// None for a task, which shares its thread.
    beacon: Option<Arc<Beacon>>,
    watch: Arc<Watch>,
    trail: Arc<Trail>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Hears of panics that end no more than a task.
type TaskPanicked = Box<dyn Fn(&str, &str) + Send + Sync>;
static TASK_PANICKED: OnceLock<TaskPanicked> = OnceLock::new();

impl Watch {
    /// Watches nobody yet. `end` is called on the thread that is lost, in the middle of its
    /// panic or at its end: in a daemon it does not return.
    #[must_use]
    pub fn new(end: impl Fn(&Ended) + Send + Sync + 'static) -> Arc<Self> {
        static HOOK: OnceLock<()> = OnceLock::new();
        HOOK.get_or_init(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| on_panic(info, &before)));
        });
        Arc::new(Self {
            threads: Mutex::default(),
            asked: AtomicBool::new(false),
            end: Box::new(end),
        })
    }

    /// Starts a thread that is watched from now on. Its panics are told with the place on
    /// `trail`.
    ///
    /// # Errors
    /// If the system starts no more threads.
    pub fn spawn(
        self: &Arc<Self>,
        role: Role,
        trail: Arc<Trail>,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let beacon = Arc::new(Beacon {
            role,
            value: AtomicU64::new(Doing::Works.bits()),
        });
        let here = Here {
            role,
            beacon: Some(Arc::clone(&beacon)),
            watch: Arc::clone(self),
            trail,
        };
        let handle = std::thread::Builder::new()
            .name(role.to_string())
            .spawn(move || {
                let _presence = Presence::enter(here);
                run();
            })?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let value = beacon.value.load(Ordering::Relaxed);
        threads.push(Seen {
            beacon,
            value,
            // Nobody has looked yet.
            since_ms: u64::MAX,
        });
        Ok(handle)
    }

    /// Does something on this thread that the node cannot do without; a panic in it ends
    /// the node. How long it takes is nobody's concern.
    pub fn during<T>(self: &Arc<Self>, role: Role, run: impl FnOnce() -> T) -> T {
        self.present(role, &Arc::default(), run)
    }

    fn present<T>(self: &Arc<Self>, role: Role, trail: &Arc<Trail>, run: impl FnOnce() -> T) -> T {
        let here = Here {
            role,
            beacon: None,
            watch: Arc::clone(self),
            trail: Arc::clone(trail),
        };
        let _presence = Presence::enter(here);
        run()
    }

    /// A task that the node cannot do without: a panic in it ends the node.
    pub fn task<F: Future>(self: &Arc<Self>, name: &'static str, task: F) -> Essential<F> {
        Essential {
            task: Box::pin(task),
            role: Role::Task(name),
            watch: Arc::clone(self),
            trail: Arc::default(),
        }
    }

    /// From now on threads may end.
    pub fn ask_to_end(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// What is wrong with the threads, for a probe that kills: one has ended unasked, or
    /// has stood still since it was looked at at least [`STUCK_MS`] ago, with work, and
    /// neither in a disk call nor behind a thread that is.
    #[must_use]
    pub fn look(&self, now_ms: u64) -> Vec<Trouble> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for seen in threads.iter_mut() {
            let value = seen.beacon.value.load(Ordering::Relaxed);
            if value != seen.value || seen.since_ms == u64::MAX {
                seen.value = value;
                seen.since_ms = now_ms;
            }
        }
        let asked = self.asked.load(Ordering::Acquire);
        let trouble = |seen: &Seen| {
            let still_ms = now_ms.saturating_sub(seen.since_ms);
            let role = seen.beacon.role;
            if Beacon::doing(seen.value) == Doing::Ended {
                return (!asked).then_some(Trouble::Ended(role));
            }
            stands_still(&threads, seen, now_ms).then_some(Trouble::Stuck(role, still_ms / 1_000))
        };
        threads.iter().filter_map(trouble).collect()
    }
}

/// Follows who waits for whom to the one that all wait for. A circle stands still, too.
fn stands_still(threads: &[Seen], first: &Seen, now_ms: u64) -> bool {
    let mut seen = first;
    for _ in 0..=threads.len() {
        if now_ms.saturating_sub(seen.since_ms) < STUCK_MS {
            return false;
        }
        match Beacon::doing(seen.value) {
            Doing::Works => return true,
            Doing::Sends(to) => match threads.iter().find(|seen| seen.beacon.role == to) {
                Some(next) => seen = next,
                None => return true,
            },
            // Of an ended one it is said that it has ended.
            Doing::Waits | Doing::Disk | Doing::Ended => return false,
        }
    }
    true
}

/// Says what becomes of panics in tasks that are not watched: `heard` gets the place and
/// the text as in [`Ended`]. The first to say so counts.
pub fn on_task_panic(heard: impl Fn(&str, &str) + Send + Sync + 'static) {
    // A process has one daemon.
    drop(TASK_PANICKED.set(Box::new(heard)));
}

fn on_panic(info: &PanicHookInfo<'_>, before: &dyn Fn(&PanicHookInfo<'_>)) {
    let at = info.location().map_or_else(
        || "an unknown place".to_owned(),
        |at| format!("{}:{}", at.file(), at.line()),
    );
    let text = info.payload().downcast_ref::<&'static str>().copied();
    let lost = HERE.try_with(|here| {
        let here = here.try_borrow().ok()?;
        let here = here.as_ref()?;
        let ended = Ended {
            role: here.role,
            at: Some(at.clone()),
            text,
            place: here.trail.place(),
        };
        Some((Arc::clone(&here.watch), ended))
    });
    match (lost.ok().flatten(), TASK_PANICKED.get()) {
        (Some((watch, ended)), _) => (watch.end)(&ended),
        (None, Some(heard)) => heard(&at, text.unwrap_or("its text may quote somebody's data")),
        (None, None) => before(info),
    }
}

/// A thread's or task's time in [`HERE`].
struct Presence {
    outer: Option<Here>,
}

impl Presence {
    fn enter(here: Here) -> Self {
        Self {
            outer: HERE.replace(Some(here)),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let Some(here) = HERE.replace(self.outer.take()) else {
            return;
        };
        let Some(beacon) = here.beacon else { return };
        beacon.says(Doing::Ended);
        // Of a panic the hook has told.
        if !std::thread::panicking() && !here.watch.asked.load(Ordering::Acquire) {
            (here.watch.end)(&Ended {
                role: here.role,
                at: None,
                text: None,
                place: here.trail.place(),
            });
        }
    }
}

/// See [`Watch::task`].
pub struct Essential<F> {
    task: Pin<Box<F>>,
    role: Role,
    watch: Arc<Watch>,
    trail: Arc<Trail>,
}

impl<F: Future> Future for Essential<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let (task, watch) = (&mut this.task, &this.watch);
        watch.present(this.role, &this.trail, || task.as_mut().poll(cx))
    }
}

fn says(doing: Doing) {
    HERE.with_borrow(|here| {
        if let Some(beacon) = here.as_ref().and_then(|here| here.beacon.as_ref()) {
            beacon.says(doing);
        }
    });
}

/// The present thread works on this place: for threads that have no host to say it.
pub fn about(place: Option<Place>) {
    HERE.with_borrow(|here| {
        if let Some(here) = here {
            match place {
                Some(place) => here.trail.enter(place),
                None => here.trail.leave(),
            }
        }
    });
}

/// A call to the disk begins on this thread.
pub fn disk_begins() {
    says(Doing::Disk);
}

/// It has ended.
pub fn disk_ends() {
    says(Doing::Works);
}

fn asks() {
    if let Some(role) = HERE.with_borrow(|here| here.as_ref().map(|here| here.role)) {
        planted::thread(role);
    }
    says(Doing::Waits);
}

/// Waits for the next from this thread's queue, at most so long.
///
/// # Errors
/// As the queue says.
pub fn receive_within<T>(queue: &Receiver<T>, wait: Duration) -> Result<T, RecvTimeoutError> {
    asks();
    let received = queue.recv_timeout(wait);
    says(Doing::Works);
    received
}

/// Waits for the next from this thread's queue.
///
/// # Errors
/// As the queue says.
pub fn receive<T>(queue: &Receiver<T>) -> Result<T, RecvError> {
    asks();
    let received = queue.recv();
    says(Doing::Works);
    received
}

/// Sends to another thread, and waits for room in its queue if need be.
///
/// # Errors
/// If that thread has ended.
pub fn send<T>(queue: &Sender<T>, to: Role, message: T) -> Result<(), SendError<T>> {
    says(Doing::Sends(to));
    let sent = queue.send(message);
    says(Doing::Works);
    sent
}

#[cfg(test)]
mod tests;
