use super::*;
use std::fs;

fn flags(pairs: &[(&str, &str)]) -> Vec<(String, String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into(), "--set".into()))
        .collect()
}

fn with_file(text: &str, pairs: &[(&str, &str)]) -> Result<Settings, Vec<Problem>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chatd.yaml");
    fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path),
        environment: Vec::new(),
        flags: flags(pairs),
    };
    load(&sources).map_err(|error| error.0)
}

const DEV: &[(&str, &str)] = &[("dev", "true")];

fn line(problem: &Problem) -> Option<usize> {
    match problem {
        Problem::Shape { origin, .. }
        | Problem::Unknown { origin, .. }
        | Problem::Duplicate { origin, .. }
        | Problem::Value { origin, .. } => match origin {
            Origin::File { line, .. } => *line,
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn every_default_is_a_value_of_its_setting() {
    let settings = with_file("", DEV).unwrap();
    assert_eq!(settings.listen, ["127.0.0.1:7443".parse().unwrap()]);
    assert_eq!(settings.admin.listen, "127.0.0.1:7444".parse().unwrap());
    assert_eq!(
        (settings.cluster.shards, settings.edge.max_connections),
        (64, 10_000)
    );
    assert_eq!(settings.tls.certificate, None);
}

#[test]
fn defaults_of_limits_are_those_of_the_protocol() {
    let (settings, wire) = (
        with_file("", DEV).unwrap(),
        chat_wire::limits::Limits::default(),
    );
    let limits = &settings.limits;
    assert_eq!(
        (
            limits.frame_bytes,
            limits.sends_per_second,
            limits.sends_burst,
            limits.in_flight
        ),
        (
            wire.frame_bytes,
            wire.sends_per_second,
            wire.sends_burst,
            wire.in_flight
        )
    );
    assert_eq!(
        (
            limits.presence_subscriptions,
            limits.history_page,
            limits.event_credits
        ),
        (
            wire.presence_subscriptions,
            wire.history_page,
            wire.event_credits
        )
    );
    let cluster = &settings.cluster;
    assert_eq!(
        (
            cluster.group_members,
            cluster.devices,
            cluster.content_bytes,
            cluster.mentions
        ),
        (
            wire.group_members,
            wire.devices,
            wire.content_bytes,
            wire.mentions
        )
    );
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chatd.yaml");
    fs::write(&path, "dev: true\nedge:\n  max_connections: 1\n  connects_burst: 501\nlimits:\n  sends_burst: 201\n").unwrap();
    let sources = Sources {
        file: Some(path),
        environment: vec![
            ("CHATD_EDGE_MAX_CONNECTIONS".into(), "2".into()),
            ("CHATD_EDGE_CONNECTS_BURST".into(), "502".into()),
            ("CHATD_PORT".into(), "tcp://10.0.0.1:7443".into()),
            ("PATH".into(), "/bin".into()),
        ],
        flags: flags(&[("edge.max_connections", "3")]),
    };
    assert_eq!(unknown_variables(&sources), ["CHATD_PORT"]);
    let settings = load(&sources).unwrap();
    assert_eq!(settings.edge.max_connections, 3);
    assert_eq!(settings.edge.connects_burst, 502);
    assert_eq!(settings.limits.sends_burst, 201);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let problems = with_file(
        "data: x\n\nedge:\n  # a comment\n  handshake_timeout: 5\n",
        DEV,
    )
    .unwrap_err();
    let [problem @ Problem::Unknown { key, nearest, .. }] = &problems[..] else {
        panic!("{problems:?}")
    };
    assert_eq!(
        (&**key, *nearest),
        ("edge.handshake_timeout", Some("edge.handshake_timeout_ms"))
    );
    assert_eq!(line(problem), Some(5));
    let text = problem.to_string();
    assert!(
        text.ends_with("chatd.yaml, line 5: there is no setting `edge.handshake_timeout`; did you mean `edge.handshake_timeout_ms`?"),
        "{text}"
    );
    // In the wrong section, at the top, and like nothing.
    for (text, key) in [
        ("tls:\n  max_connections: 1\n", Some("edge.max_connections")),
        ("max_conections: 1\n", Some("edge.max_connections")),
        ("lissten: 127.0.0.1:1\n", Some("listen")),
        ("qqqq: 1\n", None),
    ] {
        let problems = with_file(text, DEV).unwrap_err();
        assert!(
            matches!(&problems[..], [Problem::Unknown { nearest, .. }] if *nearest == key),
            "{problems:?}"
        );
    }
}

#[test]
fn a_key_that_stands_twice_is_named_with_both_lines() {
    let problems = with_file(
        "edge:\n  workers: 1\n  max_connections: 5\n  workers: 2\n",
        DEV,
    );
    let problems = problems.unwrap_err();
    assert!(
        matches!(&problems[..], [Problem::Duplicate { key, before: 2, .. }] if key == "edge.workers"),
        "{problems:?}"
    );
    assert_eq!(line(&problems[0]), Some(4));
    let problems = with_file("edge:\n  workers: 1\ndata: x\nedge:\n  workers: 2\n", DEV);
    assert!(matches!(
        problems.unwrap_err()[0],
        Problem::Duplicate { .. }
    ));
}

#[test]
fn a_value_of_the_wrong_type_or_out_of_bounds_is_named_with_what_it_may_be() {
    for (text, at, wanted) in [
        (
            "edge:\n  handshake_timeout_ms: soon\n",
            2,
            "a number of ms from 100 to 60000",
        ),
        (
            "edge:\n  handshake_timeout_ms: 5\n",
            2,
            "a number of ms from 100 to 60000",
        ),
        (
            "edge:\n  max_connections: -1\n",
            2,
            "a number from 1 to 10000000",
        ),
        (
            "edge:\n  max_connections: 1.5\n",
            2,
            "a number from 1 to 10000000",
        ),
        (
            "edge:\n  max_connections: [1]\n",
            2,
            "a number from 1 to 10000000",
        ),
        (
            "\nlisten: localhost\n",
            2,
            "addresses like 127.0.0.1:7443, separated by commas",
        ),
        ("logging:\n  format: xml\n", 2, "text or json"),
        ("log:\n  compression: yes please\n", 2, "true or false"),
    ] {
        let problems = with_file(text, DEV).unwrap_err();
        let [problem @ Problem::Value { wanted: found, .. }] = &problems[..] else {
            panic!("{text}: {problems:?}")
        };
        assert_eq!((&**found, line(problem)), (wanted, Some(at)), "{text}");
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = "edge:\n  workers: many\n  max_conections: 1\nshards:\n  threads: 9999\n";
    assert_eq!(with_file(text, DEV).unwrap_err().len(), 3);
}

#[test]
fn what_is_no_yaml_or_no_settings_is_refused_with_its_line() {
    for (text, at) in [
        ("edge:\n  a: [1, 2\n", None),
        ("edge: [\n", None),
        ("- a\n- b\n", Some(1)),
        ("edge:\n  workers:\n    deep: 1\n", Some(2)),
    ] {
        let problems = with_file(text, DEV).unwrap_err();
        let [problem @ Problem::Shape { .. }] = &problems[..] else {
            panic!("{text}: {problems:?}")
        };
        if at.is_some() {
            assert_eq!(line(problem), at, "{text}");
        }
        assert!(line(problem).is_some(), "{problem:?}");
    }
    let sources = Sources {
        file: Some("/nonexistent/chatd.yaml".into()),
        ..Sources::default()
    };
    assert!(matches!(
        load(&sources).unwrap_err().0[0],
        Problem::Unreadable { .. }
    ));
}

#[test]
fn lists_are_yaml_lists_or_text_with_commas() {
    for text in [
        "auth:\n  audience: [a, b]\n",
        "auth:\n  audience: a, b\n",
        "auth:\n  audience:\n  - a\n  - b\n",
    ] {
        assert_eq!(
            with_file(text, DEV).unwrap().auth.audience,
            ["a", "b"],
            "{text}"
        );
    }
}

#[test]
fn a_node_that_nobody_could_log_in_to_does_not_start() {
    let problems = with_file("", &[]).unwrap_err();
    assert!(problems[0].to_string().contains("--dev"), "{problems:?}");
    assert!(with_file("auth:\n  jwks_file: keys.json\n", &[]).is_ok());
}

#[test]
fn unsafe_combinations_are_refused() {
    let jwks = ("auth.jwks_file", "k");
    for (pairs, word) in [
        (
            vec![("dev", "true"), ("listen", "0.0.0.0:7443")],
            "loopback",
        ),
        (
            vec![("dev", "true"), ("listen", "127.0.0.1:1,192.0.2.1:1")],
            "loopback",
        ),
        (vec![jwks, ("listen", "0.0.0.0:7443")], "tls.certificate"),
        (
            vec![jwks, ("admin.listen", "0.0.0.0:7444")],
            "admin.token_file",
        ),
        (vec![jwks, ("tls.certificate", "c")], "belong together"),
        (vec![jwks, ("auth.jwks_url", "https://x")], "both set"),
        (vec![jwks, ("auth.audience", "")], "auth.audience"),
        (vec![("dev", "true"), ("listen", "")], "names no address"),
        (
            vec![("dev", "true"), ("log.budget_bytes", "67108864")],
            "six files",
        ),
    ] {
        let problems = with_file("", &pairs).unwrap_err();
        assert!(
            problems
                .iter()
                .any(|problem| problem.to_string().contains(word)),
            "{pairs:?}: {problems:?}"
        );
    }
    let behind_proxy = [
        jwks,
        ("listen", "0.0.0.0:7443"),
        ("tls.allow_plain", "true"),
    ];
    assert!(with_file("", &behind_proxy).is_ok());
}

#[test]
fn variables_of_settings_are_distinct() {
    let mut names: Vec<_> = TABLE.iter().map(variable).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), TABLE.len());
}

#[test]
fn the_page_of_the_documentation_is_the_one_that_is_generated() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(committed == reference(), "run: cargo xtask generate");
}
