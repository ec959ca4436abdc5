//! Writing: order, durability, rotation, a single writer, and the remains of a crash.

use crate::support::{DONE, Directory, domain, intact, message, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AddressForm, AuditLog, AuditOptions, Hash, Notice, rotated},
    commands::audit as command,
    flags::{AuditShowFlags, AuditVerifyFlags},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::channel,
    },
    thread,
    time::{Duration, SystemTime},
};

#[test]
fn what_is_acknowledged_is_in_the_file() {
    let directory = Directory::new("acknowledged");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    for n in 0..10 {
        let receipt = wait(log.append_durable(&stop(n))).unwrap();
        let text = fs::read_to_string(directory.file()).unwrap();
        let line = text
            .lines()
            .nth(usize::try_from(receipt.seq).unwrap())
            .unwrap();
        assert!(line.contains(&format!("record {n}")));
        assert_eq!(Hash::of(line.as_bytes()), receipt.hash);
    }
}

#[test]
fn a_stopped_log_is_intact_and_says_so() {
    let directory = Directory::new("stopped");
    let (key, public) = directory.key();
    let log = AuditLog::open(AuditOptions {
        key: Some(key),
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..2500 {
        log.append(&stop(n));
    }
    log.close();
    wait(log.append_durable(&stop(0))).unwrap_err();
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![directory.file()],
        key: vec![public],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
    for part in [
        "intact\n",
        "2,505 (0 to 2504)",
        "(as given); all records are signed",
        "stopped in good order",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn many_sessions_write_one_chain_each_in_its_order() {
    let directory = Directory::new("concurrent");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    thread::scope(|scope| {
        for session in 0..16_u64 {
            let log = log.clone();
            scope.spawn(move || {
                for n in 0..100 {
                    log.append(&stop(session * 1000 + n));
                    if n % 10 == 9 {
                        wait(log.append_durable(&message(&log, session * 1000 + n))).unwrap();
                    }
                }
            });
        }
    });
    log.close();
    intact(&directory.file());
    let text = fs::read_to_string(directory.file()).unwrap();
    for session in 0..16_u64 {
        let places: Vec<_> = (0..100)
            .map(|n| {
                text.find(&format!("\"record {}\"", session * 1000 + n))
                    .unwrap()
            })
            .collect();
        assert!(places.is_sorted(), "session {session}");
    }
}

#[test]
fn the_chain_goes_on_over_restarts_and_rotated_files() {
    let directory = Directory::new("restarts");
    for run in 0..5 {
        let log = AuditLog::open(AuditOptions {
            rotate_octets: 4000,
            ..options(&directory.file())
        })
        .unwrap();
        for n in 0..20 {
            wait(log.append_durable(&stop(run * 20 + n))).unwrap();
        }
    }
    let files = rotated(&directory.file()).unwrap();
    assert!(files.len() >= 4, "{files:?}");
    let said = intact(&directory.file());
    assert!(
        said.contains(&format!("in {} files", files.len() + 1)),
        "{said}"
    );
    // A restart right after a rotation finds the chain's end in the newest rotated file.
    fs::remove_file(directory.file()).unwrap();
    fs::remove_file(directory.0.join("audit.jsonl.lock")).unwrap();
    let first_left: u64 = fs::read_to_string(files.last().unwrap())
        .unwrap()
        .lines()
        .count() as u64;
    drop(AuditLog::open(options(&directory.file())).unwrap());
    assert!(first_left > 0);
    intact(&directory.file());
}

static DAY: AtomicU64 = AtomicU64::new(20_000);

fn clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(DAY.load(Ordering::SeqCst) * 86_400 + 5)
}

#[test]
fn each_day_has_its_file_which_ends_in_a_checkpoint() {
    let directory = Directory::new("daily");
    let log = AuditLog::open(AuditOptions {
        clock,
        rotate_daily: true,
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..3 {
        wait(log.append_durable(&stop(n))).unwrap();
        DAY.fetch_add(1, Ordering::SeqCst);
    }
    log.close();
    let files = rotated(&directory.file()).unwrap();
    let names: Vec<_> = files
        .iter()
        .map(|file| file.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "audit.jsonl.20241004.000000000000",
            "audit.jsonl.20241005.000000000004",
            "audit.jsonl.20241006.000000000007"
        ]
    );
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        assert!(
            text.lines()
                .last()
                .unwrap()
                .contains("\"event\":\"checkpoint\"")
        );
    }
    intact(&directory.file());
}

#[test]
fn checkpoints_are_told_once_they_are_durable_and_anchor_the_log() {
    let directory = Directory::new("told");
    let (sender, notices) = channel();
    let log = AuditLog::open(AuditOptions {
        checkpoint_after: Duration::from_millis(1),
        notice: Box::new(move |notice| sender.send(notice).unwrap_or_default()),
        ..options(&directory.file())
    })
    .unwrap();
    wait(log.append_durable(&stop(1))).unwrap();
    let told: Vec<Notice> = notices.iter().take(2).collect();
    log.close();
    let journal = directory.0.join("journal");
    let lines: Vec<_> = told
        .iter()
        .map(|notice| format!("Nov 24 mail starttls-proxy[7]: {notice}\n"))
        .collect();
    fs::write(&journal, lines.concat()).unwrap();
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![directory.file()],
        anchor: vec![journal.display().to_string()],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
    assert!(said.contains("all 2 agree"), "{said}");
}

#[test]
fn a_second_writer_is_kept_away_and_the_files_are_private() {
    let directory = Directory::new("second");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    let error = AuditLog::open(options(&directory.file())).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("another process writes this log"),
        "{error}"
    );
    for entry in fs::read_dir(&directory.0).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.path()
        );
    }
    drop(log);
    AuditLog::open(options(&directory.file())).unwrap();
}

