//! TLS on the outside leg: handshakes in both roles, and whether a presented chain proves a [`ReferenceIdentity`].
//!
//! Encryption and authentication are two questions. A handshake checks that the peer holds the key of the certificate it
//! presents, and no more; [`Trust::check`] then judges the chain, at the handshake and again for each later recipient, whose domain may
//! demand something else. So a pinned or DANE-EE peer may present what no public authority would sign (RFC 7672 §3.1.1), and a verdict
//! never outlives the question it answered.
//!
//! TLS 1.2 and 1.3 with forward secrecy and AEAD only (RFC 9325). There is no resumption, since a resumed session presents no certificate,
//! and no early data, which could be replayed (RFC 8446 §8). rustls types are used here and by who owns the streams.

mod cert;
mod chain;
mod client;
mod dane;
mod der;
mod fault;
mod ocsp;
mod pem;
mod server;
mod signature;
mod trust;

pub use cert::{CertFacts, Date, sha256};
pub use client::{ClientOptions, ClientTls, HelloOptions};
pub use fault::{FaultKind, HandshakeFault};
pub use server::{CertificateFiles, ClientAuth, ServerOptions, ServerTls};
pub use trust::Trust;

#[cfg(doc)]
use crate::policy::ReferenceIdentity;

use rustls::{
    CommonState, HandshakeKind, SupportedProtocolVersion,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, kx_group},
    },
    pki_types::CertificateDer,
    version::{TLS12, TLS13},
};
use serde::Serialize;
use std::{path::Path, str::FromStr, sync::Arc};

/// What was negotiated.
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
    /// The peer asked for another key share first (RFC 8446 §4.1.4).
    pub hello_retry: bool,
}

/// Who is at the other end, as far as the handshake shows. It proves possession of the first certificate's key and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// What was negotiated.
    pub facts: TlsFacts,
    /// As presented, end entity first; empty where a client presented none.
    pub chain: Vec<CertFacts>,
    #[serde(skip)]
    der: Arc<Vec<CertificateDer<'static>>>,
    /// The OCSP response that a server stapled, empty where it did not; `None` for a client, which cannot.
    #[serde(skip)]
    staple: Option<Arc<[u8]>>,
}

impl Peer {
    fn of(connection: &CommonState, sni: Option<String>, staple: Option<Arc<[u8]>>) -> Self {
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
    pub fn leaf(&self) -> Option<&CertFacts> {
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

/// `--min-tls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinTls {
    /// 1.2 and 1.3.
    #[default]
    Tls12,
    /// 1.3 only.
    Tls13,
}

impl FromStr for MinTls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err(format!(
                "`{text}` is no TLS version that can be the lowest: use 1.2 or 1.3"
            )),
        }
    }
}

static VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

fn versions(min: MinTls) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        MinTls::Tls12 => VERSIONS,
        MinTls::Tls13 => &VERSIONS[..1],
    }
}

/// The post-quantum group first, so that its key share goes with the first flight; rustls adds that of its classical half.
static GROUPS: &[&dyn SupportedKxGroup] = &[
    kx_group::X25519MLKEM768,
    kx_group::X25519,
    kx_group::SECP256R1,
    kx_group::SECP384R1,
];

fn provider(post_quantum: bool) -> Arc<CryptoProvider> {
    let groups = if post_quantum { GROUPS } else { &GROUPS[1..] };
    Arc::new(CryptoProvider {
        kx_groups: groups.to_vec(),
        ..aws_lc_rs::default_provider()
    })
}

/// The certificates of a PEM file, DER, for `tafile=`.
///
/// # Errors
/// Names the file, what is wrong with it, and what to do.
pub fn anchors_in(file: &Path) -> Result<Vec<Vec<u8>>, String> {
    let vouches = |(at, certificate): (usize, CertificateDer<'_>)| {
        webpki::anchor_from_trusted_cert(&certificate)
            .map(|_| certificate.to_vec())
            .map_err(|error| {
                format!(
                    "{}: certificate {} in it cannot be a trust anchor: {error}; take it out or replace it",
                    file.display(),
                    at + 1
                )
            })
    };
    let certificates = pem::certificates(file)?;
    certificates.into_iter().enumerate().map(vouches).collect()
}

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
use tests::pki;
