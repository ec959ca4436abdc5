//! Until when somebody else vouches for a log.

use super::{LONGEST, LineValue};
use crate::audit::{LogLine, printable};
use jiff::{SignedDuration, Timestamp};

/// Until when others vouch for a log, as its records say. Whether they do, `audit verify` finds out.
#[derive(Default)]
pub(super) struct AnchoredUntil {
    /// The time of the last record.
    last: Vec<u8>,
    /// The time that the newest stamp or signature has.
    anchor: Option<String>,
    /// Somebody was asked.
    is_asked: bool,
}

impl AnchoredUntil {
    pub(super) fn see(&mut self, line: &LogLine<'_>) {
        let (Some(at), Some(event)) = (line.time(), line.event()) else {
            return;
        };
        self.note(at, event, line.bytes);
    }

    fn note(&mut self, at: &[u8], event: &[u8], line: &[u8]) {
        self.last.clear();
        self.last.extend_from_slice(at);
        self.is_asked |= [&b"stamp"[..], b"cosigned", b"not-anchored"].contains(&event);
        if [&b"stamp"[..], b"cosigned"].contains(&event)
            && let Some(record) = LineValue::read(line)
        {
            let at = record["time"].as_str().map(str::to_owned);
            // These times have one form, so that their order is that of their letters.
            self.anchor = at.max(self.anchor.take());
        }
    }

    /// Nothing where nobody was asked.
    pub(super) fn words(&self) -> Option<String> {
        if !self.is_asked {
            return None;
        }
        let Some(anchor) = &self.anchor else {
            return Some("WARNING: nobody vouches for it, although somebody was asked".into());
        };
        let is_old = |last: &str| {
            let (last, anchor) = (last.parse::<Timestamp>().ok()?, anchor.parse().ok()?);
            Some(last.duration_since(anchor) > SignedDuration::from_hours(24))
        };
        let last = String::from_utf8_lossy(&self.last);
        let warning = match is_old(&last) {
            Some(false) => "",
            _ => "WARNING: ",
        };
        let anchor = printable(anchor, LONGEST);
        let last = printable(&last, LONGEST);
        Some(format!(
            "{warning}others vouch for it until {anchor}, its last record here is of {last}; audit verify says whether that is proved"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_older_than_a_day_is_a_warning_and_a_log_that_asked_nobody_has_none() {
        let words = |records: &[(String, &str, String)]| {
            let mut anchored = AnchoredUntil::default();
            for (at, event, line) in records {
                anchored.note(at.as_bytes(), event.as_bytes(), line.as_bytes());
            }
            anchored.words()
        };
        let at = |day: u8, event: &'static str, time: u8| {
            let time = format!("2026-11-{time:02}T06:05:00.000000Z");
            let at = format!("2026-11-{day:02}T06:05:00.000001Z");
            (at, event, format!(r#"{{"time":"{time}"}}"#))
        };
        assert_eq!(words(&[at(24, "stop", 1)]), None);
        let nobody = words(&[at(24, "not-anchored", 1)]).expect("words");
        assert!(nobody.starts_with("WARNING: nobody"), "{nobody}");
        let records = [
            at(24, "stamp", 24),
            at(24, "cosigned", 23),
            at(24, "stop", 1),
        ];
        let fresh = words(&records).expect("words");
        assert!(
            fresh.starts_with("others vouch for it until 2026-11-24T06:05"),
            "{fresh}"
        );
        let old = words(&[at(24, "stamp", 24), at(25, "stop", 1)]).expect("words");
        assert!(
            old.starts_with("WARNING: others vouch for it until"),
            "{old}"
        );
    }
}
