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
//! what; [`EpochChain`] follows the chain with public keys alone.

use super::{
    OpenError,
    chain::Hash,
    checkpoint::{SignedNote, unbase64},
};
use aws_lc_rs::{
    hmac, rand,
    signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use data_encoding::{BASE64, HEXLOWER};
use std::{collections::VecDeque, fmt, path::Path};
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
fn key_name(origin: &str) -> String {
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
        let hash = Hash::of(&[name.as_bytes(), b"\n", TYPE, &self.0].concat());
        [hash.0[0], hash.0[1], hash.0[2], hash.0[3]]
    }

    /// The key as signed notes write it, `name+id+key`, for the log called `origin`.
    pub(super) fn verifier(&self, origin: &str) -> String {
        let name = key_name(origin);
        let id = HEXLOWER.encode(&self.id(&name));
        format!("{name}+{id}+{}", BASE64.encode(&[TYPE, &self.0].concat()))
    }

    /// Reads what [`verifier`](Self::verifier) writes: the log's name and the key.
    pub(super) fn from_verifier(text: &str) -> Option<(&str, Self)> {
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let key = Self(unbase64(key)?.strip_prefix(TYPE)?.try_into().ok()?);
        let origin = name.strip_suffix("/epoch")?;
        (HEXLOWER.encode(&key.id(name)) == id).then_some((origin, key))
    }

    fn has_signed(&self, text: &str, next: Self, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, &self.0)
            .verify(signed_text(text, next).as_bytes(), signature)
            .is_ok()
    }
}

fn signed_text(text: &str, next: EpochPublic) -> String {
    format!("{text}next {}\n", BASE64.encode(&next.0))
}

/// The epoch signature of a checkpoint.
#[derive(Debug)]
struct EpochSignature {
    id: [u8; 4],
    next: EpochPublic,
    signature: [u8; 64],
}

impl EpochSignature {
    /// `None` where the note has none.
    fn of(note: &SignedNote<'_>) -> Option<Self> {
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

/// The key that a checkpoint names for the next one.
pub(super) fn named_by(note: &SignedNote<'_>) -> Option<EpochPublic> {
    EpochSignature::of(note).map(|signature| signature.next)
}

/// The secret key of one epoch.
struct EpochSecret {
    number: u64,
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl EpochSecret {
    fn new(number: u64, seed: Zeroizing<[u8; 32]>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..])
            .expect("any 32 octets are the secret of a key");
        Self { number, seed, pair }
    }

    /// A new secret of fresh random octets and of `before` (HKDF, RFC 5869): a source of random numbers that fails later on makes it
    /// no worse than a hash of the secret before it, which leads forward only.
    fn after(number: u64, before: &[u8], random: RandomSource) -> Self {
        let mut salt = Zeroizing::new([0; 32]);
        let _ = random(&mut salt[..]); // see above
        let extracted = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salt[..]), before);
        let key = hmac::Key::new(hmac::HMAC_SHA256, extracted.as_ref());
        let expanded = hmac::sign(&key, b"audit epoch v1\x01");
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(expanded.as_ref());
        Self::new(number, seed)
    }

    fn public(&self) -> EpochPublic {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        EpochPublic(key)
    }

    fn line(&self) -> Zeroizing<String> {
        let fields = Zeroizing::new(format!(
            "{:020} {}",
            self.number,
            *Zeroizing::new(BASE64.encode(&self.seed[..]))
        ));
        let check = Hash::of(fields.as_bytes()).to_string();
        Zeroizing::new(format!("{} {}\n", *fields, &check[..8]))
    }

    /// `None` for a line that a crash tore.
    fn read(line: &[u8]) -> Option<Self> {
        let (fields, check) = line.strip_suffix(b"\n")?.split_at_checked(20 + 1 + 44)?;
        let digits = Hash::of(fields).to_string();
        (check.strip_prefix(b" ")? == &digits.as_bytes()[..8]).then_some(())?;
        let number = std::str::from_utf8(&fields[..20]).ok()?.parse().ok()?;
        let octets = Zeroizing::new(BASE64.decode(&fields[21..]).ok()?);
        let mut seed = Zeroizing::new([0; 32]);
        (octets.len() == seed.len()).then(|| seed.copy_from_slice(&octets))?;
        Some(Self::new(number, seed))
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
        let mut lines = [Zeroizing::default(), Zeroizing::default()];
        for secret in self.secrets.iter().take(2) {
            lines[usize::from(!secret.number.is_multiple_of(2))] = secret.line();
        }
        let mut content = Zeroizing::new(Vec::with_capacity(TITLE.len() + 2 * SECRET_LINE));
        content.extend_from_slice(TITLE.as_bytes());
        lines
            .iter()
            .for_each(|line| content.extend_from_slice(line.as_bytes()));
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

/// An epoch key of a log that was kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptKey {
    origin: String,
    key: EpochPublic,
}

