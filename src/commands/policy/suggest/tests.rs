use super::*;
use crate::{clock, policy::Level, tls::tests::pki::Scratch};
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};
use std::fs;

const SHA256: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn session(id: &str, direction: &str) -> Value {
    json!({"id": id, "direction": direction, "hello": "ex",
        "client": {"from": "10.0.0.5:40000", "to": "203.0.113.9:25"},
        "server": {"from": "10.0.0.5:40001", "to": "203.0.113.9:25"}})
}

fn decision(domain: &str, reason: Option<&str>, detail: &str) -> Value {
    let verdict = if reason.is_some() {
        "refused"
    } else {
        "authorised"
    };
    json!({"domain": domain, "verdict": verdict, "observed": true, "level": "verify", "basis": "mx",
        "rule": null, "until": null, "why": null, "reason": reason, "detail": detail, "findings": null})
}

/// A verdict of an observing outbound proxy.
fn verdict(id: &str, decision: &Value, certificate: Option<(&str, &[&str])>) -> Value {
    let peer = certificate
        .map(|(sha256, names)| json!({"certificate": {"sha256": sha256, "names": names}}));
    let tls = certificate.map(|_| json!({"version": "TLSv1.3"}));
    json!({"v": 1, "seq": 1, "at": "2026-11-24T06:05:00.123456Z", "event": "verdict",
        "session": session(id, "outbound"), "decision": decision, "tls": tls, "peer": peer})
}

fn message(id: &str, decisions: &[&Value]) -> Value {
    json!({"v": 1, "seq": 2, "at": "2026-11-25T06:05:00.123456Z", "event": "message",
        "session": session(id, "outbound"), "decisions": decisions})
}

/// What is printed for these records.
fn suggested(records: &[Value]) -> String {
    let scratch = Scratch::new();
    let file = scratch.0.join("audit.jsonl");
    let lines: Vec<String> = records.iter().map(|one| format!("{one}\n")).collect();
    fs::write(&file, lines.concat()).expect("written");
    let flags = PolicySuggestFlags {
        until: Some("2031-03-31".into()),
        files: vec![file],
    };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    suggest(&flags, &mut out, &mut errors).expect("it is read");
    String::from_utf8(out).expect("text")
}

/// What is printed, as a table.
fn table(text: &str) -> Table {
    Table::parse("suggested", text, &mut |_| Err("no file".into())).expect(text)
}

#[track_caller]
fn only_line(records: &[Value]) -> String {
    let text = suggested(records);
    let table = table(&text);
    let [entry] = table.entries() else {
        panic!("{text}")
    };
    entry.to_string()
}

#[test]
fn a_line_names_the_certificates_names_if_nothing_else_was_wrong() {
    let wrong = decision(
        "Clinic.Example",
        Some("certificate-host-mismatch"),
        "names *.hoster.example",
    );
    let certificate = (SHA256, &["*.hoster.example", "hoster.example"][..]);
    let line = only_line(&[verdict("1", &wrong, Some(certificate))]);
    assert_eq!(
        line,
        "clinic.example secure match=.hoster.example until=2031-03-31 reason=certificate-host-mismatch"
    );
}

#[test]
fn a_line_pins_the_certificates_of_all_hosts_also_of_those_that_were_authorised() {
    let wrong = decision(
        "a.example",
        Some("certificate-expired"),
        "expired 2026-01-01",
    );
    let right = decision("a.example", None, "mx2.a.example");
    let line = only_line(&[
        verdict("1", &wrong, Some((SHA256, &["mx1.a.example"]))),
        verdict("2", &right, Some((OTHER, &["mx2.a.example"]))),
    ]);
    let pins = [SHA256, OTHER].map(|digest| {
        let pairs: Vec<&str> = (0..32).map(|at| &digest[2 * at..2 * at + 2]).collect();
        pairs.join(":")
    });
    let expected = format!("a.example fingerprint match={}|{} until=", pins[0], pins[1]);
    assert!(line.starts_with(&expected), "{line}");
}

