//! What an application says about its connection: plain data, checked when the
//! client connects.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use chat_wire::{
    codec::Encoding,
    frame,
    ids::{ClientId, ConversationId, GroupId, UserId},
};
use serde::{Deserialize, Serialize};

use crate::{Backoff, Network};

/// How a client connects and what it keeps. [`Config::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// Who speaks.
    pub token: Token,
    /// The device: chosen once, kept, never 0.
    pub device: u64,
    /// How frames are written on a WebSocket; QUIC is always protobuf.
    pub encoding: Encoding,
    /// Whose certificates are trusted.
    pub trust: Trust,
    /// Where messages wait until they are answered.
    pub queue: Queue,
    /// Which events come first.
    pub start: Start,
    /// Acknowledge each event when the application takes it from [`crate::Events`].
    /// Otherwise it calls [`crate::Client::ack`].
    pub auto_ack: bool,
    /// How long acknowledgements and marks are collected before they go, ms.
    pub ack_delay_ms: u64,
    /// Events that may wait to be taken: 1 to 100,000. The server holds back more.
    pub event_buffer: u32,
    /// The pauses between attempts to connect, and before a refused SEND goes again.
    pub backoff: Backoff,
    /// For how long the first connection is tried. Later ones are tried for ever.
    pub connect_timeout: Duration,
    /// For how long a request other than SEND waits for its answer, over reconnects.
    pub request_timeout: Duration,
    /// The longest silence before the server is asked whether it is still there. None: what
    /// the server says on a WebSocket, 25 s ± 20 % on QUIC. While a message or request waits for
    /// its answer it is 2 s.
    pub heartbeat: Option<Duration>,
    /// The UDP socket of QUIC: clients of one process may share one.
    pub network: Network,
}

impl Config {
    /// The defaults: protobuf, the system's certificates, 1,024 unanswered messages in
    /// memory, no old events, acknowledged when taken.
    #[must_use]
    pub fn new(endpoint: Endpoint, token: Token, device: u64) -> Self {
        Self {
            endpoint,
            token,
            device,
            encoding: Encoding::Proto,
            trust: Trust::System,
            queue: Queue::Memory { bound: 1024 },
            start: Start::Fresh,
            auto_ack: true,
            ack_delay_ms: 50,
            event_buffer: 1024,
            backoff: Backoff::default(),
            connect_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            heartbeat: None,
            network: Network::default(),
        }
    }
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `host:port`: QUIC, then a TLS WebSocket, then, on loopback only, a plain one.
    Any {
        /// Name or address.
        host: String,
        /// UDP and TCP.
        port: u16,
    },
    /// `quic://host:port`.
    Quic {
        /// Name or address.
        host: String,
        /// UDP.
        port: u16,
    },
    /// `ws://host:port` or `wss://host:port`.
    WebSocket {
        /// Name or address.
        host: String,
        /// TCP.
        port: u16,
        /// `wss`.
        tls: bool,
    },
}

/// The port of chatd when an address names none.
pub(crate) const DEFAULT_PORT: u16 = 7443;

impl Endpoint {
    /// Name or address of the server.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Any { host, .. } | Self::Quic { host, .. } | Self::WebSocket { host, .. } => host,
        }
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Any { port, .. } | Self::Quic { port, .. } | Self::WebSocket { port, .. } => {
                *port
            }
        }
    }

    /// Whether the host is this machine: only there a token may travel in the clear
    /// without being asked for.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self {
            Self::Any { .. } => "",
            Self::Quic { .. } => "quic://",
            Self::WebSocket { tls: true, .. } => "wss://",
            Self::WebSocket { tls: false, .. } => "ws://",
        };
        let host = self.host();
        if host.contains(':') {
            write!(f, "{scheme}[{host}]:{}", self.port())
        } else {
            write!(f, "{scheme}{host}:{}", self.port())
        }
    }
}

