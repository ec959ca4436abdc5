//! The flags, each declared once. `help.rs` says the same for people; a test compares.

use argh::FromArgs;
use std::{net::SocketAddr, path::PathBuf};

use crate::{
    net::{Intercept, proxy_header::Version},
    policy::Prefix,
};

/// starttls-proxy
#[derive(FromArgs, Debug)]
pub struct ProgramFlags {
    /// what to do
    #[argh(subcommand)]
    pub command: CommandFlags,
}

/// The four programs, and a look into the policy.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
#[allow(clippy::large_enum_variant, reason = "made once a process")]
pub enum CommandFlags {
    /// legacy server to the world
    Outbound(OutboundFlags),
    /// the world to legacy server
    Inbound(InboundFlags),
    /// what mail would get
    Check(CheckFlags),
    /// look into the policy
    Policy(PolicyFlags),
    /// the evidence
    Audit(AuditFlags),
}

/// from a legacy mail server to the world
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "outbound")]
pub struct OutboundFlags {
    /// listen here
    #[argh(option)]
    pub listen: Vec<SocketAddr>,
    /// tproxy or redirect
    #[argh(option)]
    pub intercept: Option<Intercept>,
    /// smart host
    #[argh(option)]
    pub upstream: Option<String>,
    /// connect from the client's address
    #[argh(switch)]
    pub keep_client_address: bool,
    /// mark for our connections
    #[argh(option, from_str_fn(mark))]
    pub fwmark: Option<u32>,
    /// our name
    #[argh(option)]
    pub hostname: Option<String>,
    /// policy table
    #[argh(option)]
    pub policy: Option<PathBuf>,
    /// level where nothing else speaks
    #[argh(option)]
    pub level: Option<String>,
    /// trust anchors
    #[argh(option)]
    pub ca_file: Option<PathBuf>,
    /// lowest TLS version
    #[argh(option)]
    pub min_tls: Option<String>,
    /// no TLSA look-ups
    #[argh(switch)]
    pub no_dane: bool,
    /// no MTA-STS
    #[argh(switch)]
    pub no_mta_sts: bool,
    /// resolvers
    #[argh(option, from_str_fn(resolver))]
    pub resolver: Vec<SocketAddr>,
    /// DNSSEC anchor
    #[argh(option)]
    pub dnssec_anchor: Option<PathBuf>,
    /// cache across restarts
    #[argh(option)]
    pub state_dir: Option<PathBuf>,
    /// policy hosts on private addresses
    #[argh(switch)]
    pub mta_sts_private: bool,
    /// client certificate
    #[argh(option)]
    pub client_cert: Option<PathBuf>,
    /// its key
    #[argh(option)]
    pub client_key: Option<PathBuf>,
    /// defer or reject
    #[argh(option)]
    pub refuse_with: Option<String>,
    /// judge, but let pass
    #[argh(switch)]
    pub observe: bool,
    /// evidence file
    #[argh(option)]
    pub audit_log: Option<PathBuf>,
    /// checkpoint key
    #[argh(option)]
    pub audit_key: Option<PathBuf>,
    /// full, domain or hashed
    #[argh(option)]
    pub audit_addresses: Option<String>,
    /// tlsrpt collector
    #[argh(option)]
    pub tlsrpt_socket: Option<PathBuf>,
    /// one Received line
    #[argh(switch)]
    pub add_received: bool,
    /// metrics listener
    #[argh(option)]
    pub metrics: Option<SocketAddr>,
    /// sessions in all
    #[argh(option, default = "1000", from_str_fn(count))]
    pub max_sessions: usize,
    /// sessions of one address
    #[argh(option, default = "200", from_str_fn(count))]
    pub max_sessions_per_client: usize,
    /// seconds
    #[argh(option, default = "30")]
    pub drain_timeout: u64,
    /// read everything, say what would be done
    #[argh(switch)]
    pub dry_run: bool,
}

