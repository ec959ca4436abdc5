//! Finds out whether a log is still what was written.
//!
//! One pass over the files, bounded by the disk and SHA-256: of most lines only the header is read, from its fixed place. JSON is parsed
//! only in checkpoints and in the records about the log itself.
//!
//! Two things the chain alone cannot show: that its end was cut off, and that an older copy of the whole log was put in its
//! place. An [`LogAnchor`] shows both. It is a head that was kept where nobody who can write the log can write.

mod anchor;
mod damage;
mod lines;
mod logs;

pub(crate) use anchor::LogAnchor;
pub(crate) use damage::{Damage, Finding};
pub(crate) use lines::{LogLine, LogLines, in_order};
pub(crate) use logs::{MergedLines, logs};

use super::{
    CheckpointRecord, Hash, PublicKey, Record,
    chain::{Head, Header},
    checkpoint::SignedNote,
    epoch::{EpochChain, EpochFault, EpochsFound, KeptKey},
    log::CHECKPOINT_RECORDS,
    tree::{RecordTree, TreeStart},
};
use lines::LinePosition;
use serde::Deserialize;
use std::{collections::BTreeSet, io, path::PathBuf};

/// Octets between two reports of progress.
const PROGRESS_STEP: u64 = 1 << 20;

/// What the log is compared with, besides itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expectations {
    /// Number of the first record that must be there; 0 unless older files are knowingly left out.
    pub(crate) from: u64,
    /// Public keys, one of which must have signed each checkpoint. Without any, the key that the log itself names is used. That
    /// shows only that the log agrees with itself.
    pub(crate) keys: Vec<PublicKey>,
    /// Heads that were kept elsewhere.
    pub(crate) anchors: Vec<LogAnchor>,
    /// Epoch keys that were kept elsewhere.
    pub(crate) kept_keys: Vec<KeptKey>,
}

/// The result of [`verify`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Verification {
    /// The files that were read, oldest first.
    pub(crate) files: Vec<PathBuf>,
    /// Number of the first record.
    pub(crate) from: u64,
    /// The end of the chain, as far as it was followed.
    pub(crate) head: Head,
    /// Records below this number are as they were written, as far as verification can tell.
    pub(crate) good: u64,
    /// Octets read.
    pub(crate) octets: u64,
    /// Time of the first and of the last record.
    pub(crate) span: Option<(String, String)>,
    /// The log's name.
    pub(crate) origin: Option<String>,
    /// The log's earlier names, each with the number of the `log-opened` record that changed it. A log is renamed when its host is.
    pub(crate) renamed: Vec<(u64, String)>,
    /// Number of checkpoints.
    pub(crate) checkpoints: u64,
    /// Number of checkpoints with a good signature.
    pub(crate) signed: u64,
    /// Records below this number are covered by the last good signature, or are its own checkpoint. The time of that one line is vouched
    /// for by the next checkpoint only.
    pub(crate) signed_size: u64,
    /// The note with the last good signature.
    pub(crate) note: Option<String>,
    /// Names of keys whose signatures stand beside those and were not checked.
    pub(crate) other_signatures: BTreeSet<String>,
    /// Keys that signed, each once, in order.
    pub(crate) signers: Vec<PublicKey>,
    /// The keys that signed one checkpoint each.
    pub(crate) epochs: EpochsFound,
    /// Number of anchors of this log.
    pub(crate) anchors: usize,
    /// Number of anchors that agree.
    pub(crate) anchored: usize,
    /// Octets of a torn last line.
    pub(crate) torn: u64,
    /// Torn lines that were cut off when the log was opened again after a crash.
    pub(crate) crashes: u64,
    /// Times that the disk failed and came back.
    pub(crate) outages: u64,
    /// Records lost in those outages.
    pub(crate) lost: u64,
    /// The program had stopped in good order when the last record was written.
    pub(crate) stopped: bool,
    /// The first thing that is not as it was written.
    pub(crate) finding: Option<Finding>,
}

impl Verification {
    /// Nothing was found.
    #[must_use]
    pub(crate) fn intact(&self) -> bool {
        self.finding.is_none()
    }

    /// Number of good records.
    #[must_use]
    pub(crate) fn records(&self) -> u64 {
        self.good - self.from
    }
}

