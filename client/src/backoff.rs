//! Pauses that grow and are spread by chance, so that a thousand clients do not
//! come back in the same millisecond.

use std::time::Duration;

/// Pauses between attempts: `first · 2ⁿ` up to `longest`, each drawn from the upper
/// half of its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure, ms.
    pub first_ms: u64,
    /// No pause is longer, ms.
    pub longest_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first_ms: 100,
            longest_ms: 10_000,
        }
    }
}

impl Backoff {
    /// The pause after `failures` failures in a row (1 for the first). `chance` is any
    /// random number.
    #[must_use]
    pub fn pause(&self, failures: u32, chance: u64) -> Duration {
        let doubled = self.first_ms.max(1).saturating_mul(
            1_u64
                .checked_shl(failures.saturating_sub(1))
                .unwrap_or(u64::MAX),
        );
        let span = doubled.min(self.longest_ms.max(1));
        let half = span / 2;
        Duration::from_millis(half + chance % (span - half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_stay_within_their_bound_and_use_chance() {
        let backoff = Backoff {
            first_ms: 100,
            longest_ms: 5_000,
        };
        for failures in 1..200 {
            let span = 100_u64
                .saturating_mul(1 << (failures - 1).min(20))
                .min(5_000);
            for chance in [0, 1, 7_777, u64::MAX] {
                let pause = backoff.pause(failures, chance).as_millis();
                assert!((u128::from(span / 2)..=u128::from(span)).contains(&pause));
            }
        }
        assert_ne!(backoff.pause(3, 0), backoff.pause(3, 17));
    }
}
