//! Which entries can ever be asked for: a line that nothing ever reaches is a promise that is not kept, so it is said.

use super::{
    super::{Prefix, Settings},
    Entry, Key, Level, Match, Table, TableError,
};
use crate::smtp::Domain;
use std::{net::IpAddr, time::SystemTime};

/// What a table is for; that says which of its keys are ever looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TablePurpose {
    /// To the world, and it is not known how: `check` and `policy`.
    Outbound,
    /// To the world with `--intercept`: recipients' domains, and destination addresses at port 25.
    Intercepted,
    /// To the world with `--upstream`: its host, as given, and its port.
    Upstream(String, u16),
    /// From the world: sender domains and client addresses.
    Inbound,
}

impl TablePurpose {
    /// What the keys of a table are about, where that is clear: keys with `@` are about mail that comes in, all others but
    /// addresses and prefixes about mail that goes out.
    #[must_use]
    pub fn of(table: &Table) -> Option<Self> {
        table.entries.iter().find_map(|entry| match entry.key {
            Key::Sender(_) | Key::SenderBelow(_) => Some(Self::Inbound),
            Key::Address(_, None) | Key::Prefix(_) => None,
            _ => Some(Self::Outbound),
        })
    }
}

impl Table {
    /// The entries that mean nothing this way, since their keys or levels are about mail that goes the other, or need what
    /// the command line switches off.
    #[must_use]
    pub fn unfit(&self, way: &TablePurpose, settings: &Settings) -> Vec<TableError> {
        let why = |entry: &Entry| match way {
            TablePurpose::Inbound => unfit_for_clients(entry),
            _ => unfit_for_servers(entry, way, settings),
        };
        self.entries
            .iter()
            .filter_map(|entry| {
                Some(TableError {
                    file: entry.file.to_string(),
                    line: entry.line,
                    column: 1,
                    message: why(entry)?,
                })
            })
            .collect()
    }

    /// What is allowed and yet worth a warning, as `file:line: words`: entries past their date, and those that can never be
    /// reached.
    #[must_use]
    pub fn remarks(&self, way: &TablePurpose, now: SystemTime) -> Vec<String> {
        self.entries
            .iter()
            .filter_map(|entry| {
                let words = if entry.is_expired(now) {
                    String::from("the entry is past its until= date and does not apply any more")
                } else {
                    self.never_reached(entry, way)?
                };
                Some(format!(
                    "{}:{}: {}: {words}",
                    entry.file, entry.line, entry.key
                ))
            })
            .collect()
    }

    fn never_reached(&self, entry: &Entry, way: &TablePurpose) -> Option<String> {
        match way {
            TablePurpose::Upstream(host, port) => self.behind_upstream(entry, host, *port),
            TablePurpose::Intercepted => match &entry.key {
                Key::Host(host, _) => Some(format!(
                    "never reached: only --upstream asks for a host in brackets; for a recipient's domain write {host}"
                )),
                Key::Address(_, Some(port)) if *port != 25 => Some(format!(
                    "never reached: intercepted connections go to port 25, never to {port}; remove the line"
                )),
                Key::Address(address, None) => self.spoken_for_at(entry, *address, 25),
                Key::Any => self.spoken_for_everywhere(entry),
                _ => self.spoken_for(entry, Some(25)),
            },
            TablePurpose::Outbound | TablePurpose::Inbound => self.spoken_for(entry, None),
        }
    }

    /// All mail goes to one host, so all questions are about it, and the first entry that speaks for it decides each of them.
    fn behind_upstream(&self, entry: &Entry, host: &str, port: u16) -> Option<String> {
        let Some(rank) = rank(&entry.key, host, port) else {
            return Some(format!(
                "never reached: all mail goes to --upstream {host}, port {port}, so nothing else is asked for; remove the line"
            ));
        };
        let before = self.entries.iter().find(|other| {
            let always = match other.key {
                // Which addresses a name has, the DNS says.
                Key::Address(..) | Key::Prefix(_) => host.parse::<IpAddr>().is_ok(),
                _ => true,
            };
            always
                && outlives(other, entry)
                && self::rank(&other.key, host, port).is_some_and(|theirs| theirs < rank)
        });
        match (before, &entry.key) {
            (Some(before), _) => Some(shadowed(&[before])),
            (None, Key::Address(address, None)) => self.spoken_for_at(entry, *address, port),
            (None, Key::Any) => self.spoken_for_everywhere(entry),
            (None, _) => self.spoken_for(entry, Some(port)),
        }
    }

    /// An address with the only port there is comes before the address alone.
    fn spoken_for_at(&self, entry: &Entry, address: IpAddr, port: u16) -> Option<String> {
        let before = self.index.get(&Key::Address(address, Some(port)))?;
        let before = &self.entries[*before];
        outlives(before, entry).then(|| shadowed(&[before]))
    }

    /// A prefix whose every address has an entry that is narrower.
    fn spoken_for(&self, entry: &Entry, port: Option<u16>) -> Option<String> {
        let Key::Prefix(whole) = entry.key else {
            return None;
        };
        let narrower: Vec<(Prefix, &Entry)> = self
            .addressed(entry, port)
            .filter(|(prefix, _)| *prefix != whole && whole.covers(*prefix))
            .collect();
        covered(whole, &narrower).then(|| shadowed(&entries_of(&narrower)))
    }

    /// `*` where prefixes speak for every address there is.
    fn spoken_for_everywhere(&self, entry: &Entry) -> Option<String> {
        let all: Vec<(Prefix, &Entry)> = self.addressed(entry, None).collect();
        Prefix::everything()
            .iter()
            .all(|whole| {
                let inside: Vec<_> = all
                    .iter()
                    .copied()
                    .filter(|(prefix, _)| whole.covers(*prefix))
                    .collect();
                covered(*whole, &inside)
            })
            .then(|| shadowed(&entries_of(&all)))
    }

