//! The logic, with answers made up.

mod hosts;
mod sts;
mod sts_cache;
mod world;

use super::{
    Options,
    dns::{Kind, Pending, Record, Reply, Resolve, Rrset},
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

/// Knows what it was told; of all else it says that there is none, unsigned.
#[derive(Default)]
struct Fake {
    answers: Mutex<HashMap<(String, Kind), Dns<Rrset>>>,
    asked: Mutex<Vec<(String, Kind)>>,
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn say(&self, name: &str, kind: Kind, answer: Dns<Rrset>) -> &Self {
        let key = (name.to_owned(), kind);
        self.answers.lock().unwrap().insert(key, answer);
        self
    }

    fn was_asked(&self, name: &str, kind: Kind) -> bool {
        self.asked
            .lock()
            .unwrap()
            .contains(&(name.to_owned(), kind))
    }
}

impl Resolve for Fake {
    fn resolve<'a>(&'a self, name: &'a str, kind: Kind) -> Pending<'a, Reply> {
        Box::pin(async move {
            let key = (name.to_owned(), kind);
            self.asked.lock().unwrap().push(key.clone());
            let answer = self.answers.lock().unwrap().get(&key).cloned();
            Reply {
                answer: answer.unwrap_or(Dns::Absent(Security::Insecure)),
                ttl: Duration::from_secs(300),
            }
        })
    }
}

fn found(owner: &str, records: Vec<Record>, security: Security) -> Dns<Rrset> {
    let owner = owner.to_owned();
    Dns::Found(Rrset { owner, records }, security)
}

fn address(text: &str) -> Record {
    Record::Address(text.parse::<IpAddr>().unwrap())
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn options() -> Options {
    Options {
        resolvers: Vec::new(),
        anchor: None,
        state_dir: None,
        https_port: 443,
        allow_private: true,
        roots: Arc::new(rustls::RootCertStore::empty()),
    }
}
