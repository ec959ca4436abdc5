//! What the page counts, in one pass over the good part of a log.

use super::Report;
use crate::audit::{Examined, Lines};
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
};

pub(super) type Tally = BTreeMap<String, u64>;

/// Over TLS, and the peer proved who it is.
pub(super) const AUTHENTICATED: &str = "peer authenticated";
/// Over TLS, without that proof: level encrypt or may, observe mode, or a client from the world, which is not asked for any.
pub(super) const ENCRYPTED: &str = "encrypted only";
/// No TLS.
pub(super) const CLEAR: &str = "in the clear";
/// Observe mode let it pass.
pub(super) const OBSERVED: &str = "observed: would have been refused";

/// Everything that is counted.
#[derive(Default)]
pub(super) struct Gathered {
    /// Time of the first and of the last record that counts.
    pub(super) span: Option<(String, String)>,
    pub(super) hosts: BTreeSet<String>,
    pub(super) directions: BTreeSet<String>,
    pub(super) versions: BTreeSet<String>,
    pub(super) configurations: BTreeSet<String>,
    pub(super) addresses: String,
    pub(super) starts: u64,
    pub(super) sessions: u64,
    /// What was counted and not recorded singly: `refusal` and `turned-away`.
    pub(super) only_counted: Tally,
    /// Messages by what the server said: accepted, rejected, unknown.
    pub(super) outcomes: Tally,
    /// Of the accepted and the unknown.
    pub(super) octets: u64,
    pub(super) protections: Tally,
    pub(super) verdicts: Tally,
    pub(super) tls_versions: Tally,
    pub(super) groups: Tally,
    pub(super) suites: Tally,
    pub(super) levels: Tally,
    pub(super) bases: Tally,
    /// By hour: `2026-11-24T06`.
    pub(super) hours: BTreeMap<String, Hour>,
    pub(super) domains: BTreeMap<String, Domain>,
    pub(super) reasons: BTreeMap<String, Reason>,
    /// What enforcing would have refused and observe mode let pass, by reason.
    pub(super) observed: BTreeMap<String, Reason>,
    /// Messages handed over that enforcing would have refused.
    pub(super) observed_messages: u64,
    pub(super) exemptions: Vec<Exemption>,
    /// What went without proof of identity, by rule, then by domain.
    pub(super) unprotected: BTreeMap<(String, String), Unprotected>,
    pub(super) changes: Vec<(String, String)>,
}

#[derive(Default)]
pub(super) struct Hour {
    pub(super) protections: Tally,
    pub(super) reasons: Tally,
}

#[derive(Default)]
pub(super) struct Domain {
    /// Messages by [`AUTHENTICATED`], [`ENCRYPTED`], [`CLEAR`].
    pub(super) protections: Tally,
    pub(super) refused: u64,
    pub(super) octets: u64,
    pub(super) levels: BTreeSet<String>,
    pub(super) tls: BTreeSet<String>,
    pub(super) last: String,
}

#[derive(Default)]
pub(super) struct Reason {
    pub(super) number: u64,
    /// Of those, at the greeting, for what another session had met.
    pub(super) remembered: u64,
    /// Observed: messages that were handed over nevertheless.
    pub(super) messages: u64,
    pub(super) domains: Tally,
    pub(super) first: String,
    pub(super) last: String,
    /// The last reply, as an example.
    pub(super) reply: String,
}

#[derive(Default)]
pub(super) struct Unprotected {
    pub(super) sessions: BTreeSet<String>,
    pub(super) messages: u64,
    pub(super) level: String,
    pub(super) until: Option<String>,
    pub(super) why: Option<String>,
    pub(super) last: String,
}

#[derive(Clone, Deserialize)]
pub(super) struct Exemption {
    pub(super) entry: String,
    pub(super) level: String,
    pub(super) until: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) rule: String,
}

