//! Files that are put aside because nothing may be lost, and records of a file that was deleted while it was written.

use super::with_suffix;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A log file that had been deleted and has its name again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroughtBack {
    /// Where the file is now that somebody had put in its place, if it was not empty.
    pub aside: Option<PathBuf>,
}

/// Whether nothing but this process knows the file any more.
pub(super) fn has_no_name(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() == 0)
}

/// Gives the name `path`, under which a file must stand, to a copy of the first `length` octets of `deleted`. At no moment nothing stands
/// there.
pub(super) fn bring_back(
    path: &Path,
    deleted: &File,
    length: u64,
) -> io::Result<(File, BroughtBack)> {
    let (beside, file) = copied_aside(path, deleted, length)?;
    let done = (|| {
        let is_empty = fs::metadata(path)?.len() == 0;
        exchange(&beside, path)?;
        if is_empty {
            fs::remove_file(&beside)?;
        }
        let aside = (!is_empty).then(|| beside.clone());
        Ok(BroughtBack { aside })
    })();
    match done {
        Ok(back) => Ok((file, back)),
        Err(error) => {
            if file.metadata().is_ok_and(|ours| is_at(&ours, &beside)) {
                let _ = fs::remove_file(&beside); // a part of what is still open
            }
            Err(error)
        }
    }
}

/// Copies the first `length` octets of `file` to a free name beside `path`, durably. No part of a copy is left.
pub(super) fn copied_aside(path: &Path, file: &File, length: u64) -> io::Result<(PathBuf, File)> {
    let (beside, copied) = saved(path)?;
    match copy(file, length, &copied) {
        Ok(()) => Ok((beside, copied)),
        Err(error) => {
            let _ = fs::remove_file(&beside); // what it is a part of is still there
            Err(error)
        }
    }
}

fn is_at(ours: &fs::Metadata, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

fn copy(from: &File, length: u64, to: &File) -> io::Result<()> {
    let (mut from, mut to) = (from, to);
    from.seek(SeekFrom::Start(0))?;
    io::copy(&mut from.take(length), &mut to)?;
    to.sync_all()
}

/// A new file under the first of these names that is free: `path.saved-1`, `path.saved-2` and so on.
fn saved(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut number = 1;
    loop {
        let beside = with_suffix(path, &format!("saved-{number}"));
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside);
        match file {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            file => return Ok((beside, file?)),
        }
    }
}

/// Each of the two files gets the other's name.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        // A file system that cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => exchange_in_steps(one, other),
        done => Ok(done?),
    }
}

fn exchange_in_steps(one: &Path, other: &Path) -> io::Result<()> {
    let between = with_suffix(one, "new");
    fs::rename(one, &between)?;
    fs::rename(other, one)?;
    fs::rename(between, other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_change_places_on_every_file_system() {
        let folder = std::env::temp_dir().join(format!("exchange-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (one, other) = (folder.join("one"), folder.join("other"));
        for (way, text) in [exchange, exchange_in_steps].iter().zip(["a", "b"]) {
            fs::write(&one, text).unwrap();
            fs::write(&other, "other").unwrap();
            way(&one, &other).unwrap();
            assert_eq!(fs::read_to_string(&one).unwrap(), "other");
            assert_eq!(fs::read_to_string(&other).unwrap(), text);
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
