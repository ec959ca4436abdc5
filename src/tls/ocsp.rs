//! What a stapled OCSP response (RFC 6960, RFC 6066 §8) says about a certificate.
//!
//! No responder is asked: the response arrives with the handshake or not at all. A response that says `revoked` counts. A missing
//! response does not, unless the certificate promises one (RFC 7633). A response that cannot be believed counts as missing: an
//! attacker who can replace it could also remove it.

use super::{
    cert::Date,
    chain::{bare_anchor, verify_for},
    der::{self, Certificate, Reader, tag},
    peer::Peer,
};
use crate::policy::{Denial, Reason};
use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use std::time::SystemTime;
use webpki::{KeyUsage, RawPublicKeyEntity};

/// id-kp-OCSPSigning, 1.3.6.1.5.5.7.3.9.
const OCSP_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 9];
/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// id-sha1, 1.3.14.3.2.26. It only identifies a key; no security depends on its strength.
const SHA1_OID: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
/// id-sha256, 2.16.840.1.101.3.4.2.1.
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// Largest number of responder certificates that are examined.
const RESPONDERS: usize = 4;

/// The state of a certificate, as a response gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Revocation {
    Good,
    Revoked(Date),
}

/// Judges the response that the peer stapled for its certificate. The holder of `issuer_spki` issued that certificate.
///
/// # Errors
/// The certificate is revoked, or promises a valid response that is missing.
pub(super) fn check(peer: &Peer, issuer_spki: &[u8], now: SystemTime) -> Result<(), Denial> {
    let (Some(staple), Some(certificate)) = (&peer.staple, peer.der.first()) else {
        return Ok(());
    };
    let Some(certificate) = Certificate::read(certificate) else {
        return Ok(());
    };
    match read(staple, &certificate, issuer_spki, now) {
        Some(Revocation::Revoked(since)) => Err((
            Reason::CertificateNotTrusted,
            format!("revoked {} (stapled OCSP response)", since.day()),
        )),
        None if certificate.must_staple() => Err((
            Reason::CertificateNotTrusted,
            "must be presented with a valid OCSP response, and was not".into(),
        )),
        Some(Revocation::Good) | None => Ok(()),
    }
}

/// responseStatus of an OCSPResponse (RFC 6960 §4.2.1); 0 is `successful`. `None`: the octets are no OCSPResponse.
#[must_use]
pub(super) fn status(response: &[u8]) -> Option<u8> {
    let mut outer = Reader::new(response);
    let status = outer
        .enter(tag::SEQUENCE)?
        .take(tag::ENUMERATED)?
        .content
        .first()
        .copied();
    status.filter(|_| outer.is_at_end())
}

/// The certificate's state according to a response that can be believed; `None` where there is none.
fn read(
    response: &[u8],
    certificate: &Certificate<'_>,
    issuer_spki: &[u8],
    now: SystemTime,
) -> Option<Revocation> {
    let basic = BasicResponse::read(response)?;
    basic
        .is_signed_for(certificate.issuer, issuer_spki, now)
        .then_some(())?;
    let at = Date::of(now);
    let mut found = None;
    let mut responses = basic.responses;
    while let Some(single) = responses.enter(tag::SEQUENCE) {
        match SingleResponse::read(single, certificate, issuer_spki) {
            // A revocation is permanent, however old the response.
            Some(SingleResponse {
                status: status @ Revocation::Revoked(_),
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

/// All dates of a response: of what it says about certificates, and of the certificates that it brings. Before the next of them it
/// says what it says now.
#[must_use]
pub(super) fn dates(response: &[u8]) -> Vec<Date> {
    let Some(basic) = BasicResponse::read(response) else {
        return Vec::new();
    };
    let mut dates = Vec::new();
    let (mut responses, mut certificates) = (basic.responses, basic.certificates);
    while let Some(mut single) = responses.enter(tag::SEQUENCE) {
        // The certificate's identifier and status come first.
        let (Some(_), Some(_)) = (single.next(), single.next()) else {
            continue;
        };
        let this_update = single.take(tag::GENERALIZED_TIME).and_then(der::time);
        let next_update = single
            .enter(tag::CONTEXT_0)
            .and_then(|mut next| der::time(next.next()?));
        dates.extend(this_update.into_iter().chain(next_update).map(Date));
    }
    while let Some(certificate) = certificates.take(tag::SEQUENCE) {
        if let Some(certificate) = Certificate::read(certificate.whole) {
            dates.extend([Date(certificate.not_before), Date(certificate.not_after)]);
        }
    }
    dates
}

/// BasicOCSPResponse (RFC 6960 §4.2.1).
struct BasicResponse<'a> {
    signed: &'a [u8],
    responses: Reader<'a>,
    algorithm: &'a [u8],
    signature: &'a [u8],
    certificates: Reader<'a>,
}

impl<'a> BasicResponse<'a> {
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
        // responderID is skipped: the signature tells who the responder is.
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

    /// Whether the signature is the issuer's, or that of a responder to whom the issuer gave a certificate for OCSP signing
    /// (RFC 6960 §4.2.2.2).
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

/// Whether the issuer gave the responder a certificate for OCSP signing.
fn may_sign(responder: &[u8], issuer: &[u8], issuer_spki: &[u8], now: SystemTime) -> bool {
    bare_anchor(issuer, issuer_spki).is_some_and(|issuer| {
        let chain = [CertificateDer::from(responder)];
        verify_for(&chain, &[issuer], KeyUsage::required(OCSP_SIGNING), now).is_ok()
    })
}

/// A SingleResponse (RFC 6960 §4.2.1) about the certificate in question.
struct SingleResponse {
    status: Revocation,
    from: Date,
    until: Option<Date>,
}

impl SingleResponse {
    /// `None`: the response is about another certificate, or its status is `unknown`.
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
            GOOD => Revocation::Good,
            REVOKED => {
                let since = Reader::new(status.content).next()?;
                Revocation::Revoked(Date(der::time(since)?))
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

/// Compares a CertID (RFC 6960 §4.1.1): digests of the issuer's name and key, and the serial number.
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
