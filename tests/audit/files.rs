//! What somebody does to the log's files while the program writes them, or before it starts: no durable record is lost, and what has
//! happened is said.

use crate::support::{DAMAGED, DONE, Directory, intact, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, Notice, OpenError, rotated},
    commands::audit::report,
    flags::{AuditReportFlags, AuditVerifyFlags},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

fn open_with(
    file: &Path,
    change: impl FnOnce(&mut AuditOptions),
) -> Result<(AuditLog, Receiver<Notice>), OpenError> {
    let (sender, notices) = channel();
    let mut options = AuditOptions {
        notice: Box::new(move |notice| sender.send(notice).unwrap_or_default()),
        retry_after: Duration::from_millis(1),
        ..options(file)
    };
    change(&mut options);
    Ok((AuditLog::open(options)?, notices))
}

fn open(file: &Path) -> (AuditLog, Receiver<Notice>) {
    open_with(file, |_| ()).unwrap()
}

fn write(log: &AuditLog, records: std::ops::Range<u64>) {
    for n in records {
        wait(log.append_durable(&stop(n))).unwrap();
    }
}

/// Writes until it works again: the first record is on its way when the harm is noticed.
fn write_again(log: &AuditLog, n: u64) {
    while wait(log.append_durable(&stop(n))).is_err() {}
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}.{ending}", file.display()))
}

/// What the program's log has said, apart from checkpoints.
fn said(notices: &Receiver<Notice>) -> Vec<String> {
    let notices = notices.try_iter();
    let notices = notices.filter(|notice| !matches!(notice, Notice::Checkpoint(_)));
    notices.map(|notice| notice.to_string()).collect()
}

#[track_caller]
fn says(notices: &[String], words: &str) {
    assert!(
        notices.iter().any(|said| said.contains(words)),
        "{notices:?}"
    );
}

#[track_caller]
fn says_nothing_of_a_cut(notices: &[String]) {
    let is_cut = |said: &&String| said.contains("was cut") || said.contains("was replaced");
    assert_eq!(notices.iter().find(is_cut), None);
}

/// Each of these records stands once in all files of the log.
#[track_caller]
fn each_once(files: &[&Path], records: std::ops::Range<u64>) {
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let text: String = texts.collect();
    for n in records {
        let found = text.matches(&format!("\"record {n}\"")).count();
        assert_eq!(found, 1, "record {n}");
    }
}

#[test]
fn a_lock_file_that_is_deleted_or_moved_or_replaced_under_the_program_is_made_anew_and_remembers_the_end()
 {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 3] = [
        ("deleted", |lock| fs::remove_file(lock).unwrap()),
        ("moved", |lock| {
            fs::rename(lock, lock.with_extension("aside")).unwrap()
        }),
        ("replaced", |lock| {
            let copy = lock.with_extension("copy");
            fs::copy(lock, &copy).unwrap();
            fs::rename(copy, lock).unwrap();
        }),
    ];
    for (name, harm) in harms {
        let directory = Directory::new(name);
        let file = directory.file();
        let (log, notices) = open(&file);
        write(&log, 0..5);
        harm(&beside(&file, "lock"));
        write(&log, 5..6);
        wait(log.append_durable(&stop(6))).unwrap();
        // What came before the last record is remembered for certain.
        assert!(fs::read_to_string(beside(&file, "lock")).is_ok(), "{name}");
        says(&said(&notices), "file that ends in .lock was gone");
        let second = open_with(&file, |_| ());
        assert!(
            matches!(&second, Err(OpenError::Temporary(words)) if words.contains("another process writes this log")),
            "{name}: {:?}",
            second.err()
        );
        assert!(log.healthy());
        assert!(log.close());
        intact(&file);
        // So a cut is missed at the next start.
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        fs::write(&file, lines[..lines.len() - 3].concat()).unwrap();
        let (log, notices) = open(&file);
        assert!(log.close());
        says(&said(&notices), "audit log was cut");
    }
}

