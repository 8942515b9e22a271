//! The table of all settings: name, type, default, unit, bound and what it is for.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;

use crate::edge::auth::Signer;

use super::{
    Given, Origin, Problem,
    value::{Bound, LogFormat, Raw, Value},
};

/// A setting, as documents and errors name it.
#[derive(Debug)]
pub struct Row {
    /// `section.name`, or `name` at the top.
    pub key: &'static str,
    /// The unit of a number.
    pub unit: &'static str,
    /// The default as it would be written; empty for none.
    pub default: &'static str,
    /// What it may be.
    pub bound: Bound,
    /// What it is for.
    pub doc: &'static [&'static str],
}

const fn range(low: u64, high: u64) -> Bound {
    Bound::Range(low, high)
}

const fn words(words: &'static str) -> Bound {
    Bound::Words(words)
}

fn read<T: Value>(row: &'static Row, given: &Given, problems: &mut Vec<Problem>) -> T {
    let default = || {
        let raw = Raw::Text(row.default.into());
        T::read(&raw, row.bound).expect("a test reads every default")
    };
    let Some((raw, origin)) = given.0.get(row.key) else {
        return default();
    };
    T::read(raw, row.bound).unwrap_or_else(|| {
        problems.push(Problem::Value {
            origin: Origin::clone(origin),
            key: row.key,
            given: raw.shown(),
            wanted: row.bound.shown(row.unit),
        });
        default()
    })
}

