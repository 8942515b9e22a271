use super::*;
use crate::{
    body,
    event::{Header, Kind},
    frame,
    ids::{ConversationId, MsgId, ShardId, UserId},
};

fn stored_event() -> Event {
    let message = frame::Message {
        content: Some(frame::Content {
            kind: Some(frame::content::Kind::Text("hi".into())),
        }),
        ..Default::default()
    };
    let header = Header {
        kind: Kind::Message,
        flags: 0,
        msg_id: MsgId::new(77, ShardId(3), 1),
        conversation: ConversationId(8),
        sender: UserId(8),
        group_seq: 0,
        sender_name: Bytes::from_static(b"bob"),
    };
    let stored = body::seal(body::SCHEME_MESSAGE, [3; 16], &message.encode_to_vec());
    Event::from_row(12, &header.encode(), &stored).unwrap()
}

#[test]
fn events_written_without_decoding_equal_those_written_by_prost() {
    let events = vec![stored_event(), stored_event()];
    let expected: Frame = Body::Event(EventBatch {
        events: events.iter().map(|e| e.to_frame().unwrap()).collect(),
    })
    .into();
    for encoding in [Encoding::Proto, Encoding::Json] {
        let bytes = encode_events(encoding, &events).unwrap();
        assert_eq!(bytes, encode(encoding, &expected));
        assert_eq!(decode(encoding, &bytes, usize::MAX).unwrap(), expected);
    }
}

#[test]
fn a_frame_of_the_future_is_no_error_of_the_codec() {
    let json = Bytes::from_static(br#"{"req": 4, "teleport": {"x": 1}}"#);
    let frame = decode(Encoding::Json, &json, 1000).unwrap();
    assert_eq!((frame.req, frame.body), (4, None));
}

#[test]
fn a_refusal_of_json_never_quotes_what_was_sent() {
    for text in [
        r#"{"hello":{"token":"SECRET","device":true}}"#,
        r#"{"hello":{"minVersion":"SECRET"}}"#,
        r#"{"hello":"SECRET"}"#,
        r#"{"credit":{"lane":"SECRET, expected SECRET"}}"#,
        r#"{"send":{"clientMsgId":"SECRET!"}}"#,
        r#"{"reauth":{"token":"a","token":"SECRET"}}"#,
        r#"{"hello":{"token":"SECRET"}} SECRET"#,
        r#""SECRET""#,
    ] {
        let refusal = decode(Encoding::Json, &Bytes::from(text), 1000).unwrap_err();
        assert_eq!(refusal.code, Code::Malformed);
        assert!(!refusal.message.contains("SECRET"), "{refusal}");
    }
}

#[test]
fn a_frame_longer_than_the_limit_is_refused_before_it_is_read() {
    let frame = Bytes::from(vec![b'['; 101]);
    let refusal = decode(Encoding::Json, &frame, 100).unwrap_err();
    assert_eq!(refusal.code, Code::FrameTooLarge);
}

#[test]
fn an_enum_value_of_a_later_version_has_a_json_form() {
    let change = frame::GroupChange {
        kind: 99,
        members: vec![frame::Member {
            role: 77,
            ..Default::default()
        }],
        name: "g".into(),
    };
    let event = frame::Event {
        what: Some(frame::event::What::GroupChange(change)),
        ..Default::default()
    };
    let frame = Body::Event(EventBatch {
        events: vec![event],
    })
    .into();
    let json = encode(Encoding::Json, &frame);
    assert_eq!(
        std::str::from_utf8(&json).unwrap(),
        r#"{"event":{"events":[{"groupChange":{"members":[{}],"name":"g"}}]}}"#
    );
}
