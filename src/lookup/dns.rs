//! Questions and answers of the DNS: the trait that all look-ups use, and the messages that are sent and read.

use crate::policy::{Dns, Security, Tlsa};
use domain::{
    base::{
        Message, MessageBuilder, Name, ParsedName, Rtype, ToName,
        iana::{ExtendedErrorCode, OptRcode},
        opt::ExtendedError,
    },
    net::client::request::{ComposeRequest, Error, GetResponse, RequestMessage, SendRequest},
    rdata::{AllRecordData, ZoneRecordData},
};
use hyper::body::Bytes;
use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

/// Most records of one RRset, except TXT, which the audit log does not repeat. An answer with more fails: no honest domain has so
/// many, and each record of the audit log repeats them.
const MAX_RECORDS: usize = 100;
/// The longest chain of CNAME records that is followed.
const MAX_ALIASES: usize = 11;
/// Time for the answer of one resolver, in the first and in the second round.
const PATIENCE: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(6)];
/// Most exchanges with resolvers at the same time.
const MAX_EXCHANGES: usize = 256;
/// How long a question may wait to be asked. Whoever asked has given up by then, so the questions that wait have a limit.
const FOR_A_PLACE: Duration = Duration::from_secs(30);
/// Octets of the longest answer that a resolver may send by UDP (RFC 9715 §3.1: no fragments).
const UDP_PAYLOAD: u16 = 1232;

/// Type of the records that a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RecordType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The alias itself, not followed.
    Cname,
    /// Mail exchangers.
    Mx,
    /// TLSA records.
    Tlsa,
    /// Text.
    Txt,
}

impl RecordType {
    /// One word for counters.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::Aaaa => "aaaa",
            Self::Cname => "cname",
            Self::Mx => "mx",
            Self::Tlsa => "tlsa",
            Self::Txt => "txt",
        }
    }
}

/// One record's data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rdata {
    /// A or AAAA.
    Address(IpAddr),
    /// CNAME: the target in lower case.
    Cname(String),
    /// MX: preference, and exchange in lower case; an empty exchange is the root (RFC 7505).
    Mx(u16, String),
    /// TLSA (RFC 6698 §2.1).
    Tlsa(Tlsa),
    /// TXT, its strings joined (RFC 8461 §3.1).
    Txt(Vec<u8>),
}

/// An RRset of the type that was asked for, and the name where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rrset {
    /// The name at the end of all CNAME records, in lower case.
    pub owner: String,
    /// At least one.
    pub records: Vec<Rdata>,
}

/// The result of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnsResponse {
    /// The RRset and its DNSSEC state, which is `Secure` only if every alias on the way is.
    pub answer: Dns<Rrset>,
    /// How long the DNS says that it holds; zero for errors.
    pub ttl: Duration,
    /// The whole name does not exist (NXDOMAIN), not only records of one type.
    pub no_such_name: bool,
}

impl DnsResponse {
    /// There is no usable answer.
    pub(super) fn failed(why: impl Into<String>) -> Self {
        Self {
            answer: Dns::Failed(bounded(why.into())),
            ttl: Duration::ZERO,
            no_such_name: false,
        }
    }

    /// Validation proved the answer false.
    pub(super) fn bogus(why: impl Into<String>) -> Self {
        Self {
            answer: Dns::Bogus(bounded(why.into())),
            ttl: Duration::ZERO,
            no_such_name: false,
        }
    }
}

/// Octets of a text that quotes others: enough to recognise the cause.
const WORDS: usize = 300;

/// Cuts the words of a failure. Log and record repeat them each time, and strangers must not make log and record long.
pub(super) fn bounded(mut words: String) -> String {
    if words.len() > WORDS {
        words.truncate(words.floor_char_boundary(WORDS - 3));
        words += "...";
    }
    words
}

/// A future as a trait object.
pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that answers questions. A response is never [`Dns::NotAsked`].
pub(super) trait Resolve: Send + Sync {
    /// Asks for the records of one type at a name (without trailing dot), and follows aliases.
    fn resolve<'a>(&'a self, name: &'a str, kind: RecordType) -> BoxFuture<'a, DnsResponse>;
}

/// The name servers of a `resolv.conf`.
///
/// # Errors
/// In words, with line and column, for an address that cannot be read.
pub(super) fn name_servers(file: &str, text: &str) -> Result<Vec<SocketAddr>, String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let word = words.next().unwrap_or_default();
        let address: IpAddr = word.parse().map_err(|_| {
            format!(
                "{file}:{}: cannot use {word:?} as a resolver, name one with --resolver",
                number + 1
            )
        })?;
        found.push(SocketAddr::new(address, 53));
    }
    if found.is_empty() {
        // Without a `nameserver` line, the resolver is on this host (resolv.conf(5)).
        found.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
    }
    Ok(found)
}

