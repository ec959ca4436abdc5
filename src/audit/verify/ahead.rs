//! Reads the lines of a log ahead of whoever hashes them, and looks at the form of each. That is done by a thread of its own: where a
//! second core is idle, it costs no time. What is read and not asked for yet is bounded by [`AHEAD`] batches.

use super::{
    form::{self, FormScan},
    lines::{LinePosition, LogLines},
    listed::ListedFile,
};
use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// Octets of lines that are handed over in one go, or one line if that is longer.
const BATCH: usize = 256 * 1024;
/// Batches that are read before they are asked for.
const AHEAD: usize = 4;

/// One line, and what is wrong with its form.
pub(super) struct ExaminedLine<'a> {
    /// The line without its LF.
    pub(super) bytes: &'a [u8],
    /// Whether the line ends with LF.
    pub(super) whole: bool,
    pub(super) position: LinePosition,
    /// Why nothing behind this line can be read of its file, where that is so.
    pub(super) fault: Option<&'a str>,
    /// Why the line cannot be a record, where that is so.
    pub(super) malformed: Option<&'a str>,
}

/// A line in a batch.
struct BatchedLine {
    /// Its end in the octets of the batch.
    end: usize,
    whole: bool,
    position: LinePosition,
    fault: Option<String>,
    malformed: Option<String>,
}

/// Lines that were read.
#[derive(Default)]
struct LineBatch {
    octets: Vec<u8>,
    lines: Vec<BatchedLine>,
    /// Octets of the files that were read so far, as they are on disk.
    taken: u64,
    /// Nothing comes behind it.
    is_last: bool,
}

/// The lines of several files, one file after the other, read ahead.
pub(super) struct LinesAhead {
    batches: Receiver<io::Result<LineBatch>>,
    /// Takes batches back, whose memory is used again.
    used: SyncSender<LineBatch>,
    batch: LineBatch,
    /// The next line in the batch, and where it begins.
    next: usize,
    begin: usize,
}

impl LinesAhead {
    /// # Errors
    /// The system gives no thread.
    pub(super) fn new(files: &[ListedFile]) -> io::Result<Self> {
        let (send, batches) = sync_channel(AHEAD);
        let (used, free) = sync_channel(AHEAD + 2);
        let files = files.to_vec();
        thread::Builder::new()
            .name("lines".into())
            .spawn(move || read(&files, &send, &free))?;
        Ok(Self {
            batches,
            used,
            batch: LineBatch::default(),
            next: 0,
            begin: 0,
        })
    }

    /// # Errors
    /// A file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<ExaminedLine<'_>>> {
        while self.next == self.batch.lines.len() {
            if self.batch.is_last {
                return Ok(None);
            }
            // A thread that is gone without a word has panicked. That must not look like the end of the log.
            let gone = |_| Err(io::Error::other("reading ended before the end of the log"));
            let batch = self.batches.recv().unwrap_or_else(gone)?;
            let used = std::mem::replace(&mut self.batch, batch);
            let _ = self.used.try_send(used); // without it, new memory is taken
            (self.next, self.begin) = (0, 0);
        }
        let line = &self.batch.lines[self.next];
        let begin = std::mem::replace(&mut self.begin, line.end);
        self.next += 1;
        Ok(Some(ExaminedLine {
            bytes: &self.batch.octets[begin..line.end],
            whole: line.whole,
            position: line.position,
            fault: line.fault.as_deref(),
            malformed: line.malformed.as_deref(),
        }))
    }

    /// Octets read so far of the files as they are on disk, up to the end of the present batch.
    pub(super) fn taken(&self) -> u64 {
        self.batch.taken
    }
}

/// Sends batches until all is read, there is an error, or nobody wants them any more.
fn read(
    files: &[ListedFile],
    send: &SyncSender<io::Result<LineBatch>>,
    free: &Receiver<LineBatch>,
) {
    let mut lines = LogLines::new(files);
    let mut scan = FormScan::default();
    loop {
        let mut batch = free.try_recv().unwrap_or_default();
        let filled = fill(&mut batch, &mut lines, &mut scan);
        let is_end = filled.is_err() || batch.is_last;
        if send.send(filled.map(|()| batch)).is_err() || is_end {
            return;
        }
    }
}

/// Octets that a line takes beside its own: a file may have nothing but line feeds.
const LINE: usize = 256;

fn fill(batch: &mut LineBatch, lines: &mut LogLines<'_>, scan: &mut FormScan) -> io::Result<()> {
    batch.octets.clear();
    batch.lines.clear();
    while batch.octets.len() + batch.lines.len() * LINE < BATCH {
        let Some(line) = lines.next()? else {
            batch.is_last = true;
            break;
        };
        batch.octets.extend_from_slice(line.bytes);
        let malformed = match line.whole {
            true => form::fault(line.bytes, scan),
            false => None,
        };
        batch.lines.push(BatchedLine {
            end: batch.octets.len(),
            whole: line.whole,
            position: line.position,
            fault: line.fault.map(str::to_owned),
            malformed,
        });
    }
    batch.taken = lines.taken();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_octets_fill_a_batch_too() {
        let file = std::env::temp_dir().join(format!("ahead-{}", std::process::id()));
        std::fs::write(&file, "\n".repeat(100_000)).unwrap();
        let files = [ListedFile::find(&file).unwrap()];
        let (mut batch, mut lines) = (LineBatch::default(), LogLines::new(&files));
        fill(&mut batch, &mut lines, &mut FormScan::default()).unwrap();
        assert!((1..=BATCH / LINE).contains(&batch.lines.len()));
        assert!(!batch.is_last);
        std::fs::remove_file(file).unwrap();
    }
}
