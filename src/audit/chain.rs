//! The chain: each line carries the hash of the line before it.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use std::{fmt, time::SystemTime};

/// Begins every line of this version; the hash of the line before follows.
const PREFIX: &[u8] = b"{\"v\":1,\"prev\":\"";
const AFTER_PREV: &[u8] = b"\",\"seq\":";
const AFTER_SEQ: &[u8] = b",\"at\":\"";
const AFTER_AT: &[u8] = b"\",\"event\":\"";
/// The form of a time; each 0 stands for a digit.
const TIME: &[u8; 27] = b"0000-00-00T00:00:00.000000Z";

/// SHA-256 of a line without its LF.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of `line`, which is given without its LF.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, line).as_ref());
        Self(hash)
    }

    /// Reads a hash from 64 hexadecimal digits in lower case.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        HEXLOWER.decode(text).ok()?.try_into().ok().map(Self)
    }

    fn digits(self) -> [u8; 64] {
        let mut text = [0; 64];
        HEXLOWER.encode_mut(&self.0, &mut text);
        text
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", HEXLOWER.encode_display(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether `text` agrees with the form of a time as far as it goes.
fn has_form_of_time(text: &[u8]) -> bool {
    text.iter().zip(TIME).all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        _ => byte == form,
    })
}

/// Whether `text` is the beginning of a time, from the year on: `2026`, `2026-11-24T06`, or all of it.
fn begins_time(text: &str) -> bool {
    (4..=TIME.len()).contains(&text.len()) && has_form_of_time(text.as_bytes())
}

/// The beginning of the times of records (UTC) that `text` means: itself, if it is one, or a whole time (RFC 3339) as exact as it is
/// written.
#[must_use]
pub(crate) fn beginning_of_time(text: &str) -> Option<String> {
    if begins_time(text) {
        return Some(text.to_owned());
    }
    let time: Timestamp = text.parse().ok()?;
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let digits = digits.min(6);
    let utc = format!("{time:.digits$}");
    utc.strip_suffix('Z').map(str::to_owned)
}

/// The end of a chain: the number of its records, and the hash of the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Head {
    /// Number of records; also the `seq` of the next record.
    pub size: u64,
    /// Hash of the last record; also the `prev` of the next record.
    pub hash: Hash,
}

impl Head {
    /// Appends one line to `lines`, LF included. `at` is a time as [`timestamp`] gives it, `body` is a JSON object that begins with its `event`.
    pub(super) fn append(&mut self, lines: &mut Vec<u8>, at: &[u8], body: &[u8]) {
        debug_assert!(at.len() == TIME.len() && body.starts_with(b"{\"event\":\""));
        let start = lines.len();
        lines.extend_from_slice(PREFIX);
        lines.extend_from_slice(&self.hash.digits());
        lines.extend_from_slice(AFTER_PREV);
        lines.extend_from_slice(self.size.to_string().as_bytes());
        lines.extend_from_slice(AFTER_SEQ);
        lines.extend_from_slice(at);
        lines.extend_from_slice(b"\",");
        lines.extend_from_slice(&body[1..]);
        self.size += 1;
        self.hash = Hash::of(&lines[start..]);
        lines.push(b'\n');
    }
}

/// The fields at the beginning of a line, read from their fixed places, so that verifying a log is bounded by hashing, not by parsing
/// JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// Hexadecimal digits, if the line is as it was written.
    prev: &'a [u8; 64],
    pub(super) seq: u64,
    pub(super) at: &'a [u8],
    pub(super) event: &'a [u8],
}

impl<'a> Header<'a> {
    /// `None` where the line is no record of this format.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        let (prev, rest) = line.strip_prefix(PREFIX)?.split_first_chunk()?;
        let rest = rest.strip_prefix(AFTER_PREV)?;
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || digits > 19 || (digits > 1 && rest[0] == b'0') {
            return None;
        }
        let seq = rest[..digits]
            .iter()
            .fold(0, |seq, digit| seq * 10 + u64::from(digit - b'0'));
        let rest = rest[digits..].strip_prefix(AFTER_SEQ)?;
        let (at, rest) = rest.split_at_checked(TIME.len())?;
        if !has_form_of_time(at) {
            return None;
        }
        let rest = rest.strip_prefix(AFTER_AT)?;
        let event = &rest[..rest.iter().position(|&b| b == b'"')?];
        line.ends_with(b"}").then_some(Self {
            prev,
            seq,
            at,
            event,
        })
    }

    /// The end of the chain behind this line.
    pub(super) fn head(&self, line: &[u8]) -> Head {
        Head {
            size: self.seq + 1,
            hash: Hash::of(line),
        }
    }

    pub(super) fn follows(&self, head: &Head) -> bool {
        self.seq == head.size && self.links_to(head.hash)
    }

    pub(super) fn links_to(&self, hash: Hash) -> bool {
        *self.prev == hash.digits()
    }

    /// The hash of the line before, as this line names it; `None` if it is not written in hexadecimal digits.
    pub(super) fn prev(&self) -> Option<Hash> {
        Hash::parse(self.prev)
    }
}

