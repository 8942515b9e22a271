//! What one client costs the others: while an attacker does one thing as fast as it can,
//! bystanders send small messages at a steady pace, and their times are compared with those
//! of an idle node. The node runs with its default limits.
//!
//! Load and server share the machine: an attacker that only produces bytes takes CPU from
//! everybody, which is why it waits a millisecond after it was told that it is too fast.
//! A bystander's time is from SEND to SENT, from when it was due: a slow answer does not
//! make the next one look fast.

mod attacks;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use chat_wire::frame::target;
use hdrhistogram::Histogram;

use crate::{
    link::{Link, Transport},
    message,
    node::Node,
    report::{Bar, Better, median},
    rows::target as target_of,
};
use attacks::{ATTACKS, Attack, Told};

/// Bystanders; each sends to one of its own.
const BYSTANDERS: usize = 4;
/// Time between two messages of one bystander: a fifth of what it may send.
const PACE: Duration = Duration::from_millis(50);
const TEXT_BYTES: usize = 300;
/// The attack runs for so long before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// How often the node's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is run.
pub(crate) struct Plan {
    /// Only these attacks; all if empty.
    pub(crate) only: Vec<String>,
    /// Rounds of each; the median counts.
    pub(crate) rounds: usize,
    /// Seconds of each measurement.
    pub(crate) seconds: u64,
    /// `edge.memory_bytes` of the node.
    pub(crate) memory_bytes: u64,
    /// The node's binary, if not the one beside this.
    pub(crate) chatd: Option<PathBuf>,
    /// Further settings of the node.
    pub(crate) set: Vec<String>,
}

/// What one round found.
struct Round {
    idle: [f64; 2],
    attacked: [f64; 2],
    memory_share: f64,
    accepted: f64,
    refused: f64,
    cpu: f64,
}

/// Runs the attacks one after the other.
///
/// # Errors
/// If an attack has no such name. One that fails is said and passed over.
pub(crate) async fn run(plan: &Plan) -> Result<()> {
    for name in &plan.only {
        if !ATTACKS.iter().any(|attack| attack.name == name) {
            let names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
            bail!("no attack is called {name}: there are {}", names.join(", "));
        }
    }
    for attack in ATTACKS {
        if !plan.only.is_empty() && !plan.only.iter().any(|name| name == attack.name) {
            continue;
        }
        eprintln!("{}", attack.name);
        let mut rounds = Vec::new();
        for _ in 0..plan.rounds {
            match round(plan, attack).await {
                Ok(round) => rounds.push(round),
                Err(error) => eprintln!("{} failed: {error:#}", attack.name),
            }
        }
        if !rounds.is_empty() {
            print(plan, attack, &rounds);
        }
    }
    Ok(())
}

fn print(plan: &Plan, attack: &Attack, rounds: &[Round]) {
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    let bar = |what: &str, unit, bar, goal, figures: Vec<f64>| {
        Bar {
            name: format!("{}: {what}", attack.what),
            unit,
            better: Better::Lower,
            bar,
            goal,
        }
        .print(&figures);
    };
    let times = |what: &str| format!("a bystander's {what} against idle");
    bar(
        &times("p50"),
        "×",
        3.0,
        1.5,
        of(|r| r.attacked[0] / r.idle[0]),
    );
    bar(
        &times("p99"),
        "×",
        3.0,
        1.5,
        of(|r| r.attacked[1] / r.idle[1]),
    );
    bar(
        "memory (RssAnon) against the cap",
        "%",
        110.0,
        100.0,
        of(|r| r.memory_share),
    );
    eprintln!(
        "  idle p50 {:.2} p99 {:.2} ms; attacked p50 {:.2} p99 {:.2} ms; {:.0} done and {:.0} refused a second; node's CPU {:.0} %; memory {:.0} MiB",
        median(&of(|r| r.idle[0])),
        median(&of(|r| r.idle[1])),
        median(&of(|r| r.attacked[0])),
        median(&of(|r| r.attacked[1])),
        median(&of(|r| r.accepted)),
        median(&of(|r| r.refused)),
        median(&of(|r| r.cpu)),
        median(&of(|r| r.memory_share)) * megabytes(plan.memory_bytes) / 100.0,
    );
}

