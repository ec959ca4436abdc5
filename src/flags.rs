//! The flags of the command line. Each text is written once, as the doc comment of its flag; `cli::help` makes the help from
//! these declarations, and `examples/manual` the man pages and the completions of shells.
//!
//! - A flag whose text begins with `CAPITALS:` opens a group of that name, which lasts up to the next one.
//! - A flag whose text is `as for COMMAND` has the text of COMMAND's flag of the same name.
//! - An example is a caption and, from its second line on, what is typed.

mod doctor;
mod policy;

use argh::{ArgsInfo, FromArgs};
use log::LevelFilter;
use std::{net::SocketAddr, path::PathBuf};

pub use doctor::{DoctorFlags, SetupFlags};
pub use policy::{
    PolicyCommandFlags, PolicyFlags, PolicyPurgeFlags, PolicyShowFlags, PolicySuggestFlags,
    PolicyTestFlags,
};

use crate::{
    logging::LogFormat,
    lookup::HttpUrl,
    net::{Intercept, proxy_header::Version},
    policy::Prefix,
};

/// Mail leaves and enters over STARTTLS with a verified peer, or it does not move at all. Each command explains its flags with
/// --help; --version prints the version.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    example = "What would happen to mail for a domain? This sends no mail and changes nothing:\n\
               starttls-proxy check example.com",
    note = "FILES: /etc/starttls-proxy/policy is where the units of systemd look for the policy table; \
            /var/lib/starttls-proxy is where they keep the audit log and MTA-STS policies. The proxy itself \
            reads the files that its flags name, /etc/resolv.conf, /etc/hosts and the system's certificate \
            authorities, and no others."
)]
pub struct ProgramFlags {
    /// what to do
    #[argh(subcommand)]
    pub command: CommandFlags,
}

/// The commands.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
#[allow(clippy::large_enum_variant, reason = "made once a process")]
pub enum CommandFlags {
    /// `starttls-proxy outbound`
    Outbound(OutboundFlags),
    /// `starttls-proxy inbound`
    Inbound(InboundFlags),
    /// `starttls-proxy check`
    Check(CheckFlags),
    /// `starttls-proxy policy`
    Policy(PolicyFlags),
    /// `starttls-proxy audit`
    Audit(AuditFlags),
    /// `starttls-proxy doctor`
    Doctor(DoctorFlags),
    /// `starttls-proxy setup`
    Setup(SetupFlags),
}

