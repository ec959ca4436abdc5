use std::{collections::BTreeSet, time::Duration};

use super::{heard::HEARD, *};
use crate::{
    audit::{AuditOptions, ConnectionField, DirectionField},
    session::memory::Remembered,
    smtp::{Cause, End, ForwardPath, ForwardPaths, Stage},
};

/// The source of the schema, with its documentation.
const SCHEMA: &str = include_str!("../../audit/record.rs");

fn refusal(code: u16, cause: Cause) -> Refusal {
    Refusal {
        code,
        enhanced: (5, 4),
        text: String::from("no such thing"),
        cause,
    }
}

/// The documentation of a public field: first that of its struct, then its own.
fn documented(item: &str, field: &str) -> String {
    let begin = SCHEMA
        .find(&format!("pub struct {item} {{"))
        .unwrap_or_else(|| panic!("{item} is not in the schema"));
    let body = &SCHEMA[begin..];
    let body = &body[..body.find("\n}").expect("an end")];
    let at = body
        .find(&format!("    pub {field}:"))
        .unwrap_or_else(|| panic!("{item}.{field} is not in the schema"));
    let lines = body[..at].lines().rev();
    let comment = lines.take_while(|line| line.trim_start().starts_with("///"));
    let mut comment: Vec<&str> = comment.collect();
    comment.reverse();
    assert!(!comment.is_empty(), "{item}.{field} has no documentation");
    comment.join(" ")
}

fn entry(verdict: VerdictField) -> audit::DecisionField {
    audit::DecisionField {
        domain: "clinic.example".into(),
        verdict,
        observed: false,
        level: Some("verify".into()),
        basis: Some("mx".into()),
        rule: None,
        until: None,
        why: None,
        reason: (verdict == VerdictField::Refused).then(|| "certificate-expired".into()),
        detail: "over".into(),
        findings: None,
        signed: None,
    }
}

