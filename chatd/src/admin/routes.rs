//! `/healthz`, `/readyz`, `/metrics`, `/v1/cluster`.
//!
//! Health says that no thread is lost or stuck, for a probe that kills: neither load nor
//! recovery, damage or a slow or full disk is a reason, since none of them is mended by a
//! restart. Readiness says that every shard serves. The port answers from before the data
//! directory is opened. What the shard threads are asked for is asked once for all who
//! wait, at most every `FRESH_FOR`. With a token, `/metrics` and everything under `/v1` demand it;
//! the two probes do not, and say nothing that is secret. A request for a name that is
//! not ours is answered nothing at all.

mod hosts;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::sync::Mutex;

use self::hosts::Hosts;
use crate::{
    clock, descriptors,
    edge::{admission::Admission, outbound::Sessions},
    metrics::Metrics,
    shards::{NodeStatus, Shards},
    watch::Watch,
};

/// How long a status is good for.
const FRESH_FOR: Duration = Duration::from_millis(100);

/// What the routes tell of.
pub struct Admin {
    /// Set when the data directory is open.
    shards: OnceLock<Shards>,
    watch: Arc<Watch>,
    last_panic: Option<LastPanic>,
    sessions: Arc<Sessions>,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    token: Option<String>,
    hosts: Hosts,
    draining: AtomicBool,
    status: Mutex<Option<(Instant, Arc<NodeStatus>)>>,
}

/// Why this node ended before, if that was a panic.
#[derive(Clone, Debug, Serialize)]
pub struct LastPanic {
    /// Which thread, where, and what it was busy with.
    pub reason: String,
    /// When, in ms since 1970.
    pub unix_ms: u64,
}

/// `/v1/cluster`.
#[derive(Serialize)]
struct Cluster<'a> {
    version: &'static str,
    draining: bool,
    connections: usize,
    last_panic: Option<&'a LastPanic>,
    #[serde(flatten)]
    node: &'a NodeStatus,
}

impl Admin {
    /// The state of the routes before the data directory is open; `token` is what they
    /// demand, `hosts` the names under which they are reached.
    #[must_use]
    pub fn new(
        watch: Arc<Watch>,
        last_panic: Option<LastPanic>,
        sessions: Arc<Sessions>,
        admission: Arc<Admission>,
        metrics: Arc<Metrics>,
        token: Option<String>,
        hosts: Vec<String>,
    ) -> Self {
        Self {
            shards: OnceLock::new(),
            watch,
            last_panic,
            sessions,
            admission,
            metrics,
            token,
            hosts: Hosts::new(hosts),
            draining: AtomicBool::new(false),
            status: Mutex::new(None),
        }
    }

    /// The data directory is open. Only the first time counts.
    pub fn opened(&self, shards: Shards) {
        // There is one data directory.
        drop(self.shards.set(shards));
    }

    /// The node is not ready any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// How the node is: asked of the shard threads if the last answer is old. None before
    /// the data directory is open.
    pub async fn status(&self) -> Option<Arc<NodeStatus>> {
        let shards = self.shards.get()?.clone();
        // Held while the threads are asked: everybody else waits for the same answer.
        let mut status = self.status.lock().await;
        if let Some((at, status)) = &*status
            && at.elapsed() < FRESH_FOR
        {
            return Some(Arc::clone(status));
        }
        let fresh = tokio::task::spawn_blocking(move || shards.status())
            .await
            .expect("asking for the status does not panic");
        let fresh = Arc::new(fresh);
        *status = Some((Instant::now(), Arc::clone(&fresh)));
        Some(fresh)
    }

    fn is_allowed(&self, request: &Request) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let path = request.uri().path();
        if path == "/healthz" || path == "/readyz" {
            return true;
        }
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        // Time must not tell how much of a guess was right.
        blake3::hash(given.as_bytes()) == blake3::hash(token.as_bytes())
    }
}

/// The routes.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/cluster", get(cluster))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin)
}

