//! Follows a log line by line, from its first to the first that does not fit.

use super::{
    Expectations, PROGRESS_STEP, Verification,
    ahead::{ExaminedLine, LinesAhead},
    anchor::LogAnchor,
    checkpoints::{KnownCheckpoint, KnownCheckpoints},
    completeness::RunAccount,
    damage::{Damage, Misfit, edited, rewritten},
    due::HybridDue,
    fields::LogRecordFields,
    form::is_event,
    keyless::KeylessState,
    lines::{self, LinePosition},
    listed::ListedFile,
    recent::RecentRecords,
    starts::GapStarts,
};
use crate::audit::{
    CheckpointRecord, Hash, PublicKey, Record,
    chain::{Head, Header},
    checkpoint::{SignedNote, is_origin},
    epoch, hybrid,
    kept::EpochChain,
    known::KnownEnd,
    log::CHECKPOINT_RECORDS,
    tree::RecordTree,
};
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
};

/// The state of one verification, line by line.
pub(super) struct Verifier<'a> {
    pub(super) expected: &'a Expectations,
    /// Anchors that the chain has not reached yet, by size.
    pub(super) anchors: Vec<&'a LogAnchor>,
    pub(super) result: Verification,
    /// Over all records up to the head; `None` as long as nothing says what it was before the first record that is here.
    pub(super) tree: Option<RecordTree>,
    /// The keys that sign one checkpoint each.
    pub(super) epochs: EpochChain,
    pub(super) account: RunAccount,
    /// Time of the last record.
    pub(super) at: Vec<u8>,
    /// The key that the log says signs it.
    pub(super) named_key: Option<PublicKey>,
    pub(super) keyless: KeylessState,
    /// The numbers of the records before which others were cut off.
    pub(super) cut_before: BTreeSet<u64>,
    /// The keys that signed.
    signers: HashSet<PublicKey>,
    /// The end of the log that is remembered beside it.
    pub(super) known: Option<KnownEnd>,
    /// The hash of the last record when there were so many.
    pub(super) at_known: Option<Hash>,
    /// Records since the last checkpoint.
    pub(super) unsigned: u64,
    pub(super) checkpoints: KnownCheckpoints,
    /// What records further on say of the tree before gaps, once there was one.
    pub(super) starts: Option<GapStarts>,
    pub(super) recent: RecentRecords,
    pub(super) hybrid_due: HybridDue,
    /// The places of the witnesses that signed a checkpoint, by the digest of its text.
    pub(super) cosigners: HashMap<Hash, BTreeSet<usize>>,
    /// Position of the last good line.
    pub(super) before: Option<LinePosition>,
    /// Records below this number are vouched for by a signature or an anchor.
    pub(super) vouched: u64,
    /// Size of the last anchor that agreed.
    pub(super) agreed: u64,
}

/// The field of `log-brought-back` that must be there.
#[derive(Deserialize)]
struct BroughtBackFields {
    #[serde(rename = "since")]
    _since: String,
}

/// The fields of a record that must be there.
pub(super) fn fields<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Misfit> {
    serde_json::from_slice(line).map_err(|error| edited(format!("this is no record: {error}")))
}

/// Whether a crash can have left the line before `behind`. A crash leaves part of a line, or blocks that were never written, and no
/// checkpoint behind them, because a checkpoint is written only when everything before it is durable. Gives the octets behind the line,
/// `None` if it is not torn.
fn torn_behind(behind: &mut LinesAhead) -> io::Result<Option<u64>> {
    let mut octets = 0;
    while let Some(line) = behind.next()? {
        octets += line.bytes.len() as u64 + u64::from(line.whole);
        if line.fault.is_some() {
            return Ok(None);
        }
        if line.whole
            && Header::read(line.bytes).is_some_and(|header| header.event == b"checkpoint")
        {
            return Ok(None);
        }
    }
    Ok(Some(octets))
}

