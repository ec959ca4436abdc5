//! Paths and parameters of MAIL and RCPT (RFC 5321 §4.1.2): one path exactly, then parameters of what was offered.
//!
//! A path is forwarded as the client wrote it, so the server must read in it exactly what was judged here. Everything that
//! two readers could read differently (source routes, comments, a trailing dot, angle brackets in a quoted string) is
//! refused. Only the line length limits a local part: VERP and SRS need more than the 64 octets that every server must
//! accept, and RFC 5321 §4.5.3.1 asks for no limit.

use super::{
    domain::{Domain, any_of},
    extensions::{Extensions, Keyword},
    refusal::Refusal,
};
use std::borrow::Cow;

mod list;
pub use list::ForwardPaths;

/// A reverse-path with the parameters of its MAIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    /// As written between `<` and `>`; empty for the null reverse-path.
    pub(super) path: Vec<u8>,
    /// Its domain; `None` for the null reverse-path and for address literals.
    pub(super) domain: Option<Domain>,
    /// SMTPUTF8 was given (RFC 6531 §3.4).
    pub(super) smtputf8: bool,
    /// BODY=BINARYMIME was given (RFC 3030 §3): only BDAT may follow.
    pub(super) binary: bool,
    /// The extensions whose parameters were given.
    pub(super) used: Vec<Keyword>,
}

/// A forward-path, which may borrow the octets that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardPath<'a> {
    /// As written between `<` and `>`.
    path: Cow<'a, [u8]>,
    judged: JudgedPart,
}

impl<'a> ForwardPath<'a> {
    /// Reads what stands between `<` and `>`. `smtputf8`: the transaction uses SMTPUTF8.
    ///
    /// # Errors
    /// The refusal of a path that is malformed, or that two readers could read differently.
    pub fn parse(path: &'a [u8], smtputf8: bool) -> Result<Self, Refusal> {
        Ok(Self {
            path: Cow::Borrowed(path),
            judged: judged_part(path, smtputf8)?,
        })
    }

    /// The path, to be kept.
    pub(super) fn into_owned(self) -> ForwardPath<'static> {
        ForwardPath {
            path: Cow::Owned(self.path.into_owned()),
            judged: self.judged,
        }
    }

    /// As written between `<` and `>`.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The part that policy judges. It is made here, because inbound nobody asks for it.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        match self.judged {
            JudgedPart::Domain(at) => Recipient::Domain(Domain::of_well_formed(&self.path[at..])),
            JudgedPart::Literal(at) => {
                Recipient::Literal(String::from_utf8_lossy(&self.path[at..]).into_owned())
            }
            JudgedPart::Postmaster => Recipient::Postmaster,
        }
    }
}

/// What a path names, and behind how many octets of the path it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JudgedPart {
    Domain(usize),
    Literal(usize),
    Postmaster,
}

/// The part of a RCPT path that policy judges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// `local@domain`.
    Domain(Domain),
    /// `local@[192.0.2.1]` or any other address literal, brackets included: only the table can authorise it.
    Literal(String),
    /// `<postmaster>` without a domain (RFC 5321 §4.5.1): only a peer known at connect time may receive its mail.
    Postmaster,
}

/// Reads the arguments of `MAIL`.
pub(super) fn reverse_path(arguments: &[u8], offered: &Extensions) -> Result<Sender, Refusal> {
    let (path, parameters) = split_path(arguments, b"FROM:")?;
    let mut sender = Sender {
        path: path.to_vec(),
        domain: None,
        smtputf8: false,
        binary: false,
        used: Vec::new(),
    };
    for (name, value) in read_parameters(parameters)? {
        let (keyword, known_value) = match name.as_str() {
            "SIZE" => (Keyword::Size, is_number(value, 20)),
            "BODY" => {
                let body = value.unwrap_or_default().to_ascii_uppercase();
                sender.binary = body == b"BINARYMIME";
                let keyword = if sender.binary {
                    Keyword::BinaryMime
                } else {
                    Keyword::EightBitMime
                };
                let known = ["7BIT", "8BITMIME", "BINARYMIME"];
                (keyword, known.iter().any(|k| k.as_bytes() == body))
            }
            "SMTPUTF8" => {
                sender.smtputf8 = true;
                (Keyword::SmtpUtf8, value.is_none())
            }
            "RET" | "ENVID" => (Keyword::Dsn, value.is_some()),
            "AUTH" => (Keyword::Auth, value.is_some()),
            "BY" => (Keyword::DeliverBy, value.is_some()),
            _ => return Err(unoffered("MAIL")),
        };
        check(offered.allow(keyword), known_value, "MAIL")?;
        sender.used.push(keyword);
    }
    readable(parameters, sender.smtputf8)?;
    if !path.is_empty() {
        match judged_part(path, sender.smtputf8)? {
            JudgedPart::Domain(at) => sender.domain = Some(Domain::of_well_formed(&path[at..])),
            JudgedPart::Literal(_) => {}
            JudgedPart::Postmaster => return Err(bad_path("a sender has a domain")),
        }
    }
    Ok(sender)
}

