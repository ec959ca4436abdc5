//! The values of an entry's attributes.

use super::{super::names::NamePattern, key::domain};
use crate::smtp::Domain;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use jiff::civil::{Date, date};
use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

/// One of the names in `match=` of verify and secure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// `hostname`: an MX host of the domain; with `--upstream` its host.
    Hostname,
    /// `nexthop`: the recipient domain itself; with `--upstream` its host.
    Nexthop,
    /// `dot-nexthop`: any host below the recipient domain or the `--upstream` host.
    DotNexthop,
    /// `mx.clinic.example`, `.clinic.example`, `[203.0.113.9]`: as written.
    Name(NamePattern),
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hostname => f.write_str("hostname"),
            Self::Nexthop => f.write_str("nexthop"),
            Self::DotNexthop => f.write_str("dot-nexthop"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// `servername=`: the name sent in SNI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Servername {
    /// The MX host; with `--upstream` its host.
    Hostname,
    /// The recipient domain; with `--upstream` its host.
    Nexthop,
    /// As written.
    Name(Domain),
}

impl fmt::Display for Servername {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hostname => f.write_str("hostname"),
            Self::Nexthop => f.write_str("nexthop"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// `until=YYYY-MM-DD`: the last day, UTC, on which the entry applies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Until {
    text: String,
    /// When that day is over, in seconds since 1970.
    over: u64,
}

impl Until {
    pub(super) fn parse(text: &str) -> Option<Self> {
        // ISO 8601 has many forms of a date. Only this form is accepted.
        let form = |(octet, form): (u8, u8)| match form {
            b'0' => octet.is_ascii_digit(),
            _ => octet == form,
        };
        if text.len() != 10 || !text.bytes().zip(*b"0000-00-00").all(form) {
            return None;
        }
        let day: Date = text.parse().ok()?;
        let over = day.duration_since(date(1970, 1, 1)).as_secs() + 86_400;
        Some(Self {
            text: text.to_owned(),
            over: u64::try_from(over).ok().filter(|&over| over > 0)?,
        })
    }

    /// Whether this date is no earlier than the other.
    pub(super) fn is_not_before(&self, other: &Self) -> bool {
        self.over >= other.over
    }

    /// When that day is over. `None`: never, as far as this machine can count.
    pub(super) fn end(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.over))
    }

    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        // A clock before 1970 is broken, and must not keep an exception alive.
        now.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(true, |since| since >= Duration::from_secs(self.over))
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `match=` of verify and secure: parts between colons, brackets around addresses.
pub(super) fn names(value: &str) -> Result<Vec<Match>, String> {
    let mut parts = vec![String::new()];
    let mut bracketed = false;
    for c in value.chars() {
        match c {
            ':' if !bracketed => parts.push(String::new()),
            _ => {
                bracketed = (bracketed || c == '[') && c != ']';
                parts.last_mut().expect("it begins with one part").push(c);
            }
        }
    }
    parts.iter().map(|part| name(part)).collect()
}

fn name(part: &str) -> Result<Match, String> {
    if part.is_empty() {
        return Err("an empty name in match=; remove the extra colon".into());
    }
    Ok(match part.to_ascii_lowercase().as_str() {
        "hostname" => Match::Hostname,
        "nexthop" => Match::Nexthop,
        "dot-nexthop" => Match::DotNexthop,
        lower => Match::Name(if let Some(inside) = lower.strip_prefix('[') {
            let address = inside.strip_suffix(']').unwrap_or(inside);
            let address = address.strip_prefix("ipv6:").unwrap_or(address);
            let address: IpAddr = address
                .parse()
                .map_err(|_| format!("{part:?} in match= is no address in brackets"))?;
            NamePattern::Address(address.to_canonical())
        } else if lower.parse::<IpAddr>().is_ok() {
            return Err(format!(
                "an address in match= is written in brackets: [{part}]"
            ));
        } else if let Some(parent) = lower.strip_prefix('.') {
            NamePattern::Below(domain(parent)?.to_string())
        } else {
            NamePattern::Host(domain(part)?.to_string())
        }),
    })
}

