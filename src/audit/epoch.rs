//! Keys that cannot sign the past anew.
//!
//! Each checkpoint has a second signature, by a key that signs this one checkpoint only and is erased afterwards. The signature names
//! the next key, so the keys are a chain. Whoever takes the host and all keys in it can sign what comes later, but no checkpoint that
//! was durable before: the keys of those are gone. One public key of the chain, kept elsewhere, is enough to see that.
//!
//! ```text
//! — mail.clinic.example/outbound/epoch wL2c..=          key id (4 octets), the next public key (32), Ed25519 signature (64), base64
//! ```
//!
//! What is signed is the note's text, `next `, the next public key in base64, and LF. [`EpochKeys`] says what must be durable before
//! what. Verification follows the chain with public keys alone.

use super::{
    chain::Hash,
    checkpoint::{SECRET, Seed, SignedNote, VerifierKey, derived, key_id, verifier},
};
use aws_lc_rs::{
    rand,
    signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use data_encoding::BASE64;
use std::{collections::VecDeque, fmt};
use zeroize::Zeroizing;

/// What stands for these keys in signed notes, which have no octet of their own for them.
const TYPE: &[u8] = b"\xffstarttls-proxy/epoch/v1";
/// First line of the file of secrets.
const TITLE: &str = "secret keys of the audit log beside this file: never copy them\n";
/// Octets of a line with a secret: its number, the secret in base64, eight digits of a check sum, LF.
const SECRET_LINE: usize = 20 + 1 + 44 + 1 + 8 + 1;

/// Where secrets come from: fills the octets with random ones, or returns `false`.
pub type RandomSource = fn(&mut [u8]) -> bool;

/// The system's random numbers.
pub(super) fn system_random(octets: &mut [u8]) -> bool {
    rand::fill(octets).is_ok()
}

/// The name of the epoch keys of a log.
pub(super) fn key_name(origin: &str) -> String {
    format!("{origin}/epoch")
}

/// The public key of one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EpochPublic([u8; 32]);

impl fmt::Debug for EpochPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl EpochPublic {
    fn id(&self, name: &str) -> [u8; 4] {
        key_id(name, &self.typed())
    }

    /// The key behind the octets of its kind.
    fn typed(&self) -> Vec<u8> {
        [TYPE, &self.0].concat()
    }

    /// The key as signed notes write it, `name+id+key`, for the log called `origin`.
    pub(super) fn verifier(&self, origin: &str) -> String {
        verifier(&key_name(origin), &self.typed())
    }

    /// Reads what [`verifier`](Self::verifier) writes: the log's name and the key.
    pub(super) fn from_verifier(text: &str) -> Option<(&str, Self)> {
        let key = VerifierKey::read(text).filter(|key| key.has_its_id)?;
        let origin = key.name.strip_suffix("/epoch")?;
        let octets = key.typed.strip_prefix(TYPE)?;
        Some((origin, Self(octets.try_into().ok()?)))
    }
}

fn signed_text(text: &str, next: EpochPublic) -> String {
    format!("{text}next {}\n", BASE64.encode(&next.0))
}

/// The epoch signature of a checkpoint.
#[derive(Debug)]
pub(super) struct EpochSignature {
    id: [u8; 4],
    /// The key that it names.
    pub(super) next: EpochPublic,
    signature: [u8; 64],
}

impl EpochSignature {
    /// `None` where the note has none.
    pub(super) fn of(note: &SignedNote<'_>) -> Option<Self> {
        let name = key_name(note.origin);
        let mut blobs = note.signatures().filter(|(of, _)| *of == name);
        let (id, rest) = blobs.next()?.1.split_first_chunk()?;
        let (next, signature) = rest.split_first_chunk()?;
        Some(Self {
            id: *id,
            next: EpochPublic(*next),
            signature: signature.try_into().ok()?,
        })
    }
}

/// Whether the note's epoch signature is good, and of that key.
pub(super) fn is_signed_by(
    note: &SignedNote<'_>,
    EpochSignature {
        id,
        next,
        signature,
    }: &EpochSignature,
    key: EpochPublic,
) -> bool {
    let text = signed_text(note.text, *next);
    *id == key.id(&key_name(note.origin))
        && UnparsedPublicKey::new(&signature::ED25519, &key.0)
            .verify(text.as_bytes(), signature)
            .is_ok()
}

/// The key that a checkpoint names for the next one.
pub(super) fn named_by(note: &SignedNote<'_>) -> Option<EpochPublic> {
    EpochSignature::of(note).map(|signature| signature.next)
}

/// The note without the signature of its epoch. For one record the log's signature suffices, and whoever is given a proof of it has not
/// the checkpoint before, which names the epoch's key.
pub(super) fn without_signature(note: &str) -> String {
    let name = note.lines().next().map(key_name).unwrap_or_default();
    let begin = format!("\u{2014} {name} ");
    let lines = note.split_inclusive('\n');
    lines.filter(|line| !line.starts_with(&begin)).collect()
}

/// The secret key of one epoch.
struct EpochSecret {
    number: u64,
    seed: Seed,
    pair: Ed25519KeyPair,
}

impl EpochSecret {
    fn new(number: u64, seed: Seed) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .expect("any 32 octets are the secret of a key");
        Self { number, seed, pair }
    }

    /// A new secret of fresh random octets and of `before` (HKDF, RFC 5869): a source of random numbers that fails later on makes it
    /// no worse than a hash of the secret before it, which leads forward only.
    fn after(number: u64, before: &[u8], random: RandomSource) -> Self {
        let mut salt = Zeroizing::new(vec![0; SECRET]);
        let _ = random(&mut salt); // see above
        Self::new(number, derived(&salt, before, b"audit epoch v1"))
    }

    fn public(&self) -> EpochPublic {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        EpochPublic(key)
    }

    /// Appends the line of this secret to `content`, which has room for it.
    fn write(&self, content: &mut Zeroizing<Vec<u8>>) {
        let begin = content.len();
        content.extend_from_slice(format!("{:020} ", self.number).as_bytes());
        let text = content.len();
        content.resize(text + BASE64.encode_len(SECRET), 0);
        BASE64.encode_mut(&self.seed, &mut content[text..]);
        let check = Hash::of(&content[begin..]).to_string();
        content.extend_from_slice(format!(" {}\n", &check[..8]).as_bytes());
    }

    /// `None` for a line that a crash tore.
    fn read(line: &[u8]) -> Option<Self> {
        let (fields, check) = line.strip_suffix(b"\n")?.split_at_checked(20 + 1 + 44)?;
        let digits = Hash::of(fields).to_string();
        (check.strip_prefix(b" ")? == &digits.as_bytes()[..8]).then_some(())?;
        let number = std::str::from_utf8(&fields[..20]).ok()?.parse().ok()?;
        let seed = Zeroizing::new(BASE64.decode(&fields[21..]).ok()?);
        (seed.len() == SECRET).then(|| Self::new(number, seed))
    }
}

