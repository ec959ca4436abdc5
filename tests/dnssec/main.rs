//! DNSSEC against real servers on loopback with their own signed root. The findings for each zone must say how it was built.
//!
//! Needs nsd, unbound and ldnsutils (tests/run installs them where it may); without them these tests fail and say so.

mod forger;
mod start;

use domain::base::{Rtype, iana::Rcode};
use forger::{Forgery, authenticated, crippled, error, forger, nxdomain, without};
use starttls_proxy::{
    lookup::{DnssecSupport, Lookup, LookupOptions},
    policy::{Dns, Mx, MxHost, Needs, Security},
    smtp::Domain,
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

/// The servers of one test.
struct Tree {
    folder: PathBuf,
    port: u16,
    servers: Vec<Child>,
}

impl Tree {
    async fn start(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("starttls-proxy-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let port = free_ports();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/signed_tree.sh");
        let made = Command::new(script)
            .arg(&folder)
            .arg(port.to_string())
            .output()
            .expect("bash runs");
        assert!(
            made.status.success(),
            "THE ZONES COULD NOT BE MADE, this test needs nsd, unbound and ldnsutils:\n{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut tree = Self {
            folder,
            port,
            servers: Vec::new(),
        };
        tree.run("nsd", "nsd.conf");
        tree.run("unbound", "unbound-validating.conf");
        tree.run("unbound", "unbound-plain.conf");
        for resolver in [tree.validating(), tree.plain()] {
            tree.wait_for(resolver).await;
        }
        tree
    }

    fn run(&mut self, program: &str, conf: &str) {
        let log = fs::File::create(self.folder.join(format!("{conf}.log"))).unwrap();
        let mut command = Command::new(program);
        command.arg("-d");
        if program == "unbound" {
            command.arg("-p");
        }
        let child = command
            .arg("-c")
            .arg(self.folder.join(conf))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.servers
            .push(child.unwrap_or_else(|e| panic!("{program} does not start: {e}")));
    }

    /// Until nsd answers through it.
    async fn wait_for(&self, resolver: SocketAddr) {
        let begin = starttls_proxy::clock::instant();
        loop {
            match self.lookup(vec![resolver]).dnssec_support().await {
                DnssecSupport::Available { .. } => return,
                other if begin.elapsed() > Duration::from_secs(20) => panic!("{other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn validating(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port + 1).into()
    }

    fn plain(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port + 2).into()
    }

    fn lookup(&self, resolvers: Vec<SocketAddr>) -> Lookup {
        lookup(resolvers, Some(self.folder.join("anchor")), true)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Ok(None) = server.try_wait() {
                // SIGTERM, so that nsd ends its children.
                let _ = Command::new("kill").arg(server.id().to_string()).status();
                let _ = server.wait();
            }
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn lookup(resolvers: Vec<SocketAddr>, anchor: Option<PathBuf>, dnssec: bool) -> Lookup {
    Lookup::new(LookupOptions {
        resolvers,
        dnssec,
        anchor,
        state_dir: None,
        https_port: 443,
        allow_private: false,
        roots: Arc::new(rustls::RootCertStore::empty()),
    })
    .unwrap()
}

/// The first of three free ports in a row, below those that the system gives to connections: servers take them seconds later.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    let free = |port| {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    };
    loop {
        let port = first + NEXT.fetch_add(3, Ordering::Relaxed) % 2_000;
        if (port..port + 3).all(free) {
            return port;
        }
    }
}

/// Findings in short: `secure: mx.good.test secure 2, tlsa at mx.good.test secure 1; ...`.
async fn told(lookup: &Lookup, domain: &str) -> String {
    let needs = Needs {
        mx: true,
        tlsa: true,
        sts: false,
    };
    let findings = lookup.gather(&Domain::parse(domain).unwrap(), needs).await;
    let expanded = findings.expanded.map(|name| format!(" (alias of {name})"));
    let hosts = |mx: &Mx| match mx {
        Mx::Null => "null".to_owned(),
        Mx::Hosts(hosts) => hosts.iter().map(host).collect::<Vec<_>>().join("; "),
        Mx::Implicit(one) => format!("implicit {}", host(one)),
    };
    state(&findings.mx, hosts) + &expanded.unwrap_or_default()
}

fn host(host: &MxHost) -> String {
    let mut addresses = state(&host.addresses, |found| found.len().to_string());
    if let Some(missing) = &host.missing {
        addresses += if missing.ipv6 { " but AAAA" } else { " but A" };
    }
    let tlsa = state(&host.tlsa, |found| found.len().to_string());
    if host.tlsa == Dns::NotAsked {
        format!("{} {addresses}", host.name)
    } else {
        format!(
            "{} {addresses}, tlsa at {} {tlsa}",
            host.name, host.tlsa_base
        )
    }
}

fn state<T>(answer: &Dns<T>, words: impl Fn(&T) -> String) -> String {
    let security = |security: &Security| match security {
        Security::Secure => "secure",
        Security::Insecure => "insecure",
    };
    match answer {
        Dns::Found(found, state) => format!("{} {}", security(state), words(found)),
        Dns::Absent(state) => format!("{} none", security(state)),
        Dns::Bogus(_) => "bogus".to_owned(),
        Dns::Failed(_) => "failed".to_owned(),
        Dns::NotAsked => "not asked".to_owned(),
    }
}

/// How the zones were built. Where the validators may differ, in-process first.
const TRUTH: &[(&str, &str)] = &[
    (
        "good.test",
        "secure mx.good.test secure 2, tlsa at mx.good.test secure 1; alias.good.test secure 2, tlsa at mx.good.test secure 1; \
         outside.good.test insecure 1, tlsa at outside.good.test secure 1; notlsa.good.test secure 1, tlsa at notlsa.good.test secure none",
    ),
    (
        "renamed.good.test",
        "secure mx.good.test secure 2, tlsa at mx.good.test secure 1 (alias of other.good.test)",
    ),
    (
        "other.moved.good.test",
        "secure mx.good.test secure 2, tlsa at mx.good.test secure 1 (alias of other.good.test)",
    ),
    (
        "any.wild.good.test",
        "secure mx.good.test secure 2, tlsa at mx.good.test secure 1",
    ),
    (
        "wildmx.good.test",
        "secure b.wildhost.good.test secure 1, tlsa at b.wildhost.good.test secure none",
    ),
    (
        "wildaliasmx.good.test",
        "secure a.wildalias.good.test insecure 1, tlsa at a.wildalias.good.test insecure none",
    ),
    ("nullmx.good.test", "secure null"),
    (
        "implicit.good.test",
        "secure implicit implicit.good.test secure 1, tlsa at implicit.good.test secure none",
    ),
    ("nothing.good.test", "secure none"),
    (
        "nsec3.test",
        "secure mx.nsec3.test secure 1, tlsa at mx.nsec3.test secure 1",
    ),
    (
        "none.nsec3.test",
        "secure host.nsec3.test secure 1, tlsa at host.nsec3.test secure none",
    ),
    (
        "any.wild.nsec3.test",
        "secure mx.nsec3.test secure 1, tlsa at mx.nsec3.test secure 1",
    ),
    ("nothing.nsec3.test", "secure none"),
    (
        "optout.test",
        "secure mx.optout.test secure 1, tlsa at mx.optout.test secure 1",
    ),
    ("nothing.optout.test", "insecure none"),
    (
        "sub.optout.test",
        "insecure mx.optout.test secure 1, tlsa at mx.optout.test secure 1",
    ),
    ("plain.test", "insecure mx.plain.test insecure 1"),
    (
        "tosecure.plain.test",
        "insecure mx.good.test secure 2, tlsa at mx.good.test secure 1",
    ),
    ("nothing.plain.test", "insecure none"),
    ("bogus.test", "bogus"),
    (
        "bogustlsa.test",
        "secure mx.bogustlsa.test secure 1, tlsa at mx.bogustlsa.test bogus",
    ),
    ("expired.test", "bogus"),
    ("otherkey.test", "bogus"),
    ("stripped.test", "bogus"),
    (
        "unproved.test",
        "secure mx.unproved.test secure 1 but AAAA, tlsa at mx.unproved.test bogus",
    ),
    (
        "halfbogus.test",
        "secure mx.halfbogus.test secure 1 but AAAA, tlsa at mx.halfbogus.test secure 1",
    ),
    ("nothing.test", "secure none"),
    (
        "justtext.good.test",
        "secure implicit justtext.good.test secure none",
    ),
];

mod real_servers {
    use super::*;

    #[tokio::test]
    async fn each_zone_is_in_the_state_it_was_built_in() {
        let tree = Tree::start("states").await;
        for (way, resolver) in [
            ("behind a plain resolver", tree.plain()),
            ("behind a validating resolver", tree.validating()),
        ] {
            let lookup = tree.lookup(vec![resolver]);
            for (domain, truth) in TRUTH {
                assert_eq!(&told(&lookup, domain).await, truth, "{domain}, {way}");
            }
        }
    }

    /// The resolver is on loopback, validates from the right anchor and sets the AD bit; but nobody gave us that anchor.
    #[tokio::test]
    async fn an_ad_bit_alone_never_counts_wherever_the_resolver_is() {
        let tree = Tree::start("ad").await;
        let iana = lookup(vec![tree.validating()], None, true);
        for domain in ["good.test", "nsec3.test", "nothing.good.test", "plain.test"] {
            let told = told(&iana, domain).await;
            assert!(!told.contains("secure"), "{domain}: {told}");
        }
        let without = lookup(vec![tree.validating()], None, false);
        for domain in ["good.test", "nsec3.test", "nothing.good.test", "plain.test"] {
            let told = told(&without, domain).await;
            assert!(told.starts_with("insecure"), "{domain}: {told}");
            assert!(!told.contains(" secure"), "{domain}: {told}");
        }
    }

    #[tokio::test]
    async fn the_answers_at_a_start_show_whether_signatures_can_be_had() {
        let tree = Tree::start("signatures").await;
        for resolver in [tree.plain(), tree.validating()] {
            match tree.lookup(vec![resolver]).dnssec_support().await {
                DnssecSupport::Available { words, faults } => {
                    assert!(
                        words.starts_with("DNSSEC is validated here, from /"),
                        "{words}"
                    );
                    assert_eq!(faults, [""; 0]);
                }
                other => panic!("{other:?}"),
            }
        }
        let off = lookup(vec![tree.plain()], None, false);
        assert_eq!(off.dnssec_support().await, DnssecSupport::Off);

        let stranger = tree.folder.join("stranger");
        let key = fs::read_to_string(tree.folder.join("good.test.key")).unwrap();
        fs::write(&stranger, key.replacen("good.test.", ".", 1)).unwrap();
        for anchor in [Some(stranger), None] {
            let lookup = lookup(vec![tree.plain()], anchor, true);
            assert_cannot(&lookup, "do not follow from the trust anchor").await;
        }

        for (what, forgery, words) in crippled() {
            let (cripple, _) = forger(tree.plain(), forgery);
            assert_cannot(&tree.lookup(vec![cripple]), words).await;
            // One good resolver is enough; the other is named.
            let both = tree.lookup(vec![cripple, tree.plain()]);
            match both.dnssec_support().await {
                DnssecSupport::Available { faults, .. } => {
                    assert!(faults[0].contains(words), "{what}: {faults:?}");
                }
                other => panic!("{what}: {other:?}"),
            }
            assert!(
                told(&both, "nsec3.test")
                    .await
                    .ends_with("tlsa at mx.nsec3.test secure 1"),
                "{what}"
            );
        }
    }

    /// Neither proves that there are no signatures: one is off, the other cannot reach anybody.
    #[tokio::test]
    async fn a_resolver_that_does_not_answer_shows_nothing() {
        let nobody: SocketAddr = (Ipv4Addr::LOCALHOST, free_ports()).into();
        let (failing, _) = forger(nobody, |message| error(message, Rcode::SERVFAIL));
        for resolver in [nobody, failing] {
            match lookup(vec![resolver], None, true).dnssec_support().await {
                DnssecSupport::Unknown(words) => {
                    assert!(words.contains(&resolver.to_string()), "{words}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// With DANE off nobody is asked for signatures, so that a resolver that has none will do.
    #[tokio::test]
    async fn without_dane_a_resolver_without_signatures_is_as_good_as_any() {
        let tree = Tree::start("without").await;
        for (what, forgery, _) in crippled() {
            let (cripple, _) = forger(tree.plain(), forgery);
            let lookup = lookup(vec![cripple], None, false);
            assert_eq!(
                told(&lookup, "nsec3.test").await,
                "insecure mx.nsec3.test insecure 1",
                "{what}"
            );
            assert_eq!(
                told(&lookup, "nothing.good.test").await,
                "insecure none",
                "{what}"
            );
        }
    }

    /// Some answers come without signatures, as from a resolver that was changed after the start.
    #[tokio::test]
    async fn an_answer_without_signatures_is_told_in_one_clear_sentence() {
        let tree = Tree::start("sentence").await;
        let (stripper, _) = forger(tree.plain(), |message| {
            match message.sole_question().unwrap().qtype() {
                Rtype::DS | Rtype::DNSKEY => message.as_slice().to_vec(),
                _ => without(message, |rtype| {
                    matches!(
                        rtype,
                        Rtype::RRSIG | Rtype::NSEC | Rtype::NSEC3 | Rtype::SOA
                    )
                }),
            }
        });
        let lookup = tree.lookup(vec![stripper]);
        for domain in ["good.test", "nothing.good.test"] {
            let needs = Needs {
                mx: true,
                ..Needs::default()
            };
            match lookup
                .gather(&Domain::parse(domain).unwrap(), needs)
                .await
                .mx
            {
                Dns::Bogus(words) => {
                    assert!(
                        words.starts_with("the answer comes without the DNSSEC signatures"),
                        "{words}"
                    );
                    assert!(!words.contains("bogus"), "{words}");
                }
                other => panic!("{domain}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn an_answer_too_long_for_a_datagram_comes_by_tcp() {
        let tree = Tree::start("tcp").await;
        for lookup in [
            tree.lookup(vec![tree.plain()]),
            lookup(vec![tree.plain()], None, false),
        ] {
            let record = lookup
                .tlsrpt_record(&Domain::parse("big.good.test").unwrap())
                .await;
            assert_eq!(record.map(|text| text.len()), Some(1433));
        }
    }

    #[tokio::test]
    async fn a_dead_resolver_is_passed_over_and_all_dead_is_failed_not_absent() {
        let mut tree = Tree::start("dead").await;
        let nobody: SocketAddr = (Ipv4Addr::LOCALHOST, free_ports()).into();
        let first_is_dead = tree.lookup(vec![nobody, tree.plain()]);
        assert!(
            told(&first_is_dead, "nsec3.test")
                .await
                .starts_with("secure mx.nsec3.test")
        );
        for server in &mut tree.servers {
            server.kill().unwrap();
            server.wait().unwrap();
        }
        assert_eq!(told(&first_is_dead, "plain.test").await, "failed");
        let fresh = tree.lookup(vec![tree.plain()]);
        assert_eq!(told(&fresh, "good.test").await, "failed");
        let without = lookup(vec![tree.plain()], None, false);
        assert_eq!(told(&without, "good.test").await, "failed");
    }

    /// Somebody between us and the resolver changes every answer about these names.
    #[tokio::test]
    async fn a_forger_on_the_path_makes_answers_bogus_never_secure_nor_absent() {
        let tree = Tree::start("forger").await;
        let signatures = |message: &_| without(message, |rtype| rtype == Rtype::RRSIG);
        let proofs =
            |message: &_| without(message, |rtype| matches!(rtype, Rtype::NSEC | Rtype::NSEC3));
        let authority = |message: &_| {
            without(message, |rtype| {
                matches!(
                    rtype,
                    Rtype::NSEC | Rtype::NSEC3 | Rtype::SOA | Rtype::RRSIG
                )
            })
        };
        let tlsa = |message: &_| without(message, |rtype| rtype == Rtype::TLSA);
        let forgeries: [(&str, Forgery, &[&str]); 6] = [
            (
                "no signatures",
                Box::new(signatures),
                &["good.test", "nsec3.test", "nothing.good.test"],
            ),
            (
                "no proofs",
                Box::new(proofs),
                &[
                    "nothing.good.test",
                    "nothing.nsec3.test",
                    "any.wild.good.test",
                ],
            ),
            (
                "empty",
                Box::new(authority),
                &["nothing.good.test", "nothing.nsec3.test"],
            ),
            (
                "no such record",
                Box::new(tlsa),
                &["nsec3.test", "optout.test"],
            ),
            (
                "no such domain",
                Box::new(nxdomain),
                &["good.test", "nsec3.test"],
            ),
            (
                "said to be validated",
                Box::new(authenticated),
                &["bogus.test", "expired.test"],
            ),
        ];
        for (what, forgery, domains) in forgeries {
            let keys_too = what == "no signatures";
            let (resolver, _) = forger(tree.plain(), move |message| {
                let rtype = message.sole_question().unwrap().qtype();
                let infrastructure = matches!(rtype, Rtype::DS | Rtype::DNSKEY);
                if infrastructure && !keys_too {
                    message.as_slice().to_vec()
                } else {
                    forgery(message)
                }
            });
            let lookup = tree.lookup(vec![resolver]);
            for domain in domains {
                let told = told(&lookup, domain).await;
                assert!(told.contains("bogus"), "{what}: {domain}: {told}");
                assert!(!told.contains("none"), "{what}: {domain}: {told}");
            }
        }
    }

    /// As systemd-resolved 252 does, which answers another question in its place.
    #[tokio::test]
    async fn a_resolver_that_leaves_questions_for_aliases_unanswered_does() {
        let tree = Tree::start("aliases").await;
        let (resolver, _) = forger(tree.plain(), |message| {
            match message.sole_question().unwrap().qtype() {
                Rtype::CNAME => Vec::new(),
                _ => message.as_slice().to_vec(),
            }
        });
        let lookup = tree.lookup(vec![resolver]);
        for (domain, truth) in TRUTH {
            if ["good.test", "wildaliasmx.good.test"].contains(domain) {
                assert_eq!(&told(&lookup, domain).await, truth);
            }
        }
    }

    /// A zone that is provably unsigned may answer badly without harm to its mail.
    #[tokio::test]
    async fn an_empty_answer_of_an_unsigned_zone_is_an_absence() {
        let tree = Tree::start("empty").await;
        let (resolver, _) = forger(tree.plain(), |message| {
            match message.sole_question().unwrap().qtype() {
                Rtype::AAAA => without(message, |_| true),
                _ => message.as_slice().to_vec(),
            }
        });
        let lookup = tree.lookup(vec![resolver]);
        assert_eq!(
            told(&lookup, "plain.test").await,
            "insecure mx.plain.test insecure 1"
        );
        assert_eq!(
            told(&lookup, "nsec3.test").await,
            "secure mx.nsec3.test secure 1 but AAAA, tlsa at mx.nsec3.test secure 1"
        );
    }
}

async fn assert_cannot(lookup: &Lookup, words: &str) {
    match lookup.dnssec_support().await {
        DnssecSupport::Missing(sentence) => {
            assert!(sentence.contains(words), "{sentence}");
            assert!(
                sentence.contains("--resolver") && sentence.ends_with("--no-dane"),
                "{sentence}"
            );
        }
        other => panic!("{words}: {other:?}"),
    }
}

#[tokio::test]
async fn a_reload_validates_from_the_anchor_as_it_is_now() {
    let tree = Tree::start("reload").await;
    let anchor = tree.folder.join("given");
    let other =
        ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n";
    fs::write(&anchor, other).unwrap();
    let lookup = lookup(vec![tree.plain()], Some(anchor.clone()), true);
    let nobody = || Arc::new(rustls::RootCertStore::empty());
    assert_eq!(told(&lookup, "good.test").await, "bogus");

    fs::write(&anchor, "nonsense\n").unwrap();
    let words = lookup.renewal(None, nobody()).err().unwrap();
    assert!(words.contains("given:1: not a key of the root"), "{words}");

    fs::copy(tree.folder.join("anchor"), &anchor).unwrap();
    let renewal = lookup.renewal(None, nobody()).unwrap();
    assert_eq!(
        told(&lookup, "good.test").await,
        "bogus",
        "not before it is adopted"
    );
    lookup.adopt(renewal);
    let (domain, truth) = TRUTH[0];
    assert_eq!(
        (domain, told(&lookup, domain).await.as_str()),
        TRUTH[0],
        "{truth}"
    );
}