pub(super) fn servername(value: &str) -> Result<Servername, String> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "hostname" => Servername::Hostname,
        "nexthop" => Servername::Nexthop,
        lower => Servername::Name(
            domain(lower).map_err(|why| format!("servername=: {why}, or hostname, or nexthop"))?,
        ),
    })
}

/// `match=` of fingerprint: digests in hex between `|`, with or without colons.
pub(super) fn fingerprints(value: &str) -> Result<Vec<Vec<u8>>, String> {
    value.split('|').map(fingerprint).collect()
}

fn fingerprint(text: &str) -> Result<Vec<u8>, String> {
    let digits = match text.contains(':') {
        true if text.split(':').all(|pair| pair.len() == 2) => text.replace(':', ""),
        true => {
            return Err(format!(
                "{text:?} is no digest; write pairs of hex digits between colons"
            ));
        }
        false => text.to_owned(),
    };
    let digest = HEXLOWER_PERMISSIVE
        .decode(digits.as_bytes())
        .ok()
        .filter(|digest| !digest.is_empty())
        .ok_or_else(|| format!("{text:?} is no digest; write its hex digits"))?;
    match digest.len() {
        20 | 32 | 48 | 64 => Ok(digest),
        16 => Err(format!(
            "{text:?} is an MD5 digest, which proves nothing; give the SHA-256: openssl x509 -noout -fingerprint -sha256"
        )),
        octets => Err(format!(
            "a digest of {octets} octets; give the SHA-256 (32 octets): openssl x509 -noout -fingerprint -sha256"
        )),
    }
}

/// Digits in pairs between colons, as openssl prints them.
pub(super) fn hex(digest: &[u8]) -> String {
    let pairs: Vec<String> = digest
        .chunks(1)
        .map(|octet| HEXLOWER.encode(octet))
        .collect();
    pairs.join(":")
}

/// `protocols=`: versions, `!`exclusions and `>=` / `<=` bounds between colons. True: TLS 1.3 only; false: 1.2 and 1.3.
///
/// This proxy speaks TLS 1.2 and 1.3 (RFC 8996). A list that includes an older version, or leaves only 1.2, is an error.
pub(super) fn tls13_only(value: &str) -> Result<bool, String> {
    const NEWEST: u16 = 0x0304;
    let (mut included, mut excluded) = (Vec::new(), Vec::new());
    let (mut least, mut most) = (0, u16::MAX);
    for word in value.split(':') {
        if let Some(name) = word.strip_prefix(">=") {
            least = version(name)?;
        } else if let Some(name) = word.strip_prefix("<=") {
            most = version(name)?;
        } else if let Some(name) = word.strip_prefix('!') {
            excluded.push(version(name)?);
        } else {
            let number = version(word)?;
            if number < 0x0303 {
                return Err(format!(
                    "{word} is not spoken here, only TLSv1.2 and TLSv1.3; remove it"
                ));
            }
            included.push(number);
        }
    }
    let allowed = |number: u16| {
        (included.is_empty() || included.contains(&number))
            && !excluded.contains(&number)
            && (least..=most).contains(&number)
    };
    match (allowed(0x0303), allowed(NEWEST)) {
        (true, true) => Ok(false),
        (false, true) => Ok(true),
        (true, false) => Err(format!(
            "protocols={value} leaves only TLSv1.2, and TLSv1.3 cannot be switched off; remove the attribute or write protocols=>=TLSv1.2"
        )),
        (false, false) => Err(format!(
            "protocols={value} leaves neither TLSv1.2 nor TLSv1.3; write protocols=>=TLSv1.2 or protocols=TLSv1.3"
        )),
    }
}

fn version(name: &str) -> Result<u16, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "sslv2" => 0x0002,
        "sslv3" => 0x0300,
        "tlsv1" => 0x0301,
        "tlsv1.1" => 0x0302,
        "tlsv1.2" => 0x0303,
        "tlsv1.3" => 0x0304,
        _ => {
            return Err(format!(
                "no protocol {name:?}; write TLSv1.2 or TLSv1.3, with ! before one to exclude it, >= for a least one"
            ));
        }
    })
}
