//! The parts of docs/protocol.md that are generated: frames from the schema with its
//! comments, the table of errors, the limits.
//!
//! Each stands between two markers. `CHAT_WIRE_WRITE_DOCS=1` rewrites what is between
//! them; without it a difference fails the test.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use bytes::Bytes;
use chat_wire::{
    codec::{Encoding, decode, encode},
    error::Code,
    limits::{self, Limits},
};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

use crate::generator::SCHEMA;

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md")
}

fn check(name: &str, generated: &str) {
    let text = fs::read_to_string(page()).expect("docs/protocol.md");
    let begin = format!("<!-- generated: {name} -->\n");
    let end = format!("<!-- end: {name} -->");
    let from = text.find(&begin).expect("a begin marker") + begin.len();
    let to = text.find(&end).expect("an end marker");
    if text[from..to] == *generated {
        return;
    }
    assert!(
        env::var_os("CHAT_WIRE_WRITE_DOCS").is_some(),
        "docs/protocol.md, part {name}, differs from the code: run \
         `CHAT_WIRE_WRITE_DOCS=1 cargo test -p chat-wire --test frames reference -- --test-threads 1`"
    );
    let text = [&text[..from], generated, &text[to..]].concat();
    fs::write(page(), text).expect("docs/protocol.md can be written");
}

/// The comment before what a path of descriptor numbers names.
fn comment(path: &[i32]) -> String {
    let info = SCHEMA.file[0]
        .source_code_info
        .as_ref()
        .expect("the schema keeps its comments");
    info.location
        .iter()
        .find(|location| location.path == path)
        .map(|location| location.leading_comments())
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// `fixed64` as a client sees it in both encodings.
fn kind(field: &FieldDescriptorProto) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let one = match field.r#type() {
        Type::Message => format!(
            "[{0}](#{1})",
            last(field.type_name()),
            last(field.type_name()).to_lowercase()
        ),
        Type::Enum => last(field.type_name()),
        other => format!("{other:?}").to_lowercase(),
    };
    match field.label() {
        Label::Repeated => format!("list of {one}"),
        _ => one,
    }
}

fn fields(out: &mut String, message: &DescriptorProto, path: &[i32]) {
    if message.field.is_empty() {
        out.push_str("No fields.\n\n");
        return;
    }
    out.push_str("| field | no. | type | |\n| --- | --- | --- | --- |\n");
    for (at, field) in (0..).zip(&message.field) {
        let mut says = comment(&[path, &[2, at]].concat());
        if let Some(oneof) = field.oneof_index.filter(|_| !field.proto3_optional()) {
            let name = message.oneof_decl[usize::try_from(oneof).expect("an index")].name();
            says = format!("({name}: one of these) {says}");
        }
        if field.proto3_optional() {
            says = format!("(optional) {says}");
        }
        writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            field.json_name(),
            field.number(),
            kind(field),
            says.trim()
        )
        .expect("a String grows");
    }
    out.push('\n');
}

fn values(out: &mut String, one: &EnumDescriptorProto) {
    let values: Vec<_> = one
        .value
        .iter()
        .map(|value| format!("`{}` {}", value.name(), value.number()))
        .collect();
    writeln!(out, "{}: {}.\n", one.name(), values.join(", ")).expect("a String grows");
}

#[test]
fn the_frames_in_the_page_are_those_of_the_schema() {
    let file = &SCHEMA.file[0];
    let mut out = String::new();
    let frame = &file.message_type[0];
    assert_eq!(frame.name(), "Frame");
    out.push_str("| frame | no. in `Frame` | message |\n| --- | --- | --- |\n");
    for field in frame
        .field
        .iter()
        .filter(|field| field.oneof_index.is_some())
    {
        let (name, number) = (field.json_name(), field.number());
        writeln!(out, "| `{name}` | {number} | {} |", kind(field)).expect("a String grows");
    }
    out.push('\n');
    for (at, message) in (0..).zip(&file.message_type).skip(1) {
        writeln!(out, "#### {}\n", message.name()).expect("a String grows");
        let says = comment(&[4, at]);
        assert!(
            !says.is_empty(),
            "{} has no comment in the schema",
            message.name()
        );
        writeln!(out, "{says}\n").expect("a String grows");
        fields(&mut out, message, &[4, at]);
        for one in &message.enum_type {
            values(&mut out, one);
        }
    }
    out.push_str("#### Enums\n\n");
    for one in &file.enum_type {
        values(&mut out, one);
    }
    check("frames", &out);
}