impl KeptKey {
    fn parse(text: &str) -> Option<Self> {
        let (origin, key) = EpochPublic::from_verifier(text)?;
        let origin = origin.to_owned();
        Some(Self { origin, key })
    }

    /// Reads `NAME+ID+KEY`, or a file with log lines that contain `audit epoch key=NAME+ID+KEY`, such as a journal keeps.
    ///
    /// # Errors
    /// The file cannot be read or holds no key.
    pub(crate) fn read(argument: &str) -> Result<Vec<Self>, OpenError> {
        if let Some(key) = Self::parse(argument) {
            return Ok(vec![key]);
        }
        let octets = crate::files::octets(Path::new(argument)).map_err(|error| {
            OpenError::Wrong(format!(
                "{argument}: {error}; a first key is NAME/epoch+ID+KEY or a file"
            ))
        })?;
        let text = String::from_utf8_lossy(&octets);
        let in_line = |line: &str| {
            let (_, rest) = line.split_once("audit epoch key=")?;
            Self::parse(rest.split_ascii_whitespace().next()?)
        };
        let keys: Vec<_> = text.lines().filter_map(in_line).collect();
        match keys.is_empty() {
            true => Err(OpenError::Wrong(format!(
                "{argument}: no line with \"audit epoch key=\" is in it"
            ))),
            false => Ok(keys),
        }
    }
}

/// Which key must have signed the next checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ExpectedEpoch {
    /// None: no chain of keys has begun, or it has ended.
    #[default]
    Nothing,
    Key(EpochPublic),
    /// One that is not known, because records that name it are not here.
    Unknown,
}

/// What is wrong with the chain of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EpochFault {
    /// A signature is missing.
    Unsigned(String),
    /// The signature is none of the key that the chain names, or the chain does not hang on the keys that were kept.
    Rewritten(String),
}

/// Follows the chain of keys through a log, with public keys alone.
///
/// A key that was kept elsewhere vouches for all records before the checkpoint that it signs, because that has the root over them, and
/// by the chain for all checkpoints behind it. So the chain must be whole from the first such key on, and a log that lacks one of them
/// is not the one of which they were kept.
#[derive(Clone, Debug, Default)]
pub(super) struct EpochChain {
    /// Keys that were kept elsewhere, and whether the log has named them. Without any, the log's own word is taken.
    kept: Vec<(KeptKey, bool)>,
    /// Whether the log is read from its first record on.
    whole: bool,
    expected: ExpectedEpoch,
    /// The log has named a key that was kept elsewhere, so what follows must hang on it.
    is_bound: bool,
    /// Set by `key-lost`, until the new key is named.
    lost: bool,
    found: EpochsFound,
}

/// What was found of the chain of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochsFound {
    /// Number of checkpoints with a good signature of their epoch's key.
    pub(crate) signed: u64,
    /// The keys with which a chain begins, each with the number of the record that names it.
    pub(crate) begun: Vec<(u64, String)>,
    /// Numbers of the records that say that a secret was lost.
    pub(crate) lost: Vec<u64>,
    /// How many of those checkpoints are signed with a key that was kept elsewhere, or with one that follows it.
    pub(crate) vouched: u64,
}

impl EpochChain {
    /// `whole`: the log is read from its first record on.
    pub(super) fn new(kept: &[KeptKey], whole: bool) -> Self {
        Self {
            kept: kept.iter().cloned().map(|key| (key, false)).collect(),
            whole,
            expected: match whole {
                true => ExpectedEpoch::Nothing,
                false => ExpectedEpoch::Unknown,
            },
            ..Self::default()
        }
    }

    pub(super) fn found(&self) -> &EpochsFound {
        &self.found
    }

    /// The log names this key. Returns whether it was kept elsewhere.
    fn meet(&mut self, key: EpochPublic) -> bool {
        let same = self.kept.iter_mut().filter(|(kept, _)| kept.key == key);
        let is_kept = same.map(|(_, met)| *met = true).count() > 0;
        self.is_bound |= is_kept;
        is_kept
    }

    /// A record says that the secret key was lost.
    pub(super) fn lost(&mut self, record: u64) {
        self.lost = true;
        self.found.lost.push(record);
    }

