//! What a benchmark says: one JSON line a bar, the same for all benchmarks.

use serde::Serialize;

/// One bar. `ratio` is how far the value is on the good side of the bar: 1 meets it.
#[derive(Serialize)]
struct Line<'a> {
    bar: &'a str,
    value: f64,
    unit: &'a str,
    against: f64,
    ratio: f64,
    target: f64,
    met: bool,
    rounds: &'a [f64],
}

/// Which side of a bar is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// A rate.
    Higher,
    /// A time or a cost.
    Lower,
}

/// A bar of the table.
pub(crate) struct Bar {
    /// Its name.
    pub(crate) name: String,
    /// Of all its figures.
    pub(crate) unit: &'static str,
    /// Which side is good.
    pub(crate) better: Better,
    /// What must be reached.
    pub(crate) bar: f64,
    /// What should be reached.
    pub(crate) goal: f64,
}

impl Bar {
    /// Prints the median of the rounds beside the bar and the goal.
    pub(crate) fn print(&self, rounds: &[f64]) {
        let value = median(rounds);
        let ratio = match self.better {
            Better::Higher => value / self.bar,
            Better::Lower => self.bar / value,
        };
        let line = Line {
            bar: &self.name,
            value: round(value),
            unit: self.unit,
            against: self.bar,
            ratio: round(ratio),
            target: self.goal,
            met: ratio >= 1.0,
            rounds: &rounds.iter().map(|value| round(*value)).collect::<Vec<_>>(),
        };
        println!("{}", serde_json::to_string(&line).expect("plain numbers"));
    }
}

/// The middle of the rounds; of two, the lower one.
///
/// # Panics
/// Without rounds.
#[must_use]
pub(crate) fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
