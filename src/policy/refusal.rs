//! The one map from reasons to replies and to the result types of RFC 8460, and the words of a refusal.
//!
//! # When a refusal is final
//!
//! `--refuse-with reject` turns a refusal into 5yz only where every fact behind it is authenticated: the administrator's own
//! table, or what DNSSEC proves (also that there is nothing). A certificate that does not fit, a missing STARTTLS, a failed
//! handshake or look-up are not: whoever sits on the path can make them, and must not be able to have mail bounced. So is
//! a null MX (RFC 7505) final, with or without that flag, only if it is signed; unsigned it is a deferral.

use super::{
    Ask, Demand, Dns, Findings, Moment, Mx, NextHop, Reason, RefuseWith, Security, Settings,
};
use crate::smtp::{Cause, Recipient, Refusal};
use std::fmt::Write;

/// Whom a reason blames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The host at the destination address: the session ends, so that the MTA goes to the next one.
    Host,
    /// This recipient's domain, or what is known about it.
    Recipient,
}

/// Longest text of a refusal in octets: with codes and CRLF it stays below the 512 of RFC 5321 §4.5.3.1.5.
pub const LONGEST_TEXT: usize = 480;

/// A row of the map.
struct Row {
    word: &'static str,
    /// The result type of RFC 8460 §4.3; `None` where it has none.
    reported: Option<&'static str>,
    scope: Scope,
    enhanced: (u16, u16),
    sentence: &'static str,
}

impl Reason {
    fn row(self) -> Row {
        use Scope::{Host, Recipient};
        let unreported = |word, scope, enhanced, sentence| Row {
            word,
            reported: None,
            scope,
            enhanced,
            sentence,
        };
        let row = |word, scope, enhanced, sentence| Row {
            reported: Some(word),
            ..unreported(word, scope, enhanced, sentence)
        };
        let unproved = |word| row(word, Host, (7, 5), "not authenticated");
        let nobody = |word, enhanced| row(word, Recipient, enhanced, "no host may receive");
        match self {
            Self::StarttlsNotSupported => row("starttls-not-supported", Host, (7, 4), "no TLS"),
            Self::StarttlsRefused => Row {
                reported: Some("starttls-not-supported"),
                ..unreported("starttls-refused", Host, (7, 4), "no TLS")
            },
            Self::SessionInTheClear => {
                unreported("session-in-the-clear", Recipient, (7, 5), "no TLS")
            }
            Self::CertificateHostMismatch => unproved("certificate-host-mismatch"),
            Self::CertificateExpired => unproved("certificate-expired"),
            Self::CertificateNotTrusted => unproved("certificate-not-trusted"),
            Self::ValidationFailure => unproved("validation-failure"),
            Self::TlsaInvalid => unproved("tlsa-invalid"),
            Self::DnssecInvalid => row("dnssec-invalid", Recipient, (7, 5), "look-up failed"),
            Self::DaneRequired => nobody("dane-required", (7, 5)),
            Self::StsPolicyFetchError => nobody("sts-policy-fetch-error", (7, 5)),
            Self::StsPolicyInvalid => nobody("sts-policy-invalid", (7, 5)),
            Self::StsWebpkiInvalid => nobody("sts-webpki-invalid", (7, 5)),
            Self::NoPolicy => unreported("no-policy", Recipient, (7, 5), "no host may receive"),
            Self::LookupFailed => unreported("lookup-failed", Recipient, (4, 3), "look-up failed"),
            Self::NullMx => unreported("null-mx", Recipient, (1, 10), "accepts no mail"),
            Self::NoSuchDomain => unreported("no-such-domain", Recipient, (1, 2), "does not exist"),
            Self::NotAnMx => unreported("not-an-mx", Host, (7, 5), "not authenticated"),
            Self::LocalFault => unreported("local-fault", Host, (3, 0), "not possible here now"),
        }
    }

    /// Its one word, in the log, the record and the reply.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.row().word
    }

    /// The TLSRPT result type (RFC 8460 §4.3); `None` where it is not reportable.
    #[must_use]
    pub fn tlsrpt(self) -> Option<&'static str> {
        self.row().reported
    }

    /// Whom it blames.
    #[must_use]
    pub fn scope(self) -> Scope {
        self.row().scope
    }
}

