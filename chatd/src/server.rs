//! Puts the parts of a node together, and takes them apart in order when it ends.
//!
//! Start: settings, directory, ports, shards, doors. A port that is taken or a
//! directory of somebody else is found out before anything is written, and the admin port
//! answers while the log is read. End: no new sessions, clients told, what they still send carried out, the log synced, exit 0.
//! A write that failed ends it at once, with 1; a panic that is not of one connection ends
//! it where it stands ([`last_words`]).

pub mod data;
pub mod last_words;
mod process;

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use chat_core::{host::HostSettings, placement::map::ShardMap, session::SessionSettings};
use chat_wire::limits::Limits;
use logstore::{
    engine,
    segment::{Compression, MapLimits, SegmentOptions},
    storage::disk::Disk,
};
use tokio_rustls::TlsAcceptor;

use self::{data::Data, last_words::LastWords, process::Stop};
use crate::{
    admin::{
        audit, port,
        routes::{self, Admin, LastPanic},
    },
    descriptors::{self, Needs},
    edge::{
        admission::{Admission, Caps},
        auth::{
            Authenticator, Rules,
            keys::{self, Keys, Source},
        },
        connection::Shared,
        heartbeat::Heartbeat,
        listeners::{self, Bound, Edge, Listeners},
        outbound::{Bounds, Sessions, Signal},
        quic,
        tls::{self, Certificate, Files},
        websocket::upgrade,
    },
    folder::Folder,
    metrics::Metrics,
    overload,
    settings::Settings,
    shards::{self, Join, Panicked, ShardReport, Shards},
    watch::{self, Role, Watch},
};

/// How often the end of connections is looked for.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// How long connections that were closed may linger.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How often a start is asked whether all shards serve.
const READY_STEP: Duration = Duration::from_millis(200);
/// Segment files that a flush and a sweep have open at once.
const FLUSH_FILES: u64 = 32;
/// Bytes of an admin token at least.
const TOKEN_BYTES: usize = 16;

/// A node that runs.
struct Node {
    admin: Arc<Admin>,
    admission: Arc<Admission>,
    sessions: Arc<Sessions>,
    shards: Shards,
    listeners: Vec<Listeners>,
    join: Join,
    addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
    words: Arc<LastWords>,
    /// Held to the end.
    _data: Data,
}

/// Runs a node until it is told to end, or has to.
///
/// # Errors
/// What keeps it from starting, or made it end.
pub async fn run(settings: Settings) -> Result<()> {
    let mut stop = Stop::listen().context("signals cannot be listened for")?;
    let node = start(&settings).await?;
    announce(&settings, &node);
    tokio::spawn(follow_recovery(
        Arc::clone(&node.admin),
        Arc::clone(&node.words),
    ));
    let failed = tokio::select! {
        name = stop.next() => {
            tracing::info!(signal = name, "stopping; once more to stop at once");
            None
        }
        reason = node.shards.failed() => Some(reason),
    };
    tokio::select! {
        () = close(&settings, &node, failed.is_some()) => {}
        name = stop.next() => tracing::warn!(signal = name, "clients are not waited for"),
    }
    // The log is synced whatever the clients do.
    let join = node.join;
    tokio::task::spawn_blocking(move || join.stop())
        .await
        .context("the shard threads did not end")?;
    match failed {
        Some(reason) => bail!("the node has stopped: {reason}"),
        None => Ok(()),
    }
}

