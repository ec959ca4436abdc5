//! What other programs can do with a log: [`SavedLog`].

// The example is what they begin with, so it is run here as it stands.
#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../../examples/read_audit.rs"]
mod read_audit;

use crate::support::{Directory, message, options, sample, stop, wait};
use read_audit::read_audit;
use serde::Deserialize;
use starttls_proxy::audit::{
    AuditLog, AuditOptions, Damage, LogTrust, RecordError, RecordProof, SavedLog,
};
use std::fs;

fn of(directory: &Directory) -> SavedLog {
    let mut logs = SavedLog::find(&[directory.file()]).unwrap();
    assert_eq!(logs.len(), 1);
    logs.remove(0)
}

/// A signed log of some messages. Returns the public key.
fn written(directory: &Directory) -> String {
    let (key, public) = directory.key();
    let log = AuditLog::open(AuditOptions {
        key: Some(key),
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..40 {
        log.append(&message(&log, n));
    }
    wait(log.append_durable(&stop(1))).unwrap();
    log.close();
    public
}

#[test]
fn the_example_counts_the_messages_of_a_log_and_refuses_a_changed_one() {
    let directory = Directory::new("example");
    let public = written(&directory);
    let file = directory.file();
    let (words, is_good) = read_audit(file.to_str().unwrap(), Some(&public)).unwrap();
    assert!(is_good, "{words}");
    assert!(
        words.contains("mail.hospital.example/outbound: intact"),
        "{words}"
    );
    assert!(words.contains("40 messages accepted"), "{words}");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("j.smith", "j.smyth", 1)).unwrap();
    let (words, is_good) = read_audit(file.to_str().unwrap(), Some(&public)).unwrap();
    assert!(!is_good && words.contains("NOT INTACT"), "{words}");
}

#[test]
fn records_of_all_rotated_files_come_in_order_with_their_fields_borrowed() {
    #[derive(Deserialize)]
    struct Fields<'a> {
        prev: &'a str,
    }
    let directory = Directory::new("read");
    let (key, _) = directory.key();
    sample(&directory.file(), key).close();
    let log = of(&directory);
    assert!(log.files().len() > 20, "{:?}", log.files());
    let (mut records, mut number, mut last) = (log.records(), 0, "0".repeat(64));
    while let Some(record) = records.next().unwrap() {
        assert_eq!(record.number(), number);
        assert_eq!(record.fields::<Fields<'_>>().unwrap().prev, last);
        assert!(record.at().starts_with("2026-0"), "{}", record.at());
        number += 1;
        last = starttls_proxy::audit::Hash::of(record.line()).to_string();
    }
    let head = log.verify(&LogTrust::default()).unwrap().head();
    assert_eq!((head.size, head.hash.to_string()), (number, last));
}

#[test]
fn what_is_no_record_is_told_with_its_place_and_reading_goes_on() {
    let directory = Directory::new("no-record");
    written(&directory);
    let text = fs::read_to_string(directory.file()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[3] = "no record";
    // The last line is still being written.
    fs::write(directory.file(), lines.join("\n")).unwrap();
    let log = of(&directory);
    let mut records = log.records();
    let (mut good, mut bad) = (0, Vec::new());
    loop {
        match records.next() {
            Ok(Some(_)) => good += 1,
            Ok(None) => break,
            Err(RecordError::NoRecord { line, .. }) => bad.push(line),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((good, bad), (lines.len() - 2, vec![4]));
    let verified = log.verify(&LogTrust::default()).unwrap();
    let finding = verified.finding().unwrap();
    assert_eq!((finding.line, finding.damage), (4, Damage::Edited));
    assert_eq!(verified.good(), 3);
}

#[test]
fn anchors_and_keys_that_were_kept_elsewhere_are_held_against_the_log() {
    let directory = Directory::new("kept");
    let public = written(&directory);
    let log = of(&directory);
    let head = log.verify(&LogTrust::default()).unwrap().head();
    let trust = |anchor: String| {
        LogTrust::default()
            .key(&public)
            .unwrap()
            .anchor(&anchor)
            .unwrap()
    };
    let kept = log
        .verify(&trust(format!("{}:{}", head.size, head.hash)))
        .unwrap();
    assert!(kept.is_intact() && kept.is_complete() || kept.finding().is_none());
    assert_eq!((kept.anchored(), kept.signed_below()), (1, head.size));
    let more = log
        .verify(&trust(format!("{}:{}", head.size + 1, head.hash)))
        .unwrap();
    assert_eq!(more.finding().unwrap().damage, Damage::Cut);
    let (_, other) = Directory::new("other-key").key();
    assert!(LogTrust::default().key(&other).is_err(), "the file is gone");
    let elsewhere = Directory::new("another-key");
    let (_, other) = elsewhere.key();
    let foreign = log
        .verify(&LogTrust::default().key(&other).unwrap())
        .unwrap();
    assert!(!foreign.is_intact());
}

#[test]
fn one_record_is_proved_and_the_proof_is_checked_with_the_public_key() {
    let directory = Directory::new("prove");
    let public = written(&directory);
    let proofs = of(&directory).prove(|record| record.number() == 7).unwrap();
    let [proof] = &proofs[..] else {
        panic!("{proofs:?}")
    };
    let trust = LogTrust::default().key(&public).unwrap();
    let carried = RecordProof::read(&proof.to_string()).unwrap();
    assert_eq!(
        trust.check(&carried).unwrap(),
        "mail.hospital.example/outbound"
    );
    assert!(
        carried.record().contains("\"seq\":7,"),
        "{}",
        carried.record()
    );
    assert!(LogTrust::default().check(&carried).is_err(), "no key");
}
