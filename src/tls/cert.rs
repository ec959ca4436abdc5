//! A certificate in words, for log, record and refusals.

use super::der::{self, AltName, Certificate};
use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use jiff::{
    SignedDuration,
    civil::{DateTime, Time, date},
};
use rustls::pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use std::{
    fmt,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

/// The contents of a certificate. Texts are printable ASCII; all other characters are escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertFacts {
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub sha256: String,
    /// SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal; empty if the certificate cannot be read.
    pub spki_sha256: String,
    /// `CN=mx1.example.com, O=Example`. If the certificate cannot be read: `unreadable`, and all fields below are empty.
    pub subject: String,
    /// DNS-IDs: the dNSNames of the subject alternative name. The common name does not count (RFC 9525 §6.2).
    pub names: Vec<String>,
    /// IP-IDs: the iPAddresses of the subject alternative name.
    pub addresses: Vec<IpAddr>,
    /// In the same form as `subject`.
    pub issuer: String,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// First second of validity.
    pub not_before: Date,
    /// Last second of validity.
    pub not_after: Date,
    /// `RSA 2048`, `EC P-256`, `Ed25519`.
    pub key: String,
    /// Subject and issuer are the same.
    pub self_issued: bool,
}

/// A moment of UTC, in seconds since 1970; any year that a certificate can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub i64);

impl Date {
    /// To the second, rounded down.
    #[must_use]
    pub(crate) fn of(time: SystemTime) -> Self {
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => {
                let before = before.duration();
                let part = i64::from(before.subsec_nanos() > 0);
                i64::try_from(before.as_secs()).map_or(i64::MIN, |whole| -whole - part)
            }
        })
    }

    /// Without the time of day: `2026-03-01`.
    #[must_use]
    pub(crate) fn day(self) -> String {
        self.civil().date().to_string()
    }

    /// The nearest moment of the years -9999 to 9999.
    fn civil(self) -> DateTime {
        let since_1970 = SignedDuration::from_secs(self.0);
        date(1970, 1, 1)
            .to_datetime(Time::midnight())
            .saturating_add(since_1970)
    }
}

/// RFC 3339, to the second: `2026-03-01T00:00:00Z`.
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}Z", self.civil())
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl CertFacts {
    /// Reads any octets. A certificate that cannot be read has the subject `unreadable`.
    #[must_use]
    pub fn read(der: &CertificateDer<'_>) -> Self {
        let sha256 = sha256(der);
        let Some(certificate) = Certificate::read(der) else {
            return Self {
                sha256,
                spki_sha256: String::new(),
                subject: "unreadable".into(),
                names: Vec::new(),
                addresses: Vec::new(),
                issuer: String::new(),
                serial: String::new(),
                not_before: Date::default(),
                not_after: Date::default(),
                key: String::new(),
                self_issued: false,
            };
        };
        let mut names = Vec::new();
        let mut addresses = Vec::new();
        for name in certificate.alt_names() {
            match name {
                AltName::Dns(octets) => names.push(escape(&String::from_utf8_lossy(octets))),
                AltName::Address(address) => addresses.push(address),
            }
        }
        Self {
            sha256,
            spki_sha256: self::sha256(certificate.spki),
            subject: name_in_words(certificate.subject),
            names,
            addresses,
            issuer: name_in_words(certificate.issuer),
            serial: HEXLOWER.encode(certificate.serial),
            not_before: Date(certificate.not_before),
            not_after: Date(certificate.not_after),
            key: key_in_words(certificate.spki),
            self_issued: certificate.subject == certificate.issuer,
        }
    }

    /// The DNS-IDs and IP-IDs for a refusal: `names a.example, b.example and 3 more`.
    #[must_use]
    pub fn names_in_words(&self) -> String {
        const SHOWN: usize = 4;
        let all: Vec<String> = self
            .names
            .iter()
            .cloned()
            .chain(self.addresses.iter().map(|address| format!("[{address}]")))
            .collect();
        match all.len() {
            0 => "names no host".into(),
            n if n <= SHOWN => format!("names {}", all.join(", ")),
            n => format!("names {} and {} more", all[..SHOWN].join(", "), n - SHOWN),
        }
    }
}

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub(crate) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// SHA-256 of the parts with their lengths, so that different divisions of the same octets differ.
pub(super) fn digest_of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

/// Printable ASCII stays, and all other characters become `\u{..}`. A backslash is escaped too, so that no text can imitate an escape.
fn escape(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            if (' '..='~').contains(&c) && c != '\\' {
                out.push(c);
            } else {
                out.extend(c.escape_unicode());
            }
            out
        })
}

