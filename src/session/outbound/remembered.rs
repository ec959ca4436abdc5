//! What a session need not find out twice: decisions that it gives again, each as long as all that it rests on.
//!
//! 300 recipients of one domain are one decision. It is about one peer: with a new connection, a new handshake or the news that
//! there will be none, the session forgets all of it. Refusals are never remembered, so that each is made from fresh facts.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use super::super::{journal::WrittenDecision, permits::LastingPermit};
use crate::{
    clock,
    policy::{Findings, NextHop, Validity},
    smtp::Question,
};

/// Most decisions that a session remembers: as many as its journal counts repeats of.
const MOST: usize = 64;

/// How long facts count that were asked for at one moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct Lifetime {
    /// See [`clock::tick`].
    asked: Duration,
    validity: Validity,
}

impl Lifetime {
    /// Facts are asked for now.
    pub(super) fn begin() -> Self {
        Self {
            asked: clock::tick(),
            validity: Validity::beginning(clock::wall_tick()),
        }
    }

    /// They are these.
    pub(super) fn of(self, findings: &Findings) -> Self {
        let validity = self.validity.while_known(findings);
        Self { validity, ..self }
    }

    /// Not beyond `end`.
    pub(super) fn until(self, end: Option<SystemTime>) -> Self {
        let validity = self.validity.until(end);
        Self { validity, ..self }
    }

    /// Whether they still count.
    pub(super) fn holds(&self) -> bool {
        let age = clock::tick().saturating_sub(self.asked);
        self.validity.holds(clock::wall_tick(), age)
    }
}

/// A decision that let mail pass.
pub(super) struct RememberedDecision {
    /// Whose mail it is about.
    pub(super) next_hop: NextHop,
    /// What it lets pass.
    pub(super) permit: LastingPermit,
    /// The decision in the journal.
    pub(super) written: WrittenDecision,
    pub(super) lifetime: Lifetime,
}

impl RememberedDecision {
    /// Whether it is still given after that time.
    #[cfg(test)]
    pub(super) fn holds_in(&self, time: Duration) -> bool {
        let validity = &self.lifetime.validity;
        validity.holds(clock::wall_tick() + time, time)
    }

    fn answers(&self, question: &Question) -> bool {
        match (&self.next_hop, question) {
            (NextHop::Recipient(known), Question::Recipient(asked)) => known == asked,
            // With `--upstream` the decision is about that host, whoever the recipient is.
            (NextHop::Upstream(_), Question::Recipient(_)) => true,
            _ => false,
        }
    }
}

/// The decisions about the peer that the session has now, the oldest first.
#[derive(Default)]
pub(super) struct RememberedDecisions(VecDeque<RememberedDecision>);

impl RememberedDecisions {
    /// The peer is another one.
    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// Keeps a decision in the place of an earlier one about the same mail.
    pub(super) fn keep(&mut self, decision: RememberedDecision) {
        if !decision.lifetime.holds() {
            return;
        }
        self.0.retain(|one| one.next_hop != decision.next_hop);
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        // Most sessions have mail for one domain.
        self.0.reserve_exact(usize::from(self.0.is_empty()));
        self.0.push_back(decision);
    }

    /// The decision that answers a question about a recipient, if all that it rests on still holds.
    pub(super) fn answer(&self, question: &Question) -> Option<&RememberedDecision> {
        let known = self.0.iter().find(|one| one.answers(question));
        known.filter(|one| one.lifetime.holds())
    }
}
