//! The hosts that may receive a domain's mail, and which of them the destination is.

use super::{
    super::{
        ask::{Ask, NextHop},
        dane,
        findings::{Dns, Findings, Mx, MxHost, Security},
        names::NamePattern,
        reason::{Denial, Reason},
    },
    next_hop::{exactly, upstream_name},
};
use crate::smtp::Recipient;
use std::net::IpAddr;

/// Whether a layer (DANE or MTA-STS) takes part in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerUse {
    /// The layer is switched off, or the level does not include it.
    Off,
    /// The layer decides where the domain publishes something for it.
    IfPublished,
    /// Without this layer there is no delivery.
    Required,
}

/// One host, with what DANE says about it.
pub(super) struct Host {
    pub name: String,
    /// TLSA base domain (RFC 7672 §2.2.3).
    pub base: String,
    pub dane: dane::Statement,
    /// The destination is one of this host's addresses.
    pub is_here: bool,
    /// The host's addresses of the destination's family, at least, were found or proved not to exist.
    pub addresses_known: bool,
    /// Set where the addresses of the destination's family could not be looked up, so that the destination may or may not be this
    /// host. The signed addresses of the other family still say where the host's TLSA records are, and only a match with these
    /// proves that the destination is this host. Holds why the look-up failed.
    must_match_tlsa: Option<Denial>,
}

impl Host {
    fn new(host: &MxHost, server: IpAddr, dane: LayerUse) -> Self {
        let missing = host.missing.as_ref();
        let missing = missing.filter(|missing| missing.ipv6 == server.is_ipv6());
        let signed =
            dane != LayerUse::Off && matches!(host.addresses, Dns::Found(_, Security::Secure));
        Self {
            name: host.name.clone(),
            base: host.tlsa_base.clone(),
            dane: match dane {
                LayerUse::Off => dane::Statement::Silent("DANE is off".into()),
                LayerUse::IfPublished | LayerUse::Required => dane::statement(host),
            },
            is_here: matches!(&host.addresses, Dns::Found(addresses, _)
                if addresses.iter().any(|address| address.to_canonical() == server)),
            addresses_known: missing.is_none()
                && matches!(host.addresses, Dns::Found(..) | Dns::Absent(_)),
            must_match_tlsa: missing
                .filter(|_| signed)
                .map(|missing| (missing.reason, missing.why.clone())),
        }
    }

    /// The host's name, as a certificate must show it.
    pub(super) fn pattern(&self) -> NamePattern {
        exactly(&self.name)
    }

    /// Why it is unknown whether DANE applies to this host; `None` where it is known.
    fn why_dane_unknown(&self) -> Option<Denial> {
        match &self.dane {
            dane::Statement::Unknown(reason, why) => Some((*reason, why.clone())),
            _ => None,
        }
    }

    /// DANE says nothing about this host, so that the next layer decides.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.dane, dane::Statement::Silent(_))
    }
}

/// All hosts, in MX preference order.
pub(super) struct Hosts {
    pub all: Vec<Host>,
    /// DNSSEC state of the MX RRset, or of the proof that there is none.
    pub security: Security,
    /// A host may show the name of the next-hop domain (RFC 7672 §3.2.2), since no insecure MX RRset leads to the host: the RRset is
    /// secure, or there is none.
    pub may_show_next_hop: bool,
    /// The addresses of all hosts are known, and the destination is none of them.
    pub not_an_mx: bool,
}

impl Hosts {
    /// No hosts, for a next hop that names none.
    pub(super) fn none() -> Self {
        Self {
            all: Vec::new(),
            security: Security::Insecure,
            may_show_next_hop: false,
            not_an_mx: false,
        }
    }

    /// The hosts of the next hop. Literals, `<postmaster>` and bare addresses have none.
    pub(super) fn find(ask: &Ask, findings: &Findings, dane: LayerUse) -> Result<Self, Denial> {
        match &ask.next_hop {
            NextHop::Recipient(Recipient::Domain(domain)) => {
                let (mx, security) = answer(&findings.mx, domain.as_str())?;
                Self::of_domain(mx, security, ask.server.to_canonical(), dane)
            }
            NextHop::Upstream(name) => Self::of_upstream(&upstream_name(name), findings, dane),
            NextHop::Recipient(Recipient::Literal(_) | Recipient::Postmaster)
            | NextHop::Address => Ok(Self::none()),
        }
    }