/// Carries mail from a legacy mail server to the world.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "outbound",
    example = "On a router between the mail server and the firewall, with the rules of systemd/tproxy.nft:\n\
               starttls-proxy outbound --listen '[::]:2525' --intercept tproxy \\\n\
              \x20 --keep-client-address --audit-log /var/log/starttls-proxy/out.jsonl",
    note = "SIGNALS: SIGHUP reads the files of the flags again and takes all of them or none. Without a signal it does so \
            when one of them but the policy table has changed. SIGUSR2 starts the program anew, lets the new process go on, \
            and ends with the last session. SIGTERM and SIGINT stop the proxy: it takes no more sessions and waits for \
            messages under way."
)]
pub struct OutboundFlags {
    /// CONNECTIONS: accept clients on this address (default: the sockets that systemd passes)
    #[argh(option, arg_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// connect each client to the server that it meant to reach, as the kernel's rule of this kind tells
    #[argh(option, arg_name = "tproxy|redirect")]
    pub intercept: Option<Intercept>,
    /// instead of --intercept: send all mail to this smart host (default port 25; smtps:// is TLS from the first
    /// byte, default port 465)
    #[argh(option, arg_name = "[smtps://]HOST[:PORT]")]
    pub upstream: Option<String>,
    /// let clients in this prefix send mail, and no others, who get 421 (default with --upstream: loopback, private
    /// and link-local addresses; with --intercept: whoever is intercepted)
    #[argh(option, arg_name = "PREFIX")]
    pub allow_client: Vec<Prefix>,
    /// log in to --upstream, for clients that cannot: the file has a line 'user = NAME', and 'password = SECRET' or
    /// 'token-file = FILE'; a name without a folder may be a systemd credential; needs --allow-client
    #[argh(option, arg_name = "FILE")]
    pub upstream_auth: Option<PathBuf>,
    /// connect to servers from the client's own address
    #[argh(switch)]
    pub keep_client_address: bool,
    /// set this mark (SO_MARK) on the proxy's own connections, for your routing rules
    #[argh(option, from_str_fn(mark), arg_name = "N")]
    pub fwmark: Option<u32>,
    /// name of the proxy in greetings and in its own EHLO (default: the host's name)
    #[argh(option, arg_name = "NAME")]
    pub hostname: Option<String>,
    /// POLICY AND TRUST: table of what each peer must prove, in the syntax of Postfix's smtp_tls_policy_maps
    #[argh(option, arg_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// what a peer must prove where the table, DANE and MTA-STS say nothing (default verify)
    #[argh(option, arg_name = "encrypt|verify|secure|dane|dane-only|mta-sts")]
    pub level: Option<String>,
    /// trust these certificate authorities instead of the system's
    #[argh(option, arg_name = "PEM")]
    pub ca_file: Option<PathBuf>,
    /// lowest TLS version (default 1.2)
    #[argh(option, arg_name = "1.2|1.3")]
    pub min_tls: Option<String>,
    /// do not look for TLSA records (DANE)
    #[argh(switch)]
    pub no_dane: bool,
    /// do not look for MTA-STS policies
    #[argh(switch)]
    pub no_mta_sts: bool,
    /// send DNS queries to this resolver (default: those of /etc/resolv.conf)
    #[argh(option, from_str_fn(resolver), arg_name = "IP[:PORT]")]
    pub resolver: Vec<SocketAddr>,
    /// validate DNSSEC from this trust anchor instead of the root's built-in keys
    #[argh(option, arg_name = "FILE")]
    pub dnssec_anchor: Option<PathBuf>,
    /// keep MTA-STS policies in this directory across restarts
    #[argh(option, arg_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// fetch MTA-STS policies from private addresses too (for labs)
    #[argh(switch)]
    pub mta_sts_private: bool,
    /// certificate for servers that ask for one; goes with --client-key
    #[argh(option, arg_name = "PEM")]
    pub client_cert: Option<PathBuf>,
    /// private key of --client-cert
    #[argh(option, arg_name = "PEM")]
    pub client_key: Option<PathBuf>,
    /// REFUSALS: defer answers 4yz and the mail stays queued (default); reject answers 5yz and the mail bounces,
    /// where nobody on the path can have forged the reason
    #[argh(option, arg_name = "defer|reject")]
    pub refuse_with: Option<String>,
    /// judge and record all mail, but refuse none
    #[argh(switch)]
    pub observe: bool,
    /// EVIDENCE: append hash-chained records to this file; a message's record is on disk before its 250
    #[argh(option, arg_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// sign the checkpoints of the audit log with this key (audit keygen makes one)
    #[argh(option, arg_name = "PEM")]
    pub audit_key: Option<PathBuf>,
    /// what records hold of envelope addresses (default full)
    #[argh(option, arg_name = "full|domain|hashed")]
    pub audit_addresses: Option<String>,
    /// have checkpoints of the audit log stamped with the time by this authority (RFC 3161); of several, each is asked
    /// where those before it fail
    #[argh(option, arg_name = "URL")]
    pub audit_tsa: Vec<HttpUrl>,
    /// have checkpoints signed by the witnesses that this file names with their keys and addresses (C2SP tlog-policy);
    /// needs --audit-key
    #[argh(option, arg_name = "FILE")]
    pub audit_witness: Option<PathBuf>,
    /// shortest time between two stamps, and between two signatures of a witness (default 600)
    #[argh(option, from_str_fn(seconds), arg_name = "SECONDS")]
    pub audit_stamp_every: Option<u64>,
    /// report the result of each TLS session to the tlsrpt collector at this socket
    #[argh(option, arg_name = "PATH")]
    pub tlsrpt_socket: Option<PathBuf>,
    /// add one Received line to the top of each message
    #[argh(switch)]
    pub add_received: bool,
    /// OPERATION: show the state on this address: / for people, /metrics for Prometheus, /healthz and /readyz
    #[argh(option, arg_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// let clients in this prefix read the page at / too (default: loopback only)
    #[argh(option, arg_name = "PREFIX")]
    pub status_from: Vec<Prefix>,
    /// how lines on stderr are written: for people, or as one JSON object a line (default text)
    #[argh(option, default = "LogFormat::Text", arg_name = "text|json")]
    pub log: LogFormat,
    /// least important lines that are written. At info a session that goes well is one line; at debug its decisions and
    /// messages have lines, too (default info)
    #[argh(
        option,
        default = "LevelFilter::Info",
        arg_name = "error|warn|info|debug"
    )]
    pub log_level: LevelFilter,
    /// sessions at a time, in all (default: as many as the limit of open files is enough for, at most 10000)
    #[argh(option, from_str_fn(count), arg_name = "N")]
    pub max_sessions: Option<usize>,
    /// sessions at a time from one client address (default 200)
    #[argh(option, default = "200", from_str_fn(count), arg_name = "N")]
    pub max_sessions_per_client: usize,
    /// how long a stop waits for messages under way (default 30)
    #[argh(option, default = "30", arg_name = "SECONDS")]
    pub drain_timeout: u64,
    /// read all flags and files, print what the proxy would do, and exit
    #[argh(switch)]
    pub dry_run: bool,
}

