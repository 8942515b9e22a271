//! The one place that reads clocks: everything below takes [`Now`] as an argument.
//!
//! The monotonic part counts from the start of the process, so that small numbers
//! appear in logs. The other follows the system's clock, backwards too.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chat_core::message::Now;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What time it is.
#[must_use]
pub fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Now {
        mono_ms: mono_ms(),
        unix_ms: millis(unix),
    }
}

/// The monotonic part alone.
#[must_use]
pub fn mono_ms() -> u64 {
    millis(ORIGIN.elapsed())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
