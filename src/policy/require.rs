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

mod entry;
mod hosts;
mod published;

pub use entry::require_client;

use super::{
    Ask, Basis, Demand, Findings, Level, NamePattern, Needs, NextHop, Reason, ReferenceIdentity,
    Settings,
    table::{Entry, Servername},
};
use crate::smtp::{Domain, Recipient};
use entry::by_entry;
use hosts::Hosts;
use published::Layers;
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

/// DNSSEC is not validated with `--no-dane`, so an entry that demands DANE can be met by nobody; what comes next below it would not
/// be what it says.
fn switched_off(entry: Option<&Entry>, settings: &Settings) -> Option<Denial> {
    let entry = entry.filter(|entry| matches!(entry.level, Level::Dane | Level::DaneOnly))?;
    (!settings.dane).then(|| {
        let why = format!(
            "level {} of {} cannot be had with --no-dane; leave that away, or change the entry",
            entry.level,
            entry.basis()
        );
        (Reason::NoPolicy, why)
    })
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
    if let Some(denial) = switched_off(entry, settings) {
        return Err(denial);
    }
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

/// A demand without references.
fn plain(level: Level, basis: Basis) -> Demand {
    Demand {
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

fn pkix(names: Vec<NamePattern>, entry: Option<&Entry>) -> ReferenceIdentity {
    ReferenceIdentity::Pkix {
        names,
        anchors: entry.and_then(|entry| entry.anchors.clone()),
    }
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
