use super::*;

/// Rules as `nft -j` of nftables 1.0.6 prints them.
fn ruleset(objects: &[&str]) -> Ruleset {
    Ruleset::parse(&format!("{{\"nftables\": [{}]}}", objects.join(","))).expect("JSON")
}

const INPUT: &str = r#"{"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}"#;

fn rule(statements: &str) -> String {
    format!(
        r#"{{"rule": {{"family": "inet", "table": "filter", "chain": "input", "expr": [{statements}]}}}}"#
    )
}

/// Whether an intercepted first packet passes: surely, surely not, or perhaps.
fn passes(packet: &Packet, rules: &[&str]) -> Option<bool> {
    let rules: Vec<String> = rules.iter().map(|one| rule(one)).collect();
    let mut objects = vec![
        INPUT,
        r#"{"set": {"family": "inet", "table": "filter", "name": "ports", "elem": [22, {"range": [20, 30]}]}}"#,
        r#"{"chain": {"family": "inet", "table": "filter", "name": "more"}}"#,
        r#"{"rule": {"family": "inet", "table": "filter", "chain": "more", "expr": [{"accept": null}]}}"#,
    ];
    objects.extend(rules.iter().map(String::as_str));
    let ruleset = ruleset(&objects);
    let [lenient, strict] = [true, false].map(|lenient| {
        let journey = ruleset.journey("input", packet.clone(), lenient);
        journey.dropped_in.is_none()
    });
    (lenient == strict).then_some(lenient)
}

fn intercepted() -> Packet {
    Packet {
        mark: 0x19,
        has_socket: true,
        ..Packet::first("gwi", false)
    }
}

const ACCEPT: &str = r#"{"accept": null}"#;
const STATE: &str = r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}"#;
const LOOPBACK: &str =
    r#"{"match": {"op": "==", "left": {"meta": {"key": "iif"}}, "right": "lo"}}, {"accept": null}"#;

fn matching(left: &str, right: &str) -> String {
    format!(r#"{{"match": {{"op": "==", "left": {left}, "right": {right}}}}}, {ACCEPT}"#)
}

#[test]
fn a_default_drop_is_seen_and_what_lets_the_packet_pass_too() {
    let packet = intercepted();
    assert_eq!(passes(&packet, &[]), Some(false));
    assert_eq!(passes(&packet, &[STATE, LOOPBACK]), Some(false));
    let port = r#"{"payload": {"protocol": "tcp", "field": "dport"}}"#;
    let mark = r#"{"meta": {"key": "mark"}}"#;
    for (left, right, expected) in [
        (port, "25", true),
        (port, "2525", false),
        (port, r#""@ports""#, true),
        (port, r#"{"set": [22, {"range": [24, 26]}]}"#, true),
        (mark, "25", true),
        (mark, "26", false),
        (r#"{"&": [{"meta": {"key": "mark"}}, 255]}"#, "25", true),
        (
            r#"{"meta": {"key": "iifname"}}"#,
            r#"{"set": ["eth*", "gwi"]}"#,
            true,
        ),
        (r#"{"meta": {"key": "iifname"}}"#, r#""gw*""#, true),
        (r#"{"meta": {"key": "iifname"}}"#, r#""gwo""#, false),
        (r#"{"meta": {"key": "l4proto"}}"#, "6", true),
        (
            r#"{"payload": {"protocol": "icmp", "field": "type"}}"#,
            r#""echo-request""#,
            false,
        ),
        (
            r#"{"payload": {"protocol": "ip6", "field": "nexthdr"}}"#,
            r#""tcp""#,
            false,
        ),
        (
            r#"{"payload": {"protocol": "ip", "field": "protocol"}}"#,
            r#""tcp""#,
            true,
        ),
        (r#"{"socket": {"key": "transparent"}}"#, "1", true),
        (r#"{"ct": {"key": "status"}}"#, r#""dnat""#, false),
    ] {
        assert_eq!(
            passes(&packet, &[&matching(left, right)]),
            Some(expected),
            "{left} {right}"
        );
    }
}

#[test]
fn what_cannot_be_judged_is_neither_yes_nor_no() {
    let packet = intercepted();
    let source = r#"{"payload": {"protocol": "ip", "field": "saddr"}}"#;
    let from = matching(source, r#"{"prefix": {"addr": "10.0.0.0", "len": 8}}"#);
    assert_eq!(passes(&packet, &[&from]), None);
    assert_eq!(
        passes(&packet, &[r#"{"xt": null}, {"accept": null}"#]),
        None
    );
    // A later rule decides for certain.
    assert_eq!(passes(&packet, &[&from, ACCEPT]), Some(true));
}

#[test]
fn jumps_maps_and_limits_are_followed() {
    let packet = intercepted();
    assert_eq!(
        passes(&packet, &[r#"{"jump": {"target": "more"}}"#]),
        Some(true)
    );
    let map = r#"{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", {"accept": null}], ["new", {"jump": {"target": "more"}}]]}}}"#;
    assert_eq!(passes(&packet, &[map]), Some(true));
    let map = r#"{"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": {"set": [[22, {"accept": null}], [25, {"drop": null}]]}}}"#;
    assert_eq!(passes(&packet, &[map, ACCEPT]), Some(false));
    let limited = r#"{"limit": {"rate": 5, "burst": 5, "per": "second"}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}"#;
    assert_eq!(passes(&packet, &[limited]), Some(true));
    let reply = Packet {
        is_established: true,
        ..packet
    };
    assert_eq!(passes(&reply, &[STATE]), Some(true));
}

#[test]
fn what_one_chain_accepts_another_may_drop() {
    let forward = |name: &str, place: i64, policy: &str| {
        format!(
            r#"{{"chain": {{"family": "inet", "table": "t", "name": "{name}", "type": "filter", "hook": "forward", "prio": {place}, "policy": "{policy}"}}}}"#
        )
    };
    let (first, second) = (forward("a", 0, "accept"), forward("b", 1, "drop"));
    let ruleset = ruleset(&[&second, &first]);
    let journey = ruleset.journey("forward", Packet::first("gwi", true), true);
    assert_eq!(journey.dropped_in.as_deref(), Some("inet t b"));
}

#[test]
fn interception_is_followed_with_its_mark_and_its_port() {
    let chain = r#"{"chain": {"family": "inet", "table": "p", "name": "divert", "type": "filter", "hook": "prerouting", "prio": -150, "policy": "accept"}}"#;
    let of = |statements: &str| {
        format!(
            r#"{{"rule": {{"family": "inet", "table": "p", "chain": "divert", "expr": [{statements}]}}}}"#
        )
    };
    let diverted = of(
        r#"{"match": {"op": "==", "left": {"socket": {"key": "transparent"}}, "right": 1}}, {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 7}}, {"accept": null}"#,
    );
    let tproxy = of(
        r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "gwi"}}, {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 25}}, {"tproxy": {"port": 2525}}, {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 25}}, {"accept": null}"#,
    );
    let ruleset = ruleset(&[chain, &diverted, &tproxy]);
    let journey = ruleset.journey("prerouting", Packet::first("gwi", false), false);
    assert_eq!((journey.handed_to, journey.packet.mark), (Some(2525), 0x19));
    let other = ruleset.journey("prerouting", Packet::first("gwo", false), true);
    assert_eq!((other.handed_to, other.packet.mark), (None, 0));
}
