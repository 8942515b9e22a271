//! What holds for every frame, and for every string of bytes.

use bytes::Bytes;
use chat_wire::{
    body::{self, SCHEME_GROUP_CHANGE, SCHEME_MESSAGE},
    codec::{Encoding, decode, encode, encode_events},
    event::{Event, Header, Kind},
    frame::{Body, EventBatch, Frame, GroupChange, Message},
    ids::{ConversationId, MsgId, UserId},
    limits,
};
use proptest::{collection::vec, prelude::*};

use crate::generator::{self, Enums, Tape};

const ENCODINGS: [Encoding; 2] = [Encoding::Proto, Encoding::Json];
const LIMIT: usize = limits::FRAME_BYTES as usize;

fn tape() -> impl Strategy<Value = Vec<u64>> {
    vec(any::<u64>(), 0..300)
}

fn event(tape: &mut Tape<'_>) -> Event {
    let change = tape.below(3) == 1;
    let (scheme, content) = if change {
        let content = generator::encoded::<GroupChange>(".chat.v1.GroupChange", tape);
        (SCHEME_GROUP_CHANGE, content)
    } else {
        let content = generator::encoded::<Message>(".chat.v1.Message", tape);
        (SCHEME_MESSAGE, content)
    };
    let header = Header {
        kind: if change {
            Kind::GroupChange
        } else {
            Kind::Message
        },
        flags: 0,
        msg_id: MsgId(tape.number().cast_signed() & i64::MAX),
        conversation: ConversationId(tape.number()),
        sender: UserId(tape.number()),
        group_seq: tape.number(),
        sender_name: tape.text().into(),
    };
    let inbox_seq = tape.number();
    let stored = body::seal(scheme, [7; 16], &content);
    Event::from_row(inbox_seq, &header.encode(), &stored).expect("written just now")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_frame_survives_both_encodings(numbers in tape()) {
        for kind in generator::kinds() {
            let frame = generator::frame(kind, &mut Tape::new(&numbers, Enums::Known));
            prop_assert!(frame.body.is_some());
            for encoding in ENCODINGS {
                let bytes = encode(encoding, &frame);
                let back = decode(encoding, &bytes, LIMIT);
                prop_assert_eq!(back.as_ref(), Ok(&frame), "{} {:?}", kind.name(), encoding);
                prop_assert_eq!(encode(encoding, &frame), bytes);
            }
        }
    }

    #[test]
    fn a_frame_with_enum_values_of_the_future_can_be_written_in_both_encodings(numbers in tape()) {
        for kind in generator::kinds() {
            let frame = generator::frame(kind, &mut Tape::new(&numbers, Enums::Any));
            for encoding in ENCODINGS {
                let bytes = encode(encoding, &frame);
                prop_assert!(decode(encoding, &bytes, LIMIT).is_ok(), "{}", kind.name());
            }
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..600)) {
        let bytes = Bytes::from(bytes);
        for encoding in ENCODINGS {
            // Bytes may happen to be a frame; then it can be written again.
            if let Ok(frame) = decode(encoding, &bytes, LIMIT) {
                prop_assert!(decode(encoding, &encode(encoding, &frame), LIMIT).is_ok());
            }
        }
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(), &bytes);
        }
        if let Ok(body) = body::open(&bytes) {
            prop_assert_eq!(body.content.len() + body::HEADER_BYTES, bytes.len());
        }
    }

    #[test]
    fn no_damaged_frame_makes_a_decoder_panic(
        numbers in tape(),
        kind in any::<prop::sample::Index>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let kinds = generator::kinds();
        let frame = generator::frame(kinds[kind.index(kinds.len())], &mut Tape::new(&numbers, Enums::Known));
        for encoding in ENCODINGS {
            let mut bytes = encode(encoding, &frame).to_vec();
            for (at, byte, how) in &damage {
                let at = at.index(bytes.len() + 1);
                match how {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, *byte),
                    2 if at < bytes.len() => {
                        bytes.remove(at);
                    }
                    _ if at < bytes.len() => bytes[at] ^= byte,
                    _ => {}
                }
            }
            if let Ok(frame) = decode(encoding, &bytes.into(), LIMIT) {
                prop_assert!(decode(encoding, &encode(encoding, &frame), LIMIT).is_ok());
            }
        }
    }

    #[test]
    fn no_text_of_jsons_alphabet_makes_the_decoder_panic(
        parts in vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "d800", "1e999", "-", "null", "true",
            "\"req\"", "\"send\"", "\"event\"", "\"events\"", "\"content\"", "\"text\"", "\"x\"", "0",
        ]), 0..60)
    ) {
        let text = Bytes::from(parts.concat());
        if let Ok(frame) = decode(Encoding::Json, &text, LIMIT) {
            prop_assert!(decode(Encoding::Json, &encode(Encoding::Json, &frame), LIMIT).is_ok());
        }
    }

    #[test]
    fn stored_events_become_the_same_bytes_as_decoded_ones(
        tapes in vec(tape(), 0..6)
    ) {
        let events: Vec<Event> = tapes
            .iter()
            .map(|numbers| event(&mut Tape::new(numbers, Enums::Known)))
            .collect();
        let decoded: Frame = Body::Event(EventBatch {
            events: events.iter().map(|e| e.to_frame().expect("its own format")).collect(),
        })
        .into();
        for encoding in ENCODINGS {
            let bytes = encode_events(encoding, &events).expect("their own format");
            prop_assert_eq!(&bytes, &encode(encoding, &decoded));
            prop_assert_eq!(decode(encoding, &bytes, LIMIT), Ok(decoded.clone()));
        }
        for (event, decoded) in events.iter().zip(match &decoded.body {
            Some(Body::Event(batch)) => batch.events.iter(),
            _ => unreachable!("it was made one"),
        }) {
            prop_assert_eq!(event.proto_len(), prost::Message::encoded_len(decoded));
        }
    }

    #[test]
    fn every_stored_event_reads_back_and_no_cut_of_it_does(numbers in tape()) {
        let event = event(&mut Tape::new(&numbers, Enums::Known));
        let header = event.header.encode();
        prop_assert_eq!(&Header::decode(&header).expect("written just now"), &event.header);
        for cut in 0..header.len() {
            prop_assert!(Header::decode(&header.slice(..cut)).is_err());
        }
        let longer = Bytes::from([&header[..], &[0]].concat());
        prop_assert!(Header::decode(&longer).is_err());
    }

    #[test]
    fn unknown_fields_are_ignored_wherever_they_stand(numbers in tape()) {
        for kind in generator::kinds() {
            let frame = generator::frame(kind, &mut Tape::new(&numbers, Enums::Known));

            let mut proto = encode(Encoding::Proto, &frame).to_vec();
            proto.extend_from_slice(&[0x82, 0x7d, 3, b'n', b'e', b'w']); // field 2000, bytes
            prop_assert_eq!(decode(Encoding::Proto, &proto.into(), LIMIT), Ok(frame.clone()));

            let mut json: serde_json::Value =
                serde_json::from_slice(&encode(Encoding::Json, &frame)).expect("JSON");
            add_unknown(&mut json);
            let json = Bytes::from(json.to_string());
            prop_assert_eq!(decode(Encoding::Json, &json, LIMIT), Ok(frame));
        }
    }
}

fn add_unknown(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(object) => {
            object.values_mut().for_each(add_unknown);
            object.insert(
                "fieldOfTomorrow".into(),
                serde_json::json!({"a": [1, null]}),
            );
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(add_unknown),
        _ => {}
    }
}
