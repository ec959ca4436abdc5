//! Does a presented chain prove a reference identity? By chain (RFC 5280 §6) and names (RFC 9525), by fingerprint, or by DANE.

use super::{
    cert::{Date, digest_of_parts, sha256},
    chain::{self, Purposes, Verified},
    dane,
    der::Certificate,
    names::{short, shown_name},
    ocsp,
    peer::{Peer, PresentedChain},
    pem,
};
use crate::policy::{Denial, Reason, ReferenceIdentity};
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
use data_encoding::HEXLOWER;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, TrustAnchor},
};
use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use webpki::{KeyUsage, anchor_from_trusted_cert};

/// Largest number of verified chains that are remembered.
pub(super) const REMEMBERED: usize = 1024;

/// Trust anchors, and the purposes for which certificates must be issued. Immutable: a reload makes a new one, with an empty memory of
/// verified chains.
pub struct Trust {
    anchors: Arc<RootCertStore>,
    /// The certificates of `--ca-file` or `--client-ca`. A peer that presents one of these very certificates is the peer that the
    /// administrator named. The system's authorities are not among them, since they do not vouch for themselves as hosts.
    named: Vec<CertificateDer<'static>>,
    pub(super) purposes: Purposes,
    /// Chains that were verified, by their digests.
    verified: Mutex<HashMap<[u8; 32], Verified>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust in {} anchors", self.anchors.len())
    }
}

impl Trust {
    /// Trust in servers whose chain leads to an anchor in `ca_file` (PEM) or, without it, in the system's trust store.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub(crate) fn in_servers(ca_file: Option<&Path>) -> Result<Self, String> {
        let (anchors, named) = anchors(ca_file)?;
        Ok(Self::new(anchors, named, &[KeyUsage::server_auth]))
    }

    /// Trust in clients, as in servers. `server_eku`: a certificate for servers only is accepted, since public authorities issue no
    /// others.
    ///
    /// # Errors
    /// The errors of [`in_servers`](Self::in_servers).
    pub(crate) fn in_clients(ca_file: Option<&Path>, server_eku: bool) -> Result<Self, String> {
        let purposes: Purposes = if server_eku {
            &[KeyUsage::client_auth, KeyUsage::server_auth]
        } else {
            &[KeyUsage::client_auth]
        };
        let (anchors, named) = anchors(ca_file)?;
        Ok(Self::new(anchors, named, purposes))
    }

    /// Trust in nobody: fingerprints can match, chains cannot.
    #[must_use]
    pub(crate) fn in_nobody() -> Self {
        Self::new(RootCertStore::empty(), Vec::new(), &[])
    }

    fn new(
        anchors: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        purposes: &'static [fn() -> KeyUsage],
    ) -> Self {
        Self {
            anchors: Arc::new(anchors),
            named,
            purposes,
            verified: Mutex::default(),
        }
    }

    /// The trust anchors, for HTTPS (MTA-STS).
    #[must_use]
    pub(crate) fn anchors(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.anchors)
    }

    /// SHA-256 over all trust anchors, whatever their order, for the configuration's hash.
    #[must_use]
    pub(crate) fn sha256(&self) -> String {
        let mut anchors: Vec<[u8; 32]> = self.anchors.roots.iter().map(digest_of).collect();
        anchors.sort_unstable();
        sha256(&anchors.concat())
    }

    /// Whether the chain that `peer` presented proves `identity` at the time `now`. Says what matched.
    ///
    /// # Errors
    /// The reason (RFC 8460 §4.3), and what was presented instead, in printable ASCII.
    pub(crate) fn check(
        &self,
        peer: &Peer,
        identity: &ReferenceIdentity,
        now: SystemTime,
    ) -> Result<String, Denial> {
        if *identity == ReferenceIdentity::Anyone {
            return Ok("TLS, peer not authenticated".into());
        }
        let Some(leaf) = peer.leaf() else {
            return Err((
                Reason::CertificateNotTrusted,
                "no certificate was presented".into(),
            ));
        };
        match identity {
            ReferenceIdentity::Anyone => unreachable!("answered above"),
            ReferenceIdentity::Fingerprints(listed) => fingerprint(peer, listed),
            ReferenceIdentity::Pkix { names, anchors } => {
                let verified = match anchors {
                    None => self.check_chain(&peer.der, now)?,
                    Some(anchors) => self.check_chain_to(&peer.der, anchors, now)?,
                };
                ocsp::check(peer, verified.issuer_spki(), now)?;
                let name = shown_name(leaf, names)?;
                Ok(format!("{name}, issuer {}", short(&leaf.issuer)))
            }
            ReferenceIdentity::Dane { records, names } => {
                dane::check(peer, records, names, self.purposes, now)
            }
        }
    }

    /// Verifies the chain alone, against the general anchors, and remembers the result.
    pub(super) fn check_chain(
        &self,
        chain: &PresentedChain,
        now: SystemTime,
    ) -> Result<Verified, Denial> {
        let key = chain.digest();
        let known = self.verified().get(&key).cloned();
        if let Some(known) = known.filter(|known| known.holds_at(Date::of(now))) {
            return Ok(known);
        }
        let named = self.named.iter().any(|own| chain.first() == Some(own));
        let found = if named {
            chain::verify_named(&chain[0], self.purposes, now)?
        } else {
            chain::verify(chain, &self.anchors.roots, self.purposes, now)?
        };
        let mut verified = self.verified();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(key, found.clone());
        Ok(found)
    }

    pub(super) fn verified(&self) -> MutexGuard<'_, HashMap<[u8; 32], Verified>> {
        // A thread that panicked leaves no entry half made.
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_chain_to(
        &self,
        chain: &[CertificateDer<'_>],
        anchors: &[Vec<u8>],
        now: SystemTime,
    ) -> Result<Verified, Denial> {
        if let Some(own) = chain.first()
            && anchors.iter().any(|anchor| anchor[..] == own[..])
        {
            return chain::verify_named(own, self.purposes, now);
        }
        let certificates = borrowed(anchors);
        chain::verify(chain, &trusted(&certificates), self.purposes, now)
    }
}

