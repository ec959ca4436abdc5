//! The product's own types as the evidence writes them, and the records of a process rather than of a session.

use std::{sync::Arc, time::SystemTime};

use super::setup::CommonSetup;
use crate::{
    audit::{self, AuditLog, Record, VerdictField, WireText},
    policy::{
        Basis, Decision, Level, NextHop, Verdict,
        table::{Entry, Table},
    },
    smtp::{Cause, Recipient, Refusal},
    tls::Peer,
};

/// A decision as records, log and counters say it.
#[must_use]
pub fn entry(decision: &Decision) -> audit::DecisionField {
    let demand = decision.demand.as_ref();
    let (verdict, reason, detail) = match &decision.verdict {
        Verdict::Authorised(matched) => (VerdictField::Authorised, None, matched),
        Verdict::Unprotected(why) => (VerdictField::Unprotected, None, why),
        Verdict::Refused(reason, words) => {
            (VerdictField::Refused, Some(reason.word().to_owned()), words)
        }
    };
    let (basis, rule, until, why) =
        demand.map_or((None, None, None, None), |demand| basis(&demand.basis));
    audit::DecisionField {
        domain: whom(&decision.ask.next_hop, decision.ask.server),
        verdict,
        observed: decision.observed,
        level: demand.map(|demand| demand.level.to_string()),
        basis,
        rule,
        until,
        why,
        reason,
        detail: detail.clone(),
        findings: decision
            .findings
            .as_deref()
            .and_then(|findings| serde_json::to_value(findings).ok()),
    }
}

/// Inbound, in the clear: what lets this client go on without TLS; or (observe mode) the refusal that enforcing would have given.
#[must_use]
pub fn in_the_clear(
    client: std::net::IpAddr,
    exempt: &Exempt,
    observed: Option<&Refusal>,
) -> audit::DecisionField {
    let (basis, rule, until, why) = basis(&exempt.basis);
    audit::DecisionField {
        domain: client.to_string(),
        verdict: VerdictField::Unprotected,
        observed: observed.is_some(),
        level: exempt.level.map(|level| level.to_string()),
        basis,
        rule,
        until,
        why,
        reason: observed.map(|refusal| refusal.cause.word().to_owned()),
        detail: observed.map_or_else(|| "in the clear".into(), ToString::to_string),
        findings: None,
    }
}

/// What lets an inbound client speak in the clear.
#[derive(Clone, Debug)]
pub struct Exempt {
    /// What says so.
    pub basis: Basis,
    /// The level of the table's entry, where that is what says so.
    pub level: Option<Level>,
}

impl From<&Entry> for Exempt {
    fn from(entry: &Entry) -> Self {
        Self {
            basis: entry.basis(),
            level: Some(entry.level),
        }
    }
}

fn whom(next_hop: &NextHop, server: std::net::IpAddr) -> String {
    match next_hop {
        NextHop::Recipient(Recipient::Domain(domain)) => domain.to_string(),
        NextHop::Recipient(Recipient::Literal(literal)) => literal.clone(),
        NextHop::Recipient(Recipient::Postmaster) => String::from("postmaster"),
        NextHop::Upstream(host) => host.clone(),
        NextHop::Address => server.to_string(),
    }
}

type Rule = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// Basis in one word, rule, end date, reason.
fn basis(basis: &Basis) -> Rule {
    let word = |word: &str| Some(word.to_owned());
    match basis {
        Basis::Table {
            file,
            line,
            reason,
            until,
        } => (
            word("table"),
            Some(format!("{file}:{line}")),
            until.clone(),
            reason.clone(),
        ),
        Basis::Dane => (word("dane"), None, None, None),
        Basis::MtaSts => (word("mta-sts"), None, None, None),
        Basis::Mx => (word("mx"), None, None, None),
        Basis::Upstream => (word("upstream"), word("--upstream"), None, None),
        Basis::Exempt(prefix) => (
            word("exempt"),
            Some(format!("--exempt {prefix}")),
            None,
            None,
        ),
        Basis::Observe => (word("observe"), word("--observe"), None, None),
    }
}

/// A verdict in one word.
#[must_use]
pub fn word(verdict: VerdictField) -> &'static str {
    match verdict {
        VerdictField::Authorised => "authorised",
        VerdictField::Unprotected => "unprotected",
        VerdictField::Refused => "refused",
    }
}

/// TLS facts for a record.
#[must_use]
pub fn tls_record(peer: &Peer) -> audit::TlsField {
    let facts = &peer.facts;
    audit::TlsField {
        version: facts.version.clone(),
        suite: facts.suite.clone(),
        group: Some(facts.group.clone()),
        sni: facts.sni.as_deref().map(WireText::from),
    }
}

