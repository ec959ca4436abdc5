//! Inbound: which networks have tried STARTTLS a short while ago and failed, so that their mail in the clear is deferred.
//!
//! An MTA with opportunistic TLS goes on in the clear when its handshake was cut, and bounces the mail on a 530. The next try
//! may come from another address of the same pool, so what is remembered is the network: /24 for IPv4, /64 for IPv6.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::fading::Fading;

/// How long a failed handshake is remembered, and how long after a start everybody counts as having tried: what a restart cut is
/// not known any more. Longer than the first retries of common MTAs take.
const TRIED: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug)]
pub struct TriedNetworks(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    networks: Fading<IpAddr, ()>,
    /// Until then everybody counts as having tried.
    everybody: Instant,
}

impl TriedNetworks {
    /// At the start of the process.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Inner {
            networks: Fading::default(),
            everybody: now + TRIED,
        }))
    }

    /// A handshake of this client failed, was cut, or was refused by us.
    pub fn failed(&self, client: IpAddr, now: Instant) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.networks.put(network(client), (), now, TRIED) {
            // A network had to be forgotten too early, and nobody knows any more which.
            inner.everybody = now + TRIED;
        }
    }

    /// Has a client of this network tried lately?
    #[must_use]
    pub fn tried_lately(&self, client: IpAddr, now: Instant) -> bool {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now < inner.everybody || inner.networks.get(&network(client), now).is_some()
    }
}

/// The first address of the /24 or /64.
#[must_use]
pub fn network(client: IpAddr) -> IpAddr {
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
        assert!(networks.tried_lately(ip("192.0.2.1"), now + TRIED / 2));
        assert!(!networks.tried_lately(ip("192.0.2.1"), now + TRIED));
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
            assert!(networks.tried_lately(ip(tried), now + TRIED / 2), "{tried}");
            assert!(!networks.tried_lately(ip(tried), now + TRIED), "{tried}");
        }
        for other in ["192.0.3.1", "2001:db8:0:2::1"] {
            assert!(!networks.tried_lately(ip(other), now), "{other}");
        }
    }

    #[test]
    fn when_a_network_had_to_be_forgotten_everybody_counts_as_having_tried() {
        let now = clock::instant();
        let networks = TriedNetworks::new(now);
        let now = now + TRIED;
        for n in 0..=u32::try_from(CAPACITY).unwrap() {
            assert!(!networks.tried_lately(ip("192.0.2.1"), now));
            networks.failed(Ipv4Addr::from_bits(n << 8).into(), now);
        }
        assert!(networks.tried_lately(ip("192.0.2.1"), now));
    }
}
