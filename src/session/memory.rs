//! What went wrong at an address a short while ago, so that the next session there is refused at the greeting, where MTAs
//! move on to their next MX, and not at RCPT, where some stay.
//!
//! Two kinds, because an address may serve many domains. A fault of the host (no STARTTLS, no handshake) holds for
//! everybody for some minutes. A certificate that did not satisfy one domain's policy says nothing about another domain:
//! it is remembered for the client that met it, and refuses one session of it. Else anyone who publishes an MX record
//! could make us refuse somebody else's host.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    policy::{LONGEST_TEXT, one_line},
    smtp::{Cause, Refusal, extensions::Keyword},
};

/// How long a fault of the host is remembered.
const HOST_FAULT: Duration = Duration::from_secs(300);
/// How long what one session met is remembered: a little over Postfix's first retry.
const SESSION_FAULT: Duration = Duration::from_secs(900);
/// A passing fault is one of the host after so many within [`PASSING`].
const PASSING_FAULTS: usize = 3;
/// How long a passing fault counts.
const PASSING: Duration = Duration::from_secs(600);
/// How long a keyword that a server lacks is kept for the client's next session there.
const LACKING: Duration = Duration::from_secs(900);
/// How long a host is spared the post-quantum key share.
const CLASSICAL: Duration = Duration::from_secs(24 * 3600);
/// Entries of each kind at most; beyond that the ones that expire first go.
const CAPACITY: usize = 4096;

/// What a session was refused for, so that the next one can be told and its record can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The reply that it got.
    pub refusal: Refusal,
    /// Why, in the word of its record.
    pub reason: &'static str,
    /// The domain whose mail it was refused for; `None` where none was known yet.
    pub domain: Option<String>,
    /// The level that was in force for that domain.
    pub level: Option<String>,
}

impl Remembered {
    /// What the next session is refused with at its greeting. Whose mail it carries is not known there, so it is told for whose mail
    /// this was found. Its cause is a verdict: its record is written when it is made.
    #[must_use]
    pub fn refuse_again(&self) -> Refusal {
        let text = match &self.domain {
            Some(domain) => {
                let text = self.refusal.text.strip_prefix(domain.as_str());
                let text = text.and_then(|text| text.strip_prefix(':'));
                let text = text.unwrap_or(&self.refusal.text).trim_start();
                format!("refused a short while ago for {domain}: {text}")
            }
            None => format!("refused a short while ago: {}", self.refusal.text),
        };
        Refusal {
            code: 421,
            enhanced: self.refusal.enhanced,
            text: one_line(&text, LONGEST_TEXT),
            cause: Cause::Verdict,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct HostMemory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    host: Fading<IpAddr, Remembered>,
    session: Fading<(IpAddr, IpAddr), Remembered>,
    passing: Fading<IpAddr, Vec<Instant>>,
    lacking: Fading<(IpAddr, IpAddr), Vec<Keyword>>,
    classical: Fading<IpAddr, ()>,
}

impl HostMemory {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host at this address cannot do TLS with us.
    pub fn host_fault(&self, server: IpAddr, fault: Remembered, now: Instant) {
        self.inner().host.put(server, fault, now, HOST_FAULT);
    }

    /// The host at this address had a fault that may pass, such as a 4yz. True: it was not the first, and counts as a fault of the
    /// host from now on.
    #[must_use]
    pub fn passing_fault(&self, server: IpAddr, now: Instant) -> bool {
        let mut inner = self.inner();
        let mut seen = inner.passing.take(&server, now).unwrap_or_default();
        seen.retain(|at| now.duration_since(*at) < PASSING);
        seen.push(now);
        let enough = seen.len() >= PASSING_FAULTS;
        inner.passing.put(server, seen, now, PASSING);
        enough
    }

    /// The server, which proved who it is, lacks an extension inside TLS that this client used.
    pub fn lacking(&self, client: IpAddr, server: IpAddr, keyword: Keyword, now: Instant) {
        let mut inner = self.inner();
        let mut keywords = inner
            .lacking
            .take(&(client, server), now)
            .unwrap_or_default();
        if !keywords.contains(&keyword) {
            keywords.push(keyword);
        }
        inner.lacking.put((client, server), keywords, now, LACKING);
    }

    /// What a new session of this client to this server is not shown. Holds for that one session.
    #[must_use]
    pub fn hidden(&self, client: IpAddr, server: IpAddr, now: Instant) -> Vec<Keyword> {
        let taken = self.inner().lacking.take(&(client, server), now);
        taken.unwrap_or_default()
    }

    /// The host did not satisfy the policy for a domain of this client's mail; what that says about other domains is not known.
    pub fn fault_of_one_session(
        &self,
        client: IpAddr,
        server: IpAddr,
        fault: Remembered,
        now: Instant,
    ) {
        self.inner()
            .session
            .put((client, server), fault, now, SESSION_FAULT);
    }

    /// What a new session of `client` to `server` is refused with at the greeting.
    #[must_use]
    pub fn refusal(&self, client: IpAddr, server: IpAddr, now: Instant) -> Option<Remembered> {
        let mut inner = self.inner();
        inner
            .host
            .get(&server, now)
            .cloned()
            .or_else(|| inner.session.take(&(client, server), now))
    }

    /// A handshake at this address succeeded.
    pub fn recovered(&self, server: IpAddr) {
        let mut inner = self.inner();
        inner.host.forget(&server);
        inner.passing.forget(&server);
    }

    /// A handshake died there without an alert: the large ClientHello of the post-quantum share may be why.
    pub fn died_without_alert(&self, server: IpAddr, now: Instant) {
        self.inner().classical.put(server, (), now, CLASSICAL);
    }

    /// Go without the post-quantum share there?
    #[must_use]
    pub fn classical_only(&self, server: IpAddr, now: Instant) -> bool {
        self.inner().classical.get(&server, now).is_some()
    }
}

/// A bounded map whose entries expire.
#[derive(Debug)]
struct Fading<K, V>(HashMap<K, (V, Instant)>);

impl<K, V> Default for Fading<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Copy, V> Fading<K, V> {
    fn put(&mut self, key: K, value: V, now: Instant, lifetime: Duration) {
        if self.0.len() >= CAPACITY && !self.0.contains_key(&key) {
            self.0.retain(|_, (_, until)| *until > now);
            if self.0.len() >= CAPACITY
                && let Some(soonest) = self
                    .0
                    .iter()
                    .min_by_key(|(_, (_, until))| *until)
                    .map(|(key, _)| *key)
            {
                self.0.remove(&soonest);
            }
        }
        self.0.insert(key, (value, now + lifetime));
    }

    fn get(&self, key: &K, now: Instant) -> Option<&V> {
        self.0
            .get(key)
            .filter(|(_, until)| *until > now)
            .map(|(value, _)| value)
    }

    fn take(&mut self, key: &K, now: Instant) -> Option<V> {
        self.0
            .remove(key)
            .filter(|(_, until)| *until > now)
            .map(|(value, _)| value)
    }

    fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 6));
    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    fn refusal() -> Remembered {
        Remembered {
            refusal: Refusal {
                code: 451,
                enhanced: (7, 5),
                text: "b.test: mx.b.test[203.0.113.9] not authenticated: certificate-expired: over"
                    .into(),
                cause: Cause::Verdict,
            },
            reason: "certificate-expired",
            domain: Some("b.test".into()),
            level: Some("verify".into()),
        }
    }