/// A time as records write it: UTC, microseconds, 27 octets. A time before 1970 or after 9999 becomes the nearest one in range, so
/// that a wrong clock causes no crash.
#[must_use]
pub(crate) fn timestamp(at: SystemTime) -> String {
    let at = Timestamp::try_from(at.max(SystemTime::UNIX_EPOCH)).unwrap_or(Timestamp::MAX);
    format!("{at:.6}")
}

/// The text that [`timestamp`] gives.
pub(super) type Time = [u8; TIME.len()];

/// Writes the times of records. Many records fall into one second; of their times only the microseconds are written anew.
#[derive(Default)]
pub(super) struct TimeWriter {
    /// A second since 1970, and its beginning as text.
    second: Option<(u64, Time)>,
}

impl TimeWriter {
    /// The text that [`timestamp`] gives.
    pub(super) fn time(&mut self, at: SystemTime) -> Time {
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if let Some((second, text)) = &mut self.second
            && *second == since.as_secs()
        {
            let mut rest = since.subsec_micros();
            for place in (20..26).rev() {
                text[place] = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            return *text;
        }
        let mut text = *TIME;
        text.copy_from_slice(timestamp(at).as_bytes());
        let is_in_range = since.as_secs() <= Timestamp::MAX.as_second().unsigned_abs();
        self.second = is_in_range.then_some((since.as_secs(), text));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_taken_as_exact_as_it_is_written_and_in_utc() {
        for (text, expected) in [
            ("2026", Some("2026")),
            ("2026-11-29T05:21", Some("2026-11-29T05:21")),
            ("2026-11-29T05:21:30Z", Some("2026-11-29T05:21:30")),
            ("2026-11-29T06:21:30+01:00", Some("2026-11-29T05:21:30")),
            ("2026-11-29T05:21:30.25Z", Some("2026-11-29T05:21:30.25")),
            ("yesterday", None),
        ] {
            let found = beginning_of_time(text);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_line_names_the_line_before_at_the_documented_places() {
        let (mut head, mut lines) = (Head::default(), Vec::new());
        let at = timestamp(SystemTime::UNIX_EPOCH + Duration::from_micros(1_800_000_000_000_001));
        head.append(&mut lines, at.as_bytes(), b"{\"event\":\"stop\",\"n\":1}");
        let first = head;
        head.append(&mut lines, at.as_bytes(), b"{\"event\":\"stop\",\"n\":2}");
        let text = String::from_utf8(lines).unwrap();
        let [one, two] = text.lines().collect::<Vec<_>>()[..] else {
            panic!("two lines")
        };
        assert_eq!(
            one,
            format!(
                r#"{{"v":1,"prev":"{}","seq":0,"at":"2027-01-15T08:00:00.000001Z","event":"stop","n":1}}"#,
                "0".repeat(64)
            )
        );
        assert_eq!(&two[5..6], "1");
        assert_eq!(&two[15..79], first.hash.to_string());
        assert_eq!(&two[87..88], "1");
        assert_eq!(first.hash, Hash::of(one.as_bytes()));
        let header = Header::read(two.as_bytes()).unwrap();
        assert!(header.follows(&first) && !header.follows(&head));
        assert_eq!(
            (header.seq, header.at, header.event),
            (1, at.as_bytes(), &b"stop"[..])
        );
        assert_eq!(header.prev(), Some(first.hash));
    }

    #[test]
    fn times_that_follow_each_other_are_written_as_each_alone() {
        let mut times = TimeWriter::default();
        let nanos = [0, 999, 1_000, 1_500, 999_999_499, 999_999_999];
        for second in [
            0,
            1,
            1_795_500_300,
            1_795_500_300,
            1 << 40,
            1 << 40,
            253_402_207_200,
        ] {
            for nano in nanos {
                let at = SystemTime::UNIX_EPOCH + Duration::new(second, nano);
                assert_eq!(times.time(at), timestamp(at).as_bytes(), "{second}.{nano}");
            }
        }
        let before = SystemTime::UNIX_EPOCH - Duration::from_nanos(1_500);
        assert_eq!(times.time(before), timestamp(before).as_bytes());
    }

    #[test]
    fn clocks_out_of_range_still_make_27_octets() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(timestamp(far).len(), TIME.len());
        assert_eq!(timestamp(before), "1970-01-01T00:00:00.000000Z");
    }
}
