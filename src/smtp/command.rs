//! Commands (RFC 5321 §4.1.1): the verb, and only the parts that this proxy acts on. Commands are forwarded byte by byte.

use super::{
    domain::Domain,
    extensions::{Extensions, Keyword},
    path::{self, ForwardPath, Sender},
    refusal::Refusal,
};

/// One command line of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// EHLO or HELO with its name, as written.
    Hello {
        /// Domain or address literal.
        name: Vec<u8>,
        /// EHLO, so extensions may be used.
        esmtp: bool,
    },
    /// MAIL.
    Mail(Sender),
    /// RCPT.
    Rcpt {
        /// The recipient.
        to: ForwardPath<'a>,
        /// A parameter of DSN was given (RFC 3461 §4).
        dsn: bool,
    },
    /// DATA.
    Data,
    /// BDAT: a chunk of the message follows at once (RFC 3030 §2).
    Bdat {
        /// Size of this chunk, in octets.
        octets: u64,
        /// This is the last chunk of the message.
        last: bool,
    },
    /// RSET.
    Rset,
    /// NOOP.
    Noop {
        /// The command has an argument. The argument means nothing, so the server does not get it.
        argued: bool,
    },
    /// QUIT.
    Quit,
    /// HELP.
    Help,
    /// VRFY.
    Vrfy,
    /// EXPN.
    Expn,
    /// STARTTLS.
    StartTls,
    /// AUTH with a mechanism that was offered.
    Auth,
}

/// What is wrong with a command line. It decides the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A known verb with wrong arguments. The command has no effect.
    Syntax(Refusal),
    /// RCPT with wrong arguments.
    Recipient(Refusal),
    /// A verb that is never accepted: it would spoof an address, start an inner layer or reverse the roles.
    Forbidden,
    /// An unknown verb.
    Unknown,
    /// BDAT whose size cannot be read, so that nobody knows where the next command begins.
    Uncountable,
    /// BDAT although CHUNKING was not offered, so that nobody knows whether octets follow.
    Unchunked,
    /// A line of HTTP. An attacker can make a browser connect here and carry commands in its request body (ALPACA).
    Http,
}

fn syntax(text: &str) -> Fault {
    Fault::Syntax(Refusal::new(501, (5, 4), text))
}

/// The verb of a line, in upper case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verb {
    /// Its octets, as many as fit.
    word: [u8; Self::MOST],
    /// All of its octets.
    length: usize,
}

impl Verb {
    /// No verb that means anything is so long.
    const MOST: usize = 12;

    /// Empty if the line does not begin with a verb.
    pub(super) fn of(line: &[u8]) -> Self {
        let is_verb = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let length = line.iter().take_while(|b| is_verb(b)).count();
        let length = match line.get(length) {
            None | Some(b' ') => length,
            Some(_) => 0,
        };
        let mut word = [0; Self::MOST];
        for (upper, octet) in word.iter_mut().zip(&line[..length]) {
            *upper = octet.to_ascii_uppercase();
        }
        Self { word, length }
    }

    /// The verb, without what is beyond the longest one that means anything.
    pub(super) fn word(&self) -> &[u8] {
        &self.word[..self.length.min(Self::MOST)]
    }
}

/// Reads a line without its CRLF. `offered` are the extensions that the client was shown; `smtputf8`: its transaction uses
/// SMTPUTF8.
pub(super) fn parse<'a>(
    line: &'a [u8],
    offered: &Extensions,
    smtputf8: bool,
) -> Result<Command<'a>, Fault> {
    let verb = Verb::of(line);
    let behind = &line[verb.length..];
    let arguments = trim_blanks(behind);
    let alone = |command| match arguments {
        [] => Ok(command),
        _ => Err(syntax("this command takes no argument")),
    };
    match verb.word() {
        b"EHLO" => hello(arguments, true),
        b"HELO" => hello(arguments, false),
        b"MAIL" => path::reverse_path(arguments, offered)
            .map(Command::Mail)
            .map_err(Fault::Syntax),
        b"RCPT" => path::forward_path(arguments, offered, smtputf8)
            .map(|(to, dsn)| Command::Rcpt { to, dsn })
            .map_err(Fault::Recipient),
        b"DATA" => alone(Command::Data),
        b"BDAT" if !offered.has(Keyword::Chunking) => Err(Fault::Unchunked),
        b"BDAT" => bdat(behind).ok_or(Fault::Uncountable),
        b"RSET" => alone(Command::Rset),
        b"NOOP" => Ok(Command::Noop {
            argued: !arguments.is_empty(),
        }),
        b"QUIT" => alone(Command::Quit),
        b"HELP" => Ok(Command::Help),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" => Ok(Command::Expn),
        b"STARTTLS" => alone(Command::StartTls),
        b"AUTH" if offered.has(Keyword::Auth) => auth(arguments, offered),
        b"AUTH" | b"BURL" | b"ETRN" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML"
        | b"DEBUG" | b"WIZ" => Err(Fault::Forbidden),
        [b'X', ..] => Err(Fault::Forbidden),
        word if HTTP_METHODS.contains(&word) || is_header(line) => Err(Fault::Http),
        _ => Err(Fault::Unknown),
    }
}

