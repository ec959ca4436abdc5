//! Certificates and keys from PEM files (RFC 7468). Errors name the file and what to do.

use crate::files;
use rustls::{
    Error, InconsistentKeys,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use std::{
    collections::HashSet,
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// All certificates of a file; at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let octets = files::octets(file, files::CERTIFICATES)
        .map_err(|error| unreadable(file, &pem::Error::Io(error)))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&octets)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(file, &error))?;
    if certificates.is_empty() {
        return Err(format!(
            "{}: no certificate in it; a PEM file with `BEGIN CERTIFICATE` is wanted",
            file.display()
        ));
    }
    Ok(certificates)
}

/// Where the system's trust store is: a file, and directories. `SSL_CERT_FILE` and `SSL_CERT_DIR` name them; without either, they
/// are where distributions put them.
pub(super) fn system_store() -> (Option<PathBuf>, Vec<PathBuf>) {
    let dirs = env::var_os("SSL_CERT_DIR").unwrap_or_default();
    let named: Vec<PathBuf> = env::split_paths(&dirs)
        .filter(|dir| !dir.as_os_str().is_empty())
        .collect();
    match env::var_os("SSL_CERT_FILE") {
        None if named.is_empty() => {
            let usual = openssl_probe::probe();
            (usual.cert_file, usual.cert_dir)
        }
        file => (file.map(PathBuf::from), named),
    }
}

/// The system's trust store, and the first fault in it. Each file is read once, although directories hold several links to it.
pub(super) fn system_certificates() -> (Vec<CertificateDer<'static>>, Option<String>) {
    let (file, dirs) = system_store();
    let (mut certificates, mut faults) = (Vec::new(), Vec::new());
    let mut files: Vec<PathBuf> = file.into_iter().collect();
    for dir in dirs {
        match fs::read_dir(&dir) {
            Ok(entries) => files.extend(
                entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| path.is_file()),
            ),
            Err(error) => faults.push(format!("opening directory: {error} at '{}'", dir.display())),
        }
    }
    let mut read = HashSet::new();
    for file in files {
        if fs::metadata(&file).is_ok_and(|data| !read.insert((data.dev(), data.ino()))) {
            continue;
        }
        match files::whole(&file, files::CERTIFICATES) {
            Ok(octets) => {
                for found in CertificateDer::pem_slice_iter(&octets) {
                    match found {
                        Ok(certificate) => certificates.push(certificate),
                        Err(error) => {
                            faults.push(format!("failed to read PEM from file: {error}"));
                        }
                    }
                }
            }
            Err(error) => {
                let file = file.display();
                faults.push(format!("failed to read PEM from file: {error} at '{file}'"));
            }
        }
    }
    certificates.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    certificates.dedup();
    (certificates, faults.into_iter().next())
}

/// A chain, end entity first, with the key of its first certificate.
pub(super) fn pair(
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let (chain, private) = both(certificates(cert), private_key(key))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
            "{}: not the key of the first certificate in {}; give the pair that belongs together, the host's own certificate first",
            key.display(),
            cert.display()
        ),
        Error::InvalidCertificate(error) => {
            format!("{}: its first certificate cannot be used: {error:?}", cert.display())
        }
        error => format!(
            "{}: the key cannot be used: {error}; RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519 can",
            key.display()
        ),
    })
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let octets = files::octets(file, files::CERTIFICATES)
        .map_err(|error| unreadable(file, &pem::Error::Io(error)))?;
    PrivateKeyDer::from_pem_slice(&octets).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "{}: no private key in it; a PEM file with an unencrypted `BEGIN PRIVATE KEY` is wanted",
            file.display()
        ),
        error => unreadable(file, &error),
    })
}

/// Both values, or the errors of both, one on each line: a reload names the fault of each file.
pub(super) fn both<A, B>(
    one: Result<A, String>,
    other: Result<B, String>,
) -> Result<(A, B), String> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(one), Err(other)) => Err(format!("{one}\n{other}")),
        (Err(wrong), _) | (_, Err(wrong)) => Err(wrong),
    }
}

fn unreadable(file: &Path, error: &pem::Error) -> String {
    let file = file.display();
    match error {
        pem::Error::Io(error) => format!("{file}: cannot be read: {error}"),
        error => format!("{file}: not a sound PEM file: {error}"),
    }
}
