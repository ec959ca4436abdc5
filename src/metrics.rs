//! Counters, in the text format that Prometheus reads.

use std::{
    fmt::Write as _,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// The counters of one name. They differ in the value of their one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family(usize);

/// Each family: its name, its help text, and the name of its label (empty: none). The page shows them in this order, which is that
/// of their names.
const FAMILIES: [(&str, &str, &str); 10] = [
    (
        "starttls_proxy_audit_faults_total",
        "Records that could not be made durable.",
        "",
    ),
    (
        "starttls_proxy_handshakes_total",
        "TLS handshakes, by outcome.",
        "outcome",
    ),
    (
        "starttls_proxy_incidents_total",
        "Protocol violations that ended a session.",
        "incident",
    ),
    (
        "starttls_proxy_message_octets_total",
        "Octets of messages relayed.",
        "direction",
    ),
    (
        "starttls_proxy_messages_total",
        "Messages, by the server's final reply.",
        "reply",
    ),
    (
        "starttls_proxy_mta_sts_faults_total",
        "Decisions for which an announced MTA-STS policy could not be fetched, by reason.",
        "reason",
    ),
    (
        "starttls_proxy_refusals_total",
        "Refusals of our own, by reason.",
        "reason",
    ),
    (
        "starttls_proxy_sessions_total",
        "Sessions begun.",
        "direction",
    ),
    (
        "starttls_proxy_turned_away_total",
        "Connections refused before a session, by limit or guard.",
        "why",
    ),
    (
        "starttls_proxy_verdicts_total",
        "Policy verdicts.",
        "verdict",
    ),
];

/// Audit records that could not be made durable.
pub const RECORD_FAULTS: Family = Family(0);
/// Handshakes by outcome.
pub const HANDSHAKES: Family = Family(1);
/// Protocol incidents.
pub const INCIDENTS: Family = Family(2);
/// Message octets relayed.
pub const OCTETS: Family = Family(3);
/// Messages: `accepted`, `rejected` or `unknown`.
pub const MESSAGES: Family = Family(4);
/// MTA-STS policies that could not be fetched when a decision needed them, by reason.
pub const STS_FAULTS: Family = Family(5);
/// Refusals by reason.
pub const REFUSALS: Family = Family(6);
/// Sessions that were begun.
pub const SESSIONS: Family = Family(7);
/// Connections refused before a session.
pub const TURNED_AWAY: Family = Family(8);
/// Verdicts by outcome.
pub const VERDICTS: Family = Family(9);

/// All counters of the process. To count locks nothing and allocates nothing, except for the first time with a label.
#[derive(Debug, Default)]
pub struct Metrics {
    families: [OnceLock<Box<Counter>>; FAMILIES.len()],
    open: AtomicU64,
    /// Seconds since 1970; 0: never.
    last_reload: AtomicU64,
    reload_failed: AtomicU64,
}

/// A counter, and the next one of its family. A label is a word of the program, so a family has few; one that is counted often is
/// met early, so that it stands in front.
#[derive(Debug)]
struct Counter {
    label: Box<str>,
    count: AtomicU64,
    next: OnceLock<Box<Counter>>,
}

impl Metrics {
    /// Adds one to a counter.
    pub fn count(&self, family: Family, label: &str) {
        self.add(family, label, 1);
    }

    /// Adds `by` to a counter.
    pub fn add(&self, family: Family, label: &str, by: u64) {
        let mut place = &self.families[family.0];
        loop {
            let counter = place.get_or_init(|| {
                Box::new(Counter {
                    label: label.into(),
                    count: AtomicU64::new(0),
                    next: OnceLock::new(),
                })
            });
            if *counter.label == *label {
                counter.count.fetch_add(by, Relaxed);
                return;
            }
            place = &counter.next;
        }
    }

    fn counters(&self, family: Family) -> impl Iterator<Item = &Counter> {
        let first = self.families[family.0].get();
        std::iter::successors(first, |counter| counter.next.get()).map(AsRef::as_ref)
    }

    /// The sum of a counter over all labels.
    #[must_use]
    pub fn total(&self, family: Family) -> u64 {
        let counters = self.counters(family);
        counters.map(|counter| counter.count.load(Relaxed)).sum()
    }

    /// The value of a counter with this label.
    #[must_use]
    pub fn get(&self, family: Family, label: &str) -> u64 {
        let counter = self
            .counters(family)
            .find(|counter| *counter.label == *label);
        counter.map_or(0, |counter| counter.count.load(Relaxed))
    }

    /// The files were read: at the start, or again. A failed reading changes nothing that is in force.
    pub(crate) fn files_read(&self, took_effect: bool, now: SystemTime) {
        if took_effect {
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_reload.store(since.as_secs(), Relaxed);
        }
        self.reload_failed.store(u64::from(!took_effect), Relaxed);
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
        let _ = writeln!(
            out,
            "# HELP starttls_proxy_reload_successful 1 if the last reload took effect, 0 if the old configuration stayed.\n\
             # TYPE starttls_proxy_reload_successful gauge\n\
             starttls_proxy_reload_successful {}\n\
             # HELP starttls_proxy_reload_timestamp_seconds When the files were last read with success: at the start or at a reload.\n\
             # TYPE starttls_proxy_reload_timestamp_seconds gauge\n\
             starttls_proxy_reload_timestamp_seconds {}",
            1 - self.reload_failed.load(Relaxed),
            self.last_reload.load(Relaxed)
        );
        for (index, (name, help, label)) in FAMILIES.into_iter().enumerate() {
            let mut counters: Vec<&Counter> = self.counters(Family(index)).collect();
            counters.sort_by(|a, b| a.label.cmp(&b.label));
            if !counters.is_empty() {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
            }
            for counter in counters {
                let (value, count) = (&counter.label, counter.count.load(Relaxed));
                let _ = if label.is_empty() {
                    writeln!(out, "{name} {count}")
                } else {
                    writeln!(out, "{name}{{{label}=\"{value}\"}} {count}")
                };
            }
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

    #[test]
    fn the_page_has_families_and_labels_in_the_order_of_their_names() {
        let names: Vec<&str> = FAMILIES.iter().map(|(name, ..)| *name).collect();
        assert!(names.is_sorted(), "{names:?}");
        let metrics = Metrics::default();
        metrics.count(VERDICTS, "refused");
        metrics.count(RECORD_FAULTS, "");
        metrics.add(OCTETS, "out", 0);
        metrics.count(VERDICTS, "authorised");
        let page = metrics.render();
        let (_, counters) = page
            .split_once("# HELP starttls_proxy_audit_faults_total")
            .expect("the first family");
        assert_eq!(
            counters,
            " Records that could not be made durable.\n\
             # TYPE starttls_proxy_audit_faults_total counter\n\
             starttls_proxy_audit_faults_total 1\n\
             # HELP starttls_proxy_message_octets_total Octets of messages relayed.\n\
             # TYPE starttls_proxy_message_octets_total counter\n\
             starttls_proxy_message_octets_total{direction=\"out\"} 0\n\
             # HELP starttls_proxy_verdicts_total Policy verdicts.\n\
             # TYPE starttls_proxy_verdicts_total counter\n\
             starttls_proxy_verdicts_total{verdict=\"authorised\"} 1\n\
             starttls_proxy_verdicts_total{verdict=\"refused\"} 1\n"
        );
    }

    #[test]
    fn no_count_is_lost_when_many_threads_meet_a_label_for_the_first_time() {
        let metrics = Metrics::default();
        let labels: Vec<String> = (0..20).map(|n| format!("l{n}")).collect();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for label in labels.iter().cycle().take(2000) {
                        metrics.count(REFUSALS, label);
                    }
                });
            }
        });
        for label in &labels {
            assert_eq!(metrics.get(REFUSALS, label), 800, "{label}");
        }
        assert_eq!(metrics.total(REFUSALS), 16_000);
    }
}
