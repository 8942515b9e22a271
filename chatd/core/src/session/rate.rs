//! A token bucket in whole numbers: thousandths of a request, refilled by the clock
//! that is given.

use crate::message::Now;

/// What a device may send: `rate` a second on average, `burst` at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    thousandths: u64,
    at_ms: u64,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Now, burst: u32) -> Self {
        Self {
            thousandths: u64::from(burst) * 1000,
            at_ms: now.mono_ms,
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// After how many ms there will be one.
    pub(super) fn take(&mut self, now: Now, rate: u32, burst: u32) -> Result<(), u32> {
        let elapsed_ms = now.mono_ms.saturating_sub(self.at_ms);
        let refill = elapsed_ms.saturating_mul(u64::from(rate));
        self.thousandths = self
            .thousandths
            .saturating_add(refill)
            .min(u64::from(burst) * 1000);
        self.at_ms = self.at_ms.max(now.mono_ms);
        if let Some(left) = self.thousandths.checked_sub(1000) {
            self.thousandths = left;
            return Ok(());
        }
        let missing = 1000 - self.thousandths;
        Err(u32::try_from(missing.div_ceil(u64::from(rate.max(1)))).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now {
            mono_ms,
            unix_ms: 0,
        }
    }

    #[test]
    fn a_burst_passes_then_the_rate_and_the_time_to_wait_is_exact() {
        let mut bucket = Bucket::new(at(0), 5);
        for _ in 0..5 {
            assert_eq!(bucket.take(at(0), 100, 5), Ok(()));
        }
        assert_eq!(bucket.take(at(0), 100, 5), Err(10));
        assert_eq!(bucket.take(at(9), 100, 5), Err(1));
        assert_eq!(bucket.take(at(10), 100, 5), Ok(()));
        // Idle time never saves up more than the burst.
        let passed = (0..100)
            .filter(|_| bucket.take(at(1_000_000), 100, 5).is_ok())
            .count();
        assert_eq!(passed, 5);
    }
}
