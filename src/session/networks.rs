//! Inbound: which networks tried STARTTLS a short while ago and failed, so that their mail in the clear is deferred (4yz).
//!
//! An MTA with opportunistic TLS goes on in the clear when its handshake was cut, and bounces the mail if it gets 530 then. Its next
//! try may come from another address of the same pool, so the network is remembered: the /24 of an IPv4 or the /64 of an IPv6 address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::fading::Fading;
use crate::clock;

/// How long a failed handshake is remembered. For as long after a start every network counts as having tried, because handshakes that
/// a restart cut are not known. Longer than common MTAs wait for their first retry.
const TRIED: Duration = Duration::from_secs(600);

/// The networks of this process that tried; see the module.
#[derive(Debug)]
pub struct TriedNetworks(Mutex<Tries>);

#[derive(Debug)]
struct Tries {
    /// Networks with a failed handshake.
    failed: Fading<IpAddr, ()>,
    /// How many attempts of each network are under way: at most one of each session.
    under_way: HashMap<IpAddr, usize>,
    /// Until then every network counts as having tried.
    everybody_until: Instant,
}

impl TriedNetworks {
    /// No network has failed yet; to be made at the start of the process.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Tries {
            failed: Fading::default(),
            under_way: HashMap::new(),
            everybody_until: now + TRIED,
        }))
    }

    /// A handshake of this client failed, was cut, or was refused by this proxy.
    pub fn failed(&self, client: IpAddr, now: Instant) {
        let mut tries = self.tries();
        if tries.failed.put(network(client), (), now, TRIED) {
            // The map was full and forgot a network too early. Which one is not known.
            tries.everybody_until = now + TRIED;
        }
    }

    /// Whether a client of this network may have tried TLS a short while ago.
    #[must_use]
    pub fn may_have_tried(&self, client: IpAddr, now: Instant) -> bool {
        let (tries, network) = (self.tries(), network(client));
        now < tries.everybody_until
            || tries.under_way.contains_key(&network)
            || tries.failed.get(&network, now).is_some()
    }

    /// This client starts TLS now.
    #[must_use]
    pub fn attempt(self: &Arc<Self>, client: IpAddr) -> TlsAttempt {
        *self.tries().under_way.entry(network(client)).or_default() += 1;
        TlsAttempt {
            client,
            succeeded: false,
            networks: Arc::clone(self),
        }
    }

    /// Each change is one step under the lock, so a panic elsewhere leaves nothing half done.
    fn tries(&self) -> MutexGuard<'_, Tries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's attempt to start TLS. Until this is dropped the client's network counts as having tried, because a client that gives up
/// may be back in the clear before this proxy notices. Dropped without [`succeeded`](Self::succeeded), the attempt has failed.
#[derive(Debug)]
pub struct TlsAttempt {
    client: IpAddr,
    succeeded: bool,
    networks: Arc<TriedNetworks>,
}

impl TlsAttempt {
    /// The client sent a command over TLS. Nothing less shows that the handshake is over for the client too: in TLS 1.2 this proxy sends
    /// the last flight, and the network may cut that.
    pub fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for TlsAttempt {
    fn drop(&mut self) {
        if !self.succeeded {
            self.networks.failed(self.client, clock::instant());
        }
        let (mut tries, network) = (self.networks.tries(), network(self.client));
        if let Some(count) = tries.under_way.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                tries.under_way.remove(&network);
            }
        }
    }
}

/// The first address of the /24 or /64.
#[must_use]
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, session::fading::CAPACITY};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn for_minutes_after_a_start_everybody_counts_as_having_tried() {
        let now = clock::instant();
        let networks = TriedNetworks::new(now);
        assert!(networks.may_have_tried(ip("192.0.2.1"), now + TRIED / 2));
        assert!(!networks.may_have_tried(ip("192.0.2.1"), now + TRIED));
    }

    #[test]
    fn a_failed_handshake_counts_for_the_whole_network_and_for_no_other_until_it_fades() {
        let now = clock::instant();
        let networks = TriedNetworks::new(now);
        let now = now + TRIED;
        networks.failed(ip("192.0.2.1"), now);
        networks.failed(ip("2001:db8:0:1::1"), now);
        networks.failed(ip("::ffff:198.51.100.1"), now);
        for tried in ["192.0.2.200", "2001:db8:0:1:ffff::", "198.51.100.2"] {
            assert!(
                networks.may_have_tried(ip(tried), now + TRIED / 2),
                "{tried}"
            );
            assert!(!networks.may_have_tried(ip(tried), now + TRIED), "{tried}");
        }
        for other in ["192.0.3.1", "2001:db8:0:2::1"] {
            assert!(!networks.may_have_tried(ip(other), now), "{other}");
        }
    }

    #[test]
    fn who_starts_tls_counts_as_having_tried_until_it_has_spoken_over_tls() {
        let start = clock::instant();
        let networks = Arc::new(TriedNetworks::new(start - TRIED));
        let tried = |client| networks.may_have_tried(ip(client), clock::instant());
        assert!(!tried("192.0.2.9"));
        let (one, other) = (
            networks.attempt(ip("192.0.2.1")),
            networks.attempt(ip("192.0.2.2")),
        );
        assert!(tried("192.0.2.9"), "while the handshake is under way");
        one.succeeded();
        assert!(tried("192.0.2.9"), "the other one is under way");
        other.succeeded();
        assert!(!tried("192.0.2.9"), "TLS works for this network");
        drop(networks.attempt(ip("192.0.2.1")));
        assert!(tried("192.0.2.9"), "nothing came over TLS");
        assert!(networks.tries().under_way.is_empty());
    }

    #[test]
    fn when_a_network_had_to_be_forgotten_everybody_counts_as_having_tried() {
        let now = clock::instant();
        let networks = TriedNetworks::new(now);
        let now = now + TRIED;
        for n in 0..=u32::try_from(CAPACITY).unwrap() {
            assert!(!networks.may_have_tried(ip("192.0.2.1"), now));
            networks.failed(Ipv4Addr::from_bits(n << 8).into(), now);
        }
        assert!(networks.may_have_tried(ip("192.0.2.1"), now));
    }
}
