//! DNSSEC validation in this process, from a trust anchor down (RFC 4035 §5).

use super::dns::{
    BoxFuture, DnsResponse, RecordType, Resolve, Style, Transport, extended_words, query, read,
    rtype,
};
use crate::{
    files,
    policy::{Dns, Security},
};
use domain::{
    base::{
        Message, MessageBuilder, Name, ParsedName, Rtype, ToName, Ttl, iana::Rcode,
        opt::ExtendedError,
    },
    dnssec::validator::{
        anchor::TrustAnchors,
        context::{Config, ValidationContext, ValidationState},
    },
    rdata::{A, AllRecordData},
};
use hyper::body::Bytes;
use std::{net::SocketAddr, path::Path};

/// The root's key signing keys as IANA publishes them, KSK-2017 and KSK-2024, as DS records.
const ROOT_KEYS: &str = "\
. IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D
. IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16
";

/// Number of zone cuts and names that the validator remembers.
const NODES: u64 = 10_000;

/// Reads a trust anchor file, or the built-in keys.
///
/// # Errors
/// In words, with the file's name.
pub(super) fn trust_anchors(file: Option<&Path>) -> Result<TrustAnchors, String> {
    let Some(file) = file else {
        return TrustAnchors::from_u8(ROOT_KEYS.as_bytes()).map_err(|error| error.to_string());
    };
    let name = file.display();
    let text = files::text(file, files::SMALL)
        .map_err(|error| format!("{name}: {error}, --dnssec-anchor needs a file to read"))?;
    let form = "--dnssec-anchor takes DS or DNSKEY records of the root zone, one a line: \". IN DS 20326 8 2 E06D...\"";
    let mut any = false;
    for (number, line) in text.lines().enumerate() {
        let mut words = line
            .split(';')
            .next()
            .unwrap_or("")
            .split_ascii_whitespace();
        let Some(owner) = words.next() else { continue };
        if owner != "."
            || !words.any(|word| matches!(word.to_ascii_uppercase().as_str(), "DS" | "DNSKEY"))
        {
            return Err(format!(
                "{name}:{}: not a key of the root, {form}",
                number + 1
            ));
        }
        any = true;
    }
    if !any {
        return Err(format!("{name}: no record in it, {form}"));
    }
    TrustAnchors::from_u8(text.as_bytes()).map_err(|error| format!("{name}: {error}, {form}"))
}

/// Asks for signatures and validates every answer.
pub(super) struct Validator {
    wire: Transport,
    context: ValidationContext<Transport>,
}

impl Validator {
    pub(super) fn new(wire: Transport, anchors: TrustAnchors) -> Self {
        let mut config = Config::new();
        config.set_max_node_cache(NODES);
        Self {
            context: ValidationContext::with_config(anchors, wire.clone(), config),
            wire,
        }
    }

    /// The DNSSEC state of an answer. Where the answer cannot be used, the response that stands for it.
    async fn judge(&self, message: &mut Message<Bytes>) -> Result<Security, DnsResponse> {
        let (state, error) = self
            .context
            .validate_msg::<_, Vec<u8>>(message)
            .await
            .map_err(|error| {
                DnsResponse::failed(format!("the answer cannot be validated: {error}"))
            })?;
        let error = error.as_ref();
        let words = error.map_or_else(|| "no reason given".to_owned(), extended_words);
        let signed = has_signatures(message);
        match state {
            ValidationState::Secure => Ok(Security::Secure),
            ValidationState::Insecure => Ok(Security::Insecure),
            ValidationState::Bogus if error.is_some_and(is_lack_of_keys) => {
                Err(DnsResponse::failed(
                    "the resolver does not give the DNSSEC keys of a zone on the way (--resolver names another)",
                ))
            }
            ValidationState::Bogus if !signed => Err(DnsResponse::bogus(
                "the answer comes without the DNSSEC signatures that its zone must have, so the resolver or somebody on the way removes them (--resolver names another)",
            )),
            ValidationState::Bogus => Err(DnsResponse::bogus(format!(
                "the DNSSEC signatures do not hold: {words}"
            ))),
            ValidationState::Indeterminate => Err(DnsResponse::failed(format!(
                "whether the zone is signed cannot be told: {words}"
            ))),
        }
    }

