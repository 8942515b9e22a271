//! Who may come in: caps on connections, on those of them that have not shown a valid
//! token, and on memory, and for each source address a token bucket and a cap.
//!
//! A connection is a *newcomer* until its token is valid. Newcomers can never hold the
//! places that are reserved for valid tokens, nor more than so many from one address.
//! When their places are all taken, the one that has owed its HELLO longest gives way:
//! so those who hold places and say nothing keep nobody out.
//!
//! The address is the one of the socket, never one from a header. An address that a
//! packet merely claims (QUIC before its handshake) is charged nothing: anybody could
//! use up somebody else's share; beyond a few of them it has to be proven first.
//! Trusted proxies, and loopback by default, have no bucket and no cap. IPv6 addresses
//! count by their /64, which is what one subscriber has.
//!
//! Known limit: behind a proxy that is not trusted all clients share the proxy's bucket.

mod addresses;
mod newcomers;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use ipnet::IpNet;

use self::{
    addresses::{Addresses, key},
    newcomers::{Newcomers, Ousted, Seat},
};
use crate::metrics::{Metrics, Reason};

/// How long a newcomer keeps its place whatever happens: some round trips.
const GRACE_MS: u64 = 1_000;
/// Handshakes of one claimed address; with one more it has to be proven.
const CLAIMED: usize = 8;

/// The caps.
#[derive(Clone, Debug)]
pub struct Caps {
    /// Connections at once, newcomers included.
    pub connections: usize,
    /// Newcomers at once.
    pub newcomers: usize,
    /// Places that only a valid token gets.
    pub reserved: usize,
    /// Newcomers at once from one address.
    pub newcomers_per_address: usize,
    /// New connections a second from one address, sustained.
    pub per_address_per_second: u32,
    /// New connections from one address at once.
    pub per_address_burst: u32,
    /// Addresses without a bucket and a cap of their own.
    pub trusted: Vec<IpNet>,
}

impl Caps {
    /// Newcomers at once, without those places that are reserved.
    fn newcomers(&self) -> usize {
        let open = self.connections.saturating_sub(self.reserved);
        self.newcomers.min(open).max(1)
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The address answers: TCP, and QUIC after a Retry.
    Proven(IpAddr),
    /// A packet says so.
    Claimed(IpAddr),
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// The node drains.
    Draining,
    /// Too many connections.
    Connections,
    /// Too many newcomers at once.
    Handshakes,
    /// Too much memory.
    Memory,
    /// Too many new connections from this address.
    Address,
}

impl NoPlace {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Memory => "memory",
            Self::Address => "address",
        }
    }
}

/// Counts who is in.
pub struct Admission {
    caps: Caps,
    connections: AtomicUsize,
    draining: AtomicBool,
    memory_full: AtomicBool,
    door: Mutex<Door>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Door {
    newcomers: Newcomers,
    addresses: Addresses,
}

impl Admission {
    /// Nobody is in.
    #[must_use]
    pub fn new(caps: Caps, metrics: Arc<Metrics>) -> Self {
        Self {
            caps,
            connections: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            memory_full: AtomicBool::new(false),
            door: Mutex::default(),
            metrics,
        }
    }

    /// Gives a new connection its place, or says why there is none.
    ///
    /// # Errors
    /// [`NoPlace`], counted.
    pub fn admit(self: &Arc<Self>, source: Source, now_ms: u64) -> Result<Place, NoPlace> {
        self.try_admit(source, now_ms)
            .inspect_err(|no_place| self.count(no_place.name()))
    }

    fn count(&self, reason: &'static str) {
        self.metrics
            .connections_refused
            .get_or_create(&Reason { reason })
            .inc();
    }

    fn try_admit(self: &Arc<Self>, source: Source, now_ms: u64) -> Result<Place, NoPlace> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(NoPlace::Draining);
        }
        if self.memory_full.load(Ordering::Relaxed) {
            return Err(NoPlace::Memory);
        }
        let (ip, proven) = match source {
            Source::Proven(ip) => (ip, true),
            Source::Claimed(ip) => (ip, false),
        };
        let mut door = self.door();
        if proven {
            self.charge(&mut door, ip, now_ms)?;
        }
        let mut ousted = None;
        if self.connections() >= self.caps.connections {
            ousted = Some(self.oust(&mut door, now_ms).ok_or(NoPlace::Connections)?);
        } else if door.newcomers.count() >= self.caps.newcomers() {
            ousted = Some(self.oust(&mut door, now_ms).ok_or(NoPlace::Handshakes)?);
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        let seat = door.newcomers.enter(ip, proven, now_ms);
        drop(door);
        if let Some(ousted) = ousted {
            ousted.wake();
        }
        Ok(Place {
            admission: Arc::clone(self),
            seat: Some(Box::new(seat)),
        })
    }

