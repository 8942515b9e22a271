//! What an operator can choose: one YAML file, then the environment, then flags; the
//! later ones win. Checked once, here; everything else takes plain values.
//!
//! All settings stand in one table ([`table`]), from which the file, the variables,
//! the flags and `docs/configuration.md` follow: a setting cannot be undocumented.
//! Every mistake is reported, not only the first, with its place and the nearest
//! known name.

mod check;
mod file;
pub mod flags;
mod reference;
pub mod table;
mod value;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf};

pub use check::Mode;
pub use reference::reference;
pub use table::Settings;
pub use value::LogFormat;

use table::{Row, TABLE};
use value::Raw;

/// Prefix of variables.
const PREFIX: &str = "CHATD_";
/// The variable that names the file; `--config` does the same.
pub const CONFIG_VARIABLE: &str = "CHATD_CONFIG";

/// Everything that is wrong with the settings.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsError(pub Vec<Problem>);

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("the settings file {path} cannot be read: {error}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        error: String,
    },
    /// It is no YAML, or not of the shape of settings.
    #[error("{origin}: {error}")]
    Shape {
        /// Where.
        origin: Origin,
        /// What.
        error: String,
    },
    /// A key that does not exist.
    #[error("{origin}: there is no setting `{key}`{}", nearest.map_or_else(String::new, |n| format!("; did you mean `{n}`?")))]
    Unknown {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// The known key that is most like it.
        nearest: Option<&'static str>,
    },
    /// A key that stands twice.
    #[error("{origin}: `{key}` was set before, in line {before}: keep one of them")]
    Duplicate {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// The line of the first.
        before: usize,
    },
    /// A value that is none.
    #[error("{origin}: `{key}` is {given}, but must be {wanted}")]
    Value {
        /// Where.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What was given.
        given: String,
        /// What could be.
        wanted: String,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Together(String),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    File {
        /// Its path.
        path: String,
        /// The line, from 1, if it could be found.
        line: Option<usize>,
    },
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(String),
    /// The table.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                line: Some(line),
            } => write!(f, "{path}, line {line}"),
            Self::File { path, line: None } => write!(f, "{path}"),
            Self::Environment(name) => write!(f, "the variable {name}"),
            Self::Flag(flag) => write!(f, "the flag {flag}"),
            Self::Default => write!(f, "the default"),
        }
    }
}

/// What is given for each key, the last layer's.
#[derive(Default)]
struct Given(BTreeMap<&'static str, (Raw, Origin)>);

/// Where settings are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Variables of the environment.
    pub environment: Vec<(String, String)>,
    /// (key, value, the flag as it was typed).
    pub flags: Vec<(String, String, String)>,
}

/// Reads and checks all settings.
///
/// # Errors
/// [`SettingsError`] with everything that is wrong.
pub fn load(sources: &Sources) -> Result<Settings, SettingsError> {
    let mut problems = Vec::new();
    let mut given = Given::default();
    if let Some(path) = &sources.file {
        for (key, raw, origin) in file::read(path, &mut problems) {
            given.put(&key, raw, origin, &mut problems);
        }
    }
    for (name, text) in &sources.environment {
        given.put_variable(name, text);
    }
    for (key, text, flag) in &sources.flags {
        given.put(
            key,
            Raw::Text(text.clone()),
            Origin::Flag(flag.clone()),
            &mut problems,
        );
    }
    let settings = Settings::build(&given, &mut problems);
    if problems.is_empty() {
        check::together(&settings, &mut problems);
    }
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(SettingsError(problems))
    }
}

impl Given {
    fn put(&mut self, key: &str, raw: Raw, origin: Origin, problems: &mut Vec<Problem>) {
        if let Some(row) = TABLE.iter().find(|row| row.key == key) {
            self.0.insert(row.key, (raw, origin));
        } else {
            problems.push(Problem::Unknown {
                origin,
                key: key.into(),
                nearest: nearest(key),
            });
        }
    }

    /// A variable of no setting is passed over, see [`unknown_variables`].
    fn put_variable(&mut self, name: &str, text: &str) {
        if !name.starts_with(PREFIX) || name == CONFIG_VARIABLE {
            return;
        }
        let row = TABLE.iter().find(|row| variable(row) == name);
        if let Some(row) = row {
            let origin = Origin::Environment(name.into());
            self.0.insert(row.key, (Raw::Text(text.into()), origin));
        }
    }
}

/// Variables that look like settings and are none. They are no error: Kubernetes
/// itself sets `CHATD_PORT` and the like beside a service that is called `chatd`.
#[must_use]
pub fn unknown_variables(sources: &Sources) -> Vec<&str> {
    let names = sources.environment.iter().map(|(name, _)| name.as_str());
    names
        .filter(|name| name.starts_with(PREFIX) && *name != CONFIG_VARIABLE)
        .filter(|name| !TABLE.iter().any(|row| variable(row) == *name))
        .collect()
}

/// The variable of a setting: `edge.max_connections` is `CHATD_EDGE_MAX_CONNECTIONS`.
fn variable(row: &Row) -> String {
    format!("{PREFIX}{}", row.key.replace('.', "_").to_ascii_uppercase())
}

/// The known key that is most like `key`, if any is like it.
fn nearest(key: &str) -> Option<&'static str> {
    let last = |key: &'_ str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |row: &Row| {
        let whole = strsim::jaro_winkler(key, row.key);
        // The right name in the wrong section counts almost as much.
        whole.max(strsim::jaro_winkler(&last(key), &last(row.key)) * 0.98)
    };
    TABLE
        .iter()
        .map(|row| (likeness(row), row.key))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

/// Whether every address is on this machine only.
#[must_use]
pub fn all_loopback(addresses: &[SocketAddr]) -> bool {
    addresses.iter().all(|address| address.ip().is_loopback())
}

#[cfg(test)]
mod tests;