/// The parts of any record that are counted.
#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    at: &'a str,
    event: &'a str,
    #[serde(borrow)]
    session: Option<Session<'a>>,
    #[serde(borrow)]
    host: Option<Cow<'a, str>>,
    #[serde(borrow)]
    direction: Option<Cow<'a, str>>,
    #[serde(borrow)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    configuration: Option<Cow<'a, str>>,
    #[serde(borrow)]
    addresses: Option<Cow<'a, str>>,
    #[serde(borrow)]
    domain: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reply: Option<Cow<'a, str>>,
    #[serde(borrow)]
    verdict: Option<Cow<'a, str>>,
    #[serde(borrow)]
    detail: Option<Cow<'a, str>>,
    #[serde(default)]
    remembered: bool,
    #[serde(borrow)]
    sender: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    recipients: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    repeated: Vec<Repeated<'a>>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
    octets: Option<u64>,
    #[serde(borrow)]
    tls: Option<Tls<'a>>,
    #[serde(borrow)]
    decision: Option<Decision<'a>>,
    #[serde(borrow, default)]
    decisions: Vec<Decision<'a>>,
    policy: Option<Policy>,
    #[serde(default)]
    files: Vec<File>,
    #[serde(default)]
    counts: Vec<Counted>,
}

#[derive(Deserialize)]
struct Session<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    direction: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Tls<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    suite: Cow<'a, str>,
    #[serde(borrow)]
    group: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Decision<'a> {
    #[serde(borrow)]
    domain: Cow<'a, str>,
    #[serde(borrow)]
    verdict: Cow<'a, str>,
    #[serde(default)]
    observed: bool,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    detail: Cow<'a, str>,
    #[serde(borrow)]
    level: Option<Cow<'a, str>>,
    #[serde(borrow)]
    basis: Option<Cow<'a, str>>,
    #[serde(borrow)]
    rule: Option<Cow<'a, str>>,
    #[serde(borrow)]
    until: Option<Cow<'a, str>>,
    #[serde(borrow)]
    why: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Repeated<'a> {
    #[serde(borrow)]
    domain: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    observed: bool,
    times: u64,
}

/// Attempts that were refused, or would have been.
struct Attempts<'a> {
    number: u64,
    reason: &'a str,
    domain: Option<&'a str>,
    remembered: bool,
    /// The reply, or what went wrong.
    words: &'a str,
}

#[derive(Deserialize)]
struct Policy {
    file: String,
    sha256: String,
    exemptions: Vec<Exemption>,
}

#[derive(Deserialize)]
struct Counted {
    kind: String,
    count: u64,
}

#[derive(Deserialize)]
struct File {
    file: String,
    error: Option<String>,
}

impl Line<'_> {
    /// Of a message: the domains of its recipients outbound, of its sender inbound.
    fn parties(&self) -> BTreeSet<String> {
        let outbound = |session: &Session<'_>| session.direction == "outbound";
        let addresses = if self.session.as_ref().is_some_and(outbound) {
            self.recipients.as_slice()
        } else {
            self.sender.as_slice()
        };
        let party = |address: &Cow<'_, str>| match address.rsplit_once('@') {
            Some((_, domain)) => domain.to_ascii_lowercase(),
            None if address.is_empty() => String::from("<>"),
            None => address.to_ascii_lowercase(),
        };
        addresses.iter().map(party).collect()
    }
}

impl Decision<'_> {
    /// The level that was enforced; one that was only observed is named so.
    fn level_in_force(&self) -> Option<String> {
        let level = self.level.as_deref()?;
        Some(match self.would_refuse() {
            Some(_) => format!("{level}, only observed"),
            None => level.to_owned(),
        })
    }

    /// Whether it rests on a proof of identity: what is authorised under `encrypt` is not.
    fn is_proof(&self) -> bool {
        let asks_for_none = matches!(
            self.level.as_deref(),
            None | Some("none" | "may" | "encrypt")
        );
        self.verdict == "authorised" && !asks_for_none
    }

    /// Why enforcing would have refused what observe mode let pass.
    fn would_refuse(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.observed)
    }
}

