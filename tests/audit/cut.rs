//! A log whose end was cut off, or in whose place another one was put, gives itself away. What a crash leaves does not.

use crate::support::{DAMAGED, DONE, Directory, intact, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, Notice, rotated},
    flags::AuditVerifyFlags,
    metrics::{LOG_CUTS, Metrics},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

/// Opens a log that tells its notices and counts.
fn open_with(
    file: &Path,
    change: impl FnOnce(&mut AuditOptions),
) -> (AuditLog, Receiver<Notice>, Arc<Metrics>) {
    let (sender, notices) = channel();
    let metrics = Arc::new(Metrics::default());
    let mut options = AuditOptions {
        notice: Box::new(move |notice| sender.send(notice).unwrap_or_default()),
        metrics: Arc::clone(&metrics),
        retry_after: Duration::from_millis(1),
        ..options(file)
    };
    change(&mut options);
    (AuditLog::open(options).unwrap(), notices, metrics)
}

/// Opens the log, appends records, and closes it.
fn run(file: &Path, records: std::ops::Range<u64>) -> (Vec<Notice>, u64) {
    let (log, notices, metrics) = open_with(file, |_| ());
    for n in records {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    (notices.try_iter().collect(), metrics.total(LOG_CUTS))
}

fn cut_in(notices: &[Notice]) -> Option<(u64, u64)> {
    notices.iter().find_map(|notice| match notice {
        Notice::Cut { expected, found } => Some((*expected, *found)),
        _ => None,
    })
}

fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.split_inclusive('\n').map(str::to_owned).collect()
}

fn lock(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.lock", file.display()))
}

fn verified(files: &[PathBuf], keys: &[&str]) -> (u8, String) {
    verify(&AuditVerifyFlags {
        files: files.to_vec(),
        key: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..AuditVerifyFlags::default()
    })
}

/// Writes a log of ten records and more about itself, does that to it, starts again, and returns what `verify` says.
#[track_caller]
fn found_after(name: &str, harm: impl FnOnce(&Path), expected: &str) -> String {
    let directory = Directory::new(name);
    let file = directory.file();
    run(&file, 0..10);
    let size = lines(&file).len() as u64;
    harm(&file);
    let (notices, cuts) = run(&file, 10..12);
    let (knew, found) = cut_in(&notices).expect("the program's log says it");
    assert_eq!((knew, cuts), (size, 1), "{notices:?}");
    assert!(found != knew || expected.contains("replaced"), "{found}");
    let (code, said) = verified(std::slice::from_ref(&file), &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains(expected), "{said}");
    // It stays so: the gap is in the chain.
    run(&file, 12..14);
    fs::remove_file(lock(&file)).unwrap();
    let (code, later) = verified(std::slice::from_ref(&file), &[]);
    assert_eq!(code, DAMAGED, "{later}");
    assert!(later.contains(expected), "{later}");
    fs::read_to_string(&file).unwrap()
}

fn cut(file: &Path, records: usize) {
    let mut lines = lines(file);
    lines.truncate(lines.len() - records);
    fs::write(file, lines.concat()).unwrap();
}

