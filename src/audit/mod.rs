//! Evidence: what was handed to whom, over what, and on whose word; on disk before anyone is told that mail was accepted.
//!
//! [`Record`] is the schema, [`AuditLog`] the one writer of a chain of records, [`Checkpoint`] what another machine remembers of it,
//! [`verify`] the question whether it is still what was written. This module knows nothing of SMTP, TLS or policy: it takes plain data.

mod address;
mod chain;
mod checkpoint;
mod disk;
mod log;
mod record;
mod verify;

pub use address::{Address, AddressForm, WireText, printable};
pub use chain::{Hash, Head, timestamp};
pub use checkpoint::{Checkpoint, PublicKey};
pub use disk::{Disk, FileDisk, Placement, rotated};
pub use log::{AuditError, AuditLog, AuditOptions, Durable, Notice, Receipt};
pub use record::{
    CertificateField, CheckpointRecord, ConnectionField, CountField, DecisionField, DirectionField,
    ExemptionField, HeardRecord, LogOpenedRecord, LogRecoveredRecord, MessageRecord,
    NotRecordedRecord, OutcomeField, PeerField, PolicyChangeRecord, PolicyField, Record,
    RefusalRecord, ReloadRecord, ReloadedFileField, RepeatedField, SessionClosedRecord,
    SessionField, SessionOpenedRecord, StartRecord, StopRecord, TlsField, TornField,
    TrustFileField, UnprotectedRecord, VERSION, VerdictField, VerdictRecord,
};
pub(crate) use {
    address::hashed,
    chain::{Header, TIME},
    checkpoint::{SigningKey, pem},
    verify::{Lines, in_order},
};

pub use verify::{Anchor, Damage, Examined, Expected, Finding, verify};

use std::{fmt, io};

/// Why a log cannot be opened, or a key cannot be read: names the file and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// An argument or a file is wrong: somebody must mend it.
    Wrong(String),
    /// It may come right by itself: the disk is full, or the process before this one has not ended yet.
    Temporary(String),
}

impl OpenError {
    /// The system's error, with what it is about.
    fn of(what: &dyn fmt::Display, error: &io::Error) -> Self {
        use io::ErrorKind::{
            InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
            ReadOnlyFilesystem,
        };
        let words = format!("{what}: {error}");
        match error.kind() {
            InvalidFilename | InvalidInput | IsADirectory | NotADirectory | NotFound
            | PermissionDenied | ReadOnlyFilesystem => Self::Wrong(words),
            _ => Self::Temporary(words),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(words) | Self::Temporary(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for OpenError {}
