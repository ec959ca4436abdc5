#![no_main]
//! Any sequence of events at the inbound machine.

use starttls_proxy::smtp::inbound::{Inbound, InboundConfig};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let Some((&kind, script)) = script.split_first() else { return };
    let mut machine = Inbound::new(InboundConfig {
        hostname: "proxy.example".into(),
        server: "192.0.2.1".into(),
        tls_available: kind & 1 != 0,
        plaintext_allowed: kind & 2 != 0,
    });
    starttls_proxy_fuzz::run(&mut machine, script, true);
});
