//! The service extensions that pass through this proxy (RFC 5321 §2.2): only those whose effect on the wire it understands.
//!
//! An unknown keyword may announce an inner layer, binary data or a reversal of roles, behind which recipients could no
//! longer be judged. So a list names the keywords that pass, and every argument is read and written anew.

use super::reply::Reply;

/// An extension that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyword {
    /// RFC 1870.
    Size,
    /// RFC 2920.
    Pipelining,
    /// RFC 6152.
    EightBitMime,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 2034.
    EnhancedStatusCodes,
    /// RFC 3461.
    Dsn,
    /// RFC 3030.
    Chunking,
    /// RFC 3030.
    BinaryMime,
    /// RFC 9422.
    Limits,
    /// RFC 2852.
    DeliverBy,
    /// RFC 4954, with mechanisms that start no security layer.
    Auth,
}

const KEYWORDS: &[(&str, Keyword)] = &[
    ("SIZE", Keyword::Size),
    ("PIPELINING", Keyword::Pipelining),
    ("8BITMIME", Keyword::EightBitMime),
    ("SMTPUTF8", Keyword::SmtpUtf8),
    ("ENHANCEDSTATUSCODES", Keyword::EnhancedStatusCodes),
    ("DSN", Keyword::Dsn),
    ("CHUNKING", Keyword::Chunking),
    ("BINARYMIME", Keyword::BinaryMime),
    ("LIMITS", Keyword::Limits),
    ("DELIVERBY", Keyword::DeliverBy),
    ("AUTH", Keyword::Auth),
];

/// The extensions of one EHLO reply, with their arguments as this proxy writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions(Vec<(Keyword, String)>);

/// The contents of an EHLO reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    /// The extensions that may be shown to the client.
    pub(super) extensions: Extensions,
    /// STARTTLS is offered.
    pub(super) starttls: bool,
    /// A keyword of `X`es stands in place of STARTTLS: a firewall masks it (RFC 8689 §8.2).
    pub(super) masked: bool,
}

impl Offer {
    /// Reads the reply. Its first line is the greeting, never a keyword (RFC 5321 §4.1.1.1). `auth`: AUTH may pass.
    pub(super) fn read(reply: &Reply, auth: bool) -> Self {
        let mut offer = Self::default();
        for line in reply.lines().skip(1) {
            let Ok(line) = std::str::from_utf8(line) else {
                continue;
            };
            let line = line.trim_end_matches(' ').to_ascii_uppercase();
            let (name, argument) = line.split_once(' ').unwrap_or((&line, ""));
            if name == "STARTTLS" && argument.is_empty() {
                offer.starttls = true;
            } else if name.len() == "STARTTLS".len() && name.starts_with("XXXXXXX") {
                offer.masked = true;
            } else if let Some(keyword) = Keyword::of_name(name)
                && (auth || keyword != Keyword::Auth)
                && !offer.extensions.has(keyword)
                && let Some(argument) = rewrite(keyword, argument)
            {
                offer.extensions.0.push((keyword, argument));
            }
        }
        offer
    }
}

impl Extensions {
    /// A list of one extension without argument.
    pub(super) fn only(keyword: Keyword) -> Self {
        Self(vec![(keyword, String::new())])
    }

    /// Whether this extension is offered.
    pub(super) fn has(&self, keyword: Keyword) -> bool {
        self.0.iter().any(|(offered, _)| *offered == keyword)
    }

    /// Whether a client may use this extension. A server that offers SMTPUTF8 also accepts 8 bits (RFC 6531 §3.1), and MTAs rely on
    /// that.
    pub(super) fn allow(&self, keyword: Keyword) -> bool {
        self.has(keyword) || (keyword == Keyword::EightBitMime && self.has(Keyword::SmtpUtf8))
    }

    /// Whether AUTH is offered with this mechanism, in upper case.
    pub(super) fn has_mechanism(&self, mechanism: &str) -> bool {
        self.mechanisms()
            .is_some_and(|mechanisms| mechanisms.split(' ').any(|m| m == mechanism))
    }

    /// The mechanisms of AUTH, where AUTH is offered.
    pub(super) fn mechanisms(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|(keyword, _)| *keyword == Keyword::Auth)
            .map(|(_, mechanisms)| mechanisms.as_str())
    }

    /// Offers one more extension.
    pub(super) fn add(&mut self, keyword: Keyword, argument: String) {
        self.0.push((keyword, argument));
    }

    /// The EHLO reply with the first line `greeting`, these extensions, and `more` keywords of our own.
    pub(super) fn reply(&self, greeting: &[u8], more: &[&str]) -> Reply<'static> {
        let mut lines = vec![greeting.to_vec()];
        lines.extend(self.0.iter().map(|(keyword, argument)| {
            let space = if argument.is_empty() { "" } else { " " };
            format!("{}{space}{argument}", keyword.name()).into_bytes()
        }));
        lines.extend(more.iter().map(|keyword| keyword.as_bytes().to_vec()));
        Reply::of_lines(250, lines)
    }
}

