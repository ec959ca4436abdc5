//! One file of a log, as it was when the log's files were listed. It is read later, and may have another name by then.

use crate::{
    audit::{
        naming::{first_record, forms},
        reader::LogReader,
    },
    files::regular,
};
use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

/// The first descriptor that no file is held open with. The system gives the lowest that is free, so its number says how many are in
/// use; a process may have 1,024 by default. A file that is not held is still known by its inode.
const FIRST_TOO_MANY: RawFd = 128;

/// What a file was when it was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileMark {
    device: u64,
    inode: u64,
    octets: u64,
}

impl FileMark {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            octets: metadata.len(),
        }
    }

    /// Whether it is the same file, which may have grown.
    fn is_of_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// A file of a log. One that was rotated keeps its name, apart from the ending of a compressed file. The program may give any other file
/// another name at any moment, so that is held open.
#[derive(Clone, Debug)]
pub(crate) struct ListedFile {
    path: PathBuf,
    held: Option<Arc<File>>,
    mark: FileMark,
}

impl ListedFile {
    /// The file of this name; where it was rotated, in the form that is there.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        if first_record(path).is_some() {
            let (path, metadata) = in_any_form(path, |path| fs::metadata(path))?;
            let mark = FileMark::of(&metadata);
            let held = None;
            return Ok(Self { path, held, mark });
        }
        let file = regular(path)?;
        Ok(Self {
            path: path.to_owned(),
            mark: FileMark::of(&file.metadata()?),
            held: (file.as_raw_fd() < FIRST_TOO_MANY).then(|| Arc::new(file)),
        })
    }

    /// The name that it had.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its length then.
    pub(super) fn octets(&self) -> u64 {
        self.mark.octets
    }

    /// The number of its first record, where its name has it.
    pub(super) fn named_first(&self) -> Option<u64> {
        first_record(&self.path)
    }

    /// Reads it from its beginning, under whatever name.
    ///
    /// # Errors
    /// It cannot be read. The kind `ResourceBusy` says that it is not there any more.
    pub(super) fn open(&self) -> io::Result<LogReader> {
        if let Some(held) = &self.held {
            return LogReader::of(held.clone(), &self.path);
        }
        let opened = match self.named_first() {
            Some(_) => in_any_form(&self.path, regular),
            None => regular(&self.path).map(|file| (self.path.clone(), file)),
        };
        let (path, file) = match opened {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(changed()),
            opened => opened?,
        };
        let mark = FileMark::of(&file.metadata()?);
        if self.named_first().is_none() && !mark.is_of_same_file(&self.mark) {
            return Err(changed());
        }
        LogReader::of(Arc::new(file), &path)
    }

    /// Whether what was read of it may be other than what is there now. Only a file that is written, one of `running`, may have grown,
    /// under whatever name it is read: the name of a rotated file may be a link to it.
    pub(super) fn has_changed(&self, running: &[Self]) -> bool {
        let now = match &self.held {
            Some(held) => held.metadata(),
            None => fs::metadata(&self.path),
        };
        let Ok(now) = now.map(|now| FileMark::of(&now)) else {
            return true;
        };
        let may_grow = |file: &Self| file.mark.is_of_same_file(&self.mark);
        match self.named_first() {
            Some(_) if !running.iter().any(may_grow) => now != self.mark,
            _ => !now.is_of_same_file(&self.mark) || now.octets < self.mark.octets,
        }
    }

    /// Whether its name still leads to it.
    pub(super) fn has_its_name(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|there| FileMark::of(&there).is_of_same_file(&self.mark))
    }
}

/// What `look` gives for the first form of a rotated file that is there, with the name of that form.
///
/// # Errors
/// None is there, or the system fails.
pub(super) fn in_any_form<T>(
    file: &Path,
    look: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    // One form is complete before another goes. So whoever finds none looked at the right one too early.
    let names = [file.to_owned()].into_iter().chain(forms(file));
    let names: Vec<PathBuf> = names.collect();
    let mut last = ErrorKind::NotFound.into();
    for name in names.iter().chain(&names) {
        match look(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => last = error,
            found => return Ok((name.clone(), found?)),
        }
    }
    Err(last)
}

