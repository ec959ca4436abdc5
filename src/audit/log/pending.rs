//! The lines between the queue and the disk.

use super::queue::empty;
use crate::audit::{Hash, Head, known::KnownEnd, tree::RecordTree};

/// Hashes for which memory is kept, as for records that are queued.
const HASHES_KEPT: usize = 4096;
/// How records begin that are about checkpoints: they, and what others said of them.
const ABOUT_CHECKPOINTS: [&[u8]; 4] = [
    br#"{"event":"checkpoint""#,
    br#"{"event":"stamp""#,
    br#"{"event":"cosigned""#,
    br#"{"event":"not-anchored""#,
];

/// The end of the chain: what is durable of it, and the lines behind that.
pub(super) struct PendingLines {
    head: Head,
    /// Over all records up to `head`.
    tree: RecordTree,
    durable: KnownEnd,
    /// The lines that are not known to be durable, and the hash of each.
    lines: Vec<u8>,
    hashes: Vec<Hash>,
    /// Number of records that were appended and are not about checkpoints.
    events: u64,
}

impl PendingLines {
    /// None, behind this end of a log.
    pub(super) fn behind(durable: KnownEnd) -> Self {
        Self {
            head: durable.head,
            tree: durable.tree.clone(),
            durable,
            lines: Vec::new(),
            hashes: Vec::new(),
            events: 0,
        }
    }

    /// How many records were appended that are not about checkpoints.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The end of the chain, durable or not.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// The root of the tree over all records up to there.
    pub(super) fn root(&self) -> Hash {
        self.tree.root()
    }

    /// The end of the durable records.
    pub(super) fn durable(&self) -> &KnownEnd {
        &self.durable
    }

    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    pub(super) fn octets(&self) -> usize {
        self.lines.len()
    }

    /// Appends a record, as [`Head::append`].
    pub(super) fn append(&mut self, at: &[u8], body: &[u8]) {
        let mut about_checkpoints = ABOUT_CHECKPOINTS.iter();
        self.events += u64::from(!about_checkpoints.any(|begin| body.starts_with(begin)));
        self.head.append(&mut self.lines, at, body);
        self.tree.push(self.head.hash);
        self.hashes.push(self.head.hash);
    }

    /// The first `octets`, which are so many records, are durable.
    pub(super) fn settle(&mut self, octets: usize, records: usize) {
        if octets == self.lines.len() {
            empty(&mut self.lines);
            self.hashes.clear();
            self.hashes.shrink_to(HASHES_KEPT);
            self.durable.tree.clone_from(&self.tree);
            self.durable.head = self.head;
            return;
        }
        self.lines.drain(..octets);
        for hash in self.hashes.drain(..records) {
            self.durable.tree.push(hash);
            self.durable.head.hash = hash;
        }
        self.durable.head.size = self.durable.tree.size();
    }
}
