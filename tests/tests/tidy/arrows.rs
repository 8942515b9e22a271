//! Who may use whom: between crates by their manifests, within a crate by its paths.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{CRATES, SOURCES, Source, has_word, read};

/// What a crate may use of this workspace, and what of the outside it must not.
const ARROWS: &[(&str, &[&str], &[&str])] = &[
    ("chat-wire", &[], &["tokio", "quinn", "rand", "rustix"]),
    ("logstore", &[], &["tokio", "raft", "rand", "prost"]),
    (
        "chat-core",
        &["chat-wire"],
        &["tokio", "quinn", "rand", "rustix", "logstore", "uuid"],
    ),
    (
        "chatd",
        &["chat-core", "chat-wire", "logstore"],
        &["chat-client"],
    ),
    ("chat-client", &["chat-wire"], &["raft", "logstore"]),
    (
        "chatctl",
        &["chat-client", "chat-core", "chat-wire", "logstore"],
        &["raft"],
    ),
    ("bench", &["chat-client", "chat-wire"], &["raft"]),
    ("xtask", &[], &["tokio"]),
    (
        "chat-tests",
        &["chat-client", "chat-core", "chat-wire", "chatd", "logstore"],
        &[],
    ),
];

/// The crates that the product is built on, and who needs them.
const NEEDED: &[(&str, &[&str])] = &[
    ("tokio", &["chatd", "chat-client"]),
    ("quinn", &["chatd", "chat-client"]),
    ("rustls", &["chatd", "chat-client"]),
    ("crc32fast", &["logstore"]),
    ("memmap2", &["logstore"]),
    ("serde_yaml", &["chatd"]),
    ("tracing", &["chatd", "chat-client"]),
];

/// What only some modules of a crate may name: (crate's folder, crate, modules).
const JOINTS: &[(&str, &str, &[&str])] = &[
    // One place joins Raft's log and the engine's.
    ("chatd", "logstore", &["shards"]),
    ("chatd", "raft", &["shards"]),
    ("chatd/core", "raft", &["replica", "host", "store"]),
    ("logstore", "memmap2", &["mmap"]),
];

/// Names of a manifest's section, with or without those of tests.
fn dependencies(folder: &str, section: &str) -> BTreeSet<String> {
    let manifest = read(&format!("{folder}/Cargo.toml"));
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == format!("[{section}]");
        } else if inside && let Some((name, _)) = line.split_once('=') {
            names.insert(name.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    names
}

#[test]
fn crates_use_only_those_below_them() {
    let ours: BTreeSet<&str> = CRATES.iter().map(|(_, package)| *package).collect();
    for (folder, package) in CRATES {
        let (_, may, must_not) = ARROWS
            .iter()
            .find(|(name, ..)| name == package)
            .unwrap_or_else(|| panic!("{package} is not in ARROWS: say what it may use"));
        for used in dependencies(folder, "dependencies") {
            let used = used.as_str();
            assert!(
                !ours.contains(used) || may.contains(&used),
                "{package} must not use {used}: the arrows of ARCHITECTURE.md do not allow it"
            );
            assert!(!must_not.contains(&used), "{package} must not use {used}");
        }
    }
}

#[test]
fn every_crate_of_the_brief_is_used_where_it_is_needed() {
    for (needed, by) in NEEDED {
        for package in *by {
            let (folder, _) = CRATES
                .iter()
                .find(|(_, name)| name == package)
                .expect("a crate of the workspace");
            assert!(
                dependencies(folder, "dependencies").contains(*needed),
                "{package} is to be built on {needed}"
            );
            assert!(
                of_crate(folder).any(|source| has_word(&source.code, needed)),
                "{package} depends on {needed} and does not use it"
            );
        }
    }
}

fn of_crate(folder: &str) -> impl Iterator<Item = &'static Source> {
    SOURCES
        .iter()
        .filter(move |source| source.home == folder && !source.is_test)
}