/// Which key the log says is the next to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedEpoch {
    /// None: the log is new, or was not signed before.
    Nothing,
    /// This one.
    Key(EpochPublic),
    /// The records that name it are not here.
    Unknown,
}

/// How the chain of keys goes on when a log is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EpochStart {
    /// With the key that the log names.
    GoesOn,
    /// It begins.
    First,
    /// The secret of the key that the log names is gone, so a new chain begins. Says why.
    Lost(EpochPublic, String),
}

/// The secret keys of a log that is being written, and their order. What a caller must do, in this order:
///
/// 1. [`begin`](Self::begin), and make [`content`](Self::content) durable.
/// 2. [`sign`](Self::sign) a checkpoint. Several may be made before the first is durable, as in an outage.
/// 3. When a checkpoint is durable: [`erase`](Self::erase), and make `content` durable in place of what it was, before the next
///    checkpoint is written.
///
/// At any time, the file then has the secret of the key that the last durable checkpoint names: a crash never ends the chain. A content
/// that was torn by a crash still has it, because it stands at the same place before and afterwards.
pub(super) struct EpochKeys {
    /// The first signs, or has signed, the first checkpoint that is not durable, and each further one the next. The first two stand in
    /// the file.
    secrets: VecDeque<EpochSecret>,
    /// Number of checkpoints that were signed and are not durable.
    pending: usize,
    random: RandomSource,
}

