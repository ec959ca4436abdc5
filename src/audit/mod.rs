//! Evidence: what was handed to whom, over what, and on whose word; on disk before anyone is told that mail was accepted.
//!
//! [`Record`] is the schema, [`AuditLog`] the one writer of a chain of records, [`Checkpoint`] what another machine remembers of it,
//! [`verify`] the question whether it is still what was written. This module knows nothing of SMTP, TLS or policy: it takes plain data.

mod address;
mod chain;
mod checkpoint;
pub mod command;
mod disk;
mod log;
mod record;
mod report;
mod show;
mod verify;

pub use address::{Address, AddressForm, WireText, printable};
pub use chain::{Hash, Head, hex, timestamp};
pub use checkpoint::{Checkpoint, PublicKey};
pub use disk::{Disk, FileDisk, rotated};
pub use log::{AuditError, AuditLog, Durable, Notice, Options, Receipt};
pub use record::{
    Certificate, CheckpointRecord, Connection, Decision, Direction, Exemption, Heard, LogOpened,
    LogRecovered, Message, Outcome, Peer, PolicyChange, PolicyFile, Protection, Record, Refusal,
    Reload, ReloadedFile, Repeated, Session, SessionClosed, SessionOpened, Start, Stop, Tls, Torn,
    Unprotected, VERSION, Verdict,
};

pub use verify::{Anchor, Damage, Examined, Expected, Finding, verify};

use std::fmt;

/// Why a log cannot be opened, or a key cannot be read: names the file and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError(String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}
