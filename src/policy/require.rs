//! What must the peer prove? Reads table entry, findings and settings; knows no clock.
//!
//! The first that speaks decides, and a layer that applies and fails is final:
//!
//! 1. an entry of the table (levels none to secure) decides alone; `dane`, `dane-only` and `mta-sts` say which of the
//!    next layers must or may speak;
//! 2. DANE (RFC 7672) for each host that has usable TLSA records. It stands above MTA-STS only if the MX RRset is secure:
//!    else whoever forges the MX could publish TLSA records of his own, so hosts must then be listed by an MTA-STS policy
//!    in mode enforce, if there is one, to be authenticated by DANE;
//! 3. MTA-STS (RFC 8461) in mode enforce;
//! 4. `--level`.
//!
//! Which hosts: those whose addresses contain the destination; if none does (an MTA may have seen other addresses than we
//! did), any MX host of the domain. A name proved by certificate may be any MX host's, but that of a host with TLSA
//! records only by those. What could not be looked up is never authority, and never silence either: a host of which it is
//! not known whether DANE speaks for it can only be refused.

mod hosts;

use super::{
    Ask, Basis, Demand, Findings, Level, NamePattern, Needs, NextHop, Reason, ReferenceIdentity,
    Security, Settings, Sts, dane,
    mta_sts::{Mode, Policy},
    table::{Entry, Match, Servername},
};
use crate::smtp::{Domain, Recipient};
use hosts::{Host, Hosts};
use std::net::IpAddr;

/// Why nothing that the peer could prove would do.
pub type Denial = (Reason, String);

/// Whether a layer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    No,
    IfPublished,
    Must,
}

/// What decides.
enum Rule<'a> {
    /// An entry, alone.
    Entry(&'a Entry),
    /// What the domain publishes, and where it is silent, a level.
    Published {
        dane: Use,
        sts: Use,
        /// Encrypt, verify or secure.
        otherwise: Level,
        /// The entry that says so, where one does.
        entry: Option<&'a Entry>,
    },
}

fn rule<'a>(entry: Option<&'a Entry>, settings: &Settings) -> Rule<'a> {
    let if_on = |on| if on { Use::IfPublished } else { Use::No };
    let (dane, sts) = (if_on(settings.dane), if_on(settings.mta_sts));
    // Where DANE is silent under level `dane`, the default level comes next; if that is DANE too, its own default.
    let otherwise = match settings.level {
        level @ (Level::Encrypt | Level::Verify | Level::Secure) => level,
        _ => Level::Verify,
    };
    let level = entry.map_or(settings.level, |entry| entry.level);
    let (dane, sts) = match (level, entry) {
        (Level::DaneOnly, _) => (Use::Must, Use::No),
        (Level::Dane, _) if settings.level == Level::MtaSts => (Use::IfPublished, Use::Must),
        (Level::Dane, _) => (Use::IfPublished, sts),
        (Level::MtaSts, _) => (dane, Use::Must),
        (_, Some(entry)) => return Rule::Entry(entry),
        (_, None) => (dane, sts),
    };
    Rule::Published {
        dane,
        sts,
        otherwise,
        entry,
    }
}

/// What `lookup` shall gather before [`require`] can answer. For [`NextHop::Upstream`], `mx` means the addresses of its
/// host.
#[must_use]
pub fn needs(ask: &Ask, entry: Option<&Entry>, settings: &Settings) -> Needs {
    match (&ask.next_hop, rule(entry, settings)) {
        // The SNI is the MX host's, also where a static rule names what the certificate must show.
        (NextHop::Recipient(Recipient::Domain(_)), Rule::Entry(entry)) => Needs {
            mx: entry.level != Level::None
                && (entry.matches_an_mx_host()
                    || !matches!(
                        entry.servername,
                        Some(Servername::Name(_) | Servername::Nexthop)
                    )),
            ..Needs::default()
        },
        (NextHop::Recipient(Recipient::Domain(_)), Rule::Published { dane, sts, .. }) => Needs {
            mx: true,
            tlsa: dane != Use::No,
            sts: sts != Use::No,
        },
        (NextHop::Upstream(host), Rule::Published { dane, .. })
            if dane != Use::No && host.parse::<IpAddr>().is_err() =>
        {
            Needs {
                mx: true,
                tlsa: true,
                sts: false,
            }
        }
        _ => Needs::default(),
    }
}

