//! `audit keygen`: a key for `--audit-key`.

use super::unusable;
use crate::{
    audit::{HybridPublic, NewKey},
    exit::Exit,
    files,
    flags::AuditKeygenFlags,
};
use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Makes a key for `--audit-key`, and puts the public key beside it under the same name with `.pub`.
///
/// # Errors
/// One of the files exists already or cannot be written.
pub fn keygen(flags: &AuditKeygenFlags, out: &mut dyn Write) -> Result<(), Exit> {
    make_key(&flags.out, out).map_err(|error| unusable("keygen", error))
}

fn make_key(private: &Path, out: &mut dyn Write) -> io::Result<()> {
    let key = NewKey::generate()
        .ok_or_else(|| io::Error::other("no random numbers to be had for a key"))?;
    let mut public = private.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    write_new(private, 0o600, &key.private_pem)?;
    write_new(&public, 0o644, &key.public_pem)?;
    if let Some(hybrid) = HybridPublic::beside(&key) {
        let mut beside = private.as_os_str().to_owned();
        beside.push(".ml-dsa.pub");
        write_new(Path::new(&beside), 0o644, &hybrid.pem())?;
    }
    writeln!(
        out,
        "private key  {}  (for --audit-key; keep it on this machine only, mode 0600)\n\
         public key   {}  (give it to those who verify: audit verify --key)\n\
         fingerprint  {}\n\
         The public key for signatures that are to convince even if Ed25519 is broken has the same name with .ml-dsa.pub.\n\
         At each start with this key the program's log has a line \"audit epoch key=\".\n\
         Keep one on another machine: audit verify --first-key",
        private.display(),
        public.display(),
        key.public.fingerprint()
    )
}

fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| files::named(path, &error))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
