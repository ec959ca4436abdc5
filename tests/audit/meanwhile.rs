//! Reading a log while the program rotates it, and an administrator compresses or moves its files. Each test changes the files at a
//! moment when the command has begun to read and has most of the log still before it.

use crate::support::{DAMAGED, DONE, Directory, code, message, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, LogTrust, SavedLog, rotated},
    commands::audit as command,
    exit::Exit,
    flags::{AuditReportFlags, AuditShowFlags, AuditVerifyFlags},
};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Exit code: something that may come right by itself.
const AGAIN: u8 = 75;
/// Octets of a file. Commands read some MiB ahead, so a log has several such files before the one that is being written.
const FILE: u64 = 1 << 20;
/// Rotated files of a log when a test begins.
const FILES: usize = 7;

/// A log that is being written.
struct Running {
    log: AuditLog,
    directory: Directory,
    /// Messages that were written.
    messages: u64,
}

impl Running {
    /// With some files already, the last of which has records.
    fn new(name: &str) -> Self {
        let directory = Directory::new(name);
        let log = AuditLog::open(AuditOptions {
            rotate_octets: FILE,
            key: Some(directory.key().0),
            ..options(&directory.file())
        });
        let mut running = Self {
            log: log.unwrap(),
            directory,
            messages: 0,
        };
        running.rotate(FILES);
        running.write(10);
        running
    }

    fn file(&self) -> PathBuf {
        self.directory.file()
    }

    /// All files, oldest first.
    fn files(&self) -> Vec<PathBuf> {
        [rotated(&self.file()).unwrap(), vec![self.file()]].concat()
    }

    /// The files as somebody names them: the one that is written alone, or all.
    fn named(&self, is_alone: bool) -> Vec<PathBuf> {
        match is_alone {
            true => vec![self.file()],
            false => self.files(),
        }
    }

    fn write(&mut self, messages: u64) {
        for _ in 1..messages {
            self.log.append(&message(&self.log, self.messages));
            self.messages += 1;
        }
        wait(self.log.append_durable(&message(&self.log, self.messages))).unwrap();
        self.messages += 1;
    }

    /// Writes until files were rotated so many times.
    fn rotate(&mut self, times: usize) {
        let wanted = rotated(&self.file()).unwrap().len() + times;
        while rotated(&self.file()).unwrap().len() < wanted {
            self.write(300);
        }
    }
}

/// Does something when a command writes to it: a progress bar, or the records that are shown.
struct Hook<F> {
    then: F,
    /// How often it is still done.
    left: usize,
    written: Vec<u8>,
}

impl<F: FnMut()> Hook<F> {
    fn new(left: usize, then: F) -> Self {
        Self {
            then,
            left,
            written: Vec::new(),
        }
    }
}

impl<F: FnMut()> Write for Hook<F> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        // Either begins so.
        if self.left > 0 && matches!(octets.first(), Some(b'\r' | b'{')) {
            self.left -= 1;
            (self.then)();
        }
        self.written.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Verifies, and calls `meanwhile` at most so often while files are read. Returns the exit code and the words printed.
fn verified(files: Vec<PathBuf>, times: usize, meanwhile: impl FnMut()) -> (u8, String) {
    let flags = AuditVerifyFlags {
        files,
        ..AuditVerifyFlags::default()
    };
    let mut hook = Hook::new(times, meanwhile);
    let mut out = Vec::new();
    let result = command::verify(&flags, &mut out, Some(&mut hook));
    assert_ne!(hook.left, times, "the files were read before they changed");
    let words = String::from_utf8(out).unwrap();
    (code(&result), words + &said(&result))
}

fn said(result: &Result<(), Exit>) -> String {
    result
        .as_ref()
        .err()
        .map(Exit::to_string)
        .unwrap_or_default()
}

/// Shows all records, and calls `meanwhile` once while files are read. Returns the exit code, the numbers of the records, and what was
/// said.
fn shown(files: Vec<PathBuf>, meanwhile: impl FnMut()) -> (u8, Vec<u64>, String) {
    let flags = AuditShowFlags {
        files,
        json: true,
        ..AuditShowFlags::default()
    };
    let (mut hook, mut errors) = (Hook::new(1, meanwhile), Vec::new());
    let result = command::show(&flags, &mut hook, &mut errors);
    let errors = String::from_utf8(errors).unwrap();
    (
        code(&result),
        numbers(&hook.written),
        errors + &said(&result),
    )
}

