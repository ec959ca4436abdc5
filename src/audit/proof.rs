//! One record proved without the others: C2SP tlog-proof.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra H4sIAAAAAAAA/1SQ...                          base64 of gzip of the record as it stands in the log; behind an LF what belongs to the checkpoint
//! index 73894                                           the record's number
//! gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=          the inclusion path, from the leaf's sibling up
//!
//! mail.clinic.example/outbound                          a checkpoint behind the record, with its signature lines but the epoch's
//! 109482
//! sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=
//!
//! — mail.clinic.example/outbound hI2DJw...
//! ```
//!
//! The entry of the log, which the leaf hashes, is the SHA-256 of the record. The `extra` line is not authenticated by itself: whoever
//! verifies hashes the record in it and goes on from there.

use super::{
    Hash, HybridPublic, OpenError, PublicKey,
    chain::Header,
    checkpoint::{SignedNote, unbase64},
    epoch::without_signature,
    hybrid,
    tree::{KnownLeaves, includes},
    verify::{Expectations, LogLines, LogListing, OutsideAnchor, judged, tree_start},
};
use data_encoding::BASE64;
use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read, Write},
    path::PathBuf,
};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// Most hashes in a path: a log has fewer than 2^63 records.
const LONGEST_PATH: usize = 63;
/// Most octets of what the `extra` line has: no record is longer than a line of the log may be, and a proof has few of them.
const LONGEST_EXTRA: u64 = 64 * 1024 * 1024;
/// Most octets of a proof: base64 makes a third more of these where gzip makes no less of them, and the rest is short.
pub(crate) const LONGEST_PROOF: u64 = 2 * LONGEST_EXTRA;
/// How the gzip stream begins (RFC 1952 §2.3.1): no time, no name, packed as small as possible, by a system that is not told.
const GZIP: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];
/// Checkpoints behind a record that others may still say something of. They usually do so for the first or second.
const NOTES_KEPT: usize = 2000;

/// A record, its place in the log's tree, and a checkpoint that signs the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordProof {
    /// The line of the log, without its LF.
    pub(crate) record: String,
    /// What other parties said of the checkpoint: further lines of the log.
    pub(crate) beside: Vec<String>,
    /// Number of the record.
    pub(crate) index: u64,
    path: Vec<Hash>,
    note: String,
}

/// What a proof was found to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProvedRecord {
    /// The log's name.
    pub(crate) origin: String,
    /// Number of records that the checkpoint signs.
    pub(crate) size: u64,
    /// The given key that signed it; `None` where only the ML-DSA key did.
    pub(crate) signer: Option<PublicKey>,
    /// Whether a given ML-DSA key signed it, too; `None` where no such key was given.
    pub(crate) hybrid: Option<bool>,
    /// Names of keys whose signatures were not checked.
    pub(crate) others: Vec<String>,
}

impl fmt::Display for RecordProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut extra = self.record.clone();
        for line in &self.beside {
            extra.push('\n');
            extra.push_str(line);
        }
        writeln!(f, "{FIRST_LINE}")?;
        // A time-stamp's token is base64 in its record, and would be half as long again here.
        let packed = packed(extra.as_bytes()).map_err(|_| fmt::Error)?;
        writeln!(f, "extra {}", BASE64.encode(&packed))?;
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", BASE64.encode(&hash.0))?;
        }
        write!(f, "\n{}", self.note)
    }
}

