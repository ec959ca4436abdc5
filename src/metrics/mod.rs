//! What the process shows of itself: counters, durations, and the last refusals. `table` has every name; `docs/metrics.md` says
//! what each is good for.
//!
//! To count locks nothing and allocates nothing, except for the first time with these labels. Only the page takes time, and only
//! when somebody asks for it.

mod counters;
mod evidence;
mod exposition;
mod histograms;
mod refused;
mod table;

use crate::clock::unix_seconds;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use counters::Counters;
use histograms::Histograms;

pub use evidence::{AnchorGap, EvidenceNews, LogEvent};
pub use exposition::{GaugeValue, MEDIA_TYPE, MetricsPage};
pub use refused::{LastRefusals, RefusedMail, RefusedRow};
pub use table::*;

/// All counters of the process, and what it remembers for whoever asks.
#[derive(Debug, Default)]
pub struct Metrics {
    counters: Counters,
    histograms: Histograms,
    open: AtomicU64,
    /// Seconds since 1970; 0: never.
    last_message: AtomicU64,
    /// Seconds since 1970; 0: never.
    last_reload: AtomicU64,
    reload_failed: AtomicU64,
    /// Seconds since 1970; 0: nobody is asked.
    last_anchor: AtomicU64,
    /// What became of the audit log, for people.
    pub evidence: EvidenceNews,
    /// The last refusals, for people.
    pub refused: LastRefusals,
}

impl Metrics {
    /// Adds one to a counter with at most one label; `label` is empty if there is none.
    pub fn count(&self, name: CounterName, label: &str) {
        self.add(name, label, 1);
    }

    /// Adds `by` to a counter with at most one label.
    pub fn add(&self, name: CounterName, label: &str, by: u64) {
        self.counters.add(name, one_or_none(name, &label), by);
    }

    /// Adds one to a counter with these labels.
    pub fn count_by(&self, name: CounterName, labels: &[&str]) {
        debug_assert_eq!(COUNTERS[name.0].labels.len(), labels.len());
        self.counters.add(name, labels, 1);
    }

    /// Counts how long something took.
    pub fn took(&self, name: HistogramName, labels: &[&str], took: Duration) {
        self.histograms.add(name, labels, took);
    }

    /// The sum of a counter over all labels.
    #[must_use]
    pub fn total(&self, name: CounterName) -> u64 {
        self.counters.total(name)
    }

    /// The value of a counter with this label.
    #[must_use]
    pub fn get(&self, name: CounterName, label: &str) -> u64 {
        self.counters.get(name, one_or_none(name, &label))
    }

    /// The value of a counter with these labels.
    #[must_use]
    pub fn get_by(&self, name: CounterName, labels: &[&str]) -> u64 {
        self.counters.get(name, labels)
    }

    /// The counters of one name, with their labels.
    #[must_use]
    pub fn counters(&self, name: CounterName) -> Vec<(Vec<&str>, u64)> {
        match name {
            LINES_DROPPED => vec![(Vec::new(), crate::logging::dropped())],
            name => self.counters.sorted(name),
        }
    }

    /// A server accepted a message.
    pub(crate) fn message_accepted(&self, now: SystemTime) {
        self.last_message.store(unix_seconds(now), Relaxed);
    }

    /// When a server last accepted a message, in seconds since 1970.
    #[must_use]
    pub fn last_message(&self) -> Option<u64> {
        Some(self.last_message.load(Relaxed)).filter(|at| *at > 0)
    }

    /// The files were read: at the start, or again. A failed reading changes nothing that is in force.
    pub(crate) fn files_read(&self, took_effect: bool, now: SystemTime) {
        if took_effect {
            self.last_reload.store(unix_seconds(now), Relaxed);
        }
        self.reload_failed.store(u64::from(!took_effect), Relaxed);
    }

    /// Others have vouched for the audit log, or are asked to from now on.
    pub(crate) fn anchored(&self, now: SystemTime) {
        self.last_anchor.store(unix_seconds(now), Relaxed);
    }

    /// When others last vouched for the audit log, or were first asked to, in seconds since 1970.
    #[must_use]
    pub fn last_anchor(&self) -> Option<u64> {
        Some(self.last_anchor.load(Relaxed)).filter(|at| *at > 0)
    }

    /// When files last took effect, in seconds since 1970, and whether the last reading did.
    #[must_use]
    pub fn last_reload(&self) -> (Option<u64>, bool) {
        let at = Some(self.last_reload.load(Relaxed)).filter(|at| *at > 0);
        (at, self.reload_failed.load(Relaxed) == 0)
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
}

fn one_or_none<'a>(name: CounterName, label: &'a &'a str) -> &'a [&'a str] {
    match COUNTERS[name.0].labels {
        [] => &[],
        _ => std::slice::from_ref(label),
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
mod tests;
