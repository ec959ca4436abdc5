//! The policy table, in the syntax of Postfix's smtp_tls_policy_maps.
//!
//! ```text
//! # key                level         attributes
//! partner.example      secure        match=.partner.example
//! .lab.example         encrypt       until=2027-03-31 reason="self-signed, ticket 4711"
//! [203.0.113.9]        verify        match=mx.clinic.example
//! 203.0.113.0/24       none          until=2026-12-31 reason="scanner vendor"
//! [relay.example]:587  verify
//! @partner.example     fingerprint   match=3f:..:9a
//! *                    dane-only
//! ```
//!
//! A line that begins with white space continues the one before; a line whose first character that is not white space is
//! `#` is a comment, also between the two. A byte order mark, as editors of Windows write it, is passed over. Keys without `@` are about peers that mail goes to, and their addresses also
//! about clients that it comes from; keys with `@` are about sender domains, inbound.

mod attributes;
mod key;
mod parse;
mod reach;
#[cfg(test)]
mod tests;

pub use attributes::{Match, Servername, Until};
pub use key::Key;
pub use reach::TablePurpose;

use super::{Ask, Basis, Level, NextHop};
use crate::smtp::{Domain, Recipient};
use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc, time::SystemTime};

/// All entries of a file.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    /// Where the entry of a key stands in `entries`.
    index: HashMap<Key, usize>,
}

/// One entry of the table. What its level does not use is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub key: Key,
    /// How strictly.
    pub level: Level,
    /// `match=` of verify and secure: what the certificate may name. Empty: the level's default.
    pub matches: Vec<Match>,
    /// `match=` of fingerprint: digests of the certificate or its public key.
    pub fingerprints: Vec<Vec<u8>>,
    /// `servername=`.
    pub servername: Option<Servername>,
    /// `tafile=`, the paths as written.
    pub tafile: Vec<String>,
    /// The trust anchors in them, DER; these only.
    pub anchors: Option<Arc<Vec<Vec<u8>>>>,
    /// `protocols=` leaves only TLS 1.3.
    pub tls13_only: bool,
    /// `until=`: after this day it does not apply.
    pub until: Option<Until>,
    /// `reason=`.
    pub reason: Option<String>,
    /// The file, as given on the command line.
    pub file: Arc<str>,
    /// The line it begins at, from 1.
    pub line: u32,
}

/// Gives the trust anchors (DER certificates) in the PEM file of a `tafile=` path, or why it cannot.
pub type Load<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<Vec<u8>>, String>;

/// What is wrong with a table, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// As given on the command line.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )
    }
}

impl Table {
    /// Reads a table. `load` reads the files that it names, so that this stays pure.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, in the order of the lines.
    pub fn parse(file: &str, text: &str, load: Load<'_>) -> Result<Self, Vec<TableError>> {
        let file: Arc<str> = file.into();
        let mut table = Self::default();
        let mut errors = Vec::new();
        for line in parse::logical_lines(text) {
            let entry = line.and_then(|tokens| attributes::entry(&file, &tokens, load));
            let placed =
                entry.and_then(|(entry, place)| table.add(entry).map_err(|why| place.error(why)));
            if let Err(error) = placed {
                errors.push(TableError {
                    file: file.to_string(),
                    line: error.line,
                    column: error.column,
                    message: error.message,
                });
            }
        }
        if errors.is_empty() {
            Ok(table)
        } else {
            Err(errors)
        }
    }

    fn add(&mut self, entry: Entry) -> Result<(), String> {
        if let Some(earlier) = self.index.get(&entry.key) {
            return Err(format!(
                "{} has an entry already, on line {}; remove one of the two",
                entry.key, self.entries[*earlier].line
            ));
        }
        self.index.insert(entry.key.clone(), self.entries.len());
        self.entries.push(entry);
        Ok(())
    }

