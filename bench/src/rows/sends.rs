//! Durable 1:1 sends: rate, CPU a send, and what a bare file would have taken for the
//! same writes and syncs.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use chat_wire::frame::{Ack, Body, Frame, target};
use prost::Message as _;

use super::{ACK_EVERY, Plan, label, target};
use crate::{
    link::{Link, Seen, Transport},
    message,
    node::Node,
    report::{Bar, Better},
};

/// Senders, each with a receiver of its own.
const SENDERS: u64 = 64;
const TEXT_BYTES: usize = 300;
const WARM_UP: Duration = Duration::from_secs(1);

/// What one round found.
pub(crate) struct Round {
    /// Acknowledged sends a second.
    pub(crate) rate: f64,
    /// Microseconds of the server's CPU a send.
    pub(crate) cpu_us: f64,
    /// Seconds that were measured.
    pub(crate) seconds: f64,
}

/// Runs the rows for one number of sends in flight.
///
/// # Errors
/// If the load fails.
pub(crate) async fn run(plan: Plan, in_flight: u64) -> Result<()> {
    let (rate, cpu) = if in_flight > 1 {
        ((20e3, 40e3), (40.0, 20.0))
    } else {
        ((10e3, 20e3), (80.0, 40.0))
    };
    for transport in [Transport::WebSocket, Transport::Quic] {
        let mut rates = Vec::new();
        let mut costs = Vec::new();
        let mut shares = Vec::new();
        for _ in 0..plan.rounds {
            let node = Node::start(&["log.trace_writes={folder}/writes"]).await?;
            let round = round(&node, transport, in_flight, plan.seconds).await?;
            rates.push(round.rate);
            costs.push(round.cpu_us);
            if transport == Transport::WebSocket {
                let bare = replay_bare(&node, round.seconds)?;
                shares.push(100.0 * bare / round.seconds);
            }
        }
        let name = |what: &str| format!("sends 64 × {in_flight}, {}: {what}", label(transport));
        Bar {
            name: name("rate"),
            unit: "1/s",
            better: Better::Higher,
            bar: rate.0,
            goal: rate.1,
        }
        .print(&rates);
        Bar {
            name: name("server CPU a send"),
            unit: "µs",
            better: Better::Lower,
            bar: cpu.0,
            goal: cpu.1,
        }
        .print(&costs);
        if !shares.is_empty() {
            let name = name("its writes and syncs on a bare file, share of the run's time");
            Bar {
                name,
                unit: "%",
                better: Better::Higher,
                bar: 40.0,
                goal: 60.0,
            }
            .print(&shares);
        }
    }
    Ok(())
}

/// One round of load on a fresh node.
///
/// # Errors
/// If a session fails.
pub(crate) async fn round(
    node: &Node,
    transport: Transport,
    in_flight: u64,
    seconds: u64,
) -> Result<Round> {
    let target = target(node)?;
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    // All are there before the load begins: handshakes would have to wait behind it.
    let mut pairs = Vec::new();
    for pair in 0..SENDERS {
        let (receiver, sender) = (format!("receiver-{pair}"), format!("sender-{pair}"));
        let (receiver, _) = Link::open(&target, transport, &receiver, 2, None).await?;
        let (sender, _) = Link::open(&target, transport, &sender, 1, None).await?;
        pairs.push((pair, receiver, sender));
    }
    let mut tasks = Vec::new();
    for (pair, receiver, sender) in pairs {
        tasks.push(tokio::spawn(receive(receiver, Arc::clone(&stop))));
        let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        tasks.push(tokio::spawn(send(
            sender,
            pair,
            in_flight,
            stop,
            acknowledged,
        )));
    }
    tokio::time::sleep(WARM_UP).await;
    let (cpu, count, started) = (
        node.cpu_seconds()?,
        acknowledged.load(Ordering::Relaxed),
        Instant::now(),
    );
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let count = acknowledged.load(Ordering::Relaxed) - count;
    let cpu = node.cpu_seconds()? - cpu;
    let measured = started.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(20), task)
            .await
            .context("a session hangs")???;
    }
    ensure!(count > 0, "nothing was acknowledged");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let count = count as f64;
    Ok(Round {
        rate: count / measured,
        cpu_us: cpu * 1e6 / count,
        seconds: measured,
    })
}

async fn receive(mut link: Link, stop: Arc<AtomicBool>) -> Result<()> {
    let mut acked = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(seen) = tokio::time::timeout(Duration::from_secs(1), link.seen()).await else {
            continue;
        };
        if let Seen::Events(_, seq, _) = seen?
            && seq >= acked + ACK_EVERY
        {
            acked = seq;
            link.queue(&Body::Ack(Ack { inbox_seq: seq }).into());
            link.flush().await?;
        }
    }
    Ok(())
}

async fn send(
    mut link: Link,
    pair: u64,
    in_flight: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> Result<()> {
    let origin = Instant::now();
    let to = target::To::Name(format!("receiver-{pair}"));
    let (mut req, mut open, mut acked) = (0u32, 0, 0);
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        while !stopping && open < in_flight {
            req += 1;
            open += 1;
            link.queue(&message::send(req, &to, TEXT_BYTES, message::stamp(origin)));
        }
        link.flush().await?;
        if stopping && open == 0 {
            return Ok(());
        }
        let mut next = Some(link.seen().await?);
        while let Some(seen) = next {
            match seen {
                Seen::Answer(frame) => {
                    check(frame)?;
                    open -= 1;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Seen::Events(_, seq, _) if seq >= acked + ACK_EVERY => {
                    acked = seq;
                    link.queue(&Body::Ack(Ack { inbox_seq: seq }).into());
                }
                _ => {}
            }
            next = match link.arrived()? {
                Some(frame) => Some(link.look(frame)?),
                None => None,
            };
        }
    }
}

/// An answer must be SENT; the tag after the number tells.
fn check(frame: bytes::Bytes) -> Result<()> {
    let is_sent = frame.iter().take(8).any(|byte| *byte == 0xc2);
    if !is_sent {
        let frame = Frame::decode(frame)?;
        ensure!(
            matches!(frame.body, Some(Body::Sent(_))),
            "not SENT: {:?}",
            frame.body
        );
    }
    Ok(())
}

/// The same sizes, written and synced one after the other into a pre-zeroed file, for
/// as many writes as fell into the measured seconds.
fn replay_bare(node: &Node, seconds: f64) -> Result<f64> {
    let trace = fs::read_to_string(node.path("writes")).context("the trace of log writes")?;
    let sizes: Vec<usize> = trace.lines().map(str::parse).collect::<Result<_, _>>()?;
    // The trace covers warm-up and end as well: the share of the measured part is taken.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let all = sizes.len() as f64;
    let total = seconds + WARM_UP.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let count = (all * seconds / total) as usize;
    let sizes = &sizes[sizes.len() - count..];
    let bytes: usize = sizes.iter().sum();
    let file = File::create(node.path("bare"))?;
    let block = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes as u64 {
        file.write_all_at(&block, at)?;
        at += block.len() as u64;
    }
    file.sync_all()?;
    let data = vec![0x5a; *sizes.iter().max().context("no writes")?];
    let started = Instant::now();
    let mut at = 0;
    for size in sizes {
        file.write_all_at(&data[..*size], at)?;
        file.sync_data()?;
        at += *size as u64;
    }
    Ok(started.elapsed().as_secs_f64())
}
