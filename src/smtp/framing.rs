//! Finds where a line and a message end, and refuses everything that two parsers could read differently.
//!
//! Only CR LF ends a line (RFC 5321 §2.3.8), and only CR LF `.` CR LF ends DATA (§4.1.1.4). Nothing here stores bytes: bytes
//! that cannot be decided yet stay with the caller, so the answer cannot depend on how the bytes were cut into segments.
//!
//! Written by hand: this is what the program exists for, and a parser that forgives would hide where two servers disagree.

use memchr::{memchr, memchr3};

/// Longest command line, CRLF included, in octets. RFC 5321 §4.5.3.1.4 asks for 512; the extensions that pass add less than
/// 1,200 (RFC 1870, RFC 3461, RFC 4954). It is the only limit of a local part.
pub(super) const MAX_COMMAND: usize = 2048;
/// Longest line of an AUTH exchange, CRLF included, in octets (RFC 4954 §4).
pub(super) const MAX_AUTH_LINE: usize = 12_288;
/// Longest reply line, CRLF included, in octets; RFC 5321 §4.5.3.1.5 asks for 512.
pub(super) const MAX_REPLY_LINE: usize = 2048;

/// What some bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line of this many octets, CRLF included.
    Whole(usize),
    /// Not decidable yet.
    Partial,
    /// No line end within the limit.
    TooLong,
    /// A CR or LF that is half of a line end, or a NUL.
    Broken,
}

/// Finds the line that `bytes` begin with; `limit` is in octets and includes CRLF.
pub(super) fn line(bytes: &[u8], limit: usize) -> Line {
    let window = &bytes[..bytes.len().min(limit)];
    match memchr3(b'\r', b'\n', 0, window) {
        Some(at) if bytes[at] == b'\r' => match bytes.get(at + 1) {
            Some(b'\n') if at + 2 <= limit => Line::Whole(at + 2),
            Some(b'\n') => Line::TooLong,
            Some(_) => Line::Broken,
            None => Line::Partial,
        },
        Some(_) => Line::Broken,
        None if bytes.len() >= limit => Line::TooLong,
        None => Line::Partial,
    }
}

/// What the bytes of a message are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// This many octets are content; the octets behind them cannot be decided yet.
    Content(usize),
    /// This many octets are content; the three behind them (`.` CRLF) end the message.
    End(usize),
    /// This many octets are content; then a line with a bare CR, a bare LF or a NUL follows.
    Violation(usize),
}

/// Octets of the line that ends DATA: `.` CRLF.
pub(super) const END_OF_DATA: usize = 3;

/// Looks for the end of DATA. A CR is content only together with its LF, and a dot at the start of a line only together with the
/// octet behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataScanner {
    line_start: bool,
}

impl Default for DataScanner {
    /// Before the first octet: a first line of `.` ends an empty message.
    fn default() -> Self {
        Self { line_start: true }
    }
}

impl DataScanner {
    /// Scans `bytes`. Octets that are neither content nor the end must be offered again.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if self.line_start {
                if rest.starts_with(b".\r\n") {
                    return Scan::End(at);
                }
                if b".\r".starts_with(rest) {
                    return Scan::Content(at);
                }
            }
            let Some(special) = memchr3(b'\r', b'\n', 0, rest) else {
                self.line_start &= rest.is_empty();
                return Scan::Content(bytes.len());
            };
            match (rest[special], rest.get(special + 1)) {
                (b'\r', Some(b'\n')) => {
                    at += special + 2;
                    self.line_start = true;
                }
                (b'\r', None) => {
                    self.line_start &= special == 0;
                    return Scan::Content(at + special);
                }
                _ => return Scan::Violation(at),
            }
        }
    }

    /// Continues after the message was given up: finds the end of what the client still sends of it.
    pub(super) fn skipper(self) -> MessageSkipper {
        MessageSkipper {
            matched: if self.line_start { 2 } else { 0 },
        }
    }
}

/// Looks for CR LF `.` CR LF and nothing else, in the rest of a message that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageSkipper {
    matched: usize,
}

