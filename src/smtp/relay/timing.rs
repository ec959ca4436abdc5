//! The one timer that runs, and the least rate of a message.
//!
//! Without a least rate, a client that sends octet by octet would keep a session, a connection inside and a worker busy without end.

use crate::smtp::{machine::Side, timer::Timer};
use std::time::Duration;

/// The period over which the rate of a message is measured.
const MINUTE: Duration = Duration::from_secs(60);
/// A minute with fewer octets is slow.
const LEAST: u64 = 1000;
/// This many slow minutes in a row end the session.
const MAX_SLOW: u32 = 3;

/// When the session's current wait is over.
#[derive(Debug, Default)]
pub(in crate::smtp) struct Timing {
    timer: Option<(Timer, Duration)>,
    pace: Pace,
    /// By side: something whole was taken since the timer was last set.
    moved: [bool; 2],
    /// The server does not read what it was sent; see [`Machine::set_held_back`](crate::smtp::Machine::set_held_back).
    pub(in crate::smtp) server_stalls: bool,
}

impl Timing {
    /// A whole line of that side, or something of a message, was taken.
    pub(super) fn moved(&mut self, side: Side) {
        self.moved[side as usize] = true;
    }

    /// Octets of the client's message were taken.
    pub(super) fn count(&mut self, octets: usize) {
        self.pace.octets += octets as u64;
    }

    /// Measures the next message afresh.
    pub(super) fn reset_rate(&mut self) {
        self.pace = Pace::default();
    }

    /// Starts, restarts or stops the timer; `awaits` is what the session waits for.
    pub(in crate::smtp) fn set(&mut self, awaits: Option<Timer>, now: Duration) {
        let moved = std::mem::take(&mut self.moved);
        self.pace.run(awaits == Some(Timer::DataBlock), now);
        self.timer = awaits.map(|timer| match self.timer {
            // A minute that was interrupted goes on.
            _ if timer == Timer::DataBlock => {
                (timer, self.pace.due().unwrap_or(now + timer.length()))
            }
            Some((running, due))
                if running == timer
                    && !timer
                        .restarted_by()
                        .is_some_and(|side| moved[side as usize]) =>
            {
                (running, due)
            }
            _ => (timer, now + timer.length()),
        });
    }

    pub(in crate::smtp) fn due(&self) -> Option<Duration> {
        self.timer.map(|(_, due)| due)
    }

    /// The timer that has run out at `now`, if any. A minute of a message runs out only if it was too slow once too often.
    pub(super) fn expired(&mut self, now: Duration) -> Option<Timer> {
        let (timer, _) = self.timer.filter(|(_, due)| *due <= now)?;
        let expired = timer != Timer::DataBlock || self.pace.end_minute(now);
        expired.then_some(timer)
    }
}

/// Measures the time for which the client's octets are awaited, and counts the octets.
#[derive(Debug, Default)]
struct Pace {
    /// Time of the current minute that was used before `since`.
    spent: Duration,
    /// Since when the client is awaited; `None`: it is not.
    since: Option<Duration>,
    octets: u64,
    /// Slow minutes in a row.
    slow: u32,
}

impl Pace {
    /// Says whether the session waits for the client's octets from now on.
    fn run(&mut self, awaited: bool, now: Duration) {
        match (self.since, awaited) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                self.spent += now.saturating_sub(since);
                self.since = None;
            }
            _ => {}
        }
    }

    /// When the current minute ends.
    fn due(&self) -> Option<Duration> {
        self.since
            .map(|since| since + MINUTE.saturating_sub(self.spent))
    }

    /// Ends a minute; true if too many in a row were slow.
    fn end_minute(&mut self, now: Duration) -> bool {
        self.slow = if self.octets < LEAST {
            self.slow + 1
        } else {
            0
        };
        self.octets = 0;
        self.spent = Duration::ZERO;
        self.since = Some(now);
        self.slow >= MAX_SLOW
    }
}