/// Sends questions to resolvers, over UDP, and over TCP where the answer does not fit.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    resolvers: Arc<[SocketAddr]>,
    /// Index of the resolver that answered last. It is asked first, so that a dead resolver costs its time-out once.
    good: Arc<AtomicUsize>,
    exchanges: Arc<Semaphore>,
}

impl Transport {
    pub(super) fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self {
            resolvers: resolvers.into(),
            good: Arc::default(),
            exchanges: Arc::new(Semaphore::new(MAX_EXCHANGES)),
        }
    }

    /// One whose exchanges are all taken.
    #[cfg(test)]
    pub(super) fn busy() -> Self {
        Self {
            exchanges: Arc::new(Semaphore::new(0)),
            ..Self::new(Vec::new())
        }
    }

    /// A transport to one resolver alone. Both share one limit of exchanges.
    pub(super) fn only(&self, resolver: SocketAddr) -> Self {
        Self {
            exchanges: Arc::clone(&self.exchanges),
            ..Self::new(vec![resolver])
        }
    }

    /// The first usable answer. If there is none: the last error response, or why no resolver answered.
    async fn exchange(
        &self,
        mut request: RequestMessage<Vec<u8>>,
    ) -> Result<Message<Bytes>, String> {
        let permit = timeout(FOR_A_PLACE, self.exchanges.acquire()).await;
        let _permit = permit
            .map_err(|_| "too many questions are under way".to_owned())?
            .map_err(|e| e.to_string())?;
        if request.dnssec_ok() {
            request.set_udp_payload_size(UDP_PAYLOAD);
        }
        let first = self.good.load(Ordering::Relaxed);
        let mut silent: Vec<usize> = (0..self.resolvers.len())
            .map(|step| (first + step) % self.resolvers.len())
            .collect();
        let mut outcome = Err("there is no resolver".to_owned());
        for patience in PATIENCE {
            let mut still_silent = Vec::new();
            for index in silent {
                let resolver = self.resolvers[index];
                match timeout(patience, ask(resolver, &mut request)).await {
                    Ok(Ok(reply)) if is_answer(&reply) => {
                        self.good.store(index, Ordering::Relaxed);
                        return Ok(reply);
                    }
                    Ok(Ok(reply)) => outcome = Ok(reply),
                    error => {
                        still_silent.push(index);
                        if outcome.is_err() {
                            outcome = Err(match error {
                                Ok(Err(error)) => format!("resolver {resolver}: {error}"),
                                _ => format!("resolver {resolver} does not answer"),
                            });
                        }
                    }
                }
            }
            silent = still_silent;
        }
        outcome
    }
}

/// NOERROR and NXDOMAIN say something about the name. Every other code says something about the resolver only.
pub(super) fn is_answer(reply: &Message<Bytes>) -> bool {
    matches!(reply.opt_rcode(), OptRcode::NOERROR | OptRcode::NXDOMAIN)
}

/// One question to one resolver.
async fn ask(
    resolver: SocketAddr,
    request: &mut RequestMessage<Vec<u8>>,
) -> io::Result<Message<Bytes>> {
    request.header_mut().set_random_id();
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let query = request.to_vec().map_err(invalid)?;
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Each question has its own socket, so that a forger off the path must guess the port as well as the id (RFC 5452 §9.2).
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // A message that does not belong to the question is somebody else's. The answer may still come.
        let Some(reply) = reply_to(request, &buffer[..length]) else {
            continue;
        };
        return if reply.header().tc() {
            ask_by_tcp(resolver, request, &query).await
        } else {
            Ok(reply)
        };
    }
}

async fn ask_by_tcp(
    resolver: SocketAddr,
    request: &RequestMessage<Vec<u8>>,
    query: &[u8],
) -> io::Result<Message<Bytes>> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let length = u16::try_from(query.len()).map_err(too_long)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    let mut stream = TcpStream::connect(resolver).await?;
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    reply_to(request, &buffer)
        .filter(|reply| !reply.header().tc())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed answer"))
}

fn reply_to(request: &RequestMessage<Vec<u8>>, octets: &[u8]) -> Option<Message<Bytes>> {
    let message = Message::from_octets(Bytes::copy_from_slice(octets)).ok()?;
    request.is_answer(message.for_slice()).then_some(message)
}

/// The validator asks its own questions (DS, DNSKEY) through the same transport.
impl SendRequest<RequestMessage<Vec<u8>>> for Transport {
    fn send_request(&self, request: RequestMessage<Vec<u8>>) -> Box<dyn GetResponse + Send + Sync> {
        Box::new(PendingExchange {
            wire: self.clone(),
            request,
        })
    }
}

