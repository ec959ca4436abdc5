//! The lines of a log's files when the log is opened. Whatever stands in a file, no line takes more memory than the longest record has,
//! and no compressed file more time than the largest file of a log.

use crate::audit::{
    chain::Header,
    reader::{LONGEST_LINE, LogReader, too_long},
};
use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

/// Octets of one read.
const READ: usize = 1 << 20;
/// Octets that no compressed file of a log has unpacked: eight times those at which a file is rotated.
const MOST_UNPACKED: u64 = 2 << 30;

/// Octets that every record has.
const SHORTEST: u64 = 128;
/// How many lines of a compressed file may be shorter. A few octets can unpack to thousands of millions of lines.
const MOST_SHORT: u32 = 1 << 20;

/// The lines of a file, in their order.
pub(super) struct BoundedLines<R> {
    from: BufReader<R>,
    /// What is kept of the present line, with its LF.
    line: Vec<u8>,
    /// Whether a line that is longer than any record is an error, and too many that are shorter. A compressed file can go on with
    /// either for ever.
    is_strict: bool,
    /// How many lines were shorter.
    short: u32,
}

/// One line, or what stands behind the last LF.
pub(super) struct BoundedLine<'a> {
    /// The line without its LF; of a line that is too long, its beginning.
    pub(super) bytes: &'a [u8],
    /// Octets of the line in the file, with its LF.
    pub(super) octets: u64,
    /// It ends with LF.
    pub(super) is_whole: bool,
    pub(super) has_nul: bool,
    is_too_long: bool,
}

impl<'a> BoundedLine<'a> {
    /// The fields with which the line begins; `None` where it is no whole record.
    pub(super) fn header(&self) -> Option<Header<'a>> {
        let may_be = self.is_whole && !self.is_too_long && !self.has_nul;
        may_be.then(|| Header::read(self.bytes)).flatten()
    }
}

impl<'a> BoundedLines<io::Take<&'a File>> {
    /// The lines of a plain file from there to its present end.
    pub(super) fn of_plain(mut file: &'a File, begin: u64) -> io::Result<Self> {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(begin))?;
        Ok(Self::new(file.take(length.saturating_sub(begin))))
    }
}

impl BoundedLines<UnpackedLog> {
    /// The lines of a file that may be compressed.
    ///
    /// # Errors
    /// The file cannot be opened. That it is damaged, or larger than a log's file can be, is an error of [`next`](Self::next).
    pub(super) fn of_file(path: &Path) -> io::Result<Self> {
        let file = LogReader::open(path)?;
        let is_strict = !file.is_plain();
        let unpacked = UnpackedLog {
            left: is_strict.then_some(MOST_UNPACKED),
            file,
        };
        Ok(Self {
            is_strict,
            ..Self::new(unpacked)
        })
    }
}

impl<R: Read> BoundedLines<R> {
    fn new(from: R) -> Self {
        Self {
            from: BufReader::with_capacity(READ, from),
            line: Vec::new(),
            is_strict: false,
            short: 0,
        }
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<BoundedLine<'_>>> {
        self.line.clear();
        let (mut octets, mut has_nul, mut is_whole) = (0, false, false);
        while !is_whole {
            let some = self.from.fill_buf()?;
            if some.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', some);
            let part = &some[..end.map_or(some.len(), |end| end + 1)];
            is_whole = end.is_some();
            has_nul |= memchr::memchr(0, part).is_some();
            let room = LONGEST_LINE - self.line.len();
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            let taken = part.len();
            octets += taken as u64;
            self.from.consume(taken);
            if self.is_strict && octets > LONGEST_LINE as u64 {
                return Err(too_long());
            }
        }
        self.short += u32::from(self.is_strict && octets < SHORTEST);
        if self.short > MOST_SHORT {
            let words = format!("more than {MOST_SHORT} of its lines are too short for records");
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        let is_too_long = octets > self.line.len() as u64;
        let end = self.line.len() - usize::from(is_whole && !is_too_long);
        Ok((octets > 0).then(|| BoundedLine {
            bytes: &self.line[..end],
            octets,
            is_whole,
            has_nul,
            is_too_long,
        }))
    }
}

/// A file of a log, unpacked up to a limit.
pub(super) struct UnpackedLog {
    file: LogReader,
    /// Octets that may still come; `None`: as many as there are.
    left: Option<u64>,
}

impl Read for UnpackedLog {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let Some(left) = &mut self.left else {
            return Ok(read);
        };
        *left = left.checked_sub(read as u64).ok_or_else(|| {
            let words = format!(
                "it unpacks to more than {} GiB, and no file of a log does",
                MOST_UNPACKED >> 30
            );
            io::Error::new(io::ErrorKind::InvalidData, words)
        })?;
        Ok(read)
    }
}

/// Whether records stand in the file behind its first `begin` octets that are none of the lines in `ours`.
pub(super) fn has_others(file: &File, begin: u64, ours: &[u8]) -> io::Result<bool> {
    let ours: HashSet<&[u8]> = ours.split(|&octet| octet == b'\n').collect();
    let mut lines = BoundedLines::of_plain(file, begin)?;
    while let Some(line) = lines.next()? {
        if line.header().is_some() && !ours.contains(line.bytes) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_not_kept() {
        let long = vec![b'{'; LONGEST_LINE + 5];
        let text = [&b"first\n"[..], &long, b"\nthird\n\nfi\0th"].concat();
        let mut lines = BoundedLines::new(&text[..]);
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            assert!(line.bytes.len() <= LONGEST_LINE);
            found.push((line.octets, line.is_whole, line.has_nul, line.is_too_long));
        }
        assert!(lines.line.capacity() <= 2 * LONGEST_LINE);
        let expected = [
            (6, true, false, false),
            (long.len() as u64 + 1, true, false, true),
            (6, true, false, false),
            (1, true, false, false),
            (5, false, true, false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_compressed_file_is_read_up_to_its_limit_and_an_endless_line_up_to_the_longest_record() {
        let path = std::env::temp_dir().join(format!("bounded-lines-{}", std::process::id()));
        std::fs::write(&path, "a\n".repeat(500)).unwrap();
        let limited = |left| {
            let mut lines = BoundedLines::new(UnpackedLog {
                file: LogReader::open(&path).unwrap(),
                left: Some(left),
            });
            lines.next().map(|line| line.map(|line| line.octets))
        };
        assert_eq!(limited(1000).unwrap(), Some(2));
        let error = limited(999).unwrap_err().to_string();
        assert!(error.contains("more than 2 GiB"), "{error}");
        std::fs::remove_file(path).unwrap();
        let mut lines = BoundedLines::new(io::repeat(b' '));
        lines.is_strict = true;
        let Err(error) = lines.next() else {
            panic!("a line");
        };
        let mut lines_without_end = BoundedLines::new(io::repeat(b'\n'));
        lines_without_end.is_strict = true;
        let short = loop {
            match lines_without_end.next() {
                Ok(line) => assert!(line.is_some()),
                Err(error) => break error.to_string(),
            }
        };
        assert!(short.contains("too short for records"), "{short}");
        assert!(
            error.to_string().contains("without the end of a line"),
            "{error}"
        );
    }
}
