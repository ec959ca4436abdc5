//! Evidence: which message was handed to whom, how it was protected, and which rule allowed it. A record is on disk before the client
//! is told that its mail was accepted.
//!
//! [`Record`] is the schema. [`AuditLog`] is the one writer of a chain of records. A [`Checkpoint`] is what another machine remembers of
//! the chain: it signs the root of a Merkle tree over all records, so that one record can be proved without the others. [`SavedLog`] is
//! the log as other programs read it. This module knows nothing of SMTP, TLS or policy: it takes plain data.
//!
//! # Reading a log
//!
//! A [`SavedLog`] verifies itself against what is known of it from elsewhere ([`LogTrust`]), gives its records, and proves one of them. It
//! reads a log of any size with little memory, compressed files too. `docs/evidence.md` specifies the format.
//!
//! ```
//! use starttls_proxy::audit::{AuditLog, AuditOptions, LogTrust, Record, SavedLog, StopRecord};
//!
//! # let folder = std::env::temp_dir().join(format!("audit-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let file = folder.join("audit.jsonl");
//! let log = AuditLog::open(AuditOptions::new(file.clone(), "mail.example/outbound".into()))?;
//! log.append(&Record::Stop(StopRecord { reason: "example".into(), sessions: 3, messages: 0 }));
//! log.close();
//!
//! #[derive(serde::Deserialize)]
//! struct Stop<'a> {
//!     reason: &'a str,
//!     sessions: u64,
//! }
//!
//! for log in SavedLog::find(&[&file])? {
//!     // What was kept on another machine goes here: keys, anchors.
//!     let trust = LogTrust::default();
//!     let mut sessions = 0;
//!     let verified = log.verify_and_read(&trust, |record| {
//!         if record.event() == "stop"
//!             && let Ok(stop) = record.fields::<Stop>()
//!         {
//!             assert_eq!(stop.reason, "example");
//!             sessions += stop.sessions;
//!         }
//!     })?;
//!     assert!(verified.is_intact(), "{:?}", verified.finding());
//!     assert_eq!((verified.origin(), sessions), (Some("mail.example/outbound"), 3));
//! }
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A record is proved by a signed log only, which has a key ([`AuditOptions`]):
//!
//! ```no_run
//! use starttls_proxy::audit::{LogTrust, RecordProof, SavedLog};
//!
//! let trust = LogTrust::default().key("audit.key.pub")?;
//! for log in SavedLog::find(&["audit.jsonl"])? {
//!     for proof in log.prove(|record| record.event() == "message")? {
//!         let sent = proof.to_string();
//!         // On the other side, with the public key alone:
//!         let received = RecordProof::read(&sent).ok_or("this is no proof")?;
//!         println!("{} has {}", trust.check(&received)?, received.record());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
mod packed;
mod proof;
mod reader;
mod record;
mod saved;
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
pub use proof::RecordProof;
pub use record::{
    CertificateField, CheckpointRecord, ConnectionField, CosignedRecord, CountField, DecisionField,
    DirectionField, ExemptionField, HeardRecord, KeyLostRecord, LogBroughtBackRecord,
    LogContinuedRecord, LogCutRecord, LogOpenedRecord, LogRecoveredRecord, MessageRecord,
    NotAnchoredRecord, NotRecordedRecord, OutcomeField, PeerField, PolicyChangeRecord, PolicyField,
    Record, RefusalRecord, ReloadRecord, ReloadedFileField, RepeatedField, SessionClosedRecord,
    SessionField, SessionOpenedRecord, StampRecord, StartRecord, StopRecord, TlsField, TornField,
    TrustFileField, UnprotectedRecord, VerdictField, VerdictRecord,
};
pub use saved::{ExaminedLog, LogTrust, RecordError, SavedLog, SavedRecord, SavedRecords};
pub use verify::{Damage, Finding};
pub use witness::WitnessPolicy;
pub(crate) use {
    address::{hashed, printable},
    chain::{beginning_of_time, timestamp},
    checkpoint::{NewKey, PublicKey},
    consistency::consistency,
    disk::{EndFound, admits_a_cut, end_found},
    hybrid::HybridPublic,
    kept::EpochsFound,
    packed::PackedLines,
    proof::{LONGEST_PROOF, ProvedRecord, prove},
    reader::is_plain,
    verify::{
        AskedVoucher, Completeness, Expectations, KeylessBeginning, ListedFile, LogAnchor, LogLine,
        LogLines, LogListing, LogOrder, MergedLines, OutsideAnchor, OutsideAnchors, StampFacts,
        UnvouchedTime, Verification, changed, first_time, logs, verify, verify_and_read,
    },
    witness::{PolicyWitness, WitnessAnswer, add_checkpoint, read_answer},
};

use std::{fmt, io, time::Duration};

/// Longest time for which it is as it should be that nobody from outside vouches for what is new in the log. The alert rules have the same.
pub(crate) const LONGEST_UNVOUCHED: Duration = Duration::from_secs(24 * 3600);

/// Why a log cannot be opened, or a key cannot be read. Names the file, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// An argument or a file is wrong, and an administrator must mend it.
    Wrong(String),
    /// The cause may go away by itself: the disk is full, the previous process has not ended yet, or the log changed while it was read.
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

    /// The same with other words.
    #[must_use]
    pub(crate) fn with(self, words: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Wrong(said) => Self::Wrong(words(said)),
            Self::Temporary(said) => Self::Temporary(words(said)),
        }
    }
}

/// Of reading the files of a log, whose errors name the file.
impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ResourceBusy => Self::Temporary(error.to_string()),
            _ => Self::Wrong(error.to_string()),
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
