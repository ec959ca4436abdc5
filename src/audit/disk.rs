//! The log's files: written by one process at a time, continued after a crash, and cut only where nothing was acknowledged.

mod end;
mod epochs;

pub(in crate::audit) use end::LogEnd;

use super::{
    Head, OpenError,
    epoch::NamedEpoch,
    known::{KnownEnd, lock_of},
};
use end::{find_end, last_head};
use epochs::{SecretsFile, named_in};
use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reopened {
    /// Octets that are kept in it, behind which the log goes on: all that were durable, or 0 for a new file.
    pub kept: u64,
    /// Someone cut off durable records, or put another log in place: the end of what is found there.
    pub cut: Option<Head>,
}

impl Reopened {
    fn whole(kept: u64) -> Self {
        Self { kept, cut: None }
    }
}

/// What the log needs of the file it is writing. [`FileDisk`] is the real implementation; tests put faults in front of it.
pub trait Disk: Send {
    /// After a failure: opens the file again, or creates it where it is gone. Cuts off everything behind the first `durable` octets,
    /// because all of that is written anew; so too in a file that was moved away.
    ///
    /// # Errors
    /// The system's error, or a file that is no audit log stands under the log's name.
    fn reopen(&mut self, durable: u64) -> io::Result<Reopened>;
    /// Goes on in a new file under the log's name, after the old file was moved away with `durable` octets in it. The new file has those
    /// too where the old file was deleted: `mv` to another file system ends with that, and nothing may be lost with it.
    ///
    /// # Errors
    /// The system's error, or a file that is no audit log stands there. The old file stays open then.
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
    /// The system's error.
    fn rotate(&mut self, suffix: &str) -> io::Result<Placement>;
    /// Keeps the secret keys of the log in a file beside it, over what was kept before, and returns when that is on stable storage.
    ///
    /// # Errors
    /// The system's error. What was kept before may be there, or part of the new content.
    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()>;
    /// Keeps a line outside the log's files, in place of the one before. It says up to where the log is durable.
    ///
    /// # Errors
    /// The system's error. Then the line may be missing, and an older one too.
    fn remember(&mut self, line: &[u8]) -> io::Result<()>;
}

/// A file on a file system.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    file: File,
    /// Of `file`. It holds as long as the file is open.
    id: FileId,
    /// Locked as long as this exists. The system unlocks it when the process dies. Its content is a [`KnownEnd`].
    lock: File,
    secrets: SecretsFile,
}

/// What tells a file from every other on this machine: its file system and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

