//! Whom may mail for a domain be handed to? Two pure questions: `require` (what must the peer prove) and `judge` (has it).
//!
//! `lookup` gathers [`Findings`], this module only reads them; so `check`, the log, the refusal text and the record all
//! show the same object, [`Decision`].

mod client;
pub mod dane;
mod decision;
mod judge;
mod level;
pub mod mta_sts;
mod names;
mod prefix;
mod refusal;
mod require;
pub mod table;

pub use client::refuse_client;
pub use judge::{judge, testing_failure};
pub use prefix::Prefix;
pub use refusal::{LONGEST_TEXT, Scope, one_line, refusal, result_type};
pub use require::{needs, require, require_client};

use crate::smtp::{Recipient, Refusal};
use std::{net::IpAddr, sync::Arc, time::SystemTime};

/// How strictly a peer is authenticated, in Postfix's words, weakest first; and `mta-sts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// No TLS at all.
    None,
    /// TLS where the peer offers it, not authenticated.
    May,
    /// TLS, not authenticated.
    Encrypt,
    /// TLS, and the certificate or its key is one of those listed.
    Fingerprint,
    /// TLS, a chain to a trust anchor, and the name of an MX host (or as `match=` says).
    Verify,
    /// TLS, a chain to a trust anchor, and the name of the domain itself (or as `match=` says).
    Secure,
    /// RFC 8461, mode enforce.
    MtaSts,
    /// RFC 7672 where usable TLSA records are published, else what comes next.
    Dane,
    /// RFC 7672, or no delivery.
    DaneOnly,
}

/// Where mail is going, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// What names the policy.
    pub next_hop: NextHop,
    /// The address the connection goes to.
    pub server: IpAddr,
    /// The port it goes to: 25, unless `--upstream` says otherwise.
    pub port: u16,
}

/// What names the policy that applies: the recipient when intercepting, the fixed host with `--upstream` (RFC 8461 §3.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Interception: the recipient's domain, literal, or `<postmaster>`.
    Recipient(Recipient),
    /// Interception, before any recipient is known: only entries for the destination address can speak.
    Address,
    /// `--upstream HOST`, as given, without port.
    Upstream(String),
}

/// The DNSSEC state of an answer that was got (RFC 4035 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Validated from the trust anchor.
    Secure,
    /// Provably unsigned, or no validation was asked for.
    Insecure,
}

/// An answer of the DNS, its state kept.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dns<T> {
    /// The RRset.
    Found(T, Security),
    /// It does not exist (NXDOMAIN or NODATA).
    Absent(Security),
    /// Bogus: signatures are there and wrong. The text says what the validator said.
    Bogus(String),
    /// SERVFAIL, timeout, or anything else that is no answer.
    Failed(String),
    /// Was not asked for.
    NotAsked,
}

/// One TLSA record (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Tlsa {
    /// Certificate usage: 0..3 are defined.
    pub usage: u8,
    /// 0: whole certificate, 1: SubjectPublicKeyInfo.
    pub selector: u8,
    /// 0: the data itself, 1: SHA2-256, 2: SHA2-512.
    pub matching: u8,
    /// Certificate association data.
    #[serde(serialize_with = "decision::hex")]
    pub data: Vec<u8>,
}

/// One mail exchanger and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MxHost {
    /// The name in the MX record (or the domain itself for an implicit MX), in lower case.
    pub name: String,
    /// Its preference; 0 for an implicit MX.
    pub preference: u16,
    /// A and AAAA together; Secure only if both are, or if the one that could be had is.
    pub addresses: Dns<Vec<IpAddr>>,
    /// Which of the two could not be had, where the other could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
    /// The TLSA base domain that was used (RFC 7672 §2.2.3): the expanded name if that is secure, else `name`.
    pub tlsa_base: String,
    /// `_25._tcp.<tlsa_base>`; asked only if the addresses are secure (RFC 7672 §2.2.2), or `name` is a secure alias of an insecure
    /// name (RFC 7672 §2.2.3).
    pub tlsa: Dns<Vec<Tlsa>>,
}

/// The addresses of one family, which could not be had.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// Those of IPv6 (AAAA); else those of IPv4 (A).
    pub ipv6: bool,
    /// [`Reason::LookupFailed`] or [`Reason::DnssecInvalid`].
    pub reason: Reason,
    /// In words.
    pub why: String,
}

impl Mx {
    /// The hosts, in preference order; none for a null MX.
    #[must_use]
    pub fn hosts(&self) -> &[MxHost] {
        match self {
            Self::Null => &[],
            Self::Hosts(hosts) => hosts,
            Self::Implicit(host) => std::slice::from_ref(host),
        }
    }
}

/// What a domain says about where its mail goes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Mx {
    /// RFC 7505: accepts no mail.
    Null,
    /// In preference order.
    Hosts(Vec<MxHost>),
    /// No MX RRset: the domain itself is the host (RFC 5321 §5.1).
    Implicit(MxHost),
}

