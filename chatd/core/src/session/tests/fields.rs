//! Fields of requests that are wrong.

use super::*;

/// Fields that are wrong, each in a message that is good otherwise.
fn bad_sends(node: &mut Node) -> Vec<(frame::Send, Code)> {
    use frame::content::Kind;
    let good = Node::send_of(node.id(), bob(), "x");
    let to = |to, text: &str| frame::Send {
        to: Some(frame::Target { to: Some(to) }),
        ..Node::send_of(
            ClientId::from_slice(&good.client_msg_id).unwrap(),
            bob(),
            text,
        )
    };
    let content = |kind| frame::Send {
        content: Some(frame::Content { kind: Some(kind) }),
        ..good.clone()
    };
    let custom = frame::Custom {
        r#type: String::new(),
        data: "x".into(),
    };
    let media = frame::MediaReference {
        url: "https://x".into(),
        blake3: "short".into(),
        ..frame::MediaReference::default()
    };
    let system = frame::SystemText { text: "x".into() };
    let mut future = good.client_msg_id.to_vec();
    let ahead = node.now.unix_ms + 10 * 60 * 1000 + 2000;
    future[..6].copy_from_slice(&ahead.to_be_bytes()[2..]);
    let id = |client_msg_id: Bytes| frame::Send {
        client_msg_id,
        ..good.clone()
    };
    let long = "x".repeat(65_536);
    vec![
        (id("x".into()), Code::InvalidArgument),
        (id(vec![0; 16].into()), Code::InvalidArgument),
        (id(future.into()), Code::ExpiredId),
        (
            frame::Send {
                to: None,
                ..good.clone()
            },
            Code::InvalidArgument,
        ),
        (to(To::User(0), "x"), Code::InvalidArgument),
        (to(To::User(1 << 63 | 5), "x"), Code::NotFound),
        (to(To::Group(0), "x"), Code::InvalidArgument),
        (to(To::Group(5), "x"), Code::NotFound),
        (to(To::Name("b\nb".into()), "x"), Code::InvalidArgument),
        (to(To::Name("b".repeat(129)), "x"), Code::InvalidArgument),
        (to(bob(), ""), Code::EmptyContent),
        (
            frame::Send {
                content: None,
                ..good.clone()
            },
            Code::EmptyContent,
        ),
        (to(bob(), &long), Code::ContentTooLarge),
        (
            frame::Send {
                after: -1,
                ..good.clone()
            },
            Code::OutOfRange,
        ),
        (
            frame::Send {
                reply_to: i64::MIN,
                ..good.clone()
            },
            Code::OutOfRange,
        ),
        (
            frame::Send {
                mentions: vec![1; 101],
                ..good.clone()
            },
            Code::LimitExceeded,
        ),
        (
            frame::Send {
                mentions: vec![0],
                ..good.clone()
            },
            Code::InvalidArgument,
        ),
        (
            frame::Send {
                abandons: "x".into(),
                ..good.clone()
            },
            Code::InvalidArgument,
        ),
        (content(Kind::System(system)), Code::Unsupported),
        (content(Kind::Custom(custom)), Code::InvalidArgument),
        (content(Kind::Media(media)), Code::InvalidArgument),
    ]
}

#[test]
fn every_bad_field_has_its_error_and_nothing_is_sent() {
    let mut node = Node::new(2, 1);
    let ann = node.attach("ann", 1, None);
    let cases = bad_sends(&mut node);
    for (at, (send, code)) in cases.into_iter().enumerate() {
        let req = u32::try_from(at).unwrap() + 1;
        node.frame(ann, req, Body::Send(send));
        assert_eq!(node.wait_error(ann, req), code, "case {at}");
    }
    let page = frame::HistoryGet {
        conversation: 5,
        from: Some(frame::history_get::From::Before(-4)),
        limit: 1,
    };
    node.frame(ann, 90, Body::History(page));
    assert_eq!(node.wait_error(ann, 90), Code::OutOfRange);
    node.frame(ann, 91, Body::GroupGet(frame::GroupGet { group: 5 }));
    assert_eq!(node.wait_error(ann, 91), Code::NotFound);
    let mark = frame::Mark {
        conversation: 5,
        seen_up_to: -1,
    };
    node.frame(ann, 92, Body::Mark(mark));
    assert_eq!(node.wait_error(ann, 92), Code::OutOfRange);
    let many = frame::PresenceSubscribe {
        users: (1..=1001).collect(),
    };
    node.frame(ann, 93, Body::PresenceSubscribe(many));
    assert_eq!(node.wait_error(ann, 93), Code::LimitExceeded);
    node.frame(ann, 94, Body::GroupCreate(frame::GroupCreate::default()));
    assert_eq!(node.wait_error(ann, 94), Code::InvalidArgument);
    let bobs = node.attach("bob", 1, Node::resume_from(0));
    node.run(500);
    assert_eq!(node.events(bobs), []);
}