#[test]
fn the_errors_in_the_page_are_those_of_the_code() {
    let mut out = String::from(
        "| code | name | retry | WebSocket closes with | |\n| --- | --- | --- | --- | --- |\n",
    );
    for code in Code::ALL {
        let (number, close) = (code.number(), code.websocket_close());
        let retry = if code.retryable() { "yes" } else { "no" };
        let (name, meaning) = (code.name(), code.meaning());
        writeln!(out, "| {number} | {name} | {retry} | {close} | {meaning} |").expect("it grows");
    }
    check("errors", &out);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_limits_in_the_page_are_those_of_the_code() {
    let limits = Limits::default();
    let rows: &[(&str, u64, &str)] = &[
        (
            "frame from a client",
            limits.frame_bytes.into(),
            "bytes; `frameBytes`; FRAME_TOO_LARGE",
        ),
        (
            "frame from the server",
            limits::SERVER_FRAME_BYTES.into(),
            "bytes, for a single event; others stay near the next row",
        ),
        (
            "EVENT or PAGE",
            limits::EVENT_BATCH_BYTES as u64,
            "bytes, unless one event alone is longer",
        ),
        ("events in an EVENT", limits::EVENT_BATCH as u64, ""),
        (
            "fields or JSON values of a frame",
            limits::FRAME_FIELDS as u64,
            "MALFORMED",
        ),
        (
            "nesting of a frame",
            limits::FRAME_DEPTH as u64,
            "levels; MALFORMED",
        ),
        (
            "content of a message",
            limits.content_bytes.into(),
            "bytes of its protobuf; `contentBytes`; CONTENT_TOO_LARGE",
        ),
        (
            "name of a user, app or group",
            limits::NAME_BYTES as u64,
            "bytes of UTF-8, no control characters; INVALID_ARGUMENT",
        ),
        ("token", limits::TOKEN_BYTES as u64, "bytes; BAD_TOKEN"),
        (
            "type of a custom content",
            limits::CUSTOM_TYPE_BYTES as u64,
            "bytes; INVALID_ARGUMENT",
        ),
        (
            "address of a media reference",
            limits::MEDIA_URL_BYTES as u64,
            "bytes; INVALID_ARGUMENT",
        ),
        (
            "plain SENDs a second of a device",
            limits.sends_per_second.into(),
            "`sendsPerSecond`; RATE_LIMITED",
        ),
        (
            "plain SENDs of a device at once",
            limits.sends_burst.into(),
            "`sendsBurst`; RATE_LIMITED",
        ),
        (
            "requests waiting for an answer",
            limits.in_flight.into(),
            "`inFlight`; OVERLOADED",
        ),
        (
            "presence subscriptions of a session",
            limits.presence_subscriptions.into(),
            "`presenceSubscriptions`; LIMIT_EXCEEDED",
        ),
        (
            "members of a group",
            limits.group_members.into(),
            "`groupMembers`; LIMIT_EXCEEDED",
        ),
        (
            "devices of a user",
            limits.devices.into(),
            "`devices`; the longest unseen is replaced",
        ),
        (
            "users mentioned in a message",
            limits.mentions.into(),
            "`mentions`; LIMIT_EXCEEDED",
        ),
        (
            "entries of a PAGE",
            limits.history_page.into(),
            "`historyPage`; a page is cut",
        ),
        (
            "events before the first CREDIT",
            limits.event_credits.into(),
            "`credits.events`",
        ),
        (
            "PAGEs before the first CREDIT",
            limits.bulk_credits.into(),
            "`credits.bulk`",
        ),
        (
            "a client id ahead of the server's clock",
            limits::ID_AHEAD_MS,
            "ms; EXPIRED_ID",
        ),
        (
            "`after` ahead of the server's clock",
            limits::AFTER_AHEAD_MS,
            "ms; what is above counts only if it names a message of the conversation",
        ),
        (
            "the same, of a message of the conversation",
            limits::AFTER_KNOWN_AHEAD_MS,
            "ms; what is above does not count",
        ),
        (
            "what a client sends before WELCOME",
            limits::HELLO_BYTES.into(),
            "bytes, with TLS and HTTP; FRAME_TOO_LARGE",
        ),
        (
            "time for HELLO to arrive",
            limits::HELLO_TIMEOUT_MS,
            "ms; HELLO_TIMEOUT",
        ),
    ];
    let mut out = String::from(
        "| what | default | unit; field of `limits`; what happens beyond |\n| --- | --- | --- |\n",
    );
    for (what, default, says) in rows {
        writeln!(out, "| {what} | {default} | {says} |").expect("a String grows");
    }
    check("limits", &out);
}

#[test]
fn the_recorded_session_in_the_page_is_read_without_a_field_left_over() {
    let text = fs::read_to_string(page()).expect("docs/protocol.md");
    let mut frames = 0;
    for line in text.lines() {
        let Some(json) = line.strip_prefix("→ ").or(line.strip_prefix("← ")) else {
            continue;
        };
        let bytes = Bytes::copy_from_slice(json.as_bytes());
        let frame = decode(Encoding::Json, &bytes, 1 << 20).expect(line);
        assert!(frame.body.is_some(), "{line}");
        // A client may write defaults. The server does not, so what it said is written
        // the same again, unless the page has a field that is none.
        if line.starts_with('←') {
            let again = encode(Encoding::Json, &frame);
            assert_eq!(std::str::from_utf8(&again), Ok(json));
        }
        frames += 1;
    }
    assert!(frames > 15, "the session is in the page");
}
