//! The flags of `audit`.

use argh::{ArgsInfo, FromArgs};
use std::path::PathBuf;

/// Checks and shows the evidence. FILE... are the files of one audit log; a single FILE stands for itself and for all
/// files that were rotated out of it.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "audit")]
pub struct AuditFlags {
    /// what to do
    #[argh(subcommand)]
    pub verb: AuditCommandFlags,
}

/// What to do with the evidence.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum AuditCommandFlags {
    /// `audit verify`
    Verify(AuditVerifyFlags),
    /// `audit show`
    Show(AuditShowFlags),
    /// `audit report`
    Report(AuditReportFlags),
    /// `audit keygen`
    Keygen(AuditKeygenFlags),
    /// `audit prove`
    Prove(AuditProveFlags),
    /// `audit check-proof`
    CheckProof(AuditCheckProofFlags),
}

/// Says that the log is intact, or names the first line that is not. Exit code 1: the log is not intact.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "verify")]
pub struct AuditVerifyFlags {
    /// head of the log at an earlier time that was kept elsewhere; the log must contain it
    #[argh(option, arg_name = "SIZE:HASH|FILE")]
    pub anchor: Vec<String>,
    /// public key that signed the checkpoints: that of audit keygen, or the one that ends in .ml-dsa.pub beside it
    #[argh(option, arg_name = "PEM|NAME+ID+KEY")]
    pub key: Vec<String>,
    /// epoch key that the program told at a start, kept on another machine, or a file with such lines of its log: shows that
    /// nobody who took the host and its keys later signed the past anew
    #[argh(option, arg_name = "NAME+ID+KEY|FILE")]
    pub first_key: Vec<String>,
    /// the first record of the file to begin with: older files are left out knowingly (default 0)
    #[argh(option, default = "0", arg_name = "N")]
    pub from: u64,
    /// certificate authorities of the time-stamps; without them, the stamps' times are not proved
    #[argh(option, arg_name = "PEM")]
    pub tsa_ca: Vec<PathBuf>,
    /// keys of the witnesses that signed checkpoints, and how many must have (C2SP tlog-policy)
    #[argh(option, arg_name = "FILE")]
    pub witness: Option<PathBuf>,
    /// a checkpoint of an earlier time, as a file: shows that the log only grew since then
    #[argh(option, arg_name = "CHECKPOINT")]
    pub since: Option<String>,
    /// exit code 1 also where an honest run without faults could not have left the log so: a run without a stop, a
    /// session without an end, a clock that ran back, a stretch without a checkpoint or (with its
    /// key) an ML-DSA signature that was due, a crash, a log that was deleted and brought back, a key that
    /// signed nothing
    #[argh(switch)]
    pub expect_complete: bool,
    /// file of the log, or files of several logs, each of which is judged by itself
    #[argh(positional, arg_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Prints records for people to read.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "show")]
pub struct AuditShowFlags {
    /// only mail from or to this domain
    #[argh(option, arg_name = "DOMAIN")]
    pub domain: Option<String>,
    /// only what has this envelope or network address
    #[argh(option, arg_name = "ADDRESS")]
    pub address: Option<String>,
    /// the log's --audit-key, with which --address finds hashed addresses
    #[argh(option, arg_name = "PEM")]
    pub key: Option<PathBuf>,
    /// only from this time on: RFC 3339, or YYYY-MM-DD
    #[argh(option, arg_name = "TIME")]
    pub since: Option<String>,
    /// only up to this time and with all of it: 2026-11 includes November
    #[argh(option, arg_name = "TIME")]
    pub until: Option<String>,
    /// only mail with this verdict
    #[argh(option, arg_name = "authorised|unprotected|refused|observed")]
    pub verdict: Option<String>,
    /// only this session
    #[argh(option, arg_name = "ID")]
    pub session: Option<String>,
    /// print the lines of the log as they are
    #[argh(switch)]
    pub json: bool,
    /// as for audit verify
    #[argh(positional, arg_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Writes a page for auditors. Exit code 1: the log is not intact.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "report")]
pub struct AuditReportFlags {
    /// write the page to this file
    #[argh(option, arg_name = "FILE")]
    pub html: PathBuf,
    /// as for audit verify
    #[argh(option, arg_name = "SIZE:HASH|FILE")]
    pub anchor: Vec<String>,
    /// as for audit verify
    #[argh(option, arg_name = "PEM|NAME+ID+KEY")]
    pub key: Vec<String>,
    /// as for audit verify
    #[argh(option, arg_name = "NAME+ID+KEY|FILE")]
    pub first_key: Vec<String>,
    /// as for audit verify
    #[argh(option, default = "0", arg_name = "N")]
    pub from: u64,
    /// as for audit verify
    #[argh(option, arg_name = "PEM")]
    pub tsa_ca: Vec<PathBuf>,
    /// as for audit verify
    #[argh(option, arg_name = "FILE")]
    pub witness: Option<PathBuf>,
    /// as for audit show
    #[argh(option, arg_name = "TIME")]
    pub since: Option<String>,
    /// as for audit show
    #[argh(option, arg_name = "TIME")]
    pub until: Option<String>,
    /// answer these sets of rules: hipaa, pci, nis2, gdpr, bsi, datatilsynet, nta7516 (default all)
    #[argh(option, arg_name = "LIST")]
    pub regime: Option<String>,
    /// whose mail it is, for the heading
    #[argh(option, arg_name = "NAME")]
    pub organisation: Option<String>,
    /// for whom the page is made, for the heading
    #[argh(option, arg_name = "NAME")]
    pub auditor: Option<String>,
    /// write the same figures and tables to this file, as JSON
    #[argh(option, arg_name = "FILE")]
    pub json: Option<PathBuf>,
    /// as for audit verify
    #[argh(positional, arg_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Writes a proof of one record, with which a stranger can verify it without the log. Nothing of any other mail is in it.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "prove")]
pub struct AuditProveFlags {
    /// the message: the session's id and the number of the message in it (default 1)
    #[argh(option, arg_name = "SESSION[/NUMBER]")]
    pub message: Option<String>,
    /// each record of this session, in a file of its own
    #[argh(option, arg_name = "ID")]
    pub session: Option<String>,
    /// write to this file instead of the output; with --session, to files in this directory
    #[argh(option, arg_name = "FILE|DIRECTORY")]
    pub out: Option<PathBuf>,
    /// as for audit verify
    #[argh(positional, arg_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Verifies proofs that audit prove wrote, and prints the records. Exit code 1: one does not hold.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "check-proof")]
pub struct AuditCheckProofFlags {
    /// as for audit verify
    #[argh(option, arg_name = "PEM|NAME+ID+KEY")]
    pub key: Vec<String>,
    /// as for audit verify
    #[argh(option, arg_name = "PEM")]
    pub tsa_ca: Vec<PathBuf>,
    /// as for audit verify
    #[argh(option, arg_name = "FILE")]
    pub witness: Option<PathBuf>,
    /// the proofs
    #[argh(positional, arg_name = "PROOF")]
    pub files: Vec<PathBuf>,
}

/// Makes a key for --audit-key.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "keygen")]
pub struct AuditKeygenFlags {
    /// write the private key to this file, and the public key to the same name with .pub
    #[argh(option, arg_name = "PEM")]
    pub out: PathBuf,
}
