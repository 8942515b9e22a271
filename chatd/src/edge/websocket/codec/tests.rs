use super::*;
use proptest::prelude::*;

const LIMIT: usize = 100_000;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame, with every bit to choose.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = FIN | 8;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 10;

fn decode(parts: &[Vec<u8>]) -> Result<Vec<Item>, Violation> {
    let mut decoder = Decoder::new(LIMIT);
    let mut items = Vec::new();
    decoder.feed(&parts.concat(), &mut items).map(|()| items)
}

fn protocol(parts: &[Vec<u8>]) -> bool {
    matches!(decode(parts), Err(violation) if violation.code() == 1002)
}

#[test]
fn a_client_must_mask() {
    assert!(protocol(&[vec![FIN | BINARY, 1, 7]]));
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        assert!(protocol(&[frame(FIN | bit | BINARY, b"x")]));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert!(protocol(&[frame(FIN | opcode, b"x")]), "opcode {opcode}");
    }
}

#[test]
fn a_length_must_be_written_in_its_shortest_form() {
    let mut long = vec![FIN | BINARY, 0x80 | 126, 0, 5];
    long.extend_from_slice(&MASK);
    assert!(protocol(&[long]));
    let mut longer = vec![FIN | BINARY, 0x80 | 127];
    longer.extend_from_slice(&300u64.to_be_bytes());
    longer.extend_from_slice(&MASK);
    assert!(protocol(&[longer]));
}

#[test]
fn fragments_join_with_control_frames_between_them() {
    let parts = [
        frame(TEXT, "hé".as_bytes()),
        frame(PING, b"are you there"),
        frame(0, b"ll"),
        frame(PONG, b""),
        frame(FIN, b"o"),
        frame(FIN | BINARY, b"next"),
    ];
    let expected = vec![
        Item::Ping(Bytes::from_static(b"are you there")),
        Item::Pong,
        Item::Text("héllo".into()),
        Item::Binary(Bytes::from_static(b"next")),
    ];
    assert_eq!(decode(&parts), Ok(expected));
}

#[test]
fn fragments_out_of_place_are_refused() {
    assert!(protocol(&[frame(FIN, b"of nothing")]));
    assert!(protocol(&[frame(BINARY, b"a"), frame(FIN | BINARY, b"b")]));
}

#[test]
fn control_frames_are_short_and_whole() {
    assert_eq!(
        decode(&[frame(PING, &[1; 125])]),
        Ok(vec![Item::Ping(vec![1; 125].into())])
    );
    assert!(protocol(&[frame(PING, &[1; 126])]));
    assert!(protocol(&[frame(9, b"x")]));
    assert!(protocol(&[frame(8, b"")]));
}

#[test]
fn a_message_beyond_the_limit_is_refused_by_its_header_or_its_sum() {
    assert_eq!(
        decode(&[frame(FIN | BINARY, &vec![0; LIMIT + 1])]),
        Err(Violation::TooLong { limit: LIMIT })
    );
    assert!(decode(&[frame(FIN | BINARY, &vec![0; LIMIT])]).is_ok());
    let parts = [frame(BINARY, &vec![0; LIMIT]), frame(FIN, b"x")];
    assert_eq!(decode(&parts), Err(Violation::TooLong { limit: LIMIT }));
    let mut endless = vec![FIN | BINARY, 0x80 | 127];
    endless.extend_from_slice(&u64::MAX.to_be_bytes());
    endless.extend_from_slice(&MASK);
    assert_eq!(decode(&[endless]).unwrap_err().code(), 1009);
}

#[test]
fn text_must_be_utf8_and_is_refused_where_it_breaks() {
    assert_eq!(
        decode(&[frame(FIN | TEXT, b"\xff")]),
        Err(Violation::NotUtf8)
    );
    assert_eq!(
        decode(&[frame(FIN | TEXT, b"\xed\xa0\x80")]),
        Err(Violation::NotUtf8)
    );
    // A character may be cut by a fragment, but not by the end.
    assert_eq!(
        decode(&[frame(TEXT, b"\xf0\x9f"), frame(FIN, b"\x98\x80")]),
        Ok(vec![Item::Text("😀".into())])
    );
    assert_eq!(
        decode(&[frame(FIN | TEXT, b"\xf0\x9f\x98")]),
        Err(Violation::NotUtf8)
    );
    // Before the rest of the message has come.
    assert_eq!(
        decode(&[frame(TEXT, b"ok \xc0\xaf")]),
        Err(Violation::NotUtf8)
    );
    // Bytes may be anything.
    assert!(decode(&[frame(FIN | BINARY, b"\xff")]).is_ok());
}

