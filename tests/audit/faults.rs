//! A disk that is full, broken, slow or read-only: nothing is acknowledged, every caller is told, and the log recovers by itself.

use crate::support::{Directory, intact, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, Disk, EndKept, FileDisk, Notice, Placement, Reopened},
    flags::AuditVerifyFlags,
};
use std::{
    fs, io,
    path::Path,
    process::Command,
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

/// The faults of the disk; shared with the test.
#[derive(Default)]
struct Switches {
    /// Octets of the next append that still get through, and the error it ends in.
    append: Option<(usize, io::ErrorKind)>,
    /// The error of the next append to a file that is empty.
    append_to_new: Option<io::ErrorKind>,
    sync: Option<io::ErrorKind>,
    reopen: Option<io::ErrorKind>,
    /// `sync` waits for this to become false.
    slow: bool,
    panic: bool,
    syncs: usize,
    appends: usize,
    /// The file as it was at the last good sync, to which a failed sync takes it back.
    loses_pages: bool,
}

#[derive(Clone, Default)]
struct Faults(Arc<(Mutex<Switches>, Condvar)>);

impl Faults {
    fn set(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn syncs(&self) -> usize {
        self.0.0.lock().unwrap().syncs
    }

    fn appends(&self) -> usize {
        self.0.0.lock().unwrap().appends
    }

    /// Waits until the writer is about to sync.
    fn wait_for_sync(&self, number: usize) {
        let guard = self.0.0.lock().unwrap();
        drop(
            self.0
                .1
                .wait_while(guard, |switches| switches.syncs < number)
                .unwrap(),
        );
    }
}

struct FaultyDisk {
    disk: FileDisk,
    faults: Faults,
    path: std::path::PathBuf,
    good: u64,
}

impl Disk for FaultyDisk {
    fn reopen(&mut self, durable: u64, unsure: &[u8]) -> io::Result<Reopened> {
        match self.faults.0.0.lock().unwrap().reopen {
            Some(kind) => Err(kind.into()),
            None => self.disk.reopen(durable, unsure),
        }
    }

    fn begin(&mut self, durable: u64) -> io::Result<Reopened> {
        match self.faults.0.0.lock().unwrap().reopen {
            Some(kind) => Err(kind.into()),
            None => self.disk.begin(durable),
        }
    }

    fn append(&mut self, length: u64, lines: &[u8]) -> io::Result<Placement> {
        let fault = {
            let mut switches = self.faults.0.0.lock().unwrap();
            switches.appends += 1;
            let of_new = switches.append_to_new.filter(|_| length == 0);
            switches.append.or(of_new.map(|kind| (0, kind)))
        };
        match fault {
            Some((through, kind)) => {
                self.disk
                    .append(length, &lines[..through.min(lines.len())])?;
                Err(kind.into())
            }
            None => self.disk.append(length, lines),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut switches = self.faults.0.0.lock().unwrap();
        switches.syncs += 1;
        self.faults.0.1.notify_all();
        assert!(!switches.panic, "the test asked for a panic");
        let switches = self
            .faults
            .0
            .1
            .wait_while(switches, |switches| switches.slow)
            .unwrap();
        if let Some(kind) = switches.sync {
            if switches.loses_pages {
                let file = fs::OpenOptions::new().write(true).open(&self.path)?;
                let length = file.metadata()?.len();
                file.set_len(self.good)?;
                file.set_len(length)?; // the lost pages come back as zeros
            }
            return Err(kind.into());
        }
        drop(switches);
        self.disk.sync()?;
        // A test may have moved it away.
        self.good = fs::metadata(&self.path).map_or(0, |file| file.len());
        Ok(())
    }

    fn rotate(&mut self, suffix: &str) -> io::Result<Placement> {
        self.disk.rotate(suffix)
    }

    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()> {
        self.disk.keep_secrets(content)
    }
    fn remember(&mut self, line: &[u8]) -> io::Result<EndKept> {
        self.disk.remember(line)
    }
}

fn open(
    file: &Path,
    change: impl FnOnce(&mut AuditOptions),
) -> (AuditLog, Faults, Receiver<Notice>) {
    let faults = Faults::default();
    let (sender, notices) = channel();
    let mut options = AuditOptions {
        retry_after: Duration::from_millis(5),
        notice: Box::new(move |notice| sender.send(notice).unwrap_or_default()),
        ..options(file)
    };
    change(&mut options);
    let log = AuditLog::open_on(options, |disk| {
        Box::new(FaultyDisk {
            disk,
            faults: faults.clone(),
            path: file.to_owned(),
            good: 0,
        })
    });
    (log.unwrap(), faults, notices)
}

fn recovered(notices: &Receiver<Notice>) -> u64 {
    loop {
        let notice = notices
            .recv_timeout(Duration::from_secs(60))
            .expect("the log recovers");
        if let Notice::Recovered { lost } = notice {
            return lost;
        }
    }
}

/// Breaks the disk by `break_it`, and mends it by `mend`. In between nothing is acknowledged; afterwards every record is there.
fn outage(name: &str, break_it: impl Fn(&mut Switches), error: &str) {
    let directory = Directory::new(name);
    let (log, faults, notices) = open(&directory.file(), |_| ());
    wait(log.append_durable(&stop(1))).unwrap();
    assert!(log.healthy());
    faults.set(&break_it);
    let refused = wait(log.append_durable(&stop(2))).unwrap_err();
    assert!(refused.to_string().contains(error), "{refused}");
    assert!(!log.healthy());
    log.append(&stop(3));
    wait(log.append_durable(&stop(4))).unwrap_err();
    assert!(!log.healthy());
    faults.set(|switches| *switches = Switches::default());
    assert_eq!(recovered(&notices), 0);
    assert!(log.healthy());
    wait(log.append_durable(&stop(5))).unwrap();
    log.close();
    let text = fs::read_to_string(directory.file()).unwrap();
    for n in 1..=5 {
        assert_eq!(
            text.matches(&format!("\"record {n}\"")).count(),
            1,
            "record {n}"
        );
    }
    assert!(
        text.contains("log-recovered") && text.contains(error),
        "{text}"
    );
    assert!(intact(&directory.file()).contains("1 time(s) the disk failed"));
}

#[test]
fn a_full_disk_acknowledges_nothing_and_recovers() {
    outage(
        "full",
        |switches| switches.append = Some((0, io::ErrorKind::StorageFull)),
        "no storage space",
    );
}

/// Waits until the log says that it was cut.
fn cut(notices: &Receiver<Notice>) -> (u64, u64) {
    loop {
        let notice = notices
            .recv_timeout(Duration::from_secs(60))
            .expect("the log says that it was cut");
        if let Notice::Cut { expected, found } = notice {
            return (expected, found);
        }
    }
}

fn keep_lines(file: &Path, number: usize) {
    let text = fs::read_to_string(file).unwrap();
    let kept: String = text.split_inclusive('\n').take(number).collect();
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(kept.len() as u64).unwrap();
}

/// The record of the first cut is not on disk yet when the file is cut again. Both cuts tell of the same records.
#[test]
fn a_log_that_is_cut_twice_while_its_disk_fails_says_so_itself() {
    let directory = Directory::new("cut-twice");
    let file = directory.file();
    let (log, faults, notices) = open(&file, |_| ());
    for n in 0..10 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    faults.set(|switches| switches.append = Some((0, io::ErrorKind::StorageFull)));
    keep_lines(&file, 9);
    wait(log.append_durable(&stop(10))).unwrap_err();
    assert_eq!(cut(&notices), (12, 9));
    keep_lines(&file, 6);
    faults.set(|switches| *switches = Switches::default());
    assert_eq!(cut(&notices), (12, 6));
    recovered(&notices);
    wait(log.append_durable(&stop(11))).unwrap();
    assert!(log.close());
    says_that_it_was_cut(&file, "records 6 to 11 were cut off while the program ran");
}

/// `verify` calls the log cut, in these words, and goes on behind the gap.
#[track_caller]
fn says_that_it_was_cut(file: &Path, words: &str) {
    let (_, said) = verify(&AuditVerifyFlags {
        files: vec![file.to_owned()],
        ..AuditVerifyFlags::default()
    });
    let words = format!("cut: {words}; the log says so itself");
    assert!(said.contains(&words), "{said}");
    assert!(said.contains("stopped in good order"), "{said}");
}

/// The record that begins the new file is not on disk yet when an older copy is put in its place. Both tell of the same records.
#[test]
fn a_log_that_is_replaced_as_its_file_begins_says_so_itself() {
    let directory = Directory::new("replaced-at-begin");
    let file = directory.file();
    let (log, faults, notices) = open(&file, |_| ());
    for n in 0..10 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    let older = fs::read_to_string(&file).unwrap();
    let older: String = older.split_inclusive('\n').take(6).collect();
    fs::rename(&file, directory.0.join("aside")).unwrap();
    faults.set(|switches| switches.append_to_new = Some(io::ErrorKind::StorageFull));
    wait(log.append_durable(&stop(10))).unwrap_err();
    fs::write(&file, older).unwrap();
    faults.set(|switches| *switches = Switches::default());
    assert_eq!(cut(&notices), (12, 6));
    recovered(&notices);
    assert!(log.close());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("log-continued"), "{text}");
    says_that_it_was_cut(&file, "records 6 to 11 were cut off while the program ran");
}

#[test]
fn half_a_line_is_cut_off_before_the_next_is_written() {
    outage(
        "half",
        |switches| switches.append = Some((70, io::ErrorKind::StorageFull)),
        "no storage space",
    );
}

#[test]
fn a_read_only_disk_acknowledges_nothing_and_recovers() {
    outage(
        "read-only",
        |switches| {
            switches.append = Some((0, io::ErrorKind::ReadOnlyFilesystem));
            switches.reopen = Some(io::ErrorKind::ReadOnlyFilesystem);
        },
        "read-only",
    );
}

#[test]
fn pages_that_a_failed_sync_lost_are_written_again() {
    outage(
        "pages",
        |switches| {
            switches.sync = Some(io::ErrorKind::Other);
            switches.loses_pages = true;
        },
        "other error",
    );
}

#[test]
fn one_sync_serves_all_that_wait_and_a_slow_one_is_unhealthy() {
    let directory = Directory::new("slow");
    let (log, faults, _notices) = open(&directory.file(), |options| {
        options.stall_after = Duration::ZERO
    });
    let before = faults.syncs();
    faults.set(|switches| switches.slow = true);
    let first = log.append_durable(&stop(0));
    faults.wait_for_sync(before + 1);
    assert!(!log.healthy(), "a sync is under way for longer than it may");
    let others: Vec<_> = (1..=50).map(|n| log.append_durable(&stop(n))).collect();
    faults.set(|switches| switches.slow = false);
    wait(first).unwrap();
    for durable in others {
        wait(durable).unwrap();
    }
    assert_eq!(faults.syncs() - before, 2);
}

#[test]
fn records_that_nobody_waits_for_go_with_the_next_that_somebody_waits_for() {
    let directory = Directory::new("gathered");
    let (log, faults, _notices) = open(&directory.file(), |options| {
        options.sync_after = Duration::from_secs(3600);
    });
    wait(log.append_durable(&stop(0))).unwrap();
    let (appends, syncs) = (faults.appends(), faults.syncs());
    for n in 1..=10 {
        log.append(&stop(n));
    }
    wait(log.append_durable(&stop(11))).unwrap();
    assert_eq!(
        (faults.appends() - appends, faults.syncs() - syncs),
        (1, 1),
        "one write and one sync for all"
    );
    let text = fs::read_to_string(directory.file()).unwrap();
    let places = (0..=11).map(|n| text.find(&format!("\"record {n}\"")));
    assert!(places.clone().all(|place| place.is_some()) && places.is_sorted());
}

#[test]
fn a_record_that_nobody_waits_for_becomes_durable_by_itself() {
    let directory = Directory::new("alone");
    let (log, faults, _notices) = open(&directory.file(), |options| {
        options.sync_after = Duration::from_millis(10);
    });
    for n in 0..20 {
        let syncs = faults.syncs();
        log.append(&stop(n));
        faults.wait_for_sync(syncs + 1);
        let text = fs::read_to_string(directory.file()).unwrap();
        assert!(text.contains(&format!("\"record {n}\"")), "{text}");
    }
}

#[test]
fn a_record_that_nobody_waits_for_fails_the_log_on_a_broken_disk_too() {
    let directory = Directory::new("nobody");
    let (log, faults, notices) = open(&directory.file(), |options| {
        options.sync_after = Duration::from_millis(10);
    });
    faults.set(|switches| switches.sync = Some(io::ErrorKind::StorageFull));
    log.append(&stop(1));
    let failing = |notice| matches!(notice, Notice::Failing(_));
    assert!(notices.iter().any(failing));
    assert!(!log.healthy());
}

#[test]
fn a_writer_that_panics_tells_everyone() {
    let directory = Directory::new("panic");
    let (log, faults, _notices) = open(&directory.file(), |_| ());
    faults.set(|switches| switches.panic = true);
    wait(log.append_durable(&stop(1))).unwrap_err();
    wait(log.append_durable(&stop(2))).unwrap_err();
    assert!(!log.healthy());
    wait(log.writer_died());
    assert!(log.has_died());
}

#[test]
fn a_writer_that_was_asked_to_end_or_waits_for_its_disk_has_not_died() {
    let directory = Directory::new("not-died");
    let (log, faults, _notices) = open(&directory.file(), |_| ());
    faults.set(|switches| switches.sync = Some(io::ErrorKind::StorageFull));
    wait(log.append_durable(&stop(1))).unwrap_err();
    assert!(!log.has_died());
    faults.set(|switches| *switches = Switches::default());
    assert!(log.close());
    assert!(!log.has_died());
    let (log, ..) = open(&directory.file(), |_| ());
    assert!(log.hand_over());
    assert!(!log.has_died());
}

#[test]
fn memory_for_what_cannot_be_written_is_bounded_and_what_is_lost_is_counted() {
    let directory = Directory::new("bounded");
    let (log, faults, notices) = open(&directory.file(), |_| ());
    faults.set(|switches| {
        switches.append = Some((0, io::ErrorKind::StorageFull));
        switches.reopen = Some(io::ErrorKind::StorageFull);
    });
    wait(log.append_durable(&stop(0))).unwrap_err();
    let large = starttls_proxy::audit::Record::Stop(starttls_proxy::audit::StopRecord {
        reason: "x".repeat(1 << 20),
        sessions: 0,
        messages: 0,
    });
    for _ in 0..40 {
        log.append(&large);
    }
    faults.set(|switches| *switches = Switches::default());
    let lost = recovered(&notices);
    assert!((8..=10).contains(&lost), "{lost}");
    log.close();
    assert!(intact(&directory.file()).contains(&format!("{lost} record(s) lost")));
}

#[test]
fn a_disk_that_does_not_answer_holds_up_neither_the_end_nor_who_waits() {
    let directory = Directory::new("frozen");
    let (log, faults, _notices) = open(&directory.file(), |options| {
        options.close_within = Duration::from_millis(10);
    });
    let before = faults.syncs();
    faults.set(|switches| switches.slow = true);
    let under_way = log.append_durable(&stop(0));
    faults.wait_for_sync(before + 1);
    let queued = log.append_durable(&stop(1));
    log.give_up();
    wait(under_way).unwrap_err();
    wait(queued).unwrap_err();
    assert!(!log.close(), "it says that not all is durable");
    drop(log);
    faults.set(|switches| switches.slow = false);
}

#[test]
fn a_hand_over_that_the_disk_held_up_leaves_the_log_as_it_was() {
    let directory = Directory::new("held-up");
    let (log, faults, _notices) = open(&directory.file(), |options| {
        // Also for the disk that works again, and may be slow.
        options.close_within = Duration::from_secs(2);
    });
    let before = faults.syncs();
    faults.set(|switches| switches.slow = true);
    log.append(&stop(0));
    let handing = log.clone();
    let handing = std::thread::spawn(move || handing.hand_over());
    faults.wait_for_sync(before + 1);
    assert!(!handing.join().unwrap(), "this process goes on");
    faults.set(|switches| switches.slow = false);
    wait(log.append_durable(&stop(1))).unwrap();
    assert!(log.healthy());
    assert!(log.close());
    intact(&directory.file());
}

/// Otherwise messages reach their servers for which there is no record, because that process never comes.
#[test]
fn a_log_that_was_handed_over_is_healthy_again_only_when_another_process_takes_its_records() {
    let directory = Directory::new("handed-over");
    let (log, ..) = open(&directory.file(), |options| {
        options.stall_after = Duration::from_millis(50);
    });
    let until = |is_healthy| {
        let begin = starttls_proxy::clock::instant();
        while log.healthy() != is_healthy {
            assert!(begin.elapsed() < Duration::from_secs(20), "{is_healthy}");
            std::thread::yield_now();
        }
    };
    assert!(log.hand_over());
    until(false);
    let (new, ..) = open(&directory.file(), |_| ());
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let taking_in = new.take_in(there).unwrap();
    log.forward(here).unwrap();
    wait(log.append_durable(&stop(0))).unwrap();
    until(true);
    assert!(log.close());
    taking_in.join().unwrap();
    assert!(new.close());
    intact(&directory.file());
}

#[test]
fn a_log_that_is_closed_in_good_order_says_so() {
    let directory = Directory::new("closed");
    let (log, _faults, _notices) = open(&directory.file(), |_| ());
    log.append(&stop(1));
    assert!(log.close());
}

#[test]
fn a_file_that_is_no_log_in_the_place_of_the_log_acknowledges_nothing_until_it_is_moved_away() {
    let directory = Directory::new("meddled");
    let (log, _faults, notices) = open(&directory.file(), |_| ());
    wait(log.append_durable(&stop(1))).unwrap();
    fs::rename(directory.file(), directory.0.join("moved")).unwrap();
    fs::write(directory.file(), "127.0.0.1 localhost\n").unwrap();
    for n in 2..4 {
        let refused = wait(log.append_durable(&stop(n))).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("look at it with audit verify, then move it away"),
            "{refused}"
        );
        assert!(!log.healthy());
    }
    fs::rename(directory.file(), directory.0.join("aside")).unwrap();
    recovered(&notices);
    wait(log.append_durable(&stop(4))).unwrap();
}

/// A file system of its own, of 128 KiB; needs root.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"])
            .arg(at)
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at));
        }
        eprintln!(
            "SKIPPED: no right to mount a small file system here, a really full disk was not tried; run as root"
        );
        None
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(self.0)
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_file_system_that_is_really_full_acknowledges_nothing_and_recovers() {
    let directory = Directory::new("tmpfs");
    let Some(small) = Small::mount(&directory.0) else {
        return;
    };
    let (log, _faults, notices) = open(&directory.file(), |_| ());
    let mut acknowledged = 0;
    let refused = loop {
        match wait(log.append_durable(&stop(acknowledged))) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error.to_string(),
        }
        assert!(acknowledged < 10_000);
    };
    assert!(refused.contains("No space left"), "{refused}");
    assert!(!log.healthy() && acknowledged > 100, "{acknowledged}");
    small.remount("size=1m");
    recovered(&notices);
    wait(log.append_durable(&stop(acknowledged + 1))).unwrap();
    log.close();
    let text = fs::read_to_string(directory.file()).unwrap();
    for n in 0..=acknowledged + 1 {
        assert_eq!(
            text.matches(&format!("\"record {n}\"")).count(),
            1,
            "record {n}"
        );
    }
    intact(&directory.file());
    small.remount("ro");
    let error = AuditLog::open(options(&directory.file())).unwrap_err();
    assert!(
        error.to_string().contains("Read-only file system"),
        "{error}"
    );
}
