//! From send to delivery at half of the highest rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use chat_wire::frame::{Ack, Body, Frame, event::What, target};
use hdrhistogram::Histogram;
use prost::Message as _;
use tokio::time::MissedTickBehavior;

use super::{ACK_EVERY, Plan, sends, target};
use crate::{
    link::{Link, Seen, Transport},
    message,
    node::Node,
    report::{Bar, Better},
};

const SENDERS: u32 = 64;
const TEXT_BYTES: usize = 300;

/// Runs the row.
///
/// # Errors
/// If the load fails.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let rate = match plan.rate {
            Some(rate) => f64::from(rate.max(1)),
            None => {
                let node = Node::start(&[]).await?;
                let highest = sends::round(&node, Transport::WebSocket, 16, plan.seconds).await?;
                highest.rate / 2.0
            }
        };
        let node = Node::start(&[]).await?;
        let before = node.cpu_seconds()?;
        let started = Instant::now();
        let found = round(&node, rate, plan.seconds).await?;
        let cores = (node.cpu_seconds()? - before) / started.elapsed().as_secs_f64();
        eprintln!("at {rate:.0} sends/s the server takes {cores:.2} cores");
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let ms = |quantile| found.value_at_quantile(quantile) as f64 / 1e3;
        p50.push(ms(0.5));
        p99.push(ms(0.99));
    }
    let bar = |what: &str, bar, goal| Bar {
        name: format!("delivery at half of the highest rate: {what}"),
        unit: "ms",
        better: Better::Lower,
        bar,
        goal,
    };
    bar("p50", 1.0, 0.5).print(&p50);
    bar("p99", 6.0, 3.0).print(&p99);
    Ok(())
}

/// Microseconds from SEND to EVENT at a paced rate.
async fn round(node: &Node, rate: f64, seconds: u64) -> Result<Histogram<u64>> {
    let target = target(node)?;
    let origin = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    let every = Duration::from_secs_f64(f64::from(SENDERS) / rate);
    for pair in 0..SENDERS {
        let name = format!("receiver-{pair}");
        let (link, _) = Link::open(&target, Transport::WebSocket, &name, 2, None).await?;
        receivers.push(tokio::spawn(receive(link, origin, Arc::clone(&stop))));
        let name = format!("sender-{pair}");
        let (link, _) = Link::open(&target, Transport::WebSocket, &name, 1, None).await?;
        let first = every * pair / SENDERS;
        senders.push(tokio::spawn(send(
            link,
            pair,
            first,
            every,
            origin,
            Arc::clone(&stop),
        )));
    }
    tokio::time::sleep(Duration::from_secs(seconds + 1)).await;
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await??;
    }
    let mut all = Histogram::new(3)?;
    for receiver in receivers {
        all.add(receiver.await??)?;
    }
    Ok(all)
}

async fn send(
    mut link: Link,
    pair: u32,
    first: Duration,
    every: Duration,
    origin: Instant,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let to = target::To::Name(format!("receiver-{pair}"));
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + first, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut req, mut acked) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            _ = ticks.tick() => {
                req += 1;
                link.queue(&message::send(req, &to, TEXT_BYTES, message::stamp(origin)));
            }
            seen = link.seen() => if let Seen::Events(_, seq, _) = seen?
                && seq >= acked + ACK_EVERY
            {
                acked = seq;
                link.queue(&Body::Ack(Ack { inbox_seq: seq }).into());
            }
        }
        link.flush().await?;
    }
    Ok(())
}

async fn receive(mut link: Link, origin: Instant, stop: Arc<AtomicBool>) -> Result<Histogram<u64>> {
    let mut found = Histogram::new(3)?;
    let mut acked = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(seen) = tokio::time::timeout(Duration::from_secs(1), link.seen()).await else {
            continue;
        };
        let Seen::Events(_, seq, frame) = seen? else {
            continue;
        };
        let now = message::stamp(origin);
        let Some(Body::Event(batch)) = Frame::decode(frame)?.body else {
            continue;
        };
        for event in batch.events {
            if let Some(What::Message(message)) = event.what {
                let sent = message::stamp_of(&message.client_msg_id).context("a stamp")?;
                found.record(now.saturating_sub(sent) / 1000)?;
            }
        }
        if seq >= acked + ACK_EVERY {
            acked = seq;
            link.queue(&Body::Ack(Ack { inbox_seq: seq }).into());
        }
        link.flush().await?;
    }
    Ok(found)
}
