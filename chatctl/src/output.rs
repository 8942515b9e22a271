//! What is printed: tables for people, JSON lines for scripts; never a control
//! character from somebody else's message on a terminal.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use chat_client::{
    frame::{self, Content, Event, content, event::What, group_change::Kind as Change},
    ids::{ConversationId, MsgId},
};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::{failure::Failure, options::Format};

/// Rows with a title each.
pub(crate) fn table(titles: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(titles.iter().map(|title| title.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for line in table.lines() {
        // The table has a space before its first column.
        say(line.strip_prefix(' ').unwrap_or(&line).trim_end());
    }
}

/// One JSON value on a line.
pub(crate) fn json(value: &Value) {
    say(&value.to_string());
}

/// A line. A reader that has gone (`| head`) ends the command quietly.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// A JSON value of something that is always one.
pub(crate) fn value(of: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of)
        .map_err(|error| Failure::new(crate::failure::FAILED, error.to_string()))
}

/// Text of somebody else: control characters, which could rule the terminal, become visible.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' => '⏎',
            '\t' => ' ',
            // Marks that turn the direction of writing can make a text say something else.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            character if character.is_control() => '\u{fffd}',
            character => character,
        })
        .collect()
}

/// What a content says, in one line.
pub(crate) fn content(content: Option<&Content>) -> String {
    match content.and_then(|content| content.kind.as_ref()) {
        Some(content::Kind::Text(text)) => clean(text),
        Some(content::Kind::Media(media)) => {
            let caption = clean(&media.caption);
            format!(
                "[{} {}] {caption}",
                clean(&media.mime_type),
                clean(&media.url)
            )
            .trim_end()
            .to_owned()
        }
        Some(content::Kind::System(system)) => format!("[{}]", clean(&system.text)),
        Some(content::Kind::Custom(custom)) => {
            format!("[{}, {} bytes]", clean(&custom.r#type), custom.data.len())
        }
        Some(content::Kind::Encrypted(encrypted)) => {
            format!("[encrypted, {} bytes]", encrypted.data.len())
        }
        None => "[empty]".to_owned(),
    }
}

/// What an event says, in one line and without its sender.
pub(crate) fn what(event: &Event) -> String {
    match &event.what {
        Some(What::Message(message)) => content(message.content.as_ref()),
        Some(What::GroupChange(change)) => {
            let names: Vec<_> = change
                .members
                .iter()
                .map(|member| match member.name.as_str() {
                    // Changes that were made before they carried names.
                    "" => format!("user {}", member.user),
                    name => clean(name),
                })
                .collect();
            let names = names.join(", ");
            match change.kind() {
                Change::Created => format!("* created the group {}", clean(&change.name)),
                Change::Added => format!("* added {names}"),
                Change::Removed => format!("* removed {names}"),
                Change::Left => "* left".to_owned(),
                Change::Renamed => format!("* renamed the group to {}", clean(&change.name)),
                Change::Role => change.members.first().map_or_else(String::new, |member| {
                    format!("* made {names} {}", role(member.role()))
                }),
                Change::Unspecified => "* changed the group".to_owned(),
            }
        }
        None => "[something newer than this chatctl]".to_owned(),
    }
}

pub(crate) const fn role(role: frame::Role) -> &'static str {
    match role {
        frame::Role::Owner => "owner",
        frame::Role::Admin => "admin",
        frame::Role::Member => "member",
        frame::Role::Unspecified => "-",
    }
}

/// `12:34:56 alice: hello`.
pub(crate) fn line(event: &Event) -> String {
    format!(
        "{} {}: {}",
        clock(MsgId(event.msg_id).unix_ms()),
        clean(&event.sender_name),
        what(event)
    )
}

/// `person` or `group`.
pub(crate) const fn kind(conversation: u64) -> &'static str {
    match ConversationId(conversation).group() {
        Some(_) => "group",
        None => "person",
    }
}

/// `2026-01-31 12:34:56Z`.
pub(crate) fn time(unix_ms: u64) -> String {
    let (year, month, day) = date(unix_ms / 86_400_000);
    format!("{year:04}-{month:02}-{day:02} {}Z", clock(unix_ms))
}

/// `12:34:56`, in UTC.
pub(crate) fn clock(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Days since 1970 as a date of the Gregorian calendar. Source: Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// `1.5 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut whole = count;
    let mut rest = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 {
        format!("{whole} B")
    } else {
        format!("{whole}.{rest} {}", UNITS[unit])
    }
}

/// A bar on standard error for work of `length` steps; silent where nobody looks.
pub(crate) fn bar(format: Format, length: u64, what: &'static str) -> ProgressBar {
    if format == Format::Json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix_ms, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399_000, "2000-02-28 23:59:59Z"),
            (951_825_600_000, "2000-02-29 12:00:00Z"),
            (1_735_689_600_000, "2025-01-01 00:00:00Z"),
            (4_107_542_399_999, "2100-02-28 23:59:59Z"),
        ] {
            assert_eq!(time(unix_ms), text);
        }
    }

    #[test]
    fn no_message_rules_the_terminal() {
        assert_eq!(
            clean("a\u{1b}[2Jb\r\n\u{202e}c"),
            "a\u{fffd}[2Jb\u{fffd}⏎\u{fffd}c"
        );
        assert_eq!(clean("grüße 👋🏽"), "grüße 👋🏽");
    }

    #[test]
    fn a_change_of_a_group_is_told_by_names_and_by_ids_only_without_them() {
        let told = |kind: Change, name: &str| {
            what(&Event {
                what: Some(What::GroupChange(frame::GroupChange {
                    kind: kind.into(),
                    members: vec![frame::Member {
                        user: 7,
                        name: name.into(),
                        role: frame::Role::Admin.into(),
                    }],
                    name: "hikers".into(),
                })),
                ..Event::default()
            })
        };
        for (kind, text) in [
            (Change::Created, "* created the group hikers"),
            (Change::Added, "* added carol"),
            (Change::Removed, "* removed carol"),
            (Change::Left, "* left"),
            (Change::Renamed, "* renamed the group to hikers"),
            (Change::Role, "* made carol admin"),
        ] {
            assert_eq!(told(kind, "carol"), text);
        }
        assert_eq!(told(Change::Removed, ""), "* removed user 7");
    }

    #[test]
    fn sizes_are_readable() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
