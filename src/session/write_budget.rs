//! The [`Budget`] that all sessions of a process share, with the clocks.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::budget::{Budget, BudgetedEvent, Count, Now};
use crate::{audit::Record, clock};

/// Octets that a record takes in the log, without the links of the chain.
pub(super) fn octets(record: &Record) -> usize {
    serde_json::to_vec(record).map_or(0, |text| text.len())
}

/// How many octets clients may make this proxy write. Outbound there is no limit for the administrator's own mail servers:
/// everything is written and nobody is turned away. Strangers at a smart host have limits.
#[derive(Debug)]
pub struct WriteBudget(Option<Mutex<Budget>>);

impl WriteBudget {
    /// Inbound, and for strangers at a smart host: the limits of [`Budget`].
    #[must_use]
    pub fn for_strangers() -> Self {
        Self(Some(Mutex::new(Budget::new(clock::instant()))))
    }

    /// For the administrator's own mail servers: no limits.
    #[must_use]
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// Whether there are limits at all. Without them nothing needs a price.
    #[must_use]
    pub(crate) fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    fn budget(&self) -> Option<MutexGuard<'_, Budget>> {
        let budget = self.0.as_ref()?;
        Some(budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a session of this client may begin. If not, that is counted, and the connection is answered 421.
    #[must_use]
    pub fn admit(&self, client: IpAddr) -> bool {
        self.budget()
            .is_none_or(|mut budget| budget.admit(client, now()))
    }

    /// Whether this many octets (an event's log line and record) may be written for this client. If not, the event is counted. Not to be
    /// asked for messages, for verdicts that let a message pass, nor in a session that has carried a message.
    #[must_use]
    pub fn may_write(&self, client: IpAddr, event: BudgetedEvent, octets: usize) -> bool {
        self.budget()
            .is_none_or(|mut budget| budget.spend(client, event, octets, now()))
    }

    /// What a client was to pay for in advance turned out to be so many octets longer.
    pub fn charge(&self, client: IpAddr, octets: usize) {
        if let Some(mut budget) = self.budget() {
            budget.charge(client, octets, clock::instant());
        }
    }

    /// The server accepted a message of this client. `messages`: so many of its session by now.
    pub fn delivered(&self, client: IpAddr, messages: u64) {
        // The budget looks at a day, so one message in many is enough.
        if messages % 16 == 1
            && let Some(mut budget) = self.budget()
        {
            budget.delivered(client, clock::instant());
        }
    }

    /// The counts since the last call. To be called once a minute.
    #[must_use]
    pub fn report(&self) -> Vec<Count> {
        self.budget()
            .map_or_else(Vec::new, |mut budget| budget.report(clock::instant()))
    }
}

fn now() -> Now {
    Now {
        instant: clock::instant(),
        wall: clock::wall(),
    }
}
