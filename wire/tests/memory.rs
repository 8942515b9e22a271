//! What a hostile frame can cost in memory: measured, in a process of its own.
//!
//! The figure is all that a decoder ever allocated for a frame, freed or not, so it
//! is an upper bound of what it held at once.

use std::alloc::System;

use bytes::Bytes;
use chat_wire::{
    codec::{Encoding, decode},
    error::Code,
    limits,
};
use prost::encoding::encode_varint;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LIMIT: usize = limits::FRAME_BYTES as usize;
/// Bytes allocated for a byte of the frame limit, at worst. A text in an EVENT is
/// copied once, a vector is copied while it grows, an element of FRAME_FIELDS takes
/// some 330 bytes.
const FACTOR: usize = 12;

/// Allocated bytes, and whether it was a frame.
fn cost(encoding: Encoding, bytes: Vec<u8>) -> (usize, Result<(), Code>) {
    let bytes = Bytes::from(bytes);
    let region = Region::new(ALLOCATOR);
    let result = decode(encoding, &bytes, LIMIT);
    let allocated = region.change().bytes_allocated;
    (allocated, result.map(drop).map_err(|refusal| refusal.code))
}

/// `inner` as the field `number` of a message.
fn field(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_varint(u64::from(number) << 3 | 2, &mut out);
    encode_varint(inner.len() as u64, &mut out);
    out.extend_from_slice(inner);
    out
}

/// A page of conversations with as many empty elements as `bytes` holds.
fn flood(bytes: usize) -> Vec<u8> {
    field(29, &[0x0a, 0x00].repeat(bytes / 2 - 8))
}

/// What an attacker would send: name, encoding, bytes.
type Attack = (&'static str, Encoding, Vec<u8>);

fn attacks() -> Vec<Attack> {
    let filled = |open: &str, element: &str, close: &str, count: usize| {
        format!("{open}{}{close}", vec![element; count].join(",")).into_bytes()
    };
    let most = limits::FRAME_FIELDS;
    vec![
        (
            "conversations, within the fields",
            Encoding::Proto,
            flood(2 * most),
        ),
        (
            "conversations, to the frame's end",
            Encoding::Proto,
            flood(LIMIT),
        ),
        (
            "names",
            Encoding::Proto,
            field(32, &[0x1a, 0x00].repeat(most - 2)),
        ),
        (
            "names to the end",
            Encoding::Proto,
            field(32, &[0x1a, 0x00].repeat(LIMIT / 2 - 8)),
        ),
        (
            "packed ids",
            Encoding::Proto,
            field(48, &field(1, &vec![1; LIMIT / 8 * 8 - 16])),
        ),
        (
            "a text",
            Encoding::Proto,
            field(16, &field(5, &field(1, &vec![b'x'; LIMIT - 16]))),
        ),
        (
            "a length without bytes",
            Encoding::Proto,
            vec![0x82, 0x01, 0xff, 0xff, 0xff, 0x7f],
        ),
        ("groups", Encoding::Proto, vec![0x0b; LIMIT]),
        (
            "nested messages",
            Encoding::Proto,
            (0..5000).fold(Vec::new(), |inner, _| field(1, &inner)),
        ),
        (
            "conversations in JSON, within the fields",
            Encoding::Json,
            filled(
                r#"{"conversationsPage":{"conversations":["#,
                "{}",
                "]}}",
                most / 2 - 4,
            ),
        ),
        (
            "conversations in JSON, to the end",
            Encoding::Json,
            filled(
                r#"{"conversationsPage":{"conversations":["#,
                "{}",
                "]}}",
                LIMIT / 3 - 30,
            ),
        ),
        (
            "names in JSON",
            Encoding::Json,
            filled(r#"{"groupCreate":{"members":["#, r#""""#, "]}}", most - 4),
        ),
        (
            "ids in JSON",
            Encoding::Json,
            filled(r#"{"presenceSubscribe":{"users":["#, "1", "]}}", most - 4),
        ),
        (
            "escapes in JSON",
            Encoding::Json,
            format!(
                r#"{{"send":{{"content":{{"text":"{}"}}}}}}"#,
                "\\u00e9".repeat(LIMIT / 6 - 20)
            )
            .into_bytes(),
        ),
        (
            "unknown fields in JSON",
            Encoding::Json,
            format!(r#"{{"x":[{}]}}"#, vec!["{}"; most / 2 - 4].join(",")).into_bytes(),
        ),
        ("brackets", Encoding::Json, vec![b'['; LIMIT]),
        ("objects", Encoding::Json, br#"{"a":"#.repeat(LIMIT / 5)),
    ]
}

// One test: another thread's allocations would be counted too.
#[test]
fn no_frame_within_the_limit_costs_more_than_a_small_multiple_of_it() {
    let mut refused = 0;
    for (name, encoding, bytes) in attacks() {
        assert!(bytes.len() <= LIMIT, "{name} has {} bytes", bytes.len());
        let (allocated, result) = cost(encoding, bytes);
        println!("{allocated:>9} bytes for {name} ({encoding:?}): {result:?}");
        assert!(allocated <= FACTOR * LIMIT, "{name}: {allocated} bytes");
        refused += usize::from(result.is_err());
    }
    assert_eq!(
        refused, 8,
        "what exceeds a bound is refused, what does not is read"
    );
    // A frame over the limit costs its refusal.
    let (allocated, result) = cost(Encoding::Proto, vec![0; LIMIT + 1]);
    assert_eq!(result, Err(Code::FrameTooLarge));
    assert!(allocated < 1024);
}
