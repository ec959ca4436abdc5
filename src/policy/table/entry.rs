//! One entry of the table, and how it is read from its words.

use super::{
    super::{demand::Basis, level::Level},
    attributes::{self, Match, Servername, Until},
    key::Key,
    parse::{EntryError, Position, Token},
};
use std::{collections::HashMap, fmt, sync::Arc, time::SystemTime};

/// One entry of the table. Fields that its level does not use are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The peers or domains that the entry is about.
    pub key: Key,
    /// How strictly the peer is authenticated.
    pub level: Level,
    /// `match=` of verify and secure: the names that the certificate may show. Empty: the level's default.
    pub matches: Vec<Match>,
    /// `match=` of fingerprint: digests of the certificate or its public key.
    pub fingerprints: Vec<Vec<u8>>,
    /// `servername=`.
    pub servername: Option<Servername>,
    /// `tafile=`, the paths as written.
    pub tafile: Vec<String>,
    /// The trust anchors (DER) in these files, instead of the general ones.
    pub anchors: Option<Arc<Vec<Vec<u8>>>>,
    /// `protocols=` leaves only TLS 1.3.
    pub tls13_only: bool,
    /// `until=`: the entry does not apply after this day.
    pub until: Option<Until>,
    /// `reason=`.
    pub reason: Option<String>,
    /// The file, as given on the command line.
    pub file: Arc<str>,
    /// The line on which the entry begins, from 1.
    pub line: u32,
}

/// Reads the trust anchors (DER certificates) in the PEM file of a `tafile=` path, or says why it cannot.
pub type LoadAnchors<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<Vec<u8>>, String>;

impl Entry {
    /// Whether the `until=` day is over.
    #[must_use]
    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.until.as_ref().is_some_and(|until| until.is_over(now))
    }

    /// When the entry ceases to apply: `until=`.
    #[must_use]
    pub(crate) fn end(&self) -> Option<SystemTime> {
        self.until.as_ref().and_then(Until::end)
    }

    /// Whether the entry says what to prove only together with a recipient. False if the entry alone identifies the peer (pins, or
    /// names in `match=`), so that TLS may be negotiated at EHLO. Plaintext entries always wait for a recipient, since the
    /// recipient's own entry takes precedence.
    #[must_use]
    pub(crate) fn needs_recipient(&self) -> bool {
        let by_itself = match self.level {
            Level::Fingerprint => true,
            Level::Verify | Level::Secure => {
                !self.matches.is_empty()
                    && self
                        .matches
                        .iter()
                        .all(|name| matches!(name, Match::Name(_)))
            }
            _ => false,
        };
        let sni_by_itself = matches!(self.servername, None | Some(Servername::Name(_)));
        !(by_itself && sni_by_itself)
    }

    /// The entry as the basis of a decision.
    #[must_use]
    pub(crate) fn basis(&self) -> Basis {
        Basis::Table {
            file: self.file.to_string(),
            line: self.line,
            reason: self.reason.clone(),
            until: self.until.as_ref().map(ToString::to_string),
        }
    }
}

/// The entry as a line of the table with the same meaning.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.level)?;
        if !self.matches.is_empty() {
            let names: Vec<String> = self.matches.iter().map(ToString::to_string).collect();
            write!(f, " match={}", names.join(":"))?;
        }
        if !self.fingerprints.is_empty() {
            let digests: Vec<String> = self
                .fingerprints
                .iter()
                .map(|d| attributes::hex(d))
                .collect();
            write!(f, " match={}", digests.join("|"))?;
        }
        if let Some(servername) = &self.servername {
            write!(f, " servername={servername}")?;
        }
        for path in &self.tafile {
            write!(f, " tafile={}", quoted(path))?;
        }
        if self.tls13_only {
            f.write_str(" protocols=TLSv1.3")?;
        }
        if let Some(until) = &self.until {
            write!(f, " until={until}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, " reason={}", quoted(reason))?;
        }
        Ok(())
    }
}

/// A value as it must be written: in quotes if it contains white space, a comma or a quote, any of which would end it.
pub(super) fn quoted(value: &str) -> String {
    if value.contains([' ', '\t', ',', '"']) {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        value.to_owned()
    }
}