/// Removes blanks at both ends. Other white space stays: only SP separates arguments (RFC 5321 §4.1.1).
fn trim_blanks(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().take_while(|b| **b == b' ').count();
    let end = bytes[start..]
        .iter()
        .rev()
        .take_while(|b| **b == b' ')
        .count();
    &bytes[start..bytes.len() - end]
}

/// Longest EHLO name in octets (RFC 5321 §4.5.3.1.2).
const MAX_NAME: usize = 255;

/// Accepts any name, because devices send whatever was typed into them. The server decides what the name is worth.
fn hello(name: &[u8], esmtp: bool) -> Result<Command<'static>, Fault> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(syntax("EHLO and HELO take a name of at most 255 octets"));
    }
    Ok(Command::Hello {
        name: name.to_vec(),
        esmtp,
    })
}

/// Whether an EHLO name can be sent to the outside. The name crosses before anything is protected, and must be one word.
pub(super) fn may_cross(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

/// Whether an EHLO name may stand in a Received line (RFC 5321 §4.4): only a domain name or an address literal may.
#[must_use]
pub(crate) fn fits_a_trace(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        return false;
    };
    let literal = |inner: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b":.-".contains(&b);
        !inner.is_empty() && inner.bytes().all(known)
    };
    match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(inner) => literal(inner),
        None => Domain::parse(name).is_some(),
    }
}

/// Reads `SP digits [SP LAST]` and not a blank more (RFC 3030 §2). A server that read the line in another way would take the
/// chunk for commands.
fn bdat(arguments: &[u8]) -> Option<Command<'static>> {
    let arguments = arguments.strip_prefix(b" ")?;
    let (digits, end_marker) = match memchr::memchr(b' ', arguments) {
        Some(at) => (&arguments[..at], Some(&arguments[at + 1..])),
        None => (arguments, None),
    };
    let last = end_marker.is_some();
    if digits.is_empty() || end_marker.is_some_and(|marker| !marker.eq_ignore_ascii_case(b"LAST")) {
        return None;
    }
    let octets = digits.iter().try_fold(0u64, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })?;
    (octets <= MAX_CHUNK).then_some(Command::Bdat { octets, last })
}

/// Largest chunk, in octets. A larger one could wrap the 32-bit counter of a server, which would take the rest for commands.
const MAX_CHUNK: u64 = 0x7fff_ffff;

fn auth(arguments: &[u8], offered: &Extensions) -> Result<Command<'static>, Fault> {
    let mechanism = arguments.split(|b| *b == b' ').next().unwrap_or_default();
    let mechanism = String::from_utf8_lossy(mechanism).to_ascii_uppercase();
    if mechanism.is_empty() || !arguments.iter().all(|b| matches!(b, 0x20..=0x7e)) {
        return Err(syntax("AUTH takes a mechanism and base64"));
    }
    if !offered.has_mechanism(&mechanism) {
        return Err(Fault::Syntax(Refusal::new(
            504,
            (5, 4),
            "this authentication mechanism was not offered",
        )));
    }
    Ok(Command::Auth)
}

/// The methods of HTTP, and the first word of HTTP/2.
const HTTP_METHODS: [&[u8]; 10] = [
    b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS", b"DELETE", b"PATCH", b"TRACE", b"PRI",
];

