//! Why a handshake failed, in words.

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved,
};
use std::{fmt, io};

/// The kind of a handshake failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The connection ended or was reset without an alert. Some peers react to a large ClientHello in this way, so the next attempt at
    /// that address leaves out the post-quantum key share.
    Died,
    /// The peer refused, and gave the cause in an alert.
    Alert,
    /// The peer offers only options that are refused here: TLS 1.1 or older, suites without forward secrecy or AEAD, unknown groups.
    TooOld,
    /// The peer's certificate does not support the handshake: the signature is wrong, the key is too weak or of an unknown kind, or
    /// (inbound, `--client-auth require`) the peer presented no acceptable certificate.
    Certificate,
    /// The peer violates the protocol, or speaks another one.
    Protocol,
    /// This proxy could not continue.
    Ours,
}

/// Why a handshake failed. The words are printable ASCII on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeFault {
    kind: FaultKind,
    alert: Option<AlertDescription>,
    words: String,
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for HandshakeFault {}

impl HandshakeFault {
    /// The kind of the failure.
    #[must_use]
    pub(crate) fn kind(&self) -> FaultKind {
        self.kind
    }

    /// This proxy could not continue the handshake; `words` say why.
    pub(super) fn ours(words: String) -> Self {
        Self::new(FaultKind::Ours, words)
    }

    fn new(kind: FaultKind, words: impl Into<String>) -> Self {
        Self {
            kind,
            alert: None,
            words: words.into(),
        }
    }

    /// Whether the peer said in an alert that it does not know the name in SNI (RFC 6066 §3): that may be a fault of the name alone.
    #[must_use]
    pub(crate) fn is_unrecognized_name(&self) -> bool {
        self.alert == Some(AlertDescription::UnrecognisedName)
    }

    /// Reads the fault from an error of the handshake or of the first read after it. In TLS 1.3 the peer judges our certificate after our
    /// side of the handshake is complete (RFC 8446 §4.4.2.4), so that its alert arrives with the first read.
    #[must_use]
    pub(crate) fn of(error: &io::Error) -> Self {
        if let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
            return Self::of_tls(error);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::new(
                FaultKind::Died,
                "the peer closed the connection during the handshake without an alert",
            ),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::new(
                FaultKind::Died,
                "the peer reset the connection during the handshake without an alert",
            ),
            _ => Self::new(FaultKind::Died, format!("the connection failed: {error}")),
        }
    }

    fn of_tls(error: &Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self {
                alert: Some(*alert),
                ..Self::of_alert(*alert)
            },
            Error::PeerIncompatible(why) => Self::new(FaultKind::TooOld, incompatible(why)),
            Error::PeerMisbehaved(
                PeerMisbehaved::SelectedUnofferedCipherSuite
                | PeerMisbehaved::SelectedUnusableCipherSuiteForVersion,
            ) => Self::new(
                FaultKind::TooOld,
                "the peer chose a cipher suite that is refused here: one without forward secrecy or AEAD (static RSA, CBC or older)",
            ),
            Error::PeerMisbehaved(
                PeerMisbehaved::SelectedUnofferedKxGroup
                | PeerMisbehaved::IllegalHelloRetryRequestWithUnofferedNamedGroup,
            ) => Self::new(
                FaultKind::TooOld,
                "the peer chose a key exchange group that is not offered here: X25519, P-256 and P-384 are, not P-521, X448 or brainpool",
            ),
            Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => Self::new(
                FaultKind::TooOld,
                "the peer speaks no TLS version that is known here",
            ),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::new(
                FaultKind::Protocol,
                "the peer answered with something that is not TLS",
            ),
            Error::NoApplicationProtocol => Self::new(
                FaultKind::Protocol,
                "the peer wants another protocol than SMTP (ALPN)",
            ),
            Error::NoCertificatesPresented => {
                Self::new(FaultKind::Certificate, "the peer presented no certificate")
            }
            Error::InvalidCertificate(why) => Self::new(FaultKind::Certificate, certificate(why)),
            other => Self::new(
                FaultKind::Protocol,
                format!("the peer does not keep to the protocol: {}", ascii(other)),
            ),
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        let name = alert_name(alert);
        match alert {
            AlertDescription::ProtocolVersion => Self::new(
                FaultKind::TooOld,
                format!(
                    "the peer takes no TLS version that is offered here, and older ones are refused; or its certificate's key serves none \
                     of them (secp256k1, brainpool) (alert {name})"
                ),
            ),
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                Self::new(
                    FaultKind::TooOld,
                    format!("{NOTHING_IN_COMMON} (alert {name})"),
                )
            }
            _ => Self::new(
                FaultKind::Alert,
                format!("the peer refused the handshake (alert {name})"),
            ),
        }
    }
}

/// The alert does not say which option the peer is missing, so the words list all possible causes and claim none.
const NOTHING_IN_COMMON: &str = "the peer finds nothing in common: perhaps its certificate's key (RSA-PSS, secp256k1, brainpool, Ed448; P-521 \
    in TLS 1.2), its key exchange (not X25519, P-256 or P-384, but P-521, X448, brainpool or finite-field DH) or its suites \
    (static RSA or CBC only) are of kinds that are not taken here";

const UNKNOWN_GROUP: &str =
    "other key exchange groups than X25519, P-256 and P-384, such as P-521, X448 or brainpool";

fn incompatible(why: &PeerIncompatible) -> String {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            "the peer offers no TLS version that is allowed here, and older ones are refused".into()
        }
        PeerIncompatible::NoCipherSuitesInCommon => {
            "the peer offers only cipher suites that are refused (static RSA, CBC or older), or none for a certificate of our kind of key"
                .into()
        }
        // A peer that offers only static RSA or finite-field DH sends no list of groups.
        PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => {
            format!("the peer offers only {UNKNOWN_GROUP}, or none; static RSA and finite-field DH are refused")
        }
        // Clients of TLS 1.1 and older send no list of signature algorithms, since they know only SHA-1 (RFC 5246 §7.4.1.4.1).
        PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "the peer offers TLS 1.1 or older, or SHA-1 signatures only, and both are refused".into()
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
            "the peer offers only signatures that are refused, such as SHA-1, or that our key cannot make (it may know RSA-PSS, Ed448, \
             secp256k1 or brainpool keys only)"
                .into()
        }
        other => format!("the peer offers only what is refused: {}", ascii(&Error::from(other.clone()))),
    }
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::BadSignature => {
            "the peer's handshake signature does not fit its certificate".into()
        }
        CertificateError::BadEncoding => "the peer's certificate cannot be read".into(),
        CertificateError::Other(words) => words.to_string(),
        other => ascii(&Error::from(other.clone())),
    }
}

/// `UnknownCA` as RFC 8446 §6 writes it: `unknown_ca`.
fn alert_name(alert: AlertDescription) -> String {
    let Some(name) = alert.as_str() else {
        return u8::from(alert).to_string();
    };
    let mut snake = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_lower {
            snake.push('_');
        }
        after_lower = c.is_ascii_lowercase();
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

fn ascii(error: &Error) -> String {
    error
        .to_string()
        .chars()
        .map(|c| if (' '..='~').contains(&c) { c } else { ' ' })
        .collect()
}