    /// Whether the name of an empty answer is in an unsigned zone.
    ///
    /// Some servers of unsigned zones answer "no such record" with an empty message. Such an answer proves nothing, so the validator
    /// calls it bogus. But if an unsigned record of the same name would be insecure, its absence is insecure too.
    async fn is_unsigned(&self, message: &Message<Bytes>) -> bool {
        let counts = message.header_counts();
        if counts.ancount() > 0 || counts.nscount() > 0 {
            return false;
        }
        let Ok(question) = message.sole_question() else {
            return false;
        };
        let name: Name<Bytes> = question.qname().to_name();
        let mut stand_in = MessageBuilder::new_vec();
        stand_in.header_mut().set_qr(true);
        stand_in.header_mut().set_rcode(Rcode::NOERROR);
        let mut stand_in = stand_in.question();
        if stand_in.push((&name, Rtype::A)).is_err() {
            return false;
        }
        let mut stand_in = stand_in.answer();
        let record = (&name, Ttl::from_secs(1), A::from_octets(192, 0, 2, 1));
        if stand_in.push(record).is_err() {
            return false;
        }
        let octets = Bytes::from(stand_in.into_message().into_octets());
        let Ok(mut stand_in) = Message::from_octets(octets) else {
            return false;
        };
        matches!(self.judge(&mut stand_in).await, Ok(Security::Insecure))
    }

    async fn answer(&self, name: &str, kind: RecordType) -> DnsResponse {
        let asked = match kind {
            RecordType::Cname => self.alias(name).await,
            _ => query(&self.wire, name, rtype(kind), Style::Signatures).await,
        };
        let mut message = match asked {
            Ok(message) => message,
            Err(reply) => return reply,
        };
        match self.judge(&mut message).await {
            Ok(security) => read(&message, kind, security),
            Err(_) if self.is_unsigned(&message).await => read(&message, kind, Security::Insecure),
            Err(reply) => reply,
        }
    }

    /// The answer about an alias. It is extracted from the answer about an address, which every resolver gives: systemd-resolved 252
    /// answers a question for the alias itself from its cache of other questions.
    async fn alias(&self, name: &str) -> Result<Message<Bytes>, DnsResponse> {
        let whole = query(&self.wire, name, Rtype::A, Style::Signatures).await?;
        match only_alias(&whole) {
            Some(alias) => Ok(alias),
            None => query(&self.wire, name, Rtype::CNAME, Style::Signatures).await,
        }
    }
}

impl Resolve for Validator {
    fn resolve<'a>(&'a self, name: &'a str, kind: RecordType) -> BoxFuture<'a, DnsResponse> {
        Box::pin(self.answer(name, kind))
    }
}

/// The part of an answer that a question for the alias itself would have had: the alias, its signatures, and the proof that a wildcard
/// stands for it. `None`: there is no alias.
fn only_alias(whole: &Message<Bytes>) -> Option<Message<Bytes>> {
    type Any = AllRecordData<Bytes, ParsedName<Bytes>>;
    let name: Name<Bytes> = whole.sole_question().ok()?.qname().to_name();
    let mut alias = MessageBuilder::new_vec();
    *alias.header_mut() = whole.header();
    alias.header_mut().set_rcode(Rcode::NOERROR);
    let mut alias = alias.question();
    alias.push((&name, Rtype::CNAME)).ok()?;
    let (mut alias, mut found) = (alias.answer(), false);
    for record in whole.answer().ok()?.limit_to_in::<Any>() {
        let record = record.ok()?;
        let here = record.owner().name_eq(&name);
        let alias_here = here && record.rtype() == Rtype::CNAME;
        let keep = match record.data() {
            AllRecordData::Rrsig(signature) => here && signature.type_covered() == Rtype::CNAME,
            _ => alias_here,
        };
        found |= alias_here;
        if keep {
            alias.push(record).ok()?;
        }
    }
    let mut alias = alias.authority();
    for record in whole.authority().ok()?.limit_to_in::<Any>() {
        alias.push(record.ok()?).ok()?;
    }
    let alias = Message::from_octets(Bytes::from(alias.finish())).ok()?;
    found.then_some(alias)
}

