//! Does a chain lead to a trust anchor (RFC 5280 §6)? If not, why, in words.

use super::{
    cert::{CertFacts, Date, algorithm_in_words},
    der::{self, Certificate},
    names::short,
};
use crate::policy::{Denial, Reason};
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, Der, TrustAnchor, UnixTime},
};
use std::{
    borrow::Cow,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

/// The purposes for which a certificate may be issued (RFC 5280 §4.2.1.12); one of them suffices.
pub(super) type Purposes = &'static [fn() -> KeyUsage];

/// Proof that a chain leads to an anchor. Only this file can make one.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    /// The latest notBefore of all certificates of the path.
    from: Date,
    /// The earliest notAfter of all certificates of the path.
    until: Date,
    issuer_spki: Arc<[u8]>,
}

impl Verified {
    /// Whether all certificates of the path are valid at this time.
    pub(super) fn holds_at(&self, now: Date) -> bool {
        self.from <= now && now <= self.until
    }

    /// SubjectPublicKeyInfo of the issuer of the first certificate.
    pub(super) fn issuer_spki(&self) -> &[u8] {
        &self.issuer_spki
    }
}

/// Verifies that the first certificate of `chain` leads to an anchor through the others, in any order, and is issued for one of
/// `purposes`. Without a purpose, every chain fails.
pub(super) fn verify(
    chain: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    purposes: Purposes,
    now: SystemTime,
) -> Result<Verified, Denial> {
    let mut outcome = Err(webpki::Error::UnknownIssuer);
    for purpose in purposes {
        outcome = verify_for(chain, anchors, purpose(), now);
        if !matches!(outcome, Err(webpki::Error::RequiredEkuNotFoundContext(_))) {
            break;
        }
    }
    outcome.map_err(|error| in_words(&error, chain))
}

/// [`verify`] for a single purpose.
pub(super) fn verify_for(
    chain: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    purpose: KeyUsage,
    now: SystemTime,
) -> Result<Verified, webpki::Error> {
    let (first, others) = chain.split_first().ok_or(webpki::Error::UnknownIssuer)?;
    let end_entity = EndEntityCert::try_from(first)?;
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let algorithms = default_provider().signature_verification_algorithms.all;
    let path = end_entity.verify_for_usage(
        algorithms,
        anchors,
        others,
        UnixTime::since_unix_epoch(since_1970),
        purpose,
        None,
        Some(&issuers_may_sign),
    )?;
    let (mut from, mut until) = validity(first)?;
    for issuer in path.intermediate_certificates() {
        let (begins, ends) = validity(&issuer.der())?;
        (from, until) = (from.max(begins), until.min(ends));
    }
    Ok(Verified {
        from,
        until,
        issuer_spki: path.issuer_spki().as_ref().into(),
    })
}

/// Verifies the very certificate that the administrator named as an anchor. It needs no issuer and may be a CA certificate, since
/// administrators name the self-signed certificate of a partner's host. Its dates and purposes count as always.
pub(super) fn verify_named(
    own: &CertificateDer<'_>,
    purposes: Purposes,
    now: SystemTime,
) -> Result<Verified, Denial> {
    let chain = std::slice::from_ref(own);
    let wrong = |error: &webpki::Error| in_words(error, chain);
    let certificate = Certificate::read(own).ok_or_else(|| wrong(&webpki::Error::BadDer))?;
    let (from, until) = (Date(certificate.not_before), Date(certificate.not_after));
    let now = Date::of(now);
    if now < from {
        return Err((
            Reason::CertificateExpired,
            format!("not valid before {from}"),
        ));
    }
    if now > until {
        return Err((
            Reason::CertificateExpired,
            format!("expired {}", until.day()),
        ));
    }
    let meant = purposes
        .iter()
        .any(|purpose| certificate.is_meant_for(&identifier(&purpose())));
    if !meant {
        let words = "not meant for this use (extended key usage)";
        return Err((Reason::CertificateNotTrusted, words.into()));
    }
    Ok(Verified {
        from,
        until,
        issuer_spki: certificate.spki.into(),
    })
}

/// The content octets of a purpose's object identifier (X.690 §8.19). All its numbers are below 128 (RFC 5280 §4.2.1.12).
fn identifier(purpose: &KeyUsage) -> Vec<u8> {
    let numbers: Vec<usize> = purpose.oid_values().collect();
    let [first, second, rest @ ..] = &numbers[..] else {
        return Vec::new();
    };
    std::iter::once(first * 40 + second)
        .chain(rest.iter().copied())
        .map(|number| u8::try_from(number).unwrap_or(u8::MAX))
        .collect()
}