/// What the peer must prove to be given mail for what is asked, or why nothing it could prove would do.
///
/// # Errors
///
/// The reason and its words, where no peer could satisfy: a look-up failed, DANE is demanded and not published, a null MX.
pub fn require(
    ask: &Ask,
    entry: Option<&Entry>,
    findings: &Findings,
    settings: &Settings,
) -> Result<Demand, Denial> {
    let mut demand = match rule(entry, settings) {
        Rule::Entry(entry) => by_entry(ask, entry, findings)?,
        Rule::Published {
            dane,
            sts,
            otherwise,
            entry,
        } => {
            let layers = Layers {
                ask,
                findings,
                dane,
                sts,
                otherwise,
                entry,
            };
            layers.require()?
        }
    };
    demand.tls13_only = settings.tls13_only || entry.is_some_and(|entry| entry.tls13_only);
    Ok(demand)
}

/// The name to send and the host meant, as far as they are known without deciding anything: for `--observe`.
pub(super) fn likely_host(ask: &Ask, findings: &Findings) -> (Option<String>, Option<String>) {
    let hosts = Hosts::find(ask, findings, Use::No).unwrap_or_else(|_| Hosts::none());
    let sni = hosts.candidates().next().map(|host| host.name.clone());
    (sni.filter(|name| is_dns_name(name)), hosts.here())
}

/// Inbound: what a client must prove that an entry by sender domain or client address speaks about.
///
/// # Errors
///
/// The entry's names depend on a sender domain, and there is none (null reverse-path, or before MAIL).
pub fn require_client(
    sender: Option<&Domain>,
    entry: &Entry,
    settings: &Settings,
) -> Result<Demand, Denial> {
    let references = match entry.level {
        Level::None => Vec::new(),
        Level::May | Level::Encrypt => vec![ReferenceIdentity::Anyone],
        Level::Fingerprint => vec![ReferenceIdentity::Fingerprints(entry.fingerprints.clone())],
        Level::Verify | Level::Secure => {
            let names = static_names(entry, sender.map(Domain::as_str), &[]);
            if names.is_empty() {
                return Err((
                    Reason::NoPolicy,
                    format!("{} names no client; give match= there", entry.basis()),
                ));
            }
            vec![pkix(names, Some(entry))]
        }
        level => {
            return Err((
                Reason::NoPolicy,
                format!(
                    "level {level} of {} is about hosts that mail goes to, not about clients",
                    entry.basis()
                ),
            ));
        }
    };
    Ok(Demand {
        references,
        tls13_only: settings.tls13_only || entry.tls13_only,
        ..plain(entry.level, entry.basis())
    })
}

/// A demand without references.
fn plain(level: Level, basis: Basis) -> Demand {
    Demand {
        level,
        basis,
        sni: None,
        host: None,
        references: Vec::new(),
        tls13_only: false,
        enforced: !level.allows_plaintext(),
        testing: None,
        not_an_mx: false,
    }
}

fn pkix(names: Vec<NamePattern>, entry: Option<&Entry>) -> ReferenceIdentity {
    ReferenceIdentity::Pkix {
        names,
        anchors: entry.and_then(|entry| entry.anchors.clone()),
    }
}

/// An entry of the levels none to secure decides alone. What it does not name itself comes from the DNS: with
/// `match=hostname` (the default of verify) an MX look-up that fails is a refusal; where only the SNI hangs on it, the
/// upgrade goes on without.
fn by_entry(ask: &Ask, entry: &Entry, findings: &Findings) -> Result<Demand, Denial> {
    let hosts = Hosts::find(ask, findings, Use::No);
    if entry.matches_an_mx_host()
        && matches!(ask.next_hop, NextHop::Recipient(Recipient::Domain(_)))
    {
        hosts.as_ref().map_err(Clone::clone)?;
    }
    let hosts = hosts.unwrap_or_else(|_| Hosts::none());
    let next_hop = next_hop_name(ask);
    let references = match entry.level {
        Level::None => Vec::new(),
        Level::Fingerprint => vec![ReferenceIdentity::Fingerprints(entry.fingerprints.clone())],
        Level::Verify | Level::Secure => {
            let host_names: Vec<NamePattern> = match &ask.next_hop {
                // The host of an address literal is the address (RFC 9525 §6.2: then an IP-ID must show it).
                NextHop::Recipient(Recipient::Literal(_)) => {
                    next_hop.as_deref().map(exactly).into_iter().collect()
                }
                _ => hosts.all.iter().map(Host::pattern).collect(),
            };
            let names = static_names(entry, next_hop.as_deref(), &host_names);
            if names.is_empty() {
                return Err((
                    Reason::NoPolicy,
                    format!(
                        "{} names nothing that a certificate could show; give match= there",
                        entry.basis()
                    ),
                ));
            }
            vec![pkix(names, Some(entry))]
        }
        _ => vec![ReferenceIdentity::Anyone],
    };
    let first = hosts.candidates().next();
    let sni = match &entry.servername {
        Some(Servername::Name(name)) => Some(name.to_string()),
        Some(Servername::Nexthop) => next_hop.clone(),
        Some(Servername::Hostname) | None => first
            .map(|host| host.name.clone())
            .or_else(|| first_host_in(&entry.matches)),
    };
    Ok(Demand {
        sni: sni.filter(|name| is_dns_name(name)),
        host: hosts.here(),
        references,
        // Where the entry names the peer itself, it need not be an MX host.
        not_an_mx: entry.matches_an_mx_host() && hosts.not_an_mx,
        ..plain(entry.level, entry.basis())
    })
}

