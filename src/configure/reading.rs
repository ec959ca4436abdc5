//! One reading of all the files of a configuration: what is hashed is what is in force, and each file's own fault is told.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;

use crate::{audit, tls::sha256};

/// Files that change while they are read are read again so many times.
const TRIES: usize = 3;

/// SHA-256 of each file's octets, or why it cannot be read; by the name it was given.
pub(super) type Digests = BTreeMap<PathBuf, Result<String, String>>;

/// What is read, and what was wrong.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// In the order in which they were named.
    files: Vec<PathBuf>,
    digests: Digests,
    errors: Vec<String>,
}

impl Reading {
    /// Reads these files, by `read`, which notes those that it finds named in them. What it gives was made of the octets
    /// that are digested: where a file changed in between, all is read again.
    pub(super) fn steady<T>(
        files: &[PathBuf],
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> (Self, Option<T>) {
        let mut tries = 1;
        loop {
            let mut reading = Self::default();
            files.iter().for_each(|file| reading.note(file));
            if files.iter().any(|file| is_irregular(file)) {
                // Reading it could take forever.
                reading.add_unreadable();
                return (reading, None);
            }
            let mut made = read(&mut reading);
            let changed = reading
                .digests
                .iter()
                .find(|(file, before)| digest_of(file) != **before)
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

    /// Whether there is a file whose content is not known, whatever became of what was read of it.
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

    /// Before a file is read.
    pub(super) fn note(&mut self, file: &Path) {
        if !self.digests.contains_key(file) {
            self.files.push(file.to_owned());
            self.digests.insert(file.to_owned(), digest_of(file));
        }
    }

    /// Keeps what was wrong; each line of it names its file first.
    pub(super) fn take<T>(&mut self, outcome: Result<T, String>) -> Option<T> {
        outcome
            .map_err(|words| self.errors.extend(words.lines().map(str::to_owned)))
            .ok()
    }

    /// What a file holds, in 64 hexadecimal digits; `None` where it was not noted or could not be read.
    pub(super) fn sha256(&self, file: &Path) -> Option<String> {
        self.digests.get(file)?.clone().ok()
    }

    /// All that was wrong.
    pub(super) fn words(&self) -> String {
        self.errors.join("\n")
    }

    /// What is in force now that this was taken.
    pub(super) fn digests(&self) -> Digests {
        self.digests.clone()
    }

    /// SHA-256 over the command line, what else is in force, and the content of every file but `keys`: a certificate holds
    /// the public half of its key, and the two are held against each other where they are read.
    pub(super) fn configuration(&self, keys: &[PathBuf], also: &[String]) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        // Lengths go in too, so that no two parts run together.
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

    /// What came of each file at a reload. Nothing is taken where anything is wrong, so a file that is right and has changed
    /// says that its old content stays; one that has not changed is in force as it is.
    pub(super) fn outcomes(&self, in_force: &Digests) -> Vec<audit::ReloadedFileField> {
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

/// Errors are written `FILE: words` or `FILE:LINE:COLUMN: words`. One about a file that a table names stands at both.
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

/// A pipe gives its content once and is empty the next time, and an empty table demands nothing.
fn is_irregular(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| !metadata.is_file()) && file != Path::new("/dev/null")
}

fn digest_of(file: &Path) -> Result<String, String> {
    if is_irregular(file) {
        return Err("is no regular file; it must be there to be read again".into());
    }
    fs::read(file)
        .map(|octets| sha256(&octets))
        .map_err(|error| format!("cannot be read: {error}"))
}