async fn round(plan: &Plan, attack: &Attack) -> Result<Round> {
    let cap = format!("edge.memory_bytes={}", plan.memory_bytes);
    let mut settings = vec![cap.as_str(), "edge.max_connections=10000"];
    settings.extend(plan.set.iter().map(String::as_str));
    let node = Node::with_default_limits(plan.chatd.clone(), &settings).await?;
    let target = target_of(&node)?;
    let mut bystanders = Vec::new();
    for pair in 0..BYSTANDERS {
        let (from, to) = (format!("bystander-{pair}"), format!("friend-{pair}"));
        let (mut friend, _) = Link::open(&target, Transport::WebSocket, &to, 1, None).await?;
        tokio::spawn(async move {
            while friend.seen().await.is_ok() && friend.flush().await.is_ok() {}
        });
        let (link, _) = Link::open(&target, Transport::WebSocket, &from, 1, None).await?;
        bystanders.push((link, target::To::Name(to)));
    }
    let seconds = Duration::from_secs(plan.seconds);
    // The first messages make inboxes; they are not measured.
    measure(&mut bystanders, WARM_UP, &node).await?;
    let (idle, _) = measure(&mut bystanders, seconds, &node).await?;
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Told::default()));
    let attackers: Vec<_> = (0..attack.sessions)
        .map(|number| {
            let (target, stop, told) = (target.clone(), Arc::clone(&stop), Arc::clone(&told));
            let run = attack.run;
            tokio::spawn(async move { run(target, number, stop, told).await })
        })
        .collect();
    told.ready(attack.sessions).await?;
    measure(&mut bystanders, WARM_UP, &node).await?;
    let (before, cpu) = (told.counts(), node.cpu_seconds()?);
    let started = Instant::now();
    let (attacked, memory) = measure(&mut bystanders, seconds, &node).await?;
    let elapsed = started.elapsed().as_secs_f64();
    let (after, cpu) = (told.counts(), node.cpu_seconds()? - cpu);
    stop.store(true, Ordering::Relaxed);
    for attacker in attackers {
        attacker.abort();
    }
    #[expect(clippy::cast_precision_loss, reason = "memory and counts")]
    Ok(Round {
        idle,
        attacked,
        memory_share: memory / plan.memory_bytes as f64 * 100.0,
        accepted: (after.0 - before.0) as f64 / elapsed,
        refused: (after.1 - before.1) as f64 / elapsed,
        cpu: cpu / elapsed * 100.0,
    })
}

/// Lets the bystanders send for a while: their p50 and p99 in ms, and the most memory that
/// the node held meanwhile, in bytes.
async fn measure(
    bystanders: &mut Vec<(Link, target::To)>,
    seconds: Duration,
    node: &Node,
) -> Result<([f64; 2], f64)> {
    let until = Instant::now() + seconds;
    let tasks: Vec<_> = std::mem::take(bystanders)
        .into_iter()
        .map(|(link, to)| tokio::spawn(bystander(link, to, until)))
        .collect();
    let mut most: f64 = 0.0;
    while Instant::now() < until {
        most = most.max(node.anonymous_bytes()?);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut all = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3)?;
    for task in tasks {
        let (link, to, times) = task.await??;
        bystanders.push((link, to));
        all.add(times)?;
    }
    most = most.max(node.anonymous_bytes()?);
    let ms = |share| {
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let us = all.value_at_quantile(share) as f64;
        us / 1e3
    };
    Ok(([ms(0.5), ms(0.99)], most))
}

async fn bystander(
    mut link: Link,
    to: target::To,
    until: Instant,
) -> Result<(Link, target::To, Histogram<u64>)> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3)?;
    let origin = Instant::now();
    let (mut due, mut req) = (origin, 0);
    while due < until {
        tokio::time::sleep_until(due.into()).await;
        req += 1;
        link.queue(&message::send(req, &to, TEXT_BYTES, message::stamp(origin)));
        link.flush().await?;
        let answer = tokio::time::timeout(Duration::from_secs(60), link.answer(req));
        answer
            .await
            .context("a bystander has no answer for a minute")??;
        // Own copies are events too: what was seen is credited.
        link.flush().await?;
        times.record(u64::try_from(due.elapsed().as_micros())?.max(1))?;
        due += PACE;
    }
    Ok((link, to, times))
}

#[expect(clippy::cast_precision_loss, reason = "memory")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
