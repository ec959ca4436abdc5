//! The one thing about a certificate that the handshake itself checks: that the peer holds its key.

use super::der::Certificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use std::sync::Arc;
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
            Err(CertificateError::BadSignature.into())
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
        verify_tls13_signature_with_raw_key(message, &key_of(cert)?, signed, known)
    }
}

fn key_of<'a>(cert: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, Error> {
    Certificate::read(cert)
        .map(|certificate| SubjectPublicKeyInfoDer::from(certificate.spki))
        .ok_or_else(|| CertificateError::BadEncoding.into())
}
