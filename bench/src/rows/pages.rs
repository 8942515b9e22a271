//! A page of the 50 newest messages: CPU, and of a long inbox after a restart; and what a
//! new device receives until it has its first screen.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use chat_wire::{
    frame::{Body, ConversationsGet, Credit, Frame, HistoryGet, Lane, history_get::From},
    ids::UserId,
};

use super::{Plan, restart, target};
use crate::{
    link::{Link, Target, Transport},
    node::Node,
    report::{Bar, Better},
};

const PAGE: u32 = 50;
/// Conversations besides the long one, and the events of each: more than a page of both.
const OTHERS: u64 = 60;
const EVENTS_OF_OTHERS: u64 = 100;

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
    let to = target(&node)?;
    for other in 0..OTHERS {
        let name = format!("other-{other}");
        restart::load(&to, &name, "reader", EVENTS_OF_OTHERS, 100).await?;
    }
    let of_one = events - OTHERS * EVENTS_OF_OTHERS;
    restart::load(&to, "sender", "reader", of_one, 100).await?;
    let (mut costs, mut cold) = (Vec::new(), Vec::new());
    let (mut received, mut round_trips) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
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
        let (bytes, trips) = first_screen(&target, 100 + round as u64, events).await?;
        received.push(bytes / 1024.0);
        round_trips.push(trips);
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
    let bar = |what, unit, bar| Bar {
        name: format!("first screen of {events} events on a new device: {what}"),
        unit,
        better: Better::Lower,
        bar,
        goal: bar,
    };
    bar("received", "KiB", 1024.0).print(&received);
    bar("round trips", "", 3.0).print(&round_trips);
    Ok(())
}

/// HELLO, CONVERSATIONS and HISTORY of the newest, as a device that was never here does it:
/// the bytes that came, and how often it had to wait for an answer. The connection itself
/// is not among the latter.
async fn first_screen(target: &Target, device: u64, events: u64) -> Result<(f64, f64)> {
    let (mut link, welcome) =
        Link::open(target, Transport::WebSocket, "reader", device, None).await?;
    let mut round_trips = 1.0;
    if welcome.inbox_head != events {
        bail!("an inbox of {} events", welcome.inbox_head);
    }
    let get = ConversationsGet::default();
    link.queue(&Frame::new(2, Body::Conversations(get)));
    link.flush().await?;
    round_trips += 1.0;
    let newest = match link.answer(2).await?.body {
        Some(Body::ConversationsPage(page)) if page.conversations.len() == PAGE as usize => {
            let newest = page.conversations.first();
            newest.map(|conversation| conversation.conversation)
        }
        other => bail!("not a page of {PAGE} conversations: {other:?}"),
    };
    let get = HistoryGet {
        conversation: newest.context("a page of none")?,
        from: Some(From::Before(0)),
        limit: PAGE,
    };
    link.queue(&Frame::new(3, Body::History(get)));
    link.flush().await?;
    round_trips += 1.0;
    match link.answer(3).await?.body {
        Some(Body::HistoryPage(page)) if page.events.len() == PAGE as usize => {}
        other => bail!("not a page of {PAGE}: {other:?}"),
    }
    #[expect(clippy::cast_precision_loss, reason = "for a figure")]
    Ok((link.received() as f64, round_trips))
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
