//! Several logs among one list of files, as a machine has them that collects the logs of many nodes.

use super::{
    lines::{LogLine, LogLines},
    listed::ListedFile,
    listing::LogListing,
};
use crate::{
    audit::{
        Hash,
        chain::{Header, Time},
        checkpoint::SignedNote,
        naming::{is_kept_beside, rotated_from},
        reader::{LogReader, damage},
    },
    files::named,
};
use serde::Deserialize;
use std::{collections::BTreeMap, io, path::PathBuf};

/// Files that the program itself named as parts of one log: `FILE`, and what was rotated out of it. A file with another name is alone.
struct LogFiles {
    files: Vec<PathBuf>,
    /// The number of its first record, and the hash that this record gives for the one before it.
    first: Option<(u64, Hash)>,
    /// The log's name, as its first record about the log or its first signed checkpoint gives it.
    origin: Option<String>,
    /// The hash of its last whole line.
    end: Option<Hash>,
}

/// The fields that name a log.
#[derive(Deserialize)]
struct NameFields {
    origin: Option<String>,
    note: Option<String>,
}

/// Splits files into logs, each of which [`super::verify`] can verify by itself.
///
/// A file belongs to the log whose records it continues, as the chain says, and to the log whose name it has. Files that have no name,
/// because they are short or damaged, belong to the one log if there is no other; else each is a log of its own, which lacks its
/// beginning. So whatever is put with the wrong log, or left alone, is found: a log must have all its records from the first on. What
/// the program keeps beside a log that is named, too, is no log.
///
/// # Errors
/// A file or its directory cannot be read.
pub(crate) fn logs(files: &[PathBuf]) -> io::Result<Vec<Vec<PathBuf>>> {
    let mut by_name: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for file in files.iter().filter(|file| !is_kept_beside(file, files)) {
        let family = by_name.entry(rotated_from(file)).or_default();
        family.push(file.clone());
    }
    let families = by_name.into_values().map(LogFiles::read);
    let families: Vec<LogFiles> = families.collect::<io::Result<_>>()?;
    let mut logs: Vec<Vec<LogFiles>> = Vec::new();
    let (named, nameless): (Vec<_>, Vec<_>) =
        families.into_iter().partition(|one| one.origin.is_some());
    for family in named {
        let fits = |log: &&mut Vec<LogFiles>| log.iter().any(|one| one.origin == family.origin);
        match logs.iter_mut().find(fits) {
            Some(log) => log.push(family),
            None => logs.push(vec![family]),
        }
    }
    if logs.len() < 2 {
        return Ok(vec![files.to_vec()]);
    }
    logs.extend(nameless.into_iter().map(|family| vec![family]));
    while let Some((before, behind)) = continuation(&logs) {
        let more = logs.remove(behind);
        logs[before - usize::from(behind < before)].extend(more);
    }
    let is_named = |log: &&Vec<LogFiles>| log.iter().any(|one| one.origin.is_some());
    if logs.iter().filter(is_named).count() < 2 {
        return Ok(vec![files.to_vec()]);
    }
    let files = |log: Vec<LogFiles>| log.into_iter().flat_map(|family| family.files).collect();
    Ok(logs.into_iter().map(files).collect())
}

/// Two logs, of which the second has a file that goes on where a file of the first ends: the log was renamed there, or the file is too
/// short to have a name.
fn continuation(logs: &[Vec<LogFiles>]) -> Option<(usize, usize)> {
    let ends = |log: &[LogFiles], link| log.iter().any(|one| one.end == Some(link));
    logs.iter().enumerate().find_map(|(behind, log)| {
        let others = logs.iter().enumerate();
        let mut others = others.filter(|(before, _)| *before != behind);
        let (before, _) = others.find(|(_, other)| {
            let mut links = log.iter().filter_map(LogFiles::link);
            links.any(|link| ends(other, link))
        })?;
        Some((before, behind))
    })
}

