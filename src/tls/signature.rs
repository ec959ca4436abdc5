//! The signature of a handshake: the only thing about a certificate that the handshake itself checks. It proves that the peer holds the
//! key.

use super::{
    cert,
    der::{self, Certificate},
};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use std::{fmt, sync::Arc};
use webpki::RawPublicKeyEntity;

/// Checks handshake signatures with the bare public key, so that nothing else in the certificate can make the handshake fail.
#[derive(Debug)]
pub(super) struct Signatures(Arc<CryptoProvider>);

impl Signatures {
    /// Uses the algorithms of this provider.
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }

    /// The accepted signature schemes, best first.
    pub(super) fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    /// Checks a TLS 1.2 signature (RFC 5246 §7.4.3, §7.4.8). The scheme names no curve, so several algorithms are possible.
    pub(super) fn tls12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = key_of(cert)?;
        let key = RawPublicKeyEntity::try_from(&spki).map_err(|_| CertificateError::BadEncoding)?;
        let known = &self.0.signature_verification_algorithms;
        let algorithms = known
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .map(|(_, algorithms)| *algorithms)
            .ok_or_else(|| {
                let unknown = PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme;
                refused(&spki, unknown.into())
            })?;
        if algorithms.iter().any(|algorithm| {
            key.verify_signature(*algorithm, message, signed.signature())
                .is_ok()
        }) {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(refused(&spki, CertificateError::BadSignature.into()))
        }
    }

    /// Checks a TLS 1.3 signature (RFC 8446 §4.4.3).
    pub(super) fn tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        let spki = key_of(cert)?;
        verify_tls13_signature_with_raw_key(message, &spki, signed, known)
            .map_err(|error| refused(&spki, error))
    }
}

fn key_of<'a>(cert: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, Error> {
    Certificate::read(cert)
        .map(|certificate| SubjectPublicKeyInfoDer::from(certificate.spki))
        .ok_or_else(|| CertificateError::BadEncoding.into())
}

/// The error for a signature that was not accepted. A short RSA key or a key of an unknown kind is named as the cause, since rustls
/// does not look at such signatures.
fn refused(spki: &SubjectPublicKeyInfoDer<'_>, error: Error) -> Error {
    let kind = cert::key_in_words(spki);
    if !cert::is_known_kind(&kind) {
        return CertificateError::Other(OtherError(Arc::new(UnknownKind(kind)))).into();
    }
    let bits = der::public_key(spki).and_then(|(_, _, key)| der::rsa_bits(key));
    match bits {
        Some(bits) if bits < 2048 => {
            CertificateError::Other(OtherError(Arc::new(Weak(bits)))).into()
        }
        _ => error,
    }
}

/// A key of a kind whose signatures cannot be checked here.
#[derive(Debug)]
struct UnknownKind(String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(kind) = self;
        write!(
            f,
            "the peer's key is of a kind that is not known here: {kind}; RSA, P-256, P-384, P-521 and Ed25519 are"
        )
    }
}

impl std::error::Error for UnknownKind {}

/// An RSA key that is too short, with its length in bits.
#[derive(Debug)]
struct Weak(usize);

impl fmt::Display for Weak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bits) = self;
        write!(
            f,
            "the peer's key is too weak: RSA with {bits} bits, and less than 2048 is refused"
        )
    }
}

impl std::error::Error for Weak {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_unknown_kind_is_named() {
        // Ed448 (RFC 8410 §3), and EC over secp256k1.
        let ed448 = [
            &[0x30, 0x43, 0x30, 5, 6, 3, 0x2b, 0x65, 0x71, 3, 0x3a, 0][..],
            &[1; 57],
        ];
        let k1 = [
            &[
                0x30, 0x18, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81,
                4, 0, 0x0a,
            ][..],
            &[3, 4, 0, 4, 1, 1],
        ];
        for (spki, kind) in [(ed448.concat(), "Ed448"), (k1.concat(), "EC secp256k1")] {
            let spki = SubjectPublicKeyInfoDer::from(spki);
            let words = refused(&spki, CertificateError::BadSignature.into()).to_string();
            assert!(words.contains(kind), "{words}");
        }
    }
}
