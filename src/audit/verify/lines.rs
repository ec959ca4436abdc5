//! The lines of a log's files, in large reads and without a copy of each line.

use super::listed::ListedFile;
use crate::{
    audit::{
        chain::Header,
        reader::{LONGEST_LINE, LogReader, damage, too_long},
    },
    files::named,
};
use std::{
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// Octets of one read.
const READ: usize = 1 << 20;

/// Where a line stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Whether it stands in the last file.
    is_newest: bool,
    pub(crate) position: LinePosition,
    /// Why nothing behind this line can be read of its file, where that is so. The line is what is left before the damage, or some of it.
    pub(crate) fault: Option<&'a str>,
}

impl LogLine<'_> {
    /// Whether it ends with LF.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether it is the line that is just being written, or what a crash left of it.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.is_newest && !self.whole && self.fault.is_none()
    }

    /// The time of the record, read from its fixed place; `None` where the line is no record.
    pub(crate) fn time(&self) -> Option<&[u8]> {
        Header::read(self.bytes).map(|header| header.at)
    }

    /// What the record is about, read in the same way.
    pub(crate) fn event(&self) -> Option<&[u8]> {
        Header::read(self.bytes).map(|header| header.event)
    }
}

/// The lines of several files, one file after the other.
pub(crate) struct LogLines<'a> {
    files: &'a [ListedFile],
    /// `None` before the file at `next` is opened.
    open: Option<LogReader>,
    /// Why the open file cannot be read any further.
    fault: Option<String>,
    /// What the open file ends with was given out: a fault, or a line without LF. The next file follows, even if a program that is just
    /// writing goes on with that line.
    ended: bool,
    /// Octets of the files that were read whole, as they are on disk.
    taken: u64,
    buffer: Vec<u8>,
    /// The part of the buffer that was read and not given out yet.
    begin: usize,
    end: usize,
    /// Position of the next line.
    next: LinePosition,
}

impl<'a> LogLines<'a> {
    pub(crate) fn new(files: &'a [ListedFile]) -> Self {
        Self::of_file(files, 0)
    }

    fn of_file(files: &'a [ListedFile], file: usize) -> Self {
        Self {
            files,
            open: None,
            fault: None,
            ended: false,
            taken: 0,
            buffer: vec![0; READ],
            begin: 0,
            end: 0,
            next: LinePosition { file, line: 1 },
        }
    }

    /// The line at `position` and all behind it.
    pub(super) fn from(files: &'a [ListedFile], position: LinePosition) -> io::Result<Self> {
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
        let (begin, position) = (self.begin, self.next);
        self.begin += length + usize::from(whole);
        self.next.line += 1;
        self.ended = !whole;
        Ok(Some(LogLine {
            bytes: &self.buffer[begin..begin + length],
            whole,
            is_newest: position.file + 1 == self.files.len(),
            position,
            fault: self.fault.as_deref().filter(|_| !whole),
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
            is_newest: self.next.file + 1 == self.files.len(),
            position: self.next,
            fault: self.fault.as_deref().filter(|_| !whole),
        }))
    }

    /// The length of the next line, which the buffer then has, and whether it ends with LF. `None` behind the last file.
    fn find(&mut self) -> io::Result<Option<(usize, bool)>> {
        loop {
            let Some(file) = self.files.get(self.next.file) else {
                return Ok(None);
            };
            if self.ended {
                self.go_on();
                continue;
            }
            if self.open.is_none() {
                let open = file.open().map_err(|error| named(file.path(), &error))?;
                self.open = Some(open);
            }
            let found = self
                .find_line()
                .map_err(|error| named(file.path(), &error))?;
            if found != (0, false) || self.fault.is_some() {
                return Ok(Some(found));
            }
            self.go_on();
        }
    }

    /// Goes on with the next file.
    fn go_on(&mut self) {
        let file = self.next.file + 1;
        self.next = LinePosition { file, line: 1 };
        self.taken = self.taken();
        (self.open, self.fault, self.ended) = (None, None, false);
        (self.begin, self.end) = (0, 0);
        self.buffer.truncate(READ);
        self.buffer.shrink_to_fit(); // a long line has made it larger
    }

    /// Octets read so far of the files as they are on disk.
    pub(super) fn taken(&self) -> u64 {
        self.taken + self.open.as_ref().map_or(0, LogReader::taken)
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
                return Ok((self.end - self.begin, false));
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        let (Some(file), None) = (&mut self.open, &self.fault) else {
            return Ok(0);
        };
        if self.end == self.buffer.len() {
            if self.end >= LONGEST_LINE {
                self.fault = Some(too_long().to_string());
                self.end = READ; // nobody needs all of what is no record
                return Ok(0);
            }
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        match file.read(&mut self.buffer[self.end..]) {
            Ok(read) => {
                self.end += read;
                Ok(read)
            }
            Err(error) => {
                self.fault = Some(damage(&error).ok_or(error)?);
                Ok(0)
            }
        }
    }
}

/// Octets of all files, as they were on disk when they were listed.
pub(super) fn octets(files: &[ListedFile]) -> u64 {
    files.iter().map(ListedFile::octets).sum()
}

/// The files of one log.
pub(crate) struct LogOrder {
    /// Oldest first.
    pub(crate) files: Vec<ListedFile>,
    /// The number of the first record of each.
    pub(crate) first_records: Vec<u64>,
    /// Files that are not read, each with the file that is read in its place: other forms of it, and copies that add nothing.
    pub(crate) left_out: Vec<(PathBuf, PathBuf)>,
}

impl LogOrder {
    /// The files from the one on that begins with record number `from`, and how many stand before it. All, for 0 and where none of them is
    /// so old.
    ///
    /// # Errors
    /// That record stands inside a file.
    pub(crate) fn behind(&self, from: u64) -> io::Result<(&[ListedFile], usize)> {
        let older = self.first_records.partition_point(|first| *first < from);
        let begins = self.first_records.get(older) == Some(&from);
        match older
            .checked_sub(1)
            .and_then(|last| Some((self.first_records.get(last)?, self.files.get(last)?)))
        {
            Some((first, file)) if !begins => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "record {from} does not begin a file here: give --from the first record of one, such as {first} of {}",
                    file.path().display()
                ),
            )),
            _ => Ok((&self.files[older..], older)),
        }
    }

    /// What to tell people about each file that is not read.
    pub(crate) fn remarks(&self) -> impl Iterator<Item = String> {
        self.left_out.iter().map(|(file, read)| {
            let (file, read) = (file.display(), read.display());
            format!("{file} was not read, because {read} is there, too")
        })
    }
}

