//! A live device in a process of its own, with its queue and its journal on disk, so that it
//! can be killed with messages queued, and come back.
//!
//! The parent writes an [`Assignment`] to a file; the child plays it, prints a [`Status`] a line
//! when it changes, and ends when its standard input ends.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context as _;
use chat_client::{Network, Queue};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
};

use super::{
    cast::{LIVE, Server},
    ledger::Ledger,
    plan::{Options, Plan, RunIds},
    player::Player,
    script::Script,
    stage::Stage,
};
use crate::{checker::FOREIGN, dataset};

/// How often a child says how far it is.
const SAY_EVERY: Duration = Duration::from_millis(20);
/// Messages the queue on disk holds.
const QUEUE: usize = 4_096;

/// What a child is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// Which plan.
    pub options: Options,
    /// Where the dataset is cached.
    pub cache: PathBuf,
    /// The ids of the run.
    pub ids: RunIds,
    /// Whose device.
    pub person: u32,
    /// Where the server is.
    pub server: Server,
    /// Holds queue, journal and this.
    pub folder: PathBuf,
    /// See [`Script`].
    pub speed: Option<f64>,
}

/// How far a child is, over all its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Lines with a final answer, or whose copy came.
    pub settled: u64,
    /// Of those, refused.
    pub refused: u64,
    /// Operations answered.
    pub operations: u64,
    /// Messages taken.
    pub seen: u32,
    /// Lines on disk without an answer.
    pub waiting: u64,
    /// Attempts beyond the first, in this life.
    pub resent: u64,
}

impl Assignment {
    /// Where a journal stands.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    fn path(&self) -> PathBuf {
        self.folder.join("assignment.json")
    }

    /// Starts the process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, program: &Path) -> anyhow::Result<Process> {
        std::fs::create_dir_all(&self.folder).context("the child's folder")?;
        std::fs::write(self.path(), serde_json::to_vec(self)?).context("the assignment")?;
        let mut process = Command::new(program)
            .arg("--child")
            .arg(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        let stdout = process.stdout.take().context("the child has no output")?;
        let (say, status) = watch::channel(Status::default());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(status) = serde_json::from_str(&line) {
                    say.send_replace(status);
                }
            }
        });
        Ok(Process { process, status })
    }

    /// What the journal says.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn ledger(&self, plan: &Plan) -> anyhow::Result<Ledger> {
        Ledger::load(&self.journal(), |line| is_own(plan, self.person, line))
            .context("a child's journal")
    }
}

/// A child that runs.
pub struct Process {
    process: Child,
    /// What it says.
    pub status: watch::Receiver<Status>,
}

impl Process {
    /// SIGKILL.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.process
            .kill()
            .await
            .context("a child cannot be killed")
    }

    /// Lets it end by itself.
    ///
    /// # Errors
    /// If it fails.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        let status = self.process.wait().await.context("a child")?;
        anyhow::ensure!(status.success(), "a child ended with {status}");
        Ok(())
    }

    /// Whether it has ended by itself, which it should not.
    ///
    /// # Errors
    /// If it has.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait().context("a child")? {
            None => Ok(()),
            Some(status) => anyhow::bail!("a child ended with {status}"),
        }
    }
}

fn is_own(plan: &Plan, person: u32, line: u32) -> bool {
    plan.lines
        .get(line as usize)
        .is_some_and(|line| line.sender == person)
}

/// The child's side.
///
/// # Errors
/// If it cannot play.
pub async fn play(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read(path).context("the assignment")?;
    let assignment: Assignment = serde_json::from_slice(&text).context("the assignment")?;
    let person = assignment.person;
    let (dataset, _) = dataset::obtain(&assignment.cache)?;
    let plan = Arc::new(Plan::new(&dataset, &assignment.options));
    let stage = Arc::new(Stage::new(&plan));
    let script = Script::new(
        Arc::clone(&plan),
        assignment.ids,
        Arc::clone(&stage),
        assignment.speed,
    );
    let own = |line: u32| is_own(&plan, person, line);
    let ledger = Ledger::open(&assignment.journal(), own).context("the journal")?;
    let settled = ledger
        .queued
        .keys()
        .filter(|line| ledger.settled(**line))
        .count();
    stage.settle(settled as u64, ledger.refused.len() as u64);
    stage.operated(ledger.operations.len() as u64);
    let seen = ledger
        .events
        .iter()
        .filter(|event| event.message < FOREIGN)
        .count();
    stage.set_seen(person, u32::try_from(seen).context("too many events")?);
    let mut config = assignment.server.config(
        person,
        &plan.people[person as usize],
        LIVE,
        &Network::default(),
    );
    config.queue = Queue::Disk {
        path: assignment.folder.join("queue"),
        bound: QUEUE,
    };
    config.start = Server::resume(ledger.cursor());
    let waiting = watch::channel((0, 0)).0;
    let player = Player::join(script, person, config, ledger).await?;
    let (stop, stopped) = watch::channel(false);
    let waiting_now = waiting.subscribe();
    let play = tokio::spawn(player.reporting(waiting).play(stopped));
    let mut stdin = tokio::io::stdin();
    let mut last = None;
    let mut byte = [0; 64];
    loop {
        let (waits, resent): (u64, u64) = *waiting_now.borrow();
        let status = Status {
            settled: stage.settled.load(Relaxed),
            refused: stage.refused.load(Relaxed),
            operations: stage.operations.load(Relaxed),
            seen: stage.seen(person),
            waiting: waits,
            resent,
        };
        if last != Some(status) {
            println!("{}", serde_json::to_string(&status)?);
            last = Some(status);
        }
        anyhow::ensure!(!play.is_finished(), "{:?}", play.await?.err());
        if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(SAY_EVERY, stdin.read(&mut byte)).await {
            break;
        }
    }
    stop.send_replace(true);
    let done = play.await.context("the player")??;
    for complaint in &done.ledger.complaints {
        eprintln!("person {person}: {complaint}");
    }
    anyhow::ensure!(
        done.ledger.complaints.is_empty(),
        "person {person} complains"
    );
    Ok(())
}
