//! A log that was written without a key at first. What stands before the key is covered by the first signed checkpoint, and `verify`
//! says from where on the log is signed, and what shows the rest.

use crate::keys::{told, write};
use crate::support::{DAMAGED, DONE, Directory, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, Hash, Head},
    flags::AuditVerifyFlags,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Six records without a key: `log-opened`, a checkpoint, three records, a checkpoint.
fn without_a_key(file: &Path) {
    let log = AuditLog::open(options(file)).unwrap();
    for n in 0..3 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
}

/// What `verify` and the verifier that knows the page only say. They must agree.
#[track_caller]
fn judged(file: &Path, key: &str, anchors: &[String], first_keys: &[String]) -> (u8, String) {
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![file.to_owned()],
        key: vec![key.to_owned()],
        anchor: anchors.to_vec(),
        first_key: first_keys.to_vec(),
        ..AuditVerifyFlags::default()
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit/stranger.py");
    let mut stranger = Command::new("python3");
    stranger.arg(script).args(["log", "--key", key]);
    for anchor in anchors {
        stranger.args(["--anchor", anchor]);
    }
    for key in first_keys {
        stranger.args(["--first-key", key]);
    }
    let output = stranger.arg(file).output().expect("python3 is there");
    let stranger = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.success(), code == DONE, "{said}{stranger}");
    (code, said)
}

fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.split_inclusive('\n').map(str::to_owned).collect()
}

/// The anchor of the records before number `size`.
fn anchor(file: &Path, size: usize) -> String {
    let hash = Hash::of(lines(file)[size - 1].trim_end().as_bytes());
    format!("{size}:{hash}")
}

/// A log that got its key at record 6, with the key's public file and the first epoch key.
fn log_with_a_later_key(directory: &Directory) -> (PathBuf, String, String) {
    let file = directory.file();
    let (key, public) = directory.key();
    without_a_key(&file);
    let first_key = told(&write(&file, &key, 5));
    (file, public, first_key)
}

#[test]
fn a_log_that_got_its_key_later_says_from_which_record_on_it_is_signed_and_what_to_do() {
    let directory = Directory::new("later-key");
    let (file, key, _) = log_with_a_later_key(&directory);
    let at = lines(&file)[6].split('"').nth(11).unwrap().to_owned();
    let (code, said) = judged(&file, &key, &[], &[]);
    assert_eq!(code, DAMAGED, "{said}");
    let begin = format!("NOT INTACT: {}:2: unsigned: ", file.display());
    assert!(said.starts_with(&begin), "{said}");
    for part in [
        format!("the log got its key at record 6, at {at}"),
        "If the key was added then, this is as it should be".into(),
        "the checkpoint of record 7, the first one that is signed, covers all before it".into(),
        "--anchor".into(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    // The rest is judged.
    assert!(said.contains("all records are signed"), "{said}");
    // Whoever gives no key is told, too.
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![file],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
    assert!(said.contains("signed from"), "{said}");
}

#[test]
fn an_anchor_from_behind_the_key_or_the_first_epoch_key_covers_what_stands_before_it() {
    let directory = Directory::new("later-key-anchored");
    let (file, key, first_key) = log_with_a_later_key(&directory);
    let all = lines(&file).len();
    for size in [7, 9, all] {
        let (code, said) = judged(&file, &key, &[anchor(&file, size)], &[]);
        assert_eq!(code, DONE, "{size}: {said}");
        assert!(said.contains("signed from"), "{said}");
    }
    assert_eq!(judged(&file, &key, &[], &[first_key]).0, DONE);
    // One that covers a part of it leaves the rest open.
    let (code, said) = judged(&file, &key, &[anchor(&file, 4)], &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("unsigned"), "{said}");
}

/// Changes a record, and makes the chain behind it anew.
fn rechained(file: &Path, record: usize) {
    let mut head = Head::default();
    let mut anew = String::new();
    for (number, line) in lines(file).iter().enumerate() {
        let mut line = line.trim_end().to_owned();
        if number == record {
            line = line.replace("\"reason\":\"", "\"reason\":\"not ");
        }
        let rest = line.split_once("\",\"seq\":").unwrap().1.to_owned();
        let line = format!("{{\"v\":1,\"prev\":\"{}\",\"seq\":{rest}", head.hash);
        head.size += 1;
        head.hash = Hash::of(line.as_bytes());
        anew += &format!("{line}\n");
    }
    fs::write(file, anew).unwrap();
}

#[test]
fn what_was_written_before_the_key_cannot_be_changed_without_it() {
    let directory = Directory::new("later-key-changed");
    let (file, key, _) = log_with_a_later_key(&directory);
    let before = lines(&file);
    rechained(&file, usize::MAX);
    assert_eq!(lines(&file), before, "nothing was changed");
    // Without its own checkpoints, so that the first one that does not fit is the signed one.
    let rest: String = before
        .iter()
        .enumerate()
        .filter(|(number, _)| ![1, 5].contains(number))
        .map(|(_, line)| line.as_str())
        .collect();
    fs::write(&file, rest).unwrap();
    let renumbered = renumbered(&file);
    fs::write(&file, renumbered).unwrap();
    rechained(&file, 2);
    let (code, said) = judged(&file, &key, &[], &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(
        said.contains("rewritten: this checkpoint was made for"),
        "{said}"
    );
}

/// The lines with numbers that follow each other.
fn renumbered(file: &Path) -> String {
    let lines = lines(file);
    let numbered = lines.iter().enumerate().map(|(number, line)| {
        let (begin, rest) = line.split_once("\"seq\":").unwrap();
        let rest = rest.split_once(',').unwrap().1;
        format!("{begin}\"seq\":{number},{rest}")
    });
    numbered.collect()
}

#[test]
fn a_log_that_lost_its_key_is_not_excused_by_an_anchor() {
    let directory = Directory::new("later-key-lost");
    let (file, key, _) = log_with_a_later_key(&directory);
    let signed = lines(&file).len();
    without_a_key(&file);
    let all = lines(&file).len();
    let (code, said) = judged(&file, &key, &[anchor(&file, all)], &[]);
    assert_eq!(code, DAMAGED, "{said}");
    let place = format!(":{}: unsigned: this checkpoint is not signed", signed + 2);
    assert!(said.contains(&place), "{said}");
}

#[test]
fn a_log_that_never_got_a_key_is_not_excused_by_an_anchor() {
    let directory = Directory::new("later-key-never");
    let file = directory.file();
    let (_, key) = directory.key();
    without_a_key(&file);
    let anchor = anchor(&file, lines(&file).len());
    let (code, said) = judged(&file, &key, &[anchor], &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(
        said.contains(":2: unsigned: this checkpoint is not signed"),
        "{said}"
    );
}
