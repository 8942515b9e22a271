//! The HTTP/1.1 request that becomes a WebSocket, and what everything else on this
//! port is told. No socket: bytes in, an answer out.
//!
//! Only `GET /v1/ws` exists here. Without an offered subprotocol the session speaks
//! `chat.v1.proto`; one that offers only others is refused, since it would not
//! understand us.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chat_wire::codec::Encoding;

/// Bytes of a request's head at most; more is refused with 431.
pub const HEAD_BYTES: usize = 8 * 1024;
/// Headers of a request at most; more is refused with 431.
const HEADERS: usize = 64;
const PATH: &str = "/v1/ws";
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request that is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Bytes of the head; what follows is the client's first frames.
    pub head_bytes: usize,
    /// How the session encodes.
    pub encoding: Encoding,
    accept: String,
    named: bool,
}

/// A request that is answered and closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do.
    pub message: &'static str,
}

/// What may come through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Web pages may connect only if they come from this machine. With tokens that
    /// anybody can write (`--dev`), any page in a browser could otherwise chat.
    pub local_origins_only: bool,
}

/// Looks at what has arrived. `None` if the head is not complete yet.
///
/// # Errors
/// [`Refused`] with the answer.
pub fn parse(bytes: &[u8], rules: Rules) -> Result<Option<Upgrade>, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) if head_bytes <= HEAD_BYTES => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES => return Ok(None),
        Ok(_) => return refuse(431, "the head of the request is longer than 8 KiB"),
        Err(httparse::Error::TooManyHeaders) => {
            return refuse(431, "the request has more than 64 headers");
        }
        Err(_) => return refuse(400, "this is not an HTTP/1.1 request"),
    };
    unambiguous(&bytes[..head_bytes], request.headers)?;
    let path = request
        .path
        .unwrap_or_default()
        .split('?')
        .next()
        .unwrap_or_default();
    if path != PATH {
        return refuse(
            404,
            "only the WebSocket /v1/ws is here; health, metrics and the admin API have their own port",
        );
    }
    if request.method != Some("GET") {
        return refuse(405, "a WebSocket begins with GET");
    }
    let one = |name: &str| {
        let mut found = request
            .headers
            .iter()
            .filter(|h| h.name.eq_ignore_ascii_case(name));
        let value = found.next().map(|header| header.value);
        if found.next().is_some() { None } else { value }
    };
    if !has_token(request.headers, "upgrade", "websocket") {
        return refuse(426, "this is a WebSocket endpoint: send Upgrade: websocket");
    }
    if request.version != Some(1) || !has_token(request.headers, "connection", "upgrade") {
        return refuse(400, "a WebSocket needs HTTP/1.1 and Connection: Upgrade");
    }
    if one("sec-websocket-version") != Some(b"13") {
        return refuse(
            426,
            "only version 13 of the WebSocket protocol is spoken here",
        );
    }
    let key = one("sec-websocket-key")
        .map(<[u8]>::trim_ascii)
        .unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return refuse(400, "Sec-WebSocket-Key must be 16 bytes in base64, once");
    }
    if rules.local_origins_only && one("origin").is_some_and(|origin| !is_local(origin)) {
        return refuse(
            403,
            "with --dev, only web pages of this machine may connect",
        );
    }
    let (encoding, named) = subprotocol(request.headers)?;
    Ok(Some(Upgrade {
        head_bytes,
        encoding,
        accept: accept(key),
        named,
    }))
}

/// Refuses what another HTTP server or proxy may read differently than this one: then
/// the two do not agree where a request ends, whose it is, or which page it comes from.
fn unambiguous(head: &[u8], headers: &[httparse::Header<'_>]) -> Result<(), Refused> {
    if head
        .iter()
        .enumerate()
        .any(|(at, byte)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
    {
        return refuse(
            400,
            "a line of the request ends with a bare LF: end it with CRLF",
        );
    }
    let of = |name: &'static str| {
        headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    if of("transfer-encoding").next().is_some() {
        return refuse(
            400,
            "the request announces a body (Transfer-Encoding): send none",
        );
    }
    let mut lengths = of("content-length");
    if lengths.next().is_some_and(|length| length.value != b"0") || lengths.next().is_some() {
        return refuse(
            400,
            "the request announces a body (Content-Length): send none",
        );
    }
    if of("host").count() != 1 {
        return refuse(400, "the request needs one Host");
    }
    if of("origin").count() > 1 {
        return refuse(400, "the request has more than one Origin");
    }
    Ok(())
}

impl Upgrade {
    /// The answer that makes the connection a WebSocket.
    #[must_use]
    pub fn response(&self) -> String {
        let mut text = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            self.accept
        );
        if self.named {
            let name = name(self.encoding);
            write!(text, "Sec-WebSocket-Protocol: {name}\r\n").expect("a String takes it");
        }
        text.push_str("\r\n");
        text
    }
}

impl Refused {
    /// The answer before the connection closes.
    #[must_use]
    pub fn response(&self) -> String {
        let extra = match self.status {
            405 => "Allow: GET\r\n",
            426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            _ => "",
        };
        answer(
            self.status,
            extra,
            "text/plain; charset=utf-8",
            &format!("{}\n", self.message),
        )
    }
}

/// The answer when there is no place for another connection.
#[must_use]
pub fn no_place(retry_after_s: u32) -> String {
    let body = format!(
        "{{\"code\":607,\"retryable\":true,\"retryAfterMs\":{},\
         \"message\":\"TOO_MANY_CONNECTIONS: no place for another connection; try again later\"}}\n",
        u64::from(retry_after_s) * 1000
    );
    answer(
        503,
        &format!("Retry-After: {retry_after_s}\r\n"),
        "application/json",
        &body,
    )
}

fn answer(status: u16, extra: &str, kind: &str, body: &str) -> String {
    let phrase = match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    format!(
        "HTTP/1.1 {status} {phrase}\r\nConnection: close\r\n{extra}Content-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const fn refuse<T>(status: u16, message: &'static str) -> Result<T, Refused> {
    Err(Refused { status, message })
}

const fn name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Proto => "chat.v1.proto",
        Encoding::Json => "chat.v1.json",
    }
}

/// The client's first choice that is known here.
fn subprotocol(headers: &[httparse::Header<'_>]) -> Result<(Encoding, bool), Refused> {
    let mut offered = tokens(headers, "sec-websocket-protocol").peekable();
    if offered.peek().is_none() {
        return Ok((Encoding::Proto, false));
    }
    offered
        .find_map(|token| {
            [Encoding::Proto, Encoding::Json]
                .into_iter()
                .find(|encoding| name(*encoding).as_bytes() == token)
        })
        .map(|encoding| (encoding, true))
        .ok_or(Refused {
            status: 400,
            message: "offer the subprotocol chat.v1.proto or chat.v1.json",
        })
}

fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

fn tokens<'a>(
    headers: &'a [httparse::Header<'a>],
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn is_local(origin: &[u8]) -> bool {
    let Ok(origin) = std::str::from_utf8(origin) else {
        return false;
    };
    let Some((_, authority)) = origin.trim().split_once("://") else {
        return false;
    };
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split([':', '/']).next(),
    };
    matches!(host, Some("localhost" | "127.0.0.1" | "::1"))
}

/// What the RFC makes of a key: it shows that a WebSocket server answers.
fn accept(key: &[u8]) -> String {
    // SHA-1 is what the RFC names; nothing rests on its strength.
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

#[cfg(test)]
mod tests;
