//! What the checker found, by rule.

use std::fmt;

/// Violations that are kept with their text; more are only counted.
const KEPT: usize = 50;

/// The rules that the checker knows. A report names them by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// 1: an acknowledged message is once on each device entitled to it.
    ExactlyOnce = 1,
    /// 2: one position holds one event for ever, one message has one number.
    OneBody = 2,
    /// 3: sequence numbers have no gaps.
    Gapless = 3,
    /// 4: what was said later stands later.
    Order = 4,
    /// 5: marks are what acknowledgements imply, and only rise.
    Marks = 5,
    /// 6: members at the position of the message get it, nobody else.
    MembersOnly = 6,
    /// 7: no body that nobody sent.
    NobodySent = 7,
    /// 8: history equals what was delivered, in order of `msg_id`.
    History = 8,
}

/// One thing that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Of which rule.
    pub rule: Rule,
    /// Where and how.
    pub text: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every rule holds.
    Pass,
    /// One does not.
    Fail,
    /// Nothing is wrong, but fewer than half of the attempts were answered: the run
    /// shows nothing.
    Unknown,
}

/// The findings of one run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The first violations.
    pub violations: Vec<Violation>,
    /// How many there were of each rule, by its number.
    pub counts: [u64; 9],
    /// Messages that somebody tried to send.
    pub attempts: usize,
    /// Of these, acknowledged.
    pub acknowledged: usize,
    /// Of these, refused for good.
    pub refused: usize,
    /// Of these, never answered.
    pub unknown: usize,
    /// Acknowledged messages that a device lacks, one a device.
    pub lost: u64,
    /// Devices looked at.
    pub devices: usize,
}

impl Report {
    pub(super) fn add(&mut self, rule: Rule, text: impl FnOnce() -> String) {
        self.counts[rule as usize] += 1;
        if self.violations.len() < KEPT {
            self.violations.push(Violation { rule, text: text() });
        }
    }

    /// Violations of `rule`.
    #[must_use]
    pub fn of(&self, rule: Rule) -> u64 {
        self.counts[rule as usize]
    }

    /// All violations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Pass, fail or nothing learned.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.total() > 0 {
            Verdict::Fail
        } else if self.acknowledged * 2 < self.attempts - self.refused {
            Verdict::Unknown
        } else {
            Verdict::Pass
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {} attempts, {} acknowledged, {} refused, {} unknown, {} devices",
            self.verdict(),
            self.attempts,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.devices
        )?;
        for violation in &self.violations {
            write!(
                f,
                "\n  rule {} {:?}: {}",
                violation.rule as usize, violation.rule, violation.text
            )?;
        }
        let kept = self.violations.len() as u64;
        if self.total() > kept {
            write!(f, "\n  and {} more", self.total() - kept)?;
        }
        Ok(())
    }
}
