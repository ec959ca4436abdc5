//! The product's own types as fields of records, log lines and counters.

use std::net::IpAddr;

use crate::{
    audit::{CertificateField, DecisionField, PeerField, TlsField, VerdictField, WireText},
    policy::{Basis, Decision, Dns, Level, NextHop, Security, Verdict, table::Entry},
    smtp::{Recipient, Refusal},
    tls::Peer,
};

/// A decision of the policy, without its findings.
pub(crate) fn decision_field(decision: &Decision) -> DecisionField {
    let demand = decision.demand.as_ref();
    let (verdict, reason, detail) = match &decision.verdict {
        Verdict::Authorised(matched) => (VerdictField::Authorised, None, matched),
        Verdict::Unprotected(why) => (VerdictField::Unprotected, None, why),
        Verdict::Refused(reason, words) => {
            (VerdictField::Refused, Some(reason.word().to_owned()), words)
        }
    };
    DecisionField {
        observed: decision.observed,
        level: demand.map(|demand| demand.level.to_string()),
        reason,
        signed: names_are_signed(decision),
        ..plain_decision(
            judged_word(decision),
            verdict,
            demand.map(|demand| &demand.basis),
            detail.clone(),
        )
    }
}

/// Whether nobody on the path can have forged the names of the mail hosts.
fn names_are_signed(decision: &Decision) -> Option<bool> {
    match &decision.findings.as_deref()?.mx {
        Dns::Found(_, security) => Some(*security == Security::Secure),
        _ => None,
    }
}

/// The domain, address literal or host that a decision is about.
pub(super) fn judged_word(decision: &Decision) -> String {
    match &decision.ask.next_hop {
        NextHop::Recipient(recipient) => recipient_word(recipient),
        NextHop::Upstream(host) => host.clone(),
        NextHop::Address => decision.ask.server.to_string(),
    }
}

/// What was found in DNS and MTA-STS. It stands in the record of a verdict only.
pub(super) fn findings_field(decision: &Decision) -> Option<serde_json::Value> {
    let findings = decision.findings.as_deref()?;
    serde_json::to_value(findings).ok()
}

/// Inbound: the decision that lets this client go on in the clear. In observe mode it names the refusal that enforcing would have
/// given.
pub(super) fn in_the_clear(
    client: IpAddr,
    plaintext: &PlaintextBasis,
    observed: Option<&Refusal>,
) -> DecisionField {
    let detail = observed.map_or_else(|| "in the clear".into(), ToString::to_string);
    DecisionField {
        observed: observed.is_some(),
        level: plaintext.level.map(|level| level.to_string()),
        reason: observed.map(|refusal| refusal.cause.word().to_owned()),
        ..plain_decision(
            client.to_string(),
            VerdictField::Unprotected,
            Some(&plaintext.basis),
            detail,
        )
    }
}

/// A decision without level, reason and findings.
pub(super) fn plain_decision(
    domain: String,
    verdict: VerdictField,
    basis: Option<&Basis>,
    detail: String,
) -> DecisionField {
    let (rule, until, why) = match basis {
        Some(Basis::Table {
            file,
            line,
            reason,
            until,
        }) => (
            Some(format!("{file}:{line}")),
            until.clone(),
            reason.clone(),
        ),
        Some(Basis::Upstream) => (Some("--upstream".to_owned()), None, None),
        Some(Basis::Exempt(prefix)) => (Some(format!("--exempt {prefix}")), None, None),
        Some(Basis::Observe) => (Some("--observe".to_owned()), None, None),
        None | Some(Basis::Dane | Basis::MtaSts | Basis::Mx) => (None, None, None),
    };
    DecisionField {
        domain,
        verdict,
        observed: false,
        level: None,
        basis: basis.map(|basis| basis_word(basis).to_owned()),
        rule,
        until,
        why,
        reason: None,
        signed: None,
        detail,
        findings: None,
    }
}

/// The source of a level, in one word.
pub(super) fn basis_word(basis: &Basis) -> &'static str {
    match basis {
        Basis::Table { .. } => "table",
        Basis::Dane => "dane",
        Basis::MtaSts => "mta-sts",
        Basis::Mx => "mx",
        Basis::Upstream => "upstream",
        Basis::Exempt(_) => "exempt",
        Basis::Observe => "observe",
    }
}

/// The rule that lets an inbound client send in the clear.
#[derive(Clone, Debug)]
pub(super) struct PlaintextBasis {
    pub(super) basis: Basis,
    /// The level of the table's entry, if the rule is one.
    pub(super) level: Option<Level>,
}

impl From<&Entry> for PlaintextBasis {
    fn from(entry: &Entry) -> Self {
        Self {
            basis: entry.basis(),
            level: Some(entry.level),
        }
    }
}

impl From<Basis> for PlaintextBasis {
    fn from(basis: Basis) -> Self {
        Self { basis, level: None }
    }
}

/// A recipient as policy judges it: its domain, its address literal, or `postmaster`.
pub(super) fn recipient_word(recipient: &Recipient) -> String {
    match recipient {
        Recipient::Domain(domain) => domain.to_string(),
        Recipient::Literal(literal) => literal.clone(),
        Recipient::Postmaster => String::from("postmaster"),
    }
}

/// A verdict in one word.
pub(super) fn verdict_word(verdict: VerdictField) -> &'static str {
    match verdict {
        VerdictField::Authorised => "authorised",
        VerdictField::Unprotected => "unprotected",
        VerdictField::Refused => "refused",
    }
}

/// The TLS facts of a link.
pub(super) fn tls_field(peer: &Peer) -> TlsField {
    let facts = &peer.facts;
    TlsField {
        version: facts.version.to_owned(),
        suite: facts.suite.to_owned(),
        group: Some(facts.group.to_owned()),
        sni: facts.sni.as_deref().map(WireText::from),
    }
}

/// The peer's certificate. `None` if it showed none that can be read.
pub(super) fn peer_field(peer: &Peer) -> Option<PeerField> {
    let leaf = peer.leaf()?;
    let names = leaf.names.iter().map(|name| name.as_str().into());
    let addresses = leaf.addresses.iter();
    let addresses = addresses.map(|address| address.to_string().as_str().into());
    let certificate = CertificateField {
        sha256: leaf.sha256.clone(),
        spki_sha256: leaf.spki_sha256.clone(),
        subject: leaf.subject.as_str().into(),
        names: names.chain(addresses).collect(),
        issuer: leaf.issuer.as_str().into(),
        serial: leaf.serial.clone(),
        not_before: leaf.not_before.to_string(),
        not_after: leaf.not_after.to_string(),
        key: leaf.key.clone(),
    };
    Some(PeerField {
        certificate,
        chain: peer.chain.iter().map(|one| one.sha256.clone()).collect(),
    })
}