impl LogFiles {
    fn read(files: Vec<PathBuf>) -> io::Result<Self> {
        // A single file stands for those that were rotated out of it too.
        let all = LogListing::new(&files)?.into_order().files;
        let mut lines = LogLines::new(&all);
        let mut family = Self {
            files,
            first: None,
            origin: None,
            end: match all.last() {
                Some(newest) => last_line(newest)?.as_deref().map(Hash::of),
                None => None,
            },
        };
        let mut is_first = true;
        while let Some(line) = lines.next()? {
            let header = Header::read(line.bytes);
            if std::mem::take(&mut is_first) {
                family.first = header.and_then(|header| Some((header.seq, header.prev()?)));
            }
            if let Some(b"log-opened" | b"checkpoint") = header.map(|header| header.event) {
                family.origin = name_in(line.bytes);
            }
            if family.origin.is_some() {
                break;
            }
        }
        Ok(family)
    }

    /// The hash of the record before its first, unless it begins a log.
    fn link(&self) -> Option<Hash> {
        let (number, hash) = self.first?;
        (number > 0).then_some(hash)
    }
}

/// The last whole line of a file; `None` also where the file is damaged.
fn last_line(file: &ListedFile) -> io::Result<Option<Vec<u8>>> {
    let last = file.open().and_then(LogReader::last_line);
    match last {
        Ok(last) => Ok(last.map(|(line, _)| line)),
        Err(error) if damage(&error).is_some() => Ok(None),
        Err(error) => Err(named(file.path(), &error)),
    }
}

fn name_in(line: &[u8]) -> Option<String> {
    let fields: NameFields = serde_json::from_slice(line).ok()?;
    let note = || Some(SignedNote::read(fields.note.as_ref()?)?.origin.to_owned());
    fields.origin.clone().or_else(note)
}

/// The time in a line.
fn time_in(line: &[u8]) -> Time {
    let at = Header::read(line).and_then(|header| header.at.try_into().ok());
    at.unwrap_or([0; size_of::<Time>()])
}

/// The lines of several logs, merged by the times of their records. Lines of one log keep their order, whatever its clock did.
pub(crate) struct MergedLines<'a> {
    logs: Vec<LogLines<'a>>,
    /// The time of each log's next line, `None` at its end. A line that is no record has the time 0, so that it comes right behind the
    /// line before it.
    next: Vec<Option<Time>>,
    /// The log whose next time is not known yet.
    stale: Option<usize>,
}

/// The time of the next line, `None` at the end.
fn next_time(lines: &mut LogLines<'_>) -> io::Result<Option<Time>> {
    Ok(lines.peek()?.map(|line| time_in(line.bytes)))
}

impl<'a> MergedLines<'a> {
    /// Each of `logs` is the files of one log, in order.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn new(logs: impl Iterator<Item = &'a [ListedFile]>) -> io::Result<Self> {
        let mut logs: Vec<_> = logs.map(LogLines::new).collect();
        let next = logs.iter_mut().map(next_time);
        Ok(Self {
            next: next.collect::<io::Result<_>>()?,
            logs,
            stale: None,
        })
    }

    /// The next line, with the place of its log in the list.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<(usize, LogLine<'_>)>> {
        if self.logs.len() == 1 {
            // There is nothing to merge, so nobody needs the times.
            return match self.next[0] {
                Some(_) => Ok(self.logs[0].next()?.map(|line| (0, line))),
                None => Ok(None),
            };
        }
        if let Some(log) = self.stale.take() {
            self.next[log] = next_time(&mut self.logs[log])?;
        }
        let times = self.next.iter().enumerate();
        let earliest = times
            .filter_map(|(log, time)| Some((time.as_ref()?, log)))
            .min();
        let Some((_, log)) = earliest else {
            return Ok(None);
        };
        self.stale = Some(log);
        Ok(self.logs[log].next()?.map(|line| (log, line)))
    }
}
