//! Is a log still what was written? One pass at the speed of the disk and SHA-256: of every line only the header is read, by its
//! place; whole JSON is parsed only where a checkpoint, an opening or a recovery stands.
//!
//! What the chain alone cannot show: that its end was cut off, or that a whole older copy was put in its place. For that an [`Anchor`], a
//! head that is kept where nobody who can write the log can write, is compared.

mod anchor;
mod damage;
mod lines;

pub use anchor::Anchor;
pub use damage::{Damage, Finding};

use super::{
    PublicKey,
    chain::{Head, Header},
    checkpoint::Note,
    log::CHECKPOINT_RECORDS,
};
use damage::{Place, diagnose};
pub(crate) use lines::{Lines, in_order};
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
};

/// What is to be compared, besides the log with itself.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Number of the first record that must be there; 0 unless older files are knowingly left out.
    pub from: u64,
    /// Public keys, one of which must have signed each checkpoint. None: the key that the log itself names, which shows
    /// only that the log agrees with itself.
    pub keys: Vec<PublicKey>,
    /// Heads that were kept elsewhere.
    pub anchors: Vec<Anchor>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Examined {
    /// The files that were read, oldest first.
    pub files: Vec<PathBuf>,
    /// Number of the first record.
    pub from: u64,
    /// The end of the chain, as far as it was followed.
    pub head: Head,
    /// Records below this number are as they were written, as far as this can tell.
    pub good: u64,
    /// Octets read.
    pub octets: u64,
    /// Time of the first and of the last record.
    pub span: Option<(String, String)>,
    /// The log's name.
    pub origin: Option<String>,
    /// Its names before, each with the number of the record that changed it: `log-opened` of a host with another name.
    pub renamed: Vec<(u64, String)>,
    /// Checkpoints, and how many of them have a good signature.
    pub checkpoints: u64,
    /// See `checkpoints`.
    pub signed: u64,
    /// Records covered by the last good signature: all whose number is below.
    pub signed_size: u64,
    /// The last good signature's note.
    pub note: Option<String>,
    /// Keys that signed, each once, in order.
    pub signers: Vec<PublicKey>,
    /// Anchors of this log, and how many of them agree.
    pub anchors: usize,
    /// See `anchors`.
    pub anchored: usize,
    /// Octets of a torn last line.
    pub torn: u64,
    /// Torn lines that were cut off when the log was opened again after a crash.
    pub crashes: u64,
    /// Times that the disk failed and came back, and records lost by it.
    pub outages: u64,
    /// See `outages`.
    pub lost: u64,
    /// The program had stopped in good order when the last record was written.
    pub stopped: bool,
    /// The first thing that is not as it was written.
    pub finding: Option<Finding>,
}

impl Examined {
    /// Nothing was found.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.finding.is_none()
    }

    /// Number of good records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.good - self.from
    }
}

