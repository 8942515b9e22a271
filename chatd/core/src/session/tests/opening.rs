//! HELLO, tokens and REAUTH.

use super::*;

/// What a session that sends only this first is closed with.
fn closed_by(hello: frame::Hello) -> Option<Code> {
    let mut node = Node::new(2, 1);
    let session = node.open(Encoding::Proto);
    node.frame(session, 0, Body::Hello(hello));
    node.run(10);
    node.closed(session)
}

#[test]
fn hello_must_come_first() {
    let mut node = Node::new(2, 1);
    let session = node.open(Encoding::Proto);
    node.frame(session, 1, Body::Ping(frame::Ping {}));
    assert_eq!(node.closed(session), Some(Code::UnexpectedFrame));
}

#[test]
fn hello_twice_is_unexpected() {
    let mut node = Node::new(2, 1);
    let session = node.attach("ann", 1, None);
    node.frame(session, 0, Body::Hello(Node::hello("ann", 1, None)));
    assert_eq!(node.closed(session), Some(Code::UnexpectedFrame));
    // And at once, before WELCOME.
    let session = node.open(Encoding::Proto);
    node.frame(session, 0, Body::Hello(Node::hello("ann", 1, None)));
    node.frame(session, 0, Body::Hello(Node::hello("ann", 1, None)));
    assert_eq!(node.closed(session), Some(Code::UnexpectedFrame));
}

#[test]
fn hello_that_is_late_or_missing_ends_the_session() {
    let mut node = Node::new(2, 1);
    let session = node.open(Encoding::Proto);
    node.run(HELLO_TIMEOUT_MS - 1);
    assert_eq!(node.closed(session), None);
    node.run(2);
    assert_eq!(node.closed(session), Some(Code::HelloTimeout));
    node.frame(session, 0, Body::Hello(Node::hello("ann", 1, None)));
    assert_eq!(node.frames(session).count(), 1);
}

/// A session alone: what its node would do is done by hand.
fn alone() -> Session {
    let map = Arc::new(ShardMap::even(1));
    let settings = Arc::new(SessionSettings::new(Limits::default(), [1; 32]));
    Session::new(settings, SessionId(1), Encoding::Proto, map, [2; 32], at(0))
}

fn at(mono_ms: u64) -> Now {
    Now {
        mono_ms,
        unix_ms: 1_800_000_000_000 + mono_ms,
    }
}

#[test]
fn a_slow_upgrade_got_another_five_seconds_for_hello() {
    let mut session = alone().hello_by(700);
    assert_eq!(session.deadline_ms(), Some(700));
    let mut out = Vec::new();
    session.step(at(700), Input::Tick, &mut out);
    assert!(matches!(out.last(), Some(Output::Close(Some(why))) if why.code == Code::HelloTimeout));
}

#[test]
fn waiting_for_the_login_queue_was_counted_as_the_clients_time() {
    let mut session = alone().hello_by(5_000);
    let mut out = Vec::new();
    let hello = Frame::new(0, Body::Hello(Node::hello("ann", 1, None)));
    session.step(at(4_900), Input::Frame(hello), &mut out);
    assert!(matches!(out.last(), Some(Output::Authenticate(_))));
    out.clear();
    session.step(at(9_000), Input::Tick, &mut out);
    assert!(out.is_empty(), "the server takes its time: {out:?}");
    assert_eq!(session.deadline_ms(), Some(14_900));
    session.step(at(14_900), Input::Tick, &mut out);
    assert!(matches!(out.last(), Some(Output::Close(Some(why))) if why.code == Code::Unavailable));
}

#[test]
fn a_version_that_this_server_does_not_speak_is_refused() {
    let versions = |min_version, max_version| frame::Hello {
        min_version,
        max_version,
        ..Node::hello("ann", 1, None)
    };
    assert_eq!(closed_by(versions(2, 9)), Some(Code::Unsupported));
    assert_eq!(closed_by(versions(0, 0)), Some(Code::Unsupported));
    assert_eq!(closed_by(versions(0, 7)), None);
}

#[test]
fn a_device_needs_a_number_and_is_the_one_of_its_token() {
    let of = |token: &str, device| frame::Hello {
        token: token.into(),
        ..Node::hello("", device, None)
    };
    assert_eq!(closed_by(of("default/ann", 0)), Some(Code::InvalidArgument));
    assert_eq!(closed_by(of("default/ann#5", 6)), Some(Code::NotAllowed));
    assert_eq!(closed_by(of("default/ann#5", 5)), None);
    assert_eq!(closed_by(of("default/ann#5", 0)), None);
}

#[test]
fn a_token_that_is_missing_unknown_or_too_long_ends_the_session() {
    let with = |token: String| frame::Hello {
        token,
        ..Node::hello("ann", 1, None)
    };
    for token in [String::new(), "forged".into(), "x".repeat(9000)] {
        let mut node = Node::new(2, 1);
        let session = node.open(Encoding::Proto);
        node.frame(session, 0, Body::Hello(with(token.clone())));
        assert_eq!(node.closed(session), Some(Code::BadToken));
        let said = format!("{:?}", node.frames(session).collect::<Vec<_>>());
        assert!(
            token.is_empty() || !said.contains(&token),
            "the token is echoed"
        );
    }
    assert_eq!(
        closed_by(with("default/ann!1".into())),
        Some(Code::TokenExpired)
    );
}

#[test]
fn a_token_that_ends_is_announced_and_then_ends_the_session() {
    let mut node = Node::new(2, 1);
    let session = node.open(Encoding::Proto);
    let hello = frame::Hello {
        token: "default/ann!90000".into(),
        ..Node::hello("", 1, None)
    };
    node.frame(session, 0, Body::Hello(hello));
    let told = |node: &Node| {
        node.find(session, |frame| match &frame.body {
            Some(Body::TokenExpiring(expiring)) => Some(expiring.in_ms),
            _ => None,
        })
    };
    node.run(29_000);
    assert_eq!(told(&node), None);
    node.run_until(2_000, |node| told(node).is_some());
    assert!(told(&node).unwrap() <= 60_000);
    node.run(61_000);
    assert_eq!(node.closed(session), Some(Code::TokenExpired));
}

#[test]
fn reauth_keeps_the_session_of_the_same_identity_only() {
    let mut node = Node::new(2, 1);
    let session = node.open(Encoding::Proto);
    let hello = frame::Hello {
        token: "default/ann!20000".into(),
        ..Node::hello("", 1, None)
    };
    node.frame(session, 0, Body::Hello(hello));
    node.run(100);
    let reauth = |node: &mut Node, req, token: &str| {
        node.frame(
            session,
            req,
            Body::Reauth(frame::Reauth {
                token: token.into(),
            }),
        );
        node.wait(session, req)
    };
    for (req, token) in [(1, "default/bob"), (2, "other/ann"), (3, "default/ann#2")] {
        let Body::Error(error) = reauth(&mut node, req, token) else {
            panic!("{token}")
        };
        assert_eq!(error.code, u32::from(Code::IdentityChanged.number()));
    }
    let Body::Error(error) = reauth(&mut node, 4, "forged") else {
        panic!()
    };
    assert_eq!(error.code, u32::from(Code::BadToken.number()));
    assert!(matches!(
        reauth(&mut node, 5, "default/ann!70000"),
        Body::Done(_)
    ));
    node.run(30_000);
    assert_eq!(node.closed(session), None);
    node.run(50_000);
    assert_eq!(node.closed(session), Some(Code::TokenExpired));
}