    /// Records that were there are not: the key that signs what follows cannot be known, and no key that was kept vouches for what is
    /// here, until the log names one again.
    pub(super) fn gap(&mut self) {
        self.is_bound = false;
        if self.expected != ExpectedEpoch::Nothing {
            self.expected = ExpectedEpoch::Unknown;
        }
    }

    /// Record number `record` says which key is the next to sign, as text; `None`: no such key signs.
    pub(super) fn named(&mut self, record: u64, key: Option<&str>) -> Result<(), EpochFault> {
        let was_lost = std::mem::take(&mut self.lost);
        let was_bound = self.is_bound;
        let Some(text) = key else {
            let has_ended = self.expected != ExpectedEpoch::Nothing;
            self.expected = ExpectedEpoch::Nothing;
            return match has_ended && was_bound {
                true => Err(EpochFault::Unsigned(
                    "from here on nothing is signed, so no key that was kept vouches for what follows".into(),
                )),
                false => Ok(()),
            };
        };
        let Some((_, key)) = EpochPublic::from_verifier(text) else {
            return Err(EpochFault::Rewritten(
                "the epoch key that it names is none".into(),
            ));
        };
        let is_kept = self.meet(key);
        match std::mem::replace(&mut self.expected, ExpectedEpoch::Key(key)) {
            ExpectedEpoch::Key(expected) if expected == key => return Ok(()),
            ExpectedEpoch::Key(_) if !was_lost => {
                return Err(EpochFault::Rewritten(
                    "the epoch key that it names is not the one that the last checkpoint names"
                        .into(),
                ));
            }
            ExpectedEpoch::Unknown if !was_lost && !is_kept => return Ok(()),
            _ => {}
        }
        self.found.begun.push((record, text.to_owned()));
        match was_bound && !is_kept {
            true => Err(EpochFault::Rewritten(format!(
                "from here on the log is signed with keys that begin with {text}, which is none of the keys that were kept: somebody \
                 who had not the old keys wrote it anew, or they were lost and the new first key was not given"
            ))),
            false => Ok(()),
        }
    }

    /// A checkpoint, which must have the signature of the key that was named.
    pub(super) fn checkpoint(&mut self, note: &SignedNote<'_>) -> Result<(), EpochFault> {
        let was_bound = self.is_bound;
        match (self.expected, EpochSignature::of(note)) {
            (ExpectedEpoch::Nothing, _) | (ExpectedEpoch::Unknown, None) => Ok(()),
            (ExpectedEpoch::Unknown, Some(signature)) => {
                self.expected = ExpectedEpoch::Key(signature.next);
                self.meet(signature.next);
                Ok(())
            }
            (ExpectedEpoch::Key(_), None) => Err(EpochFault::Unsigned(
                "this checkpoint has no signature of its epoch's key".into(),
            )),
            (
                ExpectedEpoch::Key(key),
                Some(EpochSignature {
                    id,
                    next,
                    signature,
                }),
            ) => {
                let is_good = id == key.id(&key_name(note.origin))
                    && key.has_signed(note.signed_text(), next, &signature);
                if !is_good {
                    return Err(EpochFault::Rewritten(
                        "this checkpoint's signature is not of the key that the checkpoint before it names: somebody who had another \
                         key only wrote it anew"
                            .into(),
                    ));
                }
                self.expected = ExpectedEpoch::Key(next);
                self.meet(next);
                self.found.signed += 1;
                self.found.vouched += u64::from(was_bound);
                Ok(())
            }
        }
    }

    /// The end of the log, which had these names.
    pub(super) fn end(&self, origins: &[Option<&str>]) -> Result<(), EpochFault> {
        let is_met = self.kept.iter().any(|(_, met)| *met);
        let is_ours = |key: &KeptKey| origins.contains(&Some(&key.origin));
        let missing = |(key, met): &&(KeptKey, bool)| is_ours(key) && !met;
        let text = match self.kept.iter().find(missing) {
            _ if self.kept.is_empty() => return Ok(()),
            _ if !is_met => "no record here names a first key that was kept: the log was written anew, or its first files are not here".into(),
            Some((missing, _)) if self.whole => format!(
                "no record here names {}, which was kept: the log was written anew",
                missing.key.verifier(&missing.origin)
            ),
            _ if self.found.vouched == 0 => {
                "no checkpoint here is signed with a key that was kept, or with one that follows it".into()
            }
            _ => return Ok(()),
        };
        Err(EpochFault::Rewritten(text))
    }

    /// Whether a signature line of this name is accounted for.
    pub(super) fn is_name(&self, origin: &str, name: &str) -> bool {
        self.expected != ExpectedEpoch::Nothing && name == key_name(origin)
    }
}

#[cfg(test)]
mod tests;
