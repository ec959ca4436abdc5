//! Replies (RFC 5321 §4.2): read from a server as a whole, or made here.

use super::{framing, refusal::Refusal};
use std::borrow::Cow;

/// Most lines of one reply.
pub(super) const MAX_LINES: usize = 128;
/// Most octets of one reply, CRLFs included.
const MAX_OCTETS: usize = 64 * 1024;
/// Most octets of the text of our own refusals, so that their line stays below 512 (RFC 5321 §4.5.3.1.5).
const MAX_TEXT: usize = 480;

/// One whole reply. The code is the same on all lines. A reply of one line borrows the octets that it was read from, so nobody can keep
/// it without a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// 200 to 599.
    pub code: u16,
    /// All lines with their CRLFs, as received or as made here. Each line is a code, a separator and a text without CR and LF; a last
    /// line without text may have no separator.
    octets: Cow<'a, [u8]>,
    /// It was received.
    is_servers: bool,
}

impl Reply<'static> {
    /// A reply of our own with one line. `text` begins with the enhanced code where there is one (RFC 2034 §4).
    pub(crate) fn new(code: u16, text: &str) -> Self {
        Self::of_lines(code, [text])
    }

    /// A reply of our own with these lines, at least one.
    pub(crate) fn of_lines<T: AsRef<[u8]>>(
        code: u16,
        lines: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    ) -> Self {
        let lines = lines.into_iter();
        let (count, mut octets) = (lines.len(), Vec::with_capacity(64));
        for (index, text) in lines.enumerate() {
            put_line(&mut octets, code, text.as_ref(), index + 1 == count);
        }
        Self {
            code,
            octets: Cow::Owned(octets),
            is_servers: false,
        }
    }

    /// The reply to QUIT.
    pub(super) fn goodbye() -> Self {
        Self::new(221, "2.0.0 bye")
    }
}

impl Reply<'_> {
    /// The reply, to be kept.
    #[must_use]
    pub fn into_owned(self) -> Reply<'static> {
        Reply {
            code: self.code,
            octets: Cow::Owned(self.octets.into_owned()),
            is_servers: self.is_servers,
        }
    }

    /// The text of each line, without code, separator and CRLF, as received. There is at least one.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.octets.split_inclusive(|octet| *octet == b'\n');
        lines.map(|line| {
            let line = line.strip_suffix(b"\r\n").unwrap_or(line);
            line.get(4..).unwrap_or_default()
        })
    }

    /// The text of the first line.
    pub(super) fn first_line(&self) -> &[u8] {
        self.lines().next().unwrap_or_default()
    }

    /// The reply as received, CRLFs included; empty for a reply of our own.
    #[must_use]
    pub fn verbatim(&self) -> &[u8] {
        match self.is_servers {
            true => &self.octets,
            false => &[],
        }
    }

    /// The first digit of the code. It alone decides (RFC 5321 §4.2.1).
    pub(crate) fn class(&self) -> u16 {
        self.code / 100
    }

    /// 2yz.
    pub(super) fn is_positive(&self) -> bool {
        self.class() == 2
    }

    /// 3yz.
    pub(super) fn is_intermediate(&self) -> bool {
        self.class() == 3
    }

    /// 4yz or 5yz.
    pub(super) fn is_negative(&self) -> bool {
        matches!(self.class(), 4 | 5)
    }

    /// The enhanced code (RFC 2034 §4, RFC 3463 §2), if the first line begins with one whose class fits the code.
    pub(super) fn enhanced(&self) -> Option<String> {
        let word = self
            .first_line()
            .split(|b| *b == b' ')
            .next()
            .unwrap_or_default();
        let word = std::str::from_utf8(word).ok()?;
        let numbers: Vec<&str> = word.split('.').collect();
        let number = |n: &&str| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
        let well_formed = numbers.len() == 3
            && numbers.iter().all(number)
            && numbers[0] == self.class().to_string();
        well_formed.then(|| word.to_owned())
    }

    /// The bytes for the client. Text is HT and printable ASCII (RFC 5321 §4.2), and UTF-8 where the transaction uses
    /// SMTPUTF8 (RFC 6531 §3.7.4.1). A `?` replaces every other octet and every control character.
    #[must_use]
    pub fn into_bytes(self, smtputf8: bool) -> Vec<u8> {
        if self.is_plain_line() {
            return self.octets.into_owned();
        }
        let mut bytes = Vec::with_capacity(self.octets.len());
        for line in self.octets.split_inclusive(|octet| *octet == b'\n') {
            // What is not printable is in the text, between code and CRLF.
            let (head, rest) = line.split_at_checked(4).unwrap_or((line, &[]));
            let (text, end) = rest.split_at(rest.len().saturating_sub(2));
            bytes.extend_from_slice(head);
            bytes.extend_from_slice(&printable(text, smtputf8));
            bytes.extend_from_slice(end);
        }
        bytes
    }

    /// Whether it is one line of printable ASCII, as nearly all replies are.
    fn is_plain_line(&self) -> bool {
        let line = self.octets.strip_suffix(b"\r\n");
        line.is_some_and(|line| line.iter().all(|b| matches!(b, 0x20..=0x7e)))
    }

    /// The length of a reply that the client may get from where it was read, because [`into_bytes`](Self::into_bytes) would change nothing.
    pub(super) fn passable(&self) -> Option<usize> {
        let is_borrowed = matches!(self.octets, Cow::Borrowed(_));
        (is_borrowed && self.is_plain_line()).then_some(self.octets.len())
    }
}

