//! The policy table, in the syntax of Postfix's smtp_tls_policy_maps.

use super::{Ask, Level};
use crate::smtp::Domain;
use std::{fmt, net::IpAddr, time::SystemTime};

/// All entries of a file.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// How strictly.
    pub level: Level,
    /// The line it begins at, from 1.
    pub line: u32,
}

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
    /// Reads a table. `load` gives the trust anchors (DER certificates) of a `tafile=` path, so that this stays pure.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, in the order of the lines.
    pub fn parse(
        _file: &str,
        _text: &str,
        _load: &mut dyn FnMut(&str) -> Result<Vec<Vec<u8>>, String>,
    ) -> Result<Self, Vec<TableError>> {
        todo!()
    }

    /// The entry that applies: recipient domain, parent domains (longest first), destination address, longest prefix,
    /// `*`; with `--upstream` its host in the first two places. Entries past their date do not apply.
    #[must_use]
    pub fn find(&self, _ask: &Ask, _now: SystemTime) -> Option<&Entry> {
        todo!()
    }

    /// Inbound: the entry for a sender domain (`@domain`, `@.parent`), else for the client's address (address, longest
    /// prefix); `None` as domain for what is known before MAIL, and for the null reverse-path.
    #[must_use]
    pub fn find_sender(
        &self,
        _sender: Option<&Domain>,
        _client: IpAddr,
        _now: SystemTime,
    ) -> Option<&Entry> {
        todo!()
    }

    /// All entries, in the order of the lines.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Those past their date, for warnings.
    pub fn expired(&self, _now: SystemTime) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether any entry allows mail in the clear.
    #[must_use]
    pub fn has_plaintext_entries(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.level.allows_plaintext())
    }
}

impl Entry {
    /// Whether only a recipient can complete it: false where it proves the peer by itself (pins, or names in `match=`),
    /// so that TLS may come up at EHLO. Plaintext entries always wait, since a recipient's own entry comes first.
    #[must_use]
    pub fn needs_recipient(&self) -> bool {
        todo!()
    }
}