/// The TLSRPT result type (RFC 8460 §4.3) of a refusal that is no verdict, as [`Reason::tlsrpt`] is for verdicts.
#[must_use]
pub fn result_type(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::StarttlsNotSupported => Reason::StarttlsNotSupported.tlsrpt(),
        Cause::StarttlsRefused => Reason::StarttlsRefused.tlsrpt(),
        // A verdict's own reason says it.
        Cause::Verdict => None,
        // RFC 8460 §4.3.4: what is no matter of TLS is not reported.
        Cause::Protocol
        | Cause::Limit
        | Cause::StarttlsRequired
        | Cause::ServerUnreachable
        | Cause::ServerGone
        | Cause::GreetingRefused
        | Cause::EhloRefused
        | Cause::ExtensionMissing
        | Cause::Overload
        | Cause::LocalFault
        | Cause::Stopped => None,
    }
}

/// The reply for a verdict that is `Refused(reason, text)`.
#[must_use]
pub fn refusal(
    ask: &Ask,
    findings: Option<&Findings>,
    demand: Option<&Demand>,
    reason: Reason,
    text: &str,
    moment: Moment,
    settings: &Settings,
) -> Refusal {
    let row = reason.row();
    let is_final = moment != Moment::Hello
        && is_authenticated(ask, findings, reason)
        && (reason == Reason::NullMx || settings.refuse_with == RefuseWith::Reject);
    let code = match (moment, row.scope) {
        // 5yz to EHLO makes clients try HELO (RFC 5321 §3.2), so that 421 is the only refusal there.
        (Moment::Hello, _) => 421,
        _ if is_final && reason == Reason::NullMx => 556,
        _ if is_final => 550,
        (Moment::FirstRecipient, Scope::Host) => 421,
        _ if reason == Reason::LocalFault => 421,
        _ => 451,
    };
    Refusal {
        code,
        enhanced: row.enhanced,
        text: words(ask, demand, reason, text),
        cause: Cause::Verdict,
    }
}

/// Whether nothing behind it could have been made by someone on the path.
fn is_authenticated(ask: &Ask, findings: Option<&Findings>, reason: Reason) -> bool {
    match reason {
        Reason::NullMx => matches!(
            findings.map(|findings| &findings.mx),
            Some(Dns::Found(Mx::Null, Security::Secure))
        ),
        Reason::NoSuchDomain => matches!(
            findings.map(|findings| &findings.mx),
            Some(Dns::Absent(Security::Secure))
        ),
        // Our own table says it; for a domain it is what the domain did not publish, over HTTPS or unsigned DNS.
        Reason::NoPolicy => matches!(
            ask.next_hop,
            NextHop::Recipient(Recipient::Literal(_) | Recipient::Postmaster)
        ),
        Reason::DaneRequired => findings.is_some_and(proves_no_dane),
        _ => false,
    }
}

/// Whether signed answers show that no host of the domain has usable TLSA records.
fn proves_no_dane(findings: &Findings) -> bool {
    let Dns::Found(mx, Security::Secure) = &findings.mx else {
        return false;
    };
    *mx != Mx::Null
        && mx.hosts().iter().all(|host| {
            matches!(host.addresses, Dns::Found(_, Security::Secure))
                && match &host.tlsa {
                    Dns::Absent(Security::Secure) => true,
                    Dns::Found(records, Security::Secure) => {
                        super::dane::usable(records).is_empty()
                    }
                    _ => false,
                }
        })
}

/// `clinic.example: mx1.clinic.example[203.0.113.9] not authenticated: certificate-host-mismatch: names *.hoster.example
/// (level verify, from MX)`, as printable ASCII.
fn words(ask: &Ask, demand: Option<&Demand>, reason: Reason, text: &str) -> String {
    let row = reason.row();
    let mut line = String::new();
    match &ask.next_hop {
        NextHop::Recipient(Recipient::Domain(domain)) => line += domain.as_str(),
        NextHop::Recipient(Recipient::Literal(literal)) => line += literal,
        NextHop::Recipient(Recipient::Postmaster) => line += "<postmaster>",
        NextHop::Upstream(host) => line += host,
        NextHop::Address => {}
    }
    let about_host = row.scope == Scope::Host || ask.next_hop == NextHop::Address;
    if about_host {
        if !line.is_empty() {
            line += ": ";
        }
        line += demand
            .and_then(|demand| demand.host.as_deref())
            .unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(line, "[{}]", ask.server);
    } else {
        line += ":";
    }
    let _ = write!(line, " {}: {}: {text}", row.sentence, row.word);
    if let Some(demand) = demand {
        let _ = write!(line, " (level {}, from {})", demand.level, demand.basis);
    }
    let hint = match demand {
        Some(demand) if demand.not_an_mx && about_host => format!(
            "; it is no MX of that domain: if it is your smart host, add to the policy table: [{}] verify match=ITS-NAME",
            ask.server
        ),
        _ => String::new(),
    };
    one_line(&line, LONGEST_TEXT - hint.len()) + &hint
}

