//! The command line.

use std::path::PathBuf;

use clap::Parser;

use super::{CONFIG_VARIABLE, Sources};

/// A chat server: one process, one data directory, no other dependency.
///
/// Settings come from a file, then the environment (CHATD_…), then flags; the later
/// ones win. `chatd --print-configuration` lists all of them.
#[derive(Debug, Parser)]
#[command(name = "chatd", version, about)]
pub struct Flags {
    /// For trying out on this machine: anybody is who they say they are.
    #[arg(long)]
    dev: bool,
    /// The settings file (YAML).
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
    /// Where the node keeps its data.
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<String>,
    /// Address for clients, WebSocket and QUIC.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address for operators: health, metrics, state.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// How logs are written.
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
    /// What is logged, as in info or chatd=debug,info.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// For measurements: writes the size of every write of the log to a file.
    #[arg(long, value_name = "FILE")]
    trace_log_writes: Option<String>,
    /// Any other setting.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Prints the documentation of all settings and exits.
    #[arg(long)]
    pub print_configuration: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .ok_or_else(|| "write it as KEY=VALUE, like edge.max_connections=100".into())
}

impl Flags {
    /// Where settings are read from, with the variables of this process.
    #[must_use]
    pub fn sources(&self, environment: impl Iterator<Item = (String, String)>) -> Sources {
        let mut flags = Vec::new();
        let mut flag = |key: &str, value: &Option<String>, typed: &str| {
            if let Some(value) = value {
                flags.push((key.to_owned(), value.clone(), typed.to_owned()));
            }
        };
        flag("dev", &self.dev.then(|| "true".to_owned()), "--dev");
        flag("data", &self.data, "--data");
        flag("listen", &self.listen, "--listen");
        flag("admin.listen", &self.admin_listen, "--admin-listen");
        flag("logging.format", &self.log_format, "--log-format");
        flag("logging.filter", &self.log, "--log");
        flag(
            "log.trace_writes",
            &self.trace_log_writes,
            "--trace-log-writes",
        );
        for (key, value) in &self.set {
            flag(key, &Some(value.clone()), "--set");
        }
        Sources {
            file: self.config.clone(),
            environment: environment.collect(),
            flags,
        }
    }
}
