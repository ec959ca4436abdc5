//! Gaps that the log itself admits: the end was cut off, and the program went on behind it.

use super::{
    damage::{Damage, Finding, Misfit, edited, rewritten},
    due::HybridDue,
    lines::{LinePosition, LogLines},
    listed::ListedFile,
    starts::{GapStarts, tree_start},
    verifier::Verifier,
};
use crate::audit::{
    chain::{Head, Header},
    tree::TreeStart,
};
use std::io;

impl Verifier<'_> {
    /// Learns the tree over the records that were knowingly left out, from what stands at the first record or behind it.
    pub(super) fn know_the_tree_at(
        &mut self,
        files: &[ListedFile],
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
        files: &[ListedFile],
        position: LinePosition,
        line: &[u8],
    ) -> io::Result<bool> {
        let Some((header, prev)) = Header::read(line).and_then(|it| Some((it, it.prev()?))) else {
            return Ok(false);
        };
        if self.is_left_out() {
            return Ok(false);
        }
        let starts = match &mut self.starts {
            Some(starts) => starts,
            none => none.insert(GapStarts::read(files, position)?),
        };
        let head = self.result.head;
        // It excuses the gap that it names, or less of it: files that were elsewhere when the program looked are here now.
        let names_it = |start: &&TreeStart| {
            let is_it =
                |found: Head| found == head || (found.size < head.size && head.size < header.seq);
            start.found.is_some_and(is_it)
        };
        let start = starts.behind(position, header.seq).find(names_it).cloned();
        let Some(start) = start else {
            return Ok(false);
        };
        let when = match start.running {
            true => "while the program ran",
            false => "while the program did not run",
        };
        let is_same_log = self
            .tree
            .as_ref()
            .is_some_and(|tree| tree.can_precede(&start.tree));
        let text = match head.size + 1 {
            _ if !is_same_log => format!(
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
        self.hybrid_due = HybridDue::Unknown;
        if !is_same_log {
            self.checkpoints.forget();
        }
        let begin = if is_same_log { head.size } else { 0 };
        self.checkpoints.not_here(begin..header.seq);
        self.recent.begin(Some(&start.tree));
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

    /// `log-continued` and `log-cut`: what it says of the tree must be so. Records that were on their way may stand between.
    pub(super) fn continued(&mut self, line: &[u8], header: &Header<'_>) -> Result<(), Misfit> {
        let start = TreeStart::read(header.event, line)
            .ok_or_else(|| edited("this does not say how the log goes on"))?;
        let first = start.tree.size();
        if start.found.is_some() && !self.cut_before.contains(&first) {
            self.result.elsewhere += 1;
        }
        let Some(tree) = self.tree.as_ref().filter(|_| first >= self.expected.from) else {
            return Ok(());
        };
        if first > header.seq {
            return Err(edited(format!(
                "it tells of {first} records before it, and there are {}",
                header.seq
            )));
        }
        match self.recent.agrees(&start.tree, tree) {
            Some(true) => Ok(()),
            Some(false) => Err(rewritten(format!(
                "this file goes on another log than the one whose {first} records stand before it"
            ))),
            None => Err(rewritten(format!(
                "this tells how the log goes on behind {first} records, and stands too far behind them for that"
            ))),
        }
    }
}