/// Cuts or overwrites the end of a closed log as a crash would, opens it again, and returns the new text.
fn crashed(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let directory = Directory::new(name);
    let log = AuditLog::open(options(&directory.file())).unwrap();
    for n in 0..5 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    drop(log);
    let mut bytes = fs::read(directory.file()).unwrap();
    change(&mut bytes);
    fs::write(directory.file(), bytes).unwrap();
    let (sender, notices) = channel();
    drop(AuditLog::open(AuditOptions {
        notice: Box::new(move |notice| sender.send(notice).unwrap_or_default()),
        ..options(&directory.file())
    }));
    assert!(
        notices
            .iter()
            .any(|notice| matches!(notice, Notice::Torn(_)))
    );
    let said = intact(&directory.file());
    assert!(said.contains("1 torn line(s) after a crash"), "{said}");
    fs::read_to_string(directory.file()).unwrap()
}

#[test]
fn half_a_line_left_by_a_crash_is_set_aside_in_a_record_and_the_chain_goes_on() {
    let text = crashed("half-line", |bytes| bytes.extend(b"{\"v\":1,\"prev\":\"00"));
    assert!(
        text.contains(r#""torn":{"octets":17,"sha256":""#)
            && text.contains(r#""text":"{\"v\":1,\"prev\":\"00"}"#),
        "{text}"
    );
}

#[test]
fn blocks_of_zeros_left_by_a_power_failure_are_set_aside_too() {
    let text = crashed("zeros", |bytes| {
        bytes.extend([0; 300]);
        bytes.extend(b"...\"}\n{\"v\":1,\"pre");
    });
    assert!(text.contains(r#""octets":317"#), "{text}");
}

#[test]
fn a_file_that_is_no_audit_log_is_left_alone() {
    let directory = Directory::new("not-a-log");
    fs::write(directory.file(), "127.0.0.1 localhost\n").unwrap();
    let error = AuditLog::open(options(&directory.file())).unwrap_err();
    assert!(error.to_string().contains("not an audit log"), "{error}");
    assert_eq!(
        fs::read_to_string(directory.file()).unwrap(),
        "127.0.0.1 localhost\n"
    );
}

#[test]
fn what_is_wrong_with_the_options_is_said_before_anything_is_written() {
    let directory = Directory::new("options");
    let missing = directory.0.join("missing.pem");
    let bad_key = directory.0.join("bad.pem");
    fs::write(&bad_key, "nonsense").unwrap();
    let cases: [(AuditOptions, &str); 5] = [
        (
            AuditOptions {
                addresses: AddressForm::Hashed,
                ..options(&directory.file())
            },
            "hashed addresses need --audit-key",
        ),
        (
            AuditOptions {
                key: Some(missing),
                ..options(&directory.file())
            },
            "missing.pem: no PKCS#8 private key",
        ),
        (
            AuditOptions {
                key: Some(bad_key),
                ..options(&directory.file())
            },
            "make one with `audit keygen`",
        ),
        (
            AuditOptions {
                origin: "two words".into(),
                ..options(&directory.file())
            },
            "cannot name an audit log",
        ),
        (
            AuditOptions {
                checkpoint_records: 1001,
                ..options(&directory.file())
            },
            "1 to 1000",
        ),
    ];
    for (options, expected) in cases {
        let error = AuditLog::open(options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(!directory.file().exists());
}

#[test]
fn a_hashed_address_is_found_with_the_key_and_not_in_the_log() {
    let directory = Directory::new("hashed");
    let (key, _) = directory.key();
    let log = AuditLog::open(AuditOptions {
        key: Some(key.clone()),
        addresses: AddressForm::Hashed,
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..50 {
        log.append(&message(&log, n));
    }
    log.close();
    let text = fs::read_to_string(directory.file()).unwrap();
    for name in ["ward3", "referrals", "billing"] {
        assert!(!text.contains(name));
    }
    let found = |key| {
        let show = AuditShowFlags {
            files: vec![directory.file()],
            address: Some(format!("referrals@{}", domain(1))),
            key,
            json: true,
            ..AuditShowFlags::default()
        };
        let mut out = Vec::new();
        command::show(&show, &mut out, &mut Vec::new()).unwrap();
        String::from_utf8(out).unwrap().lines().count()
    };
    let expected = (0..50)
        .filter(|n| n % 5 == 1 && domain(*n) == domain(1))
        .count();
    assert!(expected > 0);
    assert_eq!(found(Some(key)), expected);
    assert_eq!(found(None), 0);
}

#[test]
fn show_filters_by_domain_address_time_verdict_and_session() {
    let directory = Directory::new("show");
    let log = Arc::new(AuditLog::open(options(&directory.file())).unwrap());
    for n in 0..200 {
        log.append(&message(&log, n));
    }
    log.close();
    let lines = |show: AuditShowFlags| {
        let mut out = Vec::new();
        let show = AuditShowFlags {
            files: vec![directory.file()],
            ..show
        };
        command::show(&show, &mut out, &mut Vec::new()).unwrap();
        String::from_utf8(out).unwrap()
    };
    let number = |show| lines(show).lines().count();
    let none = AuditShowFlags::default;
    let clinic = (0..200).filter(|n| domain(*n) == "clinic.example").count();
    let unprotected = (0..200)
        .filter(|n| ["scanner-vendor.example", "hospice.example"].contains(&domain(*n)))
        .count();
    assert_eq!(
        number(AuditShowFlags {
            domain: Some("CLINIC.example".into()),
            ..none()
        }),
        clinic
    );
    assert_eq!(
        number(AuditShowFlags {
            domain: Some(".example".into()),
            ..none()
        }),
        200
    );
    assert_eq!(
        number(AuditShowFlags {
            verdict: Some("unprotected".into()),
            ..none()
        }),
        unprotected
    );
    assert_eq!(
        number(AuditShowFlags {
            session: Some("00000007".into()),
            ..none()
        }),
        1
    );
    assert_eq!(
        number(AuditShowFlags {
            since: Some("2999".into()),
            ..none()
        }),
        0
    );
    assert!(
        number(AuditShowFlags {
            until: Some("2999".into()),
            ..none()
        }) > 200
    );
    let text = lines(AuditShowFlags {
        session: Some("00000007".into()),
        ..none()
    });
    for part in [
        "from <ward3@hospital.example>",
        "accepted \"250 2.0.0 Ok: queued as 4XyZ1b2c3d\"",
        "TLSv1.3",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
