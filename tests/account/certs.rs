//! The certificates that peers can show, in both directions.

use crate::pki::{Authority, Leaf, expired};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::CryptoProvider};
use std::sync::Arc;

/// What one certificate proves. The test knows that, because it made the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub sha256: String,
    pub names: &'static [&'static str],
    pub trusted: bool,
    pub expired: bool,
}

impl Shown {
    fn new(leaf: &Leaf, names: &'static [&'static str], trusted: bool, expired: bool) -> Self {
        let sha256 = hex(digest(&SHA256, &leaf.chain[0]).as_ref());
        Self {
            sha256,
            names,
            trusted,
            expired,
        }
    }

    /// Why the certificate does not prove `name`; `None`: it does.
    pub fn wrong_for(&self, name: &str) -> Option<&'static str> {
        match self {
            Self { trusted: false, .. } => Some("certificate-not-trusted"),
            Self { expired: true, .. } => Some("certificate-expired"),
            Self { names, .. } if !names.contains(&name) => Some("certificate-host-mismatch"),
            _ => None,
        }
    }
}

pub struct Certs {
    pub root: Authority,
    /// Certificates that are good for most names, good for `mx.other.test` alone, expired, and self-signed.
    pub servers: Vec<(Shown, Arc<ServerConfig>)>,
    /// No certificate, then certificates for `partner.test` and `other.test`, an expired one, and a self-signed one.
    pub clients: Vec<(Option<Shown>, Arc<ClientConfig>)>,
}

pub const HOSTS: &[&str] = &["mx.secure.test", "mx.verify.test", "127.0.0.1"];
pub const OTHER_HOST: &[&str] = &["mx.other.test"];
pub const PARTNER: &[&str] = &["partner.test"];
pub const OTHER_CLIENT: &[&str] = &["stranger.test"];

impl Certs {
    pub fn new() -> Self {
        let root = Authority::root("Account Root");
        let servers = [
            (root.leaf(HOSTS), HOSTS, true, false),
            (root.leaf(OTHER_HOST), OTHER_HOST, true, false),
            (root.leaf_with(HOSTS, expired), HOSTS, true, true),
            (Leaf::self_signed(HOSTS), HOSTS, false, false),
        ];
        let clients = [
            (root.leaf(PARTNER), PARTNER, true, false),
            (root.leaf(OTHER_CLIENT), OTHER_CLIENT, true, false),
            (root.leaf_with(PARTNER, expired), PARTNER, true, true),
            (Leaf::self_signed(PARTNER), PARTNER, false, false),
        ];
        let mut roots = RootCertStore::empty();
        roots.add(root.cert.clone()).expect("an anchor");
        let as_client = || {
            ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots.clone())
        };
        let without = (None, Arc::new(as_client().with_no_client_auth()));
        let with = clients.map(|(leaf, names, trusted, expired)| {
            let shown = Shown::new(&leaf, names, trusted, expired);
            let key = leaf.private_key();
            let config = as_client().with_client_auth_cert(leaf.chain, key);
            (Some(shown), Arc::new(config.expect("a key of its own")))
        });
        let servers = servers.map(|(leaf, names, trusted, expired)| {
            let shown = Shown::new(&leaf, names, trusted, expired);
            (shown, Arc::new(leaf.server_config()))
        });
        Self {
            root,
            servers: servers.into(),
            clients: std::iter::once(without).chain(with).collect(),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

pub fn sha256(octets: &[u8]) -> String {
    hex(digest(&SHA256, octets).as_ref())
}
