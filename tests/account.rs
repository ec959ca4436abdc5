//! The records of random sessions, compared with a simple model's account of them.
//!
//! The program runs as it ships, outbound and inbound, between random clients and servers with random habits; both write down
//! what they say and hear. From that, and from the table, `account/model.rs` works out what the records must say.
//!
//! ```text
//! cargo test --test account                             a few seconds, always with the same seeds
//! ACCOUNT_SEED=17 cargo test --test account             the clients of that seed; a server's habits go by the order of its connections
//! ACCOUNT_SEED=17 ACCOUNT_CLIENTS=1 cargo test ...      and the server's, too, since one client comes after the other
//! ACCOUNT_SECONDS=3600 cargo test --test account -- --test-threads 5
//!                                                       an hour of new seeds, all five tests at once
//! ACCOUNT_SKIP=end,hello cargo test --test account      without these comparisons
//! ACCOUNT_SHOWN=40 cargo test --test account            up to 40 differences of each comparison in full, instead of 2
//! ```
//!
//! Interception needs a network namespace (`unshare`, `ip`, `nft`), which those tests make for themselves, as root or not. Where it
//! cannot be had, `ACCOUNT_WITHOUT_NAMESPACES=1` leaves them out.

#[path = "account/certs.rs"]
mod certs;
#[path = "account/client.rs"]
mod client;
#[path = "account/compare.rs"]
mod compare;
#[path = "account/dice.rs"]
mod dice;
#[path = "account/facts_inbound.rs"]
mod facts_inbound;
#[path = "account/facts_outbound.rs"]
mod facts_outbound;
#[path = "account/heard.rs"]
mod heard;
#[path = "account/model.rs"]
mod model;
#[path = "support/pki.rs"]
mod pki;
#[path = "account/rules.rs"]
mod rules;
#[path = "account/server.rs"]
mod server;
#[path = "account/story.rs"]
mod story;
#[path = "account/whose.rs"]
mod whose;
#[path = "account/wire.rs"]
mod wire;
#[path = "account/world.rs"]
mod world;

use starttls_proxy::clock;
use std::{
    collections::{BTreeMap, HashSet},
    process::Command,
    time::Duration,
};
use world::Kind;

/// Seeds that are always tried.
const SEEDS: std::ops::Range<u64> = 1..4;
fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

/// Runs worlds of this kind and fails if any record differs from the account.
fn records_equal_the_account(kind: Kind) {
    let skip = std::env::var("ACCOUNT_SKIP").unwrap_or_default();
    let skip: HashSet<String> = skip.split(',').map(str::to_owned).collect();
    let time = variable("ACCOUNT_SECONDS").map(Duration::from_secs);
    let own: Option<u64> = variable("ACCOUNT_SEED");
    let most_shown = variable("ACCOUNT_SHOWN").unwrap_or(2);
    let first = own.unwrap_or(SEEDS.start);
    let began = clock::instant();
    let (mut sessions, mut messages, mut counts) = (0, 0, BTreeMap::<&str, usize>::new());
    for seed in first.. {
        let done = match (time, own) {
            (Some(time), _) => began.elapsed() >= time,
            (None, Some(own)) => seed > own,
            (None, None) => seed >= SEEDS.end,
        };
        if done {
            break;
        }
        let run = world::run(kind, seed);
        sessions += run.sessions.len();
        messages += run
            .records
            .iter()
            .filter(|record| record["event"] == "message")
            .count();
        for difference in run.differences(&skip) {
            let shown = counts.entry(difference.comparison).or_default();
            *shown += 1;
            if *shown <= most_shown {
                eprintln!(
                    "\nACCOUNT_SEED={seed} {kind:?}, {}: {}",
                    difference.comparison, difference.words
                );
            }
        }
    }
    eprintln!(
        "{kind:?}: {sessions} sessions, {messages} messages recorded, differences: {counts:?}"
    );
    assert!(sessions > 0 && messages > 0, "nothing happened");
    assert!(
        counts.is_empty(),
        "{kind:?}: records that differ from the account, from seed {first} on: {counts:?}"
    );
}

#[test]
fn inbound_records_equal_a_simple_models_account() {
    records_equal_the_account(Kind::Inbound);
}

#[test]
fn upstream_records_equal_a_simple_models_account() {
    records_equal_the_account(Kind::Upstream);
}

#[test]
fn observed_upstream_records_equal_a_simple_models_account() {
    records_equal_the_account(Kind::UpstreamObserved);
}

#[test]
fn intercepted_records_equal_a_simple_models_account() {
    in_a_namespace(
        "intercepted_records_equal_a_simple_models_account",
        Kind::Gate,
    );
}

#[test]
fn observed_intercepted_records_equal_a_simple_models_account() {
    in_a_namespace(
        "observed_intercepted_records_equal_a_simple_models_account",
        Kind::GateObserved,
    );
}

/// Any address of 10.128.0.0/9 is the server's, and none is this host's own. What clients send to port 25 there goes to the
/// program, what the program sends, by its mark, to the server; 10.255.0.0/16 refuses connections.
const NAMESPACE: &str = r#"
set -e
ip link set lo up
# Connections that are over are forgotten soon, so that their table does not fill up in an hour.
echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait || true
ip address add 10.9.0.1/32 dev lo
ip route add local 10.128.0.0/9 dev lo src 10.9.0.1 table local
nft -f - <<'RULES'
table ip account {
    chain client {
        type nat hook output priority -100
        ip daddr 10.128.0.0/9 tcp dport 25 meta mark != 1 redirect to :2525
    }
    chain server {
        type filter hook output priority 0
        ip daddr 10.255.0.0/16 tcp dport 25 meta mark 1 reject with tcp reset
    }
}
RULES
exec "$0" "$@"
"#;

/// Runs the test of this name once more in a network namespace of its own.
fn in_a_namespace(test: &str, kind: Kind) {
    if std::env::var_os("ACCOUNT_NAMESPACE").is_some() {
        return records_equal_the_account(kind);
    }
    if std::env::var_os("ACCOUNT_WITHOUT_NAMESPACES").is_some() {
        return eprintln!("{test}: left out, as ACCOUNT_WITHOUT_NAMESPACES asks");
    }
    let itself = std::env::current_exe().expect("this program has a name");
    let inside = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--",
            "sh",
            "-c",
            NAMESPACE,
        ])
        .arg(itself)
        .args(["--exact", test, "--nocapture"])
        .env("ACCOUNT_NAMESPACE", "1")
        .output()
        .expect("unshare can be run; it is in Debian's package util-linux");
    eprint!("{}", String::from_utf8_lossy(&inside.stderr));
    assert!(
        inside.status.success(),
        "{test} in a network namespace: {}",
        inside.status
    );
}