    /// The entries for addresses that apply for at least as long as `entry` does.
    fn addressed<'a>(
        &'a self,
        entry: &'a Entry,
        port: Option<u16>,
    ) -> impl Iterator<Item = (Prefix, &'a Entry)> {
        self.entries.iter().filter_map(move |other| {
            let prefix = match other.key {
                Key::Prefix(prefix) => prefix,
                Key::Address(address, at) if at.is_none() || at == port => address.into(),
                _ => return None,
            };
            outlives(other, entry).then_some((prefix, other))
        })
    }
}

/// `other` applies at least as long as `entry` does.
fn outlives(other: &Entry, entry: &Entry) -> bool {
    match (&other.until, &entry.until) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(theirs), Some(ours)) => theirs.is_not_before(ours),
    }
}

fn shadowed(by: &[&Entry]) -> String {
    let lines: Vec<String> = by.iter().map(|entry| entry.line.to_string()).collect();
    let (line, speaks) = match lines.len() {
        1 => ("line", "speaks"),
        _ => ("lines", "speak"),
    };
    format!(
        "never reached: {line} {} {speaks} for all of it; remove one or the other",
        lines.join(", ")
    )
}

fn entries_of<'a>(pairs: &[(Prefix, &'a Entry)]) -> Vec<&'a Entry> {
    pairs.iter().map(|(_, entry)| *entry).collect()
}

/// Whether these prefixes, all of them inside `whole`, leave out none of its addresses. Each step halves the prefix and
/// shares `parts` out, so the work is bounded by their number times 128.
fn covered(whole: Prefix, parts: &[(Prefix, &Entry)]) -> bool {
    if parts.is_empty() {
        return false;
    }
    if parts.iter().any(|(part, _)| *part == whole) {
        return true;
    }
    whole.halves().is_some_and(|halves| {
        halves.iter().all(|half| {
            let inside: Vec<_> = parts
                .iter()
                .copied()
                .filter(|(part, _)| half.covers(*part))
                .collect();
            covered(*half, &inside)
        })
    })
}

/// Where in the order of [`Table::find`] a key speaks for an `--upstream` host; `None`: never.
fn rank(key: &Key, host: &str, port: u16) -> Option<usize> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return match key {
            Key::Address(own, at) if *own == address.to_canonical() => match at {
                Some(at) => (*at == port).then_some(0),
                None => Some(1),
            },
            Key::Prefix(prefix) => prefix
                .contains(address)
                .then(|| 130 - usize::from(prefix.length())),
            Key::Any => Some(usize::MAX),
            _ => None,
        };
    }
    let host = Domain::parse(host)?;
    let levels = host.as_str().matches('.').count() + 4;
    match key {
        Key::Host(own, at) if *own == host => match at {
            Some(at) => (*at == port).then_some(0),
            None => Some(1),
        },
        Key::Host(..) => None,
        Key::Address(_, Some(at)) if *at != port => None,
        Key::Address(..) | Key::Prefix(_) => Some(levels),
        Key::Any => Some(usize::MAX),
        key => Key::of_domain(&host)
            .position(|one| one == *key)
            .map(|at| at + 2),
    }
}

fn unfit_for_servers(entry: &Entry, way: &TablePurpose, settings: &Settings) -> Option<String> {
    let (key, level) = (&entry.key, entry.level);
    if key.is_sender() {
        let bare = key.to_string();
        let bare = bare.trim_start_matches('@');
        return Some(format!(
            "{key} is about mail that comes in, and this table is for mail that goes out; write {bare} for mail to that \
             domain, or move the line into the table of inbound"
        ));
    }
    if matches!(level, Level::Dane | Level::DaneOnly) && !settings.dane {
        return Some(format!(
            "level {level} needs DANE; leave --no-dane away, or choose another level"
        ));
    }
    if level == Level::MtaSts && matches!(way, TablePurpose::Upstream(..)) {
        return Some(
            "level mta-sts is about recipients' domains, not about an --upstream host; choose verify"
                .into(),
        );
    }
    None
}

fn unfit_for_clients(entry: &Entry) -> Option<String> {
    let key = &entry.key;
    let outward = |what: &str| {
        Some(format!(
            "{key} is about mail that goes out, and this table is for mail that comes in; {what}, or move the line into \
             the table of outbound"
        ))
    };
    match key {
        Key::Domain(_) | Key::Below(_) => {
            outward(&format!("write @{key} for mail from that domain"))
        }
        Key::Host(host, _) => outward(&format!("write @{host} for mail from that domain")),
        Key::Address(address, Some(_)) => outward(&format!(
            "a client's port means nothing: write {}",
            Key::Address(*address, None)
        )),
        Key::Any => outward("write @ and a domain for its mail, or 0.0.0.0/0 and ::/0 for all clients"),
        Key::Sender(_) | Key::SenderBelow(_) => None,
        Key::Address(_, None) | Key::Prefix(_) => senseless_for_clients(entry).or_else(|| {
            let pkix = matches!(entry.level, Level::Verify | Level::Secure);
            // Before MAIL there is no sender's domain, and the client is judged then, too.
            let named = entry.matches.iter().any(|name| matches!(name, Match::Name(_)));
            (pkix && !named).then(|| {
                format!(
                    "level {} needs match= with a name here, since a client's address has no domain",
                    entry.level
                )
            })
        }),
    }
}

/// What an entry about clients says that means something only about servers.
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
