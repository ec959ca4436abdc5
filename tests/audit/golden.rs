//! The format, octet for octet: logs that were written once, and that every later version must write again in the same way.

use crate::support::{
    Directory, closed, decision, message, options, peer, refused, session, start, tls,
};
use data_encoding::BASE64;
use starttls_proxy::audit::{
    AddressForm, AuditLog, AuditOptions, CountField, HeardRecord, NotRecordedRecord,
    PolicyChangeRecord, Record, RefusalRecord, ReloadRecord, ReloadedFileField, RepeatedField,
    SessionField, SessionOpenedRecord, StopRecord, UnprotectedRecord, WireText,
};
use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// The clock of these logs, in microseconds since 1970.
static CLOCK: AtomicU64 = AtomicU64::new(0);
/// Two logs must not move that clock at once.
static ONE_LOG: Mutex<()> = Mutex::new(());

fn clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(CLOCK.load(Ordering::SeqCst))
}

/// A key that is the same each time: Ed25519 as PKCS#8 (RFC 8410 §7), its seed 32 times the octet 7.
fn key() -> String {
    let prefix = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let der = BASE64.encode(&[&prefix[..], &[7; 32]].concat());
    format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n")
}

/// Text from the wire that JSON and the escaping of wire text change.
const HOSTILE: &[u8] =
    b"a\"b\\c/d\te\r\nf\0\x1b\x7f\x80\xff \xc3\xa9 <j.smith@clinic.example> {\"v\":1}";

/// Every kind of record that the program writes, with text that needs escapes where text can stand.
fn records(log: &AuditLog) -> Vec<Record> {
    let hostile = || WireText::escape(HOSTILE);
    let words = "quote \" backslash \\ slash / tab \t newline \n bell \u{7} del \u{7f} \u{e9}\u{2028}\u{1f4e7}";
    let early = SessionField {
        server: None,
        hello: None,
        ..session(1)
    };
    let mut findings = refused(log, 2);
    if let Record::Verdict(verdict) = &mut findings {
        verdict.decision.findings = serde_json::from_str(
            r#"{"z":[1,-2,3.5,null,true],"a":{"\u0001":"\"","b":[]},"mx":{}}"#,
        )
        .ok();
        verdict.decision.why = Some(words.into());
        verdict.tls = Some(tls(3));
        verdict.reply = Some(hostile());
    }
    let mut odd_message = message(log, 5);
    if let Record::Message(message) = &mut odd_message {
        message.sender = log.address(b"");
        message.recipients = vec![log.address(HOSTILE), log.address(b"\"x y\"@Clinic.EXAMPLE")];
        message.session.hello = Some(hostile());
        message.decisions = vec![decision(98), decision(2)];
        message.reply = Some(hostile());
        message.octets = u64::MAX;
    }
    let mut repeated = closed(4);
    if let Record::SessionClosed(closed) = &mut repeated {
        closed.peer = Some(Box::new(peer(4)));
        closed.repeated = vec![RepeatedField {
            event: "verdict".into(),
            domain: Some("clinic.example".into()),
            verdict: Some(decision(0).verdict),
            reason: None,
            observed: true,
            times: 12,
        }];
    }
    vec![
        start(),
        Record::SessionOpened(SessionOpenedRecord {
            session: session(1),
        }),
        findings,
        message(log, 1),
        closed(1),
        Record::SessionOpened(SessionOpenedRecord {
            session: early.clone(),
        }),
        Record::Refusal(Box::new(RefusalRecord {
            session: early.clone(),
            domain: None,
            level: Some("verify".into()),
            reason: "validation-failure".into(),
            remembered: true,
            reply: Some(hostile()),
            detail: Some(words.into()),
        })),
        Record::Heard(Box::new(HeardRecord {
            session: early,
            stage: "greeting".into(),
            code: Some(554),
            enhanced: Some("5.7.1".into()),
            text: hostile(),
            unproved: true,
        })),
        Record::Unprotected(Box::new(UnprotectedRecord {
            session: session(97),
            decision: decision(98),
            tls: None,
        })),
        odd_message,
        repeated,
        Record::NotRecorded(NotRecordedRecord {
            counts: vec![CountField {
                prefix: Some("2001:db8::/64".into()),
                kind: "refusal".into(),
                count: 7,
                first: "2026-11-24T06:05:00.000000Z".into(),
                last: "2026-11-24T06:05:59.999999Z".into(),
            }],
        }),
        Record::Reload(ReloadRecord {
            files: vec![ReloadedFileField {
                file: "/etc/starttls-proxy/policy".into(),
                error: Some(words.into()),
            }],
            configuration: "5c".repeat(32),
        }),
        Record::PolicyChange(PolicyChangeRecord {
            before: Some("ab".repeat(32)),
            policy: None,
        }),
        Record::Stop(StopRecord {
            reason: "SIGTERM".into(),
            sessions: 2,
            messages: 1,
        }),
    ]
}

/// Writes such a log, and compares it with the one that is kept in `golden/`.
#[track_caller]
fn is_golden(name: &str, addresses: AddressForm, golden: &str) {
    let _one = ONE_LOG.lock();
    let directory = Directory::new(name);
    let key_file = directory.0.join("key.pem");
    fs::write(&key_file, key()).unwrap();
    // 2026-11-24T06:05:00.999990Z
    CLOCK.store(1_795_500_300_999_990, Ordering::SeqCst);
    let log = AuditLog::open(AuditOptions {
        key: Some(key_file),
        addresses,
        clock,
        // Each of these signatures is another.
        hybrid_every: None,
        random: |octets| {
            octets.fill(9);
            true
        },
        ..options(&directory.file())
    })
    .unwrap();
    for (number, record) in records(&log).iter().enumerate() {
        let step = [1, 9, 86_399, 0, 1_000_001][number % 5];
        CLOCK.fetch_add(step, Ordering::SeqCst);
        log.append(record);
    }
    assert!(log.close());
    let written = fs::read_to_string(directory.file()).unwrap();
    assert_eq!(written.lines().count(), golden.lines().count());
    for (written, golden) in written.lines().zip(golden.lines()) {
        assert_eq!(written, golden);
    }
    assert_eq!(written, golden);
}

#[test]
fn a_log_is_written_as_it_always_was() {
    is_golden(
        "golden-full",
        AddressForm::Full,
        include_str!("golden/full.jsonl"),
    );
}

#[test]
fn a_log_with_hashed_addresses_is_written_as_it_always_was() {
    is_golden(
        "golden-hashed",
        AddressForm::Hashed,
        include_str!("golden/hashed.jsonl"),
    );
}
