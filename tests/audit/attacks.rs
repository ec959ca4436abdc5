//! The attacks that were published on journald's sealing, tried on this log; and what a log says of itself that no honest run without
//! faults can have left.

use crate::support::{
    DAMAGED, DONE, Directory, closed, message, options, session, stop, verify, wait,
};
use starttls_proxy::{
    audit::{
        AuditLog, AuditOptions, DirectionField, Record, SessionOpenedRecord, StartRecord,
        StopRecord,
    },
    flags::AuditVerifyFlags,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

/// When these logs begin, in seconds since 1970.
const BEGIN: u64 = 1_795_500_000;

/// The clock of logs whose times do not matter: it stands.
fn still() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN)
}

/// The clock of the one log that is left alone for hours, in seconds since 1970.
static SECONDS: AtomicU64 = AtomicU64::new(BEGIN);

fn movable() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS.load(Ordering::SeqCst))
}

fn open(file: &Path, key: &Path, clock: fn() -> SystemTime) -> AuditLog {
    AuditLog::open(AuditOptions {
        key: Some(key.to_owned()),
        clock,
        ..options(file)
    })
    .unwrap()
}

fn start(pid: u32) -> Record {
    Record::Start(StartRecord {
        version: "0.1.0".into(),
        direction: DirectionField::Outbound,
        host: "mail.hospital.example".into(),
        pid,
        configuration: "5c".repeat(32),
        arguments: Vec::new(),
        policy: None,
    })
}

/// One whole run of the program with two sessions and their messages.
fn run(file: &Path, key: &Path, pid: u32) {
    run_by(file, key, pid, still);
}

fn run_by(file: &Path, key: &Path, pid: u32, clock: fn() -> SystemTime) {
    let log = open(file, key, clock);
    log.append(&start(pid));
    for n in 0..2 {
        log.append(&Record::SessionOpened(SessionOpenedRecord {
            session: session(n),
        }));
        wait(log.append_durable(&message(&log, n))).unwrap();
        log.append(&closed(n));
    }
    log.append(&Record::Stop(StopRecord {
        reason: "SIGTERM".into(),
        sessions: 2,
        messages: 2,
    }));
    assert!(log.close());
}

fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.split_inclusive('\n').map(str::to_owned).collect()
}

/// Cuts that many records off the end, and what the program would know it by.
fn cut(file: &Path, records: usize) {
    let mut lines = lines(file);
    lines.truncate(lines.len() - records);
    fs::write(file, lines.concat()).unwrap();
    forget(file);
}

fn forget(file: &Path) {
    fs::remove_file(format!("{}.lock", file.display())).unwrap();
}

fn judged(file: &Path, keys: &[&str], anchors: &[String], expect_complete: bool) -> (u8, String) {
    verify(&AuditVerifyFlags {
        files: vec![file.to_owned()],
        key: keys.iter().map(|key| (*key).to_owned()).collect(),
        anchor: anchors.to_vec(),
        expect_complete,
        ..AuditVerifyFlags::default()
    })
}

fn head(file: &Path) -> String {
    let (_, said) = judged(file, &[], &[], false);
    let head = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("head"));
    head.unwrap().trim().to_owned()
}

/// A directory and a key of it.
fn with_key(name: &str) -> (Directory, PathBuf, String) {
    let directory = Directory::new(name);
    let (private, public) = directory.key();
    (directory, private, public)
}

#[test]
fn what_honest_runs_left_is_complete() {
    let (directory, key, public) = with_key("honest");
    for pid in 1..4 {
        run(&directory.file(), &key, pid);
    }
    let (code, said) = judged(&directory.file(), &[&public], &[], true);
    assert_eq!(code, DONE, "{said}");
    assert!(said.contains("3 start(s)"), "{said}");
    // So is a log that is being written.
    let log = open(&directory.file(), &key, still);
    log.append(&start(4));
    wait(log.append_durable(&message(&log, 9))).unwrap();
    let (code, said) = judged(&directory.file(), &[&public], &[], true);
    assert_eq!(code, DONE, "{said}");
}

