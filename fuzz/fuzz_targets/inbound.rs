#![no_main]
//! Any sequence of events at the inbound machine.

use starttls_proxy_fuzz::{Direction, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let Some((&kind, script)) = script.split_first() else { return };
    let options: &[&str] = match kind % 4 {
        0 | 1 => &[],
        2 => &["exempt"],
        _ => &["no-tls"],
    };
    run(Direction::Inbound, options, script);
});
