//! Certificates of the benchmark, made at each run, and TLS of its sender and of its server outside.

#[path = "../../tests/support/pki.rs"]
mod pki;

use crate::Outcome;
use pki::Authority;
use std::{path::Path, sync::Arc};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        client::Resumption,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::NoServerSessionStorage,
        version::{TLS12, TLS13},
    },
};

/// A root, an intermediate authority and servers, all ECDSA P-256: `ca.pem`, and certificate (with the intermediate one) and key of
/// each server.
pub fn write(folder: &Path, servers: &[&str]) {
    let root = Authority::root("Root");
    root.write(folder, "ca");
    let intermediate = root.below("Intermediate");
    for name in servers {
        intermediate.leaf(&[name]).write(folder, name);
    }
}

/// TLS of the server outside. It resumes nothing, so that each handshake is a full one.
pub fn acceptor(folder: &Path, name: &str) -> Outcome<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem")))?
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// TLS of a sender that trusts the root.
pub fn connector(folder: &Path) -> Outcome<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