impl Entry {
    /// Whether its names hang on the domain's MX hosts.
    fn matches_an_mx_host(&self) -> bool {
        match self.level {
            Level::Verify => self.matches.is_empty() || self.matches.contains(&Match::Hostname),
            Level::Secure => self.matches.contains(&Match::Hostname),
            _ => false,
        }
    }
}

/// `match=` in Postfix's meaning; without it, verify means `hostname` and secure `nexthop:dot-nexthop`.
fn static_names(entry: &Entry, next_hop: Option<&str>, hosts: &[NamePattern]) -> Vec<NamePattern> {
    let default: &[Match] = match entry.level {
        Level::Secure => &[Match::Nexthop, Match::DotNexthop],
        _ => &[Match::Hostname],
    };
    let matches = if entry.matches.is_empty() {
        default
    } else {
        &entry.matches
    };
    let mut names = Vec::new();
    for name in matches {
        match name {
            Match::Hostname => names.extend_from_slice(hosts),
            Match::Nexthop => names.extend(next_hop.map(exactly)),
            Match::DotNexthop => names.extend(
                next_hop
                    .filter(|name| is_dns_name(name))
                    .map(|name| NamePattern::Below(name.to_owned())),
            ),
            Match::Name(name) => names.push(name.clone()),
        }
    }
    names
}

/// The name itself, or the address.
fn exactly(name: &str) -> NamePattern {
    match name.parse::<IpAddr>() {
        Ok(address) => NamePattern::Address(address.to_canonical()),
        Err(_) => NamePattern::Host(name.to_owned()),
    }
}

fn is_dns_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_err() && Domain::parse(name).is_some()
}

fn first_host_in(matches: &[Match]) -> Option<String> {
    matches.iter().find_map(|name| match name {
        Match::Name(NamePattern::Host(host)) => Some(host.clone()),
        _ => None,
    })
}

/// Postfix's nexthop: the recipient domain, the address in a literal, or the upstream host; lower case, no trailing dot.
fn next_hop_name(ask: &Ask) -> Option<String> {
    match &ask.next_hop {
        NextHop::Recipient(Recipient::Domain(domain)) => Some(domain.to_string()),
        NextHop::Recipient(Recipient::Literal(literal)) => {
            literal_address(literal).map(|address| address.to_string())
        }
        NextHop::Upstream(host) => Some(upstream_name(host)),
        NextHop::Recipient(Recipient::Postmaster) | NextHop::Address => None,
    }
}