/// Whether the line is a header line of HTTP, as `Host: mx`. No command is one, because behind its verb comes a blank.
fn is_header(line: &[u8]) -> bool {
    memchr::memchr(b':', line).is_some_and(|colon| {
        let name = &line[..colon];
        !name.is_empty()
            && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && line.get(colon + 1) != Some(&b'<')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(line: &str) -> Result<Command<'_>, Fault> {
        parse(line.as_bytes(), &Extensions::only(Keyword::Chunking), false)
    }

    #[test]
    fn verbs_are_case_insensitive_and_end_at_a_blank() {
        assert_eq!(parse_all("starttls"), Ok(Command::StartTls));
        assert_eq!(parse_all("STARTTLS "), Ok(Command::StartTls));
        assert!(
            matches!(parse_all("STARTTLS x"), Err(Fault::Syntax(refusal)) if refusal.code == 501)
        );
        for unknown in [" STARTTLS", "STARTTLS\tx", "FOO", "", "NOOP;x", "QUITX"] {
            assert_eq!(parse_all(unknown), Err(Fault::Unknown), "{unknown:?}");
        }
        assert_eq!(parse_all("Noop x"), Ok(Command::Noop { argued: true }));
    }

    #[test]
    fn verbs_that_spoof_or_open_layers_are_forbidden() {
        for line in [
            "XCLIENT ADDR=127.0.0.1",
            "XFORWARD NAME=x",
            "xexch50 1 2",
            "X-EXPS NTLM",
            "XPROXY",
            "BURL imap",
            "ETRN x",
            "TURN",
            "ATRN",
            "SEND",
            "AUTH PLAIN AA==",
        ] {
            assert_eq!(parse_all(line), Err(Fault::Forbidden), "{line}");
        }
    }

    #[test]
    fn chunk_sizes_are_digits_that_fit() {
        let chunk = |octets, last| Ok(Command::Bdat { octets, last });
        assert_eq!(parse_all("BDAT 05 last"), chunk(5, true));
        assert_eq!(parse_all("BDAT 0"), chunk(0, false));
        assert_eq!(parse_all("BDAT 2147483647"), chunk(0x7fff_ffff, false));
        let long = format!("BDAT {}", "9".repeat(40));
        for line in [
            "BDAT",
            "BDAT -1",
            "BDAT +5",
            "BDAT 0x10",
            "BDAT 1e3",
            "BDAT 18446744073709551616",
            &long,
            "BDAT 5 LAST x",
            "BDAT 5LAST",
            "BDAT 5 FIRST",
            "BDAT 5\tLAST",
            "BDAT 5  LAST",
            "BDAT  5",
            "BDAT 2147483648",
            "BDAT 4294967301",
            "BDAT 5 ",
            "BDAT 5 LAST ",
        ] {
            assert_eq!(parse_all(line), Err(Fault::Uncountable), "{line}");
        }
        assert_eq!(
            parse(b"BDAT 5", &Extensions::default(), false),
            Err(Fault::Unchunked)
        );
    }

    #[test]
    fn a_hello_name_is_taken_as_it_is_and_three_rules_say_where_it_goes() {
        for (name, crosses, traced) in [
            ("mx.example", true, true),
            ("[192.0.2.1]", true, true),
            ("[IPv6:::1]", true, true),
            ("OLD_BOX", true, true),
            ("scanner#2(hall)/~'x',y", true, false),
            ("<script>", true, false),
            ("a b", false, false),
            ("a\tb", false, false),
            ("a\x1bb", false, false),
            ("é", false, false),
            ("[a b]", false, false),
            ("[]", true, false),
            ("mx.example;", true, false),
        ] {
            let hello = Command::Hello {
                name: name.into(),
                esmtp: true,
            };
            assert_eq!(parse_all(&format!("EHLO {name}")), Ok(hello));
            assert_eq!(may_cross(name.as_bytes()), crosses, "{name:?}");
            assert_eq!(fits_a_trace(name.as_bytes()), traced, "{name:?}");
        }
        for name in ["", " ", &"a".repeat(256)] {
            let line = format!("EHLO {name}");
            assert!(
                matches!(parse_all(&line), Err(Fault::Syntax(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn only_offered_mechanisms_pass() {
        use crate::smtp::{extensions::Offer, reply::Reply};
        let lines = vec![b"mx".to_vec(), b"AUTH PLAIN GSSAPI".to_vec()];
        let offered = Offer::read(&Reply::of_lines(250, lines), true).extensions;
        assert_eq!(
            parse(b"auth plain AA==", &offered, false),
            Ok(Command::Auth)
        );
        for line in [
            &b"AUTH GSSAPI"[..],
            b"AUTH",
            b"AUTH NTLM x",
            b"AUTH PLAIN \xff",
        ] {
            assert!(matches!(
                parse(line, &offered, false),
                Err(Fault::Syntax(_))
            ));
        }
    }

    #[test]
    fn http_is_recognised_by_its_request_and_header_lines() {
        for line in [
            "POST / HTTP/1.1",
            "GET /",
            "Host: x",
            "PRI * HTTP/2.0",
            "Content-Length: 5",
        ] {
            assert_eq!(parse_all(line), Err(Fault::Http), "{line}");
        }
        assert!(matches!(
            parse_all("RCPT TO:<a@b>"),
            Ok(Command::Rcpt { .. })
        ));
        assert!(matches!(
            parse_all("MAIL FROM: <a@b>"),
            Ok(Command::Mail(_))
        ));
    }
}
