//! The checkpoints that were read, for what others say of them further on.

use super::damage::{Misfit, edited, rewritten};
use crate::audit::Hash;
use std::{collections::BTreeMap, ops::Range};

/// What is remembered of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownCheckpoint {
    /// Of the text that others sign or stamp.
    pub(super) digest: Hash,
    /// Of the tree.
    pub(super) root: Hash,
    /// How often the log had been renamed.
    pub(super) renamed: usize,
}

/// The checkpoints that are here, by size, and which records are not here.
#[derive(Default)]
pub(super) struct KnownCheckpoints {
    all: BTreeMap<u64, KnownCheckpoint>,
    /// In rising order.
    not_here: Vec<Range<u64>>,
}

impl KnownCheckpoints {
    pub(super) fn insert(&mut self, size: u64, checkpoint: KnownCheckpoint) {
        self.all.insert(size, checkpoint);
    }

    /// Records with these numbers are known to be missing, or were left out.
    pub(super) fn not_here(&mut self, records: Range<u64>) {
        self.not_here.push(records);
    }

    /// All that was read is of another log.
    pub(super) fn forget(&mut self) {
        self.all.clear();
        self.not_here.clear();
    }

    /// The checkpoint of that size, of which record number `teller` tells. `None`: it is not here, for a reason that is known.
    pub(super) fn named(&self, size: u64, teller: u64) -> Result<Option<&KnownCheckpoint>, Misfit> {
        let known = self.all.get(&size);
        let later = self
            .not_here
            .partition_point(|records| records.start <= size);
        let last = later.checked_sub(1).and_then(|at| self.not_here.get(at));
        let is_not_here = last.is_some_and(|records| records.contains(&size));
        match known {
            _ if size >= teller => Err(edited(format!(
                "it is about a checkpoint of {size} records, and only {teller} stand before it"
            ))),
            Some(_) => Ok(known),
            None if is_not_here => Ok(None),
            None => Err(rewritten(format!(
                "it is about record {size} as a checkpoint, which that is not: the checkpoint was taken out"
            ))),
        }
    }
}
