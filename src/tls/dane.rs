//! DANE (RFC 7672 §3): does the chain match a TLSA record? `policy` says which records are usable.

use super::{
    cert::Date,
    chain::{self, Purposes, bare_anchor},
    der::Certificate,
    names::{short, shown_name},
    peer::Peer,
};
use crate::policy::{
    Denial, NamePattern, Reason, Tlsa,
    dane::{DANE_EE, DANE_TA},
};
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use std::time::SystemTime;
use webpki::anchor_from_trusted_cert;

/// Whether the chain matches one of the records. DANE-EE ignores names and dates (RFC 7672 §3.1.1); DANE-TA demands both (§3.1.2).
pub(super) fn check(
    peer: &Peer,
    records: &[Tlsa],
    names: &[NamePattern],
    purposes: Purposes,
    now: SystemTime,
) -> Result<String, Denial> {
    let chain = &peer.der[..];
    let of_usage = |usage| records.iter().filter(move |record| record.usage == usage);
    if let Some(record) = of_usage(DANE_EE).find(|record| matches(record, &chain[0])) {
        return Ok(in_words(record));
    }
    let mut wrong = None;
    for record in of_usage(DANE_TA) {
        let outcome = match Anchor::find(record, chain) {
            None => continue,
            Some(anchor) => anchor
                .check(chain, purposes, now)
                .and_then(|()| shown_name(&peer.chain[0], names)),
        };
        match outcome {
            Ok(name) => return Ok(format!("{}, {name}", in_words(record))),
            Err(reason) => wrong = wrong.or(Some(reason)),
        }
    }
    Err(wrong.unwrap_or_else(|| {
        let leaf = &peer.chain[0];
        let shown = records.first().map_or("no record".into(), in_words);
        (
            Reason::TlsaInvalid,
            format!(
                "none of {} TLSA records matches ({shown}): certificate sha256 {}, public key sha256 {}",
                records.len(),
                leaf.sha256,
                leaf.spki_sha256
            ),
        )
    }))
}

/// Compares a certificate with a record (RFC 6698 §2.1.2, §2.1.3). Undefined selectors and matching types, and digests of the wrong
/// length, match nothing.
fn matches(record: &Tlsa, cert: &[u8]) -> bool {
    let selected = match record.selector {
        0 => Some(cert),
        1 => Certificate::read(cert).map(|certificate| certificate.spki),
        _ => None,
    };
    let Some(selected) = selected else {
        return false;
    };
    match record.matching {
        0 => selected == record.data,
        1 => digest(&SHA256, selected).as_ref() == record.data,
        2 => digest(&SHA512, selected).as_ref() == record.data,
        _ => false,
    }
}

/// The only trust anchor under a DANE-TA record (RFC 7671 §5.2).
enum Anchor<'a> {
    /// A certificate: presented by the server after its own, or held in the record.
    Certificate(CertificateDer<'a>),
    /// A bare key in the record (RFC 7671 §5.2.3). Any issuer that the chain names may be its owner.
    Key(&'a [u8]),
}

impl<'a> Anchor<'a> {
    fn find(record: &'a Tlsa, chain: &'a [CertificateDer<'_>]) -> Option<Self> {
        let presented = chain[1..].iter().find(|cert| matches(record, cert));
        match (presented, record.selector, record.matching) {
            (Some(cert), _, _) => Some(Self::Certificate(CertificateDer::from(&cert[..]))),
            (None, 0, 0) => Some(Self::Certificate(CertificateDer::from(&record.data[..]))),
            (None, 1, 0) => Some(Self::Key(&record.data)),
            _ => None,
        }
    }

    fn check(
        &self,
        presented: &[CertificateDer<'_>],
        purposes: Purposes,
        now: SystemTime,
    ) -> Result<(), Denial> {
        let unusable = || {
            (
                Reason::TlsaInvalid,
                "the trust anchor of the TLSA record cannot be read".to_owned(),
            )
        };
        let anchors = match self {
            Self::Certificate(cert) => {
                let anchor = Certificate::read(cert).ok_or_else(unusable)?;
                in_force(&anchor, now)?;
                vec![anchor_from_trusted_cert(cert).map_err(|_| unusable())?]
            }
            Self::Key(spki) => {
                let issuers = presented.iter().filter_map(|cert| Certificate::read(cert));
                issuers
                    .map(|cert| bare_anchor(cert.issuer, spki))
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(unusable)?
            }
        };
        chain::verify(presented, &anchors, purposes, now)
            .map(drop)
            .map_err(|(reason, words)| match reason {
                // The chain does not lead to the record's anchor, so the fault is reported as one of the record.
                Reason::CertificateNotTrusted => (
                    Reason::TlsaInvalid,
                    format!("not issued by the trust anchor of the TLSA record: {words}"),
                ),
                _ => (reason, words),
            })
    }
}

/// Checks the anchor's dates. webpki does not, but here the anchor is a certificate of the chain like the others.
fn in_force(anchor: &Certificate<'_>, now: SystemTime) -> Result<(), Denial> {
    let now = Date::of(now);
    if now < Date(anchor.not_before) || Date(anchor.not_after) < now {
        return Err((
            Reason::CertificateExpired,
            format!(
                "the trust anchor of the TLSA record is valid from {} until {} only",
                Date(anchor.not_before).day(),
                Date(anchor.not_after).day()
            ),
        ));
    }
    Ok(())
}

/// `TLSA 3 1 1 e3b0c442...`
fn in_words(record: &Tlsa) -> String {
    let Tlsa {
        usage,
        selector,
        matching,
        data,
    } = record;
    let shown = &data[..data.len().min(32)];
    format!(
        "TLSA {usage} {selector} {matching} {}",
        short(&HEXLOWER.encode(shown))
    )
}
