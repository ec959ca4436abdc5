//! What a server says before it has proved who it is. This proxy hears it, and never believes it.
//!
//! A client gives up for good if an offer has too small a SIZE or lacks SMTPUTF8, so an attacker on the path could use either
//! to make mail bounce. Therefore only two things leave this module: whether STARTTLS is offered, and the offer that
//! [`OfferRule`] makes, which shows the client nothing that makes it give up.

use super::{
    extensions::{Extensions, Keyword, Offer},
    reply::Reply,
};

/// How the client is shown an offer that nobody has proved.
#[derive(Clone, Debug)]
pub(super) struct OfferRule {
    /// Extensions that are not shown, because this server lacked them inside TLS when it was authenticated. SMTPUTF8 is shown all
    /// the same.
    pub(super) hidden: Vec<Keyword>,
    /// 8BITMIME is shown only if the server offers it. Otherwise it is always shown, because the recipients are not known yet.
    pub(super) eight_bit_as_heard: bool,
    /// AUTH may pass in this session.
    pub(super) auth: bool,
}

/// The extensions that can be shown, in the order in which they are.
const SHOWN: &[Keyword] = &[
    Keyword::Pipelining,
    Keyword::Size,
    Keyword::EightBitMime,
    Keyword::SmtpUtf8,
    Keyword::Dsn,
    Keyword::Chunking,
    Keyword::BinaryMime,
    Keyword::EnhancedStatusCodes,
];

impl OfferRule {
    /// The extensions of `heard` that the client is shown: never a number, never LIMITS or DELIVERBY.
    pub(super) fn shown(&self, heard: &Extensions) -> Extensions {
        let mut shown = Extensions::default();
        for &keyword in SHOWN {
            let offered = match keyword {
                Keyword::SmtpUtf8 => true,
                _ if self.hidden.contains(&keyword) => false,
                Keyword::EightBitMime => !self.eight_bit_as_heard || heard.has(keyword),
                // RFC 3030 §3: never without CHUNKING.
                Keyword::BinaryMime => shown.has(Keyword::Chunking) && heard.has(keyword),
                _ => heard.has(keyword),
            };
            if offered {
                shown.add(keyword, String::new());
            }
        }
        if let Some(mechanisms) = heard.mechanisms().filter(|_| self.auth) {
            shown.add(Keyword::Auth, mechanisms.to_owned());
        }
        shown
    }
}

/// The offer in an EHLO reply in the clear.
#[derive(Debug, Default)]
pub(super) struct HeardOffer {
    offer: Offer,
    /// Why the server refused EHLO, if it accepted HELO then.
    pub(super) refused: Option<String>,
}

impl HeardOffer {
    pub(super) fn read(reply: &Reply) -> Self {
        Self {
            offer: Offer::read(reply, true),
            refused: None,
        }
    }

    /// The offer of a server that accepts only HELO, which offers nothing (RFC 5321 §4.1.1.1).
    pub(super) fn of_helo(refused: String) -> Self {
        Self {
            offer: Offer::default(),
            refused: Some(refused),
        }
    }

    /// STARTTLS is offered.
    pub(super) fn starttls(&self) -> bool {
        self.offer.starttls
    }

    /// Why STARTTLS cannot be had, in words.
    pub(super) fn without_starttls(&self) -> String {
        match &self.refused {
            Some(refused) => refused.clone(),
            None if self.offer.masked => {
                "STARTTLS is not offered; a device in between masks it (it shows XXXXXXXA)".into()
            }
            None => "STARTTLS is not offered".into(),
        }
    }

    /// The extensions that the client is shown. Where AUTH may pass, the client is always offered it, though AUTH will not pass in the
    /// clear. A client that is not offered AUTH sends mail without it, and the server's 530 would make it give up (RFC 4954 §6).
    pub(super) fn shown(&self, rule: &OfferRule) -> Extensions {
        let mut shown = rule.shown(&self.offer.extensions);
        if rule.auth && !shown.has(Keyword::Auth) {
            shown.add(Keyword::Auth, "PLAIN LOGIN".to_owned());
        }
        shown
    }
}

/// `550 5.7.1; its words are in the log`: the digits are all that the client may be told of a refusal in the clear.
pub(super) fn told(reply: &Reply) -> String {
    format!("{}; its words are in the log", codes(reply))
}

/// `550 5.7.1`
pub(super) fn codes(reply: &Reply) -> String {
    let enhanced = reply.enhanced().map_or(String::new(), |e| format!(" {e}"));
    format!("{}{enhanced}", reply.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> HeardOffer {
        HeardOffer::read(&Reply::of_lines(250, lines))
    }

    fn rule() -> OfferRule {
        OfferRule {
            hidden: Vec::new(),
            eight_bit_as_heard: false,
            auth: false,
        }
    }

    fn shown(lines: &[&str], rule: &OfferRule) -> String {
        let reply = heard(lines).shown(rule).reply(b"us", &[]).into_bytes(false);
        String::from_utf8(reply)
            .expect("ASCII")
            .replace("\r\n", "⏎")
    }

    #[test]
    fn nothing_heard_makes_a_client_give_up() {
        assert_eq!(shown(&["mx"], &rule()), "250-us⏎250-8BITMIME⏎250 SMTPUTF8⏎");
        let lies = [
            "mx",
            "LIMITS RCPTMAX=1",
            "DELIVERBY 5",
            "AUTH PLAIN",
            "BINARYMIME",
            "SIZE 1",
            "DSN",
        ];
        assert_eq!(
            shown(&lies, &rule()),
            "250-us⏎250-SIZE⏎250-8BITMIME⏎250-SMTPUTF8⏎250 DSN⏎"
        );
    }

    #[test]
    fn what_was_found_lacking_is_hidden_but_never_smtputf8() {
        let hidden = vec![
            Keyword::EightBitMime,
            Keyword::SmtpUtf8,
            Keyword::Chunking,
            Keyword::Size,
        ];
        let rule = OfferRule { hidden, ..rule() };
        let all = ["mx", "SIZE", "CHUNKING", "BINARYMIME", "DSN"];
        assert_eq!(shown(&all, &rule), "250-us⏎250-SMTPUTF8⏎250 DSN⏎");
    }

    #[test]
    fn auth_is_offered_where_it_may_pass_whatever_was_heard() {
        let rule = OfferRule {
            auth: true,
            eight_bit_as_heard: true,
            ..rule()
        };
        for (line, auth) in [
            ("AUTH XOAUTH2 GSSAPI", "XOAUTH2"),
            ("AUTH NTLM", "PLAIN LOGIN"),
            ("DSN2", "PLAIN LOGIN"),
        ] {
            assert_eq!(
                shown(&["mx", line], &rule),
                format!("250-us⏎250-SMTPUTF8⏎250 AUTH {auth}⏎")
            );
        }
    }

    #[test]
    fn digits_alone_are_told() {
        let told = |code, text: &str| told(&Reply::new(code, text));
        assert_eq!(
            told(554, "5.7.1 evil"),
            "554 5.7.1; its words are in the log"
        );
        for text in [
            "evil",
            "4.7.1 class",
            "5.7 short",
            "5.7.1evil",
            "5.7.1234",
            "",
        ] {
            assert_eq!(told(554, text), "554; its words are in the log", "{text}");
        }
    }
}
