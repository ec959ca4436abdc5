//! Which tables are accepted, and which error each wrong table gives at which place.

mod find;
mod reach;

use super::*;
use crate::policy::NamePattern;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Table, Vec<TableError>> {
    Table::parse("policy", text, &mut |path| match path {
        "/etc/ca.pem" => Ok(vec![vec![0x30, 0x01]]),
        "/etc/empty.pem" => Ok(Vec::new()),
        _ => Err("no such file".into()),
    })
}

fn table(text: &str) -> Table {
    parse(text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The only entry of a text.
fn entry(text: &str) -> Entry {
    let table = table(text);
    assert_eq!(table.entries().len(), 1, "{text}");
    table.entries()[0].clone()
}

/// All errors of a text, as printed.
fn errors(text: &str) -> Vec<String> {
    parse(text)
        .expect_err(text)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Asserts that the text has exactly one error, which begins with `place` and contains `words`.
fn error(text: &str, place: &str, words: &str) {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].starts_with(&format!("policy:{place}: ")),
        "{text:?}: {errors:?}"
    );
    assert!(errors[0].contains(words), "{text:?}: {errors:?}");
}

#[test]
fn the_table_of_the_manual_is_read() {
    let table = table(
        "# next hop              level         attributes\n\
         partner.example         secure        match=.partner.example\n\
         clinic.example          fingerprint   match=3f:9a:01:23:45:67:89:ab:cd:ef:01:23:45:67:89:ab:cd:ef:01:23\n\
         .lab.example            encrypt       until=2027-03-31 reason=\"self-signed, ticket 4711\"\n\
         [203.0.113.9]           verify        match=mx.clinic.example\n\
         203.0.113.0/24          none          until=2026-12-31 reason=\"scanner vendor\"\n\
         *                       dane-only\n",
    );
    let keys: Vec<String> = table
        .entries()
        .iter()
        .map(|entry| entry.key.to_string())
        .collect();
    assert_eq!(
        keys,
        [
            "partner.example",
            "clinic.example",
            ".lab.example",
            "[203.0.113.9]",
            "203.0.113.0/24",
            "*"
        ]
    );
    assert_eq!(
        table.entries()[2].reason.as_deref(),
        Some("self-signed, ticket 4711")
    );
    assert!(table.has_plaintext_entries(SystemTime::UNIX_EPOCH));
}

#[test]
fn lines_are_joined_and_comments_passed_over_as_postfix_does() {
    let table = table(
        "\n  \t\n# comment\n   # indented comment\n\
         a.example\n\tsecure\n# between\n\n   # also between\n  match=b.example,\n match=c.example\n\
         d.example verify\r\n",
    );
    assert_eq!(
        table.entries()[0].to_string(),
        "a.example secure match=b.example:c.example"
    );
    assert_eq!((table.entries()[0].line, table.entries()[1].line), (5, 12));
}

#[test]
fn a_byte_order_mark_is_passed_over_wherever_a_line_begins() {
    let table =
        table("\u{feff}a.example verify\n\u{feff}# comment\n\u{feff}b.example secure\n\u{feff}");
    let keys: Vec<String> = table.entries().iter().map(|e| e.key.to_string()).collect();
    assert_eq!(keys, ["a.example", "b.example"]);
    assert_eq!(
        errors("a.example verify\nb\u{feff}.example verify").len(),
        1
    );
}

#[test]
fn commas_separate_attributes_as_in_postfix() {
    let entry = entry("a.example verify,match=b.example, protocols=TLSv1.3 ,, reason=x");
    assert!(entry.tls13_only);
    assert_eq!(entry.reason.as_deref(), Some("x"));
}

#[test]
fn words_do_not_depend_on_case() {
    let entry = entry(
        "A.Example SECURE MATCH=Mx.B.example:NextHop:Dot-Nexthop:HOSTNAME servername=HostName",
    );
    assert_eq!(entry.key.to_string(), "a.example");
    assert_eq!(
        entry.matches,
        [
            Match::Name(NamePattern::Host("mx.b.example".into())),
            Match::Nexthop,
            Match::DotNexthop,
            Match::Hostname
        ]
    );
    assert_eq!(entry.servername, Some(Servername::Hostname));
}

#[test]
fn names_in_match_add_up() {
    let entry =
        entry("a.example verify match=.b.example:[IPv6:2001:DB8::1]:c.example match=[192.0.2.1]");
    let names: Vec<String> = entry.matches.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [".b.example", "[2001:db8::1]", "c.example", "[192.0.2.1]"]
    );
}

