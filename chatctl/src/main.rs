//! The command line of chatd: chats, asks, and looks into nodes.
//!
//! Each command is a file of [`commands`]; [`options`] says which server and who;
//! [`connect`] turns that into a session; [`output`] prints, as a table for people or
//! as JSON for scripts; [`failure`] says what went wrong, what to do, and the exit code.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod commands;
mod connect;
mod device;
mod failure;
mod names;
mod options;
mod output;

use std::process::ExitCode;

use clap::Parser;
use commands::Arguments;
use rustix::fs::Mode;

fn main() -> ExitCode {
    // What is kept of conversations is its owner's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let level = match arguments.global.verbose {
        0 => tracing::Level::ERROR,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_writer(|| output::Log)
        .with_ansi(false)
        .with_max_level(level)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::remark(&format!("error: the runtime cannot start: {error}"));
            return ExitCode::from(failure::FAILED);
        }
    };
    let result = runtime.block_on(Box::pin(commands::run(arguments)));
    // A thread that waits for a line of the terminal would hold the process back.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.lines().for_each(|line| output::remark(&line));
            ExitCode::from(failure.code)
        }
    }
}
