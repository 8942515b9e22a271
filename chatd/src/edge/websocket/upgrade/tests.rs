use super::*;
use proptest::prelude::*;

const OPEN: Rules = Rules {
    local_origins_only: false,
};

fn request(path: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text.push_str("\r\n");
    text
}

const GOOD: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn status(text: &str, rules: Rules) -> u16 {
    parse(text.as_bytes(), rules).unwrap_err().status
}

fn with(extra: &[(&str, &str)]) -> String {
    request("/v1/ws", &[&GOOD[..], extra].concat())
}

fn without(name: &str) -> String {
    let headers: Vec<_> = GOOD
        .iter()
        .copied()
        .filter(|(found, _)| *found != name)
        .collect();
    request("/v1/ws", &headers)
}

#[test]
fn the_rfcs_own_example_is_accepted() {
    let text = with(&[("Sec-WebSocket-Protocol", "chat.v1.json")]);
    let upgrade = parse(text.as_bytes(), OPEN).unwrap().unwrap();
    assert_eq!(
        (upgrade.head_bytes, upgrade.encoding),
        (text.len(), Encoding::Json)
    );
    let response = upgrade.response();
    assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(response.contains("Sec-WebSocket-Protocol: chat.v1.json\r\n"));
    assert!(response.ends_with("\r\n\r\n"));
}

#[test]
fn the_clients_first_known_subprotocol_counts_and_none_is_protobuf() {
    let encoding = |offered| {
        parse(
            with(&[("Sec-WebSocket-Protocol", offered)]).as_bytes(),
            OPEN,
        )
        .unwrap()
        .unwrap()
        .encoding
    };
    assert_eq!(
        encoding("other, chat.v1.json, chat.v1.proto"),
        Encoding::Json
    );
    assert_eq!(encoding("chat.v1.proto, chat.v1.json"), Encoding::Proto);
    let none = parse(with(&[]).as_bytes(), OPEN).unwrap().unwrap();
    assert_eq!(none.encoding, Encoding::Proto);
    assert!(!none.response().contains("Sec-WebSocket-Protocol"));
    assert_eq!(
        status(&with(&[("Sec-WebSocket-Protocol", "graphql-ws")]), OPEN),
        400
    );
}

#[test]
fn an_extension_is_never_agreed_to() {
    let text = with(&[("Sec-WebSocket-Extensions", "permessage-deflate")]);
    let response = parse(text.as_bytes(), OPEN).unwrap().unwrap().response();
    assert!(!response.to_ascii_lowercase().contains("extensions"));
}

#[test]
fn everything_else_is_told_what_is_wrong() {
    assert_eq!(status(&request("/", &GOOD), OPEN), 404);
    assert_eq!(status(&request("/metrics", &[]), OPEN), 404);
    assert_eq!(
        status(&request("/v1/ws/../../etc/passwd", &GOOD), OPEN),
        404
    );
    assert_eq!(status(&request("/v1/ws", &[]), OPEN), 426);
    assert_eq!(status(&without("Upgrade"), OPEN), 426);
    assert_eq!(status(&without("Connection"), OPEN), 400);
    assert_eq!(status(&without("Sec-WebSocket-Version"), OPEN), 426);
    assert_eq!(status(&without("Sec-WebSocket-Key"), OPEN), 400);
    assert_eq!(
        status(
            &with(&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]),
            OPEN
        ),
        400
    );
    assert_eq!(status(&with(&[]).replace("GET", "POST"), OPEN), 405);
    assert_eq!(status("\x16\x03\x01\x02\x00", OPEN), 400);
    let response = parse(request("/v1/ws", &[]).as_bytes(), OPEN)
        .unwrap_err()
        .response();
    assert!(
        response.contains("Sec-WebSocket-Version: 13\r\n"),
        "{response}"
    );
}