#[test]
fn fingerprints_are_hex_with_or_without_colons() {
    let plain = "0123456789abcdef0123456789abcdef01234567";
    let colons = "01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67";
    let entry = entry(&format!(
        "a.example fingerprint match={plain}|{colons} match={plain}"
    ));
    assert_eq!(entry.fingerprints.len(), 3);
    assert!(
        entry
            .fingerprints
            .iter()
            .all(|digest| *digest == entry.fingerprints[0])
    );
    assert_eq!(entry.fingerprints[0][..3], [0x01, 0x23, 0x45]);
}

#[test]
fn tafile_brings_its_content() {
    let entry = entry("a.example secure tafile=/etc/ca.pem tafile=/etc/ca.pem");
    assert_eq!(entry.anchors.as_deref(), Some(&vec![vec![0x30, 0x01]; 2]));
    error(
        "a.example secure tafile=/etc/none.pem",
        "1:18",
        "tafile=/etc/none.pem: no such file",
    );
    error(
        "a.example secure tafile=/etc/empty.pem",
        "1:18",
        "no certificate in it",
    );
}

#[test]
fn protocols_are_what_is_left_of_what_we_speak() {
    for (value, tls13_only) in [
        ("TLSv1.3", true),
        (">=TLSv1.3", true),
        ("!TLSv1.2", true),
        ("!SSLv2:!SSLv3:!TLSv1:!TLSv1.1:!TLSv1.2", true),
        ("!SSLv2:!SSLv3", false),
        (">=TLSv1", false),
        (">=TLSv1.2:<=TLSv1.3", false),
        ("TLSv1.2:TLSv1.3", false),
    ] {
        let entry = entry(&format!("a.example encrypt protocols={value}"));
        assert_eq!(entry.tls13_only, tls13_only, "{value}");
    }
    for (value, words) in [
        ("TLSv1.2", "leaves only TLSv1.2"),
        ("!TLSv1.3", "leaves only TLSv1.2"),
        ("<=TLSv1.2", "leaves only TLSv1.2"),
        ("<=TLSv1.1", "leaves neither"),
        ("!TLSv1.2:!TLSv1.3", "leaves neither"),
        ("TLSv1:TLSv1.2:TLSv1.3", "TLSv1 is not spoken here"),
        ("TLSv1.4", "no protocol"),
        ("TLSv1.2:", "no protocol"),
    ] {
        error(
            &format!("a.example encrypt protocols={value}"),
            "1:19",
            words,
        );
    }
}

