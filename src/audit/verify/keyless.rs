//! A log that was written without a key at first, and got one later.
//!
//! The first signed checkpoint is over all records before it. So whoever has not the key cannot have changed them since then. What
//! happened to them before, its signature does not show: somebody may have put them in place of others, and the program signed what it
//! found. So they count as unsigned, unless something that was kept elsewhere covers them.

use super::{
    damage::{Damage, Finding},
    lines::LinePosition,
    listed::ListedFile,
};
use crate::audit::chain::Header;

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
pub(super) struct KeylessState {
    /// Whether a record has named a key; `None` as long as none has said whether there is one.
    has_key: Option<bool>,
    /// The first checkpoint that is not signed although a key was given, and the number of records before it.
    unsigned: Option<(LinePosition, u64)>,
    /// What stands before the key.
    pub(super) beginning: Option<KeylessBeginning>,
}

impl KeylessState {
    /// A `log-opened` names a key or none. `whole`: the log is read from its first record on.
    pub(super) fn named(&mut self, has_key: bool, whole: bool, header: &Header<'_>) {
        if self.has_key == Some(false) && has_key {
            self.beginning = Some(KeylessBeginning {
                records: header.seq,
                until: String::from_utf8_lossy(header.at).into_owned(),
                covered_by: None,
            });
        }
        // Whether the log had a key in records that are not here, nobody knows.
        let had_key = self.has_key.unwrap_or(!whole);
        self.has_key = Some(had_key || has_key);
    }

    /// A checkpoint of so many records has no signature. Whether that is because the log has had no key up to here.
    pub(super) fn explains_unsigned(&mut self, size: u64, at: LinePosition) -> bool {
        let is_before_key = self.has_key == Some(false);
        if is_before_key {
            self.unsigned.get_or_insert((at, size));
        }
        is_before_key
    }

    /// A checkpoint of so many records is signed.
    pub(super) fn signed(&mut self, size: u64) {
        if let Some(beginning) = &mut self.beginning {
            beginning.covered_by.get_or_insert(size);
        }
    }

    /// Number of records before the first checkpoint, if that is not signed and none behind it is, although a key was given.
    pub(super) fn never_signed(&self) -> Option<u64> {
        let is_covered = self
            .beginning
            .as_ref()
            .is_some_and(|beginning| beginning.covered_by.is_some());
        let (_, size) = self.unsigned.filter(|_| !is_covered)?;
        Some(size)
    }

    /// What is to be said of a log's beginning that is not signed, if nothing that was kept elsewhere covers it. An anchor of `anchored`
    /// records does that agrees, if it has the key's first record behind it. An epoch key does that was kept, because it signs over all
    /// records before.
    pub(super) fn finding(
        &self,
        files: &[ListedFile],
        anchored: u64,
        has_kept_epoch: bool,
    ) -> Option<Finding> {
        let (position, _) = self.unsigned?;
        let beginning = self.beginning.as_ref();
        let signed = beginning.and_then(|beginning| Some((beginning, beginning.covered_by?)));
        let text = match signed {
            Some((beginning, _)) if anchored >= beginning.records || has_kept_epoch => return None,
            Some((beginning, covered_by)) => format!(
                "this checkpoint is not signed: the log got its key at record {}, at {}. If the key was added then, this is as it should \
                 be: the checkpoint of record {covered_by}, the first one that is signed, covers all before it, so that nobody without \
                 the key has changed that since. Give it as it was kept elsewhere, or a later one, with --anchor; or give the first \
                 epoch key with --first-key",
                beginning.records, beginning.until
            ),
            None => "this checkpoint is not signed".into(),
        };
        Some(Finding::at(files, position, Damage::Unsigned, text))
    }
}
