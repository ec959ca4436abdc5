//! What `tests/budget_scanner.rs` counts the instructions of: scans a message so many times. `scan LINE SEGMENT TIMES`.

#[allow(dead_code, reason = "what the product uses of it is not all that is used here")]
#[path = "../../src/smtp/scanner.rs"]
mod scanner;

use scanner::{DataScanner, Scan};
use std::hint::black_box;

const MIB: usize = 1 << 20;

/// `length` octets as base64 or text has them.
fn line(length: usize) -> Vec<u8> {
    let octets = (b'a'..=b'z').cycle().take(length);
    octets.chain(*b"\r\n").collect()
}

/// What the message is made of, over and over.
fn lines(kind: &str) -> Vec<u8> {
    match kind {
        "equal" => line(76),
        // Lengths from 50 to 78 without a pattern.
        "text" => (0..97).flat_map(|n| line(50 + n * n * 31 % 29)).collect(),
        "short" => line(1),
        "dots" => b"..\r\n".to_vec(),
        "long" => line(996),
        "endless" => vec![b'a'; MIB],
        _ => panic!("no such message: {kind}"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |n: usize| arguments[n].parse::<usize>().expect("a number");
    let lines = lines(&arguments[1]);
    let message: Vec<u8> = lines.into_iter().cycle().take(MIB).collect();
    let segment = number(2);
    for _ in 0..number(3) {
        let mut scanner = DataScanner::default();
        let (mut taken, mut end) = (0, 0);
        while end < MIB {
            end = MIB.min(end + segment);
            match scanner.scan(black_box(&message[taken..end])) {
                Scan::Content(len) => taken += len,
                other => panic!("{other:?} behind {taken} octets"),
            }
        }
        assert!(MIB - taken < 3, "all of it is content");
    }
}
