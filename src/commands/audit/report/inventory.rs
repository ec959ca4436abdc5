//! The certificates that peers showed, and the files of certificates and keys that the program was told to trust or to use.

use super::{
    fields::{ReadCertificate, ReadPolicy, ReadRecord},
    html::{END_FOLD, Escaped, begin_fold, day, list, plural},
    tally::{begin_at, go_on_to, keep},
};
use crate::commands::{audit::quantity::grouped, unnamed::UnnamedPeers};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::{self, Formatter},
};

/// Certificates that are kept apart. It bounds the memory of a page about mail with very many peers.
const CERTIFICATES: usize = 50_000;
/// Rows of the table of certificates; the rest stands in the file that `--json` writes.
const SHOWN: usize = 200;
/// Files that are kept apart.
const FILES: usize = 1000;

/// Flags that name files of certificates or keys, and what these are for.
const FLAGS: [(&str, &str); 7] = [
    ("--ca-file", "authorities that may vouch for peers"),
    ("--client-ca", "authorities that may vouch for clients"),
    ("--dnssec-anchor", "the anchor of DNSSEC, for DANE"),
    ("--cert", "our own certificate, as a server"),
    ("--key", "our own key, as a server"),
    ("--client-cert", "our own certificate, as a client"),
    ("--client-key", "our own key, as a client"),
];

#[derive(Default)]
pub(super) struct Inventory {
    /// By SHA-256.
    pub(super) certificates: BTreeMap<String, CertificateSeen>,
    /// Levels that peers satisfied whose certificate stands in a later record.
    unnamed: UnnamedPeers<String>,
    /// Messages with certificates that came when no more were kept apart.
    pub(super) others: u64,
    /// Files of certificates and keys, with what they are for.
    pub(super) files: BTreeSet<NamedFile>,
    /// The program was started without `--ca-file`, so that the system's trust store held.
    pub(super) system_store: bool,
}

/// One certificate that a peer showed.
#[derive(Default, Serialize)]
pub(super) struct CertificateSeen {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) serial: String,
    /// Kind and size of its key.
    pub(super) key: String,
    pub(super) spki_sha256: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
    pub(super) first_seen: String,
    pub(super) last_seen: String,
    /// Messages that were handed over to that peer, or that it handed over.
    pub(super) messages: u64,
    /// The levels that it satisfied.
    pub(super) satisfied: BTreeSet<String>,
}

/// A file that the program was told to trust or to use.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct NamedFile {
    pub(super) purpose: String,
    pub(super) file: String,
    /// Of its content, where the records have it.
    pub(super) sha256: Option<String>,
}

impl Inventory {
    /// All certificates are kept apart.
    pub(super) fn is_complete(&self) -> bool {
        self.certificates.len() < CERTIFICATES
    }

    /// The files that a start or a new policy names. They count from before the period, because they are in force when it begins.
    pub(super) fn see_files(&mut self, record: &ReadRecord<'_>) {
        if record.event == "start" {
            let words: Vec<&str> = record.arguments.iter().map(|word| &**word).collect();
            for (flag, purpose) in FLAGS {
                for file in values(&words, flag) {
                    self.file(purpose, file, None);
                }
            }
            self.system_store |= values(&words, "--ca-file").next().is_none();
        }
        if let Some(ReadPolicy { tafiles, .. }) = record.policy.as_deref() {
            for one in tafiles {
                let purpose = "authorities that an entry of the table names (tafile=)";
                self.file(purpose, &one.file, Some(&one.sha256));
            }
        }
    }

    fn file(&mut self, purpose: &str, file: &str, sha256: Option<&str>) {
        if self.files.len() < FILES {
            self.files.insert(NamedFile {
                purpose: purpose.to_owned(),
                file: file.to_owned(),
                sha256: sha256.map(str::to_owned),
            });
        }
    }

    /// The certificate in a record of the period.
    pub(super) fn see_certificate(&mut self, record: &ReadRecord<'_>) {
        let earlier = self.earlier_levels(record);
        let Some(peer) = &record.peer else { return };
        let shown = &peer.certificate;
        let messages = u64::from(record.is_handed_over());
        if let Some(seen) = self.certificates.get_mut(&*shown.sha256) {
            seen.see(record, messages, earlier);
        } else if self.is_complete() {
            let mut seen = CertificateSeen::new(shown);
            seen.see(record, messages, earlier);
            self.certificates.insert(shown.sha256.to_string(), seen);
        } else {
            self.others += messages;
        }
    }

    /// The levels that the peer in this record satisfied by earlier verdicts of its session. A verdict that does not name its peer is
    /// kept for the record that does.
    fn earlier_levels(&mut self, record: &ReadRecord<'_>) -> HashSet<String> {
        let Some(session) = &record.session else {
            return HashSet::new();
        };
        if matches!(record.event, "message" | "session-closed") {
            return self.unnamed.named(&session.id);
        }
        if let Some(decision) = &record.decision
            && let Some(level) = decision.level.as_deref()
            && record.peer.is_none()
            && decision.is_proof()
        {
            self.unnamed.await_name(&session.id, level.to_owned());
        }
        HashSet::new()
    }
}

