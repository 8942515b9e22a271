//! `chatctl doctor`: looks at everything between this terminal and a message that
//! arrives, and says what to do about what is wrong.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use chat_client::{Client, ConnectError, Content, Endpoint, Start, Target, Token, Trust};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    commands::status,
    connect,
    device::Device,
    failure::{FOUND, Failure},
    options::{Format, Global},
    output,
};

/// The clocks of a client and the server may differ so far before ids are refused.
const CLOCK_BAD_MS: u64 = 5 * 60 * 1000;
const CLOCK_ODD_MS: u64 = 2_000;
/// chatd stops taking messages below 256 MiB free, unless it is told otherwise.
const DISK_ODD_BYTES: u64 = 512 * 1024 * 1024;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The node's data directory, if it is on this machine.
    #[arg(long, value_name = "DIR", default_value = "./chatd-data")]
    data: PathBuf,
    /// Also send a message to oneself and time it.
    #[arg(long)]
    send: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Odd,
    Bad,
    Skipped,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Odd => "odd",
            Self::Bad => "BAD",
            Self::Skipped => "skipped",
        }
    }
}

struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    advice: String,
}

#[derive(Default)]
struct Report {
    checks: Vec<Check>,
}

impl Report {
    fn add(
        &mut self,
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        advice: &str,
    ) {
        self.checks.push(Check {
            name,
            verdict,
            found: found.into(),
            advice: advice.to_owned(),
        });
    }

    fn good(&mut self, name: &'static str, found: impl Into<String>) {
        self.add(name, Verdict::Good, found, "");
    }

    fn bad(&mut self, name: &'static str, found: impl Into<String>, advice: &str) {
        self.add(name, Verdict::Bad, found, advice);
    }
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let mut report = Report::default();
    let bar = output::bar(global.output, 4, "looking");
    node(global, &mut report).await?;
    bar.inc(1);
    disk(&options, &mut report);
    note(&options, &mut report);
    bar.inc(1);
    ports(global, &mut report).await;
    bar.inc(1);
    session(global, &options, &mut report).await?;
    bar.finish_and_clear();

    match global.output {
        Format::Json => {
            for check in &report.checks {
                output::json(&json!({
                    "check": check.name,
                    "verdict": check.verdict.name(),
                    "found": check.found,
                    "advice": check.advice,
                }));
            }
        }
        Format::Table => {
            for check in &report.checks {
                output::say(&format!(
                    "{:<8}{:<22}{}",
                    check.verdict.name(),
                    check.name,
                    output::clean(&check.found)
                ));
                if !check.advice.is_empty() {
                    output::say(&format!("{:<30}→ {}", "", check.advice));
                }
            }
        }
    }
    let bad = report
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Bad)
        .count();
    if bad == 0 {
        Ok(())
    } else {
        Err(Failure::new(FOUND, format!("{bad} checks are bad")))
    }
}

async fn node(global: &Global, report: &mut Report) -> Result<(), Failure> {
    let admin = status::admin(global)?;
    match admin.healthy().await {
        Ok(answer) if answer.status == 200 => report.good("admin port", admin.address()),
        Ok(answer) => report.bad(
            "admin port",
            format!("HTTP {}: {}", answer.status, answer.text.trim()),
            "read the node's log: it is ending or cannot serve",
        ),
        Err(error) => {
            report.add(
                "admin port",
                Verdict::Odd,
                error.to_string(),
                "if the node is on this machine: is it running, and with which --admin-listen? \
                 say so with --admin",
            );
            return Ok(());
        }
    }
    match admin.ready().await {
        Ok(answer) if answer.status == 200 => report.good("node is ready", "all shards serve"),
        Ok(answer) => report.bad(
            "node is ready",
            answer.text.trim().to_owned(),
            "a shard that is damaged has to be repaired: stop the node and see `chatctl inspect`; \
             one that only starts needs a moment",
        ),
        Err(error) => report.bad("node is ready", error.to_string(), "read the node's log"),
    }
    match admin.cluster().await {
        Ok(cluster) => cluster_checks(&cluster, report),
        Err(error) => report.bad(
            "node status",
            error.to_string(),
            "an admin port that asks for a credential takes --admin-token-file",
        ),
    }
    Ok(())
}

