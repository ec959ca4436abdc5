use super::{AltName, Certificate, Reader, attributes, public_key, rsa_bits};
use crate::tls::pki::{Authority, Leaf, common_name_only, expired};
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, SanType};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A varied set of certificates that rcgen can make.
fn samples() -> Vec<Vec<u8>> {
    let root = Authority::root("Röot");
    let leaves = [
        root.leaf(&[
            "mx1.example.com",
            "*.example.com",
            "192.0.2.1",
            "2001:db8::1",
        ]),
        root.leaf_with(&["mx1.example.com"], common_name_only),
        root.leaf_of(&rcgen::PKCS_ECDSA_P384_SHA384, &["a.example"], expired),
        root.leaf_of(&rcgen::PKCS_ED25519, &["a.example"], far_future),
        root.leaf_of(&rcgen::PKCS_RSA_SHA256, &["a.example"], |_| ()),
        Leaf::self_signed_with(&["a.example"], mixed_names),
    ];
    let mut all: Vec<_> = leaves.iter().map(|leaf| leaf.chain[0].to_vec()).collect();
    all.push(root.cert.to_vec());
    all
}

fn far_future(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(1950, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
}

fn mixed_names(params: &mut CertificateParams) {
    params.subject_alt_names = vec![
        SanType::Rfc822Name("a@b.example".try_into().unwrap()),
        SanType::URI("https://c.example".try_into().unwrap()),
        SanType::DnsName("d.example".try_into().unwrap()),
    ];
}

#[test]
fn it_reads_what_x509_parser_reads() {
    for der in samples() {
        let ours = Certificate::read(&der).unwrap();
        let (_, theirs) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(ours.serial, theirs.raw_serial());
        assert_eq!(ours.issuer, theirs.issuer().as_raw());
        assert_eq!(ours.subject, theirs.subject().as_raw());
        assert_eq!(ours.spki, theirs.public_key().raw);
        assert_eq!(ours.not_before, theirs.validity().not_before.timestamp());
        assert_eq!(ours.not_after, theirs.validity().not_after.timestamp());
        let san = theirs.subject_alternative_name().unwrap();
        let theirs: Vec<Vec<u8>> = san
            .iter()
            .flat_map(|san| &san.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.as_bytes().to_vec()),
                GeneralName::IPAddress(address) => Some(address.to_vec()),
                _ => None,
            })
            .collect();
        let ours: Vec<Vec<u8>> = ours
            .alt_names()
            .map(|name| match name {
                AltName::Dns(name) => name.to_vec(),
                AltName::Address(std::net::IpAddr::V4(a)) => a.octets().to_vec(),
                AltName::Address(std::net::IpAddr::V6(a)) => a.octets().to_vec(),
            })
            .collect();
        assert_eq!(ours, theirs);
    }
}

#[test]
fn every_day_is_the_day_that_x509_parser_says() {
    for (text, tag) in [
        ("19500101000000Z", 0x18),
        ("19700101000000Z", 0x18),
        ("20000229235959Z", 0x18),
        ("21000228120000Z", 0x18),
        ("00000301000000Z", 0x18),
        ("99991231235959Z", 0x18),
        ("500101000000Z", 0x17),
        ("491231235959Z", 0x17),
        ("960229000000Z", 0x17),
    ] {
        let der = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let ours = super::time(Reader(&der).next().unwrap()).unwrap();
        let (_, theirs) = x509_parser::time::ASN1Time::from_der(&der).unwrap();
        assert_eq!(ours, theirs.timestamp(), "{text}");
        let written = crate::tls::Date(ours).to_string();
        assert_eq!(written.replace(['-', ':', 'T'], ""), full(text));
    }
}

/// A UTCTime with its century.
fn full(text: &str) -> String {
    match (text.len(), &text[..2]) {
        (13, year) if year < "50" => format!("20{text}"),
        (13, _) => format!("19{text}"),
        _ => text.into(),
    }
}

