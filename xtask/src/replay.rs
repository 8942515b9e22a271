//! `cargo xtask replay`: builds the node and the replay for release, and runs them.

use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::{
    native, root,
    steps::{cargo, step},
};

/// What part of the conversations, how fast, and what happens meanwhile. Passed on to
/// the program `replay` of crate chat-tests.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many conversations, drawn by the seed; all 7,168 if not given.
    #[arg(long)]
    conversations: Option<usize>,
    /// Draws groups, listeners and faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Follows the recorded times, this many times faster; as fast as it goes if not given.
    #[arg(long)]
    speed: Option<f64>,
    /// How often the server is killed.
    #[arg(long, default_value_t = 3)]
    kills: u32,
    /// Keeps the node's data and the journals, and says where.
    #[arg(long)]
    keep: bool,
    /// `off`: nothing is killed, nobody leaves.
    #[arg(long, default_value = "on", value_parser = ["on", "off"])]
    faults: String,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    native::ensure();
    let mut build = cargo(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "chatd",
        "--package",
        "chat-tests",
        "--bins",
    ]);
    if !step("build", &mut build)? {
        return Ok(ExitCode::FAILURE);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder));
    let mut replay = Command::new(target.join("release").join("replay"));
    replay.args(["--seed", &arguments.seed.to_string()]);
    replay.args([
        "--kills",
        &arguments.kills.to_string(),
        "--faults",
        &arguments.faults,
    ]);
    if let Some(count) = arguments.conversations {
        replay.args(["--conversations", &count.to_string()]);
    }
    if let Some(speed) = arguments.speed {
        replay.args(["--speed", &speed.to_string()]);
    }
    if arguments.keep {
        replay.arg("--keep");
    }
    let status = replay
        .env("CHAT_TESTS_BUILT", "1")
        .current_dir(root())
        .status()
        .context("the replay does not start")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
