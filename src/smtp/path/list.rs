//! A list of forward-paths. All of them are in one piece of memory, so that a recipient costs no block of its own.

use super::{ForwardPath, JudgedPart};
use std::borrow::Cow;

/// Forward-paths in their order; the text of this file describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardPaths {
    octets: Vec<u8>,
    /// The end of each, and its judged part.
    ends: Vec<(usize, JudgedPart)>,
}

impl ForwardPaths {
    /// There is room for so many while there is none.
    const KEPT: usize = 8;
    /// Their octets.
    const KEPT_OCTETS: usize = 256;

    /// Adds one at the end.
    pub fn push(&mut self, path: &ForwardPath) {
        self.octets.extend_from_slice(&path.path);
        self.ends.push((self.octets.len(), path.judged));
    }

    /// Their number.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The one in front of which stand so many.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<ForwardPath<'_>> {
        let &(end, judged) = self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |last| self.ends[last].0);
        Some(ForwardPath {
            path: Cow::Borrowed(&self.octets[start..end]),
            judged,
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = ForwardPath<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Forgets all of them. A list lives longer than a large group, so it keeps little room.
    pub(in crate::smtp) fn clear(&mut self) {
        self.octets.clear();
        self.octets.shrink_to(Self::KEPT_OCTETS);
        self.ends.clear();
        self.ends.shrink_to(Self::KEPT);
    }
}

impl<'a> Extend<ForwardPath<'a>> for ForwardPaths {
    fn extend<T: IntoIterator<Item = ForwardPath<'a>>>(&mut self, paths: T) {
        for path in paths {
            self.push(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_given_back_as_it_was_put_in() {
        let mut list = ForwardPaths::default();
        let paths = [
            &b"a@One.example"[..],
            b"postmaster",
            b"\"b c\"@[192.0.2.1]",
            b"d@two.example",
        ];
        let paths = paths.map(|path| ForwardPath::parse(path, false).expect("a path"));
        list.extend(paths.clone());
        assert_eq!(list.iter().collect::<Vec<_>>(), paths);
        assert_eq!((list.len(), list.get(paths.len())), (4, None));
        let recipients = list.iter().map(|path| path.recipient());
        assert!(recipients.eq(paths.iter().map(ForwardPath::recipient)));
    }

    #[test]
    fn a_list_does_not_keep_the_room_of_many() {
        let mut list = ForwardPaths::default();
        let path = ForwardPath::parse(b"a@one.example", false).expect("a path");
        for _ in 0..1000 {
            list.push(&path);
        }
        list.clear();
        assert_eq!(list, ForwardPaths::default());
        assert!(list.octets.capacity() <= ForwardPaths::KEPT_OCTETS);
        assert!(list.ends.capacity() <= ForwardPaths::KEPT);
    }
}
