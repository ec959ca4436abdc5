//! The Merkle tree over the records: RFC 6962 §2.1, which RFC 9162 §2.1 repeats.
//!
//! The datum of a leaf is the record's hash, which are 32 octets. While a log is written, only its compact range is held: the roots of
//! the perfect subtrees that stand side by side, at most 64 hashes. A root is what a checkpoint signs.

use super::chain::{Hash, Head};
use data_encoding::BASE64;
use serde::Deserialize;
use std::ops::Range;

/// The leaf of a record, without an allocation.
fn record_leaf(record: Hash) -> Hash {
    let mut octets = [0; 33];
    octets[1..].copy_from_slice(&record.0);
    Hash::of(&octets)
}

fn node(left: Hash, right: Hash) -> Hash {
    let mut octets = [1; 65];
    octets[1..33].copy_from_slice(&left.0);
    octets[33..].copy_from_slice(&right.0);
    Hash::of(&octets)
}

/// Where a tree of `size` leaves, at least two, is split: the largest power of two below `size`.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// A tree, of which only the compact range is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RecordTree {
    size: u64,
    /// The roots of the perfect subtrees, the largest and oldest first: one for each bit of `size` that is set.
    roots: Vec<Hash>,
}

impl Clone for RecordTree {
    fn clone(&self) -> Self {
        Self {
            size: self.size,
            roots: self.roots.clone(),
        }
    }

    /// Takes no new memory, because the writer does this with each flush.
    fn clone_from(&mut self, other: &Self) {
        self.size = other.size;
        self.roots.clone_from(&other.roots);
    }
}

impl RecordTree {
    /// The number of records.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Appends a record.
    pub(super) fn push(&mut self, record: Hash) {
        self.push_leaf(record_leaf(record));
    }

    fn push_leaf(&mut self, mut carried: Hash) {
        for _ in 0..self.size.trailing_ones() {
            let left = self.roots.pop().unwrap_or_default();
            carried = node(left, carried);
        }
        self.roots.push(carried);
        self.size += 1;
    }

    /// The root over all records; of none, the hash of nothing.
    pub(super) fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev().copied();
        match roots.next() {
            Some(last) => roots.fold(last, |right, left| node(left, right)),
            None => Hash::of(b""),
        }
    }

    /// The hashes of the compact range.
    pub(super) fn roots(&self) -> &[Hash] {
        &self.roots
    }

    /// The compact range: its hashes, one after the other.
    pub(super) fn range(&self) -> Vec<u8> {
        self.roots.iter().flat_map(|root| root.0).collect()
    }

    /// A tree of `size` records with this compact range; `None` where it has not the right number of hashes.
    pub(super) fn from_range(size: u64, range: &[u8]) -> Option<Self> {
        let (hashes, rest) = range.as_chunks::<32>();
        let fits = rest.is_empty() && hashes.len() == size.count_ones() as usize;
        fits.then(|| Self {
            size,
            roots: hashes.iter().copied().map(Hash).collect(),
        })
    }

    /// The perfect subtree of `size` leaves that begins with leaf number `begin`, if the range has it.
    fn subtree(&self, begin: u64, size: u64) -> Option<Hash> {
        let is_there = size.is_power_of_two()
            && self.size & size != 0
            && begin == self.size & !(size | (size - 1));
        let place = (self.size & !(size | (size - 1))).count_ones() as usize;
        is_there.then(|| self.roots.get(place).copied()).flatten()
    }

    /// The tree over the records from number `begin` on, which is one of those with which a perfect subtree begins.
    fn behind(&self, begin: u64) -> Option<Self> {
        let size = self.size.checked_sub(begin)?;
        let is_there = size & self.size == size;
        let place = self.roots.len() - size.count_ones() as usize;
        is_there.then(|| Self {
            size,
            roots: self.roots[place..].to_vec(),
        })
    }

    /// Whether `self` can be what `later` was before more records came, as far as the compact ranges show it: all subtrees that both
    /// have are equal.
    pub(super) fn can_precede(&self, later: &Self) -> bool {
        let mut begin = 0;
        for (root, bit) in self.roots.iter().zip(bits(self.size)) {
            if later.subtree(begin, bit).is_some_and(|same| same != *root) {
                return false;
            }
            begin += bit;
        }
        self.size <= later.size
    }
}

