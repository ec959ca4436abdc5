//! A bounded map whose entries expire. Strangers can add entries, and must not be able to use up memory with them.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Most entries that a map holds. One more takes the place of the entry that expires first.
pub(super) const CAPACITY: usize = 4096;

/// A bounded map whose entries expire.
#[derive(Debug)]
pub(super) struct Fading<K, V>(HashMap<K, (V, Instant)>);

impl<K, V> Default for Fading<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Copy, V> Fading<K, V> {
    /// Keeps `value` for `lifetime`. True if an entry that had not expired was removed for it.
    pub(super) fn put(&mut self, key: K, value: V, now: Instant, lifetime: Duration) -> bool {
        let mut crowded = false;
        if self.0.len() >= CAPACITY && !self.0.contains_key(&key) {
            self.0.retain(|_, (_, until)| *until > now);
            if self.0.len() >= CAPACITY
                && let Some(soonest) = self
                    .0
                    .iter()
                    .min_by_key(|(_, (_, until))| *until)
                    .map(|(key, _)| *key)
            {
                crowded = self.0.remove(&soonest).is_some();
            }
        }
        self.0.insert(key, (value, now + lifetime));
        crowded
    }

    pub(super) fn get(&self, key: &K, now: Instant) -> Option<&V> {
        self.0
            .get(key)
            .filter(|(_, until)| *until > now)
            .map(|(value, _)| value)
    }

    pub(super) fn take(&mut self, key: &K, now: Instant) -> Option<V> {
        self.0
            .remove(key)
            .filter(|(_, until)| *until > now)
            .map(|(value, _)| value)
    }

    pub(super) fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_flood_keeps_the_map_bounded_and_says_that_it_gave_something_up() {
        let (mut map, now) = (Fading::default(), clock::instant());
        let minute = Duration::from_secs(60);
        for key in 0..CAPACITY {
            assert!(!map.put(key, (), now, minute));
        }
        assert!(map.put(CAPACITY, (), now, minute));
        assert_eq!(map.0.len(), CAPACITY);
        assert!(
            !map.put(CAPACITY + 1, (), now + minute, minute),
            "they had expired"
        );
    }
}
