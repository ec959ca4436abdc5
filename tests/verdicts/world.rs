//! States of the world: the question, and the findings of its look-ups.

use starttls_proxy::{
    policy::{
        Ask, Dns, Findings, Missing, Mx, MxHost, NextHop, Reason, Security, Sts, Tlsa,
        mta_sts::{Mode, Policy},
    },
    smtp::{Domain, Recipient},
};

const HERE: &str = "203.0.113.1";
const MX2: &str = "203.0.113.2";
/// IPv6 addresses of mx1, where the look-up for them fails.
const HERE_V6: &str = "2001:db8::1";
const STRANGER: &str = "198.51.100.9";
/// The key that TLSA records and fingerprints name, and one that they do not.
pub const KEY: u8 = 1;
pub const OTHER_KEY: u8 = 2;
pub const ANCHOR: u8 = 3;

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
        missing: None,
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

/// A state of the world: the question, and the findings of its look-ups.
pub struct Scenario {
    pub name: &'static str,
    pub ask: Ask,
    pub findings: Findings,
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

/// The IPv6 addresses of the first host could not be looked up.
fn without_ipv6(mx: Dns<Mx>, reason: Reason) -> Dns<Mx> {
    let Dns::Found(Mx::Hosts(mut hosts), security) = mx else {
        panic!("hosts")
    };
    hosts[0].missing = Some(Missing {
        ipv6: true,
        reason,
        why: "AAAA of mx1.clinic.example: no".into(),
    });
    Dns::Found(Mx::Hosts(hosts), security)
}

fn published(usage: u8, data: u8) -> Dns<Vec<Tlsa>> {
    Dns::Found(vec![tlsa(usage, data)], Security::Secure)
}

const NO_TLSA: Dns<Vec<Tlsa>> = Dns::Absent(Security::Secure);
const CLINIC: [&str; 1] = ["*.clinic.example"];
const OTHER: [&str; 1] = ["mx.other.example"];

/// Domains without DANE and MTA-STS.
pub fn without_dane() -> Vec<Scenario> {
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
            "no-such-domain-unsigned",
            HERE,
            Dns::Absent(Security::Insecure),
            Sts::Absent,
        ),
        to(
            "unsigned-without-ipv6",
            HERE,
            without_ipv6(unsigned(), Reason::LookupFailed),
            Sts::Absent,
        ),
        to(
            "unsigned-without-ipv6-to-ipv6",
            HERE_V6,
            without_ipv6(unsigned(), Reason::LookupFailed),
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

/// Domains that publish TLSA records, or whose look-ups fail.
pub fn with_dane() -> Vec<Scenario> {
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
        to(
            "dane-ta-below-unsigned-mx",
            HERE,
            signed_hosts(published(2, ANCHOR), NO_TLSA),
            Sts::Absent,
        ),
        alias(to(
            "dane-ta-alias",
            HERE,
            signed(published(2, ANCHOR), NO_TLSA),
            Sts::Absent,
        )),
        alias(to(
            "dane-ta-alias-below-unsigned-mx",
            HERE,
            signed_hosts(published(2, ANCHOR), NO_TLSA),
            Sts::Absent,
        )),
        to(
            "dane-ta-implicit",
            HERE,
            Dns::Found(
                Mx::Implicit(MxHost {
                    tlsa_base: "relay.example".into(),
                    ..host(
                        "clinic.example",
                        HERE,
                        Security::Secure,
                        published(2, ANCHOR),
                    )
                }),
                Security::Secure,
            ),
            Sts::Absent,
        ),
        to(
            "dane-without-ipv6",
            HERE,
            without_ipv6(signed(ee(), NO_TLSA), Reason::DnssecInvalid),
            Sts::Absent,
        ),
        to(
            "dane-without-ipv6-to-ipv6",
            HERE_V6,
            without_ipv6(signed(ee(), NO_TLSA), Reason::DnssecInvalid),
            Sts::Absent,
        ),
        to(
            "dane-none-without-ipv6",
            HERE,
            without_ipv6(signed(NO_TLSA, ee()), Reason::LookupFailed),
            Sts::Absent,
        ),
        to(
            "dane-none-without-ipv6-to-ipv6",
            HERE_V6,
            without_ipv6(signed(NO_TLSA, ee()), Reason::LookupFailed),
            Sts::Absent,
        ),
        to(
            "tlsa-failed-without-ipv6-to-ipv6",
            HERE_V6,
            without_ipv6(signed(failed(), ee()), Reason::DnssecInvalid),
            Sts::Absent,
        ),
    ]
}

/// The domain is an alias, whose target's name a host may show where it may show the domain's.
fn alias(scenario: Scenario) -> Scenario {
    let mut findings = scenario.findings;
    findings.expanded = Some("relay.example".into());
    Scenario {
        findings,
        ..scenario
    }
}

/// Domains with MTA-STS policies.
pub fn with_sts() -> Vec<Scenario> {
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
            "sts-fleeting",
            HERE,
            unsigned(),
            Sts::Policy {
                policy: Policy {
                    mode: Mode::Enforce,
                    mx: vec!["*.clinic.example".into()],
                    max_age: 0,
                },
                id: "1".into(),
                age: 3,
                refresh_failed: None,
            },
        ),
        to(
            "sts-cache-unreadable",
            HERE,
            unsigned(),
            unavailable(Reason::LocalFault),
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
            "dane-and-sts-testing",
            HERE,
            signed(ee(), ee()),
            policy(Mode::Testing, &CLINIC),
        ),
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
        to(
            "dane-without-ipv6-and-sts-to-ipv6",
            HERE_V6,
            without_ipv6(signed(ee(), NO_TLSA), Reason::LookupFailed),
            enforce(&CLINIC),
        ),
    ]
}

/// Literals, `<postmaster>`, `--upstream`, and what comes before a recipient.
pub fn not_by_domain() -> Vec<Scenario> {
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
            "upstream-dane-ta",
            upstream(),
            HERE,
            relay(published(2, ANCHOR)),
        ),
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