/// `CN=mx1.example.com, O=Example`.
fn name_in_words(name: &[u8]) -> String {
    let mut words = String::new();
    for (oid, value) in der::attributes(name) {
        if !words.is_empty() {
            words.push_str(", ");
        }
        words.push_str(&attribute_in_words(oid));
        words.push('=');
        words.push_str(&escape(&text_of(value)));
    }
    words
}

/// RFC 4519 §2 short names.
fn attribute_in_words(oid: &[u8]) -> String {
    match oid {
        [0x55, 4, 3] => "CN".into(),
        [0x55, 4, 4] => "SN".into(),
        [0x55, 4, 5] => "serialNumber".into(),
        [0x55, 4, 6] => "C".into(),
        [0x55, 4, 7] => "L".into(),
        [0x55, 4, 8] => "ST".into(),
        [0x55, 4, 10] => "O".into(),
        [0x55, 4, 11] => "OU".into(),
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 0x19] => "DC".into(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress".into(),
        other => format!("oid.{}", HEXLOWER.encode(other)),
    }
}

/// The text of a string type of RFC 5280 §4.1.2.4. TeletexString is read as Latin-1, as is common practice.
fn text_of(value: der::Element<'_>) -> String {
    match value.tag {
        0x0c | 0x12 | 0x13 | 0x16 | 0x1a => String::from_utf8_lossy(value.content).into_owned(),
        0x14 => value.content.iter().copied().map(char::from).collect(),
        0x1e => {
            let units = value.content.chunks_exact(2);
            char::decode_utf16(units.map(|pair| u16::from_be_bytes([pair[0], pair[1]])))
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        _ => format!("#{}", HEXLOWER.encode(value.whole)),
    }
}

/// The kind of a SubjectPublicKeyInfo's key, with its size if the kind has several.
pub(super) fn key_in_words(spki: &[u8]) -> String {
    let Some((algorithm, parameters, key)) = der::public_key(spki) else {
        return "unreadable".into();
    };
    match algorithm {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, scheme @ (1 | 10)] => {
            let name = if *scheme == 1 { "RSA" } else { "RSA-PSS" };
            match der::rsa_bits(key) {
                Some(bits) => format!("{name} {bits}"),
                None => format!("{name} unreadable"),
            }
        }
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1] => {
            format!("EC {}", curve_in_words(parameters.map(|p| p.content)))
        }
        [0x2b, 0x65, 0x70] => "Ed25519".into(),
        [0x2b, 0x65, 0x71] => "Ed448".into(),
        [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 0x11] => "ML-DSA-44".into(),
        [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 0x12] => "ML-DSA-65".into(),
        [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 0x13] => "ML-DSA-87".into(),
        other => format!("oid.{}", HEXLOWER.encode(other)),
    }
}

/// An algorithm in words, from the contents of the AlgorithmIdentifier (RFC 5280 §4.1.1.2) of a key or a signature.
pub(super) fn algorithm_in_words(identifier: &[u8]) -> String {
    let mut identifier = der::Reader::new(identifier);
    let oid = identifier.take(der::tag::OID).map(|oid| oid.content);
    let parameters = identifier.next();
    match oid.unwrap_or_default() {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1] => "RSA".into(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4] => "RSA with MD5".into(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5] => "RSA with SHA-1".into(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10] => "RSA-PSS".into(),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1] => {
            format!("EC {}", curve_in_words(parameters.map(|p| p.content)))
        }
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1] => "ECDSA with SHA-1".into(),
        [0x2a, 0x86, 0x48, 0xce, 0x38, 4, ..] => "DSA".into(),
        [0x2b, 0x65, 0x71] => "Ed448".into(),
        other => format!("oid.{}", HEXLOWER.encode(other)),
    }
}

/// Whether signatures by this kind of key can be checked here.
pub(super) fn is_known_kind(key: &str) -> bool {
    let known = ["RSA ", "EC P-", "Ed25519", "ML-DSA-"];
    known.iter().any(|kind| key.starts_with(kind))
}

fn curve_in_words(curve: Option<&[u8]>) -> String {
    match curve.unwrap_or_default() {
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7] => "P-256".into(),
        [0x2b, 0x81, 4, 0, 0x22] => "P-384".into(),
        [0x2b, 0x81, 4, 0, 0x23] => "P-521".into(),
        [0x2b, 0x81, 4, 0, 0x0a] => "secp256k1".into(),
        // RFC 5639 §4.1.
        [0x2b, 0x24, 3, 3, 2, 8, 1, 1, 7] => "brainpoolP256r1".into(),
        [0x2b, 0x24, 3, 3, 2, 8, 1, 1, 0x0b] => "brainpoolP384r1".into(),
        [0x2b, 0x24, 3, 3, 2, 8, 1, 1, 0x0d] => "brainpoolP512r1".into(),
        other => format!("oid.{}", HEXLOWER.encode(other)),
    }
}

#[cfg(test)]
mod tests;
