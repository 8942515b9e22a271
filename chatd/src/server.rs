//! Puts the parts of a node together, and takes them apart in order when it ends.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use chat_core::{host::HostSettings, placement::map::ShardMap, session::SessionSettings};
use chat_wire::{ids::NodeId, limits::Limits};
use logstore::{engine, segment::SegmentOptions, storage::disk::Disk};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use crate::{
    edge::{
        admission::{Admission, Caps},
        auth::{self, Authenticator, keys::Keys},
        connection::Shared,
        heartbeat::Heartbeat,
        listeners::{self, Edge},
        outbound::{Bounds, Sessions, Signal},
        quic,
        tls::{self, Certificate},
        websocket::upgrade,
    },
    metrics::Metrics,
    shards::{self, Shards},
};

/// What a node is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Clients come here, by TCP and UDP.
    pub listen: SocketAddr,
    /// Operators come here.
    pub admin_listen: SocketAddr,
    /// `dev:<name>` is a token; loopback only.
    pub dev: bool,
    /// Where to write the size of each write of the log.
    pub trace_log_writes: Option<PathBuf>,
}

const RECONNECT_WITHIN_MS: u32 = 2_000;
const DRAIN: Duration = Duration::from_millis(500);

/// Runs a node until it is told to end, or has to.
///
/// # Errors
/// What keeps it from starting, or made it end.
pub async fn run(config: Config) -> Result<()> {
    let loopback = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    if config.dev && !loopback(config.listen) {
        bail!(
            "--dev accepts anybody's name, so it listens on loopback only: choose a --listen on 127.0.0.1"
        );
    }
    if !config.dev {
        bail!("chatd needs a JWKS to check tokens, or --dev to try it on this machine");
    }
    fs::create_dir_all(&config.data).with_context(|| {
        format!(
            "the data directory {} cannot be made",
            config.data.display()
        )
    })?;
    let metrics = Arc::new(Metrics::new());
    let sessions = Arc::new(Sessions::new(Bounds::default()));
    let node = NodeId(rand::random());
    let limits = Limits::default();
    let map = Arc::new(ShardMap::even(64));
    let host = HostSettings {
        limits,
        ..HostSettings::new(node, rand::random(), map)
    };
    let shards_config = shards::Config {
        storage: Arc::new(Disk::new(&config.data)?),
        engine: engine::Options {
            log_id: rand::random(),
            ..engine::Options::default()
        },
        segments: SegmentOptions::default(),
        cache_bytes: 8 << 20,
        node,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        shards: 64,
        host,
        trace_log_writes: config.trace_log_writes.clone(),
    };
    let (shards, join) = {
        let (sessions, metrics) = (Arc::clone(&sessions), Arc::clone(&metrics));
        tokio::task::spawn_blocking(move || Shards::start(shards_config, sessions, metrics))
            .await??
    };
    let certificate = Arc::new(Certificate::load(tls::dev_files(&config.data)?)?);
    let settings = Arc::new(SessionSettings::new(limits, rand::random()));
    let heartbeat = Arc::new(Heartbeat::new(Arc::clone(&sessions), 2));
    for worker in 0..heartbeat.workers() {
        tokio::spawn(Arc::clone(&heartbeat).run(worker));
    }
    let rules = auth::Rules {
        audiences: Vec::new(),
        dev: true,
    };
    let authenticator = Arc::new(Authenticator::new(
        rules,
        Keys::default(),
        256,
        Arc::clone(&metrics),
    ));
    let caps = Caps {
        connections: 10_000,
        handshakes: 1_024,
        per_address_per_second: 100_000,
        per_address_burst: 100_000,
    };
    let admission = Arc::new(Admission::new(caps, Arc::clone(&metrics)));
    let edge = Arc::new(Edge {
        shared: Arc::new(Shared {
            sessions: Arc::clone(&sessions),
            heartbeat,
            hosts: Arc::new(shards.clone()),
            authenticator,
            metrics: Arc::clone(&metrics),
            websocket: Arc::clone(&settings),
            quic: settings,
            reconnect_within_ms: RECONNECT_WITHIN_MS,
        }),
        admission: Arc::clone(&admission),
        tls: Some(TlsAcceptor::from(certificate.tcp()?)),
        plain: true,
        rules: upgrade::Rules {
            local_origins_only: true,
        },
        handshake_timeout: Duration::from_secs(5),
    });
    let bound = listeners::bind(config.listen, 2, true)?;
    let address = bound.address;
    let quic = quic::server_config(certificate.quic()?);
    let listeners = edge.listen(bound, Some(&quic))?;
    let admin = tokio::net::TcpListener::bind(config.admin_listen)
        .await
        .map_err(|error| {
            listeners::bind_error(config.admin_listen, "TCP", "admin_listen", error)
        })?;
    let admin_address = admin.local_addr()?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/v1/cluster", get(cluster))
        .with_state((shards.clone(), Arc::clone(&metrics)));
    tokio::spawn(async move { axum::serve(admin, router).await });
    println!(
        "chatd listens on ws://{address}/v1/ws and quic://{address}, admin on http://{admin_address}"
    );
    println!("--dev: anybody on this machine may be anybody, by the token dev:<name>");
    println!("next: cargo run --release --bin chatctl -- chat --as alice bob");

    let mut terminate = signal(SignalKind::terminate())?;
    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = tokio::signal::ctrl_c() => None,
        reason = shards.failed() => Some(reason),
    };
    admission.drain();
    listeners.stop_accepting();
    if failed.is_none() {
        sessions.signal_all(Signal::Drain);
        tokio::time::sleep(DRAIN).await;
    }
    sessions.signal_all(Signal::Stop);
    listeners.wait_idle(Duration::from_secs(1)).await;
    tokio::task::spawn_blocking(move || join.stop()).await?;
    match failed {
        Some(reason) => bail!(reason),
        None => Ok(()),
    }
}

type Admin = (Shards, Arc<Metrics>);

async fn readyz(State((shards, _)): State<Admin>) -> impl IntoResponse {
    match tokio::task::spawn_blocking(move || shards.status()).await {
        Ok(status) if status.ready => (StatusCode::OK, "ready".to_owned()),
        Ok(status) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("down: {:?}", status.down),
        ),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn metrics_text(State((shards, metrics)): State<Admin>) -> String {
    drop(tokio::task::spawn_blocking(move || shards.status()).await);
    metrics.encode()
}

async fn cluster(State((shards, _)): State<Admin>) -> impl IntoResponse {
    match tokio::task::spawn_blocking(move || shards.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