#[test]
fn old_records_that_were_signed_with_a_newer_key_are_found() {
    let (directory, old_key, old) = with_key("resealed");
    let (_elsewhere, new_key, new) = with_key("resealed-new");
    let file = directory.file();
    run(&file, &old_key, 1);
    let of_old = lines(&file).len();
    run(&file, &new_key, 2);
    let (code, said) = judged(&file, &[&old, &new], &[], true);
    assert_eq!(code, DONE, "{said}");

    // Whoever has the newer key writes the older run anew, and signs it with that.
    let forged = Directory::new("resealed-forged");
    run(&forged.file(), &new_key, 1);
    run(&forged.file(), &new_key, 2);
    let (code, said) = judged(&forged.file(), &[&old, &new], &[], true);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("was given and has signed nothing"), "{said}");

    // Or only the checkpoints of the older run: the log says that the older key signs there.
    let log = lines(&file);
    let mut mixed = lines(&forged.file());
    mixed.truncate(of_old);
    mixed[0].clone_from(&log[0]);
    let mixed_file = Directory::new("resealed-mixed");
    fs::write(mixed_file.file(), mixed.concat()).unwrap();
    let (code, said) = judged(&mixed_file.file(), &[&old, &new], &[], false);
    assert_eq!(code, DAMAGED, "{said}");
}

#[test]
fn a_signed_log_that_was_cut_and_went_on_is_found() {
    // All of the end: a session's end, the stop, the last checkpoint. FILE.lock is gone too.
    for records in 1..=4 {
        let (directory, key, public) = with_key("cut-and-continued");
        let file = directory.file();
        run(&file, &key, 1);
        let anchor = head(&file);
        cut(&file, records);
        run(&file, &key, 2);
        let (code, said) = judged(&file, &[&public], &[], true);
        let stop_is_left = records == 1;
        // With its last checkpoint alone, nothing was cut off that says anything.
        assert_eq!(
            code,
            if stop_is_left { DONE } else { DAMAGED },
            "{records}: {said}"
        );
        assert_eq!(
            !stop_is_left,
            said.contains("1 run(s) without a stop"),
            "{said}"
        );
        let (code, said) = judged(&file, &[&public], &[anchor], false);
        assert_eq!(code, DAMAGED, "{records}: {said}");
    }
}

#[test]
fn a_file_that_is_not_signed_is_not_taken_for_a_signed_one() {
    let (_directory, _key, public) = with_key("unsealed");
    let unsigned = Directory::new("unsealed-log");
    let log = AuditLog::open(options(&unsigned.file())).unwrap();
    wait(log.append_durable(&stop(1))).unwrap();
    assert!(log.close());
    let (code, said) = judged(&unsigned.file(), &[&public], &[], false);
    assert_eq!(code, DAMAGED, "{said}");
    // Nor is one whose checkpoints were all taken out.
    let mut head = starttls_proxy::audit::Head::default();
    let mut text = String::new();
    for line in lines(&unsigned.file()) {
        if line.contains("\"event\":\"checkpoint\"") {
            continue;
        }
        let rest = &line[line.find(",\"at\":").unwrap()..];
        let line = format!(
            "{{\"v\":1,\"prev\":\"{}\",\"seq\":{}{}",
            head.hash,
            head.size,
            rest.trim_end()
        );
        head.size += 1;
        head.hash = starttls_proxy::audit::Hash::of(line.as_bytes());
        text += &format!("{line}\n");
    }
    forget(&unsigned.file());
    fs::write(unsigned.file(), text).unwrap();
    let (code, said) = judged(&unsigned.file(), &[], &[], false);
    assert_eq!(code, DONE, "{said}");
    let (code, said) = judged(&unsigned.file(), &[&public], &[], false);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("unsigned: no checkpoint is signed"), "{said}");
}

#[test]
fn a_wrong_key_does_not_pass() {
    let (directory, key, _) = with_key("wrong-key");
    let (_elsewhere, _, stranger) = with_key("wrong-key-stranger");
    run(&directory.file(), &key, 1);
    let (code, said) = judged(&directory.file(), &[&stranger], &[], false);
    assert_eq!(code, DAMAGED, "{said}");
}

#[test]
fn a_run_that_was_killed_and_nine_hours_without_the_program_are_said() {
    let (directory, key, public) = with_key("killed");
    let file = directory.file();
    let log = open(&file, &key, movable);
    log.append(&start(1));
    log.append(&Record::SessionOpened(SessionOpenedRecord {
        session: session(77),
    }));
    wait(log.append_durable(&message(&log, 77))).unwrap();
    // What stands there now is what kill -9 leaves.
    let killed = (
        fs::read(&file).unwrap(),
        fs::read(format!("{}.lock", file.display())).unwrap(),
    );
    drop(log);
    fs::write(&file, killed.0).unwrap();
    fs::write(format!("{}.lock", file.display()), killed.1).unwrap();
    SECONDS.fetch_add(9 * 3600, Ordering::SeqCst);
    run_by(&file, &key, 2, movable);
    let (code, said) = judged(&file, &[&public], &[], false);
    assert_eq!(code, DONE, "{said}");
    for words in [
        "1 run(s) without a stop",
        "1 session(s) without an end",
        "at the longest for 324",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let (code, _) = judged(&file, &[&public], &[], true);
    assert_eq!(code, DAMAGED);
}
