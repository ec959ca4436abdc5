//! What the server must prove, and which statement demands it.

use super::{findings::Tlsa, level::Level, names::NamePattern};
use std::{fmt, sync::Arc};

/// What the peer must prove to be (RFC 9525).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceIdentity {
    /// Nothing: TLS alone suffices.
    Anyone,
    /// The SHA-256 (32 octets), SHA-384, SHA-512 or SHA-1 (20 octets, as Postfix allows) of the certificate or of its public key.
    Fingerprints(Vec<Vec<u8>>),
    /// A chain to a trust anchor, and one of these names.
    Pkix {
        /// The certificate must show any one of these.
        names: Vec<NamePattern>,
        /// `tafile=`: these trust anchors (DER) instead of the general ones.
        anchors: Option<Arc<Vec<Vec<u8>>>>,
    },
    /// DANE (RFC 7672): usable records only (usages 2 and 3), and the names for usage 2.
    Dane {
        /// The usable records, after digest agility (RFC 7671 §9).
        records: Vec<Tlsa>,
        /// The TLSA base domain; also the next-hop domain and its expansion, unless an insecure MX RRset leads to the host
        /// (RFC 7672 §3.2.2).
        names: Vec<NamePattern>,
    },
}

impl ReferenceIdentity {
    /// A chain to the general trust anchors or, where given, to `anchors`, and one of the names.
    pub(super) fn pkix(names: Vec<NamePattern>, anchors: Option<Arc<Vec<Vec<u8>>>>) -> Self {
        Self::Pkix { names, anchors }
    }
}

/// What must be proved, and how to ask the peer for it. Any one of `references` suffices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The level in force.
    pub level: Level,
    /// The statement that sets the level.
    pub basis: Basis,
    /// The name sent in SNI; `None` for an address.
    pub sni: Option<String>,
    /// The host that has the destination's address, where known, such as `mx1.clinic.example`; used in words only.
    pub host: Option<String>,
    /// The alternatives.
    pub references: Vec<ReferenceIdentity>,
    /// `protocols=` or `--min-tls`: TLS 1.3 only.
    pub tls13_only: bool,
    /// The identity that MTA-STS in testing mode asks for. A failure to prove it is reported to TLSRPT and refuses no mail.
    pub testing: Option<ReferenceIdentity>,
    /// The addresses of all MX hosts are known, and the destination is none of them.
    pub not_an_mx: bool,
}

impl Demand {
    /// A demand that has no references yet.
    pub(super) fn of_level(level: Level, basis: Basis) -> Self {
        Self {
            level,
            basis,
            sni: None,
            host: None,
            references: Vec::new(),
            tls13_only: false,
            testing: None,
            not_an_mx: false,
        }
    }

    /// Whether a peer that fails the demand is refused. Under levels none and may, mail is handed to that peer all the same.
    pub(crate) fn is_enforced(&self) -> bool {
        !self.level.allows_plaintext()
    }

    /// The identities for which [`Shown::Tls`](super::Shown::Tls) has one result each, in order: `references`, then `testing`.
    pub(crate) fn alternatives(&self) -> impl Iterator<Item = &ReferenceIdentity> {
        self.references.iter().chain(&self.testing)
    }
}

/// The statement that decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

/// The words that follow "from" in a reply.
impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { file, line, .. } => write!(f, "{file}:{line}"),
            Self::Dane => f.write_str("TLSA"),
            Self::MtaSts => f.write_str("MTA-STS"),
            Self::Mx => f.write_str("MX"),
            Self::Upstream => f.write_str("--upstream"),
            Self::Exempt(prefix) => write!(f, "--exempt {prefix}"),
            Self::Observe => f.write_str("--observe"),
        }
    }
}
