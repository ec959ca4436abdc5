//! The end of a log, and the tree over its records, as they are found when the log is opened.

use super::{aside::copied_aside, lines::BoundedLines};
use crate::audit::{
    OpenError, TornField, WireText,
    chain::{Hash, Head},
    known::KnownEnd,
    naming::rotated,
    reader::{damage, is_plain},
    tree::{RecordTree, TreeStart},
};
use aws_lc_rs::digest;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Octets of a file's end that are read first to find its last record, and at most: a crash leaves less behind it.
const WINDOW: u64 = 1 << 20;
const LAST_WINDOW: u64 = 512 << 20;
/// Octets of a torn line that a record keeps.
const TORN_TEXT: u64 = 4096;
/// Octets that a disk writes at once. A power failure leaves each of these blocks old or new.
const SECTOR: u64 = 512;
/// How every record begins.
const BEGIN: &[u8] = b"{\"v\":1,\"prev\":\"";

/// The end of a log, as it is found when the log is opened.
#[derive(Debug)]
pub(in crate::audit) struct LogEnd {
    /// Where the chain goes on.
    pub(in crate::audit) end: KnownEnd,
    /// Records before that are not there, or others stand in their place: the end of what is found.
    pub(in crate::audit) cut: Option<Head>,
    /// Octets in the current file.
    pub(in crate::audit) length: u64,
    /// Number of the first record in the current file, or of the next one if it is empty, or if records are not there.
    pub(in crate::audit) first: u64,
    /// When the current file was last written; `None` if it is empty.
    pub(in crate::audit) modified: Option<SystemTime>,
    pub(in crate::audit) torn: Option<TornField>,
    /// Where a copy of the current file is, as it was found. It had records behind its damage that had been durable.
    pub(in crate::audit) copied: Option<PathBuf>,
    /// An older file that was wanted and is damaged: its name, and how. What is remembered of the end was enough without it.
    pub(in crate::audit) damaged: Option<String>,
}

/// Why the end is not found.
enum EndFault {
    Open(OpenError),
    /// The content of this file is to blame.
    Damaged(PathBuf, String),
}

impl EndFault {
    fn of(file: &Path, error: &io::Error) -> Self {
        match damage(error) {
            Some(how) => Self::Damaged(file.to_owned(), how),
            None => Self::Open(OpenError::of(&file.display(), error)),
        }
    }

    /// The name of the file that is damaged, and how.
    fn damaged(self) -> Result<String, OpenError> {
        match self {
            Self::Open(error) => Err(error),
            Self::Damaged(file, how) => Ok(format!("{}: {how}", file.display())),
        }
    }
}

impl From<EndFault> for OpenError {
    fn from(fault: EndFault) -> Self {
        match fault.damaged() {
            Err(error) => error,
            Ok(words) => Self::Wrong(format!(
                "{words}: put a good copy in its place, or move all files of this log away, with the one that ends in .lock, to begin a \
                 new log"
            )),
        }
    }
}