/// An address that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{address}` is no address of a server ({reason}): write host:port, ws://host:port, \
     wss://host:port or quic://host:port"
)]
pub struct EndpointError {
    address: String,
    reason: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(address: &str) -> Result<Self, EndpointError> {
        let error = |reason| EndpointError {
            address: address.to_owned(),
            reason,
        };
        let (scheme, rest) = match address.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, address),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let rest = rest.strip_suffix("/v1/ws").unwrap_or(rest);
        let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or(error("`[` without `]`"))?;
            (host, after.strip_prefix(':'))
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(error("no host"));
        }
        let host = host.to_owned();
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or(error("no port from 1 to 65535"))?,
            None => DEFAULT_PORT,
        };
        match scheme {
            None => Ok(Self::Any { host, port }),
            Some("quic") => Ok(Self::Quic { host, port }),
            Some("ws") => Ok(Self::WebSocket {
                host,
                port,
                tls: false,
            }),
            Some("wss") => Ok(Self::WebSocket {
                host,
                port,
                tls: true,
            }),
            Some(_) => Err(error("unknown scheme")),
        }
    }
}

/// Where the token comes from. It is read again for every connection, so that a
/// renewed one is used.
#[derive(Clone)]
pub enum Token {
    /// Always this one.
    Fixed(String),
    /// The text of a file, without white space around it.
    File(PathBuf),
    /// Whatever the function gives.
    Function(Arc<dyn Fn() -> String + Send + Sync>),
}

impl Token {
    /// The token that servers started with `--dev` take for `name`.
    #[must_use]
    pub fn dev(name: &str) -> Self {
        Self::Fixed(format!("dev:{name}"))
    }

    pub(crate) fn read(&self) -> Result<String, std::io::Error> {
        match self {
            Self::Fixed(token) => Ok(token.clone()),
            Self::File(path) => Ok(std::fs::read_to_string(path)?.trim().to_owned()),
            Self::Function(token) => Ok(token()),
        }
    }
}

impl fmt::Debug for Token {
    /// Never the token itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(_) => f.write_str("Fixed(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Function(_) => f.write_str("Function(…)"),
        }
    }
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The authorities of the operating system.
    #[default]
    System,
    /// Only the certificates in this PEM file.
    CaFile(PathBuf),
}

/// Where messages wait until they are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Lost with the process.
    Memory {
        /// Unanswered messages: 1 to 1,000,000. One more waits in [`crate::Client::send`].
        bound: usize,
    },
    /// In this file, synced before [`crate::Client::send`] returns. One file belongs to one
    /// user and device; a second client that opens it is refused.
    Disk {
        /// The file; it is created if it is not there.
        path: PathBuf,
        /// Unanswered messages: 1 to 1,000,000.
        bound: usize,
    },
}

impl Queue {
    pub(crate) const fn bound(&self) -> usize {
        match self {
            Self::Memory { bound } | Self::Disk { bound, .. } => *bound,
        }
    }
}

/// Which events come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Only what comes from now on. A new device reads CONVERSATIONS for the rest.
    #[default]
    Fresh,
    /// Everything after this number; 0 for the whole inbox.
    From(u64),
    /// Where the device stopped: [`crate::Client::state`], saved by the application.
    Saved(State),
}

/// Where a device stopped. It covers what the application took from
/// [`crate::Events`], nothing that only waited there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The cluster's generation; 0 if not known.
    pub generation: u32,
    /// The last event taken.
    pub inbox_seq: u64,
    /// The last version of marks taken without a hole.
    pub marks_version: u64,
    /// The last event acknowledged.
    pub acked: u64,
    /// Marks that no receipt has confirmed yet: conversation → seen up to. At most 4,096;
    /// at the bound the oldest is forgotten.
    pub marks: BTreeMap<u64, i64>,
}

/// To whom a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A person by id: one whose inbox exists.
    User(UserId),
    /// A person of one's own app by name.
    Name(String),
    /// A group.
    Group(GroupId),
}

