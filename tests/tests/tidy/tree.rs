//! The repository's files, and Rust sources without what is not code.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Folders of crates, and their packages.
pub(crate) const CRATES: &[(&str, &str)] = &[
    ("wire", "chat-wire"),
    ("logstore", "logstore"),
    ("chatd/core", "chat-core"),
    ("chatd", "chatd"),
    ("client", "chat-client"),
    ("chatctl", "chatctl"),
    ("bench", "bench"),
    ("xtask", "xtask"),
    ("tests", "chat-tests"),
];

/// What holds nothing of ours; `.git` is a file in a second work tree.
const FOREIGN: &[&str] = &[
    "target",
    ".git",
    ".cache",
    "chatd-data",
    "node_modules",
    "__pycache__",
];

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A file of the repository; its path is relative to the root.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every text file, in the order of paths.
pub(crate) static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let mut files = Vec::new();
    walk(&root(), "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 50, "this is no checkout of the repository");
    files
});

fn walk(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let entry = entry.expect("an entry of it");
        let name = entry.file_name().to_string_lossy().into_owned();
        if FOREIGN.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type().expect("its type").is_dir() {
            walk(&entry.path(), &format!("{path}/"), files);
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            files.push(File { path, text });
        }
    }
}

/// A Rust source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    /// The folder of its crate.
    pub(crate) home: &'static str,
    /// Its modules below the crate's root: `edge/tls.rs` is `["edge", "tls"]`.
    pub(crate) modules: Vec<String>,
    /// Comments and the insides of texts are blank, and tests are cut off.
    pub(crate) code: String,
    /// The same with its tests.
    pub(crate) code_and_tests: String,
    /// It is a test as a whole.
    pub(crate) is_test: bool,
}

/// Every Rust source of the workspace's crates.
pub(crate) static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut sources: Vec<Source> = FILES
        .iter()
        .filter(|file| {
            Path::new(&file.path)
                .extension()
                .is_some_and(|kind| kind == "rs")
        })
        .filter_map(source)
        .collect();
    let only_tests: Vec<_> = sources.iter().flat_map(modules_of_tests).collect();
    for source in &mut sources {
        source.is_test |= only_tests
            .iter()
            .any(|(home, modules)| source.home == *home && source.modules.starts_with(modules));
    }
    sources
});

fn source(file: &File) -> Option<Source> {
    // The longest folder: chatd/core is not chatd.
    let home = CRATES
        .iter()
        .map(|(folder, _)| *folder)
        .filter(|folder| file.path.starts_with(&format!("{folder}/")))
        .max_by_key(|folder| folder.len())?;
    let within = &file.path[home.len() + 1..];
    let in_src = within.strip_prefix("src/");
    let modules: Vec<String> = in_src
        .unwrap_or(within)
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .filter(|module| module != "lib" && module != "main")
        .collect();
    let is_test = in_src.is_none() || modules.iter().any(|module| module.ends_with("tests"));
    let code_and_tests = blank(&file.text);
    Some(Source {
        path: file.path.clone(),
        home,
        modules,
        code: without_tests(&code_and_tests).to_owned(),
        code_and_tests,
        is_test,
    })
}

/// Modules that a source declares for tests only: `#[cfg(test)] mod name;`.
fn modules_of_tests(source: &Source) -> Vec<(&'static str, Vec<String>)> {
    let declared = source
        .code
        .split("#[cfg(test)]")
        .skip(1)
        .filter_map(|after| {
            let (declaration, _) = after.split_once(';')?;
            let (visibility, name) = declaration.trim().rsplit_once("mod ")?;
            let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
            let is_visibility = visibility.is_empty() || visibility.starts_with("pub");
            (is_name && is_visibility).then(|| name.to_owned())
        });
    declared
        .map(|name| (source.home, [source.modules.as_slice(), &[name]].concat()))
        .collect()
}

/// Cuts at an inline test module, which house style puts last.
fn without_tests(code: &str) -> &str {
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let at = from + found;
        let after = code[at + "#[cfg(test)]".len()..].trim_start();
        let line = after.lines().next().unwrap_or_default();
        if line.starts_with("mod ") && line.trim_end().ends_with('{') {
            return &code[..at];
        }
        from = at + 1;
    }
    code
}

/// The same text with blanks for comments and for what is within quotation marks;
/// line breaks stay.
pub(crate) fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let hide = |out: &mut Vec<u8>, from: usize, to: usize| {
        out.extend(
            bytes[from..to]
                .iter()
                .map(|b| if *b == b'\n' { b'\n' } else { b' ' }),
        );
    };
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => text_end(bytes, at + 1),
            b'r' if !is_word_before(bytes, at) => match raw_end(bytes, at) {
                Some(end) => end,
                None => at,
            },
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            hide(&mut out, at, end);
            at = end;
        }
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

fn is_word_before(bytes: &[u8], at: usize) -> bool {
    at > 0
        && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
        && bytes[at - 1] != b'b'
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(bytes.len(), |n| at + n)
}

fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn text_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"` or `r#"…"#`, if that is what begins here.
fn raw_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(at + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let from = at + 2 + hashes;
    let length = bytes[from..]
        .windows(close.len())
        .position(|window| window == close)?;
    Some(from + length + close.len())
}

/// The end of a character literal; a lifetime ends where it begins.
fn char_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        return bytes[at + 3..]
            .iter()
            .position(|b| *b == b'\'')
            .map_or(at, |n| at + 4 + n);
    }
    // One character of up to four bytes.
    match bytes[at + 1..].iter().take(5).position(|b| *b == b'\'') {
        Some(n) if n > 0 && (n == 1 || !bytes[at + 1].is_ascii()) => at + n + 2,
        _ => at,
    }
}

/// Whether `word` stands in `code` as a whole word.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

#[test]
fn comments_texts_and_characters_are_blanked_and_code_is_not() {
    let code = "let a = \"unsafe\\\"\"; // unsafe\nlet c = '\"'; /* unsafe /* */ */ f::<'a>(r#\"un\"safe\"#, 'é');";
    let blanked = blank(code);
    assert!(!has_word(&blanked, "unsafe"), "{blanked}");
    assert!(blanked.contains("let c ="), "{blanked}");
    assert!(blanked.contains("f::<'a>("), "{blanked}");
    assert_eq!(blanked.lines().count(), 2);
    assert!(has_word("unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
}
