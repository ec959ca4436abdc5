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
//! A line that begins with white space continues the line before. A line whose first character after white space is `#` is a comment,
//! even before a continuation line. A byte order mark, as Windows editors write it, is skipped. Keys without `@` name the recipients
//! and servers of outgoing mail; addresses and prefixes also name the clients of incoming mail. Keys with `@` name the sender domains
//! of incoming mail.

mod attributes;
mod entry;
mod key;
mod parse;
mod reach;
#[cfg(test)]
mod tests;

pub use attributes::{Match, Servername, Until};
pub use entry::{Entry, LoadAnchors};
pub use key::Key;
pub use reach::TablePurpose;

use super::ask::{Ask, NextHop};
use crate::smtp::{Domain, Recipient};
use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc, time::SystemTime};

/// All entries of a file.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    /// The position in `entries` of each key's entry.
    index: HashMap<Key, usize>,
    /// The positions of entries whose key is a prefix. They are searched one by one.
    prefixes: Vec<usize>,
    /// The positions of entries that allow mail in the clear. Each session asks whether there is one.
    plaintext: Vec<usize>,
}

/// An error in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// As given on the command line.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Says what is wrong and what to do.
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
    /// Reads a table. `load` reads the files that the table names, so that this function does no I/O.
    ///
    /// # Errors
    ///
    /// All errors in the table, in the order of the lines.
    pub fn parse(file: &str, text: &str, load: LoadAnchors<'_>) -> Result<Self, Vec<TableError>> {
        let file: Arc<str> = file.into();
        let mut table = Self::default();
        let mut errors = Vec::new();
        for line in parse::logical_lines(text) {
            let read = line.and_then(|tokens| entry::read(&file, &tokens, load));
            let added = read
                .and_then(|(entry, position)| table.add(entry).map_err(|why| position.error(why)));
            if let Err(error) = added {
                errors.push(TableError {
                    file: file.to_string(),
                    line: error.position.line,
                    column: error.position.column,
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
        let at = self.entries.len();
        self.index.insert(entry.key.clone(), at);
        if matches!(entry.key, Key::Prefix(_)) {
            self.prefixes.push(at);
        }
        if entry.level.allows_plaintext() {
            self.plaintext.push(at);
        }
        self.entries.push(entry);
        Ok(())
    }

    /// The entry that applies. Order of search: recipient domain, parent domains (longest first), destination address, longest prefix,
    /// `*`. With `--upstream`, the host comes first: as `[host]:port`, as `[host]`, then as a domain with its parents. Entries past
    /// their date are skipped.
    ///
    /// Before a recipient is known ([`NextHop::Address`]) only addresses and prefixes are searched.
    #[must_use]
    pub fn find(&self, ask: &Ask, now: SystemTime) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let server = ask.server.to_canonical();
        let addresses = [
            Key::Address(server, Some(ask.port)),
            Key::Address(server, None),
        ];
        let named = match &ask.next_hop {
            NextHop::Recipient(Recipient::Domain(domain)) => {
                self.first(Key::of_domain(domain), now)
            }
            NextHop::Upstream(host) => {
                let host = Domain::parse(host.strip_suffix('.').unwrap_or(host));
                host.and_then(|host| {
                    let port = Key::Host(host.clone(), Some(ask.port));
                    let keys = [port, Key::Host(host.clone(), None)];
                    self.first(keys.into_iter().chain(Key::of_domain(&host)), now)
                })
            }
            NextHop::Recipient(Recipient::Literal(_) | Recipient::Postmaster)
            | NextHop::Address => None,
        };
        named
            .or_else(|| self.first(addresses, now))
            .or_else(|| self.longest_prefix(server, now))
            .or_else(|| match ask.next_hop {
                NextHop::Address => None,
                _ => self.first([Key::Any], now),
            })
    }

    /// Inbound: the entry for the sender domain (`@domain`, `@.parent`, longest first), else for the client's address (address,
    /// longest prefix). There is no sender domain before MAIL and with the null reverse-path.
    #[must_use]
    pub fn find_sender(
        &self,
        sender: Option<&Domain>,
        client: IpAddr,
        now: SystemTime,
    ) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let client = client.to_canonical();
        let keys = sender.into_iter().flat_map(Key::of_sender);
        self.first(keys.chain([Key::Address(client, None)]), now)
            .or_else(|| self.longest_prefix(client, now))
    }

    fn first(&self, keys: impl IntoIterator<Item = Key>, now: SystemTime) -> Option<&Entry> {
        keys.into_iter()
            .filter_map(|key| self.index.get(&key).map(|at| &self.entries[*at]))
            .find(|entry| !entry.is_expired(now))
    }

    fn longest_prefix(&self, address: IpAddr, now: SystemTime) -> Option<&Entry> {
        self.prefixes
            .iter()
            .map(|at| &self.entries[*at])
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
        self.plaintext(now).any(|entry| entry.key.is_sender())
    }

    /// Whether any entry allows mail in the clear at this time.
    #[must_use]
    pub fn has_plaintext_entries(&self, now: SystemTime) -> bool {
        self.plaintext(now).next().is_some()
    }

    fn plaintext(&self, now: SystemTime) -> impl Iterator<Item = &Entry> {
        let entries = self.plaintext.iter().map(|at| &self.entries[*at]);
        entries.filter(move |entry| !entry.is_expired(now))
    }

    /// The entries that are not past their date.
    pub fn applying(&self, now: SystemTime) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| !entry.is_expired(now))
    }
}
