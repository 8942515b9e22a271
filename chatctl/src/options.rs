//! What every command takes on the command line: which server, who, how to print.

use std::path::PathBuf;

use chat_client::{Encoding, Endpoint};
use clap::{Args, ValueEnum};

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The server: host:port (QUIC, else WebSocket), quic://…, wss://… or ws://…
    #[arg(
        long,
        global = true,
        env = "CHATCTL_SERVER",
        default_value = "127.0.0.1:7443"
    )]
    pub(crate) server: Endpoint,
    /// Speak as this person, to a server started with --dev.
    #[arg(long = "as", global = true, value_name = "NAME", env = "CHATCTL_AS")]
    pub(crate) as_person: Option<String>,
    /// The token of a person (a JWT).
    #[arg(
        long,
        global = true,
        env = "CHATCTL_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    pub(crate) token: Option<String>,
    /// A file with the token; it is read again when it is renewed.
    #[arg(long, global = true, value_name = "FILE", env = "CHATCTL_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Which of the person's devices this is; each keeps its own place.
    #[arg(long, global = true, value_name = "DEVICE", default_value = "default")]
    pub(crate) device_name: String,
    /// Where devices and unsent messages are kept [default: $XDG_STATE_HOME/chatctl]
    #[arg(long, global = true, value_name = "DIR", env = "CHATCTL_STATE")]
    pub(crate) state: Option<PathBuf>,
    /// Trust the certificates of this PEM file [default: the system's; on loopback
    /// ./chatd-data/tls/cert.pem if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "CHATCTL_CA_FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The admin port, for status and doctor.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "CHATCTL_ADMIN",
        default_value = "127.0.0.1:7444"
    )]
    pub(crate) admin: String,
    /// A file with the credential of the admin port.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// How frames are written on a WebSocket.
    #[arg(long, global = true, value_enum, default_value_t = Frames::Proto)]
    pub(crate) frames: Frames,
    /// A table for people, or one JSON value a line for scripts.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Give up after so many seconds.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    pub(crate) timeout: u64,
    /// Say more on standard error; twice for everything.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// How frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Frames {
    /// Protobuf.
    Proto,
    /// JSON.
    Json,
}

impl From<Frames> for Encoding {
    fn from(frames: Frames) -> Self {
        match frames {
            Frames::Proto => Self::Proto,
            Frames::Json => Self::Json,
        }
    }
}
