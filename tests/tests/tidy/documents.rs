//! Documents that are true: links lead somewhere, and the map of the code is the code.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::tree::{CRATES, FILES, SOURCES, read, root};

#[test]
fn every_link_in_a_document_leads_to_a_file() {
    let mut broken = Vec::new();
    for file in FILES.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root().join(&file.path);
        let folder = folder.parent().expect("a file has a folder");
        for target in file
            .text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
        {
            let target = target.0.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            if !folder.join(target).exists() {
                broken.push(format!("{} → {target}", file.path));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_document_that_a_source_names_is_there() {
    let in_name = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    let mut missing = Vec::new();
    for source in SOURCES.iter() {
        let text = read(&source.path);
        let named = text
            .split(|c| !in_name(c))
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| word.starts_with("docs/") && word.ends_with(".md"));
        missing.extend(
            named
                .filter(|name| !root().join(name).exists())
                .map(|name| format!("{} names {name}", source.path)),
        );
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The first sentence of a source's description.
fn job(path: &str) -> String {
    let text = read(path);
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let first: Vec<&str> = lines.take_while(|line| !line.trim().is_empty()).collect();
    let paragraph = first.join("");
    let paragraph = paragraph.trim();
    // Links to items mean nothing outside rustdoc.
    let paragraph = paragraph.replace("[`", "`").replace("`]", "`");
    let end = paragraph.find(". ").unwrap_or(paragraph.len());
    paragraph[..end].trim_end_matches(['.', ':']).to_owned()
}

/// The map, as a table for each crate.
fn written_map() -> String {
    let mut map = String::new();
    for (folder, package) in CRATES {
        write!(
            map,
            "\n### {folder}: {package}\n\n| file | its job |\n| --- | --- |\n"
        )
        .expect("a String grows");
        for source in SOURCES
            .iter()
            .filter(|source| source.home == *folder && !source.is_test)
        {
            let job = job(&source.path);
            writeln!(map, "| `{}` | {job} |", source.path).expect("a String grows");
        }
    }
    map + "\n"
}

/// With `CHAT_TESTS_WRITE_DOCS=1` the map is written anew from the sources.
#[test]
fn the_map_of_the_code_names_every_file_and_no_other() {
    let (begin, end) = ("<!-- generated: map -->\n", "<!-- end: map -->");
    let mut map = read("ARCHITECTURE.md");
    if std::env::var_os("CHAT_TESTS_WRITE_DOCS").is_some() {
        let from = map.find(begin).expect("a begin marker") + begin.len();
        let to = map.find(end).expect("an end marker");
        map.replace_range(from..to, &written_map());
        std::fs::write(root().join("ARCHITECTURE.md"), &map).expect("it can be written");
    }
    let named: BTreeSet<&str> = map
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.ends_with(".rs") && name.contains('/'))
        .collect();
    let files: BTreeSet<&str> = SOURCES
        .iter()
        .filter(|source| !source.is_test)
        .map(|source| source.path.as_str())
        .collect();
    let missing: Vec<_> = files.difference(&named).collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md, code map: add {missing:#?}"
    );
    let gone: Vec<_> = named
        .iter()
        .filter(|name| !root().join(name).exists())
        .collect();
    assert!(
        gone.is_empty(),
        "ARCHITECTURE.md names files that are gone: {gone:#?}"
    );
}

#[test]
fn ci_only_calls_the_one_command() {
    let script = read(".ci/run");
    let commands: Vec<&str> = script
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .collect();
    assert_eq!(commands, ["cargo xtask test"]);
}
