use super::{
    BLOCK, DataScanner, Scan, WINDOW,
    reference::{assert_both_scan_alike, message},
};
use proptest::prelude::*;

/// Feeds `bytes` in segments cut at `cut`; returns content octets, what follows, and whether it ended or broke.
fn feed(bytes: &[u8], cut: usize) -> (usize, Scan) {
    let mut scanner = DataScanner::default();
    let mut taken = 0;
    for end in [cut, bytes.len()] {
        match scanner.scan(&bytes[taken..end]) {
            Scan::Content(n) => taken += n,
            other => return (taken, other),
        }
    }
    (taken, Scan::Content(0))
}

#[test]
fn data_ends_at_crlf_dot_crlf_wherever_it_is_cut() {
    for (message, content) in [
        (&b".\r\n"[..], 0),
        (b"a\r\n.\r\nQUIT\r\n", 3),
        (b"\r\n.\r\n", 2),
        (b"..\r\n.a\r\n. \r\n.\r\n", 12),
        (b"a.\r\n\r\n.\r\n", 6),
    ] {
        for cut in 0..message.len() {
            let (taken, last) = feed(message, cut);
            match last {
                Scan::End(n) => assert_eq!(taken + n, content, "{message:?} cut at {cut}"),
                other => panic!("{message:?} cut at {cut}: {other:?}"),
            }
        }
    }
}

/// Octets that some server takes for the end of DATA and this proxy does not.
pub(in crate::smtp) const SMUGGLED: &[&[u8]] = &[
    b"\n.\n",
    b"\n.\r\n",
    b"\n.\r",
    b"\r.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\0\n.\r\n",
    b"\0\r\n.\r\n",
    b"\r\n.\r\0\n",
];

#[test]
fn ambiguous_ends_of_data_are_violations_and_no_ambiguous_octet_is_content() {
    for sequence in SMUGGLED {
        let bytes = [b"text", *sequence, b"MAIL FROM:<a@b>\r\n.\r\n"].concat();
        for cut in 0..bytes.len() {
            let (taken, last) = feed(&bytes, cut);
            let Scan::Violation(n) = last else {
                panic!("{sequence:?} cut at {cut}: {last:?}");
            };
            let passed = &bytes[..taken + n];
            let clean = passed.strip_suffix(b"\r\n").unwrap_or(passed);
            assert!(!clean.iter().any(|b| b"\r\n\0".contains(b)), "{passed:?}");
        }
    }
}

/// Every string of these octets up to a length, and what `of` does with it.
fn each_string(longest: usize, of: &mut dyn FnMut(&[u8])) {
    fn longer(string: &mut Vec<u8>, left: usize, of: &mut dyn FnMut(&[u8])) {
        of(string);
        if left > 0 {
            for octet in *b"\r\n.\0a" {
                string.push(octet);
                longer(string, left - 1, of);
                string.pop();
            }
        }
    }
    longer(&mut Vec::new(), longest, of);
}

/// Places around the ends of the first block and the second.
fn block_ends() -> impl Iterator<Item = usize> {
    [BLOCK, 2 * BLOCK]
        .into_iter()
        .flat_map(|end| end - 6..end + 4)
}

#[test]
fn every_string_of_five_octets_is_scanned_as_by_the_reference_around_block_ends_at_every_cut() {
    each_string(5, &mut |string| {
        for is_line_start in [true, false] {
            for cut in 0..=string.len() {
                assert_both_scan_alike(string, is_line_start, &[cut]);
            }
        }
    });
    each_string(4, &mut |string| {
        for start in block_ends() {
            let bytes = [&vec![b'a'; start], string, &[b'a'; BLOCK]].concat();
            for cut in start..=start + string.len() {
                assert_both_scan_alike(&bytes, true, &[cut]);
            }
        }
    });
}

#[test]
fn every_string_of_seven_octets_is_scanned_as_by_the_reference_around_block_ends() {
    let mut starts = (BLOCK - 9..BLOCK + 3).cycle();
    each_string(7, &mut |string| {
        assert_both_scan_alike(string, true, &[]);
        let start = starts.next().expect("without end");
        let bytes = [&vec![b'a'; start], string, &[b'a'; 4]].concat();
        assert_both_scan_alike(&bytes, true, &[]);
        let bytes = [&vec![b'a'; start], string, &[b'a'; BLOCK]].concat();
        assert_both_scan_alike(&bytes, true, &[]);
    });
}

#[test]
fn every_string_of_three_octets_is_scanned_as_by_the_reference_among_equal_lines() {
    for length in [31, 34, 78, WINDOW / 4] {
        let line = [&vec![b'a'; length - 2][..], b"\r\n"].concat();
        let lines = line.repeat(4 * WINDOW / length);
        let window = WINDOW - WINDOW % length;
        let ends = [BLOCK, window, 2 * window, 2 * window + length, 3 * WINDOW];
        for start in ends.into_iter().flat_map(|end| end - 4..end + 3) {
            each_string(3, &mut |string| {
                let mut bytes = lines.clone();
                bytes[start..start + string.len()].copy_from_slice(string);
                assert_both_scan_alike(&bytes, true, &[]);
            });
        }
        for start in window..window + length {
            each_string(1, &mut |string| {
                let mut bytes = lines.clone();
                bytes[start..start + string.len()].copy_from_slice(string);
                assert_both_scan_alike(&bytes, true, &[]);
            });
        }
    }
}

proptest! {
    #[test]
    fn any_message_is_scanned_as_by_the_reference_at_any_cuts(
        script in prop::collection::vec(any::<u8>(), 0..160),
        is_line_start: bool,
    ) {
        let (bytes, cuts) = message(&script);
        assert_both_scan_alike(&bytes, is_line_start, &cuts);
    }

    #[test]
    fn any_octets_are_scanned_as_by_the_reference_at_any_cuts(
        bytes in prop::collection::vec(prop::sample::select(b"\r\n.\0abcdefgh\r\n".as_slice()), 0..300),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        assert_both_scan_alike(&bytes, true, &cuts);
    }
}