#[test]
fn errors_say_where_and_what_to_do() {
    for (text, place, words) in [
        (" a.example verify", "1:1", "no entry before it"),
        ("a.example", "1:1", "has no level"),
        ("a.example\n# verify", "1:1", "has no level"),
        (
            "a.example strict",
            "1:11",
            "choose one of none, may, encrypt",
        ),
        ("a.example verify 4711", "1:18", "write name=value"),
        (
            "a.example verify match = b.example",
            "1:18",
            "without white space around the =",
        ),
        ("a.example verify =b.example", "1:18", "write name=value"),
        ("a.example verify match=", "1:18", "match= has no value"),
        ("a.example verify # because", "1:18", "on a line of its own"),
        ("a.example verify { match = b }", "1:18", "braces"),
        ("a.example verify\n  reason=\"open", "2:10", "not closed"),
        ("a.example verify reason=\"a\\n\"", "1:27", "write \\\\"),
        (
            "a.example verify reason=\"a\u{7}\"",
            "1:27",
            "control character",
        ),
        (
            "a.example verify ciphers=high",
            "1:18",
            "Postfix's ciphers= is not supported",
        ),
        (
            "a.example verify exclude=MD5",
            "1:18",
            "Postfix's exclude= is not supported",
        ),
        (
            "a.example verify connection_reuse=yes",
            "1:18",
            "Postfix's connection_reuse= is not supported",
        ),
        (
            "a.example verify enable_rpk=yes",
            "1:18",
            "Postfix's enable_rpk= is not supported",
        ),
        (
            "a.example verify colour=blue",
            "1:18",
            "no attribute \"colour\"",
        ),
        (
            "a.example verify reason=a reason=b",
            "1:27",
            "on line 1, column 18 already",
        ),
        (
            "a.example none match=b.example",
            "1:16",
            "means nothing at level none",
        ),
        (
            "a.example none protocols=TLSv1.3",
            "1:16",
            "means nothing at level none",
        ),
        (
            "a.example may match=b.example",
            "1:15",
            "means nothing at level may",
        ),
        (
            "a.example dane match=b.example",
            "1:16",
            "means nothing at level dane",
        ),
        (
            "a.example dane servername=b.example",
            "1:16",
            "means nothing at level dane",
        ),
        (
            "a.example mta-sts tafile=/etc/ca.pem",
            "1:19",
            "means nothing at level mta-sts",
        ),
        (
            "a.example fingerprint tafile=/etc/ca.pem match=00",
            "1:23",
            "means nothing at level fingerprint",
        ),
        ("a.example fingerprint", "1:11", "needs match="),
        (
            "a.example fingerprint match=b.example",
            "1:23",
            "is no digest",
        ),
        (
            "a.example fingerprint match=00112233445566778899aabbccddeeff",
            "1:23",
            "MD5",
        ),
        (
            "a.example fingerprint match=0011",
            "1:23",
            "a digest of 2 octets",
        ),
        (
            "a.example fingerprint match=001:1",
            "1:23",
            "pairs of hex digits",
        ),
        (
            "a.example verify match=b.example::c.example",
            "1:18",
            "remove the extra colon",
        ),
        (
            "a.example verify match=*.b.example",
            "1:18",
            "write .b.example",
        ),
        (
            "a.example verify match=b.example|c.example",
            "1:18",
            "is no domain name",
        ),
        (
            "a.example verify match=192.0.2.1",
            "1:18",
            "in brackets: [192.0.2.1]",
        ),
        (
            "a.example verify match=[b.example]",
            "1:18",
            "no address in brackets",
        ),
        (
            "a.example verify servername=b..example",
            "1:18",
            "is no domain name",
        ),
        (
            "a.example verify until=2026-02-29",
            "1:18",
            "write until=YYYY-MM-DD",
        ),
        (
            "a.example verify until=26-2-2",
            "1:18",
            "write until=YYYY-MM-DD",
        ),
        (
            "a.example verify until=2026-13-01",
            "1:18",
            "write until=YYYY-MM-DD",
        ),
        (
            "a.example verify until=2026-00-01",
            "1:18",
            "write until=YYYY-MM-DD",
        ),
        (
            "a.example verify until=2026-01-00",
            "1:18",
            "write until=YYYY-MM-DD",
        ),
        (
            "a.example verify until=+026-01-01",
            "1:18",
            "write until=YYYY-MM-DD",
        ),
        ("a.example. verify", "1:1", "ends in a dot"),
        ("bücher.example verify", "1:1", "A-labels"),
        ("*.a.example verify", "1:1", "write .a.example"),
        ("user@a.example verify", "1:1", "not by mailbox"),
        ("a.example:587 verify", "1:1", "write [a.example]:587"),
        ("203.0.113.9 verify", "1:1", "in brackets: [203.0.113.9]"),
        ("2001:db8::1 verify", "1:1", "in brackets: [2001:db8::1]"),
        (
            "203.0.113 verify",
            "1:1",
            "neither a domain name nor an address",
        ),
        (
            "203.0.113.9/24 verify",
            "1:1",
            "write 203.0.113.0/24 or 203.0.113.9/32",
        ),
        ("203.0.113.0/33 verify", "1:1", "prefix length"),
        ("[203.0.113.9 verify", "1:1", "not closed"),
        ("[203.0.113.9]x verify", "1:1", "only :port"),
        ("[203.0.113.9]:0 verify", "1:1", "is no port"),
        ("[203.0.113.9]:65536 verify", "1:1", "is no port"),
        ("[IPv6:203.0.113.9] verify", "1:1", "is no IPv6 address"),
        ("a,b verify", "1:1", "is no domain name"),
        ("\"a.example\" verify", "1:1", "quotes in a key"),
        ("@a.example dane-only", "1:12", "for a client choose"),
        ("\u{feff}a.example", "1:1", "has no level"),
        ("@a.example verify", "1:12", "needs match= here"),
        (
            "@a.example secure match=hostname",
            "1:12",
            "match=hostname means nothing here",
        ),
        (
            "@a.example encrypt servername=b.example",
            "1:12",
            "servername= means nothing here",
        ),
    ] {
        error(text, place, words);
    }
}

