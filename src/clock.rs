//! The two clocks, and who keeps the timers of sessions. No other file reads a clock: code gets a time from its caller or asks here, so
//! that the cores stay free of time.

use std::{
    cell::OnceCell,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{runtime::Handle, time::Sleep};

thread_local! {
    /// The runtime that keeps the long timers of this thread.
    static TIMEKEEPER: OnceCell<Handle> = const { OnceCell::new() };
}

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

/// From now on `timekeeper` keeps this thread's long timers. It must outlive them. A thread that has a timer of its own arms and disarms
/// one in the system each time it waits for a connection, which costs more than a step of most sessions.
pub(crate) fn leave_timers_to(timekeeper: Handle) {
    TIMEKEEPER.with(|it| {
        let _ = it.set(timekeeper); // the first one goes on
    });
}

/// A timer that lasts for many waits. Without [`leave_timers_to`] the thread's own runtime keeps it.
pub(crate) fn long_timer(until: Instant) -> Sleep {
    TIMEKEEPER.with(|it| {
        let _entered = it.get().map(Handle::enter);
        tokio::time::sleep_until(until.into())
    })
}

/// Whole seconds since 1970; 0 for a time before that.
#[must_use]
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
