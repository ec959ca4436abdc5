//! What `lookup` found about a domain. Each answer keeps its DNSSEC state, so that a failed look-up is never taken for "no record".

use super::{
    mta_sts,
    reason::{Denial, Reason},
};
use data_encoding::HEXLOWER;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use std::{net::IpAddr, time::Duration};

/// The DNSSEC state of an answer that arrived (RFC 4035 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Validated from the trust anchor.
    Secure,
    /// Provably unsigned, or no validation was asked for.
    Insecure,
}

/// An answer of the DNS with its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dns<T> {
    /// The RRset.
    Found(T, Security),
    /// The RRset does not exist (NXDOMAIN or NODATA).
    Absent(Security),
    /// Signatures are present and wrong. The text is what the validator said.
    Bogus(String),
    /// SERVFAIL, timeout, or anything else that is no answer.
    Failed(String),
    /// The look-up was not needed.
    NotAsked,
}

impl<T> Dns<T> {
    /// The RRset, or `None` if it does not exist, with its state. A failed look-up is an error, never "no record" (RFC 7672 §2.1.1,
    /// §2.2); `what` names the look-up in its words.
    pub(super) fn answer(&self, what: &str) -> Result<(Option<&T>, Security), Denial> {
        match self {
            Self::Found(found, security) => Ok((Some(found), *security)),
            Self::Absent(security) => Ok((None, *security)),
            Self::Bogus(why) => Err((Reason::DnssecInvalid, format!("{what}: {why}"))),
            Self::Failed(why) => Err((Reason::LookupFailed, format!("{what}: {why}"))),
            Self::NotAsked => Err((Reason::LookupFailed, format!("{what} was not asked for"))),
        }
    }

    /// The look-up was needed and gave no usable answer.
    fn is_missing(&self) -> bool {
        matches!(self, Self::Bogus(_) | Self::Failed(_))
    }
}

/// One TLSA record (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Tlsa {
    /// Certificate usage: 0 to 3 are defined.
    pub usage: u8,
    /// 0: the whole certificate, 1: its SubjectPublicKeyInfo.
    pub selector: u8,
    /// 0: the data itself, 1: SHA2-256, 2: SHA2-512.
    pub matching: u8,
    /// Certificate association data.
    #[serde(serialize_with = "hex")]
    pub data: Vec<u8>,
}

/// One mail exchanger and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxHost {
    /// The name in the MX record (or the domain itself for an implicit MX), in lower case.
    pub name: String,
    /// The preference in the MX record; 0 for an implicit MX.
    pub preference: u16,
    /// A and AAAA together. Secure only if both are; if only one could be looked up, its state counts.
    pub addresses: Dns<Vec<IpAddr>>,
    /// The address family that could not be looked up, where the other one could.
    pub missing: Option<Missing>,
    /// The TLSA base domain in use (RFC 7672 §2.2.3): the expanded name if that is secure, else `name`.
    pub tlsa_base: String,
    /// `_25._tcp.<tlsa_base>`. Asked only if the addresses are secure (RFC 7672 §2.2.2), or `name` is a secure alias of an insecure
    /// name (RFC 7672 §2.2.3).
    pub tlsa: Dns<Vec<Tlsa>>,
}

/// In a record, what was not asked for is left out, and so is a base domain that is the host's own name. A domain can have many hosts.
impl Serialize for MxHost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let base = (self.tlsa_base != self.name).then_some(&self.tlsa_base);
        let tlsa = (self.tlsa != Dns::NotAsked).then_some(&self.tlsa);
        let more = [base.is_some(), tlsa.is_some(), self.missing.is_some()];
        let fields = 3 + more.into_iter().filter(|is_there| *is_there).count();
        let mut host = serializer.serialize_struct("MxHost", fields)?;
        host.serialize_field("name", &self.name)?;
        host.serialize_field("preference", &self.preference)?;
        host.serialize_field("addresses", &self.addresses)?;
        if let Some(missing) = &self.missing {
            host.serialize_field("missing", missing)?;
        }
        if let Some(base) = base {
            host.serialize_field("tlsa_base", base)?;
        }
        if let Some(tlsa) = tlsa {
            host.serialize_field("tlsa", tlsa)?;
        }
        host.end()
    }
}

/// The addresses of one family, which could not be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// True: the IPv6 addresses (AAAA) are missing. False: the IPv4 addresses (A).
    pub ipv6: bool,
    /// [`Reason::LookupFailed`] or [`Reason::DnssecInvalid`].
    pub reason: Reason,
    /// The cause in words.
    pub why: String,
}

/// What a domain says about where its mail goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Mx {
    /// The domain accepts no mail (RFC 7505).
    Null,
    /// In preference order.
    Hosts(Vec<MxHost>),
    /// No MX RRset: the domain itself is the host (RFC 5321 §5.1).
    Implicit(MxHost),
}

impl Mx {
    /// The hosts, in preference order; none for a null MX.
    pub(crate) fn hosts(&self) -> &[MxHost] {
        match self {
            Self::Null => &[],
            Self::Hosts(hosts) => hosts,
            Self::Implicit(host) => std::slice::from_ref(host),
        }
    }
}

