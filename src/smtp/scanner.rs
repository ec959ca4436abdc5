//! Finds where a message ends, and refuses everything in it that two parsers could read differently.
//!
//! Only CR LF ends a line (RFC 5321 §2.3.8), and only CR LF `.` CR LF ends DATA (§4.1.1.4). Nothing here stores bytes: bytes
//! that cannot be decided yet stay with the caller, so the answer cannot depend on how the bytes were cut into segments.
//!
//! Nearly all octets that pass the proxy are octets of messages. So whole blocks of them are proven to decide nothing, by loops
//! without branches, of which the compiler makes vector instructions. Only where a block may decide something are its octets
//! looked at one by one. `scanner/reference.rs` is the same scanner in its plainest form, for the tests; the two are equal on
//! every input and every cut. `tests/budget_scanner.rs` holds how many instructions a message takes, because a compiler that
//! finds no vector instructions says nothing.
//!
//! Written by hand, as the framing of lines is. It uses nothing but the core library, so that the fuzz target and the budget can
//! take this file alone.

#[cfg(test)]
mod reference;
#[cfg(test)]
pub(super) mod tests;

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
    /// Whether the next octet begins a line.
    pub(super) fn is_at_line_start(self) -> bool {
        self.line_start
    }

    /// Scans `bytes`. Octets that are neither content nor the end must be offered again.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scan {
        if let Some(b'\n' | 0) = bytes.first() {
            return Scan::Violation(0);
        }
        if self.line_start && bytes.starts_with(b".\r\n") {
            return Scan::End(0);
        }
        let mut clean = clean_until(bytes);
        while clean < bytes.len() {
            clean = without_line_end_until::<PART>(bytes, clean);
            for (at, pair) in (clean..).zip(bytes.windows(2).skip(clean - 1)).take(PART) {
                let (before, octet) = (pair[0], pair[1]);
                if (before == b'\r') != (octet == b'\n') || octet == 0 {
                    let last_end = bytes[..at].iter().rposition(is_lf);
                    return Scan::Violation(last_end.map_or(0, |end| end + 1));
                }
                if before == b'\n' && octet == b'.' && bytes[at..].starts_with(b".\r\n") {
                    return Scan::End(at);
                }
            }
            clean += PART;
        }
        let content = match bytes.strip_suffix(b"\r").unwrap_or(bytes) {
            b"." if self.line_start => b"",
            [content @ .., b'.'] if content.ends_with(b"\n") => content,
            content => content,
        };
        if let Some(&last) = content.last() {
            self.line_start = last == b'\n';
        }
        Scan::Content(content.len())
    }
}

/// Octets that are tested at once.
const BLOCK: usize = 128;
/// The octet before a block, the block, and the two behind it.
type Block = [u8; BLOCK + 3];
/// Octets that are tested at once in a block that may decide something.
const PART: usize = 16;
/// So few octets are looked at one by one: a block of padding around them would cost more.
const FEW: usize = 12;
/// Octets in which lines of equal length are looked for at once, as many as fit in whole.
const WINDOW: usize = 1024;
/// Lengths of such lines, CRLF included. The search costs something for each line, so shorter ones would not gain.
const EQUAL_LENGTHS: std::ops::RangeInclusive<usize> = 32..=WINDOW / 4;
/// Octets until they are looked for again where there were none: looking costs as much as some blocks.
const RETRY: usize = 8 * 1024;

/// A place in `bytes`, 1 at least, before which nothing decides, except perhaps the first octet: there is no violation, and no
/// end of the message begins before it or at it.
fn clean_until(bytes: &[u8]) -> usize {
    let mut at = 1;
    let mut are_long = false;
    let mut retry = 0;
    while let Some(block) = bytes.get(at - 1..).and_then(<[u8]>::first_chunk) {
        let least = least_unless_suspicious(block);
        if least == 0 {
            return at;
        }
        at += BLOCK;
        let behind = at;
        if are_long || least > b'\r' {
            at = without_line_end_until::<BLOCK>(bytes, behind);
            are_long = at > behind;
        } else if at >= retry {
            at = equal_lines_until(bytes, behind);
            retry = if at > behind { 0 } else { at + RETRY };
        }
    }
    match bytes.get(at - 1..) {
        Some(rest) if rest.len() > FEW => {
            let mut block: Block = [b' '; BLOCK + 3];
            block[..rest.len()].copy_from_slice(rest);
            if rest.ends_with(b"\r") {
                block[rest.len()] = b'\n';
            }
            match least_unless_suspicious(&block) {
                0 => at,
                _ => bytes.len().min(at + BLOCK),
            }
        }
        _ => at,
    }
}

