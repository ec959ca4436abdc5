//! Reports one decision to TLSRPT (RFC 8460) in a task of its own: mail never waits for reports.

use std::sync::Arc;

use crate::{
    lookup::Lookup,
    policy::{
        Basis, Decision, Dns, Mx, MxHost, NextHop, Reason, Sts, Tlsa, Verdict,
        mta_sts::{Mode, Policy},
    },
    smtp::{Domain, Recipient},
    tlsrpt::{FailureDetails, PolicyOutcome, PolicyType, Tlsrpt},
};

/// Reports a decision about a recipient's domain, if that domain asks for reports. Decisions by the policy table or about an
/// `--upstream` are not reported: they follow no policy that the domain published.
///
/// `testing` is the failure that MTA-STS in enforce mode would have refused, and in testing mode only reports (RFC 8461 §5).
pub(super) fn report(
    tlsrpt: Arc<Tlsrpt>,
    lookup: Arc<Lookup>,
    decision: &Decision,
    testing: Option<(Reason, String)>,
) {
    let NextHop::Recipient(Recipient::Domain(domain)) = &decision.ask.next_hop else {
        return;
    };
    if decision
        .demand
        .as_ref()
        .is_some_and(|demand| matches!(demand.basis, Basis::Table { .. }))
    {
        return;
    }
    let Some(policies) = judged(domain, decision, testing) else {
        return;
    };
    let domain = domain.clone();
    tokio::spawn(async move {
        if let Some(record) = lookup.tlsrpt_record(&domain).await {
            tlsrpt.send(domain.as_str(), &record, &policies);
        }
    });
}

/// The policies that decided, each with its result. `None`: the decision is not reportable (RFC 8460 §4.3.4).
fn judged(
    domain: &Domain,
    decision: &Decision,
    testing: Option<(Reason, String)>,
) -> Option<Vec<PolicyOutcome>> {
    let failed = |reason, words: &String| FailureDetails {
        reason,
        sending_ip: None,
        mx: decision
            .demand
            .as_ref()
            .and_then(|demand| demand.host.clone()),
        helo: None,
        receiving_ip: Some(decision.ask.server),
        words: words.clone(),
    };
    let failure = match &decision.verdict {
        Verdict::Refused(reason, words) => {
            reason.tlsrpt()?;
            Some(failed(*reason, words))
        }
        Verdict::Authorised(_) => None,
        Verdict::Unprotected(_) => return None,
    };
    let findings = decision.findings.as_deref();
    let mut policies = Vec::new();
    if let Some(host) = findings.and_then(|findings| host_of(&findings.mx, decision))
        && let Dns::Found(records, _) = &host.tlsa
    {
        policies.push(PolicyOutcome {
            kind: PolicyType::Tlsa,
            domain: host.tlsa_base.clone(),
            strings: records.iter().map(text).collect(),
            mx_patterns: Vec::new(),
            failure: failure.clone(),
        });
    }
    if let Some(Sts::Policy { policy, .. }) = findings.map(|findings| &findings.sts)
        && (policies.is_empty() || policy.mode == Mode::Testing)
    {
        // A policy in testing mode decides nothing, and has a result of its own.
        let failure = match policy.mode {
            Mode::Testing => testing.map(|(reason, words)| failed(reason, &words)),
            Mode::Enforce | Mode::None => failure.clone(),
        };
        policies.push(PolicyOutcome {
            kind: PolicyType::Sts,
            domain: domain.to_string(),
            strings: lines(policy),
            mx_patterns: policy.mx.clone(),
            failure,
        });
    }
    if policies.is_empty() {
        policies.push(PolicyOutcome {
            kind: PolicyType::NoPolicyFound,
            domain: domain.to_string(),
            strings: Vec::new(),
            mx_patterns: Vec::new(),
            failure,
        });
    }
    // The mail went on without the policy. The domain should learn that it could not be fetched (RFC 8460 §4.3.2.2).
    if let Some(Sts::Unavailable(reason, words)) = findings.map(|findings| &findings.sts)
        && reason.tlsrpt().is_some()
    {
        policies.push(PolicyOutcome {
            kind: PolicyType::Sts,
            domain: domain.to_string(),
            strings: Vec::new(),
            mx_patterns: Vec::new(),
            failure: Some(failed(*reason, words)),
        });
    }
    Some(policies)
}

fn host_of<'a>(mx: &'a Dns<Mx>, decision: &Decision) -> Option<&'a MxHost> {
    let Dns::Found(mx, _) = mx else { return None };
    let name = decision
        .demand
        .as_ref()
        .and_then(|demand| demand.host.as_deref())?;
    mx.hosts().iter().find(|host| host.name == name)
}

/// A TLSA record as a zone file has it.
fn text(record: &Tlsa) -> String {
    format!(
        "{} {} {} {}",
        record.usage,
        record.selector,
        record.matching,
        crate::audit::hex(&record.data)
    )
}

/// The lines of the policy file (RFC 8461 §3.2).
fn lines(policy: &Policy) -> Vec<String> {
    let mode = match policy.mode {
        Mode::Enforce => "enforce",
        Mode::Testing => "testing",
        Mode::None => "none",
    };
    let head = [String::from("version: STSv1"), format!("mode: {mode}")];
    let patterns = policy.mx.iter().map(|pattern| format!("mx: {pattern}"));
    head.into_iter()
        .chain(patterns)
        .chain([format!("max_age: {}", policy.max_age)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock,
        policy::{Ask, Findings},
    };

    fn outcomes(sts: Sts, verdict: Verdict) -> Option<Vec<(PolicyType, Option<Reason>)>> {
        let domain = Domain::parse("clinic.example").unwrap();
        let decision = Decision {
            ask: Ask {
                next_hop: NextHop::Recipient(Recipient::Domain(domain.clone())),
                server: "192.0.2.1".parse().unwrap(),
                port: 25,
            },
            findings: Some(Arc::new(Findings {
                sts,
                ..Findings::none()
            })),
            demand: None,
            verdict,
            refusal: None,
            observed: false,
            at: clock::wall(),
        };
        let policies = judged(&domain, &decision, None)?;
        let reason =
            |judged: PolicyOutcome| (judged.kind, judged.failure.map(|failure| failure.reason));
        Some(policies.into_iter().map(reason).collect())
    }

    #[test]
    fn a_policy_that_could_not_be_had_is_reported_beside_the_outcome() {
        let authorised = || Verdict::Authorised(String::new());
        let unavailable = |reason| Sts::Unavailable(reason, "404".into());
        assert_eq!(
            outcomes(unavailable(Reason::StsPolicyFetchError), authorised()),
            Some(vec![
                (PolicyType::NoPolicyFound, None),
                (PolicyType::Sts, Some(Reason::StsPolicyFetchError)),
            ])
        );
        let success = Some(vec![(PolicyType::NoPolicyFound, None)]);
        assert_eq!(outcomes(Sts::Absent, authorised()), success);
        // RFC 8460 §4.3.4: no time-outs.
        assert_eq!(
            outcomes(unavailable(Reason::LookupFailed), authorised()),
            success
        );
        let refused = Verdict::Refused(Reason::LookupFailed, "no answer".into());
        assert_eq!(outcomes(unavailable(Reason::LookupFailed), refused), None);
    }
}
