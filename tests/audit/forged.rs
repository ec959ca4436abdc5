//! What somebody can do who writes a log anew, or who has the key: each part of a record that is there for verification must be what it
//! says, also where nothing is signed. The verifier that knows the documentation only says the same.

use crate::support::{DAMAGED, DONE, Directory, code, options, stop, verify, wait};
use data_encoding::BASE64;
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, Hash, Head, rotated},
    commands::audit as command,
    exit::Exit,
    flags::{AuditReportFlags, AuditVerifyFlags},
};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

/// The verifier that knows the page only.
fn independent(arguments: &[&str], files: &[PathBuf]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit/stranger.py");
    Command::new("python3")
        .arg(script)
        .arg("log")
        .args(arguments)
        .args(files)
        .output()
        .expect("python3 is there")
}

/// A log that somebody writes by hand: each record is what stands behind its time.
struct Forgery {
    directory: Directory,
    head: Head,
    lines: Vec<u8>,
    tree: Vec<Hash>,
}

const OPENED: &str =
    r#""event":"log-opened","origin":"mail.example/outbound","key":null,"epoch":null}"#;

impl Forgery {
    /// Begins with a `log-opened`.
    fn new(name: &str) -> Self {
        let mut forgery = Self::bare(name);
        forgery.add(OPENED);
        forgery
    }

    fn bare(name: &str) -> Self {
        Self {
            directory: Directory::new(name),
            head: Head::default(),
            lines: Vec::new(),
            tree: Vec::new(),
        }
    }

    /// Adds a record that follows the one before.
    fn add(&mut self, rest: &str) -> &mut Self {
        let line = format!(
            r#"{{"v":1,"prev":"{}","seq":{},"at":"2026-11-24T06:05:00.000000Z",{rest}"#,
            self.head.hash, self.head.size
        );
        self.head.size += 1;
        self.head.hash = Hash::of(line.as_bytes());
        self.tree.push(self.head.hash);
        self.lines.extend_from_slice(line.as_bytes());
        self.lines.push(b'\n');
        self
    }

