//! Files beside a log, and those that a command is given, that somebody has made larger than they can be. They take no room on the disk,
//! and must take none in memory. What a log's own file costs that somebody has made larger, `tests/budgets.rs` measures.

use crate::{
    keys::{check, is_good, secrets, told, write},
    support::{DAMAGED, DONE, Directory, verify},
};
use starttls_proxy::{audit::Notice, commands::audit as command, flags::*};
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

/// More than any machine has memory.
const LENGTH: u64 = 1 << 40;
/// Exit code: a file cannot be used.
const UNUSABLE: u8 = 78;

fn enlarge(file: &Path) {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file);
    file.unwrap().set_len(LENGTH).unwrap();
}

fn lock_of(file: &Path) -> PathBuf {
    format!("{}.lock", file.display()).into()
}

#[test]
fn what_stands_behind_the_remembered_end_and_the_secrets_is_not_read_and_changes_nothing() {
    let directory = Directory::new("larger-beside");
    let (file, key) = (directory.file(), directory.key().0);
    let first = told(&write(&file, &key, 9));
    enlarge(&lock_of(&file));
    enlarge(&secrets(&file));
    let said = write(&file, &key, 9);
    let is_bad = |notice: &&Notice| !matches!(notice, Notice::Checkpoint(_) | Notice::EpochKey(_));
    assert_eq!(said.iter().find(is_bad), None);
    is_good(&file, std::slice::from_ref(&first));
    assert!(fs::metadata(secrets(&file)).unwrap().len() < 1000);
    assert_eq!(fs::metadata(lock_of(&file)).unwrap().len(), LENGTH);
    // The end that is remembered there is compared as ever.
    let text = fs::read_to_string(&file).unwrap();
    let kept = text.trim_end().rsplit_once('\n').unwrap().0;
    fs::write(&file, format!("{kept}\n")).unwrap();
    let (code, said) = check(&file, &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains(": cut: "), "{said}");
}

#[test]
fn a_key_a_checkpoint_a_list_of_witnesses_or_a_proof_that_is_too_large_is_an_error_that_says_so() {
    let directory = Directory::new("larger-arguments");
    let (file, key) = (directory.file(), directory.key().0);
    write(&file, &key, 3);
    let large = directory.0.join("large");
    enlarge(&large);
    let text = large.display().to_string();
    let files = vec![file];
    let too_large = format!("{text}: larger than 1 MiB");
    for flags in [
        AuditVerifyFlags {
            key: vec![text.clone()],
            ..AuditVerifyFlags::default()
        },
        AuditVerifyFlags {
            since: Some(text.clone()),
            ..AuditVerifyFlags::default()
        },
        AuditVerifyFlags {
            witness: Some(large.clone()),
            ..AuditVerifyFlags::default()
        },
    ] {
        let files = files.clone();
        let (code, said) = verify(&AuditVerifyFlags { files, ..flags });
        assert_eq!(code, UNUSABLE, "{said}");
        assert!(said.contains(&too_large), "{said}");
    }
    let flags = AuditVerifyFlags {
        files,
        tsa_ca: vec![large.clone()],
        ..AuditVerifyFlags::default()
    };
    let (code, said) = verify(&flags);
    assert_eq!(code, UNUSABLE, "{said}");
    assert!(said.contains("larger than 16 MiB"), "{said}");
    let flags = AuditCheckProofFlags {
        key: vec![key.display().to_string()],
        files: vec![large],
        ..AuditCheckProofFlags::default()
    };
    let result = command::check_proof(&flags, &mut Vec::new());
    let said = format!("{:?}", result.unwrap_err());
    assert!(said.contains("larger than 128 MiB"), "{said}");
}

/// A journal has any length, and only its lines about this program are kept.
#[test]
fn a_first_key_and_an_anchor_are_found_at_the_end_of_a_long_journal_behind_a_line_without_sense() {
    let directory = Directory::new("larger-journal");
    let (file, key) = (directory.file(), directory.key().0);
    let said = write(&file, &key, 9);
    let lines: Vec<String> = said
        .iter()
        .map(|notice| format!("starttls-proxy[71]: {notice}"))
        .collect();
    let journal = directory.0.join("journal");
    let mut written = fs::File::create(&journal).unwrap();
    for _ in 0..30_000 {
        writeln!(
            written,
            "Nov 24 06:05:00 mail other[1]: {}",
            "word ".repeat(20)
        )
        .unwrap();
    }
    written.write_all(&vec![0; 3 << 20]).unwrap();
    writeln!(written, "\n{}", lines.join("\n")).unwrap();
    drop(written);
    let journal = journal.display().to_string();
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![file],
        anchor: vec![journal.clone()],
        first_key: vec![journal],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
    assert!(
        said.contains("of them from a key on that was given"),
        "{said}"
    );
    assert!(!said.contains("no anchor"), "{said}");
}