fn cluster_checks(cluster: &Value, report: &mut Report) {
    if cluster.get("disk_full").and_then(Value::as_bool) == Some(true) {
        report.bad(
            "node takes messages",
            "the disk is full: every send is refused",
            "free space on the data directory's file system: it goes on by itself",
        );
    } else {
        report.good("node takes messages", "the disk has room");
    }
    if let Some(failed) = cluster.get("failed").and_then(Value::as_str) {
        report.bad(
            "node's log",
            failed.to_owned(),
            "a write or sync failed: replace the disk; a restart recovers what was acknowledged",
        );
    }
    if let Some(version) = cluster.get("version").and_then(Value::as_str) {
        let own = env!("CARGO_PKG_VERSION");
        if version == own {
            report.good("version", format!("{version}, like this chatctl"));
        } else {
            report.add(
                "version",
                Verdict::Odd,
                format!("the node is {version}, this chatctl is {own}"),
                "use the chatctl of the node's version if something looks strange",
            );
        }
    }
    if let Some(last) = cluster.get("last_panic").filter(|last| last.is_object()) {
        let reason = last.get("reason").and_then(Value::as_str).unwrap_or("");
        let unix_ms = last.get("unix_ms").and_then(Value::as_u64).unwrap_or(0);
        panicked(report, reason, unix_ms);
    }
    for down in cluster
        .get("down")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        report.bad(
            "shard",
            format!(
                "{} is down: {}",
                down.get("shard").unwrap_or(&Value::Null),
                down.get("reason").and_then(Value::as_str).unwrap_or("")
            ),
            "stop the node and look with `chatctl inspect --verify`",
        );
    }
}

fn disk(options: &Options, report: &mut Report) {
    let path = &options.data;
    if !path.is_dir() {
        return report.add(
            "data directory",
            Verdict::Skipped,
            format!("{} is not here", path.display()),
            "",
        );
    }
    match rustix::fs::statvfs(path) {
        Ok(file_system) => {
            let free = file_system.f_bavail.saturating_mul(file_system.f_frsize);
            let found = format!("{}: {} free", path.display(), output::bytes(free));
            if free < DISK_ODD_BYTES {
                report.add(
                    "data directory",
                    Verdict::Odd,
                    found,
                    "the node refuses messages when little is left: free some space",
                );
            } else {
                report.good("data directory", found);
            }
        }
        Err(error) => report.bad(
            "data directory",
            format!("{}: {error}", path.display()),
            "check its owner and how it is mounted",
        ),
    }
}

/// What a node that a panic ended has left, for when it does not run.
fn note(options: &Options, report: &mut Report) {
    let path = options.data.join("PANIC");
    let Ok(bytes) = std::fs::read(&path) else {
        return;
    };
    // The first line is a checksum, for the node.
    let json = bytes
        .split(|byte| *byte == b'\n')
        .nth(1)
        .unwrap_or_default();
    match serde_json::from_slice::<Value>(json) {
        Ok(note) => {
            let reason = note.get("reason").and_then(Value::as_str).unwrap_or("");
            let unix_ms = note.get("unix_ms").and_then(Value::as_u64).unwrap_or(0);
            if !reason.is_empty() {
                panicked(report, reason, unix_ms);
            }
        }
        Err(_) => report.add(
            "last panic",
            Verdict::Odd,
            format!("{} cannot be read", path.display()),
            "if the node has ended with exit code 70, its log says why",
        ),
    }
}

fn panicked(report: &mut Report, reason: &str, unix_ms: u64) {
    if report.checks.iter().any(|check| check.name == "last panic") {
        return;
    }
    report.add(
        "last panic",
        Verdict::Odd,
        format!("at {}: {reason}", output::time(unix_ms)),
        "a defect of that version, and nothing acknowledged is lost: report the place; \
         another version may mend it",
    );
}

/// Each way to the server by itself.
async fn ports(global: &Global, report: &mut Report) {
    let (host, port) = (global.server.host().to_owned(), global.server.port());
    match tokio::net::lookup_host((host.as_str(), port)).await {
        Ok(mut found) => {
            if let Some(first) = found.next() {
                report.good("name of the server", format!("{host} is {}", first.ip()));
            } else {
                report.bad("name of the server", format!("{host} has no address"), "");
            }
        }
        Err(error) => {
            return report.bad(
                "name of the server",
                format!("{host}: {error}"),
                "check --server and the name service of this machine",
            );
        }
    }
    let tcp = tokio::time::timeout(
        Duration::from_secs(5),
        tokio::net::TcpStream::connect((host.as_str(), port)),
    );
    match tcp.await {
        Ok(Ok(_)) => report.good("TCP port", format!("{host}:{port} answers")),
        Ok(Err(error)) => report.bad(
            "TCP port",
            format!("{host}:{port}: {error}"),
            "is chatd running, and with which --listen?",
        ),
        Err(_) => report.bad(
            "TCP port",
            format!("{host}:{port}: no answer within 5 s"),
            "a firewall drops it: open the port",
        ),
    }
}