/// The least octet of a block, or 0 if something in it may decide. Without dots at the start of lines the shorter test is
/// enough. With them the longer one still keeps a block from being looked at octet by octet.
fn least_unless_suspicious(block: &Block) -> u8 {
    match least_if_clean::<false>(block) {
        0 => least_if_clean::<true>(block),
        least => least,
    }
}

/// The least octet of a block, or 0 if there is a bare CR or LF, a NUL, or a dot behind a line end; with `ALONE` only a dot that
/// has a CR behind it, too. One loop for each part of it, because of those the compiler makes vector instructions.
fn least_if_clean<const ALONE: bool>(block: &Block) -> u8 {
    let mut suspicious = [0; BLOCK];
    for at in 0..BLOCK {
        suspicious[at] = mask(block[at + 1] == b'\n') & mask(block[at + 2] == b'.');
    }
    if ALONE {
        for at in 0..BLOCK {
            suspicious[at] &= mask(block[at + 3] == b'\r');
        }
    }
    for at in 0..BLOCK {
        suspicious[at] |= mask(block[at] == b'\r') ^ mask(block[at + 1] == b'\n');
    }
    if suspicious.iter().fold(0, |all, one| all | one) != 0 {
        return 0;
    }
    least(&block[1..=BLOCK])
}

fn is_lf(octet: &u8) -> bool {
    *octet == b'\n'
}

fn mask(is: bool) -> u8 {
    if is { u8::MAX } else { 0 }
}

fn least(octets: &[u8]) -> u8 {
    octets
        .iter()
        .fold(u8::MAX, |least, &octet| least.min(octet))
}

/// Goes on from `at` by `N` octets at a time while there is no line end.
fn without_line_end_until<const N: usize>(bytes: &[u8], mut at: usize) -> usize {
    while let Some(octets) = bytes.get(at - 1..).and_then(<[u8]>::first_chunk::<N>)
        && least(octets) > b'\r'
    {
        at += N - 1;
    }
    at
}

/// Goes on from `at`, behind a block, while all lines have one length. Attachments are such lines (RFC 2045 §6.8), and most
/// octets of mail are attachments.
fn equal_lines_until(bytes: &[u8], at: usize) -> usize {
    if bytes.len() - at < 2 * WINDOW {
        return at;
    }
    let block = at - BLOCK;
    match bytes[block..at].iter().rposition(is_lf) {
        Some(lf) => at.max(block + lf + equal_lines(&bytes[block + lf + 1..])),
        None => at,
    }
}

/// How many octets are whole lines as long as the first. Where their ends must be is known then, and all other octets are looked
/// at for nothing but being greater than CR.
fn equal_lines(lines: &[u8]) -> usize {
    let first = &lines[..lines.len().min(*EQUAL_LENGTHS.end())];
    let begin = without_line_end_until::<PART>(first, 1) - 1;
    let length = first[begin..]
        .iter()
        .position(is_lf)
        .map(|lf| begin + lf + 1);
    let Some(length) = length.filter(|length| EQUAL_LENGTHS.contains(length)) else {
        return 0;
    };
    if !lines[..2 * length].ends_with(b"\r\n") {
        return 0;
    }
    let whole = WINDOW - WINDOW % length;
    let mut ends = [0; WINDOW];
    for line in ends[..whole].chunks_exact_mut(length) {
        line[length - 2..].fill(u8::MAX);
    }
    ends[whole..].fill(u8::MAX);
    let mut proven = 0;
    while let Some(window) = lines[proven..].first_chunk::<WINDOW>() {
        let are_equal = window
            .chunks_exact(length)
            .all(|line| line.ends_with(b"\r\n"));
        let octets = window.iter().zip(&ends);
        let least = octets.fold(u8::MAX, |least, (&octet, &end)| least.min(octet | end));
        if !are_equal || least <= b'\r' {
            break;
        }
        proven += whole;
    }
    proven
}
