//! The reply to a refusal: its codes and its words.
//!
//! # When a refusal is final
//!
//! `--refuse-with reject` turns a refusal into 5yz only where every fact behind it is authenticated: the administrator's own
//! table, or what DNSSEC proves (an absence included). A certificate that does not fit, a missing STARTTLS, a failed handshake or
//! a failed look-up is not authenticated: an attacker on the path can cause it, and must not be able to bounce mail. A null MX
//! (RFC 7505) is final, with or without that flag, only if it is signed; an unsigned one is a deferral.

use super::{
    ask::{Ask, NextHop},
    dane,
    demand::Demand,
    findings::{Dns, Findings, Mx, Security},
    reason::{Reason, Scope},
    settings::{RefuseWith, Settings},
};
use crate::smtp::{Cause, Domain, Recipient, Refusal};
use std::fmt::Write;

/// Longest text of a refusal in octets: with codes and CRLF it stays below the 512 of RFC 5321 §4.5.3.1.5.
pub(crate) const LONGEST_TEXT: usize = 480;

/// The point of the session at which a question is decided. It says what a refusal may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// The peer is known at connect time: the client's EHLO waits for the answer, and a refusal ends the session.
    Hello,
    /// No recipient has been authorised in this session yet: a refusal that blames the host ends the session.
    FirstRecipient,
    /// The session has an authorised recipient already: a refusal is for the new recipient alone.
    LaterRecipient,
}

/// The reply for a verdict that is `Refused(reason, text)`.
#[must_use]
pub(super) fn refusal(
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

/// The reply to MAIL (inbound) from a sender domain whose client had to prove itself and did not. 530 5.7.0 where TLS would be the
/// first step (RFC 3207 §4); else 550 5.7.1, since the certificate decided and the handshake authenticates it. It does not authenticate
/// the clock of this host, so a certificate that is valid at another time gets 451.
#[must_use]
pub(crate) fn refuse_client(
    sender: Option<&Domain>,
    reason: Reason,
    words: &str,
    secured: bool,
) -> Refusal {
    let whose = sender.map_or("this client", Domain::as_str);
    let (code, enhanced, what) = if secured {
        let code = match reason {
            Reason::CertificateExpired | Reason::LocalFault => 451,
            _ => 550,
        };
        let what = format!("client not authenticated: {}: {words}", reason.word());
        (code, (7, 1), what)
    } else {
        let what = "must issue STARTTLS and show its certificate first";
        (530, (7, 0), what.to_owned())
    };
    Refusal {
        code,
        enhanced,
        text: one_line(&format!("{whose}: {what}"), LONGEST_TEXT),
        cause: Cause::Verdict,
    }
}

/// Whether an attacker on the path could not have caused any fact behind the refusal.
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
        // For a literal or `<postmaster>`, our own table decides. For a domain, it is what the domain did not publish over HTTPS or
        // unsigned DNS.
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
                    Dns::Found(records, Security::Secure) => dane::usable(records).is_empty(),
                    _ => false,
                }
        })
}

/// `clinic.example: mx1.clinic.example[203.0.113.9] not authenticated: certificate-host-mismatch: names *.hoster.example
/// (level verify, from MX)`, as printable ASCII.
fn words(ask: &Ask, demand: Option<&Demand>, reason: Reason, text: &str) -> String {
    let row = reason.row();
    let mut line = ask.next_hop.name().to_owned();
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

/// The text in printable ASCII, with `?` for every other character. A text of more than `longest` octets is cut and ends in three
/// dots.
#[must_use]
pub(crate) fn one_line(text: &str, longest: usize) -> String {
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
    use crate::policy::{demand::Basis, findings::Sts, level::Level, reason::tests::ALL};
    use proptest::prelude::*;

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

    #[test]
    fn a_client_in_the_clear_is_sent_to_tls_and_one_with_the_wrong_certificate_away() {
        let sender = Domain::parse("partner.example");
        let mismatch = Reason::CertificateHostMismatch;
        let refuse_for = |reason, words, secured| {
            refuse_client(sender.as_ref(), reason, words, secured).to_string()
        };
        let refuse = |secured| refuse_for(mismatch, "names other.example", secured);
        assert_eq!(
            refuse_for(
                Reason::CertificateExpired,
                "not valid before 2027-01-01",
                true
            ),
            "451 4.7.1 partner.example: client not authenticated: certificate-expired: not valid before 2027-01-01",
            "the clock of this host may be wrong"
        );
        assert_eq!(
            refuse(false),
            "530 5.7.0 partner.example: must issue STARTTLS and show its certificate first"
        );
        assert_eq!(
            refuse(true),
            "550 5.7.1 partner.example: client not authenticated: certificate-host-mismatch: names other.example"
        );
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