#[test]
fn a_certificate_that_a_verdict_left_to_the_message_or_the_end_is_that_of_its_domain() {
    let wrong = decision(
        "a.example",
        Some("certificate-expired"),
        "expired 2026-01-01",
    );
    let right = decision("a.example", None, "mx2.a.example");
    let other = decision("b.example", None, "mx2.a.example");
    let peer = json!({"certificate": {"sha256": OTHER, "names": ["mx2.a.example"]}});
    let refused = verdict("1", &wrong, Some((SHA256, &["mx1.a.example"])));
    // The domain need not have got the message, because its server can refuse a recipient.
    for event in [
        message("2", &[&other]),
        json!({"v": 1, "seq": 3, "at": "2026-11-25T06:05:00.123456Z", "event": "session-closed",
            "session": session("2", "outbound"), "repeated": []}),
    ] {
        let with = |session: &str, peer: &Value| {
            let mut event = event.clone();
            event["session"]["id"] = json!(session);
            event["peer"] = peer.clone();
            event
        };
        let stranger = json!({"certificate": {"sha256": "c".repeat(64), "names": []}});
        let records = [
            refused.clone(),
            verdict("2", &right, None),
            with("3", &stranger),
            with("2", &peer),
            with("2", &stranger),
        ];
        let line = only_line(&records);
        let [_, pins, ..] = &line.split("match=").collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let pins = pins.split(' ').next().expect("the first word");
        let pins: Vec<String> = pins.split('|').map(|pin| pin.replace(':', "")).collect();
        assert_eq!(pins, [SHA256, OTHER], "{line}");
    }
}

#[test]
fn a_partner_without_tls_can_only_be_let_through_in_the_clear_and_the_comment_says_so() {
    let wrong = decision(
        "a.example",
        Some("starttls-not-supported"),
        "STARTTLS is not offered",
    );
    let records = [verdict("1", &wrong, None), message("1", &[&wrong])];
    assert!(
        only_line(&records)
            .starts_with("a.example may until=2031-03-31 reason=starttls-not-supported")
    );
    let text = suggested(&records);
    assert!(
        text.contains("# a.example: 1 session(s), 1 message(s)"),
        "{text}"
    );
    assert!(
        text.contains("pass in the clear") && text.contains("switch on STARTTLS"),
        "{text}"
    );
    assert!(text.contains("from 2026-11-24 to 2026-11-25"), "{text}");
}

#[test]
fn a_partner_with_more_certificates_than_can_be_pinned_keeps_tls_if_each_session_had_it() {
    let wrong = decision("a.example", Some("certificate-expired"), "expired");
    let of = |number: usize| {
        let digest = format!("{number:064x}");
        let names = &["mx.a.example"][..];
        verdict(&number.to_string(), &wrong, Some((&digest, names)))
    };
    let mut records: Vec<Value> = (1..=20).map(of).collect();
    let line = only_line(&records);
    assert!(line.starts_with("a.example encrypt "), "{line}");
    // One session in the clear, and TLS cannot be demanded.
    records.push(verdict("21", &wrong, None));
    let line = only_line(&records);
    assert!(line.starts_with("a.example may "), "{line}");
}

#[test]
fn where_one_host_showed_no_certificate_no_pin_would_do() {
    let (expired, clear) = (
        decision("a.example", Some("certificate-expired"), "expired"),
        decision("a.example", Some("starttls-not-supported"), "not offered"),
    );
    let line = only_line(&[
        verdict("1", &expired, Some((SHA256, &["mx.a.example"]))),
        verdict("2", &clear, None),
    ]);
    assert!(line.starts_with("a.example may "), "{line}");
}

#[test]
fn a_forgotten_smart_host_gets_one_line_for_its_address_whatever_the_domains_are() {
    let to = |domain| {
        let why = "certificate-host-mismatch: names relay.isp.example";
        verdict(
            domain,
            &decision(domain, Some("not-an-mx"), why),
            Some((SHA256, &["relay.isp.example"])),
        )
    };
    let line = only_line(&[to("a.example"), to("b.example"), to("c.example")]);
    assert!(
        line.starts_with("[203.0.113.9] verify match=relay.isp.example until="),
        "{line}"
    );
}

#[test]
fn what_no_line_can_mend_gets_none() {
    for reason in ["null-mx", "no-such-domain"] {
        let wrong = decision("a.example", Some(reason), "no");
        let text = suggested(&[verdict("1", &wrong, None)]);
        assert!(table(&text).entries().is_empty(), "{text}");
        assert!(
            text.contains("# a.example") && text.contains("tell the sender"),
            "{text}"
        );
    }
}