/// Carries mail from the world to a legacy mail server.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "inbound",
    example = "In front of a mail server at 192.168.7.10:\n\
               starttls-proxy inbound --listen 0.0.0.0:25 --upstream 192.168.7.10:25 \\\n\
              \x20 --keep-client-address --cert mx.pem --key mx.key",
    note = "SIGNALS: SIGHUP reads the files of the flags again and takes all of them or none. Without a signal it does so \
            when one of them but the policy table has changed. SIGUSR2 starts the program anew, lets the new process go on, \
            and ends with the last session. SIGTERM and SIGINT stop the proxy: it takes no more sessions and waits for \
            messages under way."
)]
pub struct InboundFlags {
    /// CONNECTIONS: as for outbound
    #[argh(option, arg_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// the legacy mail server, which is spoken to in the clear (default port 25)
    #[argh(option, arg_name = "HOST[:PORT]")]
    pub upstream: Option<String>,
    /// instead of --upstream: connect each client to the server that it meant to reach, as the kernel's rule of this
    /// kind tells
    #[argh(option, arg_name = "tproxy|redirect")]
    pub intercept: Option<Intercept>,
    /// connect to the mail server from the client's own address
    #[argh(switch)]
    pub keep_client_address: bool,
    /// or: tell the mail server the client's address in a PROXY header of this version
    #[argh(option, arg_name = "v1|v2")]
    pub send_proxy: Option<Version>,
    /// or: let the mail server see no client's address, and mean it
    #[argh(switch)]
    pub hide_client_address: bool,
    /// take the client's address from the PROXY header of load balancers in this prefix
    #[argh(option, arg_name = "PREFIX")]
    pub accept_proxy: Vec<Prefix>,
    /// as for outbound
    #[argh(option, from_str_fn(mark), arg_name = "N")]
    pub fwmark: Option<u32>,
    /// as for outbound
    #[argh(option, arg_name = "NAME")]
    pub hostname: Option<String>,
    /// CERTIFICATES AND POLICY: certificate of the proxy, with its chain; each goes with its --key, and clients get
    /// the one for the name they ask for (SNI), else the first
    #[argh(option, arg_name = "PEM")]
    pub cert: Vec<PathBuf>,
    /// private key of a --cert, in the same order
    #[argh(option, arg_name = "PEM")]
    pub key: Vec<PathBuf>,
    /// OCSP response to staple to a --cert, in the same order
    #[argh(option, arg_name = "DER")]
    pub ocsp: Vec<PathBuf>,
    /// whether clients are asked for a certificate (default none)
    #[argh(option, arg_name = "none|request|require")]
    pub client_auth: Option<String>,
    /// trust these authorities for clients' certificates instead of the system's
    #[argh(option, arg_name = "PEM")]
    pub client_ca: Option<PathBuf>,
    /// accept clients' certificates that were issued for servers only
    #[argh(switch)]
    pub accept_server_eku: bool,
    /// table of what clients must prove, by @sender.domain or by client address or prefix
    #[argh(option, arg_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// let clients in this prefix send in the clear
    #[argh(option, arg_name = "PREFIX")]
    pub exempt: Vec<Prefix>,
    /// as for outbound
    #[argh(option, arg_name = "1.2|1.3")]
    pub min_tls: Option<String>,
    /// REFUSALS: offer STARTTLS, but let mail in the clear pass, and record it
    #[argh(switch)]
    pub observe: bool,
    /// EVIDENCE: as for outbound
    #[argh(option, arg_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// as for outbound
    #[argh(option, arg_name = "PEM")]
    pub audit_key: Option<PathBuf>,
    /// as for outbound
    #[argh(option, arg_name = "full|domain|hashed")]
    pub audit_addresses: Option<String>,
    /// as for outbound
    #[argh(option, arg_name = "URL")]
    pub audit_tsa: Vec<HttpUrl>,
    /// as for outbound
    #[argh(option, arg_name = "FILE")]
    pub audit_witness: Option<PathBuf>,
    /// as for outbound
    #[argh(option, from_str_fn(seconds), arg_name = "SECONDS")]
    pub audit_stamp_every: Option<u64>,
    /// as for outbound
    #[argh(switch)]
    pub add_received: bool,
    /// OPERATION: as for outbound
    #[argh(option, arg_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// as for outbound
    #[argh(option, arg_name = "PREFIX")]
    pub status_from: Vec<Prefix>,
    /// as for outbound
    #[argh(option, default = "LogFormat::Text", arg_name = "text|json")]
    pub log: LogFormat,
    /// as for outbound
    #[argh(
        option,
        default = "LevelFilter::Info",
        arg_name = "error|warn|info|debug"
    )]
    pub log_level: LevelFilter,
    /// as for outbound
    #[argh(option, from_str_fn(count), arg_name = "N")]
    pub max_sessions: Option<usize>,
    /// sessions at a time from one client address (default 50)
    #[argh(option, default = "50", from_str_fn(count), arg_name = "N")]
    pub max_sessions_per_client: usize,
    /// TLS handshakes at a time (default: 4 for each core)
    #[argh(option, from_str_fn(count), arg_name = "N")]
    pub max_handshakes: Option<usize>,
    /// foreign domain to which the proxy tries whether the mail server relays for strangers (default probe.invalid;
    /// off: no probe)
    #[argh(
        option,
        default = "String::from(\"probe.invalid\")",
        arg_name = "DOMAIN"
    )]
    pub relay_probe: String,
    /// as for outbound
    #[argh(option, default = "30", arg_name = "SECONDS")]
    pub drain_timeout: u64,
    /// as for outbound
    #[argh(switch)]
    pub dry_run: bool,
}

