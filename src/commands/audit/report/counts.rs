//! The numbers on the page.

use super::{
    attempts::{Attempts, ReasonCounts, add_attempts, what_was_done},
    breaks::{OUTAGES, ReportedOutage},
    fields::{ReadDecision, ReadExemption, ReadPolicy, ReadRecord, Text},
    figures::FigureCounts,
    inventory::Inventory,
    observing::ObservePeriod,
    tally::{
        MOST, OTHERS, Tally, add, begin_at, count, entry, go_on_to, keep, kept_apart, number_of,
    },
};
use crate::commands::audit::period::Period;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Starts, stops and changes that are kept; older ones are dropped.
const CHANGES: usize = 1000;
/// Over TLS with a peer that proved its identity.
pub(super) const AUTHENTICATED: &str = "peer authenticated";
/// Over TLS without that proof: level encrypt or may, observe mode, or a client from the world, which need not prove anything.
pub(super) const ENCRYPTED: &str = "encrypted only";
/// Without TLS.
pub(super) const CLEAR: &str = "in the clear";
/// Passed only because of observe mode.
pub(super) const OBSERVED: &str = "observed: would have been refused";

/// All numbers of the page.
#[derive(Default)]
pub(super) struct Counts {
    /// Time of the first and of the last record in the period.
    pub(super) span: Option<(String, String)>,
    pub(super) hosts: BTreeSet<String>,
    pub(super) directions: BTreeSet<String>,
    pub(super) versions: BTreeSet<String>,
    /// The form in which the log keeps addresses.
    pub(super) addresses: String,
    /// When it last said so.
    addresses_at: String,
    pub(super) sessions: u64,
    /// Events that were counted and not recorded singly: `refusal` and `turned-away`.
    pub(super) only_counted: Tally,
    /// Messages by the server's final reply: accepted, rejected, unknown.
    pub(super) outcomes: Tally,
    /// Octets of the messages that were not rejected.
    pub(super) octets: u64,
    pub(super) protections: Tally,
    pub(super) verdicts: Tally,
    pub(super) tls_versions: Tally,
    pub(super) groups: Tally,
    pub(super) suites: Tally,
    pub(super) levels: Tally,
    pub(super) bases: Tally,
    /// By hour: `2026-11-24T06`.
    pub(super) hours: BTreeMap<String, HourCounts>,
    pub(super) domains: BTreeMap<String, DomainCounts>,
    pub(super) reasons: BTreeMap<String, ReasonCounts>,
    /// Attempts that observe mode let pass and enforcing would have refused, by reason.
    pub(super) observed: BTreeMap<String, ReasonCounts>,
    /// Messages handed over that enforcing would have refused.
    pub(super) observed_messages: u64,
    pub(super) exemptions: Vec<ReadExemption>,
    /// What exemptions were used for, by rule, then by domain.
    pub(super) used: BTreeMap<(String, String), ExemptionUse>,
    pub(super) changes: Vec<OperationChange>,
    pub(super) figures: FigureCounts,
    pub(super) inventory: Inventory,
    /// Times in which nothing was enforced.
    pub(super) observing: Vec<ObservePeriod>,
    pub(super) outages: Vec<ReportedOutage>,
}

/// A start, a stop or a change of the program.
pub(super) struct OperationChange {
    pub(super) at: String,
    /// The number of its log.
    pub(super) log: usize,
    pub(super) text: String,
}

/// The numbers of one hour.
#[derive(Default, Serialize)]
pub(super) struct HourCounts {
    pub(super) protections: Tally,
    pub(super) reasons: Tally,
}

/// The numbers of one domain.
#[derive(Default, Serialize)]
pub(super) struct DomainCounts {
    /// Messages by [`AUTHENTICATED`], [`ENCRYPTED`], [`CLEAR`].
    pub(super) protections: Tally,
    pub(super) refused: u64,
    pub(super) octets: u64,
    pub(super) levels: BTreeSet<String>,
    pub(super) tls: BTreeSet<String>,
    pub(super) last: String,
}

/// Mail of one domain that went without proof of identity by one rule.
#[derive(Default, Serialize)]
pub(super) struct ExemptionUse {
    pub(super) sessions: u64,
    pub(super) messages: u64,
    pub(super) level: String,
    pub(super) until: Option<String>,
    pub(super) why: Option<String>,
    pub(super) last: String,
}

/// Messages that were not rejected, by protection.
pub(super) struct MessageCounts {
    pub(super) all: u64,
    pub(super) authenticated: u64,
    pub(super) encrypted: u64,
    pub(super) clear: u64,
}

/// How a message was protected, by its `decisions` or those of them that are about one party.
fn protection_of<'a>(
    message: &ReadRecord<'_>,
    decisions: impl IntoIterator<Item = &'a ReadDecision<'a>>,
) -> &'static str {
    let mut decisions = decisions.into_iter().peekable();
    let proved = decisions.peek().is_some() && decisions.all(ReadDecision::is_proof);
    match &message.tls {
        None => CLEAR,
        Some(_) if proved => AUTHENTICATED,
        Some(_) => ENCRYPTED,
    }
}

