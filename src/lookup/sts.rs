//! MTA-STS (RFC 8461): discovery, fetch, and a cache of policies that outlives restarts.

use super::{
    cache::Cache,
    dns::{Rdata, RecordType, Rrset, bounded},
    domain_state::{CachedPolicy, DomainState, FailedFetch, make_room},
    fetch_limits::FetchLimits,
    https::{self, FetchFailure},
    store::{PolicyStore, StoredPolicy},
};
use crate::{
    clock, metrics,
    policy::{
        Dns, Reason, Sts,
        mta_sts::{Policy, announced_id},
    },
    smtp::Domain,
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit},
    task::JoinSet,
};

/// How long mail waits for a policy, counted from the beginning of its fetch. The fetch goes on afterwards.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// Most policies that are refreshed at the same time.
const REFRESHES: usize = 16;
/// How long a refresh waits for the DNS.
const DISCOVERY: Duration = Duration::from_secs(30);
/// Time between two looks for policies that are due for a refresh.
const ROUND: Duration = Duration::from_secs(3600);
/// Most domains with a policy, a failed fetch, or a fetch under way.
const MAX_DOMAINS: usize = 10_000;
/// Most octets of all policies.
const MAX_OCTETS: usize = 32 * 1024 * 1024;

/// A cached MTA-STS policy, for `policy show`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StsEntry {
    /// The policy domain.
    pub domain: String,
    /// The policy with its id and age.
    pub sts: Sts,
    /// Seconds until it expires.
    pub expires_in: u64,
    /// The text as it was fetched.
    pub text: String,
}

/// All MTA-STS policies that are known, and how more are fetched.
pub(super) struct StsCache {
    dns: Arc<Cache>,
    client: https::PolicyClient,
    /// Policy hosts may have addresses that are not public.
    allow_private: bool,
    store: Option<Arc<PolicyStore>>,
    domains: Mutex<HashMap<Domain, DomainState>>,
    /// Domains whose stored policy cannot be read, and when that was noticed.
    unreadable: Mutex<HashMap<Domain, SystemTime>>,
    limits: FetchLimits,
}

impl StsCache {
    /// Reads the policies on disk.
    pub(super) fn new(
        dns: Arc<Cache>,
        client: https::PolicyClient,
        allow_private: bool,
        store: Option<PolicyStore>,
    ) -> Result<Self, String> {
        let mut domains = HashMap::new();
        let mut unreadable = HashMap::new();
        if let Some(store) = &store {
            let loaded = store.load(|stored| Policy::parse(&stored.text).is_ok())?;
            let seen = clock::wall();
            unreadable.extend(loaded.unreadable.into_iter().map(|domain| (domain, seen)));
            for (domain, stored) in loaded.policies {
                let policy = Some(CachedPolicy::read(stored)?);
                let state = DomainState {
                    policy,
                    ..DomainState::default()
                };
                if state.live().is_some() {
                    domains.insert(domain, state);
                } else if let Err(error) = store.remove(&domain) {
                    log::warn!("mta-sts: {domain}: expired policy: {error}");
                }
            }
        }
        Ok(Self {
            dns,
            client,
            allow_private,
            store: store.map(Arc::new),
            domains: Mutex::new(domains),
            unreadable: Mutex::new(unreadable),
            limits: FetchLimits::new(),
        })
    }

    /// Uses other trust anchors from now on. Failed fetches may then be tried again at once.
    pub(super) fn trust_instead(&self, tls: Arc<rustls::ClientConfig>) {
        *self
            .client
            .tls
            .write()
            .unwrap_or_else(PoisonError::into_inner) = tls;
        for state in self.domains().values_mut() {
            state.failed = None;
        }
    }

    /// The policy that applies to a domain, and when the answer that announces it ends (`None`: there was no answer). A fetch that
    /// is not done at `deadline` goes on, for the next decision.
    pub(super) async fn policy(
        self: &Arc<Self>,
        domain: &Domain,
        deadline: Instant,
    ) -> (Sts, Option<Instant>) {
        self.forget_if_purged(domain).await;
        let (discovery, end) = self.discover(domain, deadline).await;
        let sts = match discovery {
            Discovery::Id(id) => self.with_id(domain, &id, deadline).await,
            Discovery::Absent => self.cached_or(domain, None, Sts::Absent),
            Discovery::Failed(failure) => {
                let (reason, words) = failure.clone();
                let otherwise = Sts::Unavailable(reason, words);
                self.cached_or(domain, Some(failure), otherwise)
            }
        };
        (sts, end)
    }