impl Target {
    /// A person of one's own app by name.
    pub fn name(name: impl Into<String>) -> Self {
        Self::Name(name.into())
    }

    pub(crate) fn to_frame(&self) -> frame::Target {
        use frame::target::To;
        frame::Target {
            to: Some(match self {
                Self::User(user) => To::User(user.0),
                Self::Name(name) => To::Name(name.clone()),
                Self::Group(group) => To::Group(group.0),
            }),
        }
    }
}

impl From<ConversationId> for Target {
    fn from(conversation: ConversationId) -> Self {
        match conversation.group() {
            Some(group) => Self::Group(group),
            None => Self::User(UserId(conversation.0)),
        }
    }
}

impl From<UserId> for Target {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

impl From<GroupId> for Target {
    fn from(group: GroupId) -> Self {
        Self::Group(group)
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// A file that is stored elsewhere.
    Media(frame::MediaReference),
    /// Bytes that only the applications understand.
    Custom {
        /// Their type, at most 128 bytes.
        kind: String,
        /// They.
        data: Bytes,
    },
}

impl Content {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn into_frame(self) -> frame::Content {
        use frame::content::Kind;
        frame::Content {
            kind: Some(match self {
                Self::Text(text) => Kind::Text(text),
                Self::Media(media) => Kind::Media(media),
                Self::Custom { kind, data } => Kind::Custom(frame::Custom { r#type: kind, data }),
            }),
        }
    }
}

/// A message with everything that can be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its id; the client makes one if there is none. An application that keeps its own
    /// record chooses it, so that saying the same again after a crash is the same message.
    pub id: Option<ClientId>,
    /// To whom.
    pub to: Target,
    /// What.
    pub content: Content,
    /// The message that it answers; 0 for none.
    pub reply_to: i64,
    /// Users to be told.
    pub mentions: Vec<UserId>,
    /// Without a notification.
    pub silent: bool,
}

impl Message {
    /// A message that answers nothing and mentions nobody.
    #[must_use]
    pub const fn new(to: Target, content: Content) -> Self {
        Self {
            id: None,
            to,
            content,
            reply_to: 0,
            mentions: Vec::new(),
            silent: false,
        }
    }

    pub(crate) fn into_frame(self, client_msg_id: Bytes) -> frame::Send {
        frame::Send {
            client_msg_id,
            to: Some(self.to.to_frame()),
            after: 0,
            abandons: Bytes::new(),
            content: Some(self.content.into_frame()),
            reply_to: self.reply_to,
            mentions: self.mentions.into_iter().map(|user| user.0).collect(),
            silent: self.silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_print() {
        for address in [
            "127.0.0.1:7443",
            "ws://example.org:80",
            "wss://example.org:443",
            "quic://[::1]:7443",
        ] {
            assert_eq!(address.parse::<Endpoint>().unwrap().to_string(), address);
        }
        assert_eq!(
            "ws://localhost/v1/ws".parse::<Endpoint>().unwrap(),
            Endpoint::WebSocket {
                host: "localhost".into(),
                port: DEFAULT_PORT,
                tls: false
            }
        );
    }

    #[test]
    fn wrong_addresses_say_what_to_write() {
        for address in ["", ":7443", "http://a:1", "a:0", "a:99999", "[::1", "u@h:1"] {
            let error = address.parse::<Endpoint>().unwrap_err();
            assert!(error.to_string().contains("write host:port"), "{address}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (address, loopback) in [
            ("localhost", true),
            ("127.0.0.9:1", true),
            ("[::1]:1", true),
            ("localhost.example.org", false),
            ("10.0.0.1", false),
        ] {
            let endpoint: Endpoint = address.parse().unwrap();
            assert_eq!(endpoint.is_loopback(), loopback, "{address}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let config = Config::new("a:1".parse().unwrap(), Token::dev("secret"), 1);
        assert!(!format!("{config:?}").contains("secret"));
    }
}