/// Finds the last record, in the file or else in the newest rotated file, and cuts off a torn last line. The log must have at least the
/// records that are `known` from elsewhere; else it goes on behind those.
pub(super) fn find_end(
    path: &Path,
    file: &File,
    known: Option<KnownEnd>,
) -> Result<LogEnd, OpenError> {
    let problem = |error: io::Error| OpenError::of(&path.display(), &error);
    let end = last_record(file).map_err(|error| EndFault::of(path, &error))?;
    let modified = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .ok();
    if end.is_of_no_log(file).map_err(problem)? {
        return Err(OpenError::Wrong(format!(
            "{}: not an audit log; name another file",
            path.display()
        )));
    }
    let mut files = rotated(path).map_err(problem)?;
    let mut damaged = None;
    let head = match (end.head, files.last()) {
        (Some(head), _) => head,
        (None, None) => Head::default(),
        (None, Some(newest)) => match (rotated_end(newest), &known) {
            (Ok((Some(head), true)), _) => head,
            (Ok((head, _)), Some(_)) => head.unwrap_or_default(),
            (Ok(_), None) => {
                return Err(OpenError::Wrong(format!(
                    "{}: does not end in a record: look at it with audit verify; a new chain begins once the old one is moved away",
                    newest.display()
                )));
            }
            (Err(fault), Some(known)) => {
                damaged = Some(fault.damaged()?);
                known.head
            }
            (Err(fault), None) => return Err(fault.into()),
        },
    };
    let torn = end.torn(file).map_err(problem)?;
    let mut copied = None;
    if torn.is_some() {
        // A crash alone takes nothing that was durable, so what stands there may be wanted.
        if known
            .as_ref()
            .is_some_and(|known| known.head.size > head.size)
        {
            let length = end.length + end.behind;
            copied = Some(copied_aside(path, file, length).map_err(problem)?.0);
        }
        file.set_len(end.length)
            .and_then(|()| file.sync_all())
            .map_err(problem)?;
    }
    files.push(path.to_owned());
    let (end_of_chain, cut) = match known {
        Some(known) => match goes_on(&files, &known, &head) {
            Ok(Some(tree)) => (KnownEnd { head, tree }, None),
            Ok(None) => (known, Some(head)),
            // Newer files say where the tree stood.
            Err(fault) => {
                damaged = Some(fault.damaged()?);
                let tree = tree_of(&files, &head)?;
                (KnownEnd { head, tree }, None)
            }
        },
        None => {
            let tree = tree_of(&files, &head)?;
            (KnownEnd { head, tree }, None)
        }
    };
    let first = first_in(path).map_err(|error| EndFault::of(path, &error))?;
    Ok(LogEnd {
        first: first
            .filter(|_| cut.is_none())
            .unwrap_or(end_of_chain.head.size),
        end: end_of_chain,
        cut,
        length: end.length,
        modified: first.and(modified),
        torn,
        copied,
        damaged,
    })
}

/// The last record of the log whose newest file is `file`, and the octets of `file` up to there; `None` where that is no audit log. Without
/// `file`, the last record that was rotated out of it.
pub(super) fn last_head(path: &Path, file: Option<&File>) -> io::Result<Option<(u64, Head)>> {
    let end = match file {
        Some(file) => {
            let end = last_record(file)?;
            if end.is_of_no_log(file)? {
                return Ok(None);
            }
            end
        }
        None => FileEnd::default(),
    };
    let head = match (end.head, rotated(path)?.last()) {
        (Some(head), _) => head,
        (None, Some(newest)) => end_in(newest)?.0.unwrap_or_default(),
        (None, None) => Head::default(),
    };
    Ok(Some((end.length, head)))
}

fn rotated_end(file: &Path) -> Result<(Option<Head>, bool), EndFault> {
    end_in(file).map_err(|error| EndFault::of(file, &error))
}

/// The chain's head after the last record of a rotated file, which an administrator may have compressed, and whether nothing stands
/// behind that record.
fn end_in(file: &Path) -> io::Result<(Option<Head>, bool)> {
    if is_plain(file) {
        let end = last_record(&File::open(file)?)?;
        return Ok((end.head, end.behind == 0));
    }
    let mut lines = BoundedLines::of_file(file)?;
    let (mut head, mut is_end) = (None, false);
    while let Some(line) = lines.next()? {
        let header = line.header();
        is_end = header.is_some();
        head = header.map(|header| header.head(line.bytes)).or(head);
    }
    Ok((head, is_end))
}

/// The end of one file.
#[derive(Default)]
struct FileEnd {
    /// The chain's head after the file's last whole record; `None` if it has none.
    head: Option<Head>,
    /// Octets up to the end of that record.
    length: u64,
    /// Octets behind that record.
    behind: u64,
}