#[test]
fn three_records_that_were_cut_off_before_a_restart_are_missed() {
    let text = found_after(
        "cut-three",
        |file| cut(file, 3),
        "cut: records 10 to 12 were cut off while the program did not run; the log says so itself",
    );
    assert!(text.contains(r#""event":"log-cut","first":13,"#), "{text}");
    assert!(text.contains(r#""found":10,"#), "{text}");
}

#[test]
fn an_emptied_file_is_missed() {
    found_after(
        "cut-emptied",
        |file| fs::write(file, "").unwrap(),
        "cut: records 0 to 12 were cut off",
    );
}

#[test]
fn a_missing_file_is_missed() {
    found_after(
        "cut-missing",
        |file| fs::remove_file(file).unwrap(),
        "cut: records 0 to 12 were cut off",
    );
}

#[test]
fn an_older_copy_that_was_put_back_is_not_taken_for_the_log() {
    let older = |file: &Path| {
        let older = lines(file);
        fs::write(file, older[..5].concat()).unwrap();
    };
    found_after("cut-older", older, "cut: records 5 to 12 were cut off");
}

#[test]
fn another_log_that_was_put_in_place_is_not_taken_for_the_log_however_long_it_is() {
    // Of a shorter log nothing shows that it is another one, unless it is signed.
    let cases = [
        (2, "cut: records 5 to 12"),
        (10, "cut: the log was replaced"),
        (30, "cut: the log was replaced"),
    ];
    for (more, expected) in cases {
        let other = |file: &Path| {
            let elsewhere = Directory::new("cut-elsewhere");
            run(&elsewhere.file(), 100..100 + more);
            fs::copy(elsewhere.file(), file).unwrap();
        };
        found_after("cut-other", other, expected);
    }
}

#[test]
fn a_log_that_was_cut_and_not_started_again_is_found_out_beside_its_lock() {
    let directory = Directory::new("cut-not-started");
    run(&directory.file(), 0..10);
    let whole = lines(&directory.file());
    cut(&directory.file(), 3);
    let (code, said) = verified(&[directory.file()], &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(
        said.contains("cut: the file that ends in .lock knows 13 records, here are 10"),
        "{said}"
    );
    let other = whole[..12].concat() + &whole[12].replace("checkpoint", "other");
    fs::write(directory.file(), other).unwrap();
    let (code, said) = verified(&[directory.file()], &[]);
    assert_eq!(code, DAMAGED, "{said}");
}

#[test]
fn what_is_remembered_may_lag_the_log_and_may_be_torn_and_no_crash_is_called_a_cut() {
    type Harm = fn(&Path, &[u8]);
    let harms: [(&str, Harm); 6] = [
        // A power failure kept the newest lines of FILE.lock from the disk ...
        ("lags", |file, early| fs::write(lock(file), early).unwrap()),
        // ... or left them torn, as zeros, or not there.
        ("torn", |file, early| {
            let mut both = fs::read(lock(file)).unwrap();
            both[..40].copy_from_slice(&early[..40]);
            fs::write(lock(file), both).unwrap();
        }),
        ("zeros", |file, _| fs::write(lock(file), [0; 512]).unwrap()),
        ("none", |file, _| fs::remove_file(lock(file)).unwrap()),
        // Of lines that were not flushed, half of one reached the disk.
        ("half-a-line", |file, _| {
            let text = fs::read(file).unwrap();
            fs::write(file, [&text[..], &text[..50]].concat()).unwrap();
        }),
        ("lags-and-half-a-line", |file, early| {
            let text = fs::read(file).unwrap();
            fs::write(file, [&text[..], &text[..50]].concat()).unwrap();
            fs::write(lock(file), early).unwrap();
        }),
    ];
    for (name, harm) in harms {
        for rotate_octets in [1800, u64::MAX] {
            let directory = Directory::new("crash-is-no-cut");
            let file = directory.file();
            let (log, _notices, _) =
                open_with(&file, |options| options.rotate_octets = rotate_octets);
            wait(log.append_durable(&stop(0))).unwrap();
            let mut early = fs::read(lock(&file)).unwrap();
            for n in 1..10 {
                wait(log.append_durable(&stop(n))).unwrap();
                if n == 2 {
                    early = fs::read(lock(&file)).unwrap();
                }
            }
            assert!(log.close());
            harm(&file, &early);
            let (notices, cuts) = run(&file, 10..12);
            assert_eq!((cut_in(&notices), cuts), (None, 0), "{name}");
            intact(&file);
        }
    }
}

/// The old process closes the log with all that it has written, and the new one goes on with it.
#[test]
fn a_hand_over_is_no_cut() {
    let directory = Directory::new("cut-hand-over");
    let file = directory.file();
    let (old, _notices, _) = open_with(&file, |_| ());
    wait(old.append_durable(&stop(0))).unwrap();
    old.append(&stop(1));
    assert!(old.hand_over());
    let (notices, cuts) = run(&file, 2..4);
    assert_eq!((cut_in(&notices), cuts), (None, 0));
    intact(&file);
}

#[test]
fn a_rotation_is_no_cut_and_a_cut_in_a_rotated_file_is_missed() {
    let directory = Directory::new("cut-rotated");
    let file = directory.file();
    let (log, _notices, _) = open_with(&file, |options| options.rotate_octets = 2000);
    for n in 0..20 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    let (notices, _) = run(&file, 20..21);
    assert_eq!(cut_in(&notices), None);
    intact(&file);
    // The newest file is gone, so the log ends in a rotated one.
    fs::remove_file(&file).unwrap();
    let (notices, _) = run(&file, 21..22);
    assert!(cut_in(&notices).is_some());
    let (code, said) = verified(std::slice::from_ref(&file), &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(
        said.contains("were cut off while the program did not run"),
        "{said}"
    );
    assert!(!rotated(&file).unwrap().is_empty());
}

/// The file that was written last has become a copy of how the log began, which adds nothing to it and so is not read.
#[test]
fn a_cut_of_which_the_lock_file_knows_is_found_though_a_copy_of_the_first_records_stands_in_the_place_of_the_log()
 {
    let directory = Directory::new("cut-copy");
    let file = directory.file();
    let (log, ..) = open_with(&file, |options| options.rotate_octets = 1500);
    for n in 0..40 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    let files = rotated(&file).unwrap();
    assert!(files.len() > 2);
    fs::write(&file, lines(&files[0])[..3].concat()).unwrap();
    let all = [files, vec![file.clone()]].concat();
    for named in [vec![file.clone()], all] {
        let (code, said) = verified(&named, &[]);
        assert_eq!(code, DAMAGED, "{said}");
        assert!(said.contains(".lock"), "{said}");
        let words = format!("{} was not read, because", file.display());
        assert!(said.contains(&words), "{said}");
    }
}

/// The files are all there, under other names. So nothing was cut off.
#[test]
fn a_log_that_is_moved_away_while_the_program_stands_still_goes_on_and_is_whole_with_its_old_file()
{
    let directory = Directory::new("cut-moved");
    let (file, aside) = (directory.file(), directory.0.join("aside"));
    run(&file, 0..10);
    fs::rename(&file, &aside).unwrap();
    let (notices, _) = run(&file, 10..12);
    assert_eq!(cut_in(&notices), Some((13, 0)));
    let (code, said) = verified(&[aside, file.clone()], &[]);
    assert_eq!(code, DONE, "{said}");
    assert!(
        said.contains("1 time(s) the program did not find its log"),
        "{said}"
    );
    let (code, said) = verified(&[file], &[]);
    assert_eq!(code, DAMAGED, "{said}");
}

#[test]
fn whoever_moves_the_lock_file_away_too_begins_a_new_log() {
    let directory = Directory::new("cut-new");
    run(&directory.file(), 0..10);
    for file in [directory.file(), lock(&directory.file())] {
        fs::rename(&file, file.with_extension("old")).unwrap();
    }
    let (notices, _) = run(&directory.file(), 0..2);
    assert_eq!(cut_in(&notices), None);
    assert!(intact(&directory.file()).contains("5 (0 to 4)"));
}

#[test]
fn a_log_without_its_older_files_and_without_its_lock_goes_on_from_what_its_newest_file_says() {
    let directory = Directory::new("cut-no-lock");
    let (key, public) = directory.key();
    let file = directory.file();
    let change = |options: &mut AuditOptions| {
        options.rotate_octets = 2000;
        options.key = Some(key.clone());
    };
    let (log, _notices, _) = open_with(&file, change);
    for n in 0..20 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    fs::create_dir(directory.0.join("archive")).unwrap();
    let older = rotated(&file).unwrap();
    for file in &older {
        let name = file.file_name().unwrap();
        fs::rename(file, directory.0.join("archive").join(name)).unwrap();
    }
    fs::remove_file(lock(&file)).unwrap();
    let (log, notices, _) = open_with(&file, |options| options.key = Some(key.clone()));
    wait(log.append_durable(&stop(20))).unwrap();
    assert!(log.close());
    assert_eq!(cut_in(&notices.try_iter().collect::<Vec<_>>()), None);
    let archive = older.iter().map(|file| {
        let name = file.file_name().unwrap();
        directory.0.join("archive").join(name)
    });
    let files: Vec<PathBuf> = archive.chain([file.clone()]).collect();
    let (code, said) = verified(&files, &[&public]);
    assert_eq!(code, DONE, "{said}");
    // Without a line that says so, nobody knows the tree.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("log-continued", "log-discontinued")).unwrap();
    fs::remove_file(lock(&file)).unwrap();
    let error = AuditLog::open(options(&file)).unwrap_err().to_string();
    assert!(error.contains("put the older files back"), "{error}");
}

/// Harms the file while the program has it open. The log says so, and mail goes on.
#[track_caller]
fn found_while_running(name: &str, harm: impl FnOnce(&Path), expected: &str) {
    let directory = Directory::new(name);
    let file = directory.file();
    let (log, notices, metrics) = open_with(&file, |_| ());
    for n in 0..10 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    harm(&file);
    // The first is on its way when the harm is noticed. The client is told to come again.
    let _ = wait(log.append_durable(&stop(10)));
    while wait(log.append_durable(&stop(11))).is_err() {}
    wait(log.append_durable(&stop(12))).unwrap();
    assert!(log.healthy());
    assert!(log.close());
    assert_eq!(metrics.total(LOG_CUTS), 1);
    let notices: Vec<Notice> = notices.try_iter().collect();
    assert!(cut_in(&notices).is_some(), "{notices:?}");
    let (code, said) = verified(std::slice::from_ref(&file), &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains(expected), "{said}");
    run(&file, 12..14);
    let (code, said) = verified(&[file], &[]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_file_that_is_emptied_under_the_program_is_missed_and_mail_goes_on() {
    let emptied = |file: &Path| fs::write(file, "").unwrap();
    found_while_running(
        "copytruncate",
        emptied,
        "cut: records 0 to 11 were cut off while the program ran; the log says so itself",
    );
}

#[test]
fn a_file_that_is_cut_under_the_program_is_missed_and_mail_goes_on() {
    let shortened = |file: &Path| {
        let length = fs::metadata(file).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
        file.set_len(length - 300).unwrap();
    };
    found_while_running(
        "cut-running",
        shortened,
        "were cut off while the program ran",
    );
}

#[test]
fn an_older_copy_in_the_place_of_a_file_that_was_moved_away_under_the_program_is_missed_and_mail_goes_on()
 {
    let replaced = |file: &Path| {
        let older = lines(file)[..5].concat();
        fs::rename(file, file.with_extension("aside")).unwrap();
        fs::write(file, older).unwrap();
    };
    found_while_running(
        "replaced-running",
        replaced,
        "cut: records 5 to 11 were cut off while the program ran",
    );
}

#[test]
fn a_signature_behind_a_cut_vouches_for_the_tree_that_was_there_before() {
    let directory = Directory::new("cut-signed");
    let (key, public) = directory.key();
    let file = directory.file();
    let keyed = |options: &mut AuditOptions| options.key = Some(key.clone());
    for round in 0..3 {
        let (log, _notices, _) = open_with(&file, keyed);
        for n in 0..20 {
            wait(log.append_durable(&stop(round * 20 + n))).unwrap();
        }
        assert!(log.close());
        cut(&file, 3);
    }
    let (code, said) = verified(std::slice::from_ref(&file), &[&public]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("cuts ") && said.contains("knows"), "{said}");
    // A record before the first cut that was changed, with the chain up to there made anew, is found out behind the cut.
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replacen("record 3\"", "record 4\"", 1);
    assert_ne!(changed, text);
    fs::write(&file, changed).unwrap();
    fs::remove_file(lock(&file)).unwrap();
    let (_, said) = verified(&[file], &[&public]);
    assert!(
        said.starts_with("NOT INTACT") && said.contains("edited"),
        "{said}"
    );
}
