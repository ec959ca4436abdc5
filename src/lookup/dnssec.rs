//! DNSSEC validated in this process, from a trust anchor down (RFC 4035 §5).

use super::dns::{
    BoxFuture, DnsResponse, RecordType, Resolve, Style, Transport, extended_words, query, read,
    rtype,
};
use crate::{
    files,
    policy::{Dns, Security},
};
use domain::{
    base::{Message, MessageBuilder, Name, ParsedName, Rtype, ToName, Ttl, iana::Rcode},
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

/// Zone cuts and names that the validator remembers.
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
    let text = files::text(file)
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

/// Asks for signatures and believes nothing without them.
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

    /// The state of an answer, or the reply that stands for one that cannot be used.
    async fn judge(&self, message: &mut Message<Bytes>) -> Result<Security, DnsResponse> {
        let (state, error) = self
            .context
            .validate_msg::<_, Vec<u8>>(message)
            .await
            .map_err(|error| {
                DnsResponse::failed(format!("the answer cannot be validated: {error}"))
            })?;
        let words = error.map_or_else(|| "no reason given".to_owned(), |e| extended_words(&e));
        let signed = has_signatures(message);
        match state {
            ValidationState::Secure => Ok(Security::Secure),
            ValidationState::Insecure => Ok(Security::Insecure),
            // The validator says bogus for keys that it could not get, too.
            ValidationState::Bogus if words.contains("request for DS or DNSKEY failed") => {
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

    /// Some servers of unsigned zones say "no such record" with an empty message. That is no proof, so the validator
    /// calls it bogus; but where an unsigned record of that very name would be insecure, so is its absence.
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

    /// The answer about an alias. It is taken out of that about an address, which every resolver gives: systemd-resolved 252 answers
    /// a question for the alias itself with what it remembers of another question.
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

/// As if the alias at the name in question had been asked for: with its signatures, and what proves that a wildcard stands for it.
/// `None`: there is no alias.
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

/// Whether any signature comes with the message.
pub(super) fn has_signatures(message: &Message<Bytes>) -> bool {
    message
        .iter()
        .any(|record| record.is_ok_and(|(record, _)| record.rtype() == Rtype::RRSIG))
}

/// Several resolvers: what is bogus by the one that answers first may be whole by another, which removes no signatures.
pub(super) struct Validators {
    /// Over all of them.
    first: Validator,
    /// Over each alone, with the keys that it gave.
    each: Vec<Validator>,
}

impl Validators {
    /// # Errors
    /// As [`trust_anchors`].
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
