//! The least rate of a message: who sends it octet by octet does not keep a session, a connection inside and a worker for ever.

use std::time::Duration;

/// What is counted in one piece.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// A minute with fewer octets is a slow one.
const LEAST: u64 = 1000;
/// So many slow minutes in a row are too many.
const MAX_SLOW: u32 = 3;

/// Counts the time in which the client's octets are waited for, and how many come.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of the current minute, before `since`.
    spent: Duration,
    /// The client is waited for since then; `None`: it is not.
    since: Option<Duration>,
    octets: u64,
    slow: u32,
}

impl Pace {
    /// Octets of the client are here.
    pub(super) fn moved(&mut self, octets: usize) {
        self.octets += octets as u64;
    }

    /// The client is waited for from now on, or it is not.
    pub(super) fn runs(&mut self, waiting: bool, now: Duration) {
        match (self.since, waiting) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                self.spent += now.saturating_sub(since);
                self.since = None;
            }
            _ => {}
        }
    }

    /// When the current minute is over.
    pub(super) fn due(&self) -> Option<Duration> {
        self.since
            .map(|since| since + MINUTE.saturating_sub(self.spent))
    }

    /// A minute is over; true: the last ones were all too slow.
    pub(super) fn minute_is_over(&mut self, now: Duration) -> bool {
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
