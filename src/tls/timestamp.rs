//! Time-stamps of an authority (RFC 3161): what is asked, and what an answer proves.
//!
//! A token is a CMS message (RFC 5652). It says that a digest existed at a time, and the authority's key signs that. Whether the token
//! belongs to a text is a matter of octets. Whether the time can be believed is a matter of certificates: the signer's must lead to
//! an authority that somebody trusts, and must be issued for time-stamps.
//!
//! Only DER is read. A token in another encoding counts as none.

use super::{
    cert::CertFacts,
    chain::verify_for,
    der::{self, Certificate, Reader, tag},
    names::short,
    trust::{borrowed, trusted},
};
use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{KeyUsage, RawPublicKeyEntity};

/// The media type of a request (RFC 3161 §3.4).
pub(crate) const TIMESTAMP_QUERY: &str = "application/timestamp-query";
/// The media type of an answer.
pub(crate) const TIMESTAMP_REPLY: &str = "application/timestamp-reply";

/// id-kp-timeStamping, 1.3.6.1.5.5.7.3.8.
const TIME_STAMPING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];
/// id-signedData, 1.2.840.113549.1.7.2.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// id-ct-TSTInfo, 1.2.840.113549.1.9.16.1.4.
const TST_INFO: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 1, 4];
/// id-contentType, 1.2.840.113549.1.9.3.
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
/// id-messageDigest, 1.2.840.113549.1.9.4.
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
/// id-aa-signingCertificate, 1.2.840.113549.1.9.16.2.12 (RFC 2634 §5.4).
const SIGNING_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 2, 12];
/// id-aa-signingCertificateV2, 1.2.840.113549.1.9.16.2.47 (RFC 5816).
const SIGNING_CERTIFICATE_V2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 2, 47];
/// rsaEncryption, 1.2.840.113549.1.1.1. As an algorithm of a signature it leaves the digest to another field.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// The identifiers of RSA with PKCS#1 padding differ in their last octet, which stands for the digest.
const RSA_WITH: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
/// The identifiers of SHA-256, SHA-384 and SHA-512 likewise: 2.16.840.1.101.3.4.2.1 to .3.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];
const NULL: &[u8] = &[5, 0];
/// `[1]`, constructed: the unsigned attributes.
const CONTEXT_1: u8 = 0xa1;
/// Largest number of certificates in a token that are looked at.
const CERTIFICATES: usize = 8;

/// What an authority is asked: a stamp for this digest, with its certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StampRequest {
    /// SHA-256 of the text.
    imprint: [u8; 32],
    /// A number that the answer must repeat, so that no old answer can be given for a new question.
    nonce: [u8; 8],
}

impl StampRequest {
    /// A request for this digest (SHA-256). `random` becomes the nonce.
    pub(crate) fn new(imprint: [u8; 32], mut random: [u8; 8]) -> Self {
        // As an INTEGER it is positive and has no superfluous octet (X.690 §8.3.2).
        random[0] = random[0] & 0x3f | 0x40;
        Self {
            imprint,
            nonce: random,
        }
    }

    /// The TimeStampReq (RFC 3161 §2.4.1), DER. Everything in it has a fixed length.
    pub(crate) fn der(&self) -> Vec<u8> {
        [
            &[tag::SEQUENCE, 67, tag::INTEGER, 1, 1][..],
            &[tag::SEQUENCE, 49, tag::SEQUENCE, 13, tag::OID, 9],
            SHA2,
            &[1],
            NULL,
            &[tag::OCTET_STRING, 32],
            &self.imprint,
            &[tag::INTEGER, 8],
            &self.nonce,
            &[tag::BOOLEAN, 1, 0xff],
        ]
        .concat()
    }

    /// The token (DER) in an authority's answer, and what it says. It answers this request, and the key of the certificate that it
    /// brings has signed it.
    ///
    /// # Errors
    /// What is wrong, in words that may quote the answer.
    pub(crate) fn token_in<'a>(&self, response: &'a [u8]) -> Result<StampToken<'a>, String> {
        let token = granted(response)?;
        let stamp = StampToken::read(token).ok_or("the answer's token cannot be read")?;
        if stamp.imprint != self.imprint {
            return Err("the answer stamps something else than was sent".into());
        }
        if stamp.nonce != Some(&self.nonce) {
            return Err(
                "the answer does not repeat the number of the question: it is of another time"
                    .into(),
            );
        }
        stamp.signer().map_err(StampFault::into_words)?;
        Ok(stamp)
    }
}