/// The bits of `size` that are set, the largest first.
fn bits(size: u64) -> impl Iterator<Item = u64> {
    (0..64)
        .rev()
        .map(|bit| 1 << bit)
        .filter(move |bit| size & bit != 0)
}

/// What a record says about the tree before a certain record, so that the tree can be known without the records before that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TreeStart {
    /// Over the records before number `tree.size()`. The record that says so is that one, or stands a little behind it.
    pub(super) tree: RecordTree,
    /// For `log-cut`: the end of what was found instead of those records.
    pub(super) found: Option<Head>,
    /// For `log-cut`: the program had the log open.
    pub(super) running: bool,
}

#[derive(Deserialize)]
struct TreeStartFields {
    first: u64,
    range: String,
    found: Option<u64>,
    found_hash: Option<String>,
    #[serde(default)]
    running: bool,
}

impl TreeStart {
    /// Reads `log-continued` and `log-cut`. `None` for any other event, and for a record that is not as a log writes it.
    pub(super) fn read(event: &[u8], line: &[u8]) -> Option<Self> {
        if ![&b"log-continued"[..], b"log-cut"].contains(&event) {
            return None;
        }
        let fields: TreeStartFields = serde_json::from_slice(line).ok()?;
        let range = BASE64.decode(fields.range.as_bytes()).ok()?;
        let tree = RecordTree::from_range(fields.first, &range)?;
        let found = match event {
            b"log-cut" => Some(Head {
                size: fields.found?,
                hash: Hash::parse(fields.found_hash?.as_bytes())?,
            }),
            _ => None,
        };
        Some(Self {
            tree,
            found,
            running: fields.running,
        })
    }
}

/// The records behind a compact range, all of whose leaves are known. Proofs are made from it.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownLeaves {
    before: RecordTree,
    leaves: Vec<Hash>,
}

impl KnownLeaves {
    /// The tree whose records are known from `before` on.
    pub(super) fn behind(before: RecordTree) -> Self {
        Self {
            before,
            leaves: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, record: Hash) {
        self.leaves.push(record_leaf(record));
    }

    /// The root over the leaves `begin` up to `end`; `None` where that needs leaves that are not known.
    fn root(&self, begin: u64, end: u64) -> Option<Hash> {
        let first = self.before.size;
        if end <= first {
            return self.before.subtree(begin, end - begin);
        }
        if end - begin == 1 {
            let place = usize::try_from(begin - first).ok()?;
            return self.leaves.get(place).copied();
        }
        let middle = begin + split(end - begin);
        Some(node(self.root(begin, middle)?, self.root(middle, end)?))
    }

    /// The inclusion path of record number `index` in the tree of `size` records (RFC 9162 §2.1.3.1); `None` where leaves are missing.
    pub(super) fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        let mut path = Vec::new();
        let (mut begin, mut end) = (0, size);
        if index >= size {
            return None;
        }
        while end - begin > 1 {
            let middle = begin + split(end - begin);
            if index < middle {
                path.push(self.root(middle, end)?);
                end = middle;
            } else {
                path.push(self.root(begin, middle)?);
                begin = middle;
            }
        }
        path.reverse();
        Some(path)
    }

    /// The consistency path from the tree of `old` records to that of `size` (RFC 9162 §2.1.4.1); `None` where leaves are missing.
    #[cfg(test)]
    pub(super) fn consistency(&self, old: u64, size: u64) -> Option<Vec<Hash>> {
        let parts = consistency_parts(old, size)?.into_iter();
        parts.map(|part| self.root(part.start, part.end)).collect()
    }
}

