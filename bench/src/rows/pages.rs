//! A page of the 50 newest messages: CPU, and of a long inbox after a restart.

use std::time::Instant;

use anyhow::{Result, bail};
use chat_wire::{
    frame::{Body, Credit, Frame, HistoryGet, Lane, history_get::From},
    ids::UserId,
};

use super::{Plan, restart, target};
use crate::{
    link::{Link, Transport},
    node::Node,
    report::{Bar, Better},
};

const PAGE: u32 = 50;

/// Runs the rows.
///
/// # Errors
/// If a page is short.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    let long: u64 = if plan.quick { 50_000 } else { 1_000_000 };
    for events in [10_000, long] {
        inbox(plan, events).await?;
    }
    Ok(())
}

async fn inbox(plan: Plan, events: u64) -> Result<()> {
    let pages = if plan.quick { 1_000 } else { 10_000 };
    let mut node = Node::start(&[]).await?;
    restart::load(&target(&node)?, "sender", "reader", events, 100).await?;
    let (mut costs, mut cold) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        node.kill_and_restart().await?;
        let target = target(&node)?;
        let (mut link, _) = Link::open(&target, Transport::WebSocket, "reader", 1, None).await?;
        let started = Instant::now();
        page(&mut link, 1).await?;
        cold.push(started.elapsed().as_secs_f64() * 1e3);
        let cpu = node.cpu_seconds()?;
        for req in 2..pages + 2 {
            page(&mut link, req).await?;
        }
        costs.push((node.cpu_seconds()? - cpu) * 1e6 / f64::from(pages));
    }
    Bar {
        name: format!("page of 50 newest of {events} events: server CPU"),
        unit: "µs",
        better: Better::Lower,
        bar: 200.0,
        goal: 50.0,
    }
    .print(&costs);
    // The bar is one seek a segment; what is measured here is the time it takes.
    Bar {
        name: format!("page of 50 newest of {events} events, first after a restart"),
        unit: "ms",
        better: Better::Lower,
        bar: 10.0,
        goal: 5.0,
    }
    .print(&cold);
    Ok(())
}

async fn page(link: &mut Link, req: u32) -> Result<()> {
    let get = HistoryGet {
        conversation: UserId::of("default", "sender").0,
        from: Some(From::Before(0)),
        limit: PAGE,
    };
    link.queue(&Frame::new(req, Body::History(get)));
    link.queue(
        &Body::Credit(Credit {
            lane: Lane::Bulk.into(),
            n: 1,
        })
        .into(),
    );
    link.flush().await?;
    match link.answer(req).await?.body {
        Some(Body::HistoryPage(page)) if page.events.len() == PAGE as usize => Ok(()),
        other => bail!("not a page of {PAGE}: {other:?}"),
    }
}
