#![no_main]
//! Any bytes at the readers of short texts: PROXY headers, MTA-STS announcements and policies.

use starttls_proxy::{net::proxy_header, policy::mta_sts};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let proxy_header::Parsed::Whole(_, length) = proxy_header::parse(bytes) {
        assert!(length <= bytes.len());
        for cut in 0..length {
            assert_eq!(proxy_header::parse(&bytes[..cut]), proxy_header::Parsed::Partial);
        }
    }
    let _ = mta_sts::announced_id(&[bytes]);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(policy) = mta_sts::Policy::parse(text) {
            assert!(policy.max_age <= 31_557_600);
        }
    }
});
