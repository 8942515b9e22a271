//! A group whose members are all online: until the last one has a message.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use chat_wire::frame::{Ack, Body, GroupCreate, target};
use tokio::sync::mpsc;

use super::{Plan, target};
use crate::{
    link::{Link, Seen, Transport},
    message,
    node::Node,
    report::{Bar, Better, median},
};

const TEXT_BYTES: usize = 300;
const MESSAGES: usize = 200;

/// Runs the rows.
///
/// # Errors
/// If the load fails.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    for (members, bar, goal) in [(100, 1.4, 0.7), (1000, 10.0, 5.0)] {
        let (mut times, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let node = Node::start(&[]).await?;
            let (time, cost) = round(&node, members).await?;
            times.push(time);
            costs.push(cost);
        }
        let name = format!("group of {members} online: last one has it, p50");
        Bar {
            name,
            unit: "ms",
            better: Better::Lower,
            bar,
            goal,
        }
        .print(&times);
        let name = format!("group of {members} online: server CPU a delivery");
        Bar {
            name,
            unit: "µs",
            better: Better::Lower,
            bar: 6.0,
            goal: 3.0,
        }
        .print(&costs);
    }
    Ok(())
}

async fn round(node: &Node, members: usize) -> Result<(f64, f64)> {
    let target = target(node)?;
    let (mut sender, _) = Link::open(&target, Transport::WebSocket, "sender", 1, None).await?;
    // One slot a member: at most one message is under way.
    let (got, mut has) = mpsc::channel(members * 2);
    for member in 1..members {
        let name = format!("member-{member}");
        let (link, _) = Link::open(&target, Transport::WebSocket, &name, 1, None).await?;
        tokio::spawn(listen(link, got.clone()));
    }
    let create = GroupCreate {
        op_id: Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes()),
        name: "bench".into(),
        members: (1..members)
            .map(|member| format!("member-{member}"))
            .collect(),
    };
    sender.queue(&chat_wire::frame::Frame::new(1, Body::GroupCreate(create)));
    sender.flush().await?;
    let group = match sender.answer(1).await?.body {
        Some(Body::GroupState(state)) => state.group,
        other => bail!("no group: {other:?}"),
    };
    // The event of the creation, first.
    collect(&mut has, members - 1).await?;
    let to = target::To::Group(group);
    let origin = Instant::now();
    let (mut times, cpu) = (Vec::new(), node.cpu_seconds()?);
    for req in 2..u32::try_from(MESSAGES)? + 2 {
        let started = Instant::now();
        sender.queue(&message::send(req, &to, TEXT_BYTES, message::stamp(origin)));
        sender.flush().await?;
        collect(&mut has, members - 1).await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        // Own copy and SENT are taken, so that nothing piles up.
        while let Ok(seen) = tokio::time::timeout(Duration::from_millis(1), sender.seen()).await {
            seen?;
        }
    }
    let cpu = node.cpu_seconds()? - cpu;
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let deliveries = (MESSAGES * members) as f64;
    Ok((median(&times), cpu * 1e6 / deliveries))
}

async fn listen(mut link: Link, got: mpsc::Sender<u32>) -> Result<()> {
    let mut acked = 0;
    loop {
        if let Seen::Events(count, seq, _) = link.seen().await? {
            got.send(count).await?;
            if seq >= acked + super::ACK_EVERY {
                acked = seq;
                link.queue(&Body::Ack(Ack { inbox_seq: seq }).into());
            }
            link.flush().await?;
        }
    }
}

async fn collect(has: &mut mpsc::Receiver<u32>, members: usize) -> Result<()> {
    let mut missing = u32::try_from(members)?;
    while missing > 0 {
        let next = tokio::time::timeout(Duration::from_secs(20), has.recv());
        let count = next.await.context("a member did not get the message")?;
        missing = missing.saturating_sub(count.context("all members are gone")?);
    }
    Ok(())
}