#[test]
fn times_that_do_not_exist_are_not_read() {
    for text in [
        "20260230000000Z",
        "20261301000000Z",
        "20260001000000Z",
        "20260100000000Z",
        "20260101240000Z",
        "20260101006000Z",
        "20260101000060Z",
        "21000229000000Z",
        "2026010100000+Z",
        "20260101000000+",
        "20260101000000",
        "",
    ] {
        let der = [&[0x18, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        assert_eq!(super::time(Reader(&der).next().unwrap()), None, "{text}");
    }
}

#[test]
fn lengths_other_than_the_shortest_are_not_der() {
    let element = |der: &[u8]| Reader(der).next().map(|e| e.content.len());
    assert_eq!(element(&[4, 1, 9]), Some(1));
    assert_eq!(
        element(&[&[4, 0x81, 0x80], &[0; 128][..]].concat()),
        Some(128)
    );
    assert_eq!(element(&[4, 0x81, 1, 9]), None);
    assert_eq!(
        element(&[&[4, 0x82, 0, 0x80], &[0; 128][..]].concat()),
        None
    );
    assert_eq!(element(&[4, 0x80, 9, 0, 0]), None);
    assert_eq!(element(&[4, 0x85, 1, 0, 0, 0, 0]), None);
    assert_eq!(element(&[4, 0xff]), None);
    assert_eq!(element(&[4, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
    assert_eq!(element(&[0x1f, 1, 9]), None);
    assert_eq!(element(&[4, 2, 9]), None);
}

#[test]
fn names_that_stand_twice_or_cannot_be_read_are_none() {
    let names = |leaf: &Leaf| {
        Certificate::read(&leaf.chain[0])
            .unwrap()
            .alt_names()
            .count()
    };
    let with = |content: Vec<u8>, standard: bool| {
        Leaf::self_signed_with(&["a.example"], |params| {
            if !standard {
                params.subject_alt_names.clear();
            }
            let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
            params.custom_extensions.push(extension);
        })
    };
    let good = vec![0x30, 4, 0x82, 2, b'a', b'b'];
    assert_eq!(names(&with(good.clone(), false)), 1);
    assert_eq!(names(&with(good, true)), 0);
    let cut = vec![0x30, 6, 0x82, 2, b'a', b'b', 0x82, 9];
    assert_eq!(names(&with(cut, false)), 0);
    let of_odd_length = vec![0x30, 5, 0x87, 3, 1, 2, 3];
    assert_eq!(names(&with(of_odd_length, false)), 0);
}

#[test]
fn a_certificate_of_version_1_has_its_key() {
    let leaf = Leaf::self_signed_with(&["a.example"], common_name_only);
    let v3 = Certificate::read(&leaf.chain[0]).unwrap();
    let v1 = without_version_and_extensions(&leaf.chain[0]);
    let read = Certificate::read(&v1).unwrap();
    assert_eq!(read.spki, v3.spki);
    assert_eq!(read.subject, v3.subject);
    assert_eq!(read.alt_names().count(), 0);
}

pub fn without_version_and_extensions(der: &[u8]) -> Vec<u8> {
    let mut certificate = Reader(Reader(der).next().unwrap().content);
    let mut tbs = Reader(certificate.next().unwrap().content);
    let mut kept = Vec::new();
    while let Some(field) = tbs.next() {
        if field.tag != 0xa0 && field.tag != 0xa3 {
            kept.extend_from_slice(field.whole);
        }
    }
    wrap(&[wrap(&kept), certificate.0.to_vec()].concat())
}

fn wrap(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head: &[u8] = match content.len() {
        0..=0x7f => &[0x30, length[1]],
        0x80..=0xff => &[0x30, 0x81, length[1]],
        _ => &[0x30, 0x82, length[0], length[1]],
    };
    [head, content].concat()
}

#[test]
fn key_sizes_are_read() {
    for der in samples() {
        let certificate = Certificate::read(&der).unwrap();
        let (_, theirs) = X509Certificate::from_der(&der).unwrap();
        let (_, _, key) = public_key(certificate.spki).unwrap();
        assert_eq!(key, &theirs.public_key().subject_public_key.data[..]);
        if let Ok(x509_parser::public_key::PublicKey::RSA(rsa)) = theirs.public_key().parsed() {
            assert_eq!(rsa_bits(key), Some(rsa.key_size()));
        }
    }
    assert_eq!(rsa_bits(&[0x30, 3, 2, 1, 0]), None);
}

/// Reads every part of a certificate.
fn read_all(der: &[u8]) {
    let mut reader = Reader(der);
    while reader.next().is_some() {}
    if let Some(certificate) = Certificate::read(der) {
        certificate.alt_names().for_each(drop);
        let _ = (
            certificate.may_sign_certificates(),
            certificate.must_staple(),
        );
        attributes(certificate.subject).for_each(drop);
        public_key(certificate.spki).map(|(_, _, key)| rsa_bits(key));
    }
    attributes(der).for_each(drop);
    public_key(der).map(|(_, _, key)| rsa_bits(key));
    // Also makes the words: whatever the certificate contains, they are printable ASCII.
    let facts = crate::tls::CertFacts::read(&der.into());
    let json = serde_json::to_string(&facts).unwrap();
    assert!(json.bytes().all(|octet| (b' '..=b'~').contains(&octet)));
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_all(&octets);
    }

    #[test]
    fn no_change_of_a_certificate_makes_it_panic(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        use std::sync::OnceLock;
        static SAMPLES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        let mut der = which.get(SAMPLES.get_or_init(samples)).clone();
        for (at, to) in changes {
            let at = at.index(der.len());
            der[at] = to;
        }
        read_all(&der);
        der.truncate(cut.index(der.len()));
        read_all(&der);
    }
}
