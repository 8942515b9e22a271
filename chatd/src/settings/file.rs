//! The YAML file: sections of settings, with the line of each for errors.
//!
//! The parser gives values but not their lines, and reports a duplicate key at the
//! top of the file; so the text is looked through once more for keys. Known limit:
//! a key inside braces (`edge: {…}`) is reported with the line of its section.

use std::{collections::BTreeMap, fs, path::Path};

use serde_yaml::Value;

use super::{Origin, Problem, value::Raw};

/// Bytes of a settings file at most.
const FILE_BYTES: u64 = 1024 * 1024;

/// Everything the file sets: key, value and place.
pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Vec<(String, Raw, Origin)> {
    let shown = path.display().to_string();
    let text = match fs::metadata(path) {
        Ok(found) if found.len() > FILE_BYTES => {
            Err(format!("it is longer than {FILE_BYTES} bytes"))
        }
        _ => fs::read_to_string(path).map_err(|error| error.to_string()),
    };
    match text {
        Ok(text) => parse(&text, &shown, problems),
        Err(error) => {
            problems.push(Problem::Unreadable { path: shown, error });
            Vec::new()
        }
    }
}

fn parse(text: &str, path: &str, problems: &mut Vec<Problem>) -> Vec<(String, Raw, Origin)> {
    let origin = |line| Origin::File {
        path: path.into(),
        line,
    };
    let before = problems.len();
    let mut lines = BTreeMap::new();
    for (key, line) in keys(text) {
        if let Some(before) = lines.get(&key) {
            problems.push(Problem::Duplicate {
                origin: origin(Some(line)),
                key: key.clone(),
                before: *before,
            });
        } else {
            lines.insert(key, line);
        }
    }
    if problems.len() > before {
        return Vec::new();
    }
    let line_of = |key: &str| {
        lines
            .get(key)
            .or_else(|| lines.get(key.split('.').next().unwrap_or_default()))
            .copied()
    };
    let shape = |line, error: &str| Problem::Shape {
        origin: origin(line),
        error: error.into(),
    };
    let value: Value = match serde_yaml::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            let line = error.location().map(|location| location.line());
            problems.push(shape(line, &format!("this is no YAML: {error}")));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    let mut add = |key: String, value: &Value, problems: &mut Vec<Problem>| match raw(value) {
        Some(raw) => {
            let line = line_of(&key);
            found.push((key, raw, origin(line)));
        }
        None => problems.push(shape(
            line_of(&key),
            &format!("`{key}` must be one value or a list"),
        )),
    };
    let top = match value {
        Value::Null => return Vec::new(),
        Value::Mapping(top) => top,
        _ => {
            problems.push(shape(
                Some(1),
                "settings are keys with values, like `listen: 127.0.0.1:7443`",
            ));
            return Vec::new();
        }
    };
    for (key, value) in &top {
        let Some(key) = key.as_str() else {
            problems.push(shape(None, "a key must be a word"));
            continue;
        };
        match value {
            Value::Mapping(section) => {
                for (name, value) in section {
                    let name = name.as_str().unwrap_or("?");
                    add(format!("{key}.{name}"), value, problems);
                }
            }
            // A section without anything in it.
            Value::Null if super::table::SECTIONS.iter().any(|(name, _)| *name == key) => {}
            value => add(key.into(), value, problems),
        }
    }
    found
}

/// A value as text; `None` for what is no value of a setting.
fn raw(value: &Value) -> Option<Raw> {
    let text = |value: &Value| match value {
        Value::Null => Some(String::new()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    match value {
        Value::Sequence(items) => items.iter().map(text).collect::<Option<_>>().map(Raw::List),
        value => text(value).map(Raw::Text),
    }
}

/// Keys of block style with their lines, as `section.name`.
fn keys(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut section = String::new();
    let mut indent = None;
    for (at, line) in text.lines().enumerate() {
        let spaces = line.len() - line.trim_start().len();
        let Some((name, _)) = line.trim_start().split_once(':') else {
            continue;
        };
        let name = name.trim().trim_matches(['"', '\'']);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || !name.bytes().all(is_name) {
            continue;
        }
        if spaces == 0 {
            section = name.into();
            indent = None;
            found.push((section.clone(), at + 1));
        } else if *indent.get_or_insert(spaces) == spaces {
            found.push((format!("{section}.{name}"), at + 1));
        }
    }
    found
}