    /// The entry that applies: recipient domain, parent domains (longest first), destination address, longest prefix, `*`.
    /// With `--upstream` its host comes first, as `[host]:port`, `[host]`, then as a domain and its parents. Entries past
    /// their date do not apply, so that the next in this order does.
    ///
    /// Before a recipient is known ([`NextHop::Address`]) only addresses and prefixes are looked at.
    #[must_use]
    pub fn find(&self, ask: &Ask, now: SystemTime) -> Option<&Entry> {
        let mut keys = Vec::new();
        match &ask.next_hop {
            NextHop::Recipient(Recipient::Domain(domain)) => keys.extend(Key::of_domain(domain)),
            NextHop::Upstream(host) => {
                if let Some(host) = Domain::parse(host.strip_suffix('.').unwrap_or(host)) {
                    keys.push(Key::Host(host.clone(), Some(ask.port)));
                    keys.push(Key::Host(host.clone(), None));
                    keys.extend(Key::of_domain(&host));
                }
            }
            NextHop::Recipient(Recipient::Literal(_) | Recipient::Postmaster)
            | NextHop::Address => {}
        }
        let server = ask.server.to_canonical();
        keys.push(Key::Address(server, Some(ask.port)));
        keys.push(Key::Address(server, None));
        self.first(&keys, now)
            .or_else(|| self.longest_prefix(server, now))
            .or_else(|| match ask.next_hop {
                NextHop::Address => None,
                _ => self.first(&[Key::Any], now),
            })
    }

    /// Inbound: the entry for a sender domain (`@domain`, `@.parent`, longest first), else for the client's address
    /// (address, longest prefix). No domain: before MAIL, and for the null reverse-path.
    #[must_use]
    pub fn find_sender(
        &self,
        sender: Option<&Domain>,
        client: IpAddr,
        now: SystemTime,
    ) -> Option<&Entry> {
        let client = client.to_canonical();
        let mut keys: Vec<Key> = sender.into_iter().flat_map(Key::of_sender).collect();
        keys.push(Key::Address(client, None));
        self.first(&keys, now)
            .or_else(|| self.longest_prefix(client, now))
    }

    fn first(&self, keys: &[Key], now: SystemTime) -> Option<&Entry> {
        keys.iter()
            .filter_map(|key| self.index.get(key).map(|at| &self.entries[*at]))
            .find(|entry| !entry.is_expired(now))
    }

    fn longest_prefix(&self, address: IpAddr, now: SystemTime) -> Option<&Entry> {
        self.entries
            .iter()
            .filter_map(|entry| match entry.key {
                Key::Prefix(prefix) if prefix.contains(address) && !entry.is_expired(now) => {
                    Some((prefix.length(), entry))
                }
                _ => None,
            })
            .max_by_key(|(length, _)| *length)
            .map(|(_, entry)| entry)
    }

    /// All entries, in the order of the lines.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Inbound: whether any sender domain's entry allows mail in the clear at this time.
    #[must_use]
    pub fn has_plaintext_senders(&self, now: SystemTime) -> bool {
        self.applying(now)
            .any(|entry| entry.level.allows_plaintext() && entry.key.is_sender())
    }

    /// Whether any entry allows mail in the clear at this time.
    #[must_use]
    pub fn has_plaintext_entries(&self, now: SystemTime) -> bool {
        self.applying(now)
            .any(|entry| entry.level.allows_plaintext())
    }

    /// The entries that are not past their date: those past it do nothing.
    pub fn applying(&self, now: SystemTime) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| !entry.is_expired(now))
    }
}

impl Entry {
    /// Whether its `until=` day is over.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.until.as_ref().is_some_and(|until| until.is_over(now))
    }

    /// Whether only a recipient can complete it: false where it proves the peer by itself (pins, or names in `match=`),
    /// so that TLS may come up at EHLO. Plaintext entries always wait, since a recipient's own entry comes first.
    #[must_use]
    pub fn needs_recipient(&self) -> bool {
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

    /// Where a decision under it comes from.
    #[must_use]
    pub fn basis(&self) -> Basis {
        Basis::Table {
            file: self.file.to_string(),
            line: self.line,
            reason: self.reason.clone(),
            until: self.until.as_ref().map(ToString::to_string),
        }
    }
}

/// The entry as a line of the table that says the same.
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

/// A value as it must be written: in quotes where white space, a comma or a quote would end it.
fn quoted(value: &str) -> String {
    if value.contains([' ', '\t', ',', '"']) {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        value.to_owned()
    }
}
