use super::{
    Fake, address, domain, found, options,
    pki::{Authority, Leaf, Scratch, expired},
};
use crate::{
    lookup::{
        Lookup, Options,
        dns::{Kind, Record},
        https,
        store::{Kept, Store},
        sts::{Cached, Slot, make_room},
    },
    policy::{
        Dns, Needs, Reason, Security, Sts,
        mta_sts::{Mode, Policy},
    },
    smtp::Domain,
};
use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

const CLINIC: &str = "clinic.example";
const HOST: &str = "mta-sts.clinic.example";
const POLICY: &str = "version: STSv1\nmode: enforce\nmx: mx.clinic.example\nmax_age: 604800\n";

fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A policy host on loopback, and a world in which the clinic's policy is there.
struct World {
    fake: Arc<Fake>,
    authority: Authority,
    port: u16,
    response: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
    /// Responses that may be sent.
    gate: Arc<Semaphore>,
    folder: Scratch,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::root("Test Root");
        let leaf = authority.leaf(&[HOST]);
        Self::with(authority, leaf).await
    }

    async fn with(authority: Authority, leaf: Leaf) -> Self {
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
            Kind::A,
            found(HOST, vec![address("127.0.0.1")], Security::Insecure),
        );
        let (response, requests, gate) = (
            Arc::clone(&world.response),
            Arc::clone(&world.requests),
            Arc::clone(&world.gate),
        );
        tokio::spawn(async move {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(leaf.chain.clone(), leaf.private_key())
                .unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
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
    fn announce(&self, id: &str) {
        self.publish(&[&format!("v=STSv1; id={id};")]);
    }

    fn publish(&self, texts: &[&str]) {
        let records = texts
            .iter()
            .map(|text| Record::Txt(text.as_bytes().to_vec()));
        let answer = found(
            "_mta-sts.clinic.example",
            records.collect(),
            Security::Insecure,
        );
        self.fake.say("_mta-sts.clinic.example", Kind::Txt, answer);
    }

    fn respond(&self, response: &str) {
        response.clone_into(&mut self.response.lock().unwrap());
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn options(&self) -> Options {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.cert.clone()).unwrap();
        Options {
            https_port: self.port,
            roots: Arc::new(roots),
            ..options()
        }
    }

    fn lookup(&self) -> Lookup {
        Lookup::with_resolver(self.options(), Arc::clone(&self.fake) as _).unwrap()
    }

    /// With a state directory, as after a start.
    fn restarted(&self) -> Lookup {
        let state_dir = Some(self.folder.0.clone());
        let options = Options {
            state_dir,
            ..self.options()
        };
        Lookup::with_resolver(options, Arc::clone(&self.fake) as _).unwrap()
    }

    fn file(&self, directory: &str) -> PathBuf {
        self.folder.0.join("mta-sts").join(directory).join(CLINIC)
    }
}

/// What applies now, with all that the DNS says asked anew.
async fn now(lookup: &Lookup) -> Sts {
    lookup.dns.forget();
    let needs = Needs {
        sts: true,
        ..Needs::default()
    };
    lookup.gather(&domain(CLINIC), needs).await.sts
}

/// The id of the policy that applies, and whether its last refresh failed.
async fn applies(lookup: &Lookup) -> (String, bool) {
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

fn assert_unavailable(sts: &Sts, expected: Reason, about: &str) {
    match sts {
        Sts::Unavailable(reason, words) if *reason == expected => {
            assert!(words.contains(about), "{words}");
        }
        other => panic!("{about}: {other:?}"),
    }
}

#[tokio::test]
async fn a_policy_is_discovered_fetched_once_and_remembered() {
    let world = World::new().await;
    let lookup = world.lookup();
    let expected = Policy {
        mode: Mode::Enforce,
        mx: vec!["mx.clinic.example".into()],
        max_age: 604_800,
    };
    match now(&lookup).await {
        Sts::Policy {
            policy,
            id,
            age,
            refresh_failed,
        } => {
            assert_eq!((policy, id.as_str(), refresh_failed), (expected, "1", None));
            assert!(age < 60);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(applies(&lookup).await, ("1".into(), false));
    assert_eq!(world.requests(), 1);
    world.announce("2");
    assert_eq!(applies(&lookup).await, ("2".into(), false));
    assert_eq!(world.requests(), 2, "a new id is a new policy");
}

#[tokio::test]
async fn many_who_ask_are_one_fetch() {
    let world = World::new().await;
    let lookup = Arc::new(world.lookup());
    let askers: Vec<_> = (0..20)
        .map(|_| {
            let lookup = Arc::clone(&lookup);
            tokio::spawn(async move { applies(&lookup).await })
        })
        .collect();
    for asker in askers {
        assert_eq!(asker.await.unwrap(), ("1".into(), false));
    }
    assert_eq!(world.requests(), 1);
}

#[tokio::test]
async fn nothing_but_one_valid_record_starts_a_fetch() {
    let world = World::new().await;
    let lookup = world.lookup();
    let cases: [(&[&str], Option<&str>); 4] = [
        (&["something else", "v=STSv2; id=1"], None),
        (&["v=STSv1; id=1;", "v=STSv1; id=2;"], Some("more than one")),
        (&["v=STSv1;"], Some("no id")),
        (&["v=STSv1; id=with-hyphen;"], Some("malformed id")),
    ];
    for (texts, words) in cases {
        world.publish(texts);
        match words {
            None => assert_eq!(now(&lookup).await, Sts::Absent),
            Some(words) => assert_unavailable(&now(&lookup).await, Reason::StsPolicyInvalid, words),
        }
    }
    world.fake.say(
        "_mta-sts.clinic.example",
        Kind::Txt,
        Dns::Absent(Security::Secure),
    );
    assert_eq!(now(&lookup).await, Sts::Absent);
    assert_eq!(world.requests(), 0);
}

#[tokio::test]
async fn a_record_that_could_not_be_looked_up_is_not_the_absence_of_one() {
    let world = World::new().await;
    for (answer, reason) in [
        (Dns::Failed("SERVFAIL".into()), Reason::LookupFailed),
        (Dns::Bogus("expired".into()), Reason::DnssecInvalid),
    ] {
        world.fake.say("_mta-sts.clinic.example", Kind::Txt, answer);
        assert_unavailable(&now(&world.lookup()).await, reason, "policy record");
    }
}

#[tokio::test]
async fn only_a_whole_200_with_a_policy_counts() {
    let world = World::new().await;
    let long = ok(&format!("{POLICY}x: {}\n", "x".repeat(64 * 1024)));
    let fields = format!(
        "HTTP/1.1 200 OK\r\n{}\r\n{POLICY}",
        "X-Field: 1\r\n".repeat(100)
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\nX: {}\r\n\r\n{POLICY}",
        "x".repeat(100_000)
    );
    let moved = format!(
        "HTTP/1.1 301 Moved\r\nLocation: https://{HOST}/.well-known/mta-sts.txt\r\nContent-Length: 0\r\n\r\n"
    );
    let status = |line: &str| ok(POLICY).replacen("200 OK", line, 1);
    let fetch_errors = [
        moved,
        status("302 Found"),
        status("206 Partial Content"),
        status("201 Created"),
        status("401 Unauthorized"),
        status("404 Not Found"),
        status("500 Error"),
        long,
        fields,
        head,
        ok(POLICY).replace("Content-Length: ", "Content-Length: 9"),
        "220 mx.example ESMTP\r\n".to_owned(),
        String::new(),
    ];
    let invalid = [
        ok("version: STSv1\nmode: enforce\nmax_age: 1\n"),
        ok("<html>"),
        ok(""),
    ];
    let cases = fetch_errors
        .into_iter()
        .map(|response| (response, Reason::StsPolicyFetchError))
        .chain(invalid.map(|response| (response, Reason::StsPolicyInvalid)));
    for (number, (response, reason)) in cases.enumerate() {
        world.respond(&response);
        let sts = now(&world.lookup()).await;
        assert!(
            matches!(sts, Sts::Unavailable(got, _) if got == reason),
            "{response:.60}: {sts:?}"
        );
        assert_eq!(
            world.requests(),
            number + 1,
            "no redirect is followed, nothing retried"
        );
    }
    // The cap is on the body, and a policy just below it is one.
    world.respond(&ok(&format!("{POLICY}x: {}\n", "x".repeat(60 * 1024))));
    assert_eq!(applies(&world.lookup()).await.0, "1");
}

#[tokio::test]
async fn the_policy_host_must_prove_its_name() {
    let root = || Authority::root("Test Root");
    let (apex, late, wild, stranger) = (root(), root(), root(), root());
    let apex_leaf = apex.leaf(&[CLINIC, "www.clinic.example", "mx.clinic.example"]);
    let late_leaf = late.leaf_with(&[HOST], expired);
    let wild_leaf = wild.leaf(&["*.clinic.example"]);
    for (authority, leaf) in [
        (apex, apex_leaf),
        (late, late_leaf),
        (stranger, Leaf::self_signed(&[HOST])),
    ] {
        let world = World::with(authority, leaf).await;
        let sts = now(&world.lookup()).await;
        assert_unavailable(&sts, Reason::StsWebpkiInvalid, "certificate");
        assert_eq!(world.requests(), 0, "nothing is asked of a stranger");
    }
    let world = World::with(wild, wild_leaf).await;
    assert_eq!(applies(&world.lookup()).await.0, "1");
}

#[tokio::test]
async fn a_host_that_only_we_can_reach_is_not_asked() {
    let world = World::new().await;
    let options = Options {
        allow_private: false,
        ..world.options()
    };
    for text in [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "::1",
        "fd00::1",
        "::ffff:127.0.0.1",
    ] {
        let kind = if text.contains(':') {
            Kind::Aaaa
        } else {
            Kind::A
        };
        let other = if text.contains(':') {
            Kind::A
        } else {
            Kind::Aaaa
        };
        world
            .fake
            .say(
                HOST,
                kind,
                found(HOST, vec![address(text)], Security::Secure),
            )
            .say(HOST, other, Dns::Absent(Security::Secure));
        let lookup = Lookup::with_resolver(
            Options {
                roots: Arc::clone(&options.roots),
                ..copy(&options)
            },
            Arc::clone(&world.fake) as _,
        );
        let sts = now(&lookup.unwrap()).await;
        assert_unavailable(&sts, Reason::StsPolicyFetchError, "private addresses");
    }
    assert_eq!(world.requests(), 0);
}

fn copy(options: &Options) -> Options {
    Options {
        resolvers: options.resolvers.clone(),
        anchor: None,
        state_dir: None,
        https_port: options.https_port,
        allow_private: options.allow_private,
        roots: Arc::clone(&options.roots),
    }
}

#[test]
fn public_addresses_are_told_from_all_others() {
    let public = [
        "8.8.8.8",
        "100.63.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "198.20.0.1",
        "2606:4700::1",
        "2001:4860::1",
    ];
    let others = [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.1.2.3",
        "169.254.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:8.8.8.8",
        "64:ff9b::a00:1",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "2001:db8::1",
        "2001::1",
        "2002:a00:1::1",
        "3fff::1",
    ];
    for text in public {
        assert!(https::is_public(text.parse().unwrap()), "{text}");
    }
    for text in others {
        assert!(!https::is_public(text.parse().unwrap()), "{text}");
    }
    assert!(https::is_own("127.0.0.1".parse().unwrap()));
    assert!(!https::is_own("192.0.2.1".parse().unwrap()));
}

#[tokio::test]
async fn a_failed_fetch_is_not_tried_again_soon_but_a_new_id_is() {
    let world = World::new().await;
    world.respond("HTTP/1.1 404 Not Found\r\n\r\n");
    let lookup = world.lookup();
    for _ in 0..3 {
        assert_unavailable(&now(&lookup).await, Reason::StsPolicyFetchError, "404");
    }
    assert_eq!(world.requests(), 1);
    world.announce("2");
    world.respond(&ok(POLICY));
    assert_eq!(applies(&lookup).await, ("2".into(), false));
}

#[tokio::test]
async fn a_cached_policy_survives_whatever_becomes_of_record_and_host() {
    let world = World::new().await;
    let lookup = world.lookup();
    assert_eq!(applies(&lookup).await, ("1".into(), false));
    world.respond("HTTP/1.1 404 Not Found\r\n\r\n");
    world.announce("2");
    assert_eq!(applies(&lookup).await, ("1".into(), true));
    world.publish(&["v=STSv1; id=1;", "v=STSv1; id=2;"]);
    assert_eq!(applies(&lookup).await, ("1".into(), true));
    for answer in [
        Dns::Absent(Security::Secure),
        Dns::Failed("SERVFAIL".into()),
        Dns::Bogus("expired".into()),
    ] {
        world.fake.say("_mta-sts.clinic.example", Kind::Txt, answer);
        assert_eq!(applies(&lookup).await.0, "1");
    }
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let world = World::new().await;
    assert_eq!(applies(&world.restarted()).await.0, "1");
    world.respond("HTTP/1.1 404 Not Found\r\n\r\n");
    // What a crash in the middle of a write leaves.
    fs::write(world.file("aside"), "{\"version\":1,").unwrap();
    for answer in [
        Dns::Absent(Security::Insecure),
        Dns::Failed("SERVFAIL".into()),
    ] {
        world.fake.say("_mta-sts.clinic.example", Kind::Txt, answer);
        assert_eq!(applies(&world.restarted()).await.0, "1");
    }
    assert_eq!(world.requests(), 1);
    let entry = world.restarted().sts_show(&domain(CLINIC)).unwrap();
    assert_eq!(entry.text, POLICY);
    assert!(entry.expires_in > 604_000);
}

#[tokio::test]
async fn an_unreadable_policy_defers_until_it_is_fetched_anew_or_purged() {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let other = Kept::new(&domain("other.example"), "1", SystemTime::now(), POLICY);
    let other = serde_json::to_string(&other).unwrap();
    for corrupt in [
        "",
        "{\"version\":1,\"domain\":\"clinic.ex",
        "\0\0\0\0",
        &other,
    ] {
        let world = World::new().await;
        assert_eq!(applies(&world.restarted()).await.0, "1");
        fs::write(world.file("policies"), corrupt).unwrap();
        world.fake.say(
            "_mta-sts.clinic.example",
            Kind::Txt,
            Dns::Absent(Security::Insecure),
        );
        for _ in 0..2 {
            let sts = now(&world.restarted()).await;
            assert_unavailable(&sts, Reason::LocalFault, "policy purge clinic.example");
        }
        assert!(world.file("unreadable").exists() && !world.file("policies").exists());
        world.announce("1");
        assert_eq!(applies(&world.restarted()).await.0, "1");
        assert!(!world.file("unreadable").exists());

        fs::write(world.file("policies"), corrupt).unwrap();
        world.fake.say(
            "_mta-sts.clinic.example",
            Kind::Txt,
            Dns::Absent(Security::Insecure),
        );
        // A mark of a purge before it turned unreadable does not count.
        let mark = fs::File::create(world.file("purged")).unwrap();
        mark.set_modified(long_ago).unwrap();
        let running = world.restarted();
        assert_unavailable(&now(&running).await, Reason::LocalFault, "policy purge");
        assert_eq!(world.restarted().sts_purge(&domain(CLINIC)), Ok(true));
        assert_eq!(
            now(&running).await,
            Sts::Absent,
            "another process has purged"
        );
        assert_eq!(now(&world.restarted()).await, Sts::Absent);
    }
}

#[tokio::test]
async fn a_purge_reaches_running_processes() {
    let world = World::new().await;
    let running = world.restarted();
    assert_eq!(applies(&running).await.0, "1");
    let other = world.restarted();
    assert_eq!(other.sts_list().len(), 1);
    assert_eq!(other.sts_purge(&domain(CLINIC)), Ok(true));
    assert_eq!(other.sts_purge(&domain(CLINIC)), Ok(false));
    assert_eq!(other.sts_list(), []);
    world.fake.say(
        "_mta-sts.clinic.example",
        Kind::Txt,
        Dns::Absent(Security::Insecure),
    );
    assert_eq!(now(&running).await, Sts::Absent);
    // A policy fetched after the purge is a new one.
    world.announce("1");
    assert_eq!(applies(&running).await.0, "1");
    assert_eq!(applies(&running).await.0, "1");
    assert_eq!(world.requests(), 2);
}

#[tokio::test]
async fn a_policy_in_memory_outlives_the_disk_below_it() {
    let world = World::new().await;
    let lookup = world.restarted();
    assert_eq!(applies(&lookup).await.0, "1");
    fs::remove_dir_all(&world.folder.0).unwrap();
    world.fake.say(
        "_mta-sts.clinic.example",
        Kind::Txt,
        Dns::Absent(Security::Insecure),
    );
    assert_eq!(applies(&lookup).await.0, "1");
    world.announce("2");
    assert_eq!(
        applies(&lookup).await,
        ("2".into(), false),
        "it works on without a disk"
    );
}

#[test]
fn a_state_directory_that_cannot_be_used_is_an_error_at_start() {
    let result = Lookup::with_resolver(
        Options {
            state_dir: Some("/dev/null/state".into()),
            ..options()
        },
        Fake::new() as _,
    );
    let error = result.err().unwrap();
    assert!(
        error.starts_with("/dev/null/state/mta-sts/policies: "),
        "{error}"
    );
}

/// As if it had been fetched so many days ago.
fn store(world: &World, days: u64) {
    let fetched = SystemTime::now() - Duration::from_secs(days * 86_400);
    let kept = Kept::new(&domain(CLINIC), "1", fetched, POLICY);
    Store::open(&world.folder.0).unwrap().save(&kept).unwrap();
}

#[tokio::test]
async fn an_expired_policy_is_gone_from_memory_and_disk() {
    let world = World::new().await;
    store(&world, 8);
    world.fake.say(
        "_mta-sts.clinic.example",
        Kind::Txt,
        Dns::Absent(Security::Insecure),
    );
    let lookup = world.restarted();
    assert_eq!(now(&lookup).await, Sts::Absent);
    assert_eq!(lookup.sts_list(), []);
    assert!(!world.file("policies").exists());
}

#[tokio::test]
async fn a_policy_is_refreshed_daily_although_its_id_is_the_same() {
    let world = World::new().await;
    store(&world, 2);
    let lookup = world.restarted();
    lookup.sts.refresh().await;
    assert_eq!(world.requests(), 1);
    assert!(lookup.sts_show(&domain(CLINIC)).unwrap().expires_in > 604_000);
    lookup.sts.refresh().await;
    assert_eq!(world.requests(), 1, "not due yet");
}

#[tokio::test]
async fn a_failed_refresh_is_told_and_the_policy_holds() {
    let world = World::new().await;
    store(&world, 2);
    world.respond("HTTP/1.1 404 Not Found\r\n\r\n");
    let lookup = world.restarted();
    lookup.sts.refresh().await;
    assert_eq!(applies(&lookup).await, ("1".into(), true));
    world.fake.say(
        "_mta-sts.clinic.example",
        Kind::Txt,
        Dns::Absent(Security::Insecure),
    );
    lookup.dns.forget();
    lookup.sts.refresh().await;
    assert_eq!(world.requests(), 1, "without a record nothing is fetched");
    match now(&lookup).await {
        Sts::Policy {
            refresh_failed: Some((_, words)),
            ..
        } => {
            assert!(words.contains("no policy record any more"), "{words}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn at_the_deadline_a_fetch_goes_on_for_the_next_who_asks() {
    let world = World::new().await;
    world.gate.forget_permits(1000);
    let lookup = world.lookup();
    let soon = Instant::now() + Duration::from_millis(50);
    let sts = lookup.sts.policy(&domain(CLINIC), soon).await;
    assert_unavailable(&sts, Reason::LookupFailed, "still being fetched");
    world.gate.add_permits(1);
    assert_eq!(applies(&lookup).await, ("1".into(), false));
    assert_eq!(world.requests(), 1);
}

#[tokio::test]
async fn a_policy_of_no_lifetime_is_not_fetched_for_every_mail() {
    let world = World::new().await;
    world.respond(&ok(&POLICY.replace("604800", "0")));
    let lookup = world.lookup();
    for _ in 0..3 {
        assert!(matches!(now(&lookup).await, Sts::Policy { policy, .. } if policy.max_age == 0));
    }
    assert_eq!(world.requests(), 1);
}

#[test]
fn room_is_made_by_what_is_over_then_by_what_expires_first() {
    let slot = |days: u64| {
        let fetched = SystemTime::now() - Duration::from_secs(days * 86_400);
        let kept = Kept::new(&domain(CLINIC), "1", fetched, POLICY);
        let mut slot = Slot::default();
        slot.policy = Some(Cached::read(kept).unwrap());
        slot
    };
    let full = || -> HashMap<Domain, Slot> {
        (0..10)
            .map(|n| (domain(&format!("d{n}.example")), slot(n)))
            .collect()
    };
    // Seven days they live: 7, 8 and 9 are over.
    let names = |gone: Vec<Domain>| {
        let mut names: Vec<_> = gone.iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    let mut domains = full();
    assert_eq!(names(make_room(&mut domains, 11, usize::MAX)), [""; 0]);
    assert_eq!(
        names(make_room(&mut domains, 10, usize::MAX)),
        ["d7.example", "d8.example", "d9.example"]
    );
    assert_eq!(
        names(make_room(&mut domains, 6, usize::MAX)),
        ["d5.example", "d6.example"]
    );
    let octets = POLICY.len() * 3;
    assert_eq!(
        names(make_room(&mut domains, 100, octets)),
        ["d2.example", "d3.example", "d4.example"]
    );
    assert_eq!(domains.len(), 2);
}