    /// The policy that applies to a domain that announces this id.
    async fn with_id(self: &Arc<Self>, domain: &Domain, id: &str, deadline: Instant) -> Sts {
        if let Some(sts) = self.known_without_fetch(domain, id) {
            return sts;
        }
        let began = self.domains().get(domain).and_then(|state| state.began);
        let until = began.unwrap_or_else(clock::instant) + FETCH_WAIT;
        let fetched = self.await_fetch(domain, id);
        let _ = tokio::time::timeout_at(deadline.min(until).into(), fetched).await;
        self.known_without_fetch(domain, id).unwrap_or_else(|| {
            // The policy is neither cached nor could it be fetched, which counts as no policy (RFC 8461 §3.3).
            let words = format!("the policy of {domain} could not be fetched so far");
            let failure = (Reason::StsPolicyFetchError, words);
            let otherwise = Sts::Unavailable(failure.0, failure.1.clone());
            self.cached_or(domain, Some(failure), otherwise)
        })
    }

    /// The content of the TXT record, and when the answer ends.
    async fn discover(&self, domain: &Domain, deadline: Instant) -> (Discovery, Option<Instant>) {
        let name = format!("_mta-sts.{domain}");
        match tokio::time::timeout_at(deadline.into(), self.dns.get(&name, RecordType::Txt)).await {
            Ok(known) => (discovery(&known.reply.answer), Some(known.end())),
            Err(_) => {
                let late = Dns::Failed("no answer in time".to_owned());
                (discovery(&late), None)
            }
        }
    }

    /// The result that holds without another fetch: the policy with this id, or a recent failure to fetch it.
    fn known_without_fetch(&self, domain: &Domain, id: &str) -> Option<Sts> {
        let state = self.domains().get(domain).cloned()?;
        if let Some(cached) = state.live().filter(|cached| cached.stored.id == id) {
            return Some(cached.sts(None));
        }
        let failed = state.failed.as_ref()?;
        if failed.id != id || !failed.holds() {
            return None;
        }
        let (reason, words) = failed.failure.clone();
        let otherwise = Sts::Unavailable(reason, words);
        Some(self.cached_or(domain, Some(failed.failure.clone()), otherwise))
    }

    /// The unexpired policy, which applies even if the record or the policy host is gone (RFC 8461 §3.3); else `otherwise`.
    fn cached_or(&self, domain: &Domain, failure: Option<FetchFailure>, otherwise: Sts) -> Sts {
        if let Some(cached) = self.domains().get(domain).and_then(DomainState::live) {
            return cached.sts(failure);
        }
        if self.unreadable().contains_key(domain) {
            let words = format!(
                "the cached policy of {domain} cannot be read; \"policy purge {domain}\" forgets that there was one"
            );
            return Sts::Unavailable(Reason::LocalFault, words);
        }
        otherwise
    }

    /// Waits for the fetch that is under way, or else begins one. The fetch goes on if nobody waits for it any more.
    async fn await_fetch(self: &Arc<Self>, domain: &Domain, id: &str) {
        let turn = self.turn(domain).lock_owned().await;
        if self.known_without_fetch(domain, id).is_some() {
            return;
        }
        let Some(entered) = self.limits.enter() else {
            log::warn!("mta-sts: {domain}: not fetched now, too many others are");
            return;
        };
        self.note_begin(domain);
        let (cache, domain, id) = (Arc::clone(self), domain.clone(), id.to_owned());
        let task = tokio::spawn(async move { cache.fetch(&domain, &id, (turn, entered)).await });
        if let Err(error) = task.await {
            log::error!("mta-sts: a fetch broke off: {error}");
        }
    }

    fn turn(&self, domain: &Domain) -> Arc<AsyncMutex<()>> {
        let mut domains = self.domains();
        if !domains.contains_key(domain) {
            let gone = make_room(&mut domains, MAX_DOMAINS, MAX_OCTETS);
            self.remove_files(gone);
        }
        Arc::clone(&domains.entry(domain.clone()).or_default().turn)
    }

    fn note_begin(&self, domain: &Domain) {
        self.domains().entry(domain.clone()).or_default().began = Some(clock::instant());
    }

    async fn fetch(
        &self,
        domain: &Domain,
        id: &str,
        _held: (OwnedMutexGuard<()>, OwnedSemaphorePermit),
    ) {
        let fetched = clock::wall();
        match self.download(domain).await.and_then(|octets| {
            let text = String::from_utf8(octets).map_err(|_| "not UTF-8".to_owned());
            text.and_then(|text| CachedPolicy::read(StoredPolicy::new(domain, id, fetched, &text)))
                .map_err(|words| {
                    let words = format!("the policy of {domain} is invalid: {words}");
                    (Reason::StsPolicyInvalid, words)
                })
        }) {
            Ok(cached) => self.remember_policy(domain, cached).await,
            Err(failure) => self.remember_failure(domain, id, failure),
        }
    }