/// Puts the files of one log in order. `left_out` are forms of them that are not read, each with the one that is.
///
/// # Errors
/// A file cannot be read.
pub(super) fn in_order(
    files: Vec<ListedFile>,
    mut left_out: Vec<(PathBuf, PathBuf)>,
) -> io::Result<LogOrder> {
    let mut numbered = Vec::new();
    for file in files {
        let line = first_line(&file).map_err(|error| named(file.path(), &error))?;
        // A file whose first line is no record goes where its name puts it, else to the end.
        let first = Header::read(&line)
            .map(|header| header.seq)
            .or_else(|| file.named_first());
        numbered.push((first.unwrap_or(u64::MAX), file));
    }
    numbered.sort_by_key(|(first, _)| *first);
    let mut ordered: Vec<(u64, ListedFile)> = Vec::new();
    for (first, file) in numbered {
        match ordered.last_mut() {
            Some((of, last)) if *of == first && begins_with(&file, last)? => {
                left_out.push((last.path().to_owned(), file.path().to_owned()));
                *last = file;
            }
            Some((of, last)) if *of == first && begins_with(last, &file)? => {
                left_out.push((file.path().to_owned(), last.path().to_owned()));
            }
            _ => ordered.push((first, file)),
        }
    }
    let (first_records, files) = ordered.into_iter().unzip();
    Ok(LogOrder {
        files,
        first_records,
        left_out,
    })
}

/// The first line of a file without its LF; what is there of it where the file is damaged.
fn first_line(file: &ListedFile) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let open = file.open()?.take(LONGEST_LINE as u64);
    match BufReader::new(open).read_until(b'\n', &mut line) {
        Err(error) if damage(&error).is_none() => return Err(error),
        _ => {}
    }
    line.pop();
    Ok(line)
}

/// The time of a file's first record, `None` where there is none.
pub(crate) fn first_time(file: &Path) -> Option<String> {
    let line = first_line(&ListedFile::find(file).ok()?).ok()?;
    let header = Header::read(&line)?;
    Some(String::from_utf8_lossy(header.at).into_owned())
}

/// Whether `file` is `beginning` with more behind it. Then `beginning` is a copy that adds nothing. `mv` to another file system
/// makes such a copy while the log is being written, and the log goes on with all of it.
fn begins_with(file: &ListedFile, beginning: &ListedFile) -> io::Result<bool> {
    let lengths = [file.octets(), beginning.octets()];
    let open = |file: &ListedFile| file.open().map_err(|error| named(file.path(), &error));
    let mut files = [open(file)?, open(beginning)?];
    let are_plain = files.iter().all(LogReader::is_plain);
    if lengths[1] == 0 || (are_plain && lengths[1] >= lengths[0]) {
        return Ok(false);
    }
    let mut blocks = [vec![0; READ], vec![0; READ]];
    loop {
        let mut read = [0, 0];
        let paths = [file.path(), beginning.path()];
        let buffers = files.iter_mut().zip(&mut blocks).zip(paths);
        for (((file, block), path), read) in buffers.zip(&mut read) {
            match read_full(file, block) {
                Ok(octets) => *read = octets,
                Err(error) if damage(&error).is_some() => return Ok(false),
                Err(error) => return Err(named(path, &error)),
            }
        }
        let [all, part] = read;
        if part > all || blocks[0][..part] != blocks[1][..part] {
            return Ok(false);
        }
        if part < READ {
            return Ok(part < all);
        }
    }
}

/// Fills the buffer as far as the file goes.
fn read_full(file: &mut LogReader, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write};

    #[test]
    fn the_rest_of_a_line_that_was_given_without_its_end_is_no_line() {
        let path = std::env::temp_dir().join(format!("lines-{}", std::process::id()));
        fs::write(&path, "whole\nha").unwrap();
        let files = [ListedFile::find(&path).unwrap()];
        let mut lines = LogLines::new(&files);
        let mut next = || {
            let line = lines.next().unwrap();
            line.map(|line| (line.bytes.to_vec(), line.whole))
        };
        assert_eq!(next(), Some((b"whole".to_vec(), true)));
        assert_eq!(next(), Some((b"ha".to_vec(), false)));
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        file.write_all(b"lf\n").unwrap();
        assert_eq!(next(), None);
        fs::remove_file(path).unwrap();
    }
}