/// Reads the arguments of `RCPT`, and whether a parameter of DSN is among them.
pub(super) fn forward_path<'a>(
    arguments: &'a [u8],
    offered: &Extensions,
    smtputf8: bool,
) -> Result<(ForwardPath<'a>, bool), Refusal> {
    let (path, parameters) = split_path(arguments, b"TO:")?;
    let mut dsn = false;
    if !parameters.is_empty() {
        for (name, value) in read_parameters(parameters)? {
            match name.as_str() {
                "NOTIFY" | "ORCPT" => check(offered.has(Keyword::Dsn), value.is_some(), "RCPT")?,
                _ => return Err(unoffered("RCPT")),
            }
            dsn = true;
        }
        readable(parameters, smtputf8)?;
    }
    Ok((ForwardPath::parse(path, smtputf8)?, dsn))
}

/// Splits `FROM:<path> parameters`. Blanks and tabs behind the colon and at the end are tolerated, as every server does. A path
/// without brackets is tolerated too where only one reading is possible: plain words to the end of the line.
fn split_path<'a>(arguments: &'a [u8], prefix: &[u8]) -> Result<(&'a [u8], &'a [u8]), Refusal> {
    let syntax = || {
        Refusal::new(
            501,
            (5, 4),
            "the syntax is MAIL FROM:<path> or RCPT TO:<path> (RFC 5321 4.1.1)",
        )
    };
    let (given, rest) = arguments
        .split_at_checked(prefix.len())
        .ok_or_else(syntax)?;
    if !given.eq_ignore_ascii_case(prefix) {
        return Err(syntax());
    }
    let rest = without_blanks(rest);
    let unbracketed = || bad_path("the path must stand in angle brackets");
    let Some(inner) = rest.strip_prefix(b"<") else {
        return match is_bare_path(rest) {
            true => Ok((rest, &[])),
            false => Err(unbracketed()),
        };
    };
    let end = memchr::memchr(b'>', inner).ok_or_else(unbracketed)?;
    let (path, parameters) = (&inner[..end], &inner[end + 1..]);
    if !matches!(parameters.first(), None | Some(b' ')) {
        return Err(bad_path("one path, then a space, then parameters"));
    }
    Ok((path, parameters))
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Without the blanks and tabs at both ends.
fn without_blanks(bytes: &[u8]) -> &[u8] {
    let begin = bytes.iter().position(|b| !is_blank(b));
    let end = bytes.iter().rposition(|b| !is_blank(b));
    match (begin, end) {
        (Some(begin), Some(end)) => &bytes[begin..=end],
        _ => &[],
    }
}

/// `dot-atom@domain` and nothing else.
fn is_bare_path(bytes: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'@', bytes) else {
        return false;
    };
    let (local, domain) = (&bytes[..at], &bytes[at + 1..]);
    let mut words = local.split(|b| *b == b'.');
    local.is_ascii()
        && words.all(|word| !word.is_empty() && word.iter().all(is_atext))
        && Domain::is_well_formed(domain)
}

/// Whether the octet may stand in an atom (RFC 5322 §3.2.3; beyond ASCII by RFC 6531 §3.3).
fn is_atext(byte: &u8) -> bool {
    const ATEXT: [bool; 256] = any_of(
        b"!#$%&'*+-/0123456789=?ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz{|}~",
    );
    ATEXT[usize::from(*byte)] || !byte.is_ascii()
}

type Parameter<'a> = (String, Option<&'a [u8]>);