/// The parts of the tree of `size` records whose roots are the consistency path from the first `old` records (RFC 9162 §2.1.4.1), in the
/// order of the path. `None` where there are not so many.
fn consistency_parts(old: u64, size: u64) -> Option<Vec<Range<u64>>> {
    let mut parts = Vec::new();
    let (mut begin, mut end) = (0, size);
    if old == 0 || old > size {
        return None;
    }
    while end != old {
        let middle = begin + split(end - begin);
        if old <= middle {
            parts.push(middle..end);
            end = middle;
        } else {
            parts.push(begin..middle);
            begin = middle;
        }
    }
    if begin > 0 {
        parts.push(begin..end);
    }
    parts.reverse();
    Some(parts)
}

/// Makes a consistency path while records come one after the other. Whatever their number, it holds two hashes for each level of the
/// tree.
#[derive(Debug)]
pub(super) struct ConsistencyPath {
    /// The parts that are not done yet, the next one last, each with its place in the path.
    open: Vec<(usize, Range<u64>)>,
    /// Over the records of the next part that were there.
    part: RecordTree,
    path: Vec<Option<Hash>>,
    /// The number of the next record.
    next: u64,
}

impl ConsistencyPath {
    /// For the path from `old` records to `size`, where records are known from `before` on. `None`: that is not enough.
    pub(super) fn new(old: u64, size: u64, before: &RecordTree) -> Option<Self> {
        let parts = consistency_parts(old, size)?;
        let mut path = vec![None; parts.len()];
        let mut open: Vec<_> = parts.into_iter().enumerate().collect();
        open.sort_by_key(|(_, part)| part.start);
        open.reverse();
        let mut part = RecordTree::default();
        while let Some((place, over)) = open.pop_if(|(_, part)| part.start < before.size) {
            if over.end <= before.size {
                path[place] = Some(before.subtree(over.start, over.end - over.start)?);
            } else {
                part = before.behind(over.start)?;
                open.push((place, over));
                break;
            }
        }
        Some(Self {
            open,
            part,
            path,
            next: before.size,
        })
    }

    /// Takes the next record.
    pub(super) fn push(&mut self, record: Hash) {
        let number = self.next;
        self.next += 1;
        if let Some((place, over)) = self.open.last()
            && over.contains(&number)
        {
            self.part.push(record);
            if number + 1 == over.end {
                self.path[*place] = Some(self.part.root());
                self.part = RecordTree::default();
                self.open.pop();
            }
        }
    }

    /// The path; `None` where records are missing.
    pub(super) fn done(self) -> Option<Vec<Hash>> {
        self.path.into_iter().collect()
    }
}

/// Whether `path` proves that record number `index` is in the tree of `size` records with that root (RFC 9162 §2.1.3.2).
pub(super) fn includes(root: Hash, size: u64, index: u64, record: Hash, path: &[Hash]) -> bool {
    index < size && root_by(size, index, record_leaf(record), path) == Some(root)
}

fn root_by(size: u64, index: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for step in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(*step, hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(hash, *step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(hash)
}

/// Whether `path` proves that the tree of `new.0` records with the root `new.1` is that of `old` with more records behind it
/// (RFC 9162 §2.1.4.2).
#[cfg_attr(not(test), expect(dead_code, reason = "a witness checks it so"))]
pub(super) fn continues(old: (u64, Hash), new: (u64, Hash), path: &[Hash]) -> bool {
    if old.0 == new.0 {
        return old.1 == new.1 && path.is_empty();
    }
    if old.0 == 0 || old.0 > new.0 {
        return false;
    }
    let (mut at, mut last) = (old.0 - 1, new.0 - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let mut path = path.iter().copied();
    let first = match old.0.is_power_of_two() {
        true => Some(old.1),
        false => path.next(),
    };
    let Some(first) = first else { return false };
    let (mut before, mut now) = (first, first);
    for step in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            (before, now) = (node(step, before), node(step, now));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            now = node(now, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && before == old.1 && now == new.1
}

#[cfg(test)]
pub(super) mod tests;
