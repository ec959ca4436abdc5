#![no_main]
//! Any bytes as a certificate.

use rustls_pki_types::CertificateDer;
use starttls_proxy::tls::CertFacts;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let facts = CertFacts::read(&CertificateDer::from(bytes));
    assert!(facts.names_in_words().bytes().all(|b| b.is_ascii_graphic() || b == b' '));
});