/// The peer's certificate for a record; `None` where it showed none that can be read.
#[must_use]
pub fn peer_record(peer: &Peer) -> Option<audit::PeerField> {
    let leaf = peer.leaf()?;
    let addresses = leaf.addresses.iter().map(ToString::to_string);
    let names = leaf.names.iter().cloned().chain(addresses);
    let certificate = audit::CertificateField {
        sha256: leaf.sha256.clone(),
        spki_sha256: leaf.spki_sha256.clone(),
        subject: leaf.subject.as_str().into(),
        names: names.map(|name| name.as_str().into()).collect(),
        issuer: leaf.issuer.as_str().into(),
        serial: leaf.serial.clone(),
        not_before: leaf.not_before.to_string(),
        not_after: leaf.not_after.to_string(),
    };
    Some(audit::PeerField {
        certificate,
        chain: peer.chain.iter().map(|one| one.sha256.clone()).collect(),
    })
}

/// The audit log cannot be written: nothing goes on.
#[must_use]
pub fn unwritable() -> Refusal {
    Refusal {
        code: 421,
        enhanced: (3, 0),
        text: String::from("the audit log cannot be written, no mail can pass"),
        cause: Cause::LocalFault,
    }
}

/// The table as `start` and `policy-change` show it, with every way to mail without an authenticated peer that is open at
/// this time: entries past their date open none.
#[must_use]
pub fn policy_file(
    name: &str,
    sha256: String,
    table: &Table,
    exempt: &[String],
    now: SystemTime,
) -> audit::PolicyField {
    let ways_out = table
        .applying(now)
        .filter(|entry| entry.level <= Level::Encrypt)
        .map(|entry| audit::ExemptionField {
            entry: entry.key.to_string(),
            level: entry.level.to_string(),
            until: entry.until.as_ref().map(ToString::to_string),
            reason: entry.reason.clone(),
            rule: format!("{name}:{}", entry.line),
        });
    let prefixes = exempt.iter().map(|prefix| audit::ExemptionField {
        entry: prefix.clone(),
        level: String::from("exempt"),
        until: None,
        reason: None,
        rule: format!("--exempt {prefix}"),
    });
    audit::PolicyField {
        file: name.to_owned(),
        sha256,
        tafiles: Vec::new(),
        entries: table.entries().len() as u64,
        exemptions: ways_out.chain(prefixes).collect(),
    }
}

/// The process begins to serve.
pub fn started(common: &CommonSetup, direction: audit::DirectionField) {
    if let Some(audit) = &common.audit {
        audit.append(&Record::Start(audit::StartRecord {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            direction,
            host: common.hostname.clone(),
            pid: std::process::id(),
            configuration: common.configuration.to_string(),
            arguments: std::env::args()
                .map(|argument| argument.as_str().into())
                .collect(),
            policy: common.policy.as_deref().cloned(),
        }));
    }
}

/// SIGHUP: what came of it.
pub fn reloaded(common: &CommonSetup, files: Vec<audit::ReloadedFileField>) {
    if let Some(audit) = &common.audit {
        audit.append(&Record::Reload(audit::ReloadRecord {
            files,
            configuration: common.configuration.to_string(),
        }));
    }
}

/// SIGHUP brought another table, or another file that it names.
pub fn policy_changed(old: &CommonSetup, new: &CommonSetup) {
    let content = |common: &CommonSetup| {
        let policy = common.policy.as_ref();
        policy.map(|policy| (policy.sha256.clone(), policy.tafiles.clone()))
    };
    if let Some(audit) = &new.audit
        && content(old) != content(new)
    {
        audit.append(&Record::PolicyChange(audit::PolicyChangeRecord {
            before: content(old).map(|(sha256, _)| sha256),
            policy: new.policy.as_deref().cloned(),
        }));
    }
}

/// The process ends in good order: the last record and checkpoint. `reason`: the signal's name, or what went wrong. Whether all is
/// on disk.
pub async fn stopped(audit: Arc<AuditLog>, reason: &str, sessions: u64, messages: u64) -> bool {
    let reason = reason.to_owned();
    // Written and waited for when the log is closed.
    audit.append(&Record::Stop(audit::StopRecord {
        reason,
        sessions,
        messages,
    }));
    // Joins the writer's thread, so not on the runtime's own.
    tokio::task::spawn_blocking(move || audit.close())
        .await
        .unwrap_or(false)
}