    async fn remember_policy(&self, domain: &Domain, cached: CachedPolicy) {
        log::info!(
            "mta-sts: {domain}: policy {:?} id {} for {} s",
            cached.policy.mode,
            cached.stored.id,
            cached.policy.max_age
        );
        let stored = cached.stored.clone();
        {
            let mut domains = self.domains();
            let state = domains.entry(domain.clone()).or_default();
            state.policy = Some(cached);
            state.failed = None;
            state.began = None;
        }
        self.unreadable().remove(domain);
        if let Some(store) = self.store.clone() {
            let saved = tokio::task::spawn_blocking(move || store.save(&stored)).await;
            if let Err(error) = saved.unwrap_or_else(|error| Err(error.into())) {
                log::error!("mta-sts: {domain}: policy not on disk, a restart forgets it: {error}");
            }
        }
    }

    fn remember_failure(&self, domain: &Domain, id: &str, (reason, words): FetchFailure) {
        let failure = (reason, bounded(words));
        let mut domains = self.domains();
        let state = domains.entry(domain.clone()).or_default();
        match state.live().and_then(CachedPolicy::expires_in) {
            Some(left) => log::error!(
                "mta-sts: {domain}: refresh failed, the cached policy holds for {left} s: {}",
                failure.1
            ),
            None => log::warn!("mta-sts: {domain}: no policy: {}", failure.1),
        }
        if let Some(cached) = &mut state.policy {
            cached.refresh_failed = Some(failure.clone());
        }
        state.began = None;
        state.failed = Some(FailedFetch {
            id: id.to_owned(),
            failure,
            at: clock::instant(),
        });
    }

    async fn download(&self, domain: &Domain) -> Result<Vec<u8>, FetchFailure> {
        let host = format!("mta-sts.{domain}");
        let addresses = self.addresses_of(&host).await?;
        let get = self
            .client
            .get(&host, "/.well-known/mta-sts.txt", &addresses);
        let began = clock::instant();
        let fetched = self.limits.fetch(&addresses, get).await;
        if let Some(metrics) = self.dns.metrics() {
            let took = clock::instant().duration_since(began);
            metrics.took(metrics::LOOKUP_TOOK, &["mta-sts"], took);
            let outcome = if fetched.is_ok() { "found" } else { "failed" };
            metrics.count_by(metrics::LOOKUPS, &["mta-sts", outcome]);
        }
        fetched
    }

    /// The addresses of a policy host. Without `allow_private` only public ones: a domain must not make the proxy connect to hosts that
    /// only the proxy can reach.
    async fn addresses_of(&self, host: &str) -> Result<Vec<IpAddr>, FetchFailure> {
        let fault = |words: String| (Reason::StsPolicyFetchError, format!("{host}: {words}"));
        let (v6, v4) = tokio::join!(
            self.dns.get(host, RecordType::Aaaa),
            self.dns.get(host, RecordType::A)
        );
        let mut addresses: Vec<(usize, IpAddr)> = Vec::new();
        let mut why = "has no address".to_owned();
        for known in [v4, v6] {
            match &known.reply.answer {
                Dns::Found(rrset, _) => {
                    let of_family = rrset.records.iter().filter_map(|record| match record {
                        Rdata::Address(address) => Some(*address),
                        _ => None,
                    });
                    addresses.extend(of_family.enumerate());
                }
                Dns::Bogus(words) | Dns::Failed(words) => why = words.clone(),
                Dns::Absent(_) | Dns::NotAsked => {}
            }
        }
        if addresses.is_empty() {
            return Err(fault(why));
        }
        // The families take turns, since one of them may be out of reach as a whole.
        addresses.sort_by_key(|(position, _)| *position);
        let mut addresses: Vec<IpAddr> = addresses.into_iter().map(|(_, one)| one).collect();
        if !self.allow_private {
            addresses.retain(|&address| https::is_public(address) && !https::is_own(address));
        }
        if addresses.is_empty() {
            return Err(fault("has only private addresses".to_owned()));
        }
        Ok(addresses)
    }