#[test]
fn no_line_switches_off_what_the_partner_published() {
    let of = |reason: &str, basis: &str, certificate| {
        let mut wrong = decision("a.example", Some(reason), "wrong");
        wrong["basis"] = json!(basis);
        verdict("1", &wrong, certificate)
    };
    let shown = Some((SHA256, &["mx.a.example"][..]));
    for record in [
        // Its TLSA records do not fit: a pinned certificate would be that of whoever poses as the partner.
        of("tlsa-invalid", "dane", shown),
        of("tlsa-invalid", "table", shown),
        // It publishes that it has TLS, and somebody took STARTTLS away.
        of("starttls-not-supported", "dane", None),
        of("starttls-not-supported", "mta-sts", None),
        of("certificate-host-mismatch", "mta-sts", shown),
        of("certificate-not-trusted", "mta-sts", shown),
        of("sts-policy-invalid", "mx", None),
        of("sts-webpki-invalid", "table", None),
        of("sts-policy-fetch-error", "table", None),
        of("dnssec-invalid", "mx", None),
        // What is published is not known.
        of("lookup-failed", "mx", shown),
    ] {
        let text = suggested(std::slice::from_ref(&record));
        assert!(table(&text).entries().is_empty(), "{record}\n{text}");
        assert!(text.contains("#   no line: it would switch off"), "{text}");
        let asks = text.contains("ask the partner") || text.contains("your resolver");
        assert!(asks, "{text}");
    }
}

#[test]
fn one_host_that_fits_no_tlsa_record_is_reason_enough_for_no_line() {
    let mut posing = decision("a.example", Some("tlsa-invalid"), "no match");
    posing["basis"] = json!("dane");
    let expired = decision("a.example", Some("certificate-expired"), "expired");
    let text = suggested(&[
        verdict("1", &posing, Some((SHA256, &["mx1.a.example"]))),
        verdict("2", &expired, Some((OTHER, &["mx2.a.example"]))),
    ]);
    assert!(table(&text).entries().is_empty(), "{text}");
}

#[test]
fn a_client_in_the_clear_gets_a_line_for_its_address_and_a_sender_one_for_its_domain() {
    let of = |domain: &str, reason: &str| {
        let mut record = verdict("1", &decision(domain, Some(reason), "530"), None);
        record["session"] = session("1", "inbound");
        record["event"] = json!("unprotected");
        record["decision"]["verdict"] = json!("unprotected");
        only_line(&[record])
    };
    assert!(of("198.51.100.7", "starttls-required").starts_with("[198.51.100.7] none until="));
    assert!(of("2001:db8::7", "starttls-required").starts_with("[2001:db8::7] none until="));
    let line = of("partner.example", "certificate-not-trusted");
    assert!(line.starts_with("@partner.example none until="), "{line}");
}

#[test]
fn a_line_that_decides_today_is_named() {
    let mut wrong = decision("a.example", Some("dane-required"), "no TLSA records");
    (wrong["basis"], wrong["rule"]) = (json!("table"), json!("/etc/policy:7"));
    let text = suggested(&[verdict("1", &wrong, Some((SHA256, &[])))]);
    assert!(text.contains("#   /etc/policy:7 decides today"), "{text}");
}

#[test]
fn mail_that_passes_is_not_mentioned() {
    let right = decision("a.example", None, "mx.a.example");
    let records = [
        verdict("1", &right, Some((SHA256, &["mx.a.example"]))),
        message("1", &[&right]),
    ];
    let text = suggested(&records);
    assert_eq!(
        text,
        "# Nothing would be refused: from 2026-11-24 to 2026-11-25.\n"
    );
    assert_eq!(suggested(&[]), "# The log has no record of mail.\n");
}