impl RecordProof {
    /// Reads a proof, in the form that its `Display` writes. `None` where it is none, or has no record.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (head, note) = text.split_once("\n\n")?;
        let mut lines = head.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let extra = unpacked(unbase64(lines.next()?.strip_prefix("extra ")?)?)?;
        let extra = String::from_utf8(extra).ok()?;
        let number = lines.next()?.strip_prefix("index ")?;
        let index: u64 = number.parse().ok()?;
        let path = lines.map(|line| unbase64(line)?.try_into().ok().map(Hash));
        let path: Vec<Hash> = path.collect::<Option<_>>()?;
        let mut said = extra.split('\n').map(str::to_owned);
        let proof = Self {
            record: said.next()?,
            beside: said.collect(),
            index,
            path,
            note: note.to_owned(),
        };
        let is_canonical = index.to_string() == number && proof.path.len() <= LONGEST_PATH;
        is_canonical.then_some(proof)
    }

    /// The line of the log that it is about, without its LF.
    #[must_use]
    pub fn record(&self) -> &str {
        &self.record
    }

    /// Takes what somebody else said of the checkpoint of `size` records with that note. If nothing was said of the proof's own
    /// checkpoint, that one takes its place.
    fn add(&mut self, said: &str, size: u64, note: &str, known: &KnownLeaves) {
        if self.beside.is_empty() && self.index < size {
            let Some(path) = known.inclusion(self.index, size) else {
                return;
            };
            self.path = path;
            note.clone_into(&mut self.note);
        }
        if self.note == note {
            self.beside.push(said.to_owned());
        }
    }

    /// What others said of the checkpoint, each as the record that the log has of it, judged as [`verify`](super::verify) does.
    pub(crate) fn said_by_others(
        &self,
        expected: &Expectations,
    ) -> Vec<Result<OutsideAnchor, String>> {
        let Some(note) = SignedNote::read(&self.note) else {
            return Vec::new();
        };
        let lines = self.beside.iter();
        lines
            .map(|line| judged(line.as_bytes(), note.text, note.size, expected))
            .collect()
    }

    /// Verifies the proof against the keys, of which one must have signed the checkpoint. `hybrid_keys` are for ML-DSA.
    ///
    /// # Errors
    /// Says what does not hold.
    pub(crate) fn check(
        &self,
        keys: &[PublicKey],
        hybrid_keys: &[HybridPublic],
    ) -> Result<ProvedRecord, String> {
        let note = SignedNote::read(&self.note).ok_or("the checkpoint in it cannot be read")?;
        let header = Header::read(self.record.as_bytes()).ok_or("what it proves is no record")?;
        if header.seq != self.index {
            return Err(format!(
                "the record has number {}, its place in the tree is {}",
                header.seq, self.index
            ));
        }
        let record = Hash::of(self.record.as_bytes());
        if !includes(note.root, note.size, self.index, record, &self.path) {
            return Err("the record is not in the tree that the checkpoint signs".into());
        }
        let signer = keys.iter().find(|key| note.signed_by(key)).copied();
        let by_hybrid = |key: &HybridPublic| key.has_signed(&note) == Some(true);
        let hybrid = hybrid_keys.iter().any(by_hybrid);
        if signer.is_none() && !hybrid {
            return Err("none of the keys given has signed the checkpoint".into());
        }
        let mut others: Vec<&str> = match &signer {
            Some(key) => note.others(key).collect(),
            None => note.signatures().map(|(name, _)| name).collect(),
        };
        others.retain(|name| hybrid_keys.is_empty() || *name != hybrid::key_name(note.origin));
        Ok(ProvedRecord {
            origin: note.origin.to_owned(),
            size: note.size,
            signer,
            hybrid: (!hybrid_keys.is_empty()).then_some(hybrid),
            others: others.into_iter().map(str::to_owned).collect(),
        })
    }
}

fn packed(extra: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(extra)?;
    encoder.finish()
}

/// What [`packed`] was given, or what an earlier build wrote as it was, which begins with a brace. `None` where it is no gzip stream to its
/// end, or too long.
fn unpacked(extra: Vec<u8>) -> Option<Vec<u8>> {
    if extra.starts_with(b"{") {
        return Some(extra);
    }
    if !extra.starts_with(&GZIP) {
        return None;
    }
    let mut decoder = GzDecoder::new(&extra[..]);
    let mut octets = Vec::new();
    let read = (&mut decoder)
        .take(LONGEST_EXTRA + 1)
        .read_to_end(&mut octets)
        .ok()? as u64;
    (read <= LONGEST_EXTRA && decoder.into_inner().is_empty()).then_some(octets)
}

