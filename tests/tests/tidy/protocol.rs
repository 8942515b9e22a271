//! Every frame of the schema and every numbered rule of docs/protocol.md names tests,
//! and those exist.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{SOURCES, read};

/// Names of all test functions.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in SOURCES.iter() {
        let mut in_test = false;
        for line in source.code_and_tests.lines().map(str::trim) {
            if line.starts_with("#[") && line.contains("test") {
                in_test = true;
            } else if let Some(at) = line.find("fn ") {
                let name = line[at + 3..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_');
                if in_test {
                    names.insert(name.collect());
                }
                in_test = false;
            }
        }
    }
    assert!(names.len() > 100, "the walk finds tests: {}", names.len());
    names
}

/// The rows of the table under a heading: first column → names in code of the last.
fn table(page: &str, heading: &str) -> BTreeMap<String, Vec<String>> {
    let from = page
        .find(heading)
        .unwrap_or_else(|| panic!("no heading {heading}"));
    let mut rows = BTreeMap::new();
    for line in page[from + heading.len()..].lines() {
        if line.starts_with("## ") {
            break;
        }
        let cells: Vec<&str> = line
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        if line.starts_with('|') && cells.len() > 1 {
            let names = cells[cells.len() - 1].split('`').skip(1).step_by(2);
            let first = cells[0].trim_matches('`').to_owned();
            rows.insert(first, names.map(str::to_owned).collect());
        }
    }
    rows
}

fn check(page: &str, heading: &str, wanted: &BTreeSet<String>) {
    let rows = table(page, heading);
    let tests = tests();
    let mut wrong = Vec::new();
    for one in wanted {
        match rows.get(one) {
            None => wrong.push(format!("{one} has no row")),
            Some(names) if names.is_empty() => wrong.push(format!("{one} names no test")),
            Some(names) => wrong.extend(
                names
                    .iter()
                    .filter(|name| !tests.contains(name.rsplit("::").next().unwrap_or_default()))
                    .map(|name| format!("{one} names {name}, which is no test")),
            ),
        }
    }
    assert!(wrong.is_empty(), "docs/protocol.md, {heading}: {wrong:#?}");
}

#[test]
fn every_rule_of_the_protocol_names_its_tests() {
    let page = read("docs/protocol.md");
    let rules: BTreeSet<String> = page
        .split("**R")
        .skip(1)
        .filter_map(|rest| rest.split_once("**"))
        .filter(|(number, _)| number.chars().all(|c| c.is_ascii_digit()) && !number.is_empty())
        .map(|(number, _)| format!("R{number}"))
        .collect();
    assert!(rules.len() > 60, "the rules are numbered: {}", rules.len());
    for number in 1..=rules.len() {
        assert!(
            rules.contains(&format!("R{number}")),
            "R{number} is missing: numbers stay"
        );
    }
    check(&page, "## Which test holds which rule", &rules);
}

#[test]
fn every_frame_of_the_schema_names_its_tests() {
    let schema = read("wire/proto/chat.proto");
    let from = schema.find("oneof body {").expect("the frames");
    let body = &schema[from..from + schema[from..].find("\n  }").expect("their end")];
    let frames: BTreeSet<String> = body
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .filter_map(|line| line.split_once('='))
        .filter_map(|(left, _)| left.split_whitespace().nth(1))
        .map(str::to_owned)
        .collect();
    assert!(frames.len() > 35, "frames were found: {}", frames.len());
    check(
        &read("docs/protocol.md"),
        "## Which test drives which frame",
        &frames,
    );
}
