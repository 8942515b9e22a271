//! The commands of this repository: `cargo xtask test`, `replay`, `generate`.
//!
//! It uses no crate of the workspace, so that it is built in seconds also when nothing
//! else compiles; what needs more is a program that it builds and runs.

mod generate;
mod native;
mod replay;
mod steps;
mod tests;

use std::{path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All checks and tests; the last line says `N passed, N failed, N skipped`.
    Test,
    /// Plays real conversations through a real node and compares what everybody has.
    Replay(replay::Arguments),
    /// Writes the files that are generated from code.
    Generate {
        /// Writes nothing: fails if a file is not what would be written.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Test => tests::run(),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Generate { check } => generate::run(check),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask stands one below the root")
}
