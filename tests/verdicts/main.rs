//! Every level against every state of the world and every peer: the whole of `policy` as one table, compared as a diff.
//!
//! `VERDICTS=write cargo test --test verdicts` rewrites `tests/verdicts/verdicts.ref`; read the diff before you commit it.

mod world;

use starttls_proxy::{
    policy::{
        Ask, Decision, Demand, Dns, Findings, Level, Missing, Moment, Mx, NamePattern, Needs,
        NextHop, Reason, ReferenceIdentity, RefuseWith, Settings, Shown, Sts, Tlsa, Verdict, judge,
        needs, require, table::Table,
    },
    smtp::Recipient,
};
use std::{
    collections::BTreeMap,
    fmt::Write,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use world::{ANCHOR, KEY, OTHER_KEY, Scenario, not_by_domain, with_dane, with_sts, without_dane};

/// The properties of the peer that any level asks about.
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

/// The findings contain only what was asked for.
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
    let switched_off = [
        (
            "--level verify --no-dane --no-mta-sts".to_owned(),
            off,
            None,
        ),
        (
            "--no-dane, entry dane".to_owned(),
            off,
            Some("dane".to_owned()),
        ),
        (
            "--no-dane, entry dane-only".to_owned(),
            off,
            Some("dane-only".to_owned()),
        ),
        (
            "--no-mta-sts, entry mta-sts".to_owned(),
            off,
            Some("mta-sts".to_owned()),
        ),
    ];
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
        let reason = match &verdict {
            Verdict::Refused(reason, _) => reason,
            Verdict::Authorised(_) => return "authorised".to_owned(),
            Verdict::Unprotected(_) => return "unprotected".to_owned(),
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
        "# Made by tests/verdicts. Per rule: states of the world, what is looked up and demanded, and what each peer gets.\n\
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
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verdicts/verdicts.ref");
    let now = whole_table();
    if std::env::var("VERDICTS").as_deref() == Ok("write") {
        std::fs::write(path, now).expect("tests/verdicts/verdicts.ref can be written");
        return;
    }
    let agreed = std::fs::read_to_string(path).expect("tests/verdicts/verdicts.ref is there");
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
        "the decisions differ from tests/verdicts/verdicts.ref (VERDICTS=write takes them over):\n{}",
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
        for what in ["addresses", "TLSA", "AAAA"] {
            let mut worse = findings.clone();
            if let Dns::Found(Mx::Hosts(hosts), _) = &mut worse.mx {
                match what {
                    "TLSA" => hosts[index].tlsa = Dns::Failed("timeout".into()),
                    "AAAA" => {
                        hosts[index].missing = Some(Missing {
                            ipv6: true,
                            reason: Reason::LookupFailed,
                            why: "timeout".into(),
                        });
                    }
                    _ => hosts[index].addresses = Dns::Failed("timeout".into()),
                }
            }
            all.push((format!("{what} of host {}", index + 1), worse));
        }
    }
    all
}

/// Who is authorised in the scenario of that name, under one rule.
fn authorised_in(name: &str, settings: &Settings, words: Option<&str>) -> Vec<&'static str> {
    let scenarios = [without_dane(), with_dane(), with_sts(), not_by_domain()];
    let scenario = scenarios.iter().flatten().find(|one| one.name == name);
    let scenario = scenario.expect("a scenario of that name");
    let table = table(&scenario.ask, words);
    let entry = table.find(&scenario.ask, SystemTime::UNIX_EPOCH);
    let findings = gathered(&scenario.findings, needs(&scenario.ask, entry, settings));
    let Ok(demand) = require(&scenario.ask, entry, &findings, settings) else {
        return Vec::new();
    };
    let authorised = |name, peer: Option<&Peer>| {
        matches!(
            judge(&demand, &shown(&demand, name, peer)),
            Verdict::Authorised(_)
        )
    };
    peers()
        .into_iter()
        .filter(|(name, peer)| authorised(name, peer.as_ref()))
        .map(|(name, _)| name)
        .collect()
}

/// RFC 7672 §3.2.2: an attacker who forges an insecure MX RRset chooses the host, and that host must not pass for the domain.
#[test]
fn below_an_insecure_mx_a_trust_anchors_certificate_must_name_the_mx_host() {
    let settings = Settings::default();
    for (scenario, may) in [
        ("dane-ta", true),
        ("dane-ta-alias", true),
        ("dane-ta-implicit", true),
        ("dane-ta-below-unsigned-mx", false),
        ("dane-ta-alias-below-unsigned-mx", false),
    ] {
        let authorised = authorised_in(scenario, &settings, None);
        assert_eq!(authorised.contains(&"domain"), may, "{scenario}");
        assert!(!authorised.is_empty(), "{scenario}");
    }
    let alias = authorised_in("dane-ta-alias-below-unsigned-mx", &settings, None);
    assert!(
        !alias.contains(&"relay"),
        "nor what the domain is an alias of"
    );
}

/// Mail passes over the family that is signed. Over the other family it passes only to a peer that matches TLSA records.
#[test]
fn where_a_family_is_missing_its_addresses_are_authorised_by_tlsa_records_alone() {
    let settings = Settings::default();
    let authorised = |scenario| authorised_in(scenario, &settings, None);
    for scenario in [
        "dane-without-ipv6",
        "dane-without-ipv6-to-ipv6",
        "dane-without-ipv6-and-sts-to-ipv6",
    ] {
        assert!(
            authorised(scenario).contains(&"mx1-self-signed"),
            "{scenario}"
        );
        assert!(
            !authorised(scenario).contains(&"mx1-other-key"),
            "{scenario}"
        );
    }
    assert!(authorised("dane-none-without-ipv6").contains(&"mx1"));
    for scenario in [
        "dane-none-without-ipv6-to-ipv6",
        "tlsa-failed-without-ipv6-to-ipv6",
    ] {
        assert_eq!(authorised(scenario), [""; 0], "{scenario}");
    }
    assert!(authorised("unsigned-without-ipv6-to-ipv6").contains(&"mx1"));
}

#[test]
fn a_line_that_demands_dane_authorises_nobody_where_dane_is_switched_off() {
    let off = Settings {
        dane: false,
        ..Settings::default()
    };
    for words in ["dane", "dane-only"] {
        for scenario in [without_dane(), with_dane(), with_sts()].iter().flatten() {
            let authorised = authorised_in(scenario.name, &off, Some(words));
            assert_eq!(authorised, [""; 0], "{words}: {}", scenario.name);
        }
    }
}
