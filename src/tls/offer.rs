//! What this proxy offers in both roles: TLS versions and key exchange groups. And the library that does the cryptography.

use rustls::{
    SupportedProtocolVersion,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, kx_group},
    },
    version::{TLS12, TLS13},
};
use std::{str::FromStr, sync::Arc};

/// The lowest TLS version (`--min-tls`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinTls {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

impl FromStr for MinTls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err(format!(
                "`{text}` is no TLS version that can be the lowest: use 1.2 or 1.3"
            )),
        }
    }
}

static VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

pub(super) fn versions(min: MinTls) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        MinTls::Tls12 => VERSIONS,
        MinTls::Tls13 => &VERSIONS[..1],
    }
}

/// The library that does all cryptography of this build: handshakes, signatures, digests. With the cargo feature `fips` it is the
/// module that NIST validated, and what it has not approved (X25519 alone, ChaCha20, TLS 1.2 without RFC 7627) is not offered.
pub const CRYPTO_MODULE: &str = match crate::FIPS_MODULE {
    Some(module) => module,
    None => "AWS-LC",
};

/// Whether this build keeps to its promise. Errors: the feature `fips` was asked for, and the module, or what is offered, is not in the
/// approved mode.
pub(crate) fn check_crypto_module() -> Result<(), String> {
    if !cfg!(feature = "fips") {
        return Ok(());
    }
    ::aws_lc_rs::try_fips_mode()
        .map_err(|why| format!("{CRYPTO_MODULE} is not in FIPS mode: {why}"))?;
    match provider(true).fips() && provider(false).fips() {
        true => Ok(()),
        false => Err(format!(
            "this build offers what {CRYPTO_MODULE} has not approved"
        )),
    }
}

/// The post-quantum group comes first, so that its key share is sent in the first flight; rustls adds the share of its classical half.
static GROUPS: &[&dyn SupportedKxGroup] = &[
    kx_group::X25519MLKEM768,
    #[cfg(not(feature = "fips"))]
    kx_group::X25519,
    kx_group::SECP256R1,
    kx_group::SECP384R1,
];

pub(super) fn provider(post_quantum: bool) -> Arc<CryptoProvider> {
    let groups = if post_quantum { GROUPS } else { &GROUPS[1..] };
    Arc::new(CryptoProvider {
        kx_groups: groups.to_vec(),
        ..aws_lc_rs::default_provider()
    })
}
