//! Does a presented chain prove a reference identity? Chain (RFC 5280 §6), names (RFC 9525), fingerprints; DANE is next door.

use super::{
    Peer,
    cert::{CertFacts, Date, hex},
    chain::{self, Purposes, Verified},
    dane,
    der::Certificate,
    ocsp, pem,
};
use crate::policy::{NamePattern, Reason, ReferenceIdentity};
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
use rustls::{RootCertStore, pki_types::CertificateDer};
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
        Ok(Self::new(anchors(ca_file)?, &[KeyUsage::server_auth]))
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
        Ok(Self::new(anchors(ca_file)?, purposes))
    }

    /// In nobody: fingerprints can match, chains cannot.
    #[must_use]
    pub fn in_nobody() -> Self {
        Self::new(RootCertStore::empty(), &[])
    }

    fn new(anchors: RootCertStore, purposes: &'static [fn() -> KeyUsage]) -> Self {
        Self {
            anchors: Arc::new(anchors),
            purposes,
            verified: Mutex::default(),
        }
    }

    /// The trust anchors, for HTTPS (MTA-STS).
    #[must_use]
    pub fn anchors(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.anchors)
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
        let key = fingerprint_of_chain(chain);
        let at = Date::of(now);
        let known = self.verified().get(&key).cloned();
        if let Some(known) = known.filter(|known| known.from <= at && at <= known.until) {
            return Ok(known);
        }
        let found = chain::verify(chain, &self.anchors.roots, self.purposes, now)?;
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

fn anchors(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    if let Some(file) = ca_file {
        for (index, cert) in pem::certificates(file)?.into_iter().enumerate() {
            store.add(cert).map_err(|error| {
                format!(
                    "{}: certificate {} in it cannot be a trust anchor: {error}; take it out or replace it",
                    file.display(),
                    index + 1
                )
            })?;
        }
        return Ok(store);
    }
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(String::new, |error| format!(" ({error})"));
        return Err(format!(
            "the system has no trust store{why}; install ca-certificates, or name a file with --ca-file"
        ));
    }
    Ok(store)
}

/// Lengths go in too, so that no two chains run together.
fn fingerprint_of_chain(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = digest::Context::new(&SHA256);
    for cert in chain {
        context.update(&(cert.len() as u64).to_be_bytes());
        context.update(cert);
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
            return Ok(format!("certificate fingerprint {}", hex(wanted)));
        }
        if spki.is_some_and(is) {
            return Ok(format!("public key fingerprint {}", hex(wanted)));
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
