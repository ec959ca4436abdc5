//! The log's files: written by one process at a time, continued after a crash, and cut only where nothing was acknowledged.

mod aside;
mod end;
mod epochs;
mod lines;
mod lock;

pub use aside::BroughtBack;
pub(in crate::audit) use end::LogEnd;
pub use lock::EndKept;

use super::{
    Head, OpenError,
    epoch::NamedEpoch,
    known::{KnownEnd, lock_of},
    naming::{is_there, with_suffix},
};
use aside::{bring_back, has_no_name};
use end::{find_end, last_head};
use epochs::{SecretsFile, named_in};
use lines::{BoundedLines, has_others};
use lock::{LockFile, is_locked};
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};
use zeroize::Zeroizing;

/// Whether the file that is being written still has the log's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The file still has the log's name, and the operation is done.
    InPlace,
    /// Someone moved it away, so nothing was done. Its content stays in it; the caller goes on with [`Disk::begin`].
    MovedAway,
}

/// The file under the log's name, after it was opened again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reopened {
    /// Octets that are kept in it, behind which the log goes on: all that were durable, or 0 for a new file.
    pub kept: u64,
    /// It is another file, or it was cut, or somebody else wrote records to it: the end of what is found there.
    pub found: Option<Head>,
    /// The file had been deleted, and its records are back.
    pub back: Option<BroughtBack>,
}

impl Reopened {
    fn whole(kept: u64) -> Self {
        Self {
            kept,
            found: None,
            back: None,
        }
    }
}

/// What the log needs of the file it is writing. [`FileDisk`] is the real implementation; tests put faults in front of it.
pub trait Disk: Send {
    /// After a failure: opens the file again, or creates it where it is gone. `unsure` are the lines that may stand behind the first
    /// `durable` octets, whole or in part. They are cut off there, because they are written anew; so too in a file that was moved away.
    /// Records that somebody else wrote there stay.
    ///
    /// # Errors
    /// The system's error, a file that is no audit log stands under the log's name, or another process writes the log.
    fn reopen(&mut self, durable: u64, unsure: &[u8]) -> io::Result<Reopened>;
    /// Goes on in a new file under the log's name, after the old file was moved away with `durable` octets in it. The new file has those
    /// too where the old file was deleted: `mv` to another file system ends with that, and nothing may be lost with it. A file that was
    /// put in the place of the deleted one is put aside.
    ///
    /// # Errors
    /// The system's error, a file that is no audit log stands there, or another process writes the log. The old file stays open then.
    fn begin(&mut self, durable: u64) -> io::Result<Reopened>;
    /// Writes whole lines behind the first `length` octets, which must be all that the file has.
    ///
    /// # Errors
    /// The system's error, or someone else cut the file or wrote to it. Any part of `lines` may be in the file then.
    fn append(&mut self, length: u64, lines: &[u8]) -> io::Result<Placement>;
    /// Returns when everything written is on stable storage.
    ///
    /// # Errors
    /// The system's error. Everything written since the last success may be lost then, even if a later call succeeds.
    fn sync(&mut self) -> io::Result<()>;
    /// Puts the file aside under its name and `suffix`, and begins a new one.
    ///
    /// # Errors
    /// The system's error; `AlreadyExists`: that name is taken, and nothing was done.
    fn rotate(&mut self, suffix: &str) -> io::Result<Placement>;
    /// Keeps the secret keys of the log in a file beside it, over what was kept before, and returns when that is on stable storage.
    ///
    /// # Errors
    /// The system's error. What was kept before may be there, or part of the new content.
    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()>;
    /// Keeps a line outside the log's files, in place of the one before. It says up to where the log is durable.
    ///
    /// # Errors
    /// The system's error, or another process writes the log. Then the line may be missing, and an older one too.
    fn remember(&mut self, line: &[u8]) -> io::Result<EndKept>;
}

/// A file on a file system.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    file: File,
    /// Of `file`. It holds as long as the file is open.
    id: FileId,
    /// Its content is a [`KnownEnd`].
    lock: LockFile,
    secrets: SecretsFile,
    /// Makes names in the log's directory durable. Tests put a fault in its place.
    sync_directory: fn(&Path) -> io::Result<()>,
}