impl FileDisk {
    /// Locks the log at `path`, finds its end in it or in the newest rotated file, and cuts off a torn last line.
    pub(super) fn open(path: &Path) -> Result<(Self, LogEnd), OpenError> {
        let problem = |error: io::Error| OpenError::of(&path.display(), &error);
        let lock = lockable(&lock_of(path)).map_err(problem)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Temporary(format!(
                    "{}: another process writes this log; give each its own file",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(problem(error)),
        }
        let mut file = private(path).map_err(problem)?;
        let mut content = Vec::new();
        (&lock).read_to_end(&mut content).map_err(problem)?;
        let found = find_end(path, &mut file, KnownEnd::read(&content))?;
        sync_directory(path).map_err(problem)?;
        let id = FileId::of(&file.metadata().map_err(problem)?);
        let disk = Self {
            path: path.to_owned(),
            file,
            id,
            lock,
            secrets: SecretsFile::of(path),
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
        match fs::metadata(&self.path) {
            Ok(there) => Ok(Some(there).filter(|there| FileId::of(there) == self.id)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes on with another file.
    fn go_on_with(&mut self, file: File) -> io::Result<()> {
        self.id = FileId::of(&file.metadata()?);
        self.file = file;
        Ok(())
    }

    /// Goes on behind the last record of a file that has not what was durable.
    fn take_what_is_left(&mut self, mut file: File) -> io::Result<Reopened> {
        let (kept, found) = last_head(&self.path, &mut file)?.ok_or_else(not_what_was_left)?;
        file.set_len(kept)?;
        file.sync_all()?;
        sync_directory(&self.path)?;
        self.go_on_with(file)?;
        Ok(Reopened {
            kept,
            cut: Some(found),
        })
    }

    /// Copies the durable part of a file that has no name any more to a new file under the log's name.
    fn restore(&self, durable: u64) -> io::Result<File> {
        let beside = with_suffix(&self.path, "saved");
        let copied = (|| {
            let mut file = private(&beside)?;
            file.set_len(0)?;
            let mut deleted = &self.file;
            deleted.seek(SeekFrom::Start(0))?;
            io::copy(&mut deleted.take(durable), &mut file)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            Ok(file)
        })();
        if copied.is_err() {
            let _ = fs::remove_file(&beside); // it may not be there
        }
        copied
    }
}

/// Whether the log at `file` lacks records that it had: how many there were, and how many there are. It may be being written meanwhile.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn missing_at_end(file: &Path) -> io::Result<Option<(u64, u64)>> {
    // Read first: it never leads the log.
    let Some(known) = KnownEnd::of_log(file) else {
        return Ok(None);
    };
    let found = match File::open(file) {
        Ok(mut open) => last_head(file, &mut open)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let found = found.map_or(0, |(_, head)| head.size);
    Ok((found < known.head.size).then_some((known.head.size, found)))
}

fn not_what_was_left() -> io::Error {
    io::Error::other(
        "this is not the file that was left here: look at it with audit verify, then move it away",
    )
}

impl Drop for FileDisk {
    /// Unlocks explicitly: a child process that was just forked may hold the file open for a moment longer.
    fn drop(&mut self) {
        let _ = self.lock.unlock(); // closing does it too
    }
}

impl Disk for FileDisk {
    fn reopen(&mut self, durable: u64) -> io::Result<Reopened> {
        let file = private(&self.path)?;
        let (there, here) = (file.metadata()?, self.file.metadata()?);
        let same = FileId::of(&there) == self.id;
        if !same && here.len() > durable {
            // Octets that may have reached the file that was moved away are written anew, so they must not stand there too.
            self.file.set_len(durable)?;
            self.file.sync_all()?;
        }
        if !same {
            drop(file);
            return self.begin(durable);
        }
        if there.len() < durable {
            return self.take_what_is_left(file);
        }
        file.set_len(durable)?;
        sync_directory(&self.path)?;
        self.go_on_with(file)?;
        Ok(Reopened::whole(durable))
    }

    fn begin(&mut self, durable: u64) -> io::Result<Reopened> {
        let file = private(&self.path)?;
        if file.metadata()?.len() > 0 {
            return self.take_what_is_left(file);
        }
        let is_deleted = self.file.metadata()?.nlink() == 0;
        let (file, kept) = match is_deleted.then(|| self.restore(durable)).transpose() {
            Ok(Some(restored)) => (restored, durable),
            Ok(None) => (file, 0),
            // An administrator who deletes a log on a full disk wants the room. The log says what is missing.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return self.take_what_is_left(file);
            }
            Err(error) => return Err(error),
        };
        sync_directory(&self.path)?;
        self.go_on_with(file)?;
        Ok(Reopened::whole(kept))
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
        if aside.try_exists()? {
            return Err(io::Error::other(format!(
                "{} is in the way",
                aside.display()
            )));
        }
        fs::rename(&self.path, &aside)?;
        self.go_on_with(private(&self.path)?)?;
        sync_directory(&self.path)?;
        Ok(Placement::InPlace)
    }

    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()> {
        self.secrets.keep(content)
    }

    fn remember(&mut self, line: &[u8]) -> io::Result<()> {
        self.lock.write_all_at(line, 0)
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

/// Opens for reading and appending; creates with mode 0600.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
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