/// First names of the paths that begin at the crate's root.
fn used_modules(source: &Source) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut rest = source.code.as_str();
    while let Some(at) = rest.find("crate::") {
        let word_before =
            rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        rest = &rest[at + "crate::".len()..];
        if !word_before {
            heads(rest, &mut used);
        }
    }
    let climb = "super::".repeat(source.modules.len());
    if !source.modules.is_empty() {
        let mut rest = source.code.as_str();
        while let Some(at) = rest.find(&climb) {
            let longer = rest[..at].ends_with("super::");
            rest = &rest[at + climb.len()..];
            if !longer {
                heads(rest, &mut used);
            }
        }
    }
    used
}

/// `a::b` gives a; `{a::b, c}` gives a and c.
fn heads(path: &str, into: &mut BTreeSet<String>) {
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        into.insert(word(path));
        return;
    };
    let (mut depth, mut begin) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' if depth == 0 => begin = true,
            c if begin && !c.is_whitespace() => {
                into.insert(word(&group[at..]));
                begin = false;
            }
            _ => {}
        }
    }
}

/// A crate's top-level modules, and which of the others each uses.
fn rooms(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in of_crate(folder) {
        if let Some(room) = source.modules.first().filter(|room| *room != "bin") {
            rooms
                .entry(room.clone())
                .or_default()
                .extend(used_modules(source));
        }
    }
    let names: BTreeSet<String> = rooms.keys().cloned().collect();
    for (room, used) in &mut rooms {
        used.retain(|other| names.contains(other) && other != room);
    }
    rooms
}

fn cycle(
    at: &str,
    rooms: &BTreeMap<String, BTreeSet<String>>,
    way: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<String> {
    if let Some(begin) = way.iter().position(|room| room == at) {
        return Some(format!("{} → {at}", way[begin..].join(" → ")));
    }
    if !done.insert(at.to_owned()) {
        return None;
    }
    way.push(at.to_owned());
    let found = rooms[at]
        .iter()
        .find_map(|next| cycle(next, rooms, way, done));
    way.pop();
    found
}

#[test]
fn no_two_modules_of_a_crate_use_each_other() {
    for (folder, package) in CRATES {
        let rooms = rooms(folder);
        let mut done = BTreeSet::new();
        for room in rooms.keys() {
            let found = cycle(room, &rooms, &mut Vec::new(), &mut done);
            assert_eq!(found, None, "{package}: arrows run in a circle");
        }
    }
}

#[test]
fn a_joint_is_in_one_place() {
    for (folder, used, rooms) in JOINTS {
        for source in of_crate(folder) {
            let room = source.modules.first().map_or("lib", String::as_str);
            let names = has_word(&source.code, &format!("{used}::"))
                || source.code.contains(&format!("use {used}"));
            assert!(
                !names || rooms.contains(&room),
                "{}: only {rooms:?} may name {used}",
                source.path
            );
        }
    }
}

#[test]
fn the_walk_over_paths_finds_them() {
    let found = |code: &str, modules: &[&str]| {
        let source = Source {
            path: String::new(),
            home: "wire",
            modules: modules.iter().map(|module| (*module).to_owned()).collect(),
            code: code.to_owned(),
            code_and_tests: String::new(),
            is_test: false,
        };
        used_modules(&source)
            .into_iter()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(found("use crate::{a::{b, c}, d, e::F};", &["x"]), "a d e");
    assert_eq!(found("fn f() -> crate::g::H {}", &["x"]), "g");
    assert_eq!(
        found("use super::a; use super::super::b;", &["x", "y"]),
        "b"
    );
    let rooms = BTreeMap::from([
        ("a".to_owned(), BTreeSet::from(["b".to_owned()])),
        ("b".to_owned(), BTreeSet::from(["a".to_owned()])),
    ]);
    let circle = cycle("a", &rooms, &mut Vec::new(), &mut BTreeSet::new());
    assert_eq!(circle.as_deref(), Some("a → b → a"));
}
