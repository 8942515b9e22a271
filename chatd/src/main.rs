//! The daemon's binary.

use std::{net::SocketAddr, path::PathBuf};

use chatd::server::{self, Config};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A chat backend in one binary.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Accept `dev:<name>` as a token, on loopback only.
    #[arg(long)]
    dev: bool,
    /// The data directory.
    #[arg(long, default_value = "./chatd-data")]
    data: PathBuf,
    /// Where clients come: TCP and UDP.
    #[arg(long, default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// Where operators come.
    #[arg(long, default_value = "127.0.0.1:7444")]
    admin_listen: SocketAddr,
    /// Append the size of each write of the log to this file.
    #[arg(long)]
    trace_log_writes: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(server::run(Config {
        data: flags.data,
        listen: flags.listen,
        admin_listen: flags.admin_listen,
        dev: flags.dev,
        trace_log_writes: flags.trace_log_writes,
    }))
}
