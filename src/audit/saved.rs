//! Logs as other programs read them: [`SavedLog`].

use super::{
    Finding, Head, OpenError, PublicKey, RecordProof, WitnessPolicy,
    chain::Header,
    hybrid::HybridPublic,
    kept::KeptKey,
    proof::prove,
    verify::{
        Expectations, ListedFile, LogAnchor, LogLines, LogListing, Verification, changed, logs,
        verify, verify_and_read,
    },
};
use serde::Deserialize;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    slice,
};

/// The files of one log, as they were when they were found.
#[derive(Clone, Debug)]
pub struct SavedLog {
    paths: Vec<PathBuf>,
    files: Vec<ListedFile>,
}

impl PartialEq for SavedLog {
    fn eq(&self, other: &Self) -> bool {
        self.paths == other.paths
    }
}

impl Eq for SavedLog {}

/// What is known of a log from elsewhere, and what it is compared with. By default it is compared with nothing but itself.
#[derive(Clone, Debug, Default)]
pub struct LogTrust(Expectations);

/// What verification found.
#[derive(Clone, Debug)]
pub struct ExaminedLog(Verification);

/// The records of a log, one after the other. See [`SavedRecords::next`].
pub struct SavedRecords<'a> {
    files: &'a [ListedFile],
    lines: LogLines<'a>,
}

/// One record, as it stands in the log.
#[derive(Clone, Copy, Debug)]
pub struct SavedRecord<'a> {
    line: &'a [u8],
    header: Header<'a>,
}

/// Why a record cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecordError {
    /// The system failed.
    File(io::Error),
    /// What stands there is no record.
    NoRecord {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The record has not these fields.
    Fields(serde_json::Error),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::NoRecord { file, line, why } => {
                write!(f, "{}:{line}: {why}", file.display())
            }
            Self::Fields(error) => write!(f, "the record has not these fields: {error}"),
        }
    }
}

impl std::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::NoRecord { .. } => None,
            Self::Fields(error) => Some(error),
        }
    }
}

impl From<io::Error> for RecordError {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl SavedLog {
    /// The logs among files, which may come in any order, plain or compressed. A single file stands for itself and all files that were
    /// rotated out of it.
    ///
    /// # Errors
    /// A file or its directory cannot be read.
    pub fn find(files: &[impl AsRef<Path>]) -> io::Result<Vec<Self>> {
        let files: Vec<PathBuf> = files.iter().map(|file| file.as_ref().to_owned()).collect();
        let logs = logs(&files)?.into_iter().map(|files| {
            let files = LogListing::new(&files)?.into_order().files;
            let paths = files.iter().map(|file| file.path().to_owned()).collect();
            Ok(Self { paths, files })
        });
        logs.collect()
    }

    /// Its files, oldest first.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Its records from the first on, as far as there were files when the log was found. Files that were rotated or compressed since
    /// then are read under the names that they have now. Whether the records are what was written, only [`SavedLog::verify`] says.
    #[must_use]
    pub fn records(&self) -> SavedRecords<'_> {
        SavedRecords {
            files: &self.files,
            lines: LogLines::new(&self.files),
        }
    }

    /// Finds out whether the log is what was written.
    ///
    /// # Errors
    /// A file cannot be read. What is wrong with the log itself is [`ExaminedLog::finding`]. The kind `ResourceBusy` says that files of
    /// the log came or went while it was read; find it anew then.
    pub fn verify(&self, trust: &LogTrust) -> io::Result<ExaminedLog> {
        verify(&self.paths, &trust.0, &mut |_, _| ()).map(ExaminedLog)
    }

