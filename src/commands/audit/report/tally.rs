//! Numbers by word, of which no more are kept apart than a page can show.

use std::collections::{BTreeMap, BTreeSet};

/// Domains, uses of exemptions, and domains of one reason, that are kept apart; all others are counted as [`OTHERS`]. It bounds the
/// memory of a page about mail with very many parties.
pub(super) const MOST: usize = 50_000;
/// What is not kept apart.
pub(super) const OTHERS: &str = "all others";

/// How often each word occurs.
pub(super) type Tally = BTreeMap<String, u64>;

/// The key itself, or [`OTHERS`] where it is new and the map is full.
pub(super) fn kept_apart<'a, T>(map: &BTreeMap<String, T>, key: &'a str) -> &'a str {
    match map.len() < MOST || map.contains_key(key) {
        true => key,
        false => OTHERS,
    }
}

pub(super) fn count(tally: &mut Tally, word: &str) {
    add(tally, word, 1);
}

pub(super) fn add(tally: &mut Tally, word: &str, more: u64) {
    let word = kept_apart(tally, word);
    *entry(tally, word) += more;
}

/// Puts a word into a set. Unlike `BTreeSet::insert`, it copies only words that are new, and keeps no more than [`MOST`] apart.
pub(super) fn keep(set: &mut BTreeSet<String>, word: &str) {
    if !set.contains(word) && set.len() < MOST {
        set.insert(word.to_owned());
    }
}

/// The value of a key. Unlike `BTreeMap::entry`, it copies only keys that are new.
pub(super) fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, key: &str) -> &'a mut T {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), T::default());
    }
    map.get_mut(key).expect("it was put there")
}

pub(super) fn number_of(tally: &Tally, word: &str) -> u64 {
    tally.get(word).copied().unwrap_or_default()
}

/// Makes `first` the earlier of the two times, which have the form of a record's; an empty one is none. Records of several logs come log
/// by log.
pub(super) fn begin_at(first: &mut String, at: &str) {
    if first.is_empty() || at < first.as_str() {
        at.clone_into(first);
    }
}

/// Makes `last` the later of the two times. Returns whether that is `at`, so that what is known of this time is the latest.
pub(super) fn go_on_to(last: &mut String, at: &str) -> bool {
    let is_last = at >= last.as_str();
    if is_last {
        at.clone_into(last);
    }
    is_last
}
