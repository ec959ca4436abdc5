//! Every level against every state of the world and every peer: the whole of `policy` as one table, compared as a diff.
//!
//! `VERDICTS=write cargo test --test verdicts` rewrites `tests/verdicts.ref`; read the diff before you commit it.

use starttls_proxy::{
    policy::{
        Ask, Decision, Demand, Dns, Findings, Level, Moment, Mx, MxHost, NamePattern, Needs,
        NextHop, Reason, ReferenceIdentity, RefuseWith, Security, Settings, Shown, Sts, Tlsa,
        Verdict, judge,
        mta_sts::{Mode, Policy},
        needs, require,
        table::Table,
    },
    smtp::{Domain, Recipient},
};
use std::{
    collections::BTreeMap,
    fmt::Write,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

const HERE: &str = "203.0.113.1";
const MX2: &str = "203.0.113.2";
const STRANGER: &str = "198.51.100.9";
/// The key that TLSA records and fingerprints name, and one that they do not.
const KEY: u8 = 1;
const OTHER_KEY: u8 = 2;
const ANCHOR: u8 = 3;

/// What the peer has, as far as any level asks.
struct Peer {
    name: &'static str,
    certificate: &'static str,
    trusted: bool,
    expired: bool,
    key: u8,
    anchor: u8,
}

fn peers() -> Vec<(&'static str, Option<Peer>)> {
    let peer = |name, certificate| Peer {
        name,
        certificate,
        trusted: true,
        expired: false,
        key: KEY,
        anchor: ANCHOR,
    };
    let mx1 = "mx1.clinic.example";
    [
        peer("mx1", mx1),
        peer("mx2", "mx2.clinic.example"),
        peer("domain", "clinic.example"),
        peer("below", "a.b.clinic.example"),
        peer("relay", "relay.example"),
        peer("stranger", "evil.example"),
        Peer {
            key: OTHER_KEY,
            anchor: 0,
            ..peer("mx1-other-key", mx1)
        },
        Peer {
            expired: true,
            ..peer("mx1-expired", mx1)
        },
        Peer {
            trusted: false,
            ..peer("mx1-self-signed", mx1)
        },
        Peer {
            trusted: false,
            key: OTHER_KEY,
            anchor: 0,
            ..peer("mx1-forged", mx1)
        },
    ]
    .into_iter()
    .map(|peer| (peer.name, Some(peer)))
    .chain([("no-starttls", None), ("broken-tls", None)])
    .collect()
}

/// Stands for what `tls` finds out.
fn check(reference: &ReferenceIdentity, peer: &Peer) -> Result<String, (Reason, String)> {
    let fail = |reason| Err((reason, format!("names {}", peer.certificate)));
    let named = |names: &[NamePattern]| names.iter().any(|name| name.matches(peer.certificate));
    let proof = Ok(peer.certificate.to_owned());
    match reference {
        ReferenceIdentity::Anyone => proof,
        ReferenceIdentity::Fingerprints(digests) if digests.contains(&vec![peer.key; 32]) => proof,
        ReferenceIdentity::Fingerprints(_) => fail(Reason::CertificateNotTrusted),
        ReferenceIdentity::Pkix { .. } if !peer.trusted => fail(Reason::CertificateNotTrusted),
        ReferenceIdentity::Pkix { .. } if peer.expired => fail(Reason::CertificateExpired),
        ReferenceIdentity::Pkix { names, .. } if named(names) => proof,
        ReferenceIdentity::Pkix { .. } => fail(Reason::CertificateHostMismatch),
        ReferenceIdentity::Dane { records, names } => {
            let matches = |record: &Tlsa| match record.usage {
                3 => record.data[0] == peer.key,
                _ => record.data[0] == peer.anchor && named(names) && !peer.expired,
            };
            if records.iter().any(matches) {
                proof
            } else {
                fail(Reason::TlsaInvalid)
            }
        }
    }
}

fn shown(demand: &Demand, name: &str, peer: Option<&Peer>) -> Shown {
    match peer {
        Some(peer) => demand.shown("TLSv1.3", |reference| check(reference, peer)),
        None if name == "no-starttls" => Shown::NoStartTls,
        None => Shown::HandshakeFailed("alert internal_error".into()),
    }
}

fn tlsa(usage: u8, data: u8) -> Tlsa {
    Tlsa {
        usage,
        selector: 1,
        matching: 1,
        data: vec![data; 32],
    }
}

fn host(name: &str, address: &str, security: Security, tlsa: Dns<Vec<Tlsa>>) -> MxHost {
    MxHost {
        name: name.into(),
        preference: 10,
        addresses: Dns::Found(vec![address.parse().expect("address")], security),
        tlsa_base: name.into(),
        tlsa,
    }
}

/// Both MX hosts with their TLSA answers, the addresses as secure as the answers are.
fn hosts(security: Security, first: Dns<Vec<Tlsa>>, second: Dns<Vec<Tlsa>>) -> Vec<MxHost> {
    vec![
        host("mx1.clinic.example", HERE, security, first),
        host("mx2.clinic.example", MX2, security, second),
    ]
}

fn findings(mx: Dns<Mx>, sts: Sts) -> Findings {
    Findings {
        mx,
        sts,
        ..Findings::none()
    }
}

fn policy(mode: Mode, mx: &[&str]) -> Sts {
    Sts::Policy {
        policy: Policy {
            mode,
            mx: mx.iter().map(ToString::to_string).collect(),
            max_age: 604_800,
        },
        id: "1".into(),
        age: 60,
        refresh_failed: None,
    }
}

/// A state of the world: what is asked, and what look-ups would find.
struct Scenario {
    name: &'static str,
    ask: Ask,
    findings: Findings,
}

fn to(name: &'static str, server: &str, mx: Dns<Mx>, sts: Sts) -> Scenario {
    let domain = Domain::parse("clinic.example").expect("domain");
    Scenario {
        name,
        ask: ask(NextHop::Recipient(Recipient::Domain(domain)), server),
        findings: findings(mx, sts),
    }
}

fn ask(next_hop: NextHop, server: &str) -> Ask {
    Ask {
        next_hop,
        server: server.parse().expect("address"),
        port: 25,
    }
}

fn unsigned() -> Dns<Mx> {
    let hosts = hosts(Security::Insecure, Dns::NotAsked, Dns::NotAsked);
    Dns::Found(Mx::Hosts(hosts), Security::Insecure)
}

fn signed(first: Dns<Vec<Tlsa>>, second: Dns<Vec<Tlsa>>) -> Dns<Mx> {
    Dns::Found(
        Mx::Hosts(hosts(Security::Secure, first, second)),
        Security::Secure,
    )
}

/// Signed hosts below an unsigned MX RRset.
fn signed_hosts(first: Dns<Vec<Tlsa>>, second: Dns<Vec<Tlsa>>) -> Dns<Mx> {
    Dns::Found(
        Mx::Hosts(hosts(Security::Secure, first, second)),
        Security::Insecure,
    )
}

fn published(usage: u8, data: u8) -> Dns<Vec<Tlsa>> {
    Dns::Found(vec![tlsa(usage, data)], Security::Secure)
}

const NO_TLSA: Dns<Vec<Tlsa>> = Dns::Absent(Security::Secure);
const CLINIC: [&str; 1] = ["*.clinic.example"];
const OTHER: [&str; 1] = ["mx.other.example"];

fn without_dane() -> Vec<Scenario> {
    let mut half_known = hosts(Security::Insecure, Dns::NotAsked, Dns::NotAsked);
    half_known[1].addresses = Dns::Failed("timeout".into());
    let half_known = Dns::Found(Mx::Hosts(half_known), Security::Insecure);
    let implicit = host("clinic.example", HERE, Security::Insecure, Dns::NotAsked);
    let address = host("203.0.113.1", HERE, Security::Insecure, Dns::NotAsked);
    let null = |security| Dns::Found(Mx::Null, security);
    vec![
        to("unsigned", HERE, unsigned(), Sts::Absent),
        to("unsigned-mx2", MX2, unsigned(), Sts::Absent),
        to("unsigned-stranger", STRANGER, unsigned(), Sts::Absent),
        to("half-known", HERE, half_known.clone(), Sts::Absent),
        to("half-known-stranger", STRANGER, half_known, Sts::Absent),
        to(
            "implicit-mx",
            HERE,
            Dns::Found(Mx::Implicit(implicit), Security::Insecure),
            Sts::Absent,
        ),
        to(
            "mx-is-address",
            HERE,
            Dns::Found(Mx::Hosts(vec![address]), Security::Insecure),
            Sts::Absent,
        ),
        to(
            "null-mx-unsigned",
            HERE,
            null(Security::Insecure),
            Sts::Absent,
        ),
        to("null-mx-signed", HERE, null(Security::Secure), Sts::Absent),
        to(
            "no-such-domain",
            HERE,
            Dns::Absent(Security::Secure),
            Sts::Absent,
        ),
        to(
            "mx-failed",
            HERE,
            Dns::Failed("SERVFAIL".into()),
            Sts::Absent,
        ),
        to(
            "mx-bogus",
            HERE,
            Dns::Bogus("signature expired".into()),
            Sts::Absent,
        ),
    ]
}

fn with_dane() -> Vec<Scenario> {
    let ee = || published(3, KEY);
    let mut bogus_address = hosts(Security::Secure, ee(), ee());
    bogus_address[0].addresses = Dns::Bogus("signature expired".into());
    let bogus_address = Dns::Found(Mx::Hosts(bogus_address), Security::Secure);
    let failed = || Dns::Failed("SERVFAIL".into());
    vec![
        to("dane-ee", HERE, signed(ee(), ee()), Sts::Absent),
        to(
            "dane-ee-stranger",
            STRANGER,
            signed(ee(), ee()),
            Sts::Absent,
        ),
        to(
            "dane-ta",
            HERE,
            signed(published(2, ANCHOR), NO_TLSA),
            Sts::Absent,
        ),
        to(
            "dane-mismatch",
            HERE,
            signed(published(3, 9), published(3, 9)),
            Sts::Absent,
        ),
        to(
            "dane-unusable",
            HERE,
            signed(published(1, KEY), published(0, KEY)),
            Sts::Absent,
        ),
        to("dane-none", HERE, signed(NO_TLSA, NO_TLSA), Sts::Absent),
        to("dane-at-mx1-only", HERE, signed(ee(), NO_TLSA), Sts::Absent),
        to(
            "dane-at-mx1-only-to-mx2",
            MX2,
            signed(ee(), NO_TLSA),
            Sts::Absent,
        ),
        to(
            "dane-at-mx1-only-stranger",
            STRANGER,
            signed(ee(), NO_TLSA),
            Sts::Absent,
        ),
        to("tlsa-failed", HERE, signed(failed(), ee()), Sts::Absent),
        to(
            "tlsa-bogus",
            HERE,
            signed(Dns::Bogus("signature expired".into()), ee()),
            Sts::Absent,
        ),
        to(
            "tlsa-failed-at-the-other",
            HERE,
            signed(ee(), failed()),
            Sts::Absent,
        ),
        to(
            "tlsa-failed-stranger",
            STRANGER,
            signed(NO_TLSA, failed()),
            Sts::Absent,
        ),
        to("address-bogus", HERE, bogus_address.clone(), Sts::Absent),
        to("address-bogus-to-mx2", MX2, bogus_address, Sts::Absent),
        to(
            "dane-below-unsigned-mx",
            HERE,
            signed_hosts(ee(), ee()),
            Sts::Absent,
        ),
    ]
}

fn with_sts() -> Vec<Scenario> {
    let ee = || published(3, KEY);
    let enforce = |mx: &[&str]| policy(Mode::Enforce, mx);
    let old = Sts::Policy {
        policy: Policy {
            mode: Mode::Enforce,
            mx: vec!["*.clinic.example".into()],
            max_age: 60,
        },
        id: "1".into(),
        age: 60,
        refresh_failed: None,
    };
    let unavailable = |reason| Sts::Unavailable(reason, "policy host: status 500".into());
    vec![
        to("sts-enforce", HERE, unsigned(), enforce(&CLINIC)),
        to(
            "sts-enforce-stranger",
            STRANGER,
            unsigned(),
            enforce(&CLINIC),
        ),
        to(
            "sts-enforce-mx1-only-to-mx2",
            MX2,
            unsigned(),
            enforce(&["mx1.clinic.example"]),
        ),
        to("sts-enforce-other", HERE, unsigned(), enforce(&OTHER)),
        to(
            "sts-testing",
            HERE,
            unsigned(),
            policy(Mode::Testing, &CLINIC),
        ),
        to(
            "sts-testing-other",
            HERE,
            unsigned(),
            policy(Mode::Testing, &OTHER),
        ),
        to("sts-none", HERE, unsigned(), policy(Mode::None, &[])),
        to("sts-expired", HERE, unsigned(), old),
        to(
            "sts-unavailable",
            HERE,
            unsigned(),
            unavailable(Reason::StsPolicyFetchError),
        ),
        to(
            "sts-txt-failed",
            HERE,
            unsigned(),
            unavailable(Reason::LookupFailed),
        ),
        to(
            "sts-enforce-mx-failed",
            HERE,
            Dns::Failed("SERVFAIL".into()),
            enforce(&CLINIC),
        ),
        to("dane-and-sts", HERE, signed(ee(), ee()), enforce(&CLINIC)),
        to(
            "dane-mismatch-and-sts",
            HERE,
            signed(published(3, 9), published(3, 9)),
            enforce(&CLINIC),
        ),
        to(
            "dane-and-sts-other",
            HERE,
            signed(ee(), ee()),
            enforce(&OTHER),
        ),
        to(
            "dane-below-unsigned-mx-and-sts",
            HERE,
            signed_hosts(ee(), ee()),
            enforce(&CLINIC),
        ),
        to(
            "dane-below-unsigned-mx-and-sts-other",
            HERE,
            signed_hosts(ee(), ee()),
            enforce(&OTHER),
        ),
    ]
}

fn not_by_domain() -> Vec<Scenario> {
    let scenario = |name, next_hop, server, findings| Scenario {
        name,
        ask: ask(next_hop, server),
        findings,
    };
    let relay = |tlsa| Findings::of_upstream(host("relay.example", HERE, Security::Secure, tlsa));
    let upstream = || NextHop::Upstream("Relay.example".into());
    vec![
        scenario(
            "literal",
            NextHop::Recipient(Recipient::Literal(format!("[{HERE}]"))),
            HERE,
            Findings::none(),
        ),
        scenario(
            "postmaster",
            NextHop::Recipient(Recipient::Postmaster),
            HERE,
            Findings::none(),
        ),
        scenario("before-recipient", NextHop::Address, HERE, Findings::none()),
        scenario("upstream", upstream(), HERE, relay(NO_TLSA)),
        scenario("upstream-dane", upstream(), HERE, relay(published(3, KEY))),
        scenario(
            "upstream-tlsa-failed",
            upstream(),
            HERE,
            relay(Dns::Failed("SERVFAIL".into())),
        ),
        scenario(
            "upstream-address",
            NextHop::Upstream(HERE.into()),
            HERE,
            Findings::none(),
        ),
    ]
}

/// Only what was asked for is there.
fn gathered(findings: &Findings, needs: Needs) -> Findings {
    let mut got = findings.clone();
    if !needs.tlsa {
        match &mut got.mx {
            Dns::Found(Mx::Hosts(hosts), _) => {
                hosts.iter_mut().for_each(|host| host.tlsa = Dns::NotAsked)
            }
            Dns::Found(Mx::Implicit(host), _) => host.tlsa = Dns::NotAsked,
            _ => {}
        }
    }
    if !needs.mx {
        got.mx = Dns::NotAsked;
    }
    if !needs.sts {
        got.sts = Sts::NotAsked;
    }
    got
}

/// `--level`, or an entry of the table.
fn rules() -> Vec<(String, Settings, Option<String>)> {
    let settings = |level| Settings {
        level,
        ..Settings::default()
    };
    let by_level = [
        Level::Encrypt,
        Level::Verify,
        Level::Secure,
        Level::MtaSts,
        Level::Dane,
        Level::DaneOnly,
    ]
    .map(|level| (format!("--level {level}"), settings(level), None));
    let off = Settings {
        dane: false,
        mta_sts: false,
        ..Settings::default()
    };
    let switched_off = [(
        "--level verify --no-dane --no-mta-sts".to_owned(),
        off,
        None,
    )];
    let pin = "01".repeat(32);
    let by_entry = [
        "none".to_owned(),
        "may".into(),
        "encrypt".into(),
        format!("fingerprint match={pin}"),
        "verify".into(),
        "verify match=relay.example".into(),
        "secure".into(),
        "secure match=.clinic.example servername=nexthop".into(),
        "mta-sts".into(),
        "dane".into(),
        "dane-only".into(),
    ]
    .map(|words| (format!("entry {words}"), Settings::default(), Some(words)));
    by_level
        .into_iter()
        .chain(switched_off)
        .chain(by_entry)
        .collect()
}

/// The table with an entry for what is asked.
fn table(ask: &Ask, words: Option<&str>) -> Table {
    let key = match &ask.next_hop {
        NextHop::Recipient(Recipient::Domain(domain)) => domain.to_string(),
        NextHop::Upstream(host) if host.parse::<IpAddr>().is_err() => format!("[{host}]:25"),
        _ => format!("[{}]", ask.server),
    };
    let text = words
        .map(|words| format!("{key} {words}\n"))
        .unwrap_or_default();
    Table::parse("policy", &text, &mut |_| Err("no file".into())).expect("table")
}

fn names(names: &[NamePattern]) -> String {
    names
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" or ")
}