/// Reads an entry from its words. Also says where it begins.
pub(super) fn read(
    file: &Arc<str>,
    tokens: &[Token],
    load: LoadAnchors<'_>,
) -> Result<(Entry, Position), EntryError> {
    let [key_word, rest @ ..] = tokens else {
        // `logical_lines` makes no entry of an empty line.
        return Err(Position { line: 1, column: 1 }.error("an empty entry"));
    };
    let position = key_word.position;
    let key: Key = key_word
        .text
        .parse()
        .map_err(|why: String| position.error(why))?;
    let Some((level_word, attributes)) = rest.split_first() else {
        return Err(position.error(format!(
            "{key} has no level; write one behind it, e.g. secure"
        )));
    };
    let level: Level = level_word
        .text
        .parse()
        .map_err(|why: String| level_word.position.error(why))?;
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
        line: position.line,
    };
    let mut seen: HashMap<String, Position> = HashMap::new();
    for token in attributes {
        let (name, value) = attribute(token)?;
        let repeatable = matches!(name.as_str(), "match" | "tafile");
        if let Some(earlier) = seen.get(&name).filter(|_| !repeatable) {
            return Err(token.position.error(format!(
                "{name}= was given on line {}, column {} already; give it once",
                earlier.line, earlier.column
            )));
        }
        apply(&mut entry, &name, value, load).map_err(|why| token.position.error(why))?;
        seen.insert(name, token.position);
    }
    complete(&entry).map_err(|why| level_word.position.error(why))?;
    Ok((entry, position))
}

/// `name=value`, the name in lower case.
fn attribute(token: &Token) -> Result<(String, &str), EntryError> {
    let text = token.text.as_str();
    if text.starts_with('#') {
        return Err(token
            .position
            .error("a comment behind an entry; put it on a line of its own"));
    }
    if text.starts_with(['{', '}']) {
        return Err(token
            .position
            .error("braces are not read here; write the attribute as name=value"));
    }
    match text.split_once('=') {
        None | Some(("", _)) => Err(token.position.error(format!(
            "{text:?} is no attribute; write name=value, without white space around the ="
        ))),
        Some((name, "")) => Err(token
            .position
            .error(format!("{name}= has no value; give one or remove it"))),
        Some((name, value)) => Ok((name.to_ascii_lowercase(), value)),
    }
}

fn apply(entry: &mut Entry, name: &str, value: &str, load: LoadAnchors<'_>) -> Result<(), String> {
    let level = entry.level;
    let pkix = matches!(level, Level::Verify | Level::Secure);
    let fits = match name {
        "match" => pkix || level == Level::Fingerprint,
        "tafile" => pkix,
        // DANE and MTA-STS determine the name in SNI themselves (RFC 7672 §8.1, RFC 8461 §7.1).
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
        "match" if pkix => entry.matches.extend(attributes::names(value)?),
        "match" => entry.fingerprints.extend(attributes::fingerprints(value)?),
        "servername" => entry.servername = Some(attributes::servername(value)?),
        "tafile" => {
            let more = load(value).map_err(|why| format!("tafile={value}: {why}"))?;
            if more.is_empty() {
                return Err(format!("tafile={value}: no certificate in it"));
            }
            let anchors = entry.anchors.get_or_insert_default();
            Arc::make_mut(anchors).extend(more);
            entry.tafile.push(value.to_owned());
        }
        "protocols" => entry.tls13_only = attributes::tls13_only(value)?,
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

/// Checks that the entry has all that its level needs.
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

/// Why an entry about clients means nothing: it says something that only applies to servers.
pub(super) fn senseless_for_clients(entry: &Entry) -> Option<String> {
    if entry.level >= Level::MtaSts {
        return Some(format!(
            "level {} is about hosts that mail goes to; for a client choose fingerprint, verify, secure, encrypt, may or none",
            entry.level
        ));
    }
    if entry.level == Level::Verify && entry.matches.is_empty() {
        return Some("level verify needs match= here, since a client has no MX host name".into());
    }
    if entry.matches.contains(&Match::Hostname) {
        return Some(
            "match=hostname means nothing here, since a client has no MX host name".into(),
        );
    }
    if entry.servername.is_some() {
        return Some("servername= means nothing here, since the client names the server".into());
    }
    None
}
