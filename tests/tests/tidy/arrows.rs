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
        &["chat-client", "chat-wire", "logstore"],
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
    // One place joins Raft's log and the engine's; the server opens the directory.
    ("chatd", "logstore", &["shards", "server"]),
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

/// A module as its path below the crate's root.
type Module = Vec<String>;

/// The paths that a source names by `crate::` and `super::`, from the crate's root.
fn named_paths(source: &Source) -> Vec<Module> {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == ':';
    let mut paths = Vec::new();
    for (at, _) in source.code.match_indices("crate::") {
        if !source.code[..at].ends_with(part) {
            expand(&source.code[at + "crate::".len()..], &[], &mut paths);
        }
    }
    for (at, _) in source.code.match_indices("super::") {
        if source.code[..at].ends_with(part) {
            continue;
        }
        let (mut rest, mut base) = (&source.code[at..], source.modules.as_slice());
        while let Some(shorter) = rest.strip_prefix("super::") {
            rest = shorter;
            base = &base[..base.len().saturating_sub(1)];
        }
        expand(rest, base, &mut paths);
    }
    paths
}

/// `a::{b::c, d}` below a base: a path for each leaf. Returns the bytes it read.
fn expand(text: &str, base: &[String], into: &mut Vec<Module>) -> usize {
    if let Some(group) = text.strip_prefix('{') {
        let mut at = 0;
        loop {
            at += group[at..].len() - group[at..].trim_start_matches([' ', '\n', ',']).len();
            if at >= group.len() || group[at..].starts_with('}') {
                return at + 2;
            }
            let read = expand(&group[at..], base, into);
            at += read;
            // ` as name` and the like.
            at += group[at..].find([',', '}']).unwrap_or(0);
        }
    }
    let word: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    let mut path = base.to_vec();
    path.push(word.clone());
    let rest = &text[word.len()..];
    match rest.strip_prefix("::") {
        Some(rest) if !word.is_empty() && !rest.starts_with('<') => {
            word.len() + 2 + expand(rest, &path, into)
        }
        _ => {
            into.push(path);
            word.len().max(1)
        }
    }
}

/// A crate's files, and which of the others each uses. A top-level module with what is
/// inside it is one room: its files are written together, so arrows count between rooms.
fn arrows(folder: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let files: BTreeSet<Module> = of_crate(folder)
        .map(|source| source.modules.clone())
        .filter(|modules| modules.first().is_some_and(|first| first != "bin"))
        .collect();
    let mut arrows = BTreeMap::new();
    for source in of_crate(folder).filter(|source| files.contains(&source.modules)) {
        let used = named_paths(source)
            .into_iter()
            .filter_map(|path| {
                (1..=path.len())
                    .rev()
                    .map(|length| path[..length].to_vec())
                    .find(|module| files.contains(module))
            })
            .filter(|used| used[0] != source.modules[0]);
        arrows.insert(source.modules.clone(), used.collect());
    }
    arrows
}

fn circle(
    at: &Module,
    arrows: &BTreeMap<Module, BTreeSet<Module>>,
    way: &mut Vec<Module>,
    done: &mut BTreeSet<Module>,
) -> Option<String> {
    if let Some(begin) = way.iter().position(|module| module == at) {
        let names = way[begin..]
            .iter()
            .chain([at])
            .map(|module| module.join("/"));
        return Some(names.collect::<Vec<_>>().join(" → "));
    }
    if !done.insert(at.clone()) {
        return None;
    }
    way.push(at.clone());
    let found = arrows[at]
        .iter()
        .find_map(|next| circle(next, arrows, way, done));
    way.pop();
    found
}

#[test]
fn no_arrow_between_rooms_runs_back_up() {
    let mut circles = Vec::new();
    for (folder, package) in CRATES {
        let arrows = arrows(folder);
        let mut done = BTreeSet::new();
        for module in arrows.keys() {
            if let Some(found) = circle(module, &arrows, &mut Vec::new(), &mut done) {
                circles.push(format!("{package}: {found}"));
            }
        }
    }
    assert!(circles.is_empty(), "arrows run in circles: {circles:#?}");
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
        let paths = named_paths(&source);
        let paths: Vec<_> = paths.iter().map(|path| path.join("/")).collect();
        paths.join(" ")
    };
    assert_eq!(
        found("use crate::{a::{b, c as x}, d, e::F};", &["x"]),
        "a/b a/c d e/F"
    );
    assert_eq!(found("fn f() -> crate::g::H<u8> {}", &["x"]), "g/H");
    assert_eq!(
        found("use super::a; use super::super::{b, c};", &["x", "y"]),
        "x/a b c"
    );
    let (a, b) = (vec!["a".to_owned()], vec!["b".to_owned()]);
    let arrows = BTreeMap::from([
        (a.clone(), BTreeSet::from([b.clone()])),
        (b, BTreeSet::from([a.clone()])),
    ]);
    let found = circle(&a, &arrows, &mut Vec::new(), &mut BTreeSet::new());
    assert_eq!(found.as_deref(), Some("a → b → a"));
}
