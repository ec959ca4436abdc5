//! Which entry applies.

use super::*;
use std::time::Duration;

/// Midnight at the beginning of the day that is `days` days after 1970-01-01.
fn day(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400)
}

fn now() -> SystemTime {
    day(20_000)
}

fn recipient(domain: &str, server: &str) -> Ask {
    let domain = Domain::parse(domain).expect("domain");
    Ask {
        next_hop: NextHop::Recipient(Recipient::Domain(domain)),
        server: server.parse().expect("address"),
        port: 25,
    }
}

fn found(table: &Table, ask: &Ask) -> Option<u32> {
    table.find(ask, now()).map(|entry| entry.line)
}

#[test]
fn the_recipient_domain_comes_before_its_parents_the_address_the_prefix_and_the_rest() {
    let text = "* verify\n\
                203.0.113.0/24 verify\n\
                203.0.113.0/28 verify\n\
                [203.0.113.9] verify\n\
                .example verify\n\
                .clinic.example verify\n\
                mx.clinic.example verify\n";
    let ask = recipient("mx.clinic.example", "203.0.113.9");
    for (without, line) in [(0, 7), (1, 6), (2, 5), (3, 4), (4, 3), (5, 2), (6, 1)] {
        let kept: Vec<&str> = text.lines().take(7 - without).collect();
        assert_eq!(found(&table(&kept.join("\n")), &ask), Some(line));
    }
    assert_eq!(found(&table(""), &ask), None);
}

#[test]
fn a_leading_dot_is_not_about_the_domain_itself() {
    let table = table(".clinic.example verify");
    assert_eq!(
        found(&table, &recipient("clinic.example", "203.0.113.9")),
        None
    );
    assert_eq!(
        found(&table, &recipient("a.b.clinic.example", "203.0.113.9")),
        Some(1)
    );
    assert_eq!(
        found(&table, &recipient("notclinic.example", "203.0.113.9")),
        None
    );
}

#[test]
fn ipv4_in_ipv6_is_ipv4() {
    let table = table("[203.0.113.9] verify\n203.0.112.0/24 verify");
    assert_eq!(
        found(&table, &recipient("a.example", "::ffff:203.0.113.9")),
        Some(1)
    );
    assert_eq!(
        found(&table, &recipient("a.example", "::ffff:203.0.112.9")),
        Some(2)
    );
}

#[test]
fn literals_and_postmaster_are_found_by_the_destination() {
    let table = table("a.example verify\n[192.0.2.1] none\n203.0.113.0/24 verify\n* encrypt");
    for next_hop in [
        Recipient::Literal("[192.0.2.1]".into()),
        Recipient::Postmaster,
    ] {
        let ask = |server: &str| Ask {
            next_hop: NextHop::Recipient(next_hop.clone()),
            server: server.parse().expect("address"),
            port: 25,
        };
        assert_eq!(found(&table, &ask("203.0.113.9")), Some(3));
        assert_eq!(found(&table, &ask("192.0.2.1")), Some(2));
        assert_eq!(found(&table, &ask("198.51.100.1")), Some(4));
    }
}

#[test]
fn before_a_recipient_only_addresses_speak() {
    let ask = Ask {
        next_hop: NextHop::Address,
        ..recipient("a.example", "203.0.113.9")
    };
    assert_eq!(found(&table("* verify\na.example verify"), &ask), None);
    assert_eq!(
        found(&table("* verify\n203.0.113.0/24 verify"), &ask),
        Some(2)
    );
    assert_eq!(
        found(
            &table("[203.0.113.9]:587 verify\n[203.0.113.9]:25 verify"),
            &ask
        ),
        Some(2)
    );
}

#[test]
fn an_upstream_is_found_by_host_and_port_then_by_host_then_as_a_domain() {
    let text = "* verify\n[203.0.113.9] verify\n.example verify\nrelay.example verify\n\
                [relay.example] verify\n[relay.example]:587 verify\n[relay.example]:25 verify\n";
    let ask = Ask {
        next_hop: NextHop::Upstream("Relay.Example.".into()),
        server: "203.0.113.9".parse().expect("address"),
        port: 587,
    };
    for (kept, line) in [(7, 6), (5, 5), (4, 4), (3, 3), (2, 2), (1, 1)] {
        let kept: Vec<&str> = text.lines().take(kept).collect();
        assert_eq!(found(&table(&kept.join("\n")), &ask), Some(line));
    }
}

