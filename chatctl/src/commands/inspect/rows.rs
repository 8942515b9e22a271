//! Rows of a segment, as a person reads them.

use chat_wire::{
    body,
    event::{Header, Kind},
    ids::{ConversationId, MsgId},
};
use logstore::key::{Key, Row};
use serde_json::json;

use crate::{options::Format, output};

/// The family of events in an inbox, and what each family is called. Their numbers are
/// part of the format and never change.
const EVENT: u8 = 32;

fn family(number: u8) -> String {
    let name = match number {
        0 => "profile",
        1 => "device",
        2 => "head",
        3 => "mark",
        4 => "mark version",
        5 => "conversation",
        EVENT => "event",
        40 => "incoming",
        41 => "own",
        64 => "dedup",
        96 => "group",
        97 => "member",
        98 => "member mark",
        99 => "group head",
        112 => "group log",
        120 => "roster",
        121 => "outbox",
        122 => "outbox state",
        123 => "pending mark",
        124 => "source",
        125 => "settings",
        126 => "last",
        127 => "incarnation",
        other => return format!("family {other}"),
    };
    name.to_owned()
}

pub(super) fn print(format: Format, key: &Key, row: Option<&Row>) {
    let said = row.map_or_else(
        || "deleted".to_owned(),
        |row| match event(key, row) {
            Some(text) => text,
            None => format!(
                "{} bytes{}",
                row.header.len(),
                row.body
                    .as_ref()
                    .map_or_else(String::new, |body| format!(" + body of {}", body.len()))
            ),
        },
    );
    let sub: String = key.sub().iter().map(|byte| format!("{byte:02x}")).collect();
    match format {
        Format::Json => output::json(&json!({"row": {
            "inbox": format!("{:016x}", key.inbox),
            "family": family(key.family),
            "sub": sub,
            "says": said,
        }})),
        Format::Table => output::say(&format!(
            "{:016x} {} {sub}: {said}",
            key.inbox,
            family(key.family)
        )),
    }
}

/// An event of an inbox; `None` for other rows.
fn event(key: &Key, row: &Row) -> Option<String> {
    if key.family != EVENT {
        return None;
    }
    let header = Header::decode(&row.header).ok()?;
    let who = output::clean(&String::from_utf8_lossy(&header.sender_name));
    let place = match header.conversation.group() {
        Some(group) => format!("group {group}"),
        None => format!("conversation {}", ConversationId(header.conversation.0)),
    };
    let said = row
        .body
        .as_ref()
        .and_then(|stored| body::open(stored).ok())
        .map_or_else(
            || "its body is not here".to_owned(),
            |body| match (header.kind, body.scheme) {
                (Kind::GroupChange, _) => "a change of the group".to_owned(),
                (_, body::SCHEME_MESSAGE) => prost::Message::decode(body.content).map_or_else(
                    |_| "a message that cannot be read".to_owned(),
                    |message: chat_wire::frame::Message| output::content(message.content.as_ref()),
                ),
                (_, scheme) => format!("scheme {scheme}, {} bytes", body.content.len()),
            },
        );
    Some(format!(
        "{} {} in {place} from {who}: {said}",
        MsgId(header.msg_id.0),
        output::time(header.msg_id.unix_ms())
    ))
}
