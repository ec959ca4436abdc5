//! Certificates made on the spot, good and spoilt. Keys live as long as the test does.
//!
//! Tests inside and outside the crate and the demo include this file with `#[path]`.

#![allow(dead_code, reason = "nobody who takes this in uses all of it")]

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SignatureAlgorithm, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// An issuer of certificates.
pub struct Authority {
    /// Its own certificate.
    pub cert: CertificateDer<'static>,
    /// The certificates from this one up to the root, without the root; a server presents these.
    presented: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

/// A host's certificate with its key.
pub struct Leaf {
    /// As presented: the host's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: KeyPair,
}

impl Authority {
    /// A root.
    pub fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name);
        let cert = params.self_signed(&key).unwrap().der().clone();
        Self {
            cert,
            presented: Vec::new(),
            issuer: Issuer::new(params, key),
        }
    }

    /// An intermediate authority below this one.
    pub fn below(&self, name: &str) -> Self {
        self.below_with(name, |_| ())
    }

    /// The same, with something changed.
    pub fn below_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = authority(name);
        change(&mut params);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let cert = signed.der().clone();
        let mut presented = vec![cert.clone()];
        presented.extend(self.presented.iter().cloned());
        Self {
            cert,
            presented,
            issuer: Issuer::new(params, key),
        }
    }

    /// A good certificate for these names and addresses, ECDSA P-256.
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, |_| ())
    }

    /// The same, with something changed: [`expired`], [`not_yet_valid`], [`for_clients`], or what the test wants.
    pub fn leaf_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        self.leaf_of(&rcgen::PKCS_ECDSA_P256_SHA256, names, change)
    }

    /// The same, with a key of another kind.
    pub fn leaf_of(
        &self,
        kind: &'static SignatureAlgorithm,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let key = KeyPair::generate_for(kind).unwrap();
        let mut params = host(names);
        change(&mut params);
        let mut chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        chain.extend(self.presented.iter().cloned());
        Leaf { chain, key }
    }

    /// Its own certificate, for `--ca-file`.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.cert)
    }

    /// Its key, for what only OpenSSL can sign.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.issuer.key().serialized_der())
    }

    /// TLS of a client that trusts this authority alone.
    pub fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Its own certificate as a file.
    pub fn write(&self, dir: &Path, stem: &str) -> PathBuf {
        write(dir, &format!("{stem}.pem"), self.pem())
    }
}

impl Leaf {
    /// A self-signed certificate.
    pub fn self_signed(names: &[&str]) -> Self {
        Self::self_signed_with(names, |_| ())
    }

    /// The same, with something changed.
    pub fn self_signed_with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = host(names);
        change(&mut params);
        let cert = params.self_signed(&key).unwrap().der().clone();
        Self {
            chain: vec![cert],
            key,
        }
    }

    /// The key, for a rustls configuration.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    /// TLS of a server with this certificate.
    pub fn server_config(&self) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.private_key())
            .unwrap()
    }

    /// The key, for `--key`.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.key.serialized_der())
    }

    /// The chain, for `--cert`.
    pub fn chain_pem(&self) -> String {
        self.chain
            .iter()
            .map(|cert| pem("CERTIFICATE", cert))
            .collect()
    }

    /// Chain and key as files.
    pub fn write(&self, dir: &Path, stem: &str) -> (PathBuf, PathBuf) {
        (
            write(dir, &format!("{stem}.pem"), self.chain_pem()),
            write(dir, &format!("{stem}.key"), self.key_pem()),
        )
    }
}

/// The certificate expired years ago.
pub fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2019, 3, 1);
    params.not_after = date_time_ymd(2020, 3, 1);
}

/// The certificate becomes valid in the far future.
pub fn not_yet_valid(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2999, 3, 1);
    params.not_after = date_time_ymd(3000, 3, 1);
}

/// Extended key usage: clients only.
pub fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

/// Extended key usage: servers only.
pub fn for_servers(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

/// No subject alternative name; the first name is the common name alone.
pub fn common_name_only(params: &mut CertificateParams) {
    params.subject_alt_names.clear();
}

/// An empty directory that goes when the test is over.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A new one.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("starttls-proxy-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        write(&self.0, name, content)
    }

    /// The same; gives the path as an argument of the program.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        self.write(name, content).display().to_string()
    }

    /// The path of a file that may not be there yet, as an argument of the program.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The directory is among temporary files, so the system removes it if this fails.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn host(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let common_name = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn pem(label: &str, der: &[u8]) -> String {
    // 48 octets are a line of 64 letters (RFC 7468 §2).
    let lines: Vec<String> = der.chunks(48).map(|octets| BASE64.encode(octets)).collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
