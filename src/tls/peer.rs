//! The peer of a handshake, and what was negotiated with it.

use super::cert::{CertFacts, digest_of_parts};
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion, pki_types::CertificateDer};
use serde::{Serialize, Serializer};
use std::{
    collections::HashMap,
    ops::Deref,
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
    pub version: &'static str,
    /// `TLS_AES_256_GCM_SHA384`.
    pub suite: &'static str,
    /// Key exchange group: `X25519MLKEM768`.
    pub group: &'static str,
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
    pub(super) der: Arc<PresentedChain>,
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
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Some("TLSv1.3"),
            Some(ProtocolVersion::TLSv1_2) => Some("TLSv1.2"),
            _ => None,
        };
        // rustls has names of its own for the suites of TLS 1.3.
        let suite = connection
            .negotiated_cipher_suite()
            .and_then(|suite| match suite.suite() {
                CipherSuite::TLS13_AES_256_GCM_SHA384 => Some("TLS_AES_256_GCM_SHA384"),
                CipherSuite::TLS13_AES_128_GCM_SHA256 => Some("TLS_AES_128_GCM_SHA256"),
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some("TLS_CHACHA20_POLY1305_SHA256"),
                suite => suite.as_str(),
            });
        let group = connection
            .negotiated_key_exchange_group()
            .and_then(|group| group.name().as_str());
        Self {
            version: version.unwrap_or("unknown"),
            suite: suite.unwrap_or("unknown"),
            group: group.unwrap_or("unknown"),
            sni,
            hello_retry: connection.handshake_kind()
                == Some(HandshakeKind::FullWithHelloRetryRequest),
        }
    }
}

fn each<S: Serializer>(chain: &Arc<Vec<CertFacts>>, serializer: S) -> Result<S::Ok, S::Error> {
    chain.as_slice().serialize(serializer)
}

/// A chain as it came, end entity first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PresentedChain {
    certificates: Arc<[CertificateDer<'static>]>,
    digest: [u8; 32],
}

impl PresentedChain {
    pub(super) fn new(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        let certificates: Arc<[_]> = certificates.into_iter().collect();
        let digest = digest_of_parts(certificates.iter().map(|cert| &cert[..]));
        Self {
            certificates,
            digest,
        }
    }

    /// SHA-256 over the certificates.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl Deref for PresentedChain {
    type Target = [CertificateDer<'static>];

    fn deref(&self) -> &Self::Target {
        &self.certificates
    }
}

/// A chain, and what its certificates say.
type ReadChain = (Arc<PresentedChain>, Arc<Vec<CertFacts>>);

/// Chains by their certificates.
type ReadChains = HashMap<Arc<[CertificateDer<'static>]>, ReadChain>;

/// Chains that peers presented a short while ago. A host presents the same chain each time, so it is read and hashed once, and its
/// sessions share one copy. This says nothing about whether the chain proves anything.
#[derive(Debug, Default)]
pub(super) struct PresentedChains(Mutex<ReadChains>);

impl PresentedChains {
    fn read(&self, presented: &[CertificateDer<'_>]) -> ReadChain {
        if let Some(known) = self.known().get(presented) {
            return known.clone();
        }
        let der = PresentedChain::new(presented.iter().map(|cert| cert.clone().into_owned()));
        let certificates = Arc::clone(&der.certificates);
        let facts = der.iter().map(CertFacts::read).collect();
        let chain = (Arc::new(der), Arc::new(facts));
        if certificates.iter().map(|cert| cert.len()).sum::<usize>() > LONGEST {
            return chain;
        }
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(certificates, chain.clone());
        chain
    }

    fn known(&self) -> MutexGuard<'_, ReadChains> {
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
        assert_eq!((&der[..], facts[0].names.len()), (&leaf.chain[..], 1));
        for number in 0..=2 * REMEMBERED {
            let other = CertificateDer::from(number.to_be_bytes().to_vec());
            assert_eq!(chains.read(std::slice::from_ref(&other)).0[0], other);
            assert!(chains.0.lock().unwrap().len() <= REMEMBERED);
        }
    }
}
