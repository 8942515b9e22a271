//! What `step` has found so far, and the loop that fetches what it asks for.

use std::cell::Cell;

use crate::{
    command::Command,
    shard::{Context, Effects, Needs, Step, keys, step::step},
    store::{Key, Range, ReadRows, Row, ShardStore, Unreadable},
};

/// Rounds of one command at most; rosters longer than a page take one more a page.
/// More than these is a defect: the shard stops rather than spin.
pub const MAX_ROUNDS: usize = 4096;

/// Where rows are read: a store, or a store under the writes of an unfinished entry.
pub trait Rows {
    /// Reads a row.
    ///
    /// # Errors
    /// [`Unreadable`] if it may exist but cannot be verified.
    fn row(&mut self, key: &Key) -> Result<Option<Row>, Unreadable>;

    /// Reads rows in order.
    ///
    /// # Errors
    /// [`Unreadable`] if one may exist but cannot be verified.
    fn rows(&mut self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable>;

    /// Counts rows of a posting family.
    ///
    /// # Errors
    /// [`Unreadable`] if one may exist but cannot be verified.
    fn count(&mut self, from: &Key, to: &Key) -> Result<u64, Unreadable>;
}

impl<S: ShardStore> Rows for &S {
    fn row(&mut self, key: &Key) -> Result<Option<Row>, Unreadable> {
        self.get(key)
    }

    fn rows(&mut self, range: &Range) -> Result<Vec<(Key, Row)>, Unreadable> {
        self.range(range)
    }

    fn count(&mut self, from: &Key, to: &Key) -> Result<u64, Unreadable> {
        ReadRows::count(*self, from, to)
    }
}

/// Rows, ranges and counts that were read for one command.
#[derive(Clone, Debug, Default)]
pub struct Found {
    rows: Vec<(Key, Option<Row>)>,
    ranges: Vec<(Range, Vec<(Key, Row)>)>,
    counts: Vec<((Key, Key), u64)>,
    // Rows and ranges are mostly looked up in the order in which they were asked for.
    next: Cell<usize>,
    next_range: Cell<usize>,
}

impl Found {
    /// Forgets everything, for the next command.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.ranges.clear();
        self.counts.clear();
        self.next.set(0);
        self.next_range.set(0);
    }

    /// Reads what every command needs, so that most need one round more.
    ///
    /// # Errors
    /// [`Unreadable`] if a row cannot be read or verified.
    pub fn begin(&mut self, from: &mut impl Rows) -> Result<(), Unreadable> {
        self.clear();
        for key in [keys::settings(), keys::incarnation(), keys::last()] {
            self.rows.push((key, from.row(&key)?));
        }
        Ok(())
    }

    /// Reads what `step` asked for.
    ///
    /// # Errors
    /// [`Unreadable`] if a row cannot be read or verified.
    pub fn fill(&mut self, needs: &Needs, from: &mut impl Rows) -> Result<(), Unreadable> {
        self.next.set(self.rows.len());
        self.next_range.set(self.ranges.len());
        self.rows.reserve(needs.keys.len());
        for key in &needs.keys {
            self.rows.push((*key, from.row(key)?));
        }
        for range in &needs.ranges {
            self.ranges.push((*range, from.rows(range)?));
        }
        for (low, high) in &needs.counts {
            self.counts.push(((*low, *high), from.count(low, high)?));
        }
        Ok(())
    }

    /// A row, if it was read: `Some(None)` is known to be absent.
    #[must_use]
    pub fn row(&self, key: &Key) -> Option<Option<&Row>> {
        let at = find(&self.rows, self.next.get(), |(found, _)| found == key)?;
        self.next.set(at + 1);
        Some(self.rows[at].1.as_ref())
    }

    /// The rows of a range, if it was read.
    #[must_use]
    pub fn range(&self, range: &Range) -> Option<&[(Key, Row)]> {
        let at = find(&self.ranges, self.next_range.get(), |(found, _)| {
            found == range
        })?;
        self.next_range.set(at + 1);
        Some(&self.ranges[at].1)
    }

    /// The number of rows of a range, if it was counted.
    #[must_use]
    pub fn count(&self, from: &Key, to: &Key) -> Option<u64> {
        self.counts
            .iter()
            .find(|((low, high), _)| low == from && high == to)
            .map(|(_, count)| *count)
    }
}

/// Where something stands that is probably near `next`: there first, then anywhere.
fn find<T>(all: &[T], next: usize, is: impl Fn(&T) -> bool) -> Option<usize> {
    const NEAR: usize = 4;
    let near = next.min(all.len());
    (near..all.len().min(near + NEAR))
        .chain(near.saturating_sub(NEAR)..near)
        .find(|at| is(&all[*at]))
        .or_else(|| all.iter().position(is))
}

/// Steps a command until it needs nothing more. `found` is scratch space.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified: nothing may be applied.
pub fn drive(
    context: &Context<'_>,
    command: &Command,
    found: &mut Found,
    rows: &mut impl Rows,
) -> Result<Effects, Unreadable> {
    found.begin(rows)?;
    for _ in 0..MAX_ROUNDS {
        match step(context, command, found) {
            Step::Needs(needs) => found.fill(&needs, rows)?,
            Step::Effects(effects) => return Ok(*effects),
            Step::Unreadable(unreadable) => return Err(unreadable),
        }
    }
    Err(Unreadable(format!(
        "a command of kind {} still asks for rows after {MAX_ROUNDS} rounds",
        command.kind()
    )))
}

/// Steps a command over a store until it needs nothing more. For several commands of
/// one entry see [`super::entry::Entry`].
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified: nothing may be applied.
pub fn run(
    context: &Context<'_>,
    command: &Command,
    store: &impl ShardStore,
) -> Result<Effects, Unreadable> {
    drive(context, command, &mut Found::default(), &mut &*store)
}
