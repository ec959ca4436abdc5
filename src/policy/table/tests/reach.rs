//! Lines that have no meaning for a direction, and lines that can never apply.

use super::*;
use crate::policy::Settings;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(20_000 * 86_400)
}

fn upstream(host: &str, port: u16) -> TablePurpose {
    TablePurpose::Upstream(host.into(), port)
}

/// The numbers of the lines that get a warning.
fn remarked(text: &str, way: &TablePurpose) -> Vec<u32> {
    let remarks = table(text).remarks(way, now());
    let line = |remark: &String| remark.split(':').nth(1)?.parse().ok();
    remarks.iter().filter_map(line).collect()
}

fn unfit(text: &str, way: &TablePurpose) -> Vec<String> {
    let errors = table(text).unfit(way, &Settings::default());
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_key_of_the_other_direction_is_an_error_that_says_what_to_write() {
    for (text, way, words) in [
        (
            "@a.example secure",
            TablePurpose::Outbound,
            "write a.example for mail to",
        ),
        (
            "@.a.example secure",
            TablePurpose::Intercepted,
            "write .a.example for",
        ),
        (
            "@a.example encrypt",
            upstream("relay.example", 25),
            "table of inbound",
        ),
        (
            "a.example encrypt",
            TablePurpose::Inbound,
            "write @a.example for mail",
        ),
        (
            ".a.example none",
            TablePurpose::Inbound,
            "write @.a.example for mail",
        ),
        (
            "[a.example]:587 may",
            TablePurpose::Inbound,
            "write @a.example for mail",
        ),
        (
            "[192.0.2.1]:25 none",
            TablePurpose::Inbound,
            "write [192.0.2.1]",
        ),
        ("* encrypt", TablePurpose::Inbound, "0.0.0.0/0 and ::/0"),
        (
            "[192.0.2.1] dane",
            TablePurpose::Inbound,
            "choose fingerprint",
        ),
        (
            "192.0.2.0/24 mta-sts",
            TablePurpose::Inbound,
            "choose fingerprint",
        ),
        ("192.0.2.0/24 verify", TablePurpose::Inbound, "needs match="),
        (
            "[192.0.2.1] secure",
            TablePurpose::Inbound,
            "needs match= with a name",
        ),
        (
            "[192.0.2.1] secure match=nexthop",
            TablePurpose::Inbound,
            "needs match= with a name",
        ),
    ] {
        let errors = unfit(&format!("\n{text}"), &way);
        assert_eq!(errors.len(), 1, "{text} {way:?}: {errors:?}");
        assert!(
            errors[0].starts_with("policy:2:1: ") && errors[0].contains(words),
            "{text} {way:?}: {errors:?}"
        );
    }
    let inbound = "@a.example secure\n@.b.example none\n[192.0.2.1] encrypt\n10.0.0.0/8 verify match=a.example";
    let outbound = "a.example secure\n.b.example none\n[192.0.2.1]:25 encrypt\n[c.example] verify\n10.0.0.0/8 dane\n* verify";
    assert!(unfit(inbound, &TablePurpose::Inbound).is_empty());
    assert!(unfit(outbound, &TablePurpose::Outbound).is_empty());
    assert_eq!(
        TablePurpose::of(&table(inbound)),
        Some(TablePurpose::Inbound)
    );
    assert_eq!(
        TablePurpose::of(&table(outbound)),
        Some(TablePurpose::Outbound)
    );
    assert_eq!(TablePurpose::of(&table("10.0.0.0/8 none")), None);
}

#[test]
fn a_level_that_the_command_line_rules_out_is_an_error() {
    let no_dane = Settings {
        dane: false,
        ..Settings::default()
    };
    for (text, way) in [
        ("a.example dane", TablePurpose::Intercepted),
        ("* dane-only", TablePurpose::Outbound),
        ("[relay.example] dane", upstream("relay.example", 25)),
    ] {
        assert_eq!(table(text).unfit(&way, &Settings::default()), [], "{text}");
        let errors = table(text).unfit(&way, &no_dane);
        assert!(
            errors.len() == 1 && errors[0].message.contains("leave --no-dane away"),
            "{errors:?}"
        );
    }
    let errors = unfit("[relay.example] mta-sts", &upstream("relay.example", 25));
    assert!(
        errors.len() == 1 && errors[0].contains("choose verify"),
        "{errors:?}"
    );
}

#[test]
fn a_line_that_nothing_reaches_is_remarked() {
    use TablePurpose::{Inbound, Intercepted, Outbound};
    let halves = "10.0.0.0/24 none\n10.0.0.0/25 encrypt\n10.0.0.128/25 encrypt";
    for way in [Outbound, Inbound, Intercepted] {
        assert_eq!(remarked(halves, &way), [1], "{way:?}");
    }
    let pair = "[192.0.2.0] none\n[192.0.2.1] may\n192.0.2.0/31 encrypt";
    assert_eq!(remarked(pair, &Inbound), [3]);
    assert!(remarked("[192.0.2.0] none\n192.0.2.0/31 none", &Inbound).is_empty());
    // A narrower line ends earlier, and then the wider one is needed.
    let ends = "10.0.0.0/24 none\n10.0.0.0/25 encrypt until=2030-01-01\n10.0.0.128/25 encrypt";
    assert!(remarked(ends, &Inbound).is_empty());
    let both = ends.replace("/24 none", "/24 none until=2029-12-31");
    assert_eq!(remarked(&both, &Inbound), [1]);

    let ports =
        "[192.0.2.1] none\n[192.0.2.1]:25 encrypt\n[192.0.2.2]:587 encrypt\n[relay.example] may";
    assert_eq!(remarked(ports, &Intercepted), [1, 3, 4]);
    assert!(remarked(ports, &Outbound).is_empty());
    assert_eq!(
        remarked("* verify\n0.0.0.0/0 encrypt\n::/0 encrypt", &Intercepted),
        [1]
    );
    assert!(remarked("* verify\n0.0.0.0/0 encrypt", &Intercepted).is_empty());
}

#[test]
fn with_an_upstream_only_what_speaks_for_it_is_reached() {
    let text = "* verify\n[192.0.2.9] verify\n.example verify\nrelay.example verify\n[relay.example] verify\n\
                [relay.example]:25 verify\n[relay.example]:587 verify\nother.example none\n[other.example] none";
    assert_eq!(
        remarked(text, &upstream("relay.example", 25)),
        [1, 2, 3, 4, 5, 7, 8, 9]
    );
    assert_eq!(
        remarked(text, &upstream("mx.relay.example", 25)),
        [1, 2, 4, 5, 6, 7, 8, 9]
    );
    let literal = "* verify\n[192.0.2.9] verify\n192.0.2.0/24 verify\n198.51.100.0/24 none\nrelay.example none";
    assert_eq!(remarked(literal, &upstream("192.0.2.9", 25)), [1, 3, 4, 5]);
    assert_eq!(remarked(literal, &upstream("192.0.2.8", 25)), [1, 2, 4, 5]);
    let addresses = "* verify\n[192.0.2.9] verify\n192.0.2.0/24 verify";
    assert!(remarked(addresses, &upstream("relay.example", 25)).is_empty());
}

proptest! {
    /// Compares the warnings with `find`: an entry with a warning that nothing reaches it is never found.
    #[test]
    fn what_is_remarked_as_never_reached_is_never_found(
        parts in proptest::collection::btree_set((0_u8..4, 29_u8..=32), 1..12),
        asked in 0_u8..8,
    ) {
        let mut keys = std::collections::BTreeSet::new();
        for (third, length) in parts {
            let network = (third * 2) & (0xff_u16 << (32 - length)) as u8;
            keys.insert(format!("192.0.2.{network}/{length} encrypt"));
        }
        let text: Vec<String> = keys.into_iter().collect();
        let table = table(&text.join("\n"));
        let client = std::net::Ipv4Addr::new(192, 0, 2, asked).into();
        let found = table.find_sender(None, client, now()).map(|entry| entry.line);
        let remarked = remarked(&text.join("\n"), &TablePurpose::Inbound);
        prop_assert!(!remarked.iter().any(|line| Some(*line) == found));
        // An entry without a warning is found for some address.
        for line in (1..).take(text.len()).filter(|line| !remarked.contains(line)) {
            let reached = (0..=255).any(|last| {
                let client = std::net::Ipv4Addr::new(192, 0, 2, last).into();
                table.find_sender(None, client, now()).is_some_and(|entry| entry.line == line)
            });
            prop_assert!(reached, "line {line} of {text:?}");
        }
    }
}
