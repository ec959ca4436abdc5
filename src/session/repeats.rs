//! What a session has told already: the same again is counted, and told as a number at its end.

use std::collections::VecDeque;

use super::facts::Kind;
use crate::audit::RepeatedField;

/// Kinds of facts that a session remembers; what it has forgotten is told anew.
const KINDS: usize = 64;

/// See the module.
#[derive(Default)]
pub struct Repeats {
    /// Each with how often more it happened; the one told last stands last.
    kinds: VecDeque<(Kind, u64)>,
    /// Of kinds that were forgotten.
    forgotten: Vec<RepeatedField>,
}

impl Repeats {
    /// Whether this is told now; if not, it counts as a repeat.
    pub fn is_first(&mut self, kind: Kind) -> bool {
        if let Some((_, more)) = self.kinds.iter_mut().find(|(known, _)| *known == kind) {
            *more += 1;
            return false;
        }
        if self.kinds.len() >= KINDS
            && let Some((oldest, more)) = self.kinds.pop_front()
        {
            // Without their domains there are few kinds, so that this stays short.
            self.forget(oldest, more);
        }
        self.kinds.push_back((kind, 0));
        true
    }

    fn forget(&mut self, kind: Kind, times: u64) {
        if times == 0 {
            return;
        }
        let sum = RepeatedField {
            domain: None,
            ..repeated(kind, 0)
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

    /// All that was not told.
    #[must_use]
    pub fn told(self) -> Vec<RepeatedField> {
        let known = self.kinds.into_iter().filter(|(_, times)| *times > 0);
        let known = known.map(|(kind, times)| repeated(kind, times));
        self.forgotten.into_iter().chain(known).collect()
    }
}

fn repeated(kind: Kind, times: u64) -> RepeatedField {
    RepeatedField {
        event: kind.event.to_owned(),
        domain: kind.domain,
        verdict: kind.verdict,
        reason: kind.reason,
        observed: kind.observed,
        times,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(n: usize) -> Kind {
        Kind {
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
        assert!(repeats.is_first(kind(1)));
        for _ in 1..300 {
            assert!(!repeats.is_first(kind(1)));
        }
        assert!(repeats.is_first(kind(2)));
        let told = repeats.told();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].domain.as_deref(), Some("d1.example"));
        assert_eq!(told[0].times, 299);
    }

    #[test]
    fn what_is_forgotten_is_bounded_and_still_counted() {
        let mut repeats = Repeats::default();
        for n in 0..1000 {
            assert!(repeats.is_first(kind(n)));
            assert!(!repeats.is_first(kind(n)));
        }
        assert!(repeats.kinds.len() <= KINDS && repeats.forgotten.len() == 1);
        let told = repeats.told();
        assert_eq!(told.iter().map(|one| one.times).sum::<u64>(), 1000);
        assert_eq!(told[0].domain, None);
    }
}
