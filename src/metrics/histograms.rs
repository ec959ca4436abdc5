//! Durations, counted by how long they were. To count one locks nothing and allocates nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::table::{
    DECISION_TOOK, HANDSHAKE_TOOK, HistogramName, LOOKUP_TOOK, PLACE_TOOK, RECORD_TOOK, SYNC_TOOK,
};

/// The upper ends of the classes, in microseconds, from a flush of a fast disk to the limit of a handshake. What took longer is in a
/// class of its own.
const ENDS: [u64; 16] = [
    100, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// Each histogram: its name and the values of its labels.
const SERIES: [(HistogramName, &[&str]); 15] = [
    (RECORD_TOOK, &[]),
    (SYNC_TOOK, &[]),
    (DECISION_TOOK, &[]),
    (HANDSHAKE_TOOK, &["inbound", "done"]),
    (HANDSHAKE_TOOK, &["inbound", "failed"]),
    (HANDSHAKE_TOOK, &["outbound", "done"]),
    (HANDSHAKE_TOOK, &["outbound", "failed"]),
    (PLACE_TOOK, &[]),
    (LOOKUP_TOOK, &["a"]),
    (LOOKUP_TOOK, &["aaaa"]),
    (LOOKUP_TOOK, &["cname"]),
    (LOOKUP_TOOK, &["mta-sts"]),
    (LOOKUP_TOOK, &["mx"]),
    (LOOKUP_TOOK, &["tlsa"]),
    (LOOKUP_TOOK, &["txt"]),
];

#[derive(Debug, Default)]
struct Histogram {
    classes: [AtomicU64; ENDS.len() + 1],
    microseconds: AtomicU64,
}

/// All histograms.
#[derive(Debug, Default)]
pub(super) struct Histograms([Histogram; SERIES.len()]);

/// A histogram as it stands.
pub(super) struct HistogramCount {
    pub(super) labels: &'static [&'static str],
    /// Seconds in all.
    pub(super) sum: f64,
    pub(super) count: u64,
    /// The upper end of each class in seconds, and how many fell into it.
    pub(super) classes: Vec<(f64, u64)>,
}

impl Histograms {
    pub(super) fn add(&self, name: HistogramName, labels: &[&str], took: Duration) {
        let series = SERIES
            .iter()
            .position(|(one, of)| *one == name && *of == labels);
        debug_assert!(series.is_some(), "no histogram has the labels {labels:?}");
        let Some(histogram) = series.and_then(|series| self.0.get(series)) else {
            return;
        };
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = ENDS.partition_point(|end| *end < took);
        histogram.classes[class].fetch_add(1, Relaxed);
        histogram.microseconds.fetch_add(took, Relaxed);
    }

    /// The histograms of a name.
    pub(super) fn of(&self, name: HistogramName) -> impl Iterator<Item = HistogramCount> {
        let all = SERIES.iter().zip(&self.0);
        let ours = all.filter(move |((one, _), _)| *one == name);
        ours.map(|((_, labels), histogram)| {
            let ends = ENDS.iter().map(|end| seconds(*end)).chain([f64::INFINITY]);
            let counts = histogram.classes.iter().map(|class| class.load(Relaxed));
            let classes: Vec<(f64, u64)> = ends.zip(counts).collect();
            HistogramCount {
                labels,
                sum: seconds(histogram.microseconds.load(Relaxed)),
                count: classes.iter().map(|(_, count)| count).sum(),
                classes,
            }
        })
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::table::HISTOGRAMS;

    #[test]
    fn a_duration_counts_in_the_class_that_ends_with_it_or_behind_it() {
        let histograms = Histograms::default();
        for micros in [0, 100, 101, 1_000_000, 30_000_000, 30_000_001, u64::MAX / 4] {
            histograms.add(SYNC_TOOK, &[], Duration::from_micros(micros));
        }
        let all: Vec<HistogramCount> = histograms.of(SYNC_TOOK).collect();
        let [one] = &all[..] else { panic!("one") };
        let filled: Vec<(f64, u64)> = one
            .classes
            .iter()
            .copied()
            .filter(|one| one.1 > 0)
            .collect();
        assert_eq!(
            filled,
            [
                (0.0001, 2),
                (0.0005, 1),
                (1.0, 1),
                (30.0, 1),
                (f64::INFINITY, 2)
            ]
        );
        assert_eq!(one.count, 7);
        assert!(histograms.of(RECORD_TOOK).all(|one| one.count == 0));
    }

    #[test]
    fn each_name_has_histograms_with_as_many_labels_as_its_row_says() {
        for (name, labels) in SERIES {
            assert_eq!(HISTOGRAMS[name.0].labels.len(), labels.len(), "{labels:?}");
        }
        for index in 0..HISTOGRAMS.len() {
            assert!(SERIES.iter().any(|(name, _)| name.0 == index), "{index}");
        }
        assert!(ENDS.is_sorted());
    }
}
