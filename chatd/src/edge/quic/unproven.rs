//! At most three times as many bytes go to an address as came from it, until it is known
//! to answer: else anybody could make this server throw packets at somebody whose
//! address they forge (RFC 9000, 8.1).
//!
//! quinn counts too, but lets a whole datagram go while a single byte of the budget is
//! left: up to four times. So the socket counts what really goes and comes, in UDP
//! payloads: the handshake, its repetitions and its close, and what quinn sends in 1-RTT
//! packets before the client has answered. What is over is dropped, as a network drops
//! it: quinn sends it again when the client has said more.
//!
//! A forged address may be that of a session. What comes from it in packets with short
//! headers says so, and from then on none of those to it is dropped.
//!
//! Bound: `ADDRESSES`; one more has to prove itself by a Retry. A handshake that failed
//! is remembered for `AFTERWARDS_MS`, in which quinn may still repeat its close.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use crate::clock;

/// Addresses that are remembered.
const ADDRESSES: usize = 16_384;
/// How long after a failed handshake.
const AFTERWARDS_MS: u64 = 10_000;
/// Bytes that a client's first datagram has at least; quinn drops shorter ones.
const FIRST_BYTES: u64 = 1_200;
/// What may go for each byte that came.
const TIMES: u64 = 3;
/// Set in the first byte of a packet with a long header.
const LONG_HEADER: u8 = 0x80;

/// Addresses that handshakes are under way with, and that are not known to answer.
#[derive(Debug, Default)]
pub struct Unproven {
    /// Looked at first, so that packets of sessions take no lock.
    count: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<SocketAddr, Bytes>,
    /// Handshakes that failed, and until when they count.
    failed: VecDeque<(u64, SocketAddr)>,
}

#[derive(Debug, Default)]
struct Bytes {
    received: u64,
    sent: u64,
    handshakes: u32,
    /// There seems to be a session with this address.
    session: bool,
}

/// A handshake with an address that may be forged. Dropped, it has failed.
pub struct Handshake {
    unproven: Arc<Unproven>,
    address: SocketAddr,
    proven: bool,
}

impl Unproven {
    /// A client's first datagram is here and is about to be answered. `None` if there
    /// are too many such.
    pub fn begin(self: &Arc<Self>, address: SocketAddr, now_ms: u64) -> Option<Handshake> {
        let mut table = self.table();
        table.forget(now_ms);
        if table.addresses.len() >= ADDRESSES && !table.addresses.contains_key(&address) {
            return None;
        }
        let bytes = table.addresses.entry(address).or_default();
        bytes.handshakes += 1;
        bytes.received += FIRST_BYTES;
        self.recount(&table);
        Some(Handshake {
            unproven: Arc::clone(self),
            address,
            proven: false,
        })
    }

    /// A datagram, or several of one kind, came from an address.
    fn heard(&self, address: SocketAddr, bytes: usize, handshake: bool) {
        if let Some(found) = self.table().addresses.get_mut(&address) {
            found.received += bytes as u64;
            found.session |= !handshake;
        }
    }

    /// How many of these bytes may go, in whole segments; they are counted.
    fn take(&self, address: SocketAddr, bytes: usize, segment: usize, handshake: bool) -> usize {
        let mut table = self.table();
        let Some(found) = table.addresses.get_mut(&address) else {
            return bytes;
        };
        if found.session && !handshake {
            // Nor does it count: many connections may share an address, and what a session
            // is sent must not be missing for the next handshake.
            return bytes;
        }
        let left = (found.received * TIMES).saturating_sub(found.sent);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let goes = if bytes <= left {
            bytes
        } else {
            left / segment * segment
        };
        found.sent += goes as u64;
        goes
    }

    /// Bytes were taken and did not go.
    fn give_back(&self, address: SocketAddr, bytes: usize, handshake: bool) {
        if let Some(found) = self.table().addresses.get_mut(&address)
            && (handshake || !found.session)
        {
            // The entry may be another one by now.
            found.sent = found.sent.saturating_sub(bytes as u64);
        }
    }