impl CertificateSeen {
    fn new(shown: &ReadCertificate<'_>) -> Self {
        Self {
            subject: shown.subject.to_string(),
            issuer: shown.issuer.to_string(),
            serial: shown.serial.to_string(),
            key: shown.key.to_string(),
            spki_sha256: shown.spki_sha256.to_string(),
            not_before: shown.not_before.to_string(),
            not_after: shown.not_after.to_string(),
            ..Self::default()
        }
    }

    /// `earlier`: the levels that it satisfied in records that do not name it.
    fn see(&mut self, record: &ReadRecord<'_>, messages: u64, earlier: HashSet<String>) {
        self.messages += messages;
        begin_at(&mut self.first_seen, record.at);
        go_on_to(&mut self.last_seen, record.at);
        for decision in record.decisions.iter().chain(record.decision.as_deref()) {
            if let Some(level) = decision.level.as_deref()
                && decision.is_proof()
            {
                keep(&mut self.satisfied, level);
            }
        }
        for level in earlier {
            keep(&mut self.satisfied, &level);
        }
    }
}

/// The values of a flag on a command line: `--flag value` and `--flag=value`.
fn values<'a>(words: &'a [&'a str], flag: &'a str) -> impl Iterator<Item = &'a str> {
    words
        .iter()
        .enumerate()
        .filter_map(move |(place, word)| match word.strip_prefix(flag)? {
            "" => words.get(place + 1).copied(),
            rest => rest.strip_prefix('='),
        })
}

/// The sections on trusted files and on certificates. `now` is when the page is made.
pub(super) fn inventory(f: &mut Formatter<'_>, inventory: &Inventory, now: &str) -> fmt::Result {
    begin_fold(f, "trust", "Trusted keys and certificates", true)?;
    f.write_str("<p>The files that the program was started with, and the authorities that its table names. The certificates that peers showed follow in the next section, the pinned ones among them with the level <i>fingerprint</i>.</p>\n<table class=\"wide\"><thead><tr><th>For</th><th>File</th><th>SHA-256 of the file</th></tr></thead><tbody>\n")?;
    for one in &inventory.files {
        writeln!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"long\">{}</td><td class=\"reply\">{}</td></tr>",
            Escaped(&one.purpose),
            Escaped(&one.file),
            Escaped(one.sha256.as_deref().unwrap_or("–"))
        )?;
    }
    if inventory.system_store {
        f.write_str("<tr><th scope=\"row\">authorities that may vouch for peers</th><td>the system's trust store</td><td>–</td></tr>\n")?;
    }
    if inventory.files.is_empty() && !inventory.system_store {
        f.write_str("<tr><td colspan=\"3\" class=\"quiet\">No start of the program is in these records.</td></tr>\n")?;
    }
    f.write_str("</tbody></table>\n<p class=\"quiet\">A change of any of these files changes the SHA-256 of the configuration, which each message record names.</p>\n")?;
    f.write_str(END_FOLD)?;
    certificates(f, inventory, now)
}

fn certificates(f: &mut Formatter<'_>, inventory: &Inventory, now: &str) -> fmt::Result {
    begin_fold(f, "certificates", "Certificates of peers", true)?;
    if inventory.certificates.is_empty() {
        f.write_str("<p class=\"quiet\">No peer showed a certificate in this period.</p>\n")?;
        return f.write_str(END_FOLD);
    }
    let mut seen: Vec<_> = inventory.certificates.iter().collect();
    seen.sort_by_key(|(_, one)| std::cmp::Reverse(one.messages));
    f.write_str("<table class=\"wide certificates\"><thead><tr><th>Subject</th><th>Issuer</th><th>Key</th><th>Expires</th><th>First seen</th><th>Last seen</th><th class=\"n\">Messages</th><th>Satisfied</th></tr></thead><tbody>\n")?;
    for (sha256, one) in seen.iter().take(SHOWN) {
        let satisfied = match one.satisfied.is_empty() {
            true => "<span class=\"quiet\">no rule</span>".to_owned(),
            false => Escaped(&list(&one.satisfied)).to_string(),
        };
        let over = match one.not_after.as_str() < now {
            true => " <span class=\"badge\">over</span>",
            false => "",
        };
        writeln!(
            f,
            "<tr><th scope=\"row\">{}<br><span class=\"quiet\" title=\"SHA-256 {}\">{}…</span></th><td class=\"long\">{}</td><td class=\"when\">{}</td><td class=\"when\">{}{over}</td><td class=\"when\">{}</td><td class=\"when\">{}</td><td class=\"n\">{}</td><td>{satisfied}</td></tr>",
            Escaped(&one.subject),
            Escaped(sha256),
            Escaped(sha256.get(..16).unwrap_or(sha256)),
            Escaped(&one.issuer),
            Escaped(&one.key),
            Escaped(day(&one.not_after)),
            day(&one.first_seen),
            day(&one.last_seen),
            grouped(one.messages)
        )?;
    }
    f.write_str("</tbody></table>\n")?;
    if let Some(more) = seen.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        writeln!(
            f,
            "<p class=\"quiet\">{} more; the file that <code>--json</code> writes has them.</p>",
            plural(more as u64, "certificate", "certificates")
        )?;
    }
    if inventory.others > 0 {
        writeln!(
            f,
            "<p class=\"quiet\">The page keeps {} certificates apart. {} had others.</p>",
            grouped(CERTIFICATES as u64),
            plural(inventory.others, "message", "messages")
        )?;
    }
    f.write_str(END_FOLD)
}
