#![no_main]
//! Any sequence of events at the outbound machine.

use starttls_proxy_fuzz::{Direction, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let Some((&kind, script)) = script.split_first() else { return };
    let options: &[&str] = match kind % 7 {
        0 | 1 => &[],
        2 => &["plaintext-possible"],
        3 => &["known", "auth"],
        4 => &["known", "plaintext-possible"],
        5 => &["known", "login", "plaintext-possible"],
        _ => &["known", "auth", "implicit-tls"],
    };
    run(Direction::Outbound, options, script);
});
