//! The file of secret keys beside the log, and which of them the log names.

use super::{FileId, OpenError, lines::BoundedLines, sync_directory, with_suffix};
use crate::{
    audit::{
        chain::Header,
        checkpoint::SignedNote,
        epoch::{EpochPublic, NamedEpoch, named_by},
        naming::{EPOCH, rotated},
        reader::{damage, is_plain, tail},
    },
    files::beginning,
};
use serde::Deserialize;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Octets of a file's end that are read first to find a record about keys. It has one at least every thousand records.
const WINDOW: u64 = 4 << 20;

/// Octets that are read of `FILE.epoch`. The secrets have some 200.
const LONGEST: u64 = 4096;

/// `FILE.epoch`, whose content is overwritten where it stands, so that an old secret does not stay on the disk.
#[derive(Debug)]
pub(super) struct SecretsFile {
    path: PathBuf,
    open: Option<File>,
}

impl SecretsFile {
    /// Of the log at `log`.
    pub(super) fn of(log: &Path) -> Self {
        Self {
            path: with_suffix(log, EPOCH),
            open: None,
        }
    }

    /// What the file begins with; `None` where there is no such file.
    pub(super) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, OpenError> {
        match File::open(&self.path).and_then(|file| beginning(file, LONGEST)) {
            Ok(content) => Ok(Some(Zeroizing::new(content))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::of(&self.path.display(), &error)),
        }
    }

    /// Overwrites the content, and returns when that is on stable storage.
    pub(super) fn keep(&mut self, content: &[u8]) -> io::Result<()> {
        let file = match self.open.take() {
            Some(file) if self.is_in_place(&file)? => file,
            _ => self.create()?,
        };
        file.write_all_at(content, 0)?;
        if file.metadata()?.len() != content.len() as u64 {
            file.set_len(content.len() as u64)?;
        }
        file.sync_data()?;
        self.open = Some(file);
        Ok(())
    }

    fn is_in_place(&self, file: &File) -> io::Result<bool> {
        let here = FileId::of(&file.metadata()?);
        Ok(FileId::at(&self.path)? == Some(here))
    }

    fn create(&self) -> io::Result<File> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)?;
        sync_directory(&self.path)?;
        Ok(file)
    }
}

/// The fields about keys of `log-opened` and `checkpoint`.
#[derive(Deserialize)]
struct KeyFields {
    note: Option<String>,
    epoch: Option<String>,
}

/// The epoch key that the log at `log` names as the next to sign. On return, the
/// record that names it is on stable storage, so that the secret before it may be erased.
pub(super) fn named_in(log: &Path) -> Result<NamedEpoch, OpenError> {
    let mut files = rotated(log).map_err(|error| OpenError::of(&log.display(), &error))?;
    files.push(log.to_owned());
    for path in files.iter().rev() {
        let found = named_in_file(path).and_then(|found| {
            if found.is_some() {
                File::open(path)?.sync_all()?;
            }
            Ok(found)
        });
        if let Some(named) = found.map_err(|error| OpenError::of(&path.display(), &error))? {
            return Ok(named);
        }
    }
    Ok(NamedEpoch::Unknown)
}

/// What the last record about keys in a file says, which an administrator may have compressed; `None` where it has no such record.
fn named_in_file(path: &Path) -> io::Result<Option<NamedEpoch>> {
    if is_plain(path)
        && let Some(named) = named_at_end(&mut File::open(path)?)?
    {
        return Ok(Some(named));
    }
    let (mut lines, mut named) = (BoundedLines::of_file(path)?, None);
    loop {
        match lines.next() {
            Ok(Some(line)) if line.is_whole => named = named_by_line(line.bytes).or(named),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(named),
            // What stands behind the damage is not here.
            Err(error) if damage(&error).is_some() => return Ok(Some(NamedEpoch::Unknown)),
            Err(error) => return Err(error),
        }
    }
}

/// The same within the last octets of a plain file.
fn named_at_end(file: &mut File) -> io::Result<Option<NamedEpoch>> {
    let (from, bytes) = tail(file, WINDOW)?;
    // What is behind the last LF, or before the first in the middle of a file, is no whole line.
    let mut end = memchr::memrchr(b'\n', &bytes).unwrap_or_default();
    while let Some(begin) = line_before(&bytes, end, from == 0) {
        if let Some(named) = named_by_line(&bytes[begin..end]) {
            return Ok(Some(named));
        }
        end = begin.saturating_sub(1);
    }
    Ok(None)
}

/// Where the line begins that ends before `end`.
fn line_before(bytes: &[u8], end: usize, is_beginning: bool) -> Option<usize> {
    if end == 0 {
        return None;
    }
    match memchr::memrchr(b'\n', &bytes[..end]) {
        Some(before) => Some(before + 1),
        None => is_beginning.then_some(0),
    }
}

fn named_by_line(line: &[u8]) -> Option<NamedEpoch> {
    let event = Header::read(line)?.event;
    if ![&b"checkpoint"[..], b"log-opened"].contains(&event) {
        return None;
    }
    let fields: KeyFields = serde_json::from_slice(line).ok()?;
    let key = match &fields.note {
        Some(note) => named_by(&SignedNote::read(note)?),
        None => fields
            .epoch
            .as_deref()
            .and_then(EpochPublic::from_verifier)
            .map(|(_, key)| key),
    };
    Some(key.map_or(NamedEpoch::Nothing, NamedEpoch::Key))
}
