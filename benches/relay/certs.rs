//! Certificates of the benchmark, made at each run, and TLS of its sender and of its server outside.

use crate::Outcome;
use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::{fs, path::Path, sync::Arc};
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
pub fn write(folder: &Path, servers: &[&str]) -> Outcome {
    let authority = |name: &str| -> Outcome<CertificateParams> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(params)
    };
    let root = CertifiedIssuer::self_signed(authority("Root")?, KeyPair::generate()?)?;
    let intermediate =
        CertifiedIssuer::signed_by(authority("Intermediate")?, KeyPair::generate()?, &root)?;
    fs::write(folder.join("ca.pem"), pem("CERTIFICATE", root.der()))?;
    for name in servers {
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new([(*name).to_owned()])?.signed_by(&key, &intermediate)?;
        let chain = [leaf.der(), intermediate.der()].map(|der| pem("CERTIFICATE", der));
        fs::write(folder.join(format!("{name}.pem")), chain.concat())?;
        fs::write(
            folder.join(format!("{name}.key")),
            pem("PRIVATE KEY", key.serialized_der()),
        )?;
    }
    Ok(())
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

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    // 48 octets are a line of 64 letters (RFC 7468 §2).
    let lines: Vec<String> = der.chunks(48).map(|octets| BASE64.encode(octets)).collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
