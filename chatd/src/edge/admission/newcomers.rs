//! Connections that have not shown a valid token yet: how many there are, from which
//! addresses, and which of them has kept its place longest without saying HELLO.
//!
//! Bounds: as many as have a place; an address that holds none is not remembered, so
//! that addresses in forged packets leave nothing behind.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::addresses::key;

/// All of them.
#[derive(Default)]
pub(super) struct Newcomers {
    entered: u64,
    count: usize,
    /// Those whose client still owes its HELLO, the oldest first.
    owing: BTreeMap<u64, Owing>,
    addresses: HashMap<u128, OfAddress>,
}

struct Owing {
    since_ms: u64,
    key: u128,
    proven: bool,
    ousted: Arc<Ousted>,
}

#[derive(Default)]
struct OfAddress {
    /// Whose address is their own.
    proven: usize,
    /// Who only say that it is theirs: QUIC before its handshake.
    claimed: usize,
}

/// Whether somebody else got the place.
#[derive(Default)]
pub(super) struct Ousted {
    ousted: AtomicBool,
    waker: AtomicWaker,
}

/// What a newcomer holds.
pub(super) struct Seat {
    number: u64,
    pub(super) ip: IpAddr,
    pub(super) proven: bool,
    ousted: Arc<Ousted>,
}

impl Newcomers {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Newcomers of an address that is their own.
    pub(super) fn proven(&self, key: u128) -> usize {
        self.addresses.get(&key).map_or(0, |of| of.proven)
    }

    /// Newcomers that only claim an address.
    pub(super) fn claimed(&self, key: u128) -> usize {
        self.addresses.get(&key).map_or(0, |of| of.claimed)
    }

    pub(super) fn enter(&mut self, ip: IpAddr, proven: bool, now_ms: u64) -> Seat {
        let key = key(ip);
        self.entered += 1;
        self.count += 1;
        *self.of(key, proven) += 1;
        let ousted = Arc::default();
        let owing = Owing {
            since_ms: now_ms,
            key,
            proven,
            ousted: Arc::clone(&ousted),
        };
        self.owing.insert(self.entered, owing);
        Seat {
            number: self.entered,
            ip,
            proven,
            ousted,
        }
    }

    /// The client has said HELLO: what is awaited now is the server, and nobody gets
    /// this place.
    pub(super) fn said_hello(&mut self, seat: &Seat) {
        self.owing.remove(&seat.number);
    }

    /// The address turned out to be its own.
    pub(super) fn prove(&mut self, seat: &mut Seat) {
        if seat.ousted.is() || std::mem::replace(&mut seat.proven, true) {
            return;
        }
        let key = key(seat.ip);
        self.forget(key, false);
        *self.of(key, true) += 1;
        if let Some(owing) = self.owing.get_mut(&seat.number) {
            owing.proven = true;
        }
    }

    /// A newcomer is one no longer. False if its place was taken from it before.
    pub(super) fn leave(&mut self, seat: &Seat) -> bool {
        if seat.ousted.is() {
            return false;
        }
        self.owing.remove(&seat.number);
        self.count -= 1;
        self.forget(key(seat.ip), seat.proven);
        true
    }

    /// Takes the place of the one that has owed its HELLO longest, if it came at
    /// `before_ms` or earlier. Wake it when the lock is released.
    pub(super) fn oust(&mut self, before_ms: u64) -> Option<Arc<Ousted>> {
        let oldest = self.owing.first_entry()?;
        if oldest.get().since_ms > before_ms {
            return None;
        }
        let owing = oldest.remove();
        self.count -= 1;
        self.forget(owing.key, owing.proven);
        owing.ousted.ousted.store(true, Ordering::Release);
        Some(owing.ousted)
    }

    fn of(&mut self, key: u128, proven: bool) -> &mut usize {
        let of = self.addresses.entry(key).or_default();
        if proven {
            &mut of.proven
        } else {
            &mut of.claimed
        }
    }

    fn forget(&mut self, key: u128, proven: bool) {
        let of = self.of(key, proven);
        *of -= 1;
        if self.proven(key) + self.claimed(key) == 0 {
            self.addresses.remove(&key);
        }
    }
}

impl Seat {
    pub(super) fn ousted(&self) -> Arc<Ousted> {
        Arc::clone(&self.ousted)
    }
}

impl Ousted {
    fn is(&self) -> bool {
        self.ousted.load(Ordering::Acquire)
    }

    /// Ready when somebody else got the place.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Tells the one that lost it.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}
