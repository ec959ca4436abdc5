//! Says what was done to a log, from the first line that does not fit and the lines around it.

use super::{
    fields::LogRecordFields,
    lines::{LinePosition, LogLines},
    listed::ListedFile,
};
use crate::audit::{
    chain::{Hash, Head, Header},
    checkpoint::SignedNote,
    kept::EpochFault,
};
use std::{fmt, io, path::PathBuf};

/// What was done to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Damage {
    /// A line was changed.
    Edited,
    /// Lines were taken out.
    Missing,
    /// Lines stand in another order.
    Reordered,
    /// A line was put in.
    Inserted,
    /// The end was cut off, or an older copy put in place.
    Cut,
    /// Lines were changed and the chain behind them made anew, or the log was replaced. A signature or an anchor shows it.
    Rewritten,
    /// A checkpoint, or the signature of one, is missing where the format requires it.
    Unsigned,
    /// From some place on, a compressed file cannot be unpacked, or a file has a longer line than any record is.
    Unreadable,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Edited => "edited",
            Self::Missing => "missing",
            Self::Reordered => "reordered",
            Self::Inserted => "inserted",
            Self::Cut => "cut",
            Self::Rewritten => "rewritten",
            Self::Unsigned => "unsigned",
            Self::Unreadable => "unreadable",
        })
    }
}

/// The first thing that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; where lines were cut off, the last line that is there.
    pub line: u64,
    /// What was done to a log.
    pub damage: Damage,
    /// The same in words, without file and line.
    pub text: String,
}

impl Finding {
    pub(super) fn at(files: &[ListedFile], at: LinePosition, damage: Damage, text: String) -> Self {
        Self {
            file: files
                .get(at.file)
                .map(|file| file.path().to_owned())
                .unwrap_or_default(),
            line: at.line,
            damage,
            text,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {}",
            self.file.display(),
            self.line,
            self.damage,
            self.text
        )
    }
}

/// Why a line is not accepted.
pub(super) enum Misfit {
    /// It does not follow the line before it. [`diagnose`] finds out what was done.
    Unlinked,
    /// What was done, with words for it.
    Damaged(Damage, String),
}

impl From<EpochFault> for Misfit {
    fn from(fault: EpochFault) -> Self {
        match fault {
            EpochFault::Unsigned(text) => Self::Damaged(Damage::Unsigned, text),
            EpochFault::Rewritten(text) => rewritten(text),
        }
    }
}

pub(super) fn edited(text: impl Into<String>) -> Misfit {
    Misfit::Damaged(Damage::Edited, text.into())
}

pub(super) fn rewritten(text: String) -> Misfit {
    Misfit::Damaged(Damage::Rewritten, text)
}

/// What [`diagnose`] compares of a line.
struct ChainLink {
    seq: u64,
    prev: Option<Hash>,
    hash: Hash,
    /// A checkpoint for as many records as its header says, and its root.
    root: Option<Hash>,
}

impl ChainLink {
    fn read(line: &[u8]) -> Option<Self> {
        let header = Header::read(line)?;
        let prev = header.prev();
        let note = (header.event == b"checkpoint")
            .then(|| LogRecordFields::read(line).ok()?.note)
            .flatten();
        let note = note.as_deref().and_then(SignedNote::read);
        let root = note.filter(|note| note.size == header.seq);
        Some(Self {
            seq: header.seq,
            prev,
            hash: Hash::of(line),
            root: root.map(|note| note.root),
        })
    }
}

/// The next line, `None` at the end of the log; its link is `None` where it is no record.
fn next(lines: &mut LogLines<'_>) -> io::Result<Option<(LinePosition, Option<ChainLink>)>> {
    let line = lines.next()?;
    Ok(line.map(|line| (line.position, ChainLink::read(line.bytes))))
}

/// Says what was done where the line at `here` does not follow `head`, which is the chain's end at the line `before` it. `root` is that
/// of the tree over all records up to there.
pub(super) fn diagnose(
    here: LinePosition,
    files: &[ListedFile],
    head: &Head,
    root: Option<Hash>,
    before: Option<LinePosition>,
) -> io::Result<Finding> {
    let finding = |at, damage, text| Ok(Finding::at(files, at, damage, text));
    let expected = head.size;
    let mut lines = LogLines::from(files, here)?;
    let Some((_, Some(link))) = next(&mut lines)? else {
        return finding(here, Damage::Edited, "this is no record".into());
    };
    let mut behind = next(&mut lines)?;
    let follower = behind.as_ref().and_then(|(_, link)| link.as_ref());
    if link.seq == expected {
        // A checkpoint with another root was made for other records than those before it.
        let is_of_others = link.root.is_some() && link.root != root;
        let is_as_written =
            is_of_others || follower.is_some_and(|next| next.prev == Some(link.hash));
        let (at, text) = match before {
            Some(before) if is_as_written => (
                before,
                format!(
                    "record {} is not the one that record {expected} names: it was changed, or all behind it comes from elsewhere",
                    expected - 1
                ),
            ),
            Some(before) if follower.is_none() => (
                before,
                format!(
                    "record {} or {expected} is not what was written",
                    expected - 1
                ),
            ),
            _ => (here, format!("record {expected} is not what was written")),
        };
        return finding(at, Damage::Edited, text);
    }
    if link.prev == Some(head.hash) && follower.is_some_and(|next| next.seq == expected + 1) {
        let text = format!("record {expected} says it is number {}", link.seq);
        return finding(here, Damage::Edited, text);
    }
    if link.seq < expected {
        let text = format!("record {} again, where {expected} must be", link.seq);
        return finding(here, Damage::Inserted, text);
    }
    while let Some((there, candidate)) = behind {
        if candidate.is_some_and(|found| found.seq == expected && found.prev == Some(head.hash)) {
            let text = format!(
                "record {} stands where {expected} must be, which is at {}:{}",
                link.seq,
                files[there.file].path().display(),
                there.line
            );
            return finding(here, Damage::Reordered, text);
        }
        behind = next(&mut lines)?;
    }
    let missing = match link.seq - expected {
        1 => format!("record {expected} is not there"),
        _ => format!("records {expected} to {} are not there", link.seq - 1),
    };
    let hint = match before {
        None => format!(
            "; name the older files too, or leave them out knowingly with --from {}",
            link.seq
        ),
        Some(_) => String::new(),
    };
    finding(here, Damage::Missing, missing + &hint)
}