fn reference(reference: &ReferenceIdentity) -> String {
    match reference {
        ReferenceIdentity::Anyone => "anyone".into(),
        ReferenceIdentity::Fingerprints(digests) => {
            format!("one of {} fingerprints", digests.len())
        }
        ReferenceIdentity::Pkix { names: n, .. } => format!("certificate for {}", names(n)),
        ReferenceIdentity::Dane { records, names: n } => {
            let records: Vec<String> = records
                .iter()
                .map(|r| {
                    format!(
                        "{} {} {} {:02x}..",
                        r.usage, r.selector, r.matching, r.data[0]
                    )
                })
                .collect();
            format!("TLSA {} with {}", records.join(", "), names(n))
        }
    }
}

/// One scenario under one rule, as text; and each reason's first reply in full.
fn block(
    scenario: &Scenario,
    settings: &Settings,
    words: Option<&str>,
    replies: &mut BTreeMap<&'static str, String>,
) -> String {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let ask = &scenario.ask;
    let table = table(ask, words);
    let entry = table.find(ask, now);
    assert_eq!(entry.is_some(), words.is_some(), "{}", scenario.name);
    let needs = needs(ask, entry, settings);
    let findings = Arc::new(gathered(&scenario.findings, needs));
    let demand = require(ask, entry, &findings, settings);

    let mut text = String::new();
    let asked = [(needs.mx, "mx"), (needs.tlsa, "tlsa"), (needs.sts, "sts")];
    let asked: Vec<&str> = asked
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, word)| *word)
        .collect();
    writeln!(
        text,
        "    looks up {}",
        if asked.is_empty() {
            "nothing".into()
        } else {
            asked.join(" ")
        }
    )
    .expect("text");

    let mut reply = |verdict: Verdict, demand: Option<&Demand>| -> String {
        let decide = |moment, refuse_with| {
            let settings = Settings {
                refuse_with,
                ..*settings
            };
            Decision::new(
                ask.clone(),
                Some(findings.clone()),
                demand.cloned(),
                verdict.clone(),
                moment,
                &settings,
                now,
            )
        };
        let decision = decide(Moment::FirstRecipient, RefuseWith::Defer);
        let Verdict::Refused(reason, _) = &verdict else {
            return verdict.word().to_owned();
        };
        let code = |moment, with| {
            decide(moment, with)
                .refusal
                .map_or(0, |refusal| refusal.code)
        };
        let refusal = decision.refusal.expect("a refusal");
        replies
            .entry(reason.word())
            .or_insert_with(|| refusal.to_string());
        format!(
            "refused {},{},{},{} {}.{} {}",
            code(Moment::Hello, RefuseWith::Defer),
            refusal.code,
            code(Moment::LaterRecipient, RefuseWith::Defer),
            code(Moment::FirstRecipient, RefuseWith::Reject),
            refusal.enhanced.0,
            refusal.enhanced.1,
            reason.word()
        )
    };
    match &demand {
        Err((reason, why)) => {
            let verdict = Verdict::Refused(*reason, why.clone());
            writeln!(text, "    {}: {why}", reply(verdict, None)).expect("text");
        }
        Ok(demand) => {
            let references: Vec<String> = demand.references.iter().map(reference).collect();
            writeln!(
                text,
                "    demands {} from {}: {}; SNI {}{}{}",
                demand.level,
                demand.basis,
                if references.is_empty() {
                    "nothing".into()
                } else {
                    references.join(", or ")
                },
                demand.sni.as_deref().unwrap_or("none"),
                if demand.not_an_mx { "; not an MX" } else { "" },
                demand
                    .testing
                    .as_ref()
                    .map(|r| format!("; testing {}", reference(r)))
                    .unwrap_or_default(),
            )
            .expect("text");
            let mut outcomes: Vec<(String, Vec<&str>)> = Vec::new();
            for (name, peer) in peers() {
                let outcome = reply(
                    judge(demand, &shown(demand, name, peer.as_ref())),
                    Some(demand),
                );
                match outcomes.iter_mut().find(|(known, _)| *known == outcome) {
                    Some((_, names)) => names.push(name),
                    None => outcomes.push((outcome, vec![name])),
                }
            }
            for (outcome, names) in outcomes {
                writeln!(text, "        {outcome}: {}", names.join(" ")).expect("text");
            }
        }
    }
    text
}

