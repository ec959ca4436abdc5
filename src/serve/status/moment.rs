//! Moments as the page shows them.

use crate::audit::timestamp;
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A moment, to the second, UTC.
pub(super) struct UtcTime(pub(super) SystemTime);

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = timestamp(self.0);
        let (day, time) = text.split_once('T').unwrap_or((&text, ""));
        write!(f, "{day} {} UTC", time.get(..8).unwrap_or(time))
    }
}

/// So many seconds since 1970.
pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}