    /// Refreshes, once an hour, the policies that are due.
    pub(super) async fn refresh_daily(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            self.refresh().await;
        }
    }

    /// Fetches every policy that is due, even if its id has not changed, so that no policy expires unnoticed (RFC 8461 §3.3).
    pub(super) async fn refresh(self: &Arc<Self>) {
        let due: Vec<(Domain, String)> = self
            .domains()
            .iter()
            .filter_map(|(domain, state)| Some((domain.clone(), state.live()?)))
            .filter(|(_, cached)| cached.policy.wants_refresh(cached.age()))
            .map(|(domain, cached)| (domain, cached.stored.id.clone()))
            .collect();
        let mut refreshing = JoinSet::new();
        for (domain, id) in due {
            // Hosts that do not answer must not delay the other refreshes until those policies expire.
            while refreshing.len() >= REFRESHES {
                let _ = refreshing.join_next().await;
            }
            let cache = Arc::clone(self);
            refreshing.spawn(async move { cache.refresh_one(&domain, &id).await });
        }
        while refreshing.join_next().await.is_some() {}
    }

    async fn refresh_one(&self, domain: &Domain, id: &str) {
        self.forget_if_purged(domain).await;
        let state = self.domains().get(domain).cloned();
        let Some(state) = state else { return };
        let turn = state.turn.lock_owned().await;
        let (discovery, _) = self.discover(domain, clock::instant() + DISCOVERY).await;
        match discovery {
            Discovery::Id(id) => {
                if let Some(entered) = self.limits.enter() {
                    self.fetch(domain, &id, (turn, entered)).await;
                }
            }
            // The policy holds until it expires.
            Discovery::Absent => {
                let words = format!("_mta-sts.{domain} has no policy record any more");
                self.remember_failure(domain, id, (Reason::StsPolicyFetchError, words));
            }
            Discovery::Failed(failure) => self.remember_failure(domain, id, failure),
        }
    }

    fn remove_files(&self, domains: Vec<Domain>) {
        let Some(store) = self.store.clone() else {
            return;
        };
        if domains.is_empty() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            for domain in domains {
                if let Err(error) = store.remove(&domain) {
                    log::warn!("mta-sts: {domain}: expired policy: {error}");
                }
            }
        });
    }

    /// Forgets the policy if another process has purged it since.
    async fn forget_if_purged(&self, domain: &Domain) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let asked = domain.clone();
        let purged = tokio::task::spawn_blocking(move || store.purged_at(&asked)).await;
        let Ok(Some(at)) = purged else { return };
        let mut domains = self.domains();
        if let Some(state) = domains.get_mut(domain)
            && state
                .policy
                .as_ref()
                .is_some_and(|cached| cached.fetched <= at)
        {
            state.policy = None;
            state.failed = None;
        }
        drop(domains);
        let mut unreadable = self.unreadable();
        if unreadable.get(domain).is_some_and(|&seen| seen <= at) {
            unreadable.remove(domain);
        }
    }

    /// Every unexpired policy, by domain.
    pub(super) fn list(&self) -> Vec<StsEntry> {
        let mut entries: Vec<_> = self
            .domains()
            .iter()
            .filter_map(|(domain, state)| {
                let cached = state.live()?;
                Some(StsEntry {
                    domain: domain.as_str().to_owned(),
                    sts: cached.sts(None),
                    expires_in: cached.expires_in()?,
                    text: cached.stored.text.clone(),
                })
            })
            .collect();
        entries.sort_by(|a, b| a.domain.cmp(&b.domain));
        entries
    }

    /// Forgets a domain. Returns false if no policy of it was known.
    pub(super) fn purge(&self, domain: &Domain) -> Result<bool, String> {
        let on_disk = match &self.store {
            Some(store) => store
                .purge(domain)
                .map_err(|error| format!("{domain}: cannot purge: {error}"))?,
            None => false,
        };
        let in_memory = self
            .domains()
            .remove(domain)
            .is_some_and(|state| state.policy.is_some());
        Ok(self.unreadable().remove(domain).is_some() || in_memory || on_disk)
    }

    #[cfg(test)]
    pub(super) fn state(&self, domain: &Domain) -> Option<DomainState> {
        self.domains().get(domain).cloned()
    }

    fn domains(&self) -> MutexGuard<'_, HashMap<Domain, DomainState>> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self) -> MutexGuard<'_, HashMap<Domain, SystemTime>> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content of the TXT record (RFC 8461 §3.1).
enum Discovery {
    Id(String),
    Absent,
    Failed(FetchFailure),
}

fn discovery(answer: &Dns<Rrset>) -> Discovery {
    let failed = |reason, words: &String| {
        Discovery::Failed((
            reason,
            format!("the policy record could not be looked up: {words}"),
        ))
    };
    match answer {
        Dns::Found(rrset, _) => {
            let text = |record: &_| match record {
                Rdata::Txt(text) => Some(text.clone()),
                _ => None,
            };
            let texts: Vec<Vec<u8>> = rrset.records.iter().filter_map(text).collect();
            match announced_id(&texts) {
                Ok(Some(id)) => Discovery::Id(id),
                Ok(None) => Discovery::Absent,
                Err(words) => Discovery::Failed((Reason::StsPolicyInvalid, bounded(words))),
            }
        }
        Dns::Absent(_) | Dns::NotAsked => Discovery::Absent,
        Dns::Bogus(words) => failed(Reason::DnssecInvalid, words),
        Dns::Failed(words) => failed(Reason::LookupFailed, words),
    }
}
