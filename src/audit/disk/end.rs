//! The end of a log, and the tree over its records, as they are found when the log is opened.

use crate::audit::{
    OpenError, TornField, WireText,
    chain::{Hash, Head, Header},
    known::KnownEnd,
    naming::rotated,
    reader::{LogReader, tail},
    tree::{RecordTree, TreeStart},
};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Octets of a file's end that are read first to find its last record.
const WINDOW: u64 = 1 << 20;
/// Octets of a torn line that a record keeps.
const TORN_TEXT: usize = 4096;

/// The end of a log, as it is found when the log is opened.
#[derive(Debug)]
pub(in crate::audit) struct LogEnd {
    /// Where the chain goes on.
    pub(in crate::audit) end: KnownEnd,
    /// Records before that are not there, or others stand in their place: the end of what is found.
    pub(in crate::audit) cut: Option<Head>,
    /// Octets in the current file.
    pub(in crate::audit) length: u64,
    /// Number of the first record in the current file, or of the next one if it is empty.
    pub(in crate::audit) first: u64,
    /// When the current file was last written; `None` if it is empty.
    pub(in crate::audit) modified: Option<SystemTime>,
    pub(in crate::audit) torn: Option<TornField>,
}

/// Finds the last record, in the file or else in the newest rotated file, and cuts off a torn last line. The log must have at least the
/// records that are `known` from elsewhere; else it goes on behind those.
pub(super) fn find_end(
    path: &Path,
    file: &mut File,
    known: Option<KnownEnd>,
) -> Result<LogEnd, OpenError> {
    let problem = |path: &Path, error: io::Error| OpenError::of(&path.display(), &error);
    let end = last_record(file).map_err(|error| problem(path, error))?;
    let modified = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .ok();
    if end.is_of_no_log() {
        return Err(OpenError::Wrong(format!(
            "{}: not an audit log; name another file",
            path.display()
        )));
    }
    let mut files = rotated(path).map_err(|error| problem(path, error))?;
    let head = match (end.head, files.last()) {
        (Some(head), _) => head,
        (None, None) => Head::default(),
        (None, Some(newest)) => {
            match rotated_end(newest).map_err(|error| problem(newest, error))? {
                (Some(head), true) => head,
                (head, _) if known.is_some() => head.unwrap_or_default(),
                _ => {
                    return Err(OpenError::Wrong(format!(
                        "{}: does not end in a record: look at it with audit verify; a new chain begins once the old one is moved away",
                        newest.display()
                    )));
                }
            }
        }
    };
    let torn = (!end.behind.is_empty()).then(|| TornField {
        octets: end.behind.len() as u64,
        sha256: Hash::of(&end.behind).to_string(),
        text: WireText::escape(&end.behind[..end.behind.len().min(TORN_TEXT)]),
    });
    if torn.is_some() {
        file.set_len(end.length)
            .and_then(|()| file.sync_all())
            .map_err(|error| problem(path, error))?;
    }
    files.push(path.to_owned());
    let (end_of_chain, cut) = match known {
        Some(known) => match goes_on(&files, &known, &head)? {
            Some(tree) => (KnownEnd { head, tree }, None),
            None => (known, Some(head)),
        },
        None => {
            let tree = tree_of(&files, &head)?;
            (KnownEnd { head, tree }, None)
        }
    };
    let first = first_in(file).map_err(|error| problem(path, error))?;
    Ok(LogEnd {
        first: first.unwrap_or(end_of_chain.head.size),
        end: end_of_chain,
        cut,
        length: end.length,
        modified: first.and(modified),
        torn,
    })
}

/// The last record of the log whose newest file is `file`, and the octets of `file` up to there; `None` where that is no audit log.
pub(super) fn last_head(path: &Path, file: &mut File) -> io::Result<Option<(u64, Head)>> {
    let end = last_record(file)?;
    if end.is_of_no_log() {
        return Ok(None);
    }
    let head = match (end.head, rotated(path)?.last()) {
        (Some(head), _) => head,
        (None, Some(newest)) => rotated_end(newest)?.0.unwrap_or_default(),
        (None, None) => Head::default(),
    };
    Ok(Some((end.length, head)))
}

/// The chain's head after the last line of a rotated file, which an administrator may have compressed, and whether nothing stands
/// behind that line; no head where the line is no record.
fn rotated_end(file: &Path) -> io::Result<(Option<Head>, bool)> {
    let Some((line, is_end)) = LogReader::open(file)?.last_line()? else {
        return Ok((None, false));
    };
    let header = Header::read(&line).filter(|_| !line.contains(&0));
    Ok((header.map(|header| header.head(&line)), is_end))
}

/// The end of one file.
struct FileEnd {
    /// The chain's head after the file's last whole record; `None` if it has none.
    head: Option<Head>,
    /// Octets up to the end of that record.
    length: u64,
    /// The octets behind that record.
    behind: Vec<u8>,
}

impl FileEnd {
    /// Whether the file holds something else than a log or what a crash leaves of one.
    fn is_of_no_log(&self) -> bool {
        self.head.is_none() && !self.behind.is_empty() && !may_be_torn(&self.behind)
    }
}

