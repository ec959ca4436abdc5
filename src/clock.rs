//! The two clocks, and who keeps the timers of sessions. No other file reads a clock: code gets a time from its caller or asks here, so
//! that the cores stay free of time.

use std::{
    cell::OnceCell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
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

/// Monotonic time since some moment, as of the system's last tick: mostly up to 10 ms late, and later where a hypervisor withholds the
/// processor. Reading it costs a fraction of [`instant`], which matters where each step of each session asks.
#[must_use]
pub(crate) fn tick() -> Duration {
    since_zero(ClockId::MonotonicCoarse)
}

/// [`wall`] as of the system's last tick: for what is asked for each message and has whole seconds. It may be before a [`wall`] that was
/// read earlier, so an age has both its ends from here.
#[must_use]
pub(crate) fn wall_tick() -> SystemTime {
    UNIX_EPOCH + since_zero(ClockId::RealtimeCoarse)
}

/// What the clock shows; zero for a time before its zero, such as 1970.
fn since_zero(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}

/// Whole seconds since 1970; 0 for a time before that.
#[must_use]
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clocks_go_forward_and_are_never_ahead_of_the_precise_one() {
        let (tick, at) = (tick(), wall_tick());
        assert!(at <= wall());
        assert!(super::tick() >= tick && wall_tick() >= at);
    }
}
