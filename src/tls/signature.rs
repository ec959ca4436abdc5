//! The one thing about a certificate that the handshake itself checks: that the peer holds its key.

use super::der::{self, Certificate};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use std::{fmt, sync::Arc};
use webpki::RawPublicKeyEntity;

/// Checks handshake signatures by the bare public key, so that nothing else in the certificate can get in the way.
#[derive(Debug)]
pub struct Signatures(Arc<CryptoProvider>);

impl Signatures {
    /// By the algorithms of this provider.
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }

    /// Which are accepted, best first.
    pub fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    /// RFC 5246 §7.4.3 and §7.4.8: the scheme names no curve, so several algorithms are possible.
    pub fn tls12(
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
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        if algorithms.iter().any(|algorithm| {
            key.verify_signature(*algorithm, message, signed.signature())
                .is_ok()
        }) {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(refused(&spki, CertificateError::BadSignature.into()))
        }
    }

    /// RFC 8446 §4.4.3.
    pub fn tls13(
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

/// A short key's signature is not even looked at; that is worth saying.
fn refused(spki: &SubjectPublicKeyInfoDer<'_>, error: Error) -> Error {
    let bits = der::public_key(spki).and_then(|(_, _, key)| der::rsa_bits(key));
    match bits {
        Some(bits) if bits < 2048 => {
            CertificateError::Other(OtherError(Arc::new(Weak(bits)))).into()
        }
        _ => error,
    }
}

/// Bits of an RSA modulus.
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
