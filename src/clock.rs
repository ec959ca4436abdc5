//! The two clocks. No other file reads a clock: code gets a time from its caller or asks here, so that the cores stay free of time.

use std::time::{Instant, SystemTime};

/// Monotonic time, for deadlines and ages.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn instant() -> Instant {
    Instant::now()
}

/// Time of day, for certificates, policies and records.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
