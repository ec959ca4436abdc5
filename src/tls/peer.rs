//! The peer of a handshake, and what was negotiated with it.

use super::cert::CertFacts;
use rustls::{CommonState, HandshakeKind, pki_types::CertificateDer};
use serde::{Serialize, Serializer};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Largest number of presented chains that are remembered.
const REMEMBERED: usize = 256;
/// Octets of the longest chain that is remembered.
const LONGEST: usize = 16 * 1024;

/// What a handshake negotiated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsFacts {
    /// `TLSv1.3`.
    pub version: String,
    /// `TLS_AES_256_GCM_SHA384`.
    pub suite: String,
    /// Key exchange group: `X25519MLKEM768`.
    pub group: String,
    /// The name in SNI, sent or received.
    pub sni: Option<String>,
    /// The server asked for another key share first (RFC 8446 §4.1.4).
    pub hello_retry: bool,
}

/// The peer, as far as the handshake shows it. The handshake proves that the peer holds the key of its first certificate, and nothing
/// else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// What was negotiated.
    pub facts: TlsFacts,
    /// The chain as presented, end entity first; empty if a client presented none.
    #[serde(serialize_with = "each")]
    pub chain: Arc<Vec<CertFacts>>,
    #[serde(skip)]
    pub(super) der: Arc<Vec<CertificateDer<'static>>>,
    /// The OCSP response that a server stapled; empty if it stapled none. `None` for a client, which cannot staple.
    #[serde(skip)]
    pub(super) staple: Option<Arc<[u8]>>,
}

impl Peer {
    pub(super) fn of(
        connection: &CommonState,
        sni: Option<String>,
        staple: Option<Arc<[u8]>>,
        chains: &PresentedChains,
    ) -> Self {
        let presented = connection.peer_certificates().unwrap_or_default();
        let (der, chain) = chains.read(presented);
        Self {
            facts: TlsFacts::of(connection, sni),
            chain,
            der,
            staple,
        }
    }

    /// The first certificate, if one was presented.
    #[must_use]
    pub(crate) fn leaf(&self) -> Option<&CertFacts> {
        self.chain.first()
    }
}

impl TlsFacts {
    fn of(connection: &CommonState, sni: Option<String>) -> Self {
        let version = connection.protocol_version().and_then(|v| v.as_str());
        let suite = connection
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str());
        let group = connection
            .negotiated_key_exchange_group()
            .and_then(|group| group.name().as_str());
        Self {
            version: version.unwrap_or("unknown").replace('_', "."),
            suite: suite.unwrap_or("unknown").replace("TLS13_", "TLS_"),
            group: group.unwrap_or("unknown").into(),
            sni,
            hello_retry: connection.handshake_kind()
                == Some(HandshakeKind::FullWithHelloRetryRequest),
        }
    }
}

fn each<S: Serializer>(chain: &Arc<Vec<CertFacts>>, serializer: S) -> Result<S::Ok, S::Error> {
    chain.as_slice().serialize(serializer)
}

/// A chain as it came, and what its certificates say.
type PresentedChain = (Arc<Vec<CertificateDer<'static>>>, Arc<Vec<CertFacts>>);

/// Chains that peers presented a short while ago. A host presents the same chain each time, so it is read once, and its sessions share
/// one copy. This says nothing about whether the chain proves anything.
#[derive(Debug, Default)]
pub(super) struct PresentedChains(Mutex<HashMap<Vec<CertificateDer<'static>>, PresentedChain>>);

impl PresentedChains {
    fn read(&self, presented: &[CertificateDer<'_>]) -> PresentedChain {
        if let Some(known) = self.known().get(presented) {
            return known.clone();
        }
        let der: Vec<_> = presented
            .iter()
            .map(|cert| cert.clone().into_owned())
            .collect();
        let facts = der.iter().map(CertFacts::read).collect();
        let chain = (Arc::new(der.clone()), Arc::new(facts));
        if der.iter().map(|cert| cert.len()).sum::<usize>() > LONGEST {
            return chain;
        }
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(der, chain.clone());
        chain
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Vec<CertificateDer<'static>>, PresentedChain>> {
        // A thread that panicked leaves no entry half made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::pki::Leaf;

    #[test]
    fn sessions_with_one_host_share_one_copy_of_its_chain_and_many_hosts_take_bounded_memory() {
        let chains = PresentedChains::default();
        let leaf = Leaf::self_signed(&["mx.example"]);
        let (der, facts) = chains.read(&leaf.chain);
        let (der_again, facts_again) = chains.read(&leaf.chain);
        assert!(Arc::ptr_eq(&der, &der_again) && Arc::ptr_eq(&facts, &facts_again));
        assert_eq!((&*der, facts[0].names.len()), (&leaf.chain, 1));
        for number in 0..=2 * REMEMBERED {
            let other = CertificateDer::from(number.to_be_bytes().to_vec());
            assert_eq!(chains.read(std::slice::from_ref(&other)).0[0], other);
            assert!(chains.0.lock().unwrap().len() <= REMEMBERED);
        }
    }
}
