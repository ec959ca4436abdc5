//! What the tree over the records was a little while ago.

use crate::audit::{chain::Hash, tree::RecordTree};
use std::collections::VecDeque;

/// Records whose hashes are held.
const HELD: usize = 1 << 15;

/// The hashes of the last records, and the tree where the present file begins or the log goes on behind a gap.
///
/// A program that begins a file while records are on their way says behind them what stood before them. They may be many, if its disk had
/// failed for some time. So where files are as the program made them, the tree at the beginning of the file decides; where somebody has
/// joined files, the last records do.
#[derive(Default)]
pub(super) struct RecentRecords {
    hashes: VecDeque<Hash>,
    begin: Option<RecordTree>,
    /// How many records may be hashed anew. Each new record allows one more, so that all work stays in proportion to the log.
    allowed: usize,
}

impl RecentRecords {
    /// A file begins here, or what is behind a gap; with this tree, if it is known.
    pub(super) fn begin(&mut self, tree: Option<&RecordTree>) {
        self.begin = tree.cloned();
    }

    pub(super) fn push(&mut self, record: Hash) {
        if self.hashes.len() == HELD {
            self.hashes.pop_front();
        }
        self.hashes.push_back(record);
        self.allowed = (self.allowed + 1).min(HELD);
    }

    /// Whether the tree was `then` before it became `now`. `None`: that is not known any more.
    pub(super) fn agrees(&mut self, then: &RecordTree, now: &RecordTree) -> Option<bool> {
        if let Some(begin) = self.begin.as_ref().filter(|it| it.size() == then.size()) {
            return Some(begin == then);
        }
        let since = usize::try_from(now.size().checked_sub(then.size())?).ok()?;
        let from = self.hashes.len().checked_sub(since)?;
        self.allowed = self.allowed.checked_sub(since)?;
        // With these records behind it, it must become what the tree is now.
        let mut tree = then.clone();
        self.hashes
            .range(from..)
            .for_each(|record| tree.push(*record));
        Some(tree == *now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tree::tests::{record, tree};

    #[test]
    fn a_tree_agrees_if_the_records_behind_it_make_it_the_present_one() {
        let mut recent = RecentRecords::default();
        (0..40).for_each(|number| recent.push(record(number)));
        for size in 20..=40 {
            recent.allowed = HELD;
            assert_eq!(recent.agrees(&tree(size), &tree(40)), Some(true), "{size}");
            for hash in 0..size.count_ones() as usize {
                let mut range = tree(size).range();
                range[hash * 32] ^= 1;
                let other = RecordTree::from_range(size, &range).unwrap();
                assert_eq!(recent.agrees(&other, &tree(40)), Some(false), "{size}");
            }
        }
        assert_eq!(recent.agrees(&tree(41), &tree(40)), None);
    }

    #[test]
    fn the_beginning_of_the_file_is_known_however_many_records_stand_behind_it() {
        let mut recent = RecentRecords::default();
        recent.begin(Some(&tree(5)));
        let more = HELD as u64 + 10;
        (5..more).for_each(|number| recent.push(record(number)));
        assert_eq!(recent.agrees(&tree(5), &tree(more)), Some(true));
        assert_eq!(recent.agrees(&tree(6), &tree(more)), None);
        let mut other = tree(4);
        other.push(record(9));
        assert_eq!(recent.agrees(&other, &tree(more)), Some(false));
    }

    #[test]
    fn however_often_it_is_asked_the_work_stays_in_proportion_to_the_records() {
        let mut recent = RecentRecords::default();
        (0..100).for_each(|number| recent.push(record(number)));
        let (then, now) = (tree(60), tree(100));
        let answers = (0..100).filter(|_| recent.agrees(&then, &now).is_some());
        assert_eq!(answers.count(), 2);
    }
}
