//! What to ask a partner, and the weakest demand that its hosts were seen to meet.

use super::partners::Partner;
use crate::policy::{NamePattern, table::Key};
use crate::smtp::Domain;

/// Largest number of certificates or names in one line. A partner with more has no stable set of hosts to pin.
const PINNED: usize = 8;

/// What a person does about a refusal with this reason.
pub(super) fn what_to_do(reason: &str) -> &'static str {
    match reason {
        "starttls-not-supported" => {
            "ask the partner to switch on STARTTLS, and your firewall's administrator to switch off SMTP inspection; \
             a file transfer or encrypted attachments until then"
        }
        "starttls-refused" => {
            "ask the partner why its server offers STARTTLS and then refuses it; often its certificate cannot be read"
        }
        "certificate-host-mismatch" => {
            "ask the partner whether its mail is handled by the host that the certificate names; if so, the line is right"
        }
        "certificate-expired" => {
            "ask the partner to renew the certificate of its mail server; look at your own clock, too"
        }
        "certificate-not-trusted" => {
            "ask the partner for a certificate of a public authority, or for the intermediate certificate that its \
             server does not send"
        }
        "validation-failure" => {
            "ask the partner to update the TLS of its mail server: TLS 1.2 with forward secrecy is the least"
        }
        "tlsa-invalid" => {
            "ask the partner whether it changed its certificate and forgot its TLSA records; somebody may be posing as it, \
             so mail waits until you know"
        }
        "dnssec-invalid" => {
            "ask the partner to mend the DNSSEC signatures of its zone; starttls-proxy doctor says whether your own \
             resolver is the cause"
        }
        "dane-required" => {
            "the partner publishes no TLSA records; demand another level of it, such as verify"
        }
        "sts-policy-invalid" | "sts-policy-fetch-error" | "sts-webpki-invalid" => {
            "ask the partner to mend its MTA-STS policy, which lists other hosts or cannot be fetched"
        }
        "no-policy" => {
            "nothing says who may receive mail for an address; a line for that address must name the host"
        }
        "lookup-failed" => {
            "look at your resolver: starttls-proxy doctor; if it is well, ask the partner about its name servers"
        }
        "null-mx" => "the domain takes no mail; tell the sender that the address is wrong",
        "no-such-domain" => "the domain does not exist; tell the sender that the address is wrong",
        "not-an-mx" => {
            "if this is your own smart host or relay, the line is right; if not, find out who sends mail there"
        }
        "session-in-the-clear" => {
            "nothing is wrong with this partner; another recipient of the same session has a line that allows mail in the clear"
        }
        "starttls-required" | "limit" => {
            "ask who runs this client to switch on STARTTLS; a device of your own should use the smart host instead"
        }
        "local-fault" => "look at the log of this proxy; the partner did nothing wrong",
        _ => "see the table of refusals in the documentation",
    }
}

/// Whether a line is what helps.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LineAdvice {
    /// This one would let the partner's mail pass.
    Line(String),
    /// Any would switch off what the partner has published about its servers, so that whoever poses as it gets its mail.
    WouldSwitchOff,
    /// None would help.
    WouldNotHelp,
}

/// The line that would let this partner's mail pass, as text, unless that would be the wrong remedy.
pub(super) fn line(partner: &Partner, until: &str) -> LineAdvice {
    /// These say that a record or policy does not fit, or cannot be seen, which whoever poses as the partner can bring about.
    const PUBLISHED: [&str; 6] = [
        "tlsa-invalid",
        "dnssec-invalid",
        "sts-policy-invalid",
        "sts-policy-fetch-error",
        "sts-webpki-invalid",
        "lookup-failed",
    ];
    const NOT_BY_A_LINE: [&str; 4] = [
        "null-mx",
        "no-such-domain",
        "session-in-the-clear",
        "local-fault",
    ];
    let mut reasons = partner.reasons.keys().map(String::as_str);
    if partner.is_by_what_it_published || reasons.clone().any(|reason| PUBLISHED.contains(&reason))
    {
        return LineAdvice::WouldSwitchOff;
    }
    if reasons.all(|reason| NOT_BY_A_LINE.contains(&reason)) {
        return LineAdvice::WouldNotHelp;
    }
    let demand = demand(partner);
    let words: Vec<&str> = partner.reasons.keys().map(String::as_str).collect();
    // A reason is one word of the schema; a log that somebody else wrote can have anything there.
    let is_word = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let reason = match words.iter().all(|word| is_word(word) && word.len() < 40) {
        true => words.join(" "),
        false => String::from("seen in observe mode"),
    };
    LineAdvice::Line(format!(
        "{} {demand} until={until} reason=\"{reason}\"",
        partner.key
    ))
}

/// Level and `match=`: names if only the name was wrong, else pinned certificates, else what needs no certificate;
/// mail in the clear is let through only where it was seen.
fn demand(partner: &Partner) -> String {
    let is_client = partner.is_sender() || partner.reasons.contains_key("starttls-required");
    let pins: Vec<&str> = partner.certificates.keys().map(String::as_str).collect();
    let pinned = !partner.is_without_certificate && (1..=PINNED).contains(&pins.len());
    if pinned && only_names_are_wrong(partner) {
        let names = partner.certificates.values();
        let names: Option<Vec<String>> = names.map(|names| pattern(names)).collect();
        if let Some(mut names) = names {
            names.sort();
            names.dedup();
            // Level secure asks the domain's own name where there is no match=; here there is one.
            let level = match partner.key {
                Key::Address(..) => "verify",
                _ => "secure",
            };
            return format!("{level} match={}", names.join(":"));
        }
    }
    match (pinned, is_client, partner.is_in_the_clear) {
        (true, ..) => format!("fingerprint match={}", pins.join("|")),
        (false, true, true) => String::from("none"),
        (false, _, false) => String::from("encrypt"),
        (false, false, true) => String::from("may"),
    }
}

/// Whether each chain was good and led to a name that was not asked for.
fn only_names_are_wrong(partner: &Partner) -> bool {
    partner.reasons.iter().all(|(reason, seen)| {
        reason == "certificate-host-mismatch"
            || (reason == "not-an-mx" && seen.detail.starts_with("certificate-host-mismatch"))
    })
}

/// `match=` for the first name of a certificate that is a host name or a wildcard.
fn pattern(names: &[String]) -> Option<String> {
    names.iter().find_map(|name| {
        let (pattern, host) = match name.strip_prefix("*.") {
            Some(parent) => (NamePattern::Below(parent.to_ascii_lowercase()), parent),
            None => (NamePattern::Host(name.to_ascii_lowercase()), name.as_str()),
        };
        // The pattern must stand for what the certificate shows, or the line would not help.
        let is_host = Domain::parse(host).is_some() && pattern.matches(name);
        is_host.then(|| pattern.to_string())
    })
}