impl FileEnd {
    /// Whether the file holds something else than a log or what a crash leaves of one.
    fn is_of_no_log(&self, file: &File) -> io::Result<bool> {
        Ok(self.head.is_none() && self.behind > 0 && !may_be_torn(file)?)
    }

    /// What a record says of the octets behind the last record; `None` where there are none.
    fn torn(&self, mut file: &File) -> io::Result<Option<TornField>> {
        if self.behind == 0 {
            return Ok(None);
        }
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(self.length))?;
        file.take(TORN_TEXT).read_to_end(&mut text)?;
        file.seek(SeekFrom::Start(self.length))?;
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut block = vec![0; 1 << 16];
        loop {
            let read = file.read(&mut block)?;
            if read == 0 {
                break;
            }
            digest.update(&block[..read]);
        }
        let mut hash = Hash::default();
        hash.0.copy_from_slice(digest.finish().as_ref());
        Ok(Some(TornField {
            octets: self.behind,
            sha256: hash.to_string(),
            text: WireText::escape(&text),
        }))
    }
}

/// A crash leaves part of a line, or (after a power failure) blocks of NULs that were never written. Both stand at the end with no
/// checkpoint behind them, because a checkpoint is written only when everything before it is durable. So the octets that are looked at
/// begin before the last checkpoint. Any other damage is left for `audit verify` to find.
fn last_record(file: &File) -> io::Result<FileEnd> {
    let length = file.metadata()?.len();
    let mut window = WINDOW;
    loop {
        let begin = length.saturating_sub(window);
        let mut lines = BoundedLines::of_plain(file, begin)?;
        let mut end = begin;
        if begin > 0 {
            // It begins in the middle of a line.
            end += lines.next()?.map_or(0, |line| line.octets);
        }
        let (mut head, mut good) = (None, end);
        let (mut unwritten, mut has_checkpoint) = (None, false);
        while let Some(line) = lines.next()? {
            end += line.octets;
            if line.is_whole && line.has_nul {
                unwritten.get_or_insert((head, good));
            } else if let Some(header) = line.header() {
                good = end;
                head = Some(header.head(line.bytes));
                if header.event == b"checkpoint" {
                    has_checkpoint = true;
                    unwritten = None;
                }
            }
        }
        (head, good) = unwritten.unwrap_or((head, good));
        let is_last = window >= LAST_WINDOW;
        if begin == 0 || head.is_some() && (has_checkpoint || is_last) {
            return Ok(FileEnd {
                head,
                length: good,
                behind: end - good,
            });
        }
        if is_last {
            let words = format!("its last {} MiB have no record", LAST_WINDOW >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        window *= 8;
    }
}

/// Number of a file's first record, which must be its first line.
fn first_in(file: &Path) -> io::Result<Option<u64>> {
    let mut lines = BoundedLines::of_file(file)?;
    let first = lines.next()?;
    Ok(first.and_then(|line| Some(line.header()?.seq)))
}

/// Whether a crash can have left a file without a record that was durable: the beginning of a line, or records among blocks of NULs that
/// were never written.
fn may_be_torn(file: &File) -> io::Result<bool> {
    let begins = |text: &[u8]| text.iter().zip(BEGIN).all(|(one, other)| one == other);
    let mut lines = BoundedLines::of_plain(file, 0)?;
    let mut is_first = true;
    while let Some(line) = lines.next()? {
        let written = line.bytes.split(|&octet| octet == 0).next();
        let fits = match (line.has_nul, line.is_whole) {
            (false, true) => line.header().is_some(),
            (false, false) => begins(line.bytes),
            (true, true) => matches!(line.bytes.last(), None | Some(b'}' | 0)),
            (true, false) => true,
        };
        if !fits || is_first && !begins(written.unwrap_or_default()) {
            return Ok(false);
        }
        is_first = false;
    }
    has_unwritten_blocks_only(file)
}

/// Whether NULs in the file end only where a block of the disk does, or the file.
fn has_unwritten_blocks_only(mut file: &File) -> io::Result<bool> {
    let (mut place, mut before) = (0_u64, 1);
    let mut block = vec![0; 1 << 16];
    file.seek(SeekFrom::Start(0))?;
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(true);
        }
        for &octet in &block[..read] {
            if before == 0 && octet != 0 && !place.is_multiple_of(SECTOR) {
                return Ok(false);
            }
            before = octet;
            place += 1;
        }
    }
}

