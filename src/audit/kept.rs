//! The chain of keys that sign one checkpoint each, followed with public keys alone.

use super::{
    OpenError,
    checkpoint::{SignedNote, said_by_program},
    epoch::{EpochPublic, EpochSignature, is_signed_by, key_name},
};
use crate::files::each_logged_line;
use std::fs::File;

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
        let in_line = |line: &str| {
            let rest = said_by_program(line, "audit epoch key=")?;
            Self::parse(rest.split_ascii_whitespace().next()?)
        };
        let mut keys = Vec::new();
        File::open(argument)
            .and_then(|file| each_logged_line(file, |line| keys.extend(in_line(line))))
            .map_err(|error| {
                OpenError::Wrong(format!(
                    "{argument}: {error}; a first key is NAME/epoch+ID+KEY or a file"
                ))
            })?;
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
            (ExpectedEpoch::Key(key), Some(signature)) => {
                if !is_signed_by(note, &signature, key) {
                    return Err(EpochFault::Rewritten(
                        "this checkpoint's signature is not of the key that the checkpoint before it names: somebody who had another \
                         key only wrote it anew"
                            .into(),
                    ));
                }
                self.expected = ExpectedEpoch::Key(signature.next);
                self.meet(signature.next);
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
