//! A log that is moved away at any moment while it is written, also on a disk that fails at that moment. The old file and the new
//! one are the log together, and no record is lost or doubled.

use crate::support::{DONE, Directory, options, stop, verify, wait};
use starttls_proxy::{
    audit::{
        AuditLog, AuditOptions, Disk, EndKept, FileDisk, Notice, Placement, Reopened, rotated,
    },
    flags::AuditVerifyFlags,
};
use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

/// The fault of the disk after the file was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The next append gets part of a line through.
    Append,
    /// The next sync fails.
    Sync,
    /// A new file cannot be made at the first try.
    Begin,
}

/// A disk under which the file is moved before its operation number `at`.
struct Moving {
    disk: FileDisk,
    path: PathBuf,
    operation: usize,
    at: usize,
    recreated: bool,
    fault: Fault,
    moved: Arc<AtomicUsize>,
}

impl Moving {
    /// Whether the fault is due.
    fn step(&mut self, kind: Fault) -> io::Result<()> {
        let now = self.operation;
        self.operation += 1;
        if now == self.at {
            fs::rename(&self.path, self.path.with_extension("moved"))?;
            if self.recreated {
                fs::write(&self.path, "")?;
            }
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        if now >= self.at && kind == self.fault {
            self.fault = Fault::None;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Disk for Moving {
    fn reopen(&mut self, durable: u64, unsure: &[u8]) -> io::Result<Reopened> {
        self.step(Fault::Begin)?;
        self.disk.reopen(durable, unsure)
    }
    fn begin(&mut self, durable: u64) -> io::Result<Reopened> {
        self.step(Fault::Begin)?;
        self.disk.begin(durable)
    }
    fn append(&mut self, length: u64, lines: &[u8]) -> io::Result<Placement> {
        if let Err(error) = self.step(Fault::Append) {
            self.disk.append(length, &lines[..lines.len() / 2])?;
            return Err(error);
        }
        self.disk.append(length, lines)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.step(Fault::Sync)?;
        self.disk.sync()
    }
    fn rotate(&mut self, suffix: &str) -> io::Result<Placement> {
        self.step(Fault::None)?;
        self.disk.rotate(suffix)
    }
    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()> {
        self.disk.keep_secrets(content)
    }
    fn remember(&mut self, line: &[u8]) -> io::Result<EndKept> {
        self.disk.remember(line)
    }
}

fn quick(file: &Path) -> (AuditOptions, Receiver<Notice>) {
    let (sender, notices) = channel();
    let options = AuditOptions {
        retry_after: Duration::from_millis(1),
        checkpoint_records: 4,
        notice: Box::new(move |notice| sender.send(notice).unwrap_or_default()),
        ..options(file)
    };
    (options, notices)
}

/// The log in all files of the directory verifies, and has each of these records once.
#[track_caller]
fn whole(directory: &Directory, records: impl Iterator<Item = u64>, when: &str) {
    let files = fs::read_dir(&directory.0).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
        .collect();
    let text: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    for n in records {
        let found = text.matches(&format!("\"record {n}\"")).count();
        assert_eq!(found, 1, "record {n}, {when}");
    }
    let (code, said) = verify(&AuditVerifyFlags {
        files,
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{when}: {said}");
}

#[test]
fn a_log_that_is_moved_goes_on_in_a_new_file_and_refuses_nothing() {
    let directory = Directory::new("moved");
    let (options, notices) = quick(&directory.file());
    let log = AuditLog::open(options).unwrap();
    wait(log.append_durable(&stop(1))).unwrap();
    fs::rename(directory.file(), directory.0.join("aside")).unwrap();
    wait(log.append_durable(&stop(2))).unwrap();
    assert!(log.healthy());
    assert!(log.close());
    assert!(notices.try_iter().any(|notice| notice == Notice::Moved));
    whole(&directory, 1..=2, "moved");
}

/// `mv` to another file system copies, perhaps up to the middle of a line, and deletes. Lines written in between went to the deleted
/// file.
#[test]
fn a_log_that_is_copied_and_deleted_loses_nothing_and_the_copy_does_no_harm() {
    for (name, copied) in [("whole", 100), ("amid-a-line", 61), ("nothing", 0)] {
        let directory = Directory::new(name);
        let (options, _notices) = quick(&directory.file());
        let log = AuditLog::open(options).unwrap();
        for n in 0..10 {
            wait(log.append_durable(&stop(n))).unwrap();
        }
        let text = fs::read(directory.file()).unwrap();
        let copy = &text[..text.len() * copied / 100];
        if !copy.is_empty() {
            fs::write(directory.0.join("copy"), copy).unwrap();
        }
        for n in 10..20 {
            wait(log.append_durable(&stop(n))).unwrap();
        }
        fs::remove_file(directory.file()).unwrap();
        for n in 20..30 {
            wait(log.append_durable(&stop(n))).unwrap();
        }
        assert!(log.close());
        let text = fs::read_to_string(directory.file()).unwrap();
        for n in 0..30 {
            let found = text.matches(&format!("\"record {n}\"")).count();
            assert_eq!(found, 1, "record {n}, {name}");
        }
        whole(&directory, 0..0, name);
    }
}

#[test]
fn whenever_it_is_moved_and_whatever_fails_then_no_record_is_lost_or_doubled() {
    for fault in [Fault::None, Fault::Append, Fault::Sync, Fault::Begin] {
        for (at, recreated) in (0..24).flat_map(|at| [(at, false), (at, true)]) {
            let directory = Directory::new("moved-at");
            let (options, _notices) = quick(&directory.file());
            let moved = Arc::new(AtomicUsize::new(0));
            let (path, count) = (directory.file(), Arc::clone(&moved));
            let log = AuditLog::open_on(options, |disk| {
                Box::new(Moving {
                    disk,
                    path,
                    operation: 0,
                    // The first operations are those of opening the log.
                    at: at + 4,
                    recreated,
                    fault,
                    moved: count,
                })
            });
            let log = log.unwrap();
            let mut n = 0;
            while n < 40 {
                // Some wait for their record and some do not, so that lines are handed over before a sync.
                log.append(&stop(n));
                log.append(&stop(n + 1));
                let _ = wait(log.append_durable(&stop(n + 2)));
                n += 3;
            }
            assert!(log.close(), "{fault:?} at {at}");
            assert_eq!(moved.load(Ordering::Relaxed), 1, "{fault:?} at {at}");
            let when = format!("{fault:?} at {at}, recreated: {recreated}");
            whole(&directory, 0..n, &when);
        }
    }
}

#[test]
fn under_load_every_move_leaves_old_and_new_files_that_are_one_log() {
    let directory = Directory::new("moved-under-load");
    let (options, _notices) = quick(&directory.file());
    let log = AuditLog::open(options).unwrap();
    let next = Arc::new(AtomicUsize::new(0));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (log, next) = (log.clone(), Arc::clone(&next));
            let acknowledged = Arc::clone(&acknowledged);
            thread::spawn(move || {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if n >= 4000 {
                        return;
                    }
                    if n.is_multiple_of(3) {
                        log.append(&stop(n));
                    } else if wait(log.append_durable(&stop(n))).is_ok() {
                        acknowledged.lock().unwrap().push(n);
                    }
                }
            })
        })
        .collect();
    for number in 0..40 {
        while next.load(Ordering::Relaxed) < 100 * number {
            thread::yield_now();
        }
        let aside = directory.0.join(format!("aside-{number}"));
        match fs::rename(directory.file(), aside) {
            Ok(()) => {}
            // The last move was not noticed yet.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
        if number % 2 == 0 {
            let _ = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(directory.file());
        }
    }
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(log.close());
    let acknowledged = acknowledged.lock().unwrap();
    assert!(acknowledged.len() > 2000, "{}", acknowledged.len());
    whole(&directory, 0..4000, "under load");
}

/// A closed log with rotated files, and all its files.
fn closed_log(name: &str) -> (Directory, Vec<PathBuf>) {
    let directory = Directory::new(name);
    let log = AuditLog::open(AuditOptions {
        rotate_octets: 2000,
        ..options(&directory.file())
    });
    let log = log.unwrap();
    for n in 0..40 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    let files = [rotated(&directory.file()).unwrap(), vec![directory.file()]].concat();
    assert!(files.len() > 2);
    (directory, files)
}

/// `audit COMMAND`, which ends with 124 if it waits for ever.
fn audit(command: &str) -> Command {
    let mut program = Command::new("timeout");
    let path = env!("CARGO_BIN_EXE_starttls-proxy");
    program.args(["60", path, "audit", command]);
    program
}

/// The exit code, and what was said.
fn end_of(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn where_a_directory_may_not_be_listed_files_that_are_named_are_read_and_else_it_is_named_itself() {
    let (directory, files) = closed_log("unlisted");
    for file in &files {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let mode = |mode| fs::set_permissions(&directory.0, fs::Permissions::from_mode(mode)).unwrap();
    let as_other = |files: &[PathBuf]| {
        let mut command = audit("verify");
        if fs::read_dir(&directory.0).is_ok() {
            command.uid(65_534).gid(65_534); // whoever may list all
        }
        end_of(command.args(files).current_dir("/"))
    };
    mode(0o311);
    let (all, alone) = (as_other(&files), as_other(&[directory.file()]));
    mode(0o755);
    assert_eq!(all.0, Some(0), "{}", all.1);
    let words = format!("{}: Permission denied", directory.0.display());
    assert!(alone.1.contains(&words), "{}", alone.1);
    assert_ne!(alone.0, Some(0));
}

#[test]
fn a_pipe_under_a_name_of_the_log_is_refused_by_name_and_holds_no_command_up() {
    let (directory, files) = closed_log("pipe");
    let file = directory.file();
    let lock = PathBuf::from(format!("{}.lock", file.display()));
    let make_pipe = |path: &Path| {
        fs::remove_file(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    make_pipe(&lock);
    let (code, said) = end_of(audit("verify").arg(&file));
    assert_eq!(code, Some(0), "{said}");
    // The oldest file, then the one that was written last.
    for pipe in [&files[0], &file] {
        make_pipe(pipe);
        for command in ["verify", "show"] {
            let (code, said) = end_of(audit(command).arg(&file));
            let words = format!("{}: it is no regular file", pipe.display());
            assert!(said.contains(&words), "{command}: {code:?}: {said}");
            assert!(![Some(0), Some(1), Some(124)].contains(&code), "{code:?}");
        }
        fs::remove_file(pipe).unwrap();
        fs::write(pipe, "").unwrap();
    }
}

#[test]
fn a_log_is_read_from_standard_input_that_is_a_file() {
    let directory = Directory::new("input");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    wait(log.append_durable(&stop(0))).unwrap();
    assert!(log.close());
    for name in ["/dev/stdin", "/dev/fd/0"] {
        let input = Stdio::from(fs::File::open(directory.file()).unwrap());
        let (code, said) = end_of(audit("verify").arg(name).stdin(input));
        assert_eq!(code, Some(0), "{said}");
    }
}
