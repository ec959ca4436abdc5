//! What a log says about each partner: whose mail would be refused, how often, and what the partner showed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use serde_json::Value;

use crate::{commands::unnamed::UnnamedPeers, policy::table::Key};

/// One party of the table: a recipient's domain, a server, a sender's domain or a client.
pub(super) struct Partner {
    /// As the table writes it.
    pub(super) key: Key,
    /// The ids of the sessions with a refusal.
    pub(super) sessions: HashSet<String>,
    /// Messages that passed and would not have passed.
    pub(super) messages: u64,
    /// What was wrong, by the word of the reason.
    pub(super) reasons: BTreeMap<String, SeenReason>,
    /// The line of the table that refused.
    pub(super) rule: Option<String>,
    /// The certificates of all its hosts, also of those that were authorised: by SHA-256, with their names.
    pub(super) certificates: BTreeMap<String, Vec<String>>,
    /// All names in these certificates.
    pub(super) names: BTreeSet<String>,
    /// A refusal came before the partner had shown a certificate.
    pub(super) is_without_certificate: bool,
    /// A refusal followed from what the partner publishes about its servers: TLSA records or an MTA-STS policy.
    pub(super) is_by_what_it_published: bool,
    /// A refusal was for mail in the clear.
    pub(super) is_in_the_clear: bool,
}

/// One reason of a partner.
pub(super) struct SeenReason {
    /// The words of the last record.
    pub(super) detail: String,
}

impl Partner {
    fn new(key: Key) -> Self {
        Self {
            key,
            sessions: HashSet::new(),
            messages: 0,
            reasons: BTreeMap::new(),
            rule: None,
            certificates: BTreeMap::new(),
            names: BTreeSet::new(),
            is_without_certificate: false,
            is_by_what_it_published: false,
            is_in_the_clear: false,
        }
    }

    /// Whether the table's line is for clients of incoming mail.
    pub(super) fn is_sender(&self) -> bool {
        matches!(self.key, Key::Sender(_))
    }

    fn shows(&mut self, certificate: &Value) {
        let digest = certificate["sha256"].as_str().unwrap_or_default();
        if digest.len() != 64 || !digest.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return;
        }
        let names = certificate["names"].as_array().into_iter().flatten();
        let names: Vec<String> = names
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect();
        self.names.extend(names.iter().cloned());
        self.certificates.insert(digest.to_owned(), names);
    }
}

/// All partners of a log.
#[derive(Default)]
pub(super) struct Partners {
    all: HashMap<Key, Partner>,
    /// Partners that were authorised and whose certificate stands in a later record.
    unnamed: UnnamedPeers<Key>,
    /// Days of the first and last record.
    days: Option<(String, String)>,
}

impl Partners {
    /// Takes one record into account.
    pub(super) fn add(&mut self, record: &Value) {
        let day = record["at"].as_str().and_then(|at| at.get(..10));
        if let Some(day) = day {
            match &mut self.days {
                Some((_, last)) => *last = day.to_owned(),
                None => self.days = Some((day.to_owned(), day.to_owned())),
            }
        }
        match record["event"].as_str() {
            Some("verdict" | "unprotected") => self.add_decision(record),
            Some("message") => {
                self.add_certificate(record);
                self.add_message(record);
            }
            Some("session-closed") => self.add_certificate(record),
            _ => {}
        }
    }

    /// The certificate of those that were authorised before in this session.
    fn add_certificate(&mut self, record: &Value) {
        let session = record["session"]["id"].as_str().unwrap_or_default();
        for key in self.unnamed.named(session) {
            if let Some(partner) = self.all.get_mut(&key) {
                partner.shows(&record["peer"]["certificate"]);
            }
        }
    }

    fn add_decision(&mut self, record: &Value) {
        let decision = &record["decision"];
        let Some(key) = key_of(record, decision) else {
            return;
        };
        let certificate = &record["peer"]["certificate"];
        if decision["verdict"] == "authorised"
            && certificate.is_null()
            && let Some(session) = record["session"]["id"].as_str()
        {
            self.unnamed.await_name(session, key.clone());
        }
        let partner = self
            .all
            .entry(key.clone())
            .or_insert_with(|| Partner::new(key));
        partner.shows(certificate);
        let Some(reason) = refused(decision) else {
            return;
        };
        partner.is_without_certificate |= certificate.is_null();
        partner.is_in_the_clear |= record["tls"].is_null();
        // A line for a host that is no MX is about that host, whatever the domains behind it publish.
        partner.is_by_what_it_published |=
            reason != "not-an-mx" && matches!(decision["basis"].as_str(), Some("dane" | "mta-sts"));
        if let Some(id) = record["session"]["id"].as_str() {
            partner.sessions.insert(id.to_owned());
        }
        partner.rule = decision["rule"]
            .as_str()
            .filter(|_| decision["basis"] == "table")
            .map(str::to_owned);
        let detail = decision["detail"].as_str().unwrap_or_default().to_owned();
        let seen = SeenReason { detail };
        partner.reasons.insert(reason.to_owned(), seen);
    }

    fn add_message(&mut self, record: &Value) {
        let mut counted = HashSet::new();
        for decision in record["decisions"].as_array().into_iter().flatten() {
            let refused = refused(decision).and_then(|_| key_of(record, decision));
            let partner = refused.and_then(|key| self.all.get_mut(&key));
            if let Some(partner) = partner
                && counted.insert(partner.key.clone())
            {
                partner.messages += 1;
            }
        }
    }

    /// Those with a refusal, the ones with most mail first.
    pub(super) fn refused(&self) -> Vec<&Partner> {
        let refused = self.all.values();
        let mut refused: Vec<&Partner> = refused
            .filter(|partner| !partner.reasons.is_empty())
            .collect();
        let weight = |partner: &Partner| (partner.messages, partner.sessions.len());
        refused.sort_by(|one, other| {
            let by_weight = weight(other).cmp(&weight(one));
            by_weight.then_with(|| one.key.to_string().cmp(&other.key.to_string()))
        });
        refused
    }

    /// Days of the first and last record.
    pub(super) fn period(&self) -> Option<(&str, &str)> {
        let (first, last) = self.days.as_ref()?;
        Some((first, last))
    }
}

/// The reason of a decision that refuses, or would refuse without `--observe`.
fn refused(decision: &Value) -> Option<&str> {
    let is_refusal = decision["verdict"] == "refused" || decision["observed"] == true;
    decision["reason"].as_str().filter(|_| is_refusal)
}

/// The key of the line that would be about this decision; `None` where the log has something there that no key can be.
fn key_of(record: &Value, decision: &Value) -> Option<Key> {
    let session = &record["session"];
    let name = decision["domain"].as_str()?;
    let address = name.parse::<IpAddr>().ok();
    if session["direction"] == "inbound" {
        return match address {
            Some(client) => Some(Key::Address(client.to_canonical(), None)),
            None => format!("@{name}").parse().ok().filter(is_one),
        };
    }
    // A line for the host speaks for all domains whose mail takes this way.
    let host = || {
        let to: SocketAddr = session["client"]["to"].as_str()?.parse().ok()?;
        Some(Key::Address(to.ip().to_canonical(), None))
    };
    if decision["reason"] == "not-an-mx" {
        return host();
    }
    match address {
        Some(address) => Some(Key::Address(address.to_canonical(), None)),
        None if name.eq_ignore_ascii_case("postmaster") => host(),
        None => name.parse().ok().filter(is_one),
    }
}

/// Whether a key names one party and no pattern.
fn is_one(key: &Key) -> bool {
    matches!(key, Key::Domain(_) | Key::Address(..) | Key::Sender(_))
}
