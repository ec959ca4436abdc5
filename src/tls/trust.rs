//! Does a presented chain prove a reference identity? Chain (RFC 5280 §6), names (RFC 9525), fingerprints; DANE is next door.

use super::{
    Peer,
    cert::{CertFacts, Date, sha256},
    chain::{self, Purposes, Verified},
    dane,
    der::Certificate,
    ocsp, pem,
};
use crate::policy::{NamePattern, Reason, ReferenceIdentity};
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
use data_encoding::HEXLOWER;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, TrustAnchor},
};
use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};
use webpki::{KeyUsage, anchor_from_trusted_cert};

/// What is wrong, in a word and in words that fit into a reply.
pub type Wrong = (Reason, String);

/// Chains that are remembered as verified, at most.
pub(super) const REMEMBERED: usize = 1024;

/// Trust anchors, and what certificates must be meant for. Immutable: a reload makes a new one, and with it an empty memory of
/// what was verified.
pub struct Trust {
    anchors: Arc<RootCertStore>,
    /// The certificates of `--ca-file` or `--client-ca`, as they stand there: who shows one of these very certificates is
    /// whom the administrator named. The system's authorities do not vouch for themselves as hosts.
    named: Vec<CertificateDer<'static>>,
    pub(super) purposes: Purposes,
    verified: Mutex<HashMap<[u8; 32], Verified>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust in {} anchors", self.anchors.len())
    }
}

impl Trust {
    /// In servers: those that `ca_file` (PEM), or else the system's trust store, vouches for.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub fn in_servers(ca_file: Option<&Path>) -> Result<Self, String> {
        let (anchors, named) = anchors(ca_file)?;
        Ok(Self::new(anchors, named, &[KeyUsage::server_auth]))
    }

    /// In clients. `server_eku`: a certificate that is meant for servers only will do, as public authorities issue no others.
    ///
    /// # Errors
    /// As [`in_servers`](Self::in_servers).
    pub fn in_clients(ca_file: Option<&Path>, server_eku: bool) -> Result<Self, String> {
        let purposes: Purposes = if server_eku {
            &[KeyUsage::client_auth, KeyUsage::server_auth]
        } else {
            &[KeyUsage::client_auth]
        };
        let (anchors, named) = anchors(ca_file)?;
        Ok(Self::new(anchors, named, purposes))
    }

    /// In nobody: fingerprints can match, chains cannot.
    #[must_use]
    pub fn in_nobody() -> Self {
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
    pub fn anchors(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.anchors)
    }

    /// SHA-256 over all trust anchors in whatever order they were read, for the configuration's hash.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut anchors: Vec<[u8; 32]> = self.anchors.roots.iter().map(digest_of).collect();
        anchors.sort_unstable();
        sha256(&anchors.concat())
    }

    /// Does what `peer` presented prove `identity` at the time `now`? Says what matched.
    ///
    /// # Errors
    /// The reason in the words of RFC 8460 §4.3, and what was presented instead, in printable ASCII.
    pub fn check(
        &self,
        peer: &Peer,
        identity: &ReferenceIdentity,
        now: SystemTime,
    ) -> Result<String, Wrong> {
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
                ocsp::check(peer, &verified.issuer_spki, now)?;
                let name = name_of(leaf, names)?;
                Ok(format!("{name}, issuer {}", short(&leaf.issuer)))
            }
            ReferenceIdentity::Dane { records, names } => {
                dane::check(self, peer, records, names, now)
            }
        }
    }

    /// The chain alone, against the general anchors; remembers what it verified.
    pub(super) fn check_chain(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Verified, Wrong> {
        let key = fingerprint_of(chain.iter().map(|cert| &cert[..]));
        let at = Date::of(now);
        let known = self.verified().get(&key).cloned();
        if let Some(known) = known.filter(|known| known.from <= at && at <= known.until) {
            return Ok(known);
        }
        let named = self.named.iter().any(|own| chain.first() == Some(own));
        let found = if named {
            chain::verify_itself(&chain[0], self.purposes, now)?
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

    pub(super) fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Verified>> {
        // What is in the map is whole whatever happened to another thread.
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_chain_to(
        &self,
        chain: &[CertificateDer<'_>],
        anchors: &[Vec<u8>],
        now: SystemTime,
    ) -> Result<Verified, Wrong> {
        if let Some(own) = chain.first()
            && anchors.iter().any(|anchor| anchor[..] == own[..])
        {
            return chain::verify_itself(own, self.purposes, now);
        }
        let certificates: Vec<_> = anchors
            .iter()
            .map(|der| CertificateDer::from(&der[..]))
            .collect();
        // One that cannot be read vouches for nobody.
        let anchors: Vec<_> = certificates
            .iter()
            .filter_map(|cert| anchor_from_trusted_cert(cert).ok())
            .collect();
        chain::verify(chain, &anchors, self.purposes, now)
    }
}

type Anchors = (RootCertStore, Vec<CertificateDer<'static>>);

fn anchors(ca_file: Option<&Path>) -> Result<Anchors, String> {
    let mut store = RootCertStore::empty();
    if let Some(file) = ca_file {
        let named = pem::certificates(file)?;
        for (index, cert) in named.iter().enumerate() {
            store.add(cert.clone()).map_err(|error| {
                format!(
                    "{}: certificate {} in it cannot be a trust anchor: {error}; take it out or replace it",
                    file.display(),
                    index + 1
                )
            })?;
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

/// Lengths go in too, so that no two anchors run together.
fn digest_of(anchor: &TrustAnchor<'_>) -> [u8; 32] {
    let constraints = anchor.name_constraints.as_deref().unwrap_or_default();
    fingerprint_of([
        &anchor.subject[..],
        &anchor.subject_public_key_info,
        constraints,
    ])
}

/// Lengths go in too, so that no two chains run together.
fn fingerprint_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

/// Which of `names` the certificate bears: DNS-IDs and IP-IDs of its subject alternative name, never its common name (RFC 9525 §6.3).
pub fn name_of(leaf: &CertFacts, names: &[NamePattern]) -> Result<String, Wrong> {
    let borne = names.iter().find_map(|wanted| match wanted {
        NamePattern::Address(address) => leaf
            .addresses
            .iter()
            .any(|own| own.to_canonical() == address.to_canonical())
            .then(|| format!("[{address}]")),
        _ => leaf.names.iter().find(|own| wanted.matches(own)).cloned(),
    });
    borne
        .map(|name| format!("name {}", short(&name)))
        .ok_or_else(|| (Reason::CertificateHostMismatch, leaf.names_in_words()))
}

/// The certificate or its public key, by the digest that is as long (Postfix: `fingerprint`).
fn fingerprint(peer: &Peer, listed: &[Vec<u8>]) -> Result<String, Wrong> {
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

/// At most so much of a text from the wire as a reply has room for.
pub fn short(text: &str) -> Cow<'_, str> {
    const ROOM: usize = 120;
    match text.char_indices().nth(ROOM) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]).into(),
    }
}