#[test]
fn an_entry_applies_through_its_last_day_and_then_the_next_one_does() {
    // 2024-10-04 is day 20,000.
    let table = table(
        "a.example none until=2024-10-04\n.example encrypt until=2024-10-05\n* verify until=2999-12-31\n",
    );
    let ask = recipient("a.example", "203.0.113.9");
    let line = |now| table.find(&ask, now).map(|entry| entry.line);
    assert_eq!(line(day(20_000)), Some(1));
    assert_eq!(line(day(20_001) - Duration::from_nanos(1)), Some(1));
    assert_eq!(line(day(20_001)), Some(2));
    assert_eq!(line(day(20_002)), Some(3));
    assert_eq!(line(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    let applying: Vec<u32> = table
        .applying(day(20_001))
        .map(|entry| entry.line)
        .collect();
    assert_eq!(applying, [2, 3]);
    assert_eq!(
        table.remarks(&TablePurpose::Outbound, day(20_001)),
        ["policy:1: a.example: the entry is past its until= date and does not apply any more"]
    );
}

#[test]
fn an_entry_past_its_date_lets_nothing_pass_in_the_clear() {
    let senders = table("@a.example none until=2024-10-04\n@.b.example may until=2024-10-05");
    let servers = table("a.example none until=2024-10-04\n[192.0.2.1] may until=2024-10-05");
    for (days, possible) in [(20_000, true), (20_001, true), (20_002, false)] {
        assert_eq!(senders.has_plaintext_senders(day(days)), possible, "{days}");
        assert_eq!(servers.has_plaintext_entries(day(days)), possible, "{days}");
    }
    let clients = table("[192.0.2.1] none");
    assert!(!clients.has_plaintext_senders(now()) && clients.has_plaintext_entries(now()));
}

#[test]
fn days_are_counted_as_the_calendar_does() {
    for (date, days) in [
        ("1970-01-01", 1),
        ("1972-02-29", 790),
        ("2000-02-29", 11_017),
        ("2000-03-01", 11_018),
        ("2024-10-04", 20_001),
        ("2100-02-28", 47_541),
        ("2100-03-01", 47_542),
    ] {
        let until = entry(&format!("a.example none until={date}"))
            .until
            .expect("until");
        assert!(until.is_over(day(days)), "{date}");
        assert!(!until.is_over(day(days) - Duration::from_secs(1)), "{date}");
        assert_eq!(until.end(), Some(day(days)), "{date}");
    }
}

#[test]
fn senders_are_found_by_domain_then_by_client_address() {
    let table = table(
        "partner.example verify\n* verify\n@partner.example secure\n@.partner.example encrypt\n\
         [198.51.100.7] fingerprint match=0123456789abcdef0123456789abcdef01234567\n\
         198.51.100.0/24 none\n",
    );
    let line = |sender: Option<&str>, client: &str| {
        let sender = sender.map(|sender| Domain::parse(sender).expect("domain"));
        table
            .find_sender(sender.as_ref(), client.parse().expect("address"), now())
            .map(|entry| entry.line)
    };
    assert_eq!(line(Some("partner.example"), "198.51.100.7"), Some(3));
    assert_eq!(line(Some("a.b.partner.example"), "198.51.100.7"), Some(4));
    assert_eq!(line(Some("other.example"), "198.51.100.7"), Some(5));
    assert_eq!(line(None, "198.51.100.7"), Some(5));
    assert_eq!(line(None, "::ffff:198.51.100.8"), Some(6));
    assert_eq!(line(Some("other.example"), "203.0.113.9"), None);
    assert_eq!(
        found(&table, &recipient("partner.example", "203.0.113.9")),
        Some(1)
    );
}

#[test]
fn only_what_proves_the_peer_by_itself_does_without_a_recipient() {
    for (text, needs) in [
        ("[203.0.113.9] verify match=mx.a.example", false),
        (
            "[203.0.113.9] secure match=.a.example servername=mx.a.example",
            false,
        ),
        (
            "[203.0.113.9] fingerprint match=0123456789abcdef0123456789abcdef01234567",
            false,
        ),
        (
            "[203.0.113.9] verify match=mx.a.example servername=hostname",
            true,
        ),
        ("[203.0.113.9] verify match=mx.a.example:nexthop", true),
        ("[203.0.113.9] verify", true),
        ("[203.0.113.9] secure", true),
        ("[203.0.113.9] encrypt", true),
        ("[203.0.113.9] may", true),
        ("[203.0.113.9] none", true),
        ("[203.0.113.9] dane-only", true),
    ] {
        assert_eq!(entry(text).needs_recipient(), needs, "{text}");
    }
}