/// Verifies the log in `files`, which may come in any order. A single file stands for itself and all files that were rotated out of
/// it. `progress` is called with the octets done and the octets in all.
///
/// # Errors
/// A file cannot be read. What is wrong with the log itself is [`Verification::finding`].
pub(crate) fn verify(
    files: &[PathBuf],
    expected: &Expectations,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<Verification> {
    let files = in_order(files)?;
    let mut verifier = Verifier::new(expected);
    let misfit = verifier.walk(&files, progress)?;
    verifier.result.epochs = verifier.epochs.found().clone();
    let head = verifier.result.head;
    let finding = match misfit {
        None => None,
        Some((at, Misfit::Unlinked)) => {
            let root = verifier.tree.as_ref().map(RecordTree::root);
            let finding = damage::diagnose(at, &files, &head, root, verifier.before)?;
            Some((at, finding))
        }
        Some((at, Misfit::Damaged(damage, text))) => {
            Some((at, Finding::at(&files, at, damage, text)))
        }
    };
    verifier.result.good = match &finding {
        Some((_, finding)) if finding.damage == Damage::Rewritten => verifier.vouched,
        // The last line that was accepted turned out to be the one that was changed.
        Some((at, finding)) if finding.damage == Damage::Edited && finding.line != at.line => {
            head.size - 1
        }
        _ => head.size,
    };
    Ok(Verification {
        files,
        finding: finding.map(|(_, finding)| finding),
        ..verifier.result
    })
}

/// Why a line is not accepted.
enum Misfit {
    /// It does not follow the line before it. [`damage::diagnose`] finds out what was done.
    Unlinked,
    /// What was done, with words for it.
    Damaged(Damage, String),
}

fn edited(text: impl Into<String>) -> Misfit {
    Misfit::Damaged(Damage::Edited, text.into())
}

impl From<EpochFault> for Misfit {
    fn from(fault: EpochFault) -> Self {
        match fault {
            EpochFault::Unsigned(text) => Self::Damaged(Damage::Unsigned, text),
            EpochFault::Rewritten(text) => rewritten(text),
        }
    }
}

fn rewritten(text: String) -> Misfit {
    Misfit::Damaged(Damage::Rewritten, text)
}

/// The state of one verification, line by line.
struct Verifier<'a> {
    expected: &'a Expectations,
    /// Anchors that the chain has not reached yet, by size.
    anchors: Vec<&'a LogAnchor>,
    result: Verification,
    /// Over all records up to the head; `None` as long as nothing says what it was before the first record that is here.
    tree: Option<RecordTree>,
    /// The keys that sign one checkpoint each.
    epochs: EpochChain,
    /// The key that the log says signs it.
    named_key: Option<PublicKey>,
    /// Records since the last checkpoint.
    unsigned: u64,
    /// Position of the last good line.
    before: Option<LinePosition>,
    /// Records below this number are vouched for by a signature or an anchor.
    vouched: u64,
    /// Size of the last anchor that agreed.
    agreed: u64,
}

/// The fields of the records about the log itself: `log-opened`, `log-recovered` and `checkpoint`.
#[derive(Deserialize)]
struct LogRecordFields {
    note: Option<String>,
    epoch: Option<String>,
    key: Option<String>,
    origin: Option<String>,
    torn: Option<serde::de::IgnoredAny>,
    lost: Option<u64>,
}

impl LogRecordFields {
    fn read(line: &[u8]) -> Result<Self, Misfit> {
        serde_json::from_slice(line).map_err(|error| edited(format!("this is no record: {error}")))
    }
}

