//! How each person's devices reach the server: half on QUIC, half on WebSockets, of which a
//! part is in JSON and a part in TLS.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use chat_client::{Config, Encoding, Endpoint, Network, Queue, Start, State, Token, Trust};
use serde::{Deserialize, Serialize};

/// The device that is there all the time.
pub const LIVE: u64 = 1;
/// The device that comes at the end.
pub const OFFLINE: u64 = 2;

/// What a client needs to know of the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    /// TCP and UDP.
    pub address: SocketAddr,
    /// Whom QUIC and TLS trust.
    pub certificate: PathBuf,
    /// Everybody on a plain WebSocket in JSON: the simplest way, for the first stop of the
    /// order of work and for finding out what is wrong.
    pub simple: bool,
}

impl Server {
    /// The configuration of a person's device.
    #[must_use]
    pub fn config(&self, person: u32, name: &str, device: u64, network: &Network) -> Config {
        let host = self.address.ip().to_string();
        let port = self.address.port();
        // The two devices of a person differ, so that both ways show the same.
        let way = if self.simple {
            1
        } else {
            (u64::from(person) + device - LIVE) % 6
        };
        let endpoint = match way {
            0 | 2 | 4 => Endpoint::Quic { host, port },
            3 => Endpoint::WebSocket {
                host,
                port,
                tls: true,
            },
            _ => Endpoint::WebSocket {
                host,
                port,
                tls: false,
            },
        };
        let mut config = Config::new(endpoint, Token::dev(name), device);
        config.encoding = if way == 1 {
            Encoding::Json
        } else {
            Encoding::Proto
        };
        config.trust = Trust::CaFile(self.certificate.clone());
        config.auto_ack = false;
        config.start = Start::From(0);
        config.queue = Queue::Memory { bound: 1_024 };
        config.network = network.clone();
        // Over a minute of absence, and a herd of returning clients.
        config.connect_timeout = Duration::from_secs(180);
        config.request_timeout = Duration::from_secs(120);
        config
    }

    /// From where a device goes on that has events up to `inbox_seq`.
    #[must_use]
    pub fn resume(inbox_seq: u64) -> Start {
        Start::Saved(State {
            inbox_seq,
            acked: inbox_seq,
            ..State::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_are_on_quic_half_on_websockets_and_a_part_speaks_json() {
        let server = Server {
            address: ([127, 0, 0, 1], 7443).into(),
            certificate: "cert.pem".into(),
            simple: false,
        };
        let network = Network::default();
        let configs: Vec<Config> = (0..60)
            .map(|person| server.config(person, "x", LIVE, &network))
            .collect();
        let quic = configs
            .iter()
            .filter(|c| matches!(c.endpoint, Endpoint::Quic { .. }))
            .count();
        let json = configs
            .iter()
            .filter(|c| c.encoding == Encoding::Json)
            .count();
        let tls = configs
            .iter()
            .filter(|c| matches!(c.endpoint, Endpoint::WebSocket { tls: true, .. }))
            .count();
        assert_eq!((quic, json, tls), (30, 10, 10));
    }
}