/// Verifies the log in `files`, in any order. One file stands for itself and all that were rotated out of it. `progress` gets octets done
/// and octets in all.
///
/// # Errors
/// A file cannot be read. What is wrong with the log itself is [`Examined::finding`].
pub fn verify(
    files: &[PathBuf],
    expected: &Expected,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<Examined> {
    let files = in_order(files)?;
    let total = lines::octets(&files)?;
    let mut anchors: Vec<_> = expected.anchors.iter().collect();
    anchors.sort_by_key(|anchor| anchor.head.size);
    let mut walk = Walk {
        expected,
        anchors,
        outcome: Examined {
            from: expected.from,
            head: Head {
                size: expected.from,
                ..Head::default()
            },
            ..Examined::default()
        },
        named_key: None,
        unsigned: 0,
        before: None,
        sure: expected.from,
        agreed: expected.from,
    };
    let mut found = None;
    for (file, path) in files.iter().enumerate() {
        let is_last = file + 1 == files.len();
        found = walk.file(file, path, is_last, &mut |done| progress(done, total))?;
        if found.is_some() {
            break;
        }
    }
    let (place, damage, text) = match found {
        Some(found) => found,
        None => match walk.end() {
            Some((damage, text)) => (walk.before.unwrap_or_default(), damage, text),
            None => {
                walk.outcome.good = walk.outcome.head.size;
                walk.outcome.files = files;
                return Ok(walk.outcome);
            }
        },
    };
    let head = walk.outcome.head;
    let finding = match text.is_empty() {
        true => diagnose(place, damage, &files, &head, walk.before)?,
        false => Finding::at(&files, place, damage, text),
    };
    walk.outcome.good = match finding.damage {
        Damage::Rewritten => walk.sure,
        Damage::Edited if finding.line != place.line => head.size - 1,
        _ => head.size,
    };
    Ok(Examined {
        files,
        finding: Some(finding),
        ..walk.outcome
    })
}

struct Walk<'a> {
    expected: &'a Expected,
    /// By size; those that were passed are gone.
    anchors: Vec<&'a Anchor>,
    outcome: Examined,
    /// The key that the log says signs it.
    named_key: Option<PublicKey>,
    /// Records since the last checkpoint.
    unsigned: u64,
    /// Where the last good line stands.
    before: Option<Place>,
    /// Records below this number are vouched for by a signature or an anchor.
    sure: u64,
    /// Size of the last anchor that agreed.
    agreed: u64,
}

/// What was done, and words for it; without words, [`diagnose`] looks closer.
type Bad = (Damage, String);

/// What is read of the few records that concern the log itself.
#[derive(Deserialize)]
struct Own {
    note: Option<String>,
    key: Option<String>,
    origin: Option<String>,
    torn: Option<serde::de::IgnoredAny>,
    lost: Option<u64>,
}

