//! Reads what is needed out of an X.509 certificate (RFC 5280 §4.1): names, dates, serial number, key.
//!
//! Written by hand, because a peer that is known by its key alone (RFC 7672 §3.1.1) may present a certificate that a validating
//! library rightly refuses to parse: version 1, or unknown critical extensions. The reader judges nothing. On any input it neither
//! panics nor allocates, and each step moves forward, so that the work is linear in the length.

use jiff::civil::DateTime;
use std::net::IpAddr;

/// Universal and context tags that occur here (X.690 §8.1.2).
pub(super) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const ENUMERATED: u8 = 0x0a;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    /// `[0]`, constructed.
    pub(crate) const CONTEXT_0: u8 = 0xa0;
    pub(crate) const EXTENSIONS: u8 = 0xa3;
    pub(crate) const DNS_NAME: u8 = 0x82;
    pub(crate) const IP_ADDRESS: u8 = 0x87;
}

/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// id-pe-tlsfeature, 1.3.6.1.5.5.7.1.24.
const TLS_FEATURE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 0x18];
/// id-ce-extKeyUsage, 2.5.29.37.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// id-ce-keyUsage, 2.5.29.15.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];

/// The unread rest of an input, read element by element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

/// One DER element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    /// Identifier octet.
    pub tag: u8,
    /// Content octets.
    pub content: &'a [u8],
    /// Identifier, length and content octets.
    pub whole: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over these octets.
    #[must_use]
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element; `None` at the end and where the octets are not DER: a tag of more than one octet, or a length that is
    /// indefinite, longer than necessary or too great.
    pub(super) fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if !(1..=4).contains(&octets.len()) || octets[0] == 0 {
                return None;
            }
            let length = octets.iter().fold(0, |n, &o| n << 8 | usize::from(o));
            if length < 0x80 {
                return None;
            }
            (length, rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some(Element {
            tag,
            content,
            whole,
        })
    }

    /// The next element, if it has this tag. Otherwise nothing is read.
    pub(super) fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        if *self.0.first()? != tag {
            return None;
        }
        self.next()
    }

    /// The content of the next element, if it has this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(|element| Self(element.content))
    }
}

/// The parts of a certificate, as they stand in the DER.
#[derive(Clone, Copy, Debug)]
pub(super) struct Certificate<'a> {
    /// Content octets of the serial number.
    pub serial: &'a [u8],
    /// Issuer's Name, with tag and length.
    pub issuer: &'a [u8],
    /// Seconds since 1970, UTC.
    pub not_before: i64,
    /// Seconds since 1970, UTC.
    pub not_after: i64,
    /// Subject's Name, with tag and length.
    pub subject: &'a [u8],
    /// SubjectPublicKeyInfo, with tag and length.
    pub spki: &'a [u8],
    extensions: &'a [u8],
}

/// One subject alternative name (RFC 5280 §4.2.1.6) of a kind that can identify a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AltName<'a> {
    /// dNSName: the octets of the certificate, unchecked.
    Dns(&'a [u8]),
    /// iPAddress.
    Address(IpAddr),
}