impl EpochKeys {
    /// Finds the key that is `named` in the file's `content`, or begins a new chain from `seed`, which is secret, and random octets.
    /// `None`: there are no random numbers to begin with.
    pub(super) fn begin(
        content: Option<&[u8]>,
        named: NamedEpoch,
        seed: &[u8],
        random: RandomSource,
    ) -> Option<(Self, EpochStart)> {
        let mut kept = content.map(read_content).unwrap_or_default();
        kept.sort_by_key(|secret| secret.number);
        let is_named = |secret: &EpochSecret| match named {
            NamedEpoch::Nothing => false,
            NamedEpoch::Key(key) => secret.public() == key,
            NamedEpoch::Unknown => true,
        };
        let place = kept.iter().position(is_named);
        let start = match (place, named) {
            (Some(_), _) => EpochStart::GoesOn,
            (None, NamedEpoch::Key(key)) => {
                let why = match (content, kept.is_empty()) {
                    (None, _) => "the file with its secret is not there",
                    (_, true) => "the file that had its secret has other content",
                    _ => "the file that had its secret has those of other keys",
                };
                EpochStart::Lost(key, why.into())
            }
            (None, _) => EpochStart::First,
        };
        let present = match place {
            Some(place) => kept.swap_remove(place),
            None => {
                let mut probe = [0; 32];
                random(&mut probe).then(|| EpochSecret::after(0, seed, random))?
            }
        };
        let follows = |secret: &EpochSecret| secret.number == present.number + 1;
        let next = kept.into_iter().find(follows).filter(|_| place.is_some());
        let mut keys = Self {
            secrets: [present].into_iter().chain(next).collect(),
            pending: 0,
            random,
        };
        keys.provide();
        Some((keys, start))
    }

    /// Sees that the file, and the next checkpoint, have what they need.
    fn provide(&mut self) {
        while self.secrets.len() < self.pending + 2 {
            let Some(last) = self.secrets.back() else {
                return;
            };
            let next = EpochSecret::after(last.number + 1, &last.seed[..], self.random);
            self.secrets.push_back(next);
        }
    }

    /// What the file must have: two secrets, each at a place of its own until it is erased.
    pub(super) fn content(&self) -> Zeroizing<Vec<u8>> {
        // There is room for all at first, so that no copy is left behind by growing.
        let mut content = Zeroizing::new(Vec::with_capacity(TITLE.len() + 2 * SECRET_LINE));
        content.extend_from_slice(TITLE.as_bytes());
        for is_odd in [false, true] {
            let mut both = self.secrets.iter().take(2);
            let here = both.find(|secret| secret.number.is_multiple_of(2) != is_odd);
            if let Some(secret) = here {
                secret.write(&mut content);
            }
        }
        content
    }

    /// The key that signs the next checkpoint.
    pub(super) fn present(&self) -> Option<EpochPublic> {
        Some(self.secrets.get(self.pending)?.public())
    }

    /// The signature line of the next checkpoint, whose text ends with LF, as the line does.
    pub(super) fn sign(&mut self, origin: &str, text: &str) -> Option<String> {
        self.provide();
        let [secret, next] = [self.pending, self.pending + 1].map(|place| self.secrets.get(place));
        let (secret, next, name) = (secret?, next?.public(), key_name(origin));
        let signature = secret.pair.sign(signed_text(text, next).as_bytes());
        let blob = [&secret.public().id(&name)[..], &next.0, signature.as_ref()].concat();
        self.pending += 1;
        Some(format!("\u{2014} {name} {}\n", BASE64.encode(&blob)))
    }

    /// The first checkpoint that was not durable is durable now: its secret goes out of memory.
    pub(super) fn erase(&mut self) {
        if self.pending > 0 {
            self.pending -= 1;
            self.secrets.pop_front();
            self.provide();
        }
    }
}

/// The secrets that can be read.
fn read_content(content: &[u8]) -> Vec<EpochSecret> {
    let lines = content.get(TITLE.len()..).unwrap_or_default();
    let lines = lines.chunks(SECRET_LINE);
    lines.filter_map(EpochSecret::read).collect()
}

#[cfg(test)]
mod tests;
