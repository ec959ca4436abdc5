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

use crate::smtp::Refusal;

/// How long a fault of the host is remembered.
const HOST_FAULT: Duration = Duration::from_secs(300);
/// How long what one session met is remembered: a little over Postfix's first retry.
const SESSION_FAULT: Duration = Duration::from_secs(900);
/// How long a host is spared the post-quantum key share.
const CLASSICAL: Duration = Duration::from_secs(24 * 3600);
/// Entries of each kind at most; beyond that the ones that expire first go.
const CAPACITY: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct HostMemory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    host: Fading<IpAddr, Refusal>,
    session: Fading<(IpAddr, IpAddr), Refusal>,
    classical: Fading<IpAddr, ()>,
}

impl HostMemory {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host at this address cannot do TLS with us.
    pub fn host_fault(&self, server: IpAddr, refusal: Refusal, now: Instant) {
        self.inner().host.put(server, refusal, now, HOST_FAULT);
    }

    /// The host did not satisfy the policy for a domain of this client's mail; what that says about other domains is not known.
    pub fn fault_of_one_session(
        &self,
        client: IpAddr,
        server: IpAddr,
        refusal: Refusal,
        now: Instant,
    ) {
        self.inner()
            .session
            .put((client, server), refusal, now, SESSION_FAULT);
    }

    /// What a new session of `client` to `server` is refused with at the greeting.
    #[must_use]
    pub fn refusal(&self, client: IpAddr, server: IpAddr, now: Instant) -> Option<Refusal> {
        let mut inner = self.inner();
        inner
            .host
            .get(&server, now)
            .cloned()
            .or_else(|| inner.session.take(&(client, server), now))
    }

    /// A handshake at this address succeeded.
    pub fn recovered(&self, server: IpAddr) {
        self.inner().host.forget(&server);
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

    fn refusal() -> Refusal {
        Refusal {
            code: 421,
            enhanced: (7, 4),
            text: "no".into(),
            cause: crate::smtp::Cause::Verdict,
        }
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