/// A crash leaves part of a line, or (after a power failure) blocks of NULs that were never written. Both stand at the end with no
/// checkpoint behind them, because a checkpoint is written only when everything before it is durable. Any other damage is left for
/// `audit verify` to find.
fn last_record(file: &mut File) -> io::Result<FileEnd> {
    let mut window = WINDOW;
    loop {
        let (from, mut bytes) = tail(file, window)?;
        let mut begin = match from {
            0 => 0,
            _ => bytes
                .iter()
                .position(|&b| b == b'\n')
                .map_or(bytes.len(), |at| at + 1),
        };
        let (mut head, mut good) = (None, begin);
        let mut unwritten = None;
        while let Some(end) = bytes[begin..].iter().position(|&b| b == b'\n') {
            let line = &bytes[begin..begin + end];
            begin += end + 1;
            if line.contains(&0) {
                unwritten.get_or_insert((head, good));
            } else if let Some(header) = Header::read(line) {
                good = begin;
                head = Some(header.head(line));
                if header.event == b"checkpoint" {
                    unwritten = None;
                }
            }
        }
        (head, good) = unwritten.unwrap_or((head, good));
        if head.is_some() || from == 0 {
            return Ok(FileEnd {
                head,
                length: from + good as u64,
                behind: bytes.split_off(good),
            });
        }
        window *= 8;
    }
}

/// Number of a file's first record.
fn first_in(file: &mut File) -> io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut line)?;
    line.pop();
    Ok(Header::read(&line).map(|header| header.seq))
}

/// Whether a crash can have left these octets of a file's first line.
fn may_be_torn(bytes: &[u8]) -> bool {
    let begin = b"{\"v\":1,\"prev\":\"";
    let len = bytes.len().min(begin.len());
    bytes[..len] == begin[..len] || bytes[0] == 0
}

struct FoundRecord {
    seq: u64,
    /// The hash of the record before, as this one names it.
    prev: Option<Hash>,
    hash: Hash,
}

/// The records of one file, and where a tree can begin in it.
#[derive(Default)]
struct FileRecords {
    records: Vec<FoundRecord>,
    /// The last of the trees that the file itself names.
    start: Option<RecordTree>,
}

impl FileRecords {
    fn read(file: &Path) -> io::Result<Self> {
        let mut lines = BufReader::with_capacity(1 << 20, LogReader::open(file)?);
        let (mut found, mut line) = (Self::default(), Vec::new());
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(found);
            }
            line.pop();
            let Some(header) = Header::read(&line) else {
                continue;
            };
            if header.seq == 0 {
                found.start = Some(RecordTree::default());
            } else if let Some(start) = TreeStart::read(header.event, &line) {
                found.start = Some(start.tree);
            }
            found.records.push(FoundRecord {
                seq: header.seq,
                prev: header.prev(),
                hash: Hash::of(&line),
            });
        }
    }
}

/// The records of the newest files, back to the first file with which they suffice; all records where they never do. A tree can begin
/// where the oldest of these files says.
fn back_to(
    files: &[PathBuf],
    suffices: impl Fn(&FileRecords) -> bool,
) -> Result<FileRecords, OpenError> {
    let mut all = FileRecords::default();
    for file in files.iter().rev() {
        let found = FileRecords::read(file);
        let mut found = found.map_err(|error| OpenError::of(&file.display(), &error))?;
        found.records.append(&mut all.records);
        all = found;
        if suffices(&all) {
            break;
        }
    }
    Ok(all)
}

/// The tree over all records up to `head`, if they go on behind those that are `known`: a power failure can have kept what was
/// remembered last from the disk.
fn goes_on(
    files: &[PathBuf],
    known: &KnownEnd,
    head: &Head,
) -> Result<Option<RecordTree>, OpenError> {
    let mut tree = known.tree.clone();
    if known.head == *head {
        return Ok(Some(tree));
    }
    if head.size <= known.head.size {
        return Ok(None);
    }
    let begins_there = |all: &FileRecords| {
        let first = all.records.first();
        first.is_some_and(|first| first.seq <= known.head.size)
    };
    let all = back_to(files, begins_there)?;
    let mut last = known.head;
    for record in all.records.iter().filter(|one| one.seq >= known.head.size) {
        if record.seq != last.size || record.prev != Some(last.hash) {
            return Ok(None);
        }
        tree.push(record.hash);
        last = Head {
            size: record.seq + 1,
            hash: record.hash,
        };
    }
    Ok((last == *head).then_some(tree))
}

/// The tree over all records up to `head`, from the newest files back to one that says where the tree stood.
fn tree_of(files: &[PathBuf], head: &Head) -> Result<RecordTree, OpenError> {
    if head.size == 0 {
        return Ok(RecordTree::default());
    }
    let FileRecords { records, start } = back_to(files, |all| all.start.is_some())?;
    if let Some(mut tree) = start {
        for record in &records {
            if record.seq == tree.size() {
                tree.push(record.hash);
            }
        }
        let is_whole =
            tree.size() == head.size && records.last().is_some_and(|last| last.hash == head.hash);
        if is_whole {
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
