//! The scanner of messages in its plainest form, which looks at one line at a time. `scanner.rs` is equal to it on every input
//! and every cut. The unit tests and the fuzz target `scanner` compare the two.

use super::{DataScanner, Scan};

#[derive(Clone, Copy, Debug)]
struct PlainScanner {
    line_start: bool,
}

impl PlainScanner {
    fn scan(&mut self, bytes: &[u8]) -> Scan {
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
            let is_special = |octet: &u8| matches!(octet, b'\r' | b'\n' | 0);
            let Some(special) = rest.iter().position(is_special) else {
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
}

/// Offers `bytes` to both scanners in segments that end at `cuts`, as a session does: what is not content is offered again.
pub(super) fn assert_both_scan_alike(bytes: &[u8], is_line_start: bool, cuts: &[usize]) {
    let mut plain = PlainScanner {
        line_start: is_line_start,
    };
    let mut scanner = DataScanner::default();
    if !is_line_start {
        assert_eq!(scanner.scan(b"a"), Scan::Content(1));
    }
    let mut taken = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        let offered = &bytes[taken..cut];
        let expected = plain.scan(offered);
        let found = scanner.scan(offered);
        assert!(
            found == expected,
            "{found:?} instead of {expected:?} behind {taken} octets, cut at {cut}, of {}",
            bytes.escape_ascii()
        );
        let Scan::Content(len) = expected else {
            return;
        };
        assert!(
            scanner.is_at_line_start() == plain.line_start,
            "the state behind {taken} + {len} octets, cut at {cut}, of {}",
            bytes.escape_ascii()
        );
        taken += len;
    }
}

/// A message and where it is cut, from two octets for each of its parts.
pub(super) fn message(script: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut cuts) = (Vec::new(), Vec::new());
    for part in script.as_chunks::<2>().0 {
        let [what, count] = *part;
        let line = || [&vec![b'a'; usize::from(count)][..], b"\r\n"].concat();
        match what % 16 {
            0 | 1 => bytes.extend_from_slice(b"\r\n"),
            2 => bytes.extend_from_slice(b"\r\n."),
            3 => bytes.push(b'\r'),
            4 => bytes.push(b"\n\0"[usize::from(count % 2)]),
            5 => bytes.push(b'.'),
            6 => bytes.push(count),
            7 => bytes.extend(vec![b'a'; usize::from(count % 8)]),
            8 | 9 => bytes.extend(vec![b'a'; usize::from(count)]),
            10 => bytes.extend(vec![b'a'; 8 * usize::from(count)]),
            11 => bytes.extend(line()),
            12 => bytes.extend(line().repeat(32)),
            13 => bytes.extend([b".", &line()[..]].concat()),
            _ => cuts.push(bytes.len().saturating_sub(usize::from(count % 4))),
        }
        if bytes.len() > 64 * 1024 {
            break;
        }
    }
    cuts.sort_unstable();
    (bytes, cuts)
}
