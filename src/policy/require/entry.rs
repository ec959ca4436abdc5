//! The demand of a table entry of the levels none to secure: such an entry decides alone.

use super::{
    super::{
        ask::{Ask, NextHop},
        demand::{Demand, ReferenceIdentity},
        findings::Findings,
        level::Level,
        names::NamePattern,
        reason::{Denial, Reason},
        settings::Settings,
        table::{Entry, Match, Servername},
    },
    hosts::{Host, Hosts, LayerUse},
    next_hop::{below, exactly, is_dns_name, next_hop_name},
};
use crate::smtp::{Domain, Recipient};

/// The demand of an entry. Names that the entry does not give come from the DNS. With `match=hostname` (the default of verify) a
/// failed MX look-up is a refusal; where only the SNI depends on the look-up, TLS is negotiated without SNI.
pub(super) fn by_entry(ask: &Ask, entry: &Entry, findings: &Findings) -> Result<Demand, Denial> {
    let hosts = Hosts::find(ask, findings, LayerUse::Off);
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
                // The host of an address literal is the address, which an IP-ID must show (RFC 9525 §6.2).
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
            vec![ReferenceIdentity::pkix(names, entry.anchors.clone())]
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
        // A peer that the entry names itself need not be an MX host.
        not_an_mx: entry.matches_an_mx_host() && hosts.not_an_mx,
        ..Demand::of_level(entry.level, entry.basis())
    })
}

impl Entry {
    /// Whether the names that it demands are those of the domain's MX hosts.
    pub(super) fn matches_an_mx_host(&self) -> bool {
        match self.level {
            Level::Verify => self.matches.is_empty() || self.matches.contains(&Match::Hostname),
            Level::Secure => self.matches.contains(&Match::Hostname),
            _ => false,
        }
    }
}

/// The names of `match=`, in Postfix's meaning. Without `match=`, verify means `hostname` and secure means
/// `nexthop:dot-nexthop`.
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
            Match::DotNexthop => names.extend(next_hop.and_then(below)),
            Match::Name(name) => names.push(name.clone()),
        }
    }
    names
}

fn first_host_in(matches: &[Match]) -> Option<String> {
    matches.iter().find_map(|name| match name {
        Match::Name(NamePattern::Host(host)) => Some(host.clone()),
        _ => None,
    })
}

/// Inbound: what a client must prove under an entry for its sender domain or its address.
///
/// # Errors
///
/// The entry's names depend on a sender domain, and there is none (null reverse-path, or before MAIL).
pub(crate) fn require_client(
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
            vec![ReferenceIdentity::pkix(names, entry.anchors.clone())]
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
        ..Demand::of_level(entry.level, entry.basis())
    })
}
