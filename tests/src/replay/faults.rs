//! What goes wrong during a replay: the server is killed at random moments of the work,
//! once left away for a while; clients in processes of their own are killed while
//! messages wait in their queues on disk.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    child::{Assignment, Process, Status},
    stage::Stage,
};
use crate::node::Node;

/// How long a killed server waits for a client to have something queued.
const QUEUED_WITHIN: Duration = Duration::from_secs(3);

/// One kill of the server.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// Share of the lines that are settled when it comes, in thousandths.
    pub at_permille: u64,
    /// For how long it stays away.
    pub away: Duration,
}

/// What a kill did.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// When, after the start.
    pub at: Duration,
    /// From the start of the process until it was ready.
    pub ready: Duration,
    /// From the start of the process until a line was settled again.
    pub recovered: Duration,
}

/// The kills of a run: moments drawn by the seed, the middle one with the absence.
#[must_use]
pub fn draw(seed: u64, kills: u32, away: Duration) -> Vec<Kill> {
    let mut random = StdRng::seed_from_u64(seed ^ 0xfa_17);
    // Each in its own part of the run, so that there is work between them.
    let part = 800 / u64::from(kills.max(1));
    (0..u64::from(kills))
        .map(|number| Kill {
            at_permille: 50 + number * part + random.random_range(0..part.max(1) / 2 + 1),
            away: if number == u64::from(kills) / 2 {
                away
            } else {
                Duration::ZERO
            },
        })
        .collect()
}

/// A client process and what it is to do.
pub struct Actor {
    /// What.
    pub assignment: Assignment,
    /// The running process; none only between two lives.
    pub process: Option<Process>,
    /// It was killed with messages queued, and this many they were.
    pub killed_with: Option<u64>,
    /// Repeated attempts of its earlier lives.
    pub resent_before: u64,
}

impl Actor {
    /// Starts a new process for the same journal.
    ///
    /// # Errors
    /// If it cannot be killed or started.
    async fn kill_and_start(&mut self, program: &std::path::Path) -> anyhow::Result<()> {
        let status = self.status();
        self.resent_before += status.resent;
        // The old one must be dead before the new one opens its queue.
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        self.process = Some(self.assignment.start(program)?);
        self.killed_with = Some(status.waiting);
        Ok(())
    }

    /// What it said last.
    #[must_use]
    pub fn status(&self) -> Status {
        self.process
            .as_ref()
            .map_or_else(Status::default, |process| *process.status.borrow())
    }
}

/// Kills the server once: away, back, and working again.
///
/// # Errors
/// If it does not come back.
pub async fn kill_server(
    node: &mut Node,
    kill: Kill,
    stage: &Stage,
    actors: &mut [Actor],
    program: &std::path::Path,
) -> anyhow::Result<Killed> {
    let at = stage.start().elapsed();
    node.kill();
    let away = Instant::now();
    // Clients that have not died yet, die now, when they have messages queued.
    for actor in actors
        .iter_mut()
        .filter(|actor| actor.killed_with.is_none())
    {
        let Some(process) = &mut actor.process else {
            continue;
        };
        let waits = tokio::time::timeout(QUEUED_WITHIN, async {
            process
                .status
                .wait_for(|status| status.waiting > 0)
                .await
                .is_ok()
        });
        if waits.await.unwrap_or(false) {
            actor.kill_and_start(program).await?;
        }
    }
    tokio::time::sleep(kill.away.saturating_sub(away.elapsed())).await;
    let back = Instant::now();
    node.launch().context("the server does not start again")?;
    wait_ready(node).await?;
    let ready = back.elapsed();
    let before = progress(stage);
    // Whoever has nothing left to say settles nothing more: that is no failure of the server.
    let again = tokio::time::timeout(Duration::from_secs(60), async {
        while progress(stage) == before {
            stage.changed.notified().await;
        }
    });
    again
        .await
        .context("nothing is settled within 60 s after the server came back")?;
    Ok(Killed {
        at,
        ready,
        recovered: back.elapsed(),
    })
}

/// Clients that had nothing queued while the server was away die at the first moment
/// that they have.
///
/// # Errors
/// If one cannot be killed or started.
pub async fn kill_those_with_messages_queued(
    actors: &mut [Actor],
    program: &std::path::Path,
) -> anyhow::Result<()> {
    for actor in actors
        .iter_mut()
        .filter(|actor| actor.killed_with.is_none())
    {
        if actor.status().waiting > 0 {
            actor.kill_and_start(program).await?;
        }
    }
    Ok(())
}

async fn wait_ready(node: &mut Node) -> anyhow::Result<()> {
    tokio::task::block_in_place(|| node.wait_ready(crate::node::READY_WITHIN))
}

fn progress(stage: &Stage) -> u64 {
    use std::sync::atomic::Ordering::Relaxed;
    stage.settled.load(Relaxed) + stage.operations.load(Relaxed) + stage.all_seen.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_drawn_by_the_seed_one_after_the_other_and_one_stays_away() {
        let minute = Duration::from_secs(60);
        let kills = draw(5, 3, minute);
        assert!(
            kills
                .windows(2)
                .all(|pair| pair[0].at_permille < pair[1].at_permille)
        );
        assert!(
            kills
                .iter()
                .all(|kill| (50..900).contains(&kill.at_permille))
        );
        assert_eq!(kills.iter().filter(|kill| kill.away == minute).count(), 1);
        let moments = |seed| {
            draw(seed, 3, minute)
                .iter()
                .map(|k| k.at_permille)
                .collect::<Vec<_>>()
        };
        assert_eq!(moments(5), moments(5));
        assert_ne!(moments(5), moments(6));
        assert!(draw(1, 0, minute).is_empty());
    }
}