#[test]
fn the_last_day_is_thirty_days_away_unless_it_is_given() {
    let chosen = until(None).expect("a day");
    let read = entry(&format!("a.example may until={chosen}")).expect("a line");
    let end = read.end().expect("an end");
    let days = end.duration_since(clock::wall()).expect("ahead").as_secs() / 86_400;
    assert!((30..=31).contains(&days), "{chosen}");
    assert_eq!(until(Some("2031-01-31")).expect("a day"), "2031-01-31");
    for wrong in [
        "",
        "tomorrow",
        "2031-02-30",
        "2031-1-1",
        "2031-01-01 reason=x",
        "2031-01-01\nb none",
    ] {
        assert!(until(Some(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn a_compressed_log_is_read_and_a_damaged_one_is_named() {
    let scratch = Scratch::new();
    let file = scratch.0.join("audit.jsonl.zst");
    let wrong = decision("a.example", Some("certificate-expired"), "expired");
    let record = verdict("1", &wrong, Some((SHA256, &["mx.a.example"])));
    let packed = compress_to_vec(format!("{record}\n").as_bytes(), CompressionLevel::Fastest);
    let flags = PolicySuggestFlags {
        until: None,
        files: vec![file.clone()],
    };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    fs::write(&file, &packed).expect("written");
    assert!(suggest(&flags, &mut out, &mut errors).is_ok());
    assert_eq!(table(&String::from_utf8_lossy(&out)).entries().len(), 1);
    fs::write(&file, &packed[..packed.len() / 2]).expect("written");
    let result = suggest(&flags, &mut Vec::new(), &mut errors);
    assert!(matches!(result, Err(Exit::No)));
    let errors = String::from_utf8_lossy(&errors);
    let words = "audit.jsonl.zst:1: damaged as a compressed file: ";
    assert!(errors.contains(words), "{errors}");
}

#[test]
fn a_line_that_is_no_record_is_told_and_the_others_count() {
    let scratch = Scratch::new();
    let file = scratch.0.join("audit.jsonl");
    let wrong = decision("a.example", Some("certificate-expired"), "expired");
    let record = verdict("1", &wrong, Some((SHA256, &["mx.a.example"])));
    fs::write(&file, format!("{{torn\n{record}\n")).expect("written");
    let flags = PolicySuggestFlags {
        until: None,
        files: vec![file],
    };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    assert!(matches!(
        suggest(&flags, &mut out, &mut errors),
        Err(Exit::No)
    ));
    assert!(String::from_utf8_lossy(&errors).contains("audit.jsonl:1: this is no record"));
    assert_eq!(table(&String::from_utf8_lossy(&out)).entries().len(), 1);
}

/// Text of a log that somebody else wrote: what would be syntax of the table, or would act on a terminal.
fn hostile() -> impl Strategy<Value = String> {
    let bits = prop::sample::select(vec![
        "a",
        "example",
        ".",
        "\n",
        "\r",
        " ",
        "\t",
        "\"",
        "\\",
        "* none",
        "\nb.example none",
        "#",
        "@",
        "[",
        "]",
        "203.0.113.9",
        "/0",
        "0.0.0.0/0",
        "\u{1b}[2J",
        "\u{9b}",
        "\u{7f}",
        "\0",
        "{",
        "=",
        ",",
        "|",
        ":",
        "reason=",
        "\u{feff}",
        "\u{202e}",
        "ü",
        "until=2099-01-01",
        "certificate-expired",
        "*.",
        "xn--a",
    ]);
    prop::collection::vec(bits, 0..6).prop_map(|bits| bits.concat())
}

proptest! {
    #[test]
    fn whatever_the_log_says_what_is_printed_is_a_table_with_an_end_date_on_each_line_and_printable(
        words in prop::collection::vec(hostile(), 8), inbound: bool, mismatch: bool, with_certificate: bool
    ) {
        let reason = if mismatch { "certificate-host-mismatch" } else { &words[1] };
        let mut wrong = decision(&words[0], Some(reason), &words[2]);
        (wrong["basis"], wrong["rule"]) = (json!("table"), json!(words[3]));
        let digest = if mismatch { SHA256 } else { &words[4] };
        let names = [words[5].as_str(), "*.hoster.example"];
        let mut record = verdict(&words[6], &wrong, with_certificate.then_some((digest, &names)));
        if inbound {
            record["session"] = session(&words[6], "inbound");
        }
        record["at"] = json!(format!("2026-11-24{}", words[7]));
        let text = suggested(&[record.clone(), message(&words[6], &[&wrong])]);
        prop_assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text:?}");
        let table = Table::parse("suggested", &text, &mut |_| Err("no file".into()));
        let table = match table {
            Ok(table) => table,
            Err(errors) => return Err(TestCaseError::fail(format!("{errors:?}\n{text}"))),
        };
        prop_assert!(table.entries().len() <= 1, "{text}");
        for entry in table.entries() {
            prop_assert_eq!(entry.until.as_ref().map(ToString::to_string), Some("2031-03-31".into()));
            prop_assert!(entry.reason.is_some());
            // One party, not a pattern that lets others through.
            let key = entry.key.to_string();
            prop_assert!(!key.starts_with(['*', '.']) && !key.contains('/') && !key.contains("@."), "{key}");
            let strict = [Level::Secure, Level::Verify, Level::Fingerprint];
            prop_assert!(with_certificate || !strict.contains(&entry.level), "{entry}");
        }
    }
}
