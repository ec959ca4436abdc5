use super::*;
use crate::audit::{AuditLog, AuditOptions, Notice, Record, StopRecord};
use std::{
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    time::Duration,
};

/// How many more times the directory cannot be made durable.
static FAILURES: AtomicU32 = AtomicU32::new(0);

fn failing(path: &Path) -> io::Result<()> {
    let left = FAILURES.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    match left {
        Ok(_) => Err(io::ErrorKind::Other.into()),
        Err(_) => sync_directory(path),
    }
}

/// An empty folder of this process.
fn new_folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder); // it is there only if such a process was killed
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn a_log_that_was_moved_away_from_an_idle_process_is_not_missing_and_one_that_is_gone_is() {
    let folder = new_folder("disk-moved");
    let (file, aside) = (folder.join("audit.jsonl"), folder.join("aside"));
    let options = || AuditOptions::new(file.clone(), "mail.example/outbound".into());
    let log = AuditLog::open(options()).expect("a log");
    let found = || end_found(&file).expect("read");
    assert_eq!(found(), EndFound::Whole);
    fs::rename(&file, &aside).expect("moved");
    assert_eq!(found(), EndFound::MovedAway);
    // The process still has the lock to itself.
    assert!(AuditLog::open(options()).is_err());
    assert!(log.close());
    drop(log);
    assert_eq!(found(), EndFound::Whole);
    fs::remove_file(&file).expect("removed");
    let missing = EndFound::Missing { known: 4, found: 0 };
    assert_eq!(found(), missing);
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_rotation_whose_names_could_not_be_made_durable_at_once_is_no_cut() {
    let folder = new_folder("disk-rotation");
    let file = folder.join("audit.jsonl");
    let (tell, notices) = channel();
    let mut options = AuditOptions::new(file.clone(), "mail.example/outbound".into());
    options.rotate_octets = 1;
    options.retry_after = Duration::from_millis(1);
    options.notice = Box::new(move |notice| tell.send(notice).unwrap_or_default());
    let log = AuditLog::open_on(options, |mut disk| {
        disk.sync_directory = failing;
        Box::new(disk)
    });
    let log = log.expect("a log");
    FAILURES.store(3, Ordering::SeqCst);
    log.append(&Record::Stop(StopRecord {
        reason: "a test".into(),
        sessions: 0,
        messages: 0,
    }));
    let mut told = notices.iter();
    assert!(told.any(|notice| matches!(notice, Notice::Recovered { lost: 0 })));
    assert!(log.close());
    drop(log);
    let is_cut = |notice| matches!(notice, Notice::Cut { .. });
    assert!(!notices.iter().any(is_cut));
    assert_eq!(FAILURES.load(Ordering::SeqCst), 0);
    let files = crate::audit::rotated(&file).expect("a folder");
    assert!(!files.is_empty());
    let text: String = files
        .iter()
        .chain([&file])
        .map(|file| fs::read_to_string(file).expect("text"))
        .collect();
    assert!(!text.contains("log-cut"), "{text}");
    let continued = text.matches("log-continued").count();
    assert_eq!(
        continued,
        files.len(),
        "each file but the first says how the log goes on: {text}"
    );
    assert_eq!(text.matches("a test").count(), 1, "{text}");
    fs::remove_dir_all(folder).expect("removed");
}

/// A power cut leaves a block that was never written, and more than a mebibyte behind it. Nothing there was durable, if `.lock` does not
/// say so.
#[test]
fn a_hole_before_which_a_checkpoint_stands_far_back_is_what_a_crash_leaves() {
    let folder = new_folder("disk-hole");
    let file = folder.join("audit.jsonl");
    let options = |tell: std::sync::mpsc::Sender<Notice>| {
        let mut options = AuditOptions::new(file.clone(), "mail.example/outbound".into());
        options.notice = Box::new(move |notice| tell.send(notice).unwrap_or_default());
        options
    };
    let record = Record::Stop(StopRecord {
        reason: "x".repeat(1500),
        sessions: 0,
        messages: 0,
    });
    let log = AuditLog::open(options(channel().0)).expect("a log");
    (0..989).for_each(|_| log.append(&record));
    let durable = tokio::runtime::Builder::new_current_thread().build();
    let durable = durable
        .expect("a runtime")
        .block_on(log.append_durable(&record));
    durable.expect("durable");
    let mut octets = fs::read(&file).expect("read");
    assert!(octets.len() > 1_400_000, "{}", octets.len());
    octets[8192..12288].fill(0);
    let lock = with_suffix(&file, "lock");
    assert!(log.close());
    drop(log);
    let known = fs::read(&lock).expect("read");
    for is_known in [false, true] {
        fs::remove_dir_all(&folder).expect("removed");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(&file, &octets).expect("written");
        if is_known {
            fs::write(&lock, &known).expect("written");
        }
        let (tell, notices) = channel();
        let log = AuditLog::open(options(tell)).expect("it begins");
        assert!(log.close());
        drop(log);
        let told: Vec<Notice> = notices.iter().collect();
        let torn = |notice: &Notice| matches!(notice, Notice::Torn(_));
        assert!(told.iter().any(torn), "{told:?}");
        let is_cut = |notice: &&Notice| matches!(notice, Notice::Cut { found: 2..10, .. });
        assert_eq!(
            told.iter().filter(is_cut).count(),
            usize::from(is_known),
            "{told:?}"
        );
        let copies = told.iter().filter_map(|notice| match notice {
            Notice::Copied(place) => Some(place),
            _ => None,
        });
        let copies: Vec<_> = copies.collect();
        assert_eq!(copies.len(), usize::from(is_known), "{told:?}");
        for copy in copies {
            assert_eq!(fs::read(copy).expect("read"), octets);
        }
    }
    fs::remove_dir_all(folder).expect("removed");
}