/// Shows what mail for a domain would get, and why. With each mail exchanger it holds the session that mail would
/// have, up to MAIL, which is not sent. It prints what was found and heard, what is demanded, the verdict, and the
/// reply that mail would get, word for word. Give it the same flags as outbound. Exit code 1: mail for a domain would
/// be refused, or not be taken at the smart host.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "check",
    example = "With the table that is in force:\n\
               starttls-proxy check --policy /etc/starttls-proxy/policy clinic.example"
)]
pub struct CheckFlags {
    /// recipient domain
    #[argh(positional, arg_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// read domains from this file, one on each line
    #[argh(option, arg_name = "FILE")]
    pub file: Option<PathBuf>,
    /// print one JSON object for each domain
    #[argh(switch)]
    pub json: bool,
    /// name in EHLO (default: the host's name)
    #[argh(option, arg_name = "NAME")]
    pub hostname: Option<String>,
    /// instead of a DOMAIN: show what mail would get at this smart host
    #[argh(option, arg_name = "[smtps://]HOST[:PORT]")]
    pub upstream: Option<String>,
    /// log in to --upstream with the credentials in this file, and show whether they are accepted
    #[argh(option, arg_name = "FILE")]
    pub upstream_auth: Option<PathBuf>,
    /// AS FOR OUTBOUND: as for outbound
    #[argh(option, arg_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// as for outbound
    #[argh(option, arg_name = "encrypt|verify|secure|dane|dane-only|mta-sts")]
    pub level: Option<String>,
    /// as for outbound
    #[argh(option, arg_name = "PEM")]
    pub ca_file: Option<PathBuf>,
    /// as for outbound
    #[argh(option, arg_name = "1.2|1.3")]
    pub min_tls: Option<String>,
    /// as for outbound
    #[argh(switch)]
    pub no_dane: bool,
    /// as for outbound
    #[argh(switch)]
    pub no_mta_sts: bool,
    /// as for outbound
    #[argh(option, from_str_fn(resolver), arg_name = "IP[:PORT]")]
    pub resolver: Vec<SocketAddr>,
    /// as for outbound
    #[argh(option, arg_name = "FILE")]
    pub dnssec_anchor: Option<PathBuf>,
    /// as for outbound
    #[argh(option, arg_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// as for outbound
    #[argh(switch)]
    pub mta_sts_private: bool,
    /// as for outbound
    #[argh(option, arg_name = "PEM")]
    pub client_cert: Option<PathBuf>,
    /// as for outbound
    #[argh(option, arg_name = "PEM")]
    pub client_key: Option<PathBuf>,
    /// as for outbound
    #[argh(option, arg_name = "defer|reject")]
    pub refuse_with: Option<String>,
}

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
    /// public key that signed the checkpoints
    #[argh(option, arg_name = "PEM|NAME+ID+KEY")]
    pub key: Vec<String>,
    /// first record that must be there: older ones were left out knowingly (default 0)
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
    /// session without an end, a clock that ran back, a stretch without a checkpoint, a crash, a key that signed nothing
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
    /// only before this time
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

