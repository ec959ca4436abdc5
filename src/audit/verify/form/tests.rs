use super::*;
use proptest::prelude::*;

const HEAD: &str = r#"{"v":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","seq":7,"at":"2026-11-24T06:05:00.123456Z","event":"message""#;

fn line(rest: &str) -> Vec<u8> {
    format!("{HEAD}{rest}}}").into_bytes()
}

fn is_quickly_sound(line: &[u8]) -> bool {
    FormScan::default().is_sound(line)
}

fn fault_of(line: &[u8]) -> Option<String> {
    fault(line, &mut FormScan::default())
}

#[test]
fn what_the_program_writes_is_decided_by_the_quick_pass() {
    for rest in [
        "",
        r#","a":null,"b":true,"c":false,"d":0,"e":-12,"f":123456789012345678"#,
        r#","session":{"id":"aa","client":{"from":"10.0.0.5:40000","to":"[::1]:25"}},"id":"bb","client":{}"#,
        r#","list":[],"more":[1,2,[{}],{"list":[null]}],"reply":"250 \\x1b \"x\" \n\t""#,
        ",\"note\":\"a\\n\u{2014} b\"",
        r#","a":"1234567","b":"12345678","c":"123456789","long_name_of_a_field":"","long_name_of_b_field":"""#,
    ] {
        let line = line(rest);
        assert!(is_quickly_sound(&line), "{rest}");
        assert_eq!(fault_of(&line), None, "{rest}");
    }
}

#[test]
fn what_the_quick_pass_leaves_is_read_in_full() {
    let deep = format!(",\"a\":{}{}", "[".repeat(100), "]".repeat(100));
    let fields: String = (0..500).map(|n| format!(",\"f{n}\":{n}")).collect();
    for rest in [
        r#","a":"\u001b","b":1.5e3,"\u0061b":1"#,
        r#","a":12345678901234567890"#,
        &deep,
        &fields,
    ] {
        assert!(!is_quickly_sound(&line(rest)), "{rest}");
        assert_eq!(fault_of(&line(rest)), None, "{rest}");
    }
    let twice = fields + ",\"f3\":3";
    let said = fault_of(&line(&twice));
    assert!(said.is_some_and(|said| said.contains("\"f3\" stands twice")));
}

#[test]
fn a_field_that_stands_twice_in_one_object_is_a_fault_however_it_is_written_and_wherever_the_object_is()
 {
    for rest in [
        r#","verdict":"refused","verdict":"authorised""#,
        r#","verdict":1,"\u0076erdict":1"#,
        r#","seq":7"#,
        r#","decisions":[{"a":1},{"verdict":1,"b":{"verdict":2},"verdict":1}]"#,
        r#","long_name_of_a_field":1,"long_name_of_b_field":1,"long_name_of_a_field":1"#,
        r#","":1,"":2"#,
    ] {
        let said = fault_of(&line(rest)).unwrap_or_default();
        assert!(said.contains("stands twice"), "{rest}: {said}");
    }
}

#[test]
fn what_is_no_json_in_one_line_without_space_is_a_fault() {
    let deep = format!(",\"a\":{}{}", "[".repeat(128), "]".repeat(128));
    for rest in [
        ",",
        ",\"a\"",
        ",\"a\":",
        ",\"a\":}",
        ",\"a\":01",
        ",\"a\":-",
        ",\"a\":1.",
        ",\"a\":1e999",
        ",\"a\":+1",
        ",\"a\":truer",
        ",\"a\":nul",
        ",\"a\":\"",
        ",\"a\":\"\\x\"",
        ",\"a\":\"\\ud800\"",
        ",\"a\":\"\u{7}\"",
        ",\"a\":[1,]",
        ",\"a\":[1}",
        ",\"a\":{]",
        ",\"a\":{1:1}",
        ",\"a\":1},{\"b\":1",
        ",\"a\":1}x{",
        ", \"a\":1",
        ",\"a\": 1",
        ",\"a\":[1,\t2]",
        ",\"a\":1 ",
        ",a:1",
        "x",
        &deep,
    ] {
        assert!(!is_quickly_sound(&line(rest)), "{rest}");
        assert!(fault_of(&line(rest)).is_some(), "{rest}");
    }
    for octets in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf"] {
        let line = [&line(",\"a\":\"")[..HEAD.len() + 6], octets, b"\"}"].concat();
        assert!(fault_of(&line).is_some(), "{octets:?}");
    }
    for event in ["", "Stop", "st\\u006fp", "st op"] {
        assert!(!is_event(event.as_bytes()), "{event}");
    }
    assert!(is_event(b"log-opened"));
}

