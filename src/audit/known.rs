//! The end of the log as it is remembered outside the log's files, so that a log whose end was cut off gives itself away.
//!
//! `FILE.lock` has it as one line: the word `head`, the number of records, the hash of the last one, the compact range of the tree over
//! them (`-` where there is none), and the SHA-256 of the line up to there, all hashes in hexadecimal. It is written after the records are durable, and
//! nothing waits for it. So it may lag the log after a power failure, but never leads it.

use super::{
    chain::{Hash, Head},
    naming::{LOCK, with_suffix},
    tree::RecordTree,
};
use crate::files::{beginning, regular};
use data_encoding::HEXLOWER;
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// Octets that are read of `FILE.lock`. The line has less than 5,000, and what may stand behind it says nothing.
pub(super) const LONGEST: u64 = 8192;

/// The number of records, the hash of the last one, and the tree over them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownEnd {
    pub(super) head: Head,
    pub(super) tree: RecordTree,
}

impl KnownEnd {
    /// Puts the line into `line`, whose memory is used again.
    pub(super) fn write(&self, line: &mut Vec<u8>) {
        line.clear();
        let _ = write!(line, "head {} ", self.head.size); // memory takes all
        append_hex(self.head.hash, line);
        line.push(b' ');
        for root in self.tree.roots() {
            append_hex(*root, line);
        }
        if self.tree.size() == 0 {
            line.push(b'-');
        }
        line.push(b' ');
        append_hex(Hash::of(line), line);
        line.push(b'\n');
    }

    /// Reads the first line of `FILE.lock`. `None` where it is torn, or something else.
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        let line = &content[..content.iter().position(|&b| b == b'\n')?];
        let (said, sum) = line.split_at_checked(line.len().checked_sub(64)?)?;
        if Hash::parse(sum)? != Hash::of(said) {
            return None;
        }
        let said = str::from_utf8(said).ok()?.strip_suffix(' ')?;
        let mut words = said.strip_prefix("head ")?.split(' ');
        let (size, hash, range) = (words.next()?, words.next()?, words.next()?);
        let size = size.parse().ok()?;
        let range = match range {
            "-" => Vec::new(),
            range => HEXLOWER.decode(range.as_bytes()).ok()?,
        };
        let hash = Hash::parse(hash.as_bytes())?;
        Some(Self {
            head: Head { size, hash },
            tree: RecordTree::from_range(size, &range)?,
        })
    }

    /// What is remembered of the log at `file`; `None` where nothing readable is there.
    pub(super) fn of_log(file: &Path) -> Option<Self> {
        let lock = regular(&lock_of(file)).ok()?;
        Self::read(&beginning(lock, LONGEST).ok()?)
    }
}

fn append_hex(hash: Hash, line: &mut Vec<u8>) {
    let begin = line.len();
    line.resize(begin + 64, 0);
    HEXLOWER.encode_mut(&hash.0, &mut line[begin..]);
}

/// `FILE.lock` of the log at `file`.
pub(super) fn lock_of(file: &Path) -> PathBuf {
    with_suffix(file, LOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(size: u64) -> KnownEnd {
        let mut end = KnownEnd::default();
        for number in 0..size {
            let hash = Hash::of(&number.to_be_bytes());
            end.tree.push(hash);
            end.head = Head {
                size: number + 1,
                hash,
            };
        }
        end
    }

    #[test]
    fn what_is_written_is_read_back_also_over_a_longer_line() {
        let (mut line, mut file) = (Vec::new(), Vec::new());
        for size in (0..70).rev() {
            end(size).write(&mut line);
            let length = line.len().max(file.len());
            file.resize(length, 0);
            file[..line.len()].copy_from_slice(&line);
            assert_eq!(KnownEnd::read(&file), Some(end(size)));
        }
    }

    #[test]
    fn a_torn_or_changed_line_counts_as_none() {
        let mut line = Vec::new();
        end(37).write(&mut line);
        for length in 0..line.len() {
            assert_eq!(KnownEnd::read(&line[..length]), None);
        }
        for place in 0..line.len() {
            let mut changed = line.clone();
            changed[place] ^= 1;
            assert_eq!(KnownEnd::read(&changed), None, "octet {place}");
        }
        let mut newer = Vec::new();
        end(38).write(&mut newer);
        // Half of the newer line stands over the older one.
        newer.truncate(100);
        newer.extend_from_slice(&line[100..]);
        assert_eq!(KnownEnd::read(&newer), None);
    }
}
