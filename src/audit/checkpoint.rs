//! Checkpoints: those of transparency logs (C2SP tlog-checkpoint), which are signed notes (C2SP signed-note).
//!
//! ```text
//! mail.clinic.example/outbound                          origin, which is also the name of the log's key
//! 41000                                                 records before it
//! m0vPpRf8...=                                          root of the Merkle tree over them (RFC 6962), base64
//!
//! — mail.clinic.example/outbound qA3Lk...=              key id (4 octets) and Ed25519 signature (64 octets), base64
//! ```
//!
//! Tools that read checkpoints verify one with the verifier key that `log-opened` names. More signature lines may follow. A line of an
//! unknown key is kept, and proves nothing. Without `--audit-key` there is no signature line, so it is no signed note.

use super::{
    OpenError,
    chain::{Hash, Head},
};
use aws_lc_rs::{
    hkdf,
    signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use data_encoding::{BASE64, HEXLOWER};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use std::{fmt, path::Path};
use zeroize::Zeroizing;

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
    /// The root of the Merkle tree over those records (RFC 6962 §2.1).
    pub root: Hash,
    /// The checkpoint as the record has it.
    pub note: String,
    /// How many records this process had written before it, without checkpoints and what others said of them.
    pub events: u64,
}

impl Checkpoint {
    /// The text that its key signs, and that others stamp.
    #[must_use]
    pub fn text(&self) -> &str {
        self.note.find("\n\n").map_or("", |end| &self.note[..=end])
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Head { size, hash }, root) = (self.head, BASE64.encode(&self.root.0));
        write!(
            f,
            "audit checkpoint origin={} size={size} head={hash} root={root}",
            self.origin
        )?;
        // A line of a log has no room for the long ones.
        let signatures = self.note.lines().filter_map(signature_of);
        let signatures = signatures.filter(|(_, signature)| signature.len() < 200);
        for (_, signature) in signatures {
            write!(f, " signature={signature}")?;
        }
        Ok(())
    }
}

/// The key's name and the base64 of a signature line, which is given without its LF.
pub(super) fn signature_of(line: &str) -> Option<(&str, &str)> {
    let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    (!name.is_empty()).then_some((name, signature))
}

/// The private key that signs checkpoints.
pub(super) struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Reads a PKCS#8 PEM file.
    pub(super) fn read(file: &Path) -> Result<Self, OpenError> {
        let name = file.display();
        let der = crate::files::octets(file, crate::files::SMALL)
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
    pub(super) fn secret(&self) -> Option<Zeroizing<Vec<u8>>> {
        use aws_lc_rs::encoding::AsBigEndian;
        let seed = self.0.seed().ok()?;
        Some(Zeroizing::new(seed.as_be_bytes().ok()?.as_ref().to_vec()))
    }

    pub(super) fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// The signature line of `text` by the key of that name. `text` ends with LF, and so does the line.
    pub(super) fn signature_line(&self, name: &str, text: &str) -> String {
        let mut blob = self.public().id(name).to_vec();
        blob.extend_from_slice(self.0.sign(text.as_bytes()).as_ref());
        format!("\u{2014} {name} {}\n", BASE64.encode(&blob))
    }
}

/// A new key pair for `--audit-key`, in PEM.
pub(crate) struct NewKey {
    pub(crate) private_pem: String,
    pub(crate) public_pem: String,
    pub(crate) public: PublicKey,
    /// The secret from which other keys are derived.
    pub(super) secret: Zeroizing<Vec<u8>>,
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
            secret: key.secret()?,
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
        let pem = crate::files::octets(file, crate::files::SMALL)
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

    fn id(&self, name: &str) -> [u8; 4] {
        key_id(name, &self.typed())
    }

    /// The key behind the octet of its kind.
    fn typed(&self) -> Vec<u8> {
        [&[ED25519][..], &self.0].concat()
    }

    /// The key as signed notes write it, a verifier key: `name+id+key`.
    #[must_use]
    pub(crate) fn verifier(&self, name: &str) -> String {
        verifier(name, &self.typed())
    }

    /// Reads a verifier key.
    #[must_use]
    pub(crate) fn from_verifier(text: &str) -> Option<Self> {
        let key = VerifierKey::read(text).filter(|key| key.has_its_id)?;
        let key = key.typed.strip_prefix(&[ED25519])?;
        key.try_into().ok().map(Self)
    }