impl Counts {
    pub(super) fn messages(&self) -> MessageCounts {
        let protections = &self.protections;
        MessageCounts {
            all: protections.values().sum(),
            authenticated: number_of(protections, AUTHENTICATED),
            encrypted: number_of(protections, ENCRYPTED),
            clear: number_of(protections, CLEAR),
        }
    }

    pub(super) fn is_inbound(&self) -> bool {
        self.directions.iter().eq(["inbound"])
    }

    /// `log` is the number of the record's log.
    pub(super) fn add(&mut self, record: &ReadRecord<'_>, log: usize, period: &Period) {
        if period.ends_before(record.at.as_bytes()) {
            return;
        }
        // These count from before the period too, because they are in force when it begins.
        match &record.policy {
            Some(policy) => self.exemptions.clone_from(&policy.exemptions),
            None if record.event == "start" => self.exemptions.clear(),
            None => {}
        }
        self.inventory.see_files(record);
        if let Some(addresses) = &record.addresses
            && go_on_to(&mut self.addresses_at, record.at)
        {
            self.addresses = addresses.to_string();
        }
        if let Some(host) = &record.host {
            keep(&mut self.hosts, host);
        }
        let direction = record.session.as_ref().map(|session| &session.direction);
        if let Some(direction) = direction.or(record.direction.as_ref()) {
            keep(&mut self.directions, direction);
        }
        if period.begins_after(record.at.as_bytes()) {
            return;
        }
        let (first, last) = self.span.get_or_insert_default();
        begin_at(first, record.at);
        go_on_to(last, record.at);
        self.figures.add(record);
        self.inventory.see_certificate(record);
        match record.event {
            "message" => self.message(record),
            "refusal" => self.refusal(record),
            "verdict" => self.verdict(record),
            "unprotected" => self.unprotected(record),
            "session-opened" => self.sessions += 1,
            "session-closed" => self.repeated(record),
            "not-recorded" => self.not_recorded(record),
            _ => self.change(record, log),
        }
    }

    fn not_recorded(&mut self, record: &ReadRecord<'_>) {
        for one in &record.counts {
            match one.kind.as_str() {
                "session-opened" => self.sessions += one.count,
                "session-closed" => {}
                kind => add(&mut self.only_counted, kind, one.count),
            }
        }
    }

    fn hour(&mut self, at: &str) -> &mut HourCounts {
        entry(&mut self.hours, at.get(..13).unwrap_or(at))
    }

    /// The numbers of a domain, whose last record is now of the time `at`.
    fn domain(&mut self, name: &str, at: &str) -> &mut DomainCounts {
        let name = kept_apart(&self.domains, name);
        let domain = entry(&mut self.domains, name);
        go_on_to(&mut domain.last, at);
        domain
    }

