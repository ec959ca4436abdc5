//! Reads the lines of a log ahead of whoever hashes them, and looks at the form of each. That is done by a thread of its own: where a
//! second core is idle, it costs no time. What is read and not asked for yet is bounded by [`AHEAD`] batches.

use super::{
    form::{self, FormScan},
    lines::{LinePosition, LogLines},
    listed::ListedFile,
};
use crate::audit::packed::PackedLines;
use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

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

/// What is known about a line in a batch.
struct BatchedLine {
    whole: bool,
    position: LinePosition,
    fault: Option<String>,
    malformed: Option<String>,
}

/// Lines that were read.
#[derive(Default)]
struct LineBatch {
    lines: PackedLines<BatchedLine>,
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
    /// The next line in the batch.
    next: usize,
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
        })
    }

    /// # Errors
    /// A file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<ExaminedLine<'_>>> {
        while self.batch.lines.get(self.next).is_none() {
            if self.batch.is_last {
                return Ok(None);
            }
            // A thread that is gone without a word has panicked. That must not look like the end of the log.
            let gone = |_| Err(io::Error::other("reading ended before the end of the log"));
            let batch = self.batches.recv().unwrap_or_else(gone)?;
            let used = std::mem::replace(&mut self.batch, batch);
            let _ = self.used.try_send(used); // without it, new memory is taken
            self.next = 0;
        }
        let line = self.batch.lines.get(self.next);
        self.next += 1;
        Ok(line.map(|(bytes, line)| ExaminedLine {
            bytes,
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

fn fill(batch: &mut LineBatch, lines: &mut LogLines<'_>, scan: &mut FormScan) -> io::Result<()> {
    batch.lines.clear();
    while !batch.lines.is_full() {
        let Some(line) = lines.next()? else {
            batch.is_last = true;
            break;
        };
        let malformed = match line.whole {
            true => form::fault(line.bytes, scan),
            false => None,
        };
        let about = BatchedLine {
            whole: line.whole,
            position: line.position,
            fault: line.fault.map(str::to_owned),
            malformed,
        };
        batch.lines.push(line.bytes, about);
    }
    batch.taken = lines.taken();
    Ok(())
}
