//! Any change to a log is found, and named for what it is.

use crate::support::{DAMAGED, DONE, Directory, intact, options, stop, verify, wait};
use proptest::prelude::*;
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, Head, rotated},
    commands::audit as command,
    flags::{AuditReportFlags, AuditShowFlags, AuditVerifyFlags},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// A stopped log of some hundred records in several files, with a checkpoint at every tenth; and what another machine knows of it.
struct Log {
    directory: Directory,
    public: String,
    anchor: String,
    /// Its lines with their LF, file after file.
    files: Vec<Vec<Vec<u8>>>,
}

fn write(name: &str, origin: &str, key: Option<&Path>) -> Log {
    let directory = Directory::new(name);
    let (mut private, mut public) = directory.key();
    if let Some(key) = key {
        private = key.to_owned();
        public = format!("{}.pub", key.display());
    }
    let log = AuditLog::open(AuditOptions {
        key: Some(private),
        origin: origin.into(),
        checkpoint_records: 10,
        rotate_octets: 30_000,
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..400 {
        // One commit for each record, so that files are rotated in between.
        wait(log.append_durable(&stop(n))).unwrap();
    }
    log.close();
    let said = intact(&directory.file());
    let head = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("head"));
    let anchor = head.unwrap().trim().to_owned();
    let mut names = rotated(&directory.file()).unwrap();
    names.push(directory.file());
    let lines = |name: &PathBuf| {
        fs::read(name)
            .unwrap()
            .split_inclusive(|&b| b == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let files: Vec<Vec<Vec<u8>>> = names.iter().map(lines).collect();
    assert!(files.len() > 3, "not rotated: {} files", files.len());
    Log {
        directory,
        public,
        anchor,
        files,
    }
}

static LOG: LazyLock<Log> =
    LazyLock::new(|| write("damage", "mail.hospital.example/outbound", None));
/// Another log, signed with the same key.
static OTHER: LazyLock<Log> = LazyLock::new(|| {
    let key = LOG.directory.0.join("key.pem");
    write("other", "mail.hospital.example/inbound", Some(&key))
});

/// Writes changed files and verifies them.
fn examine(files: &[Vec<Vec<u8>>], anchors: &[&str]) -> (u8, String) {
    let directory = Directory::new("examined");
    let mut names = Vec::new();
    for (number, lines) in files.iter().enumerate() {
        let name = directory.0.join(format!("{number}"));
        fs::write(&name, lines.concat()).unwrap();
        names.push(name);
    }
    let (code, said) = verify(&AuditVerifyFlags {
        files: names,
        key: vec![LOG.public.clone()],
        anchor: anchors.iter().map(ToString::to_string).collect(),
        ..AuditVerifyFlags::default()
    });
    (
        code,
        said.replace(&format!("{}/", directory.0.display()), ""),
    )
}

fn all(files: &[Vec<Vec<u8>>]) -> usize {
    files.iter().map(Vec::len).sum()
}

/// File and line of the record with that number.
fn at(files: &[Vec<Vec<u8>>], mut record: usize) -> (usize, usize) {
    for (number, lines) in files.iter().enumerate() {
        if record < lines.len() {
            return (number, record);
        }
        record -= lines.len();
    }
    panic!("no such record");
}

/// Asserts which damage `audit verify` reports for changed files, and where.
#[track_caller]
fn says(files: &[Vec<Vec<u8>>], anchors: &[&str], expected: &str) {
    let (code, said) = examine(files, anchors);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(
        said.starts_with(&format!("NOT INTACT: {expected}")),
        "{said}"
    );
}

#[test]
fn an_untouched_log_is_intact() {
    let (code, said) = examine(&LOG.files, &[&LOG.anchor]);
    assert_eq!(code, DONE, "{said}");
    assert!(said.contains("all 1 agree"), "{said}");
}

#[test]
fn each_damage_is_called_by_its_name_and_place() {
    let whole = &LOG.files;
    let n = whole[0].len();

    let mut files = whole.clone();
    let text = String::from_utf8(files[1][4].clone()).unwrap();
    assert!(text.contains("\"messages\":"));
    files[1][4] = text.replace("\"messages\":", "\"messages\":1").into_bytes();
    says(
        &files,
        &[],
        &format!(
            "1:5: edited: record {} is not the one that record {} names",
            n + 4,
            n + 5
        ),
    );

    let mut files = whole.clone();
    files[1][4] = b"{}\n".to_vec();
    says(&files, &[], "1:5: edited: this is no record");

    let mut files = whole.clone();
    files[1].drain(4..7);
    says(
        &files,
        &[],
        &format!("1:5: missing: records {} to {} are not there", n + 4, n + 6),
    );

    let mut files = whole.clone();
    files[1].remove(0);
    says(
        &files,
        &[],
        &format!("1:1: missing: record {n} is not there"),
    );

    let mut files = whole.clone();
    files[0].remove(0);
    says(
        &files,
        &[],
        "0:1: missing: record 0 is not there; name the older files too, or leave them out knowingly with --from 1",
    );

    let mut files = whole.clone();
    files[1].swap(4, 8);
    says(
        &files,
        &[],
        &format!(
            "1:5: reordered: record {} stands where {} must be, which is at 1:9",
            n + 8,
            n + 4
        ),
    );

    let mut files = whole.clone();
    let copy = files[1][4].clone();
    files[1].insert(6, copy);
    says(
        &files,
        &[],
        &format!(
            "1:7: inserted: record {} again, where {} must be",
            n + 4,
            n + 6
        ),
    );

    let mut files = whole.clone();
    files.remove(1);
    says(
        &files,
        &[],
        &format!(
            "1:1: missing: records {n} to {} are not there",
            n + whole[1].len() - 1
        ),
    );

    let mut files = whole.clone();
    let last = files[0].last_mut().unwrap();
    last.truncate(20);
    says(
        &files,
        &[],
        &format!("0:{n}: cut: the file ends inside a line, and another file follows"),
    );

    let mut files = whole.clone();
    files.truncate(2);
    let lines = whole[1].len();
    says(
        &files,
        &[&LOG.anchor],
        &format!(
            "1:{lines}: cut: an anchor knows {} records, here are {}",
            all(whole),
            n + lines
        ),
    );

    let (file, line) = (OTHER.files.len() - 1, OTHER.files.last().unwrap().len());
    let size = all(&OTHER.files);
    says(
        &OTHER.files,
        &[&LOG.anchor],
        &format!("{file}:{line}: rewritten: when it had {size} records the log's head was"),
    );
}

/// The log after an attacker who can write it but has no key changed a record and made the chain behind it anew.
fn rechained(files: &[Vec<Vec<u8>>], record: usize, keep_checkpoints: bool) -> Vec<Vec<Vec<u8>>> {
    let mut head = Head::default();
    let mut number = 0;
    let mut changed = Vec::new();
    for lines in files {
        let mut new = Vec::new();
        for line in lines {
            let mut text = String::from_utf8(line[..line.len() - 1].to_vec()).unwrap();
            // Without a checkpoint the tree that a file says it goes on from is another one.
            let is_of_tree = ["checkpoint", "log-continued"]
                .iter()
                .any(|event| text.contains(&format!("\"event\":\"{event}\"")));
            if is_of_tree && !keep_checkpoints {
                continue;
            }
            if number == record {
                text = text.replace("\"reason\":\"", "\"reason\":\"not ");
            }
            number += 1;
            let at = text.find("\",\"seq\":").unwrap();
            let rest = text[at + 8..]
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .to_owned();
            let text = format!(
                "{{\"v\":1,\"prev\":\"{}\",\"seq\":{}{rest}",
                head.hash, head.size
            );
            head.size += 1;
            head.hash = starttls_proxy::audit::Hash::of(text.as_bytes());
            new.push([text.as_bytes(), b"\n"].concat());
        }
        changed.push(new);
    }
    changed
}

#[test]
fn a_chain_made_anew_without_the_key_is_found() {
    let (file, line) = at(&LOG.files, 123);
    assert!(!String::from_utf8_lossy(&LOG.files[file][line]).contains("checkpoint"));
    let files = rechained(&LOG.files, 123, true);
    assert_ne!(files, LOG.files);
    let (_, said) = examine(&files, &[]);
    assert!(
        said.contains("rewritten: this checkpoint was made for 127 records with the root"),
        "{said}"
    );
    // Making the chain anew changes nothing where no record was changed.
    assert_eq!(rechained(&LOG.files, usize::MAX, true), LOG.files);
}

#[test]
fn a_log_without_its_checkpoints_is_found_by_whoever_has_the_key() {
    let files = rechained(&LOG.files, 123, false);
    says(
        &files,
        &[],
        &format!(
            "{}:{}: unsigned: no checkpoint is signed, although a key was given",
            files.len() - 1,
            files.last().unwrap().len()
        ),
    );
    let directory = Directory::new("without-checkpoints");
    fs::write(directory.file(), files.concat().concat()).unwrap();
    let said = intact(&directory.file());
    assert!(
        said.contains("no signature checked: whoever can write the log can make it anew"),
        "{said}"
    );
    let (code, said) = examine(&files, &[&LOG.anchor]);
    assert_eq!(code, DAMAGED, "{said}");
}

#[test]
fn more_than_a_thousand_records_without_a_signature_are_a_finding() {
    let directory = Directory::new("unsigned");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    for n in 0..1200 {
        log.append(&stop(n));
    }
    log.close();
    let text = fs::read(directory.file()).unwrap();
    let lines: Vec<Vec<u8>> = text
        .split_inclusive(|&b| b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let files = rechained(std::slice::from_ref(&lines), usize::MAX, false);
    says(
        &files,
        &[],
        "0:1001: unsigned: no checkpoint within 1000 records",
    );
    says(
        &[lines],
        &[],
        "0:2: unsigned: this checkpoint is not signed",
    );
}

#[test]
fn a_log_of_another_key_or_name_is_not_this_one() {
    let stranger = write("stranger", "mail.hospital.example/outbound", None);
    says(
        &stranger.files,
        &[],
        "0:2: rewritten: this checkpoint's signature is wrong, or of another key",
    );
    let named = format!(
        "audit checkpoint origin=mail.hospital.example/outbound size=1 head={}",
        "0".repeat(64)
    );
    let anchors = stranger.directory.0.join("anchors");
    fs::write(&anchors, named).unwrap();
    let (_, said) = examine(&OTHER.files, &[&anchors.display().to_string()]);
    assert!(
        said.contains("no anchor is of this log, mail.hospital.example/inbound"),
        "{said}"
    );
}

#[test]
fn older_files_can_be_left_out_knowingly() {
    let from = LOG.files[0].len() + LOG.files[1].len();
    let directory = Directory::new("from");
    let mut files = Vec::new();
    for (number, lines) in LOG.files.iter().enumerate().skip(2).rev() {
        let name = directory.0.join(format!("{number}"));
        fs::write(&name, lines.concat()).unwrap();
        files.push(name);
    }
    let mut arguments = AuditVerifyFlags {
        files,
        key: vec![LOG.public.clone()],
        anchor: vec![LOG.anchor.clone()],
        from: from as u64,
        ..AuditVerifyFlags::default()
    };
    let (code, said) = verify(&arguments);
    assert_eq!(code, DONE, "{said}");
    arguments.from = 0;
    let (code, said) = verify(&arguments);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains(&format!("with --from {from}")), "{said}");
}

#[test]
fn a_torn_last_line_is_no_damage_but_one_before_a_checkpoint_is() {
    let mut files = LOG.files.clone();
    let last = files.last_mut().unwrap();
    last.pop();
    last.last_mut().unwrap().truncate(40);
    let (code, said) = examine(&files, &[]);
    assert_eq!(code, DONE, "{said}");
    assert!(said.contains("a torn line of 40 octets"), "{said}");

    let mut files = LOG.files.clone();
    let last = files.last_mut().unwrap();
    let place = last.len() - 4;
    last[place][10..20].fill(0);
    says(
        &files,
        &[],
        &format!(
            "{}:{}: edited: this is no record",
            files.len() - 1,
            place + 1
        ),
    );
}

/// One change to a log.
#[derive(Clone, Debug)]
enum Act {
    Edit {
        record: usize,
        octet: usize,
        to: u8,
    },
    Delete {
        record: usize,
        number: usize,
    },
    Swap(usize, usize),
    Duplicate {
        record: usize,
        to: usize,
    },
    Truncate {
        octets: usize,
    },
    Splice {
        record: usize,
        number: usize,
    },
    Rollback {
        records: usize,
    },
    Rechain {
        record: usize,
        keep_checkpoints: bool,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let record = || any::<prop::sample::Index>().prop_map(|index| index.index(all(&LOG.files)));
    prop_oneof![
        4 => (record(), any::<usize>(), any::<u8>()).prop_map(|(record, octet, to)| Act::Edit { record, octet, to }),
        2 => (record(), 1..50_usize).prop_map(|(record, number)| Act::Delete { record, number }),
        2 => (record(), record()).prop_map(|(one, other)| Act::Swap(one, other)),
        1 => (record(), record()).prop_map(|(record, to)| Act::Duplicate { record, to }),
        1 => (1..40_000_usize).prop_map(|octets| Act::Truncate { octets }),
        1 => (record(), 1..50_usize).prop_map(|(record, number)| Act::Splice { record, number }),
        1 => record().prop_map(|records| Act::Rollback { records }),
        1 => (record(), any::<bool>()).prop_map(|(record, keep_checkpoints)| Act::Rechain { record, keep_checkpoints }),
    ]
}

fn done(act: &Act) -> Vec<Vec<Vec<u8>>> {
    let mut files = LOG.files.clone();
    let place = |record| at(&LOG.files, record);
    match *act {
        Act::Edit { record, octet, to } => {
            let (file, line) = place(record);
            let line = &mut files[file][line];
            let octet = octet % line.len();
            line[octet] = to;
        }
        Act::Delete { record, number } => {
            let (file, line) = place(record);
            let end = (line + number).min(files[file].len());
            files[file].drain(line..end);
        }
        Act::Swap(one, other) => {
            let (one, other) = (place(one), place(other));
            let line = std::mem::take(&mut files[one.0][one.1]);
            let line = std::mem::replace(&mut files[other.0][other.1], line);
            files[one.0][one.1] = if one == other {
                files[one.0][one.1].clone()
            } else {
                line
            };
        }
        Act::Duplicate { record, to } => {
            let ((file, line), to) = (place(record), place(to));
            let copy = files[file][line].clone();
            files[to.0].insert(to.1, copy);
        }
        Act::Truncate { mut octets } => {
            while octets > 0 {
                let Some(last) = files.last_mut() else { break };
                match last.last_mut() {
                    Some(line) if line.len() > octets => {
                        line.truncate(line.len() - octets);
                        octets = 0;
                    }
                    Some(line) => {
                        octets -= line.len();
                        last.pop();
                    }
                    None => {
                        files.pop();
                    }
                }
            }
        }
        Act::Splice { record, number } => {
            for record in record
                ..(record + number)
                    .min(all(&LOG.files))
                    .min(all(&OTHER.files))
            {
                let ((file, line), other) = (place(record), at(&OTHER.files, record));
                files[file][line].clone_from(&OTHER.files[other.0][other.1]);
            }
        }
        Act::Rollback { records } => {
            let (file, line) = place(records);
            files.truncate(file + 1);
            files[file].truncate(line);
        }
        Act::Rechain {
            record,
            keep_checkpoints,
        } => files = rechained(&files, record, keep_checkpoints),
    }
    files
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_done_to_a_log_goes_unnoticed(act in act()) {
        let files = done(&act);
        let (code, said) = examine(&files, &[&LOG.anchor]);
        // Without a changed octet there is no damage: the same lines may be split into files elsewhere.
        let untouched = files.concat().concat() == LOG.files.concat().concat();
        let expected = if untouched { DONE } else { DAMAGED };
        // A whole file of another log in the place of one of ours makes it two logs, which one anchor without a name cannot be of.
        let is_of_two = matches!(act, Act::Splice { .. }) && code == 78 && said.contains("these files are of 2 logs");
        prop_assert!(code == expected || is_of_two, "{:?}: {}: {}", act, code, said);
    }

    #[test]
    fn no_octets_whatever_make_a_command_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), keep in 0..6_usize) {
        let directory = Directory::new("octets");
        let mut text = LOG.files[0][..keep].concat();
        text.extend(bytes);
        fs::write(directory.file(), text).unwrap();
        let files = vec![directory.file()];
        let _ = verify(&AuditVerifyFlags { files: files.clone(), ..AuditVerifyFlags::default() });
        let show = AuditShowFlags { files: files.clone(), since: Some("2026-11-24".into()), ..AuditShowFlags::default() };
        let _ = command::show(&show, &mut Vec::new(), &mut Vec::new());
        let report = AuditReportFlags { files, html: directory.0.join("html"), ..AuditReportFlags::default() };
        let _ = command::report(&report, &mut Vec::new(), None);
    }
}