async fn start(settings: &Settings) -> Result<Node> {
    let data = Data::open(&settings.data, rand::random)?;
    let words = LastWords::new(data.note(), env!("CARGO_PKG_VERSION"));
    let watch = {
        let words = Arc::clone(&words);
        Watch::new(move |ended| words.end(ended))
    };
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    let connections = connections(settings, workers)?;
    let certificate = certificate(settings, data.folder())?;
    let bound = settings
        .listen
        .iter()
        .map(|address| {
            let udp_buffer_bytes = certificate
                .is_some()
                .then_some(settings.edge.udp_buffer_bytes);
            listeners::bind(*address, workers, udp_buffer_bytes)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let admin_listener = tokio::net::TcpListener::bind(settings.admin.listen)
        .await
        .map_err(|error| {
            listeners::bind_error(settings.admin.listen, "TCP", "admin.listen", error)
        })?;
    let admin_address = admin_listener.local_addr()?;
    let admin_token = admin_token(settings.admin.token_file.as_deref())?;

    let metrics = Arc::new(Metrics::new());
    let sessions = Arc::new(Sessions::new(Bounds {
        session_bytes: settings.edge.outbound_session_bytes,
        total_bytes: settings.edge.outbound_total_bytes,
        ..Bounds::default()
    }));
    let (authenticator, source) = authenticator(settings, workers, &metrics)?;
    count_task_panics(&metrics);
    let admission = Arc::new(Admission::new(
        caps(settings, connections),
        Arc::clone(&metrics),
    ));
    let admin = Arc::new(Admin::new(
        Arc::clone(&watch),
        words.last().map(last_panic),
        Arc::clone(&sessions),
        Arc::clone(&admission),
        Arc::clone(&metrics),
        admin_token,
        settings.admin.hosts.clone(),
    ));
    let port = port::serve(
        admin_listener,
        routes::router(Arc::clone(&admin)),
        Arc::clone(&metrics),
    );
    tokio::spawn(watch.task("admin port", port));
    tracing::info!(address = %admin_address, "the admin port answers; the log is read next");
    let (shards, join) =
        start_shards(settings, &data, &sessions, &metrics, &watch, words.down()).await?;
    admin.opened(shards.clone());

    let heartbeat = Arc::new(Heartbeat::new(Arc::clone(&sessions), workers));
    for worker in 0..heartbeat.workers() {
        tokio::spawn(watch.task("heartbeat", Arc::clone(&heartbeat).run(worker)));
    }
    if let Some(source) = source {
        let keys = keys::follow(Arc::clone(&authenticator), source);
        tokio::spawn(watch.task("keys", keys));
    }
    let watched = overload::watch::Watched::new(&admission, &sessions, &shards);
    spawn_overload(&watch, watched, settings);
    let shared = shared(
        settings,
        &shards,
        &sessions,
        heartbeat,
        authenticator,
        &metrics,
    );
    let addresses = bound.iter().map(|bound| bound.address).collect();
    let doors = Doors {
        bound,
        certificate,
        secret: data.secret()?,
        watch,
    };
    let listeners = open_doors(settings, doors, shared, &admission)?;
    let events_per_second = settings.audit.events_per_second;
    tokio::spawn(audit::walk(shards.clone(), metrics, events_per_second));
    Ok(Node {
        admin,
        admission,
        sessions,
        shards,
        listeners,
        join,
        addresses,
        admin_address,
        words,
        _data: data,
    })
}

fn spawn_overload(watch: &Arc<Watch>, watched: overload::watch::Watched, settings: &Settings) {
    let overload = overload::watch::watch(watched, settings.edge.memory_bytes);
    tokio::spawn(watch.task("overload", overload));
}

/// What is opened for clients, and with what.
struct Doors {
    bound: Vec<Bound>,
    certificate: Option<Arc<Certificate>>,
    secret: [u8; 32],
    watch: Arc<Watch>,
}

fn last_panic((reason, unix_ms): (String, u64)) -> LastPanic {
    tracing::warn!(reason, unix_ms, "this node has ended before by a panic");
    LastPanic { reason, unix_ms }
}

/// A panic in a connection's task, or in one of a library, ends that task alone.
fn count_task_panics(metrics: &Arc<Metrics>) {
    let metrics = Arc::clone(metrics);
    watch::on_task_panic(move |at, text| {
        metrics.task_panics.inc();
        tracing::error!(
            at,
            text,
            "a task has panicked: its connection ends, and the node goes on"
        );
    });
}

fn limits(settings: &Settings) -> Limits {
    let (own, cluster) = (&settings.limits, &settings.cluster);
    Limits {
        frame_bytes: own.frame_bytes,
        content_bytes: cluster.content_bytes,
        sends_per_second: own.sends_per_second,
        sends_burst: own.sends_burst,
        presence_subscriptions: own.presence_subscriptions,
        group_members: cluster.group_members,
        devices: cluster.devices,
        mentions: cluster.mentions,
        history_page: own.history_page,
        in_flight: own.in_flight,
        event_credits: own.event_credits,
        bulk_credits: own.bulk_credits,
    }
}

/// Connections that the limit of open files allows, after all that the node itself opens.
fn connections(settings: &Settings, workers: usize) -> Result<usize> {
    let (limit, wanted) = (descriptors::raise_limit(), settings.edge.max_connections);
    let log = &settings.log;
    let needs = Needs {
        // The pool's, those for control records, one that is made, the manifest.
        log_files: log.budget_bytes / log.file_bytes + log.pool_files as u64 + 4,
        segments: MapLimits::default().maps as u64 + FLUSH_FILES,
        listeners: (settings.listen.len() * (workers + 1) + 1) as u64,
        admin: port::CONNECTIONS as u64 + 1,
    };
    let connections = needs.connections(limit, wanted)?;
    descriptors::refill();
    if connections < wanted {
        tracing::warn!(
            limit,
            connections,
            "edge.max_connections is {wanted}, and the limit of open files leaves room for {connections}: that many are let in"
        );
    }
    Ok(connections)
}

fn caps(settings: &Settings, connections: usize) -> Caps {
    Caps {
        connections,
        newcomers: settings.edge.handshakes_at_once,
        reserved: settings.reserved_of(connections),
        newcomers_per_address: settings.edge.handshakes_per_address,
        per_address_per_second: settings.edge.connects_per_second,
        per_address_burst: settings.edge.connects_burst,
        trusted: settings.edge.trusted_proxies.clone(),
    }
}

/// The certificate that settings name, or the one of `dev`.
fn certificate(settings: &Settings, data: &Folder) -> Result<Option<Arc<Certificate>>> {
    let files = match (&settings.tls.certificate, &settings.tls.key) {
        (Some(certificate), Some(key)) => Files {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        _ if settings.dev => tls::dev_files(data)?,
        _ => return Ok(None),
    };
    Ok(Some(Arc::new(Certificate::load(files)?)))
}

/// The bearer token of the admin port.
fn admin_token(file: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = file else { return Ok(None) };
    let text = descriptors::retry(|| fs::read_to_string(path))
        .with_context(|| format!("admin.token_file {} cannot be read", path.display()))?;
    let token = text.lines().next().unwrap_or_default().trim().to_owned();
    if token.len() < TOKEN_BYTES {
        bail!(
            "the first line of admin.token_file {} must hold a token of at least {TOKEN_BYTES} bytes",
            path.display()
        );
    }
    Ok(Some(token))
}

fn authenticator(
    settings: &Settings,
    workers: usize,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Authenticator>, Option<Source>)> {
    let auth = &settings.auth;
    let (keys, source) = match (&auth.jwks_file, &auth.jwks_url) {
        (Some(path), _) => (keys::read_file(path)?, Some(Source::File(path.clone()))),
        (None, Some(url)) => {
            // Only that it can be asked: the keys may come later, and until then
            // logins are UNAVAILABLE. A node must start while they cannot be had.
            drop(keys::Fetcher::new(url, auth.jwks_ca_file.as_deref())?);
            let source = Source::Url {
                url: url.clone(),
                ca_file: auth.jwks_ca_file.clone(),
                every: Duration::from_secs(auth.jwks_every_s),
            };
            (Keys::default(), Some(source))
        }
        (None, None) => (Keys::default(), None),
    };
    let rules = Rules {
        audiences: auth.audience.clone(),
        issuers: auth.issuer.clone(),
        signers: auth.apps.clone(),
        dev: settings.dev,
    };
    let budget = match auth.logins_at_once {
        0 => workers.saturating_sub(1).max(1),
        logins => logins,
    };
    let authenticator = Authenticator::new(rules, keys, budget, Arc::clone(metrics));
    Ok((Arc::new(authenticator), source))
}

async fn start_shards(
    settings: &Settings,
    data: &Data,
    sessions: &Arc<Sessions>,
    metrics: &Arc<Metrics>,
    watch: &Arc<Watch>,
    panicked: Vec<Panicked>,
) -> Result<(Shards, Join)> {
    let (own, log) = (&settings.shards, &settings.log);
    let compression = if log.compression {
        Compression::default()
    } else {
        Compression::None
    };
    let config = shards::Config {
        storage: Arc::new(Disk::new(data.path())?),
        engine: engine::Options {
            file_bytes: log.file_bytes,
            pool_files: log.pool_files,
            budget_bytes: log.budget_bytes,
            stop_free_bytes: log.stop_free_bytes,
            resume_free_bytes: log.resume_free_bytes,
            log_id: rand::random(),
            ..engine::Options::default()
        },
        segments: SegmentOptions {
            compression,
            ..SegmentOptions::default()
        },
        cache_bytes: log.cache_bytes,
        node: data.node,
        threads: match own.threads {
            // Sockets need cores too: see docs/decisions/0008.
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
            threads => threads,
        },
        shards: settings.cluster.shards,
        host: HostSettings {
            limits: limits(settings),
            outbox_bytes: settings.cluster.outbox_bytes,
            known_users_only: settings.cluster.known_users_only,
            ack_flush_ms: own.ack_flush_ms,
            outbox_resend_ms: own.outbox_resend_ms,
            presence_coalesce_ms: own.presence_coalesce_ms,
            slow_consumer_ms: own.slow_consumer_ms,
            flush_bytes: own.flush_bytes,
            user_devices: settings.limits.user_devices,
            new_inboxes_per_hour: settings.limits.new_inboxes_per_hour,
            // The map is that of the data, once it is read.
            ..HostSettings::new(data.node, rand::random(), Arc::new(ShardMap::even(1)))
        },
        trace_log_writes: log.trace_writes.clone(),
        panicked,
        watch: Arc::clone(watch),
    };
    let (sessions, metrics) = (Arc::clone(sessions), Arc::clone(metrics));
    let (path, watch) = (settings.data.clone(), Arc::clone(watch));
    let start = move || watch.during(Role::Start, || Shards::start(config, sessions, metrics));
    tokio::task::spawn_blocking(start)
        .await?
        .with_context(|| format!("the data directory {} cannot be used", path.display()))
}

fn shared(
    settings: &Settings,
    shards: &Shards,
    sessions: &Arc<Sessions>,
    heartbeat: Arc<Heartbeat>,
    authenticator: Arc<Authenticator>,
    metrics: &Arc<Metrics>,
) -> Arc<Shared> {
    // Drawn at every start: old resume tokens then cost their clients a round trip.
    let common = SessionSettings::new(limits(settings), rand::random());
    let with_heartbeat = |heartbeat_ms| {
        Arc::new(SessionSettings {
            heartbeat_ms,
            ..common.clone()
        })
    };
    Arc::new(Shared {
        sessions: Arc::clone(sessions),
        heartbeat,
        hosts: Arc::new(shards.clone()),
        authenticator,
        metrics: Arc::clone(metrics),
        websocket: with_heartbeat(settings.edge.websocket_heartbeat_ms),
        quic: with_heartbeat(settings.edge.quic_heartbeat_ms),
        reconnect_within_ms: settings.edge.reconnect_within_ms,
    })
}

fn open_doors(
    settings: &Settings,
    doors: Doors,
    shared: Arc<Shared>,
    admission: &Arc<Admission>,
) -> Result<Vec<Listeners>> {
    let Doors {
        bound,
        certificate,
        secret,
        watch,
    } = doors;
    let quic = match &certificate {
        Some(certificate) => Some((
            quic::endpoint_config(&secret),
            quic::server_config(certificate.quic()?),
        )),
        None => None,
    };
    let tls = match &certificate {
        Some(certificate) => Some(TlsAcceptor::from(certificate.tcp()?)),
        None => None,
    };
    if let Some(certificate) = certificate {
        tokio::spawn(watch.task("certificate", certificate.follow()));
    }
    let edge = Arc::new(Edge {
        shared,
        watch,
        admission: Arc::clone(admission),
        tls,
        plain: settings.mode().plain,
        rules: upgrade::Rules {
            local_origins_only: settings.dev,
        },
        handshake_timeout_ms: settings.edge.handshake_timeout_ms,
    });
    bound
        .into_iter()
        .map(|bound| {
            edge.listen(bound, quic.as_ref())
                .context("a socket cannot be used")
        })
        .collect()
}

/// Says where the node listens and what to do next.
fn announce(settings: &Settings, node: &Node) {
    if settings.dev {
        tracing::warn!("--dev: tokens are not checked; never use it where others can connect");
    }
    // Nobody may be listening, which is no reason to stop.
    drop(std::io::stdout().write_all(greeting(settings, node).as_bytes()));
}

fn greeting(settings: &Settings, node: &Node) -> String {
    let mode = settings.mode();
    let mut lines = vec![format!("chatd {} listens:", env!("CARGO_PKG_VERSION"))];
    for address in &node.addresses {
        if mode.plain {
            lines.push(format!("  WebSocket   ws://{address}/v1/ws"));
        }
        if mode.tls {
            lines.push(format!("  WebSocket   wss://{address}/v1/ws"));
            lines.push(format!("  QUIC        quic://{address}"));
        }
    }
    let admin = node.admin_address;
    lines.push(format!(
        "  admin       http://{admin}  (/readyz, /metrics, /v1/cluster)"
    ));
    lines.push(format!("  data        {}", settings.data.display()));
    if settings.dev {
        lines.push(String::new());
        lines.push(
            "WARNING: --dev lets anybody on this machine be anybody (token dev:<name>).".into(),
        );
        lines.push("Next, in another terminal:".into());
        lines.push("  cargo run --release --bin chatctl -- chat --as alice bob".into());
    }
    lines.join("\n") + "\n"
}

/// Waits until every shard serves or has stopped. Recovery fills memory by the gigabyte
/// and nobody waits for single faults: it has large pages, what comes then small ones.
async fn follow_recovery(admin: Arc<Admin>, words: Arc<LastWords>) {
    let began = Instant::now();
    loop {
        let status = admin.status().await.expect("the data directory is open");
        let settled = |shard: &ShardReport| shard.serves || shard.stopped.is_some();
        if status.silent_threads == 0 && status.shards.iter().all(settled) {
            process::use_small_pages();
            words.settle();
            if status.ready {
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!(shards = status.shards.len(), seconds, "every shard serves");
            }
            return;
        }
        tokio::time::sleep(READY_STEP).await;
    }
}

/// Ends what clients see of the node.
async fn close(settings: &Settings, node: &Node, failed: bool) {
    node.admin.drain();
    node.admission.drain();
    for listeners in &node.listeners {
        listeners.stop_accepting();
    }
    if !failed {
        node.sessions.signal_all(Signal::Drain);
        let timeout = Duration::from_millis(settings.drain_timeout_ms());
        until_empty(&node.sessions, timeout).await;
    }
    node.sessions.signal_all(Signal::Stop);
    until_empty(&node.sessions, CLOSE_TIMEOUT).await;
    for listeners in &node.listeners {
        listeners.wait_idle(CLOSE_TIMEOUT).await;
    }
}

async fn until_empty(sessions: &Sessions, at_most: Duration) {
    let empty = async {
        while !sessions.is_empty() {
            tokio::time::sleep(DRAIN_STEP).await;
        }
    };
    if tokio::time::timeout(at_most, empty).await.is_err() {
        tracing::info!(sessions = sessions.len(), "clients are still connected");
    }
}