#[test]
fn all_errors_are_told_in_the_order_of_the_lines() {
    let errors = errors("a.example verify\nb.example strict\n match=x\nc.example\n\n*.d verify\n");
    let places: Vec<&str> = errors.iter().map(|error| &error[..10]).collect();
    assert_eq!(places, ["policy:2:1", "policy:4:1", "policy:6:1"]);
}

#[test]
fn a_second_entry_for_a_key_is_an_error_that_names_both_lines() {
    for (first, second) in [
        ("a.example", "A.EXAMPLE"),
        ("[2001:db8::1]", "[IPv6:2001:DB8:0::1]"),
        ("[203.0.113.9]", "203.0.113.9/32"),
        ("[203.0.113.9]", "[::ffff:203.0.113.9]"),
        ("[relay.example]:25", "[Relay.example]:25"),
        ("@a.example", "@a.Example"),
        ("*", "*"),
    ] {
        error(
            &format!("{first} encrypt\n\n{second} encrypt"),
            "3:1",
            "has an entry already, on line 1",
        );
    }
}

fn a_key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,3}\\.example",
        "\\.[a-z]{1,3}\\.example",
        "\\[192\\.0\\.2\\.[1-9]\\](:25)?",
        "\\[2001:db8::[1-9a-f]\\]",
        "10\\.[0-9]\\.0\\.0/16",
        "\\[[a-z]{1,3}\\.example\\]:587",
        Just("*".to_owned()),
    ]
}

fn an_entry() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        Just("none".to_owned()),
        "(may|encrypt)( servername=[a-z]{2}\\.example)?",
        "fingerprint match=[0-9a-f]{64}(\\|[0-9a-f]{40})?",
        "(verify|secure)( match=(nexthop|\\.[a-z]{2}\\.example|hostname)(:dot-nexthop)?)?( protocols=TLSv1\\.3)?",
        "(verify|secure) tafile=\"/etc/ca\\.pem\"",
        "(dane|dane-only|mta-sts)",
    ];
    let reason = proptest::option::of("[ -~]{1,20}");
    (
        a_key(),
        level,
        proptest::option::of("20[2-9][0-9]-(0[1-9]|1[0-2])-(0[1-9]|2[0-8])"),
        reason,
    )
        .prop_map(|(key, level, until, reason)| {
            let until = until.map(|day| format!(" until={day}")).unwrap_or_default();
            let reason = reason
                .map(|text| format!(" reason={}", entry::quoted(&format!(" {text}"))))
                .unwrap_or_default();
            format!("{key} {level}{until}{reason}")
        })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}|([ \\t\\n\"\\\\,:=|#*@./\\[\\]a0]|verify|match=|until=2026-01-01){0,40}") {
        for error in parse(&text).err().into_iter().flatten() {
            prop_assert!(error.line >= 1 && error.column >= 1);
            prop_assert!(!error.message.is_empty() && !error.message.contains('\n'));
        }
    }

    #[test]
    fn no_attribute_makes_it_panic(name in "match|servername|tafile|protocols|until", value in "\\PC{1,20}|[:|.*!<>=\\-0-9a-f]{1,20}") {
        for level in ["fingerprint", "verify"] {
            let _ = parse(&format!("a.example {level} {name}={value}"));
        }
    }

    #[test]
    fn an_entry_that_is_printed_is_read_as_itself(line in an_entry()) {
        let first = entry(&line);
        let again = entry(&first.to_string());
        prop_assert_eq!(first, again);
    }

    #[test]
    fn white_space_and_comments_between_words_change_nothing(line in an_entry(), fill in "( |\t|\n |\n# x\n\t|\r\n \n  #\n ){1,2}") {
        prop_assume!(!line.contains('"'));
        let spread = line.replace(' ', &fill);
        prop_assert_eq!(entry(&line), entry(&spread));
    }
}
