//! What was done to a log, told from the first line that does not fit and what stands around it.

use super::lines::Lines;
use crate::audit::chain::{Hash, Head, Header};
use std::{fmt, io, path::PathBuf};

/// What was done.
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
    /// Lines were changed and the chain behind them made anew, or the log was replaced; a signature or an anchor says so.
    Rewritten,
    /// A checkpoint, or its signature, is not there where one must be.
    Unsigned,
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
        })
    }
}

/// Where a line stands: the file's place in the list, and the line in it, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) line: u64,
}

/// The first thing that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; of a cut, the last line that is there.
    pub line: u64,
    /// What was done.
    pub damage: Damage,
    /// In words.
    pub text: String,
}

impl Finding {
    pub(super) fn at(files: &[PathBuf], place: Place, damage: Damage, text: String) -> Self {
        Self {
            file: files.get(place.file).cloned().unwrap_or_default(),
            line: place.line,
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

/// The line that did not fit, and the one behind it.
struct Seen {
    seq: u64,
    prev: Option<Hash>,
    hash: Hash,
    /// A checkpoint whose note says what its header says: it is as it was written.
    vouched: bool,
}

impl Seen {
    fn read(line: &[u8]) -> Option<Self> {
        let header = Header::read(line)?;
        let hash = header.prev();
        let note = (header.event == b"checkpoint")
            .then(|| serde_json::from_slice::<super::Own>(line).ok()?.note)
            .flatten();
        let vouched = note
            .as_deref()
            .and_then(super::Note::read)
            .is_some_and(|note| note.head.size == header.seq && Some(note.head.hash) == hash);
        Some(Self {
            seq: header.seq,
            prev: hash,
            hash: Hash::of(line),
            vouched,
        })
    }
}

/// Says what was done where the line at `place` does not follow `head`, the chain's end at the line `before` it.
pub(super) fn diagnose(
    place: Place,
    damage: Damage,
    files: &[PathBuf],
    head: &Head,
    before: Option<Place>,
) -> io::Result<Finding> {
    let finding = |place, damage, text| Ok(Finding::at(files, place, damage, text));
    let expected = head.size;
    let mut rest = Rest::from(files, place)?;
    let Some((_, Some(here))) = rest.next()? else {
        return finding(place, damage, "this is no record".into());
    };
    let behind = rest.next()?;
    let next = behind.as_ref().and_then(|(_, seen)| seen.as_ref());
    if here.seq == expected {
        let as_written = here.vouched || next.is_some_and(|next| next.prev == Some(here.hash));
        return match before {
            Some(before) if as_written => finding(
                before,
                Damage::Edited,
                format!(
                    "record {} is not the one that record {expected} names: it was changed, or all behind it comes from elsewhere",
                    expected - 1
                ),
            ),
            Some(before) if next.is_none() => finding(
                before,
                Damage::Edited,
                format!(
                    "record {} or {expected} is not what was written",
                    expected - 1
                ),
            ),
            _ => finding(
                place,
                Damage::Edited,
                format!("record {expected} is not what was written"),
            ),
        };
    }
    if here.prev == Some(head.hash) && next.is_some_and(|next| next.seq == expected + 1) {
        let text = format!("record {expected} says it is number {}", here.seq);
        return finding(place, Damage::Edited, text);
    }
    if here.seq < expected {
        let text = format!("record {} again, where {expected} must be", here.seq);
        return finding(place, Damage::Inserted, text);
    }
    let mut candidate = behind;
    while let Some((there, seen)) = candidate {
        if seen.is_some_and(|seen| seen.seq == expected && seen.prev == Some(head.hash)) {
            let there = Finding::at(files, there, Damage::Reordered, String::new());
            let text = format!(
                "record {} stands where {expected} must be, which is at {}:{}",
                here.seq,
                there.file.display(),
                there.line
            );
            return finding(place, Damage::Reordered, text);
        }
        candidate = rest.next()?;
    }
    let missing = match here.seq - expected {
        1 => format!("record {expected} is not there"),
        _ => format!("records {expected} to {} are not there", here.seq - 1),
    };
    let hint = match before {
        None => format!(
            "; name the older files too, or leave them out knowingly with --from {}",
            here.seq
        ),
        Some(_) => String::new(),
    };
    finding(place, Damage::Missing, missing + &hint)
}

/// The lines from one on, through all files.
struct Rest<'a> {
    files: &'a [PathBuf],
    file: usize,
    lines: Lines,
}

impl<'a> Rest<'a> {
    fn from(files: &'a [PathBuf], place: Place) -> io::Result<Self> {
        let mut lines = Lines::open(&files[place.file])?;
        for _ in 1..place.line {
            lines.next()?;
        }
        Ok(Self {
            files,
            file: place.file,
            lines,
        })
    }

    fn next(&mut self) -> io::Result<Option<(Place, Option<Seen>)>> {
        loop {
            let file = self.file;
            if let Some(line) = self.lines.next()? {
                let place = Place {
                    file,
                    line: line.number,
                };
                return Ok(Some((place, Seen::read(line.bytes))));
            }
            self.file += 1;
            let Some(path) = self.files.get(self.file) else {
                return Ok(None);
            };
            self.lines = Lines::open(path)?;
        }
    }
}
