//! The peer of a handshake, and what was negotiated with it.

use super::cert::CertFacts;
use rustls::{CommonState, HandshakeKind, pki_types::CertificateDer};
use serde::Serialize;
use std::sync::Arc;

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
    pub chain: Vec<CertFacts>,
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
    ) -> Self {
        let der = connection.peer_certificates().unwrap_or_default().to_vec();
        Self {
            facts: TlsFacts::of(connection, sni),
            chain: der.iter().map(CertFacts::read).collect(),
            der: Arc::new(der),
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
