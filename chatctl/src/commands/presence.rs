//! `chatctl presence`: who is there.

use std::{collections::BTreeMap, time::Duration};

use chat_client::{
    Incoming, Start,
    frame::{Presence, PresenceState},
};
use clap::Args;
use serde_json::json;

use crate::{
    connect,
    failure::Failure,
    names,
    options::{Format, Global},
    output,
};

/// Changes are collected by the server for a second; those who do not show within this do not show.
const WAIT: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// People by name.
    #[arg(required = true)]
    people: Vec<String>,
    /// Go on and print changes.
    #[arg(long, short)]
    follow: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let mut session = connect::one_shot(global, Start::Fresh).await?;
    let client = session.client.clone();
    let mut names = BTreeMap::new();
    let mut users = Vec::new();
    for name in &options.people {
        let user = names::user(&client, name).await?;
        names.insert(user.0, name.clone());
        users.push(user);
    }
    client.presence_subscribe(&users).await?;
    let mut missing = names.clone();
    let deadline = tokio::time::Instant::now() + WAIT;
    while !missing.is_empty() {
        match tokio::time::timeout_at(deadline, session.events.recv()).await {
            Ok(Some(Incoming::Presence(presence))) => {
                missing.remove(&presence.user);
                show(global, &names, &presence);
            }
            Ok(Some(Incoming::Closed(error))) => return Err(error.into()),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    for name in missing.values() {
        match global.output {
            Format::Json => output::json(&json!({"name": name, "state": "notShown"})),
            Format::Table => output::say(&format!(
                "{}: not shown (only people who have written to you are)",
                output::clean(name)
            )),
        }
    }
    if !options.follow {
        client.close().await;
        return Ok(());
    }
    loop {
        let incoming = tokio::select! {
            incoming = session.events.recv() => incoming,
            signal = tokio::signal::ctrl_c() => {
                signal?;
                break;
            }
        };
        match incoming {
            Some(Incoming::Presence(presence)) => show(global, &names, &presence),
            Some(Incoming::Closed(error)) => return Err(error.into()),
            Some(_) => {}
            None => break,
        }
    }
    client.close().await;
    Ok(())
}

fn show(global: &Global, names: &BTreeMap<u64, String>, presence: &Presence) {
    let name = names
        .get(&presence.user)
        .map_or_else(|| presence.user.to_string(), |name| output::clean(name));
    let online = presence.state() == PresenceState::Online;
    match global.output {
        Format::Json => output::json(&json!({
            "name": name,
            "state": if online { "online" } else { "offline" },
            "lastSeenMs": presence.last_seen_ms.to_string(),
        })),
        Format::Table if online => output::say(&format!("{name}: here")),
        Format::Table if presence.last_seen_ms == 0 => output::say(&format!("{name}: away")),
        Format::Table => output::say(&format!(
            "{name}: away, last seen {}",
            output::time(presence.last_seen_ms)
        )),
    }
}