fn whole_table() -> String {
    let mut text = String::from(
        "# Made by tests/verdicts.rs. Per rule: states of the world, what is looked up and demanded, and what each peer gets.\n\
         # refused A,B,C,D: the reply's code at EHLO, at the first recipient, at a later one, at the first with --refuse-with reject.\n",
    );
    let mut replies = BTreeMap::new();
    for (rule, settings, words) in rules() {
        writeln!(text, "\n{rule}").expect("text");
        let mut blocks: Vec<(String, Vec<&str>)> = Vec::new();
        let scenarios = [without_dane(), with_dane(), with_sts(), not_by_domain()];
        for scenario in scenarios.iter().flatten() {
            let block = block(scenario, &settings, words.as_deref(), &mut replies);
            match blocks.iter_mut().find(|(known, _)| *known == block) {
                Some((_, names)) => names.push(scenario.name),
                None => blocks.push((block, vec![scenario.name])),
            }
        }
        for (block, names) in blocks {
            write!(text, "  {}\n{block}", names.join(", ")).expect("text");
        }
    }
    text += "\nreplies\n";
    for reply in replies.values() {
        writeln!(text, "  {reply}").expect("text");
    }
    text
}

#[test]
fn the_whole_decision_table_is_as_agreed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verdicts.ref");
    let now = whole_table();
    if std::env::var("VERDICTS").as_deref() == Ok("write") {
        std::fs::write(path, now).expect("tests/verdicts.ref can be written");
        return;
    }
    let agreed = std::fs::read_to_string(path).expect("tests/verdicts.ref is there");
    let differing: Vec<String> = now
        .lines()
        .zip(agreed.lines())
        .enumerate()
        .filter(|(_, (now, agreed))| now != agreed)
        .map(|(line, (now, agreed))| format!("{}:\n- {agreed}\n+ {now}", line + 1))
        .take(10)
        .collect();
    assert!(
        now == agreed,
        "the decisions differ from tests/verdicts.ref (VERDICTS=write takes them over):\n{}",
        differing.join("\n")
    );
}