#[derive(Debug)]
struct PendingExchange {
    wire: Transport,
    request: RequestMessage<Vec<u8>>,
}

impl GetResponse for PendingExchange {
    fn get_response(
        &mut self,
    ) -> Pin<Box<dyn Future<Output = Result<Message<Bytes>, Error>> + Send + Sync + '_>> {
        Box::pin(async {
            match self.wire.exchange(self.request.clone()).await {
                Ok(reply) if is_answer(&reply) => Ok(reply),
                _ => Err(Error::NoTransportAvailable),
            }
        })
    }
}

/// What a question wants from the resolver.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    /// Records only; without EDNS, which some resolvers do not know.
    Plain,
    /// Records with signatures, even if the resolver finds them bogus (RFC 4035 §3.2.1, §3.2.2).
    Signatures,
}

/// Asks, and returns any response, even one with an error code; else why there was no response.
pub(super) async fn any_reply(
    wire: &Transport,
    name: &str,
    rtype: Rtype,
    style: Style,
) -> Result<Message<Bytes>, String> {
    let name =
        Name::<Vec<u8>>::from_str(name).map_err(|error| format!("not a domain name: {error}"))?;
    let signatures = matches!(style, Style::Signatures);
    let mut question = MessageBuilder::new_vec();
    question.header_mut().set_rd(true);
    question.header_mut().set_cd(signatures);
    let mut question = question.question();
    let complete = question.push((&name, rtype)).is_ok();
    let request = RequestMessage::new(question.into_message());
    let (true, Ok(mut request)) = (complete, request) else {
        return Err("the question could not be written".to_owned());
    };
    if signatures {
        request.set_dnssec_ok(true);
    }
    wire.exchange(request).await
}

/// Asks, and returns the answer (NOERROR or NXDOMAIN) unread; else the response that stands for it.
pub(super) async fn query(
    wire: &Transport,
    name: &str,
    rtype: Rtype,
    style: Style,
) -> Result<Message<Bytes>, DnsResponse> {
    let reply = any_reply(wire, name, rtype, style)
        .await
        .map_err(DnsResponse::failed)?;
    if is_answer(&reply) {
        Ok(reply)
    } else {
        Err(error_reply(&reply))
    }
}

/// The meaning of an error response. A validating resolver sends SERVFAIL for a bogus answer, and may send the reason (RFC 8914).
fn error_reply(reply: &Message<Bytes>) -> DnsResponse {
    let opt = reply.opt();
    let extended: Option<ExtendedError<_>> = opt.as_ref().and_then(|opt| opt.opt().first());
    let mut words = reply.opt_rcode().to_string();
    let mut bogus = false;
    if let Some(extended) = extended {
        words = format!("{words}, {}", extended_words(&extended));
        // Codes 5 to 12: indeterminate, bogus, expired, not yet valid, and missing keys or records.
        bogus = (5..=12).contains(&extended.code().to_int());
    }
    if bogus {
        DnsResponse::bogus(words)
    } else {
        DnsResponse::failed(format!("the resolver says {words}"))
    }
}

/// An extended error in words, for a log line. The code "Bogus" says no more than the caller does, so only its text is used.
pub(super) fn extended_words<Octs: AsRef<[u8]>>(error: &ExtendedError<Octs>) -> String {
    let text = match error.text() {
        Some(Ok(text)) => Some(text.escape_default().to_string()),
        _ => None,
    };
    match (error.code(), text) {
        (ExtendedErrorCode::DNSSEC_BOGUS, Some(text)) => text,
        (ExtendedErrorCode::DNSSEC_BOGUS, None) => "no reason given".to_owned(),
        (code, Some(text)) => format!("{code}: {text}"),
        (code, None) => code.to_string(),
    }
}

/// The same type in the `domain` crate.
pub(super) fn rtype(kind: RecordType) -> Rtype {
    match kind {
        RecordType::A => Rtype::A,
        RecordType::Aaaa => Rtype::AAAA,
        RecordType::Cname => Rtype::CNAME,
        RecordType::Mx => Rtype::MX,
        RecordType::Tlsa => Rtype::TLSA,
        RecordType::Txt => Rtype::TXT,
    }
}

/// Reads an answer whose DNSSEC state is known: follows the aliases and takes the records at their end.
pub(super) fn read(message: &Message<Bytes>, kind: RecordType, security: Security) -> DnsResponse {
    read_records(message, kind, security)
        .unwrap_or_else(|_| DnsResponse::failed("the answer is malformed"))
}

type ParsedRecord =
    domain::base::Record<ParsedName<Bytes>, AllRecordData<Bytes, ParsedName<Bytes>>>;