/// The MTA-STS policy that applies (RFC 8461), or why none does.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sts {
    /// A policy, its age in seconds, and whether the last refresh failed.
    Policy {
        /// What was fetched.
        policy: mta_sts::Policy,
        /// The `id` of the TXT record it was fetched for.
        id: String,
        /// Seconds since the fetch.
        age: u64,
        /// Why the last refresh failed, where it did: a TLSRPT result type (RFC 8460 §4.3.2.2) and words.
        refresh_failed: Option<(Reason, String)>,
    },
    /// The domain publishes none.
    Absent,
    /// The domain publishes a TXT record, no policy could be had for it, and none is cached: no policy (RFC 8461 §3.3), reported.
    Unavailable(Reason, String),
    /// Was not asked for.
    NotAsked,
}

impl Findings {
    /// Nothing was asked for: what an entry of the table needs that decides by itself.
    #[must_use]
    pub fn none() -> Self {
        Self {
            mx: Dns::NotAsked,
            expanded: None,
            sts: Sts::NotAsked,
            age: 0,
        }
    }

    /// What is known about an `--upstream` host. Its name is the administrator's, so it counts as secure; its addresses
    /// and TLSA records have their own state.
    #[must_use]
    pub fn of_upstream(host: MxHost) -> Self {
        Self {
            mx: Dns::Found(Mx::Implicit(host), Security::Secure),
            ..Self::none()
        }
    }
}

/// Everything that was found about a domain, with its state and age.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Findings {
    /// MX RRset with hosts; absent: there is no such name (RFC 2308 §2.1). For `--upstream`: `Mx::Implicit` with that host, TLSA at its own port, and no MX asked for.
    pub mx: Dns<Mx>,
    /// What the domain is an alias of, where it is one and every step is secure (RFC 7672 §3.2.2).
    pub expanded: Option<String>,
    /// MTA-STS.
    pub sts: Sts,
    /// The oldest answer in it was got this many seconds ago.
    pub age: u64,
}

/// What `lookup` shall gather for an [`Ask`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// MX RRset and addresses.
    pub mx: bool,
    /// TLSA RRsets of the MX hosts.
    pub tlsa: bool,
    /// MTA-STS policy.
    pub sts: bool,
}

/// A name that a certificate's DNS-ID (or IP-ID) must match.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamePattern {
    /// Exactly this name (a wildcard in the certificate may cover it, RFC 9525 §6.3).
    Host(String),
    /// `.example.com`: any host below, however deep, in Postfix's meaning of a leading dot.
    Below(String),
    /// `*.example.com`: exactly one label below (RFC 8461 §4.1).
    OneLabel(String),
    /// An address, for static rules only (RFC 9525 §6.2: IP-ID).
    Address(IpAddr),
}

/// What the peer must prove to be (RFC 9525).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceIdentity {
    /// Nothing: TLS alone.
    Anyone,
    /// The SHA-256 (32 octets), SHA-384, SHA-512 or SHA-1 (20 octets, as Postfix allows) of the certificate or of its public key.
    Fingerprints(#[serde(serialize_with = "decision::hex_list")] Vec<Vec<u8>>),
    /// A chain to a trust anchor, and one of these names.
    Pkix {
        /// Any of these.
        names: Vec<NamePattern>,
        /// `tafile=`: these trust anchors instead of the general ones, DER.
        #[serde(serialize_with = "decision::count")]
        anchors: Option<Arc<Vec<Vec<u8>>>>,
    },
    /// RFC 7672: usable records only (usages 2 and 3), and the names for usage 2.
    Dane {
        /// Usable records, after digest agility (RFC 7671 §9).
        records: Vec<Tlsa>,
        /// TLSA base domain; next-hop domain and its expansion unless an insecure MX RRset stands between (RFC 7672 §3.2.2).
        names: Vec<NamePattern>,
    },
}

/// What must be proved, and how to ask the peer for it. Any one of `references` suffices.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Demand {
    /// The level in force.
    pub level: Level,
    /// Where the level comes from.
    pub basis: Basis,
    /// The name sent in SNI; `None` for an address.
    pub sni: Option<String>,
    /// The host we think we talk to, for words: `mx1.clinic.example`, where known.
    pub host: Option<String>,
    /// Alternatives.
    pub references: Vec<ReferenceIdentity>,
    /// `protocols=`/`--min-tls`: TLS 1.3 only.
    pub tls13_only: bool,
    /// A failure is reported to TLSRPT under these policies too (MTA-STS in testing mode).
    pub testing: Option<ReferenceIdentity>,
    /// The addresses of all MX hosts are known, and the destination is none of them.
    pub not_an_mx: bool,
}