/// What tells a file from every other on this machine: its file system and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }

    /// Of the file that has this name; `None` where none has it.
    fn at(path: &Path) -> io::Result<Option<Self>> {
        Ok(there(path)?.as_ref().map(Self::of))
    }
}

impl FileDisk {
    /// Locks the log at `path`, finds its end in it or in the newest rotated file, and cuts off a torn last line.
    pub(super) fn open(path: &Path) -> Result<(Self, LogEnd), OpenError> {
        let problem = |error: io::Error| OpenError::of(&path.display(), &error);
        let lock = LockFile::take(lock_of(path)).map_err(problem)?;
        let Some(lock) = lock else {
            return Err(OpenError::Temporary(format!(
                "{}: another process writes this log; give each its own file",
                path.display()
            )));
        };
        let file = private(path).map_err(problem)?;
        let content = lock.content().map_err(problem)?;
        let found = find_end(path, &file, KnownEnd::read(&content))?;
        sync_directory(path).map_err(problem)?;
        let id = FileId::of(&file.metadata().map_err(problem)?);
        let disk = Self {
            path: path.to_owned(),
            file,
            id,
            lock,
            secrets: SecretsFile::of(path),
            sync_directory,
        };
        Ok((disk, found))
    }

    /// The secret keys that were kept.
    pub(super) fn secrets(&self) -> Result<Option<Zeroizing<Vec<u8>>>, OpenError> {
        self.secrets.read()
    }

    /// Which epoch key the log names as the next to sign. On return, the record that names it is on stable storage.
    pub(super) fn named_epoch(&self) -> Result<NamedEpoch, OpenError> {
        named_in(&self.path)
    }

    /// The open file as it stands under the log's name; `None` where it was moved away.
    fn in_place(&self) -> io::Result<Option<Metadata>> {
        Ok(there(&self.path)?.filter(|there| FileId::of(there) == self.id))
    }

    /// Goes on with another file.
    fn go_on_with(&mut self, file: File) -> io::Result<()> {
        self.id = FileId::of(&file.metadata()?);
        self.file = file;
        Ok(())
    }

    /// Goes on behind the last record of a file that has not what was durable.
    fn take_what_is_left(&mut self, file: File) -> io::Result<Reopened> {
        let (kept, found) = last_head(&self.path, Some(&file))?.ok_or_else(not_what_was_left)?;
        file.set_len(kept)?;
        file.sync_all()?;
        (self.sync_directory)(&self.path)?;
        self.go_on_with(file)?;
        Ok(Reopened {
            found: Some(found),
            ..Reopened::whole(kept)
        })
    }

    /// Gives the log's name to a file with the durable part of the open one, which has no name any more, and goes on with that.
    fn go_on_where_it_was_deleted(&mut self, durable: u64) -> io::Result<Reopened> {
        let (file, back) = bring_back(&self.path, &self.file, durable)?;
        let reopened = match file.metadata()?.len() == durable {
            true => {
                (self.sync_directory)(&self.path)?;
                self.go_on_with(file)?;
                Reopened::whole(durable)
            }
            // It was cut before it was deleted.
            false => self.take_what_is_left(file)?,
        };
        Ok(Reopened {
            back: Some(back),
            ..reopened
        })
    }
}

/// How the end of a log compares with the one that is remembered outside its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndFound {
    /// No record is missing that was there, as far as that is remembered.
    Whole,
    /// The log has fewer records than it had.
    Missing {
        /// Number of records that there were.
        known: u64,
        /// Number of records that are there.
        found: u64,
    },
    /// There is no file under the log's name, and a process writes the log: it begins a new file with its next record.
    MovedAway,
}