impl Domain {
    fn take(&mut self, protection: &str, octets: u64, version: &str) {
        count(&mut self.protections, protection);
        self.octets += octets;
        self.tls.insert(version.to_owned());
    }
}

fn take(reasons: &mut BTreeMap<String, Reason>, at: &str, attempts: &Attempts<'_>) {
    let reason = reasons.entry(attempts.reason.to_owned()).or_default();
    reason.number += attempts.number;
    reason.remembered += u64::from(attempts.remembered);
    if reason.first.is_empty() {
        at.clone_into(&mut reason.first);
    }
    at.clone_into(&mut reason.last);
    if !attempts.words.is_empty() {
        attempts.words.clone_into(&mut reason.reply);
    }
    if let Some(domain) = attempts.domain {
        *reason.domains.entry(domain.to_owned()).or_default() += attempts.number;
    }
}

fn count(tally: &mut Tally, word: &str) {
    match tally.get_mut(word) {
        Some(number) => *number += 1,
        None => {
            tally.insert(word.to_owned(), 1);
        }
    }
}

impl Gathered {
    pub(super) fn read(examined: &Examined, arguments: &Report) -> io::Result<Self> {
        let mut gathered = Self::default();
        'files: for file in &examined.files {
            let mut lines = Lines::open(file)?;
            while let Some(line) = lines.next()? {
                // What verification did not reach is no evidence; within what it reached, every line is a record.
                let Ok(record) = serde_json::from_slice::<Line<'_>>(line.bytes) else {
                    break 'files;
                };
                if record.seq >= examined.good {
                    break 'files;
                }
                gathered.take(&record, arguments);
            }
        }
        Ok(gathered)
    }

    fn take(&mut self, record: &Line<'_>, arguments: &Report) {
        let begins = |time: &String| record.at.get(..time.len()).unwrap_or(record.at);
        if arguments
            .until
            .as_ref()
            .is_some_and(|until| begins(until) > until.as_str())
        {
            return;
        }
        // Also from before the period: these are in force when it begins.
        match &record.policy {
            Some(policy) => self.exemptions.clone_from(&policy.exemptions),
            None if record.event == "start" => self.exemptions.clear(),
            None => {}
        }
        if let Some(addresses) = &record.addresses {
            self.addresses = addresses.to_string();
        }
        if let Some(host) = &record.host
            && !self.hosts.contains(&**host)
        {
            self.hosts.insert(host.to_string());
        }
        let direction = record.session.as_ref().map(|session| &session.direction);
        if let Some(direction) = direction.or(record.direction.as_ref())
            && !self.directions.contains(&**direction)
        {
            self.directions.insert(direction.to_string());
        }
        if arguments
            .since
            .as_ref()
            .is_some_and(|since| begins(since) < since.as_str())
        {
            return;
        }
        match &mut self.span {
            Some((_, last)) => {
                last.clear();
                last.push_str(record.at);
            }
            none => *none = Some((record.at.to_owned(), record.at.to_owned())),
        }
        match record.event {
            "message" => self.message(record),
            "refusal" => self.refusal(record),
            "verdict" => self.verdict(record),
            "unprotected" => self.unprotected(record),
            "session-opened" => self.sessions += 1,
            "session-closed" => self.repeated(record),
            "not-recorded" => self.not_recorded(record),
            _ => self.change(record),
        }
    }

    fn not_recorded(&mut self, record: &Line<'_>) {
        for one in &record.counts {
            match one.kind.as_str() {
                "session-opened" => self.sessions += one.count,
                "session-closed" => {}
                kind => *self.only_counted.entry(kind.to_owned()).or_default() += one.count,
            }
        }
    }

    fn hour(&mut self, at: &str) -> &mut Hour {
        let hour = at.get(..13).unwrap_or(at);
        if !self.hours.contains_key(hour) {
            self.hours.insert(hour.to_owned(), Hour::default());
        }
        self.hours.get_mut(hour).expect("it was put there")
    }

    fn domain(&mut self, name: &str, at: &str) -> &mut Domain {
        if !self.domains.contains_key(name) {
            self.domains.insert(name.to_owned(), Domain::default());
        }
        let domain = self.domains.get_mut(name).expect("it was put there");
        domain.last.clear();
        domain.last.push_str(at);
        domain
    }

    fn message(&mut self, record: &Line<'_>) {
        let outcome = record.outcome.as_deref().unwrap_or_default();
        count(&mut self.outcomes, outcome);
        if outcome == "rejected" {
            return;
        }
        let octets = record.octets.unwrap_or_default();
        self.octets += octets;
        let would_refuse = record.decisions.iter().filter_map(Decision::would_refuse);
        let would_refuse: BTreeSet<_> = would_refuse.collect();
        count(
            &mut self.verdicts,
            match would_refuse.is_empty() {
                false => OBSERVED,
                true => record.verdict.as_deref().unwrap_or_default(),
            },
        );
        self.observed_messages += u64::from(!would_refuse.is_empty());
        for reason in would_refuse {
            self.observed.entry(reason.to_owned()).or_default().messages += 1;
        }
        let protection = match &record.tls {
            None => CLEAR,
            Some(_) if record.decisions.is_empty() => ENCRYPTED,
            Some(_) if record.decisions.iter().all(Decision::is_proof) => AUTHENTICATED,
            Some(_) => ENCRYPTED,
        };
        count(&mut self.protections, protection);
        count(&mut self.hour(record.at).protections, protection);
        let version = record.tls.as_ref().map_or("no TLS", |tls| &tls.version);
        count(&mut self.tls_versions, version);
        if let Some(tls) = &record.tls {
            count(&mut self.suites, &tls.suite);
            count(
                &mut self.groups,
                tls.group.as_deref().unwrap_or("not known"),
            );
        }
        for party in record.parties() {
            // What was decided about this party; else (`--upstream`, a client's address) about all that share the peer.
            let own = |decision: &&Decision<'_>| decision.domain.eq_ignore_ascii_case(&party);
            let mut decisions: Vec<_> = record.decisions.iter().filter(own).collect();
            if decisions.is_empty() {
                decisions.extend(&record.decisions);
            }
            let proved = !decisions.is_empty() && decisions.iter().all(|one| one.is_proof());
            let protection = match &record.tls {
                None => CLEAR,
                Some(_) if proved => AUTHENTICATED,
                Some(_) => ENCRYPTED,
            };
            let domain = self.domain(&party, record.at);
            domain.take(protection, octets, version);
            domain
                .levels
                .extend(decisions.iter().filter_map(|one| one.level_in_force()));
        }
        for decision in &record.decisions {
            if let Some(level) = decision.level_in_force() {
                count(&mut self.levels, &level);
            }
            count(
                &mut self.bases,
                decision.basis.as_deref().unwrap_or("not known"),
            );
            let proved = record.tls.is_some() && decision.is_proof();
            if !proved && decision.would_refuse().is_none() {
                self.way_out(decision, record).messages += 1;
            }
        }
    }

    fn refusal(&mut self, record: &Line<'_>) {
        let words = record.reply.as_ref().or(record.detail.as_ref());
        self.refused(
            record,
            &Attempts {
                number: 1,
                reason: record.reason.as_deref().unwrap_or_default(),
                domain: record.domain.as_deref(),
                remembered: record.remembered,
                words: words.map_or("", |words| words),
            },
        );
    }

    fn verdict(&mut self, record: &Line<'_>) {
        let Some(decision) = &record.decision else {
            return;
        };
        if decision.verdict != "refused" && decision.would_refuse().is_none() {
            return;
        }
        let words = record.reply.as_ref().unwrap_or(&decision.detail);
        let attempts = Attempts {
            number: 1,
            reason: decision.reason.as_deref().unwrap_or("not known"),
            domain: Some(&decision.domain),
            remembered: false,
            words,
        };
        if decision.observed {
            take(&mut self.observed, record.at, &attempts);
            return;
        }
        self.refused(record, &attempts);
        if let Some(level) = &decision.level {
            let domain = self.domain(&decision.domain, record.at);
            domain.levels.insert(level.to_string());
        }
    }

    fn repeated(&mut self, record: &Line<'_>) {
        for one in &record.repeated {
            let Some(reason) = &one.reason else { continue };
            let attempts = Attempts {
                number: one.times,
                reason,
                domain: one.domain.as_deref(),
                remembered: false,
                words: "",
            };
            match one.observed {
                true => take(&mut self.observed, record.at, &attempts),
                false => self.refused(record, &attempts),
            }
        }
    }

    fn refused(&mut self, record: &Line<'_>, attempts: &Attempts<'_>) {
        let hour = self.hour(record.at);
        *hour.reasons.entry(attempts.reason.to_owned()).or_default() += attempts.number;
        take(&mut self.reasons, record.at, attempts);
        if let Some(domain) = attempts.domain {
            self.domain(domain, record.at).refused += attempts.number;
        }
    }

    fn unprotected(&mut self, record: &Line<'_>) {
        if let Some(decision) = &record.decision {
            if decision.would_refuse().is_some() {
                return self.verdict(record);
            }
            let id = record
                .session
                .as_ref()
                .map(|session| session.id.to_string());
            self.way_out(decision, record).sessions.extend(id);
        }
    }

    fn way_out(&mut self, decision: &Decision<'_>, record: &Line<'_>) -> &mut Unprotected {
        let rule = decision.rule.as_ref().or(decision.basis.as_ref());
        let rule = rule.map_or("not known".to_owned(), ToString::to_string);
        let way_out = self
            .unprotected
            .entry((rule, decision.domain.to_string()))
            .or_default();
        let owned = |text: &Option<Cow<'_, str>>| text.as_ref().map(ToString::to_string);
        way_out.level = decision.level.as_deref().unwrap_or("–").to_owned();
        way_out.until = owned(&decision.until);
        way_out.why = owned(&decision.why);
        record.at.clone_into(&mut way_out.last);
        way_out
    }

    fn change(&mut self, record: &Line<'_>) {
        if let Some(configuration) = &record.configuration {
            self.configurations.insert(configuration.to_string());
        }
        if let Some(version) = &record.version {
            self.versions.insert(version.to_string());
        }
        let table = |policy: &Policy| match policy.file.as_str() {
            "" => String::from("no table"),
            file => format!(
                "table {file}, SHA-256 {}…",
                policy.sha256.get(..16).unwrap_or(&policy.sha256)
            ),
        };
        let text = match record.event {
            "start" => {
                self.starts += 1;
                let version = record.version.as_deref().unwrap_or_default();
                let policy = record.policy.as_ref().map_or("no table".to_owned(), table);
                format!("start of version {version}, {policy}")
            }
            "stop" => format!("stop: {}", record.reason.as_deref().unwrap_or_default()),
            "policy-change" => record
                .policy
                .as_ref()
                .map_or("table taken away".to_owned(), table),
            "reload" => {
                let files: Vec<_> = record
                    .files
                    .iter()
                    .map(|file| match &file.error {
                        None => file.file.clone(),
                        Some(error) => format!("{} (kept the old one: {error})", file.file),
                    })
                    .collect();
                format!("read again: {}", files.join(", "))
            }
            "log-recovered" => {
                let error = record.error.as_deref().unwrap_or_default();
                format!("the log could not be written for a while ({error}); mail was deferred")
            }
            _ => return,
        };
        self.changes.push((record.at.to_owned(), text));
    }
}
