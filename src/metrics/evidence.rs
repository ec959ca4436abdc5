//! What became of the audit log since the process began, for people who look. All of it is bounded.

use super::refused::shorten;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Events that are remembered.
const EVENTS: usize = 8;

/// Something that somebody did to the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// When it was found.
    pub at: SystemTime,
    /// What the program's log says of it.
    pub words: String,
    /// Records are missing.
    pub is_loss: bool,
}

/// Someone who vouches for the log cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorGap {
    /// What is not to be had, and from whom.
    pub missing: String,
    /// When it was first asked for in vain.
    pub since: SystemTime,
    /// How often, since then.
    pub tries: u64,
    /// Why it was not to be had the last time.
    pub error: String,
}

/// What is remembered of the audit log.
#[derive(Debug, Default)]
pub struct EvidenceNews {
    events: Mutex<VecDeque<LogEvent>>,
    gaps: Mutex<BTreeMap<String, AnchorGap>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EvidenceNews {
    /// Remembers that something was done to the log. Whatever comes later, the losses are forgotten last.
    pub(crate) fn happened(&self, mut words: String, is_loss: bool, at: SystemTime) {
        shorten(&mut words);
        let mut events = locked(&self.events);
        if events.len() >= EVENTS {
            let lesser = events.iter().position(|event| !event.is_loss);
            events.remove(lesser.unwrap_or_default());
        }
        events.push_back(LogEvent { at, words, is_loss });
    }

    /// What was asked for is not to be had.
    pub(crate) fn not_anchored(&self, missing: String, words: &str, now: SystemTime) {
        let mut error = words.to_owned();
        shorten(&mut error);
        let mut gaps = locked(&self.gaps);
        let gap = gaps.entry(missing.clone()).or_insert(AnchorGap {
            missing,
            since: now,
            tries: 0,
            error: String::new(),
        });
        gap.tries += 1;
        gap.error = error;
    }

    /// What was asked for has come.
    pub(crate) fn anchored(&self, missing: &str) {
        locked(&self.gaps).remove(missing);
    }

    /// What somebody did to the log, the oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<LogEvent> {
        locked(&self.events).iter().cloned().collect()
    }

    /// What is not to be had now.
    #[must_use]
    pub fn gaps(&self) -> Vec<AnchorGap> {
        locked(&self.gaps).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn a_loss_is_remembered_longer_than_what_is_less() {
        let news = EvidenceNews::default();
        news.happened("cut".into(), true, at(0));
        for second in 1..100 {
            news.happened("moved".into(), false, at(second));
        }
        let events = news.events();
        assert_eq!(events.len(), EVENTS);
        assert_eq!((events[0].words.as_str(), events[1].at), ("cut", at(93)));
        for second in 100..200 {
            news.happened("cut".into(), true, at(second));
        }
        let kept: Vec<_> = news.events().iter().map(|event| event.at).collect();
        assert_eq!(kept, (192..200).map(at).collect::<Vec<_>>());
    }

    #[test]
    fn a_gap_lasts_from_the_first_failure_to_the_next_success_of_the_same() {
        let news = EvidenceNews::default();
        news.not_anchored("time-stamp".into(), "refused", at(1));
        news.not_anchored("time-stamp".into(), "no answer", at(2));
        news.not_anchored("signature".into(), "refused", at(3));
        news.anchored("signature");
        let gap = AnchorGap {
            missing: "time-stamp".into(),
            since: at(1),
            tries: 2,
            error: "no answer".into(),
        };
        assert_eq!(news.gaps(), [gap]);
        news.anchored("time-stamp");
        assert_eq!(news.gaps(), []);
    }
}
