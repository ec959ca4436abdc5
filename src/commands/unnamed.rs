//! Verdicts that do not name the peer that they authorised: the next message of their session names it, or the session's end (see
//! [`VerdictRecord`](crate::audit::VerdictRecord)). Older logs have verdicts that name it themselves, which need nothing of this.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

/// Sessions that can wait at once. Where a crash kept the other record from being written, a session waits for ever.
const SESSIONS: usize = 100_000;

/// What a reader of the log keeps of such verdicts until it knows the peer, by the session's id.
pub(super) struct UnnamedPeers<T>(HashMap<String, HashSet<T>>);

impl<T> Default for UnnamedPeers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> UnnamedPeers<T> {
    /// A verdict of this session does not name the peer that it authorised.
    pub(super) fn await_name(&mut self, session: &str, verdict: T) {
        if let Some(waiting) = self.0.get_mut(session) {
            waiting.insert(verdict);
            return;
        }
        if self.0.len() >= SESSIONS {
            // Nearly all of them are over.
            self.0.clear();
        }
        self.0
            .insert(session.to_owned(), HashSet::from_iter([verdict]));
    }

    /// What waited for this message or end of its session.
    pub(super) fn named(&mut self, session: &str) -> HashSet<T> {
        self.0.remove(session).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_wait_for_the_next_record_of_their_own_session() {
        let mut unnamed = UnnamedPeers::default();
        for (session, verdict) in [("a", 1), ("b", 2), ("a", 3), ("a", 1)] {
            unnamed.await_name(session, verdict);
        }
        assert_eq!(unnamed.named("a"), HashSet::from([1, 3]));
        assert_eq!(unnamed.named("a"), HashSet::new());
        assert_eq!(unnamed.named("b"), HashSet::from([2]));
    }

    #[test]
    fn sessions_that_a_crash_left_without_an_end_do_not_fill_the_memory() {
        let mut unnamed = UnnamedPeers::default();
        for session in 0..=SESSIONS {
            unnamed.await_name(&session.to_string(), ());
        }
        assert!(unnamed.0.len() <= SESSIONS);
        assert_eq!(unnamed.named(&SESSIONS.to_string()).len(), 1);
    }
}