    fn of_domain(
        mx: &Mx,
        security: Security,
        server: IpAddr,
        dane: LayerUse,
    ) -> Result<Self, Denial> {
        if *mx == Mx::Null {
            return Err((Reason::NullMx, "its MX record says so (RFC 7505)".into()));
        }
        let hosts = mx.hosts();
        // An MX record that holds an address names no host (RFC 7672 §2.2; RFC 5321 §5.1 requires a name).
        let (addresses, named): (Vec<&MxHost>, Vec<&MxHost>) = hosts
            .iter()
            .partition(|host| host.name.trim_end_matches('.').parse::<IpAddr>().is_ok());
        if let (Some(address), []) = (addresses.first(), named.as_slice()) {
            return Err((
                Reason::NoPolicy,
                format!(
                    "its MX record holds the address {}, which proves nobody's name; only an entry of the policy table can allow it",
                    address.name
                ),
            ));
        }
        if named.is_empty() {
            return Err((Reason::LookupFailed, "an empty MX answer".into()));
        }
        let all: Vec<Host> = named
            .iter()
            .map(|host| Host::new(host, server, dane))
            .collect();
        let all_known = addresses.is_empty() && all.iter().all(|host| host.addresses_known);
        Ok(Self {
            not_an_mx: all_known && !all.iter().any(|host| host.is_here),
            may_show_next_hop: security == Security::Secure || matches!(mx, Mx::Implicit(_)),
            all,
            security,
        })
    }

    /// The `--upstream` host. The administrator named it, so that no MX record leads to it, and every connection goes to it.
    fn of_upstream(name: &str, findings: &Findings, dane: LayerUse) -> Result<Self, Denial> {
        let without_dane = |why: &str| Host {
            name: name.to_owned(),
            base: name.to_owned(),
            dane: dane::Statement::Silent(why.to_owned()),
            is_here: true,
            addresses_known: true,
            must_match_tlsa: None,
        };
        let host = if dane == LayerUse::Off {
            without_dane("DANE is off")
        } else if name.parse::<IpAddr>().is_ok() {
            without_dane("an address has no TLSA records")
        } else {
            match answer(&findings.mx, name)? {
                (Mx::Implicit(host), _) => Host {
                    name: name.to_owned(),
                    is_here: true,
                    ..Host::new(host, IpAddr::V4(0.into()), dane)
                },
                _ => return Err((Reason::LookupFailed, format!("{name} was not asked for"))),
            }
        };
        Ok(Self {
            all: vec![host],
            security: Security::Secure,
            may_show_next_hop: true,
            not_an_mx: false,
        })
    }

    /// The hosts that the destination may be: those with its address or, if no host has it, all of them.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Host> {
        let any_here = self.all.iter().any(|host| host.is_here);
        self.all
            .iter()
            .filter(move |host| host.is_here || !any_here)
    }

    /// The name of the host that has the destination's address.
    pub(super) fn here(&self) -> Option<String> {
        self.all
            .iter()
            .find(|host| host.is_here)
            .map(|host| host.name.clone())
    }

    /// Why it is unknown what DANE says about the destination: no host is known to have its address, and a host whose addresses
    /// could not be looked up may have it. (With DANE off that makes no difference.)
    pub(super) fn why_destination_unknown(&self) -> Option<Denial> {
        if self.all.iter().any(|host| host.is_here) {
            return None;
        }
        let unknown = self.all.iter().filter(|host| !host.addresses_known);
        unknown
            .filter_map(|host| match host.dane {
                dane::Statement::Silent(_) => host.must_match_tlsa.clone(),
                _ => host.why_dane_unknown(),
            })
            .next()
    }

    /// Whether only a match with TLSA records can prove that the destination is one of the hosts (see [`Host`]).
    pub(super) fn must_match_tlsa(&self) -> bool {
        !self.all.iter().any(|host| host.is_here)
            && self.all.iter().any(|host| host.must_match_tlsa.is_some())
    }

    /// Why it is unknown whether DANE applies to some candidate; the first such candidate counts.
    pub(super) fn why_dane_unknown(&self) -> Option<Denial> {
        self.candidates().find_map(Host::why_dane_unknown)
    }
}

/// The MX RRset and its state. A name that does not exist, like a failed look-up, is a refusal.
fn answer<'a>(mx: &'a Dns<Mx>, name: &str) -> Result<(&'a Mx, Security), Denial> {
    let (mx, security) = mx.answer(&format!("MX of {name}"))?;
    mx.map(|mx| (mx, security)).ok_or_else(|| {
        let signed = match security {
            Security::Secure => "signed",
            Security::Insecure => "not signed",
        };
        let why = format!("the DNS has no such name (NXDOMAIN, {signed})");
        (Reason::NoSuchDomain, why)
    })
}