#[test]
fn no_look_up_that_failed_lets_a_mail_through_that_would_have_been_refused() {
    // Each scenario once as it is, once with one answer failed: no peer may gain by that.
    let now = SystemTime::UNIX_EPOCH;
    for (rule, settings, words) in rules() {
        for scenario in [with_dane(), with_sts(), without_dane()].iter().flatten() {
            let table = table(&scenario.ask, words.as_deref());
            let entry = table.find(&scenario.ask, now);
            let authorised = |findings: &Findings| -> Vec<&'static str> {
                let findings = gathered(findings, needs(&scenario.ask, entry, &settings));
                let Ok(demand) = require(&scenario.ask, entry, &findings, &settings) else {
                    return Vec::new();
                };
                peers()
                    .into_iter()
                    .filter(|(name, peer)| {
                        matches!(
                            judge(&demand, &shown(&demand, name, peer.as_ref())),
                            Verdict::Authorised(_)
                        )
                    })
                    .map(|(name, _)| name)
                    .collect()
            };
            let before = authorised(&scenario.findings);
            for (what, worse) in with_one_failed(&scenario.findings) {
                for peer in authorised(&worse) {
                    assert!(
                        before.contains(&peer),
                        "{rule}, {}, {what} failed: {peer}",
                        scenario.name
                    );
                }
            }
        }
    }
}

/// The findings with one answer replaced by a failure.
fn with_one_failed(findings: &Findings) -> Vec<(String, Findings)> {
    let mut all = vec![
        (
            "MX".to_owned(),
            Findings {
                mx: Dns::Failed("timeout".into()),
                ..findings.clone()
            },
        ),
        (
            "MTA-STS".to_owned(),
            Findings {
                sts: Sts::Unavailable(Reason::LookupFailed, "timeout".into()),
                ..findings.clone()
            },
        ),
    ];
    let count = match &findings.mx {
        Dns::Found(Mx::Hosts(hosts), _) => hosts.len(),
        _ => 0,
    };
    for index in 0..count {
        for what in ["addresses", "TLSA"] {
            let mut worse = findings.clone();
            if let Dns::Found(Mx::Hosts(hosts), _) = &mut worse.mx {
                match what {
                    "TLSA" => hosts[index].tlsa = Dns::Failed("timeout".into()),
                    _ => hosts[index].addresses = Dns::Failed("timeout".into()),
                }
            }
            all.push((format!("{what} of host {}", index + 1), worse));
        }
    }
    all
}