#[test]
fn a_request_with_a_body_was_upgraded() {
    for (name, value) in [
        ("Content-Length", "5"),
        ("Content-Length", "00"),
        ("content-length", "+0"),
        ("Content-Length", ""),
        ("Transfer-Encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("Transfer-Encoding", ""),
    ] {
        assert_eq!(
            status(&with(&[(name, value)]), OPEN),
            400,
            "{name}: {value}"
        );
    }
    let twice = with(&[("Content-Length", "0"), ("Content-Length", "0")]);
    assert_eq!(status(&twice, OPEN), 400);
    let none = with(&[("Content-Length", "0")]);
    assert!(parse(none.as_bytes(), OPEN).unwrap().is_some());
}

#[test]
fn a_request_whose_lines_end_with_a_bare_lf_was_upgraded() {
    let good = with(&[]);
    let lines = good.matches("\r\n").count();
    for line in 0..lines {
        let mut parts = good.split("\r\n");
        let mut text = String::new();
        for at in 0..lines {
            text.push_str(parts.next().unwrap());
            text.push_str(if at == line { "\n" } else { "\r\n" });
        }
        assert_eq!(status(&text, OPEN), 400, "line {line}");
    }
    assert_eq!(status(&good.replace("\r\n", "\n"), OPEN), 400);
    assert_eq!(status(&format!("\n{good}"), OPEN), 400);
    // What follows the head is a frame, and may hold any byte.
    let mut framed = good.into_bytes();
    framed.extend_from_slice(b"\x81\n\n\n");
    assert!(parse(&framed, OPEN).unwrap().is_some());
}

#[test]
fn a_request_with_two_hosts_or_none_was_upgraded() {
    let twice = with(&[("Host", "localhost")]);
    assert_eq!(status(&twice, OPEN), 400);
    assert_eq!(status(&with(&[("host", "evil.example")]), OPEN), 400);
    assert_eq!(
        status(&with(&[]).replace("Host: localhost\r\n", ""), OPEN),
        400
    );
}

#[test]
fn a_request_with_two_origins_passed_the_check_of_dev() {
    let local = Rules {
        local_origins_only: true,
    };
    let origins = [
        ("Origin", "http://localhost"),
        ("Origin", "http://evil.example"),
    ];
    for rules in [local, OPEN] {
        assert_eq!(status(&with(&origins), rules), 400);
    }
    assert!(
        parse(with(&origins[..1]).as_bytes(), local)
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_head_is_bounded_in_bytes_and_headers() {
    let endless = format!("GET /v1/ws HTTP/1.1\r\nX: {}", "a".repeat(HEAD_BYTES));
    assert_eq!(status(&endless, OPEN), 431);
    let many = [("A", "b"); 70];
    assert_eq!(status(&request("/v1/ws", &many), OPEN), 431);
    assert_eq!(parse(&endless.as_bytes()[..HEAD_BYTES - 1], OPEN), Ok(None));
}

#[test]
fn with_dev_tokens_only_pages_of_this_machine_may_connect() {
    let local = Rules {
        local_origins_only: true,
    };
    for origin in [
        "http://localhost:3000",
        "http://127.0.0.1",
        "https://[::1]:8443",
    ] {
        assert!(
            parse(with(&[("Origin", origin)]).as_bytes(), local)
                .unwrap()
                .is_some()
        );
    }
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "null",
    ] {
        assert_eq!(status(&with(&[("Origin", origin)]), local), 403, "{origin}");
        assert!(
            parse(with(&[("Origin", origin)]).as_bytes(), OPEN)
                .unwrap()
                .is_some()
        );
    }
    assert!(parse(with(&[]).as_bytes(), local).unwrap().is_some());
}

#[test]
fn without_a_place_the_answer_names_the_code_and_the_time() {
    let text = no_place(5);
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("Retry-After: 5\r\n"));
    assert!(text.contains("\"code\":607") && text.contains("\"retryAfterMs\":5000"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_it_panic_and_a_prefix_of_a_request_waits(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        if let Err(refused) = parse(&bytes, OPEN) {
            prop_assert!(refused.response().starts_with("HTTP/1.1 4"));
        }
        let whole = with(&[]);
        prop_assert_eq!(parse(&whole.as_bytes()[..cut.index(whole.len())], OPEN), Ok(None));
    }
}
