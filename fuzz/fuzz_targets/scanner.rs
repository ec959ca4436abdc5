#![no_main]
//! Any message, cut anywhere: the scanner and its reference say the same. The first octet says whether the rest is a message or
//! a script of one, because long messages with lines of equal length are hard to find by chance.

#[allow(dead_code, reason = "what the product uses of it is not all that is used here")]
#[path = "../../src/smtp/scanner.rs"]
mod scanner;
#[path = "../../src/smtp/scanner/reference.rs"]
mod reference;

use scanner::{DataScanner, Scan};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    let (bytes, cuts) = match kind % 4 {
        0 | 1 => reference::message(rest),
        _ => (rest.to_vec(), vec![usize::from(*kind / 4).min(rest.len())]),
    };
    reference::assert_both_scan_alike(&bytes, kind % 2 == 0, &cuts);
});