/// Checks keyUsage (RFC 5280 §6.1.4 (n)), since webpki checks only basicConstraints.
fn issuers_may_sign(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    let may = |issuer: &webpki::Cert<'_>| {
        Certificate::read(&issuer.der()).is_some_and(|cert| cert.may_sign_certificates())
    };
    if path.intermediate_certificates().all(may) {
        Ok(())
    } else {
        Err(webpki::Error::EndEntityUsedAsCa)
    }
}

/// An anchor from a name and a key alone. Both are DER; a trust anchor holds only their contents, without outermost tag and length.
pub(super) fn bare_anchor<'a>(subject: &'a [u8], spki: &'a [u8]) -> Option<TrustAnchor<'a>> {
    let contents = |whole| {
        der::Reader::new(whole)
            .next()
            .map(|element| element.content)
    };
    Some(TrustAnchor {
        subject: Der::from_slice(contents(subject)?),
        subject_public_key_info: Der::from_slice(contents(spki)?),
        name_constraints: None,
    })
}

fn validity(der: &[u8]) -> Result<(Date, Date), webpki::Error> {
    let certificate = Certificate::read(der).ok_or(webpki::Error::BadDer)?;
    Ok((Date(certificate.not_before), Date(certificate.not_after)))
}

/// RFC 8460 §4.3.1 has one reason for every fault of a chain except dates and names.
fn in_words(error: &webpki::Error, chain: &[CertificateDer<'_>]) -> Denial {
    use webpki::Error as E;
    let leaf = chain.first().map(CertFacts::read);
    let issuer = leaf.as_ref().map_or("nobody", |leaf| &leaf.issuer);
    let self_issued = leaf.as_ref().is_some_and(|leaf| leaf.self_issued);
    let not_trusted = |words: String| (Reason::CertificateNotTrusted, words);
    match error {
        E::CertExpired { not_after, .. } => {
            let date = Date(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX));
            let whose = whose(chain, |cert| cert.not_after == date);
            (
                Reason::CertificateExpired,
                format!("{whose}expired {}", date.day()),
            )
        }
        E::CertNotValidYet { not_before, .. } => {
            let date = Date(i64::try_from(not_before.as_secs()).unwrap_or(i64::MAX));
            let whose = whose(chain, |cert| cert.not_before == date);
            (
                Reason::CertificateExpired,
                format!("{whose}not valid before {date}"),
            )
        }
        E::InvalidCertValidity => (
            Reason::CertificateExpired,
            "ends before it begins to be valid".into(),
        ),
        E::UnknownIssuer | E::CaUsedAsEndEntity if self_issued => {
            not_trusted(format!("self-signed, {}", short(issuer)))
        }
        E::UnknownIssuer => not_trusted(format!(
            "no chain to a trust anchor: issuer {}",
            short(issuer)
        )),
        E::CaUsedAsEndEntity => not_trusted("a certificate of an authority, not of a host".into()),
        E::EndEntityUsedAsCa | E::PathLenConstraintViolated => {
            not_trusted("issued by a certificate that may not issue".into())
        }
        E::NameConstraintViolation => {
            not_trusted("has a name that its issuer may not certify (name constraints)".into())
        }
        E::RequiredEkuNotFoundContext(_) => {
            not_trusted("not meant for this use (extended key usage)".into())
        }
        E::InvalidSignatureForPublicKey => not_trusted("a signature in the chain is wrong".into()),
        E::UnsupportedSignatureAlgorithmContext(context) => not_trusted(format!(
            "signed with an algorithm that is refused here: {}",
            algorithm_in_words(&context.signature_algorithm_id)
        )),
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => not_trusted(format!(
            "signed by a key of a kind that is not known here: {}",
            algorithm_in_words(&context.public_key_algorithm_id)
        )),
        E::UnsupportedCertVersion => (
            Reason::ValidationFailure,
            "an X.509 certificate older than version 3".into(),
        ),
        E::UnsupportedCriticalExtension => (
            Reason::ValidationFailure,
            "has a critical extension that is not known here".into(),
        ),
        other => (
            Reason::ValidationFailure,
            format!("the chain is not valid: {other}"),
        ),
    }
}

/// The certificate that `is` picks, in words; empty for the peer's own certificate.
fn whose(chain: &[CertificateDer<'_>], is: impl Fn(&CertFacts) -> bool) -> Cow<'static, str> {
    match chain
        .iter()
        .map(CertFacts::read)
        .enumerate()
        .find(|(_, cert)| is(cert))
    {
        Some((1.., cert)) => format!("issuer {}: ", short(&cert.subject)).into(),
        _ => "".into(),
    }
}
