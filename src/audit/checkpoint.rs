//! Checkpoints: signed notes (C2SP signed-note) in the form of a transparency log's checkpoint (C2SP tlog-checkpoint).
//!
//! ```text
//! mail.clinic.example/outbound                          origin, which is also the key's name
//! 41000                                                 records before it
//! m0vPpRf8...=                                          SHA-256 of the last of them, base64
//! time 2026-11-24T06:05:00.123456Z                      an extension line
//!
//! — mail.clinic.example/outbound qA3Lk...=              key id (4 octets) and Ed25519 signature (64 octets), base64
//! ```
//!
//! Tools that read signed notes verify a checkpoint with the verifier key that `log-opened` names. One thing differs from a
//! transparency log: the third line is the end of a chain, not the root of a Merkle tree, so there are no inclusion proofs.

use super::{
    OpenError,
    chain::{Hash, Head, hex},
};
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use std::{fmt, path::Path};

/// The octet that stands for Ed25519 in signed notes.
const ED25519: u8 = 1;
/// The octets before the 32 octets of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A checkpoint that was written, for another machine to remember. Its `Display` is the line of the program's log that anchors the
/// chain; `audit verify --anchor` reads that line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// The number of records that it vouches for, and the hash of the last of them.
    pub head: Head,
    /// The last field of the signature line, base64; `None` without a key.
    pub signature: Option<String>,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "audit checkpoint origin={} size={} head={}",
            self.origin, self.head.size, self.head.hash
        )?;
        match &self.signature {
            Some(signature) => write!(f, " signature={signature}"),
            None => Ok(()),
        }
    }
}

/// The private key that signs checkpoints.
pub(super) struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Reads a PKCS#8 PEM file.
    pub(super) fn read(file: &Path) -> Result<Self, OpenError> {
        let name = file.display();
        let der = crate::files::octets(file)
            .map_err(rustls_pki_types::pem::Error::Io)
            .and_then(|pem| PrivatePkcs8KeyDer::from_pem_slice(&pem))
            .map_err(|error| {
                OpenError::Wrong(format!(
                    "{name}: no PKCS#8 private key in PEM: {error}; make one with `audit keygen`"
                ))
            })?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map(Self)
            .map_err(|_| {
                OpenError::Wrong(format!(
                    "{name}: not an Ed25519 key; make one with `audit keygen`"
                ))
            })
    }

    /// A new key, and its PKCS#8 form.
    pub(super) fn generate() -> Option<(Self, Vec<u8>)> {
        let key = Ed25519KeyPair::generate().ok()?;
        let der = key.to_pkcs8v1().ok()?.as_ref().to_vec();
        Some((Self(key), der))
    }

    /// The key's 32-octet seed, from which the key for hashed addresses is derived.
    pub(super) fn secret(&self) -> Option<Vec<u8>> {
        use aws_lc_rs::encoding::AsBigEndian;
        let seed = self.0.seed().ok()?;
        Some(seed.as_be_bytes().ok()?.as_ref().to_vec())
    }

    pub(super) fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// Signs `text`, which ends with LF. Returns the note and the signature's base64.
    pub(super) fn note(&self, origin: &str, text: &str) -> (String, String) {
        let mut blob = self.public().id(origin).to_vec();
        blob.extend_from_slice(self.0.sign(text.as_bytes()).as_ref());
        let signature = base64(&blob);
        (
            format!("{text}\n\u{2014} {origin} {signature}\n"),
            signature,
        )
    }
}

/// A new key pair for `--audit-key`, in PEM.
pub(crate) struct NewKey {
    pub(crate) private_pem: String,
    pub(crate) public_pem: String,
    pub(crate) public: PublicKey,
}

impl NewKey {
    /// `None` where the system gives no random numbers.
    pub(crate) fn generate() -> Option<Self> {
        let (key, der) = SigningKey::generate()?;
        let public = key.public();
        Some(Self {
            private_pem: pem("PRIVATE KEY", &der),
            public_pem: pem("PUBLIC KEY", &public.spki()),
            public,
        })
    }
}

