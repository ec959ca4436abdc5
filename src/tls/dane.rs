//! DANE (RFC 7672 §3): does the chain match a TLSA record? Which records count is `policy`'s to say.

use super::{
    Peer, Trust,
    cert::Date,
    chain,
    der::Certificate,
    trust::{Wrong, name_of, short},
};
use crate::policy::{NamePattern, Reason, Tlsa};
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use data_encoding::HEXLOWER;
use rustls::pki_types::{CertificateDer, Der, TrustAnchor};
use std::time::SystemTime;
use webpki::anchor_from_trusted_cert;

/// DANE-TA: the data is a trust anchor's.
const TRUST_ANCHOR: u8 = 2;
/// DANE-EE: the data is the server's own.
const END_ENTITY: u8 = 3;

/// Any one record suffices. DANE-EE asks for neither names nor dates (RFC 7672 §3.1.1), DANE-TA for both (§3.1.2).
pub fn check(
    trust: &Trust,
    peer: &Peer,
    records: &[Tlsa],
    names: &[NamePattern],
    now: SystemTime,
) -> Result<String, Wrong> {
    let chain = &peer.der[..];
    let of_usage = |usage| records.iter().filter(move |record| record.usage == usage);
    if let Some(record) = of_usage(END_ENTITY).find(|record| matches(record, &chain[0])) {
        return Ok(in_words(record));
    }
    let mut wrong = None;
    for record in of_usage(TRUST_ANCHOR) {
        let outcome = match Anchor::find(record, chain) {
            None => continue,
            Some(anchor) => anchor
                .check(trust, chain, now)
                .and_then(|()| name_of(&peer.chain[0], names)),
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

/// RFC 6698 §2.1.2 and §2.1.3. What is not defined matches nothing, and so does a digest of the wrong length.
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

/// What a DANE-TA record makes the only trust anchor (RFC 7671 §5.2).
enum Anchor<'a> {
    /// A certificate: one that the server presented behind its own, or the one in the record.
    Certificate(CertificateDer<'a>),
    /// A bare key in the record (RFC 7671 §5.2.3): whoever the chain names as issuer may be its owner.
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
        trust: &Trust,
        presented: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), Wrong> {
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
                    .map(|cert| bare_key(cert.issuer, spki))
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(unusable)?
            }
        };
        chain::verify(presented, &anchors, trust.purposes, now)
            .map(drop)
            .map_err(|(reason, words)| match reason {
                // The chain does not lead to what the record names: it is the record that fails.
                Reason::CertificateNotTrusted => (
                    Reason::TlsaInvalid,
                    format!("not issued by the trust anchor of the TLSA record: {words}"),
                ),
                _ => (reason, words),
            })
    }
}

/// webpki asks no dates of an anchor; here it is a certificate of the chain like the others.
fn in_force(anchor: &Certificate<'_>, now: SystemTime) -> Result<(), Wrong> {
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

/// An anchor holds the contents of a name and a key, without the outermost tag and length.
fn bare_key<'a>(subject: &'a [u8], spki: &'a [u8]) -> Option<TrustAnchor<'a>> {
    Some(TrustAnchor {
        subject: Der::from_slice(contents(subject)?),
        subject_public_key_info: Der::from_slice(contents(spki)?),
        name_constraints: None,
    })
}

fn contents(whole: &[u8]) -> Option<&[u8]> {
    super::der::Reader::new(whole).next().map(|e| e.content)
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
