//! Which policies are remembered, and for how long.

use super::{
    Fake, domain, options,
    world::{CLINIC, POLICY, World, applies, assert_unavailable, now, store},
};
use crate::{
    clock,
    lookup::{
        Lookup, LookupOptions, StsEntry,
        dns::RecordType,
        domain_state::{CachedPolicy, DomainState, make_room},
        store::StoredPolicy,
    },
    policy::{Dns, Reason, Security, Sts},
    smtp::Domain,
};
use std::{
    collections::HashMap,
    fs,
    time::{Duration, SystemTime},
};

/// The cached policy, as `policy show` finds it.
fn shown(lookup: &Lookup) -> StsEntry {
    let mut entries = lookup.sts_list().into_iter();
    entries.find(|entry| entry.domain == CLINIC).unwrap()
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
        world
            .fake
            .say("_mta-sts.clinic.example", RecordType::Txt, answer);
        assert_eq!(applies(&lookup).await.0, "1");
    }
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let world = World::new().await;
    assert_eq!(applies(&world.restarted()).await.0, "1");
    world.respond("HTTP/1.1 404 Not Found\r\n\r\n");
    // The file that a crash in the middle of a write leaves.
    fs::write(world.file("aside"), "{\"version\":1,").unwrap();
    for answer in [
        Dns::Absent(Security::Insecure),
        Dns::Failed("SERVFAIL".into()),
    ] {
        world
            .fake
            .say("_mta-sts.clinic.example", RecordType::Txt, answer);
        assert_eq!(applies(&world.restarted()).await.0, "1");
    }
    assert_eq!(world.requests(), 1);
    let entry = shown(&world.restarted());
    assert_eq!(entry.text, POLICY);
    assert!(entry.expires_in > 604_000);
}

#[tokio::test]
async fn an_unreadable_policy_defers_until_it_is_fetched_anew_or_purged() {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let other = StoredPolicy::new(&domain("other.example"), "1", clock::wall(), POLICY);
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
            RecordType::Txt,
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
            RecordType::Txt,
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
        RecordType::Txt,
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
        RecordType::Txt,
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
        LookupOptions {
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

#[tokio::test]
async fn an_expired_policy_is_gone_from_memory_and_disk() {
    let world = World::new().await;
    store(&world, 8);
    world.fake.say(
        "_mta-sts.clinic.example",
        RecordType::Txt,
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
    assert!(shown(&lookup).expires_in > 604_000);
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
        RecordType::Txt,
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

#[test]
fn room_is_made_by_what_is_over_then_by_what_expires_first() {
    let slot = |days: u64| {
        let fetched = clock::wall() - Duration::from_secs(days * 86_400);
        let stored = StoredPolicy::new(&domain(CLINIC), "1", fetched, POLICY);
        DomainState {
            policy: Some(CachedPolicy::read(stored).unwrap()),
            ..DomainState::default()
        }
    };
    let full = || -> HashMap<Domain, DomainState> {
        (0..10)
            .map(|n| (domain(&format!("d{n}.example")), slot(n)))
            .collect()
    };
    // The policies live seven days, so those of 7, 8 and 9 days ago have expired.
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

/// Somebody with many domains whose policies cannot be fetched must not make us forget the policies of other domains.
#[tokio::test]
async fn fetches_that_failed_make_room_before_policies_do() {
    let world = World::new().await;
    let lookup = world.lookup();
    assert_eq!(applies(&lookup).await.0, "1");
    world.respond("HTTP/1.1 404 Not Found\r\n\r\n");
    world.announce("2");
    assert!(applies(&lookup).await.1);
    let mut failed = lookup.sts.state(&domain(CLINIC)).unwrap();
    let kept = DomainState {
        policy: failed.policy.take(),
        ..DomainState::default()
    };
    let mut domains = HashMap::from([(domain(CLINIC), kept)]);
    for number in 0..10 {
        domains.insert(domain(&format!("d{number}.example")), failed.clone());
    }
    assert_eq!(make_room(&mut domains, 5, usize::MAX).len(), 7);
    assert!(domains.contains_key(&domain(CLINIC)));
}
