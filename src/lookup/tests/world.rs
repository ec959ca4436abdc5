//! A policy host on loopback, and the policy that applies because of it.

use super::{Fake, address, domain, found, options};
use crate::{
    clock,
    lookup::{
        Lookup, LookupOptions,
        dns::{Rdata, RecordType},
        store::{PolicyStore, StoredPolicy},
    },
    policy::{Needs, Reason, Security, Sts, mta_sts::Mode},
    tls::tests::pki::{Authority, Leaf, Scratch},
};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

pub(super) const CLINIC: &str = "clinic.example";
pub(super) const HOST: &str = "mta-sts.clinic.example";
pub(super) const POLICY: &str =
    "version: STSv1\nmode: enforce\nmx: mx.clinic.example\nmax_age: 604800\n";

pub(super) fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A policy host on loopback, and a world in which the clinic's policy is there.
pub(super) struct World {
    pub(super) fake: Arc<Fake>,
    pub(super) authority: Authority,
    pub(super) port: u16,
    pub(super) response: Arc<Mutex<String>>,
    pub(super) requests: Arc<AtomicUsize>,
    /// The number of responses that the host may still send.
    pub(super) gate: Arc<Semaphore>,
    pub(super) folder: Scratch,
}

impl World {
    pub(super) async fn new() -> Self {
        let authority = Authority::root("Test Root");
        let leaf = authority.leaf(&[HOST]);
        Self::with(authority, leaf).await
    }

    pub(super) async fn with(authority: Authority, leaf: Leaf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world = Self {
            fake: Fake::new(),
            authority,
            port: listener.local_addr().unwrap().port(),
            response: Arc::new(Mutex::new(ok(POLICY))),
            requests: Arc::default(),
            gate: Arc::new(Semaphore::new(1000)),
            folder: Scratch::new(),
        };
        world.announce("1");
        world.fake.say(
            HOST,
            RecordType::A,
            found(HOST, vec![address("127.0.0.1")], Security::Insecure),
        );
        let (response, requests, gate) = (
            Arc::clone(&world.response),
            Arc::clone(&world.requests),
            Arc::clone(&world.gate),
        );
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(leaf.server_config()));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let expected =
                    b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nhost: mta-sts.clinic.example\r\n";
                assert!(request.starts_with(expected), "{}", request.escape_ascii());
                requests.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                let response = response.lock().unwrap().clone();
                let _ = stream.write_all(response.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        world
    }

    /// The policy record, with this id.
    pub(super) fn announce(&self, id: &str) {
        self.publish(&[&format!("v=STSv1; id={id};")]);
    }

    pub(super) fn publish(&self, texts: &[&str]) {
        let records = texts
            .iter()
            .map(|text| Rdata::Txt(text.as_bytes().to_vec()));
        let answer = found(
            "_mta-sts.clinic.example",
            records.collect(),
            Security::Insecure,
        );
        self.fake
            .say("_mta-sts.clinic.example", RecordType::Txt, answer);
    }

    pub(super) fn respond(&self, response: &str) {
        response.clone_into(&mut self.response.lock().unwrap());
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(super) fn options(&self) -> LookupOptions {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.cert.clone()).unwrap();
        LookupOptions {
            https_port: self.port,
            roots: Arc::new(roots),
            ..options()
        }
    }

    pub(super) fn lookup(&self) -> Lookup {
        Lookup::with_resolver(self.options(), Arc::clone(&self.fake) as _).unwrap()
    }

    /// Look-ups with this world's state directory, as after a restart.
    pub(super) fn restarted(&self) -> Lookup {
        let state_dir = Some(self.folder.0.clone());
        let options = LookupOptions {
            state_dir,
            ..self.options()
        };
        Lookup::with_resolver(options, Arc::clone(&self.fake) as _).unwrap()
    }

    pub(super) fn file(&self, directory: &str) -> PathBuf {
        self.folder.0.join("mta-sts").join(directory).join(CLINIC)
    }
}

/// The policy that applies now, after asking the DNS again.
pub(super) async fn now(lookup: &Lookup) -> Sts {
    lookup.dns.forget();
    let needs = Needs {
        sts: true,
        ..Needs::default()
    };
    lookup.gather(&domain(CLINIC), needs).await.sts
}

/// The id of the policy that applies, and whether its last refresh failed.
pub(super) async fn applies(lookup: &Lookup) -> (String, bool) {
    match now(lookup).await {
        Sts::Policy {
            policy,
            id,
            refresh_failed,
            ..
        } => {
            assert_eq!(policy.mode, Mode::Enforce);
            (id, refresh_failed.is_some())
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn assert_unavailable(sts: &Sts, expected: Reason, about: &str) {
    match sts {
        Sts::Unavailable(reason, words) if *reason == expected => {
            assert!(words.contains(about), "{words}");
        }
        other => panic!("{about}: {other:?}"),
    }
}

/// Stores the policy on disk as if it had been fetched this many days ago.
pub(super) fn store(world: &World, days: u64) {
    let fetched = clock::wall() - Duration::from_secs(days * 86_400);
    let kept = StoredPolicy::new(&domain(CLINIC), "1", fetched, POLICY);
    PolicyStore::open(&world.folder.0)
        .unwrap()
        .save(&kept)
        .unwrap();
}
