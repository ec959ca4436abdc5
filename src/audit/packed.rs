//! Lines of a log that go from one thread to another in one piece.

/// Octets of lines, and of what stands beside them, at which a piece is full.
const LIMIT: usize = 256 * 1024;
/// Octets that count for what stands beside a line: a file may have nothing but line feeds.
const BESIDE: usize = 256;

/// Lines without LF, one behind the other, and a `T` that says more about each.
pub(crate) struct PackedLines<T> {
    octets: Vec<u8>,
    /// Where each line ends, and what is said about it.
    lines: Vec<(usize, T)>,
}

impl<T> Default for PackedLines<T> {
    fn default() -> Self {
        Self {
            octets: Vec::new(),
            lines: Vec::new(),
        }
    }
}

impl<T> PackedLines<T> {
    pub(crate) fn push(&mut self, line: &[u8], about: T) {
        if self.octets.is_empty() {
            self.octets.reserve(LIMIT.max(line.len()));
        }
        self.octets.extend_from_slice(line);
        self.lines.push((self.octets.len(), about));
    }

    /// Nothing more should be put into it. It may have exceeded the limit by one line.
    pub(crate) fn is_full(&self) -> bool {
        self.octets.len() + self.lines.len() * BESIDE >= LIMIT
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Line number `at`, from 0; `None` behind the last.
    pub(crate) fn get(&self, at: usize) -> Option<(&[u8], &T)> {
        let (end, about) = self.lines.get(at)?;
        let before = at.checked_sub(1).map_or(0, |before| self.lines[before].0);
        Some((&self.octets[before..*end], about))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &T)> {
        (0..self.lines.len()).filter_map(|at| self.get(at))
    }

    /// Empties it, and keeps its memory for what comes next; not what a line needed that is larger than the limit.
    pub(crate) fn clear(&mut self) {
        self.octets.clear();
        self.octets.shrink_to(LIMIT);
        self.lines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in_each_with_what_is_said_about_it() {
        let mut packed = PackedLines::default();
        assert!(packed.is_empty());
        for round in 0..2 {
            packed.clear();
            for (at, line) in ["a", "", "bcd", ""].into_iter().enumerate() {
                packed.push(line.as_bytes(), at + round);
            }
            let lines: Vec<_> = packed.iter().collect();
            let expected: [(&[u8], &usize); 4] = [
                (b"a", &round),
                (b"", &(1 + round)),
                (b"bcd", &(2 + round)),
                (b"", &(3 + round)),
            ];
            assert_eq!(lines, expected);
            assert_eq!(packed.get(2), Some(expected[2]));
            assert_eq!(packed.get(4), None);
        }
    }

    #[test]
    fn lines_without_octets_fill_it_too_and_a_long_line_leaves_no_memory_behind() {
        let mut packed = PackedLines::default();
        let mut number = 0;
        while !packed.is_full() {
            packed.push(b"", ());
            number += 1;
        }
        assert_eq!(number, LIMIT / BESIDE);
        packed.clear();
        packed.push(&vec![b'x'; 9 * LIMIT], ());
        assert!(packed.is_full());
        packed.clear();
        assert!(packed.octets.capacity() <= LIMIT);
    }
}
