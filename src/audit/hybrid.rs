//! A second kind of signature by the log key, for the day when Ed25519 convinces nobody any more: ML-DSA-44 (FIPS 204), whose secret is
//! derived from `--audit-key`.
//!
//! ```text
//! — mail.clinic.example/outbound/ml-dsa-44 4nq0...=     key id (4 octets), eight octets of zero, signature (2,420), base64
//! ```
//!
//! It is the cosignature of C2SP tlog-cosignature (type 0x06) without a time, so tools that know those verify it.

use super::{
    OpenError,
    chain::Hash,
    checkpoint::{NewKey, SignedNote, derived, key_id, pem},
};
use aws_lc_rs::signature::{
    KeyPair, ML_DSA_44, ML_DSA_44_SIGNING, PqdsaKeyPair, UnparsedPublicKey,
};
use data_encoding::BASE64;
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use std::path::Path;

/// The octet that stands for these signatures in signed notes.
const TYPE: u8 = 6;
/// Octets of a public key and of a signature.
const PUBLIC: usize = 1312;
const SIGNATURE: usize = 2420;
/// The octets before a public key in a SubjectPublicKeyInfo (RFC 9881 §4).
const SPKI_PREFIX: [u8; 22] = [
    0x30, 0x82, 0x05, 0x32, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03,
    0x11, 0x03, 0x82, 0x05, 0x21, 0x00,
];

/// The name of that key of a log.
pub(super) fn key_name(origin: &str) -> String {
    format!("{origin}/ml-dsa-44")
}

/// What is signed: `cosigned_message` of C2SP tlog-cosignature, for a tree that begins at 0, and without a time.
fn message(name: &str, origin: &str, size: u64, root: Hash) -> Vec<u8> {
    let mut octets = b"subtree/v1\n\0".to_vec();
    let text = |text: &str, octets: &mut Vec<u8>| {
        octets.push(text.len().min(255) as u8);
        octets.extend_from_slice(&text.as_bytes()[..text.len().min(255)]);
    };
    text(name, &mut octets);
    octets.extend_from_slice(&[0; 8]);
    text(origin, &mut octets);
    octets.extend_from_slice(&[0; 8]);
    octets.extend_from_slice(&size.to_be_bytes());
    octets.extend_from_slice(&root.0);
    octets
}

/// The secret key.
pub(super) struct HybridKey(PqdsaKeyPair);

impl HybridKey {
    /// The key that belongs to a log key with this secret. `None`: the cryptographic library has none.
    pub(super) fn of(secret: &[u8]) -> Option<Self> {
        let seed = derived(b"starttls-proxy", secret, b"audit ml-dsa-44 v1");
        PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, &seed)
            .ok()
            .map(Self)
    }

    pub(super) fn public(&self) -> HybridPublic {
        HybridPublic(self.0.public_key().as_ref().to_vec())
    }

    /// The signature line of a checkpoint; `None` where the library fails.
    pub(super) fn signature_line(&self, origin: &str, size: u64, root: Hash) -> Option<String> {
        let name = key_name(origin);
        let mut signature = vec![0; SIGNATURE];
        self.0
            .sign(&message(&name, origin, size, root), &mut signature)
            .ok()?;
        let blob = [&self.public().id(&name)[..], &[0; 8], &signature].concat();
        Some(format!("\u{2014} {name} {}\n", BASE64.encode(&blob)))
    }
}

/// The public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HybridPublic(Vec<u8>);

impl HybridPublic {
    /// The public key beside that of a new log key; `None` where the cryptographic library has none.
    pub(crate) fn beside(key: &NewKey) -> Option<Self> {
        Some(HybridKey::of(&key.secret)?.public())
    }

    /// Reads a PEM file; `None` where it holds another kind of key.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(file: &Path) -> Result<Option<Self>, OpenError> {
        let octets = crate::files::octets(file, crate::files::SMALL)
            .map_err(|error| OpenError::Wrong(format!("{}: {error}", file.display())))?;
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(&octets).ok();
        let key = spki.and_then(|spki| Some(spki.strip_prefix(&SPKI_PREFIX)?.to_vec()));
        Ok(key.filter(|key| key.len() == PUBLIC).map(Self))
    }

    /// The key in PEM (SubjectPublicKeyInfo).
    pub(crate) fn pem(&self) -> String {
        pem("PUBLIC KEY", &[&SPKI_PREFIX[..], &self.0].concat())
    }

    fn id(&self, name: &str) -> [u8; 4] {
        key_id(name, &[&[TYPE][..], &self.0].concat())
    }

    /// Whether the checkpoint has a good signature of this key; `None` where it has no line of such a key.
    pub(super) fn has_signed(&self, note: &SignedNote<'_>) -> Option<bool> {
        let name = key_name(note.origin);
        let (_, blob) = note.signatures().find(|(of, _)| *of == name)?;
        let expected = [&self.id(&name)[..], &[0; 8]].concat();
        let message = message(&name, note.origin, note.size, note.root);
        Some(blob.strip_prefix(&expected[..]).is_some_and(|signature| {
            UnparsedPublicKey::new(&ML_DSA_44, &self.0)
                .verify(&message, signature)
                .is_ok()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_verified_with_the_key_of_the_same_secret_only_and_any_change_is_noticed() {
        let (origin, root) = ("mail.example/outbound", Hash::of(b"x"));
        let key = HybridKey::of(&[7; 32]).unwrap();
        let line = key.signature_line(origin, 41, root).unwrap();
        let note = format!("{}\n{line}", SignedNote::text(origin, 41, root));
        let has_signed = |key: &HybridKey, note: &str| {
            let note = SignedNote::read(note).unwrap();
            key.public().has_signed(&note)
        };
        assert_eq!(
            has_signed(&HybridKey::of(&[7; 32]).unwrap(), &note),
            Some(true)
        );
        assert_eq!(
            has_signed(&HybridKey::of(&[8; 32]).unwrap(), &note),
            Some(false)
        );
        let other = format!("{}\n{line}", SignedNote::text(origin, 42, root));
        assert_eq!(has_signed(&key, &other), Some(false));
        let unsigned = format!("{}\n", SignedNote::text(origin, 41, root));
        assert_eq!(has_signed(&key, &unsigned), None);
        assert_eq!(line.len(), 3281, "octets of a line");
    }

    #[test]
    fn the_key_that_belongs_to_a_log_key_stays_the_same() {
        let key = HybridKey::of(&[7; 32]).unwrap().public();
        assert_eq!(
            Hash::of(&key.0).to_string(),
            "6f3e0ca63bd0cddd02c65e908d5560c2761060c859b505fe8a7946287903aeed"
        );
    }

    #[test]
    fn a_public_key_survives_pem() {
        let key = HybridKey::of(&[7; 32]).unwrap().public();
        assert_eq!(key.0.len(), PUBLIC);
        let file = std::env::temp_dir().join(format!("hybrid-{}", std::process::id()));
        std::fs::write(&file, key.pem()).unwrap();
        assert_eq!(HybridPublic::read(&file), Ok(Some(key)));
        std::fs::remove_file(file).unwrap();
    }
}
