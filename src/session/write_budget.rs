//! The one [`Budget`] of a process, with the clocks.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::budget::{Budget, Count, Kind, Now};
use crate::clock;

/// What strangers may make us write. Outbound there are none: the client is the administrator's own mail server, so all is
/// written and nobody is turned away.
#[derive(Debug)]
pub struct WriteBudget(Option<Mutex<Budget>>);

impl WriteBudget {
    /// Inbound: with the bounds of [`Budget`].
    #[must_use]
    pub fn for_strangers() -> Self {
        Self(Some(Mutex::new(Budget::new(clock::instant()))))
    }

    /// Outbound: without bounds.
    #[must_use]
    pub fn unlimited() -> Self {
        Self(None)
    }

    fn budget(&self) -> Option<MutexGuard<'_, Budget>> {
        let budget = self.0.as_ref()?;
        Some(budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// May a session of this client begin? If not, it is answered 421, and counted.
    #[must_use]
    pub fn admit(&self, client: IpAddr) -> bool {
        self.budget()
            .is_none_or(|mut budget| budget.admit(client, now()))
    }

    /// May so many octets (of the log line and the record of one fact) be written for this client? If not, the fact is
    /// counted. Not to be asked for messages, for verdicts that let a message pass, nor in a session that has carried one.
    #[must_use]
    pub fn may_write(&self, client: IpAddr, kind: Kind, octets: usize) -> bool {
        self.budget()
            .is_none_or(|mut budget| budget.spend(client, kind, octets, now()))
    }

    /// The server accepted a message of this client.
    pub fn delivered(&self, client: IpAddr) {
        if let Some(mut budget) = self.budget() {
            budget.delivered(client, clock::instant());
        }
    }

    /// What was counted since the last call. Once a minute.
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