async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    if !admin.hosts.take(&request) {
        let told = "this name is not one of admin.hosts: use the address, or add the name there\n";
        return (StatusCode::MISDIRECTED_REQUEST, told).into_response();
    }
    if admin.is_allowed(&request) {
        return next.run(request).await;
    }
    let told = [(header::WWW_AUTHENTICATE, "Bearer")];
    (
        StatusCode::UNAUTHORIZED,
        told,
        "send the token of admin.token_file as a bearer token\n",
    )
        .into_response()
}

async fn healthz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let troubles = admin.watch.look(clock::mono_ms());
    if troubles.is_empty() {
        return (StatusCode::OK, "ok\n".into());
    }
    let lines = troubles.iter().map(|trouble| format!("{trouble}\n"));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

const OPENING: &str = "the data directory is being opened and its log read\n";

async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let Some(status) = admin.status().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, OPENING.into());
    };
    match unready(&status, admin.draining.load(Ordering::Relaxed)) {
        None => (StatusCode::OK, "ready\n".into()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

/// Why a node is not ready, a line each; `None` if it is.
fn unready(status: &NodeStatus, draining: bool) -> Option<String> {
    let mut why = Vec::new();
    if draining {
        why.push("draining: this node is about to stop".to_owned());
    }
    if let Some(failed) = &status.failed {
        why.push(format!("failed: {failed}"));
    }
    for down in &status.down {
        why.push(format!("shard {} is down: {}", down.shard, down.reason));
    }
    for report in &status.shards {
        if let Some(stopped) = &report.stopped {
            why.push(format!(
                "shard {} stopped at position {}: {stopped}",
                report.shard, report.applied
            ));
        }
    }
    let starting = status
        .shards
        .iter()
        .filter(|report| !report.serves && report.stopped.is_none())
        .count();
    if starting > 0 {
        why.push(format!(
            "{starting} of {} shards do not serve yet",
            status.shards.len()
        ));
    }
    if status.silent_threads > 0 {
        why.push(format!(
            "{} shard threads do not answer",
            status.silent_threads
        ));
    }
    if why.is_empty() && !status.ready {
        why.push("not ready yet".into());
    }
    (!why.is_empty()).then(|| why.join("\n") + "\n")
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    // Sets the gauges of the shards.
    admin.status().await;
    let waiting = i64::try_from(admin.sessions.queued_bytes()).unwrap_or(i64::MAX);
    admin.metrics.outbound_bytes.set(waiting);
    let exhausted = i64::try_from(descriptors::exhausted()).unwrap_or(i64::MAX);
    admin.metrics.descriptors_exhausted.set(exhausted);
    let newcomers = i64::try_from(admin.admission.newcomers()).unwrap_or(i64::MAX);
    admin.metrics.newcomers.set(newcomers);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.encode())
}

async fn cluster(State(admin): State<Arc<Admin>>) -> Response {
    let Some(status) = admin.status().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, OPENING).into_response();
    };
    let cluster = Cluster {
        version: env!("CARGO_PKG_VERSION"),
        draining: admin.draining.load(Ordering::Relaxed),
        connections: admin.admission.connections(),
        last_panic: admin.last_panic.as_ref(),
        node: &status,
    };
    Json(cluster).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::DownShard;

    fn status() -> NodeStatus {
        NodeStatus {
            node: "1".into(),
            epoch: 1,
            generation: 1,
            ready: true,
            disk_full: false,
            failed: None,
            shards: Vec::new(),
            down: Vec::new(),
            silent_threads: 0,
        }
    }

    #[test]
    fn readiness_names_what_is_missing() {
        assert_eq!(unready(&status(), false), None);
        assert!(unready(&status(), true).unwrap().contains("draining"));
        let down = DownShard {
            shard: 7,
            reason: "positions 3 to 5 are damaged".into(),
        };
        let damaged = NodeStatus {
            ready: false,
            down: vec![down],
            ..status()
        };
        assert_eq!(
            unready(&damaged, false).unwrap(),
            "shard 7 is down: positions 3 to 5 are damaged\n"
        );
        let silent = NodeStatus {
            ready: false,
            silent_threads: 1,
            ..status()
        };
        assert!(
            unready(&silent, false)
                .unwrap()
                .contains("1 shard threads do not answer")
        );
    }
}