/// Whether a crash can have left the line before `behind`. A crash leaves part of a line, or blocks that were never written, and no
/// checkpoint behind them, because a checkpoint is written only when everything before it is durable.
fn is_torn(behind: &mut LogLines) -> io::Result<bool> {
    while let Some(line) = behind.next()? {
        if line.whole
            && Header::read(line.bytes).is_some_and(|header| header.event == b"checkpoint")
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The tree over the records before number `first`, which stands at `position`, as a record there or behind it says.
fn tree_before(
    files: &[PathBuf],
    position: LinePosition,
    first: u64,
) -> io::Result<Option<RecordTree>> {
    let mut lines = LogLines::from(files, position)?;
    while let Some(line) = lines.next()? {
        let start =
            Header::read(line.bytes).and_then(|header| TreeStart::read(header.event, line.bytes));
        if let Some(start) = start.filter(|start| start.tree.size() == first) {
            return Ok(Some(start.tree));
        }
    }
    Ok(None)
}

impl<'a> Verifier<'a> {
    fn new(expected: &'a Expectations) -> Self {
        let mut anchors: Vec<_> = expected.anchors.iter().collect();
        anchors.sort_by_key(|anchor| anchor.size);
        Self {
            expected,
            anchors,
            result: Verification {
                from: expected.from,
                head: Head {
                    size: expected.from,
                    ..Head::default()
                },
                ..Verification::default()
            },
            tree: (expected.from == 0).then(RecordTree::default),
            epochs: EpochChain::new(&expected.kept_keys, expected.from == 0),
            named_key: None,
            unsigned: 0,
            before: None,
            vouched: expected.from,
            agreed: expected.from,
        }
    }

    /// Accepts line by line; returns the first that does not fit, with its position.
    fn walk(
        &mut self,
        files: &[PathBuf],
        progress: &mut dyn FnMut(u64, u64),
    ) -> io::Result<Option<(LinePosition, Misfit)>> {
        let total = lines::octets(files)?;
        let mut reported = 0;
        let mut lines = LogLines::new(files);
        while let Some(line) = lines.next()? {
            let (position, offset) = (line.position, line.offset);
            let octets = line.bytes.len() as u64 + 1;
            let may_be_torn = !line.whole || line.bytes.contains(&0);
            if self.before.is_none() && self.expected.from > 0 {
                self.tree = tree_before(files, position, self.expected.from)?;
            }
            let result = match line.whole {
                true => self.accept(line.bytes),
                false => Err(Misfit::Damaged(
                    Damage::Cut,
                    "the file ends inside a line, and another file follows".into(),
                )),
            };
            if let Err(misfit) = result {
                let is_last = position.file + 1 == files.len();
                let length = lines.length()?;
                if is_last && may_be_torn && is_torn(&mut lines)? {
                    self.result.torn = length.saturating_sub(offset);
                    break;
                }
                return Ok(Some((position, misfit)));
            }
            self.before = Some(position);
            self.result.octets += octets;
            if self.result.octets - reported >= PROGRESS_STEP {
                reported = self.result.octets;
                progress(reported, total);
            }
        }
        progress(self.result.octets, total);
        let misfit = self.end().err();
        Ok(misfit.map(|misfit| (self.before.unwrap_or_default(), misfit)))
    }

    fn accept(&mut self, line: &[u8]) -> Result<(), Misfit> {
        let header = Header::read(line).ok_or_else(|| edited("this is no record"))?;
        let head = &mut self.result.head;
        let is_first = self.result.span.is_none();
        if is_first && self.expected.from > 0 && header.seq == head.size {
            // The record before it is not here. Its hash is taken on trust until a signature or an anchor vouches for it.
            head.hash = header.prev().ok_or_else(|| edited("this is no record"))?;
        }
        if !header.follows(head) {
            return Err(Misfit::Unlinked);
        }
        self.agrees_with_anchors()?;
        self.unsigned += 1;
        match header.event {
            b"checkpoint" => {
                self.checkpoint(line, &header)?;
                self.unsigned = 0;
            }
            b"log-opened" | b"log-recovered" => self.about_the_log(line)?,
            b"log-continued" => self.continued(line, &header)?,
            b"key-lost" => self.epochs.lost(header.seq),
            event => self.result.stopped = event == b"stop",
        }
        let has_key = !self.expected.keys.is_empty() || self.named_key.is_some();
        if has_key && self.unsigned > CHECKPOINT_RECORDS {
            let text = format!(
                "no checkpoint within {CHECKPOINT_RECORDS} records: they were taken out, or this was written by another program"
            );
            return Err(Misfit::Damaged(Damage::Unsigned, text));
        }
        let at = String::from_utf8_lossy(header.at);
        let span = &mut self.result.span;
        let (_, last) = span.get_or_insert_with(|| (at.to_string(), String::new()));
        at.as_ref().clone_into(last);
        let hash = Hash::of(line);
        self.result.head = Head {
            size: header.seq + 1,
            hash,
        };
        if let Some(tree) = &mut self.tree {
            tree.push(hash);
        }
        Ok(())
    }

    /// `log-continued`: if it says what the tree was just before it, that must be so.
    fn continued(&mut self, line: &[u8], header: &Header<'_>) -> Result<(), Misfit> {
        let start = TreeStart::read(header.event, line)
            .ok_or_else(|| edited("this does not say how the log goes on"))?;
        match &self.tree {
            Some(tree) if start.tree.size() == header.seq && start.tree != *tree => {
                Err(rewritten(format!(
                    "this file goes on another log than the one whose {} records stand before it",
                    header.seq
                )))
            }
            _ => Ok(()),
        }
    }

    /// `log-opened` and `log-recovered`.
    fn about_the_log(&mut self, line: &[u8]) -> Result<(), Misfit> {
        let fields = LogRecordFields::read(line)?;
        if let Some(lost) = fields.lost {
            self.result.outages += 1;
            self.result.lost += lost;
            return Ok(());
        }
        self.result.stopped = false;
        self.result.crashes += u64::from(fields.torn.is_some());
        // An unreadable key is damage: otherwise the signatures behind it would silently go unchecked.
        let key = fields.key.as_deref().map(|text| {
            PublicKey::from_verifier(text).ok_or_else(|| edited("the key that it names is none"))
        });
        let key = key.transpose()?;
        let before = std::mem::replace(&mut self.named_key, key);
        if let Some(origin) = fields.origin {
            self.opened_as(origin, before)?;
        }
        let number = self.result.head.size;
        Ok(self.epochs.named(number, fields.epoch.as_deref())?)
    }

    /// A host may have got another name (`--hostname`, a container that was made anew). The chain and the key say that it is
    /// still the same log.
    fn opened_as(&mut self, origin: String, key_before: Option<PublicKey>) -> Result<(), Misfit> {
        let known = match &self.result.origin {
            Some(known) if *known != origin => known,
            _ => return self.has_origin(&origin),
        };
        let direction = |name: &str| name.rsplit('/').next().map(str::to_owned);
        if direction(known) != direction(&origin) {
            return self.has_origin(&origin);
        }
        if self.expected.keys.is_empty() && key_before != self.named_key {
            return Err(rewritten(format!(
                "the log {known} goes on as {origin}, and with another key: name the keys that it may have with --key"
            )));
        }
        let number = self.result.head.size;
        self.result.renamed.push((number, known.clone()));
        self.result.origin = Some(origin);
        Ok(())
    }

    fn has_origin(&mut self, origin: &str) -> Result<(), Misfit> {
        let known = self.result.origin.get_or_insert_with(|| origin.to_owned());
        match known == origin {
            true => Ok(()),
            false => Err(rewritten(format!(
                "this is of the log {origin}, what came before of {known}"
            ))),
        }
    }

    /// The whole line must be exactly what the log would write for its note, so that every octet of it is signed.
    fn checkpoint(&mut self, line: &[u8], header: &Header<'_>) -> Result<(), Misfit> {
        let text = LogRecordFields::read(line)?
            .note
            .ok_or_else(|| edited("this checkpoint has no note"))?;
        self.result.checkpoints += 1;
        let note = CheckpointRecord { note: text.clone() };
        let body =
            serde_json::to_vec(&Record::Checkpoint(note)).expect("records have string keys only");
        let at = String::from_utf8_lossy(header.at);
        let mut written = Vec::new();
        self.result
            .head
            .clone()
            .append(&mut written, at.as_bytes(), &body);
        if written.strip_suffix(b"\n") != Some(line) {
            return Err(edited("this checkpoint is not as a log writes it"));
        }
        let note = SignedNote::read(&text).ok_or_else(|| edited("this checkpoint has no note"))?;
        let tree = self.tree.as_ref().ok_or_else(|| {
            Misfit::Damaged(
                Damage::Unsigned,
                format!(
                    "nothing here says what stood before record {}, so no checkpoint can be checked: begin with --from at the first record of a file",
                    self.expected.from
                ),
            )
        })?;
        let is_of_these = (note.size, note.root) == (tree.size(), tree.root());
        self.has_origin(note.origin)?;
        let keys = match (&self.expected.keys[..], &self.named_key) {
            ([], Some(key)) => std::slice::from_ref(key),
            (keys, _) => keys,
        };
        let signer = keys.iter().find(|key| note.signed_by(key));
        match signer {
            None if !keys.is_empty() && !note.is_signed() => {
                let text = "this checkpoint is not signed";
                return Err(Misfit::Damaged(Damage::Unsigned, text.into()));
            }
            None if !keys.is_empty() => {
                let text = "this checkpoint's signature is wrong, or of another key";
                return Err(rewritten(text.to_owned()));
            }
            _ if !is_of_these => {
                return Err(rewritten(format!(
                    "this checkpoint was made for {} records with the root {}: records since number {} were written anew",
                    note.size, note.root, self.result.signed_size
                )));
            }
            _ => {}
        }
        let is_epoch = |name: &&str| self.epochs.is_name(note.origin, name);
        let others = signer.map(|signer| note.others(signer).filter(|name| !is_epoch(name)));
        let others: Vec<_> = others.into_iter().flatten().map(str::to_owned).collect();
        self.epochs.checkpoint(&note)?;
        let Some(signer) = signer else { return Ok(()) };
        self.result.other_signatures.extend(others);
        if !self.result.signers.contains(signer) {
            self.result.signers.push(*signer);
        }
        self.result.signed += 1;
        self.result.signed_size = note.size + 1;
        self.vouched = self.vouched.max(self.result.signed_size);
        self.result.note = Some(text);
        Ok(())
    }

    /// Called before the next record is accepted: an anchor of the chain's present size must name its present hash and root.
    fn agrees_with_anchors(&mut self) -> Result<(), Misfit> {
        let head = self.result.head;
        let reached = self
            .anchors
            .partition_point(|anchor| anchor.size <= head.size);
        for anchor in self.anchors.drain(..reached) {
            let root = self.tree.as_ref().map(RecordTree::root);
            let agrees = anchor.hash.is_none_or(|hash| hash == head.hash)
                && anchor.root.is_none_or(|known| Some(known) == root);
            if anchor.size < head.size {
                continue;
            }
            if agrees {
                self.result.anchored += 1;
                self.agreed = head.size;
                self.vouched = self.vouched.max(head.size);
            } else if anchor.is_of(self.result.origin.as_deref()) {
                // Signatures behind the last anchor that agreed count for nothing now.
                self.vouched = self.agreed;
                let was = anchor.hash.filter(|hash| *hash != head.hash);
                let (what, was, is) = match was {
                    Some(was) => ("head", was, head.hash),
                    None => (
                        "root",
                        anchor.root.unwrap_or_default(),
                        root.unwrap_or_default(),
                    ),
                };
                return Err(rewritten(format!(
                    "when it had {} records the log's {what} was {was}, now it is {is}: it was written anew, or replaced",
                    head.size
                )));
            }
        }
        Ok(())
    }

    /// Called at the end of the last file.
    fn end(&mut self) -> Result<(), Misfit> {
        if self.before.is_none() {
            let text = format!(
                "no record is there; the first must be {}",
                self.expected.from
            );
            return Err(Misfit::Damaged(Damage::Missing, text));
        }
        self.agrees_with_anchors()?;
        let origin = self.result.origin.as_deref();
        let former = self.result.renamed.iter();
        let names: Vec<_> = former
            .map(|(_, name)| Some(&**name))
            .chain([origin])
            .collect();
        self.epochs.end(&names)?;
        let is_of = |anchor: &LogAnchor| names.iter().any(|name| anchor.is_of(*name));
        let ours = |anchor: &&LogAnchor| is_of(anchor) && anchor.size >= self.expected.from;
        self.result.anchors = self.expected.anchors.iter().filter(ours).count();
        if self.result.anchors == 0 && !self.expected.anchors.is_empty() {
            return Err(rewritten(format!(
                "no anchor is of this log, {}",
                origin.unwrap_or("which has no name")
            )));
        }
        let Some(most) = self.anchors.iter().rev().find(|anchor| is_of(anchor)) else {
            return Ok(());
        };
        let text = format!(
            "an anchor knows {} records, here are {}: the end was cut off, or an older copy was put in place",
            most.size, self.result.head.size
        );
        Err(Misfit::Damaged(Damage::Cut, text))
    }
}