/// A crash leaves part of a line, or blocks that were never written, and no checkpoint behind them: that is written only when all
/// before it is durable.
fn is_torn(behind: &mut Lines) -> io::Result<bool> {
    while let Some(line) = behind.next()? {
        if line.whole
            && Header::read(line.bytes).is_some_and(|header| header.event == b"checkpoint")
        {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Walk<'_> {
    fn file(
        &mut self,
        file: usize,
        path: &Path,
        is_last: bool,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<Option<(Place, Damage, String)>> {
        let before = self.outcome.octets;
        let mut told = before;
        let mut lines = Lines::open(path)?;
        while let Some(line) = lines.next()? {
            let place = Place {
                file,
                line: line.number,
            };
            let result = match line.whole {
                true => self.line(line.bytes),
                false => Err((
                    Damage::Cut,
                    "the file ends inside a line, and another file follows".into(),
                )),
            };
            if let Err((damage, text)) = result {
                let offset = line.offset;
                if is_last && (!line.whole || line.bytes.contains(&0)) && is_torn(&mut lines)? {
                    self.outcome.torn = lines.length()?.saturating_sub(offset);
                    break;
                }
                return Ok(Some((place, damage, text)));
            }
            self.before = Some(place);
            self.outcome.octets = before + line.offset + line.bytes.len() as u64 + 1;
            if self.outcome.octets - told >= 1 << 20 {
                told = self.outcome.octets;
                progress(told);
            }
        }
        progress(self.outcome.octets);
        Ok(None)
    }

    /// Takes one line, or says what is wrong with it.
    fn line(&mut self, line: &[u8]) -> Result<(), Bad> {
        let header = Header::read(line).ok_or((Damage::Edited, "this is no record".to_owned()))?;
        let head = &mut self.outcome.head;
        let is_first = self.outcome.span.is_none();
        if is_first && self.expected.from > 0 && header.seq == head.size {
            // What came before is not here; its hash is taken on trust, until a signature or an anchor vouches for it.
            head.hash = header
                .prev()
                .ok_or((Damage::Edited, "this is no record".to_owned()))?;
        }
        if !header.follows(head) {
            return Err((Damage::Edited, String::new())); // `diagnose` says what it is
        }
        self.agrees_with_anchors()?;
        match header.event {
            b"checkpoint" => self.checkpoint(line, &header)?,
            b"log-opened" | b"log-recovered" => self.own(line)?,
            event => self.outcome.stopped = event == b"stop",
        }
        if header.event == b"checkpoint" {
            self.unsigned = 0;
        } else {
            self.unsigned += 1;
        }
        let vouched = !self.expected.keys.is_empty() || self.named_key.is_some();
        if vouched && self.unsigned > CHECKPOINT_RECORDS {
            let text = format!(
                "no checkpoint within {CHECKPOINT_RECORDS} records: they were taken out, or this was written by another program"
            );
            return Err((Damage::Unsigned, text));
        }
        let at = String::from_utf8_lossy(header.at);
        match &mut self.outcome.span {
            Some((_, last)) => {
                last.clear();
                last.push_str(&at);
            }
            none => *none = Some((at.to_string(), at.to_string())),
        }
        self.outcome.head = Head {
            size: header.seq + 1,
            hash: super::Hash::of(line),
        };
        Ok(())
    }

    fn own(&mut self, line: &[u8]) -> Result<(), Bad> {
        let own: Own = serde_json::from_slice(line)
            .map_err(|error| (Damage::Edited, format!("this is no record: {error}")))?;
        if let Some(lost) = own.lost {
            self.outcome.outages += 1;
            self.outcome.lost += lost;
            return Ok(());
        }
        self.outcome.stopped = false;
        self.outcome.crashes += u64::from(own.torn.is_some());
        // A key that cannot be read would leave the signatures behind it unchecked, without a word.
        let key = own.key.as_deref().map(|text| {
            PublicKey::from_verifier(text)
                .ok_or((Damage::Edited, "the key that it names is none".to_owned()))
        });
        let key = key.transpose()?;
        let before = std::mem::replace(&mut self.named_key, key);
        match own.origin {
            Some(origin) => self.opened_as(origin, before),
            None => Ok(()),
        }
    }

    /// A host may have got another name (`--hostname`, a container that was made anew). That it is the same log, its chain
    /// and its key say.
    fn opened_as(&mut self, origin: String, key_before: Option<PublicKey>) -> Result<(), Bad> {
        let known = match &self.outcome.origin {
            Some(known) if *known != origin => known,
            _ => return self.has_origin(&origin),
        };
        let direction = |name: &str| name.rsplit('/').next().map(str::to_owned);
        if direction(known) != direction(&origin) {
            return self.has_origin(&origin);
        }
        if self.expected.keys.is_empty() && key_before != self.named_key {
            let text = format!(
                "the log {known} goes on as {origin}, and with another key: name the keys that it may have with --key"
            );
            return Err((Damage::Rewritten, text));
        }
        let number = self.outcome.head.size;
        self.outcome.renamed.push((number, known.clone()));
        self.outcome.origin = Some(origin);
        Ok(())
    }

    fn has_origin(&mut self, origin: &str) -> Result<(), Bad> {
        let known = self.outcome.origin.get_or_insert_with(|| origin.to_owned());
        if known == origin {
            return Ok(());
        }
        Err((
            Damage::Rewritten,
            format!("this is of the log {origin}, what came before of {known}"),
        ))
    }

    /// The whole line must be what its note makes it, so that every octet of it is signed.
    fn checkpoint(&mut self, line: &[u8], header: &Header<'_>) -> Result<(), Bad> {
        let own: Own = serde_json::from_slice(line)
            .map_err(|error| (Damage::Edited, format!("this is no record: {error}")))?;
        self.outcome.checkpoints += 1;
        let body = serde_json::to_vec(&super::Record::Checkpoint(super::CheckpointRecord {
            note: own.note.clone(),
        }))
        .expect("records have string keys only");
        let at = String::from_utf8_lossy(header.at);
        let mut written = Vec::new();
        self.outcome.head.clone().append(&mut written, &at, &body);
        if written.strip_suffix(b"\n") != Some(line) {
            return Err((
                Damage::Edited,
                "this checkpoint is not as a log writes it".into(),
            ));
        }
        let Some(text) = own.note else {
            return match self.expected.keys.is_empty() {
                true => Ok(()),
                false => Err((Damage::Unsigned, "this checkpoint is not signed".into())),
            };
        };
        let note = Note::read(&text).ok_or((
            Damage::Edited,
            "this checkpoint has no signed note".to_owned(),
        ))?;
        self.has_origin(note.origin)?;
        let keys = match (&self.expected.keys[..], &self.named_key) {
            ([], None) => return Ok(()),
            ([], Some(key)) => std::slice::from_ref(key),
            (keys, _) => keys,
        };
        let Some(signer) = keys.iter().find(|key| note.signed_by(key)) else {
            let text = "this checkpoint's signature is wrong, or of another key".to_owned();
            return Err((Damage::Rewritten, text));
        };
        if note.head != self.outcome.head || note.time.map(str::as_bytes) != Some(header.at) {
            let text = format!(
                "what was signed here is record {} with hash {}: records since number {} were written anew",
                note.head.size, note.head.hash, self.outcome.signed_size
            );
            return Err((Damage::Rewritten, text));
        }
        if !self.outcome.signers.contains(signer) {
            self.outcome.signers.push(*signer);
        }
        self.outcome.signed += 1;
        self.outcome.signed_size = note.head.size + 1;
        self.sure = self.sure.max(self.outcome.signed_size);
        self.outcome.note = Some(text);
        Ok(())
    }

    /// Before the record whose number is the chain's size is taken: an anchor of that size must name the same hash.
    fn agrees_with_anchors(&mut self) -> Result<(), Bad> {
        let head = self.outcome.head;
        let passed = self
            .anchors
            .partition_point(|anchor| anchor.head.size <= head.size);
        for anchor in self.anchors.drain(..passed) {
            if anchor.head == head {
                self.outcome.anchored += 1;
                self.agreed = head.size;
                self.sure = self.sure.max(head.size);
            } else if anchor.head.size == head.size && anchor.is_of(self.outcome.origin.as_deref())
            {
                let text = format!(
                    "when it had {} records the log's head was {}, now it is {}: it was written anew, or replaced",
                    head.size, anchor.head.hash, head.hash
                );
                self.sure = self.agreed; // whatever signed what stands behind it
                return Err((Damage::Rewritten, text));
            }
        }
        Ok(())
    }

    /// At the end of the last file.
    fn end(&mut self) -> Option<Bad> {
        if self.before.is_none() {
            let text = format!(
                "no record is there; the first must be {}",
                self.expected.from
            );
            return Some((Damage::Missing, text));
        }
        if let Err(bad) = self.agrees_with_anchors() {
            return Some(bad);
        }
        let origin = self.outcome.origin.as_deref();
        let former = self.outcome.renamed.iter();
        let names: Vec<_> = former
            .map(|(_, name)| Some(&**name))
            .chain([origin])
            .collect();
        let is_of = |anchor: &Anchor| names.iter().any(|name| anchor.is_of(*name));
        let ours = |anchor: &&Anchor| is_of(anchor) && anchor.head.size >= self.expected.from;
        self.outcome.anchors = self.expected.anchors.iter().filter(ours).count();
        if self.outcome.anchors == 0 && !self.expected.anchors.is_empty() {
            let text = format!(
                "no anchor is of this log, {}",
                origin.unwrap_or("which has no name")
            );
            return Some((Damage::Rewritten, text));
        }
        let most = self.anchors.iter().rev().find(|anchor| is_of(anchor))?;
        let text = format!(
            "an anchor knows {} records, here are {}: the end was cut off, or an older copy was put in place",
            most.head.size, self.outcome.head.size
        );
        Some((Damage::Cut, text))
    }
}
