//! The files of a log that a program may be writing just now: which they are, and whether they are others a moment later.

use super::lines::{LogOrder, in_order};
use crate::audit::{known::KnownEnd, naming::all_rotated};
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// How often the files are listed again because one of them has gone meanwhile.
const TRIES: usize = 4;

/// Tells a file from others, whatever its name becomes.
type FileMark = (u64, u64);

fn mark(file: &Path) -> io::Result<FileMark> {
    let metadata = fs::metadata(file)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The files of one log as they were found.
pub(crate) struct LogListing {
    /// The files that were named, with the marks that they had before anything was read.
    named: Vec<(PathBuf, Option<FileMark>)>,
    order: LogOrder,
    known: Option<KnownEnd>,
}

impl LogListing {
    /// Lists the files. A single file stands for itself and all files that were rotated out of it.
    ///
    /// # Errors
    /// A file or its directory cannot be read.
    pub(crate) fn new(files: &[PathBuf]) -> io::Result<Self> {
        let named = files.iter().map(|file| (file.clone(), mark(file).ok()));
        let named = named.collect();
        // What is remembered beside the log is read first, so that the files have at least that.
        let known: Vec<_> = files.iter().map(|file| KnownEnd::of_log(file)).collect();
        let mut tries = 0..TRIES;
        let order = loop {
            match in_order(files) {
                // One that was rotated or compressed meanwhile has another name now.
                Err(error) if error.kind() == ErrorKind::NotFound && tries.next().is_some() => {}
                order => break order?,
            }
        };
        let newest = order.files.last();
        let newest = files.iter().position(|file| Some(file) == newest);
        let known = newest.and_then(|at| known.into_iter().nth(at)).flatten();
        Ok(Self {
            named,
            order,
            known,
        })
    }

    pub(crate) fn order(&self) -> &LogOrder {
        &self.order
    }

    /// The end that is remembered beside the newest file.
    pub(super) fn known_end(&self) -> Option<KnownEnd> {
        self.known.clone()
    }

    /// The same log listed anew, if its files are not the same any more; `None` if they are. A file that was rotated since then is among
    /// them under its new name.
    pub(crate) fn changed(&self) -> Option<io::Result<Self>> {
        let mut files: Vec<_> = self.named.iter().map(|(file, _)| file.clone()).collect();
        let has_another = |(file, was): &&(PathBuf, Option<FileMark>)| mark(file).ok() != *was;
        let moved: Vec<_> = self.named.iter().filter(has_another).collect();
        if files.len() > 1 {
            for (file, was) in &moved {
                let rotated = all_rotated(file).unwrap_or_default();
                let is_it = |one: &PathBuf| was.is_some() && mark(one).ok() == *was;
                let again = rotated.into_iter().find(is_it);
                files.extend(again.filter(|one| !self.named.iter().any(|(named, _)| named == one)));
            }
        }
        let listed = match Self::new(&files) {
            Ok(listed) => listed,
            Err(error) => return Some(Err(error)),
        };
        let is_same = moved.is_empty() && listed.order.files == self.order.files;
        (!is_same).then_some(Ok(listed))
    }
}
