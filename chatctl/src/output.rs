//! What is printed: tables for people, JSON lines for scripts, remarks and errors on
//! standard error.
//!
//! Nothing leaves this file raw: texts of a server or of somebody else may hold characters
//! that rule a terminal, turn the direction of writing or cannot be seen ([`is_hidden`]).
//! On lines for people they stand as `\\u{1b}`, in JSON as its own escapes, so that a script
//! reads what was said.

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
        // Before the columns are as wide as their cells.
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    for line in table.lines() {
        // The table has a space before its first column.
        say(line.strip_prefix(' ').unwrap_or(&line).trim_end());
    }
}

/// One JSON value on a line.
pub(crate) fn json(value: &Value) {
    print(&json_line(value));
}

/// As it is printed. Outside of its strings JSON has none of these characters.
fn json_line(value: &Value) -> String {
    use std::fmt::Write as _;
    let mut line = String::new();
    for character in value.to_string().chars() {
        if is_hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(line, "\\u{unit:04x}").expect("a string takes what comes");
            }
        } else {
            line.push(character);
        }
    }
    line
}

/// A line.
pub(crate) fn say(line: &str) {
    print(&clean(line));
}

/// A line for whoever looks, not for scripts.
pub(crate) fn remark(line: &str) {
    complain(&clean(line));
}

#[expect(clippy::print_stderr, reason = "what is printed was cleaned")]
fn complain(line: &str) {
    eprintln!("{line}");
}

/// The log, line by line.
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for line in String::from_utf8_lossy(bytes).lines() {
            complain(&clean(line));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A reader that has gone (`| head`) ends the command quietly.
fn print(line: &str) {
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

/// Whether a character is one that nobody sees, or that changes what others look like.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // A hyphen that shows only at a line's end, joiners of graphemes, a vowel separator.
            '\u{ad}' | '\u{34f}' | '\u{180e}'
            // Marks, embeddings, overrides and isolates of the direction of writing.
            | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Of no width; separators of lines; operators that are not seen.
            | '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2065}' | '\u{feff}'
            // Annotations, and what has no meaning.
            | '\u{fff9}'..='\u{fffb}'
            // Tags, and selectors of variants, which can carry a text of their own.
            | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Text of somebody else, in one line: what cannot be seen is shown by its number.
pub(crate) fn clean(text: &str) -> String {
    use std::fmt::Write as _;
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => line.push('⏎'),
            '\t' => line.push(' '),
            hidden if is_hidden(hidden) => {
                write!(line, "\\u{{{:x}}}", u32::from(hidden)).expect("a string takes what comes");
            }
            other => line.push(other),
        }
    }
    line
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
            "a\\u{1b}[2Jb\\u{d}⏎\\u{202e}c"
        );
        assert_eq!(clean("grüße 👋🏽"), "grüße 👋🏽");
    }

    /// The classes as Unicode has them, said again and otherwise than above.
    fn dangerous() -> impl Iterator<Item = char> {
        let ranges: [(u32, u32); 15] = [
            (0x00, 0x1f),
            (0x7f, 0x9f),
            (0xad, 0xad),
            (0x34f, 0x34f),
            (0x61c, 0x61c),
            (0x180e, 0x180e),
            (0x200b, 0x200f),
            (0x2028, 0x202e),
            (0x2060, 0x206f),
            (0xfeff, 0xfeff),
            (0xfff9, 0xfffb),
            (0xe_0000, 0xe_007f),
            (0xe_0100, 0xe_01ef),
            (0xe_0080, 0xe_00ff),
            (0xe_01f0, 0xe_0fff),
        ];
        ranges
            .into_iter()
            .flat_map(|(from, to)| from..=to)
            .filter_map(char::from_u32)
    }

    #[test]
    fn every_hidden_character_is_shown_by_its_number_and_reads_the_same_in_json() {
        let mut count = 0;
        for character in dangerous() {
            let text = format!("a{character}b\"\\");
            let line = clean(&text);
            assert!(!line.chars().any(is_hidden), "{line:?}");
            assert!(
                character == '\n'
                    || character == '\t'
                    || line.contains(&format!("{:x}", u32::from(character))),
                "{line}"
            );
            let value = serde_json::json!({ text.as_str(): [&text] });
            let line = json_line(&value);
            assert!(
                !line.chars().any(|at| dangerous().any(|bad| bad == at)),
                "{line:?}"
            );
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
            count += 1;
        }
        assert!(count > 4_000);
        // And nothing else is touched: what people write stays readable.
        for code in 0..=0x2_ffff {
            let Some(character) = char::from_u32(code) else {
                continue;
            };
            let hidden = dangerous()
                .take_while(|_| code < 0x1_0000)
                .any(|bad| bad == character);
            assert_eq!(is_hidden(character), hidden, "{code:x}");
        }
    }

    #[test]
    fn no_other_file_prints() {
        fn sources(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    sources(&path, found);
                } else {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        sources(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut found,
        );
        assert!(found.len() > 20);
        for path in found.iter().filter(|path| !path.ends_with("output.rs")) {
            let text = std::fs::read_to_string(path).unwrap();
            for way in ["println!", "eprint", "print!(", "stdout().", "stderr()."] {
                assert!(!text.contains(way), "{} has {way}", path.display());
            }
        }
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