/// Writes one line of a reply of our own. No octet of the text can end the line.
fn put_line(octets: &mut Vec<u8>, code: u16, text: &[u8], is_last: bool) {
    let digit = |n: u16| b'0' + (n % 10) as u8;
    octets.extend([digit(code / 100), digit(code / 10), digit(code)]);
    if !(is_last && text.is_empty()) {
        octets.push(if is_last { b' ' } else { b'-' });
    }
    let whole = |octet: &u8| match octet {
        b'\r' | b'\n' => b'?',
        other => *other,
    };
    octets.extend(text.iter().map(whole));
    octets.extend(b"\r\n");
}

impl From<&Refusal> for Reply<'static> {
    fn from(refusal: &Refusal) -> Self {
        let (subject, detail) = refusal.enhanced;
        let text = printable(refusal.text.as_bytes(), false);
        let text = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)]);
        let class = refusal.code / 100;
        Self::new(refusal.code, &format!("{class}.{subject}.{detail} {text}"))
    }
}

/// The text as it can be shown; see [`Reply::into_bytes`].
fn printable(text: &[u8], utf8: bool) -> Cow<'_, [u8]> {
    let ascii = |b: &u8| matches!(b, b'\t' | 0x20..=0x7e);
    if text.iter().all(ascii) {
        return Cow::Borrowed(text);
    }
    match std::str::from_utf8(text) {
        Ok(text) if utf8 => Cow::Owned(
            text.chars()
                .map(|c| if reorders_or_controls(c) { '?' } else { c })
                .collect::<String>()
                .into_bytes(),
        ),
        _ => Cow::Owned(
            text.iter()
                .map(|b| if ascii(b) { *b } else { b'?' })
                .collect(),
        ),
    }
}

