//! The admin port of a node: a few GETs over HTTP, in the clear, usually on loopback.
//!
//! HTTP/1.0 on purpose: the answer ends with the connection and has no chunks, so a
//! whole HTTP client is not needed. At most 16 MiB of answer, 10 s.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The port of the admin API when an address names none.
pub const DEFAULT_PORT: u16 = 7444;
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Why the admin port gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nothing listens there.
    #[error("no admin port at {address}: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// It answered something that is not HTTP, or not the JSON that was asked for.
    #[error("{address} is not the admin port of chatd: {reason}")]
    NotAdmin {
        /// Where.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// It refused.
    #[error("the admin port answered {path} with HTTP {status}: {text}")]
    Refused {
        /// What was asked.
        path: String,
        /// The status.
        status: u16,
        /// What it said.
        text: String,
    },
}

/// Asks one node.
#[derive(Clone, Debug)]
pub struct Admin {
    address: String,
    credential: Option<String>,
}

/// An answer with its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub text: String,
}

impl Admin {
    /// `address` is `host` or `host:port`; `credential` goes as a bearer token.
    #[must_use]
    pub fn new(address: &str, credential: Option<String>) -> Self {
        let address = address.strip_prefix("http://").unwrap_or(address);
        let address = address.trim_end_matches('/');
        let has_port = address
            .rsplit_once(':')
            .is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        Self {
            address: if has_port {
                address.to_owned()
            } else if address.contains(':') && !address.starts_with('[') {
                format!("[{address}]:{DEFAULT_PORT}")
            } else {
                format!("{address}:{DEFAULT_PORT}")
            },
            credential,
        }
    }

    /// Where it asks.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the process lives.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn healthy(&self) -> Result<Answer, AdminError> {
        self.answer("/healthz").await
    }

    /// Whether it serves; the text says what it does not.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn ready(&self) -> Result<Answer, AdminError> {
        self.answer("/readyz").await
    }

    /// The node and its shards.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn cluster(&self) -> Result<Value, AdminError> {
        let path = "/v1/cluster";
        let answer = self.answer(path).await?;
        if answer.status != 200 {
            return Err(AdminError::Refused {
                path: path.to_owned(),
                status: answer.status,
                text: answer.text,
            });
        }
        serde_json::from_str(&answer.text).map_err(|error| AdminError::NotAdmin {
            address: self.address.clone(),
            reason: error.to_string(),
        })
    }

    /// The metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn metrics(&self) -> Result<Answer, AdminError> {
        self.answer("/metrics").await
    }

    /// Any path, whatever the status.
    ///
    /// # Errors
    /// [`AdminError`] if there was no answer.
    pub async fn answer(&self, path: &str) -> Result<Answer, AdminError> {
        let unreachable = |reason: String| AdminError::Unreachable {
            address: self.address.clone(),
            reason,
        };
        let bytes = tokio::time::timeout(TIMEOUT, self.exchange(path))
            .await
            .map_err(|_| unreachable("no answer within 10 s".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        parse(&bytes).ok_or_else(|| AdminError::NotAdmin {
            address: self.address.clone(),
            reason: "its answer is not HTTP".to_owned(),
        })
    }

    async fn exchange(&self, path: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let mut request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n", self.address);
        if let Some(credential) = &self.credential {
            request.push_str("Authorization: Bearer ");
            request.push_str(credential);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(MAX_ANSWER_BYTES)
            .read_to_end(&mut answer)
            .await?;
        Ok(answer)
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let status_line = std::str::from_utf8(&bytes[..head]).ok()?.lines().next()?;
    let mut words = status_line.split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    Some(Answer {
        status: words.next()?.parse().ok()?,
        text: String::from_utf8_lossy(&bytes[head + 4..]).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_what_is_no_http_is_not() {
        let answer = parse(b"HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\nnot ready").unwrap();
        assert_eq!((answer.status, answer.text.as_str()), (503, "not ready"));
        for wrong in ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn an_address_without_a_port_gets_the_default_one() {
        for (address, whole) in [
            ("127.0.0.1", "127.0.0.1:7444"),
            ("host:1", "host:1"),
            ("::1", "[::1]:7444"),
            ("http://[::1]:9/", "[::1]:9"),
        ] {
            assert_eq!(Admin::new(address, None).address(), whole);
        }
    }
}
