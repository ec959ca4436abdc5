//! Lines of files, in large reads and without a copy of each.

use crate::audit::{chain::Header, rotated};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// Octets of one read.
const READ: usize = 1 << 20;

pub(crate) struct Line<'a> {
    /// Without its LF.
    pub(crate) bytes: &'a [u8],
    /// It had one.
    pub(crate) whole: bool,
    /// From 1.
    pub(crate) number: u64,
    /// Where it begins.
    pub(crate) offset: u64,
}

pub(crate) struct Lines {
    file: File,
    buffer: Vec<u8>,
    /// What of the buffer was read and not given out yet.
    begin: usize,
    end: usize,
    number: u64,
    offset: u64,
}

impl Lines {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path).map_err(|error| named(path, &error))?,
            buffer: vec![0; READ],
            begin: 0,
            end: 0,
            number: 0,
            offset: 0,
        })
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut searched = 0;
        let (length, whole) = loop {
            let unread = &self.buffer[self.begin..self.end];
            if let Some(at) = memchr::memchr(b'\n', &unread[searched..]) {
                break (searched + at, true);
            }
            searched = unread.len();
            if self.fill()? == 0 {
                break (searched, false);
            }
        };
        if length == 0 && !whole {
            return Ok(None);
        }
        let (begin, offset) = (self.begin, self.offset);
        self.number += 1;
        self.begin += length + usize::from(whole);
        self.offset += length as u64 + u64::from(whole);
        Ok(Some(Line {
            bytes: &self.buffer[begin..begin + length],
            whole,
            number: self.number,
            offset,
        }))
    }

    /// Octets of the file.
    pub(crate) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = self.file.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Octets of all files.
pub(crate) fn octets(files: &[PathBuf]) -> io::Result<u64> {
    files
        .iter()
        .try_fold(0, |sum, file| Ok(sum + fs::metadata(file)?.len()))
}

/// The files of one log, oldest first. One file stands for itself and all that were rotated out of it.
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
        // A first line that is no record is looked at where the name, or the command line, puts it.
        let first = Header::read(&line)
            .map(|header| header.seq)
            .or_else(|| in_name(&file));
        numbered.push((first.unwrap_or(u64::MAX), file));
    }
    numbered.sort_by_key(|(first, _)| *first);
    let mut kept: Vec<(u64, PathBuf)> = Vec::new();
    for (first, file) in numbered {
        match kept.last_mut() {
            Some((of, last)) if *of == first && begins_with(&file, last)? => *last = file,
            Some((of, last)) if *of == first && begins_with(last, &file)? => {}
            _ => kept.push((first, file)),
        }
    }
    Ok(kept.into_iter().map(|(_, file)| file).collect())
}

/// Whether `file` is `beginning` and more: then that is a copy which says nothing of its own. `mv` to another file system makes
/// one while the log is being written, and the log goes on with all of it.
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