impl<'a> Certificate<'a> {
    /// Reads a certificate of version 1 to 3. `None`: the fields before the extensions are not as in RFC 5280 §4.1, or octets follow the
    /// certificate.
    #[must_use]
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(der);
        let mut certificate = outer.enter(tag::SEQUENCE)?;
        let mut tbs = certificate.enter(tag::SEQUENCE)?;
        certificate.take(tag::SEQUENCE)?;
        certificate.take(tag::BIT_STRING)?;
        if !outer.is_at_end() || !certificate.is_at_end() {
            return None;
        }
        tbs.take(tag::CONTEXT_0);
        let serial = tbs.take(tag::INTEGER)?.content;
        tbs.take(tag::SEQUENCE)?;
        let issuer = tbs.take(tag::SEQUENCE)?.whole;
        let mut validity = tbs.enter(tag::SEQUENCE)?;
        let not_before = time(validity.next()?)?;
        let not_after = time(validity.next()?)?;
        let subject = tbs.take(tag::SEQUENCE)?.whole;
        let spki = tbs.take(tag::SEQUENCE)?.whole;
        let extensions = loop {
            match tbs.next() {
                Some(e) if e.tag == tag::EXTENSIONS => break e.content,
                Some(_) => {}
                None => break &[],
            }
        };
        Some(Self {
            serial,
            issuer,
            not_before,
            not_after,
            subject,
            spki,
            extensions,
        })
    }

    /// The dNSNames and iPAddresses, in order; none where the extension is missing, not well formed, or present twice.
    pub(super) fn alt_names(&self) -> impl Iterator<Item = AltName<'a>> {
        let mut names = self.alt_name_reader();
        std::iter::from_fn(move || {
            loop {
                let name = names.next()?;
                match name.tag {
                    tag::DNS_NAME => return Some(AltName::Dns(name.content)),
                    tag::IP_ADDRESS => {
                        if let Some(address) = address(name.content) {
                            return Some(AltName::Address(address));
                        }
                    }
                    _ => {}
                }
            }
        })
    }

    /// Whether keyUsage, if present, allows signing certificates (RFC 5280 §4.2.1.3).
    #[must_use]
    pub(super) fn may_sign_certificates(&self) -> bool {
        const KEY_CERT_SIGN: u8 = 0x80 >> 5;
        match self.extension(KEY_USAGE) {
            Extension::Missing => true,
            Extension::Unclear => false,
            Extension::Value(value) => {
                let bits = Reader(value).take(tag::BIT_STRING).map(|bits| bits.content);
                matches!(bits, Some([_unused, first, ..]) if first & KEY_CERT_SIGN != 0)
            }
        }
    }

    /// Whether extendedKeyUsage, if present, names this purpose (RFC 5280 §4.2.1.12), given as the content octets of its identifier.
    #[must_use]
    pub(super) fn is_meant_for(&self, purpose: &[u8]) -> bool {
        match self.extension(EXTENDED_KEY_USAGE) {
            Extension::Missing => true,
            Extension::Unclear => false,
            Extension::Value(value) => {
                let nothing = Reader(&[]);
                let mut listed = Reader(value).enter(tag::SEQUENCE).unwrap_or(nothing);
                std::iter::from_fn(|| listed.take(tag::OID)).any(|oid| oid.content == purpose)
            }
        }
    }

    /// Whether extendedKeyUsage is there and names this purpose and no other.
    #[must_use]
    pub(super) fn is_meant_only_for(&self, purpose: &[u8]) -> bool {
        let Extension::Value(value) = self.extension(EXTENDED_KEY_USAGE) else {
            return false;
        };
        let Some(mut listed) = Reader(value).enter(tag::SEQUENCE) else {
            return false;
        };
        let named = listed.take(tag::OID).map(|oid| oid.content);
        named == Some(purpose) && listed.is_at_end()
    }

    /// Whether the certificate promises that its server staples an OCSP response (RFC 7633 §4.2.3.1). An extension that cannot be read
    /// counts as a promise.
    #[must_use]
    pub(super) fn must_staple(&self) -> bool {
        const STATUS_REQUEST: &[u8] = &[5];
        match self.extension(TLS_FEATURE) {
            Extension::Missing => false,
            Extension::Unclear => true,
            Extension::Value(value) => match Reader(value).enter(tag::SEQUENCE) {
                None => true,
                Some(mut features) => std::iter::from_fn(|| features.take(tag::INTEGER))
                    .any(|feature| feature.content == STATUS_REQUEST),
            },
        }
    }

    fn alt_name_reader(&self) -> Reader<'a> {
        let nothing = Reader(&[]);
        let Extension::Value(value) = self.extension(SUBJECT_ALT_NAME) else {
            return nothing;
        };
        let names = Reader(value).enter(tag::SEQUENCE).unwrap_or(nothing);
        // A name that cannot be read must not hide the names after it: either all names can be read, or none count.
        let mut all = names;
        while all.next().is_some() {}
        if all.is_at_end() { names } else { nothing }
    }

    fn extension(&self, wanted: &[u8]) -> Extension<'a> {
        let mut found = Extension::Missing;
        let mut list = Reader(self.extensions);
        let Some(mut list) = list.enter(tag::SEQUENCE) else {
            return found;
        };
        while let Some(mut extension) = list.enter(tag::SEQUENCE) {
            let oid = extension.take(tag::OID).map(|e| e.content);
            extension.take(tag::BOOLEAN);
            if oid == Some(wanted) {
                found = match (found, extension.take(tag::OCTET_STRING)) {
                    (Extension::Missing, Some(value)) => Extension::Value(value.content),
                    _ => Extension::Unclear,
                };
            }
        }
        if list.is_at_end() {
            found
        } else {
            Extension::Unclear
        }
    }
}