/// from the world to a legacy mail server
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "inbound")]
pub struct InboundFlags {
    /// listen here
    #[argh(option)]
    pub listen: Vec<SocketAddr>,
    /// the inside server
    #[argh(option)]
    pub upstream: Option<String>,
    /// tproxy or redirect
    #[argh(option)]
    pub intercept: Option<Intercept>,
    /// connect from the client's address
    #[argh(switch)]
    pub keep_client_address: bool,
    /// PROXY header to the inside server
    #[argh(option)]
    pub send_proxy: Option<Version>,
    /// the server shall not know clients
    #[argh(switch)]
    pub hide_client_address: bool,
    /// load balancers
    #[argh(option)]
    pub accept_proxy: Vec<Prefix>,
    /// mark for our connections
    #[argh(option, from_str_fn(mark))]
    pub fwmark: Option<u32>,
    /// our name
    #[argh(option)]
    pub hostname: Option<String>,
    /// certificates
    #[argh(option)]
    pub cert: Vec<PathBuf>,
    /// their keys
    #[argh(option)]
    pub key: Vec<PathBuf>,
    /// their staples
    #[argh(option)]
    pub ocsp: Vec<PathBuf>,
    /// none, request or require
    #[argh(option)]
    pub client_auth: Option<String>,
    /// issuers of clients
    #[argh(option)]
    pub client_ca: Option<PathBuf>,
    /// take server certificates
    #[argh(switch)]
    pub accept_server_eku: bool,
    /// policy table
    #[argh(option)]
    pub policy: Option<PathBuf>,
    /// may speak in the clear
    #[argh(option)]
    pub exempt: Vec<Prefix>,
    /// lowest TLS version
    #[argh(option)]
    pub min_tls: Option<String>,
    /// let plaintext pass
    #[argh(switch)]
    pub observe: bool,
    /// evidence file
    #[argh(option)]
    pub audit_log: Option<PathBuf>,
    /// checkpoint key
    #[argh(option)]
    pub audit_key: Option<PathBuf>,
    /// full, domain or hashed
    #[argh(option)]
    pub audit_addresses: Option<String>,
    /// one Received line
    #[argh(switch)]
    pub add_received: bool,
    /// metrics listener
    #[argh(option)]
    pub metrics: Option<SocketAddr>,
    /// sessions in all
    #[argh(option, default = "1000", from_str_fn(count))]
    pub max_sessions: usize,
    /// sessions of one address
    #[argh(option, default = "50", from_str_fn(count))]
    pub max_sessions_per_client: usize,
    /// handshakes at once
    #[argh(option, default = "100", from_str_fn(count))]
    pub max_handshakes: usize,
    /// foreign domain for the relay probe
    #[argh(option, default = "String::from(\"probe.invalid\")")]
    pub relay_probe: String,
    /// seconds
    #[argh(option, default = "30")]
    pub drain_timeout: u64,
    /// read everything, say what would be done
    #[argh(switch)]
    pub dry_run: bool,
}

/// what mail for a domain would get
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "check")]
pub struct CheckFlags {
    /// domains
    #[argh(positional)]
    pub domains: Vec<String>,
    /// domains, one a line
    #[argh(option)]
    pub file: Option<PathBuf>,
    /// one JSON object a domain
    #[argh(switch)]
    pub json: bool,
    /// policy table
    #[argh(option)]
    pub policy: Option<PathBuf>,
    /// level where nothing else speaks
    #[argh(option)]
    pub level: Option<String>,
    /// defer or reject
    #[argh(option)]
    pub refuse_with: Option<String>,
    /// trust anchors
    #[argh(option)]
    pub ca_file: Option<PathBuf>,
    /// lowest TLS version
    #[argh(option)]
    pub min_tls: Option<String>,
    /// no TLSA look-ups
    #[argh(switch)]
    pub no_dane: bool,
    /// no MTA-STS
    #[argh(switch)]
    pub no_mta_sts: bool,
    /// resolvers
    #[argh(option, from_str_fn(resolver))]
    pub resolver: Vec<SocketAddr>,
    /// DNSSEC anchor
    #[argh(option)]
    pub dnssec_anchor: Option<PathBuf>,
    /// cache across restarts
    #[argh(option)]
    pub state_dir: Option<PathBuf>,
    /// policy hosts on private addresses
    #[argh(switch)]
    pub mta_sts_private: bool,
    /// client certificate
    #[argh(option)]
    pub client_cert: Option<PathBuf>,
    /// its key
    #[argh(option)]
    pub client_key: Option<PathBuf>,
    /// our name
    #[argh(option)]
    pub hostname: Option<String>,
}

/// look into the policy
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "policy")]
pub struct PolicyFlags {
    /// test, show or purge
    #[argh(subcommand)]
    pub verb: PolicyCommandFlags,
}

