//! Reads a file of a log, whatever its form. Nothing else opens one for reading.
//!
//! An administrator may compress rotated files. What decides is what a file begins with; its name counts only where it begins with
//! neither form's magic number. Compressed octets are unpacked by a thread of their own, because hashing takes as
//! long again: where a second core is idle, the two go on side by side. What is unpacked and not read yet is
//! bounded by [`AHEAD`] blocks, whatever the file claims to hold.

use super::naming::is_named_compressed;
use crate::files::regular;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use std::{
    error::Error,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    ops::Deref,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Octets that are unpacked in one go.
const BLOCK: usize = 256 * 1024;
/// Blocks that are unpacked before they are asked for.
const AHEAD: usize = 4;
/// Octets that no record has. A file can have a line of any length, and a compressed one can claim it with a few octets.
pub(super) const LONGEST_LINE: usize = 1 << 24;
/// Octets that are read in one go to find the last line of a file.
const LAST: usize = 16 * 1024;

/// A file of a log, open for reading.
pub(super) struct LogReader {
    form: LogForm,
    /// Octets that were read of the file as it is on disk.
    taken: Arc<AtomicU64>,
}

enum LogForm {
    Plain(PlacedFile<Arc<File>>),
    Unpacking(Unpacked),
    /// Damaged from the first octet on.
    Damaged(&'static str),
}

/// What the unpacking thread has sent.
struct Unpacked {
    blocks: Receiver<io::Result<Vec<u8>>>,
    block: Vec<u8>,
    /// Octets of `block` that were given out.
    given: usize,
    /// The thread came to the end of the file.
    ended: bool,
}

/// A file with a place of its own, from which is read next. Several readers can have the same open file.
struct PlacedFile<F> {
    file: F,
    place: u64,
}

impl<F: Deref<Target = File>> Read for PlacedFile<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}

/// Counts what is read of a file.
struct OctetCounter {
    file: PlacedFile<Arc<File>>,
    taken: Arc<AtomicU64>,
}

impl Read for OctetCounter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl LogReader {
    /// # Errors
    /// The file cannot be opened or read. Damage of a compressed file is an error of [`Read::read`].
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::of(Arc::new(regular(path)?), path)
    }

    /// Reads a file that is open already, from its beginning. `path` is the name that it had.
    ///
    /// # Errors
    /// As [`open`](Self::open) has them.
    pub(super) fn of(file: Arc<File>, path: &Path) -> io::Result<Self> {
        let mut file = PlacedFile { file, place: 0 };
        let mut begin = Vec::new();
        (&mut file)
            .take(ZSTD.len() as u64)
            .read_to_end(&mut begin)?;
        file.place = 0;
        let taken = Arc::new(AtomicU64::new(0));
        let counted = |file| OctetCounter {
            file,
            taken: taken.clone(),
        };
        let form = if begin.starts_with(GZIP) {
            let file = BufReader::with_capacity(BLOCK, counted(file));
            LogForm::Unpacking(Unpacked::begin(flate2::bufread::MultiGzDecoder::new(file))?)
        } else if begin.starts_with(ZSTD) {
            let file = BufReader::with_capacity(BLOCK, counted(file));
            LogForm::Unpacking(Unpacked::begin(ZstdFrames::new(file))?)
        } else if is_named_compressed(path) && !begin.starts_with(b"{") {
            LogForm::Damaged(match begin.len() < ZSTD.len() {
                true => "it is cut off",
                false => "it begins as neither gzip nor zstd does",
            })
        } else {
            LogForm::Plain(file)
        };
        Ok(Self { form, taken })
    }

    /// Octets read so far of the file as it is on disk.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self.form, LogForm::Plain(_))
    }

    /// The last line of what is left, read from the end where that is possible; `None` where there is no line with LF. The line is
    /// without its LF. The other value says whether nothing stands behind it.
    ///
    /// # Errors
    /// The file cannot be read, is damaged as a compressed file, or has a longer line at its end than any record is.
    pub(super) fn last_line(mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        if let LogForm::Plain(file) = &self.form {
            return last_line_of(&file.file);
        }
        let (mut last, mut begun) = (None, Vec::new());
        let mut block = vec![0; BLOCK];
        loop {
            let read = self.read(&mut block)?;
            if read == 0 {
                return Ok(last.map(|line| (line, begun.is_empty())));
            }
            let mut rest = &block[..read];
            if let Some(end) = memchr::memrchr(b'\n', rest) {
                let begin = memchr::memrchr(b'\n', &rest[..end]).map(|at| at + 1);
                if begin.is_some() {
                    begun.clear();
                }
                begun.extend_from_slice(&rest[begin.unwrap_or(0)..end]);
                last = Some(std::mem::take(&mut begun));
                rest = &rest[end + 1..];
            }
            if begun.len() + rest.len() > LONGEST_LINE {
                return Err(too_long());
            }
            begun.extend_from_slice(rest);
        }
    }
}