#[test]
fn a_line_like_a_sound_one_is_sound_whatever_its_values_are() {
    let mut scan = FormScan::default();
    for rest in [
        r#","a":"x","b":1"#,
        r#","a":"é\\\"","b":-77"#,
        r#","a":"","b":0"#,
    ] {
        assert!(scan.is_sound(&line(rest)), "{rest}");
    }
    assert_eq!(scan.known.len(), 1);
    for rest in [
        ",\"a\":\"x\",\"a\":1",
        ",\"a\":\"x\",\"b\":01",
        ",\"a\":\"x\",\"b\":1,\"b\":1",
        ",\"a\":\"x\",\"a\":\"x\",\"b\":1",
        ",\"a\":\"\u{7}\",\"b\":1",
    ] {
        assert!(!scan.is_sound(&line(rest)), "{rest}");
    }
    let mut other = line(r#","a":"xx","b":1"#);
    other[HEAD.len() + 6] = 0xff;
    assert!(!scan.is_sound(&other));
    for number in 0..2 * MOST_KNOWN {
        assert!(scan.is_sound(&line(&format!(",\"n{number}\":1"))));
    }
    assert_eq!(scan.known.len(), MOST_KNOWN);
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|it| it.to_string()),
        any::<i64>().prop_map(|it| it.to_string()),
        "[a-z\"\\\\é\u{7}]{0,20}".prop_map(|it| serde_json::to_string(&it).unwrap()),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec(("[ab]{0,2}|[a-b]{8,10}", inner), 0..5).prop_map(|fields| {
                let fields = fields
                    .into_iter()
                    .map(|(name, it)| format!("\"{name}\":{it}"));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// The quick pass may leave a line to serde_json, but never lets one pass that serde_json does not.
    #[test]
    fn the_quick_pass_takes_nothing_that_reading_in_full_does_not(
        value in json(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_usize), 0..4),
    ) {
        let mut line = line(&format!(",\"a\":{value}"));
        let mut scan = FormScan::default();
        scan.is_sound(&line);
        for (place, octet, how) in edits {
            let place = HEAD.len() + place.index(line.len() - HEAD.len());
            match how {
                0 => line[place] = octet,
                1 => line[place] = b"\"\\{}[],:10 "[usize::from(octet) % 11],
                2 => line.insert(place, b"\"\\{}[],:10 "[usize::from(octet) % 11]),
                _ => { line.remove(place); }
            }
        }
        prop_assert!(!is_quickly_sound(&line) || judged(&line).is_ok(), "{}", String::from_utf8_lossy(&line));
        // The same where it remembers lines that were sound and much the same.
        prop_assert!(!scan.is_sound(&line) || judged(&line).is_ok(), "{}", String::from_utf8_lossy(&line));
    }
}

#[test]
fn the_form_of_a_line_with_very_many_values_is_not_kept() {
    let mut scan = FormScan::default();
    let line = |values: usize| format!("{{\"x\":[{}1]}}", "1,".repeat(values - 1));
    assert!(scan.is_sound(line(MOST_VALUES + 1).as_bytes()));
    assert!(scan.known.is_empty());
    assert!(scan.is_sound(line(3).as_bytes()));
    assert_eq!(scan.known.len(), 1);
}
