//! What a stapled OCSP response (RFC 6960, RFC 6066 §8) says about a certificate.
//!
//! Nobody is asked: the answer comes with the handshake or not at all. One that says `revoked` counts, one that is missing does not,
//! unless the certificate promises it (RFC 7633). A response that cannot be believed is a missing one: an attacker who can
//! replace it can as well leave it out.

use super::{
    Peer,
    cert::Date,
    der::{self, Certificate, Reader, tag},
    trust::Wrong,
};
use crate::policy::Reason;
use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, Der, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime},
};
use std::time::{SystemTime, UNIX_EPOCH};
use webpki::{EndEntityCert, KeyUsage, RawPublicKeyEntity};

/// id-kp-OCSPSigning, 1.3.6.1.5.5.7.3.9.
const OCSP_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 9];
/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// id-sha1, 1.3.14.3.2.26: a name for a key, nothing depends on its strength.
const SHA1_OID: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
/// id-sha256, 2.16.840.1.101.3.4.2.1.
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// Certificates of responders that are looked at, at most.
const RESPONDERS: usize = 4;

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Good,
    Revoked(Date),
}

/// Judges what the peer stapled about its certificate, which the holder of `issuer_spki` issued.
pub fn check(peer: &Peer, issuer_spki: &[u8], now: SystemTime) -> Result<(), Wrong> {
    let (Some(staple), Some(certificate)) = (&peer.staple, peer.der.first()) else {
        return Ok(());
    };
    let Some(certificate) = Certificate::read(certificate) else {
        return Ok(());
    };
    match read(staple, &certificate, issuer_spki, now) {
        Some(Status::Revoked(since)) => Err((
            Reason::CertificateNotTrusted,
            format!("revoked {} (stapled OCSP response)", since.day()),
        )),
        None if certificate.must_staple() => Err((
            Reason::CertificateNotTrusted,
            "must be presented with a valid OCSP response, and was not".into(),
        )),
        Some(Status::Good) | None => Ok(()),
    }
}

/// responseStatus of an OCSPResponse (RFC 6960 §4.2.1), if that is what the octets are; 0 is `successful`.
#[must_use]
pub fn status(response: &[u8]) -> Option<u8> {
    let mut outer = Reader::new(response);
    let status = outer
        .enter(tag::SEQUENCE)?
        .take(tag::ENUMERATED)?
        .content
        .first()
        .copied();
    status.filter(|_| outer.is_at_end())
}

/// What a believable response says about the certificate; `None` where there is none.
fn read(
    response: &[u8],
    certificate: &Certificate<'_>,
    issuer_spki: &[u8],
    now: SystemTime,
) -> Option<Status> {
    let basic = Basic::read(response)?;
    basic
        .is_signed_for(certificate.issuer, issuer_spki, now)
        .then_some(())?;
    let at = Date::of(now);
    let mut found = None;
    let mut responses = basic.responses;
    while let Some(single) = responses.enter(tag::SEQUENCE) {
        match Single::read(single, certificate, issuer_spki) {
            // Revocation is for ever, however old the news.
            Some(Single {
                status: status @ Status::Revoked(_),
                ..
            }) => return Some(status),
            Some(good) if good.from <= at && good.until.is_some_and(|until| at <= until) => {
                found = Some(good.status);
            }
            _ => {}
        }
    }
    found
}

/// BasicOCSPResponse.
struct Basic<'a> {
    signed: &'a [u8],
    responses: Reader<'a>,
    algorithm: &'a [u8],
    signature: &'a [u8],
    certificates: Reader<'a>,
}

impl<'a> Basic<'a> {
    fn read(response: &'a [u8]) -> Option<Self> {
        let mut response = Reader::new(response).enter(tag::SEQUENCE)?;
        (response.take(tag::ENUMERATED)?.content == [0]).then_some(())?;
        let mut bytes = response.enter(tag::CONTEXT_0)?.enter(tag::SEQUENCE)?;
        (bytes.take(tag::OID)?.content == BASIC).then_some(())?;
        let mut basic = bytes.enter(tag::OCTET_STRING)?.enter(tag::SEQUENCE)?;
        let data = basic.take(tag::SEQUENCE)?;
        let algorithm = basic.take(tag::SEQUENCE)?.content;
        let signature = basic.take(tag::BIT_STRING)?.content.get(1..)?;
        let certificates = basic
            .enter(tag::CONTEXT_0)
            .and_then(|mut list| list.enter(tag::SEQUENCE))
            .unwrap_or(Reader::new(&[]));
        let mut fields = Reader::new(data.content);
        fields.take(tag::CONTEXT_0);
        // responderID: whoever it names, the signature tells.
        fields.next()?;
        fields.take(tag::GENERALIZED_TIME)?;
        Some(Self {
            signed: data.whole,
            responses: fields.enter(tag::SEQUENCE)?,
            algorithm,
            signature,
            certificates,
        })
    }

