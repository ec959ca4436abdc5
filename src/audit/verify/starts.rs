//! What records say about the tree before other records, so that the log can be verified from there on.

use super::{
    lines::{LinePosition, LogLines},
    listed::ListedFile,
};
use crate::audit::{chain::Header, tree::TreeStart};
use std::{
    collections::{HashMap, VecDeque},
    io,
};

/// What the first of these lines says about the tree over the records before number `first` that is about it. If several are, they say the
/// same: each is compared with the tree when its turn comes.
pub(crate) fn tree_start(mut lines: LogLines, first: u64) -> io::Result<Option<TreeStart>> {
    while let Some(line) = lines.next()? {
        let start =
            Header::read(line.bytes).and_then(|header| TreeStart::read(header.event, line.bytes));
        if let Some(start) = start.filter(|start| start.tree.size() == first) {
            return Ok(Some(start));
        }
    }
    Ok(None)
}

/// Most records of cuts that are held while gaps are looked for. A log that admits more cuts than this is no honest one.
const MOST_STARTS: usize = 10_000;

/// What the records of cuts from some place on say of the tree before other records, by the number of the record before which it was so.
/// The log is read for it once, however many gaps it has.
#[derive(Default)]
pub(super) struct GapStarts(HashMap<u64, VecDeque<(LinePosition, TreeStart)>>);

impl GapStarts {
    /// # Errors
    /// A file cannot be read.
    pub(super) fn read(files: &[ListedFile], position: LinePosition) -> io::Result<Self> {
        let mut lines = LogLines::from(files, position)?;
        let (mut starts, mut number) = (Self::default(), 0);
        while let Some(line) = lines.next()?
            && number < MOST_STARTS
        {
            let header = Header::read(line.bytes);
            let start = header.and_then(|header| TreeStart::read(header.event, line.bytes));
            if let Some(start) = start.filter(|start| start.found.is_some()) {
                let of_first = starts.0.entry(start.tree.size()).or_default();
                of_first.push_back((line.position, start));
                number += 1;
            }
        }
        Ok(starts)
    }

    /// Those of them at `position` or behind it that are about the records before number `first`. Positions may only grow. There are
    /// several where a file was cut again before the record of the first cut was on disk.
    pub(super) fn behind(
        &mut self,
        position: LinePosition,
        first: u64,
    ) -> impl Iterator<Item = &TreeStart> {
        let mut starts = self.0.get_mut(&first);
        if let Some(starts) = &mut starts {
            while starts.front().is_some_and(|(at, _)| *at < position) {
                starts.pop_front();
            }
        }
        starts
            .into_iter()
            .flat_map(|starts| starts.iter().map(|(_, start)| start))
    }
}