fn upstream_name(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The address in `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
fn literal_address(literal: &str) -> Option<IpAddr> {
    let inside = literal.strip_prefix('[')?.strip_suffix(']')?;
    let tagged = inside
        .get(..5)
        .filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
    match tagged {
        Some(_) => inside[5..].parse().ok().map(IpAddr::V6),
        None => inside.parse().ok().map(IpAddr::V4),
    }
}

/// What a domain publishes, read layer by layer.
struct Layers<'a> {
    ask: &'a Ask,
    findings: &'a Findings,
    dane: Use,
    sts: Use,
    otherwise: Level,
    entry: Option<&'a Entry>,
}

impl Layers<'_> {
    fn require(&self) -> Result<Demand, Denial> {
        let upstream = match &self.ask.next_hop {
            NextHop::Upstream(_) => true,
            NextHop::Recipient(Recipient::Domain(_)) => false,
            other => return Err(no_entry(other, self.entry)),
        };
        if upstream && self.sts == Use::Must {
            return Err((
                Reason::NoPolicy,
                "level mta-sts is about recipients' domains, not about an upstream host; choose verify".into(),
            ));
        }
        let hosts = Hosts::find(self.ask, self.findings, self.dane)?;
        if let Some(unplaced) = hosts.unplaced() {
            return Err(unplaced);
        }
        if self.dane == Use::Must {
            return self.dane_only(&hosts);
        }
        let policy = if upstream { None } else { self.sts_policy()? };
        let (enforced, testing) = match policy {
            Some(policy) if policy.mode == Mode::Enforce => (Some(policy), None),
            Some(policy) if policy.mode == Mode::Testing => (None, Some(policy)),
            _ => (None, None),
        };

        // With an insecure MX RRset, DANE alone does not say that a host is the domain's (see the module's head).
        let dane_may_speak = |host: &Host| {
            hosts.security == Security::Secure
                || enforced.is_none_or(|policy| policy.lists(&host.name))
        };
        let by_dane: Vec<&Host> = hosts
            .candidates()
            .filter(|host| matches!(host.dane, dane::Statement::Records(_)) && dane_may_speak(host))
            .collect();
        let mut demand = match self.without_dane(&hosts, enforced) {
            Ok(Some(demand)) => demand,
            Ok(None) if by_dane.is_empty() => return Err(self.unknown(&hosts, enforced)),
            Err(denial) if by_dane.is_empty() => return Err(denial),
            Ok(None) | Err(_) => plain(Level::Dane, Basis::Dane),
        };
        let proofs = by_dane.iter().filter_map(|host| self.dane_reference(host));
        demand.references.splice(0..0, proofs);
        // The first host that may be the one, by the name that its layer sends (RFC 7672 §8.1, RFC 8461 §7.1).
        demand.sni = hosts
            .candidates()
            .find_map(|host| match host.dane {
                dane::Statement::Records(_) => dane_may_speak(host).then(|| host.base.clone()),
                dane::Statement::Silent(_) => Some(host.name.clone()),
                dane::Statement::Unknown(..) => None,
            })
            .filter(|name| is_dns_name(name));
        demand.testing = testing.map(|policy| pkix(listed(&hosts, policy), None));
        demand.host = hosts.here();
        demand.not_an_mx = hosts.not_an_mx;
        Ok(demand)
    }

    /// RFC 7672 or no delivery: the MX RRset must be secure, and only hosts with usable records count.
    fn dane_only(&self, hosts: &Hosts) -> Result<Demand, Denial> {
        let basis = self.entry.map_or(Basis::Dane, Entry::basis);
        let from = match self.entry {
            Some(_) => format!("level dane-only, from {basis}"),
            None => "level dane-only".to_owned(),
        };
        if hosts.security != Security::Secure {
            return Err((
                Reason::DaneRequired,
                format!("the MX records are not signed ({from})"),
            ));
        }
        let by_dane: Vec<&Host> = hosts
            .candidates()
            .filter(|host| matches!(host.dane, dane::Statement::Records(_)))
            .collect();
        let Some(first) = by_dane.first() else {
            return Err(hosts.first_unknown().unwrap_or_else(|| {
                let silent = hosts.candidates().find_map(|host| match &host.dane {
                    dane::Statement::Silent(why) => Some(why.as_str()),
                    _ => None,
                });
                let why = silent.unwrap_or("no host");
                (Reason::DaneRequired, format!("{why} ({from})"))
            }));
        };
        Ok(Demand {
            sni: Some(first.base.clone()).filter(|name| is_dns_name(name)),
            host: hosts.here(),
            references: by_dane
                .iter()
                .filter_map(|host| self.dane_reference(host))
                .collect(),
            not_an_mx: hosts.not_an_mx,
            ..plain(Level::DaneOnly, basis)
        })
    }

    fn dane_reference(&self, host: &Host) -> Option<ReferenceIdentity> {
        let dane::Statement::Records(records) = &host.dane else {
            return None;
        };
        Some(ReferenceIdentity::Dane {
            records: records.clone(),
            names: dane::reference_names(
                &host.base,
                next_hop_name(self.ask).as_deref(),
                self.findings.expanded.as_deref(),
            ),
        })
    }

    /// The MTA-STS policy that applies, if any. RFC 8461 §3.3: what cannot be fetched and is not cached is no policy; but
    /// a DNS error is no statement that there is none.
    fn sts_policy(&self) -> Result<Option<&Policy>, Denial> {
        if self.sts == Use::No {
            return Ok(None);
        }
        match &self.findings.sts {
            Sts::Policy { policy, age, .. } => Ok(Some(policy).filter(|policy| policy.holds(*age))),
            Sts::Absent => Ok(None),
            Sts::Unavailable(
                reason @ (Reason::LookupFailed | Reason::DnssecInvalid | Reason::LocalFault),
                why,
            ) => Err((*reason, format!("MTA-STS: {why}"))),
            Sts::Unavailable(reason, why) if self.sts == Use::Must => {
                Err((*reason, format!("MTA-STS: {why}")))
            }
            Sts::Unavailable(..) => Ok(None),
            Sts::NotAsked => Err((Reason::LookupFailed, "MTA-STS was not asked for".into())),
        }
    }

    /// MTA-STS in mode enforce, else the level, for the hosts that DANE is silent about. `None`: there is no such host where
    /// the mail is going.
    fn without_dane(
        &self,
        hosts: &Hosts,
        enforced: Option<&Policy>,
    ) -> Result<Option<Demand>, Denial> {
        if !hosts.candidates().any(Host::is_silent) {
            return Ok(None);
        }
        if let Some(policy) = enforced {
            let names = listed(hosts, policy);
            if names.is_empty() {
                return Err((Reason::StsPolicyInvalid, not_listed(hosts)));
            }
            let basis = match self.entry {
                Some(entry) if entry.level == Level::MtaSts => entry.basis(),
                _ => Basis::MtaSts,
            };
            return Ok(Some(Demand {
                references: vec![pkix(names, None)],
                ..plain(Level::MtaSts, basis)
            }));
        }
        if self.sts == Use::Must {
            let why = match &self.findings.sts {
                Sts::Policy { policy, age, .. } if policy.holds(*age) => {
                    "the MTA-STS policy is not in mode enforce"
                }
                Sts::Policy { .. } => "the MTA-STS policy is too old",
                _ => "no MTA-STS policy",
            };
            return Err((Reason::NoPolicy, format!("{why} (level mta-sts)")));
        }
        let basis = match self.ask.next_hop {
            NextHop::Upstream(_) => Basis::Upstream,
            _ => Basis::Mx,
        };
        Ok(self.by_level(hosts).map(|reference| Demand {
            references: vec![reference],
            ..plain(self.otherwise, basis)
        }))
    }

    fn by_level(&self, hosts: &Hosts) -> Option<ReferenceIdentity> {
        // Encrypt and secure tell no host from another, so they may speak only if DANE does for none.
        let all_silent = hosts.candidates().all(Host::is_silent);
        match self.otherwise {
            Level::Encrypt => all_silent.then_some(ReferenceIdentity::Anyone),
            Level::Secure => next_hop_name(self.ask).filter(|_| all_silent).map(|name| {
                let mut names = vec![exactly(&name)];
                names.extend(is_dns_name(&name).then_some(NamePattern::Below(name)));
                pkix(names, None)
            }),
            _ => {
                let silent = hosts.all.iter().filter(|host| host.is_silent());
                Some(pkix(silent.map(Host::pattern).collect(), None))
            }
        }
    }

    /// Why no host could prove anything: what could not be looked up, else that DANE's hosts are not in the policy.
    fn unknown(&self, hosts: &Hosts, enforced: Option<&Policy>) -> Denial {
        hosts.first_unknown().unwrap_or_else(|| match enforced {
            Some(_) => (Reason::StsPolicyInvalid, not_listed(hosts)),
            None => (Reason::LookupFailed, "no host is known".into()),
        })
    }
}

/// The hosts that a policy lists and DANE is silent about, as names (RFC 8461 §4.1, §4.2: the MX host's own name).
fn listed(hosts: &Hosts, policy: &Policy) -> Vec<NamePattern> {
    hosts
        .all
        .iter()
        .filter(|host| host.is_silent() && policy.lists(&host.name))
        .map(Host::pattern)
        .collect()
}

fn not_listed(hosts: &Hosts) -> String {
    let names: Vec<&str> = hosts
        .all
        .iter()
        .take(3)
        .map(|host| host.name.as_str())
        .collect();
    format!(
        "the MTA-STS policy lists no MX host of the domain, which are {}",
        names.join(", ")
    )
}

/// Literals, `<postmaster>` and addresses before a recipient: only an entry that decides alone can speak for them
/// (RFC 7672 §2.2, RFC 8461 §3.4: neither is about address literals).
fn no_entry(next_hop: &NextHop, entry: Option<&Entry>) -> Denial {
    let what = match next_hop {
        NextHop::Recipient(Recipient::Literal(_)) => "an address literal",
        NextHop::Recipient(Recipient::Postmaster) => "<postmaster>",
        _ => "a destination without a recipient",
    };
    match entry {
        Some(entry) => (
            Reason::NoPolicy,
            format!(
                "level {} of {} cannot speak for {what}",
                entry.level,
                entry.basis()
            ),
        ),
        None => (
            Reason::NoPolicy,
            format!(
                "only an entry of the policy table for the destination address can allow {what}"
            ),
        ),
    }
}