    fn recount(&self, table: &Table) {
        self.count.store(table.addresses.len(), Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, now_ms: u64) {
        while let Some((_, address)) = self.failed.pop_front_if(|(until, _)| *until <= now_ms) {
            self.end(address);
        }
    }

    fn end(&mut self, address: SocketAddr) {
        if let Some(bytes) = self.addresses.get_mut(&address) {
            bytes.handshakes -= 1;
            if bytes.handshakes == 0 {
                self.addresses.remove(&address);
            }
        }
    }
}

impl Handshake {
    /// The client has answered.
    pub fn proven(mut self) {
        self.proven = true;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut table = self.unproven.table();
        if self.proven {
            table.end(self.address);
        } else {
            let until_ms = clock::mono_ms() + AFTERWARDS_MS;
            table.failed.push_back((until_ms, self.address));
        }
        self.unproven.recount(&table);
    }
}

/// A socket that keeps to it.
#[derive(Debug)]
pub struct Careful {
    socket: Arc<dyn AsyncUdpSocket>,
    unproven: Arc<Unproven>,
}

impl Careful {
    /// Sends through `socket`.
    pub fn new(socket: Arc<dyn AsyncUdpSocket>, unproven: Arc<Unproven>) -> Self {
        Self { socket, unproven }
    }
}

impl AsyncUdpSocket for Careful {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.unproven.is_empty() {
            return self.socket.try_send(transmit);
        }
        let contents = transmit.contents;
        let to = transmit.destination;
        let segment = transmit.segment_size.unwrap_or(contents.len());
        let handshake = is_handshake(contents);
        let goes = self.unproven.take(to, contents.len(), segment, handshake);
        if goes == 0 {
            return Ok(());
        }
        let part = Transmit {
            destination: to,
            ecn: transmit.ecn,
            contents: &contents[..goes],
            segment_size: transmit.segment_size.filter(|size| goes > *size),
            src_ip: transmit.src_ip,
        };
        self.socket
            .try_send(&part)
            .inspect_err(|_| self.unproven.give_back(to, goes, handshake))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.socket.poll_recv(cx, buffers, meta))?;
        if !self.unproven.is_empty() {
            for (buffer, meta) in buffers.iter().zip(meta.iter()).take(count) {
                let handshake = is_handshake(&buffer[..meta.len]);
                self.unproven.heard(meta.addr, meta.len, handshake);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

fn is_handshake(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|first| first & LONG_HEADER != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn a_single_byte_of_budget_let_a_whole_datagram_go() {
        let unproven = Arc::new(Unproven::default());
        let handshake = unproven.begin(address(1), 0).unwrap();
        assert_eq!(unproven.take(address(1), 3_599, 1_200, true), 3_599);
        assert_eq!(unproven.take(address(1), 1_200, 1_200, true), 0);
        unproven.heard(address(1), 1_200, true);
        // Of a batch, what fits.
        assert_eq!(unproven.take(address(1), 6_000, 1_200, true), 3_600);
        unproven.give_back(address(1), 3_600, true);
        assert_eq!(unproven.take(address(1), 3_601, 3_601, true), 3_601);
        // Another address is not counted, and this one no longer once it has answered.
        assert_eq!(unproven.take(address(2), 9_000, 1_200, true), 9_000);
        handshake.proven();
        assert!(unproven.is_empty());
        assert_eq!(unproven.take(address(1), 9_000, 1_200, true), 9_000);
    }

    #[test]
    fn packets_before_the_clients_answer_were_not_counted() {
        let unproven = Arc::new(Unproven::default());
        let _handshake = unproven.begin(address(1), 0).unwrap();
        // What was seen: a flight, connection ids in a 1-RTT packet, two repetitions.
        assert_eq!(unproven.take(address(1), 1_200, 1_200, true), 1_200);
        assert_eq!(unproven.take(address(1), 222, 222, false), 222);
        assert_eq!(unproven.take(address(1), 1_200, 1_200, true), 1_200);
        assert_eq!(unproven.take(address(1), 1_200, 1_200, true), 0);
        assert_eq!(unproven.take(address(1), 1_200, 1_200, false), 0);
    }

    #[test]
    fn a_session_goes_on_whoever_forges_its_address() {
        let unproven = Arc::new(Unproven::default());
        let _forged = unproven.begin(address(1), 0).unwrap();
        unproven.heard(address(1), 40, false);
        assert_eq!(unproven.take(address(1), 60_000, 1_200, false), 60_000);
    }

    /// All that its sessions were sent counted, and nobody else could begin one there.
    #[test]
    fn what_a_session_was_sent_was_missing_for_the_next_handshake_of_its_address() {
        let unproven = Arc::new(Unproven::default());
        let _first = unproven.begin(address(1), 0).unwrap();
        unproven.heard(address(1), 40, false);
        assert_eq!(unproven.take(address(1), 60_000, 1_200, false), 60_000);
        let _second = unproven.begin(address(1), 0).unwrap();
        assert_eq!(unproven.take(address(1), 7_200, 1_200, true), 7_200);
        assert_eq!(unproven.take(address(1), 1_200, 1_200, true), 0);
    }

    #[test]
    fn a_failed_handshake_counts_on_for_its_close_and_is_then_forgotten() {
        let unproven = Arc::new(Unproven::default());
        let now_ms = clock::mono_ms();
        drop(unproven.begin(address(1), now_ms));
        assert_eq!(unproven.take(address(1), 9_000, 1_200, true), 3_600);
        let later = unproven.begin(address(2), clock::mono_ms() + AFTERWARDS_MS);
        assert_eq!(unproven.take(address(1), 9_000, 1_200, true), 9_000);
        drop(later);
    }

    #[test]
    fn addresses_are_bounded() {
        let unproven = Arc::new(Unproven::default());
        let begin = |at: usize| {
            let port = u16::try_from(at % 60_000).unwrap();
            let host = u8::try_from(at / 60_000).unwrap();
            unproven.begin(([192, 0, 2, host], port).into(), 0)
        };
        let handshakes: Vec<_> = (0..ADDRESSES).map(|at| begin(at).unwrap()).collect();
        assert!(begin(ADDRESSES).is_none());
        assert!(begin(0).is_some(), "one that is known");
        drop(handshakes);
    }
}
