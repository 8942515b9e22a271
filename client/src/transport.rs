//! Frames over a socket: QUIC or WebSocket, polled by the client's one task.
//!
//! Reading and writing never wait for each other: a full socket does not stop the
//! answers that would empty it. Frames are collected and written together.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use chat_wire::{codec::Encoding, frame::Frame};

use crate::{ConnectError, Endpoint, TransportKind, Trust, error::TransportError};

mod quic;
mod tls;
mod websocket;

pub use quic::Network;

/// For how long one connection is tried, over all its addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long QUIC is tried before a WebSocket is: UDP is dropped silently in many networks.
const QUIC_TIMEOUT: Duration = Duration::from_secs(3);
/// After this a WebSocket is tried beside it.
const QUIC_HEAD_START: Duration = Duration::from_millis(700);
/// Frames are no longer taken while so many bytes wait to be written.
const BACKLOG_BYTES: usize = 64 * 1024;

/// A connection.
pub(crate) enum Transport {
    Quic(Box<quic::Quic>),
    WebSocket(Box<websocket::WebSocket>),
}

impl Transport {
    pub(crate) const fn kind(&self) -> TransportKind {
        match self {
            Self::Quic(_) => TransportKind::Quic,
            Self::WebSocket(websocket) => websocket.kind(),
        }
    }

    /// Appends frames that have come. Ready only with at least one, or an error.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<Frame>,
    ) -> Poll<Result<(), TransportError>> {
        match self {
            Self::Quic(quic) => quic.poll_read(cx, frames),
            Self::WebSocket(websocket) => websocket.poll_read(cx, frames),
        }
    }

    /// Whether a frame may be written now.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        match self {
            Self::Quic(quic) => quic.poll_room(cx),
            Self::WebSocket(websocket) => websocket.poll_room(cx),
        }
    }

    /// Queues a frame; only after [`Transport::poll_room`].
    pub(crate) fn write(&mut self, frame: &Frame) -> Result<(), TransportError> {
        match self {
            Self::Quic(quic) => {
                quic.write(frame);
                Ok(())
            }
            Self::WebSocket(websocket) => websocket.write(frame),
        }
    }

    /// Writes what is queued. Ready when all is with the system.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        match self {
            Self::Quic(quic) => quic.poll_flush(cx),
            Self::WebSocket(websocket) => websocket.poll_flush(cx),
        }
    }

    /// Says goodbye. What was flushed arrives before.
    pub(crate) async fn close(self) {
        match self {
            Self::Quic(quic) => quic.close().await,
            Self::WebSocket(websocket) => websocket.close().await,
        }
    }
}

/// What a connection needs to know.
pub(crate) struct Connector {
    pub(crate) endpoint: Endpoint,
    pub(crate) encoding: Encoding,
    pub(crate) network: Network,
    tls: tls::Tls,
}

impl Connector {
    pub(crate) fn new(
        endpoint: Endpoint,
        encoding: Encoding,
        trust: &Trust,
        network: Network,
    ) -> Result<Self, ConnectError> {
        Ok(Self {
            endpoint,
            encoding,
            network,
            tls: tls::Tls::new(trust)?,
        })
    }

    /// One attempt at `endpoint`, with its fall-backs.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<Transport, TransportError> {
        let (host, port) = (endpoint.host(), endpoint.port());
        match endpoint {
            Endpoint::Quic { .. } => within(CONNECT_TIMEOUT, self.quic(host, port)).await,
            Endpoint::WebSocket { tls, .. } => {
                within(CONNECT_TIMEOUT, self.websocket(host, port, *tls)).await
            }
            Endpoint::Any { .. } => self.any(endpoint).await,
        }
    }

    /// QUIC, and a WebSocket if that takes longer than a good network needs: whichever is
    /// there first.
    async fn any(&self, endpoint: &Endpoint) -> Result<Transport, TransportError> {
        let (host, port) = (endpoint.host(), endpoint.port());
        let mut quic = Box::pin(within(QUIC_TIMEOUT, self.quic(host, port)));
        let mut quic_failed = None;
        tokio::select! {
            result = &mut quic => match result {
                Ok(transport) => return Ok(transport),
                Err(error) => quic_failed = Some(error),
            },
            () = tokio::time::sleep(QUIC_HEAD_START) => {}
        }
        let mut websocket = Box::pin(self.any_websocket(endpoint));
        let websocket_failed = loop {
            tokio::select! {
                result = &mut websocket => match result {
                    Ok(transport) => return Ok(transport),
                    Err(error) => break error,
                },
                result = &mut quic, if quic_failed.is_none() => match result {
                    Ok(transport) => return Ok(transport),
                    Err(error) => quic_failed = Some(error),
                },
            }
        };
        let quic_failed = match quic_failed {
            Some(error) => error,
            None => match quic.await {
                Ok(transport) => return Ok(transport),
                Err(error) => error,
            },
        };
        Err(TransportError::Protocol(format!(
            "QUIC: {quic_failed}; {websocket_failed}"
        )))
    }

    async fn any_websocket(&self, endpoint: &Endpoint) -> Result<Transport, TransportError> {
        let (host, port) = (endpoint.host(), endpoint.port());
        let tls = match within(CONNECT_TIMEOUT, self.websocket(host, port, true)).await {
            Ok(transport) => return Ok(transport),
            Err(error) => error,
        };
        if !endpoint.is_loopback() {
            return Err(TransportError::Protocol(format!(
                "WebSocket with TLS: {tls}"
            )));
        }
        within(CONNECT_TIMEOUT, self.websocket(host, port, false))
            .await
            .map_err(|plain| {
                TransportError::Protocol(format!("WebSocket with TLS: {tls}; WebSocket: {plain}"))
            })
    }

    async fn quic(&self, host: &str, port: u16) -> Result<Transport, TransportError> {
        let config = self.tls.quic()?;
        let mut last = no_address(host);
        for address in addresses(host, port).await? {
            match quic::connect(&self.network, config.clone(), address, host).await {
                Ok(quic) => return Ok(Transport::Quic(Box::new(quic))),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn websocket(
        &self,
        host: &str,
        port: u16,
        tls: bool,
    ) -> Result<Transport, TransportError> {
        let tls = if tls { Some(self.tls.tcp()?) } else { None };
        let mut last = no_address(host);
        for address in addresses(host, port).await? {
            match websocket::connect(address, host, tls.clone(), self.encoding).await {
                Ok(websocket) => return Ok(Transport::WebSocket(Box::new(websocket))),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, TransportError> {
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| {
            TransportError::Protocol(format!("the name {host} cannot be looked up: {error}"))
        })?;
    Ok(found.take(8).collect())
}

fn no_address(host: &str) -> TransportError {
    TransportError::Protocol(format!("the name {host} has no address"))
}

async fn within(
    limit: Duration,
    attempt: impl Future<Output = Result<Transport, TransportError>>,
) -> Result<Transport, TransportError> {
    tokio::time::timeout(limit, Box::pin(attempt))
        .await
        .unwrap_or_else(|_| {
            Err(TransportError::Protocol(format!(
                "no answer within {} s",
                limit.as_secs()
            )))
        })
}
