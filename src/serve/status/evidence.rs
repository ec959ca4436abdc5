//! What the page says at its top of the audit log: what somebody did to it, and who does not vouch for it.

use super::moment::UtcTime;
use crate::{
    audit::LONGEST_UNVOUCHED,
    html::Escaped,
    metrics::{AnchorGap, LogEvent},
};
use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

/// What somebody did to the log whose file this is.
pub(super) fn event_of_log(out: &mut String, event: &LogEvent, file: &str) -> fmt::Result {
    let (class, begin) = match event.is_loss {
        true => ("stop", "Records of the audit log are missing. Found"),
        false => (
            "warn",
            "Somebody, or a fault of the disk, has touched the audit log. Found",
        ),
    };
    writeln!(
        out,
        "<p class=\"state {class}\">{begin} {}: {}. Mail goes on. To see what is there: <code>starttls-proxy audit verify {}</code></p>",
        UtcTime(event.at),
        Escaped(&event.words),
        Escaped(file)
    )
}

/// Who does not vouch for the log.
pub(super) fn anchor_gap(out: &mut String, gap: &AnchorGap, now: SystemTime) -> fmt::Result {
    let lasts = now.duration_since(gap.since).unwrap_or_default();
    let class = if lasts > LONGEST_UNVOUCHED {
        "stop"
    } else {
        "warn"
    };
    let tries = match gap.tries {
        1 => "The proxy has asked once".to_owned(),
        tries => format!("The proxy has asked {tries} times"),
    };
    writeln!(
        out,
        "<p class=\"state {class}\">Since {} no new {} vouches for the audit log. Mail goes on. {tries}, and goes on to ask. In the way \
         was, the last time: <code>{}</code></p>",
        UtcTime(gap.since),
        Escaped(&gap.missing),
        Escaped(&gap.error)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::status::moment::at;
    use std::time::Duration;

    #[test]
    fn a_cut_is_red_and_a_gap_of_anchors_is_so_after_a_day() {
        let event = |is_loss| {
            let mut out = String::new();
            let event = LogEvent {
                at: at(1_764_362_646),
                words: "audit log was cut: of its 12 records 9 were found".into(),
                is_loss,
            };
            event_of_log(&mut out, &event, "/var/<log>").expect("a String takes it");
            out
        };
        assert_eq!(
            event(true),
            "<p class=\"state stop\">Records of the audit log are missing. Found 2025-11-28 20:44:06 UTC: audit log was cut: of its 12 \
             records 9 were found. Mail goes on. To see what is there: <code>starttls-proxy audit verify /var/&lt;log&gt;</code></p>\n"
        );
        assert!(event(false).starts_with("<p class=\"state warn\">Somebody"));
        let gap = |hours: u64| {
            let mut out = String::new();
            let gap = AnchorGap {
                missing: "time-stamp".into(),
                since: at(1_764_362_646),
                tries: 2,
                error: "<b>refused</b>".into(),
            };
            let now = gap.since + Duration::from_secs(hours * 3600);
            anchor_gap(&mut out, &gap, now).expect("a String takes it");
            out
        };
        let young = gap(24);
        for part in [
            "<p class=\"state warn\">",
            "Since 2025-11-28 20:44:06 UTC no new time-stamp vouches for the audit log",
            "asked 2 times",
            "&lt;b&gt;refused",
        ] {
            assert!(young.contains(part), "{part}: {young}");
        }
        assert!(gap(25).starts_with("<p class=\"state stop\">"));
    }
}