    /// The same, and each record that fits goes to `take` while that goes on, so that the files are read once. Records from number
    /// [`ExaminedLog::good`] on must be disregarded afterwards: a signature may show only later that they were written anew.
    ///
    /// # Errors
    /// A file cannot be read. The kind `ResourceBusy` says that files of the log came or went meanwhile, so that other records may have
    /// been given than were verified; find the log anew then.
    pub fn verify_and_read(
        &self,
        trust: &LogTrust,
        mut take: impl FnMut(SavedRecord<'_>),
    ) -> io::Result<ExaminedLog> {
        let logs = slice::from_ref(&self.paths);
        let mut see = |_, line: &[u8]| {
            SavedRecord::read(line).map(&mut take);
            true
        };
        let mut verified = verify_and_read(logs, &trust.0, &mut |_, _| (), &mut see)?;
        let verified = verified.pop().unwrap_or_default();
        if verified.reread {
            return Err(changed());
        }
        Ok(ExaminedLog(verified))
    }

    /// A proof for each record that `wanted` takes, if a signed checkpoint stands behind it. None has anything of another record in it.
    ///
    /// # Errors
    /// A file cannot be read, or records are missing.
    pub fn prove(
        &self,
        mut wanted: impl FnMut(&SavedRecord<'_>) -> bool,
    ) -> Result<Vec<RecordProof>, OpenError> {
        let mut takes =
            |_: &[u8], line: &[u8]| SavedRecord::read(line).is_some_and(|one| wanted(&one));
        Ok(prove(&self.paths, &mut takes)?.0)
    }
}

impl LogTrust {
    /// A key, one of which must have signed each checkpoint: a verifier key (`NAME+ID+KEY`), or a PEM file with a public or private
    /// key. A public key for ML-DSA signatures is read, too. Without any, the key that the log itself names is used. That shows only
    /// that the log agrees with itself.
    ///
    /// # Errors
    /// It is no key, or the file cannot be read.
    pub fn key(mut self, key: &str) -> Result<Self, OpenError> {
        if let Some(key) = PublicKey::from_verifier(key) {
            self.0.keys.push(key);
        } else if let Some(hybrid) = HybridPublic::read(Path::new(key))? {
            self.0.hybrid_keys.push(hybrid);
        } else {
            self.0.keys.push(PublicKey::read(Path::new(key))?);
        }
        Ok(self)
    }

    /// The first of the keys that are erased after use, as it was kept elsewhere: a verifier key, or a file with log lines that name it.
    ///
    /// # Errors
    /// It is no key, or the file cannot be read or has none.
    pub fn first_key(mut self, key: &str) -> Result<Self, OpenError> {
        self.0.kept_keys.append(&mut KeptKey::read(key)?);
        Ok(self)
    }

    /// What another machine remembers of the log: `SIZE:HASH`, a file with log lines that name checkpoints, or a checkpoint's file.
    ///
    /// # Errors
    /// It is no anchor, or the file cannot be read or has none.
    pub fn anchor(mut self, anchor: &str) -> Result<Self, OpenError> {
        self.0.anchors.append(&mut LogAnchor::read(anchor)?);
        Ok(self)
    }

    /// The number of the first record that must be there. It is 0 unless older files are knowingly left out.
    #[must_use]
    pub fn from(mut self, record: u64) -> Self {
        self.0.from = record;
        self
    }

    /// The witnesses whose signatures are checked.
    #[must_use]
    pub fn witnesses(mut self, policy: WitnessPolicy) -> Self {
        self.0.witnesses = Some(policy);
        self
    }

    /// Whether `proof` proves its record: one of the keys has signed its checkpoint, and the record is among those that this one signs.
    /// Gives the log's name.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check(&self, proof: &RecordProof) -> Result<String, OpenError> {
        let proved = proof
            .check(&self.0.keys, &self.0.hybrid_keys)
            .map_err(OpenError::Wrong)?;
        Ok(proved.origin)
    }

    pub(crate) fn into_expectations(self) -> Expectations {
        self.0
    }
}

impl ExaminedLog {
    /// Nothing was found.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.0.intact()
    }

    /// Nothing was found, and an honest run without faults can have left it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.is_complete()
    }

    /// The first thing that is not as it was written.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        self.0.finding.as_ref()
    }

    /// Records below this number are as they were written, as far as verification can tell.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.0.good
    }

    /// The end of the chain, as far as it was followed.
    #[must_use]
    pub fn head(&self) -> Head {
        self.0.head
    }

    /// The log's name, if it says so.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.0.origin.as_deref()
    }

    /// Records below this number are covered by a good signature.
    #[must_use]
    pub fn signed_below(&self) -> u64 {
        self.0.signed_size
    }

    /// How many of the anchors agree.
    #[must_use]
    pub fn anchored(&self) -> usize {
        self.0.anchored
    }
}

impl SavedRecords<'_> {
    /// The next record; `None` at the end. A last line that is still being written is left out.
    ///
    /// # Errors
    /// A file cannot be read, or a line is no record. The records behind that line can be asked for.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it gives is borrowed from it"
    )]
    pub fn next(&mut self) -> Result<Option<SavedRecord<'_>>, RecordError> {
        let Some(line) = self.lines.next()? else {
            return Ok(None);
        };
        if line.is_unfinished() {
            return Ok(None);
        }
        match SavedRecord::read(line.bytes).filter(|_| line.is_whole()) {
            Some(record) => Ok(Some(record)),
            None => Err(RecordError::NoRecord {
                file: self.files[line.position.file].path().to_owned(),
                line: line.position.line,
                why: line.fault.unwrap_or("this is no record").to_owned(),
            }),
        }
    }
}

impl<'a> SavedRecord<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let header = Header::read(line)?;
        Some(Self { line, header })
    }

    /// Its number; the first record of a log has 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.header.seq
    }

    /// When it was written: UTC, as in `2026-11-24T06:05:00.123456Z`.
    #[must_use]
    pub fn at(&self) -> &'a str {
        str::from_utf8(self.header.at).unwrap_or_default()
    }

    /// What it is about: `message`, `verdict`, `checkpoint`, and so on.
    #[must_use]
    pub fn event(&self) -> &'a str {
        str::from_utf8(self.header.event).unwrap_or_default()
    }

    /// The line, without its LF. Its SHA-256 is what the next record names.
    #[must_use]
    pub fn line(&self) -> &'a [u8] {
        self.line
    }

    /// Reads as many of its fields as `T` has. Texts without escapes can be borrowed (`#[serde(borrow)]`). The fields are those of
    /// [`Record`](super::Record).
    ///
    /// # Errors
    /// It has not these fields.
    pub fn fields<T: Deserialize<'a>>(&self) -> Result<T, RecordError> {
        serde_json::from_slice(self.line).map_err(RecordError::Fields)
    }
}
