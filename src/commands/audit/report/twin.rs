//! The machine-readable twin of the page: the same figures and tables, as JSON.

use super::{
    breaks::{BreakCount, anchors, breaks},
    figures::{self, Figure, FigureValue},
    page::ReportPage,
};
use crate::{audit::Verification, commands::audit::verify::name};
use serde_json::{Map, Value, json};

/// Version of this form. Within a version keys may be added, but none changes its meaning.
const VERSION: u64 = 1;

pub(super) fn twin(page: &ReportPage<'_>) -> Value {
    let counts = page.counts;
    let (first, last) = counts.span.clone().unzip();
    json!({
        "version": VERSION,
        "made": page.now,
        "organisation": page.organisation,
        "auditor": page.auditor,
        "first_record": first,
        "last_record": last,
        "directions": counts.directions,
        "hosts": counts.hosts,
        "program_versions": counts.versions,
        "addresses": counts.addresses,
        "logs": page.logs.iter().map(log).collect::<Vec<_>>(),
        "observe_mode": counts.observing,
        "figures": figures::ALL.iter().map(|one| figure(one, page)).collect::<Vec<_>>(),
        "regimes": page.regimes.iter().map(|regime| json!({
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
        })).collect::<Vec<_>>(),
        "tables": tables(page),
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

fn tables(page: &ReportPage<'_>) -> Value {
    let counts = page.counts;
    let used = counts
        .used
        .iter()
        .map(|((rule, domain), used)| json!({"rule": rule, "domain": domain, "use": used}));
    json!({
        "protections": counts.protections,
        "tls_versions": counts.tls_versions,
        "suites": counts.suites,
        "groups": counts.groups,
        "levels": counts.levels,
        "bases": counts.bases,
        "domains": counts.domains,
        "refusals": counts.reasons,
        "observed": counts.observed,
        "exemptions": counts.exemptions,
        "exemptions_used": used.collect::<Vec<_>>(),
        "trusted_files": counts.inventory.files,
        "system_trust_store": counts.inventory.system_store,
        "certificates": counts.inventory.certificates,
        "messages_with_other_certificates": counts.inventory.others,
        "outages": counts.outages,
        "operation": counts.changes.iter().map(|one| json!({"at": one.at, "what": one.text})).collect::<Vec<_>>(),
    })
}

fn log(log: &Verification) -> Value {
    let files = log.files.iter().map(|file| file.display().to_string());
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
        "anchors": counted(&anchors(log)),
        "breaks": counted(&breaks(log)),
    })
}

fn counted(counts: &[BreakCount]) -> Map<String, Value> {
    let pairs = counts.iter();
    pairs
        .map(|one| (one.name.to_owned(), one.number.into()))
        .collect()
}
