//! Types of settings: how each is read from text, and what bounds it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;

use crate::edge::auth::Signer;

/// A value as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// One value; variables and flags separate those of a list with commas.
    Text(String),
    /// A YAML list.
    List(Vec<String>),
}

impl Raw {
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::List(items) => format!("{items:?}"),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.trim()),
            Self::List(_) => None,
        }
    }

    fn list(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .collect(),
            Self::List(items) => items.iter().map(|item| item.trim()).collect(),
        }
    }
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A number between these.
    Range(u64, u64),
    /// What these words say, which the type checks.
    Words(&'static str),
}

impl Bound {
    /// For people.
    #[must_use]
    pub fn shown(&self, unit: &str) -> String {
        match self {
            Self::Range(low, high) if unit.is_empty() => format!("a number from {low} to {high}"),
            Self::Range(low, high) => format!("a number of {unit} from {low} to {high}"),
            Self::Words(words) => (*words).to_owned(),
        }
    }
}

/// A type of settings.
pub(super) trait Value: Sized {
    /// `None` if it is no such value.
    fn read(raw: &Raw, bound: Bound) -> Option<Self>;
}

fn number(raw: &Raw, bound: Bound) -> Option<u64> {
    let number = raw.text()?.replace('_', "").parse().ok()?;
    match bound {
        Bound::Range(low, high) => (low..=high).contains(&number).then_some(number),
        Bound::Words(_) => Some(number),
    }
}

impl Value for u64 {
    fn read(raw: &Raw, bound: Bound) -> Option<Self> {
        number(raw, bound)
    }
}

impl Value for u32 {
    fn read(raw: &Raw, bound: Bound) -> Option<Self> {
        number(raw, bound)?.try_into().ok()
    }
}

impl Value for u16 {
    fn read(raw: &Raw, bound: Bound) -> Option<Self> {
        number(raw, bound)?.try_into().ok()
    }
}

impl Value for usize {
    fn read(raw: &Raw, bound: Bound) -> Option<Self> {
        number(raw, bound)?.try_into().ok()
    }
}

impl Value for bool {
    fn read(raw: &Raw, _: Bound) -> Option<Self> {
        match raw.text()? {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
}

impl Value for String {
    fn read(raw: &Raw, _: Bound) -> Option<Self> {
        raw.text().filter(|text| !text.is_empty()).map(Into::into)
    }
}

impl Value for PathBuf {
    fn read(raw: &Raw, bound: Bound) -> Option<Self> {
        String::read(raw, bound).map(Into::into)
    }
}

impl Value for SocketAddr {
    fn read(raw: &Raw, _: Bound) -> Option<Self> {
        raw.text()?.parse().ok()
    }
}

impl Value for IpNet {
    /// A network, or an address alone.
    fn read(raw: &Raw, _: Bound) -> Option<Self> {
        let text = raw.text()?;
        let alone = || text.parse::<IpAddr>().ok().map(Self::from);
        text.parse().ok().or_else(alone)
    }
}

impl Value for Signer {
    fn read(raw: &Raw, _: Bound) -> Option<Self> {
        raw.text()?.parse().ok()
    }
}

impl<T: Value> Value for Option<T> {
    fn read(raw: &Raw, bound: Bound) -> Option<Self> {
        match raw.text() {
            Some("") => Some(None),
            _ => T::read(raw, bound).map(Some),
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(raw: &Raw, bound: Bound) -> Option<Self> {
        raw.list()
            .into_iter()
            .map(|item| T::read(&Raw::Text(item.into()), bound))
            .collect()
    }
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

impl Value for LogFormat {
    fn read(raw: &Raw, _: Bound) -> Option<Self> {
        match raw.text()? {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}