/// What to do with the policy.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum PolicyCommandFlags {
    /// which line decides
    Test(PolicyTestFlags),
    /// the table and the MTA-STS cache
    Show(PolicyShowFlags),
    /// forget cached policies
    Purge(PolicyPurgeFlags),
}

/// which line decides
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "test")]
pub struct PolicyTestFlags {
    /// policy table
    #[argh(option)]
    pub policy: Option<PathBuf>,
    /// level where nothing else speaks
    #[argh(option)]
    pub level: Option<String>,
    /// domains, @senders, addresses or prefixes
    #[argh(positional)]
    pub names: Vec<String>,
}

/// the table, and MTA-STS policies in the cache
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "show")]
pub struct PolicyShowFlags {
    /// policy table
    #[argh(option)]
    pub policy: Option<PathBuf>,
    /// the cache
    #[argh(option)]
    pub state_dir: Option<PathBuf>,
    /// all where none is named
    #[argh(positional)]
    pub domains: Vec<String>,
}

/// forget cached MTA-STS policies
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "purge")]
pub struct PolicyPurgeFlags {
    /// the cache
    #[argh(option)]
    pub state_dir: PathBuf,
    /// which
    #[argh(positional)]
    pub domains: Vec<String>,
}

/// the evidence
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "audit")]
pub struct AuditFlags {
    /// verify, show, report or keygen
    #[argh(subcommand)]
    pub verb: AuditCommandFlags,
}

/// What to do with the evidence.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum AuditCommandFlags {
    /// is it intact
    Verify(AuditVerifyFlags),
    /// records for people
    Show(AuditShowFlags),
    /// the page for auditors
    Report(AuditReportFlags),
    /// a key for checkpoints
    Keygen(AuditKeygenFlags),
}

/// intact, or the first line that is not
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "verify")]
pub struct AuditVerifyFlags {
    /// earlier checkpoint kept elsewhere
    #[argh(option)]
    pub anchor: Vec<String>,
    /// public keys of the checkpoints
    #[argh(option)]
    pub key: Vec<String>,
    /// first record that must be there
    #[argh(option, default = "0")]
    pub from: u64,
    /// of one log
    #[argh(positional)]
    pub files: Vec<PathBuf>,
}

/// records for people
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "show")]
pub struct AuditShowFlags {
    /// sender's or recipient's domain
    #[argh(option)]
    pub domain: Option<String>,
    /// an address of the envelope or a network address
    #[argh(option)]
    pub address: Option<String>,
    /// audit key, to find hashed addresses
    #[argh(option)]
    pub key: Option<PathBuf>,
    /// from (RFC 3339 or YYYY-MM-DD)
    #[argh(option)]
    pub since: Option<String>,
    /// before
    #[argh(option)]
    pub until: Option<String>,
    /// authorised, unprotected, refused or observed
    #[argh(option)]
    pub verdict: Option<String>,
    /// one session's id
    #[argh(option)]
    pub session: Option<String>,
    /// as they are
    #[argh(switch)]
    pub json: bool,
    /// of one log
    #[argh(positional)]
    pub files: Vec<PathBuf>,
}

/// the page for auditors
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "report")]
pub struct AuditReportFlags {
    /// where to write it
    #[argh(option)]
    pub html: PathBuf,
    /// earlier checkpoint kept elsewhere
    #[argh(option)]
    pub anchor: Vec<String>,
    /// public keys of the checkpoints
    #[argh(option)]
    pub key: Vec<String>,
    /// first record that must be there
    #[argh(option, default = "0")]
    pub from: u64,
    /// from
    #[argh(option)]
    pub since: Option<String>,
    /// to
    #[argh(option)]
    pub until: Option<String>,
    /// of one log
    #[argh(positional)]
    pub files: Vec<PathBuf>,
}

/// a new key for --audit-key
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "keygen")]
pub struct AuditKeygenFlags {
    /// the private key goes here, the public one beside it
    #[argh(option)]
    pub out: PathBuf,
}

/// `0x1a` or `26`.
fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no mark (write 26 or 0x1a)"))
}

/// How many of something may be at once.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 would let nobody in".into()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("'{text}' is no number that can be counted to")),
    }
}

/// `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53` or `[2001:db8::53]:5353`.
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