    fn stops(&mut self, number: usize) -> &mut Self {
        for n in 0..number {
            self.add(&format!(r#""event":"reload","n":{n}}}"#));
        }
        self
    }

    fn checkpoint(&mut self) -> &mut Self {
        let note = self.note();
        let note = note.replace('\n', "\\n");
        self.add(&format!(r#""event":"checkpoint","note":"{note}"}}"#))
    }

    fn note(&self) -> String {
        let (size, root) = (self.head.size, BASE64.encode(&root(&self.tree).0));
        format!("mail.example/outbound\n{size}\n{root}\n\n")
    }

    /// The compact range of the first records.
    fn range(&self, first: usize) -> String {
        let (mut octets, mut at) = (Vec::new(), 0);
        for bit in (0..64).rev().map(|bit| 1_usize << bit) {
            if first & bit != 0 {
                octets.extend_from_slice(&root(&self.tree[at..at + bit]).0);
                at += bit;
            }
        }
        BASE64.encode(&octets)
    }

    /// Takes these records out of the file, and of nothing else.
    fn without(&mut self, records: std::ops::Range<usize>) -> &mut Self {
        let lines: Vec<&[u8]> = self.lines.split_inclusive(|b| *b == b'\n').collect();
        self.lines = [
            lines[..records.start].concat(),
            lines[records.end..].concat(),
        ]
        .concat();
        self
    }

    fn judged_with(&self, change: impl FnOnce(&mut AuditVerifyFlags)) -> (u8, String) {
        fs::write(self.directory.file(), &self.lines).unwrap();
        let mut flags = AuditVerifyFlags {
            files: vec![self.directory.file()],
            ..AuditVerifyFlags::default()
        };
        change(&mut flags);
        verify(&flags)
    }

    /// Both verifiers call it damage, this one in these words.
    #[track_caller]
    fn is_damaged(&self, words: &str) {
        let (code, said) = self.judged_with(|_| ());
        assert_eq!(code, DAMAGED, "{said}");
        let first = said.lines().next().unwrap_or_default();
        assert!(first.contains(words), "{said}");
        let other = independent(&[], &[self.directory.file()]);
        let said = String::from_utf8_lossy(&other.stdout) + String::from_utf8_lossy(&other.stderr);
        assert_eq!(other.status.code(), Some(1), "{said}");
    }

    #[track_caller]
    fn is_intact(&self) -> String {
        let (code, said) = self.judged_with(|_| ());
        assert_eq!(code, DONE, "{said}");
        let other = independent(&[], &[self.directory.file()]);
        assert!(
            other.status.success(),
            "{}",
            String::from_utf8_lossy(&other.stdout)
        );
        said
    }
}

/// The root of a tree (RFC 6962 §2.1) over records with these hashes.
fn root(records: &[Hash]) -> Hash {
    match records {
        [] => Hash::of(b""),
        [one] => Hash::of(&[&[0], &one.0[..]].concat()),
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            Hash::of(&[&[1], &root(left).0[..], &root(right).0[..]].concat())
        }
    }
}

#[test]
fn a_line_that_is_no_json_is_damage_whatever_its_event_is() {
    for rest in [
        r#""event":"message",}"#,
        r#""event":"message","a":01}"#,
        r#""event":"message","a":"}"#,
        r#""event":"message","a":1}}"#,
        r#""event":"message", "a":1}"#,
        r#""event":"message","a":[[}"#,
        r#""event":"mess\u0061ge"}"#,
    ] {
        Forgery::new("no-json")
            .add(rest)
            .is_damaged(":2: edited: this is no record");
    }
}

#[test]
fn a_record_in_which_a_field_stands_twice_is_damage() {
    for rest in [
        r#""event":"message","verdict":"refused","verdict":"authorised"}"#,
        r#""event":"message","seq":5}"#,
        r#""event":"message","event":"stop"}"#,
        r#""event":"message","peer":{"names":[{"a":1,"b":2,"a":3}]}}"#,
        r#""event":"message","a":1,"\u0061":2}"#,
    ] {
        let mut log = Forgery::new("twice");
        log.add(r#""event":"message","verdict":"refused"}"#)
            .add(rest);
        log.is_damaged("stands twice in one object");
    }
}

#[test]
fn a_range_must_be_that_of_the_records_whether_the_record_before_it_is_the_last_of_them_or_not() {
    for behind in [0, 1, 7] {
        let mut log = Forgery::new("range");
        log.stops(12);
        let range = log.range(13);
        log.stops(behind);
        let record =
            |range: &str| format!(r#""event":"log-continued","first":13,"range":"{range}"}}"#);
        let mut wrong = BASE64.decode(range.as_bytes()).unwrap();
        wrong[40] ^= 1;
        let mut forged = Forgery::new("range-forged");
        forged
            .stops(12 + behind)
            .add(&record(&BASE64.encode(&wrong)));
        forged.is_damaged("rewritten: this file goes on another log than the one whose 13 records");
        log.add(&record(&range)).is_intact();
    }
    // Of records that are not there yet nobody can tell.
    let mut log = Forgery::new("range-later");
    let range = BASE64.encode(&[7; 32]);
    log.add(&format!(
        r#""event":"log-continued","first":64,"range":"{range}"}}"#
    ));
    log.is_damaged("edited: it tells of 64 records before it, and there are 1");
}

/// A `log-cut` that says that there were `first` records, of which `found` were found.
fn cut_record(log: &Forgery, first: usize, found: usize) -> String {
    let found_hash = found
        .checked_sub(1)
        .map_or(Hash::default(), |at| log.tree[at]);
    format!(
        r#""event":"log-cut","first":{first},"range":"{}","found":{found},"found_hash":"{found_hash}","running":false}}"#,
        log.range(first)
    )
}

#[test]
fn a_log_cut_excuses_the_gap_that_it_names_and_no_other() {
    let cut = |said: std::ops::Range<usize>, real: std::ops::Range<usize>, later: usize| {
        let mut log = Forgery::new("gap");
        log.stops(30);
        log.tree.truncate(31);
        let record = cut_record(&log, said.end, said.start);
        log.stops(later).add(&record).stops(3).without(real);
        log
    };
    // The gap that it names: the rest is judged, and it is told as a cut.
    cut(20..31, 20..31, 0).is_damaged("cut: records 20 to 30 were cut off");
    cut(20..31, 20..31, 2).is_damaged("cut: records 20 to 30 were cut off");
    // Files that were elsewhere are here now.
    cut(20..31, 25..31, 0).is_damaged("cut: records 25 to 30 were cut off");
    // More is missing than it names, or something else.
    cut(20..31, 15..31, 0).is_damaged("missing: records 15 to 30 are not there");
    cut(20..31, 5..10, 0).is_damaged("missing: records 5 to 9 are not there");
    let mut log = Forgery::new("gap-forged");
    log.stops(30);
    let record = cut_record(&log, 20, 20);
    log.stops(30).add(&record).without(10..20);
    log.is_damaged("missing: records 10 to 19 are not there");
    // What was found was something else than what stands before the gap.
    let mut log = Forgery::new("gap-other");
    log.stops(30);
    let record =
        cut_record(&log, 31, 20).replace(&log.tree[19].to_string(), &Hash::of(b"x").to_string());
    log.add(&record).without(20..31);
    log.is_damaged("missing: records 20 to 30 are not there");
}

/// Each gap once made verification read the log from its beginning.
#[test]
fn a_log_with_very_many_gaps_is_judged_to_its_end() {
    let gaps = 4000;
    let mut log = Forgery::new("gaps-many");
    let mut kept = Vec::new();
    for _ in 0..gaps {
        let found = log.tree.len();
        log.stops(1);
        let (begin, first) = (log.lines.len(), log.tree.len());
        let record = cut_record(&log, first, found);
        log.add(&record);
        kept.push(log.lines[begin..].to_vec());
    }
    let opened: Vec<u8> = log
        .lines
        .split_inclusive(|b| *b == b'\n')
        .next()
        .unwrap()
        .to_vec();
    log.lines = [opened, kept.concat()].concat();
    let (code, said) = log.judged_with(|_| ());
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains(&format!("(0 to {})", 2 * gaps)), "{said}");
}

#[test]
fn a_log_opened_must_name_the_log_and_keys_of_that_name() {
    let key = |name: &str| {
        let typed = [&[1][..], &[7; 32]].concat();
        let Hash([a, b, c, d, ..]) = Hash::of(&[name.as_bytes(), b"\n", &typed].concat());
        format!(
            "{name}+{a:02x}{b:02x}{c:02x}{d:02x}+{}",
            BASE64.encode(&typed)
        )
    };
    for rest in [
        r#""event":"log-opened","key":null,"epoch":null}"#.to_owned(),
        r#""event":"log-opened","origin":null,"key":null,"epoch":null}"#.to_owned(),
        r#""event":"log-opened","origin":"","key":null,"epoch":null}"#.to_owned(),
        r#""event":"log-opened","key":null,"epoch":null,"lost":0}"#.to_owned(),
        format!(r#""event":"log-opened","origin":"a/outbound","key":"{}","epoch":null}}"#, key("b/outbound")),
        r#""event":"log-opened","origin":"a/outbound","key":"a/outbound+00000000+AAAA","epoch":null}"#.to_owned(),
    ] {
        Forgery::bare("opened").add(&rest).is_damaged("edited: ");
    }
    let mut recovered = Forgery::new("recovered");
    recovered.add(r#""event":"log-recovered","since":"x","error":"y"}"#);
    recovered.is_damaged("edited: it does not say how many records were lost");
}

#[test]
fn what_others_said_must_be_what_they_say_also_where_nobody_can_check_it() {
    let seconds = 1_795_500_300_u64;
    let time = "2026-11-24T06:05:00.000000Z";
    let line = |length: usize, seconds: u64| {
        let blob = [&[1, 2, 3, 4][..], &seconds.to_be_bytes(), &[5; 64]].concat();
        format!(
            "\u{2014} north.example/w {}",
            BASE64.encode(&blob[..length])
        )
    };
    let cosigned = |size: u64, time: &str, line: &str| {
        format!(r#""event":"cosigned","size":{size},"time":"{time}","line":"{line}"}}"#)
    };
    let mut good = Forgery::new("cosigned");
    good.checkpoint()
        .add(&cosigned(1, time, &line(76, seconds)))
        .is_intact();
    let stamp = |size: u64, token: &str| {
        format!(
            r#""event":"stamp","size":{size},"time":"{time}","tsa":"http://t/","token":"{token}"}}"#
        )
    };
    for (rest, words) in [
        (
            cosigned(1, time, "garbage"),
            "this is no signature of a witness",
        ),
        (
            cosigned(1, time, &line(75, seconds)),
            "this is no signature of a witness",
        ),
        (
            cosigned(1, time, &line(76, seconds).replace("north", "n+rth")),
            "this is no signature of a witness",
        ),
        (
            cosigned(1, time, &line(76, seconds + 1)),
            "signed at another time",
        ),
        (
            cosigned(0, time, &line(76, seconds)),
            "rewritten: it is about record 0 as a checkpoint",
        ),
        (
            cosigned(2, time, &line(76, seconds)),
            "edited: it is about a checkpoint of 2 records, and only 2",
        ),
        (
            r#""event":"cosigned","size":1}"#.to_owned(),
            "edited: this is no record",
        ),
        (
            stamp(1, "garbage"),
            "edited: this time-stamp cannot be read",
        ),
        (stamp(1, "AAAA"), "edited: this time-stamp cannot be read"),
        (
            r#""event":"not-anchored"}"#.to_owned(),
            "edited: this is no record",
        ),
        (
            r#""event":"checkpoint","note":"garbage"}"#.to_owned(),
            "edited: this checkpoint has no note",
        ),
    ] {
        let mut log = Forgery::new("said");
        log.checkpoint().add(&rest).is_damaged(words);
    }
}

/// A log in several files.
fn rotated_log(directory: &Directory, records: u64, octets: u64) -> Vec<PathBuf> {
    let log = AuditLog::open(AuditOptions {
        rotate_octets: octets,
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..records {
        match n % 100 {
            99 => drop(wait(log.append_durable(&stop(n))).unwrap()),
            _ => log.append(&stop(n)),
        }
    }
    log.close();
    let mut files = rotated(&directory.file()).unwrap();
    files.push(directory.file());
    files
}

fn first_record(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let rest = text.split_once("\"seq\":").unwrap().1;
    rest.split_once(',').unwrap().0.parse().unwrap()
}

#[test]
fn from_begins_at_the_file_that_begins_with_the_record_and_else_says_so() {
    let directory = Directory::new("from-inside");
    let files = rotated_log(&directory, 2000, 60_000);
    assert!(files.len() > 3, "{}", files.len());
    let first = first_record(&files[2]);
    let from = |from: u64| {
        verify(&AuditVerifyFlags {
            files: files.clone(),
            from,
            ..AuditVerifyFlags::default()
        })
    };
    let (code, said) = from(first);
    assert_eq!(code, DONE, "{said}");
    let told = format!("2 file(s) with records before {first} were not read, as --from says");
    assert!(said.contains(&told), "{said}");
    let (code, said) = from(first + 1);
    assert_eq!(code, 78, "{said}");
    let told = format!(
        "record {} does not begin a file here: give --from the first record of one, such as {first} of",
        first + 1
    );
    assert!(said.contains(&told), "{said}");
    let strange = |from: u64| independent(&["--from", &from.to_string()], &files);
    assert!(strange(first).status.success());
    assert_eq!(strange(first + 1).status.code(), Some(2));
}

/// Rotates the log, as the program does, as soon as anything is shown.
struct Rotating<'a> {
    file: PathBuf,
    to: PathBuf,
    next: &'a [u8],
    is_done: bool,
}

impl Write for Rotating<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.is_done, true) {
            fs::rename(&self.file, &self.to)?;
            fs::write(&self.file, self.next)?;
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_is_rotated_while_it_is_verified_lacks_nothing() {
    let directory = Directory::new("live");
    let files = rotated_log(&directory, 60_000, 4 << 20);
    let [older @ .., to, file] = &files[..] else {
        panic!("{} files", files.len())
    };
    assert!(!older.is_empty());
    // It knows the end of the last file, which a log has not before its rotation.
    fs::remove_file(format!("{}.lock", file.display())).unwrap();
    let explicit = [older, std::slice::from_ref(file)].concat();
    for named in [vec![file.clone()], explicit] {
        // As it was before the last rotation.
        let next = fs::read(file).unwrap();
        fs::rename(to, file).unwrap();
        let mut rotating = Rotating {
            file: file.clone(),
            to: to.clone(),
            next: &next,
            is_done: false,
        };
        let flags = AuditVerifyFlags {
            files: named,
            ..AuditVerifyFlags::default()
        };
        let mut out = Vec::new();
        let result = command::verify(&flags, &mut out, Some(&mut rotating));
        let said = String::from_utf8(out).unwrap();
        assert_eq!(code(&result), DONE, "{said}");
        // It is read as it was when its files were listed.
        let told = format!("in {} files", files.len() - 1);
        assert!(rotating.is_done && said.contains(&told), "{said}");
    }
}

/// Writes a log whose clock goes on by ten minutes with each record, of which each has a checkpoint.
fn hourly(directory: &Directory, key: PathBuf, hybrid: bool) {
    static SECONDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    fn clock() -> SystemTime {
        let seconds = SECONDS.load(std::sync::atomic::Ordering::SeqCst);
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_500_300 + seconds)
    }
    let mut options = AuditOptions {
        key: Some(key),
        clock,
        checkpoint_records: 1,
        ..options(&directory.file())
    };
    if !hybrid {
        options.hybrid_every = None;
    }
    let log = AuditLog::open(options).unwrap();
    for n in 0..40 {
        SECONDS.fetch_add(600, std::sync::atomic::Ordering::SeqCst);
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
}

#[test]
fn an_ml_dsa_signature_that_was_due_and_is_not_there_is_counted_by_whoever_has_the_key() {
    let directory = Directory::new("hybrid-missing");
    let (key, public) = directory.key();
    let hybrid = public.replace(".pub", ".ml-dsa.pub");
    let judged = |expect_complete: bool| {
        verify(&AuditVerifyFlags {
            files: vec![directory.file()],
            key: vec![public.clone(), hybrid.clone()],
            expect_complete,
            ..AuditVerifyFlags::default()
        })
    };
    hourly(&directory, key.clone(), true);
    let (_, said) = judged(false);
    assert!(
        said.contains("ML-DSA-44 too") && !said.contains("more were due"),
        "{said}"
    );
    // Whoever breaks Ed25519 leaves them out of a run.
    hourly(&directory, key, false);
    let (code, said) = judged(false);
    assert_eq!(code, DONE, "{said}");
    assert!(
        said.contains("6 more were due and have no such signature"),
        "{said}"
    );
    assert_eq!(judged(true).0, DAMAGED);
    // So does the page, and its twin for programs.
    let (html, json) = (directory.0.join("page"), directory.0.join("twin"));
    let flags = AuditReportFlags {
        files: vec![directory.file()],
        key: vec![public.clone(), hybrid.clone()],
        html: html.clone(),
        json: Some(json.clone()),
        ..AuditReportFlags::default()
    };
    command::report(&flags, &mut io::sink(), None).unwrap();
    let page = fs::read_to_string(html).unwrap();
    let row =
        "<td class=\"n\">6</td><th scope=\"row\">ML-DSA signatures that were due and are not there";
    assert!(page.contains(row), "{page}");
    let twin: serde_json::Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(twin["logs"][0]["breaks"]["ml-dsa-missing"], 6);
    let mut files = rotated(&directory.file()).unwrap();
    files.push(directory.file());
    let other = independent(&["--key", &public], &files);
    let said = String::from_utf8_lossy(&other.stdout) + String::from_utf8_lossy(&other.stderr);
    assert!(other.status.success(), "{said}");
    assert!(
        said.contains("6 checkpoints lack the signature by ML-DSA"),
        "{said}"
    );
}

#[test]
fn an_answer_that_is_no_has_the_code_of_no_and_words() {
    let no = Exit::NoBecause("it is not there".into());
    assert_eq!(
        (no.code(), no.to_string()),
        (1, "it is not there".to_owned())
    );
}
