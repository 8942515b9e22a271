//! Starting after kill -9 with a long log, and resuming a device with many events.

use std::time::Instant;

use anyhow::Result;
use chat_wire::frame::target;

use super::{Plan, take_until, target};
use crate::{
    link::{Link, Seen, Target, Transport},
    message,
    node::Node,
    report::{Bar, Better},
};

/// Start after kill -9 with 1 GiB of log.
///
/// # Errors
/// If the node does not come back.
pub(crate) async fn start(plan: Plan) -> Result<()> {
    let wanted: u64 = if plan.quick { 128 << 20 } else { 1 << 30 };
    let mut node = Node::start(&[
        "log.budget_bytes=4294967296",
        "shards.flush_bytes=1073741824",
    ])
    .await?;
    let target = target(&node)?;
    // Each message stands twice in the log: in the receiver's shard and the sender's.
    let each = 16 * 1024;
    let count = wanted / 2 / each;
    for pair in 0..16 {
        let name = format!("receiver-{pair}");
        load(
            &target,
            &format!("sender-{pair}"),
            &name,
            count / 16,
            usize::try_from(each)?,
        )
        .await?;
    }
    let (mut first, mut all) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let (one, ready) = node.kill_and_restart().await?;
        first.push(one.as_secs_f64());
        all.push(ready.as_secs_f64());
    }
    let name = |what: &str| format!("start after kill -9, {} MiB of log: {what}", wanted >> 20);
    let bar = |name, bar, goal| Bar {
        name,
        unit: "s",
        better: Better::Lower,
        bar,
        goal,
    };
    bar(name("first shard"), 1.0, 0.5).print(&first);
    bar(name("all shards"), 10.0, 4.0).print(&all);
    Ok(())
}

/// Resume with pending events.
///
/// # Errors
/// If events are missing.
pub(crate) async fn resume(plan: Plan) -> Result<()> {
    for (count, bar, goal) in [(1_000u64, 7.0, 4.0), (100_000, 500.0, 200.0)] {
        let node = Node::start(&[]).await?;
        let target = target(&node)?;
        let (link, _) = Link::open(&target, Transport::WebSocket, "phone", 1, None).await?;
        drop(link);
        load(&target, "sender", "phone", count, 300).await?;
        let mut rounds = Vec::new();
        for round in 0..plan.rounds {
            let started = Instant::now();
            // Another device each time: a cursor never goes back.
            let device = 10 + round as u64;
            let (mut link, _) =
                Link::open(&target, Transport::WebSocket, "phone", device, Some(0)).await?;
            take_until(&mut link, count).await?;
            rounds.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let name = format!("resume with {count} pending");
        Bar {
            name,
            unit: "ms",
            better: Better::Lower,
            bar,
            goal,
        }
        .print(&rounds);
    }
    Ok(())
}

/// Sends `count` texts of `len` bytes, many in flight, and waits for all answers.
///
/// # Errors
/// If one is refused.
pub(crate) async fn load(
    target: &Target,
    from: &str,
    to: &str,
    count: u64,
    len: usize,
) -> Result<()> {
    let (mut link, _) = Link::open(target, Transport::WebSocket, from, 1, None).await?;
    let to = target::To::Name(to.to_owned());
    let origin = Instant::now();
    let (mut sent, mut answered, mut req) = (0, 0, 0);
    while answered < count {
        while sent < count && sent - answered < 128 {
            req += 1;
            sent += 1;
            link.queue(&message::send(req, &to, len, message::stamp(origin)));
        }
        link.flush().await?;
        let mut next = Some(link.seen().await?);
        while let Some(seen) = next {
            answered += u64::from(matches!(seen, Seen::Answer(..)));
            next = match link.arrived()? {
                Some(frame) => Some(link.look(frame)?),
                None => None,
            };
        }
    }
    Ok(())
}