fn numbers(lines: &[u8]) -> Vec<u64> {
    let lines = str::from_utf8(lines).unwrap().lines();
    let number =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64();
    lines.map(|line| number(line).unwrap()).collect()
}

/// The number of records in these files.
fn records(files: &[PathBuf]) -> u64 {
    let lines = |file| {
        fs::read(file)
            .unwrap()
            .iter()
            .filter(|&&octet| octet == b'\n')
            .count()
    };
    files.iter().map(lines).sum::<usize>() as u64
}

#[track_caller]
fn are_all_from_the_first_on(numbers: &[u64], at_least: u64) {
    let gap = numbers
        .iter()
        .zip(0..)
        .find(|(found, wanted)| *found != wanted);
    assert_eq!(gap, None, "{} records", numbers.len());
    assert!(
        numbers.len() as u64 >= at_least,
        "{} of {at_least}",
        numbers.len()
    );
}

/// As `gzip` does it: the compressed file is complete before the plain one goes.
fn compress(file: &Path) {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(&fs::read(file).unwrap()).unwrap();
    let packed = format!("{}.gz", file.display());
    fs::write(&packed, writer.finish().unwrap()).unwrap();
    fs::remove_file(file).unwrap();
}

/// Compresses the rotated files that are not compressed yet.
fn compress_all(file: &Path) {
    let files = rotated(file).unwrap();
    let plain = files
        .iter()
        .filter(|file| file.extension().is_none_or(|ending| ending != "gz"));
    plain.for_each(|file| compress(file));
}

#[test]
fn files_that_are_named_one_by_one_are_intact_however_often_the_newest_is_rotated_meanwhile() {
    for rotations in [1, 2, 3] {
        let mut running = Running::new("named-rotated");
        let (code, words) = verified(running.files(), 1, || running.rotate(rotations));
        assert_eq!(code, DONE, "{rotations}: {words}");
    }
}

