//! The lines of a log's files, in large reads and without a copy of each line.

use crate::audit::{chain::Header, rotated};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// Octets of one read.
const READ: usize = 1 << 20;

/// Where a line stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinePosition {
    /// Index of the file in the list of files.
    pub(crate) file: usize,
    /// Number of the line in its file, from 1.
    pub(crate) line: u64,
}

/// One line of a log.
pub(crate) struct LogLine<'a> {
    /// The line without its LF.
    pub(crate) bytes: &'a [u8],
    /// Whether the line ends with LF.
    pub(super) whole: bool,
    pub(crate) position: LinePosition,
    /// Octets before it in its file.
    pub(super) offset: u64,
}

impl LogLine<'_> {
    /// The time of the record, read from its fixed place; `None` where the line is no record.
    pub(crate) fn time(&self) -> Option<&[u8]> {
        Header::read(self.bytes).map(|header| header.at)
    }
}

/// The lines of several files, one file after the other.
pub(crate) struct LogLines<'a> {
    files: &'a [PathBuf],
    /// `None` before the file at `next` is opened.
    open: Option<File>,
    buffer: Vec<u8>,
    /// The part of the buffer that was read and not given out yet.
    begin: usize,
    end: usize,
    /// Position and offset of the next line.
    next: LinePosition,
    offset: u64,
}

impl<'a> LogLines<'a> {
    pub(crate) fn new(files: &'a [PathBuf]) -> Self {
        Self::of_file(files, 0)
    }

    fn of_file(files: &'a [PathBuf], file: usize) -> Self {
        Self {
            files,
            open: None,
            buffer: vec![0; READ],
            begin: 0,
            end: 0,
            next: LinePosition { file, line: 1 },
            offset: 0,
        }
    }

    /// The line at `position` and all behind it.
    pub(super) fn from(files: &'a [PathBuf], position: LinePosition) -> io::Result<Self> {
        let mut lines = Self::of_file(files, position.file);
        for _ in 1..position.line {
            lines.next()?;
        }
        Ok(lines)
    }

    /// # Errors
    /// A file cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<LogLine<'_>>> {
        let Some((length, whole)) = self.find()? else {
            return Ok(None);
        };
        let (begin, position, offset) = (self.begin, self.next, self.offset);
        self.begin += length + usize::from(whole);
        self.offset += length as u64 + u64::from(whole);
        self.next.line += 1;
        Ok(Some(LogLine {
            bytes: &self.buffer[begin..begin + length],
            whole,
            position,
            offset,
        }))
    }

    /// What `next` will give.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn peek(&mut self) -> io::Result<Option<LogLine<'_>>> {
        let Some((length, whole)) = self.find()? else {
            return Ok(None);
        };
        Ok(Some(LogLine {
            bytes: &self.buffer[self.begin..self.begin + length],
            whole,
            position: self.next,
            offset: self.offset,
        }))
    }

    /// The length of the next line, which the buffer then has, and whether it ends with LF. `None` behind the last file.
    fn find(&mut self) -> io::Result<Option<(usize, bool)>> {
        loop {
            let Some(path) = self.files.get(self.next.file) else {
                return Ok(None);
            };
            if self.open.is_none() {
                self.open = Some(File::open(path).map_err(|error| named(path, &error))?);
            }
            match self.find_line()? {
                (0, false) => {
                    let file = self.next.file + 1;
                    self.next = LinePosition { file, line: 1 };
                    (self.open, self.offset) = (None, 0);
                }
                found => return Ok(Some(found)),
            }
        }
    }

    /// Octets of the file that is being read.
    pub(super) fn length(&self) -> io::Result<u64> {
        match &self.open {
            Some(file) => Ok(file.metadata()?.len()),
            None => Ok(0),
        }
    }

    /// Reads on to the next LF or the end of the file. Gives the octets before it, and whether there is an LF.
    fn find_line(&mut self) -> io::Result<(usize, bool)> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.begin..self.end];
            if let Some(at) = memchr::memchr(b'\n', &unread[searched..]) {
                return Ok((searched + at, true));
            }
            searched = unread.len();
            if self.fill()? == 0 {
                return Ok((searched, false));
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let Some(file) = &mut self.open else {
            return Ok(0);
        };
        let read = file.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Octets of all files.
pub(super) fn octets(files: &[PathBuf]) -> io::Result<u64> {
    files
        .iter()
        .try_fold(0, |sum, file| Ok(sum + fs::metadata(file)?.len()))
}

/// The files of one log, oldest first. A single file stands for itself and all files that were rotated out of it.
///
/// # Errors
/// A file or its directory cannot be read.
pub(crate) fn in_order(files: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut files = files.to_vec();
    if let [file] = &files[..] {
        let mut all = rotated(file)?;
        all.append(&mut files);
        files = all;
    }
    let mut numbered = Vec::new();
    for file in files {
        let open = File::open(&file).map_err(|error| named(&file, &error))?;
        let mut line = Vec::new();
        BufReader::new(open.take(1 << 24)).read_until(b'\n', &mut line)?;
        line.pop();
        // A file whose first line is no record goes where its name puts it, else to the end.
        let first = Header::read(&line)
            .map(|header| header.seq)
            .or_else(|| in_name(&file));
        numbered.push((first.unwrap_or(u64::MAX), file));
    }
    numbered.sort_by_key(|(first, _)| *first);
    let mut ordered: Vec<(u64, PathBuf)> = Vec::new();
    for (first, file) in numbered {
        match ordered.last_mut() {
            Some((of, last)) if *of == first && begins_with(&file, last)? => *last = file,
            Some((of, last)) if *of == first && begins_with(last, &file)? => {}
            _ => ordered.push((first, file)),
        }
    }
    Ok(ordered.into_iter().map(|(_, file)| file).collect())
}

/// Whether `file` is `beginning` with more behind it. Then `beginning` is a copy that adds nothing. `mv` to another file system
/// makes such a copy while the log is being written, and the log goes on with all of it.
fn begins_with(file: &Path, beginning: &Path) -> io::Result<bool> {
    let length = fs::metadata(beginning)?.len();
    if length == 0 || length >= fs::metadata(file)?.len() {
        return Ok(false);
    }
    let mut files = [File::open(file)?, File::open(beginning)?];
    let mut blocks = [vec![0; READ], vec![0; READ]];
    let mut left = length;
    while left > 0 {
        let size = usize::try_from(left).map_or(READ, |left| left.min(READ));
        for (file, block) in files.iter_mut().zip(&mut blocks) {
            file.read_exact(&mut block[..size])?;
        }
        if blocks[0][..size] != blocks[1][..size] {
            return Ok(false);
        }
        left -= size as u64;
    }
    Ok(true)
}

/// The number at the end of a rotated file's name.
fn in_name(file: &Path) -> Option<u64> {
    let digits = file.extension()?.to_str()?;
    (digits.len() >= 12).then(|| digits.parse().ok()).flatten()
}