/// Printable ASCII only, everything else as `?`; what is too long is cut and ends in three dots.
#[must_use]
pub fn one_line(text: &str, longest: usize) -> String {
    let mut line: String = text
        .chars()
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .collect();
    if line.len() > longest {
        line.truncate(longest - 3);
        line += "...";
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Basis, Level, Sts};
    use proptest::prelude::*;

    const ALL: [Reason; 19] = [
        Reason::StarttlsNotSupported,
        Reason::StarttlsRefused,
        Reason::SessionInTheClear,
        Reason::CertificateHostMismatch,
        Reason::CertificateExpired,
        Reason::CertificateNotTrusted,
        Reason::ValidationFailure,
        Reason::TlsaInvalid,
        Reason::DnssecInvalid,
        Reason::DaneRequired,
        Reason::StsPolicyFetchError,
        Reason::StsPolicyInvalid,
        Reason::StsWebpkiInvalid,
        Reason::NoPolicy,
        Reason::LookupFailed,
        Reason::NullMx,
        Reason::NoSuchDomain,
        Reason::NotAnMx,
        Reason::LocalFault,
    ];
    const MOMENTS: [Moment; 3] = [
        Moment::Hello,
        Moment::FirstRecipient,
        Moment::LaterRecipient,
    ];

    fn ask() -> Ask {
        let domain = crate::smtp::Domain::parse("clinic.example").expect("domain");
        Ask {
            next_hop: NextHop::Recipient(Recipient::Domain(domain)),
            server: "203.0.113.9".parse().expect("address"),
            port: 25,
        }
    }

    fn demand() -> Demand {
        Demand {
            level: Level::Verify,
            basis: Basis::Mx,
            sni: None,
            host: Some("mx1.clinic.example".into()),
            references: Vec::new(),
            tls13_only: false,
            testing: None,
            not_an_mx: false,
        }
    }

    fn reject() -> Settings {
        Settings {
            refuse_with: RefuseWith::Reject,
            ..Settings::default()
        }
    }

    fn findings(mx: Dns<Mx>) -> Findings {
        Findings {
            mx,
            sts: Sts::Absent,
            ..Findings::none()
        }
    }

    #[test]
    fn the_text_says_who_what_and_why() {
        let refusal = refusal(
            &ask(),
            None,
            Some(&demand()),
            Reason::CertificateHostMismatch,
            "names *.hoster.example",
            Moment::FirstRecipient,
            &Settings::default(),
        );
        assert_eq!(
            refusal.to_string(),
            "421 4.7.5 clinic.example: mx1.clinic.example[203.0.113.9] not authenticated: \
             certificate-host-mismatch: names *.hoster.example (level verify, from MX)"
        );
    }

    #[test]
    fn a_stranger_is_probably_a_forgotten_smart_host() {
        let refusal = refusal(
            &ask(),
            None,
            Some(&Demand {
                host: None,
                not_an_mx: true,
                ..demand()
            }),
            Reason::NotAnMx,
            &"certificate-host-mismatch: names relay.hoster.example".repeat(20),
            Moment::FirstRecipient,
            &reject(),
        );
        assert!(
            refusal
                .text
                .starts_with("clinic.example: [203.0.113.9] not authenticated: not-an-mx:")
        );
        assert!(
            refusal
                .text
                .ends_with("[203.0.113.9] verify match=ITS-NAME")
        );
        assert_eq!(refusal.code, 421);
    }

    #[test]
    fn each_reason_has_one_word_and_serde_agrees() {
        for reason in ALL {
            assert_eq!(
                serde_json::to_value(reason).expect("json"),
                reason.word(),
                "{reason:?}"
            );
        }
    }

    #[test]
    fn each_word_has_the_result_type_of_rfc_8460_that_fits_or_none() {
        let of_reasons = ALL.map(|reason| (reason.word(), reason.tlsrpt()));
        for (word, reported) in of_reasons {
            let own = [
                "session-in-the-clear",
                "no-policy",
                "lookup-failed",
                "null-mx",
                "no-such-domain",
                "not-an-mx",
                "local-fault",
            ];
            let expected = match word {
                "starttls-refused" => Some("starttls-not-supported"),
                word if own.contains(&word) => None,
                word => Some(word),
            };
            assert_eq!(reported, expected, "{word}");
        }
        let not_supported = Some("starttls-not-supported");
        assert_eq!(result_type(Cause::StarttlsRefused), not_supported);
        assert_eq!(result_type(Cause::StarttlsNotSupported), not_supported);
        // Blocklists and rate limits are no matter of TLS.
        assert_eq!(result_type(Cause::GreetingRefused), None);
        assert_eq!(result_type(Cause::EhloRefused), None);
    }

    #[test]
    fn what_someone_on_the_path_can_make_is_never_final() {
        for reason in ALL {
            for moment in MOMENTS {
                for found in [
                    None,
                    Some(findings(Dns::Failed("x".into()))),
                    Some(findings(Dns::Found(Mx::Null, Security::Insecure))),
                ] {
                    let refusal =
                        refusal(&ask(), found.as_ref(), None, reason, "", moment, &reject());
                    assert_eq!(refusal.code / 100, 4, "{reason:?} {moment:?}");
                }
            }
        }
    }

    #[test]
    fn a_signed_null_mx_is_final_and_an_unsigned_one_is_not() {
        let code = |security, settings: &Settings| {
            let found = findings(Dns::Found(Mx::Null, security));
            let moment = Moment::FirstRecipient;
            refusal(
                &ask(),
                Some(&found),
                None,
                Reason::NullMx,
                "",
                moment,
                settings,
            )
            .to_string()
        };
        for settings in [Settings::default(), reject()] {
            assert!(code(Security::Secure, &settings).starts_with("556 5.1.10 "));
            assert!(code(Security::Insecure, &settings).starts_with("451 4.1.10 "));
        }
    }

    #[test]
    fn our_own_table_is_final_with_reject_only() {
        let postmaster = Ask {
            next_hop: NextHop::Recipient(Recipient::Postmaster),
            ..ask()
        };
        let code = |settings: &Settings, moment| {
            refusal(
                &postmaster,
                None,
                None,
                Reason::NoPolicy,
                "",
                moment,
                settings,
            )
            .code
        };
        assert_eq!(code(&Settings::default(), Moment::FirstRecipient), 451);
        assert_eq!(code(&reject(), Moment::FirstRecipient), 550);
        assert_eq!(code(&reject(), Moment::LaterRecipient), 550);
        assert_eq!(code(&reject(), Moment::Hello), 421);
    }

    #[test]
    fn a_host_fault_ends_the_session_only_before_a_recipient_is_authorised() {
        let code = |reason, moment| {
            refusal(
                &ask(),
                None,
                Some(&demand()),
                reason,
                "",
                moment,
                &Settings::default(),
            )
            .code
        };
        for reason in ALL {
            assert_eq!(code(reason, Moment::Hello), 421);
            let host = reason.scope() == Scope::Host;
            assert_eq!(
                code(reason, Moment::FirstRecipient),
                if host { 421 } else { 451 }
            );
            let ours = reason == Reason::LocalFault;
            assert_eq!(
                code(reason, Moment::LaterRecipient),
                if ours { 421 } else { 451 }
            );
        }
    }

    proptest! {
        #[test]
        fn every_refusal_is_one_printable_line_that_fits(text in "\\PC{0,600}|[\\x00-\\xff]{0,600}", which in 0..ALL.len()) {
            let refusal = refusal(&ask(), None, Some(&demand()), ALL[which], &text, Moment::FirstRecipient, &reject());
            let line = refusal.to_string();
            prop_assert!(line.len() <= 510);
            prop_assert!(line.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        }
    }
}