#[test]
fn a_file_that_was_rotated_after_the_shell_had_named_the_files_is_read_too() {
    let mut running = Running::new("named-before");
    let named = running.files();
    running.rotate(2);
    let wanted = records(&running.files());
    let (code, words) = verify(&AuditVerifyFlags {
        files: named.clone(),
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{words}");
    let (code, numbers, words) = shown(named.clone(), || ());
    assert_eq!((code, words.as_str()), (DONE, ""));
    are_all_from_the_first_on(&numbers, wanted);
    // A file that is older than one that was named was left out by whoever named them.
    let (code, words) = verify(&AuditVerifyFlags {
        files: named[1..].to_vec(),
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DAMAGED, "{words}");
}

#[test]
fn a_log_that_is_rotated_each_time_that_it_is_read_is_intact() {
    let mut running = Running::new("rotated-always");
    let mut drawn = 0;
    let (code, words) = verified(vec![running.file()], usize::MAX, || {
        // The bar is drawn more often than that in one reading.
        drawn += 1;
        if drawn % 4 == 1 && drawn < 60 {
            running.rotate(1);
        }
    });
    assert_eq!(code, DONE, "{words}");
}

#[test]
fn a_log_whose_files_are_compressed_while_it_is_verified_is_intact() {
    for is_alone in [true, false] {
        let mut running = Running::new("verified-compressed");
        let files = running.named(is_alone);
        let (code, words) = verified(files, 1, || {
            running.rotate(1);
            compress_all(&running.file());
        });
        assert_eq!(code, DONE, "{words}");
    }
}

/// The newest of its old files grows whenever a part of the log was read, and is never complete.
#[test]
fn a_log_whose_files_are_just_being_copied_is_not_called_damaged_but_changed_meanwhile() {
    let running = Running::new("copied");
    assert!(running.log.close());
    let copied = rotated(&running.file()).unwrap().pop().unwrap();
    let whole = fs::read(&copied).unwrap();
    let mut octets = whole.len() / 2;
    fs::write(&copied, &whole[..octets]).unwrap();
    // Each reading draws the bar several times.
    let (code, words) = verified(vec![running.file()], usize::MAX, || {
        let more = &whole[octets..][..2000]; // more than a record
        let mut copy = fs::OpenOptions::new().append(true).open(&copied).unwrap();
        copy.write_all(more).unwrap();
        octets += more.len();
    });
    assert_eq!(code, AGAIN, "{words}");
    assert!(
        words.starts_with("audit verify: the log changed while it was read"),
        "{words}"
    );
    let (code, words) = verify(&AuditVerifyFlags {
        files: vec![running.file()],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DAMAGED, "it is not copied any more: {words}");
    let mut is_first = true;
    let (code, words) = verified(vec![running.file()], usize::MAX, || {
        if std::mem::take(&mut is_first) {
            fs::write(&copied, &whole).unwrap();
        }
    });
    assert_eq!(code, DONE, "now it was: {words}");
}

#[test]
fn damage_is_told_though_a_rotated_files_name_is_a_link_to_the_file_that_is_just_written() {
    type Link = fn(&Path, &Path) -> io::Result<()>;
    for link in [
        (|file, name| fs::hard_link(file, name)) as Link,
        |file, name| std::os::unix::fs::symlink(file, name),
    ] {
        let mut running = Running::new("linked");
        let file = running.file();
        let lacks = rotated(&file).unwrap().remove(3);
        fs::remove_file(&lacks).unwrap();
        link(&file, &lacks).unwrap();
        let (code, words) = verified(vec![file], usize::MAX, || running.write(1));
        assert_eq!(code, DAMAGED, "{words}");
        assert!(words.contains("NOT INTACT"), "{words}");
    }
}

/// A file behind the damage grows whenever a part of the log was read.
#[test]
fn damage_that_is_found_twice_at_the_same_place_is_told_though_files_change_all_the_time() {
    let mut running = Running::new("decoy");
    let mut files = rotated(&running.file()).unwrap();
    fs::remove_file(files.remove(3)).unwrap();
    let mut decoy = fs::OpenOptions::new().append(true).open(&files[5]).unwrap();
    let (code, words) = verified(vec![running.file()], usize::MAX, || {
        running.write(1);
        decoy.write_all(b"x").unwrap();
    });
    assert_eq!(code, DAMAGED, "{words}");
    assert!(words.contains("NOT INTACT"), "{words}");
}

#[test]
fn a_file_that_is_moved_away_meanwhile_is_no_wrong_argument_and_nothing_is_left_out_in_silence() {
    let running = Running::new("moved-away");
    let last = rotated(&running.file()).unwrap().pop().unwrap();
    let elsewhere = running.directory.0.join("elsewhere");
    let (code, _, words) = shown(vec![running.file()], || {
        fs::rename(&last, &elsewhere).unwrap();
    });
    assert_eq!(code, AGAIN, "{words}");
    assert!(
        words.contains("the log changed while it was read"),
        "{words}"
    );
    assert!(words.contains(&last.display().to_string()), "{words}");
}

#[test]
fn show_leaves_out_no_record_of_a_log_that_is_rotated_meanwhile() {
    for is_alone in [true, false] {
        let mut running = Running::new("shown");
        let files = running.named(is_alone);
        let before = records(&running.files());
        let (code, numbers, words) = shown(files, || running.rotate(2));
        assert_eq!((code, words.as_str()), (DONE, ""));
        are_all_from_the_first_on(&numbers, before);
    }
}

#[test]
fn show_reads_files_that_are_compressed_meanwhile_in_their_new_form() {
    let mut running = Running::new("shown-compressed");
    let before = records(&running.files());
    let (code, numbers, words) = shown(vec![running.file()], || {
        running.rotate(1);
        compress_all(&running.file());
    });
    assert_eq!((code, words.as_str()), (DONE, ""));
    are_all_from_the_first_on(&numbers, before);
}

#[test]
fn show_waits_for_no_end_of_the_line_that_is_just_being_written() {
    let running = Running::new("unfinished");
    assert!(running.log.close());
    let (newest, older) = (running.file(), rotated(&running.file()).unwrap().remove(1));
    let before = records(&running.files());
    let cut = |file: &Path| {
        let text = fs::read(file).unwrap();
        fs::write(file, &text[..text.len() - 100]).unwrap();
    };
    cut(&newest);
    let (code, numbers, words) = shown(vec![newest.clone()], || ());
    assert_eq!((code, words.as_str()), (DONE, ""));
    are_all_from_the_first_on(&numbers, before - 1);
    // In another file nobody writes any more.
    cut(&older);
    let (code, _, words) = shown(vec![newest], || ());
    assert_eq!(code, DAMAGED);
    assert!(words.contains("this is no record"), "{words}");
}

#[test]
fn a_report_counts_each_message_of_a_log_that_is_rotated_and_compressed_meanwhile() {
    let mut running = Running::new("reported");
    let (html, json) = (
        running.directory.0.join("html"),
        running.directory.0.join("json"),
    );
    let flags = AuditReportFlags {
        files: running.files(),
        html,
        json: Some(json.clone()),
        ..AuditReportFlags::default()
    };
    let before = records(&running.files());
    let mut hook = Hook::new(1, || {
        running.rotate(2);
        compress_all(&running.file());
    });
    let result = command::report(&flags, &mut Vec::new(), Some(&mut hook));
    assert_eq!((code(&result), said(&result).as_str()), (DONE, ""));
    assert_eq!(hook.left, 0);
    let twin: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let good = twin["logs"][0]["good_records"].as_u64().unwrap();
    assert!(good >= before, "{good} of {before}");
}

#[test]
fn a_proof_is_made_from_a_log_that_is_rotated_and_compressed_meanwhile() {
    let mut running = Running::new("proved");
    let mut wanted = 0;
    let last = records(&running.files()) - 1;
    let mut logs = SavedLog::find(&[running.file()]).unwrap();
    let (log, mut is_first) = (logs.remove(0), true);
    let mut found = 0;
    let proofs = log.prove(|record| {
        if std::mem::take(&mut is_first) {
            running.rotate(2);
            compress_all(&running.file());
        }
        wanted += 1;
        found = found.max(record.number());
        record.number() == 100 || record.number() == last - 5
    });
    let proofs = proofs.unwrap();
    assert!(
        found >= last && wanted == found + 1,
        "{wanted} to {found}, {last} at first"
    );
    // The last one was signed when its file was put aside, at the latest.
    assert_eq!(proofs.len(), 2);
}

#[test]
fn another_program_gets_the_records_that_were_there_when_it_found_the_log() {
    let mut running = Running::new("library");
    let before = records(&running.files());
    let log = SavedLog::find(&[running.file()]).unwrap().remove(0);
    running.rotate(2);
    compress_all(&running.file());
    let (mut records, mut numbers) = (log.records(), Vec::new());
    while let Some(record) = records.next().unwrap() {
        numbers.push(record.number());
    }
    are_all_from_the_first_on(&numbers, before);
    assert!(log.verify(&LogTrust::default()).unwrap().is_intact());
}

/// Files are rotated after every few records, and compressed right behind that.
#[test]
fn under_a_storm_of_rotations_no_reader_finds_damage_or_a_gap() {
    let directory = Directory::new("storm");
    let file = directory.file();
    let log = AuditLog::open(AuditOptions {
        rotate_octets: 3000,
        ..options(&file)
    })
    .unwrap();
    let write = |rounds: u64| {
        for n in 0..rounds * 10 {
            match n % 10 {
                9 => drop(wait(log.append_durable(&stop(n))).unwrap()),
                _ => log.append(&stop(n)),
            }
        }
    };
    write(30);
    let is_over = AtomicBool::new(false);
    let mut outcomes = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            write(300);
            is_over.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                compress_all(&file);
            }
        });
        loop {
            let mut files = vec![file.clone()];
            if outcomes.len() % 4 == 0 {
                files.extend(rotated(&file).unwrap());
            }
            let (code, words) = verify(&AuditVerifyFlags {
                files: files.clone(),
                ..AuditVerifyFlags::default()
            });
            outcomes.push((code, format!("verify: {words}")));
            let (code, numbers, words) = shown(files, || ());
            let gap = numbers
                .iter()
                .zip(0..)
                .find(|(found, wanted)| *found != wanted);
            let words = format!("show: {words}, {gap:?}");
            outcomes.push((if gap.is_some() { DAMAGED } else { code }, words));
            if is_over.load(Ordering::Relaxed) {
                break;
            }
        }
    });
    assert!(log.close());
    let bad = outcomes
        .iter()
        .filter(|(code, _)| ![DONE, AGAIN].contains(code));
    assert_eq!(bad.collect::<Vec<_>>(), Vec::<&(u8, String)>::new());
    assert!(outcomes.iter().any(|(code, _)| *code == DONE));
}
