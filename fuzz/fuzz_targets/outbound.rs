#![no_main]
//! Any sequence of events at the outbound machine.

use starttls_proxy::smtp::outbound::{Outbound, OutboundConfig};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let Some((&kind, script)) = script.split_first() else { return };
    let mut machine = Outbound::new(OutboundConfig {
        hostname: "proxy.example".into(),
        server: "192.0.2.1".into(),
        known_at_connect: kind & 1 != 0,
        auth: kind & 2 != 0,
        plaintext_possible: kind & 4 != 0,
        implicit_tls: kind & 9 == 9,
    });
    starttls_proxy_fuzz::run(&mut machine, script, false);
});