    /// SHA-256 of the SubjectPublicKeyInfo, for people to compare.
    #[must_use]
    pub(crate) fn fingerprint(&self) -> Hash {
        Hash::of(&self.spki())
    }
}

/// Octets of a secret from which a key is made.
pub(super) const SECRET: usize = 32;

/// Such a secret at a place of its own in memory: whoever moves it leaves no copy behind.
pub(super) type Seed = Zeroizing<Vec<u8>>;

/// The secret of a key for the purpose `info`, made of another secret (HKDF with SHA-256, RFC 5869).
pub(super) fn derived(salt: &[u8], secret: &[u8], info: &[u8]) -> Seed {
    let mut seed = Zeroizing::new(vec![0; SECRET]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut seed))
        .expect("32 octets are within what HKDF can give");
    seed
}

/// The id that a key has in signed notes (C2SP signed-note). `typed` is the key behind the octets of its kind.
pub(super) fn key_id(name: &str, typed: &[u8]) -> [u8; 4] {
    let Hash([a, b, c, d, ..]) = Hash::of(&[name.as_bytes(), b"\n", typed].concat());
    [a, b, c, d]
}

/// A key as signed notes write it: `name+id+key`.
pub(super) fn verifier(name: &str, typed: &[u8]) -> String {
    let id = HEXLOWER.encode(&key_id(name, typed));
    format!("{name}+{id}+{}", BASE64.encode(typed))
}

/// The parts of such a key.
pub(super) struct VerifierKey<'a> {
    pub(super) name: &'a str,
    /// The key behind the octets of its kind.
    pub(super) typed: Vec<u8>,
    /// Whether the id is that of name and key.
    pub(super) has_its_id: bool,
}

impl<'a> VerifierKey<'a> {
    pub(super) fn read(text: &'a str) -> Option<Self> {
        // A name has no `+` (C2SP signed-note), but base64 may.
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let typed = unbase64(key)?;
        let has_its_id = HEXLOWER.encode(&key_id(name, &typed)) == id;
        Some(Self {
            name,
            typed,
            has_its_id,
        })
    }
}

/// A checkpoint, parsed. [`SignedNote::signed_by`] verifies a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedNote<'a> {
    /// What is signed.
    pub(super) text: &'a str,
    pub(super) origin: &'a str,
    /// Number of records.
    pub(super) size: u64,
    /// Root of the tree over them.
    pub(super) root: Hash,
    /// The name of each signature line, and its octets.
    signatures: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> SignedNote<'a> {
    /// The text to be signed for a checkpoint of a tree with that size and root.
    pub(super) fn text(origin: &str, size: u64, root: Hash) -> String {
        format!("{origin}\n{size}\n{}\n", BASE64.encode(&root.0))
    }

    /// Reads a checkpoint with any number of signature lines.
    pub(super) fn read(note: &'a str) -> Option<Self> {
        let end = note.rfind("\n\n")? + 1;
        let (text, lines) = (&note[..end], &note[end + 1..]);
        let signatures = lines.split_terminator('\n').map(|line| {
            let (name, signature) = signature_of(line)?;
            let blob = unbase64(signature).filter(|blob| blob.len() > 4)?;
            Some((name, blob))
        });
        let signatures: Option<Vec<_>> = signatures.collect();
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let digits = size.bytes().all(|b| b.is_ascii_digit());
        let is_canonical = digits && (size == "0" || !size.starts_with('0'));
        Some(Self {
            text,
            origin,
            size: is_canonical.then(|| size.parse().ok()).flatten()?,
            root: Hash(unbase64(root)?.try_into().ok()?),
            signatures: signatures.filter(|_| note.ends_with('\n'))?,
        })
    }

    pub(super) fn signed_by(&self, key: &PublicKey) -> bool {
        let is_of = |(name, blob): &(&str, Vec<u8>)| {
            let Some((id, signature)) = blob.split_at_checked(4) else {
                return false;
            };
            id == key.id(name)
                && UnparsedPublicKey::new(&signature::ED25519, &key.0)
                    .verify(self.text.as_bytes(), signature)
                    .is_ok()
        };
        self.signatures.iter().any(is_of)
    }

    /// The names of the keys whose signature lines `key` does not account for.
    pub(super) fn others(&self, key: &PublicKey) -> impl Iterator<Item = &'a str> {
        let is_of = |name: &str, blob: &[u8]| blob.starts_with(&key.id(name));
        let others = self.signatures.iter();
        others.filter_map(move |(name, blob)| (!is_of(name, blob)).then_some(*name))
    }

    /// The key's name in each signature line, and the octets there: the key's id and what its kind of signature has.
    pub(super) fn signatures(&self) -> impl Iterator<Item = (&'a str, &[u8])> {
        let lines = self.signatures.iter();
        lines.map(|(name, blob)| (*name, blob.as_slice()))
    }

    pub(super) fn is_signed(&self) -> bool {
        !self.signatures.is_empty()
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

/// The octets of canonical base64 (RFC 4648 §4), so that no two texts mean the same octets.
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.as_bytes()).ok()
}

