//! The rows of docs/benchmarks.md, one file each.

pub(crate) mod delivery;
pub(crate) mod groups;
pub(crate) mod idle;
pub(crate) mod pages;
pub(crate) mod restart;
pub(crate) mod sends;

use anyhow::Result;

use crate::{
    link::{Link, Seen, Target, Transport},
    node::Node,
};
use chat_wire::frame::{Ack, Body};

/// What every row is told.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Rounds of each figure; the median counts.
    pub(crate) rounds: usize,
    /// Seconds of a round of load.
    pub(crate) seconds: u64,
    /// Shrinks what takes minutes.
    pub(crate) quick: bool,
    /// Sends a second of the delivery row, if it is not to find the highest.
    pub(crate) rate: Option<u32>,
}

/// A target for a running node.
///
/// # Errors
/// If its certificate cannot be read.
pub(crate) fn target(node: &Node) -> Result<Target> {
    Target::new(node.address, &node.certificate())
}

/// The name of a transport in bars.
#[must_use]
pub(crate) const fn label(transport: Transport) -> &'static str {
    match transport {
        Transport::WebSocket => "websocket",
        Transport::Tls => "tls websocket",
        Transport::Quic => "quic",
    }
}

/// Acknowledges every this many events.
const ACK_EVERY: u64 = 64;

/// Takes events until `last` was seen, acknowledging like a client does.
///
/// # Errors
/// If the connection is gone.
pub(crate) async fn take_until(link: &mut Link, last: u64) -> Result<()> {
    let mut acked = 0;
    loop {
        if let Seen::Events(_, seq, _) = link.seen().await? {
            if seq >= last || seq >= acked + ACK_EVERY {
                link.queue(&Body::Ack(Ack { inbox_seq: seq }).into());
                acked = seq;
            }
            link.flush().await?;
            if seq >= last {
                return Ok(());
            }
        }
    }
}
