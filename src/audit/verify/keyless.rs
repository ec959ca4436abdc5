//! A log that was written without a key at first, and got one later.
//!
//! The first signed checkpoint is over all records before it. So whoever has not the key cannot have changed them since then. What
//! happened to them before, its signature does not show: somebody may have put them in place of others, and the program signed what it
//! found. So they count as unsigned, unless something that was kept elsewhere covers them.

use super::{
    damage::{Damage, Finding},
    lines::LinePosition,
    verifier::Verifier,
};
use crate::audit::chain::Header;
use std::path::PathBuf;

/// The beginning of a log that was written before the log had a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeylessBeginning {
    /// Number of records before the one that names the first key.
    pub(crate) records: u64,
    /// The time of that one.
    pub(crate) until: String,
    /// The number of records before the first signed checkpoint, which covers these; `None` as long as there is none.
    pub(crate) covered_by: Option<u64>,
}

/// What is known of a log's beginning while it is read.
#[derive(Debug, Default)]
pub(super) enum KeylessState {
    /// No record has said yet whether the log is signed.
    #[default]
    Unknown,
    /// No record has named a key so far. The first checkpoint without a signature, and the number of records before it, where a key was
    /// given.
    Keyless(Option<(LinePosition, u64)>),
    /// The log has named a key.
    Keyed(Option<(LinePosition, u64)>),
}

impl Verifier<'_> {
    /// A `log-opened` names a key or none.
    pub(super) fn note_key(&mut self, has_key: bool, header: &Header<'_>) {
        self.keyless = match self.keyless {
            // What was before the first record that is here, nobody knows.
            KeylessState::Unknown if has_key || self.expected.from > 0 => KeylessState::Keyed(None),
            KeylessState::Unknown => KeylessState::Keyless(None),
            KeylessState::Keyless(unsigned) if has_key => {
                self.result.keyless = Some(KeylessBeginning {
                    records: header.seq,
                    until: String::from_utf8_lossy(header.at).into_owned(),
                    covered_by: None,
                });
                KeylessState::Keyed(unsigned)
            }
            KeylessState::Keyless(unsigned) => KeylessState::Keyless(unsigned),
            KeylessState::Keyed(unsigned) => KeylessState::Keyed(unsigned),
        };
    }

    /// A checkpoint of so many records has no signature. Whether that is because the log has had no key up to here.
    pub(super) fn is_unsigned_for_a_reason(&mut self, size: u64, at: LinePosition) -> bool {
        match &mut self.keyless {
            KeylessState::Keyless(unsigned) => {
                unsigned.get_or_insert((at, size));
                true
            }
            KeylessState::Unknown | KeylessState::Keyed(_) => false,
        }
    }

    /// The first checkpoint that is not signed although a key was given, and the number of records before it.
    fn unsigned_place(&self) -> Option<(LinePosition, u64)> {
        match self.keyless {
            KeylessState::Keyless(unsigned) | KeylessState::Keyed(unsigned) => unsigned,
            KeylessState::Unknown => None,
        }
    }

    /// Nothing is signed, although a key was given, and checkpoints are here.
    pub(super) fn is_never_signed(&self) -> bool {
        self.result.signed == 0 && self.unsigned_place().is_some()
    }

    /// Number of records before the first checkpoint that is not signed.
    pub(super) fn unsigned_from(&self) -> u64 {
        self.unsigned_place().map_or(0, |(_, size)| size)
    }

    /// What is to be said of a log's beginning that is not signed, if nothing that was kept elsewhere covers it. An anchor does that
    /// agrees and has the key's first record behind it. An epoch key does that was kept: it signs over all records before.
    pub(super) fn keyless_finding(&self, files: &[PathBuf]) -> Option<Finding> {
        let (position, _) = self.unsigned_place()?;
        let text = match &self.result.keyless {
            Some(keyless) if self.result.signed > 0 => {
                if self.agreed >= keyless.records || self.epochs.found().vouched > 0 {
                    return None;
                }
                let covered = keyless.covered_by.unwrap_or_default();
                format!(
                    "this checkpoint is not signed: the log got its key at record {}, at {}. If the key was added then, this is as it \
                     should be: the checkpoint of record {covered}, the first one that is signed, covers all before it, so that nobody \
                     without the key has changed that since. Give it as it was kept elsewhere, or a later one, with --anchor; or give \
                     the first epoch key with --first-key",
                    keyless.records, keyless.until
                )
            }
            _ => "this checkpoint is not signed, and none behind it is".into(),
        };
        Some(Finding::at(files, position, Damage::Unsigned, text))
    }
}