/// The token of a TimeStampResp (RFC 3161 §2.4.2).
fn granted(response: &[u8]) -> Result<&[u8], String> {
    let no_answer = || String::from("no time-stamp response (RFC 3161)");
    let mut outer = Reader::new(response);
    let mut fields = outer.enter(tag::SEQUENCE).ok_or_else(no_answer)?;
    let mut info = fields.enter(tag::SEQUENCE).ok_or_else(no_answer)?;
    let status = info.take(tag::INTEGER).ok_or_else(no_answer)?.content;
    if !outer.is_at_end() {
        return Err(no_answer());
    }
    let [0 | 1] = status else {
        let mut texts = info.enter(tag::SEQUENCE).unwrap_or(Reader::new(&[]));
        let why = texts.next().map_or(&b""[..], |text| text.content);
        let status = status.last().copied().unwrap_or_default();
        return Err(format!(
            "the authority refuses (status {status}): {}",
            why.escape_ascii()
        ));
    };
    let token = fields.take(tag::SEQUENCE).ok_or_else(no_answer)?;
    Ok(token.whole)
}

/// A time-stamp token, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StampToken<'a> {
    /// The whole token, DER.
    pub(crate) token: &'a [u8],
    /// SHA-256 of the text that was stamped.
    pub(crate) imprint: [u8; 32],
    /// When it was stamped, as the authority says; its fraction of a second is left out.
    at: i64,
    nonce: Option<&'a [u8]>,
    /// The TSTInfo.
    content: &'a [u8],
    certificates: Reader<'a>,
    signed: SignerInfo<'a>,
}

/// Why a token's signature proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StampFault {
    /// It is wrong, or there is none.
    Wrong(String),
    /// It is made in a way that this program does not know. It may be good.
    Unknown(String),
}

impl StampFault {
    fn into_words(self) -> String {
        match self {
            Self::Wrong(words) | Self::Unknown(words) => words,
        }
    }
}

impl From<&str> for StampFault {
    fn from(words: &str) -> Self {
        Self::Wrong(words.into())
    }
}

