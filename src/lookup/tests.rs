//! The logic of look-ups, tested with made-up answers.

mod hosts;
mod sts;
mod sts_cache;
mod world;

use super::{
    LookupOptions,
    dns::{BoxFuture, DnsResponse, Rdata, RecordType, Resolve, Rrset},
};
use crate::{
    policy::{Dns, Security},
    smtp::Domain,
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

/// A resolver that gives the answers it was told. For every other question it says that the record is absent and unsigned.
#[derive(Default)]
struct Fake {
    answers: Mutex<HashMap<(String, RecordType), Dns<Rrset>>>,
    asked: Mutex<Vec<(String, RecordType)>>,
    no_such_name: Mutex<Vec<String>>,
    /// TTLs in seconds, where they are not 300.
    ttls: Mutex<HashMap<(String, RecordType), u64>>,
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn say(&self, name: &str, kind: RecordType, answer: Dns<Rrset>) -> &Self {
        let key = (name.to_owned(), kind);
        self.answers.lock().unwrap().insert(key, answer);
        self
    }

    /// At this name, every absent record means that the whole name does not exist.
    fn no_such_name(&self, name: &str) -> &Self {
        self.no_such_name.lock().unwrap().push(name.to_owned());
        self
    }

    fn ttl(&self, name: &str, kind: RecordType, seconds: u64) -> &Self {
        let key = (name.to_owned(), kind);
        self.ttls.lock().unwrap().insert(key, seconds);
        self
    }

    fn was_asked(&self, name: &str, kind: RecordType) -> bool {
        self.asked
            .lock()
            .unwrap()
            .contains(&(name.to_owned(), kind))
    }
}

impl Resolve for Fake {
    fn resolve<'a>(&'a self, name: &'a str, kind: RecordType) -> BoxFuture<'a, DnsResponse> {
        Box::pin(async move {
            let key = (name.to_owned(), kind);
            self.asked.lock().unwrap().push(key.clone());
            let answer = self.answers.lock().unwrap().get(&key).cloned();
            DnsResponse {
                answer: answer.unwrap_or(Dns::Absent(Security::Insecure)),
                ttl: Duration::from_secs(*self.ttls.lock().unwrap().get(&key).unwrap_or(&300)),
                no_such_name: self.no_such_name.lock().unwrap().contains(&key.0),
            }
        })
    }
}

fn found(owner: &str, records: Vec<Rdata>, security: Security) -> Dns<Rrset> {
    let owner = owner.to_owned();
    Dns::Found(Rrset { owner, records }, security)
}

fn address(text: &str) -> Rdata {
    Rdata::Address(text.parse::<IpAddr>().unwrap())
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn options() -> LookupOptions {
    LookupOptions {
        resolvers: Vec::new(),
        dnssec: true,
        anchor: None,
        state_dir: None,
        https_port: 443,
        allow_private: true,
        roots: Arc::new(rustls::RootCertStore::empty()),
    }
}

/// An answer with aliases, records of all kinds that are read, and a SOA; names compressed as servers do.
fn whole_answer() -> Vec<u8> {
    use domain::{
        base::{MessageBuilder, Name, Rtype, StaticCompressor, Ttl},
        rdata::{A, Cname, Mx, Soa, Tlsa, Txt},
    };
    let name = |text: &str| text.parse::<Name<Vec<u8>>>().unwrap();
    let (alias, end, ttl) = (name("a.example"), name("b.example"), Ttl::from_secs(60));
    let message = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).unwrap();
    let mut message = message.question();
    message.push((&alias, Rtype::TXT)).unwrap();
    let mut message = message.answer();
    let text: Txt<Vec<u8>> = Txt::build_from_slice(b"v=STSv1; id=1;").unwrap();
    let tlsa = Tlsa::new(3.into(), 1.into(), 1.into(), vec![7_u8; 32]);
    message.push((&alias, ttl, Cname::new(&end))).unwrap();
    message.push((&end, ttl, text)).unwrap();
    message.push((&end, ttl, Mx::new(10, &end))).unwrap();
    message
        .push((&end, ttl, A::from_octets(192, 0, 2, 1)))
        .unwrap();
    message.push((&end, ttl, tlsa)).unwrap();
    let mut message = message.authority();
    let soa = Soa::new(&alias, &end, 1.into(), ttl, ttl, ttl, ttl);
    message.push((&end, ttl, soa)).unwrap();
    message.finish().into_target()
}

proptest::proptest! {
    #[test]
    fn no_octets_of_an_answer_make_it_panic(
        changes in proptest::collection::vec((0..300_usize, proptest::prelude::any::<u8>()), 0..20),
        length in 12..300_usize,
    ) {
        let mut octets = whole_answer();
        for (at, octet) in changes {
            let at = at % octets.len();
            octets[at] = octet;
        }
        octets.truncate(length);
        let message = domain::base::Message::from_octets(hyper::body::Bytes::from(octets)).unwrap();
        for kind in [RecordType::A, RecordType::Aaaa, RecordType::Cname, RecordType::Mx, RecordType::Tlsa, RecordType::Txt] {
            let _ = super::dns::read(&message, kind, Security::Insecure);
        }
    }
}

#[test]
fn an_answer_is_read_along_its_aliases() {
    let octets = hyper::body::Bytes::from(whole_answer());
    let message = domain::base::Message::from_octets(octets).unwrap();
    let read = |kind| super::dns::read(&message, kind, Security::Secure).answer;
    let text = Rdata::Txt(b"v=STSv1; id=1;".to_vec());
    assert_eq!(
        read(RecordType::Txt),
        found("b.example", vec![text], Security::Secure)
    );
    let cname = Rdata::Cname("b.example".into());
    assert_eq!(
        read(RecordType::Cname),
        found("a.example", vec![cname], Security::Secure)
    );
    assert_eq!(read(RecordType::Aaaa), Dns::Absent(Security::Secure));
}

/// Log and record repeat what strangers publish each time, so its length has a limit.
#[test]
fn answers_of_many_records_fail_and_words_are_cut() {
    use domain::{
        base::{MessageBuilder, Name, Rtype, Ttl},
        rdata::Mx,
    };
    let name: Name<Vec<u8>> = "a.example".parse().unwrap();
    for (count, taken) in [(100, true), (101, false)] {
        let mut message = MessageBuilder::new_vec().question();
        message.push((&name, Rtype::MX)).unwrap();
        let mut message = message.answer();
        for preference in 0..count {
            let data = Mx::new(preference, &name);
            message.push((&name, Ttl::from_secs(60), data)).unwrap();
        }
        let octets = hyper::body::Bytes::from(message.finish());
        let message = domain::base::Message::from_octets(octets).unwrap();
        let answer = super::dns::read(&message, RecordType::Mx, Security::Secure).answer;
        assert_eq!(matches!(answer, Dns::Found(..)), taken, "{count}");
        assert_eq!(matches!(answer, Dns::Failed(_)), !taken, "{count}");
    }
    match DnsResponse::bogus("\u{e4}".repeat(1000)).answer {
        Dns::Bogus(words) => assert!(words.len() <= 300 && words.ends_with("..."), "{words}"),
        other => panic!("{other:?}"),
    }
}

/// Questions whose askers have given up would pile up without end behind slow servers.
#[tokio::test(start_paused = true)]
async fn a_question_does_not_wait_for_ever_for_its_turn() {
    let busy = super::dns::Unvalidated(super::dns::Transport::busy());
    let asked = tokio::time::timeout(Duration::from_secs(60), async {
        busy.resolve("a.example", RecordType::A).await.answer
    });
    let answer = asked.await.expect("an answer");
    assert!(
        matches!(&answer, Dns::Failed(words) if words.contains("too many")),
        "{answer:?}"
    );
}
