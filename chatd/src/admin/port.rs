//! The admin port's connections: their number and their time are bounded before anybody
//! has shown a token.
//!
//! At most [`CONNECTIONS`] are open. One more takes the place of the oldest that is not
//! being answered: whoever only holds connections open loses them to those who ask, so
//! that a probe always gets in. A head must come within [`HEAD_TIMEOUT`], also the next
//! one of a connection that is kept; a request with its body within [`REQUEST_TIMEOUT`];
//! after [`LIFETIME`] a connection ends with what it is being answered.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Response, StatusCode},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
};

use crate::metrics::{Metrics, Reason};

/// Connections at once.
pub const CONNECTIONS: usize = 32;
/// Time for the head of a request, from the connection's beginning or the last answer.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the rest of a request and its answer's beginning.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time of a connection, whatever it is used for.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// Bytes of a head.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after the system refused a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An open connection.
struct Open {
    number: u64,
    /// Requests that are being answered.
    busy: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// Accepts connections for ever, and answers them.
pub async fn serve(listener: TcpListener, router: Router, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let open: Arc<Mutex<VecDeque<Open>>> = Arc::default();
    let mut number = 0;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin port could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if places.available_permits() == 0 && evict(&open) {
            let reason = Reason { reason: "admin" };
            metrics.connections_refused.get_or_create(&reason).inc();
        }
        // If all are being answered, the kernel keeps those who come until one is not.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        number += 1;
        let busy = Arc::<AtomicUsize>::default();
        let leaves = Leaves {
            number,
            open: Arc::clone(&open),
        };
        let connection = connection(stream, router.clone(), Arc::clone(&busy));
        // Not before it is entered does it end.
        let mut entered = lock(&open);
        let task = tokio::spawn(async move {
            let _leaves = (leaves, place);
            connection.await;
        });
        entered.push_back(Open {
            number,
            busy,
            task: task.abort_handle(),
        });
    }
}

/// Ends the oldest connection that is not being answered.
fn evict(open: &Mutex<VecDeque<Open>>) -> bool {
    let mut open = lock(open);
    let idle = |open: &Open| open.busy.load(Ordering::Acquire) == 0;
    let Some(place) = open.iter().position(idle) else {
        return false;
    };
    if let Some(oldest) = open.remove(place) {
        oldest.task.abort();
    }
    true
}

fn lock(open: &Mutex<VecDeque<Open>>) -> MutexGuard<'_, VecDeque<Open>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a connection off the list when its task is dropped.
struct Leaves {
    number: u64,
    open: Arc<Mutex<VecDeque<Open>>>,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        lock(&self.open).retain(|open| open.number != self.number);
    }
}

/// Counts a request as long as it is being answered.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn connection(stream: TcpStream, router: Router, busy: Arc<AtomicUsize>) {
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = Busy::new(&busy);
        let answer = hyper::service::Service::call(&routes, request);
        async move {
            let _busy = busy;
            match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(late()),
            }
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let mut ended = tokio::time::timeout(LIFETIME, served.as_mut()).await;
    if ended.is_err() {
        // What is being answered is answered.
        served.as_mut().graceful_shutdown();
        ended = tokio::time::timeout(REQUEST_TIMEOUT, served).await;
    }
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a connection to the admin port has ended");
    }
}

fn late() -> Response<Body> {
    let mut response = Response::new(Body::from("the request took too long\n"));
    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
    response
}