/// The text in the validator's errors when a resolver did not answer a question for keys.
const LACK_OF_KEYS: &str = "request for DS or DNSKEY failed";

/// Whether the validator says bogus only because it could not get the keys of a zone.
///
/// The text decides, because `domain` 0.12.3 tells it by nothing else: the state is `Bogus` and the code 6 (DNSSEC Bogus, RFC 8914
/// §4.7), as for a signature that is wrong. The answer to our own question for keys does not tell it either: the validator remembers
/// that a zone is bogus, and asks no more. `Cargo.toml` holds the version, and a test the text.
fn is_lack_of_keys(error: &ExtendedError<Vec<u8>>) -> bool {
    let text = error.text().and_then(Result::ok);
    text.is_some_and(|text| text.starts_with(LACK_OF_KEYS))
}

/// Whether the message has any signature.
pub(super) fn has_signatures(message: &Message<Bytes>) -> bool {
    message
        .iter()
        .any(|record| record.is_ok_and(|(record, _)| record.rtype() == Rtype::RRSIG))
}

/// Several resolvers. An answer that is bogus from the first resolver may be sound from another, which does not remove signatures.
pub(super) struct Validators {
    /// Asks the resolvers in order until one answers.
    first: Validator,
    /// One for each resolver, which asks that resolver only, for keys too.
    each: Vec<Validator>,
}

impl Validators {
    /// # Errors
    /// The errors of [`trust_anchors`].
    pub(super) fn new(resolvers: Vec<SocketAddr>, anchor: Option<&Path>) -> Result<Self, String> {
        let alone = match resolvers.as_slice() {
            [_] => Vec::new(),
            several => several.to_vec(),
        };
        let all = Transport::new(resolvers);
        let each = alone
            .into_iter()
            .map(|resolver| Ok(Validator::new(all.only(resolver), trust_anchors(anchor)?)))
            .collect::<Result<_, String>>()?;
        Ok(Self {
            first: Validator::new(all, trust_anchors(anchor)?),
            each,
        })
    }

    async fn answer(&self, name: &str, kind: RecordType) -> DnsResponse {
        let reply = self.first.answer(name, kind).await;
        if !matches!(reply.answer, Dns::Bogus(_)) {
            return reply;
        }
        for alone in &self.each {
            let other = alone.answer(name, kind).await;
            if matches!(other.answer, Dns::Found(..) | Dns::Absent(_)) {
                return other;
            }
        }
        reply
    }
}

