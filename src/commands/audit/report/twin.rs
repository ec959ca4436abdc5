//! The machine-readable twin of the page: the same figures and tables, as JSON.

use super::{
    attempts::ReasonCounts,
    breaks::{BreakCount, LogCounts, ReportedOutage, counts},
    counts::{Counts, DomainCounts, ExemptionUse},
    fields::ReadExemption,
    figures::{self, Figure, FigureValue},
    inventory::{CertificateSeen, NamedFile},
    observing::ObservePeriod,
    page::ReportPage,
    regime::Regime,
    tally::Tally,
};
use crate::{audit::Verification, commands::audit::verify::name};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Version of this form. Within a version keys may be added, but none changes its meaning.
const VERSION: u64 = 1;

/// What is written. The tables, which can be long, are written from where they are.
#[derive(Serialize)]
pub(super) struct ReportTwin<'a> {
    addresses: &'a str,
    auditor: Option<&'a str>,
    directions: &'a BTreeSet<String>,
    figures: Vec<Value>,
    first_record: Option<&'a str>,
    hosts: &'a BTreeSet<String>,
    last_record: Option<&'a str>,
    logs: Vec<Value>,
    made: &'a str,
    observe_mode: &'a [ObservePeriod],
    organisation: Option<&'a str>,
    program_versions: &'a BTreeSet<String>,
    regimes: Vec<Value>,
    tables: TwinTables<'a>,
    version: u64,
}

#[derive(Serialize)]
struct TwinTables<'a> {
    bases: &'a Tally,
    certificates: &'a BTreeMap<String, CertificateSeen>,
    domains: &'a BTreeMap<String, DomainCounts>,
    exemptions: &'a [ReadExemption],
    exemptions_used: Vec<UsedExemption<'a>>,
    groups: &'a Tally,
    levels: &'a Tally,
    messages_with_other_certificates: u64,
    observed: &'a BTreeMap<String, ReasonCounts>,
    operation: Vec<Value>,
    outages: &'a [ReportedOutage],
    protections: &'a Tally,
    refusals: &'a BTreeMap<String, ReasonCounts>,
    suites: &'a Tally,
    system_trust_store: bool,
    tls_versions: &'a Tally,
    trusted_files: &'a BTreeSet<NamedFile>,
}

#[derive(Serialize)]
struct UsedExemption<'a> {
    domain: &'a str,
    rule: &'a str,
    #[serde(rename = "use")]
    used: &'a ExemptionUse,
}

impl<'a> ReportTwin<'a> {
    pub(super) fn of(page: &'a ReportPage<'_>) -> Self {
        let counts = page.counts;
        let (first, last) = counts
            .span
            .as_ref()
            .map(|(one, other)| (&**one, &**other))
            .unzip();
        Self {
            addresses: &counts.addresses,
            auditor: page.auditor,
            directions: &counts.directions,
            figures: figures::ALL.iter().map(|one| figure(one, page)).collect(),
            first_record: first,
            hosts: &counts.hosts,
            last_record: last,
            logs: page.logs.iter().map(log).collect(),
            made: &page.now,
            observe_mode: &counts.observing,
            organisation: page.organisation,
            program_versions: &counts.versions,
            regimes: page.regimes.iter().map(|one| regime(one)).collect(),
            tables: TwinTables::of(counts),
            version: VERSION,
        }
    }
}

impl<'a> TwinTables<'a> {
    fn of(counts: &'a Counts) -> Self {
        let inventory = &counts.inventory;
        let used = counts.used.iter();
        let used = used.map(|((rule, domain), used)| UsedExemption { domain, rule, used });
        let changes = counts.changes.iter();
        let changes = changes.map(|one| json!({"at": one.at, "what": one.text}));
        Self {
            bases: &counts.bases,
            certificates: &inventory.certificates,
            domains: &counts.domains,
            exemptions: &counts.exemptions,
            exemptions_used: used.collect(),
            groups: &counts.groups,
            levels: &counts.levels,
            messages_with_other_certificates: inventory.others,
            observed: &counts.observed,
            operation: changes.collect(),
            outages: &counts.outages,
            protections: &counts.protections,
            refusals: &counts.reasons,
            suites: &counts.suites,
            system_trust_store: inventory.system_store,
            tls_versions: &counts.tls_versions,
            trusted_files: &inventory.files,
        }
    }
}

fn regime(regime: &Regime) -> Value {
    json!({
        "name": regime.word,
        "title": regime.title,
        "about": regime.about,
        "sources": regime.sources,
        "clauses": regime.clauses.iter().map(|clause| json!({
            "number": clause.number,
            "name": clause.name,
            "asks": clause.asks,
            "figures": clause.figures.iter().map(|figure| figure.name).collect::<Vec<_>>(),
            "not_shown": clause.not_shown,
        })).collect::<Vec<_>>(),
    })
}

fn figure(figure: &Figure, page: &ReportPage<'_>) -> Value {
    let counts = page.counts;
    let value = figure.value(&counts.figures, &counts.inventory, page.is_intact());
    json!({
        "name": figure.name,
        "words": figure.words,
        "value": match value {
            FigureValue::Number(number) | FigureValue::AtLeast(number) => Value::from(number),
            FigureValue::Fact(fact) => fact.into(),
        },
        "exact": !matches!(value, FigureValue::AtLeast(_)),
        "command": figure.command(page.commands),
    })
}

fn log(log: &Verification) -> Value {
    let LogCounts { anchors, breaks } = counts(log);
    let unvouched = log.outside.unvouched.longest.iter();
    let files = log
        .files
        .iter()
        .map(|file| file.path().display().to_string());
    json!({
        "name": name(log),
        "files": files.collect::<Vec<_>>(),
        "intact": log.intact(),
        "finding": log.finding.as_ref().map(ToString::to_string),
        "first_record": log.from,
        "good_records": log.records(),
        "octets": log.octets,
        "head": format!("{}:{}", log.head.size, log.head.hash),
        "stopped": log.stopped,
        "anchors": counted(&anchors),
        "breaks": counted(&breaks),
        "longest_unanchored": unvouched.map(|time| json!({
            "since": time.since,
            "until": time.until,
            "missing": time.asked.to_string(),
        })).collect::<Vec<_>>(),
    })
}

fn counted(counts: &[BreakCount]) -> Map<String, Value> {
    let pairs = counts.iter();
    pairs
        .map(|one| (one.name.to_owned(), one.number.into()))
        .collect()
}
