//! Counters. To count locks nothing and allocates nothing, except for the first time with these labels.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::table::{COUNTERS, CounterName};

/// Most counters of one name. Labels are words of the program and of TLS, so there are far fewer; beyond this all further ones share
/// one counter, so that nothing grows without bound.
const MOST: usize = 500;
/// Each label of that counter.
const OTHERS: &str = "others";

/// A counter, and the next one of its name. One that is counted often is met early, so that it stands in front.
#[derive(Debug)]
struct Counter {
    labels: Box<[Box<str>]>,
    count: AtomicU64,
    next: OnceLock<Box<Counter>>,
}

impl Counter {
    fn has(&self, labels: &[&str]) -> bool {
        self.labels.len() == labels.len() && self.labels.iter().zip(labels).all(|(a, b)| **a == **b)
    }
}

/// All counters.
#[derive(Debug)]
pub(super) struct Counters([OnceLock<Box<Counter>>; COUNTERS.len()]);

impl Default for Counters {
    fn default() -> Self {
        let counters = Self(std::array::from_fn(|_| OnceLock::new()));
        for (index, row) in COUNTERS.iter().enumerate() {
            for label in row.shown_at_0 {
                counters.add(CounterName(index), labels_of(row.labels.len(), label), 0);
            }
        }
        counters
    }
}

/// The labels of a counter that has at most one.
fn labels_of<'a>(number: usize, label: &'a &'a str) -> &'a [&'a str] {
    match number {
        0 => &[],
        _ => std::slice::from_ref(label),
    }
}

impl Counters {
    pub(super) fn add(&self, name: CounterName, labels: &[&str], by: u64) {
        let (mut place, mut labels, mut before) = (&self.0[name.0], labels, 0);
        loop {
            let counter = place.get_or_init(|| {
                Box::new(Counter {
                    labels: labels.iter().map(|label| (*label).into()).collect(),
                    count: AtomicU64::new(0),
                    next: OnceLock::new(),
                })
            });
            if counter.has(labels) {
                counter.count.fetch_add(by, Relaxed);
                return;
            }
            (place, before) = (&counter.next, before + 1);
            if before == MOST {
                labels = &[OTHERS; 8][..labels.len().min(8)];
            }
        }
    }

    fn of(&self, name: CounterName) -> impl Iterator<Item = &Counter> {
        let first = self.0[name.0].get();
        std::iter::successors(first, |counter| counter.next.get()).map(AsRef::as_ref)
    }

    pub(super) fn total(&self, name: CounterName) -> u64 {
        self.of(name).map(|one| one.count.load(Relaxed)).sum()
    }

    pub(super) fn get(&self, name: CounterName, labels: &[&str]) -> u64 {
        let counter = self.of(name).find(|counter| counter.has(labels));
        counter.map_or(0, |counter| counter.count.load(Relaxed))
    }

    /// The counters of a name with their labels, in the order of the labels.
    pub(super) fn sorted(&self, name: CounterName) -> Vec<(Vec<&str>, u64)> {
        let mut all: Vec<(Vec<&str>, u64)> = Vec::new();
        for counter in self.of(name) {
            let labels = counter.labels.iter().map(|one| &**one).collect();
            all.push((labels, counter.count.load(Relaxed)));
        }
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{REFUSALS, UPGRADES};

    #[test]
    fn no_count_is_lost_when_many_threads_meet_a_label_for_the_first_time() {
        let counters = Counters::default();
        let labels: Vec<String> = (0..20).map(|n| format!("l{n}")).collect();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for label in labels.iter().cycle().take(2000) {
                        counters.add(REFUSALS, &[label], 1);
                    }
                });
            }
        });
        for label in &labels {
            assert_eq!(counters.get(REFUSALS, &[label]), 800, "{label}");
        }
        assert_eq!(counters.total(REFUSALS), 16_000);
    }

    #[test]
    fn counters_of_one_name_are_bounded_and_the_rest_is_counted_together() {
        let counters = Counters::default();
        for n in 0..3 * MOST {
            counters.add(UPGRADES, &["out", "v", "g", "s", &n.to_string(), "b"], 1);
        }
        assert_eq!(counters.sorted(UPGRADES).len(), MOST + 1);
        assert_eq!(counters.total(UPGRADES), 3 * MOST as u64);
        assert_eq!(counters.get(UPGRADES, &[OTHERS; 6]), 2 * MOST as u64);
    }
}
