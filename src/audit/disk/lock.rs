//! The file that keeps a second writer away from a log, and that remembers the log's end.

use super::{FileId, sync_directory};
use crate::{
    audit::known::LONGEST,
    files::{beginning, regular},
};
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Whether the end of the log could be kept where it was kept before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKept {
    /// Yes.
    InPlace,
    /// The file was gone, or another one had its name. There is a new one, which this process has locked.
    Anew,
}

/// `FILE.lock`. Whoever has locked the file under that name writes the log. A lock on a file that was deleted or moved away keeps nobody
/// away, so it is looked whether the name still means this file.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    /// Locked as long as this exists. The system unlocks it when the process dies.
    file: File,
    id: FileId,
    /// It took the place of one that was gone, and nobody was told yet.
    is_anew: bool,
}

impl LockFile {
    /// Locks the file at `path`, and makes it where it is not there. `None`: another process has locked it.
    pub(super) fn take(path: PathBuf) -> io::Result<Option<Self>> {
        loop {
            let file = lockable(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let id = FileId::of(&file.metadata()?);
            // It may have been deleted between the two.
            if FileId::at(&path)? == Some(id) {
                return Ok(Some(Self {
                    path,
                    file,
                    id,
                    is_anew: false,
                }));
            }
        }
    }

    /// What the file begins with.
    pub(super) fn content(&self) -> io::Result<Vec<u8>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        beginning(file, LONGEST)
    }

    /// Sees that the file under the name is the one that this process has locked, and takes another where that is not so.
    ///
    /// # Errors
    /// The system's error, or another process has locked the file that is there now: it writes the log.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        if FileId::at(&self.path)? == Some(self.id) {
            return Ok(());
        }
        let Some(taken) = Self::take(self.path.clone())? else {
            return Err(io::Error::other(format!(
                "{} was deleted, and another process has locked a new one and writes this log; stop one of the two",
                self.path.display()
            )));
        };
        sync_directory(&self.path)?;
        *self = Self {
            is_anew: true,
            ..taken
        };
        Ok(())
    }

    /// Keeps a line in place of the one before.
    pub(super) fn remember(&mut self, line: &[u8]) -> io::Result<EndKept> {
        self.hold()?;
        self.file.write_all_at(line, 0)?;
        Ok(match std::mem::take(&mut self.is_anew) {
            true => EndKept::Anew,
            false => EndKept::InPlace,
        })
    }

    /// Unlocks explicitly: a child process that was just forked may hold the file open for a moment longer.
    pub(super) fn unlock(&self) {
        let _ = self.file.unlock(); // closing does it too
    }
}

/// Whether a process has locked the file at `path`, and so writes the log.
pub(super) fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Opens for reading, and for writing anywhere; creates with mode 0600.
fn lockable(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}
