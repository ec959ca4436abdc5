//! Gaps that the log itself admits: the end was cut off, and the program went on behind it.

use super::{
    damage::{Damage, Finding, Misfit, edited, rewritten},
    lines::{LinePosition, LogLines},
    verifier::Verifier,
};
use crate::audit::{
    chain::{Head, Header},
    tree::TreeStart,
};
use std::{io, path::PathBuf};

/// What one of these lines says about the tree over the records before number `first`.
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

impl Verifier<'_> {
    /// Learns the tree over the records that were knowingly left out, from what stands at the first record or behind it.
    pub(super) fn know_the_tree_at(
        &mut self,
        files: &[PathBuf],
        position: LinePosition,
    ) -> io::Result<()> {
        let start = tree_start(LogLines::from(files, position)?, self.expected.from)?;
        self.tree = start.map(|start| start.tree);
        Ok(())
    }

    /// Where the line does not follow the one before, and the log itself says there or soon behind that records were cut off: goes on with
    /// the tree that it says there was. Returns whether that is so.
    pub(super) fn go_on_behind_a_cut(
        &mut self,
        files: &[PathBuf],
        position: LinePosition,
        line: &[u8],
    ) -> io::Result<bool> {
        let Some((header, prev)) = Header::read(line).and_then(|it| Some((it, it.prev()?))) else {
            return Ok(false);
        };
        let Some(start) = tree_start(LogLines::from(files, position)?, header.seq)? else {
            return Ok(false);
        };
        let Some(found) = start.found.filter(|_| !self.is_left_out()) else {
            return Ok(false);
        };
        let head = self.result.head;
        let when = match start.running {
            true => "while the program ran",
            false => "while the program did not run",
        };
        let is_same_log = self
            .tree
            .as_ref()
            .is_some_and(|tree| tree.can_precede(&start.tree));
        let text = match head.size + 1 {
            _ if !is_same_log || found > head.size => format!(
                "the log was replaced {when}: what stands before record {} is not what it goes on; the log says so itself",
                header.seq
            ),
            next if next == header.seq => {
                format!(
                    "record {} was cut off {when}; the log says so itself",
                    head.size
                )
            }
            _ => format!(
                "records {} to {} were cut off {when}; the log says so itself",
                head.size,
                header.seq.saturating_sub(1)
            ),
        };
        let before = self.before.unwrap_or(position);
        let cut = Finding::at(files, before, Damage::Cut, text);
        self.result.cuts.push(cut);
        self.result.cut_off += header.seq.saturating_sub(head.size);
        self.cut_before.insert(header.seq);
        self.epochs.gap();
        self.result.head = Head {
            size: header.seq,
            hash: prev,
        };
        self.tree = Some(start.tree);
        Ok(true)
    }

    /// Whether the first record has not come yet and is not the log's first.
    pub(super) fn is_left_out(&self) -> bool {
        self.before.is_none() && self.expected.from > 0
    }

    /// `log-continued` and `log-cut`: if it says what the tree was just before it, that must be so.
    pub(super) fn continued(&mut self, line: &[u8], header: &Header<'_>) -> Result<(), Misfit> {
        let start = TreeStart::read(header.event, line)
            .ok_or_else(|| edited("this does not say how the log goes on"))?;
        let first = start.tree.size();
        if start.found.is_some() && !self.cut_before.contains(&first) {
            self.result.elsewhere += 1;
        }
        match &self.tree {
            Some(tree) if start.tree.size() == header.seq && start.tree != *tree => {
                Err(rewritten(format!(
                    "this file goes on another log than the one whose {} records stand before it",
                    header.seq
                )))
            }
            _ => Ok(()),
        }
    }
}
