//! The period that `--since` and `--until` ask for.

use crate::audit::beginning_of_time;

/// Both ends are inclusive: a time (RFC 3339) as exact as it is written, or the beginning of one in UTC, so that an end of `2026-11` means
/// all of November.
pub(super) struct Period {
    since: Option<String>,
    until: Option<String>,
}

impl Period {
    /// # Errors
    /// Says which end is no time.
    pub(super) fn new(since: Option<&str>, until: Option<&str>) -> Result<Self, String> {
        let beginning = |time: &str| {
            beginning_of_time(time).ok_or_else(|| {
                format!(
                    "{time:?} is no time: write as much of 2026-11-24T06:05:00.123456Z as needed"
                )
            })
        };
        Ok(Self {
            since: since.map(beginning).transpose()?,
            until: until.map(beginning).transpose()?,
        })
    }

    /// Whether the period begins after the time `at` of a record.
    pub(super) fn begins_after(&self, at: &[u8]) -> bool {
        self.since
            .as_ref()
            .is_some_and(|since| beginning(at, since) < since.as_bytes())
    }

    /// Whether the period ends before the time `at` of a record.
    pub(super) fn ends_before(&self, at: &[u8]) -> bool {
        self.until
            .as_ref()
            .is_some_and(|until| beginning(at, until) > until.as_bytes())
    }
}

/// The beginning of `at` that is as long as `end`.
fn beginning<'a>(at: &'a [u8], end: &str) -> &'a [u8] {
    at.get(..end.len()).unwrap_or(at)
}
