//! Where lines were found, and what comes of them.

/// Where a line was found.
pub(super) struct FoundPlace {
    pub(super) log: usize,
    /// The number of its file among those of its log.
    pub(super) file: usize,
    pub(super) line: u64,
    /// Why nothing behind it can be read of that file, where that is so.
    pub(super) fault: Option<String>,
}

/// What there is to print of some lines.
#[derive(Default)]
pub(super) struct ShownLines {
    pub(super) out: Vec<u8>,
    pub(super) errors: String,
    /// Lines that are no records.
    pub(super) unread: u64,
}