impl<'a> Verifier<'a> {
    pub(super) fn new(expected: &'a Expectations) -> Self {
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
            account: RunAccount::default(),
            at: Vec::new(),
            named_key: None,
            keyless: KeylessState::default(),
            cut_before: BTreeSet::new(),
            signers: HashSet::new(),
            known: None,
            at_known: None,
            unsigned: 0,
            checkpoints: KnownCheckpoints::default(),
            starts: None,
            recent: RecentRecords::default(),
            hybrid_due: HybridDue::default(),
            cosigners: HashMap::new(),
            before: None,
            vouched: expected.from,
            agreed: expected.from,
        }
    }

    /// Accepts line by line, and gives each to `pass`; returns the first that does not fit, with its position.
    pub(super) fn walk(
        &mut self,
        files: &[ListedFile],
        progress: &mut dyn FnMut(u64, u64),
        pass: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<(LinePosition, Misfit)>> {
        let total = lines::octets(files);
        let mut reported = 0;
        let mut lines = LinesAhead::new(files)?;
        self.checkpoints.not_here(0..self.expected.from);
        while let Some(line) = lines.next()? {
            let position = line.position;
            let octets = line.bytes.len() as u64 + u64::from(line.whole);
            if self.is_left_out() {
                self.know_the_tree_at(files, position)?;
            }
            if position.line == 1 {
                self.recent.begin(self.tree.as_ref());
            }
            let result = match (line.whole, line.fault) {
                (_, Some(fault)) => {
                    let misfit = Misfit::Damaged(Damage::Unreadable, fault.to_owned());
                    return Ok(Some((position, misfit)));
                }
                (true, None) => match self.accept(&line) {
                    Err(Misfit::Unlinked)
                        if self.go_on_behind_a_cut(files, position, line.bytes)? =>
                    {
                        self.accept(&line)
                    }
                    result => result,
                },
                (false, None) => Err(Misfit::Damaged(
                    Damage::Cut,
                    "the file ends inside a line, and another file follows".into(),
                )),
            };
            let may_be_torn =
                result.is_err() && (!line.whole || memchr::memchr(0, line.bytes).is_some());
            if let Err(misfit) = result {
                let is_last = position.file + 1 == files.len();
                if is_last
                    && may_be_torn
                    && let Some(behind) = torn_behind(&mut lines)?
                {
                    self.result.torn = octets + behind;
                    break;
                }
                return Ok(Some((position, misfit)));
            }
            pass(line.bytes);
            self.before = Some(position);
            self.result.octets += octets;
            if self.result.octets - reported >= PROGRESS_STEP {
                reported = self.result.octets;
                progress(lines.taken().min(total), total);
            }
        }
        progress(lines.taken().min(total), total);
        let misfit = self.end().err();
        Ok(misfit.map(|misfit| (self.before.unwrap_or_default(), misfit)))
    }

    fn accept(&mut self, examined: &ExaminedLine<'_>) -> Result<(), Misfit> {
        let line = examined.bytes;
        let header = Header::read(line).ok_or_else(|| edited("this is no record"))?;
        let head = &mut self.result.head;
        if self.before.is_none() && self.expected.from > 0 && header.seq == head.size {
            // The record before it is not here. Its hash is taken on trust until a signature or an anchor vouches for it.
            head.hash = header.prev().ok_or_else(|| edited("this is no record"))?;
        }
        if !header.follows(head) {
            return Err(Misfit::Unlinked);
        }
        if let Some(why) = examined.malformed {
            return Err(edited(why));
        }
        if !is_event(header.event) {
            return Err(edited("this is no record: its event is none"));
        }
        self.agrees_with_anchors()?;
        if self
            .known
            .as_ref()
            .is_some_and(|known| known.head.size == header.seq)
        {
            self.at_known = Some(self.result.head.hash);
        }
        self.unsigned += 1;
        match header.event {
            b"checkpoint" => {
                self.checkpoint(line, &header, examined.position)?;
                self.unsigned = 0;
            }
            b"log-opened" => self.opened(line, &header)?,
            b"log-recovered" => self.recovered(line)?,
            b"log-brought-back" => {
                fields::<BroughtBackFields>(line)?;
                self.result.brought_back += 1;
            }
            b"key-lost" => self.epochs.lost(header.seq),
            b"log-continued" | b"log-cut" => self.continued(line, &header)?,
            b"stamp" | b"cosigned" | b"not-anchored" => self.said_by_others(line, &header)?,
            event => self.result.stopped = event == b"stop",
        }
        self.account.see(&header, line);
        if self.must_be_signed() && self.unsigned > CHECKPOINT_RECORDS {
            let text = format!(
                "no checkpoint within {CHECKPOINT_RECORDS} records: they were taken out, or this was written by another program"
            );
            return Err(Misfit::Damaged(Damage::Unsigned, text));
        }
        let at = || String::from_utf8_lossy(header.at).into_owned();
        self.result.span.get_or_insert_with(|| (at(), at()));
        self.at.clear();
        self.at.extend_from_slice(header.at);
        self.result.head = header.head(line);
        if let Some(tree) = &mut self.tree {
            tree.push(self.result.head.hash);
        }
        self.recent.push(self.result.head.hash);
        Ok(())
    }

    /// `log-recovered`.
    fn recovered(&mut self, line: &[u8]) -> Result<(), Misfit> {
        let lost = fields::<LogRecordFields>(line)?.lost;
        let lost = lost.ok_or_else(|| edited("it does not say how many records were lost"))?;
        self.result.outages += 1;
        self.result.lost = self.result.lost.saturating_add(lost);
        Ok(())
    }

    /// `log-opened`.
    fn opened(&mut self, line: &[u8], header: &Header<'_>) -> Result<(), Misfit> {
        let fields: LogRecordFields = fields(line)?;
        let origin = fields.origin.filter(|origin| is_origin(origin));
        let origin = origin.ok_or_else(|| edited("it does not say what the log's name is"))?;
        let is_of = |key: &Option<String>, name: &str| match key {
            Some(key) => key.split_once('+').is_some_and(|(of, _)| of == name),
            None => true,
        };
        if !is_of(&fields.key, &origin) || !is_of(&fields.epoch, &epoch::key_name(&origin)) {
            return Err(edited("a key that it names is not of this log's name"));
        }
        self.result.stopped = false;
        self.result.crashes += u64::from(fields.torn.is_some());
        // An unreadable key is damage: otherwise the signatures behind it would silently go unchecked.
        let key = fields.key.as_deref().map(|text| {
            PublicKey::from_verifier(text).ok_or_else(|| edited("the key that it names is none"))
        });
        let key = key.transpose()?;
        self.keyless
            .named(key.is_some(), self.expected.from == 0, header);
        self.hybrid_due = match key {
            Some(_) => HybridDue::Next,
            None => HybridDue::Unknown,
        };
        let before = std::mem::replace(&mut self.named_key, key);
        self.opened_as(origin, before)?;
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
    fn checkpoint(
        &mut self,
        line: &[u8],
        header: &Header<'_>,
        position: LinePosition,
    ) -> Result<(), Misfit> {
        let text = fields::<LogRecordFields>(line)?
            .note
            .ok_or_else(|| edited("this checkpoint has no note"))?;
        self.result.checkpoints += 1;
        let body = Record::Checkpoint(CheckpointRecord { note: text.clone() }).body();
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
        let signer = self.may_sign().find(|key| note.signed_by(key)).copied();
        match signer {
            None if self.must_be_signed()
                && !note.is_signed()
                && !self.keyless.explains_unsigned(note.size, position) =>
            {
                let text = "this checkpoint is not signed";
                return Err(Misfit::Damaged(Damage::Unsigned, text.into()));
            }
            None if self.must_be_signed() && note.is_signed() => {
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
        let has_hybrid = !self.expected.hybrid_keys.is_empty();
        let is_known = |name: &&str| {
            self.epochs.is_name(note.origin, name)
                || has_hybrid && *name == hybrid::key_name(note.origin)
        };
        let others = signer
            .as_ref()
            .map(|signer| note.others(signer).filter(|name| !is_known(name)));
        let others: Vec<_> = others.into_iter().flatten().map(str::to_owned).collect();
        self.epochs.checkpoint(&note)?;
        self.judge_hybrid(&note, header.at)?;
        // Others may stamp it, which a record behind it tells.
        let known = KnownCheckpoint {
            digest: Hash::of(note.text.as_bytes()),
            root: note.root,
            renamed: self.result.renamed.len(),
        };
        self.checkpoints.insert(note.size, known);
        let Some(signer) = signer else { return Ok(()) };
        self.result.other_signatures.extend(others);
        self.keyless.signed(note.size);
        if self.signers.insert(signer) {
            self.result.signers.push(signer);
        }
        self.result.signed += 1;
        self.result.signed_size = note.size + 1;
        self.vouched = self.vouched.max(self.result.signed_size);
        self.result.note = Some(text);
        Ok(())
    }

    /// The keys of which one must have signed the next checkpoint. A key may sign only where the log says that it does: whoever has a
    /// newer one must not be able to sign older records with it.
    fn may_sign(&self) -> impl Iterator<Item = &PublicKey> {
        let given = &self.expected.keys;
        let named = self.named_key.iter();
        let named = named.filter(|named| given.is_empty() || given.contains(named));
        // Where files were left out, the log may not have named its key yet.
        let unnamed = given.iter().filter(|_| self.named_key.is_none());
        named.chain(unnamed)
    }

    fn must_be_signed(&self) -> bool {
        self.named_key.is_some() || !self.expected.keys.is_empty()
    }
}