impl Read for LogReader {
    /// # Errors
    /// The system's, or one for which [`damage`] has words.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.form {
            LogForm::Plain(file) => {
                let read = file.read(buffer)?;
                self.taken.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
            LogForm::Unpacking(unpacked) => unpacked.read(buffer),
            LogForm::Damaged(how) => Err(damaged(how)),
        }
    }
}

impl Unpacked {
    fn begin(packed: impl Read + Send + 'static) -> io::Result<Self> {
        let (send, blocks) = sync_channel(AHEAD);
        thread::Builder::new()
            .name("unpack".into())
            .spawn(move || unpack(packed, &send))?;
        Ok(Self {
            blocks,
            block: Vec::new(),
            given: 0,
            ended: false,
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.block.len() && !self.ended {
            // A thread that is gone without a word has panicked. That must not look like the end of the file.
            let block = self.blocks.recv();
            let block = block.unwrap_or_else(|_| Err(damaged("it cannot be unpacked")))?;
            self.ended = block.is_empty();
            (self.block, self.given) = (block, 0);
        }
        let left = &self.block[self.given..];
        let length = left.len().min(buffer.len());
        buffer[..length].copy_from_slice(&left[..length]);
        self.given += length;
        Ok(length)
    }
}

/// All frames of a zstd file. The crate reads one, needs a window of 100 MiB at the most, and leaves the checksum to the caller.
struct ZstdFrames<R> {
    source: R,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            decoder: FrameDecoder::new(),
            is_in_frame: false,
        }
    }

    /// Goes on to the next frame; false at the end of the file.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = (&mut self.source).take(length.into());
                    if io::copy(&mut skipped, &mut io::sink())? < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }

    fn end_frame(&self) -> io::Result<()> {
        let written = self.decoder.get_checksum_from_data();
        match written.is_none() || written == self.decoder.get_calculated_checksum() {
            true => Ok(()),
            false => Err(io::Error::other("its checksum is wrong")),
        }
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            self.is_in_frame = true;
            while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                let more = buffer.len() - self.decoder.can_collect();
                let more = BlockDecodingStrategy::UptoBytes(more);
                let decoded = self.decoder.decode_blocks(&mut self.source, more);
                decoded.map_err(io::Error::other)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.end_frame()?,
                read => return Ok(read),
            }
            self.is_in_frame = false;
        }
    }
}

/// The system's error that an error of unpacking comes from. It has a number; what the file itself is to blame for has none.
fn system_error(error: &io::Error) -> Option<io::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(this) = cause {
        cause = match this.downcast_ref::<io::Error>() {
            None => this.source(),
            Some(error) => match error.raw_os_error() {
                Some(number) => return Some(io::Error::from_raw_os_error(number)),
                // What is wrapped is no source of its own.
                None => error.get_ref().map(|inner| inner as _),
            },
        };
    }
    None
}

