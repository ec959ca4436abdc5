//! The period that `--since` and `--until` ask for.

use crate::audit::begins_time;

/// Both ends are UTC and inclusive, and as much of `2026-11-24T06:05:00.123456Z` as needed: an end of `2026-11` means all of November.
pub(super) struct Period<'a> {
    since: Option<&'a str>,
    until: Option<&'a str>,
}

impl<'a> Period<'a> {
    /// # Errors
    /// Says which end is no time.
    pub(super) fn new(
        since: &'a Option<String>,
        until: &'a Option<String>,
    ) -> Result<Self, String> {
        for time in [since, until].into_iter().flatten() {
            if !begins_time(time) {
                return Err(format!(
                    "{time:?} is no time: write as much of 2026-11-24T06:05:00.123456Z as needed"
                ));
            }
        }
        Ok(Self {
            since: since.as_deref(),
            until: until.as_deref(),
        })
    }

    /// Whether the period begins after the time `at` of a record.
    pub(super) fn begins_after(&self, at: &[u8]) -> bool {
        self.since
            .is_some_and(|since| beginning(at, since) < since.as_bytes())
    }

    /// Whether the period ends before the time `at` of a record.
    pub(super) fn ends_before(&self, at: &[u8]) -> bool {
        self.until
            .is_some_and(|until| beginning(at, until) > until.as_bytes())
    }
}

/// The beginning of `at` that is as long as `end`.
fn beginning<'a>(at: &'a [u8], end: &str) -> &'a [u8] {
    at.get(..end.len()).unwrap_or(at)
}