fn read_records(
    message: &Message<Bytes>,
    kind: RecordType,
    security: Security,
) -> Result<DnsResponse, domain::base::wire::ParseError> {
    let question = message.sole_question()?;
    let answer: Vec<ParsedRecord> = message.answer()?.limit_to_in().collect::<Result<_, _>>()?;
    let mut owner: Name<Vec<u8>> = question.qname().to_name();
    let mut ttl = u32::MAX;
    for _ in 0..MAX_ALIASES {
        let mut targets = answer.iter().filter_map(|record| match record.data() {
            AllRecordData::Cname(target) if record.owner().name_eq(&owner) => {
                Some((target.cname().to_name(), record.ttl().as_secs()))
            }
            _ => None,
        });
        match (kind, targets.next(), targets.next()) {
            (RecordType::Cname, _, _) | (_, None, _) | (_, _, Some(_)) => break,
            (_, Some((target, seconds)), None) => {
                owner = target;
                ttl = ttl.min(seconds);
            }
        }
    }
    let mut records = Vec::new();
    for record in answer
        .iter()
        .filter(|record| record.owner().name_eq(&owner))
    {
        if let Some(data) = data(record.data(), kind) {
            ttl = ttl.min(record.ttl().as_secs());
            records.push(data);
        }
    }
    if records.is_empty() {
        return absence(message, security, ttl);
    }
    if kind != RecordType::Txt && records.len() > MAX_RECORDS {
        return Ok(DnsResponse::failed(format!(
            "more than {MAX_RECORDS} records in one answer"
        )));
    }
    Ok(DnsResponse {
        answer: Dns::Found(
            Rrset {
                owner: lower(&owner),
                records,
            },
            security,
        ),
        ttl: Duration::from_secs(ttl.into()),
        no_such_name: false,
    })
}

/// NXDOMAIN or NODATA, which holds as long as the SOA record says (RFC 2308 §5). A referral is neither.
fn absence(
    message: &Message<Bytes>,
    security: Security,
    ttl: u32,
) -> Result<DnsResponse, domain::base::wire::ParseError> {
    let mut soa = None;
    let mut referral = false;
    for record in message.authority()?.limit_to_in::<ZoneRecordData<_, _>>() {
        let record = record?;
        match record.data() {
            ZoneRecordData::Soa(data) => {
                soa = Some(record.ttl().as_secs().min(data.minimum().as_secs()));
            }
            ZoneRecordData::Ns(_) => referral = true,
            _ => {}
        }
    }
    if soa.is_none() && referral {
        return Ok(DnsResponse::failed(
            "the resolver only refers to others, it must be a recursive one",
        ));
    }
    Ok(DnsResponse {
        answer: Dns::Absent(security),
        ttl: Duration::from_secs(soa.unwrap_or(0).min(ttl).into()),
        no_such_name: message.opt_rcode() == OptRcode::NXDOMAIN,
    })
}

fn data(data: &AllRecordData<Bytes, ParsedName<Bytes>>, kind: RecordType) -> Option<Rdata> {
    match (kind, data) {
        (RecordType::A, AllRecordData::A(data)) => Some(Rdata::Address(data.addr().into())),
        (RecordType::Aaaa, AllRecordData::Aaaa(data)) => Some(Rdata::Address(data.addr().into())),
        (RecordType::Cname, AllRecordData::Cname(data)) => Some(Rdata::Cname(lower(data.cname()))),
        (RecordType::Mx, AllRecordData::Mx(data)) => {
            Some(Rdata::Mx(data.preference(), lower(data.exchange())))
        }
        (RecordType::Txt, AllRecordData::Txt(data)) => Some(Rdata::Txt(data.text())),
        (RecordType::Tlsa, AllRecordData::Tlsa(data)) => Some(Rdata::Tlsa(Tlsa {
            usage: data.usage().to_int(),
            selector: data.selector().to_int(),
            matching: data.matching_type().to_int(),
            data: data.data().to_vec(),
        })),
        _ => None,
    }
}

/// A name as text: in lower case, without trailing dot, unprintable octets escaped. The root is empty.
fn lower(name: &impl ToName) -> String {
    let name: Name<Vec<u8>> = name.to_name();
    let text = name.to_string().to_ascii_lowercase();
    text.trim_end_matches('.').to_owned()
}

/// Asks for no signatures and validates nothing. Every answer is insecure, whatever its AD bit says.
pub(super) struct Unvalidated(pub(super) Transport);

impl Resolve for Unvalidated {
    fn resolve<'a>(&'a self, name: &'a str, kind: RecordType) -> BoxFuture<'a, DnsResponse> {
        Box::pin(async move {
            match query(&self.0, name, rtype(kind), Style::Plain).await {
                Ok(message) => read(&message, kind, Security::Insecure),
                Err(reply) => reply,
            }
        })
    }
}