/// Verifies a proof that audit prove wrote, and prints the record. Exit code 1: the proof does not hold.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "check-proof")]
pub struct AuditCheckProofFlags {
    /// public key of the log
    #[argh(option, arg_name = "PEM|NAME+ID+KEY")]
    pub key: Vec<String>,
    /// as for audit verify
    #[argh(option, arg_name = "PEM")]
    pub tsa_ca: Vec<PathBuf>,
    /// as for audit verify
    #[argh(option, arg_name = "FILE")]
    pub witness: Option<PathBuf>,
    /// the proof
    #[argh(positional, arg_name = "PROOF")]
    pub file: PathBuf,
}

/// Makes a key for --audit-key.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "keygen")]
pub struct AuditKeygenFlags {
    /// write the private key to this file, and the public key to the same name with .pub
    #[argh(option, arg_name = "PEM")]
    pub out: PathBuf,
}

/// Turns `--flag=value` into `--flag value`, which is what argh reads.
pub(crate) fn split_values(arguments: &[String]) -> Vec<String> {
    arguments
        .iter()
        .flat_map(|argument| match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                vec![flag.to_owned(), value.to_owned()]
            }
            _ => vec![argument.clone()],
        })
        .collect()
}

/// A mark of packets: `0x1a` or `26`.
fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no mark (write 26 or 0x1a)"))
}

/// How many of something may exist at the same time: at least 1.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 would let nobody in".into()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("'{text}' is no number that can be counted to")),
    }
}

/// A time in seconds, at least 1.
fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("'{text}' is no number of seconds")),
        Ok(seconds) => Ok(seconds),
    }
}

/// The address of a resolver, port 53 if none is given: `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53` or `[2001:db8::53]:5353`.
fn resolver(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.parse::<SocketAddr>()
        .or_else(|_| bare.parse().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| {
            format!(
                "'{text}' is no address (write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353)"
            )
        })
}
