//! What a decision is about: the address that a connection goes to, and whose policy applies there.

use crate::smtp::Recipient;
use std::net::IpAddr;

/// Where mail is going, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Names the policy that applies.
    pub next_hop: NextHop,
    /// The address that the connection goes to.
    pub server: IpAddr,
    /// The port that the connection goes to: 25, unless `--upstream` says otherwise.
    pub port: u16,
}

/// Names the policy that applies: the recipient when intercepting, the fixed host with `--upstream` (RFC 8461 §3.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Interception: the recipient's domain, address literal, or `<postmaster>`.
    Recipient(Recipient),
    /// Interception, before any recipient is known: only table entries for the destination address apply.
    Address,
    /// `--upstream HOST`, as given, without port.
    Upstream(String),
}

impl NextHop {
    /// The recipient's domain or literal, or the upstream host, as given; nothing before a recipient is known.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Recipient(Recipient::Domain(domain)) => domain.as_str(),
            Self::Recipient(Recipient::Literal(literal)) => literal,
            Self::Recipient(Recipient::Postmaster) => "<postmaster>",
            Self::Upstream(host) => host,
            Self::Address => "",
        }
    }
}