/// The second process could start because the lock was deleted.
#[test]
fn while_another_process_writes_the_log_nothing_is_written_and_none_of_its_records_is_removed() {
    let directory = Directory::new("two-writers");
    let file = directory.file();
    let (first, notices) = open(&file);
    write(&first, 0..5);
    fs::remove_file(beside(&file, "lock")).unwrap();
    let (second, _) = open(&file);
    write(&second, 5..10);
    for n in 10..20 {
        let refused = wait(first.append_durable(&stop(n)));
        assert!(refused.is_err());
        assert!(!first.healthy());
        write(&second, n + 10..n + 11);
    }
    assert!(second.close());
    write_again(&first, 30);
    write(&first, 31..32);
    assert!(first.healthy());
    assert!(first.close());
    each_once(&[&file], 0..32);
    let notices = said(&notices);
    says(&notices, "another process has locked a new one");
    says(&notices, "audit log was replaced");
    let flags = AuditVerifyFlags {
        files: vec![file],
        ..AuditVerifyFlags::default()
    };
    let (code, words) = verify(&flags);
    assert_eq!(code, DAMAGED, "{words}");
    assert!(words.contains("the log says so itself"), "{words}");
}

#[test]
fn records_of_a_log_that_is_replaced_under_the_program_are_brought_back_and_what_replaced_it_is_kept()
 {
    type Other = fn(&str) -> String;
    let forged = "a file of somebody else\n";
    let older: Other = |text| text.split_inclusive('\n').take(4).collect();
    let cases: [(&str, Other); 4] = [
        ("older", older),
        ("other", |_| "a file of somebody else\n".to_owned()),
        ("same", str::to_owned),
        ("empty", |_| String::new()),
    ];
    for (name, other) in cases {
        let directory = Directory::new(name);
        let file = directory.file();
        let (log, notices) = open(&file);
        write(&log, 0..5);
        let text = other(&fs::read_to_string(&file).unwrap());
        fs::write(beside(&file, "new"), &text).unwrap();
        fs::write(beside(&file, "saved-1"), forged).unwrap();
        fs::rename(beside(&file, "new"), &file).unwrap();
        write_again(&log, 5);
        write(&log, 6..8);
        assert!(log.close());
        each_once(&[&file], 0..8);
        intact(&file);
        let notices = said(&notices);
        says_nothing_of_a_cut(&notices);
        says(&notices, "was deleted while it was written");
        // A name that is taken stays with its file.
        assert_eq!(
            fs::read_to_string(beside(&file, "saved-1")).unwrap(),
            forged
        );
        let kept = fs::read_to_string(beside(&file, "saved-2")).ok();
        match text.is_empty() {
            true => assert_eq!(kept, None),
            false => {
                assert_eq!(kept.as_deref(), Some(text.as_str()), "{name}");
                says(&notices, "saved-2");
            }
        }
        let log = fs::read_to_string(&file).unwrap();
        assert!(log.contains("log-brought-back"), "the chain says it: {log}");
        let (log, notices) = open(&file);
        assert!(log.close());
        says_nothing_of_a_cut(&said(&notices));
    }
}

#[test]
fn a_log_that_was_brought_back_is_said_to_be_that_and_not_a_disk_that_failed() {
    let directory = Directory::new("brought-back-words");
    let file = directory.file();
    let (log, _notices) = open(&file);
    write(&log, 0..5);
    fs::write(beside(&file, "new"), "a file of somebody else\n").unwrap();
    fs::rename(beside(&file, "new"), &file).unwrap();
    write_again(&log, 5);
    assert!(log.close());
    let words = intact(&file);
    assert!(
        words.contains("1 time(s) somebody deleted or replaced the file"),
        "{words}"
    );
    assert!(!words.contains("the disk failed"), "{words}");
    // No undisturbed run leaves such a log.
    let flags = AuditVerifyFlags {
        files: vec![file.clone()],
        expect_complete: true,
        ..AuditVerifyFlags::default()
    };
    assert_eq!(verify(&flags).0, DAMAGED);
    let html = beside(&file, "html");
    let flags = AuditReportFlags {
        files: vec![file.clone()],
        html: html.clone(),
        ..AuditReportFlags::default()
    };
    report(&flags, &mut Vec::new(), None).unwrap();
    let page = fs::read_to_string(html).unwrap();
    for part in [
        "<td class=\"n\">1</td><th scope=\"row\">times that somebody deleted or replaced the file",
        "<td class=\"n\">0</td><th scope=\"row\">times that the disk failed",
        "No record of this period says that the log could not be written.",
        "somebody deleted or replaced the log&#39;s file, and it was brought back; what stood in its place is now ",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains(&format!("\"aside\":\"{}.saved-1\"", file.display())),
        "{text}"
    );
}

