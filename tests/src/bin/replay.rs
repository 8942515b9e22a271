//! The program behind `cargo xtask replay`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use chat_tests::{
    node,
    replay::{child, plan, run},
};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Plays real conversations through a real node and compares what everybody has")]
struct Arguments {
    /// How many conversations, drawn by the seed; all if not given.
    #[arg(long)]
    conversations: Option<usize>,
    /// Draws groups, listeners and faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Follows the recorded times, this many times faster.
    #[arg(long)]
    speed: Option<f64>,
    /// How often the server is killed.
    #[arg(long, default_value_t = 3)]
    kills: u32,
    /// For how many seconds it is left away at one of them.
    #[arg(long, default_value_t = 60)]
    away: u64,
    /// `off`: nothing is killed, nobody leaves.
    #[arg(long, default_value = "on", value_parser = ["on", "off"])]
    faults: String,
    /// Keeps the node's data and the journals.
    #[arg(long)]
    keep: bool,
    /// Only conversations of two.
    #[arg(long)]
    pairs_only: bool,
    /// Everybody on plain WebSockets in JSON.
    #[arg(long)]
    simple: bool,
    /// Plays one device as this file says: how this program starts itself.
    #[arg(long, hide = true)]
    child: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.child {
        Some(path) => child::play(path).await.map(|()| true),
        None => replay(&arguments).await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("replay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn replay(arguments: &Arguments) -> anyhow::Result<bool> {
    let cache = node::workspace().join(".cache");
    let faults = arguments.faults == "on";
    let keep = arguments
        .keep
        .then(|| cache.join(format!("replay-{}", std::process::id())));
    let plot = cache.join("replay.svg");
    std::fs::create_dir_all(&cache).context("the cache folder")?;
    let settings = run::Settings {
        options: plan::Options {
            conversations: arguments.conversations,
            seed: arguments.seed,
            pairs_only: arguments.pairs_only,
            ..plan::Options::default()
        },
        cache,
        speed: arguments.speed,
        kills: if faults { arguments.kills } else { 0 },
        away: Duration::from_secs(arguments.away),
        processes: if faults { 3 } else { 0 },
        simple: arguments.simple,
        program: std::env::current_exe().context("the path of this program")?,
        keep: keep.clone(),
        plot: Some(plot.clone()),
        node: run::node_options(),
        talk: true,
    };
    let outcome = run::run(&settings).await?;
    println!("\n{}", outcome.table);
    println!("delivery times: {}", plot.display());
    if let Some(folder) = keep {
        println!("kept: {}", folder.display());
    }
    let objections = outcome.objections(&settings);
    for objection in &objections {
        println!("WRONG: {objection}");
    }
    println!(
        "{}",
        if objections.is_empty() {
            "PASS"
        } else {
            "FAIL"
        }
    );
    Ok(objections.is_empty())
}
