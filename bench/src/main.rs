//! The benchmarks: loads against a real `chatd` in a process of its own, with real
//! syncs. `cargo run --release -p bench -- one-node`.
//!
//! Every bar is one JSON line; the exit code is 0 whether bars are met or not. Known
//! limit: server and load share the machine, so rates are what it allows for both;
//! ratios and CPU a message carry over, rates do not.

mod bystanders;
mod link;
mod message;
mod node;
mod report;
mod rows;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use rows::Plan;

/// Benchmarks of chatd.
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// One node, clients on the same machine.
    OneNode {
        /// Only this row; may be repeated.
        #[arg(long, value_name = "ROW")]
        only: Vec<String>,
        /// Rounds of each figure; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds of load in a round.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Smaller figures for what takes minutes.
        #[arg(long)]
        quick: bool,
        /// Sends a second of the delivery row, instead of half of the highest rate.
        #[arg(long)]
        rate: Option<u32>,
    },
    /// What one client costs the others: their times while it does its worst.
    Bystanders {
        /// Only this attack; may be repeated.
        #[arg(long, value_name = "ATTACK")]
        only: Vec<String>,
        /// Rounds of each attack; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds of a measurement; a round has two.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// The node's cap on memory, in MiB.
        #[arg(long, default_value_t = 256)]
        memory_mib: u64,
        /// Another binary than the `chatd` beside this one.
        #[arg(long, value_name = "PATH")]
        chatd: Option<PathBuf>,
        /// A setting of the node, `name=value`; may be repeated.
        #[arg(long, value_name = "SETTING")]
        set: Vec<String>,
    },
}

const ROWS: &[&str] = &[
    "sends-16", "sends-1", "delivery", "groups", "idle", "start", "resume", "pages",
];

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match Flags::parse().suite {
        Suite::OneNode {
            only,
            rounds,
            seconds,
            quick,
            rate,
        } => {
            let plan = Plan {
                rounds: rounds.max(1),
                seconds: seconds.max(1),
                quick,
                rate,
            };
            one_node(&runtime, &only, plan)
        }
        Suite::Bystanders {
            only,
            rounds,
            seconds,
            memory_mib,
            chatd,
            set,
        } => {
            let plan = bystanders::Plan {
                only,
                rounds: rounds.max(1),
                seconds: seconds.max(1),
                memory_bytes: memory_mib.max(1) << 20,
                chatd,
                set,
            };
            runtime.block_on(bystanders::run(&plan))
        }
    }
}

fn one_node(runtime: &tokio::runtime::Runtime, only: &[String], plan: Plan) -> Result<()> {
    for row in only {
        if !ROWS.contains(&row.as_str()) {
            bail!("no row is called {row}: there are {}", ROWS.join(", "));
        }
    }
    for row in ROWS {
        if only.is_empty() || only.iter().any(|name| name == row) {
            eprintln!("{row}");
            if let Err(error) = runtime.block_on(run(row, plan)) {
                eprintln!("{row} failed: {error:#}");
            }
        }
    }
    Ok(())
}

async fn run(row: &str, plan: Plan) -> Result<()> {
    match row {
        "sends-16" => rows::sends::run(plan, 16).await,
        "sends-1" => rows::sends::run(plan, 1).await,
        "delivery" => rows::delivery::run(plan).await,
        "groups" => rows::groups::run(plan).await,
        "idle" => rows::idle::run(plan).await,
        "start" => rows::restart::start(plan).await,
        "resume" => rows::restart::resume(plan).await,
        "pages" => rows::pages::run(plan).await,
        _ => bail!("a row without a benchmark"),
    }
}