#[test]
fn a_copy_that_stands_in_the_place_of_a_log_that_was_moved_is_no_cut_if_nothing_is_missing() {
    let directory = Directory::new("copied");
    let file = directory.file();
    let (log, notices) = open(&file);
    write(&log, 0..5);
    fs::copy(&file, beside(&file, "copy")).unwrap();
    fs::rename(&file, beside(&file, "aside")).unwrap();
    fs::rename(beside(&file, "copy"), &file).unwrap();
    write_again(&log, 5);
    write(&log, 6..8);
    assert!(log.close());
    each_once(&[&file], 0..8);
    says_nothing_of_a_cut(&said(&notices));
    intact(&file);
}

/// Of that file, the first record has the number that a rotated file is named after already.
#[test]
fn after_an_older_file_was_put_in_the_place_of_the_log_it_is_rotated_and_goes_on() {
    for running in [true, false] {
        let directory = Directory::new("older-in-place");
        let file = directory.file();
        let small = |options: &mut AuditOptions| options.rotate_octets = 3000;
        let (log, notices) = open_with(&file, small).unwrap();
        write(&log, 0..20);
        let older = rotated(&file).unwrap().remove(0);
        let harm = || {
            fs::rename(&file, beside(&file, "aside")).unwrap();
            fs::copy(&older, &file).unwrap();
        };
        let before = rotated(&file).unwrap();
        let (log, notices) = if running {
            harm();
            (log, notices)
        } else {
            assert!(log.close());
            harm();
            open_with(&file, small).unwrap()
        };
        write_again(&log, 20);
        write(&log, 21..40);
        assert!(log.healthy());
        assert!(log.close());
        let notices = said(&notices);
        says(&notices, "audit log was cut");
        assert!(
            !notices.iter().any(|said| said.contains("in the way")),
            "{notices:?}"
        );
        let after = rotated(&file).unwrap();
        assert!(after.len() > before.len() + 1, "{after:?}");
        // The newest file is the last by its name, so the next start finds the end there.
        fs::remove_file(&file).unwrap();
        fs::rename(after.last().unwrap(), &file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("\"record 3"), "{text}");
    }
}

#[test]
fn a_log_is_rotated_to_a_free_name_where_its_own_is_taken_in_any_form() {
    for ending in ["", ".gz", ".zst"] {
        let directory = Directory::new("taken");
        let file = directory.file();
        let small = |options: &mut AuditOptions| options.rotate_octets = 1;
        let (log, _) = open_with(&file, |options| options.rotate_octets = u64::MAX).unwrap();
        assert!(log.close());
        let day = fs::read_to_string(&file).unwrap();
        let day = day.split("\"at\":\"").nth(1).unwrap()[..10].replace('-', "");
        let taken = beside(&file, &format!("{day}.000000000000{ending}"));
        fs::write(&taken, "taken\n").unwrap();
        let (log, notices) = open_with(&file, small).unwrap();
        write(&log, 0..3);
        assert!(log.healthy());
        assert!(log.close());
        let failing = said(&notices);
        assert!(
            !failing.iter().any(|said| said.contains("cannot")),
            "{failing:?}"
        );
        assert_eq!(fs::read_to_string(&taken).unwrap(), "taken\n");
        fs::remove_file(&taken).unwrap();
        each_once(
            &rotated(&file)
                .unwrap()
                .iter()
                .map(PathBuf::as_path)
                .collect::<Vec<_>>(),
            0..2,
        );
        intact(&file);
    }
}