/// What is said where a log that is being read is not the same any more, and reading it again may help.
pub(crate) fn changed() -> io::Error {
    let words = "the log changed while it was read: try again";
    io::Error::new(ErrorKind::ResourceBusy, words)
}

#[cfg(test)]
pub(in crate::audit) mod tests {
    use super::*;
    use crate::audit::naming::with_suffix;
    use std::io::{Read, Write};

    /// A directory, gone afterwards.
    pub(in crate::audit) struct Folder(pub(in crate::audit) PathBuf);

    impl Folder {
        /// With files of this content.
        pub(in crate::audit) fn new(name: &str, files: &[&str], content: &str) -> Self {
            let name = format!("listed-{name}-{}", std::process::id());
            let folder = Self(std::env::temp_dir().join(name));
            fs::create_dir_all(&folder.0).unwrap();
            for file in files {
                fs::write(folder.0.join(file), content).unwrap();
            }
            folder
        }

        /// With a running log.
        fn with_log(name: &str) -> Self {
            Self::new(name, &["log"], "old")
        }

        fn log(&self) -> PathBuf {
            self.0.join("log")
        }

        fn rotated(&self) -> PathBuf {
            with_suffix(&self.log(), "20261129.000000000007")
        }

        fn rotate(&self) {
            fs::rename(self.log(), self.rotated()).unwrap();
            fs::write(self.log(), "new").unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn content(file: &ListedFile) -> Result<String, ErrorKind> {
        let mut text = String::new();
        let open = file.open().map_err(|error| error.kind());
        open?.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn a_file_that_gets_another_name_is_read_with_what_was_written_to_it_since() {
        let folder = Folder::with_log("held");
        let file = ListedFile::find(&folder.log()).unwrap();
        assert!(file.has_its_name());
        let mut writer = fs::OpenOptions::new();
        let mut writer = writer.append(true).open(folder.log()).unwrap();
        folder.rotate();
        writer.write_all(b" and more").unwrap();
        assert_eq!(content(&file).as_deref(), Ok("old and more"));
        fs::remove_file(folder.rotated()).unwrap();
        assert_eq!(content(&file).as_deref(), Ok("old and more"));
        assert!(!file.has_changed(&[]) && !file.has_its_name());
        writer.set_len(2).unwrap();
        assert!(file.has_changed(&[]));
    }

    #[test]
    fn without_a_descriptor_another_file_of_the_name_is_never_taken_for_it() {
        let folder = Folder::with_log("not-held");
        let file = ListedFile {
            held: None,
            ..ListedFile::find(&folder.log()).unwrap()
        };
        assert_eq!(content(&file).as_deref(), Ok("old"));
        assert!(!file.has_changed(&[]));
        folder.rotate();
        assert_eq!(content(&file), Err(ErrorKind::ResourceBusy));
        assert!(file.has_changed(&[]));
        fs::remove_file(folder.log()).unwrap();
        assert_eq!(content(&file), Err(ErrorKind::ResourceBusy));
    }

    #[test]
    fn a_rotated_file_is_read_in_whatever_form_it_is_there() {
        let folder = Folder::with_log("forms");
        folder.rotate();
        let plain = folder.rotated();
        let packed = with_suffix(&plain, "gz");
        let file = ListedFile::find(&plain).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"old").unwrap();
        fs::write(&packed, gzip.finish().unwrap()).unwrap();
        fs::remove_file(&plain).unwrap();
        assert_eq!(content(&file).as_deref(), Ok("old"));
        assert!(file.has_changed(&[]));
        let file = ListedFile::find(&plain).unwrap();
        assert_eq!(file.path(), packed);
        assert!(!file.has_changed(&[]));
        fs::write(&plain, "old").unwrap();
        fs::remove_file(&packed).unwrap();
        assert_eq!(content(&file).as_deref(), Ok("old"));
        fs::remove_file(&plain).unwrap();
        assert_eq!(content(&file), Err(ErrorKind::ResourceBusy));
        assert!(ListedFile::find(&packed).is_err());
    }
}
