//! TLS on the outside link: handshakes in both roles, and whether a presented chain proves a
//! [`ReferenceIdentity`](crate::policy::ReferenceIdentity). What else rests on certificates is here, too: time-stamps.
//!
//! Encryption and authentication are two questions. A handshake only checks that the peer holds the key of the certificate it
//! presents. `Trust::check` then judges the chain: after the handshake, and again for each other domain of a recipient, which may
//! demand something else. So a peer with a pinned certificate or a DANE-EE record may present a certificate that no public
//! authority would sign (RFC 7672 §3.1.1). A verdict is given again for the same domain only, and never beyond `next_date`, when
//! the certificates or the staple may prove something else.
//!
//! TLS 1.2 and 1.3 with forward secrecy and AEAD only (RFC 9325). There is no resumption, since a resumed session presents no
//! certificate, and no early data, which could be replayed (RFC 8446 §8). rustls types appear only here.
//!
//! Imports go one way: `server` and `client` stand on `handshake` and `trust`; `handshake` stands on `channel` and `staple`; `trust`, `dates` and
//! `timestamp` stand on `dane`, `ocsp` and `chain`; these stand on `names`, `peer`, `cert` and `der`.

mod cert;
mod chain;
mod channel;
mod client;
mod dane;
mod dates;
mod der;
mod fault;
mod handshake;
mod names;
mod ocsp;
mod offer;
mod peer;
mod pem;
mod server;
mod signature;
mod staple;
mod timestamp;
mod trust;

pub(crate) use cert::sha256;
pub use cert::{CertFacts, Date};
pub(crate) use channel::Channel;
pub use client::{ClientOptions, ClientTls, HelloOptions};
pub(crate) use dates::next_date;
pub use fault::{FaultKind, HandshakeFault};
pub use handshake::Secured;
pub(crate) use offer::check_crypto_module;
pub use offer::{CRYPTO_MODULE, MinTls};
pub use peer::{Peer, TlsFacts};
pub use server::{CertificateFiles, ClientAuth, ServerOptions, ServerTls};
pub(crate) use timestamp::{
    StampFault, StampRequest, StampToken, TIMESTAMP_QUERY, TIMESTAMP_REPLY,
};
pub use trust::Trust;
pub(crate) use trust::{anchors_in, system_store};

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
use tests::pki;