/// A SignerInfo (RFC 5652 §5.3).
#[derive(Clone, Copy, Debug)]
struct SignerInfo<'a> {
    /// The digest of content and attributes, and the last octet of its identifier; `None` where it is not one of SHA-2.
    digest: Option<(&'static Algorithm, u8)>,
    /// The content octets of signedAttrs.
    attributes: &'a [u8],
    /// The content octets of the AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> StampToken<'a> {
    /// Reads a token. Nothing in it is believed yet.
    pub(crate) fn read(token: &'a [u8]) -> Option<Self> {
        let mut outer = Reader::new(token);
        let mut info = outer.enter(tag::SEQUENCE)?;
        (outer.is_at_end() && info.take(tag::OID)?.content == SIGNED_DATA).then_some(())?;
        let mut data = info.enter(tag::CONTEXT_0)?.enter(tag::SEQUENCE)?;
        data.take(tag::INTEGER)?;
        data.take(tag::SET)?; // the digests that occur
        let mut inner = data.enter(tag::SEQUENCE)?;
        (inner.take(tag::OID)?.content == TST_INFO).then_some(())?;
        let content = inner
            .enter(tag::CONTEXT_0)?
            .take(tag::OCTET_STRING)?
            .content;
        let certificates = data.enter(tag::CONTEXT_0).unwrap_or(Reader::new(&[]));
        data.take(CONTEXT_1); // revocation lists
        let mut signers = data.enter(tag::SET)?;
        let signed = SignerInfo::read(signers.enter(tag::SEQUENCE)?)?;
        // A token has one signature, that of the authority (RFC 3161 §2.4.2).
        signers.is_at_end().then_some(())?;

        let mut outer = Reader::new(content);
        let mut fields = outer.enter(tag::SEQUENCE)?;
        (outer.is_at_end() && fields.take(tag::INTEGER)?.content == [1]).then_some(())?;
        fields.take(tag::OID)?; // the authority's policy
        let mut imprint = fields.enter(tag::SEQUENCE)?;
        (sha2(imprint.enter(tag::SEQUENCE)?)?.1 == 1).then_some(())?;
        let imprint = imprint.take(tag::OCTET_STRING)?.content.try_into().ok()?;
        fields.take(tag::INTEGER)?; // the token's serial number
        let at = time(fields.take(tag::GENERALIZED_TIME)?)?;
        fields.take(tag::SEQUENCE); // accuracy
        fields.take(tag::BOOLEAN); // whether the authority orders its stamps
        let nonce = fields.take(tag::INTEGER).map(|nonce| nonce.content);
        Some(Self {
            token,
            imprint,
            at,
            nonce,
            content,
            certificates,
            signed,
        })
    }

    /// When it was stamped.
    pub(crate) fn at(&self) -> SystemTime {
        let since = u64::try_from(self.at).unwrap_or_default();
        UNIX_EPOCH + Duration::from_secs(since)
    }

    /// Whether the key of the certificate that the token brings has signed it. Who that is, is another question.
    ///
    /// # Errors
    /// It has not, or that cannot be known here.
    pub(crate) fn check_signature(&self) -> Result<(), StampFault> {
        self.signer().map(|_| ())
    }

    /// The certificate (DER) whose key signed the token, out of those that it brings, and these.
    fn signer(&self) -> Result<(&'a [u8], Vec<&'a [u8]>), StampFault> {
        let signed = &self.signed;
        let (known, _) = signed.digest.ok_or_else(|| {
            StampFault::Unknown("its signature uses a digest that is not of SHA-2".into())
        })?;
        let types = signed.value(CONTENT_TYPE).map(|value| value.content);
        let digests = signed.value(MESSAGE_DIGEST).map(|value| value.content);
        let is_of_content =
            types == Some(TST_INFO) && digests == Some(digest(known, self.content).as_ref());
        if !is_of_content {
            return Err("the token's signature is of something else".into());
        }
        let mut list = self.certificates;
        let certificates: Vec<_> = std::iter::from_fn(|| list.take(tag::SEQUENCE))
            .take(CERTIFICATES)
            .map(|certificate| certificate.whole)
            .collect();
        if signed.names_by_unknown_digest() {
            let words = "it names its certificate by a digest that is not of SHA-2";
            return Err(StampFault::Unknown(words.into()));
        }
        let signer = certificates.iter().copied().find(|der| signed.names(der));
        let signer = signer.ok_or("the token does not bring the certificate of its signer")?;
        let key = Certificate::read(signer).map(|certificate| certificate.spki);
        let key = key.ok_or("the certificate of the token's signer cannot be read")?;
        signed.check(key)?;
        Ok((signer, certificates))
    }

    /// The name of the authority, if the token's signer leads to one of `authorities` (DER) and had a certificate for time-stamps that
    /// was valid when it signed.
    ///
    /// # Errors
    /// Why the time is not proved.
    pub(crate) fn proved_by(&self, authorities: &[Vec<u8>]) -> Result<String, String> {
        let (signer, certificates) = self.signer().map_err(StampFault::into_words)?;
        let others = certificates.into_iter().filter(|der| *der != signer);
        let chain: Vec<_> = std::iter::once(signer)
            .chain(others)
            .map(CertificateDer::from)
            .collect();
        let authorities = borrowed(authorities);
        let anchors = trusted(&authorities);
        // The signer's own certificate must name that purpose (RFC 3161 §2.3); those above it need not name any.
        let is_meant = Certificate::read(signer)
            .is_some_and(|certificate| certificate.is_meant_only_for(TIME_STAMPING));
        let purpose = KeyUsage::required_if_present(TIME_STAMPING);
        let facts = CertFacts::read(&chain[0]);
        let name = short(&facts.subject).to_string();
        let wrong =
            |why: String| format!("signed by {name}, whose certificate proves nothing: {why}");
        if !is_meant {
            return Err(wrong("it is not meant for time-stamps only".into()));
        }
        match verify_for(&chain, &anchors, purpose, self.at()) {
            Ok(_) => Ok(name),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

impl<'a> SignerInfo<'a> {
    fn read(mut fields: Reader<'a>) -> Option<Self> {
        fields.take(tag::INTEGER)?;
        fields.next()?; // who signed; the signed attributes say it, too, so that nobody can change it
        let digest = sha2(fields.enter(tag::SEQUENCE)?);
        let attributes = fields.take(tag::CONTEXT_0)?.content;
        let algorithm = fields.take(tag::SEQUENCE)?.content;
        let signature = fields.take(tag::OCTET_STRING)?.content;
        Some(Self {
            digest,
            attributes,
            algorithm,
            signature,
        })
    }

    /// The value of the signed attribute of this type; `None` where it is missing or there is not one of it.
    fn value(&self, wanted: &[u8]) -> Option<der::Element<'a>> {
        let mut list = Reader::new(self.attributes);
        let mut attributes = std::iter::from_fn(|| list.enter(tag::SEQUENCE));
        let mut found = attributes.by_ref().filter_map(|mut attribute| {
            let is_wanted = attribute.take(tag::OID)?.content == wanted;
            is_wanted.then(|| attribute.enter(tag::SET)).flatten()
        });
        let mut values = found.next()?;
        let value = values.next()?;
        (values.is_at_end() && found.next().is_none()).then_some(value)
    }

    /// Whether the signed attributes name this certificate (RFC 5816 §2.2.1, RFC 2634 §5.4). SHA-1, which the older form has, only
    /// tells certificates apart here.
    fn names(&self, certificate: &[u8]) -> bool {
        let first = |value: der::Element<'a>| {
            let mut certificates = Reader::new(value.whole).enter(tag::SEQUENCE)?;
            certificates.enter(tag::SEQUENCE)?.enter(tag::SEQUENCE)
        };
        let named = |mut id: Reader<'a>, default| {
            let algorithm = match id.enter(tag::SEQUENCE) {
                Some(algorithm) => sha2(algorithm)?.0,
                None => default,
            };
            let hash = id.take(tag::OCTET_STRING)?.content;
            Some(hash == digest(algorithm, certificate).as_ref())
        };
        let v2 = self.value(SIGNING_CERTIFICATE_V2);
        let is_named = match v2 {
            Some(value) => first(value).and_then(|id| named(id, &SHA256)),
            None => {
                let v1 = self.value(SIGNING_CERTIFICATE);
                v1.and_then(first)
                    .and_then(|id| named(id, &SHA1_FOR_LEGACY_USE_ONLY))
            }
        };
        is_named == Some(true)
    }

    /// Whether the attributes name the certificate in the newer way, by a digest that is not known.
    fn names_by_unknown_digest(&self) -> bool {
        let first = |value: der::Element<'a>| {
            let mut certificates = Reader::new(value.whole).enter(tag::SEQUENCE)?;
            let mut id = certificates.enter(tag::SEQUENCE)?.enter(tag::SEQUENCE)?;
            id.enter(tag::SEQUENCE)
        };
        let algorithm = self.value(SIGNING_CERTIFICATE_V2).and_then(first);
        algorithm.is_some_and(|algorithm| sha2(algorithm).is_none())
    }

    /// Whether this key (SubjectPublicKeyInfo) has signed the attributes.
    fn check(&self, spki: &[u8]) -> Result<(), StampFault> {
        let spki = SubjectPublicKeyInfoDer::from(spki);
        let key = RawPublicKeyEntity::try_from(&spki);
        let key = key.map_err(|_| "the key of the token's signer cannot be read")?;
        let algorithm = self.full_algorithm();
        let signed = self.signed_attributes();
        let known = default_provider().signature_verification_algorithms.all;
        let known = known
            .iter()
            .filter(|one| one.signature_alg_id().as_ref() == algorithm);
        let mut is_known = false;
        for one in known {
            match key.verify_signature(*one, &signed, self.signature) {
                Ok(()) => return Ok(()),
                // One name stands for several algorithms here, each for another kind of key.
                Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
                Err(_) => is_known = true,
            }
        }
        match is_known {
            true => Err("the token's signature is wrong".into()),
            false => Err(StampFault::Unknown(
                "it is signed with an algorithm that this program does not know".into(),
            )),
        }
    }

    /// The signature's algorithm as certificates write it. CMS allows it to be named by the key's kind alone (RFC 3370 §3.2).
    fn full_algorithm(&self) -> Vec<u8> {
        let mut fields = Reader::new(self.algorithm);
        let is_rsa = fields.take(tag::OID).is_some_and(|oid| oid.content == RSA);
        if !is_rsa {
            return self.algorithm.to_owned();
        }
        // sha256WithRSAEncryption is .11, sha384 .12, sha512 .13.
        let octet = self.digest.map_or(0, |(_, octet)| octet);
        let with_digest = [RSA_WITH, &[10 + octet]].concat();
        [&[tag::OID, 9][..], &with_digest, NULL].concat()
    }

    /// What is signed: the attributes as a SET (RFC 5652 §5.4).
    fn signed_attributes(&self) -> Vec<u8> {
        let length = self.attributes.len().to_be_bytes();
        let significant = &length[length.iter().take_while(|octet| **octet == 0).count()..];
        let mut signed = vec![tag::SET];
        if self.attributes.len() >= 0x80 {
            signed.push(0x80 | significant.len() as u8);
        }
        signed.extend_from_slice(significant);
        signed.extend_from_slice(self.attributes);
        signed
    }
}

/// The digest of an AlgorithmIdentifier, and the last octet of its identifier. Older ones than SHA-2 are not believed.
fn sha2(mut algorithm: Reader<'_>) -> Option<(&'static Algorithm, u8)> {
    let octet = algorithm.take(tag::OID)?.content.strip_prefix(SHA2)?;
    match octet {
        [1] => Some((&SHA256, 1)),
        [2] => Some((&SHA384, 2)),
        [3] => Some((&SHA512, 3)),
        _ => None,
    }
}

/// GeneralizedTime, which in tokens may have a fraction of a second (RFC 3161 §2.4.2). Seconds since 1970.
fn time(element: der::Element<'_>) -> Option<i64> {
    let (whole, rest) = element.content.split_at_checked(14)?;
    let fraction = rest.strip_suffix(b"Z")?;
    let is_fraction = match fraction.split_first() {
        None => true,
        Some((b'.', digits)) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    let whole = [whole, b"Z"].concat();
    let element = der::Element {
        content: &whole,
        ..element
    };
    is_fraction.then(|| der::time(element)).flatten()
}

#[cfg(test)]
mod tests;