impl Resolve for Validators {
    fn resolve<'a>(&'a self, name: &'a str, kind: RecordType) -> BoxFuture<'a, DnsResponse> {
        Box::pin(self.answer(name, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use domain::{
        base::iana::{Class, ExtendedErrorCode, SecurityAlgorithm},
        net::client::request::{ComposeRequest, Error, GetResponse, RequestMessage, SendRequest},
        rdata::{Dnskey, Rrsig, dnssec::Timestamp},
    };
    use std::{
        pin::Pin,
        time::{Duration, UNIX_EPOCH},
    };

    /// Gives the root's keys, and no others.
    #[derive(Clone, Debug)]
    struct RootOnly {
        keys: Message<Bytes>,
        asked_for_root: bool,
    }

    impl SendRequest<RequestMessage<Vec<u8>>> for RootOnly {
        fn send_request(
            &self,
            request: RequestMessage<Vec<u8>>,
        ) -> Box<dyn GetResponse + Send + Sync> {
            let question = request.to_message().unwrap();
            let asked_for_root = question.sole_question().unwrap().qname().is_root();
            Box::new(Self {
                asked_for_root,
                ..self.clone()
            })
        }
    }

    impl GetResponse for RootOnly {
        fn get_response(
            &mut self,
        ) -> Pin<Box<dyn Future<Output = Result<Message<Bytes>, Error>> + Send + Sync + '_>>
        {
            let found = self.asked_for_root.then(|| self.keys.clone());
            Box::pin(async { found.ok_or(Error::NoTransportAvailable) })
        }
    }

    fn seconds(after: Duration) -> u32 {
        let since = crate::clock::wall().duration_since(UNIX_EPOCH).unwrap() + after;
        u32::try_from(since.as_secs()).unwrap()
    }

    /// A root with one key, and that key as the trust anchor.
    fn root() -> (RootOnly, TrustAnchors) {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = pair.public_key().as_ref();
        let algorithm = SecurityAlgorithm::ED25519;
        let key = Dnskey::new(257, 3, algorithm, public.to_vec()).unwrap();
        let (from, until) = (seconds(Duration::ZERO), seconds(Duration::from_secs(3600)));
        // What is signed (RFC 4034 §3.1.8.1): the RRSIG without its signature, then the record.
        let mut signed = [&[0, 48, 15, 0, 0, 0, 14, 16][..], &until.to_be_bytes()].concat();
        signed.extend(from.to_be_bytes());
        signed.extend(key.key_tag().to_be_bytes());
        signed.extend([0, 0, 0, 48, 0, 1, 0, 0, 14, 16, 0, 36, 1, 1, 3, 15]);
        signed.extend(public);
        let (name, ttl) = (Name::root_vec(), Ttl::from_secs(3600));
        let signature = Rrsig::new(
            Rtype::DNSKEY,
            algorithm,
            0,
            ttl,
            Timestamp::from(until),
            Timestamp::from(from),
            key.key_tag(),
            name.clone(),
            pair.sign(&signed).as_ref().to_vec(),
        );
        let mut keys = MessageBuilder::new_vec().question();
        keys.push((&name, Rtype::DNSKEY)).unwrap();
        let mut keys = keys.answer();
        keys.push((&name, Class::IN, ttl, &key)).unwrap();
        keys.push((&name, Class::IN, ttl, signature.unwrap()))
            .unwrap();
        let keys = Message::from_octets(Bytes::from(keys.finish())).unwrap();
        let anchor = format!(
            ". IN DNSKEY 257 3 15 {}",
            data_encoding::BASE64.encode(public)
        );
        let resolver = RootOnly {
            keys,
            asked_for_root: false,
        };
        (resolver, TrustAnchors::from_u8(anchor.as_bytes()).unwrap())
    }

    #[tokio::test]
    async fn a_lack_of_keys_is_known_by_the_words_that_the_validator_uses() {
        let name: Name<Vec<u8>> = "a.example".parse().unwrap();
        let mut answer = MessageBuilder::new_vec().question();
        answer.push((&name, Rtype::A)).unwrap();
        let mut answer = answer.answer();
        let record = (&name, Ttl::from_secs(1), A::from_octets(192, 0, 2, 1));
        answer.push(record).unwrap();
        let mut message = Message::from_octets(Bytes::from(answer.finish())).unwrap();
        let (resolver, anchors) = root();
        let context = ValidationContext::new(anchors, resolver);
        // The second time, the validator answers from its cache.
        for _ in 0..2 {
            let validated = context.validate_msg::<_, Vec<u8>>(&mut message).await;
            let (state, error) = validated.unwrap();
            assert!(matches!(state, ValidationState::Bogus));
            let error = error.unwrap();
            assert!(is_lack_of_keys(&error), "{}", extended_words(&error));
        }
        let other = ExtendedError::new_with_str(ExtendedErrorCode::DNSSEC_BOGUS, "No signature");
        assert!(!is_lack_of_keys(&other.unwrap()));
    }
}