/// Nobody writes a record between the move and the hand-over.
#[test]
fn an_idle_log_that_is_moved_away_before_a_hand_over_or_an_end_is_not_taken_for_a_cut_one() {
    for hand_over in [true, false] {
        let directory = Directory::new("moved-idle");
        let (file, aside) = (directory.file(), directory.0.join("aside"));
        let (old, _notices) = open_with(&file, |options| options.checkpoint_records = 3).unwrap();
        // So that no checkpoint is due any more.
        write(&old, 0..2);
        fs::rename(&file, &aside).unwrap();
        assert!(match hand_over {
            true => old.hand_over(),
            false => old.close(),
        });
        let (new, notices) = open(&file);
        write(&new, 2..3);
        assert!(new.close());
        says_nothing_of_a_cut(&said(&notices));
        let flags = AuditVerifyFlags {
            files: vec![aside, file],
            ..AuditVerifyFlags::default()
        };
        let (code, words) = verify(&flags);
        assert_eq!(code, DONE, "{words}");
        assert!(!words.contains("did not find its log"), "{words}");
    }
}

/// Writes a log, and leaves it as a crash right after a rotation does: the newest records are in a rotated file, which `pack` changes.
/// Returns the name of the changed file, and the rotated one as it was.
fn rotated_and_changed(
    file: &Path,
    key: Option<PathBuf>,
    pack: fn(&[u8]) -> (&'static str, Vec<u8>),
) -> (PathBuf, Vec<u8>) {
    let (log, _notices) = open_with(file, |options| options.key = key).unwrap();
    write(&log, 0..5);
    assert!(log.close());
    let plain = fs::read(file).unwrap();
    let (ending, octets) = pack(&plain);
    let rotated = beside(file, &format!("20261124.000000000000{ending}"));
    fs::write(&rotated, octets).unwrap();
    fs::remove_file(file).unwrap();
    (rotated, plain)
}

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, octets).unwrap();
    packed.finish().unwrap()
}

fn cut_gzip(plain: &[u8]) -> (&'static str, Vec<u8>) {
    let mut packed = gzip(plain);
    packed.truncate(packed.len() - 9);
    (".gz", packed)
}

fn endless_line(plain: &[u8]) -> (&'static str, Vec<u8>) {
    (".gz", gzip(&[plain, &vec![b' '; 40 << 20]].concat()))
}

#[test]
fn what_is_remembered_is_enough_where_the_newest_rotated_file_is_damaged() {
    for (pack, how) in [
        (cut_gzip as fn(&[u8]) -> _, "damaged as a compressed file"),
        (endless_line, "16 MiB without the end of a line"),
    ] {
        for signed in [true, false] {
            let directory = Directory::new("damaged-newest");
            let (file, key) = (directory.file(), directory.key().0);
            let key = signed.then_some(key);
            let (damaged, plain) = rotated_and_changed(&file, key.clone(), pack);
            let (log, notices) = open_with(&file, |options| options.key = key).unwrap();
            write(&log, 5..8);
            assert!(log.close());
            let notices = said(&notices);
            says_nothing_of_a_cut(&notices);
            says(&notices, &damaged.display().to_string());
            says(&notices, how);
            assert!(
                !notices.iter().any(|said| said.contains("lost")),
                "{notices:?}"
            );
            // With the good copy back, the log is whole.
            fs::remove_file(&damaged).unwrap();
            fs::write(damaged.with_extension(""), plain).unwrap();
            let words = intact(&file);
            assert!(!words.contains("lost"), "{words}");
        }
    }
}

