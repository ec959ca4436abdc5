//! The facts that a session wrote already. A repeat is counted, and the counts are written at the session's end.

use std::collections::VecDeque;

use super::facts::RepeatKey;
use crate::audit::RepeatedField;

/// Most facts that a session remembers. A fact that was forgotten is written anew.
const MOST: usize = 64;

/// The facts of one session, with their counts; see the module.
#[derive(Default)]
pub(super) struct Repeats {
    /// Each with the number of its repeats, in the order in which they were first written.
    known: VecDeque<(RepeatKey, u64)>,
    /// Counts of facts that were forgotten.
    forgotten: Vec<RepeatedField>,
}

impl Repeats {
    /// Whether the fact is to be written. If not, it is counted as a repeat.
    pub(super) fn is_first(&mut self, key: RepeatKey) -> bool {
        if let Some((_, more)) = self.known.iter_mut().find(|(known, _)| *known == key) {
            *more += 1;
            return false;
        }
        if self.known.len() >= MOST
            && let Some((oldest, more)) = self.known.pop_front()
        {
            // Without their domains there are few different ones, so that the list stays short.
            self.forget(oldest, more);
        }
        self.known.push_back((key, 0));
        true
    }

    fn forget(&mut self, key: RepeatKey, times: u64) {
        if times == 0 {
            return;
        }
        let sum = RepeatedField {
            domain: None,
            ..repeated(key, 0)
        };
        let same = |one: &RepeatedField| {
            RepeatedField {
                times: 0,
                ..one.clone()
            } == sum
        };
        match self.forgotten.iter_mut().find(|one| same(one)) {
            Some(known) => known.times += times,
            None => self.forgotten.push(RepeatedField { times, ..sum }),
        }
    }

    /// The counts of all repeats.
    pub(super) fn counts(self) -> Vec<RepeatedField> {
        let known = self.known.into_iter().filter(|(_, times)| *times > 0);
        let known = known.map(|(key, times)| repeated(key, times));
        self.forgotten.into_iter().chain(known).collect()
    }
}

fn repeated(key: RepeatKey, times: u64) -> RepeatedField {
    RepeatedField {
        event: key.event.to_owned(),
        domain: key.domain,
        verdict: key.verdict,
        reason: key.reason,
        observed: key.observed,
        times,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> RepeatKey {
        RepeatKey {
            event: "verdict",
            domain: Some(format!("d{n}.example")),
            verdict: None,
            reason: Some(String::from("certificate-expired")),
            observed: false,
            more: String::new(),
        }
    }

    #[test]
    fn the_same_again_is_a_number() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_first(key(1)));
        for _ in 1..300 {
            assert!(!repeats.is_first(key(1)));
        }
        assert!(repeats.is_first(key(2)));
        let told = repeats.counts();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].domain.as_deref(), Some("d1.example"));
        assert_eq!(told[0].times, 299);
    }

    #[test]
    fn what_is_forgotten_is_bounded_and_still_counted() {
        let mut repeats = Repeats::default();
        for n in 0..1000 {
            assert!(repeats.is_first(key(n)));
            assert!(!repeats.is_first(key(n)));
        }
        assert!(repeats.known.len() <= MOST && repeats.forgotten.len() == 1);
        let told = repeats.counts();
        assert_eq!(told.iter().map(|one| one.times).sum::<u64>(), 1000);
        assert_eq!(told[0].domain, None);
    }
}
