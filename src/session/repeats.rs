//! The facts that a session wrote already. A repeat is counted, and the counts are written at the session's end.

use std::collections::VecDeque;

use super::facts::RepeatKey;
use crate::audit::{RepeatedField, VerdictField};

/// Most facts that a session remembers. A fact that was forgotten is written anew.
const MOST: usize = 64;

/// The place of a fact among all that a session wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FactNumber(u64);

/// The facts of one session, with their counts; see the module.
#[derive(Default)]
pub(super) struct Repeats {
    /// Each with the number of its repeats, in the order in which they were first written.
    known: VecDeque<(RepeatKey, u64)>,
    /// How many facts were forgotten, so that the first of the known ones has this number.
    gone: u64,
    /// Counts of facts that were forgotten.
    forgotten: Vec<RepeatedField>,
}

impl Repeats {
    /// The fact's number, and whether it is to be written. If not, it is counted as a repeat.
    pub(super) fn see(&mut self, key: RepeatKey) -> (FactNumber, bool) {
        if let Some(at) = self.known.iter().position(|(known, _)| *known == key) {
            self.known[at].1 += 1;
            return (FactNumber(self.gone + at as u64), false);
        }
        if self.known.len() >= MOST
            && let Some((oldest, more)) = self.known.pop_front()
        {
            // Without their domains there are few different ones, so that the list stays short.
            self.gone += 1;
            self.forget(oldest, more);
        }
        self.known.push_back((key, 0));
        (FactNumber(self.gone + self.known.len() as u64 - 1), true)
    }

    /// Counts a repeat. Returns false if the fact was forgotten: it is to be written anew.
    pub(super) fn again(&mut self, FactNumber(number): FactNumber) -> bool {
        let at = number.checked_sub(self.gone);
        let at = at.and_then(|at| usize::try_from(at).ok());
        let Some((_, more)) = at.and_then(|at| self.known.get_mut(at)) else {
            return false;
        };
        *more += 1;
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

    /// The number of all repeats.
    pub(super) fn total(&self) -> u64 {
        let known = self.known.iter().map(|(_, times)| times);
        let forgotten = self.forgotten.iter().map(|one| &one.times);
        known.chain(forgotten).sum()
    }

    /// The counts of all repeats.
    pub(super) fn counts(self) -> Vec<RepeatedField> {
        let known = self.known.into_iter().filter(|(_, times)| *times > 0);
        let known = known.map(|(key, times)| repeated(key, times));
        self.forgotten.into_iter().chain(known).collect()
    }
}

fn repeated(key: RepeatKey, times: u64) -> RepeatedField {
    let plain = |event: &str| RepeatedField {
        event: event.to_owned(),
        domain: None,
        verdict: None,
        reason: None,
        observed: false,
        times,
    };
    match key {
        RepeatKey::Decision { entry, .. } => RepeatedField {
            domain: Some(entry.domain.clone()),
            verdict: Some(entry.verdict),
            reason: entry.reason.clone(),
            observed: entry.observed,
            ..plain(match entry.verdict {
                VerdictField::Unprotected => "unprotected",
                VerdictField::Authorised | VerdictField::Refused => "verdict",
            })
        },
        RepeatKey::Refusal { domain, cause, .. } => RepeatedField {
            domain,
            reason: Some(cause.word().to_owned()),
            ..plain("refusal")
        },
        RepeatKey::Heard(_) => plain("heard"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::Cause;

    fn key(n: usize) -> RepeatKey {
        RepeatKey::Refusal {
            domain: Some(format!("d{n}.example")),
            cause: Cause::Protocol,
            code: 501,
        }
    }

    fn is_first(repeats: &mut Repeats, n: usize) -> bool {
        repeats.see(key(n)).1
    }

    #[test]
    fn a_repeat_is_counted_by_its_number_until_the_fact_is_forgotten() {
        let mut repeats = Repeats::default();
        let (first, _) = repeats.see(key(0));
        let (second, is_first) = repeats.see(key(1));
        assert!(is_first && first != second);
        assert_eq!(repeats.see(key(1)), (second, false));
        for _ in 0..299 {
            assert!(repeats.again(first));
        }
        for n in 2..=MOST {
            repeats.see(key(n));
        }
        assert!(!repeats.again(first), "it is written anew");
        assert!(repeats.again(second));
        let told = repeats.counts();
        let counts: Vec<_> = told
            .iter()
            .map(|one| (one.domain.as_deref(), one.times))
            .collect();
        assert_eq!(counts, [(None, 299), (Some("d1.example"), 2)]);
    }

    #[test]
    fn the_same_again_is_a_number() {
        let mut repeats = Repeats::default();
        assert!(is_first(&mut repeats, 1));
        for _ in 1..300 {
            assert!(!is_first(&mut repeats, 1));
        }
        assert!(is_first(&mut repeats, 2));
        let told = repeats.counts();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].domain.as_deref(), Some("d1.example"));
        assert_eq!(told[0].times, 299);
    }

    #[test]
    fn what_is_forgotten_is_bounded_and_still_counted() {
        let mut repeats = Repeats::default();
        for n in 0..1000 {
            assert!(is_first(&mut repeats, n));
            assert!(!is_first(&mut repeats, n));
        }
        assert!(repeats.known.len() <= MOST && repeats.forgotten.len() == 1);
        assert_eq!(repeats.total(), 1000);
        let told = repeats.counts();
        assert_eq!(told.iter().map(|one| one.times).sum::<u64>(), 1000);
        assert_eq!(told[0].domain, None);
    }
}
