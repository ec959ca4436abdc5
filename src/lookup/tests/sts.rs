//! Discovery and fetch of MTA-STS policies.

use super::{
    address, domain, found,
    world::{CLINIC, HOST, POLICY, World, applies, assert_unavailable, now, ok},
};
use crate::{
    clock,
    lookup::{Lookup, LookupOptions, dns::RecordType, https},
    policy::{
        Dns, Needs, Reason, Security, Sts,
        mta_sts::{Mode, Policy},
    },
    tls::tests::pki::{Authority, Leaf, expired},
};
use std::{net::IpAddr, sync::Arc, time::Duration};

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
async fn a_reload_trusts_other_authorities_and_tries_again_at_once() {
    let world = World::new().await;
    let options = LookupOptions {
        roots: Arc::new(rustls::RootCertStore::empty()),
        ..world.options()
    };
    let lookup = Lookup::with_resolver(options, Arc::clone(&world.fake) as _).unwrap();
    assert_unavailable(&now(&lookup).await, Reason::StsWebpkiInvalid, "certificate");
    let renewal = lookup.renewal(None, world.options().roots).unwrap();
    lookup.sts.trust_instead(renewal.tls);
    assert_eq!(applies(&lookup).await, ("1".into(), false));
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
        RecordType::Txt,
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
        world
            .fake
            .say("_mta-sts.clinic.example", RecordType::Txt, answer);
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
    // The limit is on the body. A policy just below the limit is accepted.
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
    let options = LookupOptions {
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
            RecordType::Aaaa
        } else {
            RecordType::A
        };
        let other = if text.contains(':') {
            RecordType::A
        } else {
            RecordType::Aaaa
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
            LookupOptions {
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

fn copy(options: &LookupOptions) -> LookupOptions {
    LookupOptions {
        resolvers: options.resolvers.clone(),
        dnssec: true,
        anchor: None,
        state_dir: None,
        https_port: options.https_port,
        allow_private: options.allow_private,
        roots: Arc::clone(&options.roots),
    }
}

#[tokio::test]
async fn a_host_that_never_finishes_is_given_up() {
    let world = World::new().await;
    world.gate.forget_permits(1000);
    let client = https::PolicyClient {
        port: world.port,
        tls: Arc::new(https::client_config(world.options().roots).unwrap()).into(),
        patience: Duration::from_millis(200),
    };
    let addresses = ["127.0.0.1".parse().unwrap()];
    let (reason, words) = client
        .get(HOST, "/.well-known/mta-sts.txt", &addresses)
        .await
        .unwrap_err();
    assert_eq!(reason, Reason::StsPolicyFetchError);
    assert!(words.contains("not done within"), "{words}");
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
async fn a_policy_that_cannot_be_had_in_time_is_none_and_its_fetch_goes_on_for_the_next_who_asks() {
    let world = World::new().await;
    world.gate.forget_permits(1000);
    let lookup = world.lookup();
    let soon = clock::instant() + Duration::from_millis(50);
    let (sts, _) = lookup.sts.policy(&domain(CLINIC), soon).await;
    assert_unavailable(&sts, Reason::StsPolicyFetchError, "could not be fetched");
    world.gate.add_permits(1);
    assert_eq!(applies(&lookup).await, ("1".into(), false));
    assert_eq!(world.requests(), 1);
}

/// Mail waits for the policy host once, and not anew with each message while the same fetch is under way.
#[tokio::test(start_paused = true)]
async fn who_asks_while_a_fetch_has_been_silent_for_long_does_not_wait_at_all() {
    let world = World::new().await;
    world.gate.forget_permits(1000);
    let lookup = world.lookup();
    let needs = Needs {
        sts: true,
        ..Needs::default()
    };
    // The clock jumps over every wait; 30 s are those of a whole decision.
    let begun = tokio::time::Instant::now();
    for _ in 0..20 {
        let sts = lookup.gather(&domain(CLINIC), needs).await.sts;
        assert_unavailable(&sts, Reason::StsPolicyFetchError, "could not be fetched");
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_cached_policy_binds_although_its_host_is_silent() {
    let world = World::new().await;
    let lookup = world.lookup();
    assert_eq!(applies(&lookup).await, ("1".into(), false));
    world.gate.forget_permits(1000);
    world.announce("2");
    lookup.dns.forget();
    let soon = clock::instant() + Duration::from_millis(50);
    match lookup.sts.policy(&domain(CLINIC), soon).await.0 {
        Sts::Policy {
            id, refresh_failed, ..
        } => {
            assert_eq!(id, "1");
            assert!(matches!(
                refresh_failed,
                Some((Reason::StsPolicyFetchError, _))
            ));
        }
        other => panic!("{other:?}"),
    }
}

/// Three addresses at which nobody answers, and one that is good.
#[tokio::test(start_paused = true)]
async fn dead_addresses_do_not_hide_the_one_that_answers() {
    let world = World::new().await;
    let silent = |last: u8| {
        std::net::TcpListener::bind((IpAddr::from([127, 0, 0, last]), world.port)).unwrap()
    };
    let dead: Vec<_> = (2..5).map(silent).collect();
    let records = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"].map(address);
    world.fake.say(
        HOST,
        RecordType::A,
        found(HOST, records.into(), Security::Insecure),
    );
    assert_eq!(applies(&world.lookup()).await, ("1".into(), false));
    drop(dead);
}

#[tokio::test]
async fn a_wrong_certificate_says_more_than_an_address_that_is_down() {
    let root = Authority::root("Test Root");
    let world = World::with(root, Leaf::self_signed(&[HOST])).await;
    let records = ["127.0.0.1", "127.0.0.9"].map(address);
    world.fake.say(
        HOST,
        RecordType::A,
        found(HOST, records.into(), Security::Insecure),
    );
    let sts = now(&world.lookup()).await;
    assert_unavailable(&sts, Reason::StsWebpkiInvalid, "certificate");
}

#[tokio::test]
async fn a_policy_of_no_lifetime_serves_the_mail_it_was_fetched_for_and_is_not_fetched_for_every_one()
 {
    let world = World::new().await;
    world.respond(&ok(&POLICY.replace("604800", "0")));
    let lookup = world.lookup();
    for _ in 0..3 {
        assert!(
            matches!(now(&lookup).await, Sts::Policy { policy, age, .. } if policy.max_age == 0 && policy.holds(age))
        );
    }
    assert_eq!(world.requests(), 1);
}