/// Proves each record that `wanted` takes, with the first signed checkpoint behind it of which others said something, else with the first
/// signed one. The files may come in any order. The last number
/// is that of records that no checkpoint signs yet.
///
/// # Errors
/// A file cannot be read, or the files do not make a tree.
pub(crate) fn prove(
    files: &[PathBuf],
    wanted: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(Vec<RecordProof>, usize), OpenError> {
    let files = LogListing::new(files)?.into_order().files;
    let mut lines = LogLines::new(&files);
    let (mut known, mut next) = (KnownLeaves::default(), 0);
    let (mut proofs, mut waiting) = (Vec::<RecordProof>::new(), Vec::new());
    let mut notes = BTreeMap::new();
    while let Some(line) = lines.next()? {
        if let Some(fault) = line.fault {
            let (file, at) = (files[line.position.file].path(), line.position.line);
            let place = file.display();
            return Err(OpenError::Wrong(format!(
                "{place}:{at}: {fault}; prove what stands before it with the files before this one alone"
            )));
        }
        let Some(header) = Header::read(line.bytes) else {
            continue; // the remains of a crash; a line that was changed fails below
        };
        if header.seq != next {
            let before = tree_start(LogLines::new(&files), header.seq)?;
            let before = before.ok_or_else(|| {
                OpenError::Wrong(format!(
                    "the records before number {} are not here: look at the log with audit verify",
                    header.seq
                ))
            })?;
            known = KnownLeaves::behind(before.tree);
            notes.clear();
        }
        if header.event == b"checkpoint"
            && let Some(note) = note_of(line.bytes)
            && SignedNote::read(&note).is_some_and(|note| note.is_signed())
        {
            let note = without_signature(&note);
            for (index, record) in waiting.drain(..) {
                let path = known.inclusion(index, header.seq);
                proofs.extend(path.map(|path| RecordProof {
                    record,
                    beside: Vec::new(),
                    index,
                    path,
                    note: note.clone(),
                }));
            }
            if proofs.iter().any(|proof| proof.beside.is_empty()) {
                notes.insert(header.seq, note);
                if notes.len() > NOTES_KEPT {
                    notes.pop_first();
                }
            }
        }
        if [&b"stamp"[..], b"cosigned"].contains(&header.event)
            && let Some((size, note)) = said_of(line.bytes, &notes)
        {
            let said = String::from_utf8_lossy(line.bytes);
            for proof in &mut proofs {
                proof.add(&said, size, note, &known);
            }
        }
        if wanted(header.event, line.bytes) {
            let record = String::from_utf8_lossy(line.bytes).into_owned();
            waiting.push((header.seq, record));
        }
        known.push(Hash::of(line.bytes));
        next = header.seq + 1;
    }
    Ok((proofs, waiting.len()))
}

/// The size that a `stamp` or `cosigned` record names, and the note of that checkpoint.
fn said_of<'a>(line: &[u8], notes: &'a BTreeMap<u64, String>) -> Option<(u64, &'a str)> {
    let record: serde_json::Value = serde_json::from_slice(line).ok()?;
    let size = record["size"].as_u64()?;
    Some((size, notes.get(&size)?))
}

fn note_of(line: &[u8]) -> Option<String> {
    let record: serde_json::Value = serde_json::from_slice(line).ok()?;
    record["note"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{chain::Head, hybrid::HybridKey, tree::RecordTree};

    #[test]
    fn the_ml_dsa_key_alone_proves_it_and_one_that_did_not_sign_does_not() {
        let (origin, mut record) = ("mx.clinic.example/inbound", Vec::new());
        let at = b"2026-11-29T00:00:00.000000Z";
        Head::default().append(&mut record, at, b"{\"event\":\"stop\"}");
        record.pop();
        let mut tree = RecordTree::default();
        tree.push(Hash::of(&record));
        let key = HybridKey::of(&[7; 32]).unwrap();
        let line = key.signature_line(origin, 1, tree.root()).unwrap();
        let proof = RecordProof {
            record: String::from_utf8(record).unwrap(),
            beside: Vec::new(),
            index: 0,
            path: Vec::new(),
            note: format!("{}\n{line}", SignedNote::text(origin, 1, tree.root())),
        };
        let proof = RecordProof::read(&proof.to_string()).unwrap();
        let proved = proof.check(&[], &[key.public()]).unwrap();
        assert_eq!((proved.signer, proved.hybrid), (None, Some(true)));
        assert!(proved.others.is_empty());
        let other = HybridKey::of(&[8; 32]).unwrap().public();
        assert!(proof.check(&[], &[other]).is_err());
        assert!(proof.check(&[], &[]).is_err());
    }

    #[test]
    fn what_unpacks_to_more_than_any_proof_has_is_no_proof() {
        let octets = vec![b' '; LONGEST_EXTRA as usize + 1];
        assert_eq!(unpacked(packed(&octets).unwrap()), None);
        let whole = packed(&octets[1..]).unwrap();
        assert!(unpacked(whole.clone()).is_some());
        assert_eq!(unpacked(whole[..whole.len() - 1].to_vec()), None);
        assert_eq!(unpacked([&whole[..], b"x"].concat()), None);
    }
}