impl Keyword {
    /// The keyword as written in an EHLO reply.
    pub(super) fn name(self) -> &'static str {
        KEYWORDS
            .iter()
            .find(|(_, known)| *known == self)
            .map_or("", |(name, _)| name)
    }

    /// The keyword of this name, in upper case.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        KEYWORDS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, keyword)| *keyword)
    }
}

/// The argument written anew; `None` if the keyword must not be shown. Both are in upper case.
fn rewrite(keyword: Keyword, argument: &str) -> Option<String> {
    match keyword {
        // An absent or malformed number promises nothing, and the keyword without one is legal (RFC 1870 §4, RFC 2852 §2).
        Keyword::Size | Keyword::DeliverBy => Some(
            argument
                .parse::<u64>()
                .map_or_else(|_| String::new(), |number| number.to_string()),
        ),
        Keyword::Limits => {
            let limits: Vec<&str> = argument.split(' ').filter(|l| is_limit(l)).collect();
            (!limits.is_empty()).then(|| limits.join(" "))
        }
        Keyword::Auth => {
            let mechanisms: Vec<&str> = argument
                .split(' ')
                .filter(|m| LAYERLESS.contains(m))
                .collect();
            (!mechanisms.is_empty()).then(|| mechanisms.join(" "))
        }
        _ => Some(String::new()),
    }
}

/// `NAME=123` (RFC 9422 §4).
fn is_limit(limit: &str) -> bool {
    limit.split_once('=').is_some_and(|(name, value)| {
        matches!(name, "MAILMAX" | "RCPTMAX" | "RCPTDOMAINMAX") && value.parse::<u32>().is_ok()
    })
}

/// The SASL mechanisms that never negotiate a security layer (RFC 4422 §3.7), behind which this proxy could read nothing. The
/// mechanisms with channel binding (`-PLUS`, RFC 5802 §6) are left out too: they would bind to a TLS session that the client
/// does not have.
#[rustfmt::skip]
const LAYERLESS: [&str; 9] = [
    "PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "EXTERNAL", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(lines: &[&str], auth: bool) -> Offer {
        Offer::read(&Reply::of_lines(250, lines.iter()), auth)
    }

    fn shown(lines: &[&str], auth: bool) -> String {
        let reply = offer(lines, auth).extensions.reply(b"us", &[]);
        String::from_utf8(reply.into_bytes(false)).expect("ascii")
    }

    #[test]
    fn only_understood_keywords_pass_and_the_last_line_is_rebuilt() {
        let lines = [
            "mx",
            "SIZE 35882577",
            "AUTH GSSAPI DIGEST-MD5 PLAIN",
            "X-ANONYMOUSTLS",
            "X-EXPS GSSAPI NTLM",
            "XEXCH50",
            "XRDST",
            "XCLIENT NAME ADDR",
            "XFORWARD NAME",
            "PIPECONNECT",
            "BURL imap",
            "ETRN",
            "ATRN",
            "VERB",
            "REQUIRETLS",
            "8bitmime",
            "LIMITS RCPTMAX=100 FOO=1 MAILMAX=x",
            "PIPELINING",
            "STARTTLS",
            "FOO",
        ];
        assert_eq!(
            shown(&lines, false),
            "250-us\r\n250-SIZE 35882577\r\n250-8BITMIME\r\n250-LIMITS RCPTMAX=100\r\n250 PIPELINING\r\n"
        );
        assert!(shown(&lines, true).contains("250-AUTH PLAIN\r\n"));
        assert!(offer(&lines, false).starttls);
        assert_eq!(shown(&["mx", "X-FOO"], true), "250 us\r\n");
    }

    #[test]
    fn starttls_counts_in_any_case_but_only_as_a_keyword() {
        assert!(offer(&["mx", "starttls"], false).starttls);
        for lines in [
            &["STARTTLS"][..],
            &["mx", "STARTTLSX"],
            &["mx", "STARTTLS x"],
            &["mx STARTTLS"],
        ] {
            assert!(!offer(lines, false).starttls, "{lines:?}");
        }
    }

    #[test]
    fn a_masked_starttls_is_seen() {
        assert!(offer(&["mx", "XXXXXXXA"], false).masked);
        assert!(offer(&["mx", "XXXXXXXX"], false).masked);
        assert!(!offer(&["mx", "XEXCH50"], false).masked);
    }

    #[test]
    fn arguments_are_never_copied() {
        assert_eq!(
            shown(&["mx", "SIZE +5 evil"], false),
            "250-us\r\n250 SIZE\r\n"
        );
        assert_eq!(shown(&["mx", "DSN evil"], false), "250-us\r\n250 DSN\r\n");
        assert_eq!(shown(&["mx", "AUTH GSSAPI"], true), "250 us\r\n");
    }
}