/// The public key that verifies checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads a PEM file that holds the public key, or the private key it belongs to.
    ///
    /// # Errors
    /// The file cannot be read, or holds no Ed25519 key.
    pub(crate) fn read(file: &Path) -> Result<Self, OpenError> {
        let name = file.display();
        let pem = crate::files::octets(file)
            .map_err(|error| OpenError::Wrong(format!("{name}: {error}")))?;
        if let Ok(spki) = SubjectPublicKeyInfoDer::from_pem_slice(&pem) {
            return Self::from_spki(&spki)
                .ok_or_else(|| OpenError::Wrong(format!("{name}: not an Ed25519 key")));
        }
        SigningKey::read(file).map(|key| key.public())
    }

    fn from_spki(der: &[u8]) -> Option<Self> {
        der.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(Self)
    }

    /// The SubjectPublicKeyInfo, DER.
    fn spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// The key's id in signed notes.
    fn id(&self, name: &str) -> [u8; 4] {
        let hash = Hash::of(&[name.as_bytes(), &[b'\n', ED25519], &self.0].concat());
        [hash.0[0], hash.0[1], hash.0[2], hash.0[3]]
    }

    /// The key as signed notes write it, a verifier key: `name+id+key`.
    #[must_use]
    pub(crate) fn verifier(&self, name: &str) -> String {
        let typed = [&[ED25519][..], &self.0].concat();
        format!("{name}+{}+{}", hex(&self.id(name)), base64(&typed))
    }

    /// Reads a verifier key.
    #[must_use]
    pub(crate) fn from_verifier(text: &str) -> Option<Self> {
        // A name has no `+` (C2SP signed-note), but base64 may.
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let key = Self(unbase64(key)?.strip_prefix(&[ED25519])?.try_into().ok()?);
        (hex(&key.id(name)) == id).then_some(key)
    }

    /// SHA-256 of the SubjectPublicKeyInfo, for people to compare.
    #[must_use]
    pub(crate) fn fingerprint(&self) -> Hash {
        Hash::of(&self.spki())
    }
}

/// A signed note, parsed. [`SignedNote::signed_by`] verifies its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedNote<'a> {
    text: &'a str,
    pub(super) origin: &'a str,
    pub(super) head: Head,
    /// The value of the `time` line.
    pub(super) time: Option<&'a str>,
    name: &'a str,
    blob: Vec<u8>,
}

impl<'a> SignedNote<'a> {
    /// The text to be signed for a checkpoint of `head`.
    pub(super) fn text(origin: &str, head: Head, at: &str) -> String {
        format!(
            "{origin}\n{}\n{}\ntime {at}\n",
            head.size,
            base64(&head.hash.0)
        )
    }

    /// Reads a note with one signature.
    pub(super) fn read(note: &'a str) -> Option<Self> {
        let end = note.rfind("\n\n")? + 1;
        let (text, signature) = (&note[..end], &note[end + 1..]);
        let (name, blob) = signature
            .strip_prefix("\u{2014} ")?
            .strip_suffix('\n')?
            .split_once(' ')?;
        let mut lines = text.lines();
        let (origin, size, hash) = (lines.next()?, lines.next()?, lines.next()?);
        let size: u64 = size.parse().ok()?;
        Some(Self {
            text,
            origin,
            head: Head {
                size,
                hash: Hash(unbase64(hash)?.try_into().ok()?),
            },
            time: lines.next().and_then(|line| line.strip_prefix("time ")),
            name,
            blob: unbase64(blob)?,
        })
    }

    pub(super) fn signed_by(&self, key: &PublicKey) -> bool {
        let Some((id, signature)) = self.blob.split_at_checked(4) else {
            return false;
        };
        id == key.id(self.name)
            && UnparsedPublicKey::new(&signature::ED25519, &key.0)
                .verify(self.text.as_bytes(), signature)
                .is_ok()
    }
}

