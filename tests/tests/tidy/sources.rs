//! What may stand in a source.

use crate::tree::{FILES, SOURCES, has_word, read};

/// Lines of code in a file, without tests, comments and empty lines. About 500 is the
/// aim; beyond this the file has a second job.
const MAX_LINES: usize = 700;

/// The only file that may hold `unsafe`.
const UNSAFE: &str = "logstore/src/mmap.rs";

/// What would make a run of a sans-IO crate depend on more than its arguments.
const IMPURE_CORE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "HashMap",
    "HashSet",
    "thread_rng",
    "std::thread",
    "thread::spawn",
    "std::fs",
    "std::net",
    "std::env",
    "rand::",
    "getrandom",
    "now_v7",
    "new_v4",
];
// Scoped threads end where they begin: the scan of a log at start uses them.
const IMPURE_LOG: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "thread::spawn",
    "thread::Builder",
    "thread::sleep",
    "thread_rng",
    "rand::",
];

#[test]
fn chat_core_has_no_clock_no_randomness_and_no_order_of_hashes() {
    for source in SOURCES
        .iter()
        .filter(|source| source.home == "chatd/core" && !source.is_test)
    {
        for word in IMPURE_CORE {
            assert!(
                !source.code.contains(word),
                "{}: {word}: time, randomness and disks are arguments here",
                source.path
            );
        }
    }
}

#[test]
fn logstore_has_no_clock_and_no_thread_of_its_own() {
    for source in SOURCES
        .iter()
        .filter(|source| source.home == "logstore" && !source.is_test)
    {
        for word in IMPURE_LOG {
            assert!(
                !source.code.contains(word),
                "{}: {word}: the caller has clocks and threads",
                source.path
            );
        }
    }
}

#[test]
fn unsafe_is_in_one_file() {
    for source in SOURCES.iter().filter(|source| source.path != UNSAFE) {
        assert!(
            !has_word(&source.code_and_tests, "unsafe"),
            "{}: unsafe belongs into {UNSAFE}",
            source.path
        );
    }
}

#[test]
fn no_file_has_grown_a_second_job() {
    let too_long: Vec<String> = SOURCES
        .iter()
        .filter(|source| !source.is_test)
        .map(|source| {
            let lines = source
                .code
                .lines()
                .filter(|line| !line.trim().is_empty())
                .count();
            (lines, &source.path)
        })
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{path} has {lines} lines of code"))
        .collect();
    assert!(
        too_long.is_empty(),
        "look for the second job: {too_long:#?}"
    );
}

#[test]
fn no_module_is_named_after_nothing() {
    for source in SOURCES.iter() {
        for module in &source.modules {
            let vague = [
                "util", "utils", "common", "helper", "helpers", "misc", "manager",
            ];
            assert!(
                !vague.contains(&module.as_str()) && module != "mod",
                "{}: name the module after what it does (and no mod.rs)",
                source.path
            );
        }
    }
}

#[test]
fn every_source_begins_with_its_job() {
    let without: Vec<&str> = SOURCES
        .iter()
        .filter(|source| !source.is_test)
        .filter(|source| !read(&source.path).starts_with("//! "))
        .map(|source| source.path.as_str())
        .collect();
    assert!(
        without.is_empty(),
        "begin with `//!` and what the file is for: {without:#?}"
    );
}

#[test]
fn nothing_names_this_machine_or_a_registry() {
    // Written in two parts, so that this file does not name them.
    let words = [
        ["crates", ".io"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["npmjs", ".com"],
        ["npmjs", ".org"],
        ["docker", ".io"],
        ["proxy.golang", ".org"],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/tmp/", "bash"],
    ]
    .map(|parts| parts.concat());
    let mut found = Vec::new();
    for file in FILES.iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in (1..).zip(file.text.lines()) {
            // A folder of ours may be called so, below another.
            let stands_alone = |at: usize| !line[..at].ends_with(char::is_alphanumeric);
            let names = |word: &&String| {
                line.match_indices(word.as_str())
                    .any(|(at, _)| stands_alone(at))
            };
            if let Some(word) = words.iter().find(names) {
                found.push(format!("{}:{number} names {word}", file.path));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