/// Control characters other than HT, and characters that reverse the reading direction.
fn reorders_or_controls(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The part of a reply that a server's bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplyPart<'a> {
    /// A line of this many octets that more lines follow.
    More(usize),
    /// The last line, of this many octets, and the whole reply.
    Whole(usize, Reply<'a>),
    /// Not decidable yet.
    Partial,
    /// Two parsers could read the line differently, or it exceeds a limit.
    Malformed,
}

/// Assembles replies line by line.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// A reply whose last line is not in, and the number of its lines.
    unfinished: Option<(Reply<'static>, usize)>,
}

impl ReplyReader {
    /// Reads the line that `bytes` begin with.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> ReplyPart<'a> {
        let length = match framing::line(bytes, framing::MAX_REPLY_LINE) {
            framing::Line::Whole(length) => length,
            framing::Line::Partial => return ReplyPart::Partial,
            framing::Line::TooLong | framing::Line::Broken => return ReplyPart::Malformed,
        };
        let line = &bytes[..length];
        let Some((code, is_last)) = head(&line[..length - 2]) else {
            return ReplyPart::Malformed;
        };
        let (reply, lines) = match self.unfinished.take() {
            Some((mut reply, lines)) => {
                if reply.code != code
                    || lines == MAX_LINES
                    || reply.octets.len() + length > MAX_OCTETS
                {
                    return ReplyPart::Malformed;
                }
                reply.octets.to_mut().extend_from_slice(line);
                (reply, lines)
            }
            None => {
                let reply = Reply {
                    code,
                    octets: Cow::Borrowed(line),
                    is_servers: true,
                };
                (reply, 0)
            }
        };
        if is_last {
            return ReplyPart::Whole(length, reply);
        }
        self.unfinished = Some((reply.into_owned(), lines + 1));
        ReplyPart::More(length)
    }

    /// Whether some lines of a reply are in, but not its last.
    pub(super) fn is_amid(&self) -> bool {
        self.unfinished.is_some()
    }
}

/// The code of a line, and whether it is the last line; `None` if it is no reply line. The first digit must be 2 to 5: the standard has
/// no other, and 1yz would leave open how many replies a command has (RFC 5321 §4.2.1).
fn head(line: &[u8]) -> Option<(u16, bool)> {
    let (code, rest) = line.split_at_checked(3)?;
    if !matches!(code[0], b'2'..=b'5') || !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = code.iter().fold(0, |n, b| n * 10 + u16::from(b - b'0'));
    match rest.first() {
        None | Some(b' ') => Some((code, true)),
        Some(b'-') => Some((code, false)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the first reply of `bytes`, cut at `cut`.
    fn read(bytes: &[u8], cut: usize) -> ReplyPart<'_> {
        let mut reader = ReplyReader::default();
        let (mut taken, mut end) = (0, cut);
        loop {
            match reader.read(&bytes[taken..end]) {
                ReplyPart::More(n) => taken += n,
                ReplyPart::Partial if end < bytes.len() => end = bytes.len(),
                other => return other,
            }
        }
    }

    #[test]
    fn a_reply_is_read_alike_wherever_it_is_cut() {
        let bytes = b"250-mx.example\r\n250-SIZE 1000\r\n250\r\n354 next\r\n";
        for cut in 0..bytes.len() {
            let ReplyPart::Whole(5, reply) = read(bytes, cut) else {
                panic!("cut at {cut}");
            };
            assert_eq!(reply.code, 250);
            let lines: Vec<_> = reply.lines().collect();
            assert_eq!(lines, [&b"mx.example"[..], b"SIZE 1000", b""]);
            assert_eq!(reply.verbatim(), &bytes[..bytes.len() - 10]);
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_malformed() {
        for bytes in [
            &b"250-a\r\n550 b\r\n"[..],
            b"250-a\n250 b\r\n",
            b"250 a\n",
            b"250 a\rb\r\n",
            b"250 a\0b\r\n",
            b"150 a\r\n",
            b"650 a\r\n",
            b"25 a\r\n",
            b"2500 a\r\n",
            b"250\ta\r\n",
            b"\r\n",
            b"ok\r\n",
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(
                    read(bytes, cut),
                    ReplyPart::Malformed,
                    "{bytes:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn replies_are_bounded_in_line_lines_and_octets() {
        let long = [b"250 ".as_slice(), &[b'x'; framing::MAX_REPLY_LINE]].concat();
        assert_eq!(read(&long, 1), ReplyPart::Malformed);
        assert_eq!(
            read(&b"250-x\r\n".repeat(MAX_LINES + 1), 1),
            ReplyPart::Malformed
        );
        let line = [b"250-".as_slice(), &[b'x'; 2000], b"\r\n"].concat();
        assert_eq!(read(&line.repeat(40), 1), ReplyPart::Malformed);
    }

    #[test]
    fn text_is_printable_and_utf8_only_where_it_was_agreed() {
        let ReplyPart::Whole(_, reply) = read("250 a\x1b[1m é \u{202e}b\r\n".as_bytes(), 1) else {
            panic!("whole");
        };
        assert_eq!(reply.clone().into_bytes(false), b"250 a?[1m ?? ???b\r\n");
        assert_eq!(reply.into_bytes(true), "250 a?[1m é ?b\r\n".as_bytes());
    }

    #[test]
    fn a_line_of_our_own_ends_where_it_is_made_to_end() {
        let reply = Reply::of_lines(250, ["a\r\n550 b", "\n", ""]);
        assert_eq!(reply.verbatim(), b"");
        let lines: Vec<_> = reply.lines().collect();
        assert_eq!(lines, [&b"a??550 b"[..], b"?", b""]);
        assert_eq!(reply.into_bytes(true), b"250-a??550 b\r\n250-?\r\n250\r\n");
    }

    #[test]
    fn a_reply_that_can_be_shown_goes_on_as_it_came() {
        for octets in [
            &b"250-mx\r\n250\r\n"[..],
            b"334 \r\n",
            b"250-\r\n250 \tx\r\n",
        ] {
            let ReplyPart::Whole(_, reply) = read(octets, 1) else {
                panic!("whole");
            };
            assert_eq!(reply.into_bytes(false), octets);
        }
    }

    #[test]
    fn a_refusal_is_one_short_line_with_its_enhanced_code() {
        let refusal = Refusal {
            code: 451,
            enhanced: (7, 5),
            text: format!("evil\r\n250 {}", "x".repeat(1000)),
            cause: crate::smtp::refusal::Cause::Verdict,
        };
        let bytes = Reply::from(&refusal).into_bytes(false);
        assert!(bytes.starts_with(b"451 4.7.5 evil??250 x"));
        assert!(bytes.len() <= 512);
    }
}