    fn message(&mut self, record: &ReadRecord<'_>) {
        let outcome = record.outcome.as_deref().unwrap_or_default();
        count(&mut self.outcomes, outcome);
        if outcome == "rejected" {
            return;
        }
        let octets = record.octets.unwrap_or_default();
        self.octets += octets;
        let would_refuse = record
            .decisions
            .iter()
            .filter_map(ReadDecision::would_refuse);
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
            entry(&mut self.observed, reason).messages += 1;
        }
        let protection = protection_of(record, &record.decisions);
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
            // The decisions about this party. Without any (`--upstream`, a client's address): those about all that share the peer.
            let is_own = |decision: &ReadDecision<'_>| decision.domain.eq_ignore_ascii_case(&party);
            let has_none = !record.decisions.iter().any(is_own);
            let decisions = record.decisions.iter();
            let decisions = decisions.filter(|one| has_none || is_own(one));
            let domain = self.domain(&party, record.at);
            count(
                &mut domain.protections,
                protection_of(record, decisions.clone()),
            );
            domain.octets += octets;
            keep(&mut domain.tls, version);
            for level in decisions.filter_map(ReadDecision::level_in_force) {
                keep(&mut domain.levels, &level);
            }
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
                self.exemption_use(decision, record).messages += 1;
            }
        }
    }

    fn refusal(&mut self, record: &ReadRecord<'_>) {
        let words = record.reply.as_ref().or(record.detail.as_ref());
        self.refused(
            record,
            &Attempts {
                number: 1,
                reason: record.reason.as_deref().unwrap_or_default(),
                domain: record.domain.as_deref(),
                remembered: record.remembered,
                words: words.map_or("", |words| words),
                done: what_was_done(record.reply.as_deref()),
            },
        );
    }

    fn verdict(&mut self, record: &ReadRecord<'_>) {
        let Some(decision) = &record.decision else {
            return;
        };
        if &*decision.verdict != "refused" && decision.would_refuse().is_none() {
            return;
        }
        let words = record.reply.as_ref().unwrap_or(&decision.detail);
        let attempts = Attempts {
            number: 1,
            reason: decision.reason.as_deref().unwrap_or("not known"),
            domain: Some(&decision.domain),
            remembered: false,
            words,
            done: match decision.observed {
                true => "let pass, because nothing was enforced",
                false => what_was_done(record.reply.as_deref()),
            },
        };
        if decision.observed {
            add_attempts(&mut self.observed, record.at, &attempts);
            return;
        }
        self.refused(record, &attempts);
        if let Some(level) = &decision.level {
            let domain = self.domain(&decision.domain, record.at);
            keep(&mut domain.levels, level);
        }
    }

    /// Refusals that have no record of their own.
    fn repeated(&mut self, record: &ReadRecord<'_>) {
        for one in &record.repeated {
            let Some(reason) = &one.reason else { continue };
            let attempts = Attempts {
                number: one.times,
                reason,
                domain: one.domain.as_deref(),
                remembered: false,
                words: "",
                done: "again in the same session",
            };
            match one.observed {
                true => add_attempts(&mut self.observed, record.at, &attempts),
                false => self.refused(record, &attempts),
            }
        }
    }

    /// Counts attempts that were refused, by hour, reason and domain.
    fn refused(&mut self, record: &ReadRecord<'_>, attempts: &Attempts<'_>) {
        let hour = self.hour(record.at);
        add(&mut hour.reasons, attempts.reason, attempts.number);
        add_attempts(&mut self.reasons, record.at, attempts);
        if let Some(domain) = attempts.domain {
            self.domain(domain, record.at).refused += attempts.number;
        }
    }

    fn unprotected(&mut self, record: &ReadRecord<'_>) {
        if let Some(decision) = &record.decision {
            if decision.would_refuse().is_some() {
                return self.verdict(record);
            }
            // One record a session and domain.
            self.exemption_use(decision, record).sessions += 1;
        }
    }

    /// The numbers of the exemption by which `decision` let mail pass.
    fn exemption_use(
        &mut self,
        decision: &ReadDecision<'_>,
        record: &ReadRecord<'_>,
    ) -> &mut ExemptionUse {
        let rule = decision.rule.as_ref().or(decision.basis.as_ref());
        let rule = rule.map_or("not known".to_owned(), ToString::to_string);
        let mut key = (rule, decision.domain.to_string());
        if self.used.len() >= MOST && !self.used.contains_key(&key) {
            key.1 = OTHERS.to_owned();
        }
        let used = self.used.entry(key).or_default();
        let owned = |text: &Option<Text<'_>>| text.as_ref().map(ToString::to_string);
        if go_on_to(&mut used.last, record.at) {
            used.level = decision.level.as_deref().unwrap_or("–").to_owned();
            used.until = owned(&decision.until);
            used.why = owned(&decision.why);
        }
        used
    }

    /// Starts, stops and changes of the program.
    fn change(&mut self, record: &ReadRecord<'_>, log: usize) {
        if let Some(version) = &record.version {
            keep(&mut self.versions, version);
        }
        let table = |policy: &ReadPolicy| match policy.file.as_str() {
            "" => String::from("no table"),
            file => format!(
                "table {file}, SHA-256 {}…",
                policy.sha256.get(..16).unwrap_or(&policy.sha256)
            ),
        };
        let text = match record.event {
            "start" => {
                let version = record.version.as_deref().unwrap_or_default();
                let policy = record
                    .policy
                    .as_deref()
                    .map_or("no table".to_owned(), table);
                format!("start of version {version}, {policy}")
            }
            "stop" => format!("stop: {}", record.reason.as_deref().unwrap_or_default()),
            "policy-change" => record
                .policy
                .as_deref()
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
                if self.outages.len() < OUTAGES {
                    self.outages.push(ReportedOutage {
                        since: record.since.as_deref().unwrap_or_default().to_owned(),
                        until: record.at.to_owned(),
                        error: error.to_owned(),
                        lost: record.lost,
                    });
                }
                format!("the log could not be written for a while ({error}); mail was deferred")
            }
            "log-brought-back" => {
                let aside = record
                    .aside
                    .as_deref()
                    .map(|aside| format!("; what stood in its place is now {aside}"));
                format!(
                    "somebody deleted or replaced the log's file, and it was brought back{}",
                    aside.unwrap_or_default()
                )
            }
            _ => return,
        };
        self.changes.push(OperationChange {
            at: record.at.to_owned(),
            log,
            text,
        });
        if self.changes.len() >= 2 * CHANGES {
            self.put_in_order();
        }
    }

    /// Puts what came log by log in the order of time.
    pub(super) fn put_in_order(&mut self) {
        self.changes.sort_by(|one, other| one.at.cmp(&other.at));
        let older = self.changes.len().saturating_sub(CHANGES);
        self.changes.drain(..older);
        self.outages
            .sort_by(|one, other| one.until.cmp(&other.until));
    }
}