    /// By the issuer, or by who has a certificate of the issuer for just this (RFC 6960 §4.2.2.2).
    fn is_signed_for(&self, issuer: &[u8], issuer_spki: &[u8], now: SystemTime) -> bool {
        if self.is_signed_by(issuer_spki) {
            return true;
        }
        let mut certificates = self.certificates;
        std::iter::from_fn(|| certificates.take(tag::SEQUENCE))
            .take(RESPONDERS)
            .any(|responder| {
                let certificate = Certificate::read(responder.whole);
                certificate.is_some_and(|certificate| self.is_signed_by(certificate.spki))
                    && may_sign(responder.whole, issuer, issuer_spki, now)
            })
    }

    fn is_signed_by(&self, spki: &[u8]) -> bool {
        let spki = SubjectPublicKeyInfoDer::from(spki);
        let Ok(key) = RawPublicKeyEntity::try_from(&spki) else {
            return false;
        };
        let known = default_provider().signature_verification_algorithms.all;
        known
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == self.algorithm)
            .any(|algorithm| {
                key.verify_signature(*algorithm, self.signed, self.signature)
                    .is_ok()
            })
    }
}

fn may_sign(responder: &[u8], issuer: &[u8], issuer_spki: &[u8], now: SystemTime) -> bool {
    let contents = |whole| Reader::new(whole).next().map(|element| element.content);
    let (Some(subject), Some(key)) = (contents(issuer), contents(issuer_spki)) else {
        return false;
    };
    let issuer = TrustAnchor {
        subject: Der::from_slice(subject),
        subject_public_key_info: Der::from_slice(key),
        name_constraints: None,
    };
    let certificate = CertificateDer::from(responder);
    let Ok(certificate) = EndEntityCert::try_from(&certificate) else {
        return false;
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    certificate
        .verify_for_usage(
            default_provider().signature_verification_algorithms.all,
            &[issuer],
            &[],
            UnixTime::since_unix_epoch(now),
            KeyUsage::required(OCSP_SIGNING),
            None,
            None,
        )
        .is_ok()
}

/// SingleResponse about the certificate in question.
struct Single {
    status: Status,
    from: Date,
    until: Option<Date>,
}

impl Single {
    /// `None` where it is about another certificate, or nothing is known.
    fn read(
        mut single: Reader<'_>,
        certificate: &Certificate<'_>,
        issuer_spki: &[u8],
    ) -> Option<Self> {
        const GOOD: u8 = 0x80;
        const REVOKED: u8 = 0xa1;
        let id = single.enter(tag::SEQUENCE)?;
        is_about(id, certificate, issuer_spki)?;
        let status = single.next()?;
        let status = match status.tag {
            GOOD => Status::Good,
            REVOKED => {
                let since = Reader::new(status.content).next()?;
                Status::Revoked(Date(der::time(since)?))
            }
            _ => return None,
        };
        let from = Date(der::time(single.take(tag::GENERALIZED_TIME)?)?);
        let until = single
            .enter(tag::CONTEXT_0)
            .and_then(|mut next| der::time(next.next()?));
        Some(Self {
            status,
            from,
            until: until.map(Date),
        })
    }
}

/// CertID: the issuer by digests of its name and key, and the serial number.
fn is_about(mut id: Reader<'_>, certificate: &Certificate<'_>, issuer_spki: &[u8]) -> Option<()> {
    let algorithm: &Algorithm = match id.enter(tag::SEQUENCE)?.take(tag::OID)?.content {
        SHA1_OID => &SHA1_FOR_LEGACY_USE_ONLY,
        SHA256_OID => &SHA256,
        _ => return None,
    };
    let name = id.take(tag::OCTET_STRING)?.content;
    let key = id.take(tag::OCTET_STRING)?.content;
    let serial = id.take(tag::INTEGER)?.content;
    let (_, _, issuer_key) = der::public_key(issuer_spki)?;
    let matches = name == digest(algorithm, certificate.issuer).as_ref()
        && key == digest(algorithm, issuer_key).as_ref()
        && serial == certificate.serial;
    matches.then_some(())
}

#[cfg(test)]
mod tests;