async fn session(global: &Global, options: &Options, report: &mut Report) -> Result<(), Failure> {
    if let Trust::CaFile(path) = connect::trust(global) {
        if path.is_file() {
            report.good("certificates", format!("those of {}", path.display()));
        } else {
            report.bad(
                "certificates",
                format!("{} is not there", path.display()),
                "see --ca-file",
            );
        }
    }
    let Ok(person) = connect::person(global) else {
        report.add(
            "session",
            Verdict::Skipped,
            "nobody to connect as",
            "give --as NAME, --token or --token-file",
        );
        return Ok(());
    };
    let device = Device::spare(global, &person.name)?;
    let endpoint = |scheme: &str| -> Option<Endpoint> {
        let host = global.server.host();
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        format!("{scheme}://{host}:{}", global.server.port())
            .parse()
            .ok()
    };
    let mut ways = vec![
        ("QUIC", endpoint("quic")),
        ("WebSocket TLS", endpoint("wss")),
    ];
    if global.server.is_loopback()
        || matches!(global.server, Endpoint::WebSocket { tls: false, .. })
    {
        ways.push(("WebSocket", endpoint("ws")));
    }
    let mut client = None;
    for (name, endpoint) in ways {
        let Some(endpoint) = endpoint else { continue };
        match attempt(global, endpoint, person.token.clone(), device.id()).await {
            Ok((connected, took)) => {
                report.good(name, format!("a session within {} ms", took.as_millis()));
                if let Some(older) = client.replace(connected) {
                    Client::close(&older).await;
                }
            }
            Err(error) => {
                report.add(name, verdict(&error), error.to_string(), advice(&error));
            }
        }
    }
    let Some(client) = client else {
        report.bad("session", "no way to the server leads to a session", "");
        return Ok(());
    };
    report.good(
        "token",
        format!("the server takes it for {}", client.name()),
    );
    clock(&client, report);
    if options.send {
        send(&client, report).await;
    }
    client.close().await;
    Ok(())
}

async fn attempt(
    global: &Global,
    endpoint: Endpoint,
    token: Token,
    device: u64,
) -> Result<(Client, Duration), ConnectError> {
    let mut config = connect::config(global, token, device);
    config.endpoint = endpoint;
    config.auto_ack = false;
    config.start = Start::Fresh;
    // One attempt: the pause behind it is longer than what is left.
    config.connect_timeout = Duration::from_millis(1);
    let began = Instant::now();
    let (client, _) = Client::connect(config).await?;
    Ok((client, began.elapsed()))
}

const fn verdict(error: &ConnectError) -> Verdict {
    match error {
        // One way may be closed while another is open.
        ConnectError::Unreachable { .. } => Verdict::Odd,
        _ => Verdict::Bad,
    }
}

fn advice(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Refused(refused) if (200..300).contains(&refused.number) => {
            "get a new token; `--as NAME` works only with a server started with --dev"
        }
        ConnectError::Refused(_) => "the message above is the server's: do what it says",
        ConnectError::Trust(_) => "name the file of the server's authority with --ca-file",
        ConnectError::Unreachable { last, .. } if last.contains("certificate") => {
            "name the file of the server's authority with --ca-file; \
             `chatd --dev` writes its own to <data>/tls/cert.pem"
        }
        ConnectError::Unreachable { .. } => {
            "clients use another way if there is one; for QUIC the UDP port must be open"
        }
        _ => "",
    }
}

fn clock(client: &Client, report: &mut Report) {
    let ahead = client.clock_ahead_ms();
    let apart = ahead.unsigned_abs();
    let found = format!(
        "the server's is {apart} ms {}",
        if ahead >= 0 { "ahead" } else { "behind" }
    );
    if apart > CLOCK_BAD_MS {
        report.bad(
            "clocks",
            found,
            "messages are dated by the server, but tokens are not: set this machine's clock, \
             or the server's",
        );
    } else if apart > CLOCK_ODD_MS {
        report.add(
            "clocks",
            Verdict::Odd,
            found,
            "let both machines follow a time server",
        );
    } else {
        report.good("clocks", found);
    }
}

async fn send(client: &Client, report: &mut Report) {
    let began = Instant::now();
    let sent = async {
        client
            .send(
                Target::User(client.user()),
                Content::text("chatctl doctor was here"),
            )
            .await?
            .await
    };
    match tokio::time::timeout(Duration::from_secs(10), sent).await {
        Ok(Ok(_)) => report.good(
            "a message to oneself",
            format!("durable within {} ms", began.elapsed().as_millis()),
        ),
        Ok(Err(error)) => report.bad("a message to oneself", error.to_string(), ""),
        Err(_) => report.bad(
            "a message to oneself",
            "no answer within 10 s",
            "the shard has no leader or its disk hangs: see `chatctl status --shards`",
        ),
    }
}
