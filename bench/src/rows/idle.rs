//! What an idle, attached session costs the server in memory.

use std::time::Duration;

use anyhow::Result;

use super::{Plan, label, target};
use crate::{
    link::{Link, Transport},
    node::Node,
    report::{Bar, Better},
};

/// Sessions that are opened at once.
const AT_ONCE: usize = 64;
/// Until buffers of handshakes are given back.
const SETTLE: Duration = Duration::from_secs(3);

/// Runs the rows.
///
/// # Errors
/// If a session cannot be opened.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    let rows = [
        (Transport::WebSocket, 6.0, 3.0),
        (Transport::Tls, 14.0, 10.0),
        (Transport::Quic, 32.0, 26.0),
    ];
    for count in if plan.quick {
        vec![1_000]
    } else {
        vec![1_000, 10_000]
    } {
        for (transport, bar, goal) in rows {
            let mut rounds = Vec::new();
            for _ in 0..plan.rounds {
                rounds.push(round(transport, count).await?);
            }
            let name = format!("server memory a session, {count} × {}", label(transport));
            Bar {
                name,
                unit: "KiB",
                better: Better::Lower,
                bar,
                goal,
            }
            .print(&rounds);
        }
    }
    Ok(())
}

async fn round(transport: Transport, count: usize) -> Result<f64> {
    let node = Node::start(&["edge.handshakes_at_once=20000"]).await?;
    let target = target(&node)?;
    // What the first sessions make grow once is not theirs.
    let mut links = open(&target, transport, 0..AT_ONCE).await?;
    tokio::time::sleep(SETTLE).await;
    let before = node.resident_bytes()?;
    links.extend(open(&target, transport, AT_ONCE..AT_ONCE + count).await?);
    tokio::time::sleep(SETTLE).await;
    let after = node.resident_bytes()?;
    drop(links);
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    Ok((after - before) / 1024.0 / count as f64)
}

async fn open(
    target: &crate::link::Target,
    transport: Transport,
    numbers: std::ops::Range<usize>,
) -> Result<Vec<Link>> {
    let mut links = Vec::with_capacity(numbers.len());
    let numbers: Vec<_> = numbers.collect();
    for chunk in numbers.chunks(AT_ONCE) {
        let tasks: Vec<_> = chunk
            .iter()
            .map(|number| {
                let (target, name) = (target.clone(), format!("idle-{number}"));
                tokio::spawn(async move { Link::open(&target, transport, &name, 1, None).await })
            })
            .collect();
        for task in tasks {
            links.push(task.await??.0);
        }
    }
    Ok(links)
}