/// Sends blocks, and an empty one at the end; until there is an error, or nobody wants them any more.
fn unpack(mut packed: impl Read, send: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut block = vec![0; BLOCK];
        let mut filled = 0;
        let end = loop {
            match packed.read(&mut block[filled..]) {
                Ok(0) => break Some(Ok(())),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(Err(error)),
            }
            if filled == block.len() {
                break None;
            }
        };
        block.truncate(filled);
        if filled > 0 && send.send(Ok(block)).is_err() {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => {
                let _ = send.send(Ok(Vec::new())); // nobody may want it
                return;
            }
            Some(Err(error)) => {
                let error = system_error(&error).unwrap_or_else(|| damaged(&error.to_string()));
                let _ = send.send(Err(error)); // nobody may want it
                return;
            }
        }
    }
}

fn damaged(how: &str) -> io::Error {
    let text = format!("damaged as a compressed file: {how}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

pub(super) fn too_long() -> io::Error {
    let text = format!(
        "{} MiB without the end of a line, and no record is so long",
        LONGEST_LINE >> 20
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Whether the file is there and not compressed.
pub(crate) fn is_plain(path: &Path) -> bool {
    LogReader::open(path).is_ok_and(|file| file.is_plain())
}

/// What is wrong with the file, where an error of reading says that its content is to blame; `None` where the system failed.
pub(super) fn damage(error: &io::Error) -> Option<String> {
    let is_damage = error.kind() == io::ErrorKind::InvalidData && error.raw_os_error().is_none();
    is_damage.then(|| error.to_string())
}

/// The last octets of a plain file, `size` of them or all that there are, and where they begin.
pub(super) fn tail(file: &File, size: u64) -> io::Result<(u64, Vec<u8>)> {
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(size);
    let placed = PlacedFile { file, place: begin };
    let mut octets = Vec::with_capacity(size.min(length) as usize + 1);
    placed.take(length - begin).read_to_end(&mut octets)?;
    Ok((begin, octets))
}

/// The last line with LF of a plain file, and whether nothing stands behind it.
fn last_line_of(file: &File) -> io::Result<Option<(Vec<u8>, bool)>> {
    let length = file.metadata()?.len();
    let Some(end) = last_lf(file, length)? else {
        return Ok(None);
    };
    let begin = last_lf(file, end)?.map_or(0, |before| before + 1);
    let mut line = vec![0; usize::try_from(end - begin).unwrap_or_default()];
    file.read_exact_at(&mut line, begin)?;
    Ok(Some((line, end + 1 == length)))
}

/// The place of the last LF before `end`.
fn last_lf(file: &File, end: u64) -> io::Result<Option<u64>> {
    let mut block = [0; LAST];
    let mut behind = end;
    while behind > 0 {
        if end - behind > LONGEST_LINE as u64 {
            return Err(too_long());
        }
        let begin = behind.saturating_sub(LAST as u64);
        let block = &mut block[..(behind - begin) as usize];
        file.read_exact_at(block, begin)?;
        if let Some(at) = memchr::memrchr(b'\n', block) {
            return Ok(Some(begin + at as u64));
        }
        behind = begin;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives some octets, then panics.
    struct Panicking(bool);

    impl Read for Panicking {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(
                !std::mem::replace(&mut self.0, true),
                "a fault of the unpacking code"
            );
            buffer[..3].copy_from_slice(b"abc");
            Ok(3)
        }
    }

    #[test]
    fn a_thread_that_panics_is_not_taken_for_the_end_of_the_file() {
        let mut unpacked = Unpacked::begin(Panicking(false)).unwrap();
        let mut buffer = [0; 10];
        let error = unpacked.read(&mut buffer).unwrap_err();
        assert!(damage(&error).is_some(), "{error}");
    }

    #[test]
    fn a_fault_of_the_disk_is_not_taken_for_a_damaged_file() {
        let number = 5; // EIO
        let failed = io::Error::from_raw_os_error(number);
        let wrapped = io::Error::other(io::Error::other(failed));
        let found = system_error(&wrapped).and_then(|error| error.raw_os_error());
        assert_eq!(found, Some(number));
        assert!(damage(&io::Error::from_raw_os_error(number)).is_none());
        assert!(system_error(&io::Error::other("a checksum")).is_none());
    }
}
