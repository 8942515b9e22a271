//! What the formats of a batch mean. An entry is applied by the rules that held when it was
//! proposed, for ever: what was acknowledged and not yet written to segments is applied again
//! at the next start, by a newer binary perhaps, and must become the same rows.
//!
//! A rule of the state machine changes with a new format only. Here is what each format
//! changed, and nowhere else; the rule asks by name, and keeps its older form beside it.
//!
//! | format | since | changed |
//! | --- | --- | --- |
//! | 1 | the first release | |
//! | 2 | issue 8 | `after` moves a number by seconds, not by a day |

/// The rules of one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rules {
    /// As the first release applied its entries.
    One,
    /// What is written now.
    Two,
}

impl Rules {
    /// Those of what is written.
    pub const WRITTEN: Self = Self::Two;

    /// The number in the entry.
    #[must_use]
    pub const fn format(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// The rules of a format; none if a newer version wrote it.
    #[must_use]
    pub const fn of(format: u8) -> Option<Self> {
        match format {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        }
    }

    /// `after` counts up to a day ahead of the clock, and what is above is cut to that.
    pub(crate) const fn after_counts_a_day(self) -> bool {
        matches!(self, Self::One)
    }
}

/// A payload as a binary that wrote this format would have written it: the layout is the
/// same.
#[cfg(test)]
pub(crate) fn in_format(payload: bytes::Bytes, rules: Rules) -> bytes::Bytes {
    let mut payload = payload.to_vec();
    payload[0] = rules.format();
    payload.into()
}