/// The certificates without a copy of their octets.
pub(super) fn borrowed(certificates: &[Vec<u8>]) -> Vec<CertificateDer<'_>> {
    let octets = certificates.iter().map(Vec::as_slice);
    octets.map(CertificateDer::from).collect()
}

/// The certificates as trust anchors. One that cannot be read vouches for nobody.
pub(super) fn trusted<'a>(certificates: &'a [CertificateDer<'_>]) -> Vec<TrustAnchor<'a>> {
    let anchors = certificates.iter().map(anchor_from_trusted_cert);
    anchors.filter_map(Result::ok).collect()
}

/// The certificates (DER) of a PEM file, for `tafile=`.
///
/// # Errors
/// Names the file, what is wrong with it, and what to do.
pub(crate) fn anchors_in(file: &Path) -> Result<Vec<Vec<u8>>, String> {
    let usable = |(at, certificate): (usize, CertificateDer<'_>)| {
        anchor_from_trusted_cert(&certificate)
            .map(|_| certificate.to_vec())
            .map_err(|error| no_anchor(file, at, &error))
    };
    let certificates = pem::certificates(file)?;
    certificates.into_iter().enumerate().map(usable).collect()
}

/// The file and the directories that are the system's trust store. Where a certificate comes or goes, one of them changes.
pub(crate) fn system_store() -> Vec<PathBuf> {
    let (file, dirs) = pem::system_store();
    file.into_iter().chain(dirs).collect()
}

/// Trust anchors, and the certificates of the file that holds them; no certificates where the anchors are the system's.
type Anchors = (RootCertStore, Vec<CertificateDer<'static>>);

fn anchors(ca_file: Option<&Path>) -> Result<Anchors, String> {
    let mut store = RootCertStore::empty();
    if let Some(file) = ca_file {
        let named = pem::certificates(file)?;
        for (at, cert) in named.iter().enumerate() {
            store
                .add(cert.clone())
                .map_err(|error| no_anchor(file, at, &error))?;
        }
        return Ok((store, named));
    }
    let (certificates, fault) = pem::system_certificates();
    store.add_parsable_certificates(certificates);
    if store.is_empty() {
        let why = fault.map_or_else(String::new, |fault| format!(" ({fault})"));
        return Err(format!(
            "the system has no trust store{why}; install ca-certificates, or name a file with --ca-file"
        ));
    }
    Ok((store, Vec::new()))
}

fn no_anchor(file: &Path, at: usize, error: &dyn fmt::Display) -> String {
    format!(
        "{}: certificate {} in it cannot be a trust anchor: {error}; take it out or replace it",
        file.display(),
        at + 1
    )
}

/// SHA-256 of an anchor.
fn digest_of(anchor: &TrustAnchor<'_>) -> [u8; 32] {
    let constraints = anchor.name_constraints.as_deref().unwrap_or_default();
    digest_of_parts([
        &anchor.subject[..],
        &anchor.subject_public_key_info,
        constraints,
    ])
}

/// Compares the certificate and its public key with each listed digest. The length of the digest tells the algorithm (Postfix:
/// `fingerprint`).
fn fingerprint(peer: &Peer, listed: &[Vec<u8>]) -> Result<String, Denial> {
    let certificate: &[u8] = &peer.der[0];
    let spki = Certificate::read(certificate).map(|certificate| certificate.spki);
    for wanted in listed {
        let algorithm = match wanted.len() {
            20 => &SHA1_FOR_LEGACY_USE_ONLY,
            32 => &SHA256,
            48 => &SHA384,
            64 => &SHA512,
            _ => continue,
        };
        let is = |bytes: &[u8]| digest::digest(algorithm, bytes).as_ref() == &wanted[..];
        if is(certificate) {
            return Ok(format!(
                "certificate fingerprint {}",
                HEXLOWER.encode(wanted)
            ));
        }
        if spki.is_some_and(is) {
            return Ok(format!(
                "public key fingerprint {}",
                HEXLOWER.encode(wanted)
            ));
        }
    }
    let leaf = &peer.chain[0];
    Err((
        Reason::CertificateNotTrusted,
        format!(
            "fingerprint not listed: certificate {}, public key {}",
            leaf.sha256, leaf.spki_sha256
        ),
    ))
}
