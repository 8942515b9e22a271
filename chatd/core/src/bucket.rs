//! A token bucket in whole numbers that may go into debt: what it fills by and how far are
//! arguments, so that a limit can change under it.
//!
//! Something passes while the bucket is above zero, whatever it costs; then it may be below
//! zero, and nothing passes until it is filled above that again. So one large request is
//! always possible, and pays for itself afterwards. Debt is bounded by [`MAX_DEBT_MS`].

/// The longest that anybody waits for a bucket to fill above zero, in ms: what would be
/// more is forgiven.
pub const MAX_DEBT_MS: u64 = 60_000;

/// How a bucket fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many units …
    pub units: u64,
    /// … in so many ms.
    pub per_ms: u64,
    /// Never above this.
    pub burst: u64,
}

impl Rate {
    /// `units` a second.
    #[must_use]
    pub const fn a_second(units: u64, burst: u64) -> Self {
        Self {
            units,
            per_ms: 1_000,
            burst,
        }
    }

    /// `units` an hour, and so many at once.
    #[must_use]
    pub const fn an_hour(units: u64) -> Self {
        Self {
            units,
            per_ms: 3_600_000,
            burst: units,
        }
    }

    fn scaled(self, units: u64) -> i64 {
        i64::try_from(units.saturating_mul(self.per_ms)).unwrap_or(i64::MAX)
    }

    fn filled_in(self, ms: u64) -> i64 {
        i64::try_from(self.units.saturating_mul(ms)).unwrap_or(i64::MAX)
    }

    fn lowest(self) -> i64 {
        -self.filled_in(MAX_DEBT_MS.max(self.per_ms))
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// In parts of a unit: `per_ms` of them are one, and each ms adds `units`.
    level: i64,
    at_ms: u64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(rate: Rate, now_ms: u64) -> Self {
        Self {
            level: rate.scaled(rate.burst),
            at_ms: now_ms,
        }
    }

    /// One with so many units; fewer than none is debt.
    #[must_use]
    pub fn with(rate: Rate, now_ms: u64, units: i64) -> Self {
        let level = rate.scaled(units.unsigned_abs());
        let level = if units < 0 { -level } else { level };
        Self {
            level: level.clamp(rate.lowest(), rate.scaled(rate.burst)),
            at_ms: now_ms,
        }
    }

    fn fill(&mut self, rate: Rate, now_ms: u64) {
        let gained = rate.filled_in(now_ms.saturating_sub(self.at_ms));
        self.level = self
            .level
            .saturating_add(gained)
            .min(rate.scaled(rate.burst));
        self.at_ms = self.at_ms.max(now_ms);
    }

    /// Whether something passes.
    ///
    /// # Errors
    /// After how many ms something will; at least 1.
    pub fn passes(&mut self, rate: Rate, now_ms: u64) -> Result<(), u32> {
        self.fill(rate, now_ms);
        if self.level > 0 {
            return Ok(());
        }
        let missing = self.level.unsigned_abs() + 1;
        let wait_ms = missing.div_ceil(rate.units.max(1));
        Err(u32::try_from(wait_ms).unwrap_or(u32::MAX))
    }

    /// Takes units, whether there are so many or not.
    pub fn take(&mut self, rate: Rate, now_ms: u64, units: u64) {
        self.fill(rate, now_ms);
        let left = self.level.saturating_sub(rate.scaled(units));
        self.level = left.max(rate.lowest());
    }

    /// Puts back what was taken too much.
    pub fn give_back(&mut self, rate: Rate, units: u64) {
        let level = self.level.saturating_add(rate.scaled(units));
        self.level = level.min(rate.scaled(rate.burst));
    }

    /// Whole units in it now, rounded down.
    #[must_use]
    pub fn units(&mut self, rate: Rate, now_ms: u64) -> i64 {
        self.fill(rate, now_ms);
        self.level
            .div_euclid(i64::try_from(rate.per_ms).unwrap_or(i64::MAX))
    }

    /// Whether it is full: no other than a new one.
    #[must_use]
    pub fn is_full(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.fill(rate, now_ms);
        self.level >= rate.scaled(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::a_second(100, 5);

    #[test]
    fn a_burst_passes_then_the_rate_and_the_time_to_wait_is_true() {
        let mut bucket = Bucket::full(RATE, 0);
        for _ in 0..5 {
            assert_eq!(bucket.passes(RATE, 0), Ok(()));
            bucket.take(RATE, 0, 1);
        }
        assert_eq!(bucket.passes(RATE, 0), Err(1));
        assert_eq!(bucket.passes(RATE, 1), Ok(()));
        bucket.take(RATE, 1, 1);
        assert_eq!(bucket.passes(RATE, 1), Err(10));
        assert_eq!(bucket.passes(RATE, 10), Err(1));
        assert_eq!(bucket.passes(RATE, 11), Ok(()));
        // Idle time never saves up more than the burst.
        assert_eq!(bucket.units(RATE, 1_000_000), 5);
        assert!(bucket.is_full(RATE, 1_000_000));
    }

    #[test]
    fn what_is_dearer_than_the_bucket_passes_once_and_is_paid_for_afterwards() {
        let mut bucket = Bucket::full(RATE, 0);
        assert_eq!(bucket.passes(RATE, 0), Ok(()));
        bucket.take(RATE, 0, 105);
        assert_eq!(bucket.units(RATE, 0), -100);
        let wait_ms = bucket.passes(RATE, 0).unwrap_err();
        assert_eq!(wait_ms, 1_001);
        assert!(bucket.passes(RATE, u64::from(wait_ms) - 1).is_err());
        assert_eq!(bucket.passes(RATE, u64::from(wait_ms)), Ok(()));
    }

    #[test]
    fn debt_is_bounded_and_what_is_given_back_is_never_more_than_the_burst() {
        let mut bucket = Bucket::full(RATE, 0);
        bucket.take(RATE, 0, u64::MAX);
        let wait_ms = bucket.passes(RATE, 0).unwrap_err();
        assert_eq!(u64::from(wait_ms), MAX_DEBT_MS + 1);
        bucket.give_back(RATE, u64::MAX);
        assert_eq!(bucket.units(RATE, 0), 5);
        let hour = Rate::an_hour(2_000);
        let mut bucket = Bucket::with(hour, 0, -10);
        assert_eq!(bucket.passes(hour, 0), Err(18_001));
    }
}