/// Whether `name` can be an origin, which names the log and its key: a host, a slash, a word. Neither white space nor `+` may be in
/// it (C2SP signed-note), and no character that JSON escapes.
pub(super) fn is_origin(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'+' && b != b'"' && b != b'\\')
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 §4.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0, |word, &byte| word << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let sextet = (word >> (18 - 6 * place)) & 63;
            text.push(if place <= chunk.len() {
                char::from(BASE64[sextet as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// RFC 4648 §4, canonical only: what [`base64`] would not have written is refused, so that no two texts mean the same octets.
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut word = 0_u32;
        for &letter in chunk {
            let sextet = BASE64.iter().position(|&b| b == letter)?;
            word = word << 6 | u32::try_from(sextet).ok()?;
        }
        word <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&word.to_be_bytes()[1..chunk.len()]);
    }
    (base64(&bytes) == text).then_some(bytes)
}

/// PEM (RFC 7468) of `der`.
fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648_and_only_its_canonical_form_is_read() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(unbase64(text).unwrap(), bytes.as_bytes());
        }
        for wrong in ["Zh==", "Zg", "Zg=", "Zm9v\n", "Z", "Zm9v====", "Zm-v"] {
            assert_eq!(unbase64(wrong), None, "{wrong:?}");
        }
    }

    /// The key and note of C2SP signed-note's description of Ed25519 keys, made by another implementation (Go's sumdb/note tests).
    #[test]
    fn key_ids_are_those_of_signed_notes() {
        let verifier = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let key = PublicKey::from_verifier(verifier).unwrap();
        assert_eq!(key.verifier("PeterNeumann"), verifier);
        let (text, signature) = note.split_at(note.rfind("\n\n").unwrap() + 1);
        let blob = unbase64(signature.trim().rsplit(' ').next().unwrap()).unwrap();
        assert_eq!(blob[..4], key.id("PeterNeumann"));
        assert!(
            UnparsedPublicKey::new(&signature::ED25519, &key.0)
                .verify(text.as_bytes(), &blob[4..])
                .is_ok()
        );
    }

    #[test]
    fn a_note_is_read_back_and_any_change_of_it_is_noticed() {
        let (key, _) = SigningKey::generate().unwrap();
        let head = Head {
            size: 41_000,
            hash: Hash::of(b"x"),
        };
        let text = SignedNote::text("mail.example/outbound", head, "2026-11-24T06:05:00.123456Z");
        let (note, signature) = key.note("mail.example/outbound", &text);
        let read = SignedNote::read(&note).unwrap();
        assert_eq!(
            (read.origin, read.head, read.time),
            (
                "mail.example/outbound",
                head,
                Some("2026-11-24T06:05:00.123456Z")
            )
        );
        assert!(read.signed_by(&key.public()) && note.contains(&signature));
        let (other, _) = SigningKey::generate().unwrap();
        assert!(!read.signed_by(&other.public()));
        for place in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[place] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(
                !SignedNote::read(&changed).is_some_and(|note| note.signed_by(&key.public())),
                "octet {place}"
            );
        }
    }

    #[test]
    fn every_verifier_key_is_read_back_whatever_its_base64_has() {
        for number in 0..=u8::MAX {
            let key = PublicKey([number; 32]);
            let verifier = key.verifier("mail.example/outbound");
            assert_eq!(PublicKey::from_verifier(&verifier), Some(key), "{verifier}");
        }
    }

    #[test]
    fn keys_survive_pem() {
        let (key, der) = SigningKey::generate().unwrap();
        let read = PrivatePkcs8KeyDer::from_pem_slice(pem("PRIVATE KEY", &der).as_bytes()).unwrap();
        assert_eq!(read.secret_pkcs8_der(), der);
        let spki = pem("PUBLIC KEY", &key.public().spki());
        let read = SubjectPublicKeyInfoDer::from_pem_slice(spki.as_bytes()).unwrap();
        assert_eq!(PublicKey::from_spki(&read), Some(key.public()));
    }
}
