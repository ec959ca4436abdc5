use super::{Fake, address, domain, found, options};
use crate::{
    clock,
    lookup::{
        Lookup,
        cache::Cache,
        dns::{BoxFuture, DnsResponse, Rdata, RecordType, Resolve, Rrset, name_servers},
        hosts::DomainLookup,
    },
    policy::{Dns, Mx, MxHost, Needs, Reason, Security, Tlsa},
};
use Security::{Insecure, Secure};
use std::{sync::Arc, time::Duration};

const ALL: Needs = Needs {
    mx: true,
    tlsa: true,
    sts: false,
};

fn lookup(fake: &Arc<Fake>) -> Lookup {
    Lookup::with_resolver(options(), Arc::clone(fake) as _).unwrap()
}

fn mx(records: &[(u16, &str)], security: Security) -> Dns<Rrset> {
    let records = records
        .iter()
        .map(|(p, name)| Rdata::Mx(*p, (*name).to_owned()));
    found("clinic.example", records.collect(), security)
}

fn tlsa() -> Tlsa {
    Tlsa {
        usage: 3,
        selector: 1,
        matching: 1,
        data: vec![7; 32],
    }
}

fn tlsa_at(name: &str) -> Dns<Rrset> {
    found(name, vec![Rdata::Tlsa(tlsa())], Secure)
}

fn addresses(security: Security) -> Dns<Rrset> {
    found("mx.example", vec![address("192.0.2.1")], security)
}

