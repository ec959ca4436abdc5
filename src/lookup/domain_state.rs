//! What is known of one domain's MTA-STS policy, and which domains are forgotten when memory is full.

use super::{https::FetchFailure, store::StoredPolicy};
use crate::{
    clock,
    policy::{Sts, mta_sts::Policy},
    smtp::Domain,
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Mutex as AsyncMutex;

/// A failed fetch is not tried again before this time has passed (RFC 8461 §3.3).
const BACK_OFF: Duration = Duration::from_secs(5 * 60);

/// What is known of one domain.
#[derive(Clone, Debug, Default)]
pub(super) struct DomainState {
    pub(super) policy: Option<CachedPolicy>,
    pub(super) failed: Option<FailedFetch>,
    /// When the fetch that is under way began.
    pub(super) began: Option<Instant>,
    /// Locked while a fetch is under way.
    pub(super) turn: Arc<AsyncMutex<()>>,
}

/// A policy that was fetched.
#[derive(Clone, Debug)]
pub(super) struct CachedPolicy {
    pub(super) stored: StoredPolicy,
    pub(super) policy: Policy,
    pub(super) fetched: SystemTime,
    pub(super) refresh_failed: Option<FetchFailure>,
}

/// A fetch that failed.
#[derive(Clone, Debug)]
pub(super) struct FailedFetch {
    /// The `id` of the TXT record at that time.
    pub(super) id: String,
    pub(super) failure: FetchFailure,
    pub(super) at: Instant,
}

impl FailedFetch {
    /// Whether the failure is so recent that the fetch must not be tried again yet.
    pub(super) fn holds(&self) -> bool {
        clock::instant().duration_since(self.at) < BACK_OFF
    }
}

impl CachedPolicy {
    /// # Errors
    /// In words, if the text is no policy.
    pub(super) fn read(stored: StoredPolicy) -> Result<Self, String> {
        Ok(Self {
            policy: Policy::parse(&stored.text)?,
            fetched: stored.fetched(),
            stored,
            refresh_failed: None,
        })
    }

    /// Seconds until it expires; `None`: it has expired. A clock that was set back makes a policy younger, never void.
    pub(super) fn expires_in(&self) -> Option<u64> {
        self.policy.expires_in(self.age())
    }

    /// Seconds since it was fetched.
    pub(super) fn age(&self) -> u64 {
        clock::wall()
            .duration_since(self.fetched)
            .unwrap_or_default()
            .as_secs()
    }

    /// The policy as a decision uses it; `refresh_failed` takes precedence over an earlier failure to refresh it.
    pub(super) fn sts(&self, refresh_failed: Option<FetchFailure>) -> Sts {
        Sts::Policy {
            policy: self.policy.clone(),
            id: self.stored.id.clone(),
            age: self.age(),
            refresh_failed: refresh_failed.or_else(|| self.refresh_failed.clone()),
        }
    }
}

impl DomainState {
    /// The policy, if it has not expired.
    pub(super) fn live(&self) -> Option<&CachedPolicy> {
        self.policy
            .as_ref()
            .filter(|cached| cached.expires_in().is_some())
    }

    fn is_being_fetched(&self) -> bool {
        self.turn.try_lock().is_err()
    }

    /// Nothing about the domain is worth remembering.
    fn is_idle(&self) -> bool {
        let backing_off = self.failed.as_ref().is_some_and(FailedFetch::holds);
        self.live().is_none() && !backing_off && !self.is_being_fetched()
    }

    fn octets(&self) -> usize {
        self.policy
            .as_ref()
            .map_or(0, |cached| cached.stored.text.len())
    }
}

/// Forgets domains until there are fewer than `most` with fewer than `octets` octets of policies, and returns the forgotten ones.
///
/// Idle domains go first. Then domains whose fetch failed go, the oldest failure first, since forgetting one costs only a new fetch.
/// Then the policies that expire first go. A domain whose policy is being fetched stays.
pub(super) fn make_room(
    domains: &mut HashMap<Domain, DomainState>,
    most: usize,
    octets: usize,
) -> Vec<Domain> {
    let mut sum: usize = domains.values().map(DomainState::octets).sum();
    let mut gone = Vec::new();
    if domains.len() < most && sum < octets {
        return gone;
    }
    let mut order: Vec<_> = domains
        .iter()
        .map(|(domain, state)| {
            let expires_in = state.live().and_then(CachedPolicy::expires_in);
            let failed = state.failed.as_ref().map(|failed| failed.at);
            (expires_in, failed, domain.clone())
        })
        .collect();
    order.sort();
    for (_, _, domain) in order {
        if !domains[&domain].is_idle() && domains.len() < most && sum < octets {
            break;
        }
        if domains[&domain].is_being_fetched() {
            continue;
        }
        if let Some(state) = domains.remove(&domain) {
            sum -= state.octets();
            gone.push(domain);
        }
    }
    gone
}