/// The MTA-STS policy that applies (RFC 8461), or why none does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sts {
    /// A policy, its age, and whether the last refresh failed.
    Policy {
        /// The policy as fetched.
        policy: mta_sts::Policy,
        /// The `id` of the TXT record for which the policy was fetched.
        id: String,
        /// Seconds since the fetch.
        age: u64,
        /// Why the last refresh failed, if it did: a TLSRPT result type (RFC 8460 §4.3.2.2) and words.
        refresh_failed: Option<Denial>,
    },
    /// The domain publishes no policy.
    Absent,
    /// The domain publishes a TXT record, but its policy could not be fetched and none is cached. That counts as no policy
    /// (RFC 8461 §3.3), and is reported.
    Unavailable(Reason, String),
    /// The look-up was not needed.
    NotAsked,
}

impl Sts {
    fn is_not_asked(&self) -> bool {
        *self == Self::NotAsked
    }

    /// Why an announced policy could not be fetched or refreshed. A cached policy may apply all the same.
    pub(crate) fn fault(&self) -> Option<Reason> {
        match self {
            Self::Unavailable(reason, _) => Some(*reason),
            Self::Policy { refresh_failed, .. } => {
                refresh_failed.as_ref().map(|(reason, _)| *reason)
            }
            Self::Absent | Self::NotAsked => None,
        }
    }
}

/// Everything that was found about a domain, with its state and age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The MX RRset with its hosts. [`Dns::Absent`]: the name does not exist (RFC 2308 §2.1). With `--upstream`: [`Mx::Implicit`]
    /// with that host, TLSA records at its own port, and no MX look-up.
    pub mx: Dns<Mx>,
    /// The name of which the domain is an alias, if it is one and every step is secure (RFC 7672 §3.2.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expanded: Option<String>,
    /// The MTA-STS policy.
    #[serde(skip_serializing_if = "Sts::is_not_asked")]
    pub sts: Sts,
    /// Age of the oldest answer, in seconds.
    pub age: u64,
    /// How long the answers hold from now on, by their TTLs. No end is known if nothing was asked.
    #[serde(skip)]
    pub fresh_for: Duration,
}

impl Findings {
    /// No look-up was made. Enough for a table entry that decides by itself.
    #[must_use]
    pub fn none() -> Self {
        Self {
            mx: Dns::NotAsked,
            expanded: None,
            sts: Sts::NotAsked,
            age: 0,
            fresh_for: Duration::MAX,
        }
    }

    /// What is known about an `--upstream` host. The administrator chose its name, so the name counts as secure; its addresses
    /// and TLSA records have their own state.
    #[must_use]
    pub fn of_upstream(host: MxHost) -> Self {
        Self {
            mx: Dns::Found(Mx::Implicit(host), Security::Secure),
            ..Self::none()
        }
    }

    /// How long all of it is known from now on. Zero if something could not be found out.
    pub(super) fn known_for(&self) -> Duration {
        if self.lacks_an_answer() {
            return Duration::ZERO;
        }
        match &self.sts {
            Sts::Policy { policy, age, .. } => {
                let left = policy.expires_in(*age).unwrap_or_default();
                self.fresh_for.min(Duration::from_secs(left))
            }
            Sts::Absent | Sts::Unavailable(..) | Sts::NotAsked => self.fresh_for,
        }
    }

    fn lacks_an_answer(&self) -> bool {
        let hosts = match &self.mx {
            Dns::Found(mx, _) => mx.hosts(),
            _ => &[],
        };
        self.mx.is_missing()
            || self.sts.fault().is_some()
            || hosts.iter().any(|host| {
                host.addresses.is_missing() || host.tlsa.is_missing() || host.missing.is_some()
            })
    }
}

/// What `lookup` must gather before a question can be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// MX RRset and addresses.
    pub mx: bool,
    /// TLSA RRsets of the MX hosts.
    pub tlsa: bool,
    /// MTA-STS policy.
    pub sts: bool,
}

/// Octets as lower-case hex, in records.
fn hex<S: Serializer>(octets: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&HEXLOWER.encode(octets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_not_asked_for_takes_no_room_in_a_record() {
        let host = |base: &str, tlsa| MxHost {
            name: "mx.a.example".into(),
            preference: 10,
            addresses: Dns::Found(vec![[203, 0, 113, 9].into()], Security::Secure),
            missing: None,
            tlsa_base: base.into(),
            tlsa,
        };
        let hosts = Mx::Hosts(vec![
            host("mx.a.example", Dns::NotAsked),
            host("alias.a.example", Dns::Absent(Security::Secure)),
        ]);
        let mut findings = Findings {
            mx: Dns::Found(hosts, Security::Secure),
            ..Findings::none()
        };
        let addresses = json!({"found": [["203.0.113.9"], "secure"]});
        let first = json!({"name": "mx.a.example", "preference": 10, "addresses": addresses});
        let mut second = first.clone();
        second["tlsa_base"] = json!("alias.a.example");
        second["tlsa"] = json!({"absent": "secure"});
        let mx = json!({"found": [{"Hosts": [first, second]}, "secure"]});
        let said = |findings: &Findings| serde_json::to_value(findings).expect("JSON");
        assert_eq!(said(&findings), json!({"mx": mx, "age": 0}));
        findings.sts = Sts::Absent;
        findings.expanded = Some("b.example".into());
        let more = json!({"mx": mx, "age": 0, "sts": "absent", "expanded": "b.example"});
        assert_eq!(said(&findings), more);
    }
}