async fn hosts_of(fake: &Arc<Fake>) -> Vec<MxHost> {
    match lookup(fake).gather(&domain("clinic.example"), ALL).await.mx {
        Dns::Found(Mx::Hosts(hosts), _) => hosts,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_families_are_one_answer_as_weak_as_the_weaker_and_an_error_is_no_absence() {
    let (secure, insecure) = (|| addresses(Secure), || addresses(Insecure));
    let failed = || Dns::Failed("SERVFAIL".into());
    let bogus = || Dns::Bogus("expired".into());
    let elsewhere = |security| found("other.example", vec![address("2001:db8::1")], security);
    // The answers for A and for AAAA; then the state of both together, and which family is missing.
    let cases = [
        (secure(), Dns::Absent(Secure), "secure", None),
        (secure(), secure(), "secure", None),
        (secure(), insecure(), "insecure", None),
        (secure(), Dns::Absent(Insecure), "insecure", None),
        (Dns::Absent(Secure), Dns::Absent(Secure), "none", None),
        (
            secure(),
            failed(),
            "secure",
            Some(("AAAA", Reason::LookupFailed)),
        ),
        (Dns::Absent(Secure), failed(), "failed", None),
        (Dns::Absent(Secure), bogus(), "bogus", None),
        (
            secure(),
            bogus(),
            "secure",
            Some(("AAAA", Reason::DnssecInvalid)),
        ),
        (insecure(), bogus(), "bogus", None),
        (failed(), bogus(), "bogus", None),
        (failed(), failed(), "failed", None),
        (
            insecure(),
            failed(),
            "insecure",
            Some(("AAAA", Reason::LookupFailed)),
        ),
        (
            secure(),
            elsewhere(Secure),
            "secure",
            Some(("AAAA", Reason::LookupFailed)),
        ),
        (
            secure(),
            elsewhere(Insecure),
            "secure",
            Some(("AAAA", Reason::LookupFailed)),
        ),
        (insecure(), elsewhere(Insecure), "insecure", None),
    ];
    let state_of = async |v4: &Dns<Rrset>, v6: &Dns<Rrset>| {
        let fake = Fake::new();
        fake.say("mx.example", RecordType::A, v4.clone()).say(
            "mx.example",
            RecordType::Aaaa,
            v6.clone(),
        );
        let host = lookup(&fake).host("MX.example", None).await;
        let state = match host.addresses {
            Dns::Found(_, Secure) => "secure",
            Dns::Found(_, Insecure) => "insecure",
            Dns::Absent(_) => "none",
            Dns::Bogus(_) => "bogus",
            Dns::Failed(_) => "failed",
            Dns::NotAsked => "not asked",
        };
        (state, host.missing)
    };
    for (v4, v6, expected, missing) in cases {
        let (state, lacks) = state_of(&v4, &v6).await;
        assert_eq!(state, expected, "{v4:?} and {v6:?}");
        let (turned, lacks_turned) = state_of(&v6, &v4).await;
        assert_eq!(turned, expected, "{v6:?} and {v4:?}");
        match (missing, lacks, lacks_turned) {
            (None, None, None) => {}
            (Some((kind, reason)), Some(one), Some(other)) => {
                assert!(
                    one.why.starts_with(&format!("{kind} of mx.example: ")),
                    "{}",
                    one.why
                );
                // Where the answers of both families are signed, the IPv4 answer is kept.
                let both = matches!((&v4, &v6), (Dns::Found(_, Secure), Dns::Found(_, Secure)));
                assert!(one.ipv6 && other.ipv6 == both);
                assert_eq!((one.reason, other.reason), (reason, reason));
            }
            other => panic!("{v4:?} and {v6:?}: {other:?}"),
        }
    }
}

/// A load balancer of an unsigned zone that answers with another alias each time.
#[tokio::test]
async fn aliases_that_rotate_between_two_questions_are_one_host_with_all_addresses() {
    let fake = Fake::new();
    let end = |name, text| found(name, vec![address(text)], Insecure);
    fake.say(
        "mx.example",
        RecordType::A,
        end("a.balancer.example", "192.0.2.1"),
    )
    .say(
        "mx.example",
        RecordType::Aaaa,
        end("b.balancer.example", "2001:db8::2"),
    );
    let host = lookup(&fake).host("mx.example", Some(25)).await;
    let both = ["192.0.2.1", "2001:db8::2"].map(|text| text.parse().unwrap());
    assert_eq!(host.addresses, Dns::Found(both.into(), Insecure));
    assert_eq!((host.tlsa, host.missing), (Dns::NotAsked, None));
}

/// The alias itself is signed, so that its own TLSA records count wherever it leads.
#[tokio::test]
async fn a_signed_alias_that_rotates_is_still_asked_for_its_own_records() {
    for (v4, v6) in [
        ("mx.example", "b.balancer.example"),
        ("b.balancer.example", "mx.example"),
    ] {
        let fake = Fake::new();
        let end = |name, text| found(name, vec![address(text)], Insecure);
        let alias = vec![Rdata::Cname("b.balancer.example".into())];
        fake.say("mx.example", RecordType::A, end(v4, "192.0.2.1"))
            .say("mx.example", RecordType::Aaaa, end(v6, "2001:db8::2"))
            .say(
                "mx.example",
                RecordType::Cname,
                found("mx.example", alias, Secure),
            )
            .say(
                "_25._tcp.mx.example",
                RecordType::Tlsa,
                tlsa_at("_25._tcp.mx.example"),
            );
        let host = lookup(&fake).host("mx.example", Some(25)).await;
        assert!(matches!(host.tlsa, Dns::Found(_, Secure)), "{host:?}");
    }
}

#[tokio::test]
async fn tlsa_is_asked_for_as_ever_where_one_family_is_signed_and_the_other_cannot_be_had() {
    for error in [Dns::Failed("SERVFAIL".into()), Dns::Bogus("expired".into())] {
        let fake = Fake::new();
        fake.say("mx.example", RecordType::A, addresses(Secure))
            .say("mx.example", RecordType::Aaaa, error)
            .say(
                "_25._tcp.mx.example",
                RecordType::Tlsa,
                tlsa_at("_25._tcp.mx.example"),
            );
        let host = lookup(&fake).host("mx.example", Some(25)).await;
        assert!(matches!(host.tlsa, Dns::Found(_, Secure)), "{host:?}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_told_from_a_domain_that_is_its_own_host() {
    for security in [Secure, Insecure] {
        let fake = Fake::new();
        fake.say("clinic.example", RecordType::Mx, Dns::Absent(security))
            .no_such_name("clinic.example");
        let gathered = async |fake| lookup(fake).gather(&domain("clinic.example"), ALL).await.mx;
        assert_eq!(gathered(&fake).await, Dns::Absent(security));
        // Some servers answer NXDOMAIN for a name that has addresses.
        fake.say("clinic.example", RecordType::A, addresses(Insecure));
        assert!(matches!(
            gathered(&fake).await,
            Dns::Found(Mx::Implicit(_), _)
        ));
        // A question that could not be asked proves no absence.
        fake.say(
            "clinic.example",
            RecordType::A,
            Dns::Failed("SERVFAIL".into()),
        );
        assert!(matches!(
            gathered(&fake).await,
            Dns::Found(Mx::Implicit(_), _)
        ));
    }
}

#[tokio::test]
async fn the_base_domain_is_where_secure_aliases_lead_else_the_name_itself() {
    let none = || Dns::Absent(Secure);
    let cname = |security| {
        found(
            "alias.example",
            vec![Rdata::Cname("mx.example".into())],
            security,
        )
    };
    let at_end = || tlsa_at("_25._tcp.mx.example");
    let at_name = || tlsa_at("_25._tcp.alias.example");
    // Addresses at the end, the alias, TLSA at the end, TLSA at the name; then the base and whether there are records.
    let cases = [
        (Secure, Secure, at_end(), at_name(), "mx.example", true),
        (Secure, Secure, none(), at_name(), "alias.example", true),
        (Secure, Secure, none(), none(), "alias.example", false),
        (Insecure, Secure, at_end(), at_name(), "alias.example", true),
        (
            Insecure,
            Insecure,
            at_end(),
            at_name(),
            "alias.example",
            false,
        ),
    ];
    for (end, alias, tlsa_at_end, tlsa_at_name, base, records) in cases {
        let fake = Fake::new();
        fake.say("alias.example", RecordType::A, addresses(end))
            .say("alias.example", RecordType::Aaaa, Dns::Absent(end))
            .say("alias.example", RecordType::Cname, cname(alias))
            .say("_25._tcp.mx.example", RecordType::Tlsa, tlsa_at_end)
            .say("_25._tcp.alias.example", RecordType::Tlsa, tlsa_at_name);
        let host = lookup(&fake).host("alias.example", Some(25)).await;
        assert_eq!(host.tlsa_base, base);
        assert_eq!(matches!(host.tlsa, Dns::Found(..)), records, "{host:?}");
    }
}

#[tokio::test]
async fn an_error_at_the_end_of_an_alias_is_not_made_good_by_the_name() {
    let fake = Fake::new();
    fake.say("alias.example", RecordType::A, addresses(Secure))
        .say("alias.example", RecordType::Aaaa, Dns::Absent(Secure))
        .say(
            "_25._tcp.mx.example",
            RecordType::Tlsa,
            Dns::Failed("SERVFAIL".into()),
        )
        .say(
            "_25._tcp.alias.example",
            RecordType::Tlsa,
            tlsa_at("_25._tcp.alias.example"),
        );
    let host = lookup(&fake).host("alias.example", Some(25)).await;
    assert_eq!(host.tlsa, Dns::Failed("SERVFAIL".into()));
}

#[tokio::test]
async fn tlsa_is_not_asked_for_below_unsigned_addresses_nor_where_nobody_wants_it() {
    let fake = Fake::new();
    fake.say("mx.example", RecordType::A, addresses(Insecure))
        .say(
            "signed.example",
            RecordType::A,
            found("signed.example", vec![address("192.0.2.2")], Secure),
        )
        .say("signed.example", RecordType::Aaaa, Dns::Absent(Secure));
    let lookup = lookup(&fake);
    assert_eq!(
        lookup.host("mx.example", Some(25)).await.tlsa,
        Dns::NotAsked
    );
    assert!(!fake.was_asked("_25._tcp.mx.example", RecordType::Tlsa));
    assert_eq!(
        lookup.host("signed.example", None).await.tlsa,
        Dns::NotAsked
    );
    assert!(!fake.was_asked("_25._tcp.signed.example", RecordType::Tlsa));
    lookup.host("signed.example", Some(465)).await;
    assert!(fake.was_asked("_465._tcp.signed.example", RecordType::Tlsa));
}

#[tokio::test]
async fn mx_hosts_come_in_preference_order_and_the_root_among_them_means_nothing() {
    let fake = Fake::new();
    let records = [
        (20, "b.example"),
        (10, "c.example"),
        (0, ""),
        (10, "a.example"),
        (30, "a.example"),
    ];
    fake.say("clinic.example", RecordType::Mx, mx(&records, Secure));
    let names: Vec<_> = hosts_of(&fake)
        .await
        .into_iter()
        .map(|h| (h.preference, h.name))
        .collect();
    let expected = [
        (10, "a.example"),
        (10, "c.example"),
        (20, "b.example"),
        (30, "a.example"),
    ];
    assert_eq!(names, expected.map(|(p, name)| (p, name.to_owned())));
}

#[tokio::test]
async fn a_null_mx_is_only_a_lone_root() {
    let fake = Fake::new();
    fake.say("clinic.example", RecordType::Mx, mx(&[(0, "")], Secure));
    let findings = lookup(&fake).gather(&domain("clinic.example"), ALL).await;
    assert_eq!(findings.mx, Dns::Found(Mx::Null, Secure));
}

#[tokio::test]
async fn an_address_or_rubbish_in_an_mx_record_is_never_looked_up() {
    let fake = Fake::new();
    let records = [
        (10, "192.0.2.1"),
        (20, "a b.example"),
        (30, r"\003.example"),
    ];
    fake.say("clinic.example", RecordType::Mx, mx(&records, Secure));
    for host in hosts_of(&fake).await {
        assert_eq!(host.addresses, Dns::Absent(Insecure), "{}", host.name);
        assert!(!fake.was_asked(&host.name, RecordType::A));
    }
}

#[tokio::test]
async fn hosts_beyond_the_limit_have_failed_and_are_not_forgotten() {
    let fake = Fake::new();
    let names: Vec<_> = (0..30).map(|n| format!("mx{n}.example")).collect();
    let records: Vec<_> = (0..30).zip(names.iter().map(String::as_str)).collect();
    fake.say("clinic.example", RecordType::Mx, mx(&records, Secure));
    let hosts = hosts_of(&fake).await;
    assert_eq!(hosts.len(), 30);
    assert!(
        hosts[..20]
            .iter()
            .all(|h| h.addresses == Dns::Absent(Insecure))
    );
    assert!(
        hosts[20..]
            .iter()
            .all(|h| matches!((&h.addresses, &h.tlsa), (Dns::Failed(_), Dns::Failed(_))))
    );
}

#[tokio::test]
async fn without_mx_the_domain_is_the_host_but_not_after_an_error() {
    let fake = Fake::new();
    fake.say("clinic.example", RecordType::Mx, Dns::Absent(Secure))
        .say(
            "clinic.example",
            RecordType::A,
            found("clinic.example", vec![address("192.0.2.1")], Secure),
        );
    let findings = lookup(&fake).gather(&domain("clinic.example"), ALL).await;
    assert!(
        matches!(findings.mx, Dns::Found(Mx::Implicit(host), Secure) if host.name == "clinic.example")
    );
    for error in [Dns::Failed("SERVFAIL".into()), Dns::Bogus("expired".into())] {
        fake.say("clinic.example", RecordType::Mx, error.clone());
        let findings = lookup(&fake).gather(&domain("clinic.example"), ALL).await;
        match (findings.mx, error) {
            (Dns::Failed(a), Dns::Failed(b)) | (Dns::Bogus(a), Dns::Bogus(b)) => assert_eq!(a, b),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn only_a_secure_alias_of_the_domain_is_told() {
    for (security, expected) in [
        (Secure, Some("hoster.example".to_owned())),
        (Insecure, None),
    ] {
        let fake = Fake::new();
        let records = vec![Rdata::Mx(10, "mx.hoster.example".into())];
        fake.say(
            "clinic.example",
            RecordType::Mx,
            found("hoster.example", records, security),
        );
        let findings = lookup(&fake).gather(&domain("clinic.example"), ALL).await;
        assert_eq!(findings.expanded, expected);
    }
}

#[tokio::test]
async fn an_address_as_upstream_is_itself_and_asks_nothing() {
    let fake = Fake::new();
    let host = lookup(&fake).host("192.0.2.1", Some(25)).await;
    assert_eq!(
        host.addresses,
        Dns::Found(vec!["192.0.2.1".parse().unwrap()], Insecure)
    );
    assert_eq!(host.tlsa, Dns::NotAsked);
    assert!(fake.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_needed_is_not_asked() {
    let fake = Fake::new();
    let findings = lookup(&fake)
        .gather(&domain("clinic.example"), Needs::default())
        .await;
    assert_eq!(findings.mx, Dns::NotAsked);
    assert!(fake.asked.lock().unwrap().is_empty());
    let needs = Needs {
        mx: true,
        ..Needs::default()
    };
    lookup(&fake).gather(&domain("clinic.example"), needs).await;
    assert!(fake.was_asked("clinic.example", RecordType::Mx));
    assert!(!fake.was_asked("_mta-sts.clinic.example", RecordType::Txt));
}

/// A resolver that gives no answer about AAAA.
struct SilentAboutIpv6(Arc<Fake>);
impl Resolve for SilentAboutIpv6 {
    fn resolve<'a>(&'a self, name: &'a str, kind: RecordType) -> BoxFuture<'a, DnsResponse> {
        match kind {
            RecordType::Aaaa => Box::pin(std::future::pending()),
            _ => self.0.resolve(name, kind),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_is_silent_leaves_time_to_ask_for_tlsa_records() {
    let fake = Fake::new();
    fake.say("mx.example", RecordType::A, addresses(Secure))
        .say(
            "_25._tcp.mx.example",
            RecordType::Tlsa,
            tlsa_at("_25._tcp.mx.example"),
        );
    let lookup = Lookup::with_resolver(options(), Arc::new(SilentAboutIpv6(fake))).unwrap();
    let host = lookup.host("mx.example", Some(25)).await;
    assert!(matches!(host.tlsa, Dns::Found(_, Secure)), "{host:?}");
    assert!(host.missing.is_some_and(|missing| missing.ipv6));
}

/// A resolver that never answers.
struct Silent;
impl Resolve for Silent {
    fn resolve<'a>(&'a self, _: &'a str, _: RecordType) -> BoxFuture<'a, DnsResponse> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn at_the_deadline_what_is_missing_has_failed() {
    let cache = Arc::new(Cache::new(Arc::new(Silent)));
    let asking = Arc::new(DomainLookup::new(
        cache,
        clock::instant() + Duration::from_millis(20),
    ));
    let (mx, _) = asking.mx(&domain("clinic.example"), Some(25)).await;
    assert!(matches!(mx, Dns::Failed(words) if words.contains("in time")));
}

#[tokio::test]
async fn a_tlsrpt_record_counts_only_if_it_is_the_only_one() {
    let text = |text: &str| Rdata::Txt(text.as_bytes().to_vec());
    let record = "v=TLSRPTv1; rua=mailto:tls@clinic.example";
    for (records, expected) in [
        (
            vec![text("something else"), text(record)],
            Some(record.to_owned()),
        ),
        (
            vec![
                text(record),
                text("v=TLSRPTv1; rua=mailto:other@clinic.example"),
            ],
            None,
        ),
        (
            vec![text("v=TLSRPTv2; rua=mailto:tls@clinic.example")],
            None,
        ),
    ] {
        let fake = Fake::new();
        let name = "_smtp._tls.clinic.example";
        fake.say(name, RecordType::Txt, found(name, records, Insecure));
        assert_eq!(
            lookup(&fake).tlsrpt_record(&domain("clinic.example")).await,
            expected
        );
    }
}

#[test]
fn resolv_conf_is_read_as_its_manual_says() {
    let text = "# comment\nsearch example\nnameserver 192.0.2.1\nnameserver 2001:db8::1 # two\noptions edns0\n";
    let servers = name_servers("resolv.conf", text).unwrap();
    assert_eq!(
        servers,
        [
            "192.0.2.1:53".parse().unwrap(),
            "[2001:db8::1]:53".parse().unwrap()
        ]
    );
    assert_eq!(
        name_servers("resolv.conf", "").unwrap(),
        ["127.0.0.1:53".parse().unwrap()]
    );
    let error = name_servers("resolv.conf", "\nnameserver fe80::1%eth0\n").unwrap_err();
    assert!(error.starts_with("resolv.conf:2: "), "{error}");
}

#[test]
fn a_trust_anchor_file_holds_keys_of_the_root_and_nothing_else() {
    let folder = std::env::temp_dir().join(format!("starttls-proxy-anchor-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let good =
        ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n";
    for (text, place) in [
        (good, None),
        (
            "; a comment\n\n. 172800 IN DNSKEY 257 3 13 SMBZ+o9qwDxs9jRtN18z8o334JwaNrkLKdjlSUQn+XaMnQ0CrpQLNqJaiaZNsWNFMOuM1QnIJwFPQE1bRXn1NQ== ; x\n",
            None,
        ),
        ("", Some(": no record")),
        ("\n. IN A 192.0.2.1\n", Some(":2: not a key")),
        (
            "example. IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n",
            Some(":1: not a key"),
        ),
        (". IN DS what\n", Some(": ")),
    ] {
        let file = folder.join("anchor");
        std::fs::write(&file, text).unwrap();
        let result = Lookup::new(crate::lookup::LookupOptions {
            resolvers: vec!["192.0.2.1:53".parse().unwrap()],
            anchor: Some(file.clone()),
            ..options()
        });
        match (result, place) {
            (Ok(_), None) => {}
            (Err(error), Some(place)) => {
                assert!(
                    error.starts_with(&format!("{}{place}", file.display())),
                    "{error}"
                );
            }
            (Ok(_), Some(_)) => panic!("taken: {text}"),
            (Err(error), None) => panic!("{error}"),
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn findings_are_fresh_until_the_first_of_their_answers_ends() {
    let kinds = [
        ("clinic.example", RecordType::Mx),
        ("mx.example", RecordType::A),
        ("mx.example", RecordType::Aaaa),
        ("_25._tcp.mx.example", RecordType::Tlsa),
        ("_mta-sts.clinic.example", RecordType::Txt),
    ];
    let all = Needs { sts: true, ..ALL };
    for (name, kind) in kinds {
        let fake = Fake::new();
        fake.say(
            "clinic.example",
            RecordType::Mx,
            mx(&[(10, "mx.example")], Secure),
        )
        .say("mx.example", RecordType::A, addresses(Secure))
        .say("mx.example", RecordType::Aaaa, Dns::Absent(Secure))
        .say(
            "_25._tcp.mx.example",
            RecordType::Tlsa,
            tlsa_at("_25._tcp.mx.example"),
        )
        .ttl(name, kind, 30);
        let lookup = lookup(&fake);
        let asked = lookup.gather(&domain("clinic.example"), all).await;
        let again = lookup.gather(&domain("clinic.example"), all).await;
        for findings in [&asked, &again] {
            let fresh = findings.fresh_for.as_secs_f64();
            assert!(fresh > 1.0 && fresh <= 30.0, "{name} {kind:?}: {fresh}");
        }
        assert!(again.fresh_for <= asked.fresh_for, "remembered answers age");
    }
}

#[tokio::test]
async fn a_fixed_host_is_fresh_as_long_as_its_answers_and_an_address_has_no_end() {
    let fake = Fake::new();
    fake.say("mx.example", RecordType::A, addresses(Secure))
        .ttl("mx.example", RecordType::A, 30);
    let lookup = lookup(&fake);
    let fresh = lookup.upstream("mx.example", Some(25)).await.fresh_for;
    assert!(fresh <= Duration::from_secs(30), "{fresh:?}");
    let fresh = lookup.upstream("192.0.2.1", Some(25)).await.fresh_for;
    assert_eq!(fresh, Duration::MAX);
}
