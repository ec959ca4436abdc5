use super::{CertFacts, Date, escape};
use crate::tls::pki::{Authority, Leaf};
use rustls::pki_types::CertificateDer;
use std::time::{Duration, UNIX_EPOCH};

#[test]
fn a_certificate_in_words() {
    let root = Authority::root("Test Root");
    let leaf = root.leaf_with(&["mx1.example.com", "192.0.2.1"], |params| {
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "Müller, \"Söhne\" \\ Co");
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[1, 2, 0xab]));
    });
    let facts = CertFacts::read(&leaf.chain[0]);
    assert_eq!(
        facts.subject,
        r#"CN=mx1.example.com, O=M\u{fc}ller, "S\u{f6}hne" \u{5c} Co"#
    );
    assert_eq!(facts.issuer, "CN=Test Root");
    assert_eq!(facts.names, ["mx1.example.com"]);
    assert_eq!(
        facts.addresses,
        ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(facts.serial, "0102ab");
    assert_eq!(facts.key, "EC P-256");
    assert_eq!(facts.not_after.day(), "4096-01-01");
    assert!(!facts.self_issued);
    assert_eq!(facts.sha256, super::sha256(&leaf.chain[0]));
    assert_eq!(facts.sha256.len(), 64);
}

#[test]
fn keys_are_named_by_kind_and_size() {
    let root = Authority::root("Test Root");
    for (kind, words) in [
        (&rcgen::PKCS_ECDSA_P384_SHA384, "EC P-384"),
        (&rcgen::PKCS_ED25519, "Ed25519"),
        (&rcgen::PKCS_RSA_SHA256, "RSA 2048"),
    ] {
        let leaf = root.leaf_of(kind, &["a.example"], |_| ());
        assert_eq!(CertFacts::read(&leaf.chain[0]).key, words);
    }
}

#[test]
fn what_cannot_be_read_is_said_to_be_so_and_was_never_valid() {
    let facts = CertFacts::read(&CertificateDer::from(&b"no certificate"[..]));
    assert_eq!(facts.subject, "unreadable");
    assert!(facts.names.is_empty());
    assert_eq!(facts.not_after, Date(0));
}

#[test]
fn many_names_are_counted_not_listed() {
    let names = |count| {
        let names: Vec<String> = (0..count).map(|n| format!("h{n}.example")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        CertFacts::read(&Leaf::self_signed(&names).chain[0]).names_in_words()
    };
    assert_eq!(names(1), "names h0.example");
    assert_eq!(
        names(7),
        "names h0.example, h1.example, h2.example, h3.example and 3 more"
    );
}

#[test]
fn names_with_odd_octets_are_escaped_and_match_nothing() {
    for (octets, words) in [
        (
            "mx.victim.example\0.evil.example",
            "mx.victim.example\\u{0}.evil.example",
        ),
        ("a\r\nb", "a\\u{d}\\u{a}b"),
        ("ä", "\\u{e4}"),
    ] {
        assert_eq!(escape(octets), words);
        assert!(!crate::policy::NamePattern::Host("mx.victim.example".into()).matches(words));
    }
}

#[test]
fn any_time_has_a_date() {
    for (seconds, words) in [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(Date(seconds).to_string(), words);
    }
    // A certificate cannot name a time so far away, but a clock can.
    let _ = (Date(i64::MAX).to_string(), Date(i64::MIN).to_string());
    assert_eq!(Date::of(UNIX_EPOCH + Duration::from_millis(1_999)), Date(1));
    assert_eq!(Date::of(UNIX_EPOCH - Duration::from_secs(1)), Date(-1));
    assert_eq!(Date::of(UNIX_EPOCH - Duration::from_millis(1)), Date(-1));
}
