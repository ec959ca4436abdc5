//! What one thread looks at in one go, and what comes of it.

use crate::audit::LogLine;

/// Octets of lines that one thread looks at in one go.
const BLOCK: usize = 256 * 1024;

/// Lines that were found, one behind the other, without LF.
#[derive(Default)]
pub(super) struct FoundLines {
    pub(super) octets: Vec<u8>,
    pub(super) places: Vec<FoundPlace>,
}

/// Where a line was found.
pub(super) struct FoundPlace {
    /// Its end in the block.
    pub(super) end: usize,
    pub(super) log: usize,
    /// The number of its file among those of its log.
    pub(super) file: usize,
    pub(super) line: u64,
    /// Why nothing behind it can be read of that file, where that is so.
    pub(super) fault: Option<String>,
}

impl FoundLines {
    pub(super) fn is_full(&self) -> bool {
        // A file may have nothing but line feeds.
        self.octets.len() + self.places.len() * size_of::<FoundPlace>() >= BLOCK
    }

    pub(super) fn push(&mut self, log: usize, line: &LogLine<'_>) {
        if self.octets.is_empty() {
            self.octets.reserve(BLOCK + line.bytes.len());
        }
        self.octets.extend_from_slice(line.bytes);
        self.places.push(FoundPlace {
            end: self.octets.len(),
            log,
            file: line.position.file,
            line: line.position.line,
            fault: line.fault.map(str::to_owned),
        });
    }
}

/// What there is to print of some lines.
#[derive(Default)]
pub(super) struct ShownLines {
    pub(super) out: Vec<u8>,
    pub(super) errors: String,
    /// Lines that are no records.
    pub(super) unread: u64,
}
