//! Finds where a line ends, and refuses everything that two parsers could read differently. For messages `scanner.rs` does.
//!
//! Only CR LF ends a line (RFC 5321 §2.3.8). Nothing here stores bytes: bytes that cannot be decided yet stay with the caller,
//! so the answer cannot depend on how the bytes were cut into segments.
//!
//! Written by hand: this is what the program exists for, and a parser that forgives would hide where two servers disagree.

use super::scanner::DataScanner;
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

/// Looks for CR LF `.` CR LF and nothing else, in the rest of a message that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageSkipper {
    matched: usize,
}

impl MessageSkipper {
    /// Continues behind what the scanner passed: finds the end of what the client still sends of the message.
    pub(super) fn behind(scanner: DataScanner) -> Self {
        let matched = if scanner.is_at_line_start() { 2 } else { 0 };
        Self { matched }
    }

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
    use crate::smtp::scanner::{Scan, tests::SMUGGLED};

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

    #[test]
    fn the_rest_of_a_refused_message_reaches_to_its_true_end_only() {
        let mut scanner = DataScanner::default();
        assert_eq!(scanner.scan(b"text"), Scan::Content(4));
        for sequence in SMUGGLED {
            let bytes = [*sequence, b"x\r\n.\r\nQUIT\r\n"].concat();
            for cut in 0..bytes.len() {
                let mut skipper = MessageSkipper::behind(scanner);
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
        let mut skipper = MessageSkipper::behind(DataScanner::default());
        assert_eq!(skipper.skip(b".\r\nQUIT\r\n"), (3, true));
    }
}
