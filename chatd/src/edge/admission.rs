//! Who may come in: caps on connections, handshakes and memory, and a token bucket
//! for each source address.
//!
//! The address is the one of the socket, never one from a header. Loopback has no
//! bucket: what comes from there is a proxy or a person at this machine. IPv6
//! addresses count by their /64, which is what one subscriber has.
//!
//! Known limit: behind a proxy all clients share the proxy's bucket; raise it there.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::metrics::{Metrics, Reason};

/// Addresses that are remembered. At the bound those whose bucket is full again are
/// forgotten; if none is, newcomers share one bucket.
const ADDRESSES: usize = 65_536;
/// A token, in the unit of the buckets: thousandths.
const TOKEN: u64 = 1_000;

/// The caps.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Connections at once, handshakes included.
    pub connections: usize,
    /// Handshakes at once.
    pub handshakes: usize,
    /// New connections a second from one address, sustained.
    pub per_address_per_second: u32,
    /// New connections from one address at once.
    pub per_address_burst: u32,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// The node drains.
    Draining,
    /// Too many connections.
    Connections,
    /// Too many handshakes at once.
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
    handshakes: AtomicUsize,
    draining: AtomicBool,
    memory_full: AtomicBool,
    addresses: Mutex<Addresses>,
    metrics: Arc<Metrics>,
}

impl Admission {
    /// Nobody is in.
    #[must_use]
    pub fn new(caps: Caps, metrics: Arc<Metrics>) -> Self {
        Self {
            caps,
            connections: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            memory_full: AtomicBool::new(false),
            addresses: Mutex::default(),
            metrics,
        }
    }

    /// Gives a new connection its place, or says why there is none.
    ///
    /// # Errors
    /// [`NoPlace`], counted.
    pub fn admit(self: &Arc<Self>, source: IpAddr, now_ms: u64) -> Result<Place, NoPlace> {
        self.try_admit(source, now_ms).inspect_err(|no_place| {
            let reason = Reason {
                reason: no_place.name(),
            };
            self.metrics
                .connections_refused
                .get_or_create(&reason)
                .inc();
        })
    }

    fn try_admit(self: &Arc<Self>, source: IpAddr, now_ms: u64) -> Result<Place, NoPlace> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(NoPlace::Draining);
        }
        if self.memory_full.load(Ordering::Relaxed) {
            return Err(NoPlace::Memory);
        }
        if !source.is_loopback() && !self.take_token(source, now_ms) {
            return Err(NoPlace::Address);
        }
        enter(&self.connections, self.caps.connections).ok_or(NoPlace::Connections)?;
        if enter(&self.handshakes, self.caps.handshakes).is_none() {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(NoPlace::Handshakes);
        }
        Ok(Place {
            admission: Arc::clone(self),
            handshake: true,
        })
    }

    /// Connections that are in, handshakes included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Handshakes that are under way.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Handshakes beyond which a QUIC client must show that its address is its own.
    #[must_use]
    pub fn retry_threshold(&self) -> usize {
        self.caps.handshakes / 2
    }

    /// From now on nobody comes in.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Says whether the node holds more memory than it may.
    pub fn set_memory_full(&self, full: bool) {
        self.memory_full.store(full, Ordering::Relaxed);
    }

    fn take_token(&self, source: IpAddr, now_ms: u64) -> bool {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.take(key(source), now_ms, &self.caps)
    }
}

fn enter(count: &AtomicUsize, cap: usize) -> Option<usize> {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < cap).then_some(n + 1)
        })
        .ok()
}

/// A place in the caps; dropping it makes room.
pub struct Place {
    admission: Arc<Admission>,
    handshake: bool,
}

impl Place {
    /// The handshake is over; the connection stays.
    pub fn established(&mut self) {
        if std::mem::take(&mut self.handshake) {
            self.admission.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.established();
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Addresses {
    buckets: HashMap<u128, Bucket>,
    /// For newcomers when there is no room for more buckets.
    shared: Option<Bucket>,
    swept_ms: u64,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// In thousandths of a token.
    tokens: u64,
    at_ms: u64,
}

impl Addresses {
    fn take(&mut self, key: u128, now_ms: u64, caps: &Caps) -> bool {
        let full = u64::from(caps.per_address_burst) * TOKEN;
        let rate = u64::from(caps.per_address_per_second);
        if !self.buckets.contains_key(&key)
            && self.buckets.len() >= ADDRESSES
            && now_ms >= self.swept_ms + 1_000
        {
            self.swept_ms = now_ms;
            self.buckets
                .retain(|_, bucket| bucket.filled(now_ms, rate, full) < full);
        }
        let fresh = Bucket {
            tokens: full,
            at_ms: now_ms,
        };
        let bucket = if self.buckets.len() < ADDRESSES || self.buckets.contains_key(&key) {
            self.buckets.entry(key).or_insert(fresh)
        } else {
            self.shared.get_or_insert(fresh)
        };
        let tokens = bucket.filled(now_ms, rate, full);
        *bucket = Bucket {
            tokens: tokens.saturating_sub(TOKEN),
            at_ms: now_ms,
        };
        if tokens < TOKEN {
            // Nothing was taken.
            bucket.tokens = tokens;
            return false;
        }
        true
    }
}

impl Bucket {
    fn filled(self, now_ms: u64, rate: u64, full: u64) -> u64 {
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(rate);
        self.tokens.saturating_add(gained).min(full)
    }
}

fn key(source: IpAddr) -> u128 {
    match source.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests;