#[test]
fn close_codes_are_checked() {
    let close =
        |code: u16, reason: &[u8]| frame(CLOSE, &[&code.to_be_bytes()[..], reason].concat());
    for code in [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999] {
        assert_eq!(
            decode(&[close(code, b"bye")]),
            Ok(vec![Item::Close(Some(code))])
        );
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 2000, 2999, 5000, 65535] {
        assert!(protocol(&[close(code, b"")]), "code {code}");
    }
    assert_eq!(decode(&[frame(CLOSE, b"")]), Ok(vec![Item::Close(None)]));
    assert!(protocol(&[frame(CLOSE, b"\x03")]));
    assert_eq!(decode(&[close(1000, b"\xff")]), Err(Violation::NotUtf8));
}

#[test]
fn nothing_is_read_behind_a_close() {
    let parts = [frame(CLOSE, b""), frame(FIN | BINARY, b"too late")];
    assert_eq!(decode(&parts), Ok(vec![Item::Close(None)]));
}

#[test]
fn a_promised_length_allocates_nothing_before_it_comes() {
    let mut decoder = Decoder::new(1 << 30);
    let mut header = vec![FIN | BINARY, 0x80 | 127];
    header.extend_from_slice(&(1u64 << 29).to_be_bytes());
    header.extend_from_slice(&MASK);
    header.extend_from_slice(b"drip");
    decoder.feed(&header, &mut Vec::new()).unwrap();
    let partial = decoder.partial.as_ref().unwrap();
    assert!(partial.message.as_ref().unwrap().bytes.capacity() < 64);
}

#[test]
fn a_close_reason_is_cut_between_characters() {
    let mut out = Vec::new();
    encode_close(4101, &"é".repeat(200), &mut out);
    assert_eq!(out[0], CLOSE);
    assert!(usize::from(out[1]) <= CONTROL_BYTES);
    assert!(std::str::from_utf8(&out[4..]).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// However a stream is cut into reads, the same messages come out, and nothing is
    /// held afterwards.
    #[test]
    fn any_cut_of_the_bytes_gives_the_same_messages(
        messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..70_000), 1usize..4), 1..4),
        cuts in prop::collection::vec(1usize..5_000, 1..40),
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (text, bytes, fragments) in &messages {
            let bytes = if *text {
                String::from_utf8_lossy(bytes).chars().take(20_000).collect::<String>().into_bytes()
            } else {
                bytes.clone()
            };
            let size = bytes.len().div_ceil(*fragments).max(1);
            let parts: Vec<&[u8]> = if bytes.is_empty() { vec![&[]] } else { bytes.chunks(size).collect() };
            for (at, part) in parts.iter().enumerate() {
                let opcode = if at > 0 { 0 } else if *text { TEXT } else { BINARY };
                let fin = if at + 1 == parts.len() { FIN } else { 0 };
                stream.extend(frame(fin | opcode, part));
                stream.extend(frame(PING, b"?"));
                if fin == 0 {
                    expected.push(Item::Ping(Bytes::from_static(b"?")));
                }
            }
            let bytes = Bytes::from(bytes);
            expected.push(if *text { Item::Text(bytes) } else { Item::Binary(bytes) });
            expected.push(Item::Ping(Bytes::from_static(b"?")));
        }
        let mut decoder = Decoder::new(LIMIT);
        let mut items = Vec::new();
        let mut cuts = cuts.iter().cycle();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            decoder.feed(now, &mut items).unwrap();
            rest = later;
        }
        prop_assert_eq!(items, expected);
        prop_assert!(decoder.is_idle());
    }

    /// No bytes make it panic.
    #[test]
    fn any_bytes_are_messages_or_a_violation(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let mut items = Vec::new();
        let result = Decoder::new(1_000).feed(&bytes, &mut items);
        prop_assert!(result.is_ok() || result.unwrap_err().code() >= 1002);
        let bounded = items.iter().all(|item| match item {
            Item::Text(bytes) | Item::Binary(bytes) => bytes.len() <= 1_000,
            Item::Ping(bytes) => bytes.len() <= CONTROL_BYTES,
            _ => true,
        });
        prop_assert!(bounded);
    }
}
