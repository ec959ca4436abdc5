//! An attacker between the proxy and a resolver, who changes answers.

use domain::{
    base::{Message, MessageBuilder, ParsedName, Rtype, iana::Rcode},
    rdata::AllRecordData,
};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

pub type Forgery = Box<dyn Fn(&Message<Vec<u8>>) -> Vec<u8> + Send>;

/// A resolver that asks another one, and answers what `forge` makes of it. Lives until the process ends.
pub fn forger(
    upstream: SocketAddr,
    forge: impl Fn(&Message<Vec<u8>>) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 65_535];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                return;
            };
            let honest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            honest
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            honest.connect(upstream).unwrap();
            honest.send(&buffer[..length]).unwrap();
            let question = buffer[..length].to_vec();
            // If nobody answers, `forge` gets the question in place of the answer.
            let answer = match honest.recv(&mut buffer) {
                Ok(length) => buffer[..length].to_vec(),
                Err(_) => question,
            };
            let forged = forge(&Message::from_octets(answer).unwrap());
            if !forged.is_empty() {
                socket.send_to(&forged, client).unwrap();
            }
        }
    });
    (address, thread)
}

/// The same without the records of some types (in answer and authority).
pub fn without(message: &Message<Vec<u8>>, gone: impl Fn(Rtype) -> bool) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    *builder.header_mut() = message.header();
    let mut builder = builder.question();
    builder.push(message.sole_question().unwrap()).unwrap();
    let mut builder = builder.answer();
    type Any<'a> = AllRecordData<&'a [u8], ParsedName<&'a [u8]>>;
    for record in message.answer().unwrap().into_records::<Any>() {
        let record = record.unwrap();
        if !gone(record.rtype()) {
            builder.push(record).unwrap();
        }
    }
    let mut builder = builder.authority();
    for record in message.authority().unwrap().into_records::<Any>() {
        let record = record.unwrap();
        if !gone(record.rtype()) {
            builder.push(record).unwrap();
        }
    }
    builder.finish()
}

/// "There is no such name", with the SOA and signatures of somewhere.
pub fn nxdomain(message: &Message<Vec<u8>>) -> Vec<u8> {
    let octets = without(message, |rtype| !matches!(rtype, Rtype::SOA | Rtype::NSEC));
    let mut message = Message::from_octets(octets).unwrap();
    message.header_mut().set_rcode(Rcode::NXDOMAIN);
    message.into_octets()
}

/// Resolvers that give no signatures, each in its way, and how the start tells it.
pub fn crippled() -> Vec<(&'static str, Forgery, &'static str)> {
    let keys = |message: &Message<Vec<u8>>| {
        let rtype = message.sole_question().unwrap().qtype();
        matches!(rtype, Rtype::DS | Rtype::DNSKEY)
    };
    let wants_signatures = |query: &Message<Vec<u8>>| query.opt().is_some();
    vec![
        (
            "strips",
            Box::new(|message: &Message<Vec<u8>>| without(message, |rtype| rtype == Rtype::RRSIG)),
            "answers without them",
        ),
        (
            "as systemd-resolved 252 does for single labels",
            Box::new(move |message| match keys(message) {
                true => error(message, Rcode::REFUSED),
                false => without(message, |rtype| rtype == Rtype::RRSIG),
            }),
            "answers REFUSED to a question for keys",
        ),
        (
            "refuses delegations only",
            Box::new(
                move |message| match message.sole_question().unwrap().qtype() == Rtype::DS {
                    true => error(message, Rcode::REFUSED),
                    false => message.as_slice().to_vec(),
                },
            ),
            "answers REFUSED to a question for keys",
        ),
        (
            "knows no EDNS",
            Box::new(move |message| match wants_signatures(message) {
                true => error(message, Rcode::FORMERR),
                false => without(message, |_| false),
            }),
            "answers FORMERR to a question for keys",
        ),
        (
            "fails where EDNS is",
            Box::new(move |message| match wants_signatures(message) {
                true => error(message, Rcode::SERVFAIL),
                false => without(message, |_| false),
            }),
            "answers questions, but none for keys",
        ),
        (
            "drops what has EDNS",
            Box::new(move |message| match wants_signatures(message) {
                true => Vec::new(),
                false => without(message, |_| false),
            }),
            "answers questions, but none for keys",
        ),
    ]
}

/// An error in place of the answer.
pub fn error(message: &Message<Vec<u8>>, rcode: Rcode) -> Vec<u8> {
    let mut message = Message::from_octets(without(message, |_| true)).unwrap();
    message.header_mut().set_rcode(rcode);
    message.header_mut().set_qr(true);
    message.into_octets()
}

/// The same answer with the AD bit.
pub fn authenticated(message: &Message<Vec<u8>>) -> Vec<u8> {
    let mut message = message.clone();
    message.header_mut().set_ad(true);
    message.into_octets()
}