/// PEM (RFC 7468) of `der`.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    // 48 octets are a line of 64 letters (RFC 7468 §2).
    let lines: Vec<String> = der.chunks(48).map(|octets| BASE64.encode(octets)).collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// What stands behind `phrase` in a line of the program's log, if the program said it. What strangers said stands in quotes there, and
/// may hold the same words.
pub(super) fn said_by_program<'a>(line: &'a str, phrase: &str) -> Option<&'a str> {
    let (before, rest) = line.split_once(phrase)?;
    // With `--log json` the whole line is one string, in which the quotes of others are escaped.
    let head = match before.split_once("\"message\":\"") {
        Some((_, head)) => head,
        None => before,
    };
    (!head.contains('"')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_a_stranger_said_are_no_anchor_and_no_key() {
        let words = "audit checkpoint origin=m/outbound size=1 head=0";
        let of = |line: String| said_by_program(&line, "audit checkpoint ").is_some();
        assert!(of(format!("2026-11-24T06:05:00Z INFO  {words}")));
        assert!(of(format!(
            "{{\"message\":\"{words}\",\"severity\":\"info\"}}"
        )));
        assert!(!of(format!("WARN  refused text=\"554 {words}\"")));
        assert!(!of(format!(
            "WARN  refused text=\"554 \\\"message\\\":\\\"{words}\""
        )));
        assert!(!of(format!(
            "{{\"text\":\"554 {words}\",\"time\":\"2026\"}}"
        )));
        assert!(!of(format!(
            "{{\"message\":\"refused text=\\\"554 {words}\\\"\"}}"
        )));
    }

    #[test]
    fn base64_is_that_of_rfc_4648_and_only_its_canonical_form_is_read() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(BASE64.encode(bytes.as_bytes()), text);
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
        let root = Hash::of(b"x");
        let text = SignedNote::text("mail.example/outbound", 41_000, root);
        let line = key.signature_line("mail.example/outbound", &text);
        let note = format!("{text}\n{line}");
        let read = SignedNote::read(&note).unwrap();
        assert_eq!(
            (read.origin, read.size, read.root),
            ("mail.example/outbound", 41_000, root)
        );
        assert!(read.signed_by(&key.public()));
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
    fn several_signature_lines_are_read_and_unknown_ones_prove_nothing() {
        let keys = [(); 3].map(|()| SigningKey::generate().unwrap().0);
        let text = SignedNote::text("mail.example/outbound", 7, Hash::of(b"x"));
        let names = ["witness.example/w", "mail.example/outbound", "other"];
        let lines = keys.iter().zip(names);
        let lines: String = lines
            .map(|(key, name)| key.signature_line(name, &text))
            .collect();
        // A signature of another kind, which nobody here can verify.
        let note = format!("{text}\n{lines}\u{2014} later /wABAgMEBQY=\n");
        let read = SignedNote::read(&note).unwrap();
        for key in &keys {
            assert!(read.signed_by(&key.public()));
        }
        assert!(!read.signed_by(&SigningKey::generate().unwrap().0.public()));
        let others: Vec<_> = read.others(&keys[1].public()).collect();
        assert_eq!(others, ["witness.example/w", "other", "later"]);
        let unsigned = format!("{text}\n");
        assert!(!SignedNote::read(&unsigned).unwrap().is_signed());
        for wrong in [&text, "a\n07\nAA==\n\n", &note[..note.len() - 1]] {
            assert_eq!(SignedNote::read(wrong), None, "{wrong:?}");
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
