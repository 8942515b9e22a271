//! The daemon's binary: flags, logs, a runtime, and the server in it.
//!
//! Exit codes: 0 after a stop that was asked for, 1 if the node could not start or
//! had to end, 2 if the settings are wrong, 70 if a panic ended it.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use chatd::{
    server,
    settings::{self, LogFormat, Settings, flags::Flags},
};
use clap::Parser as _;
use rustix::fs::Mode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FAILED: u8 = 1;
const WRONG_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    // What a node writes is its own alone, whoever creates the file.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let flags = Flags::parse();
    if flags.print_configuration {
        // A reader that has seen enough is no error.
        drop(std::io::stdout().write_all(settings::reference().as_bytes()));
        return ExitCode::SUCCESS;
    }
    let environment = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    let sources = flags.sources(environment);
    let settings = match settings::load(&sources) {
        Ok(settings) => settings,
        Err(error) => return refuse(&error.to_string(), WRONG_SETTINGS),
    };
    if let Err(error) = start_logs(&settings) {
        return refuse(&error, WRONG_SETTINGS);
    }
    for name in settings::unknown_variables(&sources) {
        tracing::warn!(name, "no setting has this variable: it is without effect");
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if settings.edge.workers > 0 {
        builder.worker_threads(settings.edge.workers);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("threads cannot be started: {error}"), FAILED),
    };
    let result = runtime.block_on(server::run(settings));
    // Tasks that still wait for a client or a file have nothing to lose.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&format!("{error:#}"), FAILED),
    }
}

fn refuse(message: &str, code: u8) -> ExitCode {
    eprintln!("chatd: {message}");
    ExitCode::from(code)
}

fn start_logs(settings: &Settings) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.logging.filter).map_err(|error| {
        format!(
            "`logging.filter` is {:?}, which is no filter: {error}",
            settings.logging.filter
        )
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match settings.logging.format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}