/// Compares them for the log at `file`, which may be being written meanwhile.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn end_found(file: &Path) -> io::Result<EndFound> {
    // Read first: it never leads the log.
    let Some(known) = KnownEnd::of_log(file) else {
        return Ok(EndFound::Whole);
    };
    let known = known.head.size;
    let open = match File::open(file) {
        Ok(open) => Some(open),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let found = last_head(file, open.as_ref())?;
    let found = found.map_or(0, |(_, head)| head.size);
    Ok(match found < known {
        false => EndFound::Whole,
        true if open.is_none() && is_locked(&lock_of(file))? => EndFound::MovedAway,
        true => EndFound::Missing { known, found },
    })
}

/// Whether the file that is being written has a record of a cut.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn admits_a_cut(file: &Path) -> io::Result<bool> {
    let mut lines = BoundedLines::of_file(file)?;
    while let Some(line) = lines.next()? {
        if line.header().is_some_and(|it| it.event == b"log-cut") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn not_what_was_left() -> io::Error {
    io::Error::other(
        "this is not the file that was left here: look at it with audit verify, then move it away",
    )
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

impl Disk for FileDisk {
    fn reopen(&mut self, durable: u64, unsure: &[u8]) -> io::Result<Reopened> {
        self.lock.hold()?;
        if self.in_place()?.is_none() {
            // Octets that may have reached the file that was moved away are written anew, so they must not stand there too.
            let length = self.file.metadata()?.len();
            if length > durable && !has_others(&self.file, durable, unsure)? {
                self.file.set_len(durable)?;
                self.file.sync_all()?;
            }
            return self.begin(durable);
        }
        let file = private(&self.path)?;
        let length = file.metadata()?.len();
        if length < durable || length > durable && has_others(&file, durable, unsure)? {
            return self.take_what_is_left(file);
        }
        file.set_len(durable)?;
        (self.sync_directory)(&self.path)?;
        self.go_on_with(file)?;
        Ok(Reopened::whole(durable))
    }

    fn begin(&mut self, durable: u64) -> io::Result<Reopened> {
        self.lock.hold()?;
        let file = private(&self.path)?;
        if durable > 0 && has_no_name(&self.file)? {
            match self.go_on_where_it_was_deleted(durable) {
                // An administrator who deletes a log on a full disk wants the room. The log says what is missing.
                Err(error) if is_full(&error) => {
                    return self.take_what_is_left(file);
                }
                done => return done,
            }
        }
        if file.metadata()?.len() > 0 {
            return self.take_what_is_left(file);
        }
        (self.sync_directory)(&self.path)?;
        self.go_on_with(file)?;
        Ok(Reopened::whole(0))
    }

    fn append(&mut self, length: u64, lines: &[u8]) -> io::Result<Placement> {
        let in_place = self.in_place()?;
        let here = match &in_place {
            Some(here) => here.len(),
            None => self.file.metadata()?.len(),
        };
        if here != length {
            return Err(io::Error::other(format!(
                "the file has {here} octets where {length} were written: someone else cut it or wrote to it",
            )));
        }
        if in_place.is_none() {
            return Ok(Placement::MovedAway);
        }
        self.file.write_all(lines)?;
        Ok(Placement::InPlace)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn rotate(&mut self, suffix: &str) -> io::Result<Placement> {
        if self.in_place()?.is_none() {
            return Ok(Placement::MovedAway);
        }
        let aside = with_suffix(&self.path, suffix);
        if is_there(&aside)? {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is in the way", aside.display()),
            ));
        }
        fs::rename(&self.path, &aside)?;
        let file = private(&self.path)?;
        // Up to here the open file is the old one, which counts as moved away if one of these steps fails.
        (self.sync_directory)(&self.path)?;
        self.go_on_with(file)?;
        Ok(Placement::InPlace)
    }

    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()> {
        self.secrets.keep(content)
    }

    fn remember(&mut self, line: &[u8]) -> io::Result<EndKept> {
        self.lock.remember(line)
    }
}

/// Whether there is no room on the disk, or none for this user.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The file that has this name; `None` where none has it.
fn there(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens for reading and appending; creates with mode 0600.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// The day (UTC) of a time, in days since 1970.
pub(super) fn day_of(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs() / 86_400
}

#[cfg(test)]
mod tests;