/// `NAME` or `NAME=value`, each once, names in upper case (RFC 5321 §4.1.2).
fn read_parameters(bytes: &[u8]) -> Result<Vec<Parameter<'_>>, Refusal> {
    let mut parameters: Vec<Parameter<'_>> = Vec::new();
    for parameter in bytes.split(|b| *b == b' ').filter(|p| !p.is_empty()) {
        let (name, value) = match memchr::memchr(b'=', parameter) {
            Some(at) => (&parameter[..at], Some(&parameter[at + 1..])),
            None => (parameter, None),
        };
        let named = name.first().is_some_and(u8::is_ascii_alphanumeric)
            && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        let valued = value.is_none_or(|value| {
            !value.is_empty()
                && value
                    .iter()
                    .all(|b| matches!(b, 0x21..=0x3c | 0x3e..=0x7e | 0x80..))
        });
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        if !named || !valued || parameters.iter().any(|(known, _)| *known == name) {
            return Err(Refusal::new(
                501,
                (5, 4),
                "a parameter is malformed or given twice",
            ));
        }
        parameters.push((name, value));
    }
    Ok(parameters)
}

fn is_number(value: Option<&[u8]>, digits: usize) -> bool {
    value.is_some_and(|v| (1..=digits).contains(&v.len()) && v.iter().all(u8::is_ascii_digit))
}

fn check(offered: bool, known_value: bool, verb: &str) -> Result<(), Refusal> {
    match (offered, known_value) {
        (true, true) => Ok(()),
        (true, false) => Err(Refusal::new(501, (5, 4), "a parameter has no such value")),
        (false, _) => Err(unoffered(verb)),
    }
}

fn unoffered(verb: &str) -> Refusal {
    let text = format!("{verb} has a parameter that was not offered in reply to EHLO");
    Refusal::new(555, (5, 4), text)
}

fn bad_path(what: &str) -> Refusal {
    Refusal::new(501, (1, 3), what)
}

/// Accepts ASCII, and UTF-8 where the transaction uses SMTPUTF8.
fn readable(bytes: &[u8], smtputf8: bool) -> Result<(), Refusal> {
    if bytes.is_ascii() || (smtputf8 && std::str::from_utf8(bytes).is_ok()) {
        Ok(())
    } else {
        Err(Refusal::new(
            553,
            (6, 7),
            "an address that is not ASCII needs SMTPUTF8 (RFC 6531)",
        ))
    }
}

/// Reads the part of a non-empty path that policy judges.
fn judged_part(path: &[u8], smtputf8: bool) -> Result<JudgedPart, Refusal> {
    readable(path, smtputf8)?;
    if path.first() == Some(&b'@') {
        return Err(bad_path(
            "source routes are not taken (RFC 5321 appendix C)",
        ));
    }
    if path.eq_ignore_ascii_case(b"postmaster") {
        return Ok(JudgedPart::Postmaster);
    }
    let length = local_part(path).ok_or_else(|| bad_path("the local part is malformed"))?;
    let domain = match path[length..].split_first() {
        Some((b'@', domain)) => domain,
        _ => return Err(bad_path("the path is not local-part@domain")),
    };
    let at = path.len() - domain.len();
    if Domain::is_well_formed(domain) {
        return Ok(JudgedPart::Domain(at));
    }
    if !domain.is_ascii() {
        return Err(Refusal::new(
            553,
            (6, 7),
            "the domain must be written in A-labels (RFC 5890)",
        ));
    }
    let literal = domain.strip_prefix(b"[").and_then(|d| d.strip_suffix(b"]"));
    let known = |b: &u8| matches!(b, 0x21..=0x5a | 0x5e..=0x7e);
    match literal {
        Some(literal) if !literal.is_empty() && literal.iter().all(known) => {
            Ok(JudgedPart::Literal(at))
        }
        Some(_) => Err(bad_path("the address literal is malformed")),
        None => Err(bad_path("the domain is malformed")),
    }
}

/// Length of the local part that `path` begins with, in octets; `None` if `path` does not begin with one. Dots may stand anywhere,
/// because in real addresses they do. The path ends at its first `>`, so a quoted string that contains one is unfinished here.
fn local_part(path: &[u8]) -> Option<usize> {
    let Some(quoted) = path.strip_prefix(b"\"") else {
        let length = path
            .iter()
            .take_while(|b| **b == b'.' || is_atext(b))
            .count();
        return (length > 0).then_some(length);
    };
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at + 2),
            b'\\' => {
                let (_, escaped) = bytes.next()?;
                if !matches!(escaped, 0x20..=0x7e) || *escaped == b'<' {
                    return None;
                }
            }
            b'<' | ..0x20 | 0x7f => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