macro_rules! settings {
    (
        {$($(#[doc = $top_doc:literal])+ $top:ident: $top_type:ty = $top_default:literal, $top_unit:literal, $top_bound:expr;)*}
        $($(#[doc = $section_doc:literal])+ $section:ident $Section:ident {
            $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:literal, $unit:literal, $bound:expr;)*
        })*
    ) => {
        /// All settings, checked.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $($(#[doc = $top_doc])+ pub $top: $top_type,)*
            $($(#[doc = $section_doc])+ pub $section: $Section,)*
        }

        $($(#[doc = $section_doc])+
        #[derive(Clone, Debug)]
        pub struct $Section {
            $($(#[doc = $doc])+ pub $name: $type,)*
        })*

        /// Every setting, in the order of the documentation.
        pub static TABLE: &[Row] = &[
            $(Row {
                key: stringify!($top),
                unit: $top_unit,
                default: $top_default,
                bound: $top_bound,
                doc: &[$($top_doc),+],
            },)*
            $($(Row {
                key: concat!(stringify!($section), ".", stringify!($name)),
                unit: $unit,
                default: $default,
                bound: $bound,
                doc: &[$($doc),+],
            },)*)*
        ];

        /// Sections and what they are about.
        pub static SECTIONS: &[(&str, &[&str])] =
            &[$((stringify!($section), &[$($section_doc),+]),)*];

        impl Settings {
            pub(super) fn build(given: &Given, problems: &mut Vec<Problem>) -> Self {
                let mut rows = TABLE.iter();
                let mut next = || rows.next().expect("the table has a row for each field");
                Self {
                    $($top: read(next(), given, problems),)*
                    $($section: $Section {
                        $($name: read(next(), given, problems),)*
                    },)*
                }
            }
        }
    };
}

settings! {{
    /// Where the node keeps its log, segments, certificate and identity. One process
    /// at a time; created if it is missing.
    data: PathBuf = "./chatd-data", "", words("a path");
    /// Addresses for clients: WebSocket over TCP and QUIC over UDP on the same port.
    listen: Vec<SocketAddr> = "127.0.0.1:7443", "", words("addresses like 127.0.0.1:7443, separated by commas");
    /// For trying out on one machine: `dev:<name>` is a token, a certificate is made
    /// under `<data>/tls`. Refused unless every address is on loopback.
    dev: bool = "false", "", words("true or false");
    }

    /// The port for operators: health, metrics, the state of the cluster.
    admin Admin {
        /// Address of the admin port. Off loopback it needs `admin.token_file`.
        listen: SocketAddr = "127.0.0.1:7444", "", words("an address like 127.0.0.1:7444");
        /// File with the bearer token that `/v1` and `/metrics` then demand; its first
        /// line counts, at least 16 bytes.
        token_file: Option<PathBuf> = "", "", words("a path");
        /// Names under which the admin port is reached, as requests give them in `Host`.
        /// Addresses and `localhost` always pass; another name is answered with 421, so
        /// that no web page can point a name of its own at this port.
        hosts: Vec<String> = "", "", words("names, separated by commas");
    }

    /// Who may chat: how tokens are checked. One of `jwks_file` and `jwks_url` is
    /// needed, unless `dev` is on.
    auth Auth {
        /// File with the public keys (JWKS) that sign tokens; read again when it changes.
        jwks_file: Option<PathBuf> = "", "", words("a path");
        /// Address of the public keys; redirects are not followed.
        jwks_url: Option<String> = "", "", words("an https:// address");
        /// Certificates (PEM) that are trusted for `jwks_url` instead of the system's.
        jwks_ca_file: Option<PathBuf> = "", "", words("a path");
        /// How often `jwks_url` is asked. An unknown key asks earlier.
        jwks_every_s: u64 = "300", "s", range(10, 86_400);
        /// Audiences of which a token's `aud` must name one.
        audience: Vec<String> = "chat", "", words("names, separated by commas");
        /// Issuers of which a token's `iss` must name one; none: it is not looked at.
        issuer: Vec<String> = "", "", words("names, separated by commas");
        /// Which key, or which issuer, may sign for which app: `shop=kid:key-1` or
        /// `shop=iss:https://id.example`; `*` stands for every app. With any of these a
        /// token that none of them covers is BAD_TOKEN; with none, every key of the set
        /// signs for every app.
        apps: Vec<Signer> = "", "", words("rules like shop=kid:key-1, separated by commas");
        /// Tokens that are checked at once; 0 is one less than there are workers.
        logins_at_once: usize = "0", "", range(0, 1_024);
    }

    /// Encryption for clients. Without a certificate there is no QUIC.
    tls Tls {
        /// Certificate chain, PEM; read again when it changes.
        certificate: Option<PathBuf> = "", "", words("a path");
        /// Its private key, PEM.
        key: Option<PathBuf> = "", "", words("a path");
        /// Whether WebSockets without TLS are accepted, as behind a proxy that ends TLS.
        /// Unset: only if every address is on loopback.
        allow_plain: Option<bool> = "", "", words("true or false");
    }

    /// Connections of clients.
    edge Edge {
        /// Threads for sockets; 0 is one per core.
        workers: usize = "0", "", range(0, 1_024);
        /// Connections at once. Over it a WebSocket gets HTTP 503, QUIC is refused. No more
        /// than the limit of open files leaves.
        max_connections: usize = "10000", "", range(1, 10_000_000);
        /// Connections at once that have not shown a valid token yet. Over it the one that
        /// has owed its HELLO longest gives way; over half of it QUIC clients must show
        /// that their address is their own.
        handshakes_at_once: usize = "4096", "", range(1, 1_000_000);
        /// The same from one address (IPv6: one /64).
        handshakes_per_address: usize = "256", "", range(1, 1_000_000);
        /// Places of `max_connections` that only a valid token gets. Unset: a tenth.
        reserved: Option<usize> = "", "", range(0, 10_000_000);
        /// Time for everything up to HELLO: TLS, HTTP, the session stream and HELLO itself.
        handshake_timeout_ms: u64 = "5000", "ms", range(100, 60_000);
        /// Networks of proxies, through which many clients come: without the limits for one
        /// address. Loopback is where a proxy on this machine is.
        trusted_proxies: Vec<IpNet> = "127.0.0.0/8,::1/128", "", words("networks like 10.1.0.0/16 or addresses, separated by commas");
        /// New connections a second from one address (IPv6: one /64).
        connects_per_second: u32 = "50", "1/s", range(1, 1_000_000);
        /// New connections at once from one address.
        connects_burst: u32 = "500", "", range(1, 1_000_000);
        /// Memory of the process, without mapped files: near it memtables are flushed early
        /// and the heaviest users wait, above it nobody new comes in. 0 is three quarters of
        /// the machine's.
        memory_bytes: u64 = "0", "bytes", range(0, 1_000_000_000_000_000);
        /// Buffers of the UDP socket, each way. The kernel may cap them, which is warned of.
        udp_buffer_bytes: usize = "4194304", "bytes", range(65_536, 1_073_741_824);
        /// What may wait for one client; beyond, it is closed as SLOW_CONSUMER.
        outbound_session_bytes: usize = "8388608", "bytes", range(262_144, 1_000_000_000);
        /// What may wait for all clients; beyond, each keeps 64 KiB.
        outbound_total_bytes: usize = "268435456", "bytes", range(1_048_576, 1_000_000_000_000);
        /// Clients over WebSocket are asked to say something at least this often.
        websocket_heartbeat_ms: u32 = "270000", "ms", range(1_000, 600_000);
        /// Clients over QUIC are asked to say something at least this often.
        quic_heartbeat_ms: u32 = "25000", "ms", range(1_000, 30_000);
        /// When the node is told to stop: time for clients to leave. Unset: 10,000, and
        /// 1,000 with `dev`.
        drain_timeout_ms: Option<u64> = "", "ms", range(0, 600_000);
        /// Clients of a node that stops are told to connect again within this time.
        reconnect_within_ms: u32 = "5000", "ms", range(0, 600_000);
    }

    /// What one client may do. WELCOME tells clients.
    limits LimitSettings {
        /// Longest frame from a client.
        frame_bytes: u32 = "262144", "bytes", range(66_000, 1_048_576);
        /// Plain SENDs a second of one device, sustained. Everything else costs as many
        /// SENDs as docs/security.md says.
        sends_per_second: u32 = "100", "1/s", range(1, 1_000_000);
        /// Plain SENDs of one device at once.
        sends_burst: u32 = "200", "", range(1, 1_000_000);
        /// A user's devices together may do as much as this many of them.
        user_devices: u32 = "2", "", range(1, 100);
        /// Inboxes that one user may make by naming people, an hour. Every member that
        /// GROUP_CREATE and GROUP_ADD name counts as one.
        new_inboxes_per_hour: u32 = "5000", "1/h", range(1, 1_000_000_000);
        /// Users whose presence one session follows.
        presence_subscriptions: u32 = "1000", "", range(0, 10_000);
        /// Entries in one page.
        history_page: u32 = "200", "", range(1, 200);
        /// Requests of one session that wait for an answer.
        in_flight: u32 = "256", "", range(1, 4_096);
        /// Events a session takes before it grants more.
        event_credits: u32 = "512", "", range(1, 4_096);
        /// Pages a session takes before it grants more.
        bulk_credits: u32 = "16", "", range(1, 256);
    }

    /// Threads and paces of shards.
    shards ShardSettings {
        /// Shard threads; 0 is one for two cores.
        threads: usize = "0", "", range(0, 256);
        /// ACKs and MARKs go into a shard's log at most this often.
        ack_flush_ms: u64 = "200", "ms", range(1, 10_000);
        /// Outbox entries without progress for so long are sent again.
        outbox_resend_ms: u64 = "1000", "ms", range(50, 60_000);
        /// Changes of presence are told at most this often.
        presence_coalesce_ms: u64 = "1000", "ms", range(10, 60_000);
        /// A session behind without credit or ACK for so long is closed.
        slow_consumer_ms: u64 = "30000", "ms", range(1_000, 600_000);
        /// Bytes applied to a shard after which it is flushed to segments.
        flush_bytes: u64 = "16777216", "bytes", range(65_536, 1_073_741_824);
    }

    /// The write-ahead log and the segments.
    log LogSettings {
        /// Bytes of one log file. The largest entry must fit into half of one.
        file_bytes: u64 = "67108864", "bytes", range(4_194_304, 1_073_741_824);
        /// Empty log files that are kept ready.
        pool_files: usize = "2", "", range(1, 64);
        /// Bytes of all log files; at the bound SENDs are OVERLOADED until shards are
        /// flushed.
        budget_bytes: u64 = "1073741824", "bytes", range(25_165_824, 1_099_511_627_776);
        /// Free bytes on the disk below which SENDs are answered DISK_FULL.
        stop_free_bytes: u64 = "268435456", "bytes", range(0, 1_099_511_627_776);
        /// Free bytes from which on they are taken again.
        resume_free_bytes: u64 = "536870912", "bytes", range(0, 1_099_511_627_776);
        /// Whether segments are compressed.
        compression: bool = "true", "", words("true or false");
        /// Bytes of decompressed blocks that are kept in memory.
        cache_bytes: usize = "67108864", "bytes", range(0, 1_099_511_627_776);
        /// For measurements: a file that gets the size of every write of the log.
        trace_writes: Option<PathBuf> = "", "", words("a path");
    }

    /// The continuous walk over inboxes that counts what is missing.
    audit AuditSettings {
        /// Events that are read a second.
        events_per_second: u64 = "500", "1/s", range(1, 10_000_000);
    }

    /// What the daemon says about itself, on standard error. Never a token or a payload.
    logging Logging {
        /// How.
        format: LogFormat = "text", "", words("text or json");
        /// What, as in `info` or `chatd=debug,info`.
        filter: String = "info", "", words("a filter like info or chatd=debug,info");
    }

    /// Settings of the whole cluster. They only seed the log of shard 0 when the node
    /// starts for the first time; afterwards the log counts, and what stands here is
    /// without effect.
    cluster Cluster {
        /// Ranges that inboxes are cut into.
        shards: u16 = "64", "", range(1, 4_095);
        /// Members of a group.
        group_members: u32 = "1024", "", range(2, 100_000);
        /// Devices of a user; one more replaces the longest unseen.
        devices: u32 = "20", "", range(1, 100);
        /// Longest content of a message.
        content_bytes: u32 = "65536", "bytes", range(1, 65_536);
        /// Users mentioned in a message.
        mentions: u32 = "100", "", range(0, 1_000);
        /// Whether only users who have connected once can be written to. Otherwise naming
        /// somebody makes an inbox.
        known_users_only: bool = "false", "", words("true or false");
        /// What may wait in a shard's outbox for one other shard.
        outbox_bytes: u64 = "67108864", "bytes", range(1_048_576, 1_073_741_824);
    }
}
