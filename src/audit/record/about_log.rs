//! Records about the log itself: its beginning, its files, its keys, what vouches for it, and what became of it.

use crate::audit::{AddressForm, WireText};
use serde::Serialize;

/// `log-opened`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogOpenedRecord {
    /// The log's name in its checkpoints.
    pub origin: String,
    /// The verifier key of the checkpoints that follow (C2SP signed-note); `null` without `--audit-key`.
    pub key: Option<String>,
    /// The verifier key of the epoch that begins here (see `docs/evidence.md`); `null` without `--audit-key`. Where it is not the one
    /// that the last checkpoint names, a chain of keys begins: this is the key to keep elsewhere for `audit verify --first-key`.
    pub epoch: Option<String>,
    /// Form of addresses: full, domain or hashed.
    pub addresses: AddressForm,
    /// Seconds within which a record gets a checkpoint behind it.
    pub checkpoint_after: u64,
    /// The remains of a last line that a crash had cut off; `null` where there were none.
    pub torn: Option<TornField>,
}

/// The remains of lines that were being written when the machine or the process went down. No client got a 250 for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TornField {
    /// Octets cut off the end of the file.
    pub octets: u64,
    /// Their SHA-256, 64 hexadecimal digits.
    pub sha256: String,
    /// The first 4,096 of those octets.
    pub text: WireText,
}

/// `log-recovered`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogRecoveredRecord {
    /// When writing first failed, RFC 3339.
    pub since: String,
    /// The system's error.
    pub error: String,
    /// Number of records that could not be kept in memory meanwhile. A caller that waited for one of them was told, so none of them
    /// is of an acknowledged message.
    pub lost: u64,
}

/// `log-brought-back`: somebody deleted the file that was being written, or put another one in its place. Nothing is lost: the program
/// still had the file open, and gave its name to a copy of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogBroughtBackRecord {
    /// When the program found that its file was gone, RFC 3339.
    pub since: String,
    /// Where the file is now that stood in its place; `null` if there was none, or an empty one.
    pub aside: Option<String>,
}

/// `key-lost`: the secret of the key that had to sign the next checkpoint is gone. The `log-opened` behind it names the first of new keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyLostRecord {
    /// The verifier key whose secret is gone.
    pub epoch: String,
    /// Why it is gone, as far as the program can tell.
    pub error: String,
}

/// `log-continued`: a file begins here that is not the log's first. With it, this file can be verified, and proofs be made from it, while
/// the older files are elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogContinuedRecord {
    /// Number of the first record in the file. That is this one, unless other records were on their way when the file was begun.
    pub first: u64,
    /// The compact range of the Merkle tree over the records before `first`, base64: for each bit of `first` that is set, from the
    /// largest to the smallest, the root of the perfect subtree of so many leaves.
    pub range: String,
}

/// `log-cut`: records that were durable are not there any more. The chain goes on behind them, so the gap stands in it for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogCutRecord {
    /// Number of records that there were. The record with this number is this one, unless other records were on their way when the cut was
    /// noticed; it names the hash of the last record that is lost.
    pub first: u64,
    /// The compact range of the Merkle tree over the records before `first`, as in `log-continued`.
    pub range: String,
    /// Number of records that were found instead. A number that is not smaller: another log was put in place.
    pub found: u64,
    /// The hash of the last of them, 64 hexadecimal digits.
    pub found_hash: String,
    /// Whether it happened while the program had the log open. Else it was found at the start.
    pub running: bool,
}

/// `checkpoint`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointRecord {
    /// A checkpoint of a transparency log (C2SP tlog-checkpoint): the origin; the number of records before this line; base64 of the root
    /// of the Merkle tree over them; an empty line; the signature lines, of which there is none without `--audit-key`.
    pub note: String,
}

/// `stamp`: a time-stamp authority vouches that a checkpoint existed at a time, and with it all records before that checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StampRecord {
    /// The size in the checkpoint that was stamped, which is also the number of its record.
    pub size: u64,
    /// The time in the token, RFC 3339, without its fraction of a second.
    pub time: String,
    /// The authority, as `--audit-tsa` names it.
    pub tsa: String,
    /// The token (RFC 3161), DER in base64. Its digest is SHA-256 over the checkpoint's note without the empty line and the signature
    /// lines.
    pub token: String,
}

/// `cosigned`: a witness vouches that it has seen all earlier checkpoints that it signed go on to this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CosignedRecord {
    /// The size in the checkpoint that was signed, which is also the number of its record.
    pub size: u64,
    /// When the witness signed, by its own clock, RFC 3339.
    pub time: String,
    /// The signature line, without LF (C2SP tlog-cosignature). It can be put behind those of the checkpoint.
    pub line: String,
}

/// `not-anchored`: one for each time during which every attempt fails. The next `stamp` or `cosigned` ends that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotAnchoredRecord {
    /// What was asked for: `stamp` or `cosigned`.
    pub wanted: String,
    /// The name of the witness that was asked; `null` for a `stamp`.
    pub witness: Option<String>,
    /// The size in the checkpoint.
    pub size: u64,
    /// Whom it was asked of, and why none of them gave it.
    pub error: WireText,
}