impl Demand {
    /// Whether a peer that fails the demand is refused. Under levels none and may, mail is handed to that peer all the same.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        !self.level.allows_plaintext()
    }

    /// What [`Shown::Tls`] has one result for each, in this order: `references`, then `testing`.
    pub fn alternatives(&self) -> impl Iterator<Item = &ReferenceIdentity> {
        self.references.iter().chain(&self.testing)
    }
}

/// Which statement decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// A line of the table.
    Table {
        /// As given on the command line.
        file: String,
        /// From 1.
        line: u32,
        /// `reason=`.
        reason: Option<String>,
        /// `until=`, as written.
        until: Option<String>,
    },
    /// TLSA records.
    Dane,
    /// An MTA-STS policy.
    MtaSts,
    /// `--level` with the names of the domain's MX hosts.
    Mx,
    /// `--level` with the `--upstream` host's name.
    Upstream,
    /// `--exempt PREFIX`.
    Exempt(String),
    /// `--observe`.
    Observe,
}

/// Why mail was refused or a handshake failed. The words of RFC 8460 §4.3 where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not offered.
    StarttlsNotSupported,
    /// Offered, and refused when we asked for it.
    StarttlsRefused,
    /// The session goes on in the clear for somebody whom the table allows that, and this one needs TLS.
    SessionInTheClear,
    /// The chain is good, the name is not.
    CertificateHostMismatch,
    /// Past notAfter or before notBefore.
    CertificateExpired,
    /// No chain to a trust anchor.
    CertificateNotTrusted,
    /// Anything else wrong with TLS or the certificate.
    ValidationFailure,
    /// TLSA records are there and none of them matches.
    TlsaInvalid,
    /// Bogus, or a look-up that must succeed did not.
    DnssecInvalid,
    /// `dane-only`, and no usable TLSA records.
    DaneRequired,
    /// Policy could not be fetched.
    StsPolicyFetchError,
    /// Policy could not be parsed, or lists none of the hosts.
    StsPolicyInvalid,
    /// The policy host's certificate is wrong.
    StsWebpkiInvalid,
    /// Nothing authorises: no table line for a literal or `<postmaster>`, no MTA-STS policy where one is demanded.
    NoPolicy,
    /// A look-up gave no answer in time (not reportable, RFC 8460 §4.3.4).
    LookupFailed,
    /// RFC 7505.
    NullMx,
    /// The DNS has no such name (NXDOMAIN), so that no host can be the domain's.
    NoSuchDomain,
    /// The destination is no MX of the domain and proved nothing.
    NotAnMx,
    /// The proxy itself cannot go on: record, memory, limits.
    LocalFault,
}

/// What the peer showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// STARTTLS was not offered.
    NoStartTls,
    /// TLS cannot be had, for this reason, in these words.
    NoTls(Reason, String),
    /// The handshake failed for a reason that is not the certificate's.
    HandshakeFailed(String),
    /// TLS is up; per [`Demand::alternatives`], in order: what matched, or what was wrong.
    Tls(Vec<Result<String, (Reason, String)>>),
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Over TLS with a peer that proved what was demanded; the text says what matched.
    Authorised(String),
    /// Allowed without that proof; the text says why.
    Unprotected(String),
    /// Not allowed.
    Refused(Reason, String),
}

/// At which point of the session a question is decided; it says what a refusal may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// The peer is known at connect time: the client's EHLO waits for the answer, and a refusal ends the session.
    Hello,
    /// A recipient is judged before any was authorised in this session: what is the host's fault ends the session.
    FirstRecipient,
    /// Another recipient on a session that has an authorised one: a refusal is for this recipient alone.
    LaterRecipient,
}

/// `--refuse-with`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RefuseWith {
    /// 4yz.
    #[default]
    Defer,
    /// 5yz where authenticated facts alone decided, else 4yz.
    Reject,
}

/// What the command line says for all domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--level`.
    pub level: Level,
    /// DANE is used (not `--no-dane`).
    pub dane: bool,
    /// MTA-STS is used (not `--no-mta-sts`).
    pub mta_sts: bool,
    /// `--refuse-with`.
    pub refuse_with: RefuseWith,
    /// `--observe`.
    pub observe: bool,
    /// `--min-tls 1.3`.
    pub tls13_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: Level::Verify,
            dane: true,
            mta_sts: true,
            refuse_with: RefuseWith::Defer,
            observe: false,
            tls13_only: false,
        }
    }
}

/// One decision, whole: what was asked, found, demanded, shown, and what came of it.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What was asked.
    pub ask: Ask,
    /// What was found.
    pub findings: Option<Arc<Findings>>,
    /// What was demanded, where it got that far.
    pub demand: Option<Demand>,
    /// What came of it.
    pub verdict: Verdict,
    /// The reply, where it is a refusal.
    pub refusal: Option<Refusal>,
    /// `--observe`: evaluated and recorded as it would have been, but mail flows.
    pub observed: bool,
    /// When.
    pub at: SystemTime,
}
