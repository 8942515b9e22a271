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
//! | 2 | issue 8 | `after` moves a number by seconds, not by a day; the size of a body is looked at after dedup; whether a SEND is in its turn is asked last; changes of groups are no incoming messages; the event of an addition names those who join |

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

    /// A body beyond the limit is refused before anybody asks whether it is a retry.
    pub(crate) const fn size_before_dedup(self) -> bool {
        matches!(self, Self::One)
    }

    /// A SEND behind one that came to nothing is OUT_OF_ORDER, also if it would be refused
    /// for good itself.
    pub(crate) const fn turn_before_rights(self) -> bool {
        matches!(self, Self::One)
    }

    /// A change of a group stands among the incoming messages of its members, so that it
    /// counts as unread and marks can stand on it.
    pub(crate) const fn changes_are_incoming(self) -> bool {
        matches!(self, Self::One)
    }

    /// The event of an addition also names who was a member before.
    pub(crate) const fn additions_name_members(self) -> bool {
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
