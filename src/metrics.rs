//! Counters, in the text format that Prometheus reads.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A counter's name with its help text and the name of its one label (empty: none).
type Family = (&'static str, &'static str, &'static str);

/// Sessions that were begun.
pub const SESSIONS: Family = (
    "starttls_proxy_sessions_total",
    "Sessions begun.",
    "direction",
);
/// Connections refused before a session.
pub const TURNED_AWAY: Family = (
    "starttls_proxy_turned_away_total",
    "Connections refused before a session, by limit or guard.",
    "why",
);
/// Verdicts by outcome.
pub const VERDICTS: Family = (
    "starttls_proxy_verdicts_total",
    "Policy verdicts.",
    "verdict",
);
/// Refusals by reason.
pub const REFUSALS: Family = (
    "starttls_proxy_refusals_total",
    "Refusals of our own, by reason.",
    "reason",
);
/// Protocol incidents.
pub const INCIDENTS: Family = (
    "starttls_proxy_incidents_total",
    "Protocol violations that ended a session.",
    "incident",
);
/// Handshakes by outcome.
pub const HANDSHAKES: Family = (
    "starttls_proxy_handshakes_total",
    "TLS handshakes, by outcome.",
    "outcome",
);
/// Messages by the first digit of the server's final reply, or `unknown`.
pub const MESSAGES: Family = (
    "starttls_proxy_messages_total",
    "Messages, by the server's final reply.",
    "reply",
);
/// Message octets relayed.
pub const OCTETS: Family = (
    "starttls_proxy_message_octets_total",
    "Octets of messages relayed.",
    "direction",
);
/// MTA-STS policies that could not be fetched when a decision needed them, by reason.
pub const STS_FAULTS: Family = (
    "starttls_proxy_mta_sts_faults_total",
    "Decisions for which an announced MTA-STS policy could not be fetched, by reason.",
    "reason",
);
/// Audit records that could not be made durable.
pub const RECORD_FAULTS: Family = (
    "starttls_proxy_audit_faults_total",
    "Records that could not be made durable.",
    "",
);

/// All counters of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    counters: Mutex<BTreeMap<(Family, String), u64>>,
    open: AtomicU64,
}

impl Metrics {
    /// Adds one to a counter.
    pub fn count(&self, family: Family, label: &str) {
        self.add(family, label, 1);
    }

    /// Adds `by` to a counter.
    pub fn add(&self, family: Family, label: &str, by: u64) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        *counters.entry((family, label.to_owned())).or_default() += by;
    }

    /// The sum of a counter over all labels.
    #[must_use]
    pub fn total(&self, family: Family) -> u64 {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters
            .iter()
            .filter(|((name, _), _)| *name == family)
            .map(|(_, count)| count)
            .sum()
    }

    /// The value of a counter with this label.
    #[must_use]
    pub fn get(&self, family: Family, label: &str) -> u64 {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters
            .get(&(family, label.to_owned()))
            .copied()
            .unwrap_or_default()
    }

    /// Counts a session as open until the returned value is dropped.
    #[must_use]
    pub fn session(&self) -> OpenSession<'_> {
        self.open.fetch_add(1, Relaxed);
        OpenSession(self)
    }

    /// Number of sessions open now.
    #[must_use]
    pub fn open_sessions(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// All counters in the text format of Prometheus, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::from(
            "# HELP starttls_proxy_sessions_open Sessions open now.\n# TYPE starttls_proxy_sessions_open gauge\n",
        );
        let _ = writeln!(out, "starttls_proxy_sessions_open {}", self.open_sessions());
        let _ = writeln!(
            out,
            "# HELP starttls_proxy_log_lines_dropped_total Log lines that nobody read in time.\n\
             # TYPE starttls_proxy_log_lines_dropped_total counter\n\
             starttls_proxy_log_lines_dropped_total {}",
            crate::logging::dropped()
        );
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = "";
        for (((name, help, label), value), count) in counters.iter() {
            if *name != last {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
                last = name;
            }
            let _ = if label.is_empty() {
                writeln!(out, "{name} {count}")
            } else {
                writeln!(out, "{name}{{{label}=\"{value}\"}} {count}")
            };
        }
        out
    }
}

/// Counts a session as open while it lives; see [`Metrics::session`].
#[derive(Debug)]
pub struct OpenSession<'a>(&'a Metrics);

impl Drop for OpenSession<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_introduced_once_and_counts_by_label() {
        let metrics = Metrics::default();
        metrics.count(VERDICTS, "authorised");
        metrics.count(VERDICTS, "authorised");
        metrics.count(VERDICTS, "refused");
        let open = metrics.session();
        let text = metrics.render();
        assert!(
            text.contains("starttls_proxy_verdicts_total{verdict=\"authorised\"} 2\n"),
            "{text}"
        );
        assert!(text.contains("starttls_proxy_sessions_open 1\n"), "{text}");
        assert_eq!(
            text.matches("# TYPE starttls_proxy_verdicts_total counter")
                .count(),
            1
        );
        drop(open);
        assert_eq!(metrics.open_sessions(), 0);
    }
}
