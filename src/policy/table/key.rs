//! The key of an entry: the peers or domains that the entry is about.

use super::super::prefix::Prefix;
use crate::smtp::Domain;
use std::{fmt, net::IpAddr, str::FromStr};

/// The first word of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// `partner.example`: mail for exactly this domain.
    Domain(Domain),
    /// `.partner.example`: mail for any domain below it.
    Below(Domain),
    /// `[203.0.113.9]`, `[IPv6:2001:db8::1]`, optionally with `:port`: the destination address.
    Address(IpAddr, Option<u16>),
    /// `203.0.113.0/24`: destination addresses (inbound: client addresses).
    Prefix(Prefix),
    /// `[relay.example]`, optionally with `:port`: the `--upstream` host.
    Host(Domain, Option<u16>),
    /// `@partner.example`: inbound, mail from exactly this domain.
    Sender(Domain),
    /// `@.partner.example`: inbound, mail from any domain below it.
    SenderBelow(Domain),
    /// `*`: all other recipients and upstream hosts.
    Any,
}

impl Key {
    /// The keys under which a domain is searched: the domain itself, then its parents, longest first.
    pub(super) fn of_domain(domain: &Domain) -> impl Iterator<Item = Self> {
        std::iter::once(Self::Domain(domain.clone())).chain(parents(domain).map(Self::Below))
    }

    /// The keys under which a sender domain is searched: the domain itself, then its parents, longest first.
    pub(super) fn of_sender(domain: &Domain) -> impl Iterator<Item = Self> {
        std::iter::once(Self::Sender(domain.clone())).chain(parents(domain).map(Self::SenderBelow))
    }

    /// Whether the key is about incoming mail.
    pub(super) fn is_sender(&self) -> bool {
        matches!(self, Self::Sender(_) | Self::SenderBelow(_))
    }
}

fn parents(domain: &Domain) -> impl Iterator<Item = Domain> {
    std::iter::successors(domain.parent(), Domain::parent)
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(rest) = text.strip_prefix('[') {
            return bracketed(text, rest);
        }
        if let Some(sender) = text.strip_prefix('@') {
            return match sender.strip_prefix('.') {
                Some(parent) => domain(parent).map(Self::SenderBelow),
                None => domain(sender).map(Self::Sender),
            };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Err(format!("an address is written in brackets: [{address}]"));
        }
        if text.contains('/') {
            let prefix: Prefix = text.parse()?;
            return Ok(match prefix.address() {
                Some(address) => Self::Address(address, None),
                None => Self::Prefix(prefix),
            });
        }
        if let Some((host, port)) = text.rsplit_once(':')
            && port.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(format!(
                "recipients' domains have no port; for an --upstream host write [{host}]:{port}"
            ));
        }
        match text.strip_prefix('.') {
            Some(parent) => domain(parent).map(Self::Below),
            None => domain(text).map(Self::Domain),
        }
    }
}

/// `[host]`, `[address]` or `[IPv6:address]`, each optionally with `:port`. `rest` begins after the opening bracket.
fn bracketed(text: &str, rest: &str) -> Result<Key, String> {
    let (inside, behind) = rest
        .split_once(']')
        .ok_or_else(|| format!("the bracket in {text:?} is not closed; add a ]"))?;
    let port = match behind.strip_prefix(':') {
        Some(digits) => Some(
            digits
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0 && !digits.starts_with('+'))
                .ok_or_else(|| format!("{digits:?} is no port; write a number from 1 to 65535"))?,
        ),
        None if behind.is_empty() => None,
        None => {
            return Err(format!(
                "{behind:?} behind the bracket; only :port may stand there"
            ));
        }
    };
    let literal = inside
        .get(..5)
        .filter(|tag| tag.eq_ignore_ascii_case("IPv6:"))
        .map(|_| &inside[5..]);
    if let Some(six) = literal {
        return six
            .parse::<std::net::Ipv6Addr>()
            .map(|six| Key::Address(IpAddr::V6(six).to_canonical(), port))
            .map_err(|_| format!("{six:?} is no IPv6 address"));
    }
    match inside.parse::<IpAddr>() {
        Ok(address) => Ok(Key::Address(address.to_canonical(), port)),
        Err(_) => domain(inside).map(|host| Key::Host(host, port)),
    }
}

/// A domain name as it must be written in the table.
pub(super) fn domain(text: &str) -> Result<Domain, String> {
    if text.strip_suffix('.').is_some_and(|bare| !bare.is_empty()) {
        return Err(format!("{text:?} ends in a dot; leave it off"));
    }
    if !text.is_ascii() {
        return Err(format!(
            "{text:?} is not in ASCII; write its A-labels (xn--...)"
        ));
    }
    if text.contains('*') {
        return Err(format!(
            "{text:?} is no domain name; for all names below one, write .{}",
            text.trim_start_matches(['*', '.'])
        ));
    }
    if text.contains('@') {
        return Err(format!(
            "{text:?} is no domain name; policy is by domain, not by mailbox"
        ));
    }
    let domain = Domain::parse(text).ok_or_else(|| format!("{text:?} is no domain name"))?;
    // Like Postfix: a text of digits and dots is a broken address, never a name.
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("{text:?} is neither a domain name nor an address"));
    }
    Ok(domain)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = |port: &Option<u16>| port.map(|port| format!(":{port}")).unwrap_or_default();
        match self {
            Self::Domain(domain) => write!(f, "{domain}"),
            Self::Below(domain) => write!(f, ".{domain}"),
            Self::Address(address, at) => write!(f, "[{address}]{}", port(at)),
            Self::Prefix(prefix) => write!(f, "{prefix}"),
            Self::Host(host, at) => write!(f, "[{host}]{}", port(at)),
            Self::Sender(domain) => write!(f, "@{domain}"),
            Self::SenderBelow(domain) => write!(f, "@.{domain}"),
            Self::Any => f.write_str("*"),
        }
    }
}
