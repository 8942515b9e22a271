//! `chatctl status`: a node and its shards, as its admin port tells.

use chat_client::admin::Admin;
use clap::Args;
use serde_json::Value;

use crate::{
    failure::{FAILED, Failure},
    options::{Format, Global},
    output,
};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A line for each shard.
    #[arg(long)]
    shards: bool,
}

pub(crate) fn admin(global: &Global) -> Result<Admin, Failure> {
    let credential = match &global.admin_token_file {
        None => None,
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?
                .trim()
                .to_owned(),
        ),
    };
    Ok(Admin::new(&global.admin, credential))
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let cluster = admin(global)?.cluster().await?;
    match global.output {
        Format::Json => output::json(&cluster),
        Format::Table => print(&cluster, options.shards),
    }
    if cluster.get("ready").and_then(Value::as_bool) == Some(false) {
        return Err(
            Failure::new(FAILED, "the node is not ready").hint("`chatctl doctor` says what to do")
        );
    }
    Ok(())
}

/// A value as a person reads it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => output::clean(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn print(cluster: &Value, each_shard: bool) {
    let Some(fields) = cluster.as_object() else {
        return output::say(&plain(cluster));
    };
    // Whatever a newer node adds shows as well.
    for (name, value) in fields {
        if !value.is_array() && !value.is_object() {
            output::say(&format!("{:<16}{}", name.replace('_', " "), plain(value)));
        }
    }
    let list = |name: &str| fields.get(name).and_then(Value::as_array);
    if let Some(shards) = list("shards") {
        let count = |field: &str| {
            shards
                .iter()
                .filter_map(|shard| shard.get(field).and_then(Value::as_u64))
                .sum::<u64>()
        };
        let serving = shards
            .iter()
            .filter(|shard| shard.get("serves").and_then(Value::as_bool) == Some(true))
            .count();
        output::say(&format!(
            "{:<16}{serving} of {} serve",
            "shards",
            shards.len()
        ));
        output::say(&format!("{:<16}{}", "sessions", count("sessions")));
        output::say(&format!(
            "{:<16}{}",
            "outbox entries",
            count("outbox_entries")
        ));
        if each_shard {
            let titles = [
                "shard",
                "serves",
                "term",
                "last",
                "committed",
                "applied",
                "flushed",
                "sessions",
            ];
            let rows = shards
                .iter()
                .map(|shard| {
                    titles
                        .iter()
                        .map(|title| plain(shard.get(*title).unwrap_or(&Value::Null)))
                        .collect()
                })
                .collect();
            output::table(&titles, rows);
        }
    }
    for down in list("down").into_iter().flatten() {
        let field = |name: &str| plain(down.get(name).unwrap_or(&Value::Null));
        output::say(&format!(
            "shard {} is down: {}",
            field("shard"),
            field("reason")
        ));
    }
}