#[test]
fn without_what_is_remembered_a_damaged_newest_rotated_file_stops_the_start_for_good_and_says_why()
{
    type Pack = fn(&[u8]) -> (&'static str, Vec<u8>);
    let cases: [(Pack, &str); 3] = [
        (cut_gzip, "damaged as a compressed file"),
        (endless_line, "16 MiB without the end of a line"),
        (|_| ("", vec![b' '; 1 << 20]), "does not end in a record"),
    ];
    for (pack, how) in cases {
        let directory = Directory::new("damaged-newest-stops");
        let file = directory.file();
        let (damaged, _) = rotated_and_changed(&file, None, pack);
        fs::remove_file(beside(&file, "lock")).unwrap();
        match open_with(&file, |_| ()) {
            Err(OpenError::Wrong(words)) => {
                assert!(words.contains(how), "{words}");
                assert!(words.contains(&damaged.display().to_string()), "{words}");
            }
            other => panic!("{:?}", other.err()),
        }
    }
}

/// The file takes no room on the disk, and must take none in memory.
#[test]
fn a_file_without_a_record_is_not_read_into_memory_whatever_its_length_is() {
    for name in ["", "20261124.000000000000"] {
        let directory = Directory::new("sparse");
        let file = directory.file();
        let (log, _notices) = open(&file);
        assert!(log.close());
        let sparse = match name {
            "" => file.clone(),
            name => beside(&file, name),
        };
        fs::remove_file(&file).unwrap();
        fs::remove_file(beside(&file, "lock")).unwrap();
        fs::write(&sparse, "text\n").unwrap();
        let length = 1 << 40;
        fs::OpenOptions::new()
            .write(true)
            .open(&sparse)
            .unwrap()
            .set_len(length)
            .unwrap();
        let error = open_with(&file, |_| ()).err().unwrap();
        assert!(matches!(error, OpenError::Wrong(_)), "{error}");
        assert!(
            error.to_string().contains("512 MiB have no record"),
            "{error}"
        );
        assert_eq!(fs::metadata(&sparse).unwrap().len(), length);
    }
}

#[test]
fn a_file_that_begins_with_nul_is_emptied_only_if_a_power_failure_can_have_left_it() {
    let record = |n: u64| {
        format!(
            "{{\"v\":1,\"prev\":\"{}\",\"seq\":{n},\"at\":\"2026-11-24T06:05:00.123456Z\",\"event\":\"stop\"}}\n",
            "0".repeat(64)
        )
    };
    let records: String = (0..20).map(record).collect();
    let unwritten = |place: std::ops::Range<usize>| {
        let mut octets = records.clone().into_bytes();
        octets[place].fill(0);
        octets
    };
    let left_by_a_crash = [
        vec![0; 4096],
        vec![0; 300],
        unwritten(0..512),
        unwritten(0..1024),
        unwritten(100..512),
        unwritten(100..records.len()),
        b"{\"v\":1,\"pr".to_vec(),
        b"{\"v\":1,\"pr\0\0\0".to_vec(),
    ];
    let something_else = [
        b"\0notes of somebody\n".to_vec(),
        b"\0".repeat(300).into_iter().chain(*b"notes").collect(),
        b"\0".repeat(512).into_iter().chain(*b"notes\n").collect(),
        b"\0"
            .repeat(512)
            .into_iter()
            .chain(*b"}\nnotes\n")
            .collect(),
        unwritten(0..100),
        b"\x7fELF\0\0\0".to_vec(),
    ];
    for (octets, is_torn) in left_by_a_crash
        .map(|octets| (octets, true))
        .into_iter()
        .chain(something_else.map(|octets| (octets, false)))
    {
        let directory = Directory::new("nul");
        let file = directory.file();
        fs::write(&file, &octets).unwrap();
        let shown = String::from_utf8_lossy(&octets).into_owned();
        match (open_with(&file, |_| ()), is_torn) {
            (Ok((log, notices)), true) => {
                assert!(log.close());
                says(
                    &said(&notices),
                    &format!("torn last line of {} octets", octets.len()),
                );
                intact(&file);
            }
            (Err(OpenError::Wrong(words)), false) => {
                assert!(words.contains("not an audit log"), "{words}");
                assert_eq!(fs::read(&file).unwrap(), octets, "{shown:?}");
            }
            (outcome, _) => panic!("{:?} of {shown:?}", outcome.err()),
        }
    }
}