    #[test]
    fn a_remembered_refusal_names_the_domain_that_it_was_made_for() {
        assert_eq!(
            refusal().refuse_again().to_string(),
            "421 4.7.5 refused a short while ago for b.test: mx.b.test[203.0.113.9] not authenticated: certificate-expired: over"
        );
        let unknown = Remembered {
            domain: None,
            ..refusal()
        };
        let long = Remembered {
            refusal: Refusal {
                text: "x".repeat(LONGEST_TEXT),
                ..refusal().refusal
            },
            ..refusal()
        };
        assert!(
            unknown
                .refuse_again()
                .text
                .starts_with("refused a short while ago: b.test: ")
        );
        assert!(long.refuse_again().to_string().len() <= 510);
    }

    #[test]
    fn a_passing_fault_is_one_of_the_host_the_third_time_within_ten_minutes() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        let minute = Duration::from_secs(60);
        assert!(!memory.passing_fault(SERVER, now));
        assert!(!memory.passing_fault(SERVER, now + minute));
        assert!(!memory.passing_fault(SERVER, now + 10 * minute));
        assert!(memory.passing_fault(SERVER, now + 10 * minute + minute / 2));
        memory.recovered(SERVER);
        assert!(!memory.passing_fault(SERVER, now + 11 * minute));
    }

    #[test]
    fn a_lacking_keyword_is_hidden_from_one_session_of_the_client_that_met_it() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.lacking(CLIENT, SERVER, Keyword::Dsn, now);
        memory.lacking(CLIENT, SERVER, Keyword::Chunking, now);
        memory.lacking(CLIENT, SERVER, Keyword::Dsn, now);
        assert!(memory.hidden(OTHER, SERVER, now).is_empty());
        let both = vec![Keyword::Dsn, Keyword::Chunking];
        assert_eq!(memory.hidden(CLIENT, SERVER, now), both);
        assert!(memory.hidden(CLIENT, SERVER, now).is_empty());
        memory.lacking(CLIENT, SERVER, Keyword::Dsn, now);
        assert!(memory.hidden(CLIENT, SERVER, now + LACKING).is_empty());
    }

    #[test]
    fn a_host_fault_refuses_everybody_until_it_fades() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.host_fault(SERVER, refusal(), now);
        assert!(memory.refusal(CLIENT, SERVER, now).is_some());
        assert!(
            memory
                .refusal(OTHER, SERVER, now + HOST_FAULT / 2)
                .is_some()
        );
        assert!(memory.refusal(CLIENT, SERVER, now + HOST_FAULT).is_none());
    }

    #[test]
    fn a_fault_of_one_session_refuses_one_session_of_the_client_that_met_it() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.fault_of_one_session(CLIENT, SERVER, refusal(), now);
        assert!(memory.refusal(OTHER, SERVER, now).is_none());
        assert!(memory.refusal(CLIENT, SERVER, now).is_some());
        assert!(memory.refusal(CLIENT, SERVER, now).is_none());
    }

    #[test]
    fn a_flood_of_faults_keeps_the_memory_bounded() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        for n in 0..2 * u32::try_from(CAPACITY).expect("small") {
            memory.host_fault(
                std::net::Ipv4Addr::from(n).into(),
                refusal(),
                now + Duration::from_millis(n.into()),
            );
        }
        assert_eq!(memory.inner().host.0.len(), CAPACITY);
    }
}
