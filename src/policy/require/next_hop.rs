//! The names of a next hop and of its hosts, as a certificate or SNI shows them.

use super::super::{
    ask::{Ask, NextHop},
    names::NamePattern,
};
use crate::smtp::{Domain, Recipient};
use std::net::IpAddr;

/// The name itself, or the address.
pub(super) fn exactly(name: &str) -> NamePattern {
    match name.parse::<IpAddr>() {
        Ok(address) => NamePattern::Address(address.to_canonical()),
        Err(_) => NamePattern::Host(name.to_owned()),
    }
}

/// Any host below the name; `None` where the name is an address.
pub(super) fn below(name: &str) -> Option<NamePattern> {
    is_dns_name(name).then(|| NamePattern::Below(name.to_owned()))
}

/// Whether SNI can carry the name.
pub(super) fn is_dns_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_err() && Domain::parse(name).is_some()
}

/// Postfix's nexthop: the recipient domain, the address in a literal, or the upstream host; lower case, no trailing dot.
pub(super) fn next_hop_name(ask: &Ask) -> Option<String> {
    match &ask.next_hop {
        NextHop::Recipient(Recipient::Domain(domain)) => Some(domain.to_string()),
        NextHop::Recipient(Recipient::Literal(literal)) => {
            literal_address(literal).map(|address| address.to_string())
        }
        NextHop::Upstream(host) => Some(upstream_name(host)),
        NextHop::Recipient(Recipient::Postmaster) | NextHop::Address => None,
    }
}

/// The upstream host in lower case, without trailing dot.
pub(super) fn upstream_name(host: &str) -> String {
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
