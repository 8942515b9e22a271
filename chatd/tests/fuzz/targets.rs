//! What has to hold for any bytes.

use bytes::Bytes;
use chat_wire::{
    codec::{self, Encoding},
    error::Code,
};
use chatd::edge::websocket::{
    codec::{Decoder, Item, Violation},
    upgrade::{self, Rules},
};

/// Bytes of a message or frame in these targets: small, so that limits are met.
const LIMIT: usize = 4_096;

/// Whole, byte by byte and in two halves, the same comes out, and never more than went in.
pub(crate) fn websocket(bytes: &[u8]) {
    let whole = websocket_in(bytes, bytes.len().max(1));
    for cut in [1, bytes.len() / 2 + 1] {
        assert_eq!(websocket_in(bytes, cut), whole, "cut at {cut}");
    }
    let (items, _) = whole;
    let held: usize = items
        .iter()
        .map(|item| match item {
            Item::Text(bytes) | Item::Binary(bytes) | Item::Ping(bytes) => bytes.len(),
            Item::Pong | Item::Close(_) => 0,
        })
        .sum();
    assert!(held <= bytes.len());
    for item in &items {
        match item {
            Item::Text(text) => assert!(std::str::from_utf8(text).is_ok() && text.len() <= LIMIT),
            Item::Binary(bytes) => assert!(bytes.len() <= LIMIT),
            Item::Ping(payload) => assert!(payload.len() <= 125),
            Item::Pong | Item::Close(_) => {}
        }
    }
}

fn websocket_in(bytes: &[u8], cut: usize) -> (Vec<Item>, Option<Violation>) {
    let mut decoder = Decoder::new(LIMIT);
    let mut items = Vec::new();
    for part in bytes.chunks(cut) {
        if let Err(violation) = decoder.feed(part, &mut items) {
            return (items, Some(violation));
        }
        // Nothing may be fed behind a close.
        if matches!(items.last(), Some(Item::Close(_))) {
            break;
        }
    }
    (items, None)
}

/// A head is accepted as soon as it is complete and not before; what is accepted is read
/// in one way only.
pub(crate) fn upgrade(bytes: &[u8]) {
    for rules in [true, false].map(|local_origins_only| Rules { local_origins_only }) {
        match upgrade::parse(bytes, rules) {
            Ok(Some(accepted)) => {
                let head = &bytes[..accepted.head_bytes];
                assert!(head.ends_with(b"\r\n\r\n") && head.len() <= upgrade::HEAD_BYTES);
                assert!(accepted.response().starts_with("HTTP/1.1 101 "));
                assert_eq!(
                    upgrade::parse(head, rules),
                    Ok(Some(accepted)),
                    "what follows the head does not count"
                );
                assert_eq!(upgrade::parse(&head[..head.len() - 1], rules), Ok(None));
                one_way_only(head);
            }
            Ok(None) => assert!(bytes.len() < upgrade::HEAD_BYTES),
            Err(refused) => {
                let response = refused.response();
                assert!(response.starts_with(&format!("HTTP/1.1 {} ", refused.status)));
                assert!(response.contains("Connection: close\r\n"));
            }
        }
    }
}

/// Read by hand, and not by the parser that the server uses.
fn one_way_only(head: &[u8]) {
    let mut names = Vec::new();
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            names.push(line[..colon].to_ascii_lowercase());
        }
    }
    let count = |name: &str| {
        names
            .iter()
            .filter(|found| **found == name.as_bytes())
            .count()
    };
    let bare = head
        .windows(2)
        .any(|pair| pair[1] == b'\n' && pair[0] != b'\r');
    assert!(!bare, "a bare LF");
    assert_eq!((count("host"), count("transfer-encoding")), (1, 0));
    assert!(count("origin") <= 1 && count("content-length") <= 1);
    assert_eq!(count("sec-websocket-key"), 1);
}

/// A frame that is read is written and read again as the same.
pub(crate) fn protobuf(bytes: &[u8]) {
    frame(Encoding::Proto, bytes);
}

/// See [`protobuf`].
pub(crate) fn json(bytes: &[u8]) {
    frame(Encoding::Json, bytes);
}

fn frame(encoding: Encoding, bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    match codec::decode(encoding, &bytes, LIMIT) {
        Ok(frame) => {
            assert!(bytes.len() <= LIMIT);
            let written = codec::encode(Encoding::Proto, &frame);
            let again = codec::decode(Encoding::Proto, &written, usize::MAX);
            assert_eq!(again.as_ref(), Ok(&frame));
            // JSON has no names for values that this version does not know, so what it
            // says is the same from the second time on.
            let written = codec::encode(Encoding::Json, &frame);
            let again = codec::decode(Encoding::Json, &written, usize::MAX).unwrap();
            assert_eq!(codec::encode(Encoding::Json, &again), written, "{frame:?}");
        }
        Err(refusal) => {
            let expected = if bytes.len() > LIMIT {
                Code::FrameTooLarge
            } else {
                Code::Malformed
            };
            assert_eq!(refusal.code, expected, "{refusal}");
            assert!(!refusal.message.is_empty() && refusal.message.len() < 1_024);
        }
    }
}
