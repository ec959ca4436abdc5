//! The hosts that a domain's mail may go to, and which of them the destination is.

use super::{
    super::{Ask, Dns, Findings, Mx, MxHost, NamePattern, NextHop, Reason, Security, dane},
    Denial, Use, exactly, upstream_name,
};
use crate::smtp::Recipient;
use std::net::IpAddr;

/// One of them.
pub(super) struct Host {
    pub name: String,
    /// TLSA base domain.
    pub base: String,
    pub dane: dane::Statement,
    /// The destination is one of its addresses.
    pub is_here: bool,
    /// Its addresses were found, or proved to be none; those of the destination's family at least.
    pub addresses_known: bool,
    /// The destination may be one of its addresses in the family that could not be had. Then the signed addresses of the other
    /// family say where its TLSA records are, and nothing but these makes the destination this host: why.
    must_match: Option<Denial>,
}

impl Host {
    fn new(host: &MxHost, server: IpAddr, dane: Use) -> Self {
        let missing = host.missing.as_ref();
        let missing = missing.filter(|missing| missing.ipv6 == server.is_ipv6());
        let signed = dane != Use::No && matches!(host.addresses, Dns::Found(_, Security::Secure));
        Self {
            name: host.name.clone(),
            base: host.tlsa_base.clone(),
            dane: match dane {
                Use::No => dane::Statement::Silent("DANE is off".into()),
                Use::IfPublished | Use::Must => dane::statement(host),
            },
            is_here: matches!(&host.addresses, Dns::Found(addresses, _)
                if addresses.iter().any(|address| address.to_canonical() == server)),
            addresses_known: missing.is_none()
                && matches!(host.addresses, Dns::Found(..) | Dns::Absent(_)),
            must_match: missing
                .filter(|_| signed)
                .map(|missing| (missing.reason, missing.why.clone())),
        }
    }

    /// Its name, as a certificate must show it.
    pub fn pattern(&self) -> NamePattern {
        exactly(&self.name)
    }

    /// Why it is not known whether DANE speaks for it, where it is not.
    fn unknown(&self) -> Option<Denial> {
        match &self.dane {
            dane::Statement::Unknown(reason, why) => Some((*reason, why.clone())),
            _ => None,
        }
    }

    pub fn is_silent(&self) -> bool {
        matches!(self.dane, dane::Statement::Silent(_))
    }
}

/// All of them, in MX preference order.
pub(super) struct Hosts {
    pub all: Vec<Host>,
    /// Of the MX RRset, or its denial.
    pub security: Security,
    /// Nothing insecure stands between the next-hop domain and its hosts, so that a host may show the domain's name
    /// (RFC 7672 §3.2.2): the MX RRset is secure, or there is none.
    pub may_show_next_hop: bool,
    /// All addresses are known, and the destination is none of them.
    pub not_an_mx: bool,
}

impl Hosts {
    /// None: what names no host.
    pub fn none() -> Self {
        Self {
            all: Vec::new(),
            security: Security::Insecure,
            may_show_next_hop: false,
            not_an_mx: false,
        }
    }

    /// The hosts of what is asked. For literals, `<postmaster>` and bare addresses there are none.
    pub fn find(ask: &Ask, findings: &Findings, dane: Use) -> Result<Self, Denial> {
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

    fn of_domain(mx: &Mx, security: Security, server: IpAddr, dane: Use) -> Result<Self, Denial> {
        if *mx == Mx::Null {
            return Err((Reason::NullMx, "its MX record says so (RFC 7505)".into()));
        }
        let hosts = mx.hosts();
        // An MX record that holds an address names nobody (RFC 7672 §2.2; RFC 5321 §5.1 wants a name).
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

    /// The administrator named the host, so that no MX stands between, and it is where we connect to.
    fn of_upstream(name: &str, findings: &Findings, dane: Use) -> Result<Self, Denial> {
        let without_dane = |why: &str| Host {
            name: name.to_owned(),
            base: name.to_owned(),
            dane: dane::Statement::Silent(why.to_owned()),
            is_here: true,
            addresses_known: true,
            must_match: None,
        };
        let host = if dane == Use::No {
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

    /// Those that the destination may be: the ones with its address, or else every one.
    pub fn candidates(&self) -> impl Iterator<Item = &Host> {
        let any_here = self.all.iter().any(|host| host.is_here);
        self.all
            .iter()
            .filter(move |host| host.is_here || !any_here)
    }

    /// The name of the host that has the destination's address.
    pub fn here(&self) -> Option<String> {
        self.all
            .iter()
            .find(|host| host.is_here)
            .map(|host| host.name.clone())
    }

    /// Why it cannot be told what DANE says about the destination: no host is known to have its address, and one whose
    /// addresses could not be looked up may. (With DANE off that makes no difference.)
    pub fn unplaced(&self) -> Option<Denial> {
        if self.all.iter().any(|host| host.is_here) {
            return None;
        }
        let unplaced = self.all.iter().filter(|host| !host.addresses_known);
        unplaced
            .filter_map(|host| match host.dane {
                dane::Statement::Silent(_) => host.must_match.clone(),
                _ => host.unknown(),
            })
            .next()
    }

    /// Whether only TLSA records can make the destination one of the domain's hosts (see [`Host`]).
    pub fn must_match(&self) -> bool {
        !self.all.iter().any(|host| host.is_here)
            && self.all.iter().any(|host| host.must_match.is_some())
    }

    /// The first candidate of which it is not known whether DANE speaks, and why.
    pub fn first_unknown(&self) -> Option<Denial> {
        self.candidates().find_map(Host::unknown)
    }
}

/// An answer that is one; everything else is a refusal, never "no record" (RFC 7672 §2.1.1, §2.2).
fn answer<'a>(mx: &'a Dns<Mx>, name: &str) -> Result<(&'a Mx, Security), Denial> {
    match mx {
        Dns::Found(mx, security) => Ok((mx, *security)),
        Dns::Absent(security) => {
            let signed = match security {
                Security::Secure => "signed",
                Security::Insecure => "not signed",
            };
            let why = format!("the DNS has no such name (NXDOMAIN, {signed})");
            Err((Reason::NoSuchDomain, why))
        }
        Dns::Bogus(why) => Err((Reason::DnssecInvalid, format!("MX of {name}: {why}"))),
        Dns::Failed(why) => Err((Reason::LookupFailed, format!("MX of {name}: {why}"))),
        Dns::NotAsked => Err((
            Reason::LookupFailed,
            format!("MX of {name} was not asked for"),
        )),
    }
}