/// A record of a file.
struct FoundRecord {
    seq: u64,
    /// The hash of the record before, as this one names it.
    prev: Option<Hash>,
    hash: Hash,
    /// The tree over the records before it, where it begins the log, or over those that it speaks of.
    start: Option<RecordTree>,
}

/// Hands each record of a file to `take`, until that returns `false`.
fn each_record(file: &Path, mut take: impl FnMut(FoundRecord) -> bool) -> Result<(), EndFault> {
    let problem = |error: io::Error| EndFault::of(file, &error);
    let mut lines = BoundedLines::of_file(file).map_err(problem)?;
    while let Some(line) = lines.next().map_err(problem)? {
        let Some(header) = line.header() else {
            continue;
        };
        let start = match header.seq {
            0 => Some(RecordTree::default()),
            _ => TreeStart::read(header.event, line.bytes).map(|start| start.tree),
        };
        let record = FoundRecord {
            seq: header.seq,
            prev: header.prev(),
            hash: Hash::of(line.bytes),
            start,
        };
        if !take(record) {
            break;
        }
    }
    Ok(())
}

/// The tree over all records up to `head`, if they go on behind those that are `known`: a power failure can have kept what was
/// remembered last from the disk.
fn goes_on(
    files: &[PathBuf],
    known: &KnownEnd,
    head: &Head,
) -> Result<Option<RecordTree>, EndFault> {
    let mut tree = known.tree.clone();
    if known.head == *head {
        return Ok(Some(tree));
    }
    if head.size <= known.head.size {
        return Ok(None);
    }
    // The newest files, back to the first that has what is wanted; all where none has.
    let mut begin = files.len();
    let mut has_all = false;
    while begin > 0 && !has_all {
        begin -= 1;
        each_record(&files[begin], |first| {
            has_all = first.seq <= known.head.size;
            false
        })?;
    }
    let mut last = known.head;
    let mut fits = true;
    for file in &files[begin..] {
        each_record(file, |record| {
            if record.seq < known.head.size {
                return true;
            }
            fits = record.seq == last.size && record.prev == Some(last.hash);
            tree.push(record.hash);
            last = Head {
                size: record.seq + 1,
                hash: record.hash,
            };
            fits
        })?;
        if !fits {
            return Ok(None);
        }
    }
    Ok((last == *head).then_some(tree))
}

/// The tree over all records up to `head`, from the newest files back to one that says where the tree stood.
fn tree_of(files: &[PathBuf], head: &Head) -> Result<RecordTree, OpenError> {
    if head.size == 0 {
        return Ok(RecordTree::default());
    }
    let mut begin = files.len();
    let mut start = None;
    while begin > 0 && start.is_none() {
        begin -= 1;
        // The last of the trees that the file names.
        each_record(&files[begin], |record| {
            start = record.start.or(start.take());
            true
        })?;
    }
    if let Some(mut tree) = start {
        let mut last = None;
        for file in &files[begin..] {
            each_record(file, |record| {
                if record.seq == tree.size() {
                    tree.push(record.hash);
                }
                last = Some(record.hash);
                true
            })?;
        }
        if tree.size() == head.size && last == Some(head.hash) {
            return Ok(tree);
        }
    }
    let newest = files.last().map(|file| file.display().to_string());
    Err(OpenError::Wrong(format!(
        "{}: the records before number {} are not all there, so the log cannot go on: put the older files back, or move all files of \
         this log away, with the one that ends in .lock, to begin a new log",
        newest.unwrap_or_default(),
        head.size
    )))
}
