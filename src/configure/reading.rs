//! One reading of all files of a configuration. The octets that are hashed are the octets that are in force, and each file's fault
//! is told with its name.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;

use crate::{audit, files, tls::sha256};

/// Number of readings before a file that changes during each of them is an error.
const TRIES: usize = 3;

/// SHA-256 of each file's octets (64 hexadecimal digits), or why the file cannot be read; by the file's name as it was given.
pub(super) type FileDigests = BTreeMap<PathBuf, Result<String, String>>;

/// The table whose text is in force: a file that a person writes. Between two requests of that person it is not read again.
#[derive(Clone, Debug)]
pub(super) struct TableText {
    pub(super) file: PathBuf,
    pub(super) text: String,
    sha256: String,
}

/// The files of one reading, and what was wrong with them.
#[derive(Debug, Default)]
pub(super) struct FileReading {
    /// The text that stands for a table, so that its file is not read.
    kept: Option<TableText>,
    /// The text of the table that was read.
    table: Option<TableText>,
    /// The files that were read, in the order in which the command line and the table name them.
    files: Vec<PathBuf>,
    digests: FileDigests,
    errors: Vec<String>,
}

impl FileReading {
    /// Reads `files` by calling `read`, which also [notes](Self::note) the files that it finds named in them. What `read` returns was
    /// made of the octets that are hashed: if a file changed in between, everything is read again. `kept` is a table that is not read
    /// again.
    pub(super) fn consistent<T>(
        files: &[PathBuf],
        kept: Option<&TableText>,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> (Self, Option<T>) {
        let mut tries = 1;
        loop {
            let mut reading = Self {
                kept: kept.cloned(),
                ..Self::default()
            };
            files.iter().for_each(|file| reading.note(file));
            if files
                .iter()
                .any(|file| !reading.keeps(file) && is_irregular(file))
            {
                // Reading a pipe could take forever.
                reading.add_unreadable();
                return (reading, None);
            }
            let mut made = read(&mut reading);
            let changed = reading
                .digests
                .iter()
                .find(|(file, before)| !reading.keeps(file) && digest_of(file) != **before)
                .map(|(file, _)| file.display().to_string());
            if let Some(file) = changed {
                if tries < TRIES {
                    tries += 1;
                    continue;
                }
                reading
                    .errors
                    .push(format!("{file}: it changes while it is read; try again"));
                made = None;
            }
            if reading.add_unreadable() {
                made = None;
            }
            return (reading, made);
        }
    }

    /// Adds an error for each file that could not be hashed, unless it has one. Returns whether there is such a file.
    fn add_unreadable(&mut self) -> bool {
        let unreadable = self.digests.iter().filter_map(|(file, digest)| {
            let words = digest.as_ref().err()?;
            Some((file.display().to_string(), words))
        });
        let unreadable: Vec<(String, String)> = unreadable
            .map(|(name, words)| (format!("{name}: {words}"), name))
            .collect();
        for (words, name) in &unreadable {
            if !self.errors.iter().any(|error| names_first(error, name)) {
                self.errors.push(words.clone());
            }
        }
        !unreadable.is_empty()
    }

    /// Hashes a file. Must be called before the file is read.
    pub(super) fn note(&mut self, file: &Path) {
        if self.digests.contains_key(file) {
            return;
        }
        let digest = match &self.kept {
            Some(kept) if kept.file == file => Ok(kept.sha256.clone()),
            _ => {
                self.files.push(file.to_owned());
                digest_of(file)
            }
        };
        self.digests.insert(file.to_owned(), digest);
    }

    fn keeps(&self, file: &Path) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.file == file)
    }

    /// The text of the table in this file, which was noted.
    pub(super) fn table_text(&mut self, file: &Path) -> io::Result<String> {
        let text = match &self.kept {
            Some(kept) if kept.file == file => kept.text.clone(),
            _ => files::text(file, files::LARGE)?,
        };
        self.table = self.sha256(file).map(|sha256| TableText {
            file: file.to_owned(),
            text: text.clone(),
            sha256,
        });
        Ok(text)
    }

    /// The table that was read, to be kept once this reading is in force.
    pub(super) fn table(&self) -> Option<TableText> {
        self.table.clone()
    }

    /// Every file that was named, a table that was kept among them.
    pub(super) fn named(&self) -> impl Iterator<Item = &Path> {
        self.digests.keys().map(PathBuf::as_path)
    }

    /// Keeps the error of an outcome. Each line of an error begins with the name of its file.
    pub(super) fn take<T>(&mut self, outcome: Result<T, String>) -> Option<T> {
        outcome
            .map_err(|words| self.errors.extend(words.lines().map(str::to_owned)))
            .ok()
    }

    /// SHA-256 of a file, 64 hexadecimal digits; `None` if the file was not noted or could not be read.
    pub(super) fn sha256(&self, file: &Path) -> Option<String> {
        self.digests.get(file)?.clone().ok()
    }

    /// All errors, one on each line.
    pub(super) fn words(&self) -> String {
        self.errors.join("\n")
    }

    /// The digests of all files, to be kept once this reading is in force.
    pub(super) fn digests(&self) -> FileDigests {
        self.digests.clone()
    }

    /// SHA-256 over the command line, the content of every file but the private `keys`, and the strings in `also`. A private key may
    /// be left out because its certificate is hashed, and the two are checked against each other when they are read.
    pub(super) fn configuration(&self, keys: &[PathBuf], also: &[String]) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        // The length goes in first, so that no two lists of parts give the same octets.
        let mut part = |text: &str| {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        };
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        part(&arguments.len().to_string());
        arguments.iter().for_each(|argument| part(argument));
        for (file, digest) in self.digests.iter().filter(|(file, _)| !keys.contains(file)) {
            part(&file.to_string_lossy());
            part(digest.as_deref().unwrap_or_default());
        }
        also.iter().for_each(|one| part(one));
        data_encoding::HEXLOWER.encode(context.finish().as_ref())
    }

    /// What a reload did with each file. A reload takes all files or none: if any file is wrong, a good file that has changed is
    /// listed with an error too, because its old content stays in force. A file that has not changed is in force anyway.
    pub(super) fn outcomes(&self, in_force: &FileDigests) -> Vec<audit::ReloadedFileField> {
        let fault = |file: &Path| {
            let name = file.display().to_string();
            if let Some(Err(words)) = self.digests.get(file) {
                return Some(format!("{name}: {words}"));
            }
            let own: Vec<&str> = self
                .errors
                .iter()
                .filter(|words| names_first(words, &name))
                .map(String::as_str)
                .collect();
            (!own.is_empty()).then(|| own.join("; "))
        };
        let others: Vec<String> = self
            .files
            .iter()
            .filter(|file| fault(file).is_some())
            .map(|file| file.display().to_string())
            .collect();
        let why = if others.is_empty() {
            self.words().replace('\n', "; ")
        } else {
            format!("the fault is in {}", others.join(", "))
        };
        let stays = |file: &PathBuf| {
            let held_up = !self.errors.is_empty() && self.digests.get(file) != in_force.get(file);
            held_up.then(|| format!("it can be read, but nothing was taken: {why}"))
        };
        self.files
            .iter()
            .map(|file| audit::ReloadedFileField {
                file: file.display().to_string(),
                error: fault(file).or_else(|| stays(file)),
            })
            .collect()
    }
}

/// Whether an error is about this file. Errors are written `FILE: words` or `FILE:LINE:COLUMN: words`; an error in a file that the
/// table names (`tafile=`) belongs to the table and to that file.
fn names_first(words: &str, file: &str) -> bool {
    let about = |text: &str| {
        text.strip_prefix(file)
            .is_some_and(|rest| rest.starts_with(':'))
    };
    about(words)
        || words
            .split_once("tafile=")
            .is_some_and(|(_, rest)| about(rest))
}

/// Whether this is a pipe or another special file. A pipe gives its content once and is empty the next time, and an empty table
/// demands nothing. `/dev/null` is always empty and may stand for an empty table.
fn is_irregular(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| !metadata.is_file()) && file != Path::new("/dev/null")
}

fn digest_of(file: &Path) -> Result<String, String> {
    if is_irregular(file) {
        return Err("is no regular file; it must be there to be read again".into());
    }
    files::whole(file, files::LARGE)
        .map(|octets| sha256(&octets))
        .map_err(|error| format!("cannot be read: {error}"))
}