impl MessageSkipper {
    /// How many of `bytes` belong to the message, and whether they end it.
    pub(super) fn skip(&mut self, bytes: &[u8]) -> (usize, bool) {
        const END: &[u8] = b"\r\n.\r\n";
        let mut at = 0;
        while at < bytes.len() {
            if self.matched == 0 {
                match memchr(b'\r', &bytes[at..]) {
                    Some(cr) => at += cr,
                    None => return (bytes.len(), false),
                }
            }
            let byte = bytes[at];
            at += 1;
            // The longest border of every prefix that fails is at most its last CR.
            self.matched = if byte == END[self.matched] {
                self.matched + 1
            } else {
                usize::from(byte == b'\r')
            };
            if self.matched == END.len() {
                return (at, true);
            }
        }
        (at, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_crlf_ends_a_line() {
        assert_eq!(line(b"NOOP\r\nQUIT\r\n", 512), Line::Whole(6));
        assert_eq!(line(b"NOOP\r", 512), Line::Partial);
        assert_eq!(line(b"", 512), Line::Partial);
        for broken in [
            &b"NOOP\n"[..],
            b"NO\rOP\r\n",
            b"NO\0OP\r\n",
            b"\n",
            b"NOOP\r\r\n",
        ] {
            assert_eq!(line(broken, 512), Line::Broken, "{broken:?}");
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_its_limit_and_no_longer() {
        assert_eq!(line(b"12345678\r\n", 10), Line::Whole(10));
        assert_eq!(line(b"123456789\r\n", 10), Line::TooLong);
        assert_eq!(line(b"1234567890", 10), Line::TooLong);
        assert_eq!(line(b"123456789", 10), Line::Partial);
        assert_eq!(line(b"123456789\r", 10), Line::Partial);
    }

    /// Feeds `bytes` in segments cut at `cut`; returns content octets, what follows, and whether it ended or broke.
    fn feed(bytes: &[u8], cut: usize) -> (usize, Scan) {
        let mut scanner = DataScanner::default();
        let mut taken = 0;
        for end in [cut, bytes.len()] {
            match scanner.scan(&bytes[taken..end]) {
                Scan::Content(n) => taken += n,
                other => return (taken, other),
            }
        }
        (taken, Scan::Content(0))
    }

    #[test]
    fn data_ends_at_crlf_dot_crlf_wherever_it_is_cut() {
        for (message, content) in [
            (&b".\r\n"[..], 0),
            (b"a\r\n.\r\nQUIT\r\n", 3),
            (b"\r\n.\r\n", 2),
            (b"..\r\n.a\r\n. \r\n.\r\n", 12),
            (b"a.\r\n\r\n.\r\n", 6),
        ] {
            for cut in 0..message.len() {
                let (taken, last) = feed(message, cut);
                match last {
                    Scan::End(n) => assert_eq!(taken + n, content, "{message:?} cut at {cut}"),
                    other => panic!("{message:?} cut at {cut}: {other:?}"),
                }
            }
        }
    }

    /// Octets that some server takes for the end of DATA and this proxy does not.
    const SMUGGLED: &[&[u8]] = &[
        b"\n.\n",
        b"\n.\r\n",
        b"\n.\r",
        b"\r.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\0\n.\r\n",
        b"\0\r\n.\r\n",
        b"\r\n.\r\0\n",
    ];

    #[test]
    fn ambiguous_ends_of_data_are_violations_and_no_ambiguous_octet_is_content() {
        for sequence in SMUGGLED {
            let bytes = [b"text", *sequence, b"MAIL FROM:<a@b>\r\n.\r\n"].concat();
            for cut in 0..bytes.len() {
                let (taken, last) = feed(&bytes, cut);
                let Scan::Violation(n) = last else {
                    panic!("{sequence:?} cut at {cut}: {last:?}");
                };
                let passed = &bytes[..taken + n];
                let clean = passed.strip_suffix(b"\r\n").unwrap_or(passed);
                assert!(!clean.iter().any(|b| b"\r\n\0".contains(b)), "{passed:?}");
            }
        }
    }

    #[test]
    fn the_rest_of_a_refused_message_reaches_to_its_true_end_only() {
        for sequence in SMUGGLED {
            let bytes = [*sequence, b"x\r\n.\r\nQUIT\r\n"].concat();
            for cut in 0..bytes.len() {
                let mut skipper = DataScanner { line_start: false }.skipper();
                let (first, ended) = skipper.skip(&bytes[..cut]);
                let taken = if ended {
                    first
                } else {
                    first + skipper.skip(&bytes[first..]).0
                };
                let end = memchr::memmem::find(&bytes, b"\r\n.\r\n").expect("ends") + 5;
                assert_eq!(taken, end, "{bytes:?} cut at {cut}");
            }
        }
        assert_eq!(
            DataScanner::default().skipper().skip(b".\r\nQUIT\r\n"),
            (3, true)
        );
    }
}
