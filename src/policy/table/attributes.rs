//! From the words of an entry to what they mean.

use super::{
    Entry, Key, Level, Load,
    key::domain,
    parse::{Place, Token, Wrong},
    reach::senseless_for_clients,
};
use crate::smtp::Domain;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use jiff::civil::{Date, date};
use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::super::NamePattern;

/// One of the names in `match=` of verify and secure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// `hostname`: an MX host of the domain; with `--upstream` its host.
    Hostname,
    /// `nexthop`: the recipient domain itself; with `--upstream` its host.
    Nexthop,
    /// `dot-nexthop`: any host below that.
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
    fn parse(text: &str) -> Option<Self> {
        // Of the forms that ISO 8601 knows, this one only.
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

    /// Whether it ends no earlier than the other.
    pub(super) fn is_not_before(&self, other: &Self) -> bool {
        self.over >= other.over
    }

    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        // A clock before 1970 is broken; nothing it says may keep an exception alive.
        now.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(true, |since| since >= Duration::from_secs(self.over))
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An entry from its words, and where it begins.
pub(super) fn entry(
    file: &Arc<str>,
    tokens: &[Token],
    load: Load<'_>,
) -> Result<(Entry, Place), Wrong> {
    let [key_word, rest @ ..] = tokens else {
        // `logical_lines` makes no entry of an empty line.
        return Err(Place { line: 1, column: 1 }.error("an empty entry"));
    };
    let place = key_word.place;
    let key: Key = key_word
        .text
        .parse()
        .map_err(|why: String| place.error(why))?;
    let Some((level_word, attributes)) = rest.split_first() else {
        return Err(place.error(format!(
            "{key} has no level; write one behind it, e.g. secure"
        )));
    };
    let level: Level = level_word
        .text
        .parse()
        .map_err(|why: String| level_word.place.error(why))?;
    let mut entry = Entry {
        key,
        level,
        matches: Vec::new(),
        fingerprints: Vec::new(),
        servername: None,
        tafile: Vec::new(),
        anchors: None,
        tls13_only: false,
        until: None,
        reason: None,
        file: file.clone(),
        line: place.line,
    };
    let mut seen: HashMap<String, Place> = HashMap::new();
    for token in attributes {
        let (name, value) = attribute(token)?;
        let repeatable = matches!(name.as_str(), "match" | "tafile");
        if let Some(earlier) = seen.get(&name).filter(|_| !repeatable) {
            return Err(token.place.error(format!(
                "{name}= was given on line {}, column {} already; give it once",
                earlier.line, earlier.column
            )));
        }
        apply(&mut entry, &name, value, load).map_err(|why| token.place.error(why))?;
        seen.insert(name, token.place);
    }
    complete(&entry).map_err(|why| level_word.place.error(why))?;
    Ok((entry, place))
}

/// `name=value`, the name in lower case.
fn attribute(token: &Token) -> Result<(String, &str), Wrong> {
    let text = token.text.as_str();
    if text.starts_with('#') {
        return Err(token
            .place
            .error("a comment behind an entry; put it on a line of its own"));
    }
    if text.starts_with(['{', '}']) {
        return Err(token
            .place
            .error("braces are not read here; write the attribute as name=value"));
    }
    match text.split_once('=') {
        None | Some(("", _)) => Err(token.place.error(format!(
            "{text:?} is no attribute; write name=value, without white space around the ="
        ))),
        Some((name, "")) => Err(token
            .place
            .error(format!("{name}= has no value; give one or remove it"))),
        Some((name, value)) => Ok((name.to_ascii_lowercase(), value)),
    }
}

fn apply(entry: &mut Entry, name: &str, value: &str, load: Load<'_>) -> Result<(), String> {
    let level = entry.level;
    let pkix = matches!(level, Level::Verify | Level::Secure);
    let fits = match name {
        "match" => pkix || level == Level::Fingerprint,
        "tafile" => pkix,
        // DANE and MTA-STS say themselves which name is sent (RFC 7672 §8.1, RFC 8461 §7.1).
        "servername" => !matches!(
            level,
            Level::None | Level::MtaSts | Level::Dane | Level::DaneOnly
        ),
        "protocols" => level != Level::None,
        _ => true,
    };
    if !fits {
        return Err(format!("{name}= means nothing at level {level}; remove it"));
    }
    match name {
        "match" if pkix => entry.matches.extend(names(value)?),
        "match" => entry.fingerprints.extend(fingerprints(value)?),
        "servername" => entry.servername = Some(servername(value)?),
        "tafile" => {
            let more = load(value).map_err(|why| format!("tafile={value}: {why}"))?;
            if more.is_empty() {
                return Err(format!("tafile={value}: no certificate in it"));
            }
            let mut all = entry
                .anchors
                .take()
                .map_or_else(Vec::new, |some| some.to_vec());
            all.extend(more);
            entry.anchors = Some(Arc::new(all));
            entry.tafile.push(value.to_owned());
        }
        "protocols" => entry.tls13_only = tls13_only(value)?,
        "until" => {
            entry.until = Some(Until::parse(value).ok_or_else(|| {
                format!("{value:?} is no day; write until=YYYY-MM-DD, the last day on which the entry applies")
            })?);
        }
        "reason" => entry.reason = Some(value.to_owned()),
        other => return Err(unknown(other)),
    }
    Ok(())
}

fn unknown(name: &str) -> String {
    let why = match name {
        "ciphers" | "exclude" => {
            "only forward-secret AEAD suites are offered, and they cannot be chosen"
        }
        "connection_reuse" => "each session of the client has a connection of its own",
        "enable_rpk" => "raw public keys are not supported",
        _ => {
            return format!(
                "no attribute {name:?}; there are match=, servername=, tafile=, protocols=, until= and reason="
            );
        }
    };
    format!("Postfix's {name}= is not supported: {why}; remove it")
}

/// What an entry lacks that its level needs.
fn complete(entry: &Entry) -> Result<(), String> {
    if entry.level == Level::Fingerprint && entry.fingerprints.is_empty() {
        return Err(
            "level fingerprint needs match= with the digest of the certificate or its key".into(),
        );
    }
    if entry.key.is_sender()
        && let Some(why) = senseless_for_clients(entry)
    {
        return Err(why);
    }
    Ok(())
}

/// `match=` of verify and secure: parts between colons, brackets around addresses.
fn names(value: &str) -> Result<Vec<Match>, String> {
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

fn servername(value: &str) -> Result<Servername, String> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "hostname" => Servername::Hostname,
        "nexthop" => Servername::Nexthop,
        lower => Servername::Name(
            domain(lower).map_err(|why| format!("servername=: {why}, or hostname, or nexthop"))?,
        ),
    })
}

/// `match=` of fingerprint: digests in hex between `|`, with or without colons.
fn fingerprints(value: &str) -> Result<Vec<Vec<u8>>, String> {
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
/// We speak TLS 1.2 and 1.3 (RFC 8996); a list that names an older one, or leaves 1.2 alone, asks for what is not done here.
fn tls13_only(value: &str) -> Result<bool, String> {
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
