//! What a log has to say to whoever reads the program's own log.

use crate::audit::{Checkpoint, TornField};
use std::{fmt, path::PathBuf};

/// Something the program's log should say. `Display` is that line, without the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A checkpoint is durable. Kept on another machine, this line anchors the chain.
    Checkpoint(Checkpoint),
    /// A crash had left a torn last line. It was cut off, and a record says so.
    Torn(TornField),
    /// Records that were on disk are not there any more, or another log stands in their place. A record says so.
    Cut {
        /// Number of records that there were.
        expected: u64,
        /// Number of records that were found.
        found: u64,
    },
    /// The end of the log cannot be kept in `FILE.lock`, so that a cut may go unnoticed.
    NotRemembered(String),
    /// Someone deleted `FILE.lock` or moved it away, so that another process could have written this log. There is a new one.
    LockGone,
    /// Records behind a damaged place were cut off, although they had been durable. A copy of the file is here.
    Copied(PathBuf),
    /// An older file of the log, with which it would have been compared, is damaged: its name, and how.
    Damaged(String),
    /// Someone moved the file away. The chain goes on in a new one.
    Moved,
    /// Someone deleted the file, or put another one in its place. Its records were still there, and are back under its name.
    BroughtBack {
        /// Where the file is now that was put in its place.
        aside: Option<PathBuf>,
    },
    /// The verifier key that signs the next checkpoint. Kept on another machine, this line shows whether the log was signed anew.
    EpochKey(String),
    /// The secret key that had to sign next is gone: why.
    KeyLost(String),
    /// The log cannot be written. New sessions are refused, and no message is acknowledged.
    Failing(String),
    /// The log can be written again.
    Recovered {
        /// Records that could not be kept in memory meanwhile.
        lost: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.fmt(f),
            Self::Torn(torn) => write!(
                f,
                "audit log had a torn last line of {} octets, cut off",
                torn.octets
            ),
            Self::Cut { expected, found } if found < expected => write!(
                f,
                "audit log was cut: of its {expected} records {found} were found. The log says so itself; find out who did it",
            ),
            Self::Cut { expected, .. } => write!(
                f,
                "audit log was replaced by another one: its {expected} records are not there. The log says so itself; find out who did it",
            ),
            Self::NotRemembered(error) => write!(
                f,
                "audit log is written, but its end cannot be kept in the file that ends in .lock: {error}"
            ),
            Self::LockGone => f.write_str(
                "audit log: the file that ends in .lock was gone while the log was written. There is a new one; find out who did it, \
                 because it keeps a second writer away",
            ),
            Self::Copied(place) => write!(
                f,
                "audit log is damaged, and what stands behind that place was cut off. {} is a copy of the file as it was",
                place.display()
            ),
            Self::Damaged(how) => write!(
                f,
                "audit log goes on behind what the file that ends in .lock knows, because an older file is damaged: {how}"
            ),
            Self::Moved => f.write_str("audit log was moved away, it goes on in a new file"),
            Self::BroughtBack { aside } => {
                f.write_str("audit log was deleted while it was written, and its records are back under its name")?;
                if let Some(aside) = aside {
                    write!(f, "; the file that stood in its place is now {}", aside.display())?;
                }
                f.write_str(". Find out who did it")
            }
            Self::EpochKey(key) => write!(f, "audit epoch key={key}"),
            Self::KeyLost(why) => write!(
                f,
                "audit log lost the secret key that had to sign next, and begins with a new one: {why}"
            ),
            Self::Failing(error) => {
                write!(f, "audit log cannot be written, mail is deferred: {error}")
            }
            Self::Recovered { lost } => {
                write!(f, "audit log can be written again, {lost} records lost")
            }
        }
    }
}