/// The value of one extension of a certificate.
enum Extension<'a> {
    Missing,
    Value(&'a [u8]),
    /// Present twice, or not well formed.
    Unclear,
}

/// The attributes of a distinguished name (RFC 5280 §4.1.2.4): the type's identifier, and the value.
pub(super) fn attributes(name: &[u8]) -> impl Iterator<Item = (&[u8], Element<'_>)> {
    let mut rdns = Reader(name).enter(tag::SEQUENCE).unwrap_or(Reader(&[]));
    let mut rdn = Reader(&[]);
    std::iter::from_fn(move || {
        loop {
            if let Some(mut attribute) = rdn.enter(tag::SEQUENCE) {
                let oid = attribute.take(tag::OID)?.content;
                return Some((oid, attribute.next()?));
            }
            rdn = rdns.enter(tag::SET)?;
        }
    })
}

/// The algorithm's identifier, its parameters, and the key of a SubjectPublicKeyInfo.
#[must_use]
pub(super) fn public_key(spki: &[u8]) -> Option<(&[u8], Option<Element<'_>>, &[u8])> {
    let mut spki = Reader(spki).enter(tag::SEQUENCE)?;
    let mut algorithm = spki.enter(tag::SEQUENCE)?;
    let oid = algorithm.take(tag::OID)?.content;
    let key = spki.take(tag::BIT_STRING)?.content;
    // The first octet of a BIT STRING counts unused bits; a key has none.
    Some((oid, algorithm.next(), key.get(1..)?))
}

/// Length in bits of the modulus of an RSAPublicKey (RFC 8017 A.1.1).
#[must_use]
pub(super) fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut key = Reader(key).enter(tag::SEQUENCE)?;
    let modulus = key.take(tag::INTEGER)?.content;
    let zeros = modulus.iter().take_while(|&&octet| octet == 0).count();
    let significant = &modulus[zeros..];
    let top = significant.first()?;
    Some(significant.len() * 8 - top.leading_zeros() as usize)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

/// UTCTime `YYMMDDhhmmssZ` or GeneralizedTime `YYYYMMDDhhmmssZ` (RFC 5280 §4.1.2.5), as seconds since 1970.
pub(super) fn time(element: Element<'_>) -> Option<i64> {
    let text = element.content;
    let (year, rest) = match element.tag {
        tag::UTC_TIME if text.len() == 13 => {
            let year = digits(&text[..2])?;
            (year + if year < 50 { 2000 } else { 1900 }, &text[2..])
        }
        tag::GENERALIZED_TIME if text.len() == 15 => (digits(&text[..4])?, &text[4..]),
        _ => return None,
    };
    if rest[10] != b'Z' {
        return None;
    }
    let part = |at: usize| digits(&rest[at..at + 2]).and_then(|part| i8::try_from(part).ok());
    let time = DateTime::new(
        i16::try_from(year).ok()?,
        part(0)?,
        part(2)?,
        part(4)?,
        part(6)?,
        part(8)?,
        0,
    );
    Some(
        time.ok()?
            .duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0))
            .as_secs(),
    )
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |n, octet| {
        octet
            .is_ascii_digit()
            .then(|| n * 10 + i64::from(octet - b'0'))
    })
}

#[cfg(test)]
pub(super) mod tests;
