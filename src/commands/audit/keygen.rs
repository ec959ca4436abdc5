//! `audit keygen`: a key for `--audit-key`.

use super::{DONE, unusable};
use crate::audit::{PublicKey, SigningKey, pem};
use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Arguments of `audit keygen`.
#[derive(Clone, Debug, Default)]
pub struct Keygen {
    /// File for the private key; the public key goes to the same name with `.pub`.
    pub out: PathBuf,
}

/// Makes a key for `--audit-key`. Neither file may exist yet.
pub fn keygen(arguments: &Keygen, out: &mut dyn Write, errors: &mut dyn Write) -> u8 {
    let made = make_key(&arguments.out).and_then(|(public, key)| {
        writeln!(
            out,
            "private key  {}  (for --audit-key; keep it on this machine only, mode 0600)\n\
             public key   {}  (give it to those who verify: audit verify --key)\n\
             fingerprint  {}",
            arguments.out.display(),
            public.display(),
            key.fingerprint()
        )
    });
    match made {
        Ok(()) => DONE,
        Err(error) => unusable(errors, "keygen", &error),
    }
}

fn make_key(private: &Path) -> io::Result<(PathBuf, PublicKey)> {
    let (key, der) = SigningKey::generate()
        .ok_or_else(|| io::Error::other("no random numbers to be had for a key"))?;
    let mut public = private.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    write_new(private, 0o600, &pem("PRIVATE KEY", &der))?;
    write_new(&public, 0o644, &pem("PUBLIC KEY", &key.public().spki()))?;
    Ok((public, key.public()))
}

fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
