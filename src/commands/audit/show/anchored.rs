//! Until when somebody else vouches for a log.

use super::LONGEST;
use crate::audit::printable;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Until when others vouch for a log, as its records say. Whether they do, `audit verify` finds out.
#[derive(Default)]
pub(super) struct AnchoredUntil {
    /// The time of the last record.
    last: String,
    /// The time that the newest stamp or signature has.
    anchor: Option<String>,
    /// Somebody was asked.
    is_asked: bool,
}

impl AnchoredUntil {
    pub(super) fn see(&mut self, record: &Value) {
        record["at"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut self.last);
        let event = record["event"].as_str().unwrap_or_default();
        self.is_asked |= ["stamp", "cosigned", "not-anchored"].contains(&event);
        if ["stamp", "cosigned"].contains(&event) {
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
        let warning = match is_old(&self.last) {
            Some(false) => "",
            _ => "WARNING: ",
        };
        let anchor = printable(anchor, LONGEST);
        let last = printable(&self.last, LONGEST);
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
        let words = |records: &[Value]| {
            let mut anchored = AnchoredUntil::default();
            records.iter().for_each(|record| anchored.see(record));
            anchored.words()
        };
        let at = |day: u8, event: &str, time: u8| {
            let time = format!("2026-11-{time:02}T06:05:00.000000Z");
            let at = format!("2026-11-{day:02}T06:05:00.000001Z");
            serde_json::json!({"at": at, "event": event, "time": time})
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