    /// Takes what a new connection costs its address.
    fn charge(&self, door: &mut Door, ip: IpAddr, now_ms: u64) -> Result<(), NoPlace> {
        let key = key(ip);
        let fits = self.is_trusted(ip)
            || (door.newcomers.proven(key) < self.caps.newcomers_per_address
                && door.addresses.take(key, now_ms, &self.caps));
        fits.then_some(()).ok_or(NoPlace::Address)
    }

    /// Takes the place of the newcomer that has been silent longest.
    fn oust(&self, door: &mut Door, now_ms: u64) -> Option<Arc<Ousted>> {
        let ousted = door.newcomers.oust(now_ms.checked_sub(GRACE_MS)?)?;
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.count("ousted");
        Some(ousted)
    }

    /// Whether a QUIC client must show that its address is its own before it gets a
    /// place: many newcomers are here, or many that claim this address, or the address
    /// has little left in its bucket.
    #[must_use]
    pub fn must_prove(&self, ip: IpAddr, now_ms: u64) -> bool {
        let door = self.door();
        let shares = !self.is_trusted(ip);
        door.newcomers.count() > self.caps.newcomers() / 2
            || (shares && door.newcomers.claimed(key(ip)) >= CLAIMED)
            || (shares && door.addresses.runs_low(key(ip), now_ms, &self.caps))
    }

    /// Connections that are in, newcomers included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that have not shown a valid token yet.
    #[must_use]
    pub fn newcomers(&self) -> usize {
        self.door().newcomers.count()
    }

    /// From now on nobody comes in.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Says whether the node holds more memory than it may.
    pub fn set_memory_full(&self, full: bool) {
        self.memory_full.store(full, Ordering::Relaxed);
    }

    fn is_trusted(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.caps
            .trusted
            .iter()
            .any(|network| network.contains(&ip))
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the caps; dropping it makes room.
pub struct Place {
    admission: Arc<Admission>,
    /// Until the token is valid.
    seat: Option<Box<Seat>>,
}

impl Place {
    /// Ready when somebody else got this place: the connection has to go at once.
    pub fn poll_ousted(&self, cx: &Context<'_>) -> Poll<()> {
        self.seat
            .as_ref()
            .map_or(Poll::Pending, |seat| seat.ousted().poll(cx))
    }

    /// Sees the same from outside, while the place is on its way to a connection.
    #[must_use]
    pub fn watch(&self) -> PlaceWatch {
        PlaceWatch(self.seat.as_ref().map(|seat| seat.ousted()))
    }

    /// The address turned out to be the client's own, and is charged for it.
    ///
    /// # Errors
    /// [`NoPlace::Address`] if it has used up what it may, counted.
    pub fn prove(&mut self, now_ms: u64) -> Result<(), NoPlace> {
        let Some(seat) = &mut self.seat else {
            return Ok(());
        };
        if seat.proven {
            return Ok(());
        }
        let mut door = self.admission.door();
        let charged = self.admission.charge(&mut door, seat.ip, now_ms);
        door.newcomers.prove(seat);
        drop(door);
        charged.inspect_err(|no_place| self.admission.count(no_place.name()))
    }

    /// HELLO is here: the client is not waited for any more.
    pub fn said_hello(&self) {
        if let Some(seat) = &self.seat {
            self.admission.door().newcomers.said_hello(seat);
        }
    }

    /// The token is valid: this is no newcomer any more.
    pub fn token_is_valid(&mut self) {
        // One that lost its place meanwhile keeps the seat, and with it the news.
        self.seat
            .take_if(|seat| self.admission.door().newcomers.leave(seat));
    }
}

/// Looks at a [`Place`]. One task at a time does: the last one is woken.
pub struct PlaceWatch(Option<Arc<Ousted>>);

impl PlaceWatch {
    /// Ready when somebody else got the place.
    pub async fn ousted(self) {
        match self.0 {
            Some(ousted) => std::future::poll_fn(|cx| ousted.poll(cx)).await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self
            .seat
            .take()
            .is_none_or(|seat| self.admission.door().newcomers.leave(&seat));
        if left {
            self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