/// One of each kind of fact that makes a record, with the struct that its record is.
fn written() -> Vec<(&'static str, serde_json::Value)> {
    let directory =
        std::env::temp_dir().join(format!("starttls-proxy-facts-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("audit.jsonl");
    let log = AuditLog::open(AuditOptions::new(file, "mail.example/out".into())).expect("a log");
    let session = audit::SessionField {
        id: "0123456789ab".into(),
        direction: DirectionField::Outbound,
        client: ConnectionField {
            from: ([10, 0, 0, 5], 4711).into(),
            to: ([203, 0, 113, 9], 25).into(),
        },
        server: None,
        hello: None,
    };
    let (no, known) = (
        refusal(501, Cause::Protocol),
        Remembered {
            refusal: refusal(421, Cause::Verdict),
            reason: "certificate-expired",
            domain: Some("b.test".into()),
            level: Some("verify".into()),
        },
    );
    let mut recipients = ForwardPaths::default();
    recipients.extend(ForwardPath::parse(b"x@[192.0.2.1]", false));
    let message = Completed {
        sender: b"a@b.test".to_vec(),
        sender_domain: None,
        recipients,
        octets: 3,
        reply: None,
    };
    let judged = |entry| VerdictFact {
        entry,
        decision: None,
        reply: None,
        peer: None,
    };
    let (refused, clear) = (
        Arc::new(entry(VerdictField::Refused)),
        Arc::new(entry(VerdictField::Unprotected)),
    );
    let facts: [(&str, &dyn Fact); 9] = [
        ("SessionOpenedRecord", &OpenedFact),
        ("RefusalRecord", &HandshakeFailedFact("reset")),
        ("VerdictRecord", &judged(&refused)),
        ("UnprotectedRecord", &judged(&clear)),
        (
            "RefusalRecord",
            &RefusalFact {
                refusal: &no,
                domain: None,
            },
        ),
        (
            "RefusalRecord",
            &RepeatedRefusalFact {
                first: &known,
                refusal: &no,
            },
        ),
        (
            "HeardRecord",
            &HeardFact {
                proved: false,
                stage: Stage::Greeting,
                reply: b"554 5.7.1 Blocked\r\n",
            },
        ),
        (
            "MessageRecord",
            &MessageFact {
                message: &message,
                number: 1,
                direction: "out",
                host: "mail.example",
                configuration: "00",
                sha256: String::new(),
                decisions: vec![Arc::new(entry(VerdictField::Authorised))],
                peer: None,
                user: Some("scanner@clinic.example"),
            },
        ),
        (
            "SessionClosedRecord",
            &ClosedFact {
                end: "quit",
                took: Duration::from_secs(1),
                messages: [1, 0],
                octets: 3,
                traffic: [[0; 2]; 2],
                peer: None,
                unnamed: None,
                repeats: 0,
                repeated: Vec::new(),
                empty: false,
            },
        ),
    ];
    let records = facts.map(|(item, fact)| {
        let record = fact.record(&log, session.clone()).expect("a record");
        (item, serde_json::to_value(record).expect("JSON"))
    });
    log.close();
    std::fs::remove_dir_all(directory).expect("removed");
    records.to_vec()
}

#[test]
fn the_schema_documents_each_field_of_each_record_that_a_fact_makes() {
    for (item, record) in written() {
        for (field, value) in record.as_object().expect("an object") {
            if field == "event" {
                let event = value.as_str().expect("a word");
                let heading = format!("/// `{event}`");
                assert!(SCHEMA.contains(&heading), "{heading} heads no struct");
                continue;
            }
            documented(item, field);
            if field == "decision" {
                for field in value.as_object().expect("an object").keys() {
                    documented("DecisionField", field);
                }
            }
        }
    }
}

/// Each word, and the field of the schema whose documentation must list it.
#[test]
fn the_schema_lists_each_word_that_a_record_can_have() {
    let causes = [
        Cause::Protocol,
        Cause::Limit,
        Cause::StarttlsRequired,
        Cause::ServerUnreachable,
        Cause::ServerGone,
        Cause::GreetingRefused,
        Cause::EhloRefused,
        Cause::StarttlsRefused,
        Cause::StarttlsNotSupported,
        Cause::ExtensionMissing,
        Cause::Overload,
        Cause::LocalFault,
        Cause::Stopped,
    ];
    let ends = [
        End::Quit,
        End::ClientClosed,
        End::ServerClosed,
        End::Timeout,
        End::Refused,
        End::Stopped,
    ];
    let stages = [Stage::Greeting, Stage::Ehlo, Stage::StartTls, Stage::Login];
    let stages = stages.map(|stage| {
        HeardFact {
            stage,
            reply: b"",
            proved: false,
        }
        .stage()
    });
    let lists = [
        ("RefusalRecord", "reason", causes.map(Cause::word).to_vec()),
        ("SessionClosedRecord", "end", ends.map(End::word).to_vec()),
        ("HeardRecord", "stage", stages.to_vec()),
        (
            "RepeatedField",
            "event",
            vec!["verdict", "unprotected", "refusal", "heard"],
        ),
    ];
    for (item, field, words) in lists {
        let text = documented(item, field);
        let listed: BTreeSet<&str> = text.split('`').skip(1).step_by(2).collect();
        for word in words {
            assert!(listed.contains(word), "{item}.{field} does not list {word}");
        }
    }
}

#[test]
fn the_manual_lists_each_key_that_a_log_line_can_have() {
    let manual = include_str!("../../../docs/log.md");
    let keys = manual.lines().filter_map(|line| {
        let (key, _) = line.strip_prefix("| `")?.split_once(" | ")?;
        Some(key)
    });
    let keys: Vec<&str> = keys
        .flat_map(|key| key.split(['`', ',', ' ']))
        .filter(|key| !key.is_empty())
        .collect();
    for source in [include_str!("../facts.rs"), include_str!("heard.rs")] {
        for written in source.split('"').skip(1).step_by(2) {
            for word in written.split(' ') {
                let (key, _) = word.split_once('=').unwrap_or_default();
                let known = key.is_empty() || keys.contains(&key);
                assert!(known, "docs/log.md lacks {key}");
            }
        }
    }
}

#[test]
fn why_a_server_refused_is_told_with_its_code_its_text_bounded_and_never_as_proved() {
    let heard = |reply| HeardFact {
        proved: false,
        stage: Stage::Greeting,
        reply,
    };
    let blocked = heard(b"554-5.7.1 Blocked by RBL,\r\n554 5.7.1 see \"x\" \x1b[2J\r\n");
    assert_eq!(
        (blocked.code(), blocked.enhanced().as_deref()),
        (Some(554), Some("5.7.1"))
    );
    assert_eq!(blocked.level(), Some(log::Level::Warn));
    assert_eq!(
        FactLine(&blocked).to_string(),
        "heard=greeting code=554 enhanced=5.7.1 unproved=yes text=\"554-5.7.1 Blocked by RBL,\\r\\n554 5.7.1 see \\\"x\\\" \\x1b[2J\""
    );
    for (reply, code, enhanced) in [
        (&b"421 too many connections\r\n"[..], Some(421), None),
        (b"454 4.7.0.1 x\r\n", Some(454), None),
        (b"454 44.7.0 x\r\n", Some(454), None),
        (b"999 x\r\n", None, None),
        (b"HTTP/1.1 400\r\n", None, None),
        (b"", None, None),
    ] {
        let heard = heard(reply);
        assert_eq!(
            (heard.code(), heard.enhanced().as_deref()),
            (code, enhanced)
        );
    }
    let long = [b"554 ".as_slice(), &[0xff; 4000]].concat();
    let text = heard(&long).text();
    assert!(text.as_str().len() <= HEARD && text.as_str().ends_with("..."));
}

#[test]
fn nothing_in_a_reply_can_forge_a_log_field() {
    let refusal = Refusal {
        code: 421,
        enhanced: (7, 5),
        text: String::from(r#"names a" verdict=authorised x="b\"#),
        cause: Cause::Verdict,
    };
    assert_eq!(
        quoted(&refusal),
        r#""421 4.7.5 names a\" verdict=authorised x=\"b\\""#
    );
    // Escaped text has only one reading.
    let heard = HeardFact {
        proved: false,
        stage: Stage::Ehlo,
        reply: b"550 \\\" x=y\r\n",
    };
    let line = FactLine(&heard).to_string();
    assert!(line.ends_with(r#"text="550 \\\" x=y""#), "{line}");
}

#[test]
fn nothing_in_a_domain_can_forge_a_log_field() {
    assert_eq!(
        Printable("a b\r\nverdict=\"authorised\" caf\u{e9}").to_string(),
        r#"a\x20b\r\nverdict=\"authorised\"\x20caf\u{e9}"#
    );
    assert_eq!(Printable("a.example").to_string(), "a.example");
}
