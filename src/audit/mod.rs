//! Evidence: which message was handed to whom, how it was protected, and which rule allowed it. A record is on disk before the client
//! is told that its mail was accepted.
//!
//! [`Record`] is the schema. [`AuditLog`] is the one writer of a chain of records. A [`Checkpoint`] is what another machine remembers of
//! the chain: it signs the root of a Merkle tree over all records, so that one record can be proved without the others. `verify` finds out whether a log is still what was written. This module knows nothing of SMTP, TLS or policy: it takes
//! plain data.

mod address;
mod chain;
mod checkpoint;
mod consistency;
mod disk;
mod epoch;
mod hybrid;
mod kept;
mod known;
mod log;
mod naming;
mod proof;
mod reader;
mod record;
mod tree;
mod verify;
mod witness;

pub use address::{Address, AddressForm, WireText};
pub use chain::{Hash, Head};
pub use checkpoint::Checkpoint;
pub use disk::{BroughtBack, Disk, EndKept, FileDisk, Placement, Reopened};
pub use epoch::RandomSource;
pub use log::{AuditError, AuditLog, AuditOptions, Durable, Notice, Receipt};
pub use naming::rotated;
pub use record::{
    CertificateField, CheckpointRecord, ConnectionField, CosignedRecord, CountField, DecisionField,
    DirectionField, ExemptionField, HeardRecord, KeyLostRecord, LogContinuedRecord, LogCutRecord,
    LogOpenedRecord, LogRecoveredRecord, MessageRecord, NotAnchoredRecord, NotRecordedRecord,
    OutcomeField, PeerField, PolicyChangeRecord, PolicyField, Record, RefusalRecord, ReloadRecord,
    ReloadedFileField, RepeatedField, SessionClosedRecord, SessionField, SessionOpenedRecord,
    StampRecord, StartRecord, StopRecord, TlsField, TornField, TrustFileField, UnprotectedRecord,
    VerdictField, VerdictRecord,
};
pub use witness::WitnessPolicy;
pub(crate) use {
    address::{hashed, printable},
    chain::{begins_time, timestamp},
    checkpoint::{NewKey, PublicKey},
    consistency::consistency,
    disk::{EndFound, admits_a_cut, end_found},
    hybrid::HybridPublic,
    kept::KeptKey,
    proof::{ProvedRecord, RecordProof, prove},
    reader::is_plain,
    verify::{
        Damage, Expectations, LogAnchor, LogLine, LogLines, LogOrder, MergedLines, OutsideAnchor,
        OutsideAnchors, StampFacts, Verification, first_time, in_order, logs, verify,
    },
    witness::{PolicyWitness, WitnessAnswer, add_checkpoint, read_answer},
};

use std::{fmt, io};

/// Why a log cannot be opened, or a key cannot be read. Names the file, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// An argument or a file is wrong, and an administrator must mend it.
    Wrong(String),
    /// The cause may go away by itself: the disk is full, or the previous process has not ended yet.
    Temporary(String),
}

impl OpenError {
    /// The system's error about `what`.
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
